/* attention (prefill): out[r, h, :] = softmax(scale q[r, h, :] . K[0..position(r), h / group, :]) . V for the
 * prompt rows of a step, causal within their segments.
 *
 * One kernel appends K and V of all rows to their pages; then one block takes a tile of neighbouring rows of
 * a segment and one query head, and walks the sequence's pages from position 0 in ascending order, reading
 * all K and V back from the pages, those of its own rows too. So a row computes the same bits wherever the
 * prompt was cut.
 *
 * Numerics: float32, softmax in powers of two. Every row keeps its own running maximum and rescales by itself
 * after each page; a page beyond a row's position leaves it unchanged, and positions beyond it enter no sum.
 */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

enum { APPEND_THREADS = 128 };

/* One block per row. */
template <typename T, typename KV>
__global__ void __launch_bounds__(APPEND_THREADS)
    kernel_attention_append(const attention_params p, int first_row) {
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int row = first_row + blockIdx.x;
    int position = p.position[row];
    int page = p.page_table[(int64_t)p.slot[row] * p.max_pages + position / PAGE_TOKENS];
    int threads_per_head = p.layout.head_dim / 8;
    int heads_at_once = APPEND_THREADS / threads_per_head;
    for (int kv_head = threadIdx.x / threads_per_head; kv_head < p.layout.n_kv_heads;
         kv_head += heads_at_once)
        attention_append<T, KV>(p, row, kv_head, page, position % PAGE_TOKENS, threadIdx.x % threads_per_head,
                                threads_per_head);
}

/* ---- any dtype: one warp per row, lanes over the keys of a page, then over columns ---- */

enum {
    ROWS_WARPS = 8,
    ROWS_THREADS = ROWS_WARPS * WARP_LANES,
    ROWS_EACH = 2,
    ROWS_BLOCK = ROWS_WARPS * ROWS_EACH
};

template <typename T, typename KV, int HEAD_DIM>
__global__ void __launch_bounds__(ROWS_THREADS) kernel_attention_rows(const attention_params p) {
    constexpr int COLUMNS = (HEAD_DIM + WARP_LANES - 1) / WARP_LANES; /* of out, per lane */
    extern __shared__ float shared[];
    float *q_tile = shared;                                /* [ROWS_BLOCK][HEAD_DIM] */
    float *k_tile = q_tile + ROWS_BLOCK * HEAD_DIM;        /* [PAGE_TOKENS][HEAD_DIM + 1] */
    float *v_tile = k_tile + PAGE_TOKENS * (HEAD_DIM + 1); /* [PAGE_TOKENS][HEAD_DIM] */
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();

    constexpr int PARTS = PREFILL_TILE_ROWS / ROWS_BLOCK;
    struct segment tile = p.tiles[blockIdx.x / PARTS];
    int first = blockIdx.x % PARTS * ROWS_BLOCK;
    if (first >= tile.n_rows)
        return;
    int n_rows = min((int)ROWS_BLOCK, tile.n_rows - first);
    int first_row = tile.row + first, first_position = tile.position + first;
    int head = blockIdx.y, kv_head = head / p.group;
    int n_keys = first_position + n_rows;
    int thread = threadIdx.x, lane = thread % WARP_LANES, warp = thread / WARP_LANES;
    const int32_t *pages = p.page_table + (int64_t)tile.slot * p.max_pages;

    for (int index = thread; index < n_rows * HEAD_DIM; index += ROWS_THREADS) {
        int row = index / HEAD_DIM, column = index % HEAD_DIM;
        q_tile[index] = to_float(
            static_cast<const T *>(p.qkv)[(first_row + row) * p.qkv_stride + head * HEAD_DIM + column]);
    }
    float largest[ROWS_EACH], total[ROWS_EACH], out[ROWS_EACH][COLUMNS] = {};
#pragma unroll
    for (int e = 0; e < ROWS_EACH; e++)
        largest[e] = -INFINITY, total[e] = 0;

    for (int first_key = 0; first_key < n_keys; first_key += PAGE_TOKENS) {
        __syncthreads(); /* all warps are done with the previous page */
        size_t offset = kv_offset(p.layout, p.layer, pages[first_key / PAGE_TOKENS], kv_head, 0);
        for (int index = thread * 8; index < PAGE_TOKENS * HEAD_DIM; index += ROWS_THREADS * 8) {
            int key = index / HEAD_DIM, column = index % HEAD_DIM;
            float k[8] = {}, v[8] = {};
            if (first_key + key < n_keys) {
                load_8(k, static_cast<const KV *>(p.k) + offset + index);
                load_8(v, static_cast<const KV *>(p.v) + offset + index);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                k_tile[key * (HEAD_DIM + 1) + column + i] = k[i];
                v_tile[key * HEAD_DIM + column + i] = v[i];
            }
        }
        __syncthreads(); /* the page is complete */
#pragma unroll
        for (int e = 0; e < ROWS_EACH; e++) {
            int row = warp * ROWS_EACH + e;
            int n_visible =
                first_position + row + 1 - first_key; /* keys of this page up to the row's position */
            if (row >= n_rows || n_visible <= 0)
                continue;
            float dot = 0;
            for (int column = 0; column < HEAD_DIM; column++)
                dot = fmaf(q_tile[row * HEAD_DIM + column], k_tile[lane * (HEAD_DIM + 1) + column], dot);
            float s = lane < n_visible ? dot * p.scale : -INFINITY;
            float larger = fmaxf(largest[e], lanes_max<WARP_LANES>(s));
            float rescale = ptx_exp2(largest[e] - larger), weight = ptx_exp2(s - larger);
            largest[e] = larger;
            total[e] = fmaf(total[e], rescale, lanes_sum<WARP_LANES>(weight));
#pragma unroll
            for (int i = 0; i < COLUMNS; i++)
                out[e][i] *= rescale;
            for (int key = 0; key < min(n_visible, (int)PAGE_TOKENS); key++) {
                float w = __shfl_sync(ALL_LANES, weight, key);
#pragma unroll
                for (int i = 0; i < COLUMNS; i++)
                    if (HEAD_DIM % WARP_LANES == 0 || lane + i * WARP_LANES < HEAD_DIM)
                        out[e][i] = fmaf(w, v_tile[key * HEAD_DIM + lane + i * WARP_LANES], out[e][i]);
            }
        }
    }
#pragma unroll
    for (int e = 0; e < ROWS_EACH; e++) {
        int row = warp * ROWS_EACH + e;
        if (row >= n_rows)
            continue;
        T *to = static_cast<T *>(p.out) + (first_row + row) * p.out_stride + head * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (HEAD_DIM % WARP_LANES == 0 || lane + i * WARP_LANES < HEAD_DIM)
                to[lane + i * WARP_LANES] = from_float<T>(out[e][i] / total[e]);
    }
}

