/* prompt_reader: lines, records, gzip, shards, the hash of the input, bounded lines. The table of bad records
 * is in test_bad_prompts.c. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>

#include "tests/unit/temp_folder.h"
#include "worker/base/buffer.h"
#include "worker/job/prompt_reader.h"

static struct prompt_reader *open_reader(const char *path, struct shard shard, uint64_t max_line_bytes) {
    struct job job = {.prompts = (char *)path, .prompt_field = "prompt"};
    struct prompt_reader *reader = NULL;
    job.max_line_bytes = max_line_bytes;
    enum status status = prompt_reader_open(&job, shard, &reader);
    if (status != STATUS_OK)
        fail_msg("%s: %s", path, status_message());
    return reader;
}

static const struct shard WHOLE = {0, 1};

/* Everything a reader gives, as text: "LINE:INDEX:PROMPT or code|"; the last hash. Ends at a failure. */
static enum status drain(struct prompt_reader *reader, struct buffer *out, struct hash128 *hash) {
    struct request request;
    bool end = false;
    buffer_clear(out);
    memset(hash, 0, sizeof *hash);
    for (;;) {
        enum status status = prompt_reader_next(reader, &request, &end);
        if (status != STATUS_OK || end) {
            assert_int_equal(buffer_terminate(out), STATUS_OK);
            return status;
        }
        assert_int_equal(buffer_printf(out, "%lld:%lld:", (long long)request.line, (long long)request.index),
                         STATUS_OK);
        if (request.error_code)
            assert_int_equal(buffer_append_text(out, request.error_code), STATUS_OK);
        else
            assert_int_equal(buffer_append(out, request.prompt.bytes, request.prompt.size), STATUS_OK);
        assert_int_equal(buffer_append_byte(out, '|'), STATUS_OK);
        *hash = request.input_hash;
        request_free(&request);
    }
}

static struct hash128 expect(const char *path, struct shard shard, const char *expected) {
    struct buffer out = {0};
    struct hash128 hash;
    struct prompt_reader *reader = open_reader(path, shard, 0);
    enum status status = drain(reader, &out, &hash);
    if (status != STATUS_OK)
        fail_msg("%s: %s", path, status_message());
    assert_string_equal(out.data, expected);
    prompt_reader_close(reader);
    buffer_free(&out);
    return hash;
}

static void test_text_lines(void **state) {
    (void)state;
    expect(temp_text("p.txt", ""), WHOLE, "");
    expect(temp_text("p.txt", "\n"), WHOLE, "1:0:empty_prompt|");
    expect(temp_text("p.txt", "a\nb\n"), WHOLE, "1:0:a|2:1:b|");
    expect(temp_text("p.txt", "a\nb"), WHOLE, "1:0:a|2:1:b|");
    expect(temp_text("p.txt", "a\r\n\r\nb\r\r\nc\r"), WHOLE, "1:0:a|2:1:empty_prompt|3:2:b\r|4:3:c|");
    expect(temp_text("p.txt", "\xef\xbb\xbf"
                              "a\n\xef\xbb\xbf"
                              "b\n"),
           WHOLE,
           "1:0:a|2:1:\xef\xbb\xbf"
           "b|");
    expect(temp_text("p.txt", "\xef\xbb\xbf"), WHOLE, "");
    expect(temp_text("p.txt", " {\"prompt\": 1}\\n \n"), WHOLE, "1:0: {\"prompt\": 1}\\n |");
    expect(temp_text("p.txt", "ok\n\xc3(\nok\n"), WHOLE, "1:0:ok|2:1:invalid_utf8|3:2:ok|");

    struct prompt_reader *reader = open_reader(temp_file("p.txt", "a\0b\n", 4), WHOLE, 0);
    struct request request;
    bool end;
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    assert_int_equal(request.prompt.size, 3);
    assert_memory_equal(request.prompt.bytes, "a\0b", 3);
    request_free(&request);
    prompt_reader_close(reader);
}

