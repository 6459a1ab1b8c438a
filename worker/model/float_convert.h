/* float_convert: the float formats that tensor files hold. */
#ifndef PRESSRUN_WORKER_MODEL_FLOAT_CONVERT_H
#define PRESSRUN_WORKER_MODEL_FLOAT_CONVERT_H

#include <stdint.h>
#include <string.h>

/* Little-endian hosts only, like all machines this runs on. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor files are little-endian");

static inline uint16_t load_u16(const uint8_t *bytes) {
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_from_bfloat16(uint16_t bits) {
    return float_from_bits((uint32_t)bits << 16);
}

/* IEEE 754 binary16, subnormals included. */
static inline float float_from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = half & 0x7FFFu;
    /* The exponent is rebiased by a multiplication, which also normalises subnormals. That of infinity and
     * NaN becomes all ones without a branch, so that loops become vector code. */
    uint32_t scaled = float_bits(float_from_bits(magnitude << 13) * 0x1p112f);
    uint32_t special = 0u - (uint32_t)(magnitude >= 0x7C00u);
    return float_from_bits(sign | scaled | (special & 0x7F800000u));
}

/* Round to nearest, ties to even; NaN stays a NaN. */
static inline uint16_t bfloat16_from_float(float value) {
    uint32_t bits = float_bits(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

#endif