/* ---- launch shape ---- */

using attention_kernel = void (*)(const attention_params);

template <typename T, typename KV> attention_kernel rows_kernel_for(int head_dim) {
    switch (head_dim) {
    case 16:
        return kernel_attention_rows<T, KV, 16>;
    case 32:
        return kernel_attention_rows<T, KV, 32>;
    case 64:
        return kernel_attention_rows<T, KV, 64>;
    case 96:
        return kernel_attention_rows<T, KV, 96>;
    case 128:
        return kernel_attention_rows<T, KV, 128>;
    case 256:
        return kernel_attention_rows<T, KV, 256>;
    default:
        return nullptr;
    }
}

template <typename T, typename KV>
enum status attention_prefill(struct backend_context *context, const attention_params &p) {
    int32_t n_rows = context->step.n_rows - context->step.n_decode, head_dim = context->limits.head_dim;
    TRY(cuda_launch(context, "attention_prefill", kernel_attention_append<T, KV>, dim3(n_rows),
                    APPEND_THREADS, 0, p, context->step.n_decode));
    size_t shared_floats =
        (size_t)ROWS_BLOCK * head_dim + PAGE_TOKENS * (head_dim + 1) + PAGE_TOKENS * head_dim;
    dim3 grid(context->step.n_tiles * (PREFILL_TILE_ROWS / ROWS_BLOCK), p.n_heads);
    return cuda_launch(context, "attention_prefill", rows_kernel_for<T, KV>(head_dim), grid, ROWS_THREADS,
                       shared_floats * sizeof(float), p);
}

} // namespace

enum status cuda_attention_prefill(struct backend_context *context, const struct attention_args *args) {
    TRY(cuda_operation_begin(context, "attention_prefill"));
    TRY(attention_check(context, args, "attention_prefill"));
    if (context->step.n_tiles == 0)
        return STATUS_OK;
    attention_params p = attention_params_for(context, args);
    bool kv_float32 = context->limits.kv_dtype == DTYPE_FLOAT32;
    if (args->qkv->dtype == DTYPE_FLOAT32)
        return kv_float32 ? attention_prefill<float, float>(context, p)
                          : attention_prefill<float, bfloat16>(context, p);
    return kv_float32 ? attention_prefill<bfloat16, float>(context, p)
                      : attention_prefill<bfloat16, bfloat16>(context, p);
}
