/* The engine when sequences run out of pages and start again from their prompts: the answers are those of an
 * engine that reserves everything, whatever ends them and however many samples they have. The tiny model;
 * argv[1]: cpu or cuda; the others: golden.h. On the CPU results come at once, and one step late, as from a
 * device beside the host.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "tests/functional/golden.h"
#include "tests/functional/relay.h"
#include "worker/engine/engine.h"
#include "worker/model/model.h"

enum { N_SLOTS = 8, N_PAGES = 18, MAX_ROWS = 96, N_RECORDS = 30, MAX_TOKENS = 150 };

static const char folder[] = "tests/models/tiny";

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum status ok_status_ = (call);                                                                     \
        if (ok_status_ != STATUS_OK)                                                                         \
            fail_msg("%s: status %d: %s", #call, (int)ok_status_, status_message());                         \
    } while (0)

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

/* The first third is short; then all kinds of endings. */
static struct record *make_record(int32_t index) {
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    struct request *request = &record->request;
    sampling_init(&request->sampling);
    request->line = index + 1;
    request->index = index;
    int32_t n = 3 + (int32_t)(philox_word(4, (uint32_t)index, 0) % 60);
    request->n_prompt_token_ids = record->n_prompt_tokens = n;
    request->prompt_token_ids = malloc((size_t)n * sizeof(int32_t));
    assert_non_null(request->prompt_token_ids);
    for (int32_t i = 0; i < n; i++)
        request->prompt_token_ids[i] = (int32_t)(philox_word(9, (uint32_t)index, (uint32_t)i) % 1000);
    struct sampling *sampling = &request->sampling;
    sampling->ignore_eos = true;
    if (index >= N_RECORDS / 3) {
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
    struct backend inner, backend;
    OK(backend_open(golden_backend, &(struct backend_options){.n_threads = 1, .no_graphs = golden_small},
                    &inner));
    OK(relay_open(&inner, &(struct relay_options){.is_late = is_late}, &backend));
    struct model_config config;
    struct sampling defaults;
    struct tokenizer *tokenizer;
    struct model *model;
    OK(model_config_load(folder, &config, &defaults));
    sampling_free(&defaults);
    OK(tokenizer_open(folder, &tokenizer));
    OK(model_load(folder, &config, DTYPE_FLOAT32, &backend, NULL, &model));
    OK(model_prepare(model,
                     &(struct model_limits){.max_rows = MAX_ROWS, .max_samples = N_SLOTS, .logit_rows = 4}));
    struct engine_options options = {.limits = {.n_slots = N_SLOTS,
                                                .n_pages = N_PAGES,
                                                .max_pages_per_slot = 8,
                                                .max_rows = MAX_ROWS,
                                                .max_samples = N_SLOTS,
                                                .reserves_expected = reserves_expected},
                                     .job_seed = 5,
                                     .on_token = count_token,
                                     .on_token_argument = outcome};
    OK(backend.state_init(backend.context, &(struct state_limits){.n_slots = N_SLOTS,
                                                                  .n_pages = N_PAGES,
                                                                  .max_pages_per_slot = 8,
                                                                  .max_rows = MAX_ROWS,
                                                                  .max_segments = N_SLOTS,
                                                                  .max_samples = N_SLOTS,
                                                                  .n_layers = config.n_layers,
                                                                  .n_heads = config.n_heads,
                                                                  .n_kv_heads = config.n_kv_heads,
                                                                  .head_dim = config.head_dim,
                                                                  .n_vocab = config.n_vocab,
                                                                  .kv_dtype = DTYPE_FLOAT32}));
    struct engine *engine;
    OK(engine_open(&backend, model, &config, tokenizer, &options, &engine));
    for (int32_t i = 0; i < N_RECORDS; i++)
        OK(engine_submit(engine, make_record(i), i < N_RECORDS / 3 ? 3 : MAX_TOKENS));
    for (int32_t turn = 0; !engine_is_idle(engine); turn++) {
        assert_true(turn < 20000);
        OK(engine_step(engine, false, true, &outcome->metrics));
        for (struct record *record; (record = engine_take(engine)) != NULL;)
            outcome->records[record->request.index] = record;
    }
    assert_int_equal(engine_running(engine), 0);
    engine_close(engine);
    model_close(model);
    tokenizer_close(tokenizer);
    backend.close(backend.context);
}

static void outcome_free(struct outcome *outcome) {
    for (int32_t i = 0; i < N_RECORDS; i++) {
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
    assert_true(expected.metrics.n_restarts >= 3);
    assert_true(expected.metrics.replayed_rows > 0);
    assert_true(expected.metrics.slot_steps * full.metrics.n_steps >
                full.metrics.slot_steps * expected.metrics.n_steps); /* more of them at a time */
    assert_int_equal(expected.n_streamed, full.n_streamed);
    int32_t n_stopped = 0;
    for (int32_t i = 0; i < N_RECORDS; i++) {
        const struct record *a = full.records[i], *b = expected.records[i];
        assert_non_null(a);
        assert_non_null(b);
        assert_null(b->request.error_code);
        for (int32_t s = 0; s < a->request.sampling.n; s++) {
            compare(&a->completions[s], &b->completions[s], a->request.sampling.logprobs);
            n_stopped += a->completions[s].finish_reason == FINISH_STOP;
        }
    }
    assert_true(n_stopped >= 3);
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
        return 77;
    struct backend backend;
    OK(backend_open(golden_backend, NULL, &backend));
    bool can_grow = backend.slots_extend != NULL;
    backend.close(backend.context);
    if (!can_grow) {
        printf("the backend gives running sequences no further pages\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_restarted_answers_are_equal)};
    return cmocka_run_group_tests_name("restart", tests, NULL, NULL);
}
