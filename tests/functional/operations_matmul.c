/* Cases for matmul. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

struct matmul_shape {
    int32_t n_out, n_in, n_rows;
    bool bias, gelu, accumulate, wide_out;
};

static double gelu(double x) {
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

static void matmul_one(struct operations *ops, enum dtype dtype, const struct matmul_shape *s) {
    enum { EXTRA = 3 };
    struct backend *backend = ops_open(ops);
    enum dtype out_dtype = s->wide_out || s->accumulate ? DTYPE_FLOAT32 : dtype;
    int64_t n_weight = (int64_t)s->n_out * s->n_in, n_in = (int64_t)s->n_rows * s->n_in;
    int64_t n_out = (int64_t)s->n_rows * s->n_out;
    float *weight = ops_alloc(ops, (size_t)n_weight, sizeof *weight);
    float *in = ops_alloc(ops, (size_t)n_in, sizeof *in);
    float *bias = ops_alloc(ops, (size_t)s->n_out, sizeof *bias);
    float *residual = ops_alloc(ops, (size_t)(n_out + EXTRA * s->n_out), sizeof *residual);
    /* Results of size 1, which gelu bends. */
    float scale = 1.7f / sqrtf((float)s->n_in);
    for (int64_t i = 0; i < n_weight; i++)
        weight[i] = ops_round(ops_uniform(ops, -scale, scale), dtype);
    for (int64_t i = 0; i < n_in; i++)
        in[i] = ops_round(ops_uniform(ops, -1.7f, 1.7f), dtype);
    for (int32_t i = 0; i < s->n_out; i++)
        bias[i] = ops_uniform(ops, -1.0f, 1.0f);
    for (int64_t i = 0; i < n_out + EXTRA * s->n_out; i++)
        residual[i] = i < n_out ? ops_uniform(ops, -4.0f, 4.0f) : ops_junk_value;
    struct matmul_args args = {
        .weight = ops_weight(ops, dtype, s->n_out, s->n_in, weight),
        .bias = s->bias ? ops_vector(ops, s->n_out, bias) : NULL,
        .in = ops_rows(ops, dtype, s->n_rows, s->n_in, in),
        .out = s->accumulate ? ops_rows(ops, out_dtype, s->n_rows + EXTRA, s->n_out, residual)
                             : ops_junk(ops, out_dtype, s->n_rows + EXTRA, s->n_out),
        .n_rows = s->n_rows,
        .activation = s->gelu ? ACTIVATION_GELU_TANH : ACTIVATION_NONE,
        .accumulate = s->accumulate,
    };
    OPS_OK(ops, backend->matmul(backend->context, &args));
    float *got = ops_read(ops, args.out, out_dtype, s->n_rows + EXTRA, s->n_out);
    for (int32_t r = 0; r < s->n_rows; r++) {
        for (int32_t o = 0; o < s->n_out; o++) {
            double sum = s->bias ? bias[o] : 0.0, size = fabs(sum);
            for (int32_t k = 0; k < s->n_in; k++) {
                double product = (double)weight[(int64_t)o * s->n_in + k] * in[(int64_t)r * s->n_in + k];
                sum += product;
                size += fabs(product);
            }
            double expected = s->gelu ? gelu(sum) : sum;
            if (s->accumulate) {
                expected += residual[(int64_t)r * s->n_out + o];
                size += fabs(residual[(int64_t)r * s->n_out + o]);
            }
            /* n roundings of partial sums add up like a random walk, sqrt(n) of them; a lost product would be
             * size / n. gelu adds a few roundings of its argument. */
            double tolerance = 0x1p-24 * (2.0 * sqrt((double)s->n_in) + 8.0) * size;
            tolerance += s->gelu ? 0x1p-20 * (fabs(sum) + 1.0) : 0.0;
            tolerance += ops_storage_rounding(out_dtype) * fabs(expected);
            ops_expect_near(ops, got[(int64_t)r * s->n_out + o], expected, tolerance, "matmul", r, o);
        }
    }
    ops_expect_junk(ops, got, s->n_rows, s->n_rows + EXTRA, s->n_out, "matmul");
    free(got);
    free(weight);
    free(in);
    free(bias);
    free(residual);
}

