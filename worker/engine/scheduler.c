#include "worker/engine/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/arith.h"
#include "worker/job/identity.h"

enum { GROW_PAGES = 4 }; /* that a sequence beyond its reservation takes at a time where there are enough */

enum status scheduler_init(struct scheduler *scheduler, const struct scheduler_limits *limits,
                           uint64_t job_seed) {
    *scheduler = (struct scheduler){.limits = *limits, .job_seed = job_seed};
    RETURN_IF(limits->max_rows <= limits->n_slots, STATUS_INTERNAL,
              "max_rows %d leaves no room beside %d slots", limits->max_rows, limits->n_slots);
    size_t n_slots = (size_t)limits->n_slots, max_rows = (size_t)limits->max_rows;
    size_t max_samples = (size_t)limits->max_samples;
    scheduler->free_slots = calloc(n_slots, sizeof *scheduler->free_slots);
    scheduler->running = calloc(n_slots, sizeof *scheduler->running);
    scheduler->token = calloc(max_rows, sizeof *scheduler->token);
    scheduler->position = calloc(max_rows, sizeof *scheduler->position);
    scheduler->slot = calloc(max_rows, sizeof *scheduler->slot);
    scheduler->segments = calloc(n_slots, sizeof *scheduler->segments);
    scheduler->sample_row = calloc(max_samples, sizeof *scheduler->sample_row);
    scheduler->sample_slot = calloc(max_samples, sizeof *scheduler->sample_slot);
    scheduler->sample_target = calloc(max_samples, sizeof *scheduler->sample_target);
    scheduler->samples = calloc(max_samples, sizeof *scheduler->samples);
    scheduler->starts = calloc(n_slots, sizeof *scheduler->starts);
    scheduler->growing = calloc(n_slots, sizeof *scheduler->growing);
    scheduler->extensions = calloc(n_slots, sizeof *scheduler->extensions);
    scheduler->copies = calloc(n_slots, sizeof *scheduler->copies);
    scheduler->next_copies = calloc(n_slots, sizeof *scheduler->next_copies);
    if (!scheduler->free_slots || !scheduler->running || !scheduler->token || !scheduler->position ||
        !scheduler->slot || !scheduler->segments || !scheduler->sample_row || !scheduler->sample_slot ||
        !scheduler->sample_target || !scheduler->samples || !scheduler->starts || !scheduler->growing ||
        !scheduler->extensions || !scheduler->copies || !scheduler->next_copies) {
        scheduler_free(scheduler);
        return status_fail(STATUS_INTERNAL, "out of host memory for the scheduler (%d slots)",
                           limits->n_slots);
    }
    enum status result = page_pool_init(&scheduler->pool, limits->n_pages);
    if (result != STATUS_OK) {
        scheduler_free(scheduler);
        return result;
    }
    for (int32_t slot = limits->n_slots - 1; slot >= 0; slot--)
        scheduler->free_slots[scheduler->n_free_slots++] = slot;
    return STATUS_OK;
}

static void list_push(struct group **head, struct group **tail, struct group *group) {
    group->next = NULL;
    if (*tail)
        (*tail)->next = group;
    else
        *head = group;
    *tail = group;
}

static struct group *list_pop(struct group **head, struct group **tail) {
    struct group *group = *head;
    *head = group->next;
    if (!*head)
        *tail = NULL;
    group->next = NULL;
    return group;
}

static void list_remove(struct group **head, struct group **tail, struct group *group) {
    struct group *previous = NULL;
    for (struct group *at = *head; at != group; at = at->next)
        previous = at;
    if (previous)
        previous->next = group->next;
    else
        *head = group->next;
    if (*tail == group)
        *tail = previous;
    group->next = NULL;
}

/* ---- the groups whose prompts are on their way ---- */

static void begin_prefill(struct scheduler *scheduler, struct group *group) {
    list_push(&scheduler->prefilling_head, &scheduler->prefilling_tail, group);
    group->is_prefilling = true;
}

