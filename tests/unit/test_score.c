/* Prompts that are scored, in the scheduler and in the engine over the CPU backend: every token's turn comes
 * once and in order, within the entries that a step has; beside what is generated; when a value is not
 * finite, when a device fails, and wherever the engine is left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "tests/unit/engine_fixture.h"

static struct record *make_record(int64_t index, int32_t n_prompt, bool is_scored) {
    struct record *record = engine_fixture_record(index, n_prompt);
    record->is_scored = is_scored;
    return record;
}

/* ---- the scheduler ---- */

enum { N_SEEDS = 200, MAX_GROUPS = 40, MAX_LAG = 2, MAX_ENTRIES = 64 };

struct expected {
    struct group *group; /* NULL once it is gone */
    int32_t n_prompt;
    int32_t n_entries; /* queued: scored tokens, or sampled ones */
    int32_t n_back;
    int32_t ends_at; /* entries after which it ends; below the whole: a fault that nobody foresees */
};

struct world {
    uint64_t seed;
    uint32_t n_drawn;
    struct scheduler scheduler;
    struct expected groups[MAX_GROUPS];
    int32_t n_groups;
    struct sequence *flying[MAX_LAG + 1][MAX_ENTRIES];
    int32_t n_flying[MAX_LAG + 1], n_steps;
};

static int32_t draw(struct world *world, int32_t below) {
    return (int32_t)(philox_word(world->seed, 2, world->n_drawn++) % (uint32_t)below);
}

static int32_t not_rounded(struct backend_context *context, int32_t n) {
    (void)context;
    return n;
}

static void drop_group(struct expected *expected) {
    record_free(expected->group->record);
    free(expected->group->record);
    group_free(expected->group);
    expected->group = NULL;
}

/* Each entry is its group's next, in a row of the group's slot, with the token behind that row as target. */
static void check_entries(struct world *world, const struct step_plan *plan) {
    const struct batch *batch = &plan->batch;
    const struct scheduler_limits *limits = &world->scheduler.limits;
    assert_in_range(batch->n_rows, 1, limits->max_rows);
    assert_in_range(batch->n_samples, 0, limits->max_samples);
    int32_t n_targets = 0;
    for (int32_t i = 0; i < batch->n_samples; i++) {
        const struct sequence *sequence = plan->samples[i];
        assert_non_null(sequence);
        struct expected *expected = &world->groups[sequence->group->record->request.index];
        int32_t row = batch->sample_row[i], target = batch->sample_target ? batch->sample_target[i] : -1;
        assert_int_equal(batch->slot[row], batch->sample_slot[i]);
        if (!expected->group->record->is_scored) {
            assert_int_equal(target, -1);
        } else {
            assert_int_equal(batch->position[row], expected->n_entries);
            assert_int_equal(batch->token[row], expected->group->prompt[expected->n_entries]);
            assert_int_equal(target, expected->group->prompt[expected->n_entries + 1]);
            n_targets++;
        }
        expected->n_entries++;
    }
    assert_true((n_targets > 0) == (batch->sample_target != NULL));
}

static void retire_step(struct world *world) {
    for (int32_t i = 0; i < world->n_flying[0]; i++) {
        struct sequence *sequence = world->flying[0][i];
        struct group *group = sequence->group;
        struct expected *expected = &world->groups[group->record->request.index];
        group->n_in_flight--;
        if (!sequence->is_over && ++expected->n_back == expected->ends_at)
            scheduler_end_sequence(&world->scheduler, sequence);
        assert_true(scheduler_check(&world->scheduler));
        if (group->n_in_flight == 0 && sequence->is_over)
            drop_group(expected);
    }
    memmove(world->flying, world->flying + 1, sizeof world->flying - sizeof world->flying[0]);
    memmove(world->n_flying, world->n_flying + 1, sizeof world->n_flying - sizeof world->n_flying[0]);
    world->n_steps--;
}

