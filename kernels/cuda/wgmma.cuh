/* wgmma: the operands of Hopper's warpgroup matrix multiply, c += a . b, with both operands in shared memory:
 * a [64, 16] (M, K) and b [N, 16] (N, K), bfloat16, c [64, N] float32 in the registers of the four warps. PTX
 * ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions". The instructions are in
 * ptx_wgmma.cuh.
 *
 * Operands lie in tiles of rows of 128 bytes (64 elements of k) with the 128-byte swizzle of tile.h, aligned
 * to 1,024 bytes. Thread t of the warpgroup holds of c, for j in [0, N / 8), rows 16 (t / 32) + t % 32 / 4 (+
 * 8) and columns 8 j + 2 (t % 4) (+ 1): per eight columns the m16n8 fragment of tile.h. */
#ifndef PRESSRUN_KERNELS_CUDA_WGMMA_CUH
#define PRESSRUN_KERNELS_CUDA_WGMMA_CUH

#include <cstdint>

#include "kernels/cuda/ptx_wgmma.cuh"

/* Describes a K-major tile at a shared-memory address, or 16 elements of k further on at address + 32. PTX
 * ISA, "Matrix Descriptor Format": bits 0-13 address / 16, 32-45 the 1,024 bytes from eight rows to the next
 * eight / 16, 62-63 the swizzle (1: 128 bytes); the leading dimension's stride (16-29) is not used by it. */
static __device__ __forceinline__ uint64_t wgmma_operand(uint32_t shared) {
    return (uint64_t)(shared >> 4 & 0x3FFF) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* Describes a tile of b that is stored as rows of k, 128 bytes (64 elements of n) each, swizzled alike: what
 * a wgmma with a transposed b reads ("N-major"). PTX ISA, "Strides" and "Canonical Layouts" of these
 * instructions: for a layout that is not K-major and swizzled over 128 bytes the unit is an atom of eight
 * rows of k by 64 elements of n, 1,024 contiguous bytes. An instruction takes k = 16: two atoms, `stride`
 * (32-45) bytes apart, 1,024 where the rows of k follow each other. Where it takes n = 128 or 256, the atoms
 * of the next 64 columns lie `next_columns` bytes behind those of the first (16-29, the leading dimension's
 * stride; not used for n = 64), and so on. 16 elements of k further on is address + 2,048. */
static __device__ __forceinline__ uint64_t wgmma_operand_transposed(uint32_t shared, uint32_t next_columns) {
    return (uint64_t)(shared >> 4 & 0x3FFF) | (uint64_t)(next_columns >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* The operand `bytes` (a multiple of 16) further on. Shared memory ends below 2^18 bytes, so the sum stays in
 * the address's bits. */
static __device__ __forceinline__ uint64_t wgmma_advance(uint64_t operand, uint32_t bytes) {
    return operand + (bytes >> 4);
}

/* A position in a ring of shared-memory stages: stage, and parity of its use. */
template <int STAGES> struct ring_position {
    int stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

#endif
