#include "tests/functional/operations.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/memory_rows.h"

const struct operation_case operation_cases[] = {
    {"weights, many on their way", case_weights},
    {"embed", case_embed},
    {"norm", case_norm},
    {"norm RMS", case_norm_rms},
    {"norm into the residual", case_norm_accumulate},
    {"norm: a row alone = in any batch", case_norm_rows_alone},
    {"matmul float32", case_matmul_float32},
    {"matmul bfloat16", case_matmul_bfloat16},
    {"matmul gated", case_matmul_gated},
    {"matmul gated by gelu", case_matmul_gelu_gated},
    {"matmul soft cap", case_matmul_softcap},
    {"matmul gated, extremes", case_matmul_gated_extremes},
    {"matmul of subnormals", case_matmul_subnormals},
    {"matmul: a row alone = in any batch", case_matmul_rows_alone},
    {"matmul: a planted split of K is seen", case_planted_split},
    {"attention float32", case_attention_float32},
    {"attention bfloat16", case_attention_bfloat16},
    {"attention, K and V of another dtype", case_attention_mixed_dtypes},
    {"attention, rope, float32", case_attention_rope_float32},
    {"attention, rope, bfloat16", case_attention_rope_bfloat16},
    {"attention: a prompt cut anywhere", case_attention_cuts},
    {"attention: prompts alone, together, cut, and in front of NaN", case_attention_prompts},
    {"attention: a decode row alone = in any batch", case_attention_decode_alone},
    {"attention: decode rows by the hundred", case_attention_decode_many},
    {"attention: copied pages", case_attention_pages_copy},
    {"attention: further pages", case_attention_slots_extend},
    {"attention, window, float32", case_attention_window_float32},
    {"attention, window, bfloat16", case_attention_window_bfloat16},
    {"attention, window: a prompt cut anywhere", case_attention_window_cuts},
    {"attention, window: prompts alone, together, cut, around NaN", case_attention_window_prompts},
    {"attention, window: a decode row alone = in any batch", case_attention_window_decode},
    {"attention, window: NaN in front of it", case_attention_window_nan},
    {"attention, soft cap", case_attention_softcap},
    {"attention, q and k norms", case_attention_norms},
    {"sample greedy", case_sample_greedy},
    {"sample penalties", case_sample_penalties},
    {"sample top_k, top_p, min_p", case_sample_restricted},
    {"sample large vocabulary", case_sample_large_vocabulary},
    {"sample largest vocabulary", case_sample_largest_vocabulary},
    {"sample chi-square", case_sample_chi_square},
    {"sample: an entry alone = in any batch", case_sample_rows_alone},
    {"sample logprobs", case_sample_logprobs},
    {"head: chosen and written rows", case_head},
    {"head: soft cap, scores", case_head_softcap},
    {"head: large vocabulary", case_head_large_vocabulary},
    {"head: lists", case_head_lists},
    {"head: lists, ties", case_head_lists_ties},
    {"head: lists, few groups", case_head_lists_small},
    {"head: entries that are not there", case_head_refused},
    {"score beside sampling", case_score_mixed},
    {"score: extremes", case_score_extremes},
    {"score: a slot stays as it is", case_score_leaves_slot},
    {"score: prompts, an entry alone = in any batch", case_score_prompts},
    {"score: a target outside of the vocabulary", case_score_refused},
    {"network: steps of a small model", case_network},
    {"network: without biases", case_network_no_biases},
    {"network: wide", case_network_wide},
    {"network: values that are not finite", case_network_not_finite},
    {"network: a row alone = in any batch", case_network_rows_alone},
    {"faults", case_faults},
    {"faults in a large vocabulary", case_faults_large_vocabulary},
};
const int n_operation_cases = sizeof operation_cases / sizeof operation_cases[0];

const float ops_junk_value = -31744.0f;

void operations_run(struct operations *ops, const struct operation_case *operation_case) {
    ops->random = ops->seed;
    ops->digest = 0;
    operation_case->run(ops);
    if (ops->open)
        ops->backend.close(ops->backend.context);
    ops->open = false;
}

/* ---- random numbers: splitmix64 (Steele, Lea and Flood, 2014) ---- */

uint64_t ops_random(struct operations *ops) {
    uint64_t x = ops->random += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

int32_t ops_below(struct operations *ops, int32_t limit) {
    return (int32_t)(ops_random(ops) % (uint64_t)limit);
}

float ops_uniform(struct operations *ops, float low, float high) {
    float unit = (float)(ops_random(ops) >> 40) * 0x1p-24f;
    return low + (high - low) * unit;
}

float ops_spread(struct operations *ops) {
    return ldexpf(ops_uniform(ops, -1.0f, 1.0f), ops_below(ops, 25) - 12);
}

/* ---- dtypes ---- */

static uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x))
        return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

float ops_round(float x, enum dtype dtype) {
    return dtype == DTYPE_FLOAT32 ? x : widen(narrow(x));
}

