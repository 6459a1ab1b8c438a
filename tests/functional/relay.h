/* relay: a backend that passes every call on to another one, counts the steps, and on demand
 * - gives a step's results out only after the next step is queued (as a device beside the host does), or
 * - computes some matmuls in another order of summation when a step has many rows: the defect that the
 *   comparison of batches exists to find.
 *
 * A header of its own code, because tests of several folders use it. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_RELAY_H
#define PRESSRUN_TESTS_FUNCTIONAL_RELAY_H

#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/tensor.h"

enum { RELAY_AHEAD = 2, SPLIT_ABOVE_ROWS = 8 };

struct relay_options {
    bool is_late;  /* max_steps_in_flight 2 over an inner backend that has 1 */
    bool splits_k; /* linear matmuls into float32 of more than SPLIT_ABOVE_ROWS rows add K in two halves */
};

/* What went through, since relay_open. */
struct relay_counts {
    int64_t n_steps;
    int64_t n_decode_steps; /* without prompt rows */
    int64_t n_segments;     /* prompts or pieces of them */
    int64_t n_rows;
    int64_t n_decode_rows;
    int32_t widest_step;
    int32_t most_segments; /* in one step */
};

struct relay {
    struct backend inner;
    struct relay_options options;
    struct relay_counts counts;
    /* results of the late: ring by step */
    uint64_t n_ended;
    struct sample_result *results[RELAY_AHEAD]; /* [max_samples] */
    struct sample_top *top[RELAY_AHEAD];        /* [max_samples] */
    int32_t n_samples[RELAY_AHEAD];
    bool has_top[RELAY_AHEAD];
    struct tensor *half; /* input of a matmul with one half of its columns zero; NULL until one was split */
};

static inline struct relay *relay_of(struct backend_context *context) {
    return (struct relay *)context;
}

static inline void relay_close(struct backend_context *context) {
    struct relay *relay = relay_of(context);
    relay->inner.close(relay->inner.context);
    for (int i = 0; i < RELAY_AHEAD; i++) {
        free(relay->results[i]);
        free(relay->top[i]);
    }
    free(relay);
}

static inline enum status relay_memory_info(struct backend_context *context, size_t *free_bytes,
                                            size_t *total_bytes) {
    struct relay *relay = relay_of(context);
    return relay->inner.memory_info(relay->inner.context, free_bytes, total_bytes);
}

static inline enum status relay_tensor_new(struct backend_context *context, enum dtype dtype, int64_t rows,
                                           int64_t cols, struct tensor **out) {
    struct relay *relay = relay_of(context);
    return relay->inner.tensor_new(relay->inner.context, dtype, rows, cols, out);
}

static inline enum status relay_weight_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                           int64_t n_in, struct row_source rows, struct tensor **out) {
    struct relay *relay = relay_of(context);
    return relay->inner.weight_new(relay->inner.context, dtype, n_out, n_in, rows, out);
}

static inline enum status relay_weight_pair_new(struct backend_context *context, enum dtype dtype,
                                                int64_t n_out, int64_t n_in, struct row_source gate,
                                                struct row_source up, struct tensor **out) {
    struct relay *relay = relay_of(context);
    return relay->inner.weight_pair_new(relay->inner.context, dtype, n_out, n_in, gate, up, out);
}

static inline enum status relay_weights_wait(struct backend_context *context) {
    struct relay *relay = relay_of(context);
    return relay->inner.weights_wait(relay->inner.context);
}

static inline enum status relay_vector_new(struct backend_context *context, int64_t n, const float *host,
                                           struct tensor **out) {
    struct relay *relay = relay_of(context);
    return relay->inner.vector_new(relay->inner.context, n, host, out);
}

static inline void relay_tensor_free(struct backend_context *context, struct tensor *tensor) {
    struct relay *relay = relay_of(context);
    relay->inner.tensor_free(relay->inner.context, tensor);
}

static inline enum status relay_tensor_write(struct backend_context *context, struct tensor *tensor,
                                             int64_t rows, const void *host) {
    struct relay *relay = relay_of(context);
    return relay->inner.tensor_write(relay->inner.context, tensor, rows, host);
}

static inline enum status relay_tensor_read(struct backend_context *context, const struct tensor *tensor,
                                            int64_t rows, void *host) {
    struct relay *relay = relay_of(context);
    return relay->inner.tensor_read(relay->inner.context, tensor, rows, host);
}

