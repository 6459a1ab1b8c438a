/* attention_prefill_wgmma: prompt attention of bfloat16 rows over bfloat16 pages on Hopper (compute
 * capability 9.0): warpgroup matrix multiply fed by the copy engine.
 *
 * The picture. A strip is up to 64 rows of one segment and one query head: what one warpgroup computes. A
 * block has CONSUMERS warpgroups and takes that many strips which share a kv head and a tile of rows
 * (p.tiles): the parts of the tile of one head, then of the group's next head, so short prompts stack heads.
 *
 *                         KEYS keys of a tile, walked in ascending order from the first that is seen
 *                       +----------------+
 *      64 rows, head h  |  warpgroup 0   |     S = q . K^T     both from shared memory
 *                       +----------------+     P = 2^(S - row's maximum), in registers
 *      64 rows, ...     |  warpgroup 1   |     O += P . V      P from registers, V from shared memory,
 *                       +----------------+                     stored as rows of keys: transposed b
 *
 * Q, K and V lie in shared memory as rows of 128 bytes (64 columns; two such boxes beside each other for head
 * dims 96 and 128, four for 256; behind column 96 K and V are zeros, q is not read), 128-byte-swizzled by the
 * copy engine: one box of 32 rows per page and 64 columns. A tile of keys begins at an absolute multiple of
 * KEYS; a strip walks past tiles of which it sees nothing and another strip of the block does.
 *
 * The pipeline. One warp (the producer) fills two rings of STAGES tiles, of K and of V: lane i copies page i
 * of a tile. Blocks are persistent: the rings run on from one item into the next, and the next q arrives
 * while the last products of this one run. A consumer has q . K^T of the next tile in flight beside P . V of
 * this one, and its exponentials run beside its own P . V and the products of the other warpgroups. Items are
 * handed out by a counter (which kernel_attention_append zeroes), those with most keys first; results do not
 * depend on who takes which.
 *
 * The barriers. k_full[s], v_full[s]: completed by the bytes of stage s. k_empty[s], v_empty[s]: one arrival
 * of every consumer warp when the products that read stage s are complete; the producer waits for it before
 * it fills s again. q_full[c]: completed by the bytes of warpgroup c's q; behind it items[c] says which item
 * that is (-1: no more; a word of global memory, since compute-sanitizer's racecheck watches words in shared
 * memory and does not follow these barriers). q_empty[c]: one arrival of each of its warps, when its last
 * q . K^T is complete. Named barrier 1 + c: warpgroup c alone, for q that it rotates in place; 1 + CONSUMERS:
 * all consumers, for V that they clean in place. What threads write there and wgmma reads, or the copy engine
 * writes next, is fenced (ptx_fence_for_copies) by each writer before the barrier.
 *
 * Numerics. Scores are raw dot products, scaled inside the exponent: weight = 2^(fma(s, scale, -m)), with m
 * the row's running maximum times scale, rounded. When a tile does not raise the maximum, the row is rescaled
 * by 2^0, exactly 1; keys that the row does not see weigh exactly 0. So a tile without a visible key leaves a
 * row as it is, and its bits depend neither on the tile's other rows nor on how many tiles the block walks. A
 * soft cap is taken in front of the maximum: the score becomes tanh(s scale / softcap), and softcap the
 * scale. A lane sums the weights of its columns in ascending order, in float32 before they are rounded to
 * bfloat16; four lanes are added at the end.
 *
 * GENERAL kernels are for what only some models have (attention_is_general). */
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tensor_map.cuh"
#include "kernels/cuda/tile.h"
#include "kernels/cuda/wgmma.cuh"

