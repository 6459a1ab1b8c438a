/* operations: one table of cases for the operations of kernels/backend.h, run unchanged on every backend.
 *
 * A case opens its own backend, calls it through backend.h alone, and compares with a plain double-precision
 * reference on inputs that are rounded to the storage dtype. Outputs are pre-filled with junk and scanned for
 * NaN. Everything a case reads back also goes into a digest, so that two variants of one numerics class
 * (instruction sets, thread counts) can be held equal bit for bit. Failures go through cmocka and name the
 * seed. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_OPERATIONS_H
#define PRESSRUN_TESTS_FUNCTIONAL_OPERATIONS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/backend.h"

/* How the table is run, and one case's randomness and record. */
struct operations {
    const char *device; /* "cpu", "cuda" */
    struct backend_options options;
    uint64_t seed;
    uint64_t random; /* state of the generator */
    uint64_t digest; /* of all that was read back */
    bool open;
    struct backend backend;
    bool is_small; /* arguments.h: less in every case, and every kernel launched all the same */
};

struct operation_case {
    const char *name;
    void (*run)(struct operations *ops);
};

extern const struct operation_case operation_cases[];
extern const int n_operation_cases;

/* Runs a case from its seed on; afterwards ops->digest tells what it saw. Closes what the case left open. */
void operations_run(struct operations *ops, const struct operation_case *operation_case);

/* ---- for the cases ---- */

/* cmocka's failure with the case's seed and the backend's last message. */
#define OPS_FAIL(ops, ...)                                                                                   \
    do {                                                                                                     \
        print_error("seed %llu: ", (unsigned long long)(ops)->seed);                                         \
        fail_msg(__VA_ARGS__);                                                                               \
    } while (0)

