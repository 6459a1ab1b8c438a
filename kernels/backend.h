/* backend: the only door between worker/ (decides what is computed) and kernels/ (computes it).
 *
 * A backend is a table of functions over opaque tensors, one function per fused operation. `cpu` runs
 * anywhere and is the reference; `cuda` does the same on an NVIDIA GPU; `fault` wraps another one and injects
 * failures for tests. Valid C11 and C++17.
 *
 * Threads: all calls on one backend come from one thread (the engine's). A backend may use threads inside.
 *
 * Numerics (DESIGN: a record never depends on its batch): every output row of every operation is computed in
 * an order that depends on shapes of the model and on the row's own position and phase (prompt or generated),
 * never on how many rows there are, which rows they are, or how a prompt was cut. A backend names its order
 * by numerics_class: results are bit-for-bit equal within a class.
 *
 * Order of calls:
 *
 *     backend_open, weight_new ..., weights_wait, state_init,
 *     { slots_begin*, slots_extend*, pages_copy*, step_begin, operations, step_end, step_wait }*, close
 *
 * Operations between step_begin and step_end are queued in order; they may still run when step_end returns.
 * A backend may compute several of them as one: where the operations of a step are a whole model, up to its
 * logits, what they hand to each other may stay out of the tensors named for it. Logits are always written.
 * Up to max_steps_in_flight steps may be queued before the oldest is waited for. */
#ifndef PRESSRUN_KERNELS_BACKEND_H
#define PRESSRUN_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- types ---- */

enum dtype { DTYPE_FLOAT32, DTYPE_BFLOAT16 };

static inline size_t dtype_bytes(enum dtype dtype) {
    return dtype == DTYPE_FLOAT32 ? 4 : 2;
}

/* A tensor in backend memory. Owned by the backend that made it; released with tensor_free or by close. */
struct tensor;

enum activation {
    ACTIVATION_NONE,
    ACTIVATION_GELU_TANH,
    ACTIVATION_SILU_GATED, /* silu(gate) * up, of a weight made by weight_pair_new; silu(x) = x / (1 + e^-x)
                            */
    ACTIVATION_GELU_TANH_GATED /* gelu(gate) * up, the same way */
};

enum norm_kind {
    NORM_LAYER, /* (x - mean) / sqrt(variance + epsilon) * weight + bias */
    NORM_RMS    /* x / sqrt(mean of x^2 + epsilon) * weight */
};

enum {
    PAGE_TOKENS = 32,          /* positions per KV page */
    DECODE_CHUNK_TOKENS = 256, /* a decode row reduces KV in chunks of this many absolute positions */
    MAX_LOGPROBS = 20,         /* most alternatives a record may ask for */
    MAX_GAPS = 200,            /* most gaps between steps that are kept to be read */
    SCRATCH_PAGE = 0           /* page that padding rows use; never given to a sequence */
};

/* What one slot (the place of one running sequence) samples with. Uploaded by slots_begin. */
struct slot_sampling {
    float temperature;        /* 0: greedy (the largest logit, ties to the lowest id) */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    int32_t top_k;            /* 0: off */
    float repetition_penalty; /* 1: off; divides positive, multiplies negative logits of seen tokens */
    float presence_penalty;   /* 0: off */
    float frequency_penalty;  /* 0: off */
    int32_t n_logprobs;       /* -1: none wanted; 0: the chosen token's; k: and the k best */
    uint64_t key;             /* Philox key of this sample (kernels/philox.h) */
};

/* A sequence takes a slot. The arrays are read during the call. */
struct slot_start {
    int32_t slot; /* [0, n_slots) */
    struct slot_sampling sampling;
    const int32_t *pages; /* [n_pages] page ids in order of position, each in [1, n_pages of the state) */
    int32_t n_pages;
    const int32_t *prompt; /* [n_prompt] token ids, for the penalties */
    int32_t n_prompt;
};

/* Further pages of a running sequence: entries [first_page, first_page + n_pages) of its slot's page table.
 * The array is read during the call. */
struct slot_extension {
    int32_t slot;
    int32_t first_page;
    const int32_t *pages; /* [n_pages] page ids, as in struct slot_start */
    int32_t n_pages;
};

/* Prompt rows of one sequence within a step: rows [row, row + n_rows) hold positions
 * [position, position + n_rows). */
