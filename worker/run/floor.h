/* floor: the least time that work can take on a device whose limits were measured (DESIGN: speed): every
 * weight that a step needs is read once, every key and value once per row that attends to it, and arithmetic
 * runs at the rate of a large matrix product. Reading weights and multiplying overlap; attention does not. */
#ifndef PRESSRUN_WORKER_RUN_FLOOR_H
#define PRESSRUN_WORKER_RUN_FLOOR_H

#include "worker/job/plan.h"

struct floor {
    struct device_limits limits;
    double body; /* parameters that every row multiplies with */
    double head; /* of the LM head: sampled rows */
    double bytes_per_parameter;
    double kv_bytes_per_position; /* K and V of one position, all layers: what they take in memory */
    double kv_read_bytes;         /* the same of the layers that see every position; a window's are left out,
                                     so that the floor stays one whatever the lengths */
    double attention_flops;       /* of one query position and one key position, all heads of those layers */
    double memory_bytes;          /* that KV may take beside weights and activations */
};
struct floor floor_of(const struct model_config *config, const struct plan *plan,
                      const struct device_limits *limits);

/* What one step computes, without padding. */
struct step_work {
    int64_t n_rows;
    int64_t n_samples;
    int64_t decode_positions; /* sum over generated rows of position + 1 */
    int64_t prompt_positions; /* the same over prompt rows */
};
double floor_of_step(const struct floor *floor, const struct step_work *work);
/* Bytes that the step must read at least. */
double floor_step_bytes(const struct floor *floor, const struct step_work *work);

/* A job: its sequences as sums. */
struct job_work {
    int64_t n_sequences;
    int64_t prompt_tokens;
    int64_t decode_rows;      /* generated positions that are fed back: all tokens but each last one */
    int64_t longest_decode;   /* most of them in one sequence */
    int64_t decode_positions; /* as in struct step_work */
    int64_t prompt_positions;
};
void job_work_add(struct job_work *work, int32_t n_prompt, int32_t n_new);
/* Sequences that the KV memory holds at a time, each with the positions that it has on average over its
 * decode steps; at most n_sequences. */
double floor_best_batch(const struct floor *floor, const struct job_work *work);
/* The job's floor: prompts at the arithmetic rate, and as few decode steps as floor_best_batch allows. */
double floor_of_job(const struct floor *floor, const struct job_work *work);

#endif
