/* attention (decode): out[r, h, :] = softmax(scale q[r, h, :] . K[first..position, h / group, :]) . V for
 * rows that hold one generated position each; first is 0, or where the row's window begins.
 *
 * Work. A row's positions are cut into chunks of DECODE_CHUNK_TOKENS at absolute positions; those wholly in
 * front of its window are left out, and of the first one keys in front of it are not read. A block takes
 * (row, kv head and up to 8 of its query heads; 4 for other dtypes) and every gridDim.z-th chunk of the row,
 * so all these heads share one read of K and V. Where there are rows enough, a block takes several kv heads
 * with up to 8 query heads in all: short rows have few pages of one head. Chunks of one row that are spread
 * over several blocks meet in scratch: each block writes its chunks' sums and counts itself in; the last one
 * merges all in index order. Otherwise a block merges its chunks as it goes. The grid depends on the number
 * of rows and on the device, results do not: a recorded step serves all lengths, and no block is launched for
 * chunks that few sequences have.
 *
 * bfloat16 over bfloat16 pages (kernel_attention_decode_mma): the items of a chunk are its pages for each kv
 * head of the block; warp w takes items w, w + 8, ... K and V of one unit of keys (32 up to head_dim 64, else
 * 16) go from memory straight into registers, in the layout of tensor-core operands, with nothing between:
 * sums over columns or keys may take these in any fixed order, so a lane's 16 bytes are the operand wherever
 * they lie in the row. With g = lane / 4, t = lane % 4:
 *
 *     S [16 heads, 8 keys]  = q . K^T    A: q (row g: head g; rows 8..15 zero)   B: K, key g
 *         lane: columns 8 (t + 4 i) .. + 7 of key g; two k steps of each such vector, 4 columns a lane each
 *     O [16 columns, 8 heads] += V^T . P^T    A: V, pairs of keys interleaved    B: P, as S leaves it
 *         lane: columns 64 c + 8 g .. + 7 of keys 2t, 2t + 1, 2t + 8, 2t + 9
 *
 * K of the next unit (of this item or the next) is requested as soon as S is computed, V as soon as O is, so
 * 8 KB a warp are on their way at any time. The row's own K and V come from shared memory, where the block
 * rotates and rounds them; one block also writes them to the page.
 *
 * Before the wait for previous kernels a block reads the step's arrays, the page table, and K and V in front
 * of the row's own position. All were written before the step's first kernel started (context.cuh): a
 * sequence has one decode row in a step and no prompt rows, and a page that it shares with others is
 * complete.
 *
 * Other dtypes: attention_decode_fma.cu.
 *
 * Numerics: float32 sums, softmax in powers of two, weights rounded to bfloat16; a unit of keys has its own
 * maximum, units of a chunk are added in ascending order. Chunks merge in ascending order, one after the
 * other. So bits depend on the row's own position alone. Positions that it does not see are never loaded:
 * they count as zero, and weigh exactly 0.
 *
 * What only some models have (norms of q and k, a window, a soft cap; attention_is_general) is in a second
 * set of kernels, because these are short of registers.
 */
#include "kernels/cuda/attention_decode_mma.cuh"
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/network.cuh"

namespace {

enum {
    MMA_HEADS = 8 /* query heads of a block: the n of the second product */
};
static_assert((int)MMA_HEADS <= (int)DECODE_WARPS, "a warp finishes one head");

template <int HEAD_DIM> struct decode_shared {
    using tiles = decode_tiles<HEAD_DIM>;
    float sum[tiles::CHUNK_UNITS][MMA_HEADS][tiles::SUM_STRIDE];
    float largest[tiles::CHUNK_UNITS][MMA_HEADS];
    float total[tiles::CHUNK_UNITS][MMA_HEADS];
    static constexpr int KV_HEADS = tiles::SEVERAL_KV_HEADS ? MMA_HEADS : 1;
    bfloat16 row[MMA_HEADS + 2 * KV_HEADS][tiles::ROW_STRIDE]; /* q; the row's own K and V of each kv head */
};

/* Row r of shared.row: q of a head of the block, or K or V of one of its kv heads. */
struct decode_row {
    bool is_q, is_v, exists;
    int kv_head; /* of the block */
    int head;    /* of a row of qkv */