struct segment {
    int32_t row;
    int32_t n_rows;
    int32_t slot;
    int32_t position;
};

/* One step: ragged arrays over its rows. Rows [0, n_decode) are generated positions, one per sequence (decode
 * kernels); rows [n_decode, n_rows) are prompt positions, grouped by segment (prefill kernels). A step that
 * has no segments may carry padding decode rows: slot n_slots, position 0, token 0 (see decode_rows below).
 * Entry r of the samples reads the hidden state of row sample_row[r] and samples the next token of
 * sample_slot[r]; two entries may read one row (n samples of one prompt). Padding entries have slot n_slots.
 */
struct batch {
    int32_t n_rows;
    int32_t n_decode;
    int32_t n_segments;
    int32_t n_samples;
    bool want_logprobs;             /* some sample of this step has n_logprobs >= 0 */
    const int32_t *token;           /* [n_rows] token id; -1: the token last sampled in the row's slot */
    const int32_t *position;        /* [n_rows] absolute position in the sequence */
    const int32_t *slot;            /* [n_rows] */
    const struct segment *segments; /* [n_segments] ascending by row, covering rows [n_decode, n_rows) */
    const int32_t *sample_row;      /* [n_samples] */
    const int32_t *sample_slot;     /* [n_samples] */
    const int32_t
        *sample_target; /* [n_samples] -1: sample; else a token id to be scored in place of sampling:
                           the result is its logprob, and the slot stays as it is. NULL: all -1 */
};

/* What came out of one entry of the samples. */
struct sample_result {
    int32_t token;       /* sampled id; undefined when fault_layer >= 0 */
    float logprob;       /* log-softmax of the token's raw logit, before penalties and temperature;
                            defined when the slot has n_logprobs >= 0 */
    int32_t fault_layer; /* -1: all finite. Else where the first non-finite value of the sequence, or of the
                            one that its prompt was computed for, was seen:
                            0 the embedding, 1..n_layers that layer's output, n_layers + 1 the logits */
    int32_t fault_position; /* position of that value */
};

/* The k best tokens of one entry: [MAX_LOGPROBS], best first, ties to the lowest id. */
struct sample_top {
    int32_t token[MAX_LOGPROBS];
    float logprob[MAX_LOGPROBS];
};

/* Everything the backend must hold besides weights: sized once, before the first step. */
struct state_limits {
    int32_t n_slots;            /* sequences that may run at once; slot n_slots is the scratch slot */
    int32_t n_pages;            /* KV pages, the scratch page included */
    int32_t max_pages_per_slot; /* ceil(max_model_len / PAGE_TOKENS) */
    int32_t max_rows;           /* rows of one step */
    int32_t max_segments;
    int32_t max_samples; /* entries of the samples of one step, padding included */
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t n_vocab;
    enum dtype kv_dtype;
};

/* Bytes of device memory that state_init allocates for limits (KV pages, page tables, token counts for the
 * penalties, step arrays and scratch). A pure function, the same for all backends; right within 1 %.
 * Returns 0 when a product does not fit size_t. */
size_t state_bytes(const struct state_limits *limits);

/* Where the time of steps goes, for benchmarks. */
enum operation {
    OPERATION_EMBED,
    OPERATION_NORM,
    OPERATION_MATMUL,
    OPERATION_HEAD, /* a matmul whose output is n_vocab wide */
    OPERATION_ATTENTION_DECODE,
    OPERATION_ATTENTION_PREFILL,
    OPERATION_SAMPLE,
    OPERATION_COUNT
};

/* What the device can do at best, as measured in this process. */
struct device_limits {
    double read_bytes_per_s; /* streaming reads from device memory, far beyond any cache */
    double flops;            /* multiply-adds of the dtype's matmul unit, counted twice, per second */
};

/* ---- operands of the operations ---- */

/* hidden[r, :] = scale * token_embedding[token[r], :] + position_embedding[position[r], :] for all rows of
 * the batch. position_embedding may be NULL. Clears the row's slot fault at position 0. */
struct embed_args {
    struct tensor *hidden;                   /* [max_rows, n_embd] float32 */
    const struct tensor *token_embedding;    /* weight [n_vocab, n_embd] */
    const struct tensor *position_embedding; /* weight [n_positions, n_embd], or NULL */
    float scale;                             /* of the token's embedding; 0 means 1 */
};

