/* Cases for a norm and the matmul behind it, which a backend may compute as one: the rows and the products
 * have the bits of the two apart, whatever follows a norm sees it, and where it can be one it is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations_sampler.h"

enum {
    ROWS = 16,      /* of the step that is never one kernel */
    FUSED_ROWS = 8, /* at most */
    VOCAB = 70,
    PAIR_WIDTH = 128 /* of the cases of one pair */
};

struct pair_shape {
    enum norm_kind kind;
    int32_t width, n_out;
    bool norm_bias, bias, gated;
    enum activation activation;
    enum dtype out_dtype;
};

/* Tensors of a norm and of the matmul behind it. */
struct pair {
    struct sampler sampler;
    struct pair_shape shape;
    float *hidden; /* [ROWS, width] */
    struct tensor *hidden_tensor, *normed, *out;
    struct norm_args norm;
    struct matmul_args matmul;
};

static void pair_init(struct pair *pair, struct operations *ops, const struct pair_shape *shape) {
    const int32_t width = shape->width, n_out = shape->n_out;
    *pair = (struct pair){.shape = *shape};
    sampler_init(&pair->sampler, ops, ROWS, VOCAB);
    pair->hidden = ops_spread_values(ops, ROWS * width, DTYPE_FLOAT32);
    float *weight = ops_spread_values(ops, width, DTYPE_FLOAT32);
    float *bias = ops_spread_values(ops, width, DTYPE_FLOAT32);
    float *matrix = ops_spread_values(ops, 2 * n_out * width, DTYPE_BFLOAT16);
    float *matrix_bias = ops_spread_values(ops, n_out, DTYPE_FLOAT32);
    pair->hidden_tensor = ops_rows(ops, DTYPE_FLOAT32, ROWS, width, pair->hidden);
    pair->normed = ops_junk(ops, DTYPE_BFLOAT16, ROWS, width);
    pair->out = ops_junk(ops, shape->out_dtype, ROWS, n_out);
    pair->norm = (struct norm_args){.kind = shape->kind,
                                    .hidden = pair->hidden_tensor,
                                    .weight = ops_vector(ops, width, weight),
                                    .bias = shape->norm_bias ? ops_vector(ops, width, bias) : NULL,
                                    .out = pair->normed,
                                    .epsilon = 1e-5f,
                                    .site = 2};
    pair->matmul =
        (struct matmul_args){.weight = shape->gated ? ops_weight_pair(ops, DTYPE_BFLOAT16, n_out, width,
                                                                      matrix, matrix + n_out * width)
                                                    : ops_weight(ops, DTYPE_BFLOAT16, n_out, width, matrix),
                             .bias = shape->bias ? ops_vector(ops, n_out, matrix_bias) : NULL,
                             .in = pair->normed,
                             .out = pair->out,
                             .activation = shape->activation};
    free(weight);
    free(bias);
    free(matrix);
    free(matrix_bias);
    for (int32_t s = 0; s < ROWS; s++) {
        pair->sampler.position[s] = 10 + s;
        sampler_start(&pair->sampler, s, ops_sampling((uint64_t)s), NULL, 0);
    }
}

static void pair_free(struct pair *pair) {
    free(pair->hidden);
    sampler_free(&pair->sampler);
}

