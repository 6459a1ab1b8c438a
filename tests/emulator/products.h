/* products: what a tensor core computes for one element of c: the exact sum of c and 16 products, rounded
 * once. The device rounds differently; what counts here is that mma and wgmma agree, as they do there. */
#ifndef PRESSRUN_TESTS_EMULATOR_PRODUCTS_H
#define PRESSRUN_TESTS_EMULATOR_PRODUCTS_H

#include <cstdint>
#include <cstring>

#include "emulator.h"

/* Two bfloat16, the low half first. */
EMULATOR_UNSEEN static inline void emulator_widen(float *to, uint32_t pair) {
    uint32_t low = pair << 16, high = pair & 0xFFFF0000u;
    memcpy(to, &low, sizeof low);
    memcpy(to + 1, &high, sizeof high);
}

/* a, b: [16] */
EMULATOR_UNSEEN static inline float emulator_product(float c, const float *a, const float *b) {
    double sum = c;
    for (int k = 0; k < 16; k++)
        sum += (double)a[k] * b[k];
    return (float)sum;
}

#endif
