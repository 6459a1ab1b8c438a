/* reduce: sums and maxima over the lanes of a warp and the warps of a block, each in one fixed order. */
#ifndef PRESSRUN_KERNELS_CUDA_REDUCE_CUH
#define PRESSRUN_KERNELS_CUDA_REDUCE_CUH

#include <cstdint>

enum { WARP_LANES = 32, MAX_WARPS = 32 };

static constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

/* Sum over groups of LANES consecutive lanes as a butterfly; every lane of the group receives it. Addition
 * commutes, so all lanes hold the same bits. */
template <int LANES, typename T> static __device__ __forceinline__ T lanes_sum(T x) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

template <int LANES> static __device__ __forceinline__ float lanes_max(float x) {
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

/* Sum over a whole block, warps in ascending order; every thread receives it. shared: [MAX_WARPS]. All
 * threads of the block call it. The barriers at both ends let the caller use the same shared memory again at
 * once. */
static __device__ __forceinline__ float block_sum(float x, float *shared) {
    x = lanes_sum<WARP_LANES>(x);
    __syncthreads();
    if (threadIdx.x % WARP_LANES == 0)
        shared[threadIdx.x / WARP_LANES] = x;
    __syncthreads();
    float sum = shared[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP_LANES; warp++)
        sum += shared[warp];
    return sum;
}

/* Largest 64-bit value of a block; every thread receives it. shared: [MAX_WARPS]. */
static __device__ __forceinline__ uint64_t block_max(uint64_t x, uint64_t *shared) {
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2) {
        uint64_t other = __shfl_xor_sync(ALL_LANES, x, offset);
        x = other > x ? other : x;
    }
    __syncthreads();
    if (threadIdx.x % WARP_LANES == 0)
        shared[threadIdx.x / WARP_LANES] = x;
    __syncthreads();
    uint64_t largest = shared[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP_LANES; warp++)
        largest = shared[warp] > largest ? shared[warp] : largest;
    return largest;
}

/* Exact sum of 64-bit integers over a block; every thread receives it. shared: [MAX_WARPS]. */
static __device__ __forceinline__ uint64_t block_sum(uint64_t x, uint64_t *shared) {
#pragma unroll
    for (int offset = WARP_LANES / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    __syncthreads();
    if (threadIdx.x % WARP_LANES == 0)
        shared[threadIdx.x / WARP_LANES] = x;
    __syncthreads();
    uint64_t sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP_LANES; warp++)
        sum += shared[warp];
    return sum;
}

#endif