    __device__ __forceinline__ decode_row(const attention_params &p, const decode_work &work, int r) {
        is_q = r < MMA_HEADS;
        is_v = !is_q && r % 2 == 1;
        kv_head = (r - MMA_HEADS) / 2;
        exists = !is_q || r < work.n_heads;
        head = is_q ? work.head + r : p.n_heads + (is_v ? p.layout.n_kv_heads : 0) + work.kv_head + kv_head;
    }
};
static_assert(MMA_HEADS % 2 == 0, "K has an even row");

/* q of the block's heads, zero beyond them, and K and V of the row's own position into shared memory, rotated
 * and rounded; K and V to their page too when page >= 0. */
template <int HEAD_DIM>
__device__ __forceinline__ void load_row(decode_shared<HEAD_DIM> &shared, const attention_params &p,
                                         const decode_work &work, int page) {
    using tiles = decode_tiles<HEAD_DIM>;
    const bfloat16 *qkv = static_cast<const bfloat16 *>(p.qkv) + work.row * p.qkv_stride;
    const float *rope = attention_rope_row(p, work.position);
    const int n_vectors = (MMA_HEADS + 2 * work.n_kv_heads) * tiles::ROW_VECTORS;
#pragma unroll 1
    for (int index = threadIdx.x; index < n_vectors; index += DECODE_THREADS) {
        int r = index / tiles::ROW_VECTORS, column = index % tiles::ROW_VECTORS * 8;
        const decode_row row(p, work, r);
        float x[8] = {};
        if (row.exists)
            rope_load_8(x, qkv + row.head * HEAD_DIM, column, HEAD_DIM, row.is_v ? nullptr : rope);
        store_8(shared.row[r] + column, x);
        if (!row.is_q && page >= 0)
            store_8(static_cast<bfloat16 *>(row.is_v ? p.v : p.k) +
                        kv_offset(p.layout, p.layer, page, work.kv_head + row.kv_head,
                                  work.position % PAGE_TOKENS) +
                        column,
                    x);
    }
}

/* The same with norms of q and k, a warp per head. */
template <int HEAD_DIM>
__device__ __forceinline__ void load_row_normed(decode_shared<HEAD_DIM> &shared, const attention_params &p,
                                                const decode_work &work, int page) {
    const bfloat16 *qkv = static_cast<const bfloat16 *>(p.qkv) + work.row * p.qkv_stride;
    const float *rope = attention_rope_row(p, work.position);
    const int lane = threadIdx.x % WARP_LANES, column = lane * 8;
#pragma unroll 1
    for (int r = threadIdx.x / WARP_LANES; r < MMA_HEADS + 2 * work.n_kv_heads; r += DECODE_WARPS) {
        const decode_row row(p, work, r);
        float x[8] = {};
        if (row.exists && column < HEAD_DIM)
            load_8(x, qkv + row.head * HEAD_DIM + column);
        if (row.exists && !row.is_v)
            rope_norm_head<bfloat16, WARP_LANES>(x, lane, HEAD_DIM, row.is_q ? p.q_norm : p.k_norm,
                                                 p.norm_epsilon, rope);
        if (column >= HEAD_DIM)
            continue;
        store_8(shared.row[r] + column, x);
        if (!row.is_q && page >= 0)
            store_8(static_cast<bfloat16 *>(row.is_v ? p.v : p.k) +
                        kv_offset(p.layout, p.layer, page, work.kv_head + row.kv_head,
                                  work.position % PAGE_TOKENS) +
                        column,
                    x);
    }
}

/* Where a warp stands among the items of its block: (chunk, kv head of the block, page of the chunk). One kv
 * head, !SEVERAL: warp w has page w of every chunk. */
template <bool SEVERAL> struct decode_item {
    int chunk;
    int kv_head;
    int page;

    __device__ __forceinline__ decode_item(const decode_work &work, int chunk_, int warp) : chunk(chunk_) {
        kv_head = 0, page = warp;
        if (SEVERAL)
            place(work, n_pages(work), warp);
    }
    /* To the warp's next item, of the chunk or of the block's next chunk. */
    __device__ __forceinline__ void next(const decode_work &work) {
        const int n = n_pages(work), index = kv_head * n + page + DECODE_WARPS;
        if (SEVERAL && index < work.n_kv_heads * n) {
            place(work, n, index);
        } else {
            chunk += gridDim.z;
            if (SEVERAL)
                place(work, n_pages(work), threadIdx.x / WARP_LANES);
        }
    }
    /* Keys in front of the row's own from the item's page on; negative when there is no such item. */
    __device__ __forceinline__ int n_keys(const decode_work &work) const {
        return page < CHUNK_PAGES ? work.position - chunk * CHUNK - page * PAGE_TOKENS : -1;
    }

  private:
    /* Pages of the chunk that hold keys of the row; one, which holds none, behind its last chunk. */
    __device__ __forceinline__ int n_pages(const decode_work &work) const {
        return min((int)CHUNK_PAGES, max(0, work.position - chunk * CHUNK) / PAGE_TOKENS + 1);
    }
    __device__ __forceinline__ void place(const decode_work &work, int n, int index) {
        kv_head = index / n, page = index % n;
        if (kv_head >= work.n_kv_heads)
            kv_head = 0, page = CHUNK_PAGES; /* no item */
    }
};

template <int HEAD_DIM, bool GENERAL>
__global__ void __launch_bounds__(DECODE_THREADS, decode_tiles<HEAD_DIM>::BLOCKS)
    kernel_attention_decode_mma(const attention_params p) {
    using tiles = decode_tiles<HEAD_DIM>;
    static_assert(tiles::UNITS == 1 || !tiles::SEVERAL_KV_HEADS, "all units of an item have its kv head");
    PTX_DYNAMIC_SHARED(shared_bytes, 128);
    decode_shared<HEAD_DIM> &shared = *reinterpret_cast<decode_shared<HEAD_DIM> *>(shared_bytes);
    int thread = threadIdx.x, lane = thread % WARP_LANES, warp = thread / WARP_LANES;
    int g = lane / 4, t = lane % 4;

    decode_work work;
    bool has_work = decode_work_init<GENERAL>(work, p, MMA_HEADS);
    /* Query heads of a kv head in this block. */
    const int n_group = tiles::SEVERAL_KV_HEADS ? min(work.n_heads, p.group) : work.n_heads;
    decode_item<tiles::SEVERAL_KV_HEADS> item(work, work.first_chunk + (int)blockIdx.z, warp);
    /* n: keys in front of the row's own from the item's page on; negative when there is no such item. */
    int n = has_work ? item.n_keys(work) : -1;
    int32_t page = n >= 0 ? work.page(p, item.chunk, item.page) : (int32_t)SCRATCH_PAGE;
    decode_unit<HEAD_DIM> unit;
    unit.template request_k<GENERAL>(page_rows<HEAD_DIM>(p, p.k, page, work.kv_head + item.kv_head), n,
                                     work.span, lane);
    unit.template request_v<GENERAL>(page_rows<HEAD_DIM>(p, p.v, page, work.kv_head + item.kv_head), n,
                                     work.span, lane);
    ptx_wait_for_previous_kernels(); /* q, and whoever reads or writes what this block writes */
    ptx_allow_next_kernel();
    if (!has_work)
        return;

    int32_t own_page = -1;
    if (work.head == work.kv_head * p.group && blockIdx.z == 0) /* one block of the kv heads */
        own_page = work.page(p, 0, work.position / PAGE_TOKENS);
    if (GENERAL && p.q_norm)
        load_row_normed<HEAD_DIM>(shared, p, work, own_page);
    else
        load_row<HEAD_DIM>(shared, p, work, own_page);
    row_sums<bfloat16, HEAD_DIM> sums(work);
    __syncthreads(); /* q and the row's own K and V */

#pragma unroll 1
    for (int chunk = item.chunk;;) {
#pragma unroll 1
        while (n >= 0 && item.chunk == chunk) {
            const decode_item<tiles::SEVERAL_KV_HEADS> now = item;
            item.next(work);
            const int next_n = item.n_keys(work);
            int32_t next_page = SCRATCH_PAGE;
            if (next_n >= 0)
                next_page = work.page(p, item.chunk, item.page);
            const int first_head = now.kv_head * n_group;
#pragma unroll
            for (int u = 0; u < tiles::UNITS; u++) {
                int own = n - u * tiles::UNIT_KEYS; /* the row's own key in this unit, or behind it */
                if (own < 0)
                    continue; /* no key of the row */
                int unit_idx = now.page * tiles::UNITS + u;
                bool last_unit = u == tiles::UNITS - 1; /* a row that ends before it has no next item here */
                int32_t from = last_unit ? next_page : page;
                int from_head = work.kv_head + item.kv_head;
                int from_row = last_unit ? 0 : (u + 1) * tiles::UNIT_KEYS;
                int from_n = last_unit ? next_n : own - tiles::UNIT_KEYS;
                if (own < tiles::UNIT_KEYS) {
                    const bfloat16 *own_k = shared.row[MMA_HEADS + 2 * now.kv_head];
                    unit.insert_k(own_k, own, lane);
                    unit.insert_v(own_k + tiles::ROW_STRIDE, own, lane);
                }

                float score[tiles::KEY_TILES][4] = {};
#pragma unroll
                for (int i = 0; i < tiles::K_VECTORS; i++) {
                    int column = decode_unit<HEAD_DIM>::k_column(lane, i);
                    uint4 q = make_uint4(0, 0, 0, 0);
                    if (column < HEAD_DIM && g < n_group)
                        q = *reinterpret_cast<const uint4 *>(shared.row[first_head + g] + column);
                    unit_scores<HEAD_DIM>(score, unit, i, q);
                }
                unit.template request_k<GENERAL>(page_rows<HEAD_DIM>(p, p.k, from, from_head) +
                                                     from_row * HEAD_DIM,
                                                 from_n, work.span, lane);

                uint32_t weight[tiles::KEY_TILES];
                unit_weights<HEAD_DIM, GENERAL>(weight, score, p, own, work.span, shared, unit_idx,
                                                first_head, n_group, g, t);
#pragma unroll
                for (int c = 0; c < tiles::V_VECTORS; c++) {
                    float out[4][4] = {};
                    unit_sums<HEAD_DIM>(out, unit, c, weight);
                    store_unit<HEAD_DIM>(shared, unit_idx, first_head, n_group, c, out, lane);
                }
                unit.template request_v<GENERAL>(page_rows<HEAD_DIM>(p, p.v, from, from_head) +
                                                     from_row * HEAD_DIM,
                                                 from_n, work.span, lane);
            }
            n = next_n, page = next_page;
            if (!tiles::SEVERAL_KV_HEADS)
                break; /* one item a chunk, which spares registers */
        }
        __syncthreads(); /* all units of the chunk */

        head_sums<HEAD_DIM> part;
        const int n_keys = min((int)CHUNK, work.position + 1 - chunk * CHUNK);
        if (warp < work.n_heads)
            add_units<HEAD_DIM>(part, shared, warp, (n_keys - 1) / tiles::UNIT_KEYS + 1, lane);
        sums.add(p, work, chunk, part);
        chunk += gridDim.z;
        if (chunk >= work.end_chunk())
            break;
        __syncthreads(); /* all warps have read the units' sums */
    }
    sums.finish(p, work);
}

/* ---- launch shape ---- */

enum { WAVES = 2 /* of blocks, at two a multiprocessor, before a row's chunks share a block */ };

template <int HEAD_DIM> decode_launch mma_launch_for(const attention_params &p) {
    return {attention_is_general(p) ? kernel_attention_decode_mma<HEAD_DIM, true>
                                    : kernel_attention_decode_mma<HEAD_DIM, false>,
            MMA_HEADS, decode_tiles<HEAD_DIM>::SEVERAL_KV_HEADS, sizeof(decode_shared<HEAD_DIM>)};
}

decode_launch mma_launch_for(const attention_params &p) {
    switch (p.layout.head_dim) {
    case 16:
        return mma_launch_for<16>(p);
    case 32:
        return mma_launch_for<32>(p);
    case 64:
        return mma_launch_for<64>(p);
    case 96:
        return mma_launch_for<96>(p);
    case 128:
        return mma_launch_for<128>(p);
    default: /* cuda_attention_supports lets no other through */
        return mma_launch_for<256>(p);
    }
}

} // namespace

