/* The engine over the CPU backend and the tiny model: when and how answers end, what they hold, what happens
 * to records and memory when a device fails. Everything runs twice: with results at once, as the CPU gives
 * them, and one step late, as a device beside the host does. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "tests/unit/engine_fixture.h"
#include "worker/text/stop.h"

static enum status fixture_try_open(struct engine_fixture *fixture, bool is_late,
                                    const struct fault_plan *plan) {
    struct engine_fixture_options options = {.is_late = is_late, .max_samples = N_SLOTS, .logit_rows = 2};
    if (plan)
        options.plan = *plan;
    return engine_fixture_try_open(fixture, &options);
}

static void fixture_open(struct engine_fixture *fixture, bool is_late, const struct fault_plan *plan) {
    OK(fixture_try_open(fixture, is_late, plan));
}

static void drop_record(struct record *record) {
    record_free(record);
    free(record);
}

static void submit(struct engine_fixture *fixture, struct record *record, int32_t max_tokens) {
    OK(engine_submit(fixture->engine, record, max_tokens));
}

/* One record's answer; the fixture is as good as new afterwards. The caller frees. */
static struct record *answer(struct engine_fixture *fixture, struct record *record, int32_t max_tokens) {
    int64_t index = record->request.index;
    submit(fixture, record, max_tokens);
    OK(engine_fixture_run(fixture));
    record = fixture->records[index];
    assert_non_null(record);
    fixture->records[index] = NULL;
    fixture->n_finished = 0;
    return record;
}

static void add_stop(struct record *record, const char *bytes, size_t size) {
    if (!(record->request.sampling.set & SAMPLING_STOP))
        sampling_begin_stop(&record->request.sampling);
    OK(sampling_add_stop(&record->request.sampling, STATUS_RECORD, bytes, size));
}

static void add_stop_token(struct record *record, int32_t id) {
    if (!(record->request.sampling.set & SAMPLING_STOP_TOKEN_IDS))
        sampling_begin_stop_token_ids(&record->request.sampling);
    OK(sampling_add_stop_token_id(&record->request.sampling, STATUS_RECORD, id));
}

/* The first place where the tokens hold id; -1: nowhere. */
static int32_t find_token(const struct completion *completion, int32_t id) {
    for (int32_t i = 0; i < completion->n_tokens; i++)
        if (completion->token_ids[i] == id)
            return i;
    return -1;
}

/* The text after the first n of all tokens; the whole of it, held-back bytes included, when n is all. */
static struct buffer text_of(const struct engine_fixture *fixture, const struct completion *completion,
                             int32_t n, bool finish) {
    struct detokenizer detokenizer = {0};
    struct buffer text = {0};
    OK(buffer_reserve(&text, 1));
    for (int32_t i = 0; i < n; i++)
        OK(detokenizer_add(&detokenizer, fixture->tokenizer, completion->token_ids[i], &text));
    if (finish)
        OK(detokenizer_finish(&detokenizer, &text));
    return text;
}

/* ---- how answers end ---- */

/* What stop strings must make of an answer that ran to its end: the whole text so far is searched anew after
 * each token. */
static void expect_stop(const struct engine_fixture *fixture, const struct completion *whole,
                        const struct sampling *sampling, const struct completion *stopped) {
    for (int32_t n = 1; n <= whole->n_tokens; n++) {
        struct buffer text = text_of(fixture, whole, n, n == whole->n_tokens);
        size_t best = SIZE_MAX;
        for (int32_t k = 0; k < sampling->n_stop; k++) {
            const char *match = memmem(text.data, text.size, sampling->stop[k].bytes, sampling->stop[k].size);
            if (match && (size_t)(match - text.data) < best)
                best = (size_t)(match - text.data);
        }
        if (best != SIZE_MAX || n == whole->n_tokens) {
            size_t size = best != SIZE_MAX ? best : text.size;
            assert_int_equal(stopped->finish_reason, best != SIZE_MAX ? FINISH_STOP : FINISH_LENGTH);
            assert_int_equal(stopped->n_tokens, n);
            assert_memory_equal(stopped->token_ids, whole->token_ids, (size_t)n * sizeof(int32_t));
            assert_int_equal(stopped->text.size, size);
            if (size)
                assert_memory_equal(stopped->text.data, text.data, size);
            buffer_free(&text);
            return;
        }
        buffer_free(&text);
    }
}

