/* sampling: defaults, ranges, levels; and the small helpers of messages (nearest, quote, byte_size). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/job/byte_size.h"
#include "worker/job/nearest.h"
#include "worker/text/quote.h"
#include "worker/model/sampling.h"

static struct sampling_value integer(int64_t value) {
    return (struct sampling_value){SAMPLING_VALUE_INTEGER, value, (double)value, false};
}

static struct sampling_value real(double value) {
    return (struct sampling_value){SAMPLING_VALUE_REAL, 0, value, false};
}

static struct sampling_value boolean(bool value) {
    return (struct sampling_value){SAMPLING_VALUE_BOOL, 0, 0, value};
}

static void test_defaults(void **state) {
    (void)state;
    struct sampling s;
    sampling_init(&s);
    assert_int_equal(s.set, 0);
    assert_int_equal(s.max_tokens, 16);
    assert_true(s.temperature == 1 && s.top_p == 1 && s.min_p == 0 && s.repetition_penalty == 1);
    assert_true(s.presence_penalty == 0 && s.frequency_penalty == 0);
    assert_int_equal(s.top_k, 0);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.logprobs, -1);
    assert_false(s.ignore_eos);
}

static void test_ranges(void **state) {
    (void)state;
    const struct {
        const char *name;
        struct sampling_value value;
        bool is_good;
    } cases[] = {
        {"max_tokens", integer(1), true},
        {"max_tokens", integer(0), false},
        {"max_tokens", integer(-1), false},
        {"max_tokens", integer(MAX_MAX_TOKENS), true},
        {"max_tokens", integer((int64_t)MAX_MAX_TOKENS + 1), false},
        {"max_tokens", integer(INT64_MAX), false},
        {"max_tokens", real(5), false},
        {"max_tokens", boolean(true), false},
        {"max_new_tokens", integer(7), true},
        {"max_completion_tokens", integer(7), true},
        {"temperature", integer(0), true},
        {"temperature", real(-0.0), true},
        {"temperature", real(0.8), true},
        {"temperature", real(1e-30), false},
        {"temperature", real(-0.1), false},
        {"temperature", real(101), false},
        {"temperature", real(NAN), false},
        {"temperature", real(INFINITY), false},
        {"temperature", boolean(false), false},
        {"top_p", real(1), true},
        {"top_p", integer(1), true},
        {"top_p", real(1e-6), true},
        {"top_p", real(0), false},
        {"top_p", real(1e-60), false},
        {"top_p", real(1.01), false},
        {"top_k", integer(-1), true},
        {"top_k", integer(0), true},
        {"top_k", integer(50000), true},
        {"top_k", integer(-2), false},
        {"top_k", integer(1ll << 31), false},
        {"min_p", real(0), true},
        {"min_p", real(1), true},
        {"min_p", real(-1e-9), false},
        {"repetition_penalty", real(1.1), true},
        {"repetition_penalty", real(0), false},
        {"presence_penalty", real(-2), true},
        {"presence_penalty", real(2.1), false},
        {"frequency_penalty", real(2), true},
        {"frequency_penalty", real(-2.1), false},
        {"n", integer(128), true},
        {"n", integer(129), false},
        {"n", integer(0), false},
        {"logprobs", integer(-1), true},
        {"logprobs", integer(20), true},
        {"logprobs", integer(21), false},
        {"logprobs", boolean(true), false},
        {"ignore_eos", boolean(true), true},
        {"ignore_eos", integer(1), false},
        {"seed", integer(0), true},
        {"seed", integer(INT64_MAX), true},
        {"seed", integer(-1), false},
        {"seed", real(9.3e18), false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sampling s;
        bool known = false;
        sampling_init(&s);
        enum status status = sampling_set_scalar(&s, STATUS_RECORD, cases[i].name, cases[i].value, &known);
        if (status != (cases[i].is_good ? STATUS_OK : STATUS_RECORD) || !known)
            fail_msg("case %zu (%s): status %d, known %d", i, cases[i].name, status, known);
        assert_int_equal(s.set, cases[i].is_good ? sampling_field_of(cases[i].name) : 0);
        if (!cases[i].is_good)
            assert_non_null(strstr(status_message(), cases[i].name));
    }
}

static void test_values_land(void **state) {
    (void)state;
    struct sampling s;
    bool known;
    sampling_init(&s);
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "max_new_tokens", integer(7), &known), STATUS_OK);
    assert_int_equal(s.max_tokens, 7);
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "top_k", integer(-1), &known), STATUS_OK);
    assert_int_equal(s.top_k, 0);
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "seed", integer(INT64_MAX), &known), STATUS_OK);
    assert_true(s.seed == INT64_MAX);
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "temperature", real(-0.0), &known), STATUS_OK);
    assert_false(signbit(s.temperature));
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "frequency_penalty", real(0.25), &known), STATUS_OK);
    assert_true(s.frequency_penalty == 0.25f && s.presence_penalty == 0);

    uint32_t set = s.set;
    struct sampling_value null = {SAMPLING_VALUE_NULL, 0, 0, false};
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "n", null, &known), STATUS_OK);
    assert_true(known);
    assert_int_equal(s.set, set);
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "no_such_key", integer(1), &known), STATUS_OK);
    assert_false(known);
    assert_int_equal(sampling_set_scalar(&s, STATUS_JOB, "stop", integer(1), &known), STATUS_OK);
    assert_false(known);
}

static void test_names(void **state) {
    (void)state;
    uint32_t seen = 0;
    for (size_t i = 0; sampling_names[i]; i++) {
        assert_int_not_equal(sampling_field_of(sampling_names[i]), 0);
        seen |= sampling_field_of(sampling_names[i]);
    }
    assert_int_equal(seen, (SAMPLING_STOP_TOKEN_IDS << 1) - 1);
    assert_int_equal(sampling_field_of("tokens"), 0);
}

static void test_lists(void **state) {
    (void)state;
    struct sampling s;
    char longest[MAX_STOP_BYTES + 1];
    memset(longest, 'x', sizeof longest);
    sampling_init(&s);
    assert_int_equal(sampling_add_stop(&s, STATUS_JOB, "", 0), STATUS_JOB);
    assert_int_equal(sampling_add_stop(&s, STATUS_JOB, longest, MAX_STOP_BYTES + 1), STATUS_JOB);
    assert_int_equal(s.set, 0);
    for (int i = 0; i < MAX_STOP_STRINGS; i++)
        assert_int_equal(sampling_add_stop(&s, STATUS_JOB, "a\0b", 3), STATUS_OK);
    assert_int_equal(sampling_add_stop(&s, STATUS_JOB, "c", 1), STATUS_JOB);
    assert_int_equal(s.n_stop, MAX_STOP_STRINGS);
    assert_memory_equal(s.stop[15].bytes, "a\0b", 3);

    assert_int_equal(sampling_add_stop_token_id(&s, STATUS_JOB, -1), STATUS_JOB);
    assert_int_equal(sampling_add_stop_token_id(&s, STATUS_JOB, 1ll << 31), STATUS_JOB);
    for (int i = 0; i < MAX_STOP_TOKEN_IDS; i++)
        assert_int_equal(sampling_add_stop_token_id(&s, STATUS_JOB, i), STATUS_OK);
    assert_int_equal(sampling_add_stop_token_id(&s, STATUS_JOB, 1), STATUS_JOB);
    assert_int_equal(s.stop_token_ids[63], 63);

    sampling_begin_stop(&s);
    assert_int_equal(s.n_stop, 0);
    assert_true(s.set & SAMPLING_STOP);
    sampling_free(&s);
    assert_int_equal(s.set, 0);
    assert_null(s.stop_token_ids);
}

static void test_merge(void **state) {
    (void)state;
    struct sampling base, over;
    bool known;
    sampling_init(&base);
    sampling_init(&over);
    base.max_tokens = 100, base.top_k = 5, base.set = SAMPLING_MAX_TOKENS | SAMPLING_TOP_K;
    assert_int_equal(sampling_add_stop(&base, STATUS_JOB, "base", 4), STATUS_OK);
    assert_int_equal(sampling_add_stop_token_id(&base, STATUS_JOB, 9), STATUS_OK);
    over.temperature = 0.5f, over.top_k = 7, over.top_p = 0.1f; /* top_p is not marked as set */
    over.set = SAMPLING_TEMPERATURE | SAMPLING_TOP_K;
    assert_int_equal(sampling_set_scalar(&over, STATUS_JOB, "ignore_eos", boolean(true), &known), STATUS_OK);
    assert_int_equal(sampling_set_scalar(&over, STATUS_JOB, "seed", integer(3), &known), STATUS_OK);
    assert_int_equal(sampling_add_stop(&over, STATUS_JOB, "o", 1), STATUS_OK);
    assert_int_equal(sampling_add_stop(&over, STATUS_JOB, "p", 1), STATUS_OK);

    assert_int_equal(sampling_merge(&base, &over), STATUS_OK);
    assert_int_equal(base.max_tokens, 100);
    assert_int_equal(base.top_k, 7);
    assert_true(base.temperature == 0.5f && base.top_p == 1);
    assert_true(base.ignore_eos && base.seed == 3);
    assert_int_equal(base.n_stop, 2);
    assert_memory_equal(base.stop[1].bytes, "p", 1);
    assert_ptr_not_equal(base.stop[0].bytes, over.stop[0].bytes);
    assert_int_equal(base.n_stop_token_ids, 1); /* the list below stays */
    assert_int_equal(base.set, SAMPLING_MAX_TOKENS | SAMPLING_TOP_K | SAMPLING_STOP |
                                   SAMPLING_STOP_TOKEN_IDS | over.set);

    struct sampling copy, none;
    assert_int_equal(sampling_copy(&copy, &base), STATUS_OK);
    assert_int_equal(copy.set, base.set);
    assert_int_equal(copy.n_stop, 2);
    assert_ptr_not_equal(copy.stop, base.stop);
    assert_int_equal(copy.stop_token_ids[0], 9);

    sampling_init(&none);
    sampling_begin_stop(&none); /* an empty list given above takes the place of one below */
    assert_int_equal(sampling_merge(&copy, &none), STATUS_OK);
    assert_int_equal(copy.n_stop, 0);
    sampling_free(&base), sampling_free(&over), sampling_free(&copy), sampling_free(&none);
}