enum status cuda_attention_supports(const struct backend_context *context,
                                    const struct state_limits *limits) {
    int d = limits->head_dim;
    RETURN_IF(
        d != 16 && d != 32 && d != 64 && d != 96 && d != 128 && d != 256, STATUS_DATA,
        "attention: head_dim %d; the CUDA backend has 16, 32, 64, 96, 128 and 256 (device: cpu runs any)", d);
    RETURN_IF(limits->n_kv_heads <= 0 || limits->n_heads <= 0 || limits->n_heads % limits->n_kv_heads != 0,
              STATUS_DATA, "attention: %d heads cannot share %d key/value heads evenly", limits->n_heads,
              limits->n_kv_heads);
    attention_params p = {};
    p.layout.head_dim = d;
    size_t decode = mma_launch_for(p).shared_bytes, prefill = attention_prefill_shared_bytes(context, d);
    size_t needed = decode > prefill ? decode : prefill;
    RETURN_IF(limits->kv_dtype == DTYPE_BFLOAT16 && needed > context->max_shared_bytes, STATUS_DATA,
              "attention: head_dim %d in bfloat16 needs %zu bytes of shared memory a block, this GPU has %zu "
              "(dtype: float32 or device: cpu runs it)",
              d, needed, context->max_shared_bytes);
    return STATUS_OK;
}

