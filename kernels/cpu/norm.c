/* norm: layer norm by rows; isa_norm.c has the arithmetic. */
#include "kernels/cpu/context.h"

enum status cpu_norm(struct backend_context *context, const struct norm_args *args) {
    const struct batch *batch = &context->batch;
    int64_t n_embd = args->weight->cols;
    int32_t n = args->sampled_rows ? args->n : batch->n_rows;
    int32_t first = args->sampled_rows ? args->first_sample : 0;
    RETURN_IF(args->sampled_rows && (first < 0 || n < 0 || first > batch->n_samples - n), STATUS_INTERNAL,
              "norm: samples [%d, %d) of a step that has %d", first, first + n, batch->n_samples);
    TRY(cpu_tensor_check(args->weight, "norm", "weight", TENSOR_VECTOR, DTYPE_FLOAT32, 1, n_embd));
    if (args->bias)
        TRY(cpu_tensor_check(args->bias, "norm", "bias", TENSOR_VECTOR, DTYPE_FLOAT32, 1, n_embd));
    TRY(cpu_tensor_check(args->hidden, "norm", "hidden", TENSOR_ROWS, DTYPE_FLOAT32, batch->n_rows, n_embd));
    TRY(cpu_tensor_check(args->out, "norm", "out", TENSOR_ROWS, -1, n, n_embd));

    struct norm_job job = {
        .weight = args->weight->data,
        .bias = args->bias ? args->bias->data : NULL,
        .n = n_embd,
        .epsilon = args->epsilon,
        .out_dtype = args->out->dtype,
    };
    size_t out_row_bytes = (size_t)n_embd * dtype_bytes(args->out->dtype);
    /* A norm row costs about as much as four multiply-adds a feature. */
#pragma omp parallel for num_threads(context_threads(context, 4 * n * n_embd)) schedule(static)
    for (int32_t i = 0; i < n; i++) {
        int32_t row = args->sampled_rows ? batch->sample_row[first + i] : i;
        const float *in = (const float *)args->hidden->data + row * n_embd;
        char *out = (char *)args->out->data + (size_t)i * out_row_bytes;
        if (!context->isa->norm_row(&job, in, out)) {
            int32_t slot = args->sampled_rows ? batch->sample_slot[first + i] : batch->slot[row];
            cpu_note_fault(context, slot, batch->position[row], args->site);
        }
    }
    return STATUS_OK;
}
