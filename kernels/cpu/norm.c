/* norm: by rows; isa_norm.c has the arithmetic. */
#include "kernels/cpu/context.h"

/* A call, for the threads. */
struct norm_call {
    struct backend_context *context;
    const struct norm_args *args;
    struct norm_job row;
    int32_t n;
    int64_t n_tasks;
};

static void norm_rows(void *argument, int64_t task, int thread) {
    (void)thread;
    const struct norm_call *call = argument;
    const struct norm_args *args = call->args;
    const struct batch *batch = &call->context->batch;
    size_t out_row_bytes = (size_t)call->row.n * dtype_bytes(args->out->dtype);
    int64_t end = pool_share(call->n, call->n_tasks, task + 1);
    for (int64_t i = pool_share(call->n, call->n_tasks, task); i < end; i++) {
        int64_t row = args->sampled_rows ? batch->sample_row[args->first_sample + i] : i;
        const float *in = (const float *)args->hidden->data + row * call->row.n;
        char *out = (char *)args->out->data + (size_t)i * out_row_bytes;
        if (!call->context->isa->norm_row(&call->row, in, out)) {
            int32_t slot = args->sampled_rows ? batch->sample_slot[args->first_sample + i] : batch->slot[row];
            cpu_note_fault(call->context, slot, batch->position[row], args->site);
        }
    }
}

enum status cpu_norm(struct backend_context *context, const struct norm_args *args) {
    const struct batch *batch = &context->batch;
    int64_t n_embd = args->weight->cols;
    int32_t n = args->sampled_rows ? args->n : batch->n_rows;
    int32_t first = args->sampled_rows ? args->first_sample : 0;
    RETURN_IF(args->sampled_rows && (first < 0 || n < 0 || first > batch->n_samples - n), STATUS_INTERNAL,
              "norm: samples [%d, %d) of a step that has %d", first, first + n, batch->n_samples);
    TRY(cpu_tensor_check(args->weight, "norm", "weight", TENSOR_VECTOR, DTYPE_FLOAT32, 1, n_embd));
    RETURN_IF(args->kind == NORM_RMS && args->bias, STATUS_INTERNAL, "norm: an RMS norm has no bias");
    if (args->bias)
        TRY(cpu_tensor_check(args->bias, "norm", "bias", TENSOR_VECTOR, DTYPE_FLOAT32, 1, n_embd));
    TRY(cpu_tensor_check(args->hidden, "norm", "hidden", TENSOR_ROWS, DTYPE_FLOAT32, batch->n_rows, n_embd));
    RETURN_IF(args->accumulate && (args->sampled_rows || args->out == args->hidden), STATUS_INTERNAL,
              "norm: accumulate is for all rows, and out is not hidden");
    TRY(cpu_tensor_check(args->out, "norm", "out", TENSOR_ROWS, args->accumulate ? DTYPE_FLOAT32 : -1, n,
                         n_embd));

    struct norm_call call = {
        .context = context,
        .args = args,
        .row =
            {
                .kind = args->kind,
                .weight = args->weight->data,
                .bias = args->bias ? args->bias->data : NULL,
                .n = n_embd,
                .epsilon = args->epsilon,
                .out_dtype = args->out->dtype,
                .accumulate = args->accumulate,
            },
        .n = n,
        /* A feature costs about as much as four multiply-adds. */
        .n_tasks = context_tasks(context, n, 4 * n * n_embd),
    };
    pool_run(context->pool, call.n_tasks, norm_rows, &call);
    return STATUS_OK;
}
