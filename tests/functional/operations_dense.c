/* Cases for embed, norm and matmul. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

/* Half a unit in the last place, relative: the rounding of one stored result. */
static double storage_rounding(enum dtype dtype) {
    return dtype == DTYPE_FLOAT32 ? 0x1p-24 : 0x1p-8;
}

/* Room for a step of n rows; sizes of attention and sampling do not matter here. */
static struct state_limits row_limits(int32_t n_rows, int32_t n_vocab) {
    return (struct state_limits){
        .n_slots = n_rows,
        .n_pages = 2,
        .max_pages_per_slot = 64,
        .max_rows = n_rows,
        .max_segments = 4,
        .max_samples = n_rows,
        .n_layers = 3,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 16,
        .n_vocab = n_vocab,
        .kv_dtype = DTYPE_FLOAT32,
    };
}

/* A decode step: row r is in slot r at position positions[r]; sample i reads row sample_row[i]. */
static struct batch row_batch(int32_t n, const int32_t *tokens, const int32_t *positions,
                              const int32_t *slots, int32_t n_samples, const int32_t *sample_row,
                              const int32_t *sample_slot) {
    return (struct batch){
        .n_rows = n,
        .n_decode = n,
        .n_samples = n_samples,
        .token = tokens,
        .position = positions,
        .slot = slots,
        .sample_row = sample_row,
        .sample_slot = sample_slot,
    };
}

/* ---- embed ---- */

static void embed_one(struct operations *ops, enum dtype dtype, int32_t n_vocab, int32_t n_embd,
                      bool positions) {
    enum { ROWS = 9, EXTRA = 2, POSITIONS = 70 };
    struct backend *backend = ops_open(ops);
    struct state_limits limits = row_limits(ROWS + EXTRA, n_vocab);
    OPS_OK(ops, ops_state(ops, &limits));
    float *token_values = ops_alloc(ops, (size_t)(n_vocab * n_embd), sizeof(float));
    float *position_values = ops_alloc(ops, (size_t)(POSITIONS * n_embd), sizeof(float));
    for (int32_t i = 0; i < n_vocab * n_embd; i++)
        token_values[i] = ops_round(ops_spread(ops), dtype);
    for (int32_t i = 0; i < POSITIONS * n_embd; i++)
        position_values[i] = ops_round(ops_spread(ops), dtype);
    struct tensor *hidden = ops_junk(ops, DTYPE_FLOAT32, ROWS + EXTRA, n_embd);
    struct embed_args args = {
        .hidden = hidden,
        .token_embedding = ops_weight(ops, dtype, n_vocab, n_embd, token_values),
        .position_embedding = positions ? ops_weight(ops, dtype, POSITIONS, n_embd, position_values) : NULL,
    };
    int32_t token[ROWS], position[ROWS], slot[ROWS];
    for (int32_t r = 0; r < ROWS; r++) {
        token[r] = r == 0 ? n_vocab - 1 : ops_below(ops, n_vocab);
        position[r] = r == 0 ? POSITIONS - 1 : ops_below(ops, POSITIONS);
        slot[r] = r;
    }
    struct batch batch = row_batch(ROWS, token, position, slot, 0, NULL, NULL);
    ops_step_begin(ops, &batch);
    OPS_OK(ops, backend->embed(backend->context, &args));
    ops_step_end(ops, &batch, NULL, NULL);
    float *out = ops_read(ops, hidden, DTYPE_FLOAT32, ROWS + EXTRA, n_embd);
    for (int32_t r = 0; r < ROWS; r++) {
        for (int32_t i = 0; i < n_embd; i++) {
            float expected = token_values[token[r] * n_embd + i];
            if (positions)
                expected += position_values[position[r] * n_embd + i];
            /* One float32 addition has one result. */
            ops_expect_near(ops, out[r * n_embd + i], expected, 0.0, "embed", r, i);
        }
    }
    ops_expect_junk(ops, out, ROWS, ROWS + EXTRA, n_embd, "embed");
    free(out);
    free(token_values);
    free(position_values);
}

void case_embed(struct operations *ops) {
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        embed_one(ops, (enum dtype)dtype, 65, 384, true);
        embed_one(ops, (enum dtype)dtype, 17, 33, true);
        embed_one(ops, (enum dtype)dtype, 1000, 64, false);
    }
}

/* ---- norm ---- */

