/* Record lines: exact bytes, escapes, numbers that read back. */
#include <float.h>
#include <jansson.h>
#include <math.h>

#include "tests/unit/output_fixture.h"
#include "worker/base/number.h"
#include "worker/output/record.h"

static void set_text(struct buffer *buffer, const char *text, size_t size) {
    buffer_clear(buffer);
    assert_int_equal(buffer_append(buffer, text, size), STATUS_OK);
}

/* A record of one sample, two tokens. The caller frees with record_free. */
static struct record make(const char *text) {
    struct record record = {.n_prompt_tokens = 3, .queued_s = 1, .admitted_s = 1.25};
    record.request.line = 12;
    record.request.sampling.n = 1;
    record.completions = calloc(1, sizeof *record.completions);
    assert_non_null(record.completions);
    struct completion *completion = record.completions;
    set_text(&completion->text, text, strlen(text));
    completion->finish_reason = FINISH_LENGTH;
    completion->n_tokens = 2;
    completion->token_ids = malloc(2 * sizeof(int32_t));
    completion->token_ids[0] = 0;
    completion->token_ids[1] = 50256;
    completion->first_token_s = 1.5;
    completion->last_token_s = 2.0000004;
    return record;
}

#define TIMING                                                                                               \
    "\"timing\":{\"queue_s\":0.250000,\"prefill_s\":0.250000,\"decode_s\":0.500000,\"total_s\":1.000000,"    \
    "\"time_to_first_token_s\":0.500000,\"time_per_output_token_s\":0.500000}}\n"

static void assert_lines(const struct record *record, bool token_ids, int32_t n, const char *wanted) {
    struct buffer out = {0};
    int32_t n_lines;
    assert_int_equal(record_write(record, token_ids, &out, &n_lines), STATUS_OK);
    assert_int_equal(n_lines, n);
    assert_int_equal(buffer_terminate(&out), STATUS_OK);
    assert_string_equal(out.data, wanted);
    assert_int_equal(out.size, strlen(wanted));
    buffer_free(&out);
}

static void test_plain_line(void **state) {
    (void)state;
    struct record record = make("Hi");
    assert_lines(&record, false, 1,
                 "{\"line\":12,\"sample\":0,\"text\":\"Hi\",\"finish_reason\":\"length\","
                 "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}," TIMING);
    bool is_error;
    int64_t prompt_tokens, completion_tokens;
    record_totals(&record, &is_error, &prompt_tokens, &completion_tokens);
    assert_false(is_error);
    assert_int_equal(prompt_tokens, 3);
    assert_int_equal(completion_tokens, 2);
    record_free(&record);
}

static void test_every_field(void **state) {
    (void)state;
    struct record record = make("Hi");
    struct completion *completion = record.completions;
    record.n_truncated_tokens = 4;
    record.request.custom_id = strdup("a\"b");
    record.request.custom_id_size = 3;
    record.request.metadata.bytes = strdup("{\"k\": [1e400, \"\\u00e9\"]}");
    record.request.metadata.size = strlen(record.request.metadata.bytes);
    completion->finish_reason = FINISH_STOP;
    completion->n_top = 2;
    completion->logprobs = malloc(2 * sizeof(float));
    completion->logprobs[0] = -0.5f;
    completion->logprobs[1] = -1.19209290e-07f;
    completion->top = malloc(4 * sizeof *completion->top);
    for (int i = 0; i < 4; i++)
        completion->top[i] = (struct top_logprob){.token = i, .logprob = -0.25f * (float)i};
    assert_lines(
        &record, false, 1,
        "{\"line\":12,\"custom_id\":\"a\\\"b\",\"sample\":0,\"text\":\"Hi\",\"finish_reason\":\"stop\","
        "\"token_ids\":[0,50256],\"logprobs\":{\"token_logprobs\":[-0.5,-1.1920929e-7],"
        "\"top\":[[[0,0.0],[1,-0.25]],[[2,-0.5],[3,-0.75]]]},"
        "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"truncated_tokens\":4},"
        "\"metadata\":{\"k\": [1e400, \"\\u00e9\"]}," TIMING);
    record_free(&record);
}

