/* embed: hidden[r, :] = scale * token_embedding[token[r], :] + position_embedding[position[r], :].
 *
 * One block per row; a row depends on nothing but its token and position. Token -1 stands for the token last
 * sampled in the row's slot. An id outside a table becomes NaN, which the next norm reports as the row's
 * fault. */
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/weight_layout.h"

namespace {

enum { EMBED_THREADS = 128, EMBED_VECTOR = 4 };

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

/* Columns [column, column + 4) of a row of a table, which is a weight. */
__device__ __forceinline__ float4 table_load_4(const float *table, int64_t stride, int64_t row, int column) {
    return load_4(table + row * stride + column);
}

__device__ __forceinline__ float4 table_load_4(const bfloat16 *table, int64_t k_blocks, int64_t row,
                                               int column) {
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(table);
    bytes += weight_offset(row, column / TILE_CHUNK_ELEMENTS, k_blocks);
    return load_4(reinterpret_cast<const bfloat16 *>(bytes) + column % TILE_CHUNK_ELEMENTS);
}

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
    const T *tokens = static_cast<const T *>(p.tokens), *positions = static_cast<const T *>(p.positions);
    float *hidden = p.hidden + row * p.hidden_stride;
    for (int column = threadIdx.x * EMBED_VECTOR; column < p.n_embd; column += EMBED_THREADS * EMBED_VECTOR) {
        float4 sum = table_load_4(tokens, p.table_stride, known ? token : 0, column);
        /* Rounded before the position is added, whatever the compiler may contract. */
        sum = make_float4(__fmul_rn(sum.x, p.scale), __fmul_rn(sum.y, p.scale), __fmul_rn(sum.z, p.scale),
                          __fmul_rn(sum.w, p.scale));
        if (p.positions) {
            float4 add = table_load_4(positions, p.table_stride, known ? position : 0, column);
            sum = make_float4(sum.x + add.x, sum.y + add.y, sum.z + add.z, sum.w + add.w);
        }
        if (!known)
            sum.x = sum.y = sum.z = sum.w = __int_as_float(0x7FC00000);
        store_4(hidden + column, sum);
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
