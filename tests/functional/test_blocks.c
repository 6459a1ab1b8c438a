/* The building blocks beside PyTorch, through backend.h: layer norm, linear, gelu, softmax, attention
 * probabilities, attention, MLP, block (tests/golden/README.md). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/golden.h"
#include "tests/functional/run_cases.h"

/* bfloat16: inputs, weights and each operation's output are rounded to 8 bits (2^-9 relative); two or three
 * such roundings and sums of errors that partly cancel stay below this. */
static double tolerance(enum dtype dtype) {
    return dtype == DTYPE_FLOAT32 ? 1e-4 : 2e-2;
}

enum { SLOT = 0, MAX_TOKENS = 1024 };

/* A backend whose only sequence has the slot SLOT. */
struct bench {
    struct backend backend;
    enum dtype dtype;
    int32_t positions[MAX_TOKENS];
    int32_t tokens[MAX_TOKENS];
    int32_t slots[MAX_TOKENS];
    struct segment segment;
};

static void bench_open(struct bench *bench, enum dtype dtype, int64_t n_heads, int64_t head_dim) {
    enum { N_PAGES = MAX_TOKENS / PAGE_TOKENS };
    memset(bench, 0, sizeof *bench);
    bench->dtype = dtype;
    golden_open_backend(&bench->backend);
    struct state_limits limits = {.n_slots = 1,
                                  .n_pages = 1 + N_PAGES,
                                  .max_pages_per_slot = N_PAGES,
                                  .max_rows = MAX_TOKENS,
                                  .max_segments = 1,
                                  .max_samples = 1,
                                  .n_layers = 1,
                                  .n_heads = (int32_t)n_heads,
                                  .n_kv_heads = (int32_t)n_heads,
                                  .head_dim = (int32_t)head_dim,
                                  .n_vocab = 16,
                                  .kv_dtype = dtype};
    golden_check(bench->backend.state_init(bench->backend.context, &limits), "state_init");
    int32_t pages[N_PAGES];
    for (int32_t i = 0; i < N_PAGES; i++)
        pages[i] = N_PAGES - i;
    static const int32_t prompt[] = {0};
    struct slot_start start = {.slot = SLOT,
                               .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                               .pages = pages,
                               .n_pages = N_PAGES,
                               .prompt = prompt,
                               .n_prompt = 1};
    golden_check(bench->backend.slots_begin(bench->backend.context, &start, 1), "slots_begin");
}

static void bench_close(struct bench *bench) {
    bench->backend.close(bench->backend.context);
}

/* Begins a step of prompt rows at positions [first, first + n_rows); is_decode: of one generated position.
 * Returns true when the backend replays the operations of an equal step itself. */
static bool bench_begin(struct bench *bench, int64_t first, int64_t n_rows, bool is_decode) {
    assert_true(n_rows <= MAX_TOKENS);
    for (int64_t i = 0; i < n_rows; i++) {
        bench->positions[i] = (int32_t)(first + i);
        bench->slots[i] = SLOT;
    }
    bench->segment = (struct segment){.n_rows = (int32_t)n_rows, .slot = SLOT, .position = (int32_t)first};
    struct batch batch = {.n_rows = (int32_t)n_rows,
                          .n_decode = is_decode ? (int32_t)n_rows : 0,
                          .n_segments = is_decode ? 0 : 1,
                          .token = bench->tokens,
                          .position = bench->positions,
                          .slot = bench->slots,
                          .segments = &bench->segment};
    bool replayed;
    golden_check(bench->backend.step_begin(bench->backend.context, &batch, &replayed), "step_begin");
    return replayed;
}

static void bench_end(struct bench *bench) {
    uint64_t ticket;
    golden_check(bench->backend.step_end(bench->backend.context, &ticket), "step_end");
    golden_check(bench->backend.step_wait(bench->backend.context, ticket, NULL, NULL), "step_wait");
}

static void run_matmul(struct bench *bench, const struct matmul_args *args) {
    golden_check(bench->backend.matmul(bench->backend.context, args), "matmul");
}

