/* Fuzzes what reads output files: verify, and recovery by opening the same bytes as NAME.part and as NAME.
 *
 *     clang -fsanitize=fuzzer,address,undefined ... tests/fuzz/fuzz_verify.c   (libFuzzer)
 *     gcc -DFUZZ_STANDALONE ...; fuzz_verify FILE...                           (replays inputs)
 *     ...; fuzz_verify N SEED                                                  (N mutations of a small file)
 *
 * Mutated bytes rarely keep a good hash, so each input runs twice: as it is, and with the hash of every seal
 * that parses made right, which leads behind the hash checks. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/output/seal.h"
#include "worker/output/writer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char identity_text[] = "dtype=\"float32\"\nseed=42\n";
static char folder[300], name[340], part[350];

static struct identity make_identity(void) {
    struct identity identity = {0};
    if (buffer_append(&identity.text, identity_text, sizeof identity_text - 1) != STATUS_OK)
        abort();
    identity.hash = hash128_of(identity_text, sizeof identity_text - 1);
    return identity;
}

static void remove_folder(void) {
    unlink(name);
    unlink(part);
    rmdir(folder);
}

static void make_folder(void) {
    const char *base = getenv("TMPDIR");
    if (folder[0])
        return;
    snprintf(folder, sizeof folder, "%.250s/pressrun-fuzz-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(folder))
        abort();
    snprintf(name, sizeof name, "%s/o.gz", folder);
    snprintf(part, sizeof part, "%s.part", name);
    atexit(remove_folder);
}

static void write_file(const char *path, const uint8_t *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || (size && fwrite(data, 1, size, file) != size) || fclose(file) != 0)
        abort();
}

/* Whatever the bytes are, no call crashes; what verify calls good, recovery must resume or find complete. */
static void try_bytes(const struct identity *identity, const uint8_t *data, size_t size) {
    struct verify_report report;
    struct writer_found found;
    struct writer *writer;
    write_file(name, data, size);
    enum status verified = output_verify(name, &report);
    verify_report_free(&report);
    enum status opened = writer_open(name, identity, NULL, &found, &writer);
    if (verified == STATUS_OK && opened != STATUS_OK && opened != STATUS_CANNOT_CREATE)
        abort();
    writer_close(writer);
    unlink(name);
    write_file(part, data, size);
    opened = writer_open(name, identity, NULL, &found, &writer);
    if (opened == STATUS_OK && !found.has_totals &&
        (writer_append(writer, "{}\n", 3, 1, true, 0, 0, identity->hash) != STATUS_OK ||
         writer_seal(writer) != STATUS_OK))
        abort();
    writer_close(writer);
    if (opened == STATUS_OK && (verified == STATUS_OK || verified == STATUS_INCOMPLETE) &&
        found.cut_bytes != 0)
        abort();
    unlink(part);
}

static void repair_hashes(uint8_t *data, size_t size) {
    struct hash128 previous = {{0}};
    for (size_t at = 0; at < size;) {
        struct seal seal;
        if (seal_parse(data + at, size - at, size - at, &seal))
            return;
        seal.previous = previous;
        seal_finish(&seal, data + at);
        previous = seal.hash;
        at += (size_t)seal.member_bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct identity identity = make_identity();
    make_folder();
    try_bytes(&identity, data, size);
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        abort();
    if (size)
        memcpy(copy, data, size);
    repair_hashes(copy, size);
    try_bytes(&identity, copy, size);
    free(copy);
    buffer_free(&identity.text);
    return 0;
}

#ifdef FUZZ_STANDALONE
static uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || stat(path, &info) != 0)
        return NULL;
    uint8_t *data = malloc((size_t)info.st_size + 1);
    *size = data ? fread(data, 1, (size_t)info.st_size, file) : 0;
    fclose(file);
    return data;
}

/* A file of a few members, as the writer makes it. */
static uint8_t *make_seed(size_t *size) {
    struct identity identity = make_identity();
    struct writer_options options = {.seal_bytes = 100};
    struct writer_found found;
    struct writer *writer;
    make_folder();
    if (writer_open(name, &identity, &options, &found, &writer) != STATUS_OK)
        abort();
    for (int i = 1; i <= 6; i++) {
        char line[200];
        snprintf(line, sizeof line,
                 "{\"line\":%d,\"sample\":0,\"text\":\"some text\",\"usage\":{\"prompt_tokens\":1,"
                 "\"completion_tokens\":2}}\n",
                 i);
        if (writer_append(writer, line, strlen(line), 1, false, 1, 2, identity.hash) != STATUS_OK)
            abort();
    }
    if (writer_finish(writer) != STATUS_OK)
        abort();
    writer_close(writer);
    buffer_free(&identity.text);
    uint8_t *data = read_file(part, size);
    unlink(part);
    return data;
}

static void mutate(uint8_t *data, size_t *size, unsigned *seed) {
    for (int n = 1 + rand_r(seed) % 4; n > 0 && *size > 0; n--) {
        size_t at = (size_t)rand_r(seed) % *size;
        switch (rand_r(seed) % 4) {
        case 0:
            data[at] ^= (uint8_t)(1 << rand_r(seed) % 8);
            break;
        case 1:
            data[at] = (uint8_t)rand_r(seed);
            break;
        case 2:
            memset(data + at, rand_r(seed) % 2 ? 0xff : 0, *size - at < 8 ? *size - at : 8);
            break;
        default:
            *size -= rand_r(seed) % 8 ? 0 : at / 4;
        }
    }
}

int main(int argc, char **argv) {
    size_t size;
    if (argc == 3 && atoi(argv[1]) > 0) {
        unsigned seed = (unsigned)atoi(argv[2]);
        size_t seed_size;
        uint8_t *original = make_seed(&seed_size), *data = original ? malloc(seed_size) : NULL;
        if (!data)
            return 1;
        for (int i = 0; i < atoi(argv[1]); i++) {
            size = seed_size;
            memcpy(data, original, size);
            if (i > 0)
                mutate(data, &size, &seed);
            LLVMFuzzerTestOneInput(data, size);
        }
        free(data);
        free(original);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        uint8_t *data = read_file(argv[i], &size);
        if (!data) {
            perror(argv[i]);
            return 1;
        }
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
    return 0;
}
#endif
