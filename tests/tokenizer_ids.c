/* The worker's tokenizer behind a pipe, for the scripts of reference/ that run it beside the `tokenizers`
 * library:
 *
 *     tokenizer_ids encode FOLDER    texts to ids, special tokens added
 *     tokenizer_ids decode FOLDER    lists of ids to text, without special tokens
 *     tokenizer_ids time N FOLDER    encodes all texts N times; writes processor seconds and ids of each time
 *
 * In and out are sequences of frames: a uint32 and what it counts, bytes of a text or int32 ids, in the byte
 * order of the host. A text that is refused gives a frame that counts 0xFFFFFFFF, followed by the message in
 * a frame of its own. Exit 0 at the end of the input, 1 with a message otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker/text/tokenizer.h"

enum { REFUSED = -1 };

static void die(const char *message) {
    fprintf(stderr, "tokenizer_ids: %s\n", message);
    exit(1);
}

static void must(enum status status) {
    if (status != STATUS_OK)
        die(status_message());
}

/* Reads one frame into in, whose elements have element_bytes; false at the end of the input. */
static bool read_frame(struct buffer *in, size_t element_bytes) {
    uint32_t n;
    size_t got = fread(&n, 1, sizeof n, stdin);
    if (got == 0 && feof(stdin))
        return false;
    buffer_clear(in);
    if (got != sizeof n || n > INT32_MAX / 8)
        die("a frame's count is cut, or too large");
    must(buffer_reserve(in, n * element_bytes + 1));
    if (fread(in->data, element_bytes, n, stdin) != n)
        die("the input ends within a frame");
    in->size = n * element_bytes;
    return true;
}

static void write_frame(const void *elements, size_t element_bytes, size_t n) {
    uint32_t count = (uint32_t)n;
    if (fwrite(&count, sizeof count, 1, stdout) != 1 || fwrite(elements, element_bytes, n, stdout) != n)
        die("cannot write");
}

static void write_refusal(void) {
    int32_t mark = REFUSED;
    if (fwrite(&mark, sizeof mark, 1, stdout) != 1)
        die("cannot write");
    write_frame(status_message(), 1, strlen(status_message()));
}

static void encode_all(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch) {
    struct buffer in = {0};
    struct token_list list = {0};
    while (read_frame(&in, 1)) {
        list.n = 0;
        if (tokenizer_encode(tokenizer, scratch, in.data, in.size, &list) == STATUS_OK)
            write_frame(list.ids ? list.ids : &(int32_t){0}, sizeof *list.ids, list.n);
        else
            write_refusal();
    }
    buffer_free(&in);
    token_list_free(&list);
}

static void decode_all(const struct tokenizer *tokenizer) {
    struct buffer in = {0}, text = {0};
    struct detokenizer detokenizer = {0};
    while (read_frame(&in, sizeof(int32_t))) {
        buffer_clear(&text);
        for (size_t at = 0; at < in.size; at += sizeof(int32_t)) {
            int32_t id;
            memcpy(&id, in.data + at, sizeof id);
            must(detokenizer_add(&detokenizer, tokenizer, id, &text));
        }
        must(detokenizer_finish(&detokenizer, &text));
        write_frame(text.data ? text.data : "", 1, text.size);
    }
    buffer_free(&in);
    buffer_free(&text);
}

/* Other programs on the machine do not count. */
static double processor_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void time_all(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch, int n_times) {
    struct buffer in = {0}, all = {0};
    struct token_list list = {0};
    while (read_frame(&in, 1)) {
        uint64_t size = in.size;
        must(buffer_append(&all, &size, sizeof size));
        must(buffer_append(&all, in.data, in.size));
    }
    for (int time = 0; time < n_times; time++) {
        double began = processor_seconds();
        uint64_t n_ids = 0, size;
        for (size_t at = 0; at < all.size; at += sizeof size + size) {
            memcpy(&size, all.data + at, sizeof size);
            list.n = 0;
            must(tokenizer_encode(tokenizer, scratch, all.data + at + sizeof size, size, &list));
            n_ids += list.n;
        }
        printf("%.9f %llu\n", processor_seconds() - began, (unsigned long long)n_ids);
    }
    buffer_free(&in);
    buffer_free(&all);
    token_list_free(&list);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    bool is_time = strcmp(mode, "time") == 0;
    if (argc != (is_time ? 4 : 3) || (!is_time && strcmp(mode, "encode") != 0 && strcmp(mode, "decode") != 0))
        die("usage: tokenizer_ids encode|decode FOLDER, or tokenizer_ids time N FOLDER");
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    must(tokenizer_open(argv[argc - 1], &tokenizer));
    must(tokenizer_scratch_new(tokenizer, &scratch));
    if (is_time)
        time_all(tokenizer, scratch, atoi(argv[2]));
    else if (strcmp(mode, "encode") == 0)
        encode_all(tokenizer, scratch);
    else
        decode_all(tokenizer);
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
    if (fflush(stdout) != 0)
        die("cannot write");
    return 0;
}
