/* scheduler: decides what the next step computes. Pure host logic over slots, pages and ragged arrays, no
 * backend, so all of it is tested where there is no GPU.
 *
 * A step holds one decode row for each running sequence and, when prompts were admitted, prefill rows of them
 * in chunks, up to max_rows in all. Admission is first in, first out and reserves pages for the whole prompt
 * and max_tokens, so nothing that runs is ever out of memory; or, with reserves_expected, for the prompt and
 * the tokens that answers turned out to have so far. Then a sequence takes further pages as it grows, and
 * when there are none the youngest group gives its pages back and starts again from its prompt, ahead of all
 * that wait. The oldest never has to, so all come to their end. A prompt that is scored takes as many entries
 * of the samples as rows, so a step has at most max_samples of its kind; it gives its place back when its
 * last row is queued. Prompts are let in when 10 % of the slots are idle, or when what could be let in fills
 * a quarter of a step, so that decode-only steps (which replay recorded launches) stay the rule.
 *
 * Answers do not depend on any of these decisions (DESIGN: numbers); only speed does. */
#ifndef PRESSRUN_WORKER_ENGINE_SCHEDULER_H
#define PRESSRUN_WORKER_ENGINE_SCHEDULER_H

#include "kernels/backend.h"
#include "worker/engine/page_pool.h"
#include "worker/engine/sequence.h"

struct scheduler_limits {
    int32_t n_slots; /* sequences at once */
    int32_t n_pages; /* scratch page included */
    int32_t max_pages_per_slot;
    int32_t max_rows;       /* rows of one step, > n_slots */
    int32_t max_samples;    /* >= n_slots, padding included */
    int32_t chunk_rows;     /* most prompt rows of one sequence in one step; 0: no limit but max_rows */
    int32_t scratch_slot;   /* of padding rows: the backend's n_slots; 0: n_slots, the same */
    bool reserves_expected; /* pages for the expected answer, not the longest */
};

/* Why the head of the waiting queue stayed out of the last step. */
enum admission {
    ADMISSION_NONE_WAITING,
    ADMISSION_DONE,
    ADMISSION_NO_SLOT,
    ADMISSION_NO_PAGES,
    ADMISSION_HELD_BACK
};

/* One step as the engine runs it. Arrays belong to the scheduler and hold until the next scheduler_step. */
struct step_plan {
    struct batch batch;
    const struct slot_start
        *starts; /* sequences that take slots before this step; sampling.key is filled in */
    int32_t n_starts;
    const struct slot_extension *extensions; /* sequences that get further pages before this step */
    int32_t n_extensions;
    const int32_t (*copies)[2]; /* page copies before this step */
    int32_t n_copies;
    struct sequence *const *samples; /* [batch.n_samples] whose token each entry is; NULL for padding */
    int32_t n_useful_decode;         /* decode rows without padding */
    int32_t n_running;               /* sequences that hold a slot in this step */
    int32_t n_restarts;              /* groups that must start again, and gave their places back */
    int64_t decode_positions;        /* sum over decode rows of position + 1: keys that each reads */
    int64_t prompt_positions;        /* the same over prompt rows */
    enum admission admission;
};

struct scheduler {
    struct scheduler_limits limits;
    struct page_pool pool;
    int32_t *free_slots; /* [n_slots] stack */
    int32_t n_free_slots;
    struct sequence **running; /* [n_slots] sequences that decode; NULL: ended since the last step */
    int32_t n_running;
    struct group *waiting_head, *waiting_tail;
    int64_t n_waiting;
    struct group *prefilling_head, *prefilling_tail; /* admitted, prompt not wholly queued */
    uint64_t job_seed;
    int64_t n_submitted;
    /* What answers turned out to have: tokens of all sequences so far, and how many came to their end. */
    int64_t n_tokens, n_ended;
    int32_t n_grown; /* running sequences that outgrew what they reserved, when the last step was formed */
    /* arrays of the step in the making */
    int32_t *token, *position, *slot;  /* [max_rows] */
    struct segment *segments;          /* [n_slots] */
    int32_t *sample_row, *sample_slot; /* [max_samples] */
    int32_t *sample_target;            /* [max_samples] -1, or the token to be scored */
    struct sequence **samples;         /* [max_samples] */
    struct slot_start *starts;         /* [n_slots] */
    struct sequence **growing;         /* [n_slots] whose extensions these are */
    struct slot_extension *extensions; /* [n_slots] */
    int32_t (*copies)[2],
        (*next_copies)[2]; /* [n_slots] due before the step in the making; before the one after */
    int32_t n_next_copies;
};

enum status scheduler_init(struct scheduler *scheduler, const struct scheduler_limits *limits,
                           uint64_t job_seed);
/* Frees all groups that it still holds, with their records; no step may be in flight. */
void scheduler_free(struct scheduler *scheduler);
/* Before scheduler_free, for a group of which rows are still in flight: it is freed too, wherever else it is
 * listed, and however often it is named. No further step. */
void scheduler_abandon(struct scheduler *scheduler, struct group *group);

/* Pages that a group needs in all (max_tokens 0: a scored prompt); to be compared with what the pool can ever
 * hold. */
int64_t scheduler_pages_needed(int32_t n_prompt, int32_t max_tokens, int32_t n_samples);
/* How many of a record's samples can run at a time; 0 when not even one fits. */
int32_t scheduler_samples_at_once(const struct scheduler_limits *limits, int32_t n_prompt, int32_t max_tokens,
                                  int32_t n_samples);

/* Queues a group. Its prompt, max_tokens and n must fit the limits at all (the caller checks). */
void scheduler_submit(struct scheduler *scheduler, struct group *group);
/* Queues a group that was submitted before, in front of all younger ones: it has further samples to run, or
 * it is parked and nothing of it is in flight any more. */
void scheduler_resubmit(struct scheduler *scheduler, struct group *group);

/* What the engine knows when it asks for a step. */
struct step_request {
    bool is_paused; /* begin no record; further samples of one that began are let in */
    bool force;     /* let waiting prompts in at once, without waiting for company */
    double now_s;   /* becomes record.admitted_s of whoever is admitted */
    int32_t (*decode_rows)(struct backend_context *, int32_t); /* of the backend: rounds decode rows up */
    struct backend_context *context;
};

/* Forms the next step. plan->batch.n_rows is 0 when there is nothing to run. */
void scheduler_step(struct scheduler *scheduler, const struct step_request *request, struct step_plan *plan);

/* No further token of the sequence is wanted: gives its slot and pages back. Idempotent. */
void scheduler_end_sequence(struct scheduler *scheduler, struct sequence *sequence);

/* Takes a waiting group out of the queue's head when it is done without running (a record in error, a scored
 * prompt of one token); NULL when the head is to run. */
struct group *scheduler_take_idle(struct scheduler *scheduler);

/* Recomputes every invariant; false when one is broken. For tests. */
bool scheduler_check(const struct scheduler *scheduler);

#endif
