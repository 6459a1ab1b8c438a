/* network: a decode step of a small model, from token ids to logits, in one kernel (bfloat16, Hopper).
 *
 * Why. The weights of such a model stay in the L2 cache, so its step is no work but a chain: some thirty
 * operations, each waiting for the one in front, at more than a microsecond from kernel to kernel. Here they
 * follow each other inside of a cluster of 16 blocks, whose shared memories reach each other in a tenth of
 * that.
 *
 * The picture. A cluster computes up to 8 (or 16) rows from beginning to end; clusters never meet. A matrix
 * is cut into tiles of 16 outputs, and tile t belongs to block t % 16 (of qkv: 15 - t % 16, which evens out
 * the bytes of a layer), there to one warp, for all rows and the whole of k:
 *
 *         rows (mma's n)                   block 0 .. 15, each:
 *        +------+                            warps 0 .. 7   tiles, rows of norms, pages of attention
 *     16 | warp | <- ring of weights         warp 8         fills the ring
 *        +------+ <- operand in shared memory, of all rows, the same in every block
 *
 * The ring. No kernel writes weights, so warp 8 streams the block's whole sequence of them, from the first
 * layer to the head, as far ahead as the ring reaches (about a layer), past all the waiting below. A slot is
 * 16 outputs by 128 columns of k: two slices of weight blocks (weight_layout.h). The order is matrix, k,
 * tile; so tile i of a block's n finds its slots n apart.
 *
 * Exchanges. What an operation needs of all blocks is sent to all of them by those who computed it, with
 * ptx_cluster_store_counted(): the bytes count at a barrier of the block that receives them. Nobody executes
 * a fence, which would wait behind the weights that are on their way. Four of these barriers, in each layer:
 *
 *     QKV       q, k, v of a (row, head) to the block that attends: item i is row i / heads, block i % 16
 *     ATTENDED  attention's results, to all
 *     HIDDEN    the residual stream behind attention, and again behind the MLP, to all: whose tile it is adds
 *               to it and sends the sums; every block computes the norms itself, as it needs all of a row
 *     INNER     gelu's results, to all
 *
 * Why buffers are free when they are written again, and no barrier sees bytes of a phase before the one in
 * front is complete in its block: every block has a tile of qkv and one of up (network_plan.cu), sends those
 * only behind a barrier of its own warps (in norm_rows), and all its warps wait for everything the block
 * receives. Nobody can receive all of INNER before every block has passed ATTENDED and HIDDEN of the layer,
 * nor all of the next ATTENDED before every block has passed INNER and HIDDEN, nor QKV before the same.
 *
 * The barriers of the ring. full[s]: completed by the bytes of slot s; the warp whose tile it is waits for
 * it. empty[s]: completed by that warp when it has read the slot; warp 8 waits for it before it fills s
 * again. A slot's use u (0, 1, ...) waits for full[s] with parity u % 2 and for the empty[s] of use u - 1.
 * Parities name one use because no warp is N slots ahead of another: the ring holds a block's part of any
 * one matrix, whose operand comes only when all of the matrix in front has been multiplied (what has been
 * exchanged contains it), so what lay in its slots before has been read; and the first pieces of the next one
 * are waited for early only where the ring holds these, too.
 *
 * Waits are spent on what does not need the awaited rows: a tile's place in the ring, its bias and first
 * weights, pages of K and V, weights of norms.
 *
 * Numerics: bit for bit as the operations one by one. Products are mma.sync chains over ascending k from
 * zero, which have wgmma's bits (matmul_wgmma.cu), sums are added to the residual as memory adds them;
 * embeddings, norms, attention and gelu are the same functions. A row is computed by one cluster, in an order
 * that depends on the shapes of the model and the row's position alone. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/attention_decode_mma.cuh"
#include "kernels/cuda/embed.cuh"
#include "kernels/cuda/network_block.cuh"
#include "kernels/cuda/network_ring.cuh"
#include "kernels/cuda/norm.cuh"

namespace {

enum {
    CONSUMERS_MEET = 1, /* a named barrier */
    /* Rows of a cluster where there are clusters enough: each cluster streams all weights, each row takes
     * time in the exchanges. */
    ROWS_WANTED = 4
};