static void end_prefill(struct scheduler *scheduler, struct group *group) {
    if (group->is_prefilling)
        list_remove(&scheduler->prefilling_head, &scheduler->prefilling_tail, group);
    group->is_prefilling = false;
}

static void free_list(struct group *group) {
    while (group) {
        struct group *next = group->next;
        record_free(group->record);
        free(group->record);
        group_free(group);
        group = next;
    }
}

void scheduler_abandon(struct scheduler *scheduler, struct group *group) {
    /* A group has several samples, so it comes several times; it is freed once. */
    if (group->n_in_flight >= 0 && !group->is_prefilling)
        list_push(&scheduler->prefilling_head, &scheduler->prefilling_tail, group);
    group->n_in_flight = -1;
}

void scheduler_free(struct scheduler *scheduler) {
    for (int32_t i = 0; i < scheduler->n_running; i++)
        if (scheduler->running[i])
            scheduler_abandon(scheduler, scheduler->running[i]->group);
    free_list(scheduler->prefilling_head);
    free_list(scheduler->waiting_head);
    page_pool_release_all(&scheduler->pool);
    free(scheduler->free_slots);
    free(scheduler->running);
    free(scheduler->token);
    free(scheduler->position);
    free(scheduler->slot);
    free(scheduler->segments);
    free(scheduler->sample_row);
    free(scheduler->sample_slot);
    free(scheduler->sample_target);
    free(scheduler->samples);
    free(scheduler->starts);
    free(scheduler->growing);
    free(scheduler->extensions);
    free(scheduler->copies);
    free(scheduler->next_copies);
    *scheduler = (struct scheduler){0};
}

/* The last token is never fed back, so its position needs no KV. */
static int32_t positions_needed(int32_t n_prompt, int32_t max_tokens) {
    return n_prompt + max_tokens - 1;
}

int64_t scheduler_pages_needed(int32_t n_prompt, int32_t max_tokens, int32_t n_samples) {
    int64_t each = ceil_divide(positions_needed(n_prompt, max_tokens), PAGE_TOKENS);
    int64_t shared = n_samples > 1 ? n_prompt / PAGE_TOKENS : 0;
    return shared + (each - shared) * n_samples;
}

int32_t scheduler_samples_at_once(const struct scheduler_limits *limits, int32_t n_prompt, int32_t max_tokens,
                                  int32_t n_samples) {
    int32_t n = n_samples < limits->n_slots ? n_samples : limits->n_slots;
    while (n > 0 && scheduler_pages_needed(n_prompt, max_tokens, n) > limits->n_pages - 1)
        n--;
    return n;
}

void scheduler_submit(struct scheduler *scheduler, struct group *group) {
    group->order = scheduler->n_submitted++;
    list_push(&scheduler->waiting_head, &scheduler->waiting_tail, group);
    scheduler->n_waiting++;
}

void scheduler_resubmit(struct scheduler *scheduler, struct group *group) {
    struct group **link = &scheduler->waiting_head;
    while (*link && (*link)->order < group->order)
        link = &(*link)->next;
    group->next = *link;
    *link = group;
    if (!group->next)
        scheduler->waiting_tail = group;
    group->is_parked = false;
    scheduler->n_waiting++;
}

struct group *scheduler_take_idle(struct scheduler *scheduler) {
    struct group *head = scheduler->waiting_head;
    if (!head || head->n_sequences > 0)
        return NULL;
    scheduler->n_waiting--;
    return list_pop(&scheduler->waiting_head, &scheduler->waiting_tail);
}

/* How many tokens a sequence is expected to have, by those that ended: all tokens so far over the ends so
 * far, which counts sequences that still run for what they have (the maximum-likelihood mean of an
 * exponential distribution under censoring). One that had more already is expected to go on for a page. */