static const struct matmul_shape matmul_shapes[] = {
    {.n_out = 1, .n_in = 1, .n_rows = 1},
    {.n_out = 16, .n_in = 16, .n_rows = 1, .bias = true},
    {.n_out = 17, .n_in = 15, .n_rows = 2, .gelu = true},
    {.n_out = 65, .n_in = 384, .n_rows = 3, .wide_out = true},
    {.n_out = 64, .n_in = 64, .n_rows = 8, .bias = true, .gelu = true},
    {.n_out = 77, .n_in = 133, .n_rows = 5, .bias = true, .accumulate = true},
    {.n_out = 1, .n_in = 1000, .n_rows = 9, .bias = true, .wide_out = true},
    {.n_out = 129, .n_in = 31, .n_rows = 73, .bias = true, .gelu = true, .accumulate = true},
    {.n_out = 1152, .n_in = 384, .n_rows = 1, .bias = true},
    {.n_out = 384, .n_in = 1536, .n_rows = 12, .bias = true, .accumulate = true},
    {.n_out = 192, .n_in = 257, .n_rows = 64, .bias = true},
    {.n_out = 96, .n_in = 130, .n_rows = 145, .gelu = true},
    {.n_out = 520, .n_in = 4300, .n_rows = 20, .bias = true, .accumulate = true},
    {.n_out = 600, .n_in = 200, .n_rows = 300, .bias = true, .gelu = true},
};

/* Small cases in float32 have few rows where K is long: a block's reads of shared memory come one after the
 * other under race detection, and the kernel for few rows has a quarter of them. */
static void matmul_all(struct operations *ops, enum dtype dtype) {
    enum { SMALL_ROWS = 8, LONG_K = 300 };
    for (size_t i = 0; i < sizeof matmul_shapes / sizeof matmul_shapes[0]; i++) {
        struct matmul_shape shape = matmul_shapes[i];
        if (ops->is_small && dtype == DTYPE_FLOAT32 && shape.n_in > LONG_K && shape.n_rows > SMALL_ROWS)
            shape.n_rows = SMALL_ROWS;
        matmul_one(ops, dtype, &shape);
    }
}

void case_matmul_float32(struct operations *ops) {
    matmul_all(ops, DTYPE_FLOAT32);
}

void case_matmul_bfloat16(struct operations *ops) {
    matmul_all(ops, DTYPE_BFLOAT16);
}

static double silu(double x) {
    return x / (1.0 + exp(-x));
}

/* silu(gate . in) * (up . in) of a weight pair, or gelu. */
static void gated_one(struct operations *ops, enum dtype dtype, enum activation activation,
                      const struct matmul_shape *s) {
    enum { EXTRA = 3 };
    struct backend *backend = ops_open(ops);
    enum dtype out_dtype = s->wide_out ? DTYPE_FLOAT32 : dtype;
    int32_t n_weight = s->n_out * s->n_in;
    float *pair = ops_alloc(ops, (size_t)(2 * n_weight), sizeof *pair);
    float *in = ops_alloc(ops, (size_t)(s->n_rows * s->n_in), sizeof *in);
    /* Gates of size 2, which silu and gelu bend. */
    float scale = 3.5f / sqrtf((float)s->n_in);
    for (int32_t i = 0; i < 2 * n_weight; i++)
        pair[i] = ops_round(ops_uniform(ops, -scale, scale), dtype);
    for (int32_t i = 0; i < s->n_rows * s->n_in; i++)
        in[i] = ops_round(ops_uniform(ops, -1.7f, 1.7f), dtype);
    struct matmul_args args = {
        .weight = ops_weight_pair(ops, dtype, s->n_out, s->n_in, pair, pair + n_weight),
        .in = ops_rows(ops, dtype, s->n_rows, s->n_in, in),
        .out = ops_junk(ops, out_dtype, s->n_rows + EXTRA, s->n_out),
        .n_rows = s->n_rows,
        .activation = activation,
    };
    OPS_OK(ops, backend->matmul(backend->context, &args));
    float *got = ops_read(ops, args.out, out_dtype, s->n_rows + EXTRA, s->n_out);
    for (int32_t r = 0; r < s->n_rows; r++) {
        for (int32_t o = 0; o < s->n_out; o++) {
            double sum[2] = {0.0, 0.0}, error[2] = {0.0, 0.0};
            for (int side = 0; side < 2; side++) {
                for (int32_t k = 0; k < s->n_in; k++) {
                    double product = (double)pair[side * n_weight + o * s->n_in + k] * in[r * s->n_in + k];
                    sum[side] += product;
                    error[side] += fabs(product);
                }
                error[side] *= 0x1p-24 * (2.0 * sqrt((double)s->n_in) + 8.0); /* as in matmul_one */
            }
            double gate = activation == ACTIVATION_SILU_GATED ? silu(sum[0]) : gelu(sum[0]);
            double expected = gate * sum[1];
            /* silu and gelu bend their argument's error by at most 1.15, and add a few roundings. */
            double tolerance = 1.15 * error[0] * fabs(sum[1]) + (fabs(gate) + error[0]) * error[1];
            tolerance += 0x1p-20 * (fabs(sum[0]) + 1.0) * fabs(sum[1]);
            tolerance += ops_storage_rounding(out_dtype) * fabs(expected);
            ops_expect_near(ops, got[r * s->n_out + o], expected, tolerance, "gated matmul", r, o);
        }
    }
    ops_expect_junk(ops, got, s->n_rows, s->n_rows + EXTRA, s->n_out, "gated matmul");
    free(got);
    free(pair);
    free(in);
}

