/* The bad-input table of prompts: lines that must become failed records with this code and a message that
 * matches, streams that must end the job with this status, and input that must be accepted. */
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"
#include "worker/base/buffer.h"
#include "worker/job/prompt_reader.h"

struct bad_line {
    const char *line;
    const char *code;    /* NULL: a good record */
    const char *message; /* extended regular expression */
};

static const struct bad_line json_rows[] = {
    {"", "empty_line", "empty; expected a JSON object"},
    {" \t", "empty_line", "empty"},
    {"{", "invalid_json", "byte 1 of the line"},
    {"{}", "missing_prompt", "neither prompt nor prompt_token_ids"},
    {"[]", "invalid_json", "no object"},
    {"\"x\"", "invalid_json", "no object"},
    {"null", "invalid_json", "no object"},
    {"hello", "invalid_json", "invalid token near 'hello'"},
    {"{'prompt':'x'}", "invalid_json", "string or '}' expected"},
    {"{\"prompt\":\"x\",}", "invalid_json", "string expected|expected near '}'"},
    {"{\"prompt\":\"x\"} {}", "invalid_json", "end of file expected"},
    {"{\"prompt\":\"x\"}x", "invalid_json", "end of file expected"},
    {"{\"prompt\":\"x\" // c\n", "invalid_json", "near '/'"},
    {"{\"prompt\":\"x\ty\"}", "invalid_json", "control character 0x9"},
    {"{\"prompt\":\"\\x41\"}", "invalid_json", "invalid escape"},
    {"{\"prompt\":\"\\u12\"}", "invalid_json", "invalid escape"},
    {"{\"prompt\":\"\\ud800\"}", "invalid_json", "invalid Unicode"},
    {"{\"prompt\":\"\\udc00x\"}", "invalid_json", "invalid Unicode"},
    {"{\"prompt\":\"\\ud800\\u0041\"}", "invalid_json", "invalid Unicode"},
    {"{\"prompt\":\"x\",\"top_p\":NaN}", "invalid_json", "invalid token near 'NaN'"},
    {"{\"prompt\":\"x\",\"top_p\":Infinity}", "invalid_json", "invalid token"},
    {"{\"prompt\":\"x\",\"top_p\":1e999}", "invalid_json", "real number overflow"},
    {"{\"prompt\":\"x\",\"n\":01}", "invalid_json", "invalid token"},
    {"{\"prompt\":\"x\",\"n\":+1}", "invalid_json", "invalid token"},
    {"{\"prompt\":\"x\",\"prompt\":\"y\"}", "duplicate_key", "duplicate object key near '\"prompt\"'"},
    {"{\"prompt\":\"x\",\"\\u0070rompt\":\"y\"}", "duplicate_key", "duplicate object key"},
    {"{\"prompt\":\"x\",\"metadata\":{\"a\":1,\"a\":2}}", "duplicate_key", "duplicate object key"},
    {"{\"prompt\":\"x\",\"max_tokens\":1,\"max_new_tokens\":2}", "duplicate_key", "under two of its names"},
    {"{\"prompt\":\"x\",\"\\u0000\":1}", "invalid_json", "NUL byte in object key"},
    {"{\"prompt\":\"x\",\"max_tokns\":1}", "unknown_key",
     "'max_tokns': unknown key; did you mean max_tokens\\?$"},
    {"{\"prompt\":\"x\",\"zzz\\n\":1}", "unknown_key", "^'zzz\\\\x0A': unknown key$"},
    {"{\"messages\":[]}", "unknown_key", "'messages': unknown key"},
    {"{\"prompt\":5}", "invalid_value", "^prompt: a number is not allowed; expected a string$"},
    {"{\"prompt\":null}", "invalid_value", "^prompt: null is not allowed"},
    {"{\"prompt\":[1,2]}", "invalid_value", "^prompt: an array .*token ids belong in prompt_token_ids"},
    {"{\"prompt_token_ids\":[]}", "empty_prompt", "at least one token id"},
    {"{\"prompt_token_ids\":\"1\"}", "invalid_value", "^prompt_token_ids: a string .*array of token ids"},
    {"{\"prompt_token_ids\":[1,-1]}", "invalid_value", "^prompt_token_ids\\[1\\]: '-1' is no token id"},
    {"{\"prompt_token_ids\":[1.0]}", "invalid_value", "^prompt_token_ids\\[0\\]: '1.0' is no token id"},
    {"{\"prompt_token_ids\":[1,\"2\"]}", "invalid_value", "^prompt_token_ids\\[1\\]"},
    {"{\"prompt_token_ids\":[2147483648]}", "invalid_value", "'2147483648' is no token id"},
    {"{\"prompt_token_ids\":[99999999999999999999999999999999999999]}", "invalid_value", "is no token id"},
    {"{\"prompt_token_ids\":[[1]]}", "invalid_value", "is no token id"},
    {"{\"prompt\":\"x\",\"prompt_token_ids\":[1]}", "invalid_value", "both prompt and prompt_token_ids"},
    {"{\"prompt\":\"x\",\"custom_id\":5}", "invalid_value",
     "^custom_id: a number is not allowed; expected a string"},
    {"{\"prompt\":\"x\",\"custom_id\":\"\"}", "invalid_value", "^custom_id: 0 bytes long; expected 1 to 512"},
    {"{\"prompt\":\"x\",\"temperature\":-1}", "invalid_value", "^temperature: -1 is not allowed; expected 0"},
    {"{\"prompt\":\"x\",\"temperature\":\"1\"}", "invalid_value", "^temperature: a string .*without quotes"},
    {"{\"prompt\":\"x\",\"temperature\":true}", "invalid_value", "^temperature: true is no number"},
    {"{\"prompt\":\"x\",\"top_k\":1e30}", "invalid_value", "^top_k: 1e\\+30 is not allowed"},
    {"{\"prompt\":\"x\",\"max_tokens\":5.0}", "invalid_value",
     "^max_tokens: 5 is not allowed; expected a whole"},
    {"{\"prompt\":\"x\",\"max_tokens\":0}", "invalid_value", "^max_tokens: 0 is not allowed"},
    {"{\"prompt\":\"x\",\"max_tokens\":100000000000000000000}", "invalid_value", "^max_tokens: 1e\\+20"},
    {"{\"prompt\":\"x\",\"seed\":9223372036854775808}", "invalid_value", "^seed: .*to 9223372036854775807"},
    {"{\"prompt\":\"x\",\"seed\":-1}", "invalid_value", "^seed: -1"},
    {"{\"prompt\":\"x\",\"n\":129}", "invalid_value", "^n: 129 .*from 1 to 128"},
    {"{\"prompt\":\"x\",\"logprobs\":true}", "invalid_value", "^logprobs: true is no number"},
    {"{\"prompt\":\"x\",\"ignore_eos\":1}", "invalid_value", "^ignore_eos: 1 .*true or false"},
    {"{\"prompt\":\"x\",\"stop\":[\"a\",5]}", "invalid_value", "^stop: a number .*array of strings"},
    {"{\"prompt\":\"x\",\"stop\":{}}", "invalid_value", "^stop: an object"},
    {"{\"prompt\":\"x\",\"stop\":\"\"}", "invalid_value", "^stop: a stop string is empty"},
    {"{\"prompt\":\"x\",\"stop_token_ids\":[-5]}", "invalid_value",
     "^stop_token_ids\\[0\\]: '-5' is no token id"},
    {"{\"prompt\":\"x\",\"stop_token_ids\":5}", "invalid_value", "^stop_token_ids: a number .*array"},
    {"\xef\xbb\xbf{\"prompt\":\"x\"}", "invalid_json", "invalid token"},
    {"{\"prompt\":\"\xff\"}", "invalid_utf8", "byte 0xff at offset 11 of the line"},
    {"{\"prompt\":\"\xc0\xaf\"}", "invalid_utf8", "byte 0xc0 at offset 11"},
    {"{\"prompt\":\"\xed\xa0\x80\"}", "invalid_utf8", "byte 0xed at offset 11"},
    {"{\"prompt\":\"\xf4\x90\x80\x80\"}", "invalid_utf8", "byte 0xf4 at offset 11"},
    /* accepted */
    {"{\"prompt\":\"x\"}", NULL, ""},
    {" {\"prompt\" : \"x\" } \r", NULL, ""},
    {"{\"prompt\":\"\\u0000\"}", NULL, ""},
    {"{\"prompt\":\" \"}", NULL, ""},
    {"{\"\\u0070rompt\":\"\\ud83d\\ude00\"}", NULL, ""},
    {"{\"prompt\":\"x\",\"temperature\":0,\"top_p\":1,\"top_k\":-1,\"n\":128}", NULL, ""},
    {"{\"prompt\":\"x\",\"seed\":null,\"stop\":null,\"logprobs\":null,\"n\":null}", NULL, ""},
    {"{\"prompt\":\"x\",\"stop\":[]}", NULL, ""},
    {"{\"prompt\":\"x\",\"metadata\":null}", NULL, ""},
    {"{\"prompt\":\"x\",\"metadata\":[1e308,123456789012345678901234567890,{\"\":[]}]}", NULL, ""},
    {"{\"prompt\":\"x\",\"seed\":9223372036854775807,\"temperature\":1e-1}", NULL, ""},
    {"{\"prompt_token_ids\":[ 0 , 2147483647 ]}", NULL, ""},
    {"{\"prompt\":\"\xf0\x9f\x98\x80\xed\x9f\xbf\"}", NULL, ""},
};

