/* scheduler beside a device that is played in plain arrays: pages remember what was written into each of
 * their positions, so a row that would read another sequence's KV, or a position nobody computed, is seen,
 * whatever way the scheduler got there. Who is admitted is foretold by a second, naive account of slots and
 * pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "tests/support/engine_rig.h"
#include "worker/engine/scheduler.h"

enum { N_SEEDS = 150, MAX_GROUPS = 48, MAX_SLOTS = 20, MAX_N = 4, MAX_PAGES = 320, MAX_LAG = 2 };

/* A sample as the test sees it. */
struct expected_sample {
    struct sequence *sequence; /* not to be looked into once the group is gone */
    int32_t length; /* tokens after which it ends; below max_tokens: by a stop token, which nobody foresees */
    int32_t n_queued; /* tokens whose sampling was queued */
    int32_t n_back;   /* tokens that came back */
    int32_t slot;     /* -1: holds none */
    bool is_over;
};

struct expected_group {
    struct group *group;
    int32_t n_prompt, max_tokens, n;
    int32_t n_prefilled;
    int32_t n_copies; /* of the page that the prompt ends in */
    bool is_admitted;
    struct expected_sample samples[MAX_N];
};

struct step_memory { /* a queued step whose results are not back */
    int32_t group[MAX_SLOTS], sample[MAX_SLOTS];
    int32_t n;
};

struct world {
    uint64_t seed;
    uint32_t n_drawn;
    struct scheduler scheduler;
    struct scheduler_limits limits;
    struct expected_group groups[MAX_GROUPS];
    int32_t n_groups, n_submitted, n_admitted;
    int32_t padding; /* decode rows are rounded up to a multiple of this */
    /* the device */
    uint64_t written[MAX_PAGES][PAGE_TOKENS];
    int32_t table[MAX_SLOTS][64]; /* page tables */
    int32_t n_table[MAX_SLOTS];
    /* steps in flight, oldest first */
    struct step_memory steps[MAX_LAG + 1];
    int32_t n_steps;
    int32_t lag;
};

static int32_t draw(struct world *world, int32_t below) {
    return (int32_t)(philox_word(world->seed, 1, world->n_drawn++) % (uint32_t)below);
}

/* What the KV of a position is, as one number: prompt positions are the same for all samples of a group. */
static uint64_t kv_value(int32_t group, int32_t sample, int32_t position, bool is_prompt) {
    return 1 + (uint64_t)position + 4096 * (uint64_t)(is_prompt ? 0 : sample + 1) +
           (1 << 20) * (uint64_t)group;
}

/* The backend's rounding: up to a multiple of world.padding, never beyond the slots. The context is the
 * world. */
static int32_t round_up(struct backend_context *context, int32_t n) {
    const struct world *world = (const struct world *)context;
    int32_t rounded = (n + world->padding - 1) / world->padding * world->padding;
    return rounded > world->limits.n_slots ? world->limits.n_slots : rounded;
}

static struct group *make_group(int64_t index, int32_t n_prompt, int32_t max_tokens, int32_t n) {
    struct group *group;
    struct record *record = record_of_random_ids(index, n_prompt, 1000);
    record->request.sampling.n = n;
    assert_int_equal(group_new(record, max_tokens, n, &group), STATUS_OK);
    return group;
}

static void drop_group(struct group *group) {
    record_free(group->record);
    free(group->record);
    group_free(group);
}

/* ---- the naive account ---- */

static int32_t slots_held(const struct world *world) {
    int32_t n = 0;
    for (int32_t g = 0; g < world->n_submitted; g++)
        for (int32_t s = 0; s < world->groups[g].n; s++)
            n += world->groups[g].is_admitted && world->groups[g].samples[s].slot >= 0;
    return n;
}

