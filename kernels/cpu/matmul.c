/* matmul: W.X^T with packed weights; isa_matmul.c has the arithmetic. Threads take contiguous ranges of
 * panels, so that each streams its own part of the weight. */
#include "kernels/cpu/context.h"

/* A call, for the threads: ranges of panels in steps of a tile's. */
struct matmul_call {
    struct matmul_job job;
    const struct cpu_isa *isa;
    int64_t n_panels;
    int64_t n_steps;
    int64_t n_tasks;
};

static void matmul_range(void *argument, int64_t task, int thread) {
    (void)thread;
    const struct matmul_call *call = argument;
    int64_t first = pool_share(call->n_steps, call->n_tasks, task) * PANEL_STEP;
    int64_t end = pool_share(call->n_steps, call->n_tasks, task + 1) * PANEL_STEP;
    call->isa->matmul_panels(&call->job, first, end < call->n_panels ? end : call->n_panels);
}

enum status cpu_matmul(struct backend_context *context, const struct matmul_args *args) {
    int64_t n_out = args->weight->rows;
    int64_t n_in = args->weight->cols;
    bool is_gated =
        args->activation == ACTIVATION_SILU_GATED || args->activation == ACTIVATION_GELU_TANH_GATED;
    TRY(cpu_tensor_check(args->weight, "matmul", "weight", TENSOR_WEIGHT, -1, n_out, n_in));
    RETURN_IF(is_gated != (args->weight->pair_rows > 0), STATUS_INTERNAL,
              "matmul: a gated activation and a weight made by weight_pair_new belong together");
    RETURN_IF(is_gated && (args->bias || args->accumulate), STATUS_INTERNAL,
              "matmul: a gated activation takes neither a bias nor a residual");
    RETURN_IF(args->softcap != 0 && (!(args->softcap > 0) || args->activation || args->accumulate),
              STATUS_INTERNAL,
              "matmul: a soft cap is above 0 and takes neither an activation nor a residual");
    enum dtype dtype = args->weight->dtype;
    TRY(cpu_tensor_check(args->in, "matmul", "in", TENSOR_ROWS, dtype, args->n_rows, n_in));
    TRY(cpu_tensor_check(args->out, "matmul", "out", TENSOR_ROWS, args->accumulate ? DTYPE_FLOAT32 : -1,
                         args->n_rows, n_out));
    RETURN_IF(args->sampled_rows &&
                  (args->first_sample < 0 || args->first_sample > context->batch.n_samples - args->n_rows),
              STATUS_INTERNAL, "matmul: logits of entries [%d, %d) of a step that has %d", args->first_sample,
              args->first_sample + args->n_rows, context->batch.n_samples);
    if (args->bias)
        TRY(cpu_tensor_check(args->bias, "matmul", "bias", TENSOR_VECTOR, DTYPE_FLOAT32, 1, n_out));

    struct matmul_call call = {
        .job =
            {
                .weight = args->weight->data,
                .bias = args->bias ? args->bias->data : NULL,
                .in = args->in->data,
                .out = args->out->data,
                .n_out = n_out,
                .n_in = n_in,
                .n_rows = args->n_rows,
                .dtype = dtype,
                .out_dtype = args->out->dtype,
                .activation = args->activation,
                .accumulate = args->accumulate,
                .softcap = args->softcap,
            },
        .isa = context->isa,
        .n_panels = (n_out + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS * (is_gated ? 2 : 1),
    };
    call.n_steps = (call.n_panels + PANEL_STEP - 1) / PANEL_STEP;
    call.n_tasks = context_tasks(context, call.n_steps, n_out * n_in * args->n_rows * (is_gated ? 2 : 1));
    pool_run(context->pool, call.n_tasks, matmul_range, &call);
    return STATUS_OK;
}
