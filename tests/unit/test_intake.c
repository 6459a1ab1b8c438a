/* Requests made ready: levels of sampling, tokens, lengths, vocabulary; and the thread that does it ahead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zlib.h>

#include "tests/unit/temp_folder.h"
#include "worker/run/intake.h"

enum { N_VOCAB = 1000, LENGTH = 64 };

static struct tokenizer *tokenizer;
static struct tokenizer_scratch *scratch;

static int open_all(void **state) {
    if (tokenizer_open("tests/models/tiny", &tokenizer) != STATUS_OK ||
        tokenizer_scratch_new(tokenizer, &scratch) != STATUS_OK)
        return -1;
    return temp_folder_open(state);
}

static int close_all(void **state) {
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
    return temp_folder_close(state);
}

/* Everything that a request meets. */
struct fixture {
    struct job job;
    struct config config;
    struct model_config model;
    struct sampling defaults;
    struct intake_options options;
};

static void fixture_open(struct fixture *fixture) {
    memset(fixture, 0, sizeof *fixture);
    fixture->job.prompt_field = "prompt";
    sampling_init(&fixture->job.sampling);
    sampling_init(&fixture->defaults);
    config_defaults(&fixture->config);
    fixture->model.n_vocab = N_VOCAB;
    fixture->model.n_positions = LENGTH;
    fixture->options = (struct intake_options){.job = &fixture->job,
                                               .config = &fixture->config,
                                               .model = &fixture->model,
                                               .defaults = &fixture->defaults,
                                               .tokenizer = tokenizer,
                                               .max_model_len = LENGTH};
}

static void fixture_close(struct fixture *fixture) {
    sampling_free(&fixture->job.sampling);
    sampling_free(&fixture->defaults);
    config_free(&fixture->config);
}

/* The record of one JSON line, made ready. */
static struct record prepare(const struct fixture *fixture, const char *line, int32_t *max_tokens) {
    struct record record = {.request = {.line = 1}};
    assert_int_equal(request_parse_json(line, strlen(line), "prompt", &record.request), STATUS_OK);
    assert_int_equal(intake_prepare(&fixture->options, scratch, &record, max_tokens), STATUS_OK);
    return record;
}

/* The same, with n prompt tokens 1, 2, 3, … and the rest of the line behind them. */
static struct record prepare_tokens(const struct fixture *fixture, int32_t n, const char *rest,
                                    int32_t *max_tokens) {
    struct buffer line = {0};
    assert_int_equal(buffer_append_text(&line, "{\"prompt_token_ids\":["), STATUS_OK);
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(buffer_printf(&line, "%s%d", i ? "," : "", i + 1), STATUS_OK);
    assert_int_equal(buffer_printf(&line, "]%s}", rest), STATUS_OK);
    assert_int_equal(buffer_terminate(&line), STATUS_OK);
    struct record record = prepare(fixture, line.data, max_tokens);
    buffer_free(&line);
    return record;
}

static void set(struct sampling *sampling, const char *name, double value) {
    bool known, is_whole = value == (double)(int64_t)value;
    struct sampling_value wrapped = {.kind = is_whole ? SAMPLING_VALUE_INTEGER : SAMPLING_VALUE_REAL,
                                     .integer = (int64_t)value,
                                     .real = value};
    assert_int_equal(sampling_set_scalar(sampling, STATUS_JOB, name, wrapped, &known), STATUS_OK);
    assert_true(known);
}

static void expect_error(const struct fixture *fixture, const char *line, const char *code,
                         const char *words) {
    int32_t max_tokens;
    struct record record = prepare(fixture, line, &max_tokens);
    if (!record.request.error_code)
        fail_msg("%s: accepted, expected %s", line, code);
    assert_string_equal(record.request.error_code, code);
    if (!strstr(record.request.error_message, words))
        fail_msg("%s: \"%s\" does not say \"%s\"", line, record.request.error_message, words);
    record_free(&record);
}

