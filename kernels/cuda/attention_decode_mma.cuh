/* attention_decode_mma: the arithmetic of bfloat16 decode attention over one unit of keys, and how the units
 * of a chunk are added. Included by attention.cu, whose head describes both, and by network.cu: one of each,
 * so that a row's bits do not depend on which of them computed it. */
#ifndef PRESSRUN_KERNELS_CUDA_ATTENTION_DECODE_MMA_CUH
#define PRESSRUN_KERNELS_CUDA_ATTENTION_DECODE_MMA_CUH

#include "kernels/cuda/attention_decode.cuh"

namespace {

template <int HEAD_DIM> struct decode_tiles {
    static constexpr int UNIT_KEYS = HEAD_DIM <= 64 ? 32 : 16; /* whose K and V a warp holds */
    static constexpr int UNITS = PAGE_TOKENS / UNIT_KEYS;
    static constexpr int CHUNK_UNITS = CHUNK / UNIT_KEYS;
    static constexpr int KEY_TILES = UNIT_KEYS / 8;
    static constexpr int KEY_STEPS = UNIT_KEYS / 16;
    static constexpr int ROW_VECTORS = HEAD_DIM / 8;         /* of 16 bytes */
    static constexpr int K_VECTORS = (ROW_VECTORS + 3) / 4;  /* of a key's row, for one of 4 lanes */
    static constexpr int V_VECTORS = (ROW_VECTORS + 7) / 8;  /* of a value's row, for one of 8 lanes */
    static constexpr int BLOCKS = HEAD_DIM <= 128 ? 2 : 1;   /* a multiprocessor, by registers */
    static constexpr bool SEVERAL_KV_HEADS = HEAD_DIM <= 64; /* a block may have; by registers, too */
    /* Paddings let the eight lanes of one 16-byte access lie in different banks. */
    static constexpr int ROW_STRIDE = HEAD_DIM + (HEAD_DIM % 64 == 0 ? 32 : 0);
    static constexpr int SUM_STRIDE = HEAD_DIM + 4;
};

/* K and V of one unit, 16-byte vectors as four registers. */
template <int HEAD_DIM> struct decode_unit {
    using tiles = decode_tiles<HEAD_DIM>;
    uint32_t k[tiles::KEY_TILES][tiles::K_VECTORS][4];
    uint32_t v[tiles::KEY_STEPS][4][tiles::V_VECTORS][4];

    /* A lane's key and column of a vector of K or V: what depends on the lane, plus a constant. */
    static __device__ __forceinline__ int k_key(int lane, int tile) { return lane / 4 + tile * 8; }
    static __device__ __forceinline__ int k_column(int lane, int i) { return lane % 4 * 8 + i * 32; }
    static __device__ __forceinline__ int v_key(int lane, int step, int r) {
        return lane % 4 * 2 + (step * 16 + r % 2 + r / 2 * 8);
    }
    static __device__ __forceinline__ int v_column(int lane, int c) { return lane / 4 * 8 + c * 64; }

    /* Requests the first n keys (n may be negative, or more than there are) from the unit's rows on; zeros
     * behind them. WINDOWED: only the last `span` of them; zeros in front. */
    template <bool WINDOWED> static __device__ __forceinline__ bool is_wanted(int key, int n, int span) {
        return WINDOWED ? (unsigned)(n - 1 - key) < (unsigned)span : key < n;
    }
    template <bool WINDOWED>
    __device__ __forceinline__ void request_k(const bfloat16 *rows, int n, int span, int lane) {
        const bfloat16 *first = rows + (k_key(lane, 0) * HEAD_DIM + k_column(lane, 0));
#pragma unroll
        for (int tile = 0; tile < tiles::KEY_TILES; tile++)
#pragma unroll
            for (int i = 0; i < tiles::K_VECTORS; i++)
                ptx_load_once_16(k[tile][i], first + (tile * 8 * HEAD_DIM + i * 32),
                                 is_wanted<WINDOWED>(k_key(lane, tile), n, span) &&
                                     k_column(lane, i) < HEAD_DIM);
    }
    template <bool WINDOWED>
    __device__ __forceinline__ void request_v(const bfloat16 *rows, int n, int span, int lane) {
        const bfloat16 *first = rows + (v_key(lane, 0, 0) * HEAD_DIM + v_column(lane, 0));
#pragma unroll
        for (int step = 0; step < tiles::KEY_STEPS; step++)
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < tiles::V_VECTORS; c++)
                    ptx_load_once_16(
                        v[step][r][c], first + ((step * 16 + r % 2 + r / 2 * 8) * HEAD_DIM + c * 64),
                        is_wanted<WINDOWED>(v_key(lane, step, r), n, span) && v_column(lane, c) < HEAD_DIM);
    }

