/* The scheduler when it reserves less than the longest answer: sequences grow, run out of pages and start
 * again. A device is played in plain arrays: pages remember what was written into each of their positions, so
 * a row that reads what its sequence did not write in this life is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "worker/engine/scheduler.h"

enum {
    N_SEEDS = 200,
    MAX_GROUPS = 40,
    MAX_SLOTS = 16,
    MAX_N = 3,
    MAX_PAGES = 80,
    MAX_LAG = 2,
    SLOT_PAGES = 16
};

struct step_memory { /* a queued step whose results are not back */
    struct sequence *samples[MAX_SLOTS];
    int32_t n;
};

struct world {
    uint64_t seed;
    uint32_t n_drawn;
    struct scheduler scheduler;
    struct scheduler_limits limits;
    struct group *groups[MAX_GROUPS];  /* NULL once finished */
    int32_t length[MAX_GROUPS][MAX_N]; /* tokens after which a sample ends, unforeseen */
    int32_t n_groups, n_submitted, n_finished, lag;
    /* the device */
    uint64_t written[MAX_PAGES][PAGE_TOKENS];
    int32_t table[MAX_SLOTS][SLOT_PAGES];
    int32_t n_table[MAX_SLOTS];
    struct step_memory steps[MAX_LAG + 1];
    int32_t n_steps;
    /* what happened */
    int64_t n_restarts, n_extensions, n_restarted_partly, n_restarted_prefilling, n_replayed;
};

static int32_t draw(struct world *world, int32_t below) {
    return (int32_t)(philox_word(world->seed, 1, world->n_drawn++) % (uint32_t)below);
}

static int32_t as_many(struct backend_context *context, int32_t n) {
    (void)context;
    return n;
}

static struct group *make_group(int64_t index, int32_t n_prompt, int32_t max_tokens, int32_t n) {
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    struct request *request = &record->request;
    sampling_init(&request->sampling);
    request->line = index + 1;
    request->index = index;
    request->sampling.n = n;
    request->n_prompt_token_ids = n_prompt;
    request->prompt_token_ids = calloc((size_t)n_prompt, sizeof(int32_t));
    assert_non_null(request->prompt_token_ids);
    struct group *group;
    assert_int_equal(group_new(record, max_tokens, n, &group), STATUS_OK);
    return group;
}

static void drop_group(struct group *group) {
    record_free(group->record);
    free(group->record);
    group_free(group);
}

/* What the KV of a position is: prompts are the same for all samples of a group, and lives differ. */
static uint64_t kv_value(const struct sequence *sequence, int32_t position) {
    const struct group *group = sequence->group;
    bool is_prompt = position < group->n_prompt;
    return 1 + (uint64_t)position + ((uint64_t)(is_prompt ? 0 : sequence->sample + 1) << 16) +
           ((uint64_t)group->n_restarts << 24) + ((uint64_t)group->order << 40);
}

static uint64_t *cell(struct world *world, int32_t slot, int32_t position) {
    if (position / PAGE_TOKENS >= world->n_table[slot])
        fail_msg("seed %llu: slot %d has no page for position %d", (unsigned long long)world->seed, slot,
                 position);
    return &world->written[world->table[slot][position / PAGE_TOKENS]][position % PAGE_TOKENS];
}

static void compute(struct world *world, const struct sequence *sequence, int32_t slot, int32_t position) {
    *cell(world, slot, position) = kv_value(sequence, position);
    for (int32_t p = 0; p <= position; p++)
        if (*cell(world, slot, p) != kv_value(sequence, p))
            fail_msg("seed %llu: line %lld sample %d at position %d reads a wrong value at %d",
                     (unsigned long long)world->seed, (long long)sequence->group->record->request.line,
                     sequence->sample, position, p);
}