namespace {

enum {
    BOX_COLUMNS = 64,
    ROW_BYTES = BOX_COLUMNS * 2,
    ATOM_BYTES = 1024, /* eight rows, the unit of the swizzle */
    STRIP_ROWS = PREFILL_STRIP_ROWS,
    WARPGROUP = 4 * WARP_LANES
};
static_assert(STRIP_ROWS == 64, "wgmma's rows");

template <int HEAD_DIM_, int CONSUMERS_, int STAGES_, int KEYS_> struct prefill_shape {
    static constexpr int HEAD_DIM = HEAD_DIM_, CONSUMERS = CONSUMERS_, STAGES = STAGES_;
    static constexpr int KEYS = KEYS_; /* of a tile */
    static constexpr int KEY_PAGES = KEYS / PAGE_TOKENS;
    static_assert(KEY_PAGES * PAGE_TOKENS == KEYS, "whole pages");
    static constexpr int SCORES = KEYS / 2; /* that a thread holds */
    static constexpr int STEPS = KEYS / 16;
    static constexpr int BOXES = (HEAD_DIM + BOX_COLUMNS - 1) / BOX_COLUMNS; /* beside each other */
    static constexpr int COLUMNS = BOXES * BOX_COLUMNS; /* of V: zeros, and not written, behind head_dim */
    static constexpr int OUT = COLUMNS / 2;             /* accumulators of out that a thread holds */
    static constexpr int CONSUMER_THREADS = CONSUMERS * WARPGROUP;
    static constexpr int THREADS = CONSUMER_THREADS + WARPGROUP;
    /* The producer's warpgroup (one warp works) gives registers to the consumers. */
    static constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 24 : 32;
    static constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 240 : 160;
    static_assert(WARPGROUP * (CONSUMERS * CONSUMER_REGISTERS + PRODUCER_REGISTERS) <= 65536,
                  "a multiprocessor's registers");
    static constexpr int Q_BOX_BYTES = STRIP_ROWS * ROW_BYTES;
    static constexpr int Q_BYTES = BOXES * Q_BOX_BYTES; /* of a strip */
    static constexpr int PAGE_BYTES = PAGE_TOKENS * ROW_BYTES;
    static constexpr int BOX_BYTES = KEYS * ROW_BYTES;
    static constexpr int KEY_BYTES = BOXES * BOX_BYTES; /* K or V of a tile */
    static constexpr int K_RING = CONSUMERS * Q_BYTES, V_RING = K_RING + STAGES * KEY_BYTES;
    static constexpr int SHARED_BYTES = V_RING + STAGES * KEY_BYTES + ATOM_BYTES;
    static_assert(Q_BOX_BYTES % ATOM_BYTES == 0 && PAGE_BYTES % ATOM_BYTES == 0, "boxes are aligned");
    static_assert(OUT + SCORES + 4 * STEPS <= CONSUMER_REGISTERS - 32, "sums, scores and weights fit");
    static_assert(CONSUMERS <= PREFILL_MAX_CONSUMERS, "a word for every warpgroup's item");
    static_assert(HEAD_DIM % 32 == 0, "whole steps of k, and of what four lanes write");
};

/* Addresses of the barriers; [n] of each kind, 8 bytes each. */
template <typename Shape> struct prefill_barriers {
    static constexpr int COUNT = 4 * Shape::STAGES + 2 * Shape::CONSUMERS;
    uint32_t k_full, k_empty, v_full, v_empty, q_full, q_empty;

    __device__ __forceinline__ explicit prefill_barriers(uint32_t base)
        : k_full(base), k_empty(k_full + 8 * Shape::STAGES), v_full(k_empty + 8 * Shape::STAGES),
          v_empty(v_full + 8 * Shape::STAGES), q_full(v_empty + 8 * Shape::STAGES),
          q_empty(q_full + 8 * Shape::CONSUMERS) {}
    __device__ __forceinline__ void init() const {
        for (int s = 0; s < Shape::STAGES; s++) {
            ptx_barrier_init(k_full + 8 * s, 1);
            ptx_barrier_init(v_full + 8 * s, 1);
            ptx_barrier_init(k_empty + 8 * s, 4 * Shape::CONSUMERS);
            ptx_barrier_init(v_empty + 8 * s, 4 * Shape::CONSUMERS);
        }
        for (int c = 0; c < Shape::CONSUMERS; c++) {
            ptx_barrier_init(q_full + 8 * c, 1);
            ptx_barrier_init(q_empty + 8 * c, 4);
        }
        ptx_barrier_init_done();
    }
};

/* Items: (tile, kv head, CONSUMERS of the strips of both). Tiles of fewer strips than most leave items
 * empty. */
struct prefill_items {
    int per_head; /* items of a tile and kv head, at most */
    int n;
};

template <typename Shape> struct prefill_item {
    struct segment tile;
    int kv_head;
    int first_strip;
    int n_parts; /* strips of one head */

    __device__ __forceinline__ prefill_item(const attention_params &p, const prefill_items &items, int index)
        : tile(p.tiles[index / (items.per_head * p.layout.n_kv_heads)]),
          kv_head(index / items.per_head % p.layout.n_kv_heads),
          first_strip(index % items.per_head * Shape::CONSUMERS),
          n_parts((tile.n_rows + STRIP_ROWS - 1) / STRIP_ROWS) {}
    __device__ __forceinline__ bool has_strip(const attention_params &p, int c) const {
        return first_strip + c < p.group * n_parts;
    }
    __device__ __forceinline__ int head(const attention_params &p, int c) const {
        return kv_head * p.group + (first_strip + c) / n_parts;
    }
    /* Rows of the tile in front of the strip. */
    __device__ __forceinline__ int first_row(int c) const { return (first_strip + c) % n_parts * STRIP_ROWS; }
    __device__ __forceinline__ int n_keys() const { return tile.position + tile.n_rows; }
    /* Of keys: the first that a row of the tile sees. */
    __device__ __forceinline__ int first_tile(int window) const {
        return window_first(tile.position, window) / Shape::KEYS;
    }
    __device__ __forceinline__ int n_tiles() const { return (n_keys() + Shape::KEYS - 1) / Shape::KEYS; }
};

struct prefill_maps {
    CUtensorMap q; /* qkv as rows, boxes of STRIP_ROWS by 64 columns */
    CUtensorMap k; /* all K as rows of head_dim, boxes of a page's rows by 64 columns */
    CUtensorMap v;
};

template <typename Shape, bool GENERAL>
__device__ __forceinline__ void produce(const attention_params &p, const prefill_maps &maps,
                                        const prefill_items &all, uint32_t shared,
                                        const prefill_barriers<Shape> &barriers, volatile int32_t *items) {
    const int lane = threadIdx.x % WARP_LANES;
    ring_position<Shape::STAGES> at;
    uint32_t q_parity = 0;
    int index = blockIdx.x;
    auto after = [&]() {
        int next = 0;
        if (lane == 0)
            next = (int)(gridDim.x + atomicAdd(p.next_item, 1u));
        return next;
    };
    /* Tells warpgroup c of an item, with which q_bytes of q will come. */
    auto tell = [&](int c, int what, uint32_t q_bytes) {
        const uint32_t full = barriers.q_full + 8 * c;
        ptx_barrier_wait(barriers.q_empty + 8 * c, q_parity ^ 1, "prefill q empty");
        items[c] = what;
        ptx_barrier_expect(full, q_bytes);
    };
    while (true) {
        if (index >= all.n)
            break;
        int next = after(); /* on its way while this item is requested */
        prefill_item<Shape> item(p, all, index);
        if (item.has_strip(p, 0)) {
            const int32_t *pages = p.page_table + (int64_t)item.tile.slot * p.max_pages;
            const int n_pages = (item.n_keys() + PAGE_TOKENS - 1) / PAGE_TOKENS, n_tiles = item.n_tiles();
            const int first_tile = GENERAL ? item.first_tile(p.window) : 0;
            const int first_mine = first_tile * Shape::KEY_PAGES + lane;
            int32_t page = lane < Shape::KEY_PAGES && first_mine < n_pages ? pages[first_mine] : 0;
            for (int t = first_tile; t < n_tiles; t++, at.next()) {
                const int first_page = t * Shape::KEY_PAGES,
                          of_tile = min((int)Shape::KEY_PAGES, n_pages - first_page);
                const uint32_t bytes = (uint32_t)of_tile * Shape::BOXES * Shape::PAGE_BYTES;
                const int row = (int)(kv_offset(p.layout, p.layer, page, item.kv_head, 0) / Shape::HEAD_DIM);
                const int mine = first_page + Shape::KEY_PAGES + lane;
                page = lane < Shape::KEY_PAGES && mine < n_pages ? pages[mine] : 0;
                auto request = [&](const CUtensorMap &map, uint32_t ring, uint32_t full, uint32_t empty,
                                   const char *name) {
                    ptx_barrier_wait(empty + 8 * at.stage, at.parity ^ 1, name);
                    if (lane == 0)
                        ptx_barrier_expect(full + 8 * at.stage, bytes);
                    __syncwarp(); /* the stage expects its bytes */
                    if (lane < of_tile)
#pragma unroll
                        for (int b = 0; b < Shape::BOXES; b++)
                            ptx_copy_box(shared + ring + at.stage * Shape::KEY_BYTES + b * Shape::BOX_BYTES +
                                             lane * Shape::PAGE_BYTES,
                                         &map, b * BOX_COLUMNS, row, full + 8 * at.stage);
                };
                request(maps.k, Shape::K_RING, barriers.k_full, barriers.k_empty, "prefill k empty");
                if (t == first_tile && lane == 0) {
                    for (int c = 0; c < Shape::CONSUMERS; c++) {
                        const bool has_strip = item.has_strip(p, c);
                        tell(c, index, has_strip ? Shape::Q_BYTES : 0);
                        if (!has_strip)
                            continue;
#pragma unroll
                        for (int b = 0; b < Shape::BOXES; b++)
                            ptx_copy_box(shared + c * Shape::Q_BYTES + b * Shape::Q_BOX_BYTES, &maps.q,
                                         item.head(p, c) * Shape::HEAD_DIM + b * BOX_COLUMNS,
                                         item.tile.row + item.first_row(c), barriers.q_full + 8 * c);
                    }
                }
                __syncwarp(); /* lanes stay together */
                request(maps.v, Shape::V_RING, barriers.v_full, barriers.v_empty, "prefill v empty");
            }
            q_parity ^= 1;
        }
        index = __shfl_sync(ALL_LANES, next, 0);
    }
    if (lane == 0)
        for (int c = 0; c < Shape::CONSUMERS; c++)
            tell(c, -1, 0);
}

/* Eight columns of a row of q of a strip. */
template <typename Shape>
__device__ __forceinline__ bfloat16 *query_chunk(unsigned char *q, int row, int chunk) {
    return reinterpret_cast<bfloat16 *>(q + chunk / 8 * Shape::Q_BOX_BYTES + tile_offset(row, chunk % 8, 8));
}

/* Rotates q of a strip in shared memory. By one warpgroup; `thread` of it. */
template <typename Shape>
__device__ __forceinline__ void rotate_queries(unsigned char *q, int n_rows, const float *rope, int thread) {
    constexpr int PAIRS = Shape::HEAD_DIM / 16; /* of chunks of eight columns, HEAD_DIM / 2 apart */
#pragma unroll 2
    for (int index = thread; index < n_rows * PAIRS; index += WARPGROUP) {
        int row = index / PAIRS, pair = index % PAIRS;
        bfloat16 *low_at = query_chunk<Shape>(q, row, pair),
                 *high_at = query_chunk<Shape>(q, row, pair + PAIRS);
        float low[8], high[8], cosine[8], sine[8];
        load_8(low, low_at);
        load_8(high, high_at);
        load_8(cosine, rope + row * Shape::HEAD_DIM + pair * 8);
        load_8(sine, rope + row * Shape::HEAD_DIM + Shape::HEAD_DIM / 2 + pair * 8);
#pragma unroll
        for (int i = 0; i < 8; i++)
            rope_rotate(low[i], high[i], cosine[i], sine[i]);
        store_8(low_at, low);
        store_8(high_at, high);
    }
}

/* The same with a norm of q, a warp per row. rope NULL: not rotated. */
template <typename Shape>
__device__ __forceinline__ void norm_queries(unsigned char *q, int n_rows, const float *norm, float epsilon,
                                             const float *rope, int thread) {
    const int lane = thread % WARP_LANES;
    const bool holds = lane < Shape::HEAD_DIM / 8;
#pragma unroll 1
    for (int row = thread / WARP_LANES; row < n_rows; row += WARPGROUP / WARP_LANES) {
        float v[8] = {};
        if (holds)
            load_8(v, query_chunk<Shape>(q, row, lane));
        rope_norm_head<bfloat16, WARP_LANES>(v, lane, Shape::HEAD_DIM, norm, epsilon,
                                             rope ? rope + row * Shape::HEAD_DIM : nullptr);
        if (holds)
            store_8(query_chunk<Shape>(q, row, lane), v);
    }
}

/* A tile of V that not all rows see whole, or whose end lies behind the last key. Rows of V behind the last
 * key become zero, whatever was there. Where V of a key in front of it is not finite, zero times it must not
 * reach the rows that do not see this key: the rows that do become NaN here, and V is made zero. All
 * consumers call it, each with its own rows. Those of out see `span` positions up to their own, which are
 * negative where there is no row. */
template <typename Shape>
__device__ __forceinline__ void clean_values(unsigned char *v, int first_key, int n_keys,
                                             float (&out)[Shape::OUT], int span, const int (&position)[2],
                                             int lane) {
    constexpr int CHUNKS = Shape::KEY_BYTES / 16;
    bool found = false;
    for (int i = threadIdx.x; i < CHUNKS; i += Shape::CONSUMER_THREADS) {
        uint4 *chunk = reinterpret_cast<uint4 *>(v) + i;
        if (first_key + i / 8 % Shape::KEYS >= n_keys) {
            *chunk = make_uint4(0, 0, 0, 0);
        } else {
            uint4 x = *chunk;
            found = found || bfloat16_pair_is_nonfinite(x.x) || bfloat16_pair_is_nonfinite(x.y) ||
                    bfloat16_pair_is_nonfinite(x.z) || bfloat16_pair_is_nonfinite(x.w);
        }
    }
    ptx_fence_for_copies();
    if (!ptx_named_barrier_or(1 + Shape::CONSUMERS, Shape::CONSUMER_THREADS, found))
        return; /* all of V has been looked at */
#pragma unroll 1
    for (int key = 0; key < Shape::KEYS && first_key + key <= position[1]; key++) {
        const bool sees[2] = {(unsigned)(position[0] - first_key - key) < (unsigned)span,
                              (unsigned)(position[1] - first_key - key) < (unsigned)span};
#pragma unroll
        for (int j = 0; j < Shape::HEAD_DIM / 8; j++) {
            uint32_t pair = *reinterpret_cast<const uint32_t *>(
                v + j / 8 * Shape::BOX_BYTES + tile_offset(key, j % 8, 8) + tile_c_column(lane, 0) * 2);
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (bfloat16_is_nonfinite(c == 0 ? pair : pair >> 16)) {
                    out[4 * j + c] = sees[0] ? __int_as_float(0x7FC00000) : out[4 * j + c];
                    out[4 * j + 2 + c] = sees[1] ? __int_as_float(0x7FC00000) : out[4 * j + 2 + c];
                }
        }
    }
    ptx_named_barrier(1 + Shape::CONSUMERS, Shape::CONSUMER_THREADS); /* all rows have seen V */
    uint32_t *words = reinterpret_cast<uint32_t *>(v);
    for (int i = threadIdx.x; i < Shape::KEY_BYTES / 4; i += Shape::CONSUMER_THREADS)
        words[i] = bfloat16_pair_finite(words[i]);
    ptx_fence_for_copies();
    ptx_named_barrier(1 + Shape::CONSUMERS, Shape::CONSUMER_THREADS); /* V is finite */
}

/* score = q . K^T of a strip and a tile, issued. */
template <typename Shape>
__device__ __forceinline__ void issue_scores(float (&score)[Shape::SCORES], uint64_t q, uint32_t k_tile) {
    const uint64_t k = wgmma_operand(k_tile);
#pragma unroll
    for (int step = 0; step < Shape::HEAD_DIM / 16; step++) {
        uint64_t a = wgmma_advance(q, step / 4 * Shape::Q_BOX_BYTES + step % 4 * 32);
        uint64_t b = wgmma_advance(k, step / 4 * Shape::BOX_BYTES + step % 4 * 32);
        if (step == 0)
            wgmma<Shape::KEYS, false>(score, a, b);
        else
            wgmma<Shape::KEYS>(score, a, b);
    }
}

/* out += weight . V of a tile, issued. */
template <typename Shape>
__device__ __forceinline__ void issue_values(float (&out)[Shape::OUT],
                                             const uint32_t (&weight)[Shape::STEPS][4], uint32_t v_tile) {
    const uint64_t v = wgmma_operand_transposed(v_tile, Shape::BOX_BYTES);
#pragma unroll
    for (int step = 0; step < Shape::STEPS; step++)
        wgmma_registers<Shape::COLUMNS>(out, weight[step], wgmma_advance(v, step * 16 * ROW_BYTES));
}

/* The running state of the two rows whose accumulators a thread holds. */
struct row_state {
    float largest[2]; /* raw score */
    float scaled[2];  /* the same times scale, rounded */
    float total[2];   /* of the weights of this lane's columns */
};

/* Turns the raw scores [N] that a thread holds of a tile into weights. visible: keys of the tile up to each
 * row's position, less the lane's first column; WINDOWED: of these the row sees the last `span`. rescale:
 * what the sums of earlier tiles are multiplied by. */
template <bool WINDOWED, int N>
__device__ __forceinline__ void weigh(float (&score)[N], row_state &rows, float (&rescale)[2], float scale,
                                      bool masked, const int (&visible)[2], int span) {
    if (masked) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int key = i / 4 * 8 + i % 2, r = i / 2 % 2;
            const bool sees = WINDOWED ? (unsigned)(visible[r] - 1 - key) < (unsigned)span : key < visible[r];
            score[i] = sees ? score[i] : -INFINITY;
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float larger = rows.largest[r];
#pragma unroll
        for (int i = 0; i < N; i += 4)
            larger = fmaxf(larger, fmaxf(score[i + 2 * r], score[i + 2 * r + 1]));
        rows.largest[r] = lanes_max<4>(larger);
        float scaled = __fmul_rn(rows.largest[r], scale);
        rescale[r] = ptx_exp2(rows.scaled[r] - scaled);
        rows.scaled[r] = scaled;
        rows.total[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        score[i] = ptx_exp2(fmaf(score[i], scale, -rows.scaled[i / 2 % 2]));
        rows.total[i / 2 % 2] += score[i];
    }
}

/* Accumulators as the A operand of the product that follows (wgmma_registers). */
template <int N>
__device__ __forceinline__ void pack_weights(uint32_t (&weight)[N / 8][4], const float (&score)[N]) {
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        weight[i / 4][i % 4] = pack_bfloat16(score[2 * i], score[2 * i + 1]);
}

/* Lane t of each four receives in x[i] what lane i of them had in x[t]. */
template <typename T> __device__ __forceinline__ void transpose_4(T (&x)[4], int lane) {
#pragma unroll
    for (int step = 1; step <= 2; step *= 2) {
        const bool second = lane & step;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int low = step == 1 ? 2 * i : i, high = low + step;
            T received = __shfl_xor_sync(ALL_LANES, second ? x[low] : x[high], step);
            x[low] = second ? received : x[low];
            x[high] = second ? x[high] : received;
        }
    }
}