static int32_t expected_tokens(const struct scheduler *scheduler, const struct sequence *sequence) {
    if (!scheduler->limits.reserves_expected || scheduler->n_ended == 0)
        return sequence->max_tokens;
    int64_t expected = ceil_divide(scheduler->n_tokens, scheduler->n_ended);
    int64_t known = sequence->n_queued_before > 0 ? (int64_t)sequence->n_queued_before + PAGE_TOKENS : 0;
    if (expected < known)
        expected = known;
    return expected < sequence->max_tokens ? (int32_t)expected : sequence->max_tokens;
}

/* Free pages that admission leaves to sequences that outgrew their reservation, one for each. */
static int32_t pages_kept_back(const struct scheduler *scheduler) {
    return scheduler->n_grown;
}

/* The tokens that each sequence of the group gets pages for; -1 when they do not fit now. */
static int32_t tokens_to_reserve(const struct scheduler *scheduler, const struct group *group,
                                 int32_t n_live) {
    int32_t expected = group->max_tokens > 0;
    for (int32_t i = 0; i < group->n_sequences; i++) {
        const struct sequence *sequence = &group->sequences[i];
        int32_t tokens = sequence->is_over ? 1 : expected_tokens(scheduler, sequence);
        expected = tokens > expected ? tokens : expected;
    }
    int64_t n_free = scheduler->pool.n_free;
    int64_t whole = scheduler_pages_needed(group->n_prompt, group->max_tokens, n_live);
    /* Where memory is no concern, growing would only cost time. */
    if (n_free - whole >= scheduler->pool.n_pages / 2)
        return group->max_tokens;
    int64_t needed = scheduler_pages_needed(group->n_prompt, expected, n_live);
    return needed + pages_kept_back(scheduler) <= n_free ? expected : -1;
}

static struct slot_start slot_start_of(const struct scheduler *scheduler, const struct sequence *sequence) {
    const struct group *group = sequence->group;
    const struct sampling *sampling = &group->record->request.sampling;
    return (struct slot_start){
        .slot = sequence->slot,
        .pages = sequence->pages,
        .n_pages = sequence->n_pages,
        .prompt = group->prompt,
        .n_prompt = group->n_prompt,
        .sampling = {
            .temperature = sampling->temperature,
            .top_p = sampling->top_p,
            .min_p = sampling->min_p,
            .top_k = sampling->top_k,
            .repetition_penalty = sampling->repetition_penalty,
            .presence_penalty = sampling->presence_penalty,
            .frequency_penalty = sampling->frequency_penalty,
            .n_logprobs = sampling->logprobs,
            .key = identity_sample_key(scheduler->job_seed, &group->record->request, sequence->sample)}};
}

/* Pages and slots for every sample of the group that is not over, or nothing. */
static enum admission admit(struct scheduler *scheduler, struct group *group, struct slot_start *starts,
                            int32_t *n_starts) {
    int32_t n_live = group->n_sequences - group->n_over;
    if (n_live > scheduler->n_free_slots)
        return ADMISSION_NO_SLOT;
    int32_t tokens = tokens_to_reserve(scheduler, group, n_live);
    if (tokens < 0)
        return ADMISSION_NO_PAGES;

    int32_t each = (int32_t)ceil_divide(positions_needed(group->n_prompt, tokens), PAGE_TOKENS);
    const struct sequence *leader = group_leader(group);
    group->n_shared_pages = n_live > 1 ? group->n_prompt / PAGE_TOKENS : 0;
    group->n_prefilled = 0;
    for (int32_t i = 0; i < group->n_sequences; i++) {
        struct sequence *sequence = &group->sequences[i];
        if (sequence->is_over)
            continue;
        int32_t shared = sequence == leader ? 0 : group->n_shared_pages;
        if (shared > 0) {
            memcpy(sequence->pages, leader->pages, (size_t)shared * sizeof *sequence->pages);
            page_pool_share(&scheduler->pool, sequence->pages, shared);
        }
        page_pool_take(&scheduler->pool, each - shared, sequence->pages + shared);
        sequence->n_pages = sequence->n_reserved_pages = each;
        sequence->slot = scheduler->free_slots[--scheduler->n_free_slots];
        sequence->n_queued = sequence->n_back = 0;
        starts[(*n_starts)++] = slot_start_of(scheduler, sequence);
    }
    return ADMISSION_DONE;
}