static const struct matmul_shape gated_shapes[] = {
    {.n_out = 1, .n_in = 1, .n_rows = 1},      {.n_out = 8, .n_in = 64, .n_rows = 1},
    {.n_out = 8, .n_in = 40, .n_rows = 64},    {.n_out = 16, .n_in = 16, .n_rows = 2, .wide_out = true},
    {.n_out = 24, .n_in = 64, .n_rows = 7},    {.n_out = 24, .n_in = 130, .n_rows = 33, .wide_out = true},
    {.n_out = 176, .n_in = 64, .n_rows = 1},   {.n_out = 176, .n_in = 64, .n_rows = 16},
    {.n_out = 176, .n_in = 520, .n_rows = 64}, {.n_out = 256, .n_in = 384, .n_rows = 8},
    {.n_out = 33, .n_in = 71, .n_rows = 150},
};

void case_matmul_gated(struct operations *ops) {
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++)
        for (size_t i = 0; i < sizeof gated_shapes / sizeof gated_shapes[0]; i++)
            gated_one(ops, (enum dtype)dtype, ACTIVATION_SILU_GATED, &gated_shapes[i]);
}

void case_matmul_gelu_gated(struct operations *ops) {
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++)
        for (size_t i = 0; i < sizeof gated_shapes / sizeof gated_shapes[0]; i++)
            gated_one(ops, (enum dtype)dtype, ACTIVATION_GELU_TANH_GATED, &gated_shapes[i]);
}

/* A gate far below zero closes, far above it lets through, and neither becomes NaN. */
static void gated_extremes(struct operations *ops, enum activation activation) {
    enum { OUT = 20 };
    /* gelu cubes its argument: beyond 1e12 a float32 has no room for that. */
    static const float silu_gates[] = {-1e30f, -1e4f, -200.0f, -89.0f, -20.0f,
                                       0.0f,   20.0f, 89.0f,   1e4f,   1e30f};
    static const float gelu_gates[] = {-1e12f, -1e4f, -200.0f, -89.0f, -20.0f,
                                       0.0f,   20.0f, 89.0f,   1e4f,   1e12f};
    const bool is_silu = activation == ACTIVATION_SILU_GATED;
    const float *gates = is_silu ? silu_gates : gelu_gates;
    enum { N_GATES = sizeof silu_gates / sizeof silu_gates[0] };
    struct backend *backend = ops_open(ops);
    float pair[2][OUT], one = 1.0f;
    for (int32_t o = 0; o < OUT; o++) {
        pair[0][o] = gates[o % N_GATES];
        pair[1][o] = 2.0f;
    }
    struct matmul_args args = {
        .weight = ops_weight_pair(ops, DTYPE_FLOAT32, OUT, 1, pair[0], pair[1]),
        .in = ops_rows(ops, DTYPE_FLOAT32, 1, 1, &one),
        .out = ops_junk(ops, DTYPE_FLOAT32, 1, OUT),
        .n_rows = 1,
        .activation = activation,
    };
    OPS_OK(ops, backend->matmul(backend->context, &args));
    float *got = ops_read(ops, args.out, DTYPE_FLOAT32, 1, OUT);
    for (int32_t o = 0; o < OUT; o++) {
        double expected = 2.0 * (is_silu ? silu(pair[0][o]) : gelu(pair[0][o]));
        ops_expect_near(ops, got[o], expected, 1e-6 * fabs(expected) + 1e-30, "gated matmul", 0, o);
    }
    free(got);
}