/* ---- a block ---- */

template <int ROWS, int NORM_VECTORS> struct network_block {
    static constexpr int ROW_TILES = ROWS / 8, ITEMS = items_of(ROWS);
    using sums_type = network_sums<ITEMS>;

    const network_params &p;
    const network_rows<ROWS> &rows;
    const ring r;
    unsigned char *const shared;
    const uint32_t base;      /* address of shared */
    const uint32_t exchanges; /* address of the barriers */
    const int rank, first_row, n_rows, n_items;
    const int warp, lane;
    uint32_t everyone; /* base in block lane % 16: lanes send to all */
    uint32_t everyones_exchanges;
    ring_piece piece; /* the first one of the next matrix */

    /* Phase `parity` of an exchange is complete: its next one may be. All warps. */
    __device__ __forceinline__ void wait(enum exchange exchange, uint32_t parity, const char *name) {
        ptx_barrier_wait(exchanges + 8 * exchange, parity, name);
        if (threadIdx.x == 0)
            ptx_barrier_expect(exchanges + 8 * exchange, bytes_of(exchange));
    }
    /* What a block receives in a phase. */
    __device__ __forceinline__ uint32_t bytes_of(enum exchange exchange) const {
        const int row_bytes = exchange == EXCHANGE_ATTENDED ? 2 * p.width
                              : exchange == EXCHANGE_HIDDEN ? 4 * p.width
                                                            : 2 * p.inner;
        return (uint32_t)(exchange == EXCHANGE_QKV ? n_items * ITEM_BYTES : n_rows * row_bytes);
    }

    __device__ __forceinline__ unsigned char *scratch() const {
        return shared + p.space.scratch + warp * (ROWS * STAGED_FLOATS);
    }
    __device__ __forceinline__ uint32_t hidden_row_bytes() const { return 4 * p.width + OPERAND_PADDING; }
    __device__ __forceinline__ uint32_t width_row_bytes() const { return 2 * p.width + OPERAND_PADDING; }
    __device__ __forceinline__ uint32_t inner_row_bytes() const { return 2 * p.inner + OPERAND_PADDING; }
    __device__ __forceinline__ float *hidden_row(int row) const {
        return reinterpret_cast<float *>(shared + p.space.hidden + row * hidden_row_bytes());
    }
    __device__ __forceinline__ const bfloat16 *item_part(int item, int part) const {
        return reinterpret_cast<const bfloat16 *>(shared + p.space.items + item * ITEM_BYTES) +
               part * HEAD_DIM;
    }

    /* A tile's results, as fragments hold them, into this warp's scratch: [ROWS] of 16 outputs. */
    template <typename T> __device__ __forceinline__ void stage(const float (&sum)[ROW_TILES][4]) const {
        constexpr int ROW_BYTES = sizeof(T) == sizeof(float) ? STAGED_FLOATS : STAGED_HALVES;
        __syncwarp(); /* all lanes have read what was there */
#pragma unroll
        for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = j * 8 + (int)tile_c_column(lane, i), output = (int)tile_c_row(lane, i);
                *reinterpret_cast<T *>(scratch() + row * ROW_BYTES + output * (int)sizeof(T)) =
                    from_float<T>(sum[j][i]);
            }
        __syncwarp();
    }
    /* Rows of `chunks` vectors from scratch to all blocks, at offset `to` of their shared memory. */
    __device__ __forceinline__ void send(int n, int chunks, int staged_bytes, int to, int row_bytes,
                                         enum exchange exchange) const {
        for (int i = lane / NETWORK_CLUSTER; i < n * chunks; i += WARP_LANES / NETWORK_CLUSTER) {
            const int row = i / chunks, chunk = i % chunks;
            const uint4 x =
                *reinterpret_cast<const uint4 *>(scratch() + row * staged_bytes + chunk * TILE_CHUNK_BYTES);
            ptx_cluster_store_counted(everyone + to + row * row_bytes + chunk * TILE_CHUNK_BYTES, x,
                                      everyones_exchanges + 8 * exchange);
        }
    }

    /* ---- rows ---- */

    /* Rows are given out from the last warp on, tiles from the first: with few of both, who norms a row has
     * no tile to end before. */
    __device__ __forceinline__ int first_row_of_warp() const {
        return CONSUMERS - 1 - warp;
    }

    /* hidden = embeddings. Vectors are given out from the last thread on: the first ones find out about rows.
     */
    __device__ __forceinline__ void embed() const {
        const bfloat16 *tokens = static_cast<const bfloat16 *>(p.token_table);
        const bfloat16 *positions = static_cast<const bfloat16 *>(p.position_table);
        const int n_vectors = p.width / EMBED_VECTOR;
        for (int i = CONSUMER_THREADS - 1 - (int)threadIdx.x; i < n_rows * n_vectors; i += CONSUMER_THREADS) {
            const int row = i / n_vectors, column = i % n_vectors * EMBED_VECTOR;
            const int32_t slot = p.attention.slot[first_row + row];
            const int32_t position = p.attention.position[first_row + row];
            int32_t token = p.token[first_row + row];
            if (token < 0)
                token = p.last_token[slot];
            if (rank == 0 && column == 0 && position == 0)
                atomicMax(p.fault + slot, NO_FAULT); /* padding rows share a slot */
            const bool known = (uint32_t)token < (uint32_t)p.n_token_rows &&
                               (uint32_t)position < (uint32_t)p.n_position_rows;
            store_4(hidden_row(row) + column, embed_4(tokens, positions, p.width / WEIGHT_BLOCK, known, token,
                                                      position, p.embedding_scale, column));
        }
    }

    /* normed = the norm of hidden, a warp per row. ready(): waits for hidden. is_last: of sampled rows alone.
     */
    template <typename Ready>
    __device__ __forceinline__ void norm_rows(const network_norm &norm, int site, bool is_last, Ready ready) {
        const int n_vectors = p.width / NORM_VECTOR;
        float4 weight[NORM_VECTORS], bias[NORM_VECTORS];
        auto load_ahead = [&] {
#pragma unroll
            for (int j = 0; j < NORM_VECTORS; j++)
                load_weights(weight[j], bias[j], norm.weight, norm.bias, j * WARP_LANES + lane, n_vectors);
        };
        constexpr bool HAS_REGISTERS = NORM_VECTORS <= 3 && ROWS <= 8;
        if (HAS_REGISTERS)
            load_ahead();
        ready();
        for (int row = first_row_of_warp(); row < n_rows; row += CONSUMERS) {
            float4 v[NORM_VECTORS];
#pragma unroll
            for (int j = 0; j < NORM_VECTORS; j++) {
                int vector = j * WARP_LANES + lane;
                v[j] = vector < n_vectors ? load_4(hidden_row(row) + vector * NORM_VECTOR)
                                          : make_float4(0, 0, 0, 0);
            }
            float squares;
            const float scale = norm_of_warp(v, &squares, p.norm_kind, p.width, p.epsilon, lane);
            if (rank == 0 && lane == 0 && !isfinite(squares) && (!is_last || rows.is_sampled[row])) {
                unsigned long long fault =
                    (unsigned long long)(uint32_t)rows.position[row] << 32 | (uint32_t)site;
                atomicMin(p.fault + rows.slot[row], fault);
            }
            if (!HAS_REGISTERS)
                load_ahead();
            bfloat16 *normed =
                reinterpret_cast<bfloat16 *>(shared + p.space.normed + row * width_row_bytes());
#pragma unroll
            for (int j = 0; j < NORM_VECTORS; j++) {
                int vector = j * WARP_LANES + lane;
                if (vector < n_vectors)
                    store_4(normed + vector * NORM_VECTOR, scaled(v[j], scale, weight[j], bias[j]));
            }
        }
        ptx_named_barrier(CONSUMERS_MEET, CONSUMER_THREADS); /* all rows are normed */
    }

    /* ---- matrices ---- */

    /* A matrix by `operand`: ready() in front of the products, end(first output, sums) behind them. */
    template <typename Ready, typename End>
    __device__ __forceinline__ void matmul(const network_matrix &matrix, int n_outputs, int width, int place,
                                           int operand, uint32_t row_bytes, Ready ready, End end) {
        const int n_here = tiles_here(tiles_of(n_outputs), place), n_pairs = width / (2 * WEIGHT_BLOCK);
        const int first = (place + warp * NETWORK_CLUSTER) * NETWORK_TILE;
        float bias[2] = {0, 0}; /* of the outputs that this lane will hold; read ahead */
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (matrix.bias && warp < n_here)
                bias[i] = matrix.bias[first + (int)tile_c_row(lane, 2 * i)];
        ring_piece own = piece;
        own.advance(warp < n_here ? warp : 0, r.n_slots);
        tile_products<ROW_TILES> tile(r, own, n_here, n_pairs, base + operand, row_bytes, warp < n_here,
                                      lane);
        piece.advance(n_here * n_pairs, r.n_slots);
        ready();
        if (warp < n_here) {
            float sum[ROW_TILES][4];
            tile.compute(sum, r, n_here, n_pairs, lane);
            if (matrix.bias) {
#pragma unroll
                for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        sum[j][i] = sum[j][i] + bias[i / 2];
            }
            end(first, sum);
        }
    }

    /* q, k, v of rows to the blocks that attend to them. */
    __device__ __forceinline__ void send_qkv(int first, const float (&sum)[ROW_TILES][4]) const {
        stage<bfloat16>(sum);
        const int part = (first >= p.width) + (first >= 2 * p.width);
        const int head = (first - part * p.width) / HEAD_DIM, column = first % HEAD_DIM;
        const int row = lane / 2, chunk = lane % 2;
        static_assert(ROWS * 2 <= WARP_LANES, "a lane for every vector");
        if (row >= n_rows)
            return;
        const int item = row * p.n_heads + head;
        const uint32_t block = (uint32_t)(item % NETWORK_CLUSTER);
        const uint32_t to = base + p.space.items + item / NETWORK_CLUSTER * ITEM_BYTES +
                            (part * HEAD_DIM + column) * 2 + chunk * TILE_CHUNK_BYTES;
        const uint4 x =
            *reinterpret_cast<const uint4 *>(scratch() + row * STAGED_HALVES + chunk * TILE_CHUNK_BYTES);
        ptx_cluster_store_counted(ptx_cluster_address(to, block), x,
                                  ptx_cluster_address(exchanges + 8 * EXCHANGE_QKV, block));
    }

    /* Adds sums to the residual stream, which this block has a copy of, and sends it. */
    __device__ __forceinline__ void send_hidden(int first, float (&sum)[ROW_TILES][4]) const {
#pragma unroll
        for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = j * 8 + (int)tile_c_column(lane, i), output = first + (int)tile_c_row(lane, i);
                sum[j][i] = ptx_sum_in_memory(hidden_row(row)[output], sum[j][i]);
            }
        stage<float>(sum);
        send(n_rows, NETWORK_TILE * 4 / TILE_CHUNK_BYTES, STAGED_FLOATS, p.space.hidden + first * 4,
             (int)hidden_row_bytes(), EXCHANGE_HIDDEN);
    }

    __device__ __forceinline__ void send_inner(int first, float (&sum)[ROW_TILES][4]) const {
#pragma unroll
        for (int j = 0; j < ROW_TILES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[j][i] = gelu_tanh(sum[j][i]);
        stage<bfloat16>(sum);
        send(n_rows, NETWORK_TILE * 2 / TILE_CHUNK_BYTES, STAGED_HALVES, p.space.inner + first * 2,
             (int)inner_row_bytes(), EXCHANGE_INNER);
    }

    __device__ __forceinline__ void write_logits(int first, const float (&sum)[ROW_TILES][4]) const {
        stage<float>(sum);
        const int output = first + lane % NETWORK_TILE;
        for (int i = lane / NETWORK_TILE; i < rows.n_entries; i += WARP_LANES / NETWORK_TILE)
            if (output < p.n_vocab)
                p.logits[rows.entry[i] * p.logits_stride + output] = *reinterpret_cast<const float *>(
                    scratch() + rows.entry_row[i] * STAGED_FLOATS + lane % NETWORK_TILE * 4);
    }

    /* ---- attention ---- */

    /* Where a warp stands among its units: one page of every chunk of every item of the block, not the same
     * page of all, so that short rows, too, have a warp for each of their pages. */
    struct unit_cursor {
        int chunk;
        int item;
        int n_keys; /* in front of the row's own, from the unit's first on; negative: behind the last unit */
        int32_t page;
    };
    __device__ __forceinline__ int page_of_chunk(int item) const {
        return (warp - 3 * item) & (CONSUMERS - 1);
    }
    __device__ __forceinline__ void place(unit_cursor &at, int n_chunks) const {
        for (; at.chunk < n_chunks; at.chunk++, at.item = 0)
            for (; at.item < n_items; at.item++) {
                const int page = at.chunk * CHUNK_PAGES + page_of_chunk(at.item);
                at.n_keys = rows.item[at.item].position - page * PAGE_TOKENS;
                if (at.n_keys >= 0) {
                    at.page = rows.item[at.item].pages[page];
                    return;
                }
            }
        at.item = 0, at.n_keys = -1, at.page = SCRATCH_PAGE;
    }
    __device__ __forceinline__ void request_k(const attention_params &a, decode_unit<HEAD_DIM> &unit,
                                              const unit_cursor &at) const {
        unit.template request_k<false>(page_rows<HEAD_DIM>(a, a.k, at.page, rows.item[at.item].head),
                                       at.n_keys, 0, lane);
    }
    __device__ __forceinline__ void request_v(const attention_params &a, decode_unit<HEAD_DIM> &unit,
                                              const unit_cursor &at) const {
        unit.template request_v<false>(page_rows<HEAD_DIM>(a, a.v, at.page, rows.item[at.item].head),
                                       at.n_keys, 0, lane);
    }

    /* Attention of the block's items; K and V of the first unit are on their way. ready(): waits for q, k, v.
     */
    template <typename Ready>
    __device__ __forceinline__ void attend(const attention_params &a, decode_unit<HEAD_DIM> &unit,
                                           unit_cursor now, int n_chunks, Ready ready) {
        using tiles = decode_tiles<HEAD_DIM>;
        sums_type &sums = *reinterpret_cast<sums_type *>(shared + p.space.sums);
        head_sums<HEAD_DIM> all;
        all.largest = -INFINITY;
        all.total = 0;
#pragma unroll
        for (int i = 0; i < head_sums<HEAD_DIM>::COLUMNS; i++)
            all.sum[i] = 0;
        const int position = warp < n_items ? rows.item[warp].position : -1;
        unit_cursor next = now;
        next.item++;
        place(next, n_chunks);
        ready();
#pragma unroll 1
        for (int chunk = 0; chunk < n_chunks; chunk++) {
#pragma unroll 1
            while (now.n_keys >= 0 && now.chunk == chunk) {
                const int unit_idx = page_of_chunk(now.item);
                if (now.n_keys < tiles::UNIT_KEYS)
                    unit.insert_k(item_part(now.item, 1), now.n_keys, lane);
                float score[tiles::KEY_TILES][4] = {};
#pragma unroll
                for (int i = 0; i < tiles::K_VECTORS; i++) {
                    uint4 q = make_uint4(0, 0, 0, 0);
                    if (lane / 4 == 0)
                        q = *reinterpret_cast<const uint4 *>(item_part(now.item, 0) +
                                                             decode_unit<HEAD_DIM>::k_column(lane, i));
                    unit_scores<HEAD_DIM>(score, unit, i, q);
                }
                if (next.n_keys >= 0)
                    request_k(a, unit, next);
                uint32_t weight[tiles::KEY_TILES];
                unit_weights<HEAD_DIM, false>(weight, score, a, now.n_keys, 0, sums, unit_idx, now.item, 1,
                                              lane / 4, lane % 4);
                if (now.n_keys < tiles::UNIT_KEYS)
                    unit.insert_v(item_part(now.item, 2), now.n_keys, lane);
#pragma unroll
                for (int c = 0; c < tiles::V_VECTORS; c++) {
                    float out[4][4] = {};
                    unit_sums<HEAD_DIM>(out, unit, c, weight);
                    store_unit<HEAD_DIM>(sums, unit_idx, now.item, 1, c, out, lane);
                }
                now = next;
                if (now.n_keys < 0)
                    break;
                request_v(a, unit, now);
                next.item++;
                place(next, n_chunks);
            }
            ptx_named_barrier(CONSUMERS_MEET, CONSUMER_THREADS); /* all units of the chunk */
            const int n_keys = min((int)CHUNK, position + 1 - chunk * CHUNK);
            if (n_keys > 0) {
                head_sums<HEAD_DIM> part;
                add_units<HEAD_DIM>(part, sums, warp, (n_keys - 1) / tiles::UNIT_KEYS + 1, lane);
                merge_sums<HEAD_DIM>(all, part);
            }
            if (chunk + 1 < n_chunks)
                ptx_named_barrier(CONSUMERS_MEET, CONSUMER_THREADS); /* all have read the units' sums */
        }
        if (warp < n_items)
            send_attended(a, all, position);
    }

    /* The results of the warp's item to all blocks, its K and V to their page. A padding row has neither. */
    __device__ __forceinline__ void send_attended(const attention_params &a, const head_sums<HEAD_DIM> &all,
                                                  int position) const {
        const int row = rows.item[warp].row, head = rows.item[warp].head;
        bfloat16 *staged = reinterpret_cast<bfloat16 *>(scratch());
        __syncwarp(); /* all lanes have read what was there */
#pragma unroll
        for (int i = 0; i < head_sums<HEAD_DIM>::COLUMNS; i++)
            staged[lane + i * WARP_LANES] =
                from_float<bfloat16>(position < 0 ? 0.0f : all.sum[i] / all.total);
        __syncwarp();
        send(1, HEAD_DIM * 2 / TILE_CHUNK_BYTES, 0,
             p.space.attended + row * (int)width_row_bytes() + head * HEAD_DIM * 2, 0, EXCHANGE_ATTENDED);
        constexpr int VECTORS = HEAD_DIM / TILE_CHUNK_ELEMENTS;
        if (position < 0 || lane >= 2 * VECTORS)
            return;
        const int part = lane / VECTORS, column = lane % VECTORS * TILE_CHUNK_ELEMENTS;
        const int32_t page = rows.item[warp].pages[position / PAGE_TOKENS];
        bfloat16 *to = static_cast<bfloat16 *>(part == 0 ? a.k : a.v) +
                       kv_offset(a.layout, a.layer, page, head, position % PAGE_TOKENS) + column;
        *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(item_part(warp, 1 + part) + column);
    }

    /* ---- the whole ---- */

    __device__ __forceinline__ void run() {
        int n_chunks = 0;
        for (int i = 0; i < n_items; i++)
            n_chunks = max(n_chunks, rows.item[i].position / CHUNK + 1);
        attention_params a = p.attention;
        /* One loop for all: its code is in the instruction cache after the first two halves. */
#pragma unroll 1
        for (int half = 0;; half++) {
            const half_shape shape(p, half, rank);
            const network_half &h = p.halves[half];
            const bool is_attention = !shape.is_head && !shape.is_mlp;
            const uint32_t parity = (uint32_t)(half / 2) & 1;
            a.layer = half / 2;
            unit_cursor first_unit = {0, 0, -1, SCRATCH_PAGE};
            decode_unit<HEAD_DIM> unit;
            if (is_attention && n_items > 0) {
                place(first_unit, n_chunks);
                request_k(a, unit, first_unit);
            }

            matmul(
                h.first, shape.first_outputs, p.width, shape.first_place, p.space.normed, width_row_bytes(),
                [&] {
                    norm_rows(h.norm, (half + 1) / 2, shape.is_head, [&] {
                        if (half > 0)
                            wait(EXCHANGE_HIDDEN, (uint32_t)(half + 1) & 1, "network hidden");
                    });
                },
                [&](int output, float(&sum)[ROW_TILES][4]) {
                    if (is_attention)
                        send_qkv(output, sum);
                    else if (shape.is_mlp)
                        send_inner(output, sum);
                    else
                        write_logits(output, sum);
                });
            if (shape.is_head)
                return;
            if (is_attention && n_items > 0) {
                request_v(a, unit, first_unit);
                attend(a, unit, first_unit, n_chunks, [&] { wait(EXCHANGE_QKV, parity, "network qkv"); });
            }
            matmul(
                h.second, p.width, shape.second_width, rank, shape.is_mlp ? p.space.inner : p.space.attended,
                shape.is_mlp ? inner_row_bytes() : width_row_bytes(),
                [&] {
                    wait(shape.is_mlp ? EXCHANGE_INNER : EXCHANGE_ATTENDED, parity,
                         shape.is_mlp ? "network inner" : "network attended");
                },
                [&](int output, float(&sum)[ROW_TILES][4]) { send_hidden(output, sum); });
        }
    }
};