/* Pages of a group with `holders` samples that still hold their place. */
static int32_t pages_of(const struct expected_group *group, int32_t holders) {
    int32_t each = (group->n_prompt + group->max_tokens - 1 + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int32_t shared = group->n > 1 ? group->n_prompt / PAGE_TOKENS : 0;
    return holders == 0 ? 0 : shared + holders * (each - shared);
}

static int32_t pages_held(const struct world *world) {
    int32_t n = 0;
    for (int32_t g = 0; g < world->n_submitted; g++) {
        int32_t holders = 0;
        for (int32_t s = 0; s < world->groups[g].n; s++)
            holders += world->groups[g].is_admitted && world->groups[g].samples[s].slot >= 0;
        n += pages_of(&world->groups[g], holders);
    }
    return n;
}

/* How many of the waiting groups this step must let in, by the rule of scheduler.h. */
static int32_t foretell_admissions(const struct world *world, bool is_paused, bool force) {
    int32_t n_slots = world->limits.n_slots, idle = n_slots - slots_held(world);
    int32_t free_pages = world->limits.n_pages - 1 - pages_held(world);
    int64_t prefilling_rows = 0;
    bool is_prefilling = false;
    for (int32_t g = 0; g < world->n_admitted; g++) {
        prefilling_rows += world->groups[g].n_prompt - world->groups[g].n_prefilled;
        is_prefilling |= world->groups[g].n_prefilled < world->groups[g].n_prompt;
    }
    /* A quarter of a step of prompt rows, counting those alone whose samples find slots. */
    int64_t rows = 0;
    int32_t slots = 0;
    bool fills_quarter = false;
    for (int32_t g = world->n_admitted; g < world->n_submitted; g++) {
        slots += world->groups[g].n;
        if (slots > idle)
            break;
        rows += world->groups[g].n_prompt;
        fills_quarter |= rows >= world->limits.max_rows / 4;
    }
    if (is_paused || !(force || is_prefilling || idle == n_slots || idle * 10 >= n_slots || fills_quarter))
        return 0;
    int32_t n = 0;
    for (int32_t g = world->n_admitted; g < world->n_submitted; g++, n++) {
        const struct expected_group *group = &world->groups[g];
        int32_t pages = pages_of(group, group->n);
        if (group->n > idle || pages > free_pages || prefilling_rows >= 2 * (int64_t)world->limits.max_rows)
            break;
        idle -= group->n;
        free_pages -= pages;
        prefilling_rows += group->n_prompt;
    }
    return n;
}

/* ---- playing a step ---- */

static void find_sample(struct world *world, const struct sequence *sequence, int32_t *group,
                        int32_t *sample) {
    for (int32_t g = 0; g < world->n_submitted; g++)
        for (int32_t s = 0; s < world->groups[g].n; s++)
            if (world->groups[g].samples[s].sequence == sequence) {
                *group = g;
                *sample = s;
                return;
            }
    fail_msg("seed %llu: the step holds a sequence that nobody submitted", (unsigned long long)world->seed);
}

static struct expected_sample *owner_of_slot(struct world *world, int32_t slot, int32_t *group,
                                             int32_t *sample) {
    for (int32_t g = 0; g < world->n_admitted; g++)
        for (int32_t s = 0; s < world->groups[g].n; s++)
            if (world->groups[g].samples[s].slot == slot) {
                *group = g;
                *sample = s;
                return &world->groups[g].samples[s];
            }
    fail_msg("seed %llu: slot %d is nobody's", (unsigned long long)world->seed, slot);
    return NULL;
}

/* A sequence whose last token was queued in an earlier step is out of its place when the next is formed. */
static void expect_releases(struct world *world) {
    for (int32_t g = 0; g < world->n_admitted; g++)
        for (int32_t s = 0; s < world->groups[g].n; s++)
            if (world->groups[g].samples[s].n_queued == world->groups[g].max_tokens)
                world->groups[g].samples[s].slot = -1;
}

static void play_starts(struct world *world, const struct step_plan *plan, int32_t n_expected) {
    int32_t entry = 0;
    for (int32_t i = 0; i < n_expected; i++) {
        struct expected_group *group = &world->groups[world->n_admitted]; /* first in, first out */
        for (int32_t s = 0; s < group->n; s++, entry++) {
            assert_true(entry < plan->n_starts);
            const struct slot_start *start = &plan->starts[entry];
            assert_in_range(start->slot, 0, world->limits.n_slots - 1);
            for (int32_t g = 0; g <= world->n_admitted; g++)
                for (int32_t k = 0; k < world->groups[g].n; k++)
                    assert_int_not_equal(world->groups[g].samples[k].slot, start->slot);
            assert_int_equal(group->samples[s].sequence->slot, start->slot);
            assert_int_equal(start->n_prompt, group->n_prompt);
            assert_ptr_equal(start->prompt, group->group->prompt);
            assert_int_equal(start->n_pages, pages_of(group, 1));
            assert_in_range(start->n_pages, 1, world->limits.max_pages_per_slot);
            group->samples[s].slot = start->slot;
            for (int32_t page = 0; page < start->n_pages; page++)
                assert_in_range(start->pages[page], 1, world->limits.n_pages - 1);
            memcpy(world->table[start->slot], start->pages, (size_t)start->n_pages * sizeof *start->pages);
            world->n_table[start->slot] = start->n_pages;
        }
        group->is_admitted = true;
        world->n_admitted++;
    }
    assert_int_equal(entry, plan->n_starts);
}

static uint64_t *cell(struct world *world, int32_t slot, int32_t position) {
    assert_true(position / PAGE_TOKENS < world->n_table[slot]);
    return &world->written[world->table[slot][position / PAGE_TOKENS]][position % PAGE_TOKENS];
}

/* Every position up to and including `position` holds what its sequence wrote there. */
static void check_reads(struct world *world, int32_t slot, int32_t position, int32_t group, int32_t sample) {
    for (int32_t p = 0; p <= position; p++) {
        uint64_t expected = kv_value(group, sample, p, p < world->groups[group].n_prompt);
        if (*cell(world, slot, p) != expected)
            fail_msg("seed %llu: group %d sample %d at position %d reads a wrong value at position %d",
                     (unsigned long long)world->seed, group, sample, position, p);
    }
}

static void play_copies(struct world *world, const struct step_plan *plan) {
    for (int32_t i = 0; i < plan->n_copies; i++) {
        const int32_t *pair = plan->copies[i];
        assert_in_range(pair[0], 1, world->limits.n_pages - 1);
        assert_in_range(pair[1], 1, world->limits.n_pages - 1);
        memcpy(world->written[pair[1]], world->written[pair[0]], sizeof world->written[0]);
        /* Whose page it is: the values say which group's prompt it ends. */
        uint64_t first = world->written[pair[0]][0];
        assert_true(first != 0);
        world->groups[first >> 20].n_copies++;
    }
}

static void play_decode_rows(struct world *world, const struct step_plan *plan) {
    const struct batch *batch = &plan->batch;
    int32_t n_due = 0;
    for (int32_t g = 0; g < world->n_admitted; g++)
        for (int32_t s = 0; s < world->groups[g].n; s++) {
            const struct expected_sample *sample = &world->groups[g].samples[s];
            n_due +=
                sample->slot >= 0 && sample->n_queued > 0 && sample->n_queued < world->groups[g].max_tokens;
        }
    assert_int_equal(plan->n_useful_decode, n_due); /* every running sequence, in every step */
    for (int32_t row = 0; row < plan->n_useful_decode; row++) {
        int32_t group, sample;
        struct expected_sample *owner = owner_of_slot(world, batch->slot[row], &group, &sample);
        int32_t position = world->groups[group].n_prompt + owner->n_queued - 1;
        assert_int_equal(batch->token[row], -1);
        assert_int_equal(batch->position[row], position);
        *cell(world, batch->slot[row], position) = kv_value(group, sample, position, false);
        check_reads(world, batch->slot[row], position, group, sample);
        assert_int_equal(batch->sample_row[row], row); /* and each samples once, entry beside row */
        assert_int_equal(batch->sample_slot[row], batch->slot[row]);
        assert_ptr_equal(plan->samples[row], owner->sequence);
        owner->n_queued++;
    }
}

static void play_padding(struct world *world, const struct step_plan *plan) {
    const struct batch *batch = &plan->batch;
    assert_int_equal(batch->n_decode, batch->n_segments > 0 ? plan->n_useful_decode
                                      : plan->n_useful_decode > 0
                                          ? round_up((struct backend_context *)world, plan->n_useful_decode)
                                          : 0);
    for (int32_t row = plan->n_useful_decode; row < batch->n_decode; row++) {
        assert_int_equal(batch->slot[row], world->limits.n_slots);
        assert_int_equal(batch->position[row], 0);
        assert_int_equal(batch->token[row], 0);
        assert_int_equal(batch->sample_row[row], row);
        assert_int_equal(batch->sample_slot[row], world->limits.n_slots);
        assert_null(plan->samples[row]);
    }
}

static void play_segments(struct world *world, const struct step_plan *plan) {
    const struct batch *batch = &plan->batch;
    int32_t row = batch->n_decode, entry = batch->n_decode, previous = -1;
    assert_in_range(batch->n_segments, 0, world->limits.n_slots);
    for (int32_t i = 0; i < batch->n_segments; i++) {
        const struct segment *segment = &batch->segments[i];
        int32_t g = -1, s = -1;
        owner_of_slot(world, segment->slot, &g, &s);
        struct expected_group *group = &world->groups[g];
        assert_int_equal(s, 0);
        assert_true(g > previous); /* the oldest prompt first */
        previous = g;
        assert_int_equal(segment->row, row);
        assert_true(segment->n_rows >= 1);
        assert_true(world->limits.chunk_rows == 0 || segment->n_rows <= world->limits.chunk_rows);
        assert_int_equal(segment->position, group->n_prefilled);
        for (int32_t k = 0; k < segment->n_rows; k++, row++) {
            assert_true(group->n_prefilled < group->n_prompt);
            assert_int_equal(batch->position[row], group->n_prefilled);
            assert_int_equal(batch->token[row], group->group->prompt[group->n_prefilled]);
            assert_int_equal(batch->slot[row], segment->slot);
            *cell(world, segment->slot, group->n_prefilled) = kv_value(g, 0, group->n_prefilled, true);
            group->n_prefilled++;
        }
        check_reads(world, segment->slot, group->n_prefilled - 1, g, 0);
        if (group->n_prefilled < group->n_prompt)
            continue;
        for (int32_t k = 0; k < group->n; k++, entry++) { /* the prompt's end: each sample's first token */
            assert_true(entry < batch->n_samples);
            assert_int_equal(batch->sample_row[entry], row - 1);
            assert_int_equal(batch->sample_slot[entry], group->samples[k].slot);
            assert_ptr_equal(plan->samples[entry], group->samples[k].sequence);
            assert_int_equal(group->samples[k].n_queued, 0);
            group->samples[k].n_queued++;
        }
    }
    assert_int_equal(row, batch->n_rows); /* segments cover all rows behind the decode rows */
    assert_int_equal(entry, batch->n_samples);
}

static void remember_step(struct world *world, const struct step_plan *plan) {
    struct step_memory *step = &world->steps[world->n_steps++];
    step->n = 0;
    for (int32_t i = 0; i < plan->batch.n_samples; i++)
        if (plan->samples[i]) {
            find_sample(world, plan->samples[i], &step->group[step->n], &step->sample[step->n]);
            step->n++;
        }
}

/* Results of the oldest step: counts tokens, and ends what ends. */
static void retire_step(struct world *world) {
    struct step_memory *step = &world->steps[0];
    for (int32_t i = 0; i < step->n; i++) {
        struct expected_group *group = &world->groups[step->group[i]];
        struct expected_sample *sample = &group->samples[step->sample[i]];
        sample->sequence->group->n_in_flight--;
        if (sample->is_over)
            continue;
        sample->n_back++;
        if (sample->n_back < sample->length)
            continue;
        scheduler_end_sequence(&world->scheduler, sample->sequence);
        if (draw(world, 4) == 0)
            scheduler_end_sequence(&world->scheduler, sample->sequence); /* twice does no harm */
        sample->is_over = true;
        sample->slot = -1;
        assert_true(scheduler_check(&world->scheduler));
    }
    memmove(world->steps, world->steps + 1, (size_t)--world->n_steps * sizeof *world->steps);
}

static int32_t play_step(struct world *world, bool is_paused, bool force) {
    struct step_request request = {.is_paused = is_paused,
                                   .force = force,
                                   .now_s = 1.5,
                                   .decode_rows = round_up,
                                   .context = (struct backend_context *)world};
    expect_releases(world);
    int32_t n_expected = foretell_admissions(world, is_paused, force);
    struct step_plan plan;
    scheduler_step(&world->scheduler, &request, &plan);
    assert_true(scheduler_check(&world->scheduler));
    assert_in_range(plan.batch.n_rows, 0, world->limits.max_rows);
    assert_in_range(plan.batch.n_samples, 0, world->limits.max_samples);
    int32_t n_before = world->n_admitted;
    play_starts(world, &plan, n_expected);
    for (int32_t g = n_before; g < world->n_admitted; g++)
        assert_true(world->groups[g].group->record->admitted_s == 1.5);
    play_copies(world, &plan);
    play_decode_rows(world, &plan);
    play_padding(world, &plan);
    play_segments(world, &plan);
    assert_int_equal(plan.n_running, slots_held(world));
    assert_int_equal(world->scheduler.n_waiting, world->n_submitted - world->n_admitted);
    if (plan.batch.n_rows > 0)
        remember_step(world, &plan);
    return plan.batch.n_rows;
}

/* ---- random runs ---- */

static void make_world(struct world *world, uint64_t seed) {
    memset(world, 0, sizeof *world);
    world->seed = seed;
    struct scheduler_limits *limits = &world->limits;
    limits->n_slots = 1 + draw(world, MAX_SLOTS);
    limits->max_pages_per_slot = 2 + draw(world, 6);
    int32_t room = limits->max_pages_per_slot * PAGE_TOKENS;
    /* From just enough for the widest group to plenty. */
    int32_t widest = limits->max_pages_per_slot * (limits->n_slots < MAX_N ? limits->n_slots : MAX_N);
    limits->n_pages = 1 + widest + draw(world, MAX_PAGES - widest - 1);
    limits->max_rows = limits->n_slots + 1 + draw(world, draw(world, 2) ? 8 : 400);
    limits->max_samples = limits->n_slots + draw(world, 3);
    limits->chunk_rows = draw(world, 2) ? 0 : 1 + draw(world, 40);
    world->padding = 1 + draw(world, 8);
    world->lag = draw(world, MAX_LAG + 1);
    assert_int_equal(scheduler_init(&world->scheduler, limits, seed), STATUS_OK);
    world->n_groups = 1 + draw(world, MAX_GROUPS);
    for (int32_t g = 0; g < world->n_groups; g++) {
        struct expected_group *group = &world->groups[g];
        group->n = draw(world, 3) ? 1 : 1 + draw(world, limits->n_slots < MAX_N ? limits->n_slots : MAX_N);
        group->n_prompt = draw(world, 3) ? 1 + draw(world, room - 1)
                                         : (1 + draw(world, limits->max_pages_per_slot - 1)) * PAGE_TOKENS;
        int32_t left = room - group->n_prompt;
        group->max_tokens = draw(world, 5) == 0 ? 1 : 1 + draw(world, left < 40 ? left : 40);
        for (int32_t s = 0; s < group->n; s++) {
            struct expected_sample *sample = &group->samples[s];
            sample->slot = -1;
            sample->length = draw(world, 3) == 0 ? 1 + draw(world, group->max_tokens) : group->max_tokens;
        }
    }
}

static void submit_next(struct world *world) {
    struct expected_group *group = &world->groups[world->n_submitted];
    group->group = make_group(world->n_submitted, group->n_prompt, group->max_tokens, group->n);
    for (int32_t s = 0; s < group->n; s++)
        group->samples[s].sequence = &group->group->sequences[s];
    scheduler_submit(&world->scheduler, group->group);
    world->n_submitted++;
}

static void check_end(struct world *world) {
    assert_int_equal(world->scheduler.pool.n_free, world->limits.n_pages - 1);
    assert_int_equal(world->scheduler.n_free_slots, world->limits.n_slots);
    assert_int_equal(world->n_admitted, world->n_groups);
    for (int32_t g = 0; g < world->n_groups; g++) {
        struct expected_group *group = &world->groups[g];
        assert_int_equal(group->n_prefilled, group->n_prompt);
        assert_int_equal(group->n_copies, group->n_prompt % PAGE_TOKENS ? group->n - 1 : 0);
        assert_int_equal(group->group->n_over, group->n);
        assert_int_equal(group->group->n_in_flight, 0);
        for (int32_t s = 0; s < group->n; s++) {
            assert_int_equal(group->samples[s].n_back, group->samples[s].length);
            assert_true(group->samples[s].n_queued <= group->max_tokens);
            /* At most as many rows too many as steps were in flight when the end came back. */
            assert_true(group->samples[s].n_queued <= group->samples[s].length + world->lag);
        }
        drop_group(group->group);
    }
}

static void test_random_runs(void **state) {
    (void)state;
    struct world *world = malloc(sizeof *world);
    assert_non_null(world);
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        make_world(world, seed);
        int32_t n_idle = 0;
        for (;;) {
            int32_t n_new = draw(world, 4) == 0 ? draw(world, 12) : 0;
            while (world->n_submitted < world->n_groups && n_new-- > 0)
                submit_next(world);
            bool is_all = world->n_submitted == world->n_groups;
            int32_t n_rows = play_step(world, draw(world, 10) == 0, is_all || draw(world, 8) == 0);
            if (world->n_steps > world->lag || (n_rows == 0 && world->n_steps > 0))
                retire_step(world);
            n_idle = n_rows || world->n_steps ? 0 : n_idle + 1;
            if (is_all && world->n_admitted == world->n_groups && n_idle > 0)
                break;
            if (n_idle > 200)
                fail_msg("seed %llu: nothing moves with %d of %d groups admitted", (unsigned long long)seed,
                         world->n_admitted, world->n_groups);
        }
        check_end(world);
        scheduler_free(&world->scheduler);
    }
    free(world);
}

