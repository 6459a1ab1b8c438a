/* isa: the kernels that are compiled once per instruction set, as one table per set.
 *
 * Each works on a range of one operation and knows nothing of threads, slots' books or errors: the file of
 * the operation (matmul.c, norm.c, attention.c, sample.c) checks its arguments, divides the work and calls in
 * here. All tables give equal bits. Adding a kernel: its prototype here, its body in the isa_*.c file of its
 * operation, its line in isa_table.c. */
#ifndef PRESSRUN_KERNELS_CPU_ISA_H
#define PRESSRUN_KERNELS_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

enum {
    PANEL_OUTPUTS = 16, /* outputs per panel of a packed weight */
    PANEL_STEP = 4,     /* panels that matmul_panels works on together: the best grain to divide by */
    NORM_CHUNK = 64,    /* features per partial sum */
    MAX_HEAD_DIM = 256, /* queries and accumulators of attention live on the stack */
    PREFILL_BLOCK = 24, /* most query rows that one call of attention_prefill_block takes */
    LOGIT_BLOCK = 64    /* logits per entry of sample_block_maxima and per partial sum */
};

/* A packed weight is panels of PANEL_OUTPUTS outputs, zero beyond n_out, each a run of cache lines: float32
 * [n_in][16]; bfloat16 [ceil(n_in / 2)][16][2], where a pair holds the odd k in front of the even one (that
 * is, in the lower half of 32 bits) and zero for a k that an odd n_in lacks. That is how the dot product of
 * AVX512-BF16 wants it: it adds the product of the upper halves first, so k ascends. */
static inline int64_t panel_lines(enum dtype dtype, int64_t n_in) {
    return dtype == DTYPE_BFLOAT16 ? (n_in + 1) / 2 : n_in;
}

enum { PANEL_LINE_BYTES = 64 };

/* Where the weight of output `lane` of a panel and input k lies in it, in elements. */
static inline int64_t panel_element(enum dtype dtype, int64_t lane, int64_t k) {
    if (dtype == DTYPE_BFLOAT16)
        return (k & ~(int64_t)1) * PANEL_OUTPUTS + 2 * lane + (~k & 1);
    return k * PANEL_OUTPUTS + lane;
}

/* out = activation(weight . in + bias), or out += that. With a gated activation the weight is a pair, whose
 * panels take turns: the gate's first, the up's first, the gate's second, ... */
struct matmul_job {
    const void *weight; /* packed, [ceil(n_out / 16) (twice that for a pair)] panels of dtype */
    const float *bias;  /* [n_out] float32, or NULL */
    const void *in;     /* [n_rows, n_in] dtype */
    void *out;          /* [n_rows, n_out] out_dtype */
    int64_t n_out;
    int64_t n_in;
    int64_t n_rows;
    enum dtype dtype;
    enum dtype out_dtype;
    enum activation activation;
    bool accumulate;
    float softcap; /* 0: none */
};

/* One row of a norm. */
struct norm_job {
    enum norm_kind kind;
    const float *weight; /* [n] float32 */
    const float *bias;   /* [n] float32, or NULL */
    int64_t n;
    float epsilon;
    enum dtype out_dtype;
    bool accumulate; /* out, float32, += */
};

/* One (layer, key/value head) of the paged cache. On the CPU the keys of a page lie transposed,
 * [head_dim, PAGE_TOKENS], so that lanes run over keys; its values lie [PAGE_TOKENS, head_dim]. */
struct kv_view {
    const void *keys; /* this layer's, from page 0 on */
    const void *values;
    const int32_t *pages; /* [...] the sequence's page table */
    int32_t n_kv_heads;
    int32_t head;
    int32_t head_dim;
    enum dtype dtype;
    float scale;
    float softcap; /* 0: none */
};

struct cpu_isa {
    const char *name;

    /* Panels [first, end) of a matmul, all rows; first is a multiple of PANEL_STEP. */
    void (*matmul_panels)(const struct matmul_job *job, int64_t first, int64_t end);

    /* in [n] float32 -> out [n] out_dtype; out may be in. False when a sum is not finite. */
    bool (*norm_row)(const struct norm_job *job, const float *in, void *out);

    /* n_queries (1..8) queries of one decode row that share a key/value head, against the positions
     * [first, end) of the chunk of DECODE_CHUNK_TOKENS that first lies in. queries [n_queries, head_dim]
     * float32. Writes partials: query i at partial + i * stride, each [head_dim] unnormalised values,
     * maximum, sum. */
    void (*attention_decode_chunk)(const struct kv_view *view, const float *queries, int32_t n_queries,
                                   int32_t first, int32_t end, float *partial, size_t stride);
    /* Combines n chunks' partials of one query in ascending order into out [head_dim] float32. */
    void (*attention_combine)(const float *partial, size_t stride, int32_t n, int32_t head_dim, float *out);
    /* n (1..PREFILL_BLOCK) consecutive prompt positions from position on, one head; each sees the last
     * `window` positions up to its own. queries [n, head_dim] float32 -> out [n, head_dim] float32. */
    void (*attention_prefill_block)(const struct kv_view *view, const float *queries, int32_t n,
                                    int32_t position, int32_t window, float *out);

    /* The largest of each LOGIT_BLOCK values; false when a value is not finite. maxima [ceil(n /
     * LOGIT_BLOCK)]. */
    bool (*sample_block_maxima)(const float *values, int64_t n, float *maxima);
    /* The sum of exp((values[i] - largest) * factor). */
    double (*sample_exp_sum)(const float *values, int64_t n, float largest, float factor);
    /* out[i] = exp((values[i] - largest) * factor). */
    void (*sample_exp)(const float *values, int64_t n, float largest, float factor, float *out);
    /* The id that maximises (values[i] - largest) * factor + gumbel(key, position, id), ties to the lowest
     * id, with id = ids[i], or i when ids is NULL. */
    int32_t (*sample_gumbel)(const float *values, const int32_t *ids, int64_t n, float largest, float factor,
                             uint64_t key, uint32_t position);
    /* How many values are at least bound; their indices and values are written in ascending order of index.
     */
    int64_t (*sample_gather)(const float *values, int64_t n, float bound, int32_t *ids, float *kept);
    /* n rounds of independent chains of what matmul_panels multiplies this dtype with: what the processor can
     * do at best. Returns how many multiply-adds that were; *sink takes what was computed. */
    int64_t (*fma_rounds)(enum dtype dtype, int64_t n, float factor, float *sink);
    /* ln x, for positive normal x. */
    float (*log)(float x);
};

/* The table for a name ("avx512_bf16", "avx512", "avx2", "portable"; NULL or "auto": the best that this
 * processor runs). STATUS_NO_DEVICE: no such table, a processor without it, or one whose bfloat16 dot product
 * gives other sums. */
enum status cpu_isa_find(const char *name, const struct cpu_isa **out);

#endif