static const int32_t rows_in_order[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Rows [0, n) are in slots [0, n); each is sampled. */
static struct batch pair_batch(const struct pair *pair, int32_t n) {
    return (struct batch){.n_rows = n,
                          .n_decode = n,
                          .n_samples = n,
                          .token = pair->sampler.token,
                          .position = pair->sampler.position,
                          .slot = pair->sampler.slot,
                          .sample_row = rows_in_order,
                          .sample_slot = pair->sampler.slot};
}

static void queue_norm(struct pair *pair) {
    OPS_OK(pair->sampler.ops,
           pair->sampler.ops->backend.norm(pair->sampler.ops->backend.context, &pair->norm));
}

static void queue_matmul(struct pair *pair, int32_t n) {
    pair->matmul.n_rows = n;
    OPS_OK(pair->sampler.ops,
           pair->sampler.ops->backend.matmul(pair->sampler.ops->backend.context, &pair->matmul));
}

static void queue_sample(struct pair *pair, int32_t n) {
    struct sample_args args = {.logits = pair->sampler.logits, .n = n};
    OPS_OK(pair->sampler.ops, pair->sampler.ops->backend.sample(pair->sampler.ops->backend.context, &args));
}

/* That the last step took so many launches beside that of its arrays, on the devices where a norm and a
 * matmul of few rows are one kernel. */
static void expect_launches(struct operations *ops, int32_t n, const char *what) {
    const int64_t launches = ops->backend.launches_per_step(ops->backend.context) - 1;
    if (strstr(ops->backend.numerics_class, "sm90") && launches != n)
        OPS_FAIL(ops, "%s: %lld launches, expected %d", what, (long long)launches, n);
}

/* Norm and matmul of `hidden`, rows [0, n). */
static void run_pair(struct pair *pair, int32_t n, const float *hidden, struct sample_result *results) {
    struct operations *ops = pair->sampler.ops;
    const int32_t width = pair->shape.width;
    ops_write(ops, pair->hidden_tensor, DTYPE_FLOAT32, n, width, hidden);
    struct batch batch = pair_batch(pair, n);
    ops_step_begin(ops, &batch);
    queue_norm(pair);
    queue_matmul(pair, n);
    queue_sample(pair, n);
    ops_step_end(ops, &batch, results, NULL);
}

/* Fails unless rows [0, n) of a tensor are rows [first, first + n) of `expected`, and the others junk. */
static void expect_rows(struct operations *ops, const struct tensor *tensor, enum dtype dtype, int32_t n,
                        int32_t cols, const float *expected, int32_t first, const char *what) {
    float *got = ops_read(ops, tensor, dtype, ROWS, cols);
    ops_expect_equal(ops, got, expected + (int64_t)first * cols, (int64_t)n * cols, what);
    ops_expect_junk(ops, got, n, ROWS, cols, what);
    free(got);
}

static void make_junk(struct operations *ops, struct tensor *tensor, enum dtype dtype, int32_t cols) {
    float *junk = ops_alloc(ops, (size_t)(ROWS * cols), sizeof *junk);
    for (int32_t i = 0; i < ROWS * cols; i++)
        junk[i] = ops_junk_value;
    ops_write(ops, tensor, dtype, ROWS, cols, junk);
    free(junk);
}

static bool is_fused(const struct pair *pair, int32_t n) {
    return n <= FUSED_ROWS && pair->shape.width % 64 == 0 && pair->shape.width <= 4096 &&
           pair->shape.out_dtype == DTYPE_BFLOAT16;
}

static void same_bits(struct operations *ops, const struct pair_shape *shape) {
    static const int32_t counts[] = {1, 2, 3, 7, 8, 9};
    struct pair pair;
    pair_init(&pair, ops, shape);
    const int32_t width = shape->width, n_out = shape->n_out;
    run_pair(&pair, ROWS, pair.hidden, NULL);
    expect_launches(ops, 3, "sixteen rows");
    float *normed = ops_read(ops, pair.normed, DTYPE_BFLOAT16, ROWS, width);
    float *products = ops_read(ops, pair.out, shape->out_dtype, ROWS, n_out);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        const int32_t n = counts[i], first = ops_below(ops, ROWS - n + 1);
        if (ops->is_small && (n == 3 || n == 7))
            continue;
        make_junk(ops, pair.normed, DTYPE_BFLOAT16, width);
        make_junk(ops, pair.out, shape->out_dtype, n_out);
        run_pair(&pair, n, pair.hidden + first * width, NULL);
        expect_launches(ops, is_fused(&pair, n) ? 2 : 3, "norm, matmul, sample");
        expect_rows(ops, pair.normed, DTYPE_BFLOAT16, n, width, normed, first, "norm of fewer rows");
        expect_rows(ops, pair.out, shape->out_dtype, n, n_out, products, first, "matmul of normed rows");
    }
    free(normed);
    free(products);
    pair_free(&pair);
}

/* Of every number of features that a thread of the CUDA backend holds, and where its boxes end: an odd number
 * of 64 columns, several tiles, part of one, and of tiles more than blocks. */
