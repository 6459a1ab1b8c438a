/* context: what the CUDA backend holds, and what its operations share. Private to kernels/cuda (and
 * kernels/bench).
 *
 * Layout of tensors: row-major, each row zero-padded to a multiple of 16 bytes, so that rows can be read in
 * 16-byte vectors whatever their width, and products over the padding add exact zeros.
 *
 * One stream carries everything. Launchers never synchronise. All kernels of a step may be launched with
 * programmatic dependent launch, so each executes ptx_wait_for_previous_kernels() before it reads what
 * another kernel writes (weights and vectors are never written by kernels) and before it writes anything.
 * The first operation of a step is launched without it, so whatever was queued before is complete when any
 * of its kernels starts: the step's arrays, page tables, and K and V of earlier steps may be read before the
 * wait (attention.cu does). Only network.cu, which reads them behind its wait, follows the arrays at once. */
#ifndef PRESSRUN_KERNELS_CUDA_CONTEXT_CUH
#define PRESSRUN_KERNELS_CUDA_CONTEXT_CUH

#include <cuda_runtime.h>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/backend.h"
#include "kernels/kv_layout.h"
#include "kernels/state_layout.h"
#include "kernels/tensor.h"

enum {
    RING_ENTRIES = 4, /* pinned buffers of steps and results: more than steps in flight */
    STEPS_IN_FLIGHT = 2,
    MAX_GRAPHS = 256,          /* recorded steps; all are dropped when one more is wanted */
    PREFILL_STRIP_ROWS = 64,   /* prompt rows of one segment and query head that attention takes together */
    PREFILL_MAX_CONSUMERS = 4, /* strips that a block works on at once, at most */
    MAX_HEAD_DIM = 256,
    HEAD_LEAST_VOCABULARY = 2049, /* with fewer, logits are small beside all else and are always written */
    MAX_NORM_WIDTH = 16384
};

static constexpr unsigned long long NO_FAULT = ~0ull;

/* What the head does with a row of logits (head.cuh). */
enum head_end {
    HEAD_WRITES, /* writes it, for `sample` */
    HEAD_LISTS,  /* the same, and the largest logit of each group of neighbouring tokens: top_k needs few of
                    the groups */
    HEAD_GREEDY, /* chooses the largest */
    HEAD_DRAWS,  /* chooses at a temperature, with no other setting */
    HEAD_SKIPS   /* padding */
};

/* One entry of the samples as the head sees it. */
struct alignas(16) head_entry {
    unsigned long long best; /* the best candidate so far (candidate.cuh); 0 at the start of every step. Of a
                                row that is written it stays 0 */
    uint64_t key;
    float temperature;
    int32_t position; /* of the new token */
    enum head_end end;
};

enum {
    HEAD_GROUP = 32,        /* tokens of a group that the head takes together */
    HEAD_NARROW_GROUP = 16, /* the same, in tiles of fewer than 64 rows, which must hold all rows */
    HEAD_NARROW_ROWS = 32,
    HEAD_MOST_LISTED = 256 /* largest top_k of HEAD_LISTS */
};

static_assert((int)HEAD_GROUP == (int)MAXIMA_GROUP &&
                  (int)HEAD_NARROW_ROWS * (int)HEAD_GROUP <= (int)MAXIMA_LEAST_ROWS * (int)HEAD_NARROW_GROUP,
              "the state has room for what a head lists");

/* Tokens of a group, where the head ends so many rows of a tile together. */
static __host__ __device__ constexpr int head_group_tokens(int rows) {
    return rows > HEAD_NARROW_ROWS ? HEAD_GROUP : HEAD_NARROW_GROUP;
}

/* Groups of a row, the last of which may have fewer tokens. */
static __host__ __device__ constexpr int head_groups(int n_vocab, int group) {
    return (n_vocab + group - 1) / group;
}

/* Elements between the groups of two rows: whole 16-byte vectors. Twice as many for narrow groups. */
static __host__ __device__ constexpr int head_groups_stride(int n_vocab, int group) {
    return (head_groups(n_vocab, HEAD_GROUP) + 3) / 4 * 4 * (HEAD_GROUP / group);
}

