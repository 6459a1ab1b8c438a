/* norm: the arithmetic of a norm that one warp computes. Included by norm.cu, whose head says in which order
 * sums are taken, and by network.cu: one of each, so that a row's bits do not depend on which of them
 * computed it. */
#ifndef PRESSRUN_KERNELS_CUDA_NORM_CUH
#define PRESSRUN_KERNELS_CUDA_NORM_CUH

#include "kernels/backend.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace {

enum {
    NORM_VECTOR = 4,       /* features that a thread holds side by side */
    NORM_GROUP_LANES = 16, /* lanes that sum one group */
    NORM_GROUP = NORM_VECTOR * NORM_GROUP_LANES
};
static_assert(NORM_GROUP == 64, "partial sums are over 64 consecutive features");

/* Weight and bias of one vector. No kernel writes them, so they are read while the previous kernel still
 * runs: they come from memory, the row from cache. */
__device__ __forceinline__ void load_weights(float4 &weight, float4 &bias, const float *weights,
                                             const float *biases, int vector, int n_vectors) {
    weight = bias = make_float4(0, 0, 0, 0);
    if (vector < n_vectors)
        weight = load_4(weights + vector * NORM_VECTOR);
    if (biases && vector < n_vectors)
        bias = load_4(biases + vector * NORM_VECTOR);
}

/* Explicit roundings here and below: the two kernels must agree bit for bit, and the compiler may contract as
 * it likes otherwise. */
__device__ __forceinline__ float4 squared(float4 v) {
    return make_float4(__fmul_rn(v.x, v.x), __fmul_rn(v.y, v.y), __fmul_rn(v.z, v.z), __fmul_rn(v.w, v.w));
}

__device__ __forceinline__ float4 scaled(float4 v, float scale, float4 weight, float4 bias) {
    return make_float4(
        fmaf(__fmul_rn(v.x, scale), weight.x, bias.x), fmaf(__fmul_rn(v.y, scale), weight.y, bias.y),
        fmaf(__fmul_rn(v.z, scale), weight.z, bias.z), fmaf(__fmul_rn(v.w, scale), weight.w, bias.w));
}

/* Sum of the row of which this lane holds v, as row_sum; all lanes receive it. */
template <int VECTORS>
__device__ __forceinline__ float row_sum_of_warp(const float4 (&v)[VECTORS], int n_groups) {
    float partial[VECTORS], other[VECTORS], group[2 * VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        partial[j] = (v[j].x + v[j].y) + (v[j].z + v[j].w);
    }
    /* lanes_sum of each. The compiler keeps shuffles in this order: side by side they hide each other. */
#pragma unroll
    for (int offset = NORM_GROUP_LANES / 2; offset > 0; offset /= 2) {
#pragma unroll
        for (int j = 0; j < VECTORS; j++)
            other[j] = __shfl_xor_sync(ALL_LANES, partial[j], offset);
#pragma unroll
        for (int j = 0; j < VECTORS; j++)
            partial[j] += other[j];
    }
#pragma unroll
    for (int g = 0; g < 2 * VECTORS; g++)
        group[g] = __shfl_sync(ALL_LANES, partial[g / 2], g % 2 * NORM_GROUP_LANES);
    float sum = group[0];
#pragma unroll
    for (int g = 1; g < 2 * VECTORS; g++)
        if (g < n_groups)
            sum += group[g];
    return sum;
}

/* v: the vectors lane, lane + 32, .. of a row of n_embd features, zeros behind them; becomes what is scaled,
 * the features without their mean (of NORM_LAYER). Returns the scale; *squares: the sum of their squares. */
template <int VECTORS>
__device__ __forceinline__ float norm_of_warp(float4 (&v)[VECTORS], float *squares, enum norm_kind kind,
                                              int n_embd, float epsilon, int lane) {
    int n_vectors = (n_embd + NORM_VECTOR - 1) / NORM_VECTOR;
    int n_groups = (n_vectors + NORM_GROUP_LANES - 1) / NORM_GROUP_LANES;
    float mean = 0;
    if (kind == NORM_LAYER)
        mean = row_sum_of_warp(v, n_groups) / (float)n_embd;

    float4 square[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int column = (j * WARP_LANES + lane) * NORM_VECTOR;
        v[j].x = column + 0 < n_embd ? v[j].x - mean : 0;
        v[j].y = column + 1 < n_embd ? v[j].y - mean : 0;
        v[j].z = column + 2 < n_embd ? v[j].z - mean : 0;
        v[j].w = column + 3 < n_embd ? v[j].w - mean : 0;
        square[j] = squared(v[j]);
    }
    *squares = row_sum_of_warp(square, n_groups);
    return 1.0f / sqrtf(*squares / (float)n_embd + epsilon);
}

} // namespace

#endif
