/* philox: the random numbers of sampling, shared by host and device code.
 *
 * Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A
 * counter-based generator: the number is a function of (key, position, vocabulary index) alone, so a sample
 * depends on no state, slot or neighbour, and a replayed step draws the same numbers. */
#ifndef PRESSRUN_KERNELS_PHILOX_H
#define PRESSRUN_KERNELS_PHILOX_H

#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_INLINE static __host__ __device__ __forceinline__
#else
#define PHILOX_INLINE static inline
#endif

/* The four 32-bit words of the block for counter (block, position, 0, 0). */
PHILOX_INLINE void philox_block(uint64_t key, uint32_t position, uint32_t block, uint32_t words[4]) {
    uint32_t c0 = block, c1 = position, c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

/* The word of an index: word index % 4 of block index / 4. So four neighbours in the vocabulary cost one
 * block. */
PHILOX_INLINE uint32_t philox_word(uint64_t key, uint32_t position, uint32_t index) {
    uint32_t words[4];
    philox_block(key, position, index / 4, words);
    return index & 2 ? (index & 1 ? words[3] : words[2]) : (index & 1 ? words[1] : words[0]);
}

/* A uniform in (0, 1 - 2^-24]: (x + 0.5) 2^-32, rounded to float32 and kept below 1. */
PHILOX_INLINE float philox_uniform(uint32_t word) {
    float u = ((float)word + 0.5f) * 2.3283064365386963e-10f;
    return u < 0.99999994f ? u : 0.99999994f;
}

#endif
