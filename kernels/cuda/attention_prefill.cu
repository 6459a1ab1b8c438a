/* attention (prefill): out[r, h, :] = softmax(scale q[r, h, :] . K[0..position(r), h / group, :]) . V for the
 * prompt rows of a step, causal within their segments.
 *
 * One kernel appends K (rotated, where positions are) and V of all rows to their pages; then one block takes
 * a tile of neighbouring rows of a segment and one query head, rotates q as it loads it, and walks the
 * sequence's pages from position 0 in ascending order, reading all K and V back from the pages, those of its
 * own rows too. So a row computes the same bits wherever the prompt was cut.
 *
 * Numerics: float32, softmax in powers of two. Every row keeps its own running maximum and rescales by itself
 * after each page; a page beyond a row's position leaves it unchanged, and positions beyond it enter no sum.
 */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tile.h"

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
    extern __shared__ __align__(128) unsigned char shared[];
    float *q_tile = reinterpret_cast<float *>(shared);     /* [ROWS_BLOCK][HEAD_DIM] */
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

    for (int index = thread * 8; index < n_rows * HEAD_DIM; index += ROWS_THREADS * 8) {
        int row = index / HEAD_DIM;
        float q[8];
        rope_load_8(q, static_cast<const T *>(p.qkv) + (first_row + row) * p.qkv_stride + head * HEAD_DIM,
                    index % HEAD_DIM, HEAD_DIM, attention_rope_row(p, first_position + row));
        store_8(q_tile + index, q);
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

/* ---- bfloat16: tensor cores, 16 rows a warp ---- */

enum {
    MMA_WARPS = 4,
    MMA_THREADS = MMA_WARPS * WARP_LANES,
    MMA_KEYS = 64, /* keys a tile */
    MMA_PAGES = MMA_KEYS / PAGE_TOKENS,
    MMA_STAGES = 2
};
static_assert(MMA_WARPS * 16 == PREFILL_TILE_ROWS, "a block takes one tile of rows, a warp 16 of them");

template <int HEAD_DIM> struct mma_tiles {
    static constexpr int CHUNKS = HEAD_DIM / TILE_CHUNK_ELEMENTS;
    static constexpr int Q_BYTES = PREFILL_TILE_ROWS * HEAD_DIM * 2;
    static constexpr int KEY_BYTES = MMA_KEYS * HEAD_DIM * 2; /* K or V of one tile */
    static constexpr int SHARED_BYTES = Q_BYTES + MMA_STAGES * 2 * KEY_BYTES;
    static constexpr int RESIDENT = HEAD_DIM <= 64 ? 4 : HEAD_DIM <= 96 ? 3 : 2; /* blocks a processor */
    static constexpr bool HOLD_Q = HEAD_DIM <= 128; /* in registers; else read again for every tile */
};

/* Page ids of the keys of one tile; the scratch page behind the last key, where nothing is read. */
struct tile_pages {
    int32_t id[MMA_PAGES];
};

__device__ __forceinline__ tile_pages load_pages(const int32_t *pages, int first_key, int n_keys) {
    tile_pages ids;
#pragma unroll
    for (int i = 0; i < MMA_PAGES; i++) {
        int key = first_key + i * PAGE_TOKENS;
        ids.id[i] = key < n_keys ? pages[key / PAGE_TOKENS] : (int32_t)SCRATCH_PAGE;
    }
    return ids;
}

/* Requests K and V of one tile of keys into a stage: K, then V. Zeros behind the last key. */
template <int HEAD_DIM>
__device__ __forceinline__ void request_keys(const attention_params &p, uint32_t stage, tile_pages pages,
                                             int kv_head, int first_key, int n_keys) {
    using tiles = mma_tiles<HEAD_DIM>;
    static_assert(MMA_KEYS * tiles::CHUNKS % MMA_THREADS == 0,
                  "every thread copies the same number of chunks");
#pragma unroll
    for (int i = 0; i < MMA_KEYS * tiles::CHUNKS / MMA_THREADS; i++) {
        int index = i * MMA_THREADS + threadIdx.x;
        int key = index / tiles::CHUNKS, chunk = index % tiles::CHUNKS;
        bool valid = first_key + key < n_keys;
        int32_t page = key < PAGE_TOKENS ? pages.id[0] : pages.id[1];
        size_t offset = kv_offset(p.layout, p.layer, page, kv_head, key % PAGE_TOKENS) +
                        (size_t)chunk * TILE_CHUNK_ELEMENTS;
        uint32_t to = stage + tile_offset(key, chunk, tiles::CHUNKS);
        ptx_copy_async_16(to, static_cast<const bfloat16 *>(p.k) + offset, valid);
        ptx_copy_async_16(to + tiles::KEY_BYTES, static_cast<const bfloat16 *>(p.v) + offset, valid);
    }
}

__device__ __forceinline__ bool is_nonfinite_bits(uint32_t half) {
    return (half & 0x7F80u) == 0x7F80u;
}

/* The tensor core multiplies the V of every key of the tile, those beyond a row's position by weight zero.
 * Where such a V is not finite (a fault of a later position), zero times it must not reach the row: the rows
 * that do see it become NaN here, and V is made zero. All threads of the block call it. */
template <int HEAD_DIM>
__device__ void contain_nonfinite(float (&out)[HEAD_DIM / 8][4], unsigned char *v_tile, int first_key,
                                  const int (&position)[2], int lane) {
    using tiles = mma_tiles<HEAD_DIM>;
    uint32_t *words = reinterpret_cast<uint32_t *>(v_tile);
    bool found = false;
    for (int i = threadIdx.x; i < tiles::KEY_BYTES / 4; i += MMA_THREADS)
        found = found || is_nonfinite_bits(words[i]) || is_nonfinite_bits(words[i] >> 16);
    if (!__syncthreads_or(found))
        return;
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            for (int key = 0; key < MMA_KEYS && first_key + key <= position[c / 2]; key++) {
                const uint16_t *chunk =
                    reinterpret_cast<const uint16_t *>(v_tile + tile_offset(key, j, tiles::CHUNKS));
                if (is_nonfinite_bits(chunk[tile_c_column(lane, c)]))
                    out[j][c] = __int_as_float(0x7FC00000);
            }
    __syncthreads(); /* all rows have seen V */
    for (int i = threadIdx.x; i < tiles::KEY_BYTES / 4; i += MMA_THREADS)
        words[i] &= (is_nonfinite_bits(words[i]) ? 0u : 0xFFFFu) |
                    (is_nonfinite_bits(words[i] >> 16) ? 0u : 0xFFFF0000u);
    __syncthreads(); /* V is finite */
}

/* Puts q of the tile's rows, rotated, into shared memory; zeros behind its last row. Not inlined: the loop
 * over keys would pay for its registers. */
template <int HEAD_DIM>
__device__ __noinline__ void rotate_queries(unsigned char *q_tile, const bfloat16 *q, int64_t q_stride,
                                            int n_rows, const float *rope) {
    using tiles = mma_tiles<HEAD_DIM>;
#pragma unroll 1
    for (int index = threadIdx.x; index < PREFILL_TILE_ROWS * tiles::CHUNKS; index += MMA_THREADS) {
        int row = index / tiles::CHUNKS, chunk = index % tiles::CHUNKS;
        float rotated[8] = {};
        if (row < n_rows)
            rope_load_8(rotated, q + row * q_stride, chunk * TILE_CHUNK_ELEMENTS, HEAD_DIM,
                        rope + row * HEAD_DIM);
        store_8(reinterpret_cast<bfloat16 *>(q_tile + tile_offset(row, chunk, tiles::CHUNKS)), rotated);
    }
}

/* Requests q of the tile's rows into shared memory; zeros behind its last row. */
template <int HEAD_DIM>
__device__ __forceinline__ void request_queries(uint32_t q_tile, const bfloat16 *q, int64_t q_stride,
                                                int n_rows) {
    using tiles = mma_tiles<HEAD_DIM>;
    for (int index = threadIdx.x; index < PREFILL_TILE_ROWS * tiles::CHUNKS; index += MMA_THREADS) {
        int row = index / tiles::CHUNKS, chunk = index % tiles::CHUNKS;
        bool valid = row < n_rows;
        ptx_copy_async_16(q_tile + tile_offset(row, chunk, tiles::CHUNKS),
                          q + (valid ? row : 0) * q_stride + chunk * TILE_CHUNK_ELEMENTS, valid);
    }
}

template <int HEAD_DIM>
__global__ void __launch_bounds__(MMA_THREADS, mma_tiles<HEAD_DIM>::RESIDENT)
    kernel_attention_mma(const attention_params p) {
    using tiles = mma_tiles<HEAD_DIM>;
    constexpr int STEPS = HEAD_DIM / 16, KEY_TILES = MMA_KEYS / 8;
    extern __shared__ __align__(128) unsigned char shared[];
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    /* Later tiles of a long prompt see more keys: they start first. */
    struct segment tile = p.tiles[gridDim.x - 1 - blockIdx.x];
    int head = blockIdx.y, kv_head = head / p.group;
    int n_keys = tile.position + tile.n_rows;
    int n_tiles = (n_keys + MMA_KEYS - 1) / MMA_KEYS;
    const int32_t *page_ids = p.page_table + (int64_t)tile.slot * p.max_pages;
    uint32_t q_tile = ptx_shared_address(shared), stages = q_tile + tiles::Q_BYTES;
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;

    request_keys<HEAD_DIM>(p, stages, load_pages(page_ids, 0, n_keys), kv_head, 0, n_keys);
    const bfloat16 *queries =
        static_cast<const bfloat16 *>(p.qkv) + tile.row * p.qkv_stride + (int64_t)head * HEAD_DIM;
    if (p.rope)
        rotate_queries<HEAD_DIM>(shared, queries, p.qkv_stride, tile.n_rows,
                                 attention_rope_row(p, tile.position));
    else
        request_queries<HEAD_DIM>(q_tile, queries, p.qkv_stride, tile.n_rows);
    ptx_copy_async_commit();
    tile_pages next_pages = load_pages(page_ids, MMA_KEYS, n_keys);

    /* This thread's accumulators belong to rows lane / 4 and 8 further of its warp's 16. */
    int position[2] = {tile.position + warp * 16 + lane / 4, tile.position + warp * 16 + lane / 4 + 8};
    int warp_last = tile.position + warp * 16 + 15;
    uint32_t q[tiles::HOLD_Q ? STEPS : 1][4];
    float out[HEAD_DIM / 8][4] = {};
    float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

    for (int t = 0; t < n_tiles; t++) {
        int first_key = t * MMA_KEYS;
        ptx_copy_async_wait<0>();
        __syncthreads(); /* tile t has arrived for all threads, and all are done with the stage refilled below
                          */
        if (t + 1 < n_tiles)
            request_keys<HEAD_DIM>(p, stages + (t + 1) % MMA_STAGES * 2 * tiles::KEY_BYTES, next_pages,
                                   kv_head, first_key + MMA_KEYS, n_keys);
        ptx_copy_async_commit();
        next_pages = load_pages(page_ids, first_key + 2 * MMA_KEYS, n_keys);
        uint32_t k_tile = stages + t % MMA_STAGES * 2 * tiles::KEY_BYTES, v_tile = k_tile + tiles::KEY_BYTES;
        if (first_key + MMA_KEYS > tile.position + 1)
            contain_nonfinite<HEAD_DIM>(out, shared + (v_tile - q_tile), first_key, position, lane);
        if constexpr (tiles::HOLD_Q) {
            if (t == 0) {
#pragma unroll
                for (int step = 0; step < STEPS; step++)
                    ptx_load_matrix_x4(q[step],
                                       q_tile + tile_offset(warp * 16 + tile_a_row(lane),
                                                            step * 2 + tile_a_chunk(lane), tiles::CHUNKS));
            }
        }
        if (first_key > warp_last)
            continue; /* no row of this warp sees this tile */

        float score[KEY_TILES][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if constexpr (!tiles::HOLD_Q)
                ptx_load_matrix_x4(q[0], q_tile + tile_offset(warp * 16 + tile_a_row(lane),
                                                              step * 2 + tile_a_chunk(lane), tiles::CHUNKS));
#pragma unroll
            for (int j = 0; j < KEY_TILES; j += 2) {
                uint32_t k[4];
                ptx_load_matrix_x4(k, k_tile + tile_offset(j * 8 + tile_b_row(lane),
                                                           step * 2 + tile_b_chunk(lane), tiles::CHUNKS));
                ptx_mma_bf16(score[j], q[tiles::HOLD_Q ? step : 0], k[0], k[1]);
                ptx_mma_bf16(score[j + 1], q[tiles::HOLD_Q ? step : 0], k[2], k[3]);
            }
        }
        float larger[2] = {largest[0], largest[1]}, sum[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int key = first_key + j * 8 + (int)tile_c_column(lane, c);
                score[j][c] = key <= position[c / 2] ? score[j][c] * p.scale : -INFINITY;
                larger[c / 2] = fmaxf(larger[c / 2], score[j][c]);
            }
        float rescale[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            larger[r] = lanes_max<4>(larger[r]);
            rescale[r] = ptx_exp2(largest[r] - larger[r]);
            largest[r] = larger[r];
        }
#pragma unroll
        for (int j = 0; j < KEY_TILES; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                score[j][c] = ptx_exp2(score[j][c] - largest[c / 2]);
                sum[c / 2] += score[j][c];
            }
#pragma unroll
        for (int r = 0; r < 2; r++)
            total[r] = fmaf(total[r], rescale[r], lanes_sum<4>(sum[r]));
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                out[j][c] *= rescale[c / 2];
#pragma unroll
        for (int step = 0; step < MMA_KEYS / 16; step++) {
            /* Accumulators of two neighbouring key tiles are, packed, the A fragment of 16 keys. */
            uint32_t weight[4] = {pack_bfloat16(score[2 * step][0], score[2 * step][1]),
                                  pack_bfloat16(score[2 * step][2], score[2 * step][3]),
                                  pack_bfloat16(score[2 * step + 1][0], score[2 * step + 1][1]),
                                  pack_bfloat16(score[2 * step + 1][2], score[2 * step + 1][3])};
#pragma unroll
            for (int j = 0; j < HEAD_DIM / 8; j += 2) {
                uint32_t v[4];
                ptx_load_matrix_x4_transposed(v, v_tile + tile_offset(step * 16 + tile_a_row(lane),
                                                                      j + tile_a_chunk(lane), tiles::CHUNKS));
                ptx_mma_bf16(out[j], weight, v[0], v[1]);
                ptx_mma_bf16(out[j + 1], weight, v[2], v[3]);
            }
        }
    }
    ptx_copy_async_wait<0>(); /* nothing may be in flight when the block ends */

#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = warp * 16 + lane / 4 + r * 8;
        if (row >= tile.n_rows)
            continue;
        bfloat16 *to = static_cast<bfloat16 *>(p.out) + (tile.row + row) * p.out_stride + head * HEAD_DIM;
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++)
            *reinterpret_cast<uint32_t *>(to + j * 8 + lane % 4 * 2) =
                pack_bfloat16(out[j][2 * r] / total[r], out[j][2 * r + 1] / total[r]);
    }
}

