/* simd: sixteen float32 lanes, and exp and log over them. Included only by the isa_*.c files.
 *
 * Those files are compiled once per instruction set, with CPU_ISA set to the suffix of their symbols. v16 is
 * one 512-bit register (AVX-512, with or without the bfloat16 dot product), two 256-bit registers (AVX2 with
 * FMA) or an array (any machine). Every function rounds each lane in the same order on all of them,
 * multiplies and adds into one rounding only where fma is written, and leaves subnormals alone, but for
 * v16_dot and what stands between simd_flush_subnormals and simd_restore; so all builds give equal bits. Sums
 * over lanes form one fixed tree: (i, i + 8), (i, i + 4), (i, i + 2), (i, i + 1). */
#ifndef PRESSRUN_KERNELS_CPU_SIMD_H
#define PRESSRUN_KERNELS_CPU_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/bfloat16.h"

#ifndef CPU_ISA
#error "CPU_ISA names the instruction set: avx512_bf16, avx512, avx2 or portable"
#endif

#define CPU_JOIN_(name, isa) name##_##isa
#define CPU_JOIN(name, isa)  CPU_JOIN_(name, isa)
/* The name of an external symbol of this build: name_avx512_bf16, name_avx512, name_avx2, name_portable. */
#define CPU_SYMBOL(name) CPU_JOIN(name, CPU_ISA)
#define CPU_STRING_(isa) #isa
#define CPU_STRING(isa)  CPU_STRING_(isa)

#define SIMD_INLINE static inline __attribute__((always_inline, unused))

enum { V16_LANES = 16 };

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define V16_REGISTERS 32 /* architectural registers, counted in v16 */
#include <immintrin.h>

typedef __m512 v16;

SIMD_INLINE v16 v16_set1(float x) {
    return _mm512_set1_ps(x);
}

SIMD_INLINE v16 v16_load(const float *from) {
    return _mm512_loadu_ps(from);
}

SIMD_INLINE void v16_store(float *to, v16 x) {
    _mm512_storeu_ps(to, x);
}

/* The first n lanes (0..16) from memory, zero in the others; reads nothing beyond. */
SIMD_INLINE v16 v16_load_first(const float *from, int n) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
}

SIMD_INLINE void v16_store_first(float *to, v16 x, int n) {
    _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), x);
}

SIMD_INLINE v16 v16_load_bf16(const uint16_t *from) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* Of 16 pairs of bfloat16 the second ones, which lie in the upper halves of 32 bits. */
SIMD_INLINE v16 v16_load_upper(const uint16_t *pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(-0x10000)));
}

/* The first ones, which lie in the lower halves. */
SIMD_INLINE v16 v16_load_lower(const uint16_t *pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
}

SIMD_INLINE v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}

SIMD_INLINE v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}

SIMD_INLINE v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}

SIMD_INLINE v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}

/* a * b + c, rounded once. */
SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}

/* a > b ? a : b; so b when either is NaN. */
SIMD_INLINE v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}

/* a < b ? a : b; so b when either is NaN. */
SIMD_INLINE v16 v16_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}

/* a < b ? x : y. */
SIMD_INLINE v16 v16_select_less(v16 a, v16 b, v16 x, v16 y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

/* Bit i is set where a[i] >= b[i]. */
SIMD_INLINE uint32_t v16_mask_at_least(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}

/* The first n lanes of x, fill in the others. n may be negative or beyond 16. */
SIMD_INLINE v16 v16_keep_first(v16 x, int n, v16 fill) {
    n = n < 0 ? 0 : n > V16_LANES ? V16_LANES : n;
    return _mm512_mask_blend_ps((__mmask16)((1u << n) - 1), fill, x);
}

/* x * 2^n in the exponent bits, for shifted = n + V16_ROUNDER; the result must be normal. */
SIMD_INLINE v16 v16_scale(v16 x, v16 shifted) {
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), exponent));
}

