/* tile: where elements lie in the shared-memory tiles and tensor-core fragments of kernels/cuda. Host and
 * device, so that a test without a GPU can check the arithmetic. Valid C11 and C++17.
 *
 * A tile row is a whole number of 16-byte chunks (8 bf16). Chunk c of row r is stored at chunk c ^ (r % 8) of
 * its aligned group of eight (of four or two in narrower tiles, where several rows share the 128 bytes of one
 * bank sweep), so that the eight rows an 8x8 ldmatrix reads at one chunk column lie in different banks, as do
 * the chunks that consecutive threads write. */
#ifndef PRESSRUN_KERNELS_CUDA_TILE_H
#define PRESSRUN_KERNELS_CUDA_TILE_H

#include <stdint.h>

#ifdef __CUDACC__
#define TILE_INLINE static __host__ __device__ __forceinline__
#else
#define TILE_INLINE static inline
#endif

enum { TILE_CHUNK_BYTES = 16, TILE_CHUNK_ELEMENTS = 8, TILE_SWIZZLE_ROWS = 8 };

/* Byte offset of chunk `chunk` of row `row` in a tile of `chunks` chunks a row. chunks: 2, 4, or a multiple
 * of 8, or a multiple of 4 that is not one of 8 (then swizzled within groups of four). */
TILE_INLINE uint32_t tile_offset(uint32_t row, uint32_t chunk, uint32_t chunks) {
    uint32_t swizzled;
    if (chunks % 8 == 0)
        swizzled = chunk ^ (row % 8);
    else if (chunks % 4 == 0)
        swizzled = chunk ^ (row / 2 % 4);
    else
        swizzled = chunk ^ (row / 4 % 2);
    return (row * chunks + swizzled) * TILE_CHUNK_BYTES;
}

/* ldmatrix.x4 of a 16x16 A fragment: the row and chunk (relative to the fragment) whose address lane gives.
 * Also B of two 8-wide tiles read transposed (rows are k). */
TILE_INLINE uint32_t tile_a_row(uint32_t lane) {
    return lane % 16;
}
TILE_INLINE uint32_t tile_a_chunk(uint32_t lane) {
    return lane / 16;
}

/* ldmatrix.x4 of the B fragments (k 16) of two neighbouring 8-wide tiles stored as rows of n: registers 0 and
 * 1 are b0 and b1 of the first, 2 and 3 of the second. Lanes 0..15 alone serve ldmatrix.x2 of one tile. */
TILE_INLINE uint32_t tile_b_row(uint32_t lane) {
    return lane % 8 + lane / 16 * 8;
}
TILE_INLINE uint32_t tile_b_chunk(uint32_t lane) {
    return lane / 8 % 2;
}

/* Row (of 16) and column (of 8) of accumulator register i (0..3) of an m16n8 tile. */
TILE_INLINE uint32_t tile_c_row(uint32_t lane, uint32_t i) {
    return lane / 4 + i / 2 * 8;
}
TILE_INLINE uint32_t tile_c_column(uint32_t lane, uint32_t i) {
    return lane % 4 * 2 + i % 2;
}

#endif