/* The arrays of the running step, at device addresses that depend on its row, sample and tile counts alone,
 * so a recorded step finds them in place. */
struct step_view {
    int32_t n_rows;
    int32_t n_decode;
    int32_t n_samples;
    int32_t n_tiles;
    bool want_logprobs;
    const int32_t *ring;          /* [1] entry of the result ring that this step writes */
    const int32_t *token;         /* [n_rows] */
    const int32_t *position;      /* [n_rows] */
    const int32_t *slot;          /* [n_rows] */
    const int32_t *sample_row;    /* [n_samples] */
    const int32_t *sample_slot;   /* [n_samples] */
    const int32_t *sample_target; /* [n_samples]; NULL: all entries are sampled */
    struct head_entry *head;      /* [n_samples]; NULL: the head writes all logits */
    bool head_writes;             /* of some entry: HEAD_WRITES. Always, when head is NULL */
    bool head_lists;              /* of some entry: HEAD_LISTS */
    int32_t head_first;           /* the last matmul of sampled rows that ended as head says was of entries */
    int32_t head_end;             /* [head_first, head_end) */
    int32_t head_group;           /* tokens of its groups */
    const struct segment *tiles;  /* [n_tiles] segments cut into at most prefill_tile_rows rows, those
                                     with most keys first */
};

/* Device memory that outlives steps, carved from one allocation. */
struct state_view {
    void *k;                        /* kv_layout.h, kv dtype */
    void *v;                        /* kv_layout.h, kv dtype */
    int32_t *page_table;            /* [n_slots + 1, max_pages_per_slot] */
    uint32_t *counts;               /* [n_slots + 1, n_vocab] bit 31: in the prompt; below: times sampled */
    struct slot_sampling *sampling; /* [n_slots + 1] */
    int32_t *last_token;            /* [n_slots + 1] */
    unsigned long long *fault;      /* [n_slots + 1] smallest (position << 32 | site), or NO_FAULT */
    float *partials;    /* [max_decode_rows, n_heads, max_chunks, head_dim + 2]: o, maximum, sum */
    uint32_t *arrivals; /* [max_decode_rows, n_heads] blocks of attention that have written partials; 0
                           between kernels. An allocation of its own */
    float *maxima;      /* [max_samples, head_groups_stride(n_vocab, HEAD_GROUP)], or as many narrow groups of
                           HEAD_NARROW_ROWS: the largest logit of each group, of the rows of the last head */
    uint32_t *prefill_next;  /* [1] how many items of prefill attention have been taken */
    int32_t *prefill_handed; /* [n_multiprocessors, PREFILL_MAX_CONSUMERS] items that blocks are working on */
    unsigned char *step;     /* the arrays of step_view */
};

struct recorded_step {
    int32_t n_rows;
    int32_t n_samples;
    bool want_logprobs;
    bool head_writes; /* of step_view */
    bool head_lists;
    int64_t n_launches;
    cudaGraphExec_t exec; /* NULL: seen once, recorded when it comes again */
};

/* How the operations between step_begin and step_end reach the device. */
enum step_mode { STEP_NONE, STEP_LAUNCH, STEP_RECORD, STEP_REPLAY };

struct backend_context {
    int device;
    int n_multiprocessors;
    int compute_capability;  /* 90 for 9.0 */
    size_t max_shared_bytes; /* of a block */
    bool dependent_launch;   /* kernels may be launched before the previous one is complete */
    bool has_wgmma;          /* compute capability 9.0, and this program holds code for it */
    void *tensor_map_encode; /* the driver's cuTensorMapEncodeTiled; set when has_wgmma */
    bool no_graphs;
    bool no_network;
    int32_t network_clusters;  /* network.cu: clusters that run at once; 0: none, -1: not known yet */
    struct network_plan *plan; /* network_plan.cu; NULL: operations are queued one by one */
    cudaStream_t stream;
    struct tensor *tensors;         /* list head */
    struct weight_staging *staging; /* weights.cu; NULL when no weight is being made */
    bool weights_pending;           /* weights were made, and weights_wait has not been called since */

