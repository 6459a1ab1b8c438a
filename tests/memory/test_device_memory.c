/* Device memory is given back: after a whole job's worth of backend, model, state and steps is closed, as
 * much is free as before. For cuda alone: no other backend has memory of its own to count (host memory is
 * Valgrind's: valgrind.sh). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/engine/engine.h"
#include "worker/run/session.h"

enum { SKIPPED = 77, N_RECORDS = 20, PROMPT_TOKENS = 40, MAX_TOKENS = 12 };

static const size_t LEAK_BYTES = 32 << 20; /* far above the driver's own granularity */

static struct backend watcher; /* open all the time, so that the device's context stays */

static size_t free_bytes(void) {
    size_t free_now, total;
    assert_int_equal(watcher.memory_info(watcher.context, &free_now, &total), STATUS_OK);
    return free_now;
}

static void check(enum status status, const char *what) {
    if (status != STATUS_OK)
        fail_msg("%s: %s", what, status_message());
}

static void submit_all(struct engine *engine) {
    for (int32_t i = 0; i < N_RECORDS; i++) {
        struct record *record = calloc(1, sizeof *record);
        int32_t *ids = calloc(PROMPT_TOKENS, sizeof *ids);
        assert_non_null(record);
        assert_non_null(ids);
        for (int32_t j = 0; j < PROMPT_TOKENS; j++)
            ids[j] = 1 + (7 * i + 3 * j) % 900;
        sampling_init(&record->request.sampling);
        record->request.line = i + 1;
        record->request.index = i;
        record->request.prompt_token_ids = ids;
        record->request.n_prompt_token_ids = record->n_prompt_tokens = PROMPT_TOKENS;
        record->request.has_token_ids = true;
        record->request.sampling.ignore_eos = true;
        check(engine_submit(engine, record, MAX_TOKENS), "engine_submit");
    }
}

/* A job's life on the device: model, state, prefill and decode steps (recorded ones too), and all closed. */
static void run_job(void) {
    const char *overrides[] = {"config.device=cuda", "config.max_num_seqs=8"};
    struct job job = {0};
    struct config config = {0};
    struct session session = {0};
    check(job_from_values("tests/models/tiny", overrides, 2, &job, &config), "job_from_values");
    check(session_open(&job, &config, &session), "session_open");
    struct engine_options options = {.limits = session_scheduler_limits(&session.plan)};
    struct engine *engine;
    check(engine_open(&session.backend, session.model, &session.model_config, NULL, &options, &engine),
          "engine_open");
    submit_all(engine);
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    assert_non_null(metrics);
    int32_t n_done = 0;
    while (!engine_is_idle(engine)) {
        check(engine_step(engine, false, true, metrics), "engine_step");
        for (struct record *record; (record = engine_take(engine)) != NULL; n_done++) {
            assert_null(record->request.error_code);
            assert_int_equal(record->completions[0].n_tokens, MAX_TOKENS);
            record_free(record);
            free(record);
        }
    }
    assert_int_equal(n_done, N_RECORDS);
    assert_true(metrics->n_decode_steps > 0);
    free(metrics);
    engine_close(engine);
    session_close(&session);
    job_free(&job);
    config_free(&config);
}

static void test_job_gives_all_back(void **state) {
    (void)state;
    run_job(); /* modules are loaded once per process and stay */
    size_t before = free_bytes();
    run_job();
    run_job();
    size_t after = free_bytes();
    if (before != after)
        fail_msg("%zu bytes of device memory free before, %zu after: %lld lost", before, after,
                 (long long)before - (long long)after);
}

/* The measurement sees what it is for: a tensor of another backend that nobody freed. */
static void test_planted_leak_is_seen(void **state) {
    (void)state;
    size_t before = free_bytes();
    struct backend leaky;
    struct tensor *tensor;
    check(backend_open("cuda", NULL, &leaky), "backend_open");
    check(leaky.tensor_new(leaky.context, DTYPE_FLOAT32, 1, (int64_t)(LEAK_BYTES / sizeof(float)), &tensor),
          "tensor_new");
    size_t during = free_bytes();
    assert_true(during + LEAK_BYTES <= before);
    leaky.close(leaky.context); /* and close gives back what was forgotten */
    assert_int_equal(free_bytes(), before);
}

int main(int argc, char **argv) {
    if (argc != 2 || strcmp(argv[1], "cuda") != 0) {
        fprintf(stderr, "usage: test_device_memory cuda\n");
        return STATUS_USAGE;
    }
    if (backend_open(argv[1], NULL, &watcher) != STATUS_OK) {
        printf("%s\n", status_message());
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_gives_all_back),
        cmocka_unit_test(test_planted_leak_is_seen),
    };
    int result = cmocka_run_group_tests_name("device_memory", tests, NULL, NULL);
    watcher.close(watcher.context);
    return result;
}