/* ---- rules, one by one ---- */

static int32_t as_many(struct backend_context *context, int32_t n) {
    (void)context;
    return n;
}

static struct step_plan step(struct scheduler *scheduler, bool is_paused, bool force) {
    struct step_request request = {.is_paused = is_paused, .force = force, .decode_rows = as_many};
    struct step_plan plan;
    scheduler_step(scheduler, &request, &plan);
    assert_true(scheduler_check(scheduler));
    return plan;
}

static const struct scheduler_limits roomy = {
    .n_slots = 20, .n_pages = 200, .max_pages_per_slot = 8, .max_rows = 120, .max_samples = 20};

/* The last token's row needs no successor, so its place serves the next prompt at once. */
static void test_place_of_a_last_token_is_free_in_the_next_step(void **state) {
    (void)state;
    struct scheduler scheduler;
    struct scheduler_limits limits = {
        .n_slots = 1, .n_pages = 2, .max_pages_per_slot = 1, .max_rows = 32, .max_samples = 1};
    assert_int_equal(scheduler_init(&scheduler, &limits, 1), STATUS_OK);
    struct group *first = make_group(0, 5, 2, 1), *second = make_group(1, 6, 1, 1);
    scheduler_submit(&scheduler, first);
    scheduler_submit(&scheduler, second);
    struct step_plan plan = step(&scheduler, false, false);
    assert_int_equal(plan.batch.n_rows, 5);
    assert_int_equal(plan.admission, ADMISSION_NO_SLOT); /* the second */
    plan = step(&scheduler, false, false);               /* the first one's last token is sampled here */
    assert_int_equal(plan.n_useful_decode, 1);
    assert_int_equal(plan.n_starts, 0);
    plan = step(&scheduler, false, false); /* nothing came back yet */
    assert_int_equal(plan.n_starts, 1);
    assert_int_equal(plan.batch.n_rows, 6);
    assert_int_equal(plan.batch.segments[0].slot, 0);
    assert_ptr_equal(plan.samples[0], &second->sequences[0]);
    plan = step(&scheduler, false, false);
    assert_int_equal(plan.batch.n_rows, 0);
    assert_int_equal(scheduler.pool.n_free, 1);
    drop_group(first);
    drop_group(second);
    scheduler_free(&scheduler);
}