/* ---- levels ---- */

static void test_precedence(void **state) {
    (void)state;
    struct fixture fixture;
    int32_t max_tokens;
    fixture_open(&fixture);
    struct record record = prepare(&fixture, "{\"prompt\":\"a\"}", &max_tokens);
    const struct sampling *got = &record.request.sampling;
    assert_true(got->temperature == 1 && got->top_p == 1 && got->top_k == 0 && got->n == 1);
    assert_int_equal(max_tokens, 16);
    record_free(&record);

    set(&fixture.defaults, "temperature", 0.25); /* each level sets one field more of its own */
    set(&fixture.defaults, "top_k", 3);
    set(&fixture.defaults, "top_p", 0.75);
    set(&fixture.job.sampling, "top_k", 5);
    set(&fixture.job.sampling, "top_p", 0.5);
    set(&fixture.job.sampling, "max_tokens", 7);
    record = prepare(&fixture, "{\"prompt\":\"a\",\"top_p\":1,\"min_p\":0.125}", &max_tokens);
    assert_true(got->temperature == 0.25f); /* generation_config.json */
    assert_int_equal(got->top_k, 5);        /* the job over it */
    assert_true(got->top_p == 1);           /* the record over both, with the value that means off */
    assert_true(got->min_p == 0.125f);
    assert_int_equal(max_tokens, 7);
    record_free(&record);

    /* Lists are replaced as a whole; an empty one switches off. */
    sampling_begin_stop(&fixture.job.sampling);
    assert_int_equal(sampling_add_stop(&fixture.job.sampling, STATUS_JOB, "x", 1), STATUS_OK);
    record = prepare(&fixture, "{\"prompt\":\"a\"}", &max_tokens);
    assert_int_equal(got->n_stop, 1);
    record_free(&record);
    record = prepare(&fixture, "{\"prompt\":\"a\",\"stop\":[]}", &max_tokens);
    assert_int_equal(got->n_stop, 0);
    record_free(&record);
    record = prepare(&fixture, "{\"prompt\":\"a\",\"stop\":[\"y\",\"z\"]}", &max_tokens);
    assert_int_equal(got->n_stop, 2);
    assert_memory_equal(got->stop[1].bytes, "z", 1);
    record_free(&record);
    fixture_close(&fixture);
}

/* Only a record's own seed takes its id out of the key; the job's seed is not merged into it. */
static void test_seeds(void **state) {
    (void)state;
    struct fixture fixture;
    int32_t max_tokens;
    fixture_open(&fixture);
    fixture.job.sampling.set |= SAMPLING_SEED;
    fixture.job.sampling.seed = 9;
    struct record record = prepare(&fixture, "{\"prompt\":\"a\"}", &max_tokens);
    assert_false(record.request.sampling.set & SAMPLING_SEED);
    record_free(&record);
    record = prepare(&fixture, "{\"prompt\":\"a\",\"seed\":4}", &max_tokens);
    assert_true(record.request.sampling.set & SAMPLING_SEED);
    assert_int_equal(record.request.sampling.seed, 4);
    record_free(&record);
    fixture_close(&fixture);
}

/* ---- lengths ---- */

static void test_max_tokens_is_cut_to_the_room(void **state) {
    (void)state;
    static const struct {
        int32_t n_prompt, wanted, given;
    } rows[] = {{1, 16, 16},  {1, 63, 63},  {1, 64, 63}, {1, 1 << 30, 63},
                {40, 24, 24}, {40, 25, 24}, {63, 5, 1}};
    struct fixture fixture;
    fixture_open(&fixture);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char rest[64];
        int32_t max_tokens;
        snprintf(rest, sizeof rest, ",\"max_tokens\":%d", rows[i].wanted);
        struct record record = prepare_tokens(&fixture, rows[i].n_prompt, rest, &max_tokens);
        assert_null(record.request.error_code);
        assert_int_equal(max_tokens, rows[i].given);
        assert_int_equal(record.n_prompt_tokens, rows[i].n_prompt);
        assert_int_equal(record.n_truncated_tokens, 0);
        record_free(&record);
    }
    fixture_close(&fixture);
}

