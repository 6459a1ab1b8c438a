/* The device's time between steps, of an engine that runs the tiny model: there is a gap in front of every
 * step that only decodes but the very first, it holds the time in front of the step and none of the step's
 * own, and steps run as they do otherwise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/functional/golden.h"
#include "tests/functional/run_cases.h"
#include "tests/support/engine_rig.h"
#include "worker/base/clock.h"

enum { N_RECORDS = 3, N_SLOTS = 2, MAX_ROWS = 64 };

static const char folder[] = "tests/models/tiny";

/* What one engine did. */
struct run {
    int32_t n_decode_steps, n_replayed;
    int64_t launches_per_decode_step;
    double wall_s;                     /* first step to last */
    struct record *records[N_RECORDS]; /* NULL beyond the last */
};

static enum status (*real_step_begin)(struct backend_context *context, const struct batch *batch,
                                      bool *replayed);
static int32_t n_replayed;

static enum status counting_step_begin(struct backend_context *context, const struct batch *batch,
                                       bool *replayed) {
    TRY(real_step_begin(context, batch, replayed));
    n_replayed += *replayed;
    return STATUS_OK;
}

static void count_step(void *argument, const struct step_report *report) {
    struct run *run = argument;
    run->n_decode_steps += report->n_rows == report->n_decode;
}

static struct engine_options options(struct run *run) {
    return (struct engine_options){.limits = {.n_slots = N_SLOTS,
                                              .n_pages = 1 + 8 * N_SLOTS,
                                              .max_pages_per_slot = 8,
                                              .max_rows = MAX_ROWS,
                                              .max_samples = N_SLOTS},
                                   .job_seed = 5,
                                   .on_step = count_step,
                                   .on_step_argument = run};
}

static void rig_open(struct engine_rig *rig) {
    *rig = (struct engine_rig){0};
    OK(backend_open(golden_backend,
                    &(struct backend_options){.no_graphs = golden_arguments.is_small,
                                              .no_network = golden_arguments.is_small},
                    &rig->backend));
    OK(engine_rig_configure(rig, folder));
    const struct engine_options model_options = options(NULL);
    OK(engine_rig_load(rig, folder, golden_arguments.is_small ? DTYPE_BFLOAT16 : DTYPE_FLOAT32,
                       &model_options.limits, N_SLOTS));
    real_step_begin = rig->backend.step_begin;
    rig->backend.step_begin = counting_step_begin;
}

/* Each record gets n_new tokens. The gaps are refused while a step is in flight. */
static void run_engine(struct engine_rig *rig, int32_t n_records, int32_t n_new, struct run *run) {
    *run = (struct run){0};
    n_replayed = 0;
    const struct engine_options engine_options = options(run);
    struct engine *engine;
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    assert_non_null(metrics);
    OK(engine_open(&rig->backend, rig->model, &rig->config, NULL, &engine_options, &engine));
    for (int32_t i = 0; i < n_records; i++) {
        struct record *record = record_of_random_ids(i, 3 + i, rig->config.n_vocab);
        record->request.sampling.ignore_eos = true;
        OK(engine_submit(engine, record, n_new));
    }
    const double began = clock_seconds();
    for (int32_t turn = 0; !engine_is_idle(engine); turn++) {
        OK(engine_step(engine, false, true, metrics));
        for (struct record *record; (record = engine_take(engine)) != NULL;)
            run->records[record->request.index] = record;
        double seconds[MAX_GAPS];
        int32_t n;
        if (turn == 0)
            assert_int_equal(rig->backend.gaps(rig->backend.context, true, seconds, &n), STATUS_INTERNAL);
    }
    run->wall_s = clock_seconds() - began;
    run->n_replayed = n_replayed;
    run->launches_per_decode_step = metrics->launches_per_decode_step;
    engine_close(engine);
    free(metrics);
}

static void run_free(struct run *run) {
    for (int32_t i = 0; i < N_RECORDS && run->records[i]; i++) {
        record_free(run->records[i]);
        free(run->records[i]);
    }
}

static void test_gaps(void **state) {
    (void)state;
    const int32_t n_new = golden_arguments.is_small ? 4 : 12;
    struct engine_rig rig;
    struct run plain, timed, after;
    double seconds[MAX_GAPS], sum = 0;
    int32_t n;
    rig_open(&rig);
    run_engine(&rig, N_RECORDS, n_new, &plain);
    run_free(&plain); /* kernels are loaded, steps recorded */
    run_engine(&rig, N_RECORDS, n_new, &plain);

    OK(rig.backend.gaps(rig.backend.context, true, seconds, &n));
    assert_int_equal(n, 0);
    run_engine(&rig, N_RECORDS, n_new, &timed);
    OK(rig.backend.gaps(rig.backend.context, false, seconds, &n));

    assert_int_equal(timed.n_decode_steps, 2 * (n_new - 1)); /* a prompt waited for a slot */
    assert_int_equal(n, timed.n_decode_steps);
    for (int32_t i = 0; i < n; i++) {
        if (!(seconds[i] >= 0))
            fail_msg("gap %d lasts %g us", i, 1e6 * seconds[i]);
        sum += seconds[i];
    }
    if (sum > timed.wall_s)
        fail_msg("%d gaps last %.3f ms; the run took %.3f ms", n, 1e3 * sum, 1e3 * timed.wall_s);

    /* Steps ran as without, and run so afterwards. */
    assert_int_equal(plain.n_replayed > 0, !golden_arguments.is_small);
    run_engine(&rig, N_RECORDS, n_new, &after);
    const struct run *others[] = {&timed, &after};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(others[i]->n_replayed, plain.n_replayed);
        assert_int_equal(others[i]->launches_per_decode_step, plain.launches_per_decode_step);
        for (int32_t j = 0; j < N_RECORDS; j++)
            assert_memory_equal(others[i]->records[j]->completions[0].token_ids,
                                plain.records[j]->completions[0].token_ids, (size_t)n_new * sizeof(int32_t));
    }
    OK(rig.backend.gaps(rig.backend.context, false, seconds, &n));
    assert_int_equal(n, 0);
    run_free(&plain);
    run_free(&timed);
    run_free(&after);
    engine_rig_close(&rig);
}

