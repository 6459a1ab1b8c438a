/* isa_sample: passes over a row of logits.
 *
 * Numerics: sums of exponentials are formed per LOGIT_BLOCK consecutive values (four vectors of 16 lanes in
 * ascending order, then the fixed tree) and added in ascending order in double. */
#include "kernels/cpu/isa_kernels.h"

#include <float.h>
#include <math.h>

#include "kernels/philox.h"

/* Above every v16_gumbel of a philox_uniform: the smallest uniform is 2^-33, which gives 33 ln 2 = 22.873. */
#define LARGEST_GUMBEL 22.9f

/* Values [i, i + 16) of n, and fill beyond. */
SIMD_INLINE v16 load_filled(const float *values, int64_t i, int64_t n, float fill) {
    if (i + V16_LANES <= n)
        return v16_load(values + i);
    if (i >= n)
        return v16_set1(fill);
    return v16_keep_first(v16_load_first(values + i, (int)(n - i)), (int)(n - i), v16_set1(fill));
}

bool CPU_SYMBOL(cpu_sample_block_maxima)(const float *values, int64_t n, float *maxima) {
    /* x - x is 0 for a finite x and NaN for any other, and stays NaN when added up. */
    v16 difference = v16_zero();
    for (int64_t block = 0; block < n; block += LOGIT_BLOCK) {
        v16 largest = v16_set1(-INFINITY);
        for (int i = 0; i < LOGIT_BLOCK && block + i < n; i += V16_LANES) {
            v16 x = load_filled(values, block + i, n, values[block]);
            difference = v16_add(difference, v16_sub(x, x));
            largest = v16_max(x, largest);
        }
        maxima[block / LOGIT_BLOCK] = v16_largest(largest);
    }
    return v16_sum(difference) == 0.0f;
}

double CPU_SYMBOL(cpu_sample_exp_sum)(const float *values, int64_t n, float largest, float factor) {
    double total = 0.0;
    for (int64_t block = 0; block < n; block += LOGIT_BLOCK) {
        v16 sum = v16_zero();
        for (int i = 0; i < LOGIT_BLOCK && block + i < n; i += V16_LANES) {
            v16 x = load_filled(values, block + i, n, -INFINITY);
            sum = v16_add(sum, v16_exp(v16_mul(v16_sub(x, v16_set1(largest)), v16_set1(factor))));
        }
        total += v16_sum(sum);
    }
    return total;
}

void CPU_SYMBOL(cpu_sample_exp)(const float *values, int64_t n, float largest, float factor, float *out) {
    for (int64_t i = 0; i < n; i += V16_LANES) {
        v16 x = load_filled(values, i, n, -INFINITY);
        v16 y = v16_exp(v16_mul(v16_sub(x, v16_set1(largest)), v16_set1(factor)));
        v16_store_first(out + i, y, n - i < V16_LANES ? (int)(n - i) : V16_LANES);
    }
}

int32_t CPU_SYMBOL(cpu_sample_gumbel)(const float *values, const int32_t *ids, int64_t n, float largest,
                                      float factor, uint64_t key, uint32_t position) {
    float best = -INFINITY;
    int32_t best_id = INT32_MAX;
    for (int64_t i = 0; i < n; i += V16_LANES) {
        int width = n - i < V16_LANES ? (int)(n - i) : V16_LANES;
        v16 x = load_filled(values, i, n, -INFINITY);
        x = v16_mul(v16_sub(x, v16_set1(largest)), v16_set1(factor));
        if (v16_largest(x) + LARGEST_GUMBEL < best)
            continue;
        uint32_t words[V16_LANES];
        if (ids)
            for (int lane = 0; lane < V16_LANES; lane++)
                words[lane] = philox_word(key, position, (uint32_t)ids[lane < width ? i + lane : i]);
        else
            for (int lane = 0; lane < V16_LANES; lane += 4)
                philox_block(key, position, (uint32_t)(i + lane) / 4, words + lane);
        float uniform[V16_LANES];
        for (int lane = 0; lane < V16_LANES; lane++)
            uniform[lane] = philox_uniform(words[lane]);
        float score[V16_LANES];
        v16_store(score, v16_add(x, v16_gumbel(v16_load(uniform))));
        for (int lane = 0; lane < width; lane++) {
            int32_t id = ids ? ids[i + lane] : (int32_t)(i + lane);
            if (score[lane] > best || (score[lane] == best && id < best_id)) {
                best = score[lane];
                best_id = id;
            }
        }
    }
    return best_id;
}

int64_t CPU_SYMBOL(cpu_sample_gather)(const float *values, int64_t n, float bound, int32_t *ids,
                                      float *kept) {
    int64_t count = 0;
    v16 threshold = v16_set1(bound);
    for (int64_t i = 0; i < n; i += V16_LANES) {
        int width = n - i < V16_LANES ? (int)(n - i) : V16_LANES;
        v16 x = width == V16_LANES ? v16_load(values + i) : v16_load_first(values + i, width);
        uint32_t mask = v16_mask_at_least(x, threshold) & ((1u << width) - 1);
        for (; mask; mask &= mask - 1) {
            int64_t idx = i + __builtin_ctz(mask);
            ids[count] = (int32_t)idx;
            kept[count++] = values[idx];
        }
    }
    return count;
}

float CPU_SYMBOL(cpu_log)(float x) {
    return v16_first(v16_log(v16_set1(x)));
}
