/* fragments: what a warp holds of 64 columns of k while it multiplies 16 outputs by rows with mma.sync:
 * weights as the first operand, rows as the second (matmul_warp.cuh, network_ring.cuh). */
#ifndef PRESSRUN_KERNELS_CUDA_FRAGMENTS_CUH
#define PRESSRUN_KERNELS_CUDA_FRAGMENTS_CUH

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile.h"

namespace {

enum { FRAGMENT_HALF_BYTES = 64 /* 32 columns of a row */ };

/* ROW_TILES: of eight rows. */
template <int ROW_TILES> struct fragments {
    uint32_t a[4][4];
    uint32_t b[ROW_TILES][2][4]; /* 32 columns each */

    /* weights: the address of this lane's chunk (tile_a_row, tile_a_chunk) of the first 16 columns, in rows
     * of 128 aligned bytes swizzled as tile.h says: the chunk of the next 16 columns is an exclusive or away.
     */
    __device__ __forceinline__ void load_weights(uint32_t weights) {
#pragma unroll
        for (int k16 = 0; k16 < 4; k16++)
            ptx_load_matrix_x4(a[k16], weights ^ (uint32_t)(k16 * 2 * TILE_CHUNK_BYTES));
    }
    /* low, high: the addresses of this lane's chunk (row lane % 8, chunk lane / 8) of the first and of the
     * last 32 columns; the next eight rows lie eight_rows bytes behind them. */
    __device__ __forceinline__ void load_rows(uint32_t low, uint32_t high, uint32_t eight_rows) {
#pragma unroll
        for (int j = 0; j < ROW_TILES; j++) {
            ptx_load_matrix_x4(b[j][0], low + (uint32_t)j * eight_rows);
            ptx_load_matrix_x4(b[j][1], high + (uint32_t)j * eight_rows);
        }
    }
    /* For ptx_barrier_arrive_behind(): there when all weights are, or all rows. */
    __device__ __forceinline__ uint32_t loaded_weights() const {
        return a[0][0] | a[1][0] | a[2][0] | a[3][0];
    }
    __device__ __forceinline__ uint32_t loaded_rows() const {
        uint32_t all = 0;
#pragma unroll
        for (int j = 0; j < ROW_TILES; j++)
            all |= b[j][0][0] | b[j][1][0];
        return all;
    }
    /* sum[j] += steps [FIRST, END) of four, of 16 columns each; a chain for each element. */
    template <int FIRST, int END> __device__ __forceinline__ void multiply(float (&sum)[ROW_TILES][4]) const {
#pragma unroll
        for (int k16 = FIRST; k16 < END; k16++)
#pragma unroll
            for (int j = 0; j < ROW_TILES; j++)
                ptx_mma_bf16(sum[j], a[k16], b[j][k16 / 2][k16 % 2 * 2], b[j][k16 / 2][k16 % 2 * 2 + 1]);
    }
};

} // namespace

#endif