static void test_too_long_is_an_error(void **state) {
    (void)state;
    struct fixture fixture;
    int32_t max_tokens;
    fixture_open(&fixture);
    for (int32_t n = LENGTH; n <= LENGTH + 1; n++) {
        struct record record = prepare_tokens(&fixture, n, "", &max_tokens);
        assert_non_null(record.request.error_code);
        assert_string_equal(record.request.error_code, "prompt_too_long");
        assert_non_null(strstr(record.request.error_message, "on_too_long"));
        record_free(&record);
    }
    fixture_close(&fixture);
}

/* The last tokens stay, with room for max_tokens, but never less than half of the length. */
static void test_too_long_is_cut_from_the_left(void **state) {
    (void)state;
    static const struct {
        int32_t n_prompt, wanted, kept;
    } rows[] = {{63, 50, 63}, {64, 10, 54}, {200, 10, 54}, {64, 1, 63}, {200, 32, 32}, {200, 50, 32}};
    struct fixture fixture;
    fixture_open(&fixture);
    fixture.job.on_too_long = ON_TOO_LONG_TRUNCATE_LEFT;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char rest[64];
        int32_t max_tokens, n = rows[i].n_prompt, kept = rows[i].kept;
        snprintf(rest, sizeof rest, ",\"max_tokens\":%d", rows[i].wanted);
        struct record record = prepare_tokens(&fixture, n, rest, &max_tokens);
        assert_null(record.request.error_code);
        assert_int_equal(record.n_prompt_tokens, kept);
        assert_int_equal(record.request.n_prompt_token_ids, kept);
        assert_int_equal(record.n_truncated_tokens, n - kept);
        assert_int_equal(record.request.prompt_token_ids[0], n - kept + 1);
        assert_int_equal(record.request.prompt_token_ids[kept - 1], n);
        assert_true(max_tokens >= 1 && kept + max_tokens <= LENGTH && max_tokens <= rows[i].wanted);
        record_free(&record);
    }
    fixture.options.max_model_len = 1; /* a length that holds no prompt with an answer */
    int32_t max_tokens;
    struct record record = prepare_tokens(&fixture, 3, "", &max_tokens);
    assert_string_equal(record.request.error_code, "prompt_too_long");
    record_free(&record);
    fixture_close(&fixture);
}

/* What the tokenizer puts around a text, here <s> and </s>, stays; the text between them is cut. Token ids
 * that a record gives have no such frame. */
