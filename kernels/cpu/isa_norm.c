/* isa_norm: one row of a norm.
 *
 * Numerics: each sum (of x, then of (x - mean)^2; of an RMS norm only of x^2, as about a mean of zero) is
 * formed per NORM_CHUNK consecutive features: four vectors of 16 lanes added in ascending order, then the
 * fixed tree of v16_sum; the chunks' sums are added in ascending order. A last, partial chunk is padded with
 * zeros. Then (x - mean) * (1 / sqrt(variance + epsilon)) * weight + bias, the last two in one fma;
 * added to out where the job says so. */
#include "kernels/cpu/isa_kernels.h"

#include <math.h>

/* Lanes [from, from + 16) of x, zero from n on. */
SIMD_INLINE v16 load_padded(const float *x, int64_t from, int64_t n) {
    if (from + V16_LANES <= n)
        return v16_load(x + from);
    return from < n ? v16_load_first(x + from, (int)(n - from)) : v16_zero();
}

static float sum_row(const float *x, int64_t n) {
    float total = 0.0f;
    for (int64_t chunk = 0; chunk < n; chunk += NORM_CHUNK) {
        v16 sum = v16_zero();
        for (int i = 0; i < NORM_CHUNK; i += V16_LANES)
            sum = v16_add(sum, load_padded(x, chunk + i, n));
        total += v16_sum(sum);
    }
    return total;
}

static float sum_squares(const float *x, int64_t n, float mean) {
    v16 center = v16_set1(mean);
    float total = 0.0f;
    for (int64_t chunk = 0; chunk < n; chunk += NORM_CHUNK) {
        v16 sum = v16_zero();
        for (int i = 0; i < NORM_CHUNK; i += V16_LANES) {
            int64_t left = n - (chunk + i);
            if (left <= 0)
                break;
            v16 d = v16_sub(load_padded(x, chunk + i, n), center);
            if (left < V16_LANES)
                d = v16_keep_first(d, (int)left, v16_zero());
            sum = v16_fma(d, d, sum);
        }
        total += v16_sum(sum);
    }
    return total;
}

bool CPU_SYMBOL(cpu_norm_row)(const struct norm_job *job, const float *in, void *out) {
    int64_t n = job->n;
    float sum = job->kind == NORM_RMS ? 0.0f : sum_row(in, n);
    float mean = sum / (float)n;
    float squares = sum_squares(in, n, mean);
    float factor = 1.0f / sqrtf(squares / (float)n + job->epsilon);
    v16 center = v16_set1(mean);
    v16 scale = v16_set1(factor);
    for (int64_t i = 0; i < n; i += V16_LANES) {
        int width = n - i < V16_LANES ? (int)(n - i) : V16_LANES;
        v16 x = v16_mul(v16_sub(load_padded(in, i, n), center), scale);
        v16 bias = job->bias ? load_padded(job->bias, i, n) : v16_zero();
        v16 y = v16_fma(x, load_padded(job->weight, i, n), bias);
        if (job->accumulate)
            y = v16_add(load_padded(out, i, n), y);
        if (job->out_dtype == DTYPE_BFLOAT16 && width == V16_LANES)
            v16_store_bf16((uint16_t *)out + i, y);
        else if (job->out_dtype == DTYPE_BFLOAT16)
            v16_store_bf16_first((uint16_t *)out + i, y, width);
        else if (width == V16_LANES)
            v16_store((float *)out + i, y);
        else
            v16_store_first((float *)out + i, y, width);
    }
    return isfinite(sum) && isfinite(squares);
}
