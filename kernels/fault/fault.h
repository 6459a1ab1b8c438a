/* fault: a backend for tests that wraps another one and injects failures after a countdown.
 *
 * All calls pass through to the inner backend, which it takes over and closes, except those that the plan
 * says. It reads and writes the logits through the inner backend, so a step with injected NaN must not be
 * replayed: open a CUDA backend inside with no_graphs. */
#ifndef PRESSRUN_KERNELS_FAULT_FAULT_H
#define PRESSRUN_KERNELS_FAULT_FAULT_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Counts start at 1; 0: never. */
struct fault_plan {
    int64_t
        fail_allocation; /* the n-th of tensor_new, weight_new, vector_new and state_init: STATUS_NO_FIT */
    int64_t
        fail_step;    /* from the n-th step on, step_end and all later calls fail: STATUS_INTERNAL (sticky) */
    int64_t nan_step; /* in the n-th step ... */
    int32_t nan_slot; /* ... the logits of this slot's samples are NaN */
};

/* Takes over inner (also on failure) and fills out. */
enum status backend_open_fault(const struct backend *inner, const struct fault_plan *plan,
                               struct backend *out);

#ifdef __cplusplus
}
#endif
#endif