static struct sequence *holder_of(struct world *world, int32_t slot) {
    for (int32_t g = 0; g < world->n_submitted; g++)
        for (int32_t s = 0; world->groups[g] && s < world->groups[g]->n_sequences; s++)
            if (world->groups[g]->sequences[s].slot == slot)
                return &world->groups[g]->sequences[s];
    fail_msg("seed %llu: slot %d is nobody's", (unsigned long long)world->seed, slot);
    return NULL;
}

static void play(struct world *world, const struct step_plan *plan) {
    for (int32_t i = 0; i < plan->n_starts; i++) {
        const struct slot_start *start = &plan->starts[i];
        memcpy(world->table[start->slot], start->pages, (size_t)start->n_pages * sizeof *start->pages);
        world->n_table[start->slot] = start->n_pages;
    }
    for (int32_t i = 0; i < plan->n_extensions; i++) {
        const struct slot_extension *extension = &plan->extensions[i];
        assert_int_equal(extension->first_page, world->n_table[extension->slot]);
        holder_of(world, extension->slot);
        for (int32_t p = 0; p < extension->n_pages; p++)
            world->table[extension->slot][world->n_table[extension->slot]++] = extension->pages[p];
    }
    for (int32_t i = 0; i < plan->n_copies; i++)
        memcpy(world->written[plan->copies[i][1]], world->written[plan->copies[i][0]],
               sizeof world->written[0]);
    const struct batch *batch = &plan->batch;
    int64_t decode_positions = 0, prompt_positions = 0;
    for (int32_t row = 0; row < batch->n_decode; row++) {
        compute(world, plan->samples[row], batch->slot[row], batch->position[row]);
        decode_positions += batch->position[row] + 1;
    }
    for (int32_t row = batch->n_decode; row < batch->n_rows; row++) {
        compute(world, holder_of(world, batch->slot[row]), batch->slot[row], batch->position[row]);
        prompt_positions += batch->position[row] + 1;
    }
    assert_int_equal(decode_positions, plan->decode_positions);
    assert_int_equal(prompt_positions, plan->prompt_positions);
    struct step_memory *step = &world->steps[world->n_steps++];
    step->n = batch->n_samples;
    memcpy(step->samples, plan->samples, (size_t)step->n * sizeof *step->samples);
    world->n_restarts += plan->n_restarts;
    world->n_extensions += plan->n_extensions;
}

/* As the engine does it: tokens that are kept already are dropped. */
static void retire(struct world *world) {
    struct step_memory step = world->steps[0];
    memmove(world->steps, world->steps + 1, (size_t)--world->n_steps * sizeof step);
    for (int32_t i = 0; i < step.n; i++) {
        struct sequence *sequence = step.samples[i];
        struct group *group = sequence->group;
        int32_t index = (int32_t)group->record->request.index;
        group->n_in_flight--;
        if (!sequence->is_over) {
            if (sequence->n_back++ < sequence->completion->n_tokens)
                world->n_replayed++;
            else if (++sequence->completion->n_tokens == world->length[index][sequence->sample])
                scheduler_end_sequence(&world->scheduler, sequence);
        }
        if (group->n_in_flight > 0)
            continue;
        if (group->n_over == group->n_sequences) {
            for (int32_t s = 0; s < group->n_sequences; s++)
                assert_int_equal(group->sequences[s].completion->n_tokens, world->length[index][s]);
            drop_group(group);
            world->groups[index] = NULL;
            world->n_finished++;
        } else if (group->is_parked) {
            scheduler_resubmit(&world->scheduler, group);
        }
    }
}

static void submit(struct world *world) {
    int32_t index = world->n_submitted++;
    int32_t n_prompt = 1 + draw(world, 90), max_tokens = 1 + draw(world, 150), n = 1 + draw(world, MAX_N);
    while (scheduler_pages_needed(n_prompt, max_tokens, n) > world->limits.n_pages - 1 ||
           n > world->limits.n_slots)
        n--;
    assert_true(n > 0);
    world->groups[index] = make_group(index, n_prompt, max_tokens, n);
    /* Short at first, so that what is expected turns out wrong. */
    int32_t longest = index < world->n_groups / 3 ? 1 + max_tokens / 8 : max_tokens;
    for (int32_t s = 0; s < n; s++)
        world->length[index][s] = 1 + draw(world, longest);
    scheduler_submit(&world->scheduler, world->groups[index]);
}