/* ---- launch shape ---- */

using attention_kernel = void (*)(const attention_params);

template <int HEAD_DIM> attention_kernel mma_kernel(size_t *shared_bytes) {
    *shared_bytes = mma_tiles<HEAD_DIM>::SHARED_BYTES;
    return kernel_attention_mma<HEAD_DIM>;
}

attention_kernel mma_kernel_for(int head_dim, size_t *shared_bytes) {
    switch (head_dim) {
    case 16:
        return mma_kernel<16>(shared_bytes);
    case 32:
        return mma_kernel<32>(shared_bytes);
    case 64:
        return mma_kernel<64>(shared_bytes);
    case 96:
        return mma_kernel<96>(shared_bytes);
    case 128:
        return mma_kernel<128>(shared_bytes);
    case 256:
        return mma_kernel<256>(shared_bytes);
    default:
        return nullptr;
    }
}

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
    if constexpr (sizeof(T) == 2 && sizeof(KV) == 2) {
        size_t shared_bytes = 0;
        attention_kernel kernel = mma_kernel_for(head_dim, &shared_bytes);
        return cuda_launch(context, "attention_prefill", kernel, dim3(context->step.n_tiles, p.n_heads),
                           MMA_THREADS, shared_bytes, p);
    } else {
        size_t shared_floats =
            (size_t)ROWS_BLOCK * head_dim + PAGE_TOKENS * (head_dim + 1) + PAGE_TOKENS * head_dim;
        dim3 grid(context->step.n_tiles * (PREFILL_TILE_ROWS / ROWS_BLOCK), p.n_heads);
        return cuda_launch(context, "attention_prefill", rows_kernel_for<T, KV>(head_dim), grid, ROWS_THREADS,
                           shared_floats * sizeof(float), p);
    }
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