/* Strings cut out of what the model will write: within a token, across tokens, at the very end, alone and
 * several at once; and strings that never come. */
static void check_stop_strings(bool is_late) {
    struct engine_fixture fixture;
    fixture_open(&fixture, is_late, NULL);
    int32_t n_stopped = 0, n_whole = 0, n_last = 0;
    for (int64_t i = 0; i < 12; i++) {
        enum { N = 18 };
        struct record *whole = answer(&fixture, engine_fixture_record(i, 5), N);
        struct buffer text = text_of(&fixture, &whole->completions[0], N, true);
        assert_true(text.size > 4);
        for (uint32_t k = 0; k < 8; k++) {
            struct record *record = engine_fixture_record(i, 5);
            size_t size = 1 + philox_word(1, (uint32_t)i, k) % 9;
            size = size < text.size ? size : text.size;
            size_t begin =
                k == 0 ? text.size - size : philox_word(2, (uint32_t)i, k) % (text.size - size + 1);
            if (k == 7)
                add_stop(record, "\x01no such text", 13);
            else
                add_stop(record, text.data + begin, size);
            if (k == 5)
                add_stop(record, text.data, 1 + text.size / 2);
            struct sampling sampling;
            OK(sampling_copy(&sampling, &record->request.sampling));
            struct record *stopped = answer(&fixture, record, N);
            expect_stop(&fixture, &whole->completions[0], &sampling, &stopped->completions[0]);
            n_stopped += stopped->completions[0].finish_reason == FINISH_STOP;
            n_whole += stopped->completions[0].finish_reason == FINISH_LENGTH;
            n_last +=
                stopped->completions[0].finish_reason == FINISH_STOP && stopped->completions[0].n_tokens == N;
            sampling_free(&sampling);
            drop_record(stopped);
        }
        buffer_free(&text);
        drop_record(whole);
    }
    assert_true(n_stopped >= 60);
    assert_true(n_whole >= 12);
    assert_true(n_last >= 3);
    engine_fixture_close(&fixture);
}

static void test_stop_strings(void **state) {
    (void)state;
    check_stop_strings(false);
    check_stop_strings(true);
}

static void check_stop_tokens(bool is_late) {
    struct engine_fixture fixture;
    fixture_open(&fixture, is_late, NULL);
    struct record *whole = answer(&fixture, engine_fixture_record(1, 5), 12);
    assert_int_equal(whole->completions[0].n_tokens, 12);
    assert_int_equal(whole->completions[0].finish_reason, FINISH_LENGTH);
    assert_null(whole->completions[0].text.data); /* nobody needed it yet */
    int32_t id = whole->completions[0].token_ids[6];
    int32_t at = find_token(&whole->completions[0], id);

    struct record *record = engine_fixture_record(1, 5);
    add_stop_token(record, 999999);
    add_stop_token(record, id);
    fixture.n_streamed = 0;
    struct record *stopped = answer(&fixture, record, 12);
    assert_int_equal(stopped->completions[0].finish_reason, FINISH_STOP);
    assert_int_equal(stopped->completions[0].n_tokens, at + 1); /* the token itself is counted */
    assert_int_equal(fixture.n_streamed, at);                   /* but is no text */
    assert_int_equal(stopped->completions[0].token_ids[at], id);
    drop_record(stopped);

    /* With stop strings beside it the text is there, and the stopping token is none of it. */
    record = engine_fixture_record(1, 5);
    add_stop_token(record, id);
    add_stop(record, "\x01never", 6);
    stopped = answer(&fixture, record, 12);
    struct buffer text = text_of(&fixture, &whole->completions[0], at, true);
    assert_int_equal(stopped->completions[0].finish_reason, FINISH_STOP);
    assert_int_equal(stopped->completions[0].text.size, text.size);
    assert_memory_equal(stopped->completions[0].text.data, text.data, text.size);
    buffer_free(&text);
    drop_record(stopped);

    /* The end-of-sequence token stops like one of them, unless it is to be ignored. */
    fixture.rig.config.eos_ids[0] = id;
    record = engine_fixture_record(1, 5);
    stopped = answer(&fixture, record, 12);
    assert_int_equal(stopped->completions[0].n_tokens, 12);
    drop_record(stopped);
    record = engine_fixture_record(1, 5);
    record->request.sampling.ignore_eos = false;
    stopped = answer(&fixture, record, 12);
    assert_int_equal(stopped->completions[0].n_tokens, at + 1);
    assert_int_equal(stopped->completions[0].finish_reason, FINISH_STOP);
    drop_record(stopped);
    /* A stop at the last token is a stop. */
    record = engine_fixture_record(1, 5);
    record->request.sampling.ignore_eos = false;
    stopped = answer(&fixture, record, at + 1);
    assert_int_equal(stopped->completions[0].n_tokens, at + 1);
    assert_int_equal(stopped->completions[0].finish_reason, FINISH_STOP);
    drop_record(stopped);
    drop_record(whole);
    engine_fixture_close(&fixture);
}