void case_matmul_gated_extremes(struct operations *ops) {
    gated_extremes(ops, ACTIVATION_SILU_GATED);
    gated_extremes(ops, ACTIVATION_GELU_TANH_GATED);
}

/* ---- soft caps ---- */

/* softcap * tanh(weight . in / softcap), of sums that the cap does not touch, bends and cuts off. */
static void softcap_one(struct operations *ops, enum dtype dtype, int32_t n_out, int32_t n_in, int32_t n_rows,
                        float size, float softcap, bool with_bias) {
    enum { EXTRA = 2 };
    struct backend *backend = ops_open(ops);
    float *weight = ops_alloc(ops, (size_t)(n_out * n_in), sizeof *weight);
    float *in = ops_alloc(ops, (size_t)(n_rows * n_in), sizeof *in);
    float *bias = ops_alloc(ops, (size_t)n_out, sizeof *bias);
    float scale = 1.7f * size / sqrtf((float)n_in);
    for (int32_t i = 0; i < n_out * n_in; i++)
        weight[i] = ops_round(ops_uniform(ops, -scale, scale), dtype);
    for (int32_t i = 0; i < n_rows * n_in; i++)
        in[i] = ops_round(ops_uniform(ops, -1.7f, 1.7f), dtype);
    for (int32_t i = 0; i < n_out; i++)
        bias[i] = ops_uniform(ops, -size, size);
    struct matmul_args args = {.weight = ops_weight(ops, dtype, n_out, n_in, weight),
                               .bias = with_bias ? ops_vector(ops, n_out, bias) : NULL,
                               .in = ops_rows(ops, dtype, n_rows, n_in, in),
                               .out = ops_junk(ops, DTYPE_FLOAT32, n_rows + EXTRA, n_out),
                               .n_rows = n_rows,
                               .softcap = softcap};
    OPS_OK(ops, backend->matmul(backend->context, &args));
    float *got = ops_read(ops, args.out, DTYPE_FLOAT32, n_rows + EXTRA, n_out);
    for (int32_t r = 0; r < n_rows; r++) {
        for (int32_t o = 0; o < n_out; o++) {
            double sum = with_bias ? bias[o] : 0.0, products = fabs(sum);
            for (int32_t k = 0; k < n_in; k++) {
                double product = (double)weight[o * n_in + k] * in[r * n_in + k];
                sum += product;
                products += fabs(product);
            }
            double expected = softcap * tanh(sum / softcap);
            /* As in matmul_one; tanh adds a few roundings of its result, and bends no error upward. */
            double tolerance =
                0x1p-24 * ((2.0 * sqrt((double)n_in) + 8.0) * products + 16.0 * fabs(expected));
            ops_expect_near(ops, got[r * n_out + o], expected, tolerance, "soft cap", r, o);
        }
    }
    ops_expect_junk(ops, got, n_rows, n_rows + EXTRA, n_out, "soft cap");
    free(got);
    free(weight);
    free(in);
    free(bias);
}

void case_matmul_softcap(struct operations *ops) {
    static const float sizes[] = {1e-3f, 1.0f, 20.0f, 1e4f};
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            softcap_one(ops, (enum dtype)dtype, 77, 64, 5, sizes[i], 30.0f, false);
            softcap_one(ops, (enum dtype)dtype, 512, 130, 33, sizes[i], 30.0f, i % 2 == 1);
            softcap_one(ops, (enum dtype)dtype, 1000, 384, 1, sizes[i], 5.0f, false);
        }
    }
}

/* ---- subnormals ---- */

static float random_sized(struct operations *ops, int lowest, int highest) {
    int exponent = lowest + (int)(ops_uniform(ops, 0.0f, 1.0f) * (float)(highest - lowest));
    float mantissa = ops_uniform(ops, 1.0f, 1.9f);
    return ops_round(ldexpf(ops_uniform(ops, -1.0f, 1.0f) < 0 ? -mantissa : mantissa, exponent),
                     DTYPE_BFLOAT16);
}

/* bfloat16 products and sums around the smallest normal number, and rows that are subnormal. A device may
 * flush any of them to zero; on the CPU the instruction sets must agree on which, to the bit. */