static void norm_one(struct operations *ops, enum norm_kind kind, enum dtype dtype, int32_t n, bool with_bias,
                     bool sampled, float mean) {
    enum { ROWS = 7, EXTRA = 2, FIRST = 1, SAMPLES = 3 };
    struct backend *backend = ops_open(ops);
    struct state_limits limits = row_limits(ROWS, 10);
    OPS_OK(ops, ops_state(ops, &limits));
    float *x = ops_alloc(ops, (size_t)(ROWS * n), sizeof *x);
    float *weight = ops_alloc(ops, (size_t)n, sizeof *weight);
    float *bias = ops_alloc(ops, (size_t)n, sizeof *bias);
    for (int32_t i = 0; i < ROWS * n; i++)
        x[i] = mean + ops_uniform(ops, -2.0f, 2.0f);
    for (int32_t i = 0; i < n; i++) {
        weight[i] = ops_uniform(ops, 0.5f, 1.5f);
        bias[i] = ops_uniform(ops, -1.0f, 1.0f);
    }
    struct tensor *out = ops_junk(ops, dtype, ROWS + EXTRA, n);
    int32_t token[ROWS] = {0}, position[ROWS] = {0}, slot[ROWS];
    int32_t sample_row[FIRST + SAMPLES] = {0, 5, 2, 2}, sample_slot[FIRST + SAMPLES] = {0, 5, 2, 2};
    for (int32_t r = 0; r < ROWS; r++)
        slot[r] = r;
    struct batch batch = row_batch(ROWS, token, position, slot, FIRST + SAMPLES, sample_row, sample_slot);
    struct norm_args args = {
        .kind = kind,
        .hidden = ops_rows(ops, DTYPE_FLOAT32, ROWS, n, x),
        .weight = ops_vector(ops, n, weight),
        .bias = with_bias ? ops_vector(ops, n, bias) : NULL,
        .out = out,
        .epsilon = 1e-5f,
        .sampled_rows = sampled,
        .first_sample = FIRST,
        .n = sampled ? SAMPLES : 0,
    };
    ops_step_begin(ops, &batch);
    OPS_OK(ops, backend->norm(backend->context, &args));
    ops_step_end(ops, &batch, NULL, NULL);
    float *got = ops_read(ops, out, dtype, ROWS + EXTRA, n);
    int32_t n_out = sampled ? SAMPLES : ROWS;
    for (int32_t i = 0; i < n_out; i++) {
        const float *row = x + (sampled ? sample_row[FIRST + i] : i) * n;
        double sum = 0.0, squares = 0.0;
        for (int32_t k = 0; k < n; k++)
            sum += row[k];
        double center = kind == NORM_RMS ? 0.0 : sum / n;
        for (int32_t k = 0; k < n; k++)
            squares += (row[k] - center) * (row[k] - center);
        double factor = 1.0 / sqrt(squares / n + 1e-5);
        for (int32_t k = 0; k < n; k++) {
            double expected = (row[k] - center) * factor * weight[k] + (with_bias ? bias[k] : 0.0);
            /* The mean is off by some units of its own last place, which the factor carries into the result;
             * the rest is a dozen roundings of the result. */
            double tolerance =
                0x1p-24 * (16.0 * (fabs(center) + 2.0) * factor + 16.0 * (fabs(expected) + 1.0)) +
                storage_rounding(dtype) * fabs(expected);
            ops_expect_near(ops, got[i * n + k], expected, tolerance, "norm", i, k);
        }
    }
    ops_expect_junk(ops, got, n_out, ROWS + EXTRA, n, "norm");
    free(got);
    free(x);
    free(weight);
    free(bias);
}

void case_norm(struct operations *ops) {
    static const int32_t sizes[] = {1, 5, 16, 63, 64, 65, 127, 384, 768, 1000};
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            norm_one(ops, NORM_LAYER, (enum dtype)dtype, sizes[i], i % 3 != 0, i % 2 == 1,
                     i % 4 == 2 ? 20.0f : 0.25f);
    }
}

void case_norm_rms(struct operations *ops) {
    static const int32_t sizes[] = {1, 5, 16, 63, 64, 65, 127, 384, 1000, 2048, 4096, 8192};
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            norm_one(ops, NORM_RMS, (enum dtype)dtype, sizes[i], false, i % 2 == 1,
                     i % 4 == 2 ? 20.0f : 0.25f);
    }
}

/* ---- a row alone and in batches ---- */

static const int32_t row_counts[] = {1, 2, 7, 8, 16, 33, 64, 255, 256};
enum { N_ROW_COUNTS = sizeof row_counts / sizeof row_counts[0], MOST_ROWS = 256 };

/* Rows [first, first + n) of values, going round at the end. */
static float *take_rows(struct operations *ops, const float *values, int32_t first, int32_t n, int32_t cols) {
    float *rows = ops_alloc(ops, (size_t)(n * cols), sizeof *rows);
    for (int32_t r = 0; r < n; r++)
        memcpy(rows + r * cols, values + (first + r) % MOST_ROWS * cols, (size_t)cols * sizeof *rows);
    return rows;
}