static void test_stop_tokens(void **state) {
    (void)state;
    check_stop_tokens(false);
    check_stop_tokens(true);
}

static void check_lengths(bool is_late) {
    struct engine_fixture fixture;
    fixture_open(&fixture, is_late, NULL);
    int32_t n_tokens = 0;
    for (int32_t i = 0; i < MAX_RECORDS; i++) {
        int32_t max_tokens = i % 4 == 0 ? 1 : 1 + i * 3;
        submit(&fixture, engine_fixture_record(i, 1 + i * 7), max_tokens);
        n_tokens += max_tokens;
    }
    OK(engine_fixture_run(&fixture));
    for (int32_t i = 0; i < MAX_RECORDS; i++) {
        const struct record *record = fixture.records[i];
        const struct completion *completion = &record->completions[0];
        assert_int_equal(completion->n_tokens, i % 4 == 0 ? 1 : 1 + i * 3);
        assert_int_equal(completion->finish_reason, FINISH_LENGTH);
        assert_true(record->admitted_s > 0 && completion->first_token_s >= record->admitted_s);
        assert_true(completion->last_token_s >= completion->first_token_s);
    }
    assert_int_equal(fixture.n_streamed, n_tokens);
    assert_int_equal(fixture.metrics.decode_rows, n_tokens - MAX_RECORDS); /* the first comes of the prompt */
    assert_int_equal(fixture.metrics.prefill_rows, MAX_RECORDS * 1 + 7 * MAX_RECORDS * (MAX_RECORDS - 1) / 2);
    engine_fixture_close(&fixture);
}

static void test_lengths(void **state) {
    (void)state;
    check_lengths(false);
    check_lengths(true);
}

/* ---- what answers hold ---- */

static void check_samples(bool is_late) {
    struct engine_fixture fixture;
    fixture_open(&fixture, is_late, NULL);
    struct record *alone = answer(&fixture, engine_fixture_record(3, 45), 9);
    struct record *record = engine_fixture_record(3, 45);
    record->request.sampling.n = 4;
    struct record *four = answer(&fixture, record, 9);
    /* Sample 0 is what it is without the others, and the others differ. */
    assert_memory_equal(four->completions[0].token_ids, alone->completions[0].token_ids, 9 * sizeof(int32_t));
    for (int32_t i = 1; i < 4; i++) {
        assert_int_equal(four->completions[i].n_tokens, 9);
        assert_true(
            memcmp(four->completions[i].token_ids, four->completions[0].token_ids, 9 * sizeof(int32_t)) != 0);
    }
    /* More samples than slots run in turns, and are what they are. */
    record = engine_fixture_record(3, 45);
    record->request.sampling.n = 2 * N_SLOTS + 1;
    struct record *many = answer(&fixture, record, 9);
    for (int32_t i = 0; i < 4; i++)
        assert_memory_equal(many->completions[i].token_ids, four->completions[i].token_ids,
                            9 * sizeof(int32_t));
    for (int32_t i = 4; i < 2 * N_SLOTS + 1; i++) {
        assert_int_equal(many->completions[i].n_tokens, 9);
        assert_true(memcmp(many->completions[i].token_ids, many->completions[i - 4].token_ids,
                           9 * sizeof(int32_t)) != 0);
    }
    drop_record(many);
    drop_record(four);
    drop_record(alone);
    /* Greedy samples are all the same, on their own pages too. */
    for (int32_t n_prompt = 31; n_prompt <= 33; n_prompt++) {
        record = engine_fixture_record(4, n_prompt);
        record->request.sampling.n = 3;
        record->request.sampling.temperature = 0;
        struct record *three = answer(&fixture, record, 40);
        for (int32_t i = 1; i < 3; i++)
            assert_memory_equal(three->completions[i].token_ids, three->completions[0].token_ids,
                                40 * sizeof(int32_t));
        drop_record(three);
    }
    engine_fixture_close(&fixture);
}

