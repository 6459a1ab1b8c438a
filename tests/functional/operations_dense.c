/* Cases for embed and norm. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

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
                      bool positions, float scale) {
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
        .scale = scale,
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
            double scaled = (double)token_values[token[r] * n_embd + i] * (scale == 0.0f ? 1.0f : scale);
            double expected = (float)scaled, tolerance = 0.0;
            if (positions)
                expected = (float)(expected + position_values[position[r] * n_embd + i]);
            /* One float32 product, or one sum, has one result; both together are rounded once or twice. */
            if (positions && scale != 0.0f)
                tolerance = 0x1p-23 * (fabs(scaled) + fabs(expected));
            ops_expect_near(ops, out[r * n_embd + i], expected, tolerance, "embed", r, i);
        }
    }
    ops_expect_junk(ops, out, ROWS, ROWS + EXTRA, n_embd, "embed");
    free(out);
    free(token_values);
    free(position_values);
}

void case_embed(struct operations *ops) {
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        embed_one(ops, (enum dtype)dtype, 65, 384, true, 0.0f);
        embed_one(ops, (enum dtype)dtype, 17, 33, true, 0.0f);
        embed_one(ops, (enum dtype)dtype, 1000, 64, false, 0.0f);
        embed_one(ops, (enum dtype)dtype, 1000, 64, false, 8.0f);
        embed_one(ops, (enum dtype)dtype, 17, 33, false, 33.75f);
        embed_one(ops, (enum dtype)dtype, 65, 1152, false, 33.941124f);
        embed_one(ops, (enum dtype)dtype, 65, 384, true, 19.625f);
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
                ops_storage_rounding(dtype) * fabs(expected);
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
    static const int32_t sizes[] = {1, 5, 16, 63, 64, 65, 127, 384, 768, 1000, 5000, 10001};
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            norm_one(ops, NORM_LAYER, (enum dtype)dtype, sizes[i], i % 3 != 0, i % 2 == 1,
                     i % 4 == 2 ? 20.0f : 0.25f);
    }
}

void case_norm_rms(struct operations *ops) {
    static const int32_t sizes[] = {1, 5, 16, 63, 64, 65, 127, 384, 1000, 2048, 4096, 8190, 12300};
    for (int dtype = DTYPE_FLOAT32; dtype <= DTYPE_BFLOAT16; dtype++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            norm_one(ops, NORM_RMS, (enum dtype)dtype, sizes[i], false, i % 2 == 1,
                     i % 4 == 2 ? 20.0f : 0.25f);
    }
}

/* Into the residual stream: what is there stays, the norm is added, rows beyond the step's are untouched. */
static void norm_accumulate_one(struct operations *ops, enum norm_kind kind, int32_t n) {
    enum { ROWS = 7, EXTRA = 2 };
    struct backend *backend = ops_open(ops);
    struct state_limits limits = row_limits(ROWS, 10);
    OPS_OK(ops, ops_state(ops, &limits));
    float *x = ops_alloc(ops, (size_t)(ROWS * n), sizeof *x);
    float *weight = ops_alloc(ops, (size_t)n, sizeof *weight);
    float *residual = ops_alloc(ops, (size_t)((ROWS + EXTRA) * n), sizeof *residual);
    for (int32_t i = 0; i < ROWS * n; i++)
        x[i] = ops_uniform(ops, -2.0f, 2.0f);
    for (int32_t i = 0; i < n; i++)
        weight[i] = ops_uniform(ops, 0.5f, 1.5f);
    for (int32_t i = 0; i < (ROWS + EXTRA) * n; i++)
        residual[i] = i < ROWS * n ? ops_uniform(ops, -50.0f, 50.0f) : ops_junk_value;
    struct tensor *out = ops_rows(ops, DTYPE_FLOAT32, ROWS + EXTRA, n, residual);
    int32_t token[ROWS] = {0}, position[ROWS] = {0}, slot[ROWS];
    for (int32_t r = 0; r < ROWS; r++)
        slot[r] = r;
    struct batch batch = row_batch(ROWS, token, position, slot, 0, NULL, NULL);
    struct norm_args args = {.kind = kind,
                             .hidden = ops_rows(ops, DTYPE_FLOAT32, ROWS, n, x),
                             .weight = ops_vector(ops, n, weight),
                             .out = out,
                             .epsilon = 1e-6f,
                             .accumulate = true};
    ops_step_begin(ops, &batch);
    OPS_OK(ops, backend->norm(backend->context, &args));
    ops_step_end(ops, &batch, NULL, NULL);
    float *got = ops_read(ops, out, DTYPE_FLOAT32, ROWS + EXTRA, n);
    for (int32_t r = 0; r < ROWS; r++) {
        const float *row = x + r * n;
        double sum = 0.0, squares = 0.0;
        for (int32_t k = 0; k < n; k++)
            sum += row[k];
        double center = kind == NORM_RMS ? 0.0 : sum / n;
        for (int32_t k = 0; k < n; k++)
            squares += (row[k] - center) * (row[k] - center);
        double factor = 1.0 / sqrt(squares / n + 1e-6);
        for (int32_t k = 0; k < n; k++) {
            double normed = (row[k] - center) * factor * weight[k];
            double expected = residual[r * n + k] + normed;
            /* As in norm_one, and one rounding of the sum. */
            double tolerance = 0x1p-24 * (16.0 * (fabs(center) + 2.0) * factor + 16.0 * (fabs(normed) + 1.0));
            ops_expect_near(ops, got[r * n + k], expected, tolerance + 0x1p-24 * fabs(expected),
                            "norm into the residual", r, k);
        }
    }
    ops_expect_junk(ops, got, ROWS, ROWS + EXTRA, n, "norm into the residual");
    free(got);
    free(x);
    free(weight);
    free(residual);
}

