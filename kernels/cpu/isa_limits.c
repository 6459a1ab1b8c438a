/* isa_limits: a loop of nothing but multiply-adds, to measure how fast they can be. */
#include "kernels/cpu/isa_kernels.h"

/* n rounds of 8 independent chains of 16 lanes: 256 n operations. Returns a value so that the loop stays. */
float CPU_SYMBOL(cpu_fma_rounds)(int64_t n, float factor) {
    v16 chain[8];
    for (int i = 0; i < 8; i++)
        chain[i] = v16_set1((float)i);
    v16 multiplier = v16_set1(factor);
    for (int64_t round = 0; round < n; round++)
        for (int i = 0; i < 8; i++)
            chain[i] = v16_fma(chain[i], multiplier, multiplier);
    float lanes[V16_LANES], sum = 0;
    for (int i = 0; i < 8; i++) {
        v16_store(lanes, chain[i]);
        sum += lanes[0];
    }
    return sum;
}