/* Whether it is time to let prompts in. */
static bool is_admission_due(const struct scheduler *scheduler) {
    int32_t idle = scheduler->n_free_slots, n_slots = scheduler->limits.n_slots;
    if (idle == n_slots || scheduler->prefilling_head || (int64_t)idle * 10 >= n_slots)
        return true;
    int64_t rows = 0, slots = 0;
    for (const struct group *group = scheduler->waiting_head; group; group = group->next) {
        slots += group->n_sequences;
        if (slots > idle)
            break;
        rows += group->n_prefill;
        if (rows >= scheduler->limits.max_rows / 4)
            return true;
    }
    return false;
}

/* Whether the head of the waiting queue may come in at all. A record that began is let in during a pause too:
 * what the pause waits for may be waiting for its further samples, or to start again. */
static bool may_enter(const struct scheduler *scheduler, const struct step_request *request) {
    const struct group *head = scheduler->waiting_head;
    return head && head->n_sequences > 0 &&
           (!request->is_paused || head->first_sample > 0 || head->n_restarts > 0);
}

static int32_t admit_waiting(struct scheduler *scheduler, const struct step_request *request,
                             struct step_plan *plan) {
    int32_t n_starts = 0;
    if (request->is_paused && !may_enter(scheduler, request))
        return 0;
    plan->admission = scheduler->waiting_head ? ADMISSION_HELD_BACK : ADMISSION_NONE_WAITING;
    if (plan->n_restarts > 0) { /* what was given back is for those that grow */
        plan->admission = ADMISSION_NO_PAGES;
        return 0;
    }
    if (!request->force && scheduler->waiting_head && !is_admission_due(scheduler))
        return 0;
    int64_t rows = 0; /* no more prompts at a time than about two steps can hold */
    for (const struct group *group = scheduler->prefilling_head; group; group = group->next)
        rows += group->n_prefill - group->n_prefilled;
    while (may_enter(scheduler, request) && rows < 2 * (int64_t)scheduler->limits.max_rows) {
        struct group *group = scheduler->waiting_head;
        plan->admission = admit(scheduler, group, scheduler->starts, &n_starts);
        if (plan->admission != ADMISSION_DONE)
            break;
        if (group->first_sample == 0 && group->n_restarts == 0)
            group->record->admitted_s = request->now_s;
        rows += group->n_prefill;
        list_pop(&scheduler->waiting_head, &scheduler->waiting_tail);
        scheduler->n_waiting--;
        begin_prefill(scheduler, group);
    }
    return n_starts;
}

/* Slot and pages back; later steps are queued behind the ones that still use them. */
static void release_place(struct scheduler *scheduler, struct sequence *sequence) {
    if (sequence->slot < 0)
        return;
    scheduler->free_slots[scheduler->n_free_slots++] = sequence->slot;
    sequence->slot = -1;
    page_pool_give_back(&scheduler->pool, sequence->pages, sequence->n_pages);
}

void scheduler_end_sequence(struct scheduler *scheduler, struct sequence *sequence) {
    if (!sequence->is_over) {
        scheduler->n_ended += !group_is_scored(sequence->group);
        sequence->is_over = true;
        sequence->group->n_over++;
    }
    if (sequence->running_idx >= 0)
        scheduler->running[sequence->running_idx] = NULL;
    sequence->running_idx = -1;
    release_place(scheduler, sequence);
    /* A prompt that is scored in chunks may fail before its last one. */
    if (sequence->group->n_over == sequence->group->n_sequences)
        end_prefill(scheduler, sequence->group);
}

/* ---- growing, and starting again ---- */

/* The group gives back what it holds. What is in flight comes back first (is_parked), then it queues again.
 */
