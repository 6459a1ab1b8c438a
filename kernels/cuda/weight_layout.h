/* weight_layout: where the elements of a bfloat16 matmul weight lie in device memory. Host and device, so
 * that a test without a GPU can check the arithmetic. Valid C11 and C++17.
 *
 * A weight [n_out, n_in] is cut into blocks of 64 rows by 64 columns (8 KiB), zero-padded to whole blocks and
 * to an even number of them in a row of blocks. Blocks of one row of blocks follow each other, so the weights
 * that a multiprocessor streams for 64 outputs are one run of memory. Within a block a row is 128 bytes, its
 * eight 16-byte chunks swizzled as in tile.h: exactly the 128-byte-swizzled tile that the tensor cores read
 * (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout"), so a plain copy brings it into
 * place.
 *
 * The two matrices of a pair (gate and up) alternate by eight rows, so that rows o of both are held by one
 * thread of the accumulator fragment. */
#ifndef PRESSRUN_KERNELS_CUDA_WEIGHT_LAYOUT_H
#define PRESSRUN_KERNELS_CUDA_WEIGHT_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/cuda/tile.h"

enum {
    WEIGHT_BLOCK = 64, /* rows and columns of a block */
    WEIGHT_BLOCK_CHUNKS = WEIGHT_BLOCK / TILE_CHUNK_ELEMENTS,
    WEIGHT_BLOCK_BYTES = WEIGHT_BLOCK * WEIGHT_BLOCK * 2,
    ROW_BYTES = WEIGHT_BLOCK * 2, /* of a block, and of the box of rows that it is multiplied by */
    WEIGHT_PAIR_ROWS = 8          /* rows of one matrix of a pair before the other's */
};

/* Blocks in a row of blocks: even. */
TILE_INLINE int64_t weight_k_blocks(int64_t n_in) {
    return (n_in + 2 * WEIGHT_BLOCK - 1) / (2 * WEIGHT_BLOCK) * 2;
}

TILE_INLINE int64_t weight_row_blocks(int64_t n_rows) {
    return (n_rows + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK;
}

/* Byte offset of the 16-byte chunk with columns [8 chunk, 8 chunk + 8) of a row. */
TILE_INLINE size_t weight_offset(int64_t row, int64_t chunk, int64_t k_blocks) {
    int64_t block = row / WEIGHT_BLOCK * k_blocks + chunk / WEIGHT_BLOCK_CHUNKS;
    return (size_t)block * WEIGHT_BLOCK_BYTES + tile_offset((uint32_t)(row % WEIGHT_BLOCK),
                                                            (uint32_t)(chunk % WEIGHT_BLOCK_CHUNKS),
                                                            WEIGHT_BLOCK_CHUNKS);
}

/* Row of the joint weight that holds row `row` of the first (second: false) or second matrix of a pair. */
TILE_INLINE int64_t weight_pair_row(int64_t row, bool second) {
    return row / WEIGHT_PAIR_ROWS * (2 * WEIGHT_PAIR_ROWS) + row % WEIGHT_PAIR_ROWS +
           (second ? WEIGHT_PAIR_ROWS : 0);
}

#endif