static void check_restarts(struct world *world, const int32_t *before) {
    int32_t oldest = 0;
    while (oldest < world->n_submitted && !world->groups[oldest])
        oldest++;
    for (int32_t g = 0; g < world->n_submitted; g++) {
        const struct group *group = world->groups[g];
        if (!group || group->n_restarts == before[g])
            continue;
        assert_int_not_equal(g, oldest);
        world->n_restarted_partly += group->n_over > 0;
        world->n_restarted_prefilling += group->n_prefilled < group->n_prompt;
        for (int32_t s = 0; s < group->n_sequences; s++)
            assert_int_equal(group->sequences[s].slot, -1);
    }
}

static void run_world(struct world *world, uint64_t seed) {
    memset(world, 0, sizeof *world);
    world->seed = seed;
    int32_t n_slots = 2 + draw(world, MAX_SLOTS - 1);
    world->limits = (struct scheduler_limits){.n_slots = n_slots,
                                              .n_pages = 10 + draw(world, 30),
                                              .max_pages_per_slot = SLOT_PAGES,
                                              .max_rows = n_slots + 1 + draw(world, 100),
                                              .max_samples = n_slots,
                                              .chunk_rows = draw(world, 3) == 0 ? 7 : 0,
                                              .reserves_expected = true};
    world->lag = draw(world, MAX_LAG + 1);
    world->n_groups = 8 + draw(world, MAX_GROUPS - 7);
    assert_int_equal(scheduler_init(&world->scheduler, &world->limits, seed), STATUS_OK);
    for (int32_t turn = 0; world->n_finished < world->n_groups; turn++) {
        if (turn > 100000)
            fail_msg("seed %llu: %d of %d groups finished, and no end is in sight", (unsigned long long)seed,
                     world->n_finished, world->n_groups);
        while (world->n_submitted < world->n_groups && draw(world, 3) > 0)
            submit(world);
        int32_t before[MAX_GROUPS] = {0};
        for (int32_t g = 0; g < world->n_submitted; g++)
            before[g] = world->groups[g] ? world->groups[g]->n_restarts : 0;
        struct step_request request = {
            .force = draw(world, 2), .is_paused = draw(world, 10) == 0, .decode_rows = as_many};
        struct step_plan plan;
        scheduler_step(&world->scheduler, &request, &plan);
        if (!scheduler_check(&world->scheduler))
            fail_msg("seed %llu: the scheduler's books are wrong in turn %d", (unsigned long long)seed, turn);
        check_restarts(world, before);
        if (plan.batch.n_rows > 0)
            play(world, &plan);
        while (world->n_steps > world->lag || (world->n_steps > 0 && plan.batch.n_rows == 0))
            retire(world);
        assert_true(scheduler_check(&world->scheduler));
    }
    while (world->n_steps > 0)
        retire(world);
    assert_int_equal(world->scheduler.pool.n_free, world->limits.n_pages - 1);
    assert_int_equal(world->scheduler.n_free_slots, n_slots);
    assert_int_equal(world->scheduler.n_waiting, 0);
    scheduler_free(&world->scheduler);
}

static void test_random_runs(void **state) {
    (void)state;
    static struct world world;
    struct world sum = {0};
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        run_world(&world, seed);
        sum.n_restarts += world.n_restarts;
        sum.n_extensions += world.n_extensions;
        sum.n_restarted_partly += world.n_restarted_partly;
        sum.n_restarted_prefilling += world.n_restarted_prefilling;
        sum.n_replayed += world.n_replayed;
    }
    /* All of it did happen. */
    assert_true(sum.n_restarts > N_SEEDS / 4);
    assert_true(sum.n_extensions > N_SEEDS);
    assert_true(sum.n_restarted_partly > 0);
    assert_true(sum.n_restarted_prefilling > 0);
    assert_true(sum.n_replayed > 0);
}