static void restart_group(struct scheduler *scheduler, struct group *group) {
    for (int32_t i = 0; i < group->n_sequences; i++) {
        struct sequence *sequence = &group->sequences[i];
        if (sequence->running_idx >= 0)
            scheduler->running[sequence->running_idx] = NULL;
        sequence->running_idx = -1;
        release_place(scheduler, sequence);
    }
    end_prefill(scheduler, group);
    group->n_restarts++;
    group->is_parked = true;
    if (group->n_in_flight == 0)
        scheduler_resubmit(scheduler, group);
}

static struct group *youngest_group(const struct scheduler *scheduler) {
    struct group *youngest = NULL;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        const struct sequence *sequence = scheduler->running[i];
        if (sequence && (!youngest || sequence->group->order > youngest->order))
            youngest = sequence->group;
    }
    for (struct group *group = scheduler->prefilling_head; group; group = group->next)
        if (!youngest || group->order > youngest->order)
            youngest = group;
    return youngest;
}

/* Pages for the position that the sequence's next row writes. The youngest groups start again until there is
 * one, the sequence's own in the end. */
static void grow(struct scheduler *scheduler, struct sequence *sequence, struct step_plan *plan) {
    int32_t most =
        (int32_t)ceil_divide(positions_needed(sequence->group->n_prompt, sequence->max_tokens), PAGE_TOKENS);
    int32_t wanted = most - sequence->n_pages < GROW_PAGES ? most - sequence->n_pages : GROW_PAGES;
    int32_t first = sequence->n_pages;
    if (scheduler->pool.n_free < wanted + pages_kept_back(scheduler))
        wanted = 1;
    while (!page_pool_take(&scheduler->pool, wanted, sequence->pages + first)) {
        restart_group(scheduler, youngest_group(scheduler));
        plan->n_restarts++;
        if (sequence->slot < 0)
            return;
    }
    sequence->n_pages += wanted;
    scheduler->growing[plan->n_extensions] = sequence;
    scheduler->extensions[plan->n_extensions++] = (struct slot_extension){
        .slot = sequence->slot, .first_page = first, .pages = sequence->pages + first, .n_pages = wanted};
}

static void grow_all(struct scheduler *scheduler, struct step_plan *plan) {
    scheduler->n_grown = 0;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        struct sequence *sequence = scheduler->running[i];
        if (!sequence || sequence->n_queued == sequence->max_tokens)
            continue;
        scheduler->n_grown += sequence->n_pages > sequence->n_reserved_pages;
        if (positions_needed(sequence->group->n_prompt, sequence->n_queued + 1) >
            sequence->n_pages * PAGE_TOKENS)
            grow(scheduler, sequence, plan);
    }
    /* Some of those that grew may have been the youngest later. */
    int32_t kept = 0;
    for (int32_t i = 0; i < plan->n_extensions; i++)
        if (scheduler->growing[i]->slot >= 0)
            scheduler->extensions[kept++] = scheduler->extensions[i];
    plan->n_extensions = kept;
}

/* ---- forming a step ---- */

static void add_entry(struct scheduler *scheduler, struct batch *batch, int32_t row,
                      struct sequence *sequence, int32_t target) {
    int32_t entry = batch->n_samples++;
    scheduler->sample_row[entry] = row;
    scheduler->sample_slot[entry] = sequence->slot;
    scheduler->sample_target[entry] = target;
    scheduler->samples[entry] = sequence;
    sequence->group->n_in_flight++;
}

static void add_sample(struct scheduler *scheduler, struct batch *batch, int32_t row,
                       struct sequence *sequence) {
    add_entry(scheduler, batch, row, sequence, -1);
    if (++sequence->n_queued > sequence->n_queued_before) {
        sequence->n_queued_before = sequence->n_queued;
        scheduler->n_tokens++;
    }
    batch->want_logprobs |= sequence->group->record->request.sampling.logprobs >= 0;
}