static void test_samples(void **state) {
    (void)state;
    check_samples(false);
    check_samples(true);
}

static void check_logprobs(bool is_late) {
    struct engine_fixture fixture;
    fixture_open(&fixture, is_late, NULL);
    static const int32_t wanted[] = {-1, 0, 1, 5, MAX_LOGPROBS};
    for (int32_t i = 0; i < 5; i++) {
        struct record *record = engine_fixture_record(i, 6);
        record->request.sampling.logprobs = wanted[i];
        record->request.sampling.temperature = 0;
        submit(&fixture, record, 37); /* past the first growth of the arrays */
    }
    OK(engine_fixture_run(&fixture));
    for (int32_t i = 0; i < 5; i++) {
        const struct completion *completion = &fixture.records[i]->completions[0];
        assert_int_equal(completion->n_tokens, 37);
        assert_int_equal(completion->logprobs != NULL, wanted[i] >= 0);
        assert_int_equal(completion->top != NULL, wanted[i] > 0);
        assert_int_equal(completion->n_top, wanted[i] > 0 ? wanted[i] : 0);
        for (int32_t at = 0; completion->logprobs && at < 37; at++) {
            assert_true(completion->logprobs[at] < 0 && isfinite(completion->logprobs[at]));
            const struct top_logprob *top = completion->top + at * completion->n_top;
            for (int32_t k = 1; k < completion->n_top; k++)
                assert_true(top[k].logprob <= top[k - 1].logprob && top[k].token != top[k - 1].token);
            if (completion->n_top > 0) { /* greedy takes the best */
                assert_int_equal(top[0].token, completion->token_ids[at]);
                assert_true(top[0].logprob == completion->logprobs[at]);
            }
        }
    }
    engine_fixture_close(&fixture);
}

static void test_logprobs(void **state) {
    (void)state;
    check_logprobs(false);
    check_logprobs(true);
}

/* ---- records that do not run ---- */

static void test_records_in_error_come_back_in_their_turn(void **state) {
    (void)state;
    struct engine_fixture fixture;
    fixture_open(&fixture, false, NULL);
    for (int32_t i = 0; i < 12; i++) {
        struct record *record = engine_fixture_record(i, 4);
        if (i % 3 == 1) {
            record->request.error_code = "invalid_value";
            record->request.error_message = strdup("wrong");
        }
        submit(&fixture, record, 2);
    }
    assert_int_equal(engine_waiting(fixture.engine), 12);
    OK(engine_fixture_run(&fixture));
    assert_int_equal(fixture.n_finished, 12);
    for (int32_t i = 0; i < 12; i++) {
        assert_int_equal(fixture.records[i]->completions == NULL, i % 3 == 1);
        if (i % 3 != 1)
            assert_int_equal(fixture.records[i]->completions[0].n_tokens, 2);
    }
    /* A record in error waits for those before it to be admitted. */
    assert_int_not_equal(fixture.order[0], 10);
    engine_fixture_close(&fixture);
}

static void test_what_never_fits_is_refused(void **state) {
    (void)state;
    struct engine_fixture fixture;
    fixture_open(&fixture, false, NULL);
    struct record *record = engine_fixture_record(0, (N_PAGES - 1) * PAGE_TOKENS);
    assert_int_equal(engine_submit(fixture.engine, record, 2), STATUS_RECORD);
    assert_non_null(strstr(status_message(), "KV pages"));
    assert_int_equal(engine_waiting(fixture.engine), 0); /* still the caller's */
    submit(&fixture, record, 1);                         /* the last token needs no KV: exactly all pages */
    OK(engine_fixture_run(&fixture));
    assert_int_equal(fixture.records[0]->completions[0].n_tokens, 1);
    assert_int_equal(fixture.metrics.kv_pages_peak, N_PAGES - 1);
    engine_fixture_close(&fixture);
}

