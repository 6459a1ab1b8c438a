/* matmul: out[r, o] = activation(sum over k of weight[o, k] in[r, k] + bias[o]), or out[r, o] += that, or
 * out[r, o] = softcap * tanh(that / softcap).
 *
 * Which kernel computes it follows the dtype, the device and the shape; the bits of a row do not (see
 * matmul_mma.cu, matmul_wgmma.cu: tensor-core sums over k in steps of 16; matmul_fma.cu: float32). */
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/network.cuh"

namespace {

/* Sets p.head where the rows are logits whose tokens the kernel of Hopper can choose; the others write all.
 */
enum status head_entries(struct backend_context *context, const struct matmul_args *args, matmul_params *p) {
    if (!args->sampled_rows)
        return STATUS_OK;
    RETURN_IF(context->mode == STEP_NONE || args->first_sample < 0 ||
                  args->first_sample > context->step.n_samples - args->n_rows,
              STATUS_INTERNAL, "matmul: logits of entries %d to %d of a step that has %d", args->first_sample,
              args->first_sample + args->n_rows, context->mode == STEP_NONE ? 0 : context->step.n_samples);
    if (context->step.head && args->weight->dtype == DTYPE_BFLOAT16 && context->has_wgmma &&
        matmul_wgmma_has_end(*p) && p->n_out == context->limits.n_vocab && p->out_float32 && !p->accumulate &&
        !p->bias && p->activation == ACTIVATION_NONE) {
        p->head = context->step.head + args->first_sample;
        p->maxima = context->state.maxima;
        p->maxima_stride = head_groups_stride(p->n_out, HEAD_GROUP);
        context->step.head_first = args->first_sample;
        context->step.head_end = args->first_sample + args->n_rows;
    }
    return STATUS_OK;
}

} // namespace

enum status matmul_params_for(const struct matmul_args *args, matmul_params *out_params) {
    const struct tensor *weight = args->weight, *in = args->in, *out = args->out;
    RETURN_IF(in->dtype != weight->dtype || in->cols != weight->cols || in->rows < args->n_rows,
              STATUS_INTERNAL, "matmul: in must be [>= %d, %lld] of the weight's dtype, is [%lld, %lld]",
              args->n_rows, (long long)weight->cols, (long long)in->rows, (long long)in->cols);
    bool gated = args->activation == ACTIVATION_SILU_GATED || args->activation == ACTIVATION_GELU_TANH_GATED;
    int64_t width = gated ? weight->pair_rows : weight->rows;
    RETURN_IF(gated != (weight->pair_rows > 0), STATUS_INTERNAL,
              "matmul: a gated activation and a weight made by weight_pair_new belong together");
    RETURN_IF(gated && (args->bias || args->accumulate), STATUS_INTERNAL,
              "matmul: a gated activation has neither bias nor accumulate");
    RETURN_IF(args->softcap != 0 &&
                  (args->softcap < 0 || args->activation != ACTIVATION_NONE || args->accumulate),
              STATUS_INTERNAL, "matmul: softcap %g; it is positive, without activation and accumulate",
              (double)args->softcap);
    RETURN_IF(out->cols != width || out->rows < args->n_rows ||
                  (out->dtype != DTYPE_FLOAT32 && (args->accumulate || out->dtype != weight->dtype)),
              STATUS_INTERNAL, "matmul: out must be [>= %d, %lld] (float32 to accumulate), is [%lld, %lld]",
              args->n_rows, (long long)width, (long long)out->rows, (long long)out->cols);
    RETURN_IF(args->bias && args->bias->cols != weight->rows, STATUS_INTERNAL,
              "matmul: bias has %lld elements, expected %lld", (long long)args->bias->cols,
              (long long)weight->rows);
    matmul_params p = {};
    p.weight = weight->data;
    p.in = in->data;
    p.out = out->data;
    p.bias = args->bias ? static_cast<const float *>(args->bias->data) : nullptr;
    p.in_stride = tensor_stride(in);
    p.out_stride = tensor_stride(out);
    p.n_out = (int32_t)weight->rows;
    p.n_rows = args->n_rows;
    p.n_in = (int32_t)tensor_stride(in);
    p.k_blocks = (int32_t)weight_k_blocks(weight->cols);
    p.split =
        args->accumulate && weight->cols > MATMUL_LONGEST_CHAIN ? (p.k_blocks / 2 + 1) / 2 * 2 : p.k_blocks;
    p.activation = args->activation;
    p.gated = gated;
    p.softcap = args->softcap;
    p.softcap_inverse = args->softcap != 0 ? 1.0f / args->softcap : 0.0f;
    p.width = (int32_t)width;
    p.accumulate = args->accumulate;
    p.out_float32 = out->dtype == DTYPE_FLOAT32;
    p.starts_next_late = args->n_rows >= MATMUL_LATE_ROWS;
    *out_params = p;
    return STATUS_OK;
}

enum status cuda_matmul(struct backend_context *context, const struct matmul_args *args) {
    /* It reads nothing of the step, so tools may call it outside of one. */
    const bool in_step = context->mode != STEP_NONE;
    if (!in_step)
        context->chained = false;
    else
        TRY(cuda_operation_begin(context, "matmul"));
    matmul_params p;
    TRY(matmul_params_for(args, &p));
    if (p.n_rows == 0)
        return STATUS_OK;
    bool taken = false;
    if (in_step)
        TRY(network_plan_matmul(context, args, &taken));
    if (taken)
        return STATUS_OK;
    TRY(head_entries(context, args, &p)); /* of what is launched here: a whole network writes its logits */
    if (args->weight->dtype == DTYPE_FLOAT32)
        return matmul_fma(context, p);
    return context->has_wgmma && matmul_wgmma_has_end(p) ? matmul_wgmma(context, p, args->in)
                                                         : matmul_mma(context, p);
}