    /* Puts the row's own K, or V, in place of key `own`. */
    __device__ __forceinline__ void insert_k(const bfloat16 *own_k, int own, int lane) {
#pragma unroll
        for (int tile = 0; tile < tiles::KEY_TILES; tile++)
#pragma unroll
            for (int i = 0; i < tiles::K_VECTORS; i++)
                if (k_key(lane, tile) == own && k_column(lane, i) < HEAD_DIM)
                    load_shared(k[tile][i], own_k + k_column(lane, i));
    }
    __device__ __forceinline__ void insert_v(const bfloat16 *own_v, int own, int lane) {
#pragma unroll
        for (int step = 0; step < tiles::KEY_STEPS; step++)
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < tiles::V_VECTORS; c++)
                    if (v_key(lane, step, r) == own && v_column(lane, c) < HEAD_DIM)
                        load_shared(v[step][r][c], own_v + v_column(lane, c));
    }

    static __device__ __forceinline__ void load_shared(uint32_t (&r)[4], const bfloat16 *from) {
        uint4 x = *reinterpret_cast<const uint4 *>(from);
        r[0] = x.x, r[1] = x.y, r[2] = x.z, r[3] = x.w;
    }
};

/* K or V of a page and kv head. */
template <int HEAD_DIM>
__device__ __forceinline__ const bfloat16 *page_rows(const attention_params &p, const void *cache,
                                                     int32_t page, int kv_head) {
    int64_t index = ((int64_t)p.layer * p.layout.n_pages + page) * p.layout.n_kv_heads + kv_head;
    return static_cast<const bfloat16 *>(cache) + index * (PAGE_TOKENS * HEAD_DIM);
}

/* Accumulators of columns 64 c + .. of a unit: this lane's heads 2t and 2t + 1 of the n_heads from first_head
 * on.
 */
template <int HEAD_DIM, typename Shared>
__device__ __forceinline__ void store_unit(Shared &shared, const int &unit, const int &first_head,
                                           const int &n_heads, int c, const float (&out)[4][4],
                                           const int &lane) {
    int column = decode_unit<HEAD_DIM>::v_column(lane, c), head = lane % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (head + h >= n_heads || column >= HEAD_DIM)
            continue;
        float4 *to = reinterpret_cast<float4 *>(shared.sum[unit][first_head + head + h] + column);
        to[0] = make_float4(out[0][h], out[0][2 + h], out[1][h], out[1][2 + h]);
        to[1] = make_float4(out[2][h], out[2][2 + h], out[3][h], out[3][2 + h]);
    }
}

/* Adds to S of a unit what vector i of its rows gives. q: of this lane's head lane / 4, at k_column(lane, i).
 */
template <int HEAD_DIM>
__device__ __forceinline__ void unit_scores(float (&score)[decode_tiles<HEAD_DIM>::KEY_TILES][4],
                                            const decode_unit<HEAD_DIM> &unit, const int &i, const uint4 &q) {
    using tiles = decode_tiles<HEAD_DIM>;
    uint32_t low[4] = {q.x, 0, q.y, 0}, high[4] = {q.z, 0, q.w, 0};
#pragma unroll
    for (int tile = 0; tile < tiles::KEY_TILES; tile++) {
        ptx_mma_bf16(score[tile], low, unit.k[tile][i][0], unit.k[tile][i][1]);
        ptx_mma_bf16(score[tile], high, unit.k[tile][i][2], unit.k[tile][i][3]);
    }
}

/* Scalars are references here: by value they cost kernels that are short of registers a spill. Softmax within
 * a unit: weights as the operand of the second product; maximum and total to shared, of the n_heads heads
 * from first_head on. own: the row's own key of this unit, or behind it; keys more than `span` in front of it
 * are not seen when GENERAL. p: scale, softcap. */