static void test_paused_admits_nobody(void **state) {
    (void)state;
    struct engine_fixture fixture;
    fixture_open(&fixture, true, NULL);
    submit(&fixture, engine_fixture_record(0, 4), 3);
    for (int i = 0; i < 5; i++)
        OK(engine_step(fixture.engine, true, true, &fixture.metrics));
    assert_int_equal(engine_running(fixture.engine), 0);
    assert_false(engine_is_idle(fixture.engine));
    OK(engine_step(fixture.engine, false, true, &fixture.metrics));
    assert_int_equal(engine_running(fixture.engine), 1);
    while (!engine_is_idle(fixture.engine)) /* what runs is finished all the same */
        OK(engine_step(fixture.engine, true, true, &fixture.metrics));
    engine_fixture_take(&fixture);
    assert_int_equal(fixture.n_finished, 1);
    engine_fixture_close(&fixture);
}

/* All may be waiting for the record whose samples run in turns, so a pause must not hold its later turns; and
 * records in error must not pass it by meanwhile. */
static void test_paused_ends_what_began(void **state) {
    (void)state;
    for (int is_late = 0; is_late < 2; is_late++) {
        struct engine_fixture fixture;
        fixture_open(&fixture, is_late, NULL);
        struct record *wide = engine_fixture_record(0, 4), *wrong = engine_fixture_record(1, 4);
        wide->request.sampling.n = 2 * N_SLOTS + 1;
        wrong->request.error_code = "invalid_value";
        submit(&fixture, wide, 3);
        OK(engine_step(fixture.engine, false, true, &fixture.metrics));
        submit(&fixture, wrong, 1);
        submit(&fixture, engine_fixture_record(2, 4), 3);
        for (int i = 0; i < 30; i++) {
            OK(engine_step(fixture.engine, true, true, &fixture.metrics));
            engine_fixture_take(&fixture);
        }
        assert_int_equal(fixture.n_finished, 1);
        assert_non_null(fixture.records[0]);
        assert_int_equal(engine_waiting(fixture.engine), 2);
        OK(engine_fixture_run(&fixture));
        assert_int_equal(fixture.n_finished, 3);
        engine_fixture_close(&fixture);
    }
}

/* ---- ends that come too soon ---- */

/* Records of every kind: one token, several, samples, stops, an error, more than there are slots. */
static void submit_mixed(struct engine_fixture *fixture) {
    for (int32_t i = 0; i < MAX_RECORDS; i++) {
        struct record *record = engine_fixture_record(i, i % 5 == 0 ? 70 : 3 + i);
        record->request.sampling.n = i % 4 == 2 ? 2 : 1;
        record->request.sampling.logprobs = i % 3 == 0 ? 2 : -1;
        if (i % 6 == 5)
            record->request.error_code = "invalid_value";
        if (i % 4 == 3)
            add_stop(record, "e", 1);
        submit(fixture, record, 1 + i % 5);
    }
}

/* Wherever the engine is left, all of its memory is found again (by Valgrind and the address sanitizer). */
static void test_close_with_work_in_flight(void **state) {
    (void)state;
    for (int32_t n_steps = 0; n_steps < 14; n_steps++) {
        for (int is_late = 0; is_late < 2; is_late++) {
            struct engine_fixture fixture;
            fixture_open(&fixture, is_late, NULL);
            submit_mixed(&fixture);
            for (int32_t i = 0; i < n_steps; i++)
                OK(engine_step(fixture.engine, false, true, &fixture.metrics));
            engine_fixture_close(&fixture);
        }
    }
}