void case_norm_accumulate(struct operations *ops) {
    static const int32_t sizes[] = {1, 5, 16, 63, 64, 65, 384, 1152, 2304, 3584};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        norm_accumulate_one(ops, NORM_RMS, sizes[i]);
        norm_accumulate_one(ops, NORM_LAYER, sizes[i]);
    }
}

/* ---- a row alone and in batches ---- */

enum { NORM_MOST_ROWS = 4096 };

/* accumulate: into a residual that is the same for every row. Row counts beyond OPS_MOST_ROWS go round
 * through the same rows. */
static void norm_rows_alone(struct operations *ops, enum norm_kind kind, int32_t width, int32_t most_rows,
                            bool accumulate) {
    struct backend *backend = ops_open(ops);
    struct state_limits limits = row_limits(most_rows, 10);
    OPS_OK(ops, ops_state(ops, &limits));
    float *x = ops_spread_values(ops, OPS_MOST_ROWS * width, DTYPE_FLOAT32);
    float *weight = ops_spread_values(ops, width, DTYPE_FLOAT32);
    struct tensor *hidden = ops_junk(ops, DTYPE_FLOAT32, most_rows, width);
    struct norm_args args = {.kind = kind,
                             .hidden = hidden,
                             .weight = ops_vector(ops, width, weight),
                             .epsilon = 1e-5f,
                             .accumulate = accumulate};
    static const int32_t zero[NORM_MOST_ROWS];
    static int32_t slot[NORM_MOST_ROWS];
    for (int32_t r = 0; r < most_rows; r++)
        slot[r] = r;
    float *whole = NULL;
    for (int i = OPS_N_ROW_COUNTS - 1; i >= 0; i--) {
        const int32_t n = ops_row_counts[i];
        if (ops_skips_count(ops, i, most_rows))
            continue;
        int32_t first = whole ? ops_below(ops, OPS_MOST_ROWS) : 0;
        float *rows = ops_take_rows(ops, x, first, n, width);
        ops_write(ops, hidden, DTYPE_FLOAT32, n, width, rows);
        args.out = ops_junk(ops, DTYPE_FLOAT32, n, width);
        struct batch batch = row_batch(n, zero, zero, slot, 0, NULL, NULL);
        ops_step_begin(ops, &batch);
        OPS_OK(ops, backend->norm(backend->context, &args));
        ops_step_end(ops, &batch, NULL, NULL);
        float *got = ops_read(ops, args.out, DTYPE_FLOAT32, n, width);
        if (!whole)
            whole = ops_take_rows(ops, got, 0, OPS_MOST_ROWS, width);
        float *expected = ops_take_rows(ops, whole, first, n, width);
        ops_expect_equal(ops, got, expected, (int64_t)n * width, "norm of other rows");
        free(rows);
        free(got);
        free(expected);
    }
    free(whole);
    free(x);
    free(weight);
}

void case_norm_rows_alone(struct operations *ops) {
    /* On a GPU of 132 multiprocessors these take rows by warps and by blocks of one vector a thread (200), of
     * one and two and by warps (768), of one and four (2,044), of two and four (4,096), of four (5,000). */
    static const struct {
        int32_t width, most_rows;
    } sizes[] = {
        {200, OPS_MOST_ROWS}, {768, NORM_MOST_ROWS}, {2044, 1024}, {4096, 1024}, {5000, OPS_MOST_ROWS}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int32_t most_rows = ops->is_small ? OPS_MOST_ROWS : sizes[i].most_rows;
        norm_rows_alone(ops, NORM_LAYER, sizes[i].width, most_rows, false);
        norm_rows_alone(ops, NORM_RMS, sizes[i].width, most_rows, false);
        norm_rows_alone(ops, NORM_RMS, sizes[i].width, OPS_MOST_ROWS, true);
    }
}
