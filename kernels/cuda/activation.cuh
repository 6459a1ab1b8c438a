/* activation: the functions that matmul and attention apply to finished sums. One of each for all kernels, so
 * that a value's bits do not depend on which of them computed it. */
#ifndef PRESSRUN_KERNELS_CUDA_ACTIVATION_CUH
#define PRESSRUN_KERNELS_CUDA_ACTIVATION_CUH

#include "kernels/cuda/ptx.cuh"

/* x / (1 + e^-x) (Elfwing et al., arXiv 1702.03118). */
static __device__ __forceinline__ float silu(float x) {
    return __fdividef(x, 1.0f + ptx_exp2(x * -1.4426950408889634f));
}

/* 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), the approximation named gelu_new in Hugging
 * Face configurations (Hendrycks and Gimpel, arXiv 1606.08415), which is x / (1 + e^-2u). Explicit fma: the
 * same bits wherever it is inlined. */
static __device__ __forceinline__ float gelu_tanh(float x) {
    float u = fmaf(0.044715f * x * x, x, x) * 0.7978845608028654f;
    return __fdividef(x, 1.0f + ptx_exp2(u * (-2.0f * 1.4426950408889634f)));
}

/* tanh(x), relative error 2^-22: 1 - 2 / (1 + e^2|x|) with the sign of x, or below 0.6, where that cancels,
 * an odd polynomial fitted to tanh there. */
static __device__ __forceinline__ float tanh_of(float x) {
    float magnitude = fabsf(x), square = __fmul_rn(x, x);
    float large = 1.0f - __fdividef(2.0f, 1.0f + ptx_exp2(__fmul_rn(magnitude, 2.0f * 1.4426950408889634f)));
    float p = fmaf(square, 0.015640462f, -0.052231096f);
    p = fmaf(square, p, 0.1331352f);
    p = fmaf(square, p, -0.33332622f);
    float small = fmaf(__fmul_rn(p, square), x, x);
    return magnitude < 0.6f ? small : copysignf(large, x);
}

#endif