static void test_records(void **state) {
    (void)state;
    static const char text[] =
        "{\"custom_id\":\"a\\u0000b\",\"prompt\":\"x\\u0000\\ud83d\\ude00\",\"max_new_tokens\":7,\"seed\":"
        "9223372036854775807,\"stop\":[\"s\",\"t\"],\"stop_token_ids\":[5],\"logprobs\":null,"
        "\"\\u006detadata\": {\"k\" : [ 1.0, \"}\\\"\", 123456789012345678901234567890 ] } }\r\n"
        "{\"prompt_token_ids\":[0, 2147483647],\"stop\":\"x\",\"temperature\":0,\"ignore_eos\":true}\n";
    struct prompt_reader *reader = open_reader(temp_text("p.jsonl", text), WHOLE, 0);
    struct request request;
    bool end;
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    if (request.error_code)
        fail_msg("%s", request.error_message);
    assert_int_equal(request.custom_id_size, 3);
    assert_memory_equal(request.custom_id, "a\0b", 3);
    assert_int_equal(request.prompt.size, 6);
    assert_memory_equal(request.prompt.bytes, "x\0\xf0\x9f\x98\x80", 6);
    assert_int_equal(request.sampling.set,
                     SAMPLING_MAX_TOKENS | SAMPLING_SEED | SAMPLING_STOP | SAMPLING_STOP_TOKEN_IDS);
    assert_int_equal(request.sampling.max_tokens, 7);
    assert_true(request.sampling.seed == INT64_MAX);
    assert_int_equal(request.sampling.n_stop, 2);
    assert_int_equal(request.sampling.stop_token_ids[0], 5);
    static const char metadata[] = "{\"k\" : [ 1.0, \"}\\\"\", 123456789012345678901234567890 ] }";
    assert_int_equal(request.metadata.size, sizeof metadata - 1);
    assert_memory_equal(request.metadata.bytes, metadata, sizeof metadata - 1);
    request_free(&request);

    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    assert_null(request.error_code);
    assert_true(request.has_token_ids);
    assert_null(request.prompt.bytes);
    assert_null(request.custom_id);
    assert_null(request.metadata.bytes);
    assert_int_equal(request.n_prompt_token_ids, 2);
    assert_int_equal(request.prompt_token_ids[1], INT32_MAX);
    assert_int_equal(request.sampling.n_stop, 1);
    request_free(&request);
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    assert_true(end);
    prompt_reader_close(reader);
}

/* An id and metadata are kept where the record fails otherwise. */
static void test_failed_record_keeps_id(void **state) {
    (void)state;
    struct request request = {.line = 1};
    sampling_init(&request.sampling);
    static const char line[] =
        "{\"promt\":1,\"prompt\":\"x\",\"top_p\":7,\"metadata\":[1],\"custom_id\":\"id\"}";
    assert_int_equal(request_parse_json(line, sizeof line - 1, "prompt", &request), STATUS_OK);
    assert_string_equal(request.error_code, "unknown_key");
    assert_string_equal(request.error_message, "'promt': unknown key; did you mean prompt?");
    assert_string_equal(request.custom_id, "id");
    assert_memory_equal(request.metadata.bytes, "[1]", 3);
    request_free(&request);
}

static void test_prompt_field(void **state) {
    (void)state;
    struct request request = {.line = 1};
    sampling_init(&request.sampling);
    assert_int_equal(request_parse_json("{\"question\":\"q\"}", 16, "question", &request), STATUS_OK);
    assert_null(request.error_code);
    assert_memory_equal(request.prompt.bytes, "q", 1);
    request_free(&request);
    sampling_init(&request.sampling);
    assert_int_equal(request_parse_json("{\"prompt\":\"q\"}", 14, "question", &request), STATUS_OK);
    assert_string_equal(request.error_code, "unknown_key");
    request_free(&request);
}