/* 19 of 20 slots run: short prompts wait for company, unless forced; long ones, or 10 % idle, do not. */
static void test_admission_waits_for_company(void **state) {
    (void)state;
    enum { N = 24 };
    for (int variant = 0; variant < 4; variant++) {
        struct scheduler scheduler;
        struct group *groups[N];
        int32_t n = 0;
        assert_int_equal(scheduler_init(&scheduler, &roomy, 1), STATUS_OK);
        for (; n < 19; n++)
            scheduler_submit(&scheduler, groups[n] = make_group(n, 4, 50, 1));
        struct step_plan plan = step(&scheduler, false, false);
        assert_int_equal(plan.n_starts, 19);
        int32_t n_prompt = variant == 1 ? roomy.max_rows / 4 : roomy.max_rows / 4 - 1;
        scheduler_submit(&scheduler, groups[n] = make_group(n, n_prompt, 50, 1));
        n++;
        if (variant == 3)
            scheduler_end_sequence(&scheduler, &groups[0]->sequences[0]);
        plan = step(&scheduler, false, variant == 2);
        assert_int_equal(plan.n_starts, variant == 0 ? 0 : 1);
        assert_int_equal(plan.admission, variant == 0 ? ADMISSION_HELD_BACK : ADMISSION_DONE);
        assert_int_equal(plan.n_useful_decode, variant == 3 ? 18 : 19);
        /* The one that ended is in nobody's list any more; the others are freed with the scheduler. */
        if (variant == 3)
            drop_group(groups[0]);
        scheduler_free(&scheduler);
    }
}

