/* network: a decode step of a small model as one kernel. network.cu is the kernel, network_plan.cu finds out
 * which steps it can take. Private to both, step.cu, and the operations that a plan takes in. */
#ifndef PRESSRUN_KERNELS_CUDA_NETWORK_CUH
#define PRESSRUN_KERNELS_CUDA_NETWORK_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/weight_layout.h"

enum {
    NETWORK_CLUSTER = 16, /* blocks that compute one group of rows */
    NETWORK_HEAD_DIM = 64,
    NETWORK_MAX_HEADS = 8,
    NETWORK_MAX_WIDTH = NETWORK_MAX_HEADS * NETWORK_HEAD_DIM,
    NETWORK_MAX_LAYERS = 32,
    NETWORK_MAX_SAMPLES = 128,
    NETWORK_TILE = 16,                                                        /* outputs of a warp */
    NETWORK_MAX_TILES = 8,                                                    /* of one matrix and block */
    NETWORK_MAX_OUTPUTS = NETWORK_CLUSTER * NETWORK_MAX_TILES * NETWORK_TILE, /* of a matrix */
    NETWORK_MAX_ROWS = 16,                                                    /* of a cluster */
};

/* Weights are read again in every step by every cluster, out of the L2 cache; an H100 has 50 MiB of it. */
static constexpr size_t NETWORK_MAX_WEIGHT_BYTES = (size_t)32 << 20;

struct network_matrix {
    const unsigned char *weight; /* weight_layout.h */
    const float *bias;           /* [n_out] float32, or NULL */
};

struct network_norm {
    const float *weight; /* [width] float32 */
    const float *bias;   /* the same, or NULL */
};

/* A norm, what it feeds, and the projection back to the residual stream. Half 2 i is the attention of layer
 * i, half 2 i + 1 its MLP, and behind the last one comes the head, which has no second matrix. */
struct network_half {
    struct network_norm norm;
    struct network_matrix first;  /* qkv [3 width, width], up [inner, width] or head [n_vocab, width] */
    struct network_matrix second; /* [width, width] or [width, inner] */
};

/* Byte offsets of what a block holds in its dynamic shared memory. */
struct network_space {
    int32_t ring_slots;
    bool reaches_next; /* the ring holds a block's part of any matrix and the first pieces of the next one */
    int32_t ring;      /* [ring_slots] of two slices of a weight block, first one k block, then the next */
    int32_t hidden;    /* [rows, width] float32: the residual stream of the cluster's rows */
    int32_t normed;    /* [rows, width] bfloat16 */
    int32_t attended;  /* [rows, width] bfloat16 */
    int32_t inner;     /* [rows, inner] bfloat16 */
    int32_t items;     /* [rows / 2] of q, k, v [head_dim] bfloat16: what attention of this block works on */
    int32_t sums;      /* struct network_sums */
    int32_t scratch;   /* a piece for each consumer warp */
    int32_t bytes;
};

struct network_params {
    int32_t n_rows;
    int32_t rows_each; /* rows of a cluster; the last one may have fewer */
    int32_t n_samples;
    int32_t n_layers;
    int32_t n_heads;
    int32_t width;
    int32_t inner;
    int32_t n_vocab; /* outputs of the head */
    enum norm_kind norm_kind;
    float epsilon;
    struct network_space space;
    /* embed.cu */
    const void *token_table;
    const void *position_table;
    int32_t n_token_rows;
    int32_t n_position_rows;
    float embedding_scale;
    const int32_t *token;      /* [n_rows] */
    const int32_t *last_token; /* [n_slots + 1] */
    unsigned long long *fault; /* [n_slots + 1] */
    /* the head */
    const int32_t *sample_row; /* [n_samples] */
    float *logits;             /* [n_samples, n_vocab] float32 */
    int64_t logits_stride;
    /* positions, slots, pages; its layer is not set */
    struct attention_params attention;
    struct network_half halves[2 * NETWORK_MAX_LAYERS + 1];
};
static_assert(sizeof(struct network_params) <= 4096, "a kernel's parameters");

/* ---- network.cu ---- */

/* Clusters that run at once on this device; 0 where they do not fit. */
int32_t network_clusters(const struct backend_context *context);

/* Rows that a step may have on this device, of a model of p's width, inner and n_vocab; 0: it is too wide. */
int32_t network_most_rows(const struct backend_context *context, const struct network_params *p);

/* Queues the kernel. p: all but rows_each and space. */
enum status network_launch(struct backend_context *context, struct network_params *p);

/* ---- network_plan.cu ---- */

/* Between step_begin and the first operation: whether this step's operations are taken in. */
void network_plan_begin(struct backend_context *context);

/* Takes an operation in (*taken), or queues all that were taken in and takes no more. Operands are checked.
 */
enum status network_plan_embed(struct backend_context *context, const struct embed_args *args, bool *taken);
enum status network_plan_norm(struct backend_context *context, const struct norm_args *args, bool *taken);
enum status network_plan_matmul(struct backend_context *context, const struct matmul_args *args, bool *taken);
enum status network_plan_attention(struct backend_context *context, const struct attention_args *args,
                                   bool *taken);

/* Queues what was taken in: as one kernel where it is a whole network, else one by one. */
enum status network_plan_flush(struct backend_context *context);

/* Forgets what was taken in. */
void network_plan_abandon(struct backend_context *context);

/* Whether the step that has begun will be one kernel, as far as the last one tells. */
bool network_plan_expects_one(const struct backend_context *context);

/* context->has_wgmma is set. */
enum status network_plan_open(struct backend_context *context);
void network_plan_close(struct backend_context *context);

#endif