static void test_special_tokens_are_not_cut(void **state) {
    (void)state;
    struct fixture fixture;
    struct tokenizer *framing;
    int32_t max_tokens;
    fixture_open(&fixture);
    assert_int_equal(tokenizer_open("tests/tokenizers/template", &framing), STATUS_OK);
    fixture.options.tokenizer = framing;
    fixture.options.max_model_len = 1000;
    static const char line[] = "{\"prompt\":\"abcdefghijklmnopqrstuvwxyz0123456789 zyxwvutsrqponm\","
                               "\"max_tokens\":10}";
    struct record whole = prepare(&fixture, line, &max_tokens);
    int32_t n = whole.n_prompt_tokens;
    const int32_t *ids = whole.request.prompt_token_ids;
    assert_null(whole.request.error_code);
    assert_true(n > 30 && ids[0] == 0 && ids[n - 1] == 1);
    fixture.job.on_too_long = ON_TOO_LONG_TRUNCATE_LEFT;
    for (int32_t length = 1; length <= n; length++) {
        fixture.options.max_model_len = length;
        struct record cut = prepare(&fixture, line, &max_tokens);
        int32_t kept = length - (length / 2 < 10 ? length / 2 : 10);
        if (kept <= 2 || length == 1) {
            assert_string_equal(cut.request.error_code, "prompt_too_long");
            assert_non_null(strstr(cut.request.error_message, "special tokens"));
        } else {
            assert_null(cut.request.error_code);
            assert_int_equal(cut.n_prompt_tokens, kept);
            assert_int_equal(cut.n_truncated_tokens, n - kept);
            assert_int_equal(cut.request.prompt_token_ids[0], 0);
            assert_memory_equal(cut.request.prompt_token_ids + 1, ids + 1 + n - kept,
                                (size_t)(kept - 1) * sizeof *ids);
        }
        record_free(&cut);
    }
    fixture.options.max_model_len = 8;
    struct record given =
        prepare(&fixture, "{\"prompt_token_ids\":[0,2,3,4,5,6,7,8,9,1],\"max_tokens\":3}", &max_tokens);
    assert_int_equal(given.n_prompt_tokens, 5);
    assert_int_equal(given.request.prompt_token_ids[0], 6);
    record_free(&given);
    record_free(&whole);

    /* An empty text is a prompt of them alone; without any it is a mistake (test_vocabulary). */
    struct record bare = prepare(&fixture, "{\"prompt\":\"\"}", &max_tokens);
    assert_null(bare.request.error_code);
    assert_int_equal(bare.n_prompt_tokens, 2);
    assert_int_equal(bare.request.prompt_token_ids[1], 1);
    record_free(&bare);
    tokenizer_close(framing);
    fixture_close(&fixture);
}

/* ---- tokens ---- */

/* Scoring: every position may be prompt; sampling keys, the record's too, are passed over. */
static void test_scored(void **state) {
    (void)state;
    struct fixture fixture;
    int32_t max_tokens;
    fixture_open(&fixture);
    fixture.job.mode = MODE_SCORE;
    set(&fixture.defaults, "n", 5);
    static const char keys[] = ",\"n\":3,\"logprobs\":2,\"stop\":[\"x\"],\"stop_token_ids\":[999999]";
    struct record record = prepare_tokens(&fixture, LENGTH, keys, &max_tokens);
    assert_null(record.request.error_code);
    assert_true(record.is_scored);
    assert_int_equal(record.n_prompt_tokens, LENGTH);
    assert_int_equal(record.request.sampling.n, 1);
    assert_int_equal(record.request.sampling.logprobs, -1);
    assert_int_equal(record.request.sampling.n_stop + record.request.sampling.n_stop_token_ids, 0);
    record_free(&record);

    record = prepare_tokens(&fixture, LENGTH + 1, "", &max_tokens);
    assert_string_equal(record.request.error_code, "prompt_too_long");
    assert_non_null(strstr(record.request.error_message, "65 tokens are more than the 64 positions"));
    record_free(&record);
    fixture.job.on_too_long = ON_TOO_LONG_TRUNCATE_LEFT;
    record = prepare_tokens(&fixture, LENGTH + 3, "", &max_tokens);
    assert_null(record.request.error_code);
    assert_int_equal(record.n_truncated_tokens, 3);
    assert_int_equal(record.n_prompt_tokens, LENGTH);
    assert_int_equal(record.request.prompt_token_ids[0], 4);
    record_free(&record);

    record = prepare_tokens(&fixture, 1, "", &max_tokens);
    assert_null(record.request.error_code);
    record_free(&record);
    expect_error(&fixture, "{\"prompt\":\"a\",\"n\":0}", "invalid_value", "n: 0 is not allowed");
    expect_error(&fixture, "{\"prompt_token_ids\":[1,1000]}", "invalid_value", "outside the vocabulary");
    fixture_close(&fixture);
}