static void run_norm(struct bench *bench, const struct norm_args *args) {
    golden_check(bench->backend.norm(bench->backend.context, args), "norm");
}

/* A golden tensor as a weight or vector of the backend. shape [rows, columns] may be NULL. */
static struct tensor *load_weight(struct bench *bench, struct safetensors *files, int index, const char *name,
                                  int64_t shape[2]) {
    int64_t own[2];
    float *values = golden_floats(files, index, name, own);
    struct tensor *tensor = golden_weight(&bench->backend, bench->dtype, own[0], own[1], values);
    if (shape)
        memcpy(shape, own, sizeof own);
    free(values);
    return tensor;
}

static struct tensor *load_vector(struct bench *bench, struct safetensors *files, int index,
                                  const char *name) {
    int64_t shape[2];
    float *values = golden_floats(files, index, name, shape);
    struct tensor *tensor = golden_vector(&bench->backend, shape[0], values);
    free(values);
    return tensor;
}

static struct tensor *load_rows(struct bench *bench, struct safetensors *files, int index, const char *name,
                                enum dtype dtype, int64_t shape[2]) {
    float *values = golden_floats(files, index, name, shape);
    struct tensor *tensor = golden_tensor(&bench->backend, dtype, shape[0], shape[1]);
    golden_write(&bench->backend, tensor, dtype, shape[0], shape[1], values);
    free(values);
    return tensor;
}

static void check_rows(struct bench *bench, struct safetensors *files, int index, const char *what,
                       const char *name, const struct tensor *tensor, enum dtype dtype) {
    int64_t shape[2];
    float *expected = golden_floats(files, index, name, shape);
    size_t n = (size_t)(shape[0] * shape[1]);
    float *actual = malloc((n ? n : 1) * sizeof *actual);
    golden_read(&bench->backend, tensor, dtype, shape[0], shape[1], actual);
    golden_check_close(what, index, actual, expected, n, tolerance(bench->dtype));
    free(actual);
    free(expected);
}

/* ---- one block each: a case of the golden file --------------------------------------------------------- */

static void layer_norm_case(struct safetensors *files, int index, enum dtype dtype) {
    struct bench bench;
    int64_t shape[2];
    bench_open(&bench, dtype, 1, 16);
    struct tensor *x = load_rows(&bench, files, index, "x", DTYPE_FLOAT32, shape);
    struct tensor *y = golden_tensor(&bench.backend, dtype, shape[0], shape[1]);
    struct norm_args args = {.hidden = x,
                             .weight = load_vector(&bench, files, index, "weight"),
                             .bias = load_vector(&bench, files, index, "bias"),
                             .out = y,
                             .epsilon = 1e-5f,
                             .n = (int32_t)shape[0]};
    bench_begin(&bench, 0, shape[0], false);
    run_norm(&bench, &args);
    bench_end(&bench);
    check_rows(&bench, files, index, "layer norm", "y", y, dtype);
    bench_close(&bench);
}

static void linear_case(struct safetensors *files, int index, enum dtype dtype) {
    struct bench bench;
    int64_t x_shape[2], weight_shape[2];
    bench_open(&bench, dtype, 1, 16);
    struct tensor *x = load_rows(&bench, files, index, "x", dtype, x_shape);
    struct matmul_args args = {.weight = load_weight(&bench, files, index, "weight", weight_shape),
                               .bias = load_vector(&bench, files, index, "bias"),
                               .in = x,
                               .n_rows = (int32_t)x_shape[0]};
    args.out = golden_tensor(&bench.backend, dtype, x_shape[0], weight_shape[0]);
    bench_begin(&bench, 0, x_shape[0], false);
    run_matmul(&bench, &args);
    bench_end(&bench);
    check_rows(&bench, files, index, "linear", "y", args.out, dtype);
    bench_close(&bench);
}

