/* isa_limits: loops of nothing but multiply-adds, to measure how fast they can be. */
#include "kernels/cpu/isa_kernels.h"

/* As many as hide the latency of one, and have room in the registers. */
enum { CHAINS = V16_REGISTERS == 32 ? 8 : 6 };

static int64_t finish(const v16 *chain, int64_t multiply_adds, float *sink) {
    *sink = 0;
    for (int i = 0; i < CHAINS; i++)
        *sink += v16_sum(chain[i]); /* of all lanes, or some would be left out */
    return multiply_adds;
}

#if V16_DOTS
static int64_t dot_rounds(int64_t n, float factor, float *sink) {
    v16 chain[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        chain[i] = v16_set1((float)i);
    uint32_t pair = (uint32_t)bfloat16_from_float(factor) * 0x10001u;
    v16_pairs factors = v16_pairs_set1(pair);
    for (int64_t round = 0; round < n; round++)
        for (int i = 0; i < CHAINS; i++)
            chain[i] = v16_dot(factors, factors, chain[i]);
    return finish(chain, n * CHAINS * V16_LANES * 2, sink);
}
#endif

int64_t CPU_SYMBOL(cpu_fma_rounds)(enum dtype dtype, int64_t n, float factor, float *sink) {
#if V16_DOTS
    if (dtype == DTYPE_BFLOAT16)
        return dot_rounds(n, factor, sink);
#endif
    (void)dtype; /* bfloat16 is widened to float32 and multiplied there */
    v16 chain[CHAINS];
    for (int i = 0; i < CHAINS; i++)
        chain[i] = v16_set1((float)i);
    v16 multiplier = v16_set1(factor);
    for (int64_t round = 0; round < n; round++)
        for (int i = 0; i < CHAINS; i++)
            chain[i] = v16_fma(chain[i], multiplier, multiplier);
    return finish(chain, n * CHAINS * V16_LANES, sink);
}
