/* network_ring: the weights of a small model on their way through a block's shared memory, and the products
 * that take them from there. Included by network.cu, whose head has the picture. */
#ifndef PRESSRUN_KERNELS_CUDA_NETWORK_RING_CUH
#define PRESSRUN_KERNELS_CUDA_NETWORK_RING_CUH

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/network.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

enum {
    PRODUCER_LANES = 8,
    SLICE_BYTES = NETWORK_TILE * WEIGHT_BLOCK * 2, /* of a weight block, one tile's */
    SLOT_BYTES = 2 * SLICE_BYTES,
    MAX_SLOTS = 48
};

/* Tiles of a matrix that belong to the block which is `place` of the cluster's 16. */
__device__ __forceinline__ int tiles_here(int n_tiles, int place) {
    return (n_tiles - place + NETWORK_CLUSTER - 1) / NETWORK_CLUSTER;
}

__device__ __forceinline__ int tiles_of(int n_outputs) {
    return (n_outputs + NETWORK_TILE - 1) / NETWORK_TILE;
}

struct ring {
    uint32_t slots; /* addresses */
    uint32_t full;
    uint32_t empty;
    int n_slots;
    bool reaches_next; /* struct network_space */

    __device__ __forceinline__ uint32_t slot(int index) const { return slots + (uint32_t)index * SLOT_BYTES; }
};

/* A piece of the block's sequence of weights: its slot and the parity of the slot's use. */
struct ring_piece {
    int slot;
    uint32_t parity;

    __device__ __forceinline__ ring_piece(uint32_t index, int n_slots) {
        slot = (int)(index % (uint32_t)n_slots);
        parity = index / (uint32_t)n_slots & 1;
    }
    /* n at most n_slots. */
    __device__ __forceinline__ void advance(int n, int n_slots) {
        slot += n;
        if (slot >= n_slots) {
            slot -= n_slots;
            parity ^= 1;
        }
    }
};

/* Requests this block's weights of one matrix, by the first lanes of a warp; `first`: pieces in front of
 * them. Returns pieces to its end. n_slots is at least PRODUCER_LANES. */
__device__ __forceinline__ uint32_t produce_matrix(const ring &r, const unsigned char *weight, int n_tiles,
                                                   int k_blocks, int place, uint32_t first, int lane) {
    const int n_here = tiles_here(n_tiles, place), n = n_here * (k_blocks / 2);
    for (int begin = 0; begin < n; begin += PRODUCER_LANES) {
        const int i = begin + lane;
        if (i < n) {
            const int tile = place + i % n_here * NETWORK_CLUSTER;
            const int64_t block = (int64_t)(tile / 4) * k_blocks + i / n_here * 2;
            const unsigned char *from = weight + block * WEIGHT_BLOCK_BYTES + tile % 4 * SLICE_BYTES;
            const ring_piece at(first + (uint32_t)i, r.n_slots);
            ptx_barrier_wait(r.empty + 8 * at.slot, at.parity ^ 1,
                             "network empty"); /* true for the first use */
            ptx_barrier_expect(r.full + 8 * at.slot, SLOT_BYTES);
            ptx_copy_bulk(r.slot(at.slot), from, SLICE_BYTES, r.full + 8 * at.slot);
            ptx_copy_bulk(r.slot(at.slot) + SLICE_BYTES, from + WEIGHT_BLOCK_BYTES, SLICE_BYTES,
                          r.full + 8 * at.slot);
        }
        /* No lane is a whole use of a slot ahead of another, whose parity it would take for its own. */
        __syncwarp((1u << PRODUCER_LANES) - 1);
    }
    return first + (uint32_t)n;
}

/* What a half's matrices are. */
struct half_shape {
    bool is_head, is_mlp;
    int first_outputs, first_place;
    int second_width;

    __device__ __forceinline__ half_shape(const network_params &p, int half, int rank) {
        is_head = half == 2 * p.n_layers;
        is_mlp = !is_head && half % 2 == 1;
        first_outputs = is_head ? p.n_vocab : is_mlp ? p.inner : 3 * p.width;
        first_place = is_head || is_mlp ? rank : NETWORK_CLUSTER - 1 - rank;
        second_width = is_mlp ? p.inner : p.width;
    }
};