/* Grid: clusters of 16 blocks, each p.rows_each rows. */
template <int ROWS, int NORM_VECTORS>
__global__ void __launch_bounds__(NETWORK_THREADS, 1)
    kernel_network(const __grid_constant__ network_params p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using block_type = network_block<ROWS, NORM_VECTORS>;
    PTX_DYNAMIC_SHARED(shared, 128);
    __shared__ __align__(8) uint64_t barriers[2 * MAX_SLOTS + N_EXCHANGES];
    __shared__ network_rows<ROWS> rows;
    const int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const int rank = blockIdx.x % NETWORK_CLUSTER, first_row = blockIdx.x / NETWORK_CLUSTER * p.rows_each;
    const int n_rows = min(p.rows_each, p.n_rows - first_row);
    const int n_items = tiles_here(n_rows * p.n_heads, rank);
    const uint32_t base = ptx_shared_address(shared), full = ptx_shared_address(barriers);
    const uint32_t empty = full + 8 * MAX_SLOTS, exchanges = empty + 8 * MAX_SLOTS;
    const ring r = {base + p.space.ring, full, empty, p.space.ring_slots, p.space.reaches_next};
    block_type block = {p,      rows,    r,    shared, base, exchanges, rank,  first_row,
                        n_rows, n_items, warp, lane,   0,    0,         {0, 0}};
    if (threadIdx.x < MAX_SLOTS) {
        ptx_barrier_init(full + 8 * threadIdx.x, 1);
        ptx_barrier_init(empty + 8 * threadIdx.x, 1);
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < N_EXCHANGES; i++) {
            ptx_barrier_init(exchanges + 8 * i, 1);
            ptx_barrier_expect(exchanges + 8 * i, block.bytes_of((enum exchange)i));
        }
        rows.n_entries = 0;
    }
    if (threadIdx.x < ROWS)
        rows.is_sampled[threadIdx.x] = 0;
    ptx_barrier_init_done();
    __syncthreads();    /* the block's barriers are initialised */
    ptx_cluster_meet(); /* and those of the others */
    if (warp == CONSUMERS) {
        if (lane < PRODUCER_LANES)
            produce(p, r, rank, lane);
        ptx_wait_for_previous_kernels();
        return;
    }
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    block.everyone = ptx_cluster_address(base, (uint32_t)(lane % NETWORK_CLUSTER));
    block.everyones_exchanges = ptx_cluster_address(exchanges, (uint32_t)(lane % NETWORK_CLUSTER));
    rows_init(rows, p, rank, first_row, n_rows, n_items);
    block.embed();
    ptx_named_barrier(CONSUMERS_MEET, CONSUMER_THREADS); /* the rows are known */
    block.run();