static void test_scored_line(void **state) {
    (void)state;
    struct record record = make("");
    record.is_scored = true;
    record.n_truncated_tokens = 2;
    record.completions[0].n_tokens = 0;
    record.request.prompt_token_ids = malloc(3 * sizeof(int32_t));
    for (int32_t i = 0; i < 3; i++)
        record.request.prompt_token_ids[i] = 7 * i;
    record.request.n_prompt_token_ids = 3;
    record.request.custom_id = strdup("a");
    record.request.custom_id_size = 1;
    record.request.metadata.bytes = strdup("[1]");
    record.request.metadata.size = 3;
    size_t bytes = record_bytes(&record);
    record.prompt_logprobs = calloc(3, sizeof(float));
    assert_true(record_bytes(&record) >= bytes + 3 * sizeof(float));
    record.prompt_logprobs[1] = -0.5f;
    record.prompt_logprobs[2] = -1.5f;
    record.n_scored = 2;
    assert_true(record_logprob_sum(&record) == -2.0);
    assert_lines(&record, false, 1,
                 "{\"line\":12,\"custom_id\":\"a\",\"prompt_logprobs\":[null,-0.5,-1.5],"
                 "\"perplexity\":2.7182817,"
                 "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":0,\"truncated_tokens\":2},"
                 "\"metadata\":[1],"
                 "\"timing\":{\"queue_s\":0.250000,\"prefill_s\":0.750000,\"total_s\":1.000000}}\n");
    record.prompt_logprobs[2] = -1e30f; /* beyond what a float32 can be */
    assert_lines(&record, true, 1,
                 "{\"line\":12,\"custom_id\":\"a\",\"prompt_token_ids\":[0,7,14],"
                 "\"prompt_logprobs\":[null,-0.5,-1.00000002e+30],\"perplexity\":3.40282347e+38,"
                 "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":0,\"truncated_tokens\":2},"
                 "\"metadata\":[1],"
                 "\"timing\":{\"queue_s\":0.250000,\"prefill_s\":0.750000,\"total_s\":1.000000}}\n");
    struct buffer out = {0};
    int32_t n_lines;
    record.n_scored = 1; /* one is missing */
    assert_int_equal(record_write(&record, false, &out, &n_lines), STATUS_INTERNAL);
    buffer_free(&out);
    record_free(&record);
}

static void test_scored_line_of_one_token(void **state) {
    (void)state;
    struct record record = make("");
    record.is_scored = true;
    record.n_prompt_tokens = 1;
    record.completions[0].n_tokens = 0;
    assert_lines(&record, false, 1,
                 "{\"line\":12,\"prompt_logprobs\":[null],\"perplexity\":null,"
                 "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":0},"
                 "\"timing\":{\"queue_s\":0.250000,\"prefill_s\":0.750000,\"total_s\":1.000000}}\n");
    record_free(&record);
}

static void test_samples_are_lines(void **state) {
    (void)state;
    struct record record = make("A");
    record.completions = realloc(record.completions, 2 * sizeof *record.completions);
    record.completions[1] = (struct completion){.first_token_s = 1.5, .last_token_s = 1.5, .n_tokens = 1};
    record.completions[1].token_ids = calloc(1, sizeof(int32_t));
    record.request.sampling.n = 2;
    assert_lines(&record, true, 2,
                 "{\"line\":12,\"sample\":0,\"text\":\"A\",\"finish_reason\":\"length\","
                 "\"token_ids\":[0,50256],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}," TIMING
                 "{\"line\":12,\"sample\":1,\"text\":\"\",\"finish_reason\":\"stop\",\"token_ids\":[0],"
                 "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1},"
                 "\"timing\":{\"queue_s\":0.250000,\"prefill_s\":0.250000,\"decode_s\":0.000000,"
                 "\"total_s\":0.500000,\"time_to_first_token_s\":0.500000,"
                 "\"time_per_output_token_s\":0.000000}}\n");
    bool is_error;
    int64_t prompt_tokens, completion_tokens;
    record_totals(&record, &is_error, &prompt_tokens, &completion_tokens);
    assert_int_equal(prompt_tokens, 3);
    assert_int_equal(completion_tokens, 3);
    record_free(&record);
}