static void test_paused_admits_nobody(void **state) {
    (void)state;
    struct scheduler scheduler;
    assert_int_equal(scheduler_init(&scheduler, &roomy, 1), STATUS_OK);
    scheduler_submit(&scheduler, make_group(0, 4, 4, 1));
    assert_int_equal(step(&scheduler, true, true).batch.n_rows, 0);
    struct step_plan plan = step(&scheduler, false, false);
    assert_int_equal(plan.batch.n_rows, 4);
    assert_int_equal(step(&scheduler, true, true).n_useful_decode, 1); /* what runs goes on */
    scheduler_free(&scheduler);
}

/* A big prompt at the head is not overtaken by a small one that would fit. */
static void test_nobody_overtakes(void **state) {
    (void)state;
    struct scheduler scheduler;
    struct scheduler_limits limits = {
        .n_slots = 4, .n_pages = 8, .max_pages_per_slot = 7, .max_rows = 128, .max_samples = 4};
    assert_int_equal(scheduler_init(&scheduler, &limits, 1), STATUS_OK);
    scheduler_submit(&scheduler, make_group(0, 64, 1, 1));
    scheduler_submit(&scheduler, make_group(1, 6 * PAGE_TOKENS, 1, 1));
    scheduler_submit(&scheduler, make_group(2, 1, 1, 1));
    struct step_plan plan = step(&scheduler, false, true);
    assert_int_equal(plan.n_starts, 1);
    assert_int_equal(plan.admission, ADMISSION_NO_PAGES);
    assert_int_equal(scheduler.n_waiting, 2);
    struct group *first = plan.samples[0]->group;
    plan = step(&scheduler, false, true); /* the first is out: the second takes six of seven pages */
    assert_int_equal(plan.n_starts, 2);
    drop_group(first);
    scheduler_free(&scheduler);
}

