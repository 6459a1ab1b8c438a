/* Cases for weights: many sources queued one behind the other, as a model is loaded. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

enum { STEP_ROWS = 64 };

/* A matrix that nobody holds: each element is a function of its place. */
struct made_matrix {
    int32_t number;
    int32_t n_out;
    int32_t n_in;
    enum dtype dtype;
    struct tensor *tensor;
    struct tensor *hidden; /* [STEP_ROWS, n_in] float32: what embed reads of it */
};

/* An integer in +-127, which both dtypes hold exactly. */
static float made_value(const struct made_matrix *matrix, int64_t row, int64_t column) {
    uint64_t x = (uint64_t)matrix->number << 48 ^ (uint64_t)row << 20 ^ (uint64_t)column;
    x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
    return (float)((int32_t)((x >> 40) % 255) - 127);
}

static void made_read(void *argument, int64_t first, int64_t n, void *to) {
    const struct made_matrix *matrix = argument;
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < matrix->n_in; c++) {
            float value = made_value(matrix, first + r, c);
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            if (matrix->dtype == DTYPE_FLOAT32)
                ((float *)to)[r * matrix->n_in + c] = value;
            else
                ((uint16_t *)to)[r * matrix->n_in + c] = (uint16_t)(bits >> 16);
        }
}

static struct row_source made_source(struct made_matrix *matrix) {
    return (struct row_source){made_read, matrix};
}

static struct state_limits weight_limits(int32_t n_vocab) {
    return (struct state_limits){
        .n_slots = STEP_ROWS,
        .n_pages = 2,
        .max_pages_per_slot = 1,
        .max_rows = STEP_ROWS,
        .max_segments = 1,
        .max_samples = STEP_ROWS,
        .n_layers = 1,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 16,
        .n_vocab = n_vocab,
        .kv_dtype = DTYPE_FLOAT32,
    };
}

/* A step of rows that embed the tokens [first, first + STEP_ROWS), those beyond n_vocab again from 0. */
static void begin_tokens(struct operations *ops, int32_t first, int32_t n_vocab, struct batch *batch) {
    static int32_t token[STEP_ROWS], position[STEP_ROWS], slot[STEP_ROWS];
    for (int32_t r = 0; r < STEP_ROWS; r++) {
        token[r] = (first + r) % n_vocab;
        slot[r] = r;
    }
    *batch = (struct batch){
        .n_rows = STEP_ROWS, .n_decode = STEP_ROWS, .token = token, .position = position, .slot = slot};
    ops_step_begin(ops, batch);
}

/* Every row of the matrix, by looking it up; of a large one some, where the case is small. */
static void check_matrix(struct operations *ops, const struct made_matrix *matrix) {
    enum { SMALL_STRIDE = 11 };
    struct backend *backend = &ops->backend;
    const int32_t stride = ops->is_small ? SMALL_STRIDE * STEP_ROWS : STEP_ROWS;
    for (int32_t first = 0; first < matrix->n_out; first += stride) {
        struct batch batch;
        struct embed_args args = {.hidden = matrix->hidden, .token_embedding = matrix->tensor};
        begin_tokens(ops, first, matrix->n_out, &batch);
        OPS_OK(ops, backend->embed(backend->context, &args));
        ops_step_end(ops, &batch, NULL, NULL);
        float *got = ops_read(ops, matrix->hidden, DTYPE_FLOAT32, STEP_ROWS, matrix->n_in);
        for (int64_t r = 0; r < STEP_ROWS; r++)
            for (int64_t c = 0; c < matrix->n_in; c++) {
                float expected = made_value(matrix, (first + r) % matrix->n_out, c);
                if (got[r * matrix->n_in + c] != expected)
                    OPS_FAIL(ops, "weight %d [%d, %d]: element [%d, %d] is %g, expected %g", matrix->number,
                             matrix->n_out, matrix->n_in, (int)((first + r) % matrix->n_out), (int)c,
                             (double)got[r * matrix->n_in + c], (double)expected);
            }
        free(got);
    }
}

/* The rows of a pair whose gate is `gate` and whose other matrix is `up`, at column 0: with the first unit
 * vector as the input, out[o] = silu(gate[o, 0]) * up[o, 0]. */
static void check_pair(struct operations *ops, struct tensor *pair, const struct made_matrix *gate,
                       const struct made_matrix *up) {
    struct backend *backend = &ops->backend;
    float *unit = ops_alloc(ops, (size_t)gate->n_in, sizeof *unit);
    unit[0] = 1.0f;
    struct tensor *out = ops_junk(ops, DTYPE_FLOAT32, 1, gate->n_out);
    struct matmul_args args = {.weight = pair,
                               .in = ops_rows(ops, gate->dtype, 1, gate->n_in, unit),
                               .out = out,
                               .n_rows = 1,
                               .activation = ACTIVATION_SILU_GATED};
    struct batch batch;
    begin_tokens(ops, 0, 1, &batch);
    OPS_OK(ops, backend->matmul(backend->context, &args));
    ops_step_end(ops, &batch, NULL, NULL);
    float *got = ops_read(ops, out, DTYPE_FLOAT32, 1, gate->n_out);
    for (int32_t o = 0; o < gate->n_out; o++) {
        double g = made_value(gate, o, 0), expected = g / (1 + exp(-g)) * made_value(up, o, 0);
        ops_expect_near(ops, got[o], expected, 1e-4 * fabs(expected) + 1e-6, "pair", 0, o);
    }
    free(got);
    free(unit);
}

static void weights_of(struct operations *ops, enum dtype dtype) {
    /* Less than a vector, whole blocks, odd ones, many slices of a device's upload, rows longer than one. */
    static const int32_t shapes[][2] = {{1, 8},      {3001, 517}, {64, 128}, {17, 33},
                                        {700, 3000}, {2, 270000}, {130, 64}, {1500, 1024}};
    enum { N_PLAIN = sizeof shapes / sizeof *shapes, MOST_ROWS = 3001 };
    struct backend *backend = ops_open(ops);
    struct made_matrix plain[N_PLAIN];
    struct made_matrix gate = {.number = 100, .n_out = 2049, .n_in = 800, .dtype = dtype}, up = gate;
    struct tensor *pair;
    up.number = 101;
    for (int i = 0; i < N_PLAIN; i++) {
        plain[i] =
            (struct made_matrix){.number = i, .n_out = shapes[i][0], .n_in = shapes[i][1], .dtype = dtype};
        OPS_OK(ops, backend->weight_new(backend->context, dtype, plain[i].n_out, plain[i].n_in,
                                        made_source(&plain[i]), &plain[i].tensor));
        if (i == N_PLAIN / 2)
            OPS_OK(ops, backend->weight_pair_new(backend->context, dtype, gate.n_out, gate.n_in,
                                                 made_source(&gate), made_source(&up), &pair));
    }
    struct state_limits limits = weight_limits(MOST_ROWS);
    assert_int_equal(ops_state(ops, &limits), STATUS_INTERNAL);
    assert_non_null(strstr(status_message(), "weights_wait was not called"));
    OPS_OK(ops, backend->weights_wait(backend->context));
    OPS_OK(ops, ops_state(ops, &limits));
    for (int i = 0; i < N_PLAIN; i++) {
        plain[i].hidden = ops_junk(ops, DTYPE_FLOAT32, STEP_ROWS, plain[i].n_in);
        check_matrix(ops, &plain[i]);
    }
    check_pair(ops, pair, &gate, &up);
}

void case_weights(struct operations *ops) {
    weights_of(ops, DTYPE_FLOAT32);
    weights_of(ops, DTYPE_BFLOAT16);
}