/* gelu is part of the matmul: with the weight [[1]] nothing else happens. */
static void gelu_case(struct safetensors *files, int index, enum dtype dtype) {
    struct bench bench;
    static const float one = 1;
    int64_t shape[2];
    bench_open(&bench, dtype, 1, 16);
    float *x = golden_floats(files, index, "x", shape), *y = golden_floats(files, index, "y", shape);
    int64_t n = shape[0] * shape[1];
    struct matmul_args args = {.weight = golden_weight(&bench.backend, dtype, 1, 1, &one),
                               .in = golden_tensor(&bench.backend, dtype, MAX_TOKENS, 1),
                               .out = golden_tensor(&bench.backend, dtype, MAX_TOKENS, 1),
                               .activation = ACTIVATION_GELU_TANH};
    for (int64_t first = 0; first < n; first += args.n_rows) {
        args.n_rows = (int32_t)(n - first < MAX_TOKENS ? n - first : MAX_TOKENS);
        float actual[MAX_TOKENS];
        golden_write(&bench.backend, (struct tensor *)(uintptr_t)args.in, dtype, args.n_rows, 1, x + first);
        bench_begin(&bench, 0, args.n_rows, false);
        run_matmul(&bench, &args);
        bench_end(&bench);
        golden_read(&bench.backend, args.out, dtype, args.n_rows, 1, actual);
        golden_check_close("gelu", index, actual, y + first, (size_t)args.n_rows, tolerance(dtype));
    }
    free(x);
    free(y);
    bench_close(&bench);
}

/* ---- attention ----------------------------------------------------------------------------------------- */

enum { CHUNK_DECODE = 0 }; /* in place of a chunk's length: every position by the decode kernels */

/* Runs attention over n_tokens positions in prompt chunks of `chunk`. qkv [n_tokens, 3 H D] and out
 * [n_tokens, H D] in host memory. */
static void run_attention(struct bench *bench, int64_t n_tokens, int64_t width, int64_t head_dim, float scale,
                          int64_t chunk, const float *qkv, float *out) {
    struct backend *backend = &bench->backend;
    int64_t rows = chunk == CHUNK_DECODE ? 1 : chunk < n_tokens ? chunk : n_tokens;
    struct tensor *in = golden_tensor(backend, bench->dtype, rows, 3 * width);
    struct tensor *attended = golden_tensor(backend, bench->dtype, rows, width);
    assert_int_equal(width % head_dim, 0);
    struct attention_args args = {.qkv = in, .out = attended, .scale = scale};
    for (int64_t first = 0; first < n_tokens; first += rows) {
        int64_t n = n_tokens - first < rows ? n_tokens - first : rows;
        golden_write(backend, in, bench->dtype, n, 3 * width, qkv + first * 3 * width);
        bool replayed = bench_begin(bench, first, n, chunk == CHUNK_DECODE);
        if (!replayed && chunk == CHUNK_DECODE)
            golden_check(backend->attention_decode(backend->context, &args), "attention_decode");
        else if (!replayed)
            golden_check(backend->attention_prefill(backend->context, &args), "attention_prefill");
        bench_end(bench);
        golden_read(backend, attended, bench->dtype, n, width, out + first * width);
    }
}

enum { SMALL_STEPS = 5 }; /* of a small case, with each way of cutting a prompt */
static const int64_t attention_chunks[] = {MAX_TOKENS, 64, 7, 1, CHUNK_DECODE};
enum { N_ATTENTION_CHUNKS = sizeof attention_chunks / sizeof attention_chunks[0] };

/* q, k, v side by side, as one row of the qkv matmul gives them. Each [n_tokens, width]; NULL v is zero. */
static float *join_qkv(int64_t n_tokens, int64_t width, const float *q, const float *k, const float *v) {
    float *qkv = calloc((size_t)(n_tokens * 3 * width), sizeof *qkv);
    for (int64_t t = 0; t < n_tokens; t++) {
        memcpy(qkv + t * 3 * width, q + t * width, (size_t)width * sizeof *qkv);
        memcpy(qkv + t * 3 * width + width, k + t * width, (size_t)width * sizeof *qkv);
        if (v)
            memcpy(qkv + t * 3 * width + 2 * width, v + t * width, (size_t)width * sizeof *qkv);
    }
    return qkv;
}