static void subnormals_one(struct operations *ops, int32_t n_out, int32_t n_in, int32_t n_rows) {
    enum { LARGEST = 20 }; /* no weight is 2^20 */
    struct backend *backend = ops_open(ops);
    float *weight = ops_alloc(ops, (size_t)(n_out * n_in), sizeof *weight);
    float *in = ops_alloc(ops, (size_t)(n_rows * n_in), sizeof *in);
    for (int32_t o = 0; o < n_out; o++)
        for (int32_t k = 0; k < n_in; k++)
            weight[o * n_in + k] =
                o % 2 ? random_sized(ops, -66, -60) : random_sized(ops, LARGEST - 8, LARGEST);
    for (int32_t r = 0; r < n_rows; r++)
        for (int32_t k = 0; k < n_in; k++)
            in[r * n_in + k] = r % 2 ? random_sized(ops, -66, -58) : random_sized(ops, -133, -122);
    struct matmul_args args = {.weight = ops_weight(ops, DTYPE_BFLOAT16, n_out, n_in, weight),
                               .in = ops_rows(ops, DTYPE_BFLOAT16, n_rows, n_in, in),
                               .out = ops_junk(ops, DTYPE_FLOAT32, n_rows, n_out),
                               .n_rows = n_rows};
    OPS_OK(ops, backend->matmul(backend->context, &args));
    float *got = ops_read(ops, args.out, DTYPE_FLOAT32, n_rows, n_out);
    for (int32_t r = 0; r < n_rows; r++) {
        for (int32_t o = 0; o < n_out; o++) {
            double sum = 0, size = 0;
            for (int32_t k = 0; k < n_in; k++) {
                double product = (double)weight[o * n_in + k] * in[r * n_in + k];
                sum += product;
                size += fabs(product);
            }
            /* As in matmul_one; and what is flushed: each time less than 2^-126 of a sum, or that of a row
             * times its weight. */
            double flushed = n_in * ldexp(1.0, -126 + (o % 2 ? 0 : LARGEST));
            double tolerance = 0x1p-24 * (2.0 * sqrt((double)n_in) + 8.0) * size + flushed;
            ops_expect_near(ops, got[r * n_out + o], sum, tolerance, "matmul of subnormals", r, o);
        }
    }
    free(got);
    free(weight);
    free(in);
}

void case_matmul_subnormals(struct operations *ops) {
    subnormals_one(ops, 16, 1, 1);
    subnormals_one(ops, 70, 38, 4);
    subnormals_one(ops, 100, 301, 75);
}

/* Row counts beyond OPS_MOST_ROWS go round through the same rows. */
static void matmul_rows_alone(struct operations *ops, enum dtype dtype, int32_t n_out, int32_t n_in,
                              int32_t most_rows, bool accumulate, enum activation activation, float softcap) {
    const bool is_gated = activation != ACTIVATION_NONE;
    struct backend *backend = ops_open(ops);
    float *x = ops_spread_values(ops, OPS_MOST_ROWS * n_in, dtype);
    float *w = ops_spread_values(ops, 2 * n_out * n_in, dtype);
    float *b = ops_spread_values(ops, n_out, DTYPE_FLOAT32);
    float *residual = ops_spread_values(ops, OPS_MOST_ROWS * n_out, DTYPE_FLOAT32);
    struct matmul_args args = {
        .weight = is_gated ? ops_weight_pair(ops, dtype, n_out, n_in, w, w + n_out * n_in)
                           : ops_weight(ops, dtype, n_out, n_in, w),
        .bias = is_gated ? NULL : ops_vector(ops, n_out, b),
        .in = ops_junk(ops, dtype, most_rows, n_in),
        .out = ops_junk(ops, DTYPE_FLOAT32, most_rows, n_out),
        .accumulate = accumulate,
        .activation = activation,
        .softcap = softcap,
    };
    float *whole = NULL;
    for (int i = OPS_N_ROW_COUNTS - 1; i >= 0; i--) {
        const int32_t n = ops_row_counts[i];
        if (ops_skips_count(ops, i, most_rows))
            continue;
        if (ops->is_small && dtype == DTYPE_FLOAT32 && n != 1 && n != OPS_MOST_ROWS)
            continue; /* one count for each kernel */
        int32_t first = whole ? ops_below(ops, OPS_MOST_ROWS) : 0;
        float *rows = ops_take_rows(ops, x, first, n, n_in);
        ops_write(ops, (struct tensor *)args.in, dtype, n, n_in, rows);
        free(rows);
        rows = ops_take_rows(ops, residual, first, n, n_out);
        ops_write(ops, args.out, DTYPE_FLOAT32, n, n_out, rows);
        free(rows);
        args.n_rows = n;
        OPS_OK(ops, backend->matmul(backend->context, &args));
        float *got = ops_read(ops, args.out, DTYPE_FLOAT32, n, n_out);
        if (!whole)
            whole = ops_take_rows(ops, got, 0, OPS_MOST_ROWS, n_out);
        float *expected = ops_take_rows(ops, whole, first, n, n_out);
        ops_expect_equal(ops, got, expected, (int64_t)n * n_out, "matmul of other rows");
        free(got);
        free(expected);
    }
    free(whole);
    free(x);
    free(w);
    free(b);
    free(residual);
}