static void test_error_line(void **state) {
    (void)state;
    struct record record = {.queued_s = 2, .admitted_s = 0, .n_prompt_tokens = 9};
    record.request.line = 7;
    record.request.sampling.n = 3;
    record.request.custom_id = strdup("x");
    record.request.custom_id_size = 1;
    record.request.error_code = "invalid_utf8";
    record.request.error_message = strdup("byte \xff at 3\nsee \"docs\"");
    record.request.metadata.bytes = strdup("null");
    record.request.metadata.size = 4;
    assert_lines(&record, true, 1,
                 "{\"line\":7,\"custom_id\":\"x\",\"error\":{\"code\":\"invalid_utf8\","
                 "\"message\":\"byte \xef\xbf\xbd at 3\\nsee \\\"docs\\\"\"},\"metadata\":null,"
                 "\"timing\":{\"queue_s\":0.000000}}\n");
    bool is_error;
    int64_t prompt_tokens, completion_tokens;
    record_totals(&record, &is_error, &prompt_tokens, &completion_tokens);
    assert_true(is_error);
    assert_int_equal(prompt_tokens, 0);
    assert_int_equal(completion_tokens, 0);
    record_free(&record);
}

static void test_neither_answer_nor_error(void **state) {
    (void)state;
    struct record record = {.request.sampling.n = 1};
    struct buffer out = {0};
    int32_t n_lines;
    assert_int_equal(record_write(&record, false, &out, &n_lines), STATUS_INTERNAL);
    buffer_free(&out);
}

static void test_escapes(void **state) {
    (void)state;
    /* Everything below U+0020, the quote and the backslash are escaped; all else is raw. */
    char raw[64], wanted[400] = "";
    for (int c = 0; c < 0x20; c++) {
        static const char *const named[0x20] = {
            ['\b'] = "\\b", ['\t'] = "\\t", ['\n'] = "\\n", ['\f'] = "\\f", ['\r'] = "\\r"};
        raw[c] = (char)c;
        if (named[c])
            strcat(wanted, named[c]);
        else
            sprintf(wanted + strlen(wanted), "\\u%04x", (unsigned)c);
    }
    static const char rest[] = "\"\\/\x7f\xc3\xa9\xe2\x80\xa8\xe2\x80\xa9\xf0\x9f\x98\x80<&'";
    memcpy(raw + 0x20, rest, sizeof rest);
    strcat(wanted, "\\\"\\\\/\x7f\xc3\xa9\xe2\x80\xa8\xe2\x80\xa9\xf0\x9f\x98\x80<&'");
    struct record record = make("");
    set_text(&record.completions->text, raw, 0x20 + sizeof rest - 1);
    struct buffer out = {0};
    int32_t n_lines;
    assert_int_equal(record_write(&record, false, &out, &n_lines), STATUS_OK);
    assert_int_equal(buffer_terminate(&out), STATUS_OK);
    const char *start = strstr(out.data, "\"text\":\"");
    assert_non_null(start);
    assert_int_equal(strncmp(start + 8, wanted, strlen(wanted)), 0);
    assert_int_equal(strncmp(start + 8 + strlen(wanted), "\",\"finish_reason\"", 17), 0);
    /* Another JSON reader gets the same bytes back. */
    json_error_t error;
    json_t *object = json_loadb(out.data, out.size, JSON_ALLOW_NUL, &error);
    assert_non_null(object);
    const json_t *text = json_object_get(object, "text");
    assert_int_equal(json_string_length(text), 0x20 + sizeof rest - 1);
    assert_memory_equal(json_string_value(text), raw, json_string_length(text));
    json_decref(object);
    buffer_free(&out);
    record_free(&record);
}