/* ---- what is reserved ---- */

static struct step_plan step(struct scheduler *scheduler) {
    struct step_request request = {.force = true, .decode_rows = as_many};
    struct step_plan plan;
    scheduler_step(scheduler, &request, &plan);
    assert_true(scheduler_check(scheduler));
    return plan;
}

static void back(struct scheduler *scheduler, const struct step_plan *plan, int32_t length) {
    struct sequence *samples[MAX_SLOTS];
    int32_t n = plan->batch.n_samples;
    memcpy(samples, plan->samples, (size_t)n * sizeof *samples);
    for (int32_t i = 0; i < n; i++) {
        samples[i]->group->n_in_flight--;
        if (++samples[i]->n_back == length)
            scheduler_end_sequence(scheduler, samples[i]);
    }
}

/* As long as nothing ended, everything is reserved; then the mean, of those that still run too. */
static void test_mean_is_reserved(void **state) {
    (void)state;
    struct scheduler scheduler;
    struct scheduler_limits limits = {.n_slots = 4,
                                      .n_pages = 1 + 21,
                                      .max_pages_per_slot = 16,
                                      .max_rows = 64,
                                      .max_samples = 4,
                                      .reserves_expected = true};
    assert_int_equal(scheduler_init(&scheduler, &limits, 1), STATUS_OK);
    /* Ten pages each: 20 positions of prompt, 301 tokens. */
    struct group *groups[4];
    for (int32_t i = 0; i < 4; i++)
        scheduler_submit(&scheduler, groups[i] = make_group(i, 20, 301, 1));
    struct step_plan plan = step(&scheduler);
    assert_int_equal(plan.n_starts, 2);
    assert_int_equal(plan.starts[0].n_pages, 10);
    assert_int_equal(plan.admission, ADMISSION_NO_PAGES);
    back(&scheduler, &plan, 0);
    while (groups[0]->sequences[0].n_back < 39) {
        plan = step(&scheduler);
        back(&scheduler, &plan, 0);
    }
    plan = step(&scheduler);
    groups[1]->n_in_flight--; /* the first one ends, the second runs on */
    groups[0]->n_in_flight--;
    scheduler_end_sequence(&scheduler, &groups[0]->sequences[0]);
    plan = step(&scheduler);
    /* 80 tokens and one end when the others came in: 20 + 80 - 1 positions (the step that let them in counts
     * for the next). */
    assert_int_equal(plan.n_starts, 2);
    assert_int_equal(plan.starts[0].n_pages, 4);
    assert_int_equal(plan.starts[1].n_pages, 4);
    drop_group(groups[0]);
    scheduler_free(&scheduler);
}

/* Where half of the pages stay free, growing would only cost time. */
static void test_plenty_is_reserved_whole(void **state) {
    (void)state;
    for (int is_plenty = 0; is_plenty < 2; is_plenty++) {
        struct scheduler scheduler;
        struct scheduler_limits limits = {.n_slots = 4,
                                          .n_pages = is_plenty ? 20 : 18,
                                          .max_pages_per_slot = 16,
                                          .max_rows = 64,
                                          .max_samples = 4,
                                          .reserves_expected = true};
        assert_int_equal(scheduler_init(&scheduler, &limits, 1), STATUS_OK);
        scheduler.n_tokens = 10;
        scheduler.n_ended = 1;
        scheduler_submit(&scheduler, make_group(0, 1, 9 * PAGE_TOKENS, 1));
        assert_int_equal(step(&scheduler).starts[0].n_pages, is_plenty ? 9 : 1);
        scheduler_free(&scheduler);
    }
}

