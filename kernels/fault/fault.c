#include "kernels/fault/fault.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct backend_context {
    struct backend inner;
    struct fault_plan plan;
    int64_t n_allocations;
    int64_t n_steps; /* begun */
    bool broken;     /* the sticky device error has struck */
    int32_t n_vocab;
    int32_t max_samples;
    int32_t n_samples;    /* of this step */
    int32_t *sample_slot; /* [max_samples] of this step */
};

static enum status check_alive(const struct backend_context *context) {
    RETURN_IF(context->broken, STATUS_INTERNAL, "injected device error (sticky, from step %lld on)",
              (long long)context->plan.fail_step);
    return STATUS_OK;
}

static enum status count_allocation(struct backend_context *context) {
    TRY(check_alive(context));
    RETURN_IF(++context->n_allocations == context->plan.fail_allocation, STATUS_NO_FIT,
              "injected: out of memory at allocation %lld", (long long)context->n_allocations);
    return STATUS_OK;
}

static void fault_close(struct backend_context *context) {
    context->inner.close(context->inner.context);
    free(context->sample_slot);
    free(context);
}

static enum status fault_memory_info(struct backend_context *context, size_t *free_bytes,
                                     size_t *total_bytes) {
    TRY(check_alive(context));
    return context->inner.memory_info(context->inner.context, free_bytes, total_bytes);
}

static enum status fault_tensor_new(struct backend_context *context, enum dtype dtype, int64_t rows,
                                    int64_t cols, struct tensor **out) {
    TRY(count_allocation(context));
    return context->inner.tensor_new(context->inner.context, dtype, rows, cols, out);
}

static enum status fault_weight_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                    int64_t n_in, struct row_source rows, struct tensor **out) {
    TRY(count_allocation(context));
    return context->inner.weight_new(context->inner.context, dtype, n_out, n_in, rows, out);
}

static enum status fault_weight_pair_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                         int64_t n_in, struct row_source gate, struct row_source up,
                                         struct tensor **out) {
    TRY(count_allocation(context));
    return context->inner.weight_pair_new(context->inner.context, dtype, n_out, n_in, gate, up, out);
}

static enum status fault_weights_wait(struct backend_context *context) {
    /* Also behind a device error: sources are read until here. */
    TRY(context->inner.weights_wait(context->inner.context));
    return check_alive(context);
}

static enum status fault_vector_new(struct backend_context *context, int64_t n, const float *host,
                                    struct tensor **out) {
    TRY(count_allocation(context));
    return context->inner.vector_new(context->inner.context, n, host, out);
}

static void fault_tensor_free(struct backend_context *context, struct tensor *tensor) {
    context->inner.tensor_free(context->inner.context, tensor);
}

static enum status fault_tensor_write(struct backend_context *context, struct tensor *tensor, int64_t rows,
                                      const void *host) {
    TRY(check_alive(context));
    return context->inner.tensor_write(context->inner.context, tensor, rows, host);
}

static enum status fault_tensor_read(struct backend_context *context, const struct tensor *tensor,
                                     int64_t rows, void *host) {
    TRY(check_alive(context));
    return context->inner.tensor_read(context->inner.context, tensor, rows, host);
}

static enum status fault_state_init(struct backend_context *context, const struct state_limits *limits) {
    TRY(count_allocation(context));
    free(context->sample_slot);
    context->sample_slot = calloc(limits->max_samples > 0 ? (size_t)limits->max_samples : 1, sizeof(int32_t));
    RETURN_IF(!context->sample_slot, STATUS_INTERNAL, "no memory for the fault backend");
    context->max_samples = limits->max_samples;
    context->n_vocab = limits->n_vocab;
    return context->inner.state_init(context->inner.context, limits);
}

static int32_t fault_decode_rows(struct backend_context *context, int32_t n) {
    return context->inner.decode_rows(context->inner.context, n);
}

static enum status fault_slots_begin(struct backend_context *context, const struct slot_start *starts,
                                     int32_t n) {
    TRY(check_alive(context));
    return context->inner.slots_begin(context->inner.context, starts, n);
}

static enum status fault_slots_extend(struct backend_context *context,
                                      const struct slot_extension *extensions, int32_t n) {
    TRY(check_alive(context));
    return context->inner.slots_extend(context->inner.context, extensions, n);
}

static enum status fault_pages_copy(struct backend_context *context, const int32_t (*pairs)[2], int32_t n) {
    TRY(check_alive(context));
    return context->inner.pages_copy(context->inner.context, pairs, n);
}

static enum status fault_step_begin(struct backend_context *context, const struct batch *batch,
                                    bool *replayed) {
    TRY(check_alive(context));
    context->n_steps++;
    TRY(context->inner.step_begin(context->inner.context, batch, replayed));
    RETURN_IF(*replayed && context->n_steps == context->plan.nan_step, STATUS_INTERNAL,
              "fault backend: step %lld is replayed and takes no NaN; open the inner backend with no_graphs",
              (long long)context->n_steps);
    context->n_samples = batch->n_samples;
    if (batch->n_samples > 0)
        memcpy(context->sample_slot, batch->sample_slot, (size_t)batch->n_samples * sizeof(int32_t));
    return STATUS_OK;
}

static enum status fault_embed(struct backend_context *context, const struct embed_args *args) {
    TRY(check_alive(context));
    return context->inner.embed(context->inner.context, args);
}

