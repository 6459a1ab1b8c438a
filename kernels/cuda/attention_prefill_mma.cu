/* attention_prefill_mma: prompt attention of bfloat16 rows over bfloat16 pages on tensor cores (mma.sync). A
 * block takes one tile of rows and one query head, a warp 16 of the rows; K and V arrive in tiles of MMA_KEYS
 * keys by asynchronous copies, one tile ahead.
 *
 * Numerics: as attention_prefill.cu; weights are rounded to bfloat16 before they meet V. Tiles of keys begin
 * at absolute multiples of MMA_KEYS.
 *
 * GENERAL kernels are for what only some models have (attention_is_general). */
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tile.h"

namespace {

enum {
    MMA_WARPS = 4,
    MMA_THREADS = MMA_WARPS * WARP_LANES,
    MMA_KEYS = 64, /* keys a tile */
    MMA_PAGES = MMA_KEYS / PAGE_TOKENS,
    MMA_STAGES = 2
};
static_assert(MMA_WARPS * 16 == PREFILL_STRIP_ROWS, "a block takes one tile of rows, a warp 16 of them");

template <int HEAD_DIM> struct mma_tiles {
    static constexpr int CHUNKS = HEAD_DIM / TILE_CHUNK_ELEMENTS;
    static constexpr int Q_BYTES = PREFILL_STRIP_ROWS * HEAD_DIM * 2;
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

/* The tensor core multiplies the V of every key of the tile, those that a row does not see by weight zero.
 * Where such a V is not finite (a fault of another position), zero times it must not reach the row: the rows
 * that do see it become NaN here, and V is made zero. A thread's rows see positions [first, position]. All
 * threads of the block call it. */
template <int HEAD_DIM>
__device__ void contain_nonfinite(float (&out)[HEAD_DIM / 8][4], unsigned char *v_tile, int first_key,
                                  const int (&first)[2], const int (&position)[2], int lane) {
    using tiles = mma_tiles<HEAD_DIM>;
    uint32_t *words = reinterpret_cast<uint32_t *>(v_tile);
    bool found = false;
    for (int i = threadIdx.x; i < tiles::KEY_BYTES / 4; i += MMA_THREADS)
        found = found || bfloat16_pair_is_nonfinite(words[i]);
    if (!__syncthreads_or(found))
        return;
#pragma unroll 1
    for (int key = max(0, first[0] - first_key); key < MMA_KEYS && first_key + key <= position[1]; key++) {
        const bool sees[2] = {first_key + key <= position[0], first_key + key >= first[1]};
#pragma unroll
        for (int j = 0; j < HEAD_DIM / 8; j++) {
            uint32_t pair = *reinterpret_cast<const uint32_t *>(v_tile + tile_offset(key, j, tiles::CHUNKS) +
                                                                tile_c_column(lane, 0) * 2);
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (bfloat16_is_nonfinite(c == 0 ? pair : pair >> 16)) {
                    out[j][c] = sees[0] ? __int_as_float(0x7FC00000) : out[j][c];
                    out[j][2 + c] = sees[1] ? __int_as_float(0x7FC00000) : out[j][2 + c];
                }
        }
    }
    __syncthreads(); /* all rows have seen V */
    for (int i = threadIdx.x; i < tiles::KEY_BYTES / 4; i += MMA_THREADS)
        words[i] = bfloat16_pair_finite(words[i]);
    __syncthreads(); /* V is finite */
}

/* Puts q of the tile's rows, rotated, into shared memory; zeros behind its last row. Not inlined: the loop
 * over keys would pay for its registers. */
template <int HEAD_DIM>
__device__ __noinline__ void rotate_queries(unsigned char *q_tile, const bfloat16 *q, int64_t q_stride,
                                            int n_rows, const float *rope) {
    using tiles = mma_tiles<HEAD_DIM>;
#pragma unroll 1
    for (int index = threadIdx.x; index < PREFILL_STRIP_ROWS * tiles::CHUNKS; index += MMA_THREADS) {
        int row = index / tiles::CHUNKS, chunk = index % tiles::CHUNKS;
        float rotated[8] = {};
        if (row < n_rows)
            rope_load_8(rotated, q + row * q_stride, chunk * TILE_CHUNK_ELEMENTS, HEAD_DIM,
                        rope + row * HEAD_DIM);
        store_8(reinterpret_cast<bfloat16 *>(q_tile + tile_offset(row, chunk, tiles::CHUNKS)), rotated);
    }
}

/* The same with a norm of q, a warp per row. rope NULL: not rotated. */
template <int HEAD_DIM>
__device__ __noinline__ void norm_queries(unsigned char *q_tile, const bfloat16 *q, int64_t q_stride,
                                          int n_rows, const float *norm, float epsilon, const float *rope) {
    using tiles = mma_tiles<HEAD_DIM>;
    const int lane = threadIdx.x % WARP_LANES;
#pragma unroll 1
    for (int row = threadIdx.x / WARP_LANES; row < PREFILL_STRIP_ROWS; row += MMA_WARPS) {
        float v[8] = {};
        if (row < n_rows) {
            if (lane < tiles::CHUNKS)
                load_8(v, q + row * q_stride + lane * TILE_CHUNK_ELEMENTS);
            rope_norm_head<bfloat16, WARP_LANES>(v, lane, HEAD_DIM, norm, epsilon,
                                                 rope ? rope + row * HEAD_DIM : nullptr);
        }
        if (lane < tiles::CHUNKS)
            store_8(reinterpret_cast<bfloat16 *>(q_tile + tile_offset(row, lane, tiles::CHUNKS)), v);
    }
}

/* Requests q of the tile's rows into shared memory; zeros behind its last row. */
template <int HEAD_DIM>
__device__ __forceinline__ void request_queries(uint32_t q_tile, const bfloat16 *q, int64_t q_stride,
                                                int n_rows) {
    using tiles = mma_tiles<HEAD_DIM>;
    for (int index = threadIdx.x; index < PREFILL_STRIP_ROWS * tiles::CHUNKS; index += MMA_THREADS) {
        int row = index / tiles::CHUNKS, chunk = index % tiles::CHUNKS;
        bool valid = row < n_rows;
        ptx_copy_async_16(q_tile + tile_offset(row, chunk, tiles::CHUNKS),
                          q + (valid ? row : 0) * q_stride + chunk * TILE_CHUNK_ELEMENTS, valid);
    }
}

template <int HEAD_DIM, bool GENERAL>
__global__ void __launch_bounds__(MMA_THREADS, mma_tiles<HEAD_DIM>::RESIDENT)
    kernel_attention_mma(const attention_params p) {
    using tiles = mma_tiles<HEAD_DIM>;
    constexpr int STEPS = HEAD_DIM / 16, KEY_TILES = MMA_KEYS / 8;
    PTX_DYNAMIC_SHARED(shared, 128);
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    struct segment tile = p.tiles[blockIdx.x];
    int head = blockIdx.y, kv_head = head / p.group;
    int n_keys = tile.position + tile.n_rows;
    int n_tiles = (n_keys + MMA_KEYS - 1) / MMA_KEYS;
    const int32_t *page_ids = p.page_table + (int64_t)tile.slot * p.max_pages;
    uint32_t q_tile = ptx_shared_address(shared), stages = q_tile + tiles::Q_BYTES;
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;

    const int32_t window = GENERAL ? p.window : 0;
    const int first_tile = window_first(tile.position, window) / MMA_KEYS;
    request_keys<HEAD_DIM>(p, stages + first_tile % MMA_STAGES * 2 * tiles::KEY_BYTES,
                           load_pages(page_ids, first_tile * MMA_KEYS, n_keys), kv_head,
                           first_tile * MMA_KEYS, n_keys);
    const bfloat16 *queries =
        static_cast<const bfloat16 *>(p.qkv) + tile.row * p.qkv_stride + (int64_t)head * HEAD_DIM;
    if (GENERAL && p.q_norm)
        norm_queries<HEAD_DIM>(shared, queries, p.qkv_stride, tile.n_rows, p.q_norm, p.norm_epsilon,
                               attention_rope_row(p, tile.position));
    else if (p.rope)
        rotate_queries<HEAD_DIM>(shared, queries, p.qkv_stride, tile.n_rows,
                                 attention_rope_row(p, tile.position));
    else
        request_queries<HEAD_DIM>(q_tile, queries, p.qkv_stride, tile.n_rows);
    ptx_copy_async_commit();
    tile_pages next_pages = load_pages(page_ids, (first_tile + 1) * MMA_KEYS, n_keys);

    /* This thread's accumulators belong to rows lane / 4 and 8 further of its warp's 16. */
    int position[2] = {tile.position + warp * 16 + lane / 4, tile.position + warp * 16 + lane / 4 + 8};
    const int first[2] = {window_first(position[0], window), window_first(position[1], window)};
    int warp_first = window_first(tile.position + warp * 16, window),
        warp_last = tile.position + warp * 16 + 15;
    uint32_t q[tiles::HOLD_Q ? STEPS : 1][4];
    float out[HEAD_DIM / 8][4] = {};
    const float none = GENERAL ? NO_SCORE : -INFINITY;
    float largest[2] = {none, none}, total[2] = {0, 0};

    for (int t = first_tile; t < n_tiles; t++) {
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
        /* Some row of the tile does not see all of these keys. */
        if (first_key + MMA_KEYS > tile.position + 1 ||
            first_key < window_first(tile.position + PREFILL_STRIP_ROWS - 1, window))
            contain_nonfinite<HEAD_DIM>(out, shared + (v_tile - q_tile), first_key, first, position, lane);
        if constexpr (tiles::HOLD_Q) {
            if (t == first_tile) {
#pragma unroll
                for (int step = 0; step < STEPS; step++)
                    ptx_load_matrix_x4(q[step],
                                       q_tile + tile_offset(warp * 16 + tile_a_row(lane),
                                                            step * 2 + tile_a_chunk(lane), tiles::CHUNKS));
            }
        }
        if (first_key > warp_last || first_key + MMA_KEYS <= warp_first)
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
                score[j][c] = score[j][c] * p.scale;
                if (GENERAL && p.softcap != 0)
                    score[j][c] = attention_softcap(p, score[j][c]);
                const bool visible = key <= position[c / 2] && (!GENERAL || key >= first[c / 2]);
                score[j][c] = visible ? score[j][c] : -INFINITY;
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

template <int HEAD_DIM> attention_kernel mma_kernel(const attention_params &p, size_t *shared_bytes) {
    *shared_bytes = mma_tiles<HEAD_DIM>::SHARED_BYTES;
    return attention_is_general(p) ? kernel_attention_mma<HEAD_DIM, true>
                                   : kernel_attention_mma<HEAD_DIM, false>;
}

attention_kernel mma_kernel_for(const attention_params &p, size_t *shared_bytes) {
    switch (p.layout.head_dim) {
    case 16:
        return mma_kernel<16>(p, shared_bytes);
    case 32:
        return mma_kernel<32>(p, shared_bytes);
    case 64:
        return mma_kernel<64>(p, shared_bytes);
    case 96:
        return mma_kernel<96>(p, shared_bytes);
    case 128:
        return mma_kernel<128>(p, shared_bytes);
    case 256:
        return mma_kernel<256>(p, shared_bytes);
    default:
        return nullptr;
    }
}

} // namespace

size_t attention_prefill_mma_shared_bytes(int32_t head_dim) {
    attention_params p = {};
    size_t shared_bytes = 0;
    p.layout.head_dim = head_dim;
    mma_kernel_for(p, &shared_bytes);
    return shared_bytes;
}

enum status attention_prefill_mma(struct backend_context *context, const attention_params &p) {
    RETURN_IF(p.tile_rows != PREFILL_STRIP_ROWS, STATUS_INTERNAL,
              "attention_prefill: tiles of %d rows, expected %d", p.tile_rows, (int)PREFILL_STRIP_ROWS);
    size_t shared_bytes = 0;
    attention_kernel kernel = mma_kernel_for(p, &shared_bytes);
    return cuda_launch(context, "attention_prefill", kernel, dim3(context->step.n_tiles, p.n_heads),
                       MMA_THREADS, shared_bytes, p);
}