void case_norm_matmul(struct operations *ops) {
    static const struct pair_shape shapes[] = {
        {.kind = NORM_RMS, .width = 64, .n_out = 40},
        {.kind = NORM_LAYER, .width = 64, .n_out = 1030, .norm_bias = true, .bias = true},
        {.kind = NORM_LAYER, .width = 192, .n_out = 72, .norm_bias = true},
        {.kind = NORM_RMS, .width = 320, .n_out = 136, .gated = true, .activation = ACTIVATION_SILU_GATED},
        {.kind = NORM_LAYER,
         .width = 768,
         .n_out = 200,
         .norm_bias = true,
         .bias = true,
         .activation = ACTIVATION_GELU_TANH},
        {.kind = NORM_RMS, .width = 1024, .n_out = 64, .bias = true},
        {.kind = NORM_LAYER, .width = 1088, .n_out = 65},
        {.kind = NORM_RMS,
         .width = 2048,
         .n_out = 72,
         .gated = true,
         .activation = ACTIVATION_GELU_TANH_GATED},
        {.kind = NORM_LAYER, .width = 2048, .n_out = 24, .norm_bias = true},
        {.kind = NORM_RMS, .width = 2112, .n_out = 24, .bias = true},
        {.kind = NORM_RMS, .width = 4096, .n_out = 40, .gated = true, .activation = ACTIVATION_SILU_GATED},
        {.kind = NORM_LAYER, .width = 4096, .n_out = 72, .norm_bias = true},
        /* Never one kernel. */
        {.kind = NORM_RMS, .width = 4160, .n_out = 24},
        {.kind = NORM_LAYER, .width = 96, .n_out = 24},
        {.kind = NORM_RMS, .width = 128, .n_out = 24, .out_dtype = DTYPE_FLOAT32},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct pair_shape shape = shapes[i];
        const bool is_last = i + 1 == sizeof shapes / sizeof shapes[0];
        shape.out_dtype = is_last ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
        same_bits(ops, &shape);
    }
}

static const struct pair_shape plain_shape = {
    .kind = NORM_LAYER, .width = PAIR_WIDTH, .n_out = 72, .norm_bias = true, .out_dtype = DTYPE_BFLOAT16};

/* A row that is not finite costs its slot alone. */
void case_norm_matmul_faults(struct operations *ops) {
    enum { N = 5, OUT = 72 };
    static const float bad[] = {NAN, INFINITY, 3e38f}; /* the last one's square overflows */
    struct pair pair;
    pair_init(&pair, ops, &plain_shape);
    run_pair(&pair, N, pair.hidden, NULL);
    float *normed = ops_read(ops, pair.normed, DTYPE_BFLOAT16, N, PAIR_WIDTH);
    float *products = ops_read(ops, pair.out, DTYPE_BFLOAT16, N, OUT);
    for (int i = 0; i < 3; i++) {
        const int32_t row = 1 + i;
        struct sample_result results[N];
        float *hidden = ops_take_rows(ops, pair.hidden, 0, N, PAIR_WIDTH);
        hidden[row * PAIR_WIDTH + (i == 1 ? 0 : PAIR_WIDTH - 1)] = bad[i];
        run_pair(&pair, N, hidden, results);
        expect_launches(ops, 2, "a row that is not finite");
        float *got_normed = ops_read(ops, pair.normed, DTYPE_BFLOAT16, N, PAIR_WIDTH);
        float *got = ops_read(ops, pair.out, DTYPE_BFLOAT16, N, OUT);
        for (int32_t r = 0; r < N; r++) {
            const bool is_bad = r >= 1 && r <= row; /* a slot's first fault stays */
            if (results[r].fault_layer != (is_bad ? 2 : -1) ||
                (is_bad && results[r].fault_position != 10 + r))
                OPS_FAIL(ops, "row %d: fault %d at %d, expected %d at %d", r, results[r].fault_layer,
                         results[r].fault_position, is_bad ? 2 : -1, 10 + r);
            if (r == row)
                continue;
            ops_expect_equal(ops, got_normed + r * PAIR_WIDTH, normed + r * PAIR_WIDTH, PAIR_WIDTH,
                             "norm beside a row that is not finite");
            ops_expect_equal(ops, got + r * OUT, products + r * OUT, OUT,
                             "matmul beside a row that is not finite");
        }
        free(got_normed);
        free(got);
        free(hidden);
    }
    free(normed);
    free(products);
    pair_free(&pair);
}