/* Outputs for several tiles, fewer than one, and a K of two parts for the residual's. Every tile shape of the
 * CUDA backend is in test_matmul_tiles.cu. */
void case_matmul_rows_alone(struct operations *ops) {
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        matmul_rows_alone(ops, (enum dtype)dtype, 576, 520, 4096, false, ACTIVATION_NONE, 0);
        matmul_rows_alone(ops, (enum dtype)dtype, 65, 384, OPS_MOST_ROWS, false, ACTIVATION_NONE, 0);
        matmul_rows_alone(ops, (enum dtype)dtype, 33, 71, OPS_MOST_ROWS, true, ACTIVATION_NONE, 0);
        if (!ops->is_small || dtype == DTYPE_BFLOAT16)
            matmul_rows_alone(ops, (enum dtype)dtype, 520, 4300, OPS_MOST_ROWS, true, ACTIVATION_NONE, 0);
        matmul_rows_alone(ops, (enum dtype)dtype, 288, 520, 1024, false, ACTIVATION_SILU_GATED, 0);
        matmul_rows_alone(ops, (enum dtype)dtype, 24, 71, OPS_MOST_ROWS, false, ACTIVATION_SILU_GATED, 0);
        matmul_rows_alone(ops, (enum dtype)dtype, 288, 130, 1024, false, ACTIVATION_GELU_TANH_GATED, 0);
        matmul_rows_alone(ops, (enum dtype)dtype, 576, 130, OPS_MOST_ROWS, false, ACTIVATION_NONE, 30);
    }
}

/* What the cases above must catch: a sum that is cut in two when the batch is large. It is built here from
 * two accumulating calls, and its bits must differ. */
void case_planted_split(struct operations *ops) {
    enum { OUT = 64, IN = 512, ROWS = 4, HALF = IN / 2 };
    struct backend *backend = ops_open(ops);
    float *x = ops_spread_values(ops, ROWS * IN, DTYPE_FLOAT32);
    float *w = ops_spread_values(ops, OUT * IN, DTYPE_FLOAT32);
    float *zero = ops_alloc(ops, ROWS * OUT, sizeof *zero);
    struct matmul_args args = {
        .weight = ops_weight(ops, DTYPE_FLOAT32, OUT, IN, w),
        .in = ops_rows(ops, DTYPE_FLOAT32, ROWS, IN, x),
        .out = ops_rows(ops, DTYPE_FLOAT32, ROWS, OUT, zero),
        .n_rows = ROWS,
        .accumulate = true,
    };
    OPS_OK(ops, backend->matmul(backend->context, &args));
    float *whole = ops_read(ops, args.out, DTYPE_FLOAT32, ROWS, OUT);
    args.out = ops_rows(ops, DTYPE_FLOAT32, ROWS, OUT, zero);
    for (int half = 0; half < 2; half++) {
        float *half_x = ops_alloc(ops, ROWS * HALF, sizeof *half_x);
        float *half_w = ops_alloc(ops, OUT * HALF, sizeof *half_w);
        for (int r = 0; r < ROWS; r++)
            memcpy(half_x + r * HALF, x + r * IN + half * HALF, HALF * sizeof *x);
        for (int o = 0; o < OUT; o++)
            memcpy(half_w + o * HALF, w + o * IN + half * HALF, HALF * sizeof *w);
        args.weight = ops_weight(ops, DTYPE_FLOAT32, OUT, HALF, half_w);
        args.in = ops_rows(ops, DTYPE_FLOAT32, ROWS, HALF, half_x);
        OPS_OK(ops, backend->matmul(backend->context, &args));
        free(half_x);
        free(half_w);
    }
    float *split = ops_read(ops, args.out, DTYPE_FLOAT32, ROWS, OUT);
    if (memcmp(whole, split, ROWS * OUT * sizeof *whole) == 0)
        OPS_FAIL(ops, "a matmul cut in two halves of K has the same bits: the comparison sees nothing");
    free(whole);
    free(split);
    free(zero);
    free(x);
    free(w);
}