/* out[i, :] = the norm of hidden[row(i), :] over its features, or out[i, :] += that when accumulate. Mean and
 * variance, or mean of squares, in float32, partial sums over 64 consecutive features, combined in ascending
 * order. A non-finite sum is noted as the fault of the row's slot at `site` (struct
 * sample_result.fault_layer) unless an earlier position or site is noted already. */
struct norm_args {
    enum norm_kind kind;
    const struct tensor *hidden; /* [max_rows, n_embd] float32 */
    const struct tensor *weight; /* vector [n_embd] float32 */
    const struct tensor *bias;   /* vector [n_embd] float32, or NULL; NULL for NORM_RMS */
    struct tensor *out;          /* [>= n, n_embd] compute dtype; float32 when accumulate */
    float epsilon;
    bool accumulate;   /* out holds the residual stream, and is not hidden; for all rows alone */
    bool sampled_rows; /* false: i runs over all n_rows rows. true: i runs over n samples from
                          first_sample on, row(i) = sample_row[first_sample + i] */
    int32_t first_sample;
    int32_t n;
    int32_t site; /* 0..n_layers */
};

/* out[r, :] = activation(weight . in[r, :] + bias), or out[r, :] += that when accumulate (the residual).
 * softcap, without accumulate and activation: out[r, :] = softcap * tanh(that / softcap).
 * W.X^T with the weight as first operand; K in ascending order in float32, the same order for every n_rows.
 * A gated activation takes a weight made by weight_pair_new, no bias and no accumulate; n_out is then the
 * width of one of the pair.
 * sampled_rows says that this is the head: row r of out is the logits of entry first_sample + r, and nobody
 * but `sample`, later in the same step, reads them. A backend may then choose tokens from its sums and leave
 * the rows of those entries undefined; `sample` knows them. The token is the one that it would have chosen
 * from the logits. */
struct matmul_args {
    const struct tensor *weight; /* weight [n_out, n_in] compute dtype */
    const struct tensor *bias;   /* vector [n_out] float32, or NULL */
    const struct tensor *in;     /* [>= n_rows, n_in] compute dtype */
    struct tensor *out;          /* [>= n_rows, n_out] compute dtype, or float32 */
    int32_t n_rows;
    enum activation activation;
    bool accumulate; /* out is float32 and holds the residual stream */
    float softcap;   /* 0: none */
    bool sampled_rows;
    int32_t first_sample; /* with sampled_rows */
};

/* Attention over KV pages for one layer. First divides each head of q and k by the root of its mean square (+
 * norm_epsilon) and multiplies it by q_norm or k_norm, when there are such vectors: mean of squares in
 * float32, partial sums over 64 consecutive features in ascending order, the result kept in float32. Then
 * rotates q and k of its rows by their position when there is a rope table (RoFormer, Su et al. 2021, halves
 * paired as Hugging Face checkpoints expect: with c and s of pair i at the row's position, (x[i], x[i +
 * head_dim / 2]) becomes (x[i] c - x[i + head_dim / 2] s, x[i + head_dim / 2] c + x[i] s), in float32,
 * rounded to the compute dtype). Then appends K and V of its rows to their slots' pages, then out[r, h, :] =
 * softmax(scale * q[r, h, :] . K[0..position(r), h / group, :]) . V. softcap: each score s becomes softcap *
 * tanh(s / softcap) in front of the softmax. window: a row sees the positions (position(r) - window,
 * position(r)] alone; chunks and tiles stay at absolute positions. Decode: rows [0, n_decode), one position
 * each, chunks of DECODE_CHUNK_TOKENS absolute positions combined in index order. Prefill: the segments'
 * rows, causal, KV tiles at absolute positions ascending, all K and V read back from the pages. K and V
 * beyond a sequence's length count as zero whatever the page holds. */
struct attention_args {
    const struct tensor *qkv;    /* [max_rows, (n_heads + 2 n_kv_heads) head_dim] compute dtype: q, k, v */
    struct tensor *out;          /* [max_rows, n_heads head_dim] compute dtype */
    const struct tensor *rope;   /* [> every position, head_dim] float32: a row holds the cosines of the
                                    head_dim / 2 pairs, then their sines; or NULL: positions are not rotated */
    const struct tensor *q_norm; /* vector [head_dim] float32, or NULL */
    const struct tensor *k_norm; /* the same; both or neither */
    float norm_epsilon;
    int32_t layer;  /* [0, n_layers) */
    float scale;    /* usually 1 / sqrt(head_dim) */
    float softcap;  /* 0: none */
    int32_t window; /* positions that a row sees, its own included; 0: all */
};

