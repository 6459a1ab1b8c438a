/* Loops without branches that the compiler turns into vector code: they look only whether any result is not
 * finite, and what is not is counted apart. */
#include "worker/model/weight_convert.h"

#include "worker/model/float_convert.h"

#define FLOAT32_EXPONENT  0x7F800000u
#define BFLOAT16_EXPONENT 0x7F80u

static inline uint32_t load_u32(const uint8_t *bytes) {
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static int64_t count_float32(const uint32_t *values, size_t n) {
    int64_t n_bad = 0;
    for (size_t i = 0; i < n; i++)
        n_bad += (values[i] & FLOAT32_EXPONENT) == FLOAT32_EXPONENT;
    return n_bad;
}

static int64_t count_bfloat16(const uint16_t *values, size_t n) {
    int64_t n_bad = 0;
    for (size_t i = 0; i < n; i++)
        n_bad += (values[i] & BFLOAT16_EXPONENT) == BFLOAT16_EXPONENT;
    return n_bad;
}

/* to[i] = BITS, the result's bits for the stored element at `at`. */
#define CONVERT(NAME, FROM_BYTES, TYPE, EXPONENT, COUNT, BITS)                                               \
    static int64_t NAME(const uint8_t *restrict from, size_t n, TYPE *restrict to) {                         \
        TYPE any = 0;                                                                                        \
        for (size_t i = 0; i < n; i++) {                                                                     \
            const uint8_t *at = from + (FROM_BYTES)*i;                                                       \
            TYPE bits = (BITS);                                                                              \
            to[i] = bits;                                                                                    \
            any |= (TYPE)((bits & (EXPONENT)) == (EXPONENT));                                                \
        }                                                                                                    \
        return any ? COUNT(to, n) : 0;                                                                       \
    }
#define TO_FLOAT32(NAME, FROM_BYTES, BITS)                                                                   \
    CONVERT(NAME, FROM_BYTES, uint32_t, FLOAT32_EXPONENT, count_float32, BITS)
#define TO_BFLOAT16(NAME, FROM_BYTES, BITS)                                                                  \
    CONVERT(NAME, FROM_BYTES, uint16_t, BFLOAT16_EXPONENT, count_bfloat16, BITS)

TO_FLOAT32(float32_to_float32, 4, load_u32(at))
TO_FLOAT32(half_to_float32, 2, float_bits(float_from_half(load_u16(at))))
TO_FLOAT32(bfloat16_to_float32, 2, (uint32_t)load_u16(at) << 16)
TO_BFLOAT16(float32_to_bfloat16, 4, bfloat16_from_float(float_from_bits(load_u32(at))))
TO_BFLOAT16(half_to_bfloat16, 2, bfloat16_from_float(float_from_half(load_u16(at))))
TO_BFLOAT16(bfloat16_to_bfloat16, 2, load_u16(at))

size_t weight_stored_bytes(enum stored_dtype dtype) {
    return dtype == STORED_F32 ? 4 : dtype == STORED_F16 || dtype == STORED_BF16 ? 2 : 0;
}

int64_t weight_convert(enum stored_dtype from_dtype, const void *from, size_t n, enum dtype dtype, void *to) {
    bool is_wide = dtype == DTYPE_FLOAT32;
    switch (from_dtype) {
    case STORED_F32:
        return is_wide ? float32_to_float32(from, n, to) : float32_to_bfloat16(from, n, to);
    case STORED_F16:
        return is_wide ? half_to_float32(from, n, to) : half_to_bfloat16(from, n, to);
    case STORED_BF16:
        return is_wide ? bfloat16_to_float32(from, n, to) : bfloat16_to_bfloat16(from, n, to);
    default:
        return 0;
    }
}
