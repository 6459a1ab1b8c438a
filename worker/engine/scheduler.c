#include "worker/engine/scheduler.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/arith.h"
#include "worker/job/identity.h"

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
    scheduler->samples = calloc(max_samples, sizeof *scheduler->samples);
    scheduler->starts = calloc(n_slots, sizeof *scheduler->starts);
    scheduler->copies = calloc(n_slots, sizeof *scheduler->copies);
    scheduler->next_copies = calloc(n_slots, sizeof *scheduler->next_copies);
    if (!scheduler->free_slots || !scheduler->running || !scheduler->token || !scheduler->position ||
        !scheduler->slot || !scheduler->segments || !scheduler->sample_row || !scheduler->sample_slot ||
        !scheduler->samples || !scheduler->starts || !scheduler->copies || !scheduler->next_copies) {
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
    if (group->n_in_flight >= 0)
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
    free(scheduler->samples);
    free(scheduler->starts);
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
    list_push(&scheduler->waiting_head, &scheduler->waiting_tail, group);
    scheduler->n_waiting++;
}

void scheduler_resubmit(struct scheduler *scheduler, struct group *group) {
    group->next = scheduler->waiting_head;
    scheduler->waiting_head = group;
    if (!scheduler->waiting_tail)
        scheduler->waiting_tail = group;
    scheduler->n_waiting++;
}

struct group *scheduler_take_failed(struct scheduler *scheduler) {
    struct group *head = scheduler->waiting_head;
    if (!head || head->n_sequences > 0)
        return NULL;
    scheduler->n_waiting--;
    return list_pop(&scheduler->waiting_head, &scheduler->waiting_tail);
}

/* Pages and slots for every sample of the group, or nothing. */
static enum admission admit(struct scheduler *scheduler, struct group *group, struct slot_start *starts) {
    if (group->n_sequences > scheduler->n_free_slots)
        return ADMISSION_NO_SLOT;
    const struct sequence *first = &group->sequences[0];
    int64_t needed = scheduler_pages_needed(group->n_prompt, first->max_tokens, group->n_sequences);
    if (needed > scheduler->pool.n_free)
        return ADMISSION_NO_PAGES;

    int32_t each = (int32_t)ceil_divide(positions_needed(group->n_prompt, first->max_tokens), PAGE_TOKENS);
    group->n_shared_pages = group->n_sequences > 1 ? group->n_prompt / PAGE_TOKENS : 0;
    for (int32_t i = 0; i < group->n_sequences; i++) {
        struct sequence *sequence = &group->sequences[i];
        int32_t shared = i == 0 ? 0 : group->n_shared_pages;
        if (shared > 0) {
            memcpy(sequence->pages, group->sequences[0].pages, (size_t)shared * sizeof *sequence->pages);
            page_pool_share(&scheduler->pool, sequence->pages, shared);
        }
        page_pool_take(&scheduler->pool, each - shared, sequence->pages + shared);
        sequence->n_pages = each;
        sequence->slot = scheduler->free_slots[--scheduler->n_free_slots];

        const struct sampling *sampling = &group->record->request.sampling;
        starts[i] = (struct slot_start){
            .slot = sequence->slot,
            .pages = sequence->pages,
            .n_pages = each,
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
        rows += group->n_prompt;
        if (rows >= scheduler->limits.max_rows / 4)
            return true;
    }
    return false;
}

/* Whether the head of the waiting queue may come in at all. A record that began is let in during a pause too:
 * what the pause waits for may be waiting for its further samples. */
static bool may_enter(const struct scheduler *scheduler, const struct step_request *request) {
    const struct group *head = scheduler->waiting_head;
    return head && head->n_sequences > 0 && (!request->is_paused || head->first_sample > 0);
}

static int32_t admit_waiting(struct scheduler *scheduler, const struct step_request *request,
                             struct step_plan *plan) {
    int32_t n_starts = 0;
    if (request->is_paused && !may_enter(scheduler, request))
        return 0;
    plan->admission = scheduler->waiting_head ? ADMISSION_HELD_BACK : ADMISSION_NONE_WAITING;
    if (!request->force && scheduler->waiting_head && !is_admission_due(scheduler))
        return 0;
    int64_t rows = 0; /* no more prompts at a time than about two steps can hold */
    for (const struct group *group = scheduler->prefilling_head; group; group = group->next)
        rows += group->n_prompt - group->n_prefilled;
    while (may_enter(scheduler, request) && rows < 2 * (int64_t)scheduler->limits.max_rows) {
        struct group *group = scheduler->waiting_head;
        plan->admission = admit(scheduler, group, scheduler->starts + n_starts);
        if (plan->admission != ADMISSION_DONE)
            break;
        if (group->first_sample == 0)
            group->record->admitted_s = request->now_s;
        n_starts += group->n_sequences;
        rows += group->n_prompt;
        list_pop(&scheduler->waiting_head, &scheduler->waiting_tail);
        scheduler->n_waiting--;
        list_push(&scheduler->prefilling_head, &scheduler->prefilling_tail, group);
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
        sequence->is_over = true;
        sequence->group->n_over++;
    }
    if (sequence->running_idx >= 0)
        scheduler->running[sequence->running_idx] = NULL;
    sequence->running_idx = -1;
    release_place(scheduler, sequence);
}

static void add_sample(struct scheduler *scheduler, struct batch *batch, int32_t row,
                       struct sequence *sequence) {
    int32_t entry = batch->n_samples++;
    scheduler->sample_row[entry] = row;
    scheduler->sample_slot[entry] = sequence->slot;
    scheduler->samples[entry] = sequence;
    sequence->n_queued++;
    sequence->group->n_in_flight++;
    batch->want_logprobs |= sequence->group->record->request.sampling.logprobs >= 0;
}

static void add_decode_rows(struct scheduler *scheduler, struct batch *batch) {
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
        scheduler->slot[row] = sequence->slot;
        add_sample(scheduler, batch, row, sequence);
    }
    scheduler->n_running = kept;
    batch->n_decode = batch->n_rows;
}