void *ops_alloc(struct operations *ops, size_t count, size_t bytes) {
    void *memory = calloc(count ? count : 1, bytes);
    if (!memory)
        OPS_FAIL(ops, "no memory");
    return memory;
}

/* values in dtype, to be freed. */
static void *in_dtype(struct operations *ops, enum dtype dtype, int64_t n, const float *values) {
    void *out = ops_alloc(ops, (size_t)n, dtype_bytes(dtype));
    for (int64_t i = 0; i < n; i++) {
        if (dtype == DTYPE_FLOAT32)
            ((float *)out)[i] = values[i];
        else
            ((uint16_t *)out)[i] = narrow(values[i]);
    }
    return out;
}

/* ---- backend and tensors ---- */

struct backend *ops_open(struct operations *ops) {
    if (ops->open)
        ops->backend.close(ops->backend.context);
    ops->open = false;
    OPS_OK(ops, backend_open(ops->device, &ops->options, &ops->backend));
    ops->open = true;
    return &ops->backend;
}

enum status ops_state(struct operations *ops, const struct state_limits *limits) {
    return ops->backend.state_init(ops->backend.context, limits);
}

void ops_write(struct operations *ops, struct tensor *tensor, enum dtype dtype, int64_t rows, int64_t cols,
               const float *values) {
    void *host = in_dtype(ops, dtype, rows * cols, values);
    OPS_OK(ops, ops->backend.tensor_write(ops->backend.context, tensor, rows, host));
    free(host);
}

struct tensor *ops_rows(struct operations *ops, enum dtype dtype, int64_t rows, int64_t cols,
                        const float *values) {
    struct tensor *tensor;
    OPS_OK(ops, ops->backend.tensor_new(ops->backend.context, dtype, rows, cols, &tensor));
    ops_write(ops, tensor, dtype, rows, cols, values);
    return tensor;
}

struct tensor *ops_junk(struct operations *ops, enum dtype dtype, int64_t rows, int64_t cols) {
    float *junk = ops_alloc(ops, (size_t)(rows * cols), sizeof *junk);
    for (int64_t i = 0; i < rows * cols; i++)
        junk[i] = ops_junk_value;
    struct tensor *tensor = ops_rows(ops, dtype, rows, cols, junk);
    free(junk);
    return tensor;
}

struct tensor *ops_weight(struct operations *ops, enum dtype dtype, int64_t n_out, int64_t n_in,
                          const float *values) {
    void *host = in_dtype(ops, dtype, n_out * n_in, values);
    struct memory_rows memory = {host, (size_t)n_in * dtype_bytes(dtype)};
    struct tensor *tensor;
    OPS_OK(ops, ops->backend.weight_new(ops->backend.context, dtype, n_out, n_in, memory_rows_source(&memory),
                                        &tensor));
    OPS_OK(ops, ops->backend.weights_wait(ops->backend.context));
    free(host);
    return tensor;
}

struct tensor *ops_weight_pair(struct operations *ops, enum dtype dtype, int64_t n_out, int64_t n_in,
                               const float *gate, const float *up) {
    void *host_gate = in_dtype(ops, dtype, n_out * n_in, gate);
    void *host_up = in_dtype(ops, dtype, n_out * n_in, up);
    struct memory_rows gate_rows = {host_gate, (size_t)n_in * dtype_bytes(dtype)};
    struct memory_rows up_rows = {host_up, (size_t)n_in * dtype_bytes(dtype)};
    struct tensor *tensor;
    OPS_OK(ops, ops->backend.weight_pair_new(ops->backend.context, dtype, n_out, n_in,
                                             memory_rows_source(&gate_rows), memory_rows_source(&up_rows),
                                             &tensor));
    OPS_OK(ops, ops->backend.weights_wait(ops->backend.context));
    free(host_gate);
    free(host_up);
    return tensor;
}

struct tensor *ops_vector(struct operations *ops, int64_t n, const float *values) {
    struct tensor *tensor;
    OPS_OK(ops, ops->backend.vector_new(ops->backend.context, n, values, &tensor));
    return tensor;
}

