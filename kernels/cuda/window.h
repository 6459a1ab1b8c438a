/* window: which positions, chunks and tiles of keys a row of attention with a sliding window sees. Host and
 * device, so that a test without a GPU can check the arithmetic. Valid C11 and C++17. */
#ifndef PRESSRUN_KERNELS_CUDA_WINDOW_H
#define PRESSRUN_KERNELS_CUDA_WINDOW_H

#include <stdint.h>

#ifdef __CUDACC__
#define WINDOW_INLINE static __host__ __device__ __forceinline__
#else
#define WINDOW_INLINE static inline
#endif

/* The first position that the row of `position` sees; its own is the last. window 0: all in front of it. */
WINDOW_INLINE int32_t window_first(int32_t position, int32_t window) {
    return window > 0 && position >= window ? position - window + 1 : 0;
}

/* How many groups of `keys` neighbouring positions, cut at absolute multiples, the positions of one row lie
 * in at most; no more than `all`, those of the longest sequence. window: at most INT32_MAX - keys. */
WINDOW_INLINE int32_t window_groups(int32_t window, int32_t keys, int32_t all) {
    int32_t groups = (window + keys - 2) / keys + 1;
    return window > 0 && groups < all ? groups : all;
}

#endif