static enum status fault_norm(struct backend_context *context, const struct norm_args *args) {
    TRY(check_alive(context));
    return context->inner.norm(context->inner.context, args);
}

static enum status fault_matmul(struct backend_context *context, const struct matmul_args *args) {
    TRY(check_alive(context));
    struct matmul_args passed = *args;
    if (context->n_steps == context->plan.nan_step)
        passed.sampled_rows = false; /* the logits are needed, to be overwritten */
    return context->inner.matmul(context->inner.context, &passed);
}

static enum status fault_attention_decode(struct backend_context *context,
                                          const struct attention_args *args) {
    TRY(check_alive(context));
    return context->inner.attention_decode(context->inner.context, args);
}

static enum status fault_attention_prefill(struct backend_context *context,
                                           const struct attention_args *args) {
    TRY(check_alive(context));
    return context->inner.attention_prefill(context->inner.context, args);
}

/* Overwrites the logits of nan_slot's entries among [first_sample, first_sample + n). */
static enum status poison_logits(struct backend_context *context, const struct sample_args *args) {
    size_t n_vocab = (size_t)context->n_vocab;
    float *logits = malloc((size_t)args->n * n_vocab * sizeof *logits);
    RETURN_IF(!logits, STATUS_INTERNAL, "no memory for the fault backend");
    /* Read-only to the operation, but made by tensor_new and so writable here. */
    struct tensor *tensor = (struct tensor *)args->logits;
    enum status status = context->inner.tensor_read(context->inner.context, tensor, args->n, logits);
    for (int32_t i = 0; status == STATUS_OK && i < args->n; i++) {
        for (size_t v = 0;
             context->sample_slot[args->first_sample + i] == context->plan.nan_slot && v < n_vocab; v++)
            logits[(size_t)i * n_vocab + v] = NAN;
    }
    if (status == STATUS_OK)
        status = context->inner.tensor_write(context->inner.context, tensor, args->n, logits);
    free(logits);
    return status;
}

static enum status fault_sample(struct backend_context *context, const struct sample_args *args) {
    TRY(check_alive(context));
    if (context->n_steps == context->plan.nan_step && args->n > 0 && args->first_sample >= 0 &&
        args->first_sample <= context->n_samples - args->n)
        TRY(poison_logits(context, args));
    return context->inner.sample(context->inner.context, args);
}

static enum status fault_step_end(struct backend_context *context, uint64_t *ticket) {
    context->broken =
        context->broken || (context->plan.fail_step > 0 && context->n_steps >= context->plan.fail_step);
    TRY(check_alive(context));
    return context->inner.step_end(context->inner.context, ticket);
}

static enum status fault_step_wait(struct backend_context *context, uint64_t ticket,
                                   struct sample_result *results, struct sample_top *top) {
    TRY(check_alive(context));
    return context->inner.step_wait(context->inner.context, ticket, results, top);
}

static enum status fault_measure_limits(struct backend_context *context, enum dtype dtype,
                                        struct device_limits *limits) {
    TRY(check_alive(context));
    return context->inner.measure_limits(context->inner.context, dtype, limits);
}

static enum status fault_profile(struct backend_context *context, bool goes_on, double *seconds) {
    TRY(check_alive(context));
    return context->inner.profile(context->inner.context, goes_on, seconds);
}

static enum status fault_gaps(struct backend_context *context, bool goes_on, double *seconds, int32_t *n) {
    TRY(check_alive(context));
    return context->inner.gaps(context->inner.context, goes_on, seconds, n);
}

static int64_t fault_launches_per_step(struct backend_context *context) {
    return context->inner.launches_per_step(context->inner.context);
}

enum status backend_open_fault(const struct backend *inner, const struct fault_plan *plan,
                               struct backend *out) {
    memset(out, 0, sizeof *out);
    struct backend_context *context = calloc(1, sizeof *context);
    if (!context) {
        inner->close(inner->context);
        return status_fail(STATUS_INTERNAL, "no memory for the fault backend");
    }
    context->inner = *inner;
    context->plan = *plan;
    *out = *inner;
    out->context = context;
    out->close = fault_close;
    out->memory_info = fault_memory_info;
    out->tensor_new = fault_tensor_new;
    out->weight_new = fault_weight_new;
    out->weight_pair_new = fault_weight_pair_new;
    out->weights_wait = fault_weights_wait;
    out->vector_new = fault_vector_new;
    out->tensor_free = fault_tensor_free;
    out->tensor_write = fault_tensor_write;
    out->tensor_read = fault_tensor_read;
    out->state_init = fault_state_init;
    out->decode_rows = fault_decode_rows;
    out->slots_begin = fault_slots_begin;
    out->slots_extend = inner->slots_extend ? fault_slots_extend : NULL;
    out->pages_copy = fault_pages_copy;
    out->step_begin = fault_step_begin;
    out->embed = fault_embed;
    out->norm = fault_norm;
    out->matmul = fault_matmul;
    out->attention_decode = fault_attention_decode;
    out->attention_prefill = fault_attention_prefill;
    out->sample = fault_sample;
    out->step_end = fault_step_end;
    out->step_wait = fault_step_wait;
    out->measure_limits = fault_measure_limits;
    out->profile = inner->profile ? fault_profile : NULL;
    out->gaps = inner->gaps ? fault_gaps : NULL;
    out->launches_per_step = fault_launches_per_step;
    return STATUS_OK;
}
