/* bfloat16: conversion between float32 and bfloat16 (the upper half of a float32). */
#ifndef PRESSRUN_KERNELS_CPU_BFLOAT16_H
#define PRESSRUN_KERNELS_CPU_BFLOAT16_H

#include <stdint.h>
#include <string.h>

/* Exact. */
static inline float bfloat16_to_float(uint16_t narrow) {
    uint32_t bits = (uint32_t)narrow << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To the nearest, ties to even. NaN stays NaN: the quiet bit is set, or rounding could carry it into
 * infinity. */
static inline uint16_t bfloat16_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    uint32_t nan = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

#endif