static size_t gzip(const char *text, unsigned char *out, size_t capacity) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)text;
    z.avail_in = (uInt)strlen(text);
    z.next_out = out;
    z.avail_out = (uInt)capacity;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t size = capacity - z.avail_out;
    deflateEnd(&z);
    return size;
}

static void test_gzip(void **state) {
    (void)state;
    unsigned char bytes[1000];
    size_t first = gzip("a\nb", bytes, sizeof bytes);
    size_t second = gzip("c\n", bytes + first, sizeof bytes - first);
    size_t empty = gzip("", bytes + first + second, sizeof bytes - first - second);
    size_t size = first + second + empty;
    struct hash128 a = expect(temp_file("p.txt.gz", bytes, size), WHOLE, "1:0:a|2:1:bc|");
    struct hash128 b = expect(temp_file("p.txt", bytes, size), WHOLE, "1:0:a|2:1:bc|"); /* by its magic */
    struct hash128 c = expect(temp_text("p.txt", "a\nbc\n"), WHOLE, "1:0:a|2:1:bc|");
    assert_true(hash128_equal(a, b) && hash128_equal(a, c));

    /* Every cut is noticed but for those between members; what was whole before it is given. */
    struct buffer out = {0};
    struct hash128 hash;
    for (size_t cut = 1; cut < size; cut++) {
        struct prompt_reader *reader = open_reader(temp_file("p.txt.gz", bytes, cut), WHOLE, 0);
        enum status status = drain(reader, &out, &hash);
        bool is_boundary = cut == first || cut == first + second;
        if (status != (is_boundary ? STATUS_OK : STATUS_DATA))
            fail_msg("cut at %zu of %zu: status %d", cut, size, status);
        if (!is_boundary && cut > 1)
            assert_non_null(strstr(status_message(), "p.txt.gz: line "));
        prompt_reader_close(reader);
    }
    /* A flipped bit of a member's data or trailer is noticed, or is one of the few that fill up the last
     * byte. */
    int n_padding = 0;
    for (size_t bit = 80; bit < 8 * first; bit++) {
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        struct prompt_reader *reader = open_reader(temp_file("p.txt.gz", bytes, size), WHOLE, 0);
        if (drain(reader, &out, &hash) != STATUS_DATA) {
            assert_string_equal(out.data, "1:0:a|2:1:bc|");
            n_padding++;
        }
        prompt_reader_close(reader);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    assert_true(n_padding < 8);
    memcpy(bytes + size, "garbage", 7);
    struct prompt_reader *reader = open_reader(temp_file("p.txt.gz", bytes, size + 7), WHOLE, 0);
    assert_int_equal(drain(reader, &out, &hash), STATUS_DATA);
    assert_string_equal(out.data, "1:0:a|2:1:bc|");
    assert_non_null(strstr(status_message(), "behind the last gzip member"));
    prompt_reader_close(reader);
    buffer_free(&out);
}

static void test_shards(void **state) {
    (void)state;
    const char *path = temp_text("p.txt", "a\nb\nc\nd\ne\n");
    expect(path, (struct shard){0, 2}, "1:0:a|3:1:c|5:2:e|");
    expect(path, (struct shard){1, 2}, "2:0:b|4:1:d|");
    expect(path, (struct shard){6, 7}, "");
    struct hash128 before = expect(path, (struct shard){0, 2}, "1:0:a|3:1:c|5:2:e|");
    path = temp_text("p.txt", "a\nX\nc\nY\ne\n"); /* another shard's lines do not matter */
    assert_true(hash128_equal(before, expect(path, (struct shard){0, 2}, "1:0:a|3:1:c|5:2:e|")));
    path = temp_text("p.txt", "a\n\xff\xff\nc\n");
    expect(path, (struct shard){0, 2}, "1:0:a|3:1:c|");
}

static void test_input_hash(void **state) {
    (void)state;
    struct hash128 plain = expect(temp_text("p.txt", "a\nb\nc\n"), WHOLE, "1:0:a|2:1:b|3:2:c|");
    assert_true(hash128_equal(plain, expect(temp_text("p.txt", "\xef\xbb\xbf"
                                                               "a\r\nb\r\nc"),
                                            WHOLE, "1:0:a|2:1:b|3:2:c|")));
    static const char *const others[] = {"a\nb\nd\n",   "b\na\nc\n", "a\nc\n",    "a\nb\nc\nd\n",
                                         "\na\nb\nc\n", "ab\nc\n",   "a\nb\nc \n"};
    struct hash128 hash;
    struct buffer out = {0};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct prompt_reader *reader = open_reader(temp_text("p.txt", others[i]), WHOLE, 0);
        assert_int_equal(drain(reader, &out, &hash), STATUS_OK);
        assert_false(hash128_equal(plain, hash));
        prompt_reader_close(reader);
    }
    /* The definition that output files rely on: chain of 8 bytes of line number and the line. */
    struct hash128 chain = {{0}};
    static const char lines[3][10] = {"\1\0\0\0\0\0\0\0a", "\2\0\0\0\0\0\0\0b", "\3\0\0\0\0\0\0\0c"};
    for (int i = 0; i < 3; i++)
        chain = hash128_chain(chain, lines[i], 9);
    assert_true(hash128_equal(plain, chain));
    buffer_free(&out);
}