#define OPS_OK(ops, call)                                                                                    \
    do {                                                                                                     \
        if ((call) != STATUS_OK)                                                                             \
            OPS_FAIL(ops, "%s: %s", #call, status_message());                                                \
    } while (0)

uint64_t ops_random(struct operations *ops);
int32_t ops_below(struct operations *ops, int32_t limit); /* uniform in [0, limit) */
float ops_uniform(struct operations *ops, float low, float high);
/* Uniform in +-1 times a power of two between 2^-12 and 2^12: sums of such values show any change of order.
 */
float ops_spread(struct operations *ops);

float ops_round(float x, enum dtype dtype);                          /* to the storage dtype */
void *ops_alloc(struct operations *ops, size_t count, size_t bytes); /* never NULL; freed with free() */

/* Opens the backend; the case's end closes it. */
struct backend *ops_open(struct operations *ops);
/* State with sizes of a small model; STATUS_OK or the refusal. */
enum status ops_state(struct operations *ops, const struct state_limits *limits);

/* Values as float32 are rounded to dtype on the way in and widened on the way out. */
struct tensor *ops_rows(struct operations *ops, enum dtype dtype, int64_t rows, int64_t cols,
                        const float *values);
struct tensor *ops_junk(struct operations *ops, enum dtype dtype, int64_t rows,
                        int64_t cols); /* all ops_junk_value */
struct tensor *ops_weight(struct operations *ops, enum dtype dtype, int64_t n_out, int64_t n_in,
                          const float *values);
struct tensor *ops_weight_pair(struct operations *ops, enum dtype dtype, int64_t n_out, int64_t n_in,
                               const float *gate, const float *up);
struct tensor *ops_vector(struct operations *ops, int64_t n, const float *values);
void ops_write(struct operations *ops, struct tensor *tensor, enum dtype dtype, int64_t rows, int64_t cols,
               const float *values);
float *ops_read(struct operations *ops, const struct tensor *tensor, enum dtype dtype, int64_t rows,
                int64_t cols);

/* What ops_junk writes: finite in both dtypes, and no result of any case. */
extern const float ops_junk_value;
/* Fails unless rows [from, to) still hold junk. */
void ops_expect_junk(struct operations *ops, const float *values, int64_t from, int64_t to, int64_t cols,
                     const char *what);
/* Fails unless n values have equal bits. */
void ops_expect_equal(struct operations *ops, const float *got, const float *expected, int64_t n,
                      const char *what);
/* Fails unless got is finite and within tolerance. */
void ops_expect_near(struct operations *ops, float got, double expected, double tolerance, const char *what,
                     int64_t row, int64_t col);

/* Half a unit in the last place, relative: the rounding of one stored result. */
double ops_storage_rounding(enum dtype dtype);

/* A row alone and in batches: how many rows, of how many that differ. Small cases leave some counts out. */
enum { OPS_N_ROW_COUNTS = 11, OPS_MOST_ROWS = 256 };
extern const int32_t ops_row_counts[OPS_N_ROW_COUNTS];
/* Whether the count of this index is left out, in a small case, or beyond most_rows. */
bool ops_skips_count(const struct operations *ops, int i, int32_t most_rows);
/* Rows [first, first + n) of values [OPS_MOST_ROWS, cols], going round at the end; to be freed. */
float *ops_take_rows(struct operations *ops, const float *values, int32_t first, int32_t n, int32_t cols);
/* n values of ops_spread in dtype; to be freed. */
float *ops_spread_values(struct operations *ops, int32_t n, enum dtype dtype);

/* slots_begin of n slots, of small cases in one call. */
void ops_slots_begin(struct operations *ops, const struct slot_start *starts, int32_t n);

/* Sampling parameters with everything off at temperature 1. */
struct slot_sampling ops_sampling(uint64_t key);

void ops_step_begin(struct operations *ops, const struct batch *batch);
/* Ends the step and waits; results and top may be NULL. */
void ops_step_end(struct operations *ops, const struct batch *batch, struct sample_result *results,
                  struct sample_top *top);

/* The cases, by file. */
void case_weights(struct operations *ops);
void case_embed(struct operations *ops);
void case_norm(struct operations *ops);
void case_norm_rms(struct operations *ops);
void case_norm_accumulate(struct operations *ops);
void case_norm_rows_alone(struct operations *ops);
void case_matmul_float32(struct operations *ops);
void case_matmul_bfloat16(struct operations *ops);
void case_matmul_gated(struct operations *ops);
void case_matmul_gelu_gated(struct operations *ops);
void case_matmul_softcap(struct operations *ops);
void case_matmul_subnormals(struct operations *ops);
void case_matmul_gated_extremes(struct operations *ops);
void case_matmul_rows_alone(struct operations *ops);
void case_planted_split(struct operations *ops);
void case_attention_float32(struct operations *ops);
void case_attention_bfloat16(struct operations *ops);
void case_attention_mixed_dtypes(struct operations *ops);
void case_attention_rope_float32(struct operations *ops);
void case_attention_rope_bfloat16(struct operations *ops);
void case_attention_cuts(struct operations *ops);
void case_attention_prompts(struct operations *ops);
void case_attention_decode_alone(struct operations *ops);
void case_attention_decode_many(struct operations *ops);
void case_attention_pages_copy(struct operations *ops);
void case_attention_slots_extend(struct operations *ops);
void case_attention_window_float32(struct operations *ops);
void case_attention_window_bfloat16(struct operations *ops);
void case_attention_window_cuts(struct operations *ops);
void case_attention_window_prompts(struct operations *ops);
void case_attention_window_decode(struct operations *ops);
void case_attention_window_nan(struct operations *ops);
void case_attention_softcap(struct operations *ops);
void case_attention_norms(struct operations *ops);
void case_sample_greedy(struct operations *ops);
void case_sample_penalties(struct operations *ops);
void case_sample_restricted(struct operations *ops);
void case_sample_large_vocabulary(struct operations *ops);
void case_sample_largest_vocabulary(struct operations *ops);
void case_sample_chi_square(struct operations *ops);
void case_sample_rows_alone(struct operations *ops);
void case_sample_logprobs(struct operations *ops);
void case_head(struct operations *ops);
void case_head_softcap(struct operations *ops);
void case_head_large_vocabulary(struct operations *ops);
void case_head_lists(struct operations *ops);
void case_head_lists_ties(struct operations *ops);
void case_head_lists_small(struct operations *ops);
void case_head_refused(struct operations *ops);
void case_score_mixed(struct operations *ops);
void case_score_extremes(struct operations *ops);
void case_score_leaves_slot(struct operations *ops);
void case_score_prompts(struct operations *ops);
void case_score_refused(struct operations *ops);
void case_network(struct operations *ops);
void case_network_no_biases(struct operations *ops);
void case_network_wide(struct operations *ops);
void case_network_not_finite(struct operations *ops);
void case_network_rows_alone(struct operations *ops);
void case_faults(struct operations *ops);
void case_faults_large_vocabulary(struct operations *ops);

#endif