static inline enum status relay_state_init(struct backend_context *context,
                                           const struct state_limits *limits) {
    struct relay *relay = relay_of(context);
    for (int i = 0; i < RELAY_AHEAD; i++) {
        relay->results[i] = calloc((size_t)limits->max_samples, sizeof *relay->results[i]);
        relay->top[i] = calloc((size_t)limits->max_samples, sizeof *relay->top[i]);
        RETURN_IF(!relay->results[i] || !relay->top[i], STATUS_INTERNAL, "no memory for the relay");
    }
    return relay->inner.state_init(relay->inner.context, limits);
}

static inline int32_t relay_decode_rows(struct backend_context *context, int32_t n) {
    struct relay *relay = relay_of(context);
    return relay->inner.decode_rows(relay->inner.context, n);
}

static inline enum status relay_slots_begin(struct backend_context *context, const struct slot_start *starts,
                                            int32_t n) {
    struct relay *relay = relay_of(context);
    return relay->inner.slots_begin(relay->inner.context, starts, n);
}

static inline enum status relay_slots_extend(struct backend_context *context,
                                             const struct slot_extension *extensions, int32_t n) {
    struct relay *relay = relay_of(context);
    return relay->inner.slots_extend(relay->inner.context, extensions, n);
}

static inline enum status relay_pages_copy(struct backend_context *context, const int32_t (*pairs)[2],
                                           int32_t n) {
    struct relay *relay = relay_of(context);
    return relay->inner.pages_copy(relay->inner.context, pairs, n);
}

static inline enum status relay_step_begin(struct backend_context *context, const struct batch *batch,
                                           bool *replayed) {
    struct relay *relay = relay_of(context);
    struct relay_counts *counts = &relay->counts;
    counts->n_steps++;
    counts->n_decode_steps += batch->n_segments == 0;
    counts->n_segments += batch->n_segments;
    counts->n_rows += batch->n_rows;
    counts->n_decode_rows += batch->n_decode;
    if (batch->n_rows > counts->widest_step)
        counts->widest_step = batch->n_rows;
    if (batch->n_segments > counts->most_segments)
        counts->most_segments = batch->n_segments;
    int32_t place = (int32_t)(relay->n_ended % RELAY_AHEAD);
    relay->n_samples[place] = batch->n_samples;
    relay->has_top[place] = batch->want_logprobs;
    return relay->inner.step_begin(relay->inner.context, batch, replayed);
}

static inline enum status relay_embed(struct backend_context *context, const struct embed_args *args) {
    struct relay *relay = relay_of(context);
    return relay->inner.embed(relay->inner.context, args);
}

static inline enum status relay_norm(struct backend_context *context, const struct norm_args *args) {
    struct relay *relay = relay_of(context);
    return relay->inner.norm(relay->inner.context, args);
}

/* out += weight . in over the columns [begin, end) alone: the others of a copy of in are zero. */
static inline enum status relay_add_columns(struct relay *relay, const struct matmul_args *args,
                                            const char *values, int64_t begin, int64_t end) {
    size_t cols = (size_t)args->in->cols, width = dtype_bytes(args->in->dtype);
    size_t rows = (size_t)args->n_rows;
    char *kept = calloc(rows * cols, width);
    RETURN_IF(!kept, STATUS_INTERNAL, "no memory for the relay");
    for (size_t row = 0; row < rows; row++)
        memcpy(kept + (row * cols + (size_t)begin) * width, values + (row * cols + (size_t)begin) * width,
               (size_t)(end - begin) * width);
    struct backend *inner = &relay->inner;
    enum status result = inner->tensor_write(inner->context, relay->half, args->n_rows, kept);
    free(kept);
    struct matmul_args part = *args;
    part.in = relay->half;
    part.sampled_rows = false; /* neither half is the logits */
    if (begin > 0) {
        part.bias = NULL;
        part.accumulate = true;
    }
    return result == STATUS_OK ? inner->matmul(inner->context, &part) : result;
}

static inline enum status relay_matmul(struct backend_context *context, const struct matmul_args *args) {
    struct relay *relay = relay_of(context);
    struct backend *inner = &relay->inner;
    bool is_linear =
        args->out->dtype == DTYPE_FLOAT32 && args->activation == ACTIVATION_NONE && args->softcap == 0;
    if (!relay->options.splits_k || !is_linear || args->n_rows <= SPLIT_ABOVE_ROWS)
        return inner->matmul(inner->context, args);
    const struct tensor *in = args->in;
    if (relay->half)
        inner->tensor_free(inner->context, relay->half);
    relay->half = NULL;
    TRY(inner->tensor_new(inner->context, in->dtype, in->rows, in->cols, &relay->half));
    char *values = malloc((size_t)args->n_rows * (size_t)in->cols * dtype_bytes(in->dtype));
    RETURN_IF(!values, STATUS_INTERNAL, "no memory for the relay");
    enum status result = inner->tensor_read(inner->context, in, args->n_rows, values);
    if (result == STATUS_OK)
        result = relay_add_columns(relay, args, values, 0, in->cols / 2);
    if (result == STATUS_OK)
        result = relay_add_columns(relay, args, values, in->cols / 2, in->cols);
    free(values);
    return result;
}

