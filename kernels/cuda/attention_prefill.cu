/* attention (prefill): out[r, h, :] = softmax(scale q[r, h, :] . K[first..position(r), h / group, :]) . V for
 * the prompt rows of a step, causal within their segments; first is 0, or where the row's window begins.
 *
 * One kernel appends K (normed and rotated, where the model does that) and V of all rows to their pages; then
 * a block of one of the kernels of attention_prefill.cuh takes a tile of neighbouring rows of a segment and
 * one query head, does the same to q as it loads it, and walks the sequence's pages in ascending order from
 * the first that one of its rows sees, reading all K and V back from the pages, those of its own rows too. So
 * a row computes the same bits wherever the prompt was cut.
 *
 * Numerics: float32, softmax in powers of two. Every row keeps its own running maximum and rescales by itself
 * after each tile of keys; a tile of which it sees nothing leaves it unchanged, and positions that it does
 * not see enter no sum.
 */
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

enum { APPEND_THREADS = 128 };

/* One block per row. */
template <typename T, typename KV>
__global__ void __launch_bounds__(APPEND_THREADS)
    kernel_attention_append(const attention_params p, int first_row) {
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *p.next_item = 0;
    int row = first_row + blockIdx.x;
    int position = p.position[row];
    int page = p.page_table[(int64_t)p.slot[row] * p.max_pages + position / PAGE_TOKENS];
    if (p.k_norm) {
        for (int kv_head = threadIdx.x / WARP_LANES; kv_head < p.layout.n_kv_heads;
             kv_head += APPEND_THREADS / WARP_LANES)
            attention_append_normed<T, KV>(p, row, kv_head, page, position % PAGE_TOKENS,
                                           threadIdx.x % WARP_LANES);
        return;
    }
    int threads_per_head = p.layout.head_dim / 8;
    int heads_at_once = APPEND_THREADS / threads_per_head;
    for (int kv_head = threadIdx.x / threads_per_head; kv_head < p.layout.n_kv_heads;
         kv_head += heads_at_once)
        attention_append<T, KV>(p, row, kv_head, page, position % PAGE_TOKENS, threadIdx.x % threads_per_head,
                                threads_per_head);
}

using append_kernel = void (*)(const attention_params, int);

append_kernel append_kernel_for(enum dtype dtype, enum dtype kv_dtype) {
    if (dtype == DTYPE_FLOAT32)
        return kv_dtype == DTYPE_FLOAT32 ? kernel_attention_append<float, float>
                                         : kernel_attention_append<float, bfloat16>;
    return kv_dtype == DTYPE_FLOAT32 ? kernel_attention_append<bfloat16, float>
                                     : kernel_attention_append<bfloat16, bfloat16>;
}

/* Of the kernels for bfloat16 rows over the state's pages. */
bool has_wgmma_kernel(const struct backend_context *context, int32_t head_dim) {
    return context->has_wgmma && attention_prefill_wgmma_tile_rows(head_dim) > 0;
}

bool uses_wgmma(const struct backend_context *context) {
    return context->limits.kv_dtype == DTYPE_BFLOAT16 && has_wgmma_kernel(context, context->limits.head_dim);
}

} // namespace

int32_t attention_prefill_tile_rows(const struct backend_context *context) {
    return uses_wgmma(context) ? attention_prefill_wgmma_tile_rows(context->limits.head_dim)
                               : (int32_t)PREFILL_STRIP_ROWS;
}

size_t attention_prefill_shared_bytes(const struct backend_context *context, int32_t head_dim) {
    return has_wgmma_kernel(context, head_dim) ? 0 : attention_prefill_mma_shared_bytes(head_dim);
}

enum status cuda_attention_prefill(struct backend_context *context, const struct attention_args *args) {
    TRY(cuda_operation_begin(context, "attention_prefill"));
    TRY(attention_check(context, args, "attention_prefill"));
    if (context->step.n_tiles == 0)
        return STATUS_OK;
    attention_params p = attention_params_for(context, args);
    enum dtype dtype = args->qkv->dtype, kv_dtype = context->limits.kv_dtype;
    TRY(cuda_launch(context, "attention_prefill", append_kernel_for(dtype, kv_dtype),
                    dim3(context->step.n_rows - context->step.n_decode), APPEND_THREADS, 0, p,
                    context->step.n_decode));
    if (dtype == DTYPE_BFLOAT16 && kv_dtype == DTYPE_BFLOAT16)
        return uses_wgmma(context) ? attention_prefill_wgmma(context, p, args->qkv)
                                   : attention_prefill_mma(context, p);
    return attention_prefill_fma(context, p, dtype, kv_dtype);
}
