/* A main for a fuzz target built without libFuzzer (-DFUZZ_STANDALONE): runs the target over the files given
 * as arguments. With -mutate N SEED in front, each file is run N more times, changed at random. */
#ifndef PRESSRUN_TESTS_FUZZ_STANDALONE_H
#define PRESSRUN_TESTS_FUZZ_STANDALONE_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef FUZZ_STANDALONE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FUZZ_MAX_BYTES = 1 << 16 };

static uint64_t fuzz_random_state;

static size_t fuzz_below(size_t n) {
    fuzz_random_state ^= fuzz_random_state << 13;
    fuzz_random_state ^= fuzz_random_state >> 7;
    fuzz_random_state ^= fuzz_random_state << 17;
    return n ? (size_t)(fuzz_random_state % n) : 0;
}

/* One to eight changes: a byte set or flipped, a piece removed, doubled, or copied elsewhere, a token put in.
 */
static size_t fuzz_mutate(uint8_t *data, size_t size) {
    static const char *const tokens[] = {"{",
                                         "}",
                                         "[",
                                         "]",
                                         ":",
                                         ",",
                                         "\"",
                                         "\\",
                                         "\\u0000",
                                         "\n",
                                         "\r\n",
                                         "\\ud83",
                                         "1e999",
                                         "-1",
                                         "null",
                                         "true",
                                         "- ",
                                         "? ",
                                         "&a ",
                                         "*a",
                                         "!!x ",
                                         "---\n",
                                         "<<: ",
                                         "#",
                                         "|\n  ",
                                         "'",
                                         "\xff",
                                         "\t",
                                         "\xef\xbb\xbf",
                                         "99999999999999999999"};
    for (size_t n = 1 + fuzz_below(8); n > 0; n--) {
        size_t at = fuzz_below(size + 1), length = fuzz_below(16);
        if (at + length > size)
            length = size - at;
        const char *token = tokens[fuzz_below(sizeof tokens / sizeof *tokens)];
        size_t token_size = strlen(token);
        switch (fuzz_below(5)) {
        case 0:
            if (at < size)
                data[at] = (uint8_t)fuzz_below(256);
            break;
        case 1:
            if (at < size)
                data[at] ^= (uint8_t)(1u << fuzz_below(8));
            break;
        case 2:
            memmove(data + at, data + at + length, size - at - length);
            size -= length;
            break;
        case 3:
            if (size + length <= FUZZ_MAX_BYTES) {
                memmove(data + at + length, data + at, size - at);
                size += length;
            }
            break;
        default:
            if (size + token_size <= FUZZ_MAX_BYTES) {
                memmove(data + at + token_size, data + at, size - at);
                memcpy(data + at, token, token_size);
                size += token_size;
            }
        }
    }
    return size;
}

int main(int n_arguments, char **arguments) {
    static uint8_t original[FUZZ_MAX_BYTES], data[FUZZ_MAX_BYTES];
    long n_rounds = 0;
    int first = 1;
    if (n_arguments > 3 && strcmp(arguments[1], "-mutate") == 0) {
        n_rounds = strtol(arguments[2], NULL, 10);
        fuzz_random_state = strtoull(arguments[3], NULL, 10) * 2654435761u + 1;
        first = 4;
    }
    for (int i = first; i < n_arguments; i++) {
        FILE *file = fopen(arguments[i], "rb");
        if (!file) {
            perror(arguments[i]);
            return 1;
        }
        size_t size = fread(original, 1, sizeof original, file);
        fclose(file);
        for (long round = 0; round <= n_rounds; round++) {
            memcpy(data, original, size);
            size_t changed = round == 0 ? size : fuzz_mutate(data, size);
            /* A copy of its exact size, so that a sanitizer sees a read beyond the end. */
            uint8_t *exact = malloc(changed + !changed);
            if (!exact)
                return 1;
            memcpy(exact, data, changed);
            LLVMFuzzerTestOneInput(exact, changed);
            free(exact);
        }
    }
    return 0;
}
#endif
#endif