template <int HEAD_DIM, bool GENERAL, typename Shared>
__device__ __forceinline__ void unit_weights(uint32_t (&weight)[decode_tiles<HEAD_DIM>::KEY_TILES],
                                             float (&score)[decode_tiles<HEAD_DIM>::KEY_TILES][4],
                                             const attention_params &p, const int &own, const int &span,
                                             Shared &shared, const int &unit_idx, const int &first_head,
                                             const int &n_heads, const int &g, const int &t) {
    using tiles = decode_tiles<HEAD_DIM>;
    /* This lane has head g, keys 8 tile + 2t and the next. */
    float largest = GENERAL ? NO_SCORE : -INFINITY, total = 0;
#pragma unroll
    for (int tile = 0; tile < tiles::KEY_TILES; tile++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const int key = tile * 8 + t * 2 + c;
            const bool visible = GENERAL ? (unsigned)(own - key) <= (unsigned)span : key <= own;
            score[tile][c] = score[tile][c] * p.scale;
            if (GENERAL && p.softcap != 0)
                score[tile][c] = attention_softcap(p, score[tile][c]);
            score[tile][c] = visible ? score[tile][c] : -INFINITY;
            largest = fmaxf(largest, score[tile][c]);
        }
    largest = lanes_max<4>(largest);
#pragma unroll
    for (int tile = 0; tile < tiles::KEY_TILES; tile++) {
        float even = ptx_exp2(score[tile][0] - largest), odd = ptx_exp2(score[tile][1] - largest);
        total += even + odd;
        weight[tile] = pack_bfloat16(even, odd);
    }
    total = lanes_sum<4>(total);
    if (t == 0 && g < n_heads) {
        shared.largest[unit_idx][first_head + g] = largest;
        shared.total[unit_idx][first_head + g] = total;
    }
}

/* O of a unit, vector c of its rows. out[i]: columns 64 c + 8 g + 2 i and the next, heads 2t and 2t + 1. */
template <int HEAD_DIM>
__device__ __forceinline__ void unit_sums(float (&out)[4][4], const decode_unit<HEAD_DIM> &unit, const int &c,
                                          const uint32_t (&weight)[decode_tiles<HEAD_DIM>::KEY_TILES]) {
    using tiles = decode_tiles<HEAD_DIM>;
#pragma unroll
    for (int step = 0; step < tiles::KEY_STEPS; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const auto &v = unit.v[step];
            uint32_t pairs[4] = {
                __byte_perm(v[0][c][i], v[1][c][i], 0x5410), __byte_perm(v[0][c][i], v[1][c][i], 0x7632),
                __byte_perm(v[2][c][i], v[3][c][i], 0x5410), __byte_perm(v[2][c][i], v[3][c][i], 0x7632)};
            ptx_mma_bf16(out[i], pairs, weight[2 * step], weight[2 * step + 1]);
        }
}

/* The sums of a chunk for one head, from its n_units units with keys in ascending order. */
template <int HEAD_DIM, typename Shared>
__device__ __forceinline__ void add_units(head_sums<HEAD_DIM> &chunk, const Shared &shared, int head,
                                          int n_units, int lane) {
    chunk.largest = -INFINITY, chunk.total = 0;
#pragma unroll
    for (int i = 0; i < head_sums<HEAD_DIM>::COLUMNS; i++)
        chunk.sum[i] = 0;
#pragma unroll 4
    for (int unit = 0; unit < n_units; unit++)
        chunk.largest = fmaxf(chunk.largest, shared.largest[unit][head]);
#pragma unroll 4
    for (int unit = 0; unit < n_units; unit++) {
        float weight = ptx_exp2(shared.largest[unit][head] - chunk.largest);
        chunk.total = fmaf(shared.total[unit][head], weight, chunk.total);
#pragma unroll
        for (int i = 0; i < head_sums<HEAD_DIM>::COLUMNS; i++)
            if (lane + i * WARP_LANES < HEAD_DIM)
                chunk.sum[i] = fmaf(shared.sum[unit][head][lane + i * WARP_LANES], weight, chunk.sum[i]);
    }
}

} // namespace

#endif