/* A record in error comes out when it is at the head, and only then. */
static void test_failed_records_keep_their_turn(void **state) {
    (void)state;
    struct scheduler scheduler;
    assert_int_equal(scheduler_init(&scheduler, &roomy, 1), STATUS_OK);
    struct record *record = record_of_random_ids(1, 3, 1000);
    record->request.error_code = "invalid_value";
    struct group *failed;
    assert_int_equal(group_new(record, 1, 1, &failed), STATUS_OK);
    scheduler_submit(&scheduler, make_group(0, 4, 4, 1));
    scheduler_submit(&scheduler, failed);
    assert_null(scheduler_take_idle(&scheduler));
    struct step_plan plan = step(&scheduler, false, true);
    assert_int_equal(plan.n_starts, 1); /* the failed one takes no slot */
    assert_int_equal(scheduler.n_waiting, 1);
    assert_ptr_equal(scheduler_take_idle(&scheduler), failed);
    assert_null(scheduler_take_idle(&scheduler));
    assert_int_equal(scheduler.n_waiting, 0);
    drop_group(failed);
    scheduler_free(&scheduler);
}

static void test_pages_needed(void **state) {
    (void)state;
    assert_int_equal(scheduler_pages_needed(1, 1, 1), 1);
    assert_int_equal(scheduler_pages_needed(32, 1, 1), 1); /* the last token is never fed back */
    assert_int_equal(scheduler_pages_needed(32, 2, 1), 2);
    assert_int_equal(scheduler_pages_needed(33, 31, 3), 1 + 3);
    assert_int_equal(scheduler_pages_needed(64, 1, 5), 2);
    assert_int_equal(scheduler_pages_needed(64, 2, 5), 2 + 5);
    assert_true(scheduler_pages_needed(1 << 20, 1 << 30, 128) > INT32_MAX); /* no overflow */
}

