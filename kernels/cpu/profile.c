/* profile: seconds by operation. Operations are done when they return, so a clock around each is enough. */
#include <string.h>
#include <time.h>

#include "kernels/cpu/context.h"

static double now(const struct backend_context *context) {
    struct timespec time = {0};
    if (context->is_profiled)
        clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void add(struct backend_context *context, enum operation operation, double began) {
    if (context->is_profiled)
        context->seconds[operation] += now(context) - began;
}

enum status cpu_timed_embed(struct backend_context *context, const struct embed_args *args) {
    double began = now(context);
    enum status result = cpu_embed(context, args);
    add(context, OPERATION_EMBED, began);
    return result;
}

enum status cpu_timed_norm(struct backend_context *context, const struct norm_args *args) {
    double began = now(context);
    enum status result = cpu_norm(context, args);
    add(context, OPERATION_NORM, began);
    return result;
}

enum status cpu_timed_matmul(struct backend_context *context, const struct matmul_args *args) {
    double began = now(context);
    enum status result = cpu_matmul(context, args);
    bool is_head = args->out->cols == context->limits.n_vocab;
    add(context, is_head ? OPERATION_HEAD : OPERATION_MATMUL, began);
    return result;
}

enum status cpu_timed_attention_decode(struct backend_context *context, const struct attention_args *args) {
    double began = now(context);
    enum status result = cpu_attention_decode(context, args);
    add(context, OPERATION_ATTENTION_DECODE, began);
    return result;
}

enum status cpu_timed_attention_prefill(struct backend_context *context, const struct attention_args *args) {
    double began = now(context);
    enum status result = cpu_attention_prefill(context, args);
    add(context, OPERATION_ATTENTION_PREFILL, began);
    return result;
}

enum status cpu_timed_sample(struct backend_context *context, const struct sample_args *args) {
    double began = now(context);
    enum status result = cpu_sample(context, args);
    add(context, OPERATION_SAMPLE, began);
    return result;
}

enum status cpu_profile(struct backend_context *context, bool goes_on, double *seconds) {
    memcpy(seconds, context->seconds, sizeof context->seconds);
    memset(context->seconds, 0, sizeof context->seconds);
    context->is_profiled = goes_on;
    return STATUS_OK;
}