/* Divides by the totals and writes a thread's two rows, 8 rows and `next` elements apart; n_valid rows of the
 * strip from the first on exist. Four lanes hold two columns of eight each: they exchange them for the eight
 * of one, 16 bytes a lane. */
template <typename Shape>
__device__ __forceinline__ void write_rows(bfloat16 *to, int64_t next, int n_valid,
                                           const float (&out)[Shape::OUT], const row_state &rows, int lane) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / lanes_sum<4>(rows.total[r]);
#pragma unroll
        for (int j = 0; j < Shape::HEAD_DIM / 8; j += 4) {
            uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                pairs[i] =
                    pack_bfloat16(out[4 * (j + i) + 2 * r] * inverse, out[4 * (j + i) + 2 * r + 1] * inverse);
            transpose_4(pairs, lane);
            if (8 * r < n_valid)
                *reinterpret_cast<uint4 *>(to + r * next + (j + lane % 4) * 8) =
                    make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }
}

template <typename Shape, bool GENERAL>
__device__ __forceinline__ void consume(const attention_params &p, const prefill_items &all, uint32_t shared,
                                        const prefill_barriers<Shape> &barriers,
                                        const volatile int32_t *items) {
    constexpr int HEAD_DIM = Shape::HEAD_DIM;
    const int c = threadIdx.x / WARPGROUP, thread = threadIdx.x % WARPGROUP;
    const int lane = thread % WARP_LANES, warp = thread / WARP_LANES;
    const uint32_t q_tile = shared + c * Shape::Q_BYTES;
    const uint64_t q = wgmma_operand(q_tile);
    auto generic = [](uint32_t address) {
        return static_cast<unsigned char *>(__cvta_shared_to_generic(address));
    };
    auto release = [&](uint32_t barrier) {
        __syncwarp(); /* no lane reads, or waits for, what is refilled now */
        if (lane == 0)
            ptx_barrier_arrive(barrier);
    };
    const int32_t window = GENERAL ? p.window : 0;
    const int span = GENERAL && window > 0 ? window : INT32_MAX / 2; /* positions that a row sees */
    const bool capped = GENERAL && p.softcap != 0;
    const float scale = capped ? p.softcap : p.scale;
    ring_position<Shape::STAGES> at_k, at_v;
    for (uint32_t q_parity = 0;; q_parity ^= 1) {
        ptx_barrier_wait(barriers.q_full + 8 * c, q_parity, "prefill q full");
        const int index = items[c];
        if (index < 0)
            return;
        const prefill_item<Shape> item(p, all, index);
        const int n_keys = item.n_keys(), n_tiles = item.n_tiles();
        const int first_row = item.first_row(c), n_rows = min((int)STRIP_ROWS, item.tile.n_rows - first_row);
        const int first_position = item.tile.position + first_row;
        const bool active = item.has_strip(p, c);
        /* Tiles of keys: [first_tile, n_tiles) of the item, [own_first, own_end) of the strip. */
        const int first_tile = GENERAL ? item.first_tile(window) : 0;
        const int own_first =
            GENERAL && active ? window_first(first_position, window) / Shape::KEYS : first_tile;
        const int own_end = active ? (first_position + n_rows + Shape::KEYS - 1) / Shape::KEYS : first_tile;
        /* Accumulators i, with i / 2 % 2 == r, belong to row warp * 16 + lane / 4 + 8 r of the strip. */
        const int row = warp * 16 + lane / 4;
        const int first_own = active ? first_position + row : -STRIP_ROWS;
        const int position[2] = {first_own, first_own + 8};
        auto wait_k = [&]() {
            ptx_barrier_wait(barriers.k_full + 8 * at_k.stage, at_k.parity, "prefill k full");
        };
        auto release_k = [&]() {
            release(barriers.k_empty + 8 * at_k.stage);
            at_k.next();
        };
        float out[Shape::OUT] = {};
        auto wait_v = [&](int t) {
            ptx_barrier_wait(barriers.v_full + 8 * at_v.stage, at_v.parity, "prefill v full");
            /* Some row of the tile does not see all of these keys. */
            if ((t + 1) * Shape::KEYS > item.tile.position + 1 ||
                (GENERAL && t * Shape::KEYS < window_first(n_keys - 1, window))) {
                clean_values<Shape>(generic(shared + Shape::V_RING + at_v.stage * Shape::KEY_BYTES),
                                    t * Shape::KEYS, n_keys, out, span, position, lane);
            }
        };
        auto release_v = [&]() {
            release(barriers.v_empty + 8 * at_v.stage);
            at_v.next();
        };
        /* Tiles that other strips see. */
        auto pass = [&](int from, int end) {
            for (int t = from; t < end; t++) {
                wait_k();
                release_k();
                wait_v(t);
                release_v();
            }
        };
        if (GENERAL)
            pass(first_tile, own_first);
        if (active) {
            const bool normed = GENERAL && p.q_norm;
            if (normed)
                norm_queries<Shape>(generic(q_tile), n_rows, p.q_norm, p.norm_epsilon,
                                    attention_rope_row(p, first_position), thread);
            else if (p.rope)
                rotate_queries<Shape>(generic(q_tile), n_rows, attention_rope_row(p, first_position), thread);
            if (normed || p.rope) {
                ptx_fence_for_copies();
                ptx_named_barrier(1 + c, WARPGROUP); /* q is complete */
            }
            float score[Shape::SCORES], rescale[2];
            uint32_t weight[Shape::STEPS][4];
            const float none = GENERAL ? NO_SCORE : -INFINITY, scaled_none = __fmul_rn(none, scale);
            row_state rows = {{none, none}, {scaled_none, scaled_none}, {0, 0}};
            auto weigh_tile = [&](int t) {
                const int visible[2] = {position[0] + 1 - t * Shape::KEYS - (int)tile_c_column(lane, 0),
                                        position[1] + 1 - t * Shape::KEYS - (int)tile_c_column(lane, 0)};
                if (capped) {
#pragma unroll
                    for (int i = 0; i < Shape::SCORES; i++)
                        score[i] = tanh_of(score[i] * (p.scale * p.softcap_inverse));
                }
                const bool masked =
                    (t + 1) * Shape::KEYS > first_position + 1 ||
                    (GENERAL && t * Shape::KEYS < window_first(first_position + STRIP_ROWS - 1, window));
                weigh<GENERAL>(score, rows, rescale, scale, masked, visible, span);
            };
            wait_k();
            wgmma_begin();
            issue_scores<Shape>(score, q, shared + Shape::K_RING + at_k.stage * Shape::KEY_BYTES);
            wgmma_commit();
            wgmma_wait<0>();
            release_k();
            if (own_end == own_first + 1)
                release(barriers.q_empty + 8 * c);
            weigh_tile(own_first);
            pack_weights(weight, score);
            if (own_end > own_first + 1)
                wait_k();
            for (int t = own_first; t + 1 < own_end; t++) {
                wait_v(t);
                wgmma_begin();
                issue_scores<Shape>(score, q, shared + Shape::K_RING + at_k.stage * Shape::KEY_BYTES);
                wgmma_commit();
                issue_values<Shape>(out, weight, shared + Shape::V_RING + at_v.stage * Shape::KEY_BYTES);
                wgmma_commit();
                wgmma_wait<1>(); /* the scores of tile t + 1 are complete */
                release_k();
                if (t + 2 == own_end)
                    release(barriers.q_empty + 8 * c);
                weigh_tile(t + 1);
                /* Here, not where it is needed: the compiler does not move the exponentials behind this loop,
                 * and so not behind the wait that follows. */
                if (t + 2 < own_end)
                    wait_k();
                wgmma_wait<0>(); /* the sums over tile t are complete */
                release_v();
#pragma unroll
                for (int i = 0; i < Shape::OUT; i++)
                    out[i] *= rescale[i / 2 % 2];
                pack_weights(weight, score);
            }
            wait_v(own_end - 1);
            wgmma_begin();
            issue_values<Shape>(out, weight, shared + Shape::V_RING + at_v.stage * Shape::KEY_BYTES);
            wgmma_commit();
            wgmma_wait<0>();
            release_v();
            write_rows<Shape>(static_cast<bfloat16 *>(p.out) +
                                  (item.tile.row + first_row + row) * p.out_stride +
                                  item.head(p, c) * HEAD_DIM,
                              8 * p.out_stride, n_rows - row, out, rows, lane);
        } else {
            release(barriers.q_empty + 8 * c);
        }
        pass(own_end, n_tiles);
    }
}

