/* vector: dtype conversion and 16-byte access to rows. Rows of all tensors start at multiples of 16 bytes and
 * are zero-padded to them (context.cuh), so any group of 8 elements that starts at a multiple of 8 can be
 * accessed. */
#ifndef PRESSRUN_KERNELS_CUDA_VECTOR_CUH
#define PRESSRUN_KERNELS_CUDA_VECTOR_CUH

#include <cstdint>
#include <cuda_bf16.h>

typedef __nv_bfloat16 bfloat16;

static __device__ __forceinline__ float to_float(float x) {
    return x;
}

static __device__ __forceinline__ float to_float(bfloat16 x) {
    return __bfloat162float(x);
}

/* Rounds to nearest even. */
template <typename T> static __device__ __forceinline__ T from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x) {
    return x;
}

template <> __device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/* Two floats as the two halves of a register, the first in the low half. */
static __device__ __forceinline__ uint32_t pack_bfloat16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

static __device__ __forceinline__ float bfloat16_low(uint32_t pair) {
    return __uint_as_float(pair << 16);
}

static __device__ __forceinline__ float bfloat16_high(uint32_t pair) {
    return __uint_as_float(pair & 0xFFFF0000u);
}

/* Four elements; p aligned to four elements. */
static __device__ __forceinline__ float4 load_4(const float *p) {
    return *reinterpret_cast<const float4 *>(p);
}

static __device__ __forceinline__ float4 load_4(const bfloat16 *p) {
    uint2 raw = *reinterpret_cast<const uint2 *>(p);
    return make_float4(bfloat16_low(raw.x), bfloat16_high(raw.x), bfloat16_low(raw.y), bfloat16_high(raw.y));
}

static __device__ __forceinline__ void store_4(float *p, float4 v) {
    *reinterpret_cast<float4 *>(p) = v;
}

static __device__ __forceinline__ void store_4(bfloat16 *p, float4 v) {
    *reinterpret_cast<uint2 *>(p) = make_uint2(pack_bfloat16(v.x, v.y), pack_bfloat16(v.z, v.w));
}

/* Eight elements as they lie in memory: 16 or 32 bytes, loaded before they are needed and widened when they
 * are. */
template <typename T> struct raw_8;

template <> struct raw_8<float> { float4 a, b; };

template <> struct raw_8<bfloat16> { uint4 a; };

static __device__ __forceinline__ raw_8<float> load_raw_8(const float *p) {
    return {reinterpret_cast<const float4 *>(p)[0], reinterpret_cast<const float4 *>(p)[1]};
}

static __device__ __forceinline__ raw_8<bfloat16> load_raw_8(const bfloat16 *p) {
    return {*reinterpret_cast<const uint4 *>(p)};
}

static __device__ __forceinline__ void widen_8(float (&v)[8], const raw_8<float> &raw) {
    v[0] = raw.a.x, v[1] = raw.a.y, v[2] = raw.a.z, v[3] = raw.a.w;
    v[4] = raw.b.x, v[5] = raw.b.y, v[6] = raw.b.z, v[7] = raw.b.w;
}

static __device__ __forceinline__ void widen_8(float (&v)[8], const raw_8<bfloat16> &raw) {
    v[0] = bfloat16_low(raw.a.x), v[1] = bfloat16_high(raw.a.x);
    v[2] = bfloat16_low(raw.a.y), v[3] = bfloat16_high(raw.a.y);
    v[4] = bfloat16_low(raw.a.z), v[5] = bfloat16_high(raw.a.z);
    v[6] = bfloat16_low(raw.a.w), v[7] = bfloat16_high(raw.a.w);
}

/* Eight elements; p aligned to eight elements. */
template <typename T> static __device__ __forceinline__ void load_8(float (&v)[8], const T *p) {
    widen_8(v, load_raw_8(p));
}

static __device__ __forceinline__ void store_8(float *p, const float (&v)[8]) {
    reinterpret_cast<float4 *>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4 *>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

static __device__ __forceinline__ void store_8(bfloat16 *p, const float (&v)[8]) {
    *reinterpret_cast<uint4 *>(p) = make_uint4(pack_bfloat16(v[0], v[1]), pack_bfloat16(v[2], v[3]),
                                               pack_bfloat16(v[4], v[5]), pack_bfloat16(v[6], v[7]));
}

#endif