/* Samples entries [first_sample, first_sample + n) of the batch. Row i of logits belongs to entry
 * first_sample + i. Order: penalties, temperature, top_k, top_p, min_p, then Gumbel-max over what is left
 * with Philox4x32-10 (key of the slot, counter = position of the new token, vocabulary index). Writes the
 * token as the slot's last token and counts it for the penalties. A row with a non-finite logit is never
 * sampled: fault. Non-finite means NaN or +-infinity in the raw logits. */
struct sample_args {
    const struct tensor *logits; /* [>= n, n_vocab] float32; rows of entries whose token a matmul of
                                    sampled_rows has chosen are not read */
    int32_t first_sample;
    int32_t n;
};

/* Where the rows of a matrix come from. The backend asks for each row at most once (and for every row, unless
 * it fails), in runs of its choice, from threads of its choice, several at once, and has them written to
 * where it wants them: so weights need no host memory of their own. */
struct row_source {
    /* Writes rows [first, first + n), dense, to `to`, which is aligned to 16 bytes. It cannot fail towards
     * the backend: who made the source learns by itself whether the rows were good. */
    void (*read)(void *argument, int64_t first, int64_t n, void *to);
    void *argument;
};

/* ---- the backend ---- */

struct backend_context; /* private to the backend */

struct backend {
    struct backend_context *context;
    const char *kind;            /* "cpu", "cuda" */
    char numerics_class[32];     /* "cpu-3", "cuda-mma-3-sm90": part of a job's identity */
    char device[128];            /* for people: "AMD EPYC, 2 threads, avx512_bf16"; "NVIDIA H100 80GB HBM3" */
    int32_t max_steps_in_flight; /* 1: step_end returns with the step done; 2: it runs beside the host */

    /* Releases everything. */
    void (*close)(struct backend_context *context);

    /* Free and total bytes of the memory that tensors live in. */
    enum status (*memory_info)(struct backend_context *context, size_t *free_bytes, size_t *total_bytes);

    /* ---- tensors: activations, row-major, and weights in whatever layout the backend likes ---- */

    /* A row-major tensor [rows, cols], contents undefined. */
    enum status (*tensor_new)(struct backend_context *context, enum dtype dtype, int64_t rows, int64_t cols,
                              struct tensor **out);
    /* A matmul weight [n_out, n_in], its rows in dtype from a source; also usable as embedding table. The
     * source may be read until weights_wait returns, whatever this call returns. The failure may be that of a
     * weight made before; no weight made so far is then of use. */
    enum status (*weight_new)(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                              struct row_source rows, struct tensor **out);
    /* One weight of two matrices [n_out, n_in], for a gated activation. */
    enum status (*weight_pair_new)(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                   int64_t n_in, struct row_source gate, struct row_source up,
                                   struct tensor **out);
    /* Returns when no source is read any more; on success, unless weight_new failed before, every weight is
     * in its place. Comes between weight_new and everything else that takes or frees the weight. */
    enum status (*weights_wait)(struct backend_context *context);
    /* A float32 vector [n] (bias, norm weight). */
    enum status (*vector_new)(struct backend_context *context, int64_t n, const float *host,
                              struct tensor **out);
    void (*tensor_free)(struct backend_context *context, struct tensor *tensor); /* NULL is fine */
    /* Host <-> row-major tensor, first rows; waits. Not within a step. */
    enum status (*tensor_write)(struct backend_context *context, struct tensor *tensor, int64_t rows,
                                const void *host);
    enum status (*tensor_read)(struct backend_context *context, const struct tensor *tensor, int64_t rows,
                               void *host);

    /* ---- state: KV pages, slots ---- */