/* More steps than gaps are kept of. */
static void test_most_gaps(void **state) {
    (void)state;
    struct engine_rig rig;
    struct run run;
    double seconds[MAX_GAPS];
    int32_t n;
    rig_open(&rig);
    OK(rig.backend.gaps(rig.backend.context, true, seconds, &n));
    run_engine(&rig, 1, MAX_GAPS + 5, &run);
    run_free(&run);
    OK(rig.backend.gaps(rig.backend.context, false, seconds, &n));
    assert_int_equal(n, MAX_GAPS);
    engine_rig_close(&rig);
}

static void sleep_for(double seconds) {
    nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * seconds)}, NULL);
}

/* A decode step of padding alone, which lasts that long. A step that scores, if nothing, is never recorded.
 */
static void run_padding(struct engine_rig *rig, double seconds) {
    static const int32_t zero = 0, scratch_slot = N_SLOTS;
    const struct batch batch = {.n_rows = 1,
                                .n_decode = 1,
                                .token = &zero,
                                .position = &zero,
                                .slot = &scratch_slot,
                                .sample_target = &zero};
    bool replayed;
    uint64_t ticket;
    OK(rig->backend.step_begin(rig->backend.context, &batch, &replayed));
    sleep_for(seconds);
    OK(rig->backend.step_end(rig->backend.context, &ticket));
    OK(rig->backend.step_wait(rig->backend.context, ticket, NULL, NULL));
}

/* What is in front of the first step since a call is no gap. */
static void test_first_step(void **state) {
    (void)state;
    struct engine_rig rig;
    double seconds[MAX_GAPS];
    int32_t n;
    rig_open(&rig);
    run_padding(&rig, 0);
    OK(rig.backend.gaps(rig.backend.context, true, seconds, &n));
    for (int32_t n_steps = 1; n_steps <= 3; n_steps++) {
        for (int32_t i = 0; i < n_steps; i++)
            run_padding(&rig, 0);
        OK(rig.backend.gaps(rig.backend.context, n_steps < 3, seconds, &n));
        assert_int_equal(n, n_steps - 1);
    }
    engine_rig_close(&rig);
}

/* A gap holds the time in front of its step, and not that of steps. Half of what the host sleeps is left for
 * a device that is late. */
static void test_extent(void **state) {
    (void)state;
    enum { N_STEPS = 6 };
    const double within_s = 0.04, between_s = 0.02;
    struct engine_rig rig;
    double seconds[MAX_GAPS], sum = 0;
    int32_t n;
    rig_open(&rig);
    OK(rig.backend.gaps(rig.backend.context, true, seconds, &n));
    const double began = clock_seconds();
    for (int32_t i = 0; i < N_STEPS; i++) {
        sleep_for(between_s);
        run_padding(&rig, within_s);
    }
    const double wall_s = clock_seconds() - began;
    OK(rig.backend.gaps(rig.backend.context, false, seconds, &n));
    assert_int_equal(n, N_STEPS - 1);
    for (int32_t i = 0; i < n; i++)
        sum += seconds[i];
    if (sum < n * between_s / 2 || sum > wall_s - N_STEPS * within_s / 2)
        fail_msg(
            "%d gaps last %.1f ms, where the host slept %.0f ms within each step and %.0f between, of %.1f",
            n, 1e3 * sum, 1e3 * within_s, 1e3 * between_s, 1e3 * wall_s);
    engine_rig_close(&rig);
}

int main(int argc, char **argv) {
    if (!golden_choose_backend(argc, argv))
        return ARGUMENTS_SKIPPED;
    struct backend backend;
    OK(backend_open(golden_backend, NULL, &backend));
    const bool has_gaps = backend.gaps != NULL;
    backend.close(backend.context);
    if (!has_gaps) {
        printf("the backend does not tell the time between its steps\n");
        return ARGUMENTS_SKIPPED;
    }
    struct CMUnitTest tests[] = {cmocka_unit_test(test_gaps), cmocka_unit_test(test_first_step),
                                 cmocka_unit_test(test_extent), cmocka_unit_test(test_most_gaps)};
    const size_t n = sizeof tests / sizeof tests[0];
    /* The last two launch no kernel that the first does not; a tool that slows kernels down moves gaps. */
    return run_cases(&golden_arguments, "gaps", tests, golden_arguments.is_small ? n - 2 : n);
}