static const struct bad_line text_rows[] = {
    {"", "empty_prompt", "^the line is empty"},
    {"\r", "empty_prompt", "^the line is empty"},
    {"ab\x80", "invalid_utf8", "byte 0x80 at offset 2 of the line"},
    {"\xc3", "invalid_utf8", "byte 0xc3 at offset 0"},
    {"caf\xe9", "invalid_utf8", "byte 0xe9 at offset 3"},
    {"\xff\xfeh", "invalid_utf8", "byte 0xff at offset 0"},
    {"\xe2\x82", "invalid_utf8", "byte 0xe2 at offset 0"},
    {"\xed\xbf\xbf", "invalid_utf8", "byte 0xed at offset 0"},
    {"\xf8\x88\x80\x80\x80", "invalid_utf8", "byte 0xf8 at offset 0"},
    {"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
     "012345678901234567890123456789",
     "line_too_long", "longer than max_line_bytes .128."},
    {" ", NULL, ""},
    {"{\"prompt\": 5}", NULL, ""},
    {"\\n \\u0041 \x01\x7f", NULL, ""},
    {"caf\xc3\xa9 \xf0\x9f\x98\x80\r", NULL, ""},
};

static bool matches(const char *text, const char *expression) {
    regex_t pattern;
    assert_int_equal(regcomp(&pattern, expression, REG_EXTENDED | REG_NOSUB), 0);
    bool is_match = regexec(&pattern, text, 0, NULL, 0) == 0;
    regfree(&pattern);
    return is_match;
}