/* x = mantissa * 2^exponent with mantissa in [sqrt(1/2), sqrt(2)), for positive normal x. */
SIMD_INLINE void v16_split(v16 x, v16 *mantissa, v16 *exponent) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i power = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
    *mantissa = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(power, 23)));
    *exponent = _mm512_cvtepi32_ps(power);
}

/* Rounds to the nearest bfloat16, ties to even; NaN stays NaN, made quiet. */
SIMD_INLINE void v16_store_bf16(uint16_t *to, v16 x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i upper = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i nan = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
    __m512i narrow =
        _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_srli_epi32(rounded, 16), nan);
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(narrow));
}

/* The sum of all lanes, in the fixed tree. */
SIMD_INLINE float v16_sum(v16 x) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* The largest lane; a NaN lane may be passed over. */
SIMD_INLINE float v16_largest(v16 x) {
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#elif defined(__AVX2__) && defined(__FMA__)
#define V16_REGISTERS 8
#include <immintrin.h>

typedef struct {
    __m256 lo, hi;
} v16;

#define V16_EACH(operation) ((v16){operation(a.lo, b.lo), operation(a.hi, b.hi)})

SIMD_INLINE v16 v16_set1(float x) {
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

SIMD_INLINE v16 v16_load(const float *from) {
    return (v16){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

SIMD_INLINE void v16_store(float *to, v16 x) {
    _mm256_storeu_ps(to, x.lo);
    _mm256_storeu_ps(to + 8, x.hi);
}

/* All bits set in the lanes below n. */
SIMD_INLINE __m256i v16_half_mask(int n, int first_lane) {
    __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first_lane));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
}

SIMD_INLINE v16 v16_load_first(const float *from, int n) {
    return (v16){_mm256_maskload_ps(from, v16_half_mask(n, 0)),
                 n > 8 ? _mm256_maskload_ps(from + 8, v16_half_mask(n, 8)) : _mm256_setzero_ps()};
}

SIMD_INLINE void v16_store_first(float *to, v16 x, int n) {
    _mm256_maskstore_ps(to, v16_half_mask(n, 0), x.lo);
    if (n > 8)
        _mm256_maskstore_ps(to + 8, v16_half_mask(n, 8), x.hi);
}

SIMD_INLINE v16 v16_load_bf16(const uint16_t *from) {
    __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from + 8)));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

SIMD_INLINE v16 v16_load_upper(const uint16_t *pairs) {
    const __m256i mask = _mm256_set1_epi32(-0x10000);
    __m256i lo = _mm256_loadu_si256((const __m256i *)pairs);
    __m256i hi = _mm256_loadu_si256((const __m256i *)(pairs + 16));
    return (v16){_mm256_castsi256_ps(_mm256_and_si256(lo, mask)),
                 _mm256_castsi256_ps(_mm256_and_si256(hi, mask))};
}

SIMD_INLINE v16 v16_load_lower(const uint16_t *pairs) {
    __m256i lo = _mm256_loadu_si256((const __m256i *)pairs);
    __m256i hi = _mm256_loadu_si256((const __m256i *)(pairs + 16));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

SIMD_INLINE v16 v16_add(v16 a, v16 b) {
    return V16_EACH(_mm256_add_ps);
}

SIMD_INLINE v16 v16_sub(v16 a, v16 b) {
    return V16_EACH(_mm256_sub_ps);
}

SIMD_INLINE v16 v16_mul(v16 a, v16 b) {
    return V16_EACH(_mm256_mul_ps);
}

SIMD_INLINE v16 v16_div(v16 a, v16 b) {
    return V16_EACH(_mm256_div_ps);
}

SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

SIMD_INLINE v16 v16_max(v16 a, v16 b) {
    return V16_EACH(_mm256_max_ps);
}

SIMD_INLINE v16 v16_min(v16 a, v16 b) {
    return V16_EACH(_mm256_min_ps);
}

SIMD_INLINE v16 v16_select_less(v16 a, v16 b, v16 x, v16 y) {
    return (v16){_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                 _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}

SIMD_INLINE uint32_t v16_mask_at_least(v16 a, v16 b) {
    uint32_t lo = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ));
    uint32_t hi = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ));
    return lo | hi << 8;
}