struct attention_params attention_params_for(struct backend_context *context,
                                             const struct attention_args *args) {
    attention_params p = {};
    p.qkv = args->qkv->data;
    p.out = args->out->data;
    p.k = context->state.k;
    p.v = context->state.v;
    p.qkv_stride = tensor_stride(args->qkv);
    p.out_stride = tensor_stride(args->out);
    p.layout = context->layout;
    p.layer = args->layer;
    p.n_heads = context->limits.n_heads;
    p.group = context->limits.n_heads / context->limits.n_kv_heads;
    p.n_slots = context->limits.n_slots;
    p.max_pages = context->limits.max_pages_per_slot;
    p.max_chunks = context->max_chunks;
    p.scale = args->scale * 1.4426950408889634f;
    p.softcap = args->softcap * 1.4426950408889634f;
    p.softcap_inverse = args->softcap != 0 ? 1.0f / p.softcap : 0.0f;
    /* A window that no sequence reaches is none. */
    p.window = args->window < p.max_pages * PAGE_TOKENS ? args->window : 0;
    p.norm_epsilon = args->norm_epsilon;
    p.q_norm = args->q_norm ? static_cast<const float *>(args->q_norm->data) : nullptr;
    p.k_norm = args->k_norm ? static_cast<const float *>(args->k_norm->data) : nullptr;
    p.partials = context->state.partials;
    p.arrivals = context->state.arrivals;
    p.rope = args->rope ? static_cast<const float *>(args->rope->data) : nullptr;
    p.page_table = context->state.page_table;
    p.position = context->step.position;
    p.slot = context->step.slot;
    p.tiles = context->step.tiles;
    p.tile_rows = context->prefill_tile_rows;
    p.next_item = context->state.prefill_next;
    p.handed = context->state.prefill_handed;
    return p;
}

