/* sampler: a backend whose steps are sampling alone, from logits that the case gives. For the cases of
 * operations_sample.c and operations_faults.c. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_OPERATIONS_SAMPLER_H
#define PRESSRUN_TESTS_FUNCTIONAL_OPERATIONS_SAMPLER_H

#include "tests/functional/operations.h"

struct sampler {
    struct operations *ops;
    int32_t n_slots, n_vocab;
    struct tensor *logits;
    int32_t *slot, *position, *token; /* [n_slots] of the next step; row r is in slot slot[r] */
};

void sampler_init(struct sampler *sampler, struct operations *ops, int32_t n_slots, int32_t n_vocab);
void sampler_free(struct sampler *sampler);
/* Slots [first, first + n) begin with sampling[0] and so on. */
void sampler_start_some(struct sampler *sampler, int32_t first, int32_t n,
                        const struct slot_sampling *sampling, const int32_t *prompt, int32_t n_prompt);
void sampler_start(struct sampler *sampler, int32_t slot, struct slot_sampling sampling,
                   const int32_t *prompt, int32_t n_prompt);
/* Samples rows [0, n) from logits [n, n_vocab], in two calls when n > 2. */
void sampler_step(struct sampler *sampler, int32_t n, const float *logits, bool want_logprobs,
                  struct sample_result *results, struct sample_top *top);

#endif