/* A page stays free for each that outgrew its reservation. */
static void test_growing_keeps_others_out(void **state) {
    (void)state;
    struct scheduler scheduler;
    struct scheduler_limits limits = {.n_slots = 3,
                                      .n_pages = 1 + 6,
                                      .max_pages_per_slot = 16,
                                      .max_rows = 64,
                                      .max_samples = 3,
                                      .reserves_expected = true};
    assert_int_equal(scheduler_init(&scheduler, &limits, 1), STATUS_OK);
    scheduler.n_tokens = scheduler.n_ended = 1;
    scheduler_submit(&scheduler, make_group(0, 32, 150, 1));
    struct step_plan plan = step(&scheduler);
    assert_int_equal(plan.starts[0].n_pages, 1);
    plan = step(&scheduler);
    assert_int_equal(plan.n_extensions, 1);
    assert_int_equal(plan.extensions[0].first_page, 1);
    assert_int_equal(plan.extensions[0].n_pages, 4);
    assert_int_equal(scheduler.pool.n_free, 1);
    scheduler_submit(&scheduler, make_group(1, 20, 1, 1));
    assert_int_equal(step(&scheduler).admission, ADMISSION_NO_PAGES);
    scheduler_free(&scheduler);
}

/* The youngest yields, comes back ahead of those that were never let in, and asks for more than it had. */
static void test_youngest_starts_again(void **state) {
    (void)state;
    struct scheduler scheduler;
    struct scheduler_limits limits = {.n_slots = 3,
                                      .n_pages = 1 + 4,
                                      .max_pages_per_slot = 16,
                                      .max_rows = 200,
                                      .max_samples = 3,
                                      .reserves_expected = true};
    assert_int_equal(scheduler_init(&scheduler, &limits, 1), STATUS_OK);
    scheduler.n_tokens = scheduler.n_ended = 1;
    struct group *older = make_group(0, 20, 100, 1), *younger = make_group(1, 60, 60, 1);
    scheduler_submit(&scheduler, older);
    scheduler_submit(&scheduler, younger);
    scheduler_submit(&scheduler, make_group(2, 33, 60, 1));
    struct step_plan plan = step(&scheduler);
    assert_int_equal(plan.n_starts, 2);
    assert_int_equal(scheduler.pool.n_free, 1);
    back(&scheduler, &plan, 0);
    int32_t n_restarts = 0;
    for (int32_t i = 0; i < 60 && n_restarts == 0; i++) {
        plan = step(&scheduler);
        n_restarts = plan.n_restarts;
        if (n_restarts == 0)
            back(&scheduler, &plan, 0);
    }
    assert_int_equal(n_restarts, 1);
    assert_int_equal(younger->n_restarts, 1);
    assert_int_equal(older->n_restarts, 0);
    assert_int_equal(plan.admission, ADMISSION_NO_PAGES);
    assert_ptr_equal(scheduler.waiting_head, younger);
    assert_int_equal(scheduler.n_waiting, 2);
    assert_false(younger->is_parked);
    scheduler_end_sequence(&scheduler, &older->sequences[0]);
    older->n_in_flight = 0;
    plan = step(&scheduler);
    assert_int_equal(plan.starts[0].n_prompt, 60);
    assert_true(plan.starts[0].n_pages >= 3); /* two of the prompt, and what it had and a page more */
    assert_int_equal(younger->sequences[0].n_queued, 1);
    drop_group(older);
    scheduler_free(&scheduler);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_runs),
        cmocka_unit_test(test_mean_is_reserved),
        cmocka_unit_test(test_plenty_is_reserved_whole),
        cmocka_unit_test(test_growing_keeps_others_out),
        cmocka_unit_test(test_youngest_starts_again),
    };
    return cmocka_run_group_tests_name("reservation", tests, NULL, NULL);
}