static inline enum status relay_attention_decode(struct backend_context *context,
                                                 const struct attention_args *args) {
    struct relay *relay = relay_of(context);
    return relay->inner.attention_decode(relay->inner.context, args);
}

static inline enum status relay_attention_prefill(struct backend_context *context,
                                                  const struct attention_args *args) {
    struct relay *relay = relay_of(context);
    return relay->inner.attention_prefill(relay->inner.context, args);
}

static inline enum status relay_sample(struct backend_context *context, const struct sample_args *args) {
    struct relay *relay = relay_of(context);
    return relay->inner.sample(relay->inner.context, args);
}

static inline enum status relay_step_end(struct backend_context *context, uint64_t *ticket) {
    struct relay *relay = relay_of(context);
    TRY(relay->inner.step_end(relay->inner.context, ticket));
    if (!relay->options.is_late)
        return STATUS_OK;
    int32_t place = (int32_t)(relay->n_ended % RELAY_AHEAD);
    TRY(relay->inner.step_wait(relay->inner.context, *ticket, relay->results[place],
                               relay->has_top[place] ? relay->top[place] : NULL));
    *ticket = ++relay->n_ended;
    return STATUS_OK;
}

static inline enum status relay_step_wait(struct backend_context *context, uint64_t ticket,
                                          struct sample_result *results, struct sample_top *top) {
    struct relay *relay = relay_of(context);
    if (!relay->options.is_late)
        return relay->inner.step_wait(relay->inner.context, ticket, results, top);
    RETURN_IF(ticket == 0 || ticket > relay->n_ended || ticket + RELAY_AHEAD <= relay->n_ended,
              STATUS_INTERNAL, "step_wait: ticket %llu of %llu steps", (unsigned long long)ticket,
              (unsigned long long)relay->n_ended);
    int32_t place = (int32_t)((ticket - 1) % RELAY_AHEAD);
    memcpy(results, relay->results[place], (size_t)relay->n_samples[place] * sizeof *results);
    if (top)
        memcpy(top, relay->top[place], (size_t)relay->n_samples[place] * sizeof *top);
    return STATUS_OK;
}

static inline enum status relay_measure_limits(struct backend_context *context, enum dtype dtype,
                                               struct device_limits *limits) {
    struct relay *relay = relay_of(context);
    return relay->inner.measure_limits(relay->inner.context, dtype, limits);
}

static inline int64_t relay_launches_per_step(struct backend_context *context) {
    struct relay *relay = relay_of(context);
    return relay->inner.launches_per_step(relay->inner.context);
}

/* Takes inner over, also on failure. The counts are relay_of(out->context)->counts. */
static inline enum status relay_open(const struct backend *inner, const struct relay_options *options,
                                     struct backend *out) {
    struct relay *relay = calloc(1, sizeof *relay);
    if (!relay) {
        inner->close(inner->context);
        return status_fail(STATUS_INTERNAL, "no memory for the relay");
    }
    relay->inner = *inner;
    relay->options = *options;
    *out = *inner;
    out->context = (struct backend_context *)relay;
    if (options->is_late)
        out->max_steps_in_flight = RELAY_AHEAD;
    out->close = relay_close;
    out->memory_info = relay_memory_info;
    out->tensor_new = relay_tensor_new;
    out->weight_new = relay_weight_new;
    out->weight_pair_new = relay_weight_pair_new;
    out->weights_wait = relay_weights_wait;
    out->vector_new = relay_vector_new;
    out->tensor_free = relay_tensor_free;
    out->tensor_write = relay_tensor_write;
    out->tensor_read = relay_tensor_read;
    out->state_init = relay_state_init;
    out->decode_rows = relay_decode_rows;
    out->slots_begin = relay_slots_begin;
    out->slots_extend = inner->slots_extend ? relay_slots_extend : NULL;
    out->pages_copy = relay_pages_copy;
    out->step_begin = relay_step_begin;
    out->embed = relay_embed;
    out->norm = relay_norm;
    out->matmul = relay_matmul;
    out->attention_decode = relay_attention_decode;
    out->attention_prefill = relay_attention_prefill;
    out->sample = relay_sample;
    out->step_end = relay_step_end;
    out->step_wait = relay_step_wait;
    out->measure_limits = relay_measure_limits;
    out->launches_per_step = relay_launches_per_step;
    return STATUS_OK;
}

#endif