#endif
}

/* ---- launch shape ---- */

typedef void (*network_kernel)(const network_params);

network_kernel kernel_for(int32_t rows, int32_t width) {
    const bool narrow = width <= 3 * WARP_LANES * NORM_VECTOR;
    if (rows <= 8)
        return narrow ? kernel_network<8, 3> : kernel_network<8, 4>;
    return narrow ? kernel_network<16, 3> : kernel_network<16, 4>;
}

} // namespace

int32_t network_clusters(const struct backend_context *context) {
    if (!context->has_wgmma)
        return 0;
    int32_t fewest = INT32_MAX;
    for (int32_t rows : {8, 16})
        for (int32_t width : {128, (int32_t)NETWORK_MAX_WIDTH}) {
            const void *kernel = reinterpret_cast<const void *>(kernel_for(rows, width));
            struct cudaFuncAttributes attributes = {};
            int n = 0;
            if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess)
                return 0;
            const size_t bytes = context->max_shared_bytes - attributes.sharedSizeBytes;
            cudaLaunchAttribute cluster = {};
            cluster.id = cudaLaunchAttributeClusterDimension;
            cluster.val.clusterDim = {NETWORK_CLUSTER, 1, 1};
            cudaLaunchConfig_t config = {};
            config.gridDim = dim3(NETWORK_CLUSTER);
            config.blockDim = dim3(NETWORK_THREADS);
            config.dynamicSmemBytes = bytes;
            config.attrs = &cluster;
            config.numAttrs = 1;
            if (cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) !=
                    cudaSuccess ||
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes) !=
                    cudaSuccess ||
                cudaOccupancyMaxActiveClusters(&n, kernel, &config) != cudaSuccess) {
                cudaGetLastError(); /* not sticky: forget it */
                return 0;
            }
            fewest = n < fewest ? n : fewest;
        }
    return fewest;
}

