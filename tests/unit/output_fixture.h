/* What the tests of worker/output share: a temporary folder, identities, JSON lines whose text follows from
 * their number, and a gzip reader that is not ours (zlib's). */
#ifndef PRESSRUN_TESTS_UNIT_OUTPUT_FIXTURE_H
#define PRESSRUN_TESTS_UNIT_OUTPUT_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "worker/output/writer.h"

struct folder {
    char path[200];
    char name[240]; /* the output */
    char part[250];
};

static inline void folder_make(struct folder *folder) {
    const char *base = getenv("TMPDIR");
    snprintf(folder->path, sizeof folder->path, "%s/pressrun-test-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(folder->path));
    snprintf(folder->name, sizeof folder->name, "%s/out.jsonl.gz", folder->path);
    snprintf(folder->part, sizeof folder->part, "%s.part", folder->name);
}

static inline void folder_empty(const struct folder *folder) {
    DIR *dir = opendir(folder->path);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder->path, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            assert_int_equal(remove(path), 0);
    }
    closedir(dir);
}

static inline void folder_remove(const struct folder *folder) {
    folder_empty(folder);
    assert_int_equal(rmdir(folder->path), 0);
}

static inline int exists(const char *path) {
    return access(path, F_OK) == 0;
}

static inline struct identity identity_of(const char *text) {
    struct identity identity = {0};
    assert_int_equal(buffer_append_text(&identity.text, text), STATUS_OK);
    identity.hash = hash128_of(text, strlen(text));
    return identity;
}

/* The whole file, as it is; missing counts as empty. */
static inline struct buffer read_bytes(const char *path) {
    struct buffer out = {0};
    FILE *file = fopen(path, "rb");
    assert_int_equal(buffer_reserve(&out, 1), STATUS_OK);
    for (int c; file && (c = fgetc(file)) != EOF;)
        assert_int_equal(buffer_append_byte(&out, (char)c), STATUS_OK);
    if (file)
        fclose(file);
    return out;
}

static inline void write_bytes(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* The text of a gzip file, read by zlib's own gzip reader. */
static inline struct buffer read_gzip(const char *path) {
    struct buffer out = {0};
    gzFile file = gzopen(path, "rb");
    assert_non_null(file);
    for (int got = 1; got > 0; out.size += (size_t)got) {
        assert_int_equal(buffer_reserve(&out, 4096), STATUS_OK);
        got = gzread(file, out.data + out.size, 4096);
        assert_true(got >= 0);
    }
    assert_int_equal(gzclose(file), Z_OK);
    return out;
}

/* Record i (from 0): an error each 7th, else i % 3 + 1 samples; its size varies. */
struct test_record {
    struct buffer lines;
    int32_t n_lines;
    int is_error;
    int64_t prompt_tokens, completion_tokens;
    struct hash128 input_hash;
};

static inline void make_record(int64_t i, struct test_record *out) {
    buffer_clear(&out->lines);
    out->is_error = i % 7 == 6;
    out->n_lines = out->is_error ? 1 : (int32_t)(i % 3 + 1);
    out->prompt_tokens = out->is_error ? 0 : i % 11;
    out->completion_tokens = 0;
    out->input_hash = hash128_of(&i, sizeof i);
    for (int32_t sample = 0; sample < out->n_lines; sample++) {
        long long line = (long long)i + 1;
        if (out->is_error) {
            assert_int_equal(
                buffer_printf(&out->lines, "{\"line\":%lld,\"error\":{\"code\":\"empty_prompt\"}}\n", line),
                STATUS_OK);
            continue;
        }
        assert_int_equal(
            buffer_printf(
                &out->lines,
                "{\"line\":%lld,\"sample\":%d,\"text\":\"%0*lld\",\"usage\":{\"prompt_tokens\":%lld,"
                "\"completion_tokens\":%d}}\n",
                line, sample, (int)(i * 37 % 90), line * 7919, (long long)out->prompt_tokens, sample + 2),
            STATUS_OK);
        out->completion_tokens += sample + 2;
    }
}

static inline enum status append_record(struct writer *writer, int64_t i) {
    struct test_record record = {0};
    make_record(i, &record);
    enum status result =
        writer_append(writer, record.lines.data, record.lines.size, record.n_lines, record.is_error,
                      record.prompt_tokens, record.completion_tokens, record.input_hash);
    buffer_free(&record.lines);
    return result;
}

/* The text of records [0, n). */
static inline struct buffer text_of(int64_t n) {
    struct buffer out = {0};
    struct test_record record = {0};
    for (int64_t i = 0; i < n; i++) {
        make_record(i, &record);
        assert_int_equal(buffer_append(&out, record.lines.data, record.lines.size), STATUS_OK);
    }
    buffer_free(&record.lines);
    return out;
}

static inline void assert_gzip_holds(const char *path, int64_t n_records) {
    struct buffer got = read_gzip(path), wanted = text_of(n_records);
    assert_int_equal(got.size, wanted.size);
    if (got.size)
        assert_memory_equal(got.data, wanted.data, got.size);
    buffer_free(&got);
    buffer_free(&wanted);
}

#endif
