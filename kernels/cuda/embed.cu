/* embed: hidden[r, :] = scale * token_embedding[token[r], :] + position_embedding[position[r], :].
 *
 * One block per row; a row depends on nothing but its token and position. Token -1 stands for the token last
 * sampled in the row's slot. An id outside a table becomes NaN, which the next norm reports as the row's
 * fault. */
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/embed.cuh"
#include "kernels/cuda/network.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

enum { EMBED_THREADS = 128 };

struct embed_params {
    float *hidden;         /* [n_rows, n_embd] float32 */
    const void *tokens;    /* [n_vocab, n_embd] */
    const void *positions; /* [n_positions, n_embd], or NULL */
    int64_t hidden_stride;
    int64_t table_stride; /* float32: elements of a row; bfloat16: blocks in a row of blocks */
    int64_t n_vocab;
    int64_t n_positions;
    int32_t n_embd;
    float scale;
    const int32_t *token;      /* [n_rows] */
    const int32_t *position;   /* [n_rows] */
    const int32_t *slot;       /* [n_rows] */
    const int32_t *last_token; /* [n_slots + 1] */
    unsigned long long *fault; /* [n_slots + 1] */
};

template <typename T> __global__ void __launch_bounds__(EMBED_THREADS) kernel_embed(const embed_params p) {
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int row = blockIdx.x;
    int32_t slot = p.slot[row];
    int32_t position = p.position[row];
    int32_t token = p.token[row];
    if (token < 0)
        token = p.last_token[slot];
    if (threadIdx.x == 0 && position == 0)
        p.fault[slot] = NO_FAULT;

    bool known = (uint32_t)token < p.n_vocab && (!p.positions || (uint32_t)position < p.n_positions);
    const T *tokens = static_cast<const T *>(p.tokens);
    const T *positions = static_cast<const T *>(p.positions);
    float *hidden = p.hidden + row * p.hidden_stride;
    for (int column = threadIdx.x * EMBED_VECTOR; column < p.n_embd; column += EMBED_THREADS * EMBED_VECTOR) {
        store_4(hidden + column,
                embed_4(tokens, positions, p.table_stride, known, token, position, p.scale, column));
    }
}

} // namespace

enum status cuda_embed(struct backend_context *context, const struct embed_args *args) {
    TRY(cuda_operation_begin(context, "embed"));
    const struct tensor *tokens = args->token_embedding, *positions = args->position_embedding;
    RETURN_IF(args->hidden->dtype != DTYPE_FLOAT32 || args->hidden->cols != tokens->cols ||
                  args->hidden->rows < context->step.n_rows,
              STATUS_INTERNAL, "embed: hidden must be float32 [>= %d, %lld], is [%lld, %lld]",
              context->step.n_rows, (long long)tokens->cols, (long long)args->hidden->rows,
              (long long)args->hidden->cols);
    RETURN_IF(positions && (positions->cols != tokens->cols || positions->dtype != tokens->dtype),
              STATUS_INTERNAL, "embed: token and position embedding differ in width or dtype");
    if (context->step.n_rows == 0)
        return STATUS_OK;
    bool taken;
    TRY(network_plan_embed(context, args, &taken));
    if (taken)
        return STATUS_OK;
    embed_params p = {};
    p.hidden = static_cast<float *>(args->hidden->data);
    p.tokens = tokens->data;
    p.positions = positions ? positions->data : nullptr;
    p.hidden_stride = tensor_stride(args->hidden);
    p.table_stride = tokens->dtype == DTYPE_FLOAT32 ? tensor_stride(tokens) : weight_k_blocks(tokens->cols);
    p.n_vocab = tokens->rows;
    p.n_positions = positions ? positions->rows : 0;
    p.n_embd = (int32_t)tokens->cols;
    p.scale = args->scale == 0 ? 1.0f : args->scale;
    p.token = context->step.token;
    p.position = context->step.position;
    p.slot = context->step.slot;
    p.last_token = context->state.last_token;
    p.fault = context->state.fault;
    auto kernel = tokens->dtype == DTYPE_FLOAT32 ? kernel_embed<float> : kernel_embed<bfloat16>;
    return cuda_launch(context, "embed", kernel, dim3(context->step.n_rows), EMBED_THREADS, 0, p);
}