static void attention_case(struct safetensors *files, int index, enum dtype dtype) {
    int64_t shape[2];
    int64_t head_dim = golden_find(files, index, "q")->shape[2];
    float *q = golden_floats(files, index, "q", shape), *k = golden_floats(files, index, "k", shape);
    float *v = golden_floats(files, index, "v", shape), *expected = golden_floats(files, index, "out", shape);
    int64_t n_tokens = shape[0], width = shape[1];
    float *qkv = join_qkv(n_tokens, width, q, k, v);
    size_t n = (size_t)(n_tokens * width);
    float *actual = malloc(n * sizeof *actual);
    for (int c = 0; c < N_ATTENTION_CHUNKS; c++) {
        int64_t chunk = attention_chunks[c], n_steps = chunk > 0 ? n_tokens / chunk : n_tokens;
        if (golden_arguments.is_small && n_steps > SMALL_STEPS)
            continue;
        struct bench bench;
        bench_open(&bench, dtype, width / head_dim, head_dim);
        run_attention(&bench, n_tokens, width, head_dim, 1.0f / sqrtf((float)head_dim), attention_chunks[c],
                      qkv, actual);
        golden_check_close("attention", index, actual, expected, n, tolerance(dtype));
        bench_close(&bench);
    }
    float *all[] = {q, k, v, expected, qkv, actual};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* The probabilities show when the values of head_dim keys at a time are the unit vectors. */
static void probabilities_case(struct safetensors *files, int index, enum dtype dtype) {
    int64_t shape[2];
    int64_t head_dim = golden_find(files, index, "q")->shape[2];
    float *q = golden_floats(files, index, "q", shape), *k = golden_floats(files, index, "k", shape);
    int64_t n_tokens = shape[0], width = shape[1], n_heads = width / head_dim;
    float *expected = golden_floats(files, index, "probabilities", NULL); /* [H, T, T] */
    float *qkv = join_qkv(n_tokens, width, q, k, NULL);
    float *out = malloc((size_t)(n_tokens * width) * sizeof *out);
    float *actual = calloc((size_t)(n_heads * n_tokens * n_tokens), sizeof *actual);
    for (int64_t first = 0; first < n_tokens; first += head_dim) {
        int64_t n_keys = n_tokens - first < head_dim ? n_tokens - first : head_dim;
        for (int64_t t = 0; t < n_tokens; t++)
            for (int64_t i = 0; i < width; i++)
                qkv[t * 3 * width + 2 * width + i] = t - first == i % head_dim;
        struct bench bench;
        bench_open(&bench, dtype, n_heads, head_dim);
        run_attention(&bench, n_tokens, width, head_dim, 1.0f / sqrtf((float)head_dim), MAX_TOKENS, qkv, out);
        bench_close(&bench);
        for (int64_t h = 0; h < n_heads; h++)
            for (int64_t t = 0; t < n_tokens; t++)
                memcpy(actual + (h * n_tokens + t) * n_tokens + first, out + t * width + h * head_dim,
                       (size_t)n_keys * sizeof *actual);
    }
    golden_check_close("attention probabilities", index, actual, expected,
                       (size_t)(n_heads * n_tokens * n_tokens), tolerance(dtype));
    float *all[] = {q, k, expected, qkv, out, actual};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* One row of softmax as the attention of one query (1, 0, …) over keys (x, 0, …), values as above. Keys are
 * stored in the compute dtype, so this is for float32. */
static void softmax_row(int index, int64_t width, const float *x, const float *expected) {
    enum { HEAD_DIM = 64 };
    float *qkv = malloc((size_t)(width * 3 * HEAD_DIM) * sizeof *qkv);
    float *out = malloc((size_t)(width * HEAD_DIM) * sizeof *out);
    for (int64_t first = 0; first < width; first += HEAD_DIM) {
        memset(qkv, 0, (size_t)(width * 3 * HEAD_DIM) * sizeof *qkv);
        for (int64_t t = 0; t < width; t++) {
            float *row = qkv + t * 3 * HEAD_DIM;
            row[0] = 1;
            row[HEAD_DIM] = x[t];
            if (t >= first && t - first < HEAD_DIM)
                row[2 * HEAD_DIM + (t - first)] = 1;
        }
        struct bench bench;
        bench_open(&bench, DTYPE_FLOAT32, 1, HEAD_DIM);
        run_attention(&bench, width, HEAD_DIM, HEAD_DIM, 1, MAX_TOKENS, qkv, out);
        bench_close(&bench);
        int64_t n = width - first < HEAD_DIM ? width - first : HEAD_DIM;
        golden_check_close("softmax", index, out + (width - 1) * HEAD_DIM, expected + first, (size_t)n, 1e-4);
    }
    free(qkv);
    free(out);
}

static void softmax_case(struct safetensors *files, int index, enum dtype dtype) {
    enum { MAX_ROWS = 4 }; /* of a case: each takes several backends */
    int64_t shape[2];
    const int64_t most_columns = golden_arguments.is_small ? 70 : MAX_TOKENS;
    const int64_t most_rows = golden_arguments.is_small ? 1 : MAX_ROWS;
    if (dtype != DTYPE_FLOAT32)
        return;
    float *x = golden_floats(files, index, "x", shape), *y = golden_floats(files, index, "y", shape);
    for (int64_t row = 0; row < shape[0] && row < most_rows && shape[1] <= most_columns; row++)
        softmax_row(index, shape[1], x + row * shape[1], y + row * shape[1]);
    free(x);
    free(y);
}

/* ---- MLP and block ------------------------------------------------------------------------------------- */

static void mlp_case(struct safetensors *files, int index, enum dtype dtype) {
    struct bench bench;
    int64_t shape[2], up_shape[2];
    bench_open(&bench, dtype, 1, 16);
    struct tensor *x = load_rows(&bench, files, index, "x", dtype, shape);
    struct matmul_args up = {.weight = load_weight(&bench, files, index, "c_fc.weight", up_shape),
                             .bias = load_vector(&bench, files, index, "c_fc.bias"),
                             .in = x,
                             .n_rows = (int32_t)shape[0],
                             .activation = ACTIVATION_GELU_TANH};
    up.out = golden_tensor(&bench.backend, dtype, shape[0], up_shape[0]);
    struct matmul_args down = {.weight = load_weight(&bench, files, index, "c_proj.weight", NULL),
                               .bias = load_vector(&bench, files, index, "c_proj.bias"),
                               .in = up.out,
                               .out = golden_tensor(&bench.backend, dtype, shape[0], shape[1]),
                               .n_rows = (int32_t)shape[0]};
    bench_begin(&bench, 0, shape[0], false);
    run_matmul(&bench, &up);
    run_matmul(&bench, &down);
    bench_end(&bench);
    check_rows(&bench, files, index, "mlp", "y", down.out, dtype);
    bench_close(&bench);
}

/* Arguments of the block's layer norm `name` over hidden of this shape. */
static struct norm_args norm_of(struct bench *bench, struct safetensors *files, int index, const char *name,
                                const struct tensor *hidden, const int64_t shape[2]) {
    char weight[32], bias[32];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return (struct norm_args){.hidden = hidden,
                              .weight = load_vector(bench, files, index, weight),
                              .bias = load_vector(bench, files, index, bias),
                              .out = golden_tensor(&bench->backend, bench->dtype, shape[0], shape[1]),
                              .epsilon = 1e-5f,
                              .n = (int32_t)shape[0]};
}

/* Arguments of the block's linear layer `name`; out NULL: a new tensor of the compute dtype. */
static struct matmul_args matmul_of(struct bench *bench, struct safetensors *files, int index,
                                    const char *name, const struct tensor *in, struct tensor *out,
                                    int64_t n_rows) {
    char weight[32], bias[32];
    int64_t shape[2];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    struct matmul_args args = {.weight = load_weight(bench, files, index, weight, shape),
                               .bias = load_vector(bench, files, index, bias),
                               .in = in,
                               .out = out,
                               .n_rows = (int32_t)n_rows,
                               .accumulate = out != NULL};
    if (!out)
        args.out = golden_tensor(&bench->backend, bench->dtype, n_rows, shape[0]);
    return args;
}

static void block_case(struct safetensors *files, int index, enum dtype dtype) {
    struct bench bench;
    int64_t shape[2], n;
    int32_t *n_heads = golden_ints(files, index, "n_head", &n);
    int64_t head_dim = golden_find(files, index, "x")->shape[1] / n_heads[0];
    bench_open(&bench, dtype, n_heads[0], head_dim);
    struct backend *backend = &bench.backend;
    struct tensor *hidden = load_rows(&bench, files, index, "x", DTYPE_FLOAT32, shape);
    struct tensor *attended = golden_tensor(backend, dtype, shape[0], shape[1]);

    struct norm_args norm1 = norm_of(&bench, files, index, "ln_1", hidden, shape);
    struct matmul_args qkv = matmul_of(&bench, files, index, "attn.c_attn", norm1.out, NULL, shape[0]);
    struct attention_args attention = {
        .qkv = qkv.out, .out = attended, .scale = 1.0f / sqrtf((float)head_dim)};
    struct matmul_args projection =
        matmul_of(&bench, files, index, "attn.c_proj", attended, hidden, shape[0]);
    struct norm_args norm2 = norm_of(&bench, files, index, "ln_2", hidden, shape);
    struct matmul_args up = matmul_of(&bench, files, index, "mlp.c_fc", norm2.out, NULL, shape[0]);
    up.activation = ACTIVATION_GELU_TANH;
    struct matmul_args down = matmul_of(&bench, files, index, "mlp.c_proj", up.out, hidden, shape[0]);

    bench_begin(&bench, 0, shape[0], false);
    run_norm(&bench, &norm1);
    run_matmul(&bench, &qkv);
    golden_check(backend->attention_prefill(backend->context, &attention), "attention_prefill");
    run_matmul(&bench, &projection);
    run_norm(&bench, &norm2);
    run_matmul(&bench, &up);
    run_matmul(&bench, &down);
    bench_end(&bench);
    check_rows(&bench, files, index, "block", "y", hidden, DTYPE_FLOAT32);
    free(n_heads);
    bench_close(&bench);
}

/* ---- the table ----------------------------------------------------------------------------------------- */

static void run_block(const char *file, const char *first_tensor,
                      void (*run)(struct safetensors *files, int index, enum dtype dtype)) {
    struct safetensors *files = golden_open(file);
    int index = 0;
    for (; golden_find(files, index, first_tensor); index++) {
        run(files, index, DTYPE_FLOAT32);
        run(files, index, DTYPE_BFLOAT16);
    }
    assert_true(index > 0);
    safetensors_close(files);
}

#define BLOCK_TEST(name, file, first_tensor, run)                                                            \
    static void name(void **state) {                                                                         \
        (void)state;                                                                                         \
        run_block(file, first_tensor, run);                                                                  \
    }

BLOCK_TEST(test_layer_norm, "layer_norm", "x", layer_norm_case)
BLOCK_TEST(test_linear, "linear", "x", linear_case)
BLOCK_TEST(test_gelu, "gelu_new", "x", gelu_case)
BLOCK_TEST(test_softmax, "softmax", "x", softmax_case)
BLOCK_TEST(test_attention_probabilities, "attention_scores", "q", probabilities_case)
BLOCK_TEST(test_attention, "attention", "q", attention_case)
BLOCK_TEST(test_mlp, "mlp", "x", mlp_case)
BLOCK_TEST(test_block, "block", "x", block_case)

int main(int argc, char **argv) {
    if (!golden_choose_backend(argc, argv))
        return ARGUMENTS_SKIPPED;
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm), cmocka_unit_test(test_linear),
        cmocka_unit_test(test_gelu),       cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_attention),  cmocka_unit_test(test_attention_probabilities),
        cmocka_unit_test(test_mlp),        cmocka_unit_test(test_block),
    };
    return run_cases(&golden_arguments, "blocks", tests, sizeof tests / sizeof tests[0]);
}