SIMD_INLINE v16 v16_keep_first(v16 x, int n, v16 fill) {
    return (v16){_mm256_blendv_ps(fill.lo, x.lo, _mm256_castsi256_ps(v16_half_mask(n, 0))),
                 _mm256_blendv_ps(fill.hi, x.hi, _mm256_castsi256_ps(v16_half_mask(n, 8)))};
}

SIMD_INLINE __m256 v16_half_scale(__m256 x, __m256 shifted) {
    __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
}

SIMD_INLINE v16 v16_scale(v16 x, v16 shifted) {
    return (v16){v16_half_scale(x.lo, shifted.lo), v16_half_scale(x.hi, shifted.hi)};
}

SIMD_INLINE void v16_half_split(__m256 x, __m256 *mantissa, __m256 *exponent) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i power = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
    *mantissa = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(power, 23)));
    *exponent = _mm256_cvtepi32_ps(power);
}

SIMD_INLINE void v16_split(v16 x, v16 *mantissa, v16 *exponent) {
    v16_half_split(x.lo, &mantissa->lo, &exponent->lo);
    v16_half_split(x.hi, &mantissa->hi, &exponent->hi);
}

SIMD_INLINE __m256i v16_half_to_bf16(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), nan, is_nan);
}

SIMD_INLINE void v16_store_bf16(uint16_t *to, v16 x) {
    __m256i packed = _mm256_packus_epi32(v16_half_to_bf16(x.lo), v16_half_to_bf16(x.hi));
    _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(packed, 0xd8));
}