static void test_skip(void **state) {
    (void)state;
    const char *path = temp_text("p.txt", "a\nb\nc\nd\ne\nf\ng\n");
    struct shard shard = {1, 2}; /* b d f */
    struct hash128 hashes[3], hash;
    struct request request;
    bool end;
    struct prompt_reader *reader = open_reader(path, shard, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
        hashes[i] = request.input_hash;
        request_free(&request);
    }
    prompt_reader_close(reader);

    int64_t skipped;
    reader = open_reader(path, shard, 0);
    assert_int_equal(prompt_reader_skip(reader, 0, &skipped, &hash), STATUS_OK);
    assert_int_equal(skipped, 0);
    assert_true(hash128_equal(hash, (struct hash128){{0}}));
    assert_int_equal(prompt_reader_skip(reader, 2, &skipped, &hash), STATUS_OK);
    assert_int_equal(skipped, 2);
    assert_true(hash128_equal(hash, hashes[1]));
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    assert_int_equal(request.line, 6);
    assert_int_equal(request.index, 2);
    assert_true(hash128_equal(request.input_hash, hashes[2]));
    request_free(&request);
    assert_int_equal(prompt_reader_skip(reader, 5, &skipped, &hash), STATUS_OK);
    assert_int_equal(skipped, 0);
    assert_true(hash128_equal(hash, hashes[2]));
    prompt_reader_close(reader);
}