template <typename Shape, bool GENERAL>
__global__ void __launch_bounds__(Shape::THREADS, 1)
    kernel_attention_wgmma(const __grid_constant__ prefill_maps maps, const attention_params p,
                           const prefill_items all) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    PTX_DYNAMIC_SHARED(dynamic, 1);
    __shared__ __align__(8) uint64_t barrier_memory[prefill_barriers<Shape>::COUNT];
    const uint32_t shared = (ptx_shared_address(dynamic) + ATOM_BYTES - 1) / ATOM_BYTES * ATOM_BYTES;
    const prefill_barriers<Shape> barriers(ptx_shared_address(barrier_memory));
    volatile int32_t *items = p.handed + blockIdx.x * PREFILL_MAX_CONSUMERS;
    if (threadIdx.x == 0)
        barriers.init();
    __syncthreads(); /* the barriers are initialised */
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    if (threadIdx.x >= Shape::CONSUMER_THREADS) {
        ptx_registers_lower<Shape::PRODUCER_REGISTERS>();
        if (threadIdx.x < Shape::CONSUMER_THREADS + WARP_LANES)
            produce<Shape, GENERAL>(p, maps, all, shared, barriers, items);
    } else {
        ptx_registers_raise<Shape::CONSUMER_REGISTERS>();
        consume<Shape, GENERAL>(p, all, shared, barriers, items);
    }
