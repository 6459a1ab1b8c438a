/* candidate: how tokens are compared when one is chosen. What `sample` computes from logits in memory and
 * what the head computes from its own sums (head.cuh) goes through the functions here, so both choose the
 * same token. */
#ifndef PRESSRUN_KERNELS_CUDA_CANDIDATE_CUH
#define PRESSRUN_KERNELS_CUDA_CANDIDATE_CUH

#include <cfloat>
#include <cstdint>

#include "kernels/philox.h"

static constexpr float LOG2_E = 1.4426950408889634f;
static constexpr float LARGEST_GUMBEL = 22.9f;  /* of the smallest u, 2^-33: 22.874 */
static constexpr float SMALLEST_GUMBEL = -2.9f; /* of the largest u, 1 - 2^-24: -2.812 */

/* Floats in ascending order as unsigned integers; -0 counts as +0. */
static __device__ __forceinline__ uint32_t order_bits(float x) {
    uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float order_float(uint32_t order) {
    return __uint_as_float(order & 0x80000000u ? order & 0x7FFFFFFFu : ~order);
}

/* A larger value wins, then a lower id. 0 is below every candidate. */
static __device__ __forceinline__ uint64_t candidate(float value, int id) {
    return (uint64_t)order_bits(value) << 32 | (0xFFFFFFFFu - (uint32_t)id);
}

static constexpr uint64_t NOT_FINITE = ~0ull; /* above every candidate */

static __device__ __forceinline__ int candidate_id(uint64_t c) {
    return (int)(0xFFFFFFFFu - (uint32_t)c);
}

static __device__ __forceinline__ float candidate_value(uint64_t c) {
    return order_float((uint32_t)(c >> 32));
}

/* z of a logit, kept finite. */
static __device__ __forceinline__ float scaled_logit(float y, float temperature) {
    return fminf(fmaxf(__fdiv_rn(y, temperature), -FLT_MAX), FLT_MAX);
}

/* z + gumbel. Rounded operations by name: the same bits wherever it is inlined. */
static __device__ __forceinline__ float token_score(float y, float temperature, float u) {
    return __fsub_rn(scaled_logit(y, temperature), logf(-log1pf(-u)));
}

#endif
