/* step_bound: the most steps that a job can take, from the lengths of its prompts and answers alone. One
 * thread.
 *
 * The scheduler admits first in, first out, and never holds a prompt back while a tenth of the slots is idle.
 * So no prompt is admitted later than in a list schedule of all prompts, in order, over nine tenths of the
 * slots and all pages, in which every answer is as long as it may be (a schedule in order has no anomalies:
 * whatever ends earlier lets all that follows in earlier or at the same time). Steps that prompt rows fill
 * are counted on top, and so is the wait of a record whose samples run in turns. Pauses of admission are not
 * foreseen (output that waits for an earlier record, input that is slower than the device), nor are prompts
 * that start again for want of pages (reserves_expected). */
#ifndef PRESSRUN_WORKER_ENGINE_STEP_BOUND_H
#define PRESSRUN_WORKER_ENGINE_STEP_BOUND_H

#include "worker/engine/scheduler.h"

struct step_bound {
    struct scheduler_limits limits;
    int32_t n_slots;  /* that the schedule uses */
    int32_t n_busy;   /* slots */
    int64_t n_pages;  /* free */
    int64_t now_step; /* the last admission */
    int64_t last_step;
    int64_t prompt_rows;    /* prefilled in all */
    int64_t longest;        /* max_tokens of any record */
    int64_t n_turns;        /* times that a record's further samples wait for their turn */
    int64_t turn_steps;     /* of those samples */
    struct step_bound_place /* a group that runs */
    {
        int64_t until_step;
        int64_t n_pages;
        int32_t n_slots;
    } * heap; /* [limits.n_slots] the first to end on top */
    int32_t n_heap;
};

enum status step_bound_init(struct step_bound *bound, const struct scheduler_limits *limits);
void step_bound_free(struct step_bound *bound);

/* The next record: prompt tokens, most tokens of each sample, samples. One that can never fit counts nothing:
 * it becomes an error. */
void step_bound_add(struct step_bound *bound, int32_t n_prompt, int32_t max_tokens, int32_t n_samples);

int64_t step_bound_steps(const struct step_bound *bound);

#endif