static void submit_all(struct world *world, const struct scheduler_limits *limits) {
    world->n_groups = 1 + draw(world, MAX_GROUPS);
    for (int32_t g = 0; g < world->n_groups; g++) {
        struct expected *expected = &world->groups[g];
        bool is_scored = world->seed % 3 == 0 || draw(world, 3) > 0;
        int32_t room = limits->max_pages_per_slot * PAGE_TOKENS, max_tokens = 1 + draw(world, 6);
        expected->n_prompt = 2 + draw(world, draw(world, 3) ? 20 : room - 10);
        OK(group_new(make_record(g, expected->n_prompt, is_scored), max_tokens, 1, &expected->group));
        int32_t whole = is_scored ? expected->n_prompt - 1 : max_tokens;
        expected->ends_at = draw(world, 4) ? whole : 1 + draw(world, whole);
        scheduler_submit(&world->scheduler, expected->group);
    }
}

static void play(uint64_t seed) {
    static struct world worlds;
    struct world *world = &worlds;
    memset(world, 0, sizeof *world);
    world->seed = seed;
    int32_t n_slots = 1 + draw(world, 12);
    struct scheduler_limits limits = {.n_slots = n_slots,
                                      .max_pages_per_slot = 4,
                                      .n_pages = 5 + draw(world, 4 * n_slots),
                                      .max_rows = n_slots + 1 + draw(world, draw(world, 2) ? 8 : 200),
                                      .max_samples = n_slots + draw(world, MAX_ENTRIES - n_slots),
                                      .chunk_rows = draw(world, 2) ? 0 : 1 + draw(world, 40),
                                      .reserves_expected = draw(world, 2)};
    OK(scheduler_init(&world->scheduler, &limits, seed));
    submit_all(world, &limits);
    int32_t lag = draw(world, MAX_LAG + 1), turn = 0;
    for (bool is_idle = false; !is_idle; turn++) {
        assert_true(turn < 20000);
        struct step_request request = {.force = true, .decode_rows = not_rounded};
        struct step_plan plan;
        scheduler_step(&world->scheduler, &request, &plan);
        assert_true(scheduler_check(&world->scheduler));
        if (plan.n_restarts > 0) /* test_reservation plays these */
            break;
        if (plan.batch.n_rows > 0) {
            check_entries(world, &plan);
            world->n_flying[world->n_steps] = plan.batch.n_samples;
            memcpy(world->flying[world->n_steps++], plan.samples,
                   (size_t)plan.batch.n_samples * sizeof *plan.samples);
        }
        is_idle = plan.batch.n_rows == 0 && world->n_steps == 0;
        while (world->n_steps > lag || (plan.batch.n_rows == 0 && world->n_steps > 0))
            retire_step(world);
    }
    if (turn > 0 && world->n_steps == 0 && world->scheduler.n_waiting == 0) {
        for (int32_t g = 0; g < world->n_groups; g++) {
            assert_null(world->groups[g].group);
            assert_int_equal(world->groups[g].n_back, world->groups[g].ends_at);
        }
        assert_int_equal(world->scheduler.n_free_slots, limits.n_slots);
        assert_int_equal(world->scheduler.pool.n_free, limits.n_pages - 1);
    }
    for (int32_t s = 0; s < world->n_steps; s++)
        for (int32_t i = 0; i < world->n_flying[s]; i++)
            scheduler_abandon(&world->scheduler, world->flying[s][i]->group);
    scheduler_free(&world->scheduler);
}

static void test_random_runs(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++)
        play(seed);
}

/* A step full of entries: as many rows as it has, whatever rows it could hold. */
static void test_entries_bound_a_step(void **state) {
    (void)state;
    struct scheduler scheduler;
    struct scheduler_limits limits = {
        .n_slots = 4, .n_pages = 100, .max_pages_per_slot = 8, .max_rows = 200, .max_samples = 10};
    OK(scheduler_init(&scheduler, &limits, 1));
    for (int i = 0; i < 2; i++) {
        struct group *group;
        OK(group_new(make_record(i, 20, true), 1, 1, &group));
        scheduler_submit(&scheduler, group);
    }
    static const int32_t rows[] = {10, 10, 10, 8, 0}, running[] = {2, 2, 1, 1, 0};
    struct sequence *all[38];
    int32_t n = 0;
    for (int i = 0; i < 5; i++) {
        struct step_plan plan;
        scheduler_step(&scheduler, &(struct step_request){.force = true, .decode_rows = not_rounded}, &plan);
        assert_int_equal(plan.batch.n_rows, rows[i]);
        assert_int_equal(plan.batch.n_samples, rows[i]);
        assert_int_equal(plan.batch.n_segments, i == 1 ? 2 : i < 4);
        assert_int_equal(plan.n_running, running[i]);
        memcpy(all + n, plan.samples, (size_t)rows[i] * sizeof *plan.samples);
        n += rows[i];
    }
    assert_int_equal(scheduler.n_free_slots, 4); /* places are free when the last row is queued */
    for (int32_t i = 0; i < n; i++)
        scheduler_abandon(&scheduler, all[i]->group);
    scheduler_free(&scheduler);
}

