/* attention_prefill_fma: prompt attention in float32, for dtypes without tensor-core products. One warp takes
 * ROWS_EACH rows of a query head, lanes over the keys of a page, then over columns of out.
 *
 * Numerics: as attention_prefill.cu; a score is one chain of fma over ascending columns, a column of out one
 * over ascending keys. The bits do not depend on COLUMNS, which only bounds head_dim.
 *
 * GENERAL kernels are for what only some models have (attention_is_general). */
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

enum {
    ROWS_WARPS = 8,
    ROWS_THREADS = ROWS_WARPS * WARP_LANES,
    ROWS_EACH = 2,
    ROWS_BLOCK = ROWS_WARPS * ROWS_EACH
};

/* COLUMNS: of out, per lane; head_dim is at most COLUMNS * WARP_LANES. */
template <typename T, typename KV, int COLUMNS, bool GENERAL>
__global__ void __launch_bounds__(ROWS_THREADS) kernel_attention_rows(const attention_params p) {
    const int head_dim = p.layout.head_dim;
    PTX_DYNAMIC_SHARED(shared, 128);
    float *q_tile = reinterpret_cast<float *>(shared);     /* [ROWS_BLOCK][head_dim] */
    float *k_tile = q_tile + ROWS_BLOCK * head_dim;        /* [PAGE_TOKENS][head_dim + 1] */
    float *v_tile = k_tile + PAGE_TOKENS * (head_dim + 1); /* [PAGE_TOKENS][head_dim] */
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();

    const int parts = p.tile_rows / ROWS_BLOCK;
    struct segment tile = p.tiles[blockIdx.x / parts];
    int first = blockIdx.x % parts * ROWS_BLOCK;
    if (first >= tile.n_rows)
        return;
    int n_rows = min((int)ROWS_BLOCK, tile.n_rows - first);
    int first_row = tile.row + first, first_position = tile.position + first;
    int head = blockIdx.y, kv_head = head / p.group;
    int n_keys = first_position + n_rows;
    const int thread = threadIdx.x, lane = thread % WARP_LANES, warp = thread / WARP_LANES;
    const int32_t *pages = p.page_table + (int64_t)tile.slot * p.max_pages;

    const T *queries = static_cast<const T *>(p.qkv) + first_row * p.qkv_stride + head * head_dim;
    if (GENERAL && p.q_norm) {
        for (int row = warp; row < n_rows; row += ROWS_WARPS) {
            float q[8] = {};
            if (lane * 8 < head_dim)
                load_8(q, queries + row * p.qkv_stride + lane * 8);
            rope_norm_head<T, WARP_LANES>(q, lane, head_dim, p.q_norm, p.norm_epsilon,
                                          attention_rope_row(p, first_position + row));
            if (lane * 8 < head_dim)
                store_8(q_tile + row * head_dim + lane * 8, q);
        }
    }
    for (int index = thread * 8; !(GENERAL && p.q_norm) && index < n_rows * head_dim;
         index += ROWS_THREADS * 8) {
        int row = index / head_dim;
        float q[8];
        rope_load_8(q, queries + row * p.qkv_stride, index % head_dim, head_dim,
                    attention_rope_row(p, first_position + row));
        store_8(q_tile + index, q);
    }
    float largest[ROWS_EACH], total[ROWS_EACH], out[ROWS_EACH][COLUMNS] = {};
#pragma unroll
    for (int e = 0; e < ROWS_EACH; e++)
        largest[e] = -INFINITY, total[e] = 0;

    const int32_t window = GENERAL ? p.window : 0;
    const int first_page = window_first(first_position, window) / PAGE_TOKENS;
    for (int first_key = first_page * PAGE_TOKENS; first_key < n_keys; first_key += PAGE_TOKENS) {
        __syncthreads(); /* all warps are done with the previous page */
        size_t offset = kv_offset(p.layout, p.layer, pages[first_key / PAGE_TOKENS], kv_head, 0);
        for (int index = thread * 8; index < PAGE_TOKENS * head_dim; index += ROWS_THREADS * 8) {
            int key = index / head_dim, column = index % head_dim;
            float k[8] = {}, v[8] = {};
            if (first_key + key < n_keys) {
                load_8(k, static_cast<const KV *>(p.k) + offset + index);
                load_8(v, static_cast<const KV *>(p.v) + offset + index);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                k_tile[key * (head_dim + 1) + column + i] = k[i];
                v_tile[key * head_dim + column + i] = v[i];
            }
        }
        __syncthreads(); /* the page is complete */
#pragma unroll
        for (int e = 0; e < ROWS_EACH; e++) {
            int row = warp * ROWS_EACH + e;
            int n_visible =
                first_position + row + 1 - first_key; /* keys of this page up to the row's position */
            /* The first of them that is in the row's window. */
            int n_hidden = max(0, window_first(first_position + row, window) - first_key);
            if (row >= n_rows || n_visible <= 0 || n_hidden >= PAGE_TOKENS)
                continue;
            float dot = 0;
#pragma unroll 8
            for (int column = 0; column < head_dim; column++)
                dot = fmaf(q_tile[row * head_dim + column], k_tile[lane * (head_dim + 1) + column], dot);
            float s = dot * p.scale;
            if (GENERAL && p.softcap != 0)
                s = attention_softcap(p, s);
            s = lane >= n_hidden && lane < n_visible ? s : -INFINITY;
            float larger = fmaxf(largest[e], lanes_max<WARP_LANES>(s));
            float rescale = ptx_exp2(largest[e] - larger), weight = ptx_exp2(s - larger);
            largest[e] = larger;
            total[e] = fmaf(total[e], rescale, lanes_sum<WARP_LANES>(weight));
#pragma unroll
            for (int i = 0; i < COLUMNS; i++)
                out[e][i] *= rescale;
            for (int key = n_hidden; key < min(n_visible, (int)PAGE_TOKENS); key++) {
                float w = __shfl_sync(ALL_LANES, weight, key);
#pragma unroll
                for (int i = 0; i < COLUMNS; i++)
                    if (lane + i * WARP_LANES < head_dim)
                        out[e][i] = fmaf(w, v_tile[key * head_dim + lane + i * WARP_LANES], out[e][i]);
            }
        }
    }
#pragma unroll
    for (int e = 0; e < ROWS_EACH; e++) {
        int row = warp * ROWS_EACH + e;
        if (row >= n_rows)
            continue;
        T *to = static_cast<T *>(p.out) + (first_row + row) * p.out_stride + head * head_dim;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (lane + i * WARP_LANES < head_dim)
                to[lane + i * WARP_LANES] = from_float<T>(out[e][i] / total[e]);
    }
}

