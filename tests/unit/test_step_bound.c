/* step_bound beside the scheduler itself: no job takes more steps than foretold, and a job whose steps can be
 * counted by hand takes as many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "worker/engine/step_bound.h"

enum { N_SEEDS = 400, MAX_RECORDS = 60 };

struct world {
    uint64_t seed;
    uint32_t n_drawn;
};

static int32_t draw(struct world *world, int32_t below) {
    return (int32_t)(philox_word(world->seed, 1, world->n_drawn++) % (uint32_t)below);
}

static int32_t as_many(struct backend_context *context, int32_t n) {
    (void)context;
    return n;
}

/* max_tokens 0: the prompt is scored. */
static struct group *make_group(int32_t n_prompt, int32_t max_tokens, int32_t n, int32_t at_once) {
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    sampling_init(&record->request.sampling);
    record->request.sampling.n = n;
    record->is_scored = max_tokens == 0;
    record->request.n_prompt_token_ids = record->n_prompt_tokens = n_prompt;
    record->request.prompt_token_ids = calloc((size_t)n_prompt, sizeof(int32_t));
    assert_non_null(record->request.prompt_token_ids);
    struct group *group;
    assert_int_equal(group_new(record, max_tokens, at_once, &group), STATUS_OK);
    return group;
}

/* The results of one step came back: groups whose last sequence is over run their further samples, or are
 * gone. */
static void retire(struct world *world, struct scheduler *scheduler, struct sequence **samples, int32_t n,
                   bool ends_early) {
    for (int32_t i = 0; i < n; i++) {
        struct sequence *sequence = samples[i];
        struct group *group = sequence->group;
        group->n_in_flight--;
        sequence->completion->n_tokens++;
        int32_t last = group->record->is_scored ? group->n_prefill : sequence->max_tokens;
        if (!sequence->is_over &&
            (sequence->completion->n_tokens == last || (ends_early && draw(world, 30) == 0)))
            scheduler_end_sequence(scheduler, sequence);
        if (group->n_over < group->n_sequences || group->n_in_flight > 0)
            continue;
        if (group_next_samples(group)) {
            scheduler_resubmit(scheduler, group);
        } else {
            record_free(group->record);
            free(group->record);
            group_free(group);
        }
    }
}

/* Steps until nothing is left, each retired when the next is queued, as the engine does. */
static int64_t run(struct world *world, struct scheduler *scheduler, bool ends_early) {
    struct sequence *flying[256];
    int32_t n_flying = 0;
    for (int64_t steps = 0;;) {
        struct step_request request = {.decode_rows = as_many};
        struct step_plan plan;
        scheduler_step(scheduler, &request, &plan);
        struct sequence *queued[256];
        int32_t n_queued = plan.batch.n_samples;
        assert_true(n_queued <= 256);
        if (n_queued > 0)
            memcpy(queued, plan.samples, (size_t)n_queued * sizeof *queued);
        steps += plan.batch.n_rows > 0;
        if (plan.batch.n_rows == 0 && n_flying == 0) {
            assert_int_equal(scheduler->n_waiting, 0);
            return steps;
        }
        retire(world, scheduler, flying, n_flying, ends_early);
        n_flying = n_queued;
        memcpy(flying, queued, (size_t)n_queued * sizeof *queued);
    }
}

static void test_no_scoring_takes_more(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        struct world world = {.seed = seed};
        struct scheduler_limits limits = {.n_slots = 1 + draw(&world, 40), .max_pages_per_slot = 6};
        limits.n_pages = 1 + limits.max_pages_per_slot + draw(&world, 2 * limits.n_slots);
        limits.max_rows = limits.n_slots + 1 + draw(&world, draw(&world, 2) ? 20 : 200);
        limits.max_samples = limits.max_rows; /* as plan_make has it */
        limits.chunk_rows = draw(&world, 3) ? 0 : 1 + draw(&world, 40);
        struct scheduler scheduler;
        struct step_bound bound;
        assert_int_equal(scheduler_init(&scheduler, &limits, seed), STATUS_OK);
        assert_int_equal(step_bound_init(&bound, &limits), STATUS_OK);
        int32_t n_records = 1 + draw(&world, MAX_RECORDS);
        for (int32_t i = 0; i < n_records; i++) {
            int32_t n_prompt = 2 + draw(&world, draw(&world, 2) ? 6 : 180);
            scheduler_submit(&scheduler, make_group(n_prompt, 0, 1, 1));
            step_bound_add(&bound, n_prompt, 1, 1);
        }
        int64_t steps = run(&world, &scheduler, draw(&world, 2)), most = step_bound_steps(&bound);
        if (steps > most)
            fail_msg("seed %llu: %lld steps, at most %lld foretold", (unsigned long long)seed,
                     (long long)steps, (long long)most);
        scheduler_free(&scheduler);
        step_bound_free(&bound);
    }
}