static void test_broken_clocks(void **state) {
    (void)state;
    struct record record = make("");
    record.completions->first_token_s = NAN;
    record.completions->last_token_s = INFINITY;
    record.admitted_s = 0;
    struct buffer out = {0};
    int32_t n_lines;
    assert_int_equal(record_write(&record, false, &out, &n_lines), STATUS_OK);
    json_error_t error;
    json_t *object = json_loadb(out.data, out.size, 0, &error);
    assert_non_null(object);
    const json_t *queue = json_object_get(json_object_get(object, "timing"), "queue_s");
    assert_true(json_real_value(queue) == 0);
    json_decref(object);
    buffer_free(&out);
    record_free(&record);
}

/* ---- numbers ---- */

static void test_integers(void **state) {
    (void)state;
    const int64_t values[] = {0, 7, 10, -1, -10, 99999, 1234567890123, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char out[NUMBER_MAX_BYTES + 1], wanted[32];
        *number_write_int(out, values[i]) = '\0';
        snprintf(wanted, sizeof wanted, "%lld", (long long)values[i]);
        assert_string_equal(out, wanted);
    }
}

static void assert_float(float value, const char *wanted) {
    char out[NUMBER_MAX_BYTES + 1];
    *number_write_float(out, value) = '\0';
    assert_string_equal(out, wanted);
}

static void test_floats(void **state) {
    (void)state;
    assert_float(0, "0.0");
    assert_float(-0.0f, "0.0");
    assert_float(1, "1.0");
    assert_float(-2.5f, "-2.5");
    assert_float(0.1f, "0.1");
    assert_float(-100, "-100.0");
    assert_float(1.0f / 3, "0.33333334");
    assert_float(123456789, "123456790.0");
    assert_float(1e9f, "1e9");
    assert_float(1.5e20f, "1.5e20");
    assert_float(0.00001f, "0.00001");
    assert_float(-1e-7f, "-1e-7");
    assert_float(1e-5f * 1.25f, "0.0000125");
    assert_float(NAN, "0.0");
    assert_float(INFINITY, "3.40282347e+38");
    assert_float(-INFINITY, "-3.40282347e+38");
}

static void test_floats_read_back(void **state) {
    (void)state;
    uint32_t random = 1;
    for (int i = 0; i < 400000; i++) {
        random = random * 1664525 + 1013904223;
        uint32_t bits = random ^ random >> 15;
        float value;
        /* Half of them are anything, half are log-probabilities. */
        memcpy(&value, &bits, sizeof value);
        if (i % 2)
            value = -ldexpf((float)(bits >> 8), -24 + (int)(bits % 6));
        if (!isfinite(value))
            continue;
        char out[NUMBER_MAX_BYTES + 1], longest[32];
        char *end = number_write_float(out, value);
        assert_true(end - out < NUMBER_MAX_BYTES);
        *end = '\0';
        snprintf(longest, sizeof longest, "%.9g", (double)value);
        if (strtof(out, NULL) != value)
            fail_msg("%s reads back as another float than %s", out, longest);
        /* A reader that goes through a double gets it too. */
        if ((float)strtod(out, NULL) != value)
            fail_msg("%s reads back through a double as another float than %s", out, longest);
        if (!strpbrk(out, ".e"))
            fail_msg("%s looks like an integer", out);
    }
}

static void test_seconds(void **state) {
    (void)state;
    const struct {
        double seconds;
        const char *wanted;
    } cases[] = {{0, "0.000000"},         {-1, "0.000000"},    {NAN, "0.000000"},
                 {1e-6, "0.000001"},      {4e-7, "0.000000"},  {6e-7, "0.000001"},
                 {0.9999996, "1.000000"}, {12.5, "12.500000"}, {INFINITY, "1000000000000.000000"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[NUMBER_MAX_BYTES + 1];
        *number_write_seconds(out, cases[i].seconds) = '\0';
        assert_string_equal(out, cases[i].wanted);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_line),
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_scored_line),
        cmocka_unit_test(test_scored_line_of_one_token),
        cmocka_unit_test(test_samples_are_lines),
        cmocka_unit_test(test_error_line),
        cmocka_unit_test(test_neither_answer_nor_error),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_broken_clocks),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_floats_read_back),
        cmocka_unit_test(test_seconds),
    };
    return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