static void test_limits_without_room_are_refused(void **state) {
    (void)state;
    struct scheduler scheduler;
    struct scheduler_limits limits = roomy;
    limits.max_rows = limits.n_slots;
    assert_int_equal(scheduler_init(&scheduler, &limits, 1), STATUS_INTERNAL);
}

/* The checker itself sees what it is there for. */
static void test_check_sees_damage(void **state) {
    (void)state;
    struct scheduler scheduler;
    assert_int_equal(scheduler_init(&scheduler, &roomy, 1), STATUS_OK);
    scheduler_submit(&scheduler, make_group(0, 40, 4, 2));
    struct step_plan plan = step(&scheduler, false, true);
    struct sequence *sequence = plan.samples[1];
    sequence->n_pages--; /* a page that nobody will give back */
    assert_false(scheduler_check(&scheduler));
    sequence->n_pages++;
    scheduler.free_slots[scheduler.n_free_slots++] = sequence->slot; /* a slot used twice */
    assert_false(scheduler_check(&scheduler));
    scheduler.n_free_slots--;
    sequence->running_idx = 5;
    assert_false(scheduler_check(&scheduler));
    sequence->running_idx = 1;
    assert_true(scheduler_check(&scheduler));
    scheduler_free(&scheduler);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_runs),
        cmocka_unit_test(test_place_of_a_last_token_is_free_in_the_next_step),
        cmocka_unit_test(test_admission_waits_for_company),
        cmocka_unit_test(test_paused_admits_nobody),
        cmocka_unit_test(test_nobody_overtakes),
        cmocka_unit_test(test_failed_records_keep_their_turn),
        cmocka_unit_test(test_pages_needed),
        cmocka_unit_test(test_limits_without_room_are_refused),
        cmocka_unit_test(test_check_sees_damage),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