static void test_no_job_takes_more(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        struct world world = {.seed = seed};
        struct scheduler_limits limits = {.n_slots = 1 + draw(&world, 40), .max_pages_per_slot = 6};
        limits.n_pages = 1 + limits.max_pages_per_slot + draw(&world, 2 * limits.n_slots);
        limits.max_rows = limits.n_slots + 1 + draw(&world, draw(&world, 2) ? 20 : 400);
        limits.max_samples = limits.n_slots;
        limits.chunk_rows = draw(&world, 3) ? 0 : 1 + draw(&world, 40);
        struct scheduler scheduler;
        struct step_bound bound;
        assert_int_equal(scheduler_init(&scheduler, &limits, seed), STATUS_OK);
        assert_int_equal(step_bound_init(&bound, &limits), STATUS_OK);
        int32_t n_records = 1 + draw(&world, MAX_RECORDS);
        for (int32_t i = 0; i < n_records; i++) {
            int32_t n = draw(&world, 4) ? 1 : 1 + draw(&world, 5), n_prompt = 1 + draw(&world, 100);
            int32_t max_tokens = 1 + draw(&world, draw(&world, 2) ? 6 : 90);
            int32_t at_once = scheduler_samples_at_once(&limits, n_prompt, max_tokens, n);
            assert_true(at_once > 0);
            scheduler_submit(&scheduler, make_group(n_prompt, max_tokens, n, at_once));
            step_bound_add(&bound, n_prompt, max_tokens, n);
        }
        int64_t steps = run(&world, &scheduler, draw(&world, 2)), most = step_bound_steps(&bound);
        if (steps > most)
            fail_msg("seed %llu: %lld steps, at most %lld foretold", (unsigned long long)seed,
                     (long long)steps, (long long)most);
        scheduler_free(&scheduler);
        step_bound_free(&bound);
    }
}

static int64_t steps_of(const struct scheduler_limits *limits, int32_t n_records, int32_t n_prompt,
                        int32_t max_tokens, int32_t n_samples) {
    struct step_bound bound;
    assert_int_equal(step_bound_init(&bound, limits), STATUS_OK);
    for (int32_t i = 0; i < n_records; i++)
        step_bound_add(&bound, n_prompt, max_tokens, n_samples);
    int64_t steps = step_bound_steps(&bound);
    step_bound_free(&bound);
    return steps;
}

static void test_counted_by_hand(void **state) {
    (void)state;
    /* Eight places and pages for all: 24 records of 10 tokens are three rounds; their prompts are one full
     * step. */
    struct scheduler_limits limits = {
        .n_slots = 8, .n_pages = 9, .max_pages_per_slot = 8, .max_rows = 8 + 24 * 4, .max_samples = 8};
    assert_int_equal(steps_of(&limits, 24, 4, 10, 1), 3 * 10 + 1);
    /* Pages for two at once. */
    limits.n_pages = 3;
    assert_int_equal(steps_of(&limits, 24, 4, 10, 1), 12 * 10 + 1);
    /* A record's samples share full pages of the prompt: five of these fit into 2 + 5 pages, one record at a
     * time. */
    limits.n_pages = 1 + 2 + 5;
    limits.max_rows = 8 + 64;
    assert_int_equal(steps_of(&limits, 3, 64, 10, 5), 3 * 10 + 3);
    /* A record that never fits becomes an error. */
    limits.n_pages = 2;
    assert_int_equal(steps_of(&limits, 3, 64, 10, 5), 0);
    /* Of 20 slots one may stay idle until a second is. */
    limits = (struct scheduler_limits){
        .n_slots = 20, .n_pages = 100, .max_pages_per_slot = 8, .max_rows = 20 + 80, .max_samples = 20};
    assert_int_equal(steps_of(&limits, 19, 4, 10, 1), 10 + 1);
    assert_int_equal(steps_of(&limits, 20, 4, 10, 1), 2 * 10 + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_job_takes_more),
        cmocka_unit_test(test_no_scoring_takes_more),
        cmocka_unit_test(test_counted_by_hand),
    };
    return cmocka_run_group_tests_name("step_bound", tests, NULL, NULL);
}