enum status attention_check(struct backend_context *context, const struct attention_args *args,
                            const char *operation) {
    const struct state_limits *limits = &context->limits;
    int64_t width = (int64_t)limits->n_heads * limits->head_dim;
    int64_t qkv_width = width + 2 * (int64_t)limits->n_kv_heads * limits->head_dim;
    RETURN_IF(args->qkv->cols != qkv_width || args->out->cols != width ||
                  args->qkv->dtype != args->out->dtype || args->qkv->rows < context->step.n_rows ||
                  args->out->rows < context->step.n_rows,
              STATUS_INTERNAL,
              "%s: qkv must be [>= %d, %lld] and out [>= %d, %lld] of one dtype, are [%lld, %lld] and "
              "[%lld, %lld]",
              operation, context->step.n_rows, (long long)qkv_width, context->step.n_rows, (long long)width,
              (long long)args->qkv->rows, (long long)args->qkv->cols, (long long)args->out->rows,
              (long long)args->out->cols);
    RETURN_IF(args->rope && (args->rope->dtype != DTYPE_FLOAT32 || args->rope->cols != limits->head_dim),
              STATUS_INTERNAL, "%s: the rope table must be [positions, %d] float32, has %lld columns",
              operation, limits->head_dim, (long long)args->rope->cols);
    RETURN_IF(!args->q_norm != !args->k_norm, STATUS_INTERNAL,
              "%s: norms of q and k come together; only one is there", operation);
    for (const struct tensor *norm : {args->q_norm, args->k_norm})
        RETURN_IF(norm && (norm->dtype != DTYPE_FLOAT32 || norm->cols != limits->head_dim), STATUS_INTERNAL,
                  "%s: norms of q and k are float32 [%d], one has %lld elements", operation, limits->head_dim,
                  (long long)norm->cols);
    RETURN_IF(!(args->softcap >= 0) || args->window < 0, STATUS_INTERNAL,
              "%s: softcap %g and window %d; both are positive, or 0 for none", operation,
              (double)args->softcap, args->window);
    RETURN_IF(args->layer < 0 || args->layer >= limits->n_layers, STATUS_INTERNAL, "%s: layer %d of %d",
              operation, args->layer, limits->n_layers);
    return STATUS_OK;
}