    bool has_state;
    struct state_limits limits;
    struct kv_layout layout;
    int32_t max_chunks; /* DECODE_CHUNK_TOKENS chunks of the longest sequence */
    int32_t max_decode_rows;
    int32_t prefill_tile_rows; /* of a tile of step_view: a multiple of PREFILL_STRIP_ROWS */
    struct state_view state;
    struct head_entry *slot_head; /* [n_slots + 1] host memory: what slots_begin said, but for the position;
                                     NULL: the head writes all logits */
    void *arena;                  /* device memory behind state, its step arrays excepted */
    unsigned char *pinned;        /* host memory behind the rings below */
    size_t step_bytes;            /* one ring entry of step arrays */
    size_t staging_bytes;
    unsigned char *pinned_step;             /* [RING_ENTRIES][step_bytes] */
    const unsigned char *step_device;       /* the same, as kernels address it */
    unsigned char *pinned_staging;          /* [RING_ENTRIES][staging_bytes] for slots_begin and pages_copy */
    cudaEvent_t staging_done[RING_ENTRIES]; /* the upload from that entry is complete */
    uint64_t n_stagings;
    struct sample_result *results;        /* [RING_ENTRIES][max_samples] */
    struct sample_top *top;               /* [RING_ENTRIES][max_samples] */
    struct sample_result *results_device; /* the same, as kernels address it */
    struct sample_top *top_device;
    cudaEvent_t step_done[RING_ENTRIES];
    int32_t ring_samples[RING_ENTRIES]; /* samples of the step in that entry */
    bool ring_logprobs[RING_ENTRIES];

    uint64_t n_steps;  /* steps queued: the last ticket */
    uint64_t n_waited; /* steps waited for */
    enum step_mode mode;
    struct step_view step;
    struct recorded_step *recorded; /* entry of graphs that the running step uses */
    struct recorded_step graphs[MAX_GRAPHS];
    int32_t n_graphs;
    struct profile *profile; /* profile.cu; NULL: operations are not timed */
    struct gaps *gaps;       /* gaps.cu; NULL: the time between steps is not measured */
    bool chained;            /* the last thing queued, but for a step's event, is a kernel of a step */
    int64_t n_launches;      /* kernels of the running step */
    int64_t n_launches_last;
};

/* Turns a CUDA error into a status whose message names the operation. */
enum status cuda_check(cudaError_t error, const char *operation);

#define TRY_CUDA(call, operation) TRY(cuda_check((call), (operation)))

/* Elements between the starts of two rows. */
static inline int64_t tensor_stride(const struct tensor *tensor) {
    int64_t vector = tensor->dtype == DTYPE_FLOAT32 ? 4 : 8;
    return (tensor->cols + vector - 1) / vector * vector;
}

static inline int32_t ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

/* How the head ends a row of a slot that samples so; position and best are 0. */
struct head_entry cuda_head_entry(const struct slot_sampling *sampling, int32_t n_vocab);

/* Refuses a launch outside a step, and turns a replay back into launches when the caller queues operations
 * itself. */
enum status cuda_operation_begin(struct backend_context *context, const char *operation);

/* Launches a kernel of a step on the stream, in clusters of `cluster` neighbouring blocks. */
template <typename... Parameters, typename... Arguments>
static enum status cuda_launch_clusters(struct backend_context *context, const char *operation,
                                        void (*kernel)(Parameters...), dim3 grid, unsigned block,
                                        size_t shared_bytes, unsigned cluster, Arguments &&...arguments) {
    if (shared_bytes > 48 * 1024)
        TRY_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes),
                 operation);
    cudaLaunchAttribute attributes[2] = {};
    unsigned n_attributes = 0;
    if (context->dependent_launch && context->chained) {
        attributes[n_attributes].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[n_attributes++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[n_attributes].id = cudaLaunchAttributeClusterDimension;
        attributes[n_attributes++].val.clusterDim = {cluster, 1, 1};
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(block);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = context->stream;
    config.attrs = attributes;
    config.numAttrs = n_attributes;
    TRY_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), operation);
    context->chained = true;
    context->n_launches++;
    return STATUS_OK;
}

