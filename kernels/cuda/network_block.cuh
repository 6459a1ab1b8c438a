/* network_block: what a block of the network kernel holds in its shared memory, and what it knows of its
 * rows. Included by network.cu, whose head has the picture. */
#ifndef PRESSRUN_KERNELS_CUDA_NETWORK_BLOCK_CUH
#define PRESSRUN_KERNELS_CUDA_NETWORK_BLOCK_CUH

#include "kernels/cuda/attention_decode_mma.cuh"
#include "kernels/cuda/network_ring.cuh"

namespace {

enum {
    CONSUMERS = 8, /* warps */
    CONSUMER_THREADS = CONSUMERS * WARP_LANES,
    NETWORK_THREADS = CONSUMER_THREADS + WARP_LANES,
    HEAD_DIM = NETWORK_HEAD_DIM,
    OPERAND_PADDING = 16, /* bytes behind a row, so that eight rows lie in different banks */
    ITEM_BYTES = 3 * HEAD_DIM * 2,
    STAGED_HALVES = 48, /* bytes of a row of 16 bfloat16 in scratch, so that lanes lie in different banks */
    STAGED_FLOATS = 80  /* of 16 float32 */
};
static_assert((int)NETWORK_MAX_TILES <= (int)CONSUMERS, "a warp has one tile of a matrix at most");

enum exchange { EXCHANGE_QKV, EXCHANGE_ATTENDED, EXCHANGE_HIDDEN, EXCHANGE_INNER, N_EXCHANGES };

constexpr int items_of(int rows) {
    return rows * NETWORK_MAX_HEADS / NETWORK_CLUSTER;
}

/* What a block's attention computed of each unit of a chunk. */
template <int ITEMS> struct network_sums {
    using tiles = decode_tiles<HEAD_DIM>;
    static_assert(tiles::UNITS == 1 && (int)tiles::CHUNK_UNITS == (int)CONSUMERS,
                  "a warp has a page of a chunk");
    float sum[tiles::CHUNK_UNITS][ITEMS][tiles::SUM_STRIDE];
    float largest[tiles::CHUNK_UNITS][ITEMS];
    float total[tiles::CHUNK_UNITS][ITEMS];
};

/* What a block knows of its rows. */
template <int ROWS> struct network_rows {
    int32_t position[ROWS];
    int32_t slot[ROWS];
    int32_t is_sampled[ROWS];
    int32_t n_entries;
    int16_t entry[NETWORK_MAX_SAMPLES]; /* of the samples, in any order */
    int16_t entry_row[NETWORK_MAX_SAMPLES];
    struct {
        int32_t row, head, position; /* position -1: of a padding row */
        const int32_t *pages;        /* of the row's slot */
    } item[items_of(ROWS)];
};

/* What a block knows of its rows, from the step's arrays; by the consumer threads. */
template <int ROWS>
__device__ __forceinline__ void rows_init(network_rows<ROWS> &rows, const network_params &p, int rank,
                                          int first_row, int n_rows, int n_items) {
    const int thread = threadIdx.x;
    if (thread < n_rows) {
        rows.position[thread] = p.attention.position[first_row + thread];
        rows.slot[thread] = p.attention.slot[first_row + thread];
    }
    if (thread < n_items) {
        const int item = thread * NETWORK_CLUSTER + rank, row = item / p.n_heads;
        const int slot = p.attention.slot[first_row + row];
        rows.item[thread].row = row;
        rows.item[thread].head = item % p.n_heads;
        rows.item[thread].position = slot < p.attention.n_slots ? p.attention.position[first_row + row] : -1;
        rows.item[thread].pages = p.attention.page_table + (int64_t)slot * p.attention.max_pages;
    }
    for (int i = thread; i < p.n_samples; i += CONSUMER_THREADS) {
        const int row = p.sample_row[i] - first_row;
        if (row < 0 || row >= n_rows)
            continue;
        const int entry = atomicAdd(&rows.n_entries, 1);
        rows.entry[entry] = (int16_t)i;
        rows.entry_row[entry] = (int16_t)row;
        atomicMax(&rows.is_sampled[row], 1); /* entries may share a row */
    }
}

/* Where everything lies; a ring of what is left of max_bytes. */
struct network_space space_for(const struct network_params &p, int32_t rows, size_t max_bytes) {
    struct network_space space = {};
    int32_t used = 0;
    auto take = [&](int32_t bytes) {
        int32_t at = used;
        used += (bytes + 127) / 128 * 128;
        return at;
    };
    space.hidden = take(rows * (4 * p.width + OPERAND_PADDING));
    space.normed = take(rows * (2 * p.width + OPERAND_PADDING));
    space.attended = take(rows * (2 * p.width + OPERAND_PADDING));
    space.inner = take(rows * (2 * p.inner + OPERAND_PADDING));
    space.items = take(items_of(rows) * ITEM_BYTES);
    space.sums =
        take((int32_t)(rows <= 8 ? sizeof(network_sums<items_of(8)>) : sizeof(network_sums<items_of(16)>)));
    space.scratch = take(CONSUMERS * rows * STAGED_FLOATS);
    const int32_t left = (int32_t)max_bytes - used;
    space.ring_slots = left / SLOT_BYTES < MAX_SLOTS ? left / SLOT_BYTES : (int32_t)MAX_SLOTS;
    space.ring = take(space.ring_slots * SLOT_BYTES);
    space.bytes = used;
    return space;
}

} // namespace

#endif