static float *spread_values(struct operations *ops, int32_t n, enum dtype dtype) {
    float *values = ops_alloc(ops, (size_t)n, sizeof *values);
    for (int32_t i = 0; i < n; i++)
        values[i] = ops_round(ops_spread(ops), dtype);
    return values;
}

static void norm_rows_alone(struct operations *ops, enum norm_kind kind, int32_t width) {
    struct backend *backend = ops_open(ops);
    struct state_limits limits = row_limits(MOST_ROWS, 10);
    OPS_OK(ops, ops_state(ops, &limits));
    float *x = spread_values(ops, MOST_ROWS * width, DTYPE_FLOAT32);
    float *weight = spread_values(ops, width, DTYPE_FLOAT32);
    struct tensor *hidden = ops_junk(ops, DTYPE_FLOAT32, MOST_ROWS, width);
    struct norm_args args = {
        .kind = kind, .hidden = hidden, .weight = ops_vector(ops, width, weight), .epsilon = 1e-5f};
    int32_t token[MOST_ROWS] = {0}, position[MOST_ROWS] = {0}, slot[MOST_ROWS];
    for (int32_t r = 0; r < MOST_ROWS; r++)
        slot[r] = r;
    float *whole = NULL;
    for (int i = N_ROW_COUNTS - 1; i >= 0; i--) {
        int32_t n = row_counts[i], first = i == N_ROW_COUNTS - 1 ? 0 : ops_below(ops, MOST_ROWS);
        float *rows = take_rows(ops, x, first, n, width);
        ops_write(ops, hidden, DTYPE_FLOAT32, n, width, rows);
        args.out = ops_junk(ops, DTYPE_FLOAT32, n, width);
        struct batch batch = row_batch(n, token, position, slot, 0, NULL, NULL);
        ops_step_begin(ops, &batch);
        OPS_OK(ops, backend->norm(backend->context, &args));
        ops_step_end(ops, &batch, NULL, NULL);
        float *got = ops_read(ops, args.out, DTYPE_FLOAT32, n, width);
        if (!whole)
            whole = take_rows(ops, got, 0, MOST_ROWS, width);
        float *expected = take_rows(ops, whole, first, n, width);
        ops_expect_equal(ops, got, expected, n * width, "norm of fewer rows");
        free(rows);
        free(got);
        free(expected);
    }
    free(whole);
    free(x);
    free(weight);
}

void case_norm_rows_alone(struct operations *ops) {
    /* One for every number of vectors that a thread of the CUDA backend holds. */
    static const int32_t widths[] = {200, 768, 2044, 4096, 5000};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        norm_rows_alone(ops, NORM_LAYER, widths[i]);
        norm_rows_alone(ops, NORM_RMS, widths[i]);
    }
}

/* ---- matmul ---- */

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
            tolerance += storage_rounding(out_dtype) * fabs(expected);
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

static void matmul_all(struct operations *ops, enum dtype dtype) {
    for (size_t i = 0; i < sizeof matmul_shapes / sizeof matmul_shapes[0]; i++)
        matmul_one(ops, dtype, &matmul_shapes[i]);
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

/* silu(gate . in) * (up . in) of a weight pair. */
static void gated_one(struct operations *ops, enum dtype dtype, const struct matmul_shape *s) {
    enum { EXTRA = 3 };
    struct backend *backend = ops_open(ops);
    enum dtype out_dtype = s->wide_out ? DTYPE_FLOAT32 : dtype;
    int32_t n_weight = s->n_out * s->n_in;
    float *pair = ops_alloc(ops, (size_t)(2 * n_weight), sizeof *pair);
    float *in = ops_alloc(ops, (size_t)(s->n_rows * s->n_in), sizeof *in);
    /* Gates of size 2, which silu bends. */
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
        .activation = ACTIVATION_SILU_GATED,
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
            double expected = silu(sum[0]) * sum[1];
            /* silu bends its argument's error by at most 1.1, and adds a few roundings of its own. */
            double tolerance = 1.1 * error[0] * fabs(sum[1]) + (fabs(silu(sum[0])) + error[0]) * error[1];
            tolerance += 0x1p-20 * (fabs(sum[0]) + 1.0) * fabs(sum[1]);
            tolerance += storage_rounding(out_dtype) * fabs(expected);
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
            gated_one(ops, (enum dtype)dtype, &gated_shapes[i]);
}

/* A gate far below zero closes, far above it lets through, and neither becomes NaN. */
void case_matmul_gated_extremes(struct operations *ops) {
    enum { OUT = 20 };
    static const float gates[] = {-1e30f, -1e4f, -200.0f, -89.0f, -20.0f, 0.0f, 20.0f, 89.0f, 1e4f, 1e30f};
    enum { N_GATES = sizeof gates / sizeof gates[0] };
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
        .activation = ACTIVATION_SILU_GATED,
    };
    OPS_OK(ops, backend->matmul(backend->context, &args));
    float *got = ops_read(ops, args.out, DTYPE_FLOAT32, 1, OUT);
    for (int32_t o = 0; o < OUT; o++) {
        double expected = 2.0 * silu(pair[0][o]);
        ops_expect_near(ops, got[o], expected, 1e-6 * fabs(expected) + 1e-30, "gated matmul", 0, o);
    }
    free(got);
}