/* What may come behind a norm beside its matmul. */
enum follower {
    BY_NORM,
    BY_STEP_END,
    BY_OTHER_MATMUL,
    BY_FLOAT32_MATMUL,
    BY_FEWER_ROWS,
    BY_EMBED, /* over the rows that are normed */
    BY_READ,
    BY_WRITE,         /* the same */
    BY_FREE,          /* of them */
    BY_SECOND_MATMUL, /* of the same rows, behind its own */
    N_FOLLOWERS
};

/* Beside a pair's tensors. */
struct others {
    struct tensor *normed;    /* as the pair's, of all rows */
    struct tensor *hidden;    /* the same */
    struct tensor *embedding; /* [VOCAB, width] */
    struct tensor *wide_out;  /* float32 */
};

static void follow(struct pair *pair, enum follower follower, int32_t n, const struct others *others,
                   const float *normed) {
    struct operations *ops = pair->sampler.ops;
    struct backend *backend = &ops->backend;
    struct norm_args norm = pair->norm;
    struct matmul_args matmul = pair->matmul;
    matmul.n_rows = n;
    switch (follower) {
    case BY_NORM:
        make_junk(ops, others->normed, DTYPE_BFLOAT16, PAIR_WIDTH);
        queue_norm(pair);
        norm.out = others->normed;
        OPS_OK(ops, backend->norm(backend->context, &norm));
        break;
    case BY_OTHER_MATMUL:
        matmul.in = others->normed;
        OPS_OK(ops, backend->matmul(backend->context, &matmul));
        break;
    case BY_FLOAT32_MATMUL:
        matmul.out = others->wide_out;
        OPS_OK(ops, backend->matmul(backend->context, &matmul));
        break;
    case BY_FEWER_ROWS:
        queue_matmul(pair, n - 1);
        break;
    case BY_EMBED:
        OPS_OK(ops,
               backend->embed(backend->context, &(struct embed_args){.hidden = pair->hidden_tensor,
                                                                     .token_embedding = others->embedding}));
        break;
    case BY_READ:
        expect_rows(ops, pair->normed, DTYPE_BFLOAT16, n, PAIR_WIDTH, normed, 0, "norm, read in its step");
        break;
    case BY_WRITE:
        make_junk(ops, pair->hidden_tensor, DTYPE_FLOAT32, PAIR_WIDTH);
        break;
    case BY_FREE:
        backend->tensor_free(backend->context, others->hidden);
        break;
    case BY_SECOND_MATMUL:
        queue_matmul(pair, n);
        queue_matmul(pair, n);
        break;
    default:
        break;
    }
}

void case_norm_followed(struct operations *ops) {
    enum { N = 3, OUT = 72 };
    static const int32_t launches[N_FOLLOWERS] = {3, 1, 2, 2, 2, 2, 1, 1, 1, 2};
    struct pair pair;
    pair_init(&pair, ops, &plain_shape);
    run_pair(&pair, ROWS, pair.hidden, NULL);
    float *normed = ops_read(ops, pair.normed, DTYPE_BFLOAT16, ROWS, PAIR_WIDTH);
    float *products = ops_read(ops, pair.out, DTYPE_BFLOAT16, ROWS, OUT);
    float *embedding = ops_spread_values(ops, VOCAB * PAIR_WIDTH, DTYPE_BFLOAT16);
    for (int follower = 0; follower < N_FOLLOWERS; follower++) {
        char what[64];
        snprintf(what, sizeof what, "norm, followed by %d", follower);
        const struct others others = {
            .normed = ops_rows(ops, DTYPE_BFLOAT16, ROWS, PAIR_WIDTH, normed),
            .hidden = ops_rows(ops, DTYPE_FLOAT32, ROWS, PAIR_WIDTH, pair.hidden),
            .embedding = ops_weight(ops, DTYPE_BFLOAT16, VOCAB, PAIR_WIDTH, embedding),
            .wide_out = ops_junk(ops, DTYPE_FLOAT32, ROWS, OUT),
        };
        make_junk(ops, pair.normed, DTYPE_BFLOAT16, PAIR_WIDTH);
        make_junk(ops, pair.out, DTYPE_BFLOAT16, OUT);
        ops_write(ops, pair.hidden_tensor, DTYPE_FLOAT32, ROWS, PAIR_WIDTH, pair.hidden);
        pair.norm.hidden = follower == BY_FREE ? others.hidden : pair.hidden_tensor;
        struct batch batch = pair_batch(&pair, N);
        batch.n_samples = 0;
        ops_step_begin(ops, &batch);
        queue_norm(&pair);
        follow(&pair, (enum follower)follower, N, &others, normed);
        ops_step_end(ops, &batch, NULL, NULL);
        expect_launches(ops, launches[follower], what);
        expect_rows(ops, pair.normed, DTYPE_BFLOAT16, N, PAIR_WIDTH, normed, 0, what);
        if (follower == BY_NORM)
            expect_rows(ops, others.normed, DTYPE_BFLOAT16, N, PAIR_WIDTH, normed, 0, what);
        if (follower == BY_OTHER_MATMUL || follower == BY_SECOND_MATMUL || follower == BY_FEWER_ROWS)
            expect_rows(ops, pair.out, DTYPE_BFLOAT16, follower == BY_FEWER_ROWS ? N - 1 : N, OUT, products,
                        0, what);
    }
    free(normed);
    free(products);
    free(embedding);
    pair_free(&pair);
}

