/* context: what one open CPU backend holds, and its operations. Private to kernels/cpu.
 *
 * Operations run when they are called and return when they are done; each divides its work over n_threads by
 * itself. Work below SERIAL_WORK multiply-adds runs on the calling thread: waking others costs more. Neither
 * changes a bit of a result. */
#ifndef PRESSRUN_KERNELS_CPU_CONTEXT_H
#define PRESSRUN_KERNELS_CPU_CONTEXT_H

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"
#include "kernels/kv_layout.h"
#include "kernels/state_layout.h"
#include "kernels/tensor.h"

#define NO_FAULT UINT64_MAX

/* Bit of a token count that says that the token is in the prompt; the other bits count it in the output. */
#define TOKEN_IN_PROMPT 0x80000000u

/* One thread's room for sampling one row. */
struct sample_scratch {
    float *logits;  /* [n_vocab] after penalties */
    float *maxima;  /* [ceil(n_vocab / LOGIT_BLOCK)], twice */
    int32_t *ids;   /* [n_vocab] candidates */
    float *values;  /* [n_vocab] their logits */
    float *weights; /* [n_vocab] their unnormalised probabilities */
};

struct backend_context {
    const struct cpu_isa *isa;
    int n_threads;
    struct pool *pool; /* n_threads, this one among them */
    struct tensor *tensors;
    bool weights_pending; /* weights were made, and weights_wait has not been called since */

    /* The state; memory is NULL before state_init. */
    struct state_limits limits;
    struct state_layout layout;
    char *memory; /* [layout.total] */
    char *scratch_memory;
    struct sample_scratch *scratch; /* [n_threads] */
    struct kv_layout kv;
    char *keys; /* see kv_layout.h; one head's part of a page is transposed: isa.h */
    char *values;
    int32_t *page_table;            /* [n_slots + 1, max_pages_per_slot] */
    uint32_t *token_counts;         /* [n_slots + 1, n_vocab] */
    struct slot_sampling *sampling; /* [n_slots + 1] */
    int32_t *last_token;            /* [n_slots + 1] */
    _Atomic uint64_t *faults;       /* [n_slots + 1] position << 32 | layer, NO_FAULT for none */
    float *partials;                /* [max_decode_rows, n_heads, max_chunks, head_dim + 2] */

    /* The step. */
    struct batch batch; /* its arrays are copies in the state */
    bool in_step;
    uint64_t ticket;
    bool is_profiled;
    double seconds[OPERATION_COUNT]; /* while is_profiled */
    struct sample_result *results;   /* [max_samples] */
    struct sample_top *top;          /* [max_samples] */
};

/* profile.c: the operations, timed while the context is profiled. */
enum status cpu_timed_embed(struct backend_context *context, const struct embed_args *args);
enum status cpu_timed_norm(struct backend_context *context, const struct norm_args *args);
enum status cpu_timed_matmul(struct backend_context *context, const struct matmul_args *args);
enum status cpu_timed_attention_decode(struct backend_context *context, const struct attention_args *args);
enum status cpu_timed_attention_prefill(struct backend_context *context, const struct attention_args *args);
enum status cpu_timed_sample(struct backend_context *context, const struct sample_args *args);
enum status cpu_profile(struct backend_context *context, bool goes_on, double *seconds);

enum { SERIAL_WORK = 1 << 15 };

/* How many tasks to divide `work` multiply-adds over n items into: several for each thread, so that one which
 * comes late holds up little; never more than items. */
static inline int64_t context_tasks(const struct backend_context *context, int64_t n, int64_t work) {
    int64_t n_tasks = work < SERIAL_WORK || context->n_threads == 1 ? 1 : 4 * (int64_t)context->n_threads;
    return n < n_tasks ? n : n_tasks;
}

/* Notes a non-finite value; the smallest (position, layer) of a slot stays. Any thread. */
void cpu_note_fault(struct backend_context *context, int32_t slot, int32_t position, int32_t layer);

enum status cpu_embed(struct backend_context *context, const struct embed_args *args);
enum status cpu_norm(struct backend_context *context, const struct norm_args *args);
enum status cpu_matmul(struct backend_context *context, const struct matmul_args *args);
enum status cpu_attention_decode(struct backend_context *context, const struct attention_args *args);
enum status cpu_attention_prefill(struct backend_context *context, const struct attention_args *args);
enum status cpu_measure_limits(struct backend_context *context, enum dtype dtype,
                               struct device_limits *limits);
enum status cpu_sample(struct backend_context *context, const struct sample_args *args);

/* The packed form of a weight, [ceil(n_out / PANEL_OUTPUTS)] panels: isa.h. STATUS_NO_FIT. */
enum status cpu_weight_pack(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                            struct row_source rows, void *packed);
/* That of two, [ceil(n_out / PANEL_OUTPUTS), 2 (gate, up)] panels: a panel of each lies beside the other, so
 * their sums are in registers at once. */
enum status cpu_weight_pair_pack(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                 int64_t n_in, struct row_source gate, struct row_source up, void *packed);

/* Fails unless tensor is of a kind, a dtype (or any, < 0) and at least rows x cols. */
enum status cpu_tensor_check(const struct tensor *tensor, const char *operation, const char *name,
                             enum tensor_kind kind, int dtype, int64_t rows, int64_t cols);

#endif