/* Row counts beyond MOST_ROWS go round through the same rows. */
static void matmul_rows_alone(struct operations *ops, enum dtype dtype, int32_t n_out, int32_t n_in,
                              int32_t most_rows, bool accumulate, bool is_gated) {
    static const int32_t more_counts[] = {4096, 1024};
    enum { N_MORE = sizeof more_counts / sizeof more_counts[0] };
    struct backend *backend = ops_open(ops);
    float *x = spread_values(ops, MOST_ROWS * n_in, dtype);
    float *w = spread_values(ops, 2 * n_out * n_in, dtype);
    float *b = spread_values(ops, n_out, DTYPE_FLOAT32);
    float *residual = spread_values(ops, MOST_ROWS * n_out, DTYPE_FLOAT32);
    struct matmul_args args = {
        .weight = is_gated ? ops_weight_pair(ops, dtype, n_out, n_in, w, w + n_out * n_in)
                           : ops_weight(ops, dtype, n_out, n_in, w),
        .bias = is_gated ? NULL : ops_vector(ops, n_out, b),
        .in = ops_junk(ops, dtype, most_rows, n_in),
        .out = ops_junk(ops, DTYPE_FLOAT32, most_rows, n_out),
        .accumulate = accumulate,
        .activation = is_gated ? ACTIVATION_SILU_GATED : ACTIVATION_NONE,
    };
    float *whole = NULL;
    for (int i = N_ROW_COUNTS + N_MORE - 1; i >= 0; i--) {
        int32_t n = i < N_ROW_COUNTS ? row_counts[i] : more_counts[N_ROW_COUNTS + N_MORE - 1 - i];
        if (n > most_rows)
            continue;
        int32_t first = whole ? ops_below(ops, MOST_ROWS) : 0;
        float *rows = take_rows(ops, x, first, n, n_in);
        ops_write(ops, (struct tensor *)args.in, dtype, n, n_in, rows);
        free(rows);
        rows = take_rows(ops, residual, first, n, n_out);
        ops_write(ops, args.out, DTYPE_FLOAT32, n, n_out, rows);
        free(rows);
        args.n_rows = n;
        OPS_OK(ops, backend->matmul(backend->context, &args));
        float *got = ops_read(ops, args.out, DTYPE_FLOAT32, n, n_out);
        if (!whole)
            whole = take_rows(ops, got, 0, MOST_ROWS, n_out);
        float *expected = take_rows(ops, whole, first, n, n_out);
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

/* Outputs enough for every tile shape of the CUDA backend, and a K of two parts for the residual's. */
void case_matmul_rows_alone(struct operations *ops) {
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        matmul_rows_alone(ops, (enum dtype)dtype, 576, 520, 4096, false, false);
        matmul_rows_alone(ops, (enum dtype)dtype, 65, 384, MOST_ROWS, false, false);
        matmul_rows_alone(ops, (enum dtype)dtype, 33, 71, MOST_ROWS, true, false);
        matmul_rows_alone(ops, (enum dtype)dtype, 520, 4300, MOST_ROWS, true, false);
        matmul_rows_alone(ops, (enum dtype)dtype, 288, 520, 1024, false, true);
        matmul_rows_alone(ops, (enum dtype)dtype, 24, 71, MOST_ROWS, false, true);
    }
}

/* What the cases above must catch: a sum that is cut in two when the batch is large. It is built here from
 * two accumulating calls, and its bits must differ. */
void case_planted_split(struct operations *ops) {
    enum { OUT = 64, IN = 512, ROWS = 4, HALF = IN / 2 };
    struct backend *backend = ops_open(ops);
    float *x = spread_values(ops, ROWS * IN, DTYPE_FLOAT32);
    float *w = spread_values(ops, OUT * IN, DTYPE_FLOAT32);
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