/* The prompt is wholly queued: every sample draws its first token from the last row, and from the next step
 * on each decodes in its own place. The page that the prompt ends in is copied for all but the first. */
static void finish_prefill(struct scheduler *scheduler, struct batch *batch, struct group *group) {
    int32_t last_row = batch->n_rows - 1;
    for (int32_t i = 0; i < group->n_sequences; i++) {
        struct sequence *sequence = &group->sequences[i];
        if (sequence->is_over)
            continue;
        add_sample(scheduler, batch, last_row, sequence);
        sequence->running_idx = scheduler->n_running;
        scheduler->running[scheduler->n_running++] = sequence;
        if (i > 0 && group->n_prompt % PAGE_TOKENS != 0) {
            int32_t *pair = scheduler->next_copies[scheduler->n_next_copies++];
            pair[0] = group->sequences[0].pages[group->n_shared_pages];
            pair[1] = sequence->pages[group->n_shared_pages];
        }
    }
}

static void add_prefill_rows(struct scheduler *scheduler, struct batch *batch) {
    int32_t room = scheduler->limits.max_rows - batch->n_rows;
    while (scheduler->prefilling_head && room > 0) {
        struct group *group = scheduler->prefilling_head;
        int32_t n = group->n_prompt - group->n_prefilled;
        if (n > room)
            n = room;
        if (scheduler->limits.chunk_rows > 0 && n > scheduler->limits.chunk_rows)
            n = scheduler->limits.chunk_rows;
        int32_t slot = group->sequences[0].slot;
        scheduler->segments[batch->n_segments++] =
            (struct segment){.row = batch->n_rows, .n_rows = n, .slot = slot, .position = group->n_prefilled};
        for (int32_t i = 0; i < n; i++) {
            int32_t row = batch->n_rows++;
            scheduler->token[row] = group->prompt[group->n_prefilled + i];
            scheduler->position[row] = group->n_prefilled + i;
            scheduler->slot[row] = slot;
        }
        group->n_prefilled += n;
        room -= n;
        if (group->n_prefilled < group->n_prompt)
            break; /* a chunk a step: the rest follows in the next */
        finish_prefill(scheduler, batch, group);
        list_pop(&scheduler->prefilling_head, &scheduler->prefilling_tail);
    }
}

static void pad_decode_step(struct scheduler *scheduler, struct batch *batch, int32_t n) {
    for (; batch->n_rows < n; batch->n_rows++) {
        scheduler->token[batch->n_rows] = 0;
        scheduler->position[batch->n_rows] = 0;
        scheduler->slot[batch->n_rows] = scheduler->limits.n_slots;
        scheduler->sample_row[batch->n_samples] = batch->n_rows;
        scheduler->sample_slot[batch->n_samples] = scheduler->limits.n_slots;
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
                               .copies = (const int32_t(*)[2])due,
                               .n_copies = scheduler->n_next_copies,
                               .samples = scheduler->samples};
    scheduler->n_next_copies = 0;
    struct batch *batch = &plan->batch;
    add_decode_rows(scheduler, batch);
    plan->n_useful_decode = batch->n_decode;
    plan->n_starts = admit_waiting(scheduler, request, plan);
    add_prefill_rows(scheduler, batch);
    plan->n_running = scheduler->limits.n_slots - scheduler->n_free_slots;
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
    for (const struct group *group = scheduler->prefilling_head; group; group = group->next)
        for (int32_t i = 0; i < group->n_sequences; i++)
            holders += group->sequences[i].slot >= 0 ? group->sequences[i].n_pages : 0;
    int64_t references = 0;
    for (int32_t page = 0; page < scheduler->pool.n_pages; page++)
        references += scheduler->pool.references[page];
    return references == holders && scheduler->n_free_slots <= scheduler->limits.n_slots;
}