using fma_kernel = void (*)(const attention_params);

template <typename T, typename KV, bool GENERAL> fma_kernel kernel_for(int head_dim) {
    return head_dim <= 2 * WARP_LANES ? kernel_attention_rows<T, KV, 2, GENERAL>
                                      : kernel_attention_rows<T, KV, MAX_HEAD_DIM / WARP_LANES, GENERAL>;
}

template <typename T, typename KV> fma_kernel kernel_for(const attention_params &p) {
    return attention_is_general(p) ? kernel_for<T, KV, true>(p.layout.head_dim)
                                   : kernel_for<T, KV, false>(p.layout.head_dim);
}

} // namespace

enum status attention_prefill_fma(struct backend_context *context, const attention_params &p,
                                  enum dtype dtype, enum dtype kv_dtype) {
    int32_t head_dim = p.layout.head_dim;
    fma_kernel kernel = dtype == DTYPE_BFLOAT16      ? kernel_for<bfloat16, float>(p)
                        : kv_dtype == DTYPE_BFLOAT16 ? kernel_for<float, bfloat16>(p)
                                                     : kernel_for<float, float>(p);
    size_t shared_floats =
        (size_t)ROWS_BLOCK * head_dim + PAGE_TOKENS * (head_dim + 1) + PAGE_TOKENS * head_dim;
    dim3 grid(context->step.n_tiles * (p.tile_rows / ROWS_BLOCK), p.n_heads);
    return cuda_launch(context, "attention_prefill", kernel, grid, ROWS_THREADS,
                       shared_floats * sizeof(float), p);
}