static void digest_add(struct operations *ops, const void *bytes, size_t n) {
    uint64_t digest = ops->digest ^ 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        digest = (digest ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u; /* FNV-1a */
    ops->digest = digest;
}

float *ops_read(struct operations *ops, const struct tensor *tensor, enum dtype dtype, int64_t rows,
                int64_t cols) {
    void *host = ops_alloc(ops, (size_t)(rows * cols), dtype_bytes(dtype));
    OPS_OK(ops, ops->backend.tensor_read(ops->backend.context, tensor, rows, host));
    float *values = ops_alloc(ops, (size_t)(rows * cols), sizeof *values);
    for (int64_t i = 0; i < rows * cols; i++) {
        values[i] = dtype == DTYPE_FLOAT32 ? ((float *)host)[i] : widen(((uint16_t *)host)[i]);
        /* Which NaN it is may depend on the instruction; that it is one may not. */
        if (isnan(values[i]))
            values[i] = NAN;
    }
    free(host);
    digest_add(ops, values, (size_t)(rows * cols) * sizeof *values);
    return values;
}

/* ---- expectations ---- */

void ops_expect_junk(struct operations *ops, const float *values, int64_t from, int64_t to, int64_t cols,
                     const char *what) {
    for (int64_t i = from * cols; i < to * cols; i++) {
        if (values[i] != ops_junk_value)
            OPS_FAIL(ops, "%s: wrote %g to row %lld, column %lld, beyond its rows", what, (double)values[i],
                     (long long)(i / cols), (long long)(i % cols));
    }
}

void ops_expect_equal(struct operations *ops, const float *got, const float *expected, int64_t n,
                      const char *what) {
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &expected[i], sizeof *got) != 0)
            OPS_FAIL(ops, "%s: element %lld is %.9g, expected the bits of %.9g", what, (long long)i,
                     (double)got[i], (double)expected[i]);
    }
}

void ops_expect_near(struct operations *ops, float got, double expected, double tolerance, const char *what,
                     int64_t row, int64_t col) {
    if (!(fabs(got - expected) <= tolerance)) /* also for NaN */
        OPS_FAIL(ops, "%s: row %lld, column %lld is %.9g, expected %.9g within %.3g", what, (long long)row,
                 (long long)col, (double)got, expected, tolerance);
}

double ops_storage_rounding(enum dtype dtype) {
    return dtype == DTYPE_FLOAT32 ? 0x1p-24 : 0x1p-8;
}

/* ---- rows ---- */

const int32_t ops_row_counts[OPS_N_ROW_COUNTS] = {1, 2, 7, 8, 16, 33, 64, 255, 256, 1024, 4096};

bool ops_skips_count(const struct operations *ops, int i, int32_t most_rows) {
    const int32_t n = ops_row_counts[i];
    return n > most_rows || (ops->is_small && n != 1 && n != 16 && n != 33 && n < OPS_MOST_ROWS);
}

float *ops_take_rows(struct operations *ops, const float *values, int32_t first, int32_t n, int32_t cols) {
    float *rows = ops_alloc(ops, (size_t)(n * cols), sizeof *rows);
    for (int32_t r = 0; r < n; r++)
        memcpy(rows + r * cols, values + (first + r) % OPS_MOST_ROWS * cols, (size_t)cols * sizeof *rows);
    return rows;
}

float *ops_spread_values(struct operations *ops, int32_t n, enum dtype dtype) {
    float *values = ops_alloc(ops, (size_t)n, sizeof *values);
    for (int32_t i = 0; i < n; i++)
        values[i] = ops_round(ops_spread(ops), dtype);
    return values;
}

/* ---- steps ---- */

void ops_slots_begin(struct operations *ops, const struct slot_start *starts, int32_t n) {
    const int32_t together = ops->is_small ? n : 1;
    for (int32_t i = 0; i < n; i += together)
        OPS_OK(ops, ops->backend.slots_begin(ops->backend.context, starts + i, together));
}

struct slot_sampling ops_sampling(uint64_t key) {
    return (struct slot_sampling){
        .temperature = 1.0f,
        .top_p = 1.0f,
        .repetition_penalty = 1.0f,
        .n_logprobs = -1,
        .key = key,
    };
}

void ops_step_begin(struct operations *ops, const struct batch *batch) {
    bool replayed;
    OPS_OK(ops, ops->backend.step_begin(ops->backend.context, batch, &replayed));
    /* The cases call operations by hand, in steps that no recording fits. */
    if (replayed)
        OPS_FAIL(ops, "step_begin: replayed a step that was never recorded whole");
}

void ops_step_end(struct operations *ops, const struct batch *batch, struct sample_result *results,
                  struct sample_top *top) {
    size_t n = (size_t)batch->n_samples;
    struct sample_result *own = ops_alloc(ops, n, sizeof *own);
    struct sample_top *own_top = ops_alloc(ops, n, sizeof *own_top);
    uint64_t ticket;
    OPS_OK(ops, ops->backend.step_end(ops->backend.context, &ticket));
    OPS_OK(ops,
           ops->backend.step_wait(ops->backend.context, ticket, own, batch->want_logprobs ? own_top : NULL));
    for (size_t i = 0; i < n; i++) {
        if (own[i].fault_layer < 0)
            digest_add(ops, &own[i].token, sizeof own[i].token);
        if (own[i].fault_layer < 0 && batch->sample_target && batch->sample_target[i] >= 0)
            digest_add(ops, &own[i].logprob, sizeof own[i].logprob);
        digest_add(ops, &own[i].fault_layer, sizeof own[i].fault_layer);
    }
    if (results && n > 0)
        memcpy(results, own, n * sizeof *own);
    if (top && n > 0)
        memcpy(top, own_top, n * sizeof *own_top);
    free(own);
    free(own_top);
}