enum status cuda_attention_decode(struct backend_context *context, const struct attention_args *args) {
    TRY(cuda_operation_begin(context, "attention_decode"));
    TRY(attention_check(context, args, "attention_decode"));
    int32_t n = context->step.n_decode;
    if (n == 0)
        return STATUS_OK;
    bool taken;
    TRY(network_plan_attention(context, args, &taken));
    if (taken)
        return STATUS_OK;
    attention_params p = attention_params_for(context, args);
    enum dtype dtype = args->qkv->dtype, kv_dtype = context->limits.kv_dtype;
    decode_launch launch = dtype == DTYPE_BFLOAT16 && kv_dtype == DTYPE_BFLOAT16
                               ? mma_launch_for(p)
                               : attention_decode_fma(p, dtype, kv_dtype);
    /* Chunks of a row are divided among so many blocks that the device is filled; with many rows one block
     * takes all chunks of a row, whatever the longest possible sequence, and with more of them several kv
     * heads. */
    const int32_t n_kv_heads = context->limits.n_kv_heads;
    const int64_t wanted = (int64_t)WAVES * 2 * context->n_multiprocessors;
    p.block_kv_heads = launch.several_kv_heads && p.group < launch.heads ? launch.heads / p.group : 1;
    while (p.block_kv_heads > 1 && (int64_t)n * ceil_div(n_kv_heads, p.block_kv_heads) < wanted)
        p.block_kv_heads--;
    p.block_kv_heads = ceil_div(n_kv_heads, ceil_div(n_kv_heads, p.block_kv_heads)); /* even shares */
    int32_t row_blocks = ceil_div(n_kv_heads, p.block_kv_heads) * ceil_div(p.group, launch.heads);
    int64_t blocks = (int64_t)n * row_blocks;
    int64_t parts = (wanted + blocks - 1) / blocks;
    int64_t row_chunks = window_groups(p.window, CHUNK, p.max_chunks);
    dim3 grid((unsigned)n, (unsigned)row_blocks, (unsigned)(parts < row_chunks ? parts : row_chunks));
    return cuda_launch(context, "attention_decode", launch.kernel, grid, DECODE_THREADS, launch.shared_bytes,
                       p);
}