static void test_nearest(void **state) {
    (void)state;
    const struct {
        const char *text;
        const char *name; /* NULL: none is near */
    } cases[] = {
        {"temprature", "temperature"},
        {"max_token", "max_tokens"},
        {"MaxTokens", "max_tokens"},
        {"max-tokens", "max_tokens"},
        {"tpo_p", "top_p"},
        {"topk", "top_k"},
        {"sede", "seed"},
        {"stop_tokens", "stop_token_ids"},
        {"quantization", NULL},
        {"presence", NULL},
        {"metadata", NULL},
        {"", NULL},
        {"x", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = nearest_name(cases[i].text, strlen(cases[i].text), sampling_names);
        if ((name == NULL) != (cases[i].name == NULL) || (name && strcmp(name, cases[i].name) != 0))
            fail_msg("'%s': got %s, expected %s", cases[i].text, name ? name : "none",
                     cases[i].name ? cases[i].name : "none");
    }
    char endless[5000], hint[NEAREST_HINT_BYTES];
    memset(endless, 'a', sizeof endless);
    assert_null(nearest_name(endless, sizeof endless, sampling_names));
    assert_string_equal(nearest_hint("top-p", 5, sampling_names, hint), "; did you mean top_p?");
    assert_string_equal(nearest_hint("zzzzzzzz", 8, sampling_names, hint), "");
}

static void test_quote(void **state) {
    (void)state;
    char out[QUOTE_BYTES], many[500];
    assert_string_equal(quote("abc", 3, out), "'abc'");
    assert_string_equal(quote("", 0, out), "''");
    assert_string_equal(quote("a\n\x1b[2J\0b", 8, out), "'a\\x0A\\x1B[2J\\x00b'");
    assert_string_equal(quote("\xff\xc3\xa9\xc2\x85", 5, out), "'\\xFF\xc3\xa9\\xC2\\x85'");
    assert_string_equal(quote_bare("a b", 3, out), "a b");
    memset(many, 1, sizeof many);
    assert_true(strlen(quote(many, sizeof many, out)) < QUOTE_BYTES);
    assert_non_null(strstr(out, "...'"));
    memset(many, 'y', sizeof many);
    quote(many, sizeof many, out);
    assert_int_equal(strlen(out), 70 + strlen("''..."));
}

static void test_byte_size(void **state) {
    (void)state;
    const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } cases[] = {
        {"0", 0},
        {"1048576", 1048576},
        {"1B", 1},
        {"512MiB", 512ll << 20},
        {"80GiB", 80ll << 30},
        {"1.5 GiB", 3ll << 29},
        {"80GB", 80000000000},
        {"2kB", 2000},
        {"1TiB", 1ll << 40},
        {"9223372036854775807", INT64_MAX},
        {"9223372036854775808", -1},
        {"99999999999999999999", -1},
        {"8388608TiB", -1},
        {"", -1},
        {"-1", -1},
        {"1.5", -1},
        {"1.", -1},
        {".5GiB", -1},
        {"1gib", -1},
        {"1 M", -1},
        {"1e9", -1},
        {"0x10", -1},
        {"1GiB ", -1},
        {"GiB", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t bytes = 77;
        bool is_good = byte_size_parse(cases[i].text, strlen(cases[i].text), &bytes);
        if (is_good != (cases[i].bytes >= 0) || (is_good && bytes != (uint64_t)cases[i].bytes))
            fail_msg("'%s': %d, %llu bytes", cases[i].text, is_good, (unsigned long long)bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_ranges), cmocka_unit_test(test_values_land),
        cmocka_unit_test(test_names),    cmocka_unit_test(test_lists),  cmocka_unit_test(test_merge),
        cmocka_unit_test(test_nearest),  cmocka_unit_test(test_quote),  cmocka_unit_test(test_byte_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