static void test_device_error_at_any_step(void **state) {
    (void)state;
    for (int is_late = 0; is_late < 2; is_late++) {
        enum status result = STATUS_INTERNAL;
        int64_t n_steps = 1;
        for (; result != STATUS_OK; n_steps++) {
            assert_true(n_steps < 100);
            struct engine_fixture fixture;
            fixture_open(&fixture, is_late, &(struct fault_plan){.fail_step = n_steps});
            submit_mixed(&fixture);
            result = engine_fixture_run(&fixture);
            if (result != STATUS_OK) {
                assert_int_equal(result, STATUS_INTERNAL);
                assert_non_null(strstr(status_message(), "injected device error"));
                assert_int_equal(engine_step(fixture.engine, false, true, &fixture.metrics), STATUS_INTERNAL);
                assert_non_null(strstr(status_message(), "injected device error"));
            }
            engine_fixture_close(&fixture);
        }
        assert_true(n_steps > 6);
    }
}

static void test_out_of_memory_at_any_allocation(void **state) {
    (void)state;
    enum status result = STATUS_NO_FIT;
    int64_t n = 1;
    for (; result != STATUS_OK; n++) {
        assert_true(n < 200);
        struct engine_fixture fixture;
        result = fixture_try_open(&fixture, false, &(struct fault_plan){.fail_allocation = n});
        if (result != STATUS_OK) {
            assert_int_equal(result, STATUS_NO_FIT);
            assert_non_null(strstr(status_message(), "out of memory"));
        }
        engine_fixture_close(&fixture);
    }
    assert_true(n > 20); /* weights, activations and state were all among them */
}

/* Values that are not finite cost one record, and its neighbours nothing. */
static void check_not_finite(bool is_late, int64_t nan_step) {
    struct engine_fixture good, bad;
    enum { N = 5, SICK = 2, N_PROMPT = 6, N_TOKENS = 8 };
    fixture_open(&good, is_late, NULL);
    fixture_open(&bad, is_late, &(struct fault_plan){.nan_step = nan_step, .nan_slot = SICK});
    for (int32_t i = 0; i < N; i++)
        for (int k = 0; k < 2; k++) {
            struct record *record = engine_fixture_record(i, N_PROMPT);
            record->request.sampling.n = i == SICK ? 2 : 1; /* slots 0, 1, (2, 3), 4, 5 */
            submit(k ? &bad : &good, record, N_TOKENS);
        }
    OK(engine_fixture_run(&good));
    OK(engine_fixture_run(&bad));
    for (int32_t i = 0; i < N; i++) {
        const struct request *request = &bad.records[i]->request;
        if (i == SICK) {
            char place[64];
            snprintf(place, sizeof place, "the logits at position %d", N_PROMPT + (int)nan_step - 2);
            assert_string_equal(request->error_code, "not_finite");
            if (!strstr(request->error_message, place))
                fail_msg("%s: \"%s\" is expected", request->error_message, place);
            continue;
        }
        assert_null(request->error_code);
        assert_int_equal(bad.records[i]->completions[0].n_tokens, N_TOKENS);
        assert_memory_equal(bad.records[i]->completions[0].token_ids,
                            good.records[i]->completions[0].token_ids, N_TOKENS * sizeof(int32_t));
    }
    /* Both samples of the sick record end there; one row of each was queued before that was known. */
    int64_t saved = N_TOKENS - nan_step;
    if (is_late && saved > 0)
        saved--;
    assert_int_equal(bad.metrics.decode_rows, good.metrics.decode_rows - 2 * saved);
    engine_fixture_close(&good);
    engine_fixture_close(&bad);
}

static void test_values_that_are_not_finite(void **state) {
    (void)state;
    for (int is_late = 0; is_late < 2; is_late++) {
        check_not_finite(is_late, 1); /* the prompt's end */
        check_not_finite(is_late, 2);
        check_not_finite(is_late, 7);
        check_not_finite(is_late, 8); /* the last token */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_stop_tokens),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_records_in_error_come_back_in_their_turn),
        cmocka_unit_test(test_what_never_fits_is_refused),
        cmocka_unit_test(test_paused_admits_nobody),
        cmocka_unit_test(test_paused_ends_what_began),
        cmocka_unit_test(test_close_with_work_in_flight),
        cmocka_unit_test(test_device_error_at_any_step),
        cmocka_unit_test(test_out_of_memory_at_any_allocation),
        cmocka_unit_test(test_values_that_are_not_finite),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