namespace {

/* Where everything lies in blocks of up to `rows` rows; false when the ring holds less than a block's part of
 * any one matrix: then a warp could be a whole use of a slot ahead of another, whose bytes it would take for
 * its own. */
bool space_fits(const struct backend_context *context, const struct network_params &p, int32_t rows,
                struct network_space *space) {
    struct cudaFuncAttributes attributes = {};
    if (cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(kernel_for(rows, p.width))) !=
        cudaSuccess)
        return false;
    *space = space_for(p, rows, context->max_shared_bytes - attributes.sharedSizeBytes);
    auto pieces = [](int32_t n_outputs, int32_t width) {
        return ceil_div(ceil_div(n_outputs, NETWORK_TILE), NETWORK_CLUSTER) * (width / (2 * WEIGHT_BLOCK));
    };
    int32_t most = 0;
    for (int32_t n : {pieces(3 * p.width, p.width), pieces(p.inner, p.width), pieces(p.width, p.inner),
                      pieces(p.n_vocab, p.width)})
        most = n > most ? n : most;
    space->reaches_next = space->ring_slots >= most + NETWORK_MAX_TILES;
    return space->ring_slots >= most && space->ring_slots >= PRODUCER_LANES;
}

} // namespace

int32_t network_most_rows(const struct backend_context *context, const struct network_params *p) {
    struct network_space space;
    for (int32_t rows : {16, 8})
        if (space_fits(context, *p, rows, &space))
            return rows * context->network_clusters;
    return 0;
}

enum status network_launch(struct backend_context *context, struct network_params *p) {
    const int32_t most = context->network_clusters;
    const int32_t wanted = ceil_div(p->n_rows, ROWS_WANTED);
    const int32_t clusters = wanted < most ? wanted : most;
    p->rows_each = ceil_div(p->n_rows, clusters);
    const int32_t rows = p->rows_each <= 8 ? 8 : 16;
    RETURN_IF(!space_fits(context, *p, rows, &p->space), STATUS_INTERNAL,
              "network: %d rows of a model %d wide do not fit a block", p->rows_each, p->width);
    if (context->mode == STEP_LAUNCH && context->n_launches == 1)
        context->chained = true; /* in front are the step's arrays alone, which it reads behind its wait */
    return cuda_launch_clusters(context, "network", kernel_for(rows, p->width),
                                dim3((unsigned)(ceil_div(p->n_rows, p->rows_each) * NETWORK_CLUSTER)),
                                NETWORK_THREADS, (size_t)p->space.bytes, NETWORK_CLUSTER, *p);
}