/* The same without clusters. */
template <typename... Parameters, typename... Arguments>
static enum status cuda_launch(struct backend_context *context, const char *operation,
                               void (*kernel)(Parameters...), dim3 grid, unsigned block, size_t shared_bytes,
                               Arguments &&...arguments) {
    return cuda_launch_clusters(context, operation, kernel, grid, block, shared_bytes, 1,
                                std::forward<Arguments>(arguments)...);
}

/* Launches a kernel outside of steps. Blocks and threads in one dimension, no dynamic shared memory. */
template <typename... Parameters, typename... Arguments>
static cudaError_t cuda_start(struct backend_context *context, void (*kernel)(Parameters...), int blocks,
                              int threads, Arguments &&...arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3((unsigned)threads);
    config.stream = context->stream;
    context->chained = false;
    return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

/* Queues the current step's operations; one launcher per file of the same stem. */
enum status cuda_embed(struct backend_context *context, const struct embed_args *args);
enum status cuda_norm(struct backend_context *context, const struct norm_args *args);
enum status cuda_matmul(struct backend_context *context, const struct matmul_args *args);
enum status cuda_attention_decode(struct backend_context *context, const struct attention_args *args);
enum status cuda_attention_prefill(struct backend_context *context, const struct attention_args *args);
enum status cuda_sample(struct backend_context *context, const struct sample_args *args);
enum status cuda_measure_limits(struct backend_context *context, enum dtype dtype,
                                struct device_limits *limits);

/* Prompt rows of a tile, by the kernel that takes them; limits are set. */
int32_t attention_prefill_tile_rows(const struct backend_context *context);

/* Whether attention has kernels for this shape on this device; the message names what it has. */
enum status cuda_attention_supports(const struct backend_context *context, const struct state_limits *limits);

/* weights.cu: matrices from their sources, in the layout that the kernels read. */
enum status cuda_weight_new(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                            struct row_source rows, struct tensor **out);
enum status cuda_weight_pair_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                 int64_t n_in, struct row_source gate, struct row_source up,
                                 struct tensor **out);
enum status cuda_weights_wait(struct backend_context *context);
/* Ends the upload threads and gives back their memory, which the next weight allocates again. */
void cuda_weights_done(struct backend_context *context);

/* backend_cuda.cu: a zeroed tensor of `bytes`, whose data weights.cu fills. */
enum status cuda_tensor_allocate(struct backend_context *context, enum tensor_kind kind, enum dtype dtype,
                                 int64_t rows, int64_t cols, size_t bytes, struct tensor **out);
void cuda_tensor_free(struct backend_context *context, struct tensor *tensor);

/* profile.cu: device time by operation. Replaces the operations of the table by ones that are timed. */
enum status cuda_profile(struct backend_context *context, bool goes_on, double *seconds);
void cuda_profile_wrap(struct backend *backend);
void cuda_profile_close(struct backend_context *context);

/* gaps.cu: device time between steps. Told when the fetch of a step's arrays is queued, and when a step came
 * back; nothing happens unless it is measured. */
enum status cuda_gaps(struct backend_context *context, bool goes_on, double *seconds, int32_t *n);
enum status cuda_gaps_fetched(struct backend_context *context, int entry, bool only_decodes);
enum status cuda_gaps_add(struct backend_context *context, uint64_t ticket);
void cuda_gaps_close(struct backend_context *context);

/* slots.cu: sequences take slots, pages are copied. */
enum status cuda_slots_begin(struct backend_context *context, const struct slot_start *starts, int32_t n);
enum status cuda_slots_extend(struct backend_context *context, const struct slot_extension *extensions,
                              int32_t n);
enum status cuda_pages_copy(struct backend_context *context, const int32_t (*pairs)[2], int32_t n);

/* step.cu: a step from its arrays to its results. */
int32_t cuda_decode_rows(struct backend_context *context, int32_t n);
enum status cuda_step_begin(struct backend_context *context, const struct batch *batch, bool *replayed);
enum status cuda_step_end(struct backend_context *context, uint64_t *ticket);
enum status cuda_step_wait(struct backend_context *context, uint64_t ticket, struct sample_result *results,
                           struct sample_top *top);
/* Forgets a step that was begun and not ended. */
void cuda_step_abandon(struct backend_context *context);
/* Drops all recorded steps: their tensors may be gone. */
void cuda_graphs_drop(struct backend_context *context);

#endif