static void test_vocabulary(void **state) {
    (void)state;
    struct fixture fixture;
    int32_t max_tokens;
    fixture_open(&fixture);
    struct record record =
        prepare(&fixture, "{\"prompt_token_ids\":[0,999],\"stop_token_ids\":[999]}", &max_tokens);
    assert_null(record.request.error_code);
    assert_int_equal(record.n_prompt_tokens, 2);
    record_free(&record);
    expect_error(&fixture, "{\"prompt_token_ids\":[3,1000]}", "invalid_value", "prompt_token_ids[1]: 1000");
    expect_error(&fixture, "{\"prompt\":\"a\",\"stop_token_ids\":[1,2,1000]}", "invalid_value",
                 "stop_token_ids[2]: 1000");
    expect_error(&fixture, "{\"prompt\":\"\"}", "empty_prompt", "at least one character");
    expect_error(&fixture, "{\"prompt_token_ids\":[]}", "empty_prompt", "at least one token id");
    record = prepare(&fixture, "{\"prompt\":\"hello there\"}", &max_tokens);
    assert_null(record.request.error_code);
    assert_true(record.n_prompt_tokens > 1 && record.request.prompt_token_ids != NULL);
    assert_null(record.request.prompt.bytes); /* waiting records hold no text that nobody reads */
    record_free(&record);
    /* Ids that the record did not give are not its fault. */
    fixture.model.n_vocab = 1;
    expect_error(
        &fixture, "{\"prompt\":\"hello\"}", "invalid_value",
        "prompt: token 0 of it is 258, outside the model's vocabulary of 1 tokens; tokenizer.json and "
        "config.json do not belong together");
    fixture.model.n_vocab = N_VOCAB;
    /* An error that the reader found stays, and nothing else is looked at. */
    expect_error(&fixture, "{\"prompt\":\"a\",\"nonsense\":1}", "unknown_key", "nonsense");
    fixture_close(&fixture);
}

/* Without tokenizer.json there are token ids alone, and no text to find a stop string in. */
static void test_without_a_tokenizer(void **state) {
    (void)state;
    struct fixture fixture;
    int32_t max_tokens;
    fixture_open(&fixture);
    fixture.options.tokenizer = NULL;
    expect_error(&fixture, "{\"prompt\":\"a\"}", "invalid_prompt", "tokenizer.json");
    expect_error(&fixture, "{\"prompt_token_ids\":[1],\"stop\":[\"x\"]}", "invalid_value", "stop_token_ids");
    struct record record =
        prepare(&fixture, "{\"prompt_token_ids\":[1],\"stop_token_ids\":[2]}", &max_tokens);
    assert_null(record.request.error_code);
    record_free(&record);
    fixture_close(&fixture);
}

/* ---- the thread ---- */

static struct intake *start(struct fixture *fixture, const char *path) {
    struct prompt_reader *reader;
    struct intake *intake;
    fixture->job.prompts = (char *)path;
    assert_int_equal(prompt_reader_open(&fixture->job, (struct shard){0, 1}, &reader), STATUS_OK);
    assert_int_equal(intake_start(&fixture->options, reader, &intake), STATUS_OK);
    return intake;
}

static const char *write_prompts(const char *name, int n) {
    struct buffer text = {0};
    for (int i = 0; i < n; i++)
        assert_int_equal(buffer_printf(&text, i % 10 == 3 ? "{\"prompt\":%d}\n" : "{\"prompt\":\"%d\"}\n", i),
                         STATUS_OK);
    const char *path = temp_file(name, text.data, text.size);
    buffer_free(&text);
    return path;
}

static void test_records_come_in_order(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture);
    fixture.config.read_ahead_records = 5;
    struct intake *intake = start(&fixture, write_prompts("order.jsonl", 300));
    for (int64_t i = 0;; i++) {
        struct record *record;
        int32_t max_tokens;
        enum status failure;
        enum intake_event event = intake_take(intake, 30, &record, &max_tokens, &failure);
        if (event == INTAKE_END) {
            assert_int_equal(i, 300);
            break;
        }
        assert_int_equal(event, INTAKE_RECORD);
        assert_int_equal(record->request.index, i);
        assert_int_equal(record->request.error_code != NULL, i % 10 == 3); /* each costs its own record */
        int64_t n_read;
        bool ended;
        double fraction;
        intake_progress(intake, &n_read, &ended, &fraction);
        assert_true(n_read > i && n_read <= i + 1 + 5); /* never further ahead */
        record_free(record);
        free(record);
    }
    intake_stop(intake);
    fixture_close(&fixture);
}