SIMD_INLINE float v16_sum(v16 x) {
    __m256 eight = _mm256_add_ps(x.lo, x.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float v16_largest(v16 x) {
    __m256 eight = _mm256_max_ps(x.lo, x.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#else
#define V16_REGISTERS 4

typedef struct {
    float lane[V16_LANES];
} v16;

#define V16_LOOP(expression)                                                                                 \
    do {                                                                                                     \
        v16 result_;                                                                                         \
        for (int i = 0; i < V16_LANES; i++)                                                                  \
            result_.lane[i] = (expression);                                                                  \
        return result_;                                                                                      \
    } while (0)

SIMD_INLINE v16 v16_set1(float x) {
    V16_LOOP(x);
}

SIMD_INLINE v16 v16_load(const float *from) {
    V16_LOOP(from[i]);
}

SIMD_INLINE void v16_store(float *to, v16 x) {
    memcpy(to, x.lane, sizeof x.lane);
}

SIMD_INLINE v16 v16_load_first(const float *from, int n) {
    V16_LOOP(i < n ? from[i] : 0.0f);
}

SIMD_INLINE void v16_store_first(float *to, v16 x, int n) {
    for (int i = 0; i < n; i++)
        to[i] = x.lane[i];
}

SIMD_INLINE v16 v16_load_bf16(const uint16_t *from) {
    V16_LOOP(bfloat16_to_float(from[i]));
}

SIMD_INLINE v16 v16_load_upper(const uint16_t *pairs) {
    V16_LOOP(bfloat16_to_float(pairs[2 * i + 1]));
}

SIMD_INLINE v16 v16_load_lower(const uint16_t *pairs) {
    V16_LOOP(bfloat16_to_float(pairs[2 * i]));
}

SIMD_INLINE v16 v16_add(v16 a, v16 b) {
    V16_LOOP(a.lane[i] + b.lane[i]);
}

SIMD_INLINE v16 v16_sub(v16 a, v16 b) {
    V16_LOOP(a.lane[i] - b.lane[i]);
}

SIMD_INLINE v16 v16_mul(v16 a, v16 b) {
    V16_LOOP(a.lane[i] * b.lane[i]);
}

SIMD_INLINE v16 v16_div(v16 a, v16 b) {
    V16_LOOP(a.lane[i] / b.lane[i]);
}

SIMD_INLINE v16 v16_fma(v16 a, v16 b, v16 c) {
    V16_LOOP(fmaf(a.lane[i], b.lane[i], c.lane[i]));
}

SIMD_INLINE v16 v16_max(v16 a, v16 b) {
    V16_LOOP(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}

SIMD_INLINE v16 v16_min(v16 a, v16 b) {
    V16_LOOP(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]);
}

SIMD_INLINE v16 v16_select_less(v16 a, v16 b, v16 x, v16 y) {
    V16_LOOP(a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]);
}

SIMD_INLINE uint32_t v16_mask_at_least(v16 a, v16 b) {
    uint32_t mask = 0;
    for (int i = 0; i < V16_LANES; i++)
        mask |= (uint32_t)(a.lane[i] >= b.lane[i]) << i;
    return mask;
}

SIMD_INLINE v16 v16_keep_first(v16 x, int n, v16 fill) {
    V16_LOOP(i < n ? x.lane[i] : fill.lane[i]);
}

SIMD_INLINE uint32_t v16_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

SIMD_INLINE float v16_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

SIMD_INLINE v16 v16_scale(v16 x, v16 shifted) {
    V16_LOOP(v16_float(v16_bits(x.lane[i]) + (v16_bits(shifted.lane[i]) << 23)));
}

SIMD_INLINE void v16_split(v16 x, v16 *mantissa, v16 *exponent) {
    for (int i = 0; i < V16_LANES; i++) {
        uint32_t bits = v16_bits(x.lane[i]);
        int32_t power = (int32_t)(bits - 0x3f3504f3u) >> 23;
        mantissa->lane[i] = v16_float(bits - ((uint32_t)power << 23));
        exponent->lane[i] = (float)power;
    }
}
SIMD_INLINE void v16_store_bf16(uint16_t *to, v16 x) {
    for (int i = 0; i < V16_LANES; i++)
        to[i] = bfloat16_from_float(x.lane[i]);
}

SIMD_INLINE float v16_sum(v16 x) {
    for (int half = V16_LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++)
            x.lane[i] += x.lane[i + half];
    }
    return x.lane[0];
}

SIMD_INLINE float v16_largest(v16 x) {
    for (int half = V16_LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++)
            x.lane[i] = x.lane[i] > x.lane[i + half] ? x.lane[i] : x.lane[i + half];
    }
    return x.lane[0];
}

#endif

/* ---- pairs of bfloat16 ---- */

#if defined(__AVX512BF16__)
#define V16_DOTS 1

typedef __m512i v16_pairs; /* 16 pairs */

/* The same pair in all lanes. */
SIMD_INLINE v16_pairs v16_pairs_set1(uint32_t pair) {
    return _mm512_set1_epi32((int32_t)pair);
}

SIMD_INLINE v16_pairs v16_pairs_load(const uint16_t *pairs) {
    return _mm512_loadu_si512(pairs);
}

/* fma(lower a, lower b, fma(upper a, upper b, c)) with subnormal operands and results as zero, in whatever
 * mode the processor is (VDPBF16PS, Intel Software Developer's Manual, volume 2). */
SIMD_INLINE v16 v16_dot(v16_pairs a, v16_pairs b, v16 c) {
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}

/* The first n (1..32) values from memory, zero behind them, as pairs whose halves have changed places. */
SIMD_INLINE v16_pairs v16_pairs_load_swapped_first(const uint16_t *from, int n) {
    return _mm512_rol_epi32(_mm512_maskz_loadu_epi16((__mmask32)((1ull << n) - 1), from), 16);
}

SIMD_INLINE void v16_pairs_store(uint32_t *to, v16_pairs pairs) {
    _mm512_storeu_si512(to, pairs);
}
#else
#define V16_DOTS 0
#endif

#if defined(__x86_64__)
#include <xmmintrin.h>

/* From here on this thread takes subnormal operands as zero and gives zero for subnormal results, as v16_dot
 * does. Returns the mode before. The compiler knows nothing of the mode: what it is meant for stands in a
 * function that is not inlined. */
SIMD_INLINE uint32_t simd_flush_subnormals(void) {
    enum { FLUSH_RESULTS = 0x8000, OPERANDS_ARE_ZERO = 0x40 };
    uint32_t mode = _mm_getcsr();
    _mm_setcsr(mode | FLUSH_RESULTS | OPERANDS_ARE_ZERO);
    return mode;
}

SIMD_INLINE void simd_restore(uint32_t mode) {
    _mm_setcsr(mode);
}
#else
/* Other processors have no control with these very rules (which results count as subnormal: before or after
 * rounding). There subnormals stay, and the backend's numerics class says so. */
SIMD_INLINE uint32_t simd_flush_subnormals(void) {
    return 0;
}

SIMD_INLINE void simd_restore(uint32_t mode) {
    (void)mode;
}
#endif

/* ---- built from the above, the same text for every instruction set ---- */

SIMD_INLINE v16 v16_zero(void) {
    return v16_set1(0.0f);
}

SIMD_INLINE v16 v16_load_bf16_first(const uint16_t *from, int n) {
    uint16_t whole[V16_LANES] = {0};
    memcpy(whole, from, (size_t)n * sizeof *from);
    return v16_load_bf16(whole);
}

/* Rounds to the nearest bfloat16, ties to even; NaN stays NaN. */
SIMD_INLINE void v16_store_bf16_first(uint16_t *to, v16 x, int n) {
    uint16_t narrow[V16_LANES];
    v16_store_bf16(narrow, x);
    memcpy(to, narrow, (size_t)n * sizeof *to);
}

SIMD_INLINE float v16_first(v16 x) {
    float lane[V16_LANES];
    v16_store(lane, x);
    return lane[0];
}

/* Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
#define V16_ROUNDER 12582912.0f

/* e^r - 1 for |r| <= ln 2 / 2: r + r^2 times a polynomial with minimax coefficients. */
SIMD_INLINE v16 v16_exp_series(v16 r) {
    v16 p = v16_set1(1.98756912e-4f);
    p = v16_fma(p, r, v16_set1(1.39819994e-3f));
    p = v16_fma(p, r, v16_set1(8.33345171e-3f));
    p = v16_fma(p, r, v16_set1(4.16657962e-2f));
    p = v16_fma(p, r, v16_set1(1.66666657e-1f));
    p = v16_fma(p, r, v16_set1(0.5f));
    return v16_fma(v16_mul(r, r), p, r);
}

/* e^x within 1.5 ulp for results that are normal; 0 below the smallest normal number (so e^-inf = 0),
 * +infinity above the largest, NaN for NaN. Cody-Waite reduction by ln 2 in two parts (Cody and Waite, 1980),
 * then the series. */
SIMD_INLINE v16 v16_exp(v16 x) {
    const v16 rounder = v16_set1(V16_ROUNDER);
    /* max and min return their second operand for NaN. The upper limit keeps 2^n finite: n <= 127. */
    v16 inside = v16_max(v16_set1(-87.33654f), v16_min(v16_set1(88.3762f), x));
    v16 shifted = v16_fma(inside, v16_set1(1.44269504f), rounder);
    v16 n = v16_sub(shifted, rounder);
    v16 r = v16_fma(n, v16_set1(-0.693145752f), inside);
    r = v16_fma(n, v16_set1(-1.42860677e-6f), r);
    v16 p = v16_add(v16_exp_series(r), v16_set1(1.0f));
    p = v16_scale(p, shifted);
    p = v16_select_less(x, v16_set1(-87.33654f), v16_zero(), p);
    p = v16_select_less(v16_set1(88.3762f), x, v16_set1(INFINITY), p);
    return p;
}

/* log(mantissa) for mantissa = 1 + f in [sqrt(1/2), sqrt(2)): f - f^2/2 + f^3 P(f). */
SIMD_INLINE v16 v16_log_mantissa(v16 f) {
    v16 p = v16_set1(7.0376836e-2f);
    p = v16_fma(p, f, v16_set1(-1.1514610e-1f));
    p = v16_fma(p, f, v16_set1(1.1676998e-1f));
    p = v16_fma(p, f, v16_set1(-1.2420141e-1f));
    p = v16_fma(p, f, v16_set1(1.4249323e-1f));
    p = v16_fma(p, f, v16_set1(-1.6668057e-1f));
    p = v16_fma(p, f, v16_set1(2.0000714e-1f));
    p = v16_fma(p, f, v16_set1(-2.4999994e-1f));
    p = v16_fma(p, f, v16_set1(3.3333331e-1f));
    v16 square = v16_mul(f, f);
    v16 tail = v16_mul(v16_mul(p, f), square);
    tail = v16_fma(v16_set1(-0.5f), square, tail);
    return v16_add(f, tail);
}

/* ln x within 1 ulp, for positive normal x. */
SIMD_INLINE v16 v16_log(v16 x) {
    v16 mantissa, exponent;
    v16_split(x, &mantissa, &exponent);
    v16 low = v16_mul(exponent, v16_set1(-2.12194440e-4f));
    v16 y = v16_log_mantissa(v16_sub(mantissa, v16_set1(1.0f)));
    y = v16_add(y, low);
    return v16_fma(exponent, v16_set1(0.693359375f), y);
}

/* ln(1 - u) for u in (0, 1 - 2^-24]. log of the rounded 1 - u, and the part lost in that rounding divided by
 * it. */
SIMD_INLINE v16 v16_log1p_minus(v16 u) {
    const v16 one = v16_set1(1.0f);
    v16 rounded = v16_sub(one, u);
    v16 lost = v16_sub(v16_sub(one, rounded), u);
    return v16_add(v16_log(rounded), v16_div(lost, rounded));
}

/* -log(-log1p(-u)): a standard Gumbel variable of a uniform one. */
SIMD_INLINE v16 v16_gumbel(v16 u) {
    v16 minus_log = v16_sub(v16_zero(), v16_log1p_minus(u));
    return v16_sub(v16_zero(), v16_log(minus_log));
}

/* tanh x within 3 ulp, NaN for NaN: with t = e^(-2 |x|) - 1, -t / (t + 2), with the sign of x. t keeps its
 * relative precision near zero, because 2^n (e^r - 1) + (2^n - 1) has nothing to cancel for n = 0. */
SIMD_INLINE v16 v16_tanh(v16 x) {
    const v16 rounder = v16_set1(V16_ROUNDER), zero = v16_zero();
    v16 size = v16_max(x, v16_sub(zero, x));
    /* Beyond -35, t is -1. */
    v16 inside = v16_max(v16_set1(-35.0f), v16_mul(size, v16_set1(-2.0f)));
    v16 shifted = v16_fma(inside, v16_set1(1.44269504f), rounder);
    v16 n = v16_sub(shifted, rounder);
    v16 r = v16_fma(n, v16_set1(-0.693145752f), inside);
    r = v16_fma(n, v16_set1(-1.42860677e-6f), r);
    v16 p = v16_exp_series(r);
    v16 power = v16_scale(v16_set1(1.0f), shifted);
    v16 t = v16_fma(power, p, v16_sub(power, v16_set1(1.0f)));
    v16 y = v16_div(t, v16_add(t, v16_set1(2.0f)));
    return v16_select_less(x, zero, y, v16_sub(zero, y));
}

/* cap * tanh(x / cap): x bent so that it stays within +-cap. */
SIMD_INLINE v16 v16_softcap(v16 x, float cap) {
    return v16_mul(v16_set1(cap), v16_tanh(v16_div(x, v16_set1(cap))));
}

/* x / (1 + e^-x). */
SIMD_INLINE v16 v16_silu(v16 x) {
    return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(v16_sub(v16_zero(), x))));
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as x / (1 + e^-2z): the same function, without the
 * cancellation of 1 + tanh for negative x. */
SIMD_INLINE v16 v16_gelu_tanh(v16 x) {
    v16 cube = v16_mul(v16_mul(x, x), x);
    v16 z = v16_fma(v16_set1(0.044715f), cube, x);
    v16 e = v16_exp(v16_mul(v16_set1(-1.59576912f), z));
    return v16_div(x, v16_add(v16_set1(1.0f), e));
}

#endif