    /* Allocates the state, once. STATUS_NO_FIT when memory is short. */
    enum status (*state_init)(struct backend_context *context, const struct state_limits *limits);
    /* How many decode rows (and samples) a step with n of them is launched with: n, or n rounded up to a size
     * that the backend has one recorded launch sequence for. Never above max(n, n_slots). */
    int32_t (*decode_rows)(struct backend_context *context, int32_t n);
    /* Sequences take slots, from the next step on. */
    enum status (*slots_begin)(struct backend_context *context, const struct slot_start *starts, int32_t n);
    /* Running sequences get further pages, from the next step on; nothing else of their slots changes. NULL
     * where the backend has none: then every sequence must get all its pages when it begins. */
    enum status (*slots_extend)(struct backend_context *context, const struct slot_extension *extensions,
                                int32_t n);
    /* Copies whole pages (all layers), pairs (source, destination): [n][2]. Ordered before the next step. */
    enum status (*pages_copy)(struct backend_context *context, const int32_t (*pairs)[2], int32_t n);

    /* ---- a step ---- */

    /* Takes a copy of the batch. *replayed true: the backend has this step's operations on record (same
     * shape, decode only) and queues them itself; the caller goes straight to step_end. */
    enum status (*step_begin)(struct backend_context *context, const struct batch *batch, bool *replayed);
    enum status (*embed)(struct backend_context *context, const struct embed_args *args);
    enum status (*norm)(struct backend_context *context, const struct norm_args *args);
    enum status (*matmul)(struct backend_context *context, const struct matmul_args *args);
    enum status (*attention_decode)(struct backend_context *context, const struct attention_args *args);
    enum status (*attention_prefill)(struct backend_context *context, const struct attention_args *args);
    enum status (*sample)(struct backend_context *context, const struct sample_args *args);
    /* Queues the step's results for the host. *ticket names the step. */
    enum status (*step_end)(struct backend_context *context, uint64_t *ticket);
    /* Waits for the step and copies its results: results [n_samples]; top [n_samples], or NULL when the batch
     * had want_logprobs false. Tickets are waited for in order, once each. A device fault shows here at the
     * latest. */
    enum status (*step_wait)(struct backend_context *context, uint64_t ticket, struct sample_result *results,
                             struct sample_top *top);

    /* Measures what this device can do at best, for floors: takes about a second and 1 GiB at most, released
     * again. */
    enum status (*measure_limits)(struct backend_context *context, enum dtype dtype,
                                  struct device_limits *limits);

    /* Device seconds of the operations since the last call, by enum operation [OPERATION_COUNT], all steps
     * waited for; goes_on: keep measuring. The first call begins. Steps may be slower meanwhile (operations
     * are launched one by one and timed), but compute the same. NULL where the backend cannot tell. */
    enum status (*profile)(struct backend_context *context, bool goes_on, double *seconds);

    /* Device seconds between two steps: from the end of the last kernel of one until a kernel has fetched the
     * arrays of the other, whose first operation may then start. Of the steps since the last call that only
     * decode, without the very first, oldest first: seconds [MAX_GAPS], of which *n are written; later ones
     * are not kept. All steps are waited for; goes_on: keep measuring. The first call begins. Steps run as
     * they do otherwise. NULL where the backend cannot tell. */
    enum status (*gaps)(struct backend_context *context, bool goes_on, double *seconds, int32_t *n);

    /* Counters since open, for tests and the summary: kernel launches (graph nodes included) of the last step
     * queued; 0 on backends without launches. */
    int64_t (*launches_per_step)(struct backend_context *context);
};

struct backend_options {
    int32_t n_threads;   /* cpu: 0 = one per processor that this process may use (host_info.h) */
    const char *cpu_isa; /* cpu: NULL or "auto", "avx512_bf16", "avx512", "avx2", "portable"; equal bits */
    int32_t cuda_device; /* cuda: ordinal */
    bool no_graphs;      /* cuda: launch each operation (for debugging and sanitizers) */
    bool no_network;     /* cuda: never compute a small model's step in one kernel (to compare the two) */
};

/* Opens a backend by name: "cpu" or "cuda". STATUS_NO_DEVICE names what is missing (no driver, no GPU, built
 * without CUDA, GPU too old). NULL options: all defaults. On failure *out is zeroed. */
enum status backend_open(const char *name, const struct backend_options *options, struct backend *out);

enum status backend_open_cpu(const struct backend_options *options, struct backend *out);
enum status backend_open_cuda(const struct backend_options *options, struct backend *out);

#ifdef __cplusplus
}
#endif
#endif