static void test_pages(void **state) {
    (void)state;
    assert_int_equal(scheduler_pages_needed(33, 0, 1), 1); /* the last token needs no KV */
    assert_int_equal(scheduler_pages_needed(34, 0, 1), 2);
    assert_int_equal(scheduler_pages_needed(1, 0, 1), 0);
}

/* ---- the engine ---- */

static void fixture_open(struct engine_fixture *fixture, bool is_late, const struct fault_plan *plan) {
    struct engine_fixture_options options = {.is_late = is_late, .max_samples = 24, .logit_rows = 7};
    if (plan)
        options.plan = *plan;
    OK(engine_fixture_try_open(fixture, &options));
}

/* Short and long prompts, one of a single token, an error, some that generate. */
static void submit_mixed(struct engine_fixture *fixture) {
    for (int32_t i = 0; i < MAX_RECORDS; i++) {
        int32_t n_prompt = i % 5 == 1 ? 1 : i % 5 == 0 ? 130 : 3 + i;
        struct record *record = make_record(i, n_prompt, i % 4 != 3);
        if (i % 6 == 5)
            record->request.error_code = "invalid_value";
        OK(engine_submit(fixture->engine, record, 1 + i % 5));
    }
}

static void test_records(void **state) {
    (void)state;
    struct engine_fixture fixtures[2];
    for (int is_late = 0; is_late < 2; is_late++) {
        struct engine_fixture *fixture = &fixtures[is_late];
        fixture_open(fixture, is_late, NULL);
        submit_mixed(fixture);
        OK(engine_fixture_run(fixture));
    }
    for (int32_t i = 0; i < MAX_RECORDS; i++) {
        const struct record *record = fixtures[0].records[i], *late = fixtures[1].records[i];
        assert_non_null(record);
        if (record->request.error_code || !record->is_scored) {
            assert_null(record->prompt_logprobs);
            continue;
        }
        assert_int_equal(record->n_scored, record->n_prompt_tokens - 1);
        assert_int_equal(record->completions[0].n_tokens, 0);
        assert_true(record->completions[0].last_token_s >= record->admitted_s);
        assert_memory_equal(record->prompt_logprobs + 1, late->prompt_logprobs + 1,
                            (size_t)record->n_scored * sizeof(float));
        for (int32_t t = 1; t <= record->n_scored; t++)
            assert_true(record->prompt_logprobs[t] < 0 && record->prompt_logprobs[t] > -50);
    }
    for (int is_late = 0; is_late < 2; is_late++)
        engine_fixture_close(&fixtures[is_late]);
}

static void test_close_with_work_in_flight(void **state) {
    (void)state;
    for (int32_t n_steps = 0; n_steps < 20; n_steps++)
        for (int is_late = 0; is_late < 2; is_late++) {
            struct engine_fixture fixture;
            fixture_open(&fixture, is_late, NULL);
            submit_mixed(&fixture);
            for (int32_t i = 0; i < n_steps; i++)
                OK(engine_step(fixture.engine, false, true, &fixture.metrics));
            engine_fixture_close(&fixture);
        }
}

static void test_device_error_at_any_step(void **state) {
    (void)state;
    for (int is_late = 0; is_late < 2; is_late++) {
        enum status result = STATUS_INTERNAL;
        for (int64_t n_steps = 1; result != STATUS_OK; n_steps++) {
            assert_true(n_steps < 100);
            struct engine_fixture fixture;
            fixture_open(&fixture, is_late, &(struct fault_plan){.fail_step = n_steps});
            submit_mixed(&fixture);
            result = engine_fixture_run(&fixture);
            assert_true(result == STATUS_OK || strstr(status_message(), "injected device error"));
            engine_fixture_close(&fixture);
        }
    }
}