static void add_decode_rows(struct scheduler *scheduler, struct step_plan *plan) {
    struct batch *batch = &plan->batch;
    int32_t kept = 0;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        struct sequence *sequence = scheduler->running[i];
        if (!sequence)
            continue; /* it ended since the last step */
        sequence->running_idx = -1;
        if (sequence->n_queued == sequence->max_tokens) {
            release_place(scheduler, sequence); /* its last token is queued: nothing more is fed to it */
            continue;
        }
        sequence->running_idx = kept;
        scheduler->running[kept++] = sequence;
        int32_t row = batch->n_rows++;
        scheduler->token[row] = -1;
        scheduler->position[row] = sequence->group->n_prompt + sequence->n_queued - 1;
        plan->decode_positions += scheduler->position[row] + 1;
        scheduler->slot[row] = sequence->slot;
        add_sample(scheduler, batch, row, sequence);
    }
    scheduler->n_running = kept;
    batch->n_decode = batch->n_rows;
}

/* The prompt is wholly queued: every sample draws its first token from the last row, and from the next step
 * on each decodes in its own place. The page that the prompt ends in is copied for all but the first. */
static void begin_decode(struct scheduler *scheduler, struct batch *batch, struct group *group) {
    int32_t last_row = batch->n_rows - 1;
    const struct sequence *leader = group_leader(group);
    for (int32_t i = 0; i < group->n_sequences; i++) {
        struct sequence *sequence = &group->sequences[i];
        if (sequence->is_over)
            continue;
        add_sample(scheduler, batch, last_row, sequence);
        sequence->running_idx = scheduler->n_running;
        scheduler->running[scheduler->n_running++] = sequence;
        if (sequence != leader && group->n_prompt % PAGE_TOKENS != 0) {
            int32_t *pair = scheduler->next_copies[scheduler->n_next_copies++];
            pair[0] = leader->pages[group->n_shared_pages];
            pair[1] = sequence->pages[group->n_shared_pages];
        }
    }
}

/* The next prompt rows of the group that this step has room for, entries of the samples included. */
static int32_t chunk_rows(const struct scheduler *scheduler, const struct batch *batch,
                          const struct group *group) {
    const struct scheduler_limits *limits = &scheduler->limits;
    int32_t left = group->n_prefill - group->n_prefilled, n = left;
    int32_t entries = limits->max_samples - batch->n_samples;
    if (n > limits->max_rows - batch->n_rows)
        n = limits->max_rows - batch->n_rows;
    if (limits->chunk_rows > 0 && n > limits->chunk_rows)
        n = limits->chunk_rows;
    if (group_is_scored(group))
        return n < entries ? n : entries;
    /* Prompts that are scored may have left too few entries for the first tokens. */
    return n == left && group->n_sequences - group->n_over > entries ? n - 1 : n;
}

static void add_prefill_rows(struct scheduler *scheduler, struct step_plan *plan) {
    struct batch *batch = &plan->batch;
    while (scheduler->prefilling_head) {
        struct group *group = scheduler->prefilling_head;
        struct sequence *leader = group_leader(group);
        int32_t n = chunk_rows(scheduler, batch, group), slot = leader->slot;
        if (n == 0)
            break;
        scheduler->segments[batch->n_segments++] =
            (struct segment){.row = batch->n_rows, .n_rows = n, .slot = slot, .position = group->n_prefilled};
        for (int32_t i = 0; i < n; i++) {
            int32_t row = batch->n_rows++;
            scheduler->token[row] = group->prompt[group->n_prefilled + i];
            scheduler->position[row] = group->n_prefilled + i;
            plan->prompt_positions += group->n_prefilled + i + 1;
            scheduler->slot[row] = slot;
            if (group_is_scored(group))
                add_entry(scheduler, batch, row, leader, group->prompt[group->n_prefilled + i + 1]);
        }
        if (group_is_scored(group))
            batch->sample_target = scheduler->sample_target;
        group->n_prefilled += n;
        if (group->n_prefilled < group->n_prefill)
            break; /* a chunk a step: the rest follows in the next */
        end_prefill(scheduler, group);
        if (!group_is_scored(group)) {
            begin_decode(scheduler, batch, group);
            continue;
        }
        plan->n_running++;
        release_place(scheduler, leader);
    }
}

