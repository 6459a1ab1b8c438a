/* The engine when sequences run out of pages and start again from their prompts: the answers are those of an
 * engine that reserves everything, whatever ends them and however many samples they have. The tiny model;
 * on the CPU results come at once, and one step late, as from a device beside the host. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "tests/functional/golden.h"
#include "tests/functional/relay.h"
#include "tests/functional/run_cases.h"
#include "tests/support/engine_rig.h"

enum { N_SLOTS = 8, MAX_ROWS = 96, N_RECORDS = 30 };

static const char folder[] = "tests/models/tiny";

struct outcome {
    struct record *records[N_RECORDS];
    struct run_metrics metrics;
    int32_t n_streamed;
};

static void count_token(void *argument, const struct sequence *sequence, int32_t token) {
    struct outcome *outcome = argument;
    assert_int_equal(sequence->completion->token_ids[sequence->completion->n_tokens - 1], token);
    outcome->n_streamed++;
}

/* How many pages there are, and records, of which the first third is short, and tokens of the others. Small
 * cases compute in bfloat16, which race detection is quicker with. */
struct amount {
    int32_t n_pages, n_records, max_tokens;
    enum dtype dtype;
};

static struct amount amount(void) {
    return golden_arguments.is_small ? (struct amount){7, 6, 12, DTYPE_BFLOAT16}
                                     : (struct amount){18, N_RECORDS, 150, DTYPE_FLOAT32};
}

/* The first third is short; then all kinds of endings. */
static struct record *make_record(int32_t index) {
    int32_t n = 3 + (int32_t)(philox_word(4, (uint32_t)index, 0) % 60);
    struct record *record = record_of_random_ids(index, n, 1000);
    struct sampling *sampling = &record->request.sampling;
    sampling->ignore_eos = true;
    if (index >= amount().n_records / 3) {
        sampling->n = 1 + index % 3;
        sampling->logprobs = index % 4 == 0 ? 2 : -1;
        sampling->frequency_penalty = index % 2 ? 0.5f : 0;
        sampling->repetition_penalty = index % 5 ? 1 : 1.2f;
        if (index % 3 == 1) {
            sampling_begin_stop(sampling);
            OK(sampling_add_stop(sampling, STATUS_RECORD, "th", 2));
        }
    }
    return record;
}

static void run(bool is_late, bool reserves_expected, struct outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    struct backend inner;
    struct engine_rig rig = {0};
    struct tokenizer *tokenizer;
    OK(backend_open(golden_backend,
                    &(struct backend_options){.n_threads = 1,
                                              .no_graphs = golden_arguments.is_small,
                                              .no_network = golden_arguments.is_small},
                    &inner));
    OK(relay_open(&inner, &(struct relay_options){.is_late = is_late}, &rig.backend));
    OK(tokenizer_open(folder, &tokenizer));
    struct engine_options options = {.limits = {.n_slots = N_SLOTS,
                                                .n_pages = amount().n_pages,
                                                .max_pages_per_slot = 8,
                                                .max_rows = MAX_ROWS,
                                                .max_samples = N_SLOTS,
                                                .reserves_expected = reserves_expected},
                                     .job_seed = 5,
                                     .on_token = count_token,
                                     .on_token_argument = outcome};
    OK(engine_rig_configure(&rig, folder));
    OK(engine_rig_load(&rig, folder, amount().dtype, &options.limits, 4));
    struct engine *engine;
    OK(engine_open(&rig.backend, rig.model, &rig.config, tokenizer, &options, &engine));
    const struct amount all = amount();
    for (int32_t i = 0; i < all.n_records; i++)
        OK(engine_submit(engine, make_record(i), i < all.n_records / 3 ? 3 : all.max_tokens));
    for (int32_t turn = 0; !engine_is_idle(engine); turn++) {
        assert_true(turn < 20000);
        OK(engine_step(engine, false, true, &outcome->metrics));
        for (struct record *record; (record = engine_take(engine)) != NULL;)
            outcome->records[record->request.index] = record;
    }
    assert_int_equal(engine_running(engine), 0);
    engine_close(engine);
    engine_rig_close(&rig);
    tokenizer_close(tokenizer);
}

static void outcome_free(struct outcome *outcome) {
    for (int32_t i = 0; i < amount().n_records; i++) {
        record_free(outcome->records[i]);
        free(outcome->records[i]);
    }
}

static void compare(const struct completion *a, const struct completion *b, int32_t n_logprobs) {
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->finish_reason, b->finish_reason);
    size_t n = (size_t)a->n_tokens;
    assert_memory_equal(a->token_ids, b->token_ids, n * sizeof *a->token_ids);
    assert_int_equal(a->text.size, b->text.size);
    if (a->text.size > 0)
        assert_memory_equal(a->text.data, b->text.data, a->text.size);
    if (n_logprobs >= 0)
        assert_memory_equal(a->logprobs, b->logprobs, n * sizeof *a->logprobs);
    if (n_logprobs > 0)
        assert_memory_equal(a->top, b->top, n * (size_t)n_logprobs * sizeof *a->top);
}

static void check_equal(bool is_late) {
    struct outcome full, expected;
    run(is_late, false, &full);
    run(is_late, true, &expected);
    assert_int_equal(full.metrics.n_restarts, 0);
    assert_int_equal(full.metrics.replayed_rows, 0);
    assert_true(expected.metrics.n_restarts >= (golden_arguments.is_small ? 1 : 3));
    assert_true(expected.metrics.replayed_rows > 0);
    assert_true(expected.metrics.slot_steps * full.metrics.n_steps >
                full.metrics.slot_steps * expected.metrics.n_steps); /* more of them at a time */
    assert_int_equal(expected.n_streamed, full.n_streamed);
    int32_t n_stopped = 0;
    for (int32_t i = 0; i < amount().n_records; i++) {
        const struct record *a = full.records[i], *b = expected.records[i];
        assert_non_null(a);
        assert_non_null(b);
        assert_null(b->request.error_code);
        for (int32_t s = 0; s < a->request.sampling.n; s++) {
            compare(&a->completions[s], &b->completions[s], a->request.sampling.logprobs);
            n_stopped += a->completions[s].finish_reason == FINISH_STOP;
        }
    }
    assert_true(n_stopped >= (golden_arguments.is_small ? 1 : 3));
    outcome_free(&full);
    outcome_free(&expected);
}

static void test_restarted_answers_are_equal(void **state) {
    (void)state;
    check_equal(false);
    if (strcmp(golden_backend, "cpu") == 0)
        check_equal(true);
}

int main(int argc, char **argv) {
    if (!golden_choose_backend(argc, argv))
        return ARGUMENTS_SKIPPED;
    struct backend backend;
    OK(backend_open(golden_backend, NULL, &backend));
    bool can_grow = backend.slots_extend != NULL;
    backend.close(backend.context);
    if (!can_grow) {
        printf("the backend gives running sequences no further pages\n");
        return ARGUMENTS_SKIPPED;
    }
    struct CMUnitTest tests[] = {cmocka_unit_test(test_restarted_answers_are_equal)};
    return run_cases(&golden_arguments, "restart", tests, sizeof tests / sizeof tests[0]);
}