/* A line at the limit is read; a longer one costs its record only, however the input is cut. */
static void test_line_limit(void **state) {
    (void)state;
    struct buffer text = {0}, out = {0};
    struct hash128 hash, other;
    char *line = malloc(400000);
    assert_non_null(line);
    memset(line, 'x', 400000);
    assert_int_equal(buffer_append(&text, line, 100), STATUS_OK);
    assert_int_equal(buffer_append_text(&text, "\r\n"), STATUS_OK);
    assert_int_equal(buffer_append(&text, line, 101), STATUS_OK);
    assert_int_equal(buffer_append_text(&text, "\n"), STATUS_OK);
    assert_int_equal(buffer_append(&text, line, 400000), STATUS_OK);
    assert_int_equal(buffer_append_text(&text, "\nb"), STATUS_OK);
    struct prompt_reader *reader = open_reader(temp_file("p.txt", text.data, text.size), WHOLE, 100);
    assert_int_equal(drain(reader, &out, &hash), STATUS_OK);
    assert_int_equal(strncmp(out.data, "1:0:xxxx", 8), 0);
    assert_non_null(strstr(out.data, "x|2:1:line_too_long|3:2:line_too_long|4:3:b|"));
    prompt_reader_close(reader);

    /* The definition: the number and the first 101 bytes, then pieces of 64 KiB. */
    char head[8 + 101] = {3};
    memset(head + 8, 'x', 101);
    struct hash128 chain, third;
    struct prompt_reader *two = open_reader(temp_path("p.txt"), WHOLE, 100);
    int64_t skipped;
    assert_int_equal(prompt_reader_skip(two, 2, &skipped, &chain), STATUS_OK);
    assert_int_equal(prompt_reader_skip(two, 1, &skipped, &third), STATUS_OK);
    prompt_reader_close(two);
    chain = hash128_chain(chain, head, sizeof head);
    for (size_t left = 400000 - 101; left > 0;) {
        size_t piece = left < 65536 ? left : 65536;
        chain = hash128_chain(chain, line, piece);
        left -= piece;
    }
    assert_true(hash128_equal(chain, third));

    text.data[text.size - 3] = 'y'; /* the end of the skipped line counts for the hash */
    reader = open_reader(temp_file("p.txt", text.data, text.size), WHOLE, 100);
    assert_int_equal(drain(reader, &out, &other), STATUS_OK);
    assert_false(hash128_equal(hash, other));
    prompt_reader_close(reader);

    /* The same through a gzip file, which arrives in other pieces. */
    gzFile file = gzopen(temp_path("q.txt.gz"), "wb");
    assert_int_equal(gzwrite(file, text.data, (unsigned)text.size), text.size);
    assert_int_equal(gzclose(file), Z_OK);
    reader = open_reader(temp_path("q.txt.gz"), WHOLE, 100);
    assert_int_equal(drain(reader, &out, &hash), STATUS_OK);
    assert_true(hash128_equal(hash, other));
    prompt_reader_close(reader);
    free(line);
    buffer_free(&text);
    buffer_free(&out);
}

/* Standard input replaced by a pipe, for the length of a test. */
static int begin_stdin(int *saved) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    *saved = dup(STDIN_FILENO);
    assert_true(*saved >= 0);
    assert_int_equal(dup2(ends[0], STDIN_FILENO), STDIN_FILENO);
    close(ends[0]);
    return ends[1];
}

static void end_stdin(int saved) {
    dup2(saved, STDIN_FILENO);
    close(saved);
}

static void expect_stdin(const char *bytes, size_t size, const char *expected) {
    int saved, write_end = begin_stdin(&saved);
    assert_int_equal(write(write_end, bytes, size), size);
    close(write_end);
    expect("-", WHOLE, expected);
    end_stdin(saved);
}

static void test_stdin(void **state) {
    (void)state;
    unsigned char bytes[200];
    expect_stdin("", 0, "");
    expect_stdin("a\n{b\n", 5, "1:0:a|2:1:{b|");
    expect_stdin(" \t{\"prompt\":\"a\"}\nb\n", 19, "1:0:a|2:1:invalid_json|");
    expect_stdin("\xef\xbb\xbf{\"prompt\":\"a\"}", 17, "1:0:a|");
    size_t size = gzip("{\"prompt\":\"a\"}\n", bytes, sizeof bytes);
    expect_stdin((char *)bytes, size, "1:0:a|");

    int saved, write_end = begin_stdin(&saved);
    assert_int_equal(write(write_end, "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n", 30), 30);
    close(write_end);
    expect("-", (struct shard){1, 2}, "2:0:b|"); /* the first line tells the format of another shard too */
    end_stdin(saved);
}

/* A first line beyond the limit tells the format too, though only its last piece is kept: by its beginning,
 * behind any number of blanks. */