static void pad_decode_step(struct scheduler *scheduler, struct batch *batch, int32_t n) {
    const struct scheduler_limits *limits = &scheduler->limits;
    int32_t scratch = limits->scratch_slot ? limits->scratch_slot : limits->n_slots;
    for (; batch->n_rows < n; batch->n_rows++) {
        scheduler->token[batch->n_rows] = 0;
        scheduler->position[batch->n_rows] = 0;
        scheduler->slot[batch->n_rows] = scratch;
        scheduler->sample_row[batch->n_samples] = batch->n_rows;
        scheduler->sample_slot[batch->n_samples] = scratch;
        scheduler->sample_target[batch->n_samples] = -1;
        scheduler->samples[batch->n_samples++] = NULL;
    }
    batch->n_decode = batch->n_rows;
}

void scheduler_step(struct scheduler *scheduler, const struct step_request *request, struct step_plan *plan) {
    int32_t(*due)[2] = scheduler->next_copies;
    scheduler->next_copies = scheduler->copies;
    scheduler->copies = due;
    *plan = (struct step_plan){.batch = {.token = scheduler->token,
                                         .position = scheduler->position,
                                         .slot = scheduler->slot,
                                         .segments = scheduler->segments,
                                         .sample_row = scheduler->sample_row,
                                         .sample_slot = scheduler->sample_slot},
                               .starts = scheduler->starts,
                               .extensions = scheduler->extensions,
                               .copies = (const int32_t(*)[2])due,
                               .n_copies = scheduler->n_next_copies,
                               .samples = scheduler->samples};
    scheduler->n_next_copies = 0;
    struct batch *batch = &plan->batch;
    if (scheduler->limits.reserves_expected)
        grow_all(scheduler, plan);
    add_decode_rows(scheduler, plan);
    plan->n_useful_decode = batch->n_decode;
    plan->n_starts = admit_waiting(scheduler, request, plan);
    add_prefill_rows(scheduler, plan);
    plan->n_running += scheduler->limits.n_slots - scheduler->n_free_slots;
    if (batch->n_rows > 0 && batch->n_segments == 0)
        pad_decode_step(scheduler, batch, request->decode_rows(request->context, batch->n_rows));
}

static bool is_slot_free(const struct scheduler *scheduler, int32_t slot) {
    for (int32_t i = 0; i < scheduler->n_free_slots; i++)
        if (scheduler->free_slots[i] == slot)
            return true;
    return false;
}

bool scheduler_check(const struct scheduler *scheduler) {
    if (!page_pool_check(&scheduler->pool))
        return false;
    int64_t holders = 0;
    for (int32_t i = 0; i < scheduler->n_running; i++) {
        const struct sequence *sequence = scheduler->running[i];
        if (!sequence)
            continue;
        if (sequence->running_idx != i || is_slot_free(scheduler, sequence->slot))
            return false;
        holders += sequence->n_pages;
        for (int32_t page = 0; page < sequence->n_pages; page++)
            if (scheduler->pool.references[sequence->pages[page]] < 1)
                return false;
    }
    for (const struct group *group = scheduler->prefilling_head; group; group = group->next) {
        if (!group->is_prefilling || group->n_prefilled >= group->n_prefill)
            return false;
        for (int32_t i = 0; i < group->n_sequences; i++)
            holders += group->sequences[i].slot >= 0 ? group->sequences[i].n_pages : 0;
    }
    int64_t references = 0;
    for (int32_t page = 0; page < scheduler->pool.n_pages; page++)
        references += scheduler->pool.references[page];
    return references == holders && scheduler->n_free_slots <= scheduler->limits.n_slots;
}