/* The second request of a file that holds a good line and then this one, so that a line never is the first of
 * its file (where a byte order mark would be skipped). */
static int check_row(const struct bad_line *row, size_t i, const char *name) {
    struct buffer text = {0};
    assert_int_equal(buffer_printf(&text, "{\"prompt\":\"good\"}\n%s\n", row->line), STATUS_OK);
    struct job job = {.prompts = (char *)temp_file(name, text.data, text.size), .prompt_field = "prompt"};
    struct prompt_reader *reader;
    struct request request;
    bool end;
    if (row->code && strcmp(row->code, "line_too_long") == 0)
        job.max_line_bytes = 128;
    assert_int_equal(prompt_reader_open(&job, (struct shard){0, 1}, &reader), STATUS_OK);
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    assert_null(request.error_code);
    request_free(&request);
    assert_int_equal(prompt_reader_next(reader, &request, &end), STATUS_OK);
    assert_false(end);
    const char *code = request.error_code ? request.error_code : "good";
    const char *message = request.error_message ? request.error_message : "";
    bool is_as_expected = strcmp(code, row->code ? row->code : "good") == 0 &&
                          matches(message, row->message) && !strchr(message, '\n');
    if (!is_as_expected)
        print_error("row %zu: got %s \"%s\", expected %s matching \"%s\"\n", i, code, message,
                    row->code ? row->code : "good", row->message);
    request_free(&request);
    prompt_reader_close(reader);
    buffer_free(&text);
    return !is_as_expected;
}

static void test_json_lines(void **state) {
    (void)state;
    int n_failed = 0;
    for (size_t i = 0; i < sizeof json_rows / sizeof *json_rows; i++)
        n_failed += check_row(&json_rows[i], i, "p.jsonl");
    assert_int_equal(n_failed, 0);
}

static void test_text_lines(void **state) {
    (void)state;
    int n_failed = 0;
    for (size_t i = 0; i < sizeof text_rows / sizeof *text_rows; i++)
        n_failed += check_row(&text_rows[i], i, "p.txt");
    assert_int_equal(n_failed, 0);
}

static void check_generated(const char *line, size_t size, const char *code, const char *message) {
    struct request request = {.line = 1};
    sampling_init(&request.sampling);
    assert_int_equal(request_parse_json(line, size, "prompt", &request), STATUS_OK);
    assert_string_equal(request.error_code ? request.error_code : "good", code);
    assert_true(matches(request.error_message ? request.error_message : "", message));
    request_free(&request);
}