static void test_long_first_line_tells_the_format(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected;
    } rows[] = {
        {"{\"prompt\":\"abcdefgh\"}\n{\"prompt\":1}\n", "1:0:line_too_long|2:1:invalid_value|"},
        {"            {\"prompt\":\"a\"}\n{\"prompt\":1}\n", "1:0:line_too_long|2:1:invalid_value|"},
        {"abcdefghijklmnopqrstuvw{\n{\"prompt\":1}\n", "1:0:line_too_long|2:1:{\"prompt\":1}|"},
    };
    struct buffer out = {0};
    struct hash128 hash;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int saved, write_end = begin_stdin(&saved);
        assert_int_equal(write(write_end, rows[i].text, strlen(rows[i].text)), strlen(rows[i].text));
        close(write_end);
        struct prompt_reader *reader = open_reader("-", WHOLE, 12);
        assert_int_equal(drain(reader, &out, &hash), STATUS_OK);
        assert_string_equal(out.data, rows[i].expected);
        prompt_reader_close(reader);
        end_stdin(saved);
    }
    buffer_free(&out);
}

/* A first line of another shard that is read only to tell the format leaves no trace in the hash, even where
 * it is beyond the limit. */
static void test_telling_line(void **state) {
    (void)state;
    static const char text[] = "0123456789\nb\n";
    struct shard second = {1, 2};
    struct hash128 from_stdin, from_file;
    struct buffer out = {0};
    int saved, write_end = begin_stdin(&saved);
    assert_int_equal(write(write_end, text, sizeof text - 1), sizeof text - 1);
    close(write_end);
    struct prompt_reader *reader = open_reader("-", second, 4);
    assert_int_equal(drain(reader, &out, &from_stdin), STATUS_OK);
    assert_string_equal(out.data, "2:0:b|");
    prompt_reader_close(reader);
    end_stdin(saved);
    reader = open_reader(temp_text("p.txt", text), second, 4);
    assert_int_equal(drain(reader, &out, &from_file), STATUS_OK);
    assert_true(hash128_equal(from_stdin, from_file));
    prompt_reader_close(reader);
    buffer_free(&out);
}

static void *stop_soon(void *reader) {
    usleep(20000);
    prompt_reader_stop(reader);
    return NULL;
}

static void test_stop(void **state) {
    (void)state;
    int saved, write_end = begin_stdin(&saved);
    struct prompt_reader *reader = open_reader("-", WHOLE, 0);
    struct request request;
    bool end;
    pthread_t thread;
    assert_int_equal(write(write_end, "first\n", 6), 6);
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    request_free(&request);
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, reader), 0);
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_STOPPED);
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_STOPPED);
    pthread_join(thread, NULL);
    prompt_reader_close(reader);
    close(write_end);
    end_stdin(saved);
}

static void test_progress(void **state) {
    (void)state;
    uint64_t read, total;
    struct hash128 hash;
    struct buffer out = {0};
    struct prompt_reader *reader = open_reader(temp_text("p.txt", "a\nb\n"), WHOLE, 0);
    prompt_reader_progress(reader, &read, &total);
    assert_true(read == 0 && total == 4);
    assert_int_equal(drain(reader, &out, &hash), STATUS_OK);
    prompt_reader_progress(reader, &read, &total);
    assert_true(read == 4 && total == 4);
    prompt_reader_close(reader);
    buffer_free(&out);
}

static void test_cannot_open(void **state) {
    (void)state;
    const struct {
        const char *path;
        enum status status;
    } cases[] = {{temp_path("none.txt"), STATUS_NO_INPUT},
                 {temp_text("p.csv", "x"), STATUS_JOB},
                 {temp_path(""), STATUS_JOB}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job job = {.prompts = (char *)cases[i].path};
        struct prompt_reader *reader = NULL;
        assert_int_equal(prompt_reader_open(&job, WHOLE, &reader), cases[i].status);
        assert_null(reader);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_lines),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_failed_record_keeps_id),
        cmocka_unit_test(test_prompt_field),
        cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_input_hash),
        cmocka_unit_test(test_skip),
        cmocka_unit_test(test_line_limit),
        cmocka_unit_test(test_stdin),
        cmocka_unit_test(test_long_first_line_tells_the_format),
        cmocka_unit_test(test_telling_line),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_cannot_open),
    };
    return cmocka_run_group_tests(tests, temp_folder_open, temp_folder_close);
}