__device__ __forceinline__ void produce(const network_params &p, const ring &r, int rank, int lane) {
    uint32_t piece = 0;
    for (int half = 0; half <= 2 * p.n_layers; half++) {
        const half_shape shape(p, half, rank);
        piece = produce_matrix(r, p.halves[half].first.weight, tiles_of(shape.first_outputs),
                               p.width / WEIGHT_BLOCK, shape.first_place, piece, lane);
        if (!shape.is_head)
            piece = produce_matrix(r, p.halves[half].second.weight, tiles_of(p.width),
                                   shape.second_width / WEIGHT_BLOCK, rank, piece, lane);
    }
}

/* ---- products ---- */

/* The products of a tile, in two calls: all that can be done before the operand is there, then the chain. */
template <int ROW_TILES> struct tile_products {
    ring_piece at;
    ring_piece lanes_own; /* piece `lane` of the tile: lanes wait for all pieces together */
    uint32_t chunk;       /* this lane's of a slice */
    uint32_t rows, eight_rows;
    fragments<ROW_TILES> low, high; /* the columns of a piece's two slices */

    /* The tile's pieces are `piece` and those each `step` further; operand: the address of rows of
     * `row_bytes`. Waits for weights, where no warp that is still at the matrix in front can take the slot's
     * parity for its own. */
    __device__ __forceinline__ tile_products(const ring &r, const ring_piece &piece, int step, int n_pairs,
                                             uint32_t operand, uint32_t row_bytes, bool exists, int lane)
        : at(piece), lanes_own(piece) {
        if (lane < n_pairs)
            lanes_own.advance(lane * step, r.n_slots);
        chunk = tile_offset(tile_a_row((uint32_t)lane), tile_a_chunk((uint32_t)lane), WEIGHT_BLOCK_CHUNKS);
        ptx_keep(chunk); /* not computed again in each turn of the loop */
        rows = operand + (uint32_t)(lane % 8) * row_bytes + (uint32_t)(lane / 8) * TILE_CHUNK_BYTES;
        eight_rows = 8 * row_bytes;
        if (exists && r.reaches_next)
            load_first(r);
    }
    __device__ __forceinline__ void load_first(const ring &r) {
        ptx_barrier_wait(r.full + 8 * at.slot, at.parity, "network full");
        low.load_weights(r.slot(at.slot) + chunk);
    }

    /* sum = the sums of the tile's n_pairs pieces, `step` apart. What a product needs is requested in the
     * shadow of the chain in front of it: a warp issues in order, and a product waits for the one in front,
     * so the loop has nothing that waits for anything else. */
    __device__ __forceinline__ void compute(float (&sum)[ROW_TILES][4], const ring &r, int step, int n_pairs,
                                            int lane) {
#pragma unroll
        for (int j = 0; j < ROW_TILES; j++)
            sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0;
        if (!r.reaches_next)
            load_first(r);
        low.load_rows(rows, rows + FRAGMENT_HALF_BYTES, eight_rows);
        static_assert((int)NETWORK_MAX_OUTPUTS <= WARP_LANES * 2 * (int)WEIGHT_BLOCK,
                      "a lane for every piece");
        if (lane < n_pairs)
            ptx_barrier_wait(r.full + 8 * lanes_own.slot, lanes_own.parity, "network full");
        __syncwarp(); /* all pieces are there */
#pragma unroll 1
        for (int left = n_pairs - 1;; left--) {
            const uint32_t from = r.slot(at.slot) + chunk, empty = r.empty + 8 * at.slot;
            at.advance(step, r.n_slots);
            low.template multiply<0, 1>(sum);
            high.load_rows(rows + WEIGHT_BLOCK * 2, rows + WEIGHT_BLOCK * 2 + FRAGMENT_HALF_BYTES,
                           eight_rows);
            high.load_weights(from + SLICE_BYTES);
            low.template multiply<1, 4>(sum);
            const uint32_t low_loaded = low.loaded_weights();
            if (left > 0) {
                rows += 2 * WEIGHT_BLOCK * 2;
                low.load_rows(rows, rows + FRAGMENT_HALF_BYTES, eight_rows);
                low.load_weights(r.slot(at.slot) + chunk);
            }
            high.template multiply<0, 1>(sum);
            __syncwarp(); /* a load is the whole warp's: this lane's registers tell of all */
            if (lane == 0)
                ptx_barrier_arrive_behind(empty, low_loaded | high.loaded_weights());
            high.template multiply<1, 4>(sum);
            if (left == 0)
                break;
        }
    }
};

} // namespace

#endif