#endif
}

/* ---- launch shape ---- */

using shape_64 = prefill_shape<64, 3, 4, 128>;
using shape_96 = prefill_shape<96, 2, 3, 128>;
using shape_128 = prefill_shape<128, 2, 3, 128>;
using shape_256 = prefill_shape<256, 2, 2, 64>; /* 128 sums of out a thread leave room for 64 keys */

template <typename Shape>
enum status launch(struct backend_context *context, const attention_params &p, const struct tensor *qkv) {
    const struct state_limits *limits = &context->limits;
    prefill_maps maps;
    int64_t kv_rows = (int64_t)limits->n_layers * limits->n_pages * limits->n_kv_heads * PAGE_TOKENS;
    RETURN_IF(kv_rows > INT32_MAX, STATUS_DATA,
              "attention_prefill: %lld rows of K; tensor maps count to 2147483647: lower "
              "gpu_memory_utilization or max_num_seqs",
              (long long)kv_rows);
    auto map = [&](const void *data, int64_t rows, int64_t cols, int64_t stride, int32_t box_rows,
                   CUtensorMap *out) {
        return cuda_tensor_map(context, "attention_prefill", data, DTYPE_BFLOAT16, rows, cols, stride,
                               box_rows, BOX_COLUMNS, out);
    };
    TRY(map(p.qkv, qkv->rows, qkv->cols, p.qkv_stride, STRIP_ROWS, &maps.q));
    TRY(map(p.k, kv_rows, Shape::HEAD_DIM, Shape::HEAD_DIM, PAGE_TOKENS, &maps.k));
    TRY(map(p.v, kv_rows, Shape::HEAD_DIM, Shape::HEAD_DIM, PAGE_TOKENS, &maps.v));
    prefill_items all;
    all.per_head = ceil_div(p.group * (context->prefill_tile_rows / STRIP_ROWS), Shape::CONSUMERS);
    all.n = context->step.n_tiles * limits->n_kv_heads * all.per_head;
    int32_t blocks = all.n < context->n_multiprocessors ? all.n : context->n_multiprocessors;
    auto kernel =
        attention_is_general(p) ? kernel_attention_wgmma<Shape, true> : kernel_attention_wgmma<Shape, false>;
    return cuda_launch(context, "attention_prefill", kernel, dim3((unsigned)blocks), Shape::THREADS,
                       Shape::SHARED_BYTES, maps, p, all);
}

} // namespace

int32_t attention_prefill_wgmma_tile_rows(int32_t head_dim) {
    switch (head_dim) {
    case shape_64::HEAD_DIM:
        return shape_64::CONSUMERS * STRIP_ROWS;
    case shape_96::HEAD_DIM:
        return shape_96::CONSUMERS * STRIP_ROWS;
    case shape_128::HEAD_DIM:
        return shape_128::CONSUMERS * STRIP_ROWS;
    case shape_256::HEAD_DIM:
        return shape_256::CONSUMERS * STRIP_ROWS;
    default:
        return 0;
    }
}

enum status attention_prefill_wgmma(struct backend_context *context, const attention_params &p,
                                    const struct tensor *qkv) {
    RETURN_IF(!(p.scale > 0), STATUS_INTERNAL, "attention_prefill: scale %g; expected a positive one",
              (double)p.scale);
    switch (p.layout.head_dim) {
    case shape_64::HEAD_DIM:
        return launch<shape_64>(context, p, qkv);
    case shape_96::HEAD_DIM:
        return launch<shape_96>(context, p, qkv);
    case shape_128::HEAD_DIM:
        return launch<shape_128>(context, p, qkv);
    default:
        return launch<shape_256>(context, p, qkv);
    }
}