/* Launched, recorded and replayed steps; and a step that is given up behind a norm. */
void case_norm_matmul_recorded(struct operations *ops) {
    enum { N = 2, OUT = 72 };
    struct backend *backend = &ops->backend;
    struct pair pair;
    pair_init(&pair, ops, &plain_shape);
    run_pair(&pair, ROWS, pair.hidden, NULL);
    float *normed = ops_read(ops, pair.normed, DTYPE_BFLOAT16, ROWS, PAIR_WIDTH);
    float *products = ops_read(ops, pair.out, DTYPE_BFLOAT16, ROWS, OUT);
    struct batch batch = pair_batch(&pair, N);
    bool was_replayed = false;
    for (int32_t step = 0; step < 4; step++) {
        bool replayed;
        uint64_t ticket;
        struct sample_result results[N];
        make_junk(ops, pair.normed, DTYPE_BFLOAT16, PAIR_WIDTH);
        make_junk(ops, pair.out, DTYPE_BFLOAT16, OUT);
        ops_write(ops, pair.hidden_tensor, DTYPE_FLOAT32, N, PAIR_WIDTH, pair.hidden + step * PAIR_WIDTH);
        OPS_OK(ops, backend->step_begin(backend->context, &batch, &replayed));
        if (!replayed) {
            queue_norm(&pair);
            queue_matmul(&pair, N);
            queue_sample(&pair, N);
        }
        OPS_OK(ops, backend->step_end(backend->context, &ticket));
        OPS_OK(ops, backend->step_wait(backend->context, ticket, results, NULL));
        expect_launches(ops, 2, replayed ? "replayed" : "launched or recorded");
        expect_rows(ops, pair.normed, DTYPE_BFLOAT16, N, PAIR_WIDTH, normed, step, "norm, step by step");
        expect_rows(ops, pair.out, DTYPE_BFLOAT16, N, OUT, products, step, "matmul, step by step");
        was_replayed = replayed;
    }
    const bool is_cuda = strstr(backend->numerics_class, "cuda") != NULL;
    if (!was_replayed && !ops->options.no_graphs && is_cuda)
        OPS_FAIL(ops, "the fourth step of a shape was not replayed");

    if (is_cuda) { /* the CPU refuses a step within a step */
        batch = pair_batch(&pair, N + 1);
        ops_step_begin(ops, &batch);
        queue_norm(&pair);
        batch = pair_batch(&pair, N + 2); /* neither is on record */
        ops_step_begin(ops, &batch);      /* the step in front is given up */
        ops_write(ops, pair.normed, DTYPE_BFLOAT16, N + 2, PAIR_WIDTH, normed);
        queue_matmul(&pair, N + 2);
        queue_sample(&pair, N + 2);
        ops_step_end(ops, &batch, NULL, NULL);
        expect_launches(ops, 2, "behind a step that was given up");
        expect_rows(ops, pair.out, DTYPE_BFLOAT16, N + 2, OUT, products, 0,
                    "behind a step that was given up");
    }
    free(normed);
    free(products);
    pair_free(&pair);
}
