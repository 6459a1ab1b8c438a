/* profile: device time by operation, from events before and after each. While it is taken no step is replayed
 * from a graph, and kernels do not overlap across operations. */
#include <new>
#include <vector>

#include "kernels/cuda/context.cuh"

struct timed_operation {
    enum operation operation;
    cudaEvent_t begin;
    cudaEvent_t end; /* NULL: the operation failed */
};

struct profile {
    std::vector<timed_operation> operations; /* since the last call */
};

namespace {

/* Calls the operation between two events when a profile is taken. */
template <typename Call>
enum status timed(struct backend_context *context, enum operation operation, Call call) {
    if (!context->profile || context->mode == STEP_NONE)
        return call();
    try {
        context->profile->operations.push_back(
            {operation, nullptr, nullptr}); /* owns its events from here on */
    } catch (const std::bad_alloc &) {
        return status_fail(STATUS_INTERNAL, "profile: out of host memory");
    }
    timed_operation &entry = context->profile->operations.back();
    TRY_CUDA(cudaEventCreate(&entry.begin), "profile");
    TRY_CUDA(cudaEventRecord(entry.begin, context->stream), "profile");
    context->chained = false;
    TRY(call());
    TRY_CUDA(cudaEventCreate(&entry.end), "profile");
    context->chained = false;
    return cuda_check(cudaEventRecord(entry.end, context->stream), "profile");
}

enum status timed_embed(struct backend_context *context, const struct embed_args *args) {
    return timed(context, OPERATION_EMBED, [&] { return cuda_embed(context, args); });
}

enum status timed_norm(struct backend_context *context, const struct norm_args *args) {
    return timed(context, OPERATION_NORM, [&] { return cuda_norm(context, args); });
}

enum status timed_matmul(struct backend_context *context, const struct matmul_args *args) {
    bool is_head = context->has_state && args->out->cols == context->limits.n_vocab;
    return timed(context, is_head ? OPERATION_HEAD : OPERATION_MATMUL,
                 [&] { return cuda_matmul(context, args); });
}

enum status timed_attention_decode(struct backend_context *context, const struct attention_args *args) {
    return timed(context, OPERATION_ATTENTION_DECODE, [&] { return cuda_attention_decode(context, args); });
}

enum status timed_attention_prefill(struct backend_context *context, const struct attention_args *args) {
    return timed(context, OPERATION_ATTENTION_PREFILL, [&] { return cuda_attention_prefill(context, args); });
}

enum status timed_sample(struct backend_context *context, const struct sample_args *args) {
    return timed(context, OPERATION_SAMPLE, [&] { return cuda_sample(context, args); });
}

} // namespace

void cuda_profile_wrap(struct backend *backend) {
    backend->embed = timed_embed;
    backend->norm = timed_norm;
    backend->matmul = timed_matmul;
    backend->attention_decode = timed_attention_decode;
    backend->attention_prefill = timed_attention_prefill;
    backend->sample = timed_sample;
}

void cuda_profile_close(struct backend_context *context) {
    if (!context->profile)
        return;
    for (timed_operation &entry : context->profile->operations) {
        if (entry.begin)
            cudaEventDestroy(entry.begin);
        if (entry.end)
            cudaEventDestroy(entry.end);
    }
    delete context->profile;
    context->profile = nullptr;
}

enum status cuda_profile(struct backend_context *context, bool goes_on, double *seconds) {
    RETURN_IF(context->mode != STEP_NONE, STATUS_INTERNAL, "profile: called within a step");
    for (int i = 0; i < OPERATION_COUNT; i++)
        seconds[i] = 0;
    TRY_CUDA(cudaStreamSynchronize(context->stream), "profile");
    if (context->profile)
        for (timed_operation &entry : context->profile->operations) {
            float ms;
            if (!entry.end)
                continue;
            TRY_CUDA(cudaEventElapsedTime(&ms, entry.begin, entry.end), "profile");
            seconds[entry.operation] += ms * 1e-3;
        }
    cuda_profile_close(context);
    if (goes_on) {
        context->profile = new (std::nothrow) profile();
        RETURN_IF(!context->profile, STATUS_INTERNAL, "profile: out of host memory");
    }
    return STATUS_OK;
}
