/* gaps: device time between steps, from two events of each: one behind the kernel that fetches its arrays,
 * one behind its last kernel.
 *
 *     ... last kernel | step_done | fetch | fetched | first operation ...
 *                     <------ gap ------->
 *
 * The event is behind the fetch and not in front of it: there it would follow step_done in the stream, and
 * tell the time between two events, however long the kernel behind them takes to start. So a gap is no
 * shorter than the time that no kernel runs, and longer by one fetch, which no operation of the step can do
 * without. Steps are recorded, replayed and launched as otherwise. */
#include <new>

#include "kernels/cuda/context.cuh"

struct gaps {
    cudaEvent_t fetched[RING_ENTRIES]; /* the arrays of the step in that entry are on the device */
    bool only_decodes[RING_ENTRIES];   /* the step in that entry */
    uint64_t n_before;                 /* steps queued before measuring began */
    double seconds[MAX_GAPS];
    int32_t n;
};

namespace {

/* Makes the events at the end of steps anew; none is waited for. */
enum status step_events_new(struct backend_context *context, unsigned flags) {
    for (cudaEvent_t &done : context->step_done) {
        cudaEvent_t event = nullptr;
        TRY_CUDA(cudaEventCreateWithFlags(&event, flags), "gaps");
        cudaEventDestroy(done);
        done = event;
    }
    return STATUS_OK;
}

enum status gaps_begin(struct backend_context *context) {
    context->gaps = new (std::nothrow) gaps();
    RETURN_IF(!context->gaps, STATUS_INTERNAL, "gaps: out of host memory");
    for (cudaEvent_t &fetched : context->gaps->fetched)
        TRY_CUDA(cudaEventCreateWithFlags(&fetched, cudaEventDefault), "gaps");
    return step_events_new(context, cudaEventDefault);
}

} // namespace

enum status cuda_gaps_fetched(struct backend_context *context, int entry, bool only_decodes) {
    if (!context->gaps)
        return STATUS_OK;
    context->gaps->only_decodes[entry] = only_decodes;
    return cuda_check(cudaEventRecord(context->gaps->fetched[entry], context->stream), "step_begin (gaps)");
}

enum status cuda_gaps_add(struct backend_context *context, uint64_t ticket) {
    struct gaps *gaps = context->gaps;
    const int entry = (int)(ticket % RING_ENTRIES);
    if (!gaps || ticket < gaps->n_before + 2 || !gaps->only_decodes[entry] || gaps->n == MAX_GAPS)
        return STATUS_OK;
    float ms;
    TRY_CUDA(cudaEventElapsedTime(&ms, context->step_done[(ticket - 1) % RING_ENTRIES], gaps->fetched[entry]),
             "step_wait (gaps)");
    gaps->seconds[gaps->n++] = ms * 1e-3;
    return STATUS_OK;
}

void cuda_gaps_close(struct backend_context *context) {
    if (!context->gaps)
        return;
    for (cudaEvent_t fetched : context->gaps->fetched)
        if (fetched)
            cudaEventDestroy(fetched);
    delete context->gaps;
    context->gaps = nullptr;
}

enum status cuda_gaps(struct backend_context *context, bool goes_on, double *seconds, int32_t *n) {
    RETURN_IF(!context->has_state, STATUS_INTERNAL, "gaps: call state_init first");
    RETURN_IF(context->mode != STEP_NONE || context->n_waited != context->n_steps, STATUS_INTERNAL,
              "gaps: called within a step, or with %llu of %llu steps waited for",
              (unsigned long long)context->n_waited, (unsigned long long)context->n_steps);
    TRY_CUDA(cudaSetDevice(context->device), "gaps");
    *n = 0;
    if (!context->gaps && goes_on)
        TRY(gaps_begin(context));
    struct gaps *gaps = context->gaps;
    if (!gaps)
        return STATUS_OK;
    for (; *n < gaps->n; ++*n)
        seconds[*n] = gaps->seconds[*n];
    gaps->n = 0;
    gaps->n_before = context->n_steps;
    if (goes_on)
        return STATUS_OK;
    cuda_gaps_close(context);
    return step_events_new(context, cudaEventDisableTiming);
}