/* Lines too long for the table. */
static void test_large_lines(void **state) {
    (void)state;
    struct buffer line = {0};
    for (int i = 0; i < 100000; i++)
        assert_int_equal(buffer_append_byte(&line, '['), STATUS_OK);
    check_generated(line.data, line.size, "invalid_json", "maximum parsing depth");
    for (int size = 512; size <= 513; size++) {
        buffer_clear(&line);
        assert_int_equal(buffer_printf(&line, "{\"prompt\":\"x\",\"custom_id\":\"%0*d\"}", size, 0),
                         STATUS_OK);
        check_generated(line.data, line.size, size == 512 ? "good" : "invalid_value",
                        size == 512 ? "" : "513 bytes");
    }
    for (int n = 16; n <= 17; n++) {
        buffer_clear(&line);
        assert_int_equal(buffer_append_text(&line, "{\"prompt\":\"x\",\"stop\":[\"s\""), STATUS_OK);
        for (int i = 1; i < n; i++)
            assert_int_equal(buffer_append_text(&line, ",\"s\""), STATUS_OK);
        assert_int_equal(buffer_append_text(&line, "]}"), STATUS_OK);
        check_generated(line.data, line.size, n == 16 ? "good" : "invalid_value",
                        n == 16 ? "" : "more than 16");
    }
    check_generated("{\"prompt\":\"a\0b\"}", 16, "invalid_json", "control character 0x0");
    buffer_free(&line);
}

struct bad_stream {
    const char *name;
    const char *bytes;
    size_t size;
    const char *message;
};

#define BYTES(text) text, sizeof(text) - 1
#define GZIP_X                                                                                               \
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\xe0\x02\x00\x1f\x08\xea\x46\x02\x00\x00\x00" /* x\n */

static const struct bad_stream stream_rows[] = {
    {"p.txt.gz", BYTES(""), "^p.txt.gz: line 1: the name ends in .gz, but"},
    {"p.txt.gz", BYTES("plain text\n"), "^p.txt.gz: line 1: the name ends in .gz, but"},
    {"p.txt.gz", BYTES("\x1f"), "^p.txt.gz: line 1: the name ends in .gz, but"},
    {"p.txt.gz", BYTES("\x1f\x8b"), "^p.txt.gz: line 1: the gzip data ends too early, behind byte 2"},
    {"p.jsonl.gz", BYTES("\x1f\x8b\x07\x00\x00\x00\x00\x00\x00\x03"),
     "damaged near byte .*unknown compression"},
    {"p.txt.gz", BYTES("\x1f\x8b\x08\xe0\x00\x00\x00\x00\x00\x03"), "damaged .*unknown header flags"},
    {"p.txt", BYTES("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff"),
     "^p.txt: line 1: .*invalid block type"},
    {"p.txt.gz", BYTES(GZIP_X GZIP_X "\x00"), "^p.txt.gz: line 3: behind the last gzip member, at byte 44"},
    {"p.txt.gz", BYTES(GZIP_X "\x1f"), "^p.txt.gz: line 2: behind the last gzip member, at byte 22"},
    {"p.txt.gz", BYTES(GZIP_X "\x1f\x8b\x08"),
     "^p.txt.gz: line 2: the gzip data ends too early, behind byte 25"},
};

static void test_streams(void **state) {
    (void)state;
    int n_failed = 0;
    for (size_t i = 0; i < sizeof stream_rows / sizeof *stream_rows; i++) {
        const struct bad_stream *row = &stream_rows[i];
        const char *path = temp_file(row->name, row->bytes, row->size);
        struct job job = {.prompts = (char *)path};
        struct prompt_reader *reader;
        struct request request;
        bool end = false;
        enum status status = STATUS_OK;
        assert_int_equal(prompt_reader_open(&job, (struct shard){0, 1}, &reader), STATUS_OK);
        while (status == STATUS_OK && !end) {
            status = prompt_reader_next(reader, &request, &end);
            if (status == STATUS_OK && !end)
                request_free(&request);
        }
        prompt_reader_close(reader);
        const char *message = status_message() + strlen(temp_path(""));
        if (status != STATUS_DATA || !matches(message, row->message)) {
            print_error("row %zu: got %d \"%s\", expected \"%s\"\n", i, status, message, row->message);
            n_failed++;
        }
    }
    assert_int_equal(n_failed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_lines),
        cmocka_unit_test(test_text_lines),
        cmocka_unit_test(test_large_lines),
        cmocka_unit_test(test_streams),
    };
    return cmocka_run_group_tests(tests, temp_folder_open, temp_folder_close);
}