/* Logits that are not finite, in the first chunk of a prompt or a later one, cost its record alone: the rest
 * of its prompt is not computed, and its place is another's. */
static void test_values_that_are_not_finite(void **state) {
    (void)state;
    enum { N = 8, SICK = 1, LENGTH = 60 };
    for (int is_late = 0; is_late < 2; is_late++)
        for (int64_t nan_step = 3; nan_step <= 5; nan_step++) {
            struct engine_fixture good, bad;
            fixture_open(&good, is_late, NULL);
            fixture_open(&bad, is_late, &(struct fault_plan){.nan_step = nan_step, .nan_slot = SICK});
            for (int32_t i = 0; i < N; i++)
                for (int k = 0; k < 2; k++)
                    OK(engine_submit(k ? bad.engine : good.engine, make_record(i, LENGTH, true), 1));
            OK(engine_fixture_run(&good));
            OK(engine_fixture_run(&bad));
            /* 24 entries a step, 59 rows a prompt: the second prompt begins with row 11 of step 3. */
            int32_t position = nan_step == 3 ? 0 : nan_step == 4 ? 13 : 37;
            for (int32_t i = 0; i < N; i++) {
                const struct record *record = bad.records[i];
                if (i == SICK) {
                    char place[64];
                    snprintf(place, sizeof place, "the logits at position %d;", position);
                    assert_string_equal(record->request.error_code, "not_finite");
                    if (!strstr(record->request.error_message, place))
                        fail_msg("%s: \"%s\" is expected", record->request.error_message, place);
                    continue;
                }
                assert_null(record->request.error_code);
                assert_memory_equal(record->prompt_logprobs + 1, good.records[i]->prompt_logprobs + 1,
                                    (LENGTH - 1) * sizeof(float));
            }
            if (nan_step == 3 || (nan_step == 4 && !is_late)) /* before its last rows were queued */
                assert_true(bad.metrics.prefill_rows < good.metrics.prefill_rows);
            engine_fixture_close(&good);
            engine_fixture_close(&bad);
        }
}

/* Entries run beside each other, so an early one may report the fault of a later position or layer, or none.
 */
static enum status (*wait_really)(struct backend_context *, uint64_t, struct sample_result *,
                                  struct sample_top *);

static enum status wait_with_faults(struct backend_context *context, uint64_t ticket,
                                    struct sample_result *results, struct sample_top *top) {
    TRY(wait_really(context, ticket, results, top));
    if (ticket == 1) {
        results[3] = (struct sample_result){.fault_layer = 2, .fault_position = 20};
        results[5] = (struct sample_result){.fault_layer = 3, .fault_position = 6};
        results[9] = (struct sample_result){.fault_layer = 1, .fault_position = 6};
        results[14] = (struct sample_result){.fault_layer = 0, .fault_position = 2}; /* the next prompt's */
    }
    return STATUS_OK;
}

static void test_the_first_fault_is_reported(void **state) {
    (void)state;
    struct engine_fixture fixture;
    fixture_open(&fixture, false, NULL);
    wait_really = fixture.rig.backend.step_wait;
    fixture.rig.backend.step_wait = wait_with_faults;
    for (int32_t i = 0; i < 3; i++)
        OK(engine_submit(fixture.engine, make_record(i, 11, true), 1));
    OK(engine_fixture_run(&fixture));
    assert_non_null(strstr(fixture.records[0]->request.error_message, "layer 1 of"));
    assert_non_null(strstr(fixture.records[0]->request.error_message, "at position 6;"));
    assert_non_null(strstr(fixture.records[1]->request.error_message, "the embedding at position 2;"));
    assert_null(fixture.records[2]->request.error_code);
    engine_fixture_close(&fixture);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_runs),
        cmocka_unit_test(test_entries_bound_a_step),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_close_with_work_in_flight),
        cmocka_unit_test(test_device_error_at_any_step),
        cmocka_unit_test(test_values_that_are_not_finite),
        cmocka_unit_test(test_the_first_fault_is_reported),
    };
    return cmocka_run_group_tests_name("score", tests, NULL, NULL);
}
