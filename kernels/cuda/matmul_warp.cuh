/* matmul_warp: products of few rows on Hopper, a warp for each 16 outputs. Included by matmul_wgmma.cu, whose
 * ring, producer and barriers it uses.
 *
 * With few rows a tile is a chain of steps of 16 columns of k, each waiting for the one in front: 21 cycles
 * by wgmma, 25 by mma.sync, with the same bits. But wgmma takes 64 outputs, and a narrow matrix has too few
 * such tiles; a warp takes 16. It issues in order, so what a step needs is requested in the shadow of the
 * steps in front of it, and the next stage's barrier is asked a stage ahead. */
#ifndef PRESSRUN_KERNELS_CUDA_MATMUL_WARP_CUH
#define PRESSRUN_KERNELS_CUDA_MATMUL_WARP_CUH

#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/weight_layout.h"
#include "kernels/cuda/wgmma.cuh"

namespace {

/* sum += the products of n_stages stages, from `at` on, which moves behind them: outputs [16 warp, + 16) of
 * the tile by its TOKENS rows, as fragments of eight rows hold them. release(stage, loaded), by every lane:
 * it has read its part when `loaded` is there (ptx_barrier_arrive_behind). */
template <typename Shape, typename Release>
__device__ __forceinline__ void warp_multiply(float (&flat)[Shape::TOKENS / 2], uint32_t ring, uint32_t full,
                                              ring_position<Shape::STAGES> &at, int n_stages, int warp,
                                              int lane, const Release &release) {
    static_assert(Shape::K_BLOCKS == 2, "a stage is two blocks of 64 columns");
    constexpr int ROW_TILES = Shape::TOKENS / 8;
    constexpr uint32_t EIGHT_ROWS = 8 * ROW_BYTES;
    float(&sum)[ROW_TILES][4] = reinterpret_cast<float(&)[ROW_TILES][4]>(flat);
    uint32_t weights = ring + (uint32_t)warp * (16 * ROW_BYTES) +
                       tile_offset(tile_a_row((uint32_t)lane), tile_a_chunk((uint32_t)lane), 8);
    uint32_t rows =
        ring + (uint32_t)Shape::WEIGHT_BYTES + tile_offset((uint32_t)lane % 8, (uint32_t)lane / 8, 8);
    ptx_keep(weights);
    ptx_keep(rows);
    ptx_keep(full);
    fragments<ROW_TILES> low, high; /* of a stage's two blocks */
    auto load = [&](fragments<ROW_TILES> &to, int stage, int block) {
        const uint32_t from = (uint32_t)(stage * Shape::STAGE_BYTES),
                       in = rows + from + (uint32_t)(block * Shape::BOX_BYTES);
        to.load_rows(in, in ^ FRAGMENT_HALF_BYTES, EIGHT_ROWS);
        to.load_weights(weights + from + (uint32_t)(block * Shape::GROUP_BLOCK_BYTES));
    };
    ptx_barrier_wait(full + 8 * at.stage, at.parity, "matmul full");
    load(low, at.stage, 0);
#pragma unroll 1
    for (int left = n_stages - 1;; left--) {
        const int stage = at.stage;
        at.next();
        const bool next_is_there = left > 0 && ptx_barrier_is_complete(full + 8 * at.stage, at.parity);
        low.template multiply<0, 1>(sum);
        load(high, stage, 1);
        const uint32_t low_loaded = low.loaded_weights() | low.loaded_rows();
        low.template multiply<1, 4>(sum);
        high.template multiply<0, 1>(sum);
        release(stage, low_loaded | high.loaded_weights() | high.loaded_rows());
        if (left == 0)
            break;
        if (!next_is_there)
            ptx_barrier_wait(full + 8 * at.stage, at.parity, "matmul full");
        load(low, at.stage, 0);
        high.template multiply<1, 4>(sum);
    }
    high.template multiply<1, 4>(sum);
}

} // namespace

#endif
