/* rope: what happens to a head of q and k before they meet: the norm of the head, in models that have one,
 * and rotary positions (RoFormer, Su et al. 2021), halves paired as Hugging Face checkpoints expect. With
 * half = head_dim / 2, and c and s of pair i at a row's position:
 *
 *     x[i]        ->  x[i] c        - x[i + half] s
 *     x[i + half] ->  x[i + half] c + x[i] s
 *
 * The table's row of a position is [head_dim] float32: the cosines of its `half` pairs, then their sines
 * (struct attention_args.rope).
 *
 * Numerics: float32, one fused multiply-add over one rounded product, then rounded to the dtype of x; with a
 * norm in front of it rounded once, behind both. A norm's squares are summed in eights, eight of these by a
 * butterfly to 64 features, and these in ascending order. All kernels that rotate do it here, so decode and
 * prefill append the same bits. */
#ifndef PRESSRUN_KERNELS_CUDA_ROPE_CUH
#define PRESSRUN_KERNELS_CUDA_ROPE_CUH

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

/* One pair; low is x[i], high is x[i + half]. Not yet rounded to the compute dtype. */
static __device__ __forceinline__ void rope_rotate(float &low, float &high, float cosine, float sine) {
    float x = low, y = high;
    low = fmaf(x, cosine, -(y * sine));
    high = fmaf(y, cosine, x * sine);
}

/* v = elements [column, column + 8) of the head that starts at x [head_dim], rotated by `row`, the table's
 * row of its position, and rounded to T. column is a multiple of 8, head_dim of 16; x is aligned to eight
 * elements. row NULL: as they are. */
template <typename T>
static __device__ __forceinline__ void rope_load_8(float (&v)[8], const T *x, int column, int head_dim,
                                                   const float *row) {
    load_8(v, x + column);
    if (!row)
        return;
    int half = head_dim / 2;
    bool is_low = column < half;
    int pair = is_low ? column : column - half;
    float partner[8], cosine[8], sine[8];
    load_8(partner, x + (is_low ? column + half : pair));
    load_8(cosine, row + pair);
    load_8(sine, row + half + pair);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float low = is_low ? v[i] : partner[i], high = is_low ? partner[i] : v[i];
        rope_rotate(low, high, cosine[i], sine[i]);
        v[i] = to_float(from_float<T>(is_low ? low : high));
    }
}

/* The same for a head with a norm: v = x / sqrt(mean of x^2 + epsilon) * norm, rotated and rounded to T.
 * LANES neighbouring lanes hold the head, `lane` of them columns [8 lane, 8 lane + 8); those behind head_dim
 * hold zeros. All lanes of the warp call it. norm: [head_dim] float32. */
template <typename T, int LANES>
static __device__ __forceinline__ void rope_norm_head(float (&v)[8], int lane, int head_dim,
                                                      const float *norm, float epsilon, const float *row) {
    constexpr int GROUP_LANES = LANES < 8 ? LANES : 8;
    const int column = lane * 8, half = head_dim / 2;
    const bool holds = column < head_dim, is_low = column < half;
    float weight[8] = {}, sum = 0;
    if (holds)
        load_8(weight, norm + column);
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum = fmaf(v[i], v[i], sum);
    sum = lanes_sum<GROUP_LANES>(sum);
    float squares = __shfl_sync(ALL_LANES, sum, 0, LANES);
#pragma unroll
    for (int group = GROUP_LANES; group < LANES; group += GROUP_LANES)
        squares += __shfl_sync(ALL_LANES, sum, group, LANES);
    const float scale = 1.0f / sqrtf(squares / (float)head_dim + epsilon);
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = __fmul_rn(__fmul_rn(v[i], scale), weight[i]);
    if (row) {
        const int pair = is_low ? column : column - half, other = is_low ? lane + half / 8 : lane - half / 8;
        float cosine[8] = {}, sine[8] = {};
        if (holds) {
            load_8(cosine, row + pair);
            load_8(sine, row + half + pair);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float partner = __shfl_sync(ALL_LANES, v[i], other, LANES);
            float low = is_low ? v[i] : partner, high = is_low ? partner : v[i];
            rope_rotate(low, high, cosine[i], sine[i]);
            v[i] = is_low ? low : high;
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = to_float(from_float<T>(v[i]));
}

#endif
