/* matmul: W.X^T with packed weights; isa_matmul.c has the arithmetic. Threads take contiguous ranges of
 * panels, so that each streams its own part of the weight. */
#include "kernels/cpu/context.h"

#include <string.h>

void cpu_weight_pack(enum dtype dtype, int64_t n_out, int64_t n_in, const void *host, void *packed,
                     int n_threads) {
    int64_t n_panels = (n_out + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS;
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t panel = 0; panel < n_panels; panel++) {
        for (int64_t k = 0; k < n_in; k++) {
            for (int64_t lane = 0; lane < PANEL_OUTPUTS; lane++) {
                int64_t output = panel * PANEL_OUTPUTS + lane;
                int64_t to = (panel * n_in + k) * PANEL_OUTPUTS + lane;
                int64_t from = output * n_in + k;
                if (dtype == DTYPE_FLOAT32)
                    ((float *)packed)[to] = output < n_out ? ((const float *)host)[from] : 0.0f;
                else
                    ((uint16_t *)packed)[to] = output < n_out ? ((const uint16_t *)host)[from] : 0;
            }
        }
    }
}

enum status cpu_matmul(struct backend_context *context, const struct matmul_args *args) {
    int64_t n_out = args->weight->rows;
    int64_t n_in = args->weight->cols;
    TRY(cpu_tensor_check(args->weight, "matmul", "weight", TENSOR_WEIGHT, -1, n_out, n_in));
    TRY(cpu_tensor_check(args->in, "matmul", "in", TENSOR_ROWS, -1, args->n_rows, n_in));
    TRY(cpu_tensor_check(args->out, "matmul", "out", TENSOR_ROWS, args->accumulate ? DTYPE_FLOAT32 : -1,
                         args->n_rows, n_out));
    if (args->bias)
        TRY(cpu_tensor_check(args->bias, "matmul", "bias", TENSOR_VECTOR, DTYPE_FLOAT32, 1, n_out));

    struct matmul_job job = {
        .weight = args->weight->data,
        .bias = args->bias ? args->bias->data : NULL,
        .in = args->in->data,
        .out = args->out->data,
        .n_out = n_out,
        .n_in = n_in,
        .n_rows = args->n_rows,
        .weight_dtype = args->weight->dtype,
        .in_dtype = args->in->dtype,
        .out_dtype = args->out->dtype,
        .activation = args->activation,
        .accumulate = args->accumulate,
    };
    int64_t n_panels = (n_out + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS;
    int n_threads = context_threads(context, n_out * n_in * args->n_rows);
    if (n_threads == 1) {
        context->isa->matmul_panels(&job, 0, n_panels);
        return STATUS_OK;
    }
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int part = 0; part < n_threads; part++)
        context->isa->matmul_panels(&job, n_panels * part / n_threads, n_panels * (part + 1) / n_threads);
    return STATUS_OK;
}