static void test_read_ahead_is_bounded_by_bytes(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture);
    fixture.config.read_ahead_bytes = 1; /* one record at a time, however big */
    struct intake *intake = start(&fixture, write_prompts("bytes.jsonl", 20));
    for (int64_t i = 0; i < 20; i++) {
        struct record *record;
        int32_t max_tokens;
        enum status failure;
        assert_int_equal(intake_take(intake, 30, &record, &max_tokens, &failure), INTAKE_RECORD);
        int64_t n_read;
        bool ended;
        double fraction;
        intake_progress(intake, &n_read, &ended, &fraction);
        assert_true(n_read <= i + 2);
        record_free(record);
        free(record);
    }
    intake_stop(intake);
    fixture_close(&fixture);
}

/* Stopped with much unread and much untaken, everything is released. */
static void test_stop_amid(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture);
    fixture.config.read_ahead_records = 10;
    const char *path = write_prompts("amid.jsonl", 500);
    for (int n = 0; n < 4; n++) {
        struct intake *intake = start(&fixture, path);
        for (int i = 0; i < n; i++) {
            struct record *record;
            int32_t max_tokens;
            enum status failure;
            assert_int_equal(intake_take(intake, 30, &record, &max_tokens, &failure), INTAKE_RECORD);
            record_free(record);
            free(record);
        }
        intake_stop(intake);
    }
    intake_stop(NULL);
    fixture_close(&fixture);
}

/* A stream that breaks gives what came before, then the failure with its words, again and again. */
static void test_a_broken_stream(void **state) {
    (void)state;
    struct fixture fixture;
    fixture_open(&fixture);
    const char *path = temp_path("broken.txt.gz");
    gzFile gz = gzopen(path, "wb");
    assert_non_null(gz);
    for (int i = 0; i < 2000; i++)
        gzprintf(gz, "prompt %d\n", i * 7919 % 1009);
    gzclose(gz);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char bytes[1 << 16];
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    struct intake *intake = start(&fixture, temp_file("cut.txt.gz", bytes, size / 2));
    int64_t n = 0;
    enum intake_event event;
    enum status failure = STATUS_OK;
    for (;; n++) {
        struct record *record;
        int32_t max_tokens;
        event = intake_take(intake, 30, &record, &max_tokens, &failure);
        if (event != INTAKE_RECORD)
            break;
        record_free(record);
        free(record);
    }
    assert_int_equal(event, INTAKE_FAILED);
    assert_int_equal(failure, STATUS_DATA);
    assert_non_null(strstr(status_message(), "cut.txt.gz"));
    assert_true(n > 0 && n < 2000);
    assert_int_equal(intake_take(intake, 0, &(struct record *){0}, &(int32_t){0}, &failure), INTAKE_FAILED);
    intake_stop(intake);
    fixture_close(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_max_tokens_is_cut_to_the_room),
        cmocka_unit_test(test_too_long_is_an_error),
        cmocka_unit_test(test_too_long_is_cut_from_the_left),
        cmocka_unit_test(test_special_tokens_are_not_cut),
        cmocka_unit_test(test_scored),
        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_without_a_tokenizer),
        cmocka_unit_test(test_records_come_in_order),
        cmocka_unit_test(test_read_ahead_is_bounded_by_bytes),
        cmocka_unit_test(test_stop_amid),
        cmocka_unit_test(test_a_broken_stream),
    };
    return cmocka_run_group_tests_name("intake", tests, open_all, close_all);
}
