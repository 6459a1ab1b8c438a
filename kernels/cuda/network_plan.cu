/* network_plan: takes in the operations of a decode step of a small model, until they are a whole network
 * that network.cu computes in one kernel, or turn out not to be one; then they are queued one by one, as they
 * came.
 *
 * Operations are taken in from embed on, while they come in the order of a decoder's
 * (worker/model/decoder.c):
 *
 *     embed, { norm, qkv, attention, projection, norm, up, down } n_layers times, norm, head
 *
 * Their operands are checked when they come, so an error is that of its own operation. Sampling, the end of
 * the step, and whatever looks at tensors or gives them back, queues them first. */
#include <new>

#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/network.cuh"

namespace {

enum {
    LAYER_OPERATIONS = 7,
    HEAD_OPERATIONS = 2,
    EVERY_BLOCK = NETWORK_CLUSTER * NETWORK_TILE /* outputs from which on every block has a tile */
};

struct planned_operation {
    enum operation operation;
    union {
        struct embed_args embed;
        struct norm_args norm;
        struct matmul_args matmul;
        struct attention_args attention;
    };
};

/* What comes at place i, counted from embed. */
enum operation expected(int32_t i) {
    static const enum operation LAYER[LAYER_OPERATIONS] = {
        OPERATION_NORM,   OPERATION_MATMUL, OPERATION_ATTENTION_DECODE, OPERATION_MATMUL, OPERATION_NORM,
        OPERATION_MATMUL, OPERATION_MATMUL};
    return i == 0 ? OPERATION_EMBED : LAYER[(i - 1) % LAYER_OPERATIONS];
}

} // namespace

struct network_plan {
    bool takes;
    bool was_network; /* what was taken in last */
    int32_t n;        /* operations taken in */
    struct planned_operation operations[1 + NETWORK_MAX_LAYERS * LAYER_OPERATIONS + HEAD_OPERATIONS];
};

namespace {

/* ---- is it a network? ---- */

/* What the operations of a network have in common; the first one of each kind says what it is. */
struct reader {
    const struct backend_context *context;
    struct network_params *p;
    const struct tensor *hidden, *normed, *qkv, *attended, *inner;
    size_t weight_bytes;
};

const float *vector_of(const struct tensor *tensor) {
    return tensor ? static_cast<const float *>(tensor->data) : nullptr;
}

/* The first tensor of its kind, or the same again. */
bool same(const struct tensor **known, const struct tensor *tensor) {
    if (!*known)
        *known = tensor;
    return *known == tensor;
}

bool is_bfloat16(const struct tensor *tensor) {
    return tensor->dtype == DTYPE_BFLOAT16;
}

bool read_embed(reader *r, const struct embed_args &embed) {
    const struct tensor *tokens = embed.token_embedding, *positions = embed.position_embedding;
    if (!positions || !is_bfloat16(tokens))
        return false;
    r->hidden = embed.hidden;
    r->p->width = (int32_t)tokens->cols;
    r->p->token_table = tokens->data;
    r->p->position_table = positions->data;
    r->p->n_token_rows = (int32_t)tokens->rows;
    r->p->n_position_rows = (int32_t)positions->rows;
    r->p->embedding_scale = embed.scale == 0 ? 1.0f : embed.scale;
    return r->p->width % (2 * WEIGHT_BLOCK) == 0 && r->p->width <= NETWORK_MAX_WIDTH;
}

bool read_norm(reader *r, const struct norm_args &norm, int32_t site, struct network_norm *out) {
    if (site == 0)
        r->p->norm_kind = norm.kind, r->p->epsilon = norm.epsilon;
    *out = {vector_of(norm.weight), vector_of(norm.bias)};
    return norm.hidden == r->hidden && same(&r->normed, norm.out) && is_bfloat16(norm.out) &&
           norm.kind == r->p->norm_kind && norm.epsilon == r->p->epsilon && norm.site == site &&
           !norm.accumulate;
}

/* A matrix [n_out, n_in] for all rows. */
bool read_matmul(reader *r, const struct matmul_args &matmul, int64_t n_out, int64_t n_in, int32_t n_rows,
                 enum activation activation, bool accumulate, struct network_matrix *out) {
    const struct tensor *weight = matmul.weight;
    *out = {static_cast<const unsigned char *>(weight->data), vector_of(matmul.bias)};
    r->weight_bytes += weight->bytes;
    return is_bfloat16(weight) && weight->pair_rows == 0 && weight->rows == n_out && weight->cols == n_in &&
           n_out <= NETWORK_MAX_OUTPUTS && n_in % (2 * WEIGHT_BLOCK) == 0 && matmul.n_rows == n_rows &&
           matmul.activation == activation && matmul.accumulate == accumulate && matmul.softcap == 0;
}

bool read_attention(reader *r, const struct attention_args &attention, int32_t layer) {
    struct attention_params a =
        attention_params_for(const_cast<struct backend_context *>(r->context), &attention);
    if (layer == 0)
        r->p->attention = a;
    return !attention_is_general(a) && !a.rope && a.scale == r->p->attention.scale &&
           attention.layer == layer && is_bfloat16(attention.out) && attention.qkv == r->qkv &&
           same(&r->attended, attention.out);
}

bool read_layer(reader *r, const struct planned_operation *operation, int32_t layer) {
    struct network_params *p = r->p;
    struct network_half *attention = &p->halves[2 * layer], *mlp = attention + 1;
    const struct matmul_args &qkv = operation[1].matmul, &projection = operation[3].matmul;
    const struct matmul_args &up = operation[5].matmul, &down = operation[6].matmul;
    const int32_t n = p->n_rows;
    if (layer == 0)
        p->inner = (int32_t)up.weight->rows;
    return read_norm(r, operation[0].norm, layer, &attention->norm) && !operation[0].norm.sampled_rows &&
           read_matmul(r, qkv, 3 * p->width, p->width, n, ACTIVATION_NONE, false, &attention->first) &&
           qkv.in == r->normed && same(&r->qkv, qkv.out) && is_bfloat16(qkv.out) &&
           read_attention(r, operation[2].attention, layer) &&
           read_matmul(r, projection, p->width, p->width, n, ACTIVATION_NONE, true, &attention->second) &&
           projection.in == r->attended && projection.out == r->hidden &&
           read_norm(r, operation[4].norm, layer + 1, &mlp->norm) && !operation[4].norm.sampled_rows &&
           read_matmul(r, up, p->inner, p->width, n, ACTIVATION_GELU_TANH, false, &mlp->first) &&
           up.in == r->normed && same(&r->inner, up.out) && is_bfloat16(up.out) &&
           read_matmul(r, down, p->width, p->inner, n, ACTIVATION_NONE, true, &mlp->second) &&
           down.in == r->inner && down.out == r->hidden;
}

bool read_head(reader *r, const struct planned_operation *operation) {
    struct network_params *p = r->p;
    struct network_half *head_half = &p->halves[2 * p->n_layers];
    const struct norm_args &norm = operation[0].norm;
    const struct matmul_args &head = operation[1].matmul;
    p->n_vocab = (int32_t)head.weight->rows;
    p->logits = static_cast<float *>(head.out->data);
    p->logits_stride = tensor_stride(head.out);
    return read_norm(r, norm, p->n_layers, &head_half->norm) && norm.sampled_rows && norm.first_sample == 0 &&
           norm.n == p->n_samples &&
           read_matmul(r, head, p->n_vocab, p->width, p->n_samples, ACTIVATION_NONE, false,
                       &head_half->first) &&
           head.in == r->normed && head.out->dtype == DTYPE_FLOAT32;
}

/* Whether what was taken in is a network that the kernel computes; *p becomes its parameters. */
bool plan_read(const struct backend_context *context, struct network_params *p) {
    const struct network_plan *plan = context->plan;
    const struct state_limits *limits = &context->limits;
    const struct step_view *step = &context->step;
    *p = {};
    if (plan->n != 1 + limits->n_layers * LAYER_OPERATIONS + HEAD_OPERATIONS)
        return false;
    p->n_rows = step->n_rows;
    p->n_samples = step->n_samples;
    p->n_layers = limits->n_layers;
    p->n_heads = limits->n_heads;
    p->token = step->token;
    p->last_token = context->state.last_token;
    p->fault = context->state.fault;
    p->sample_row = step->sample_row;
    reader r = {};
    r.context = context, r.p = p;
    if (!read_embed(&r, plan->operations[0].embed) || p->width != limits->n_heads * NETWORK_HEAD_DIM)
        return false;
    for (int32_t layer = 0; layer < p->n_layers; layer++)
        if (!read_layer(&r, plan->operations + 1 + layer * LAYER_OPERATIONS, layer))
            return false;
    /* Every block has a tile of qkv and of up: network.cu. */
    return read_head(&r, plan->operations + 1 + p->n_layers * LAYER_OPERATIONS) &&
           3 * p->width >= EVERY_BLOCK && p->inner >= EVERY_BLOCK &&
           r.weight_bytes <= NETWORK_MAX_WEIGHT_BYTES && p->n_rows <= network_most_rows(context, p);
}

/* ---- taking in ---- */

/* Whether this step may become one kernel, as far as is known before its operations. Asks the device, which
 * loads the kernels, only where the model is small enough for them. */
bool step_fits(struct backend_context *context) {
    const struct state_limits *limits = &context->limits;
    const struct step_view *step = &context->step;
    if (context->profile || step->sample_target || step->n_rows == 0 || step->n_decode != step->n_rows ||
        step->n_samples == 0 || step->n_samples > NETWORK_MAX_SAMPLES || limits->kv_dtype != DTYPE_BFLOAT16 ||
        limits->head_dim != NETWORK_HEAD_DIM || limits->n_heads != limits->n_kv_heads ||
        limits->n_heads > NETWORK_MAX_HEADS || limits->n_layers > NETWORK_MAX_LAYERS)
        return false;
    if (context->network_clusters < 0)
        context->network_clusters = network_clusters(context);
    return step->n_rows <= context->network_clusters * NETWORK_MAX_ROWS;
}

/* The place for the operation that comes next, or NULL: nothing is taken in, or no longer. */
enum status plan_next(struct backend_context *context, enum operation operation,
                      struct planned_operation **out) {
    struct network_plan *plan = context->plan;
    *out = nullptr;
    if (!plan || !plan->takes)
        return STATUS_OK;
    if (operation != expected(plan->n) ||
        plan->n == 1 + context->limits.n_layers * LAYER_OPERATIONS + HEAD_OPERATIONS)
        return network_plan_flush(context);
    *out = plan->operations + plan->n++;
    (*out)->operation = operation;
    return STATUS_OK;
}

enum status queue(struct backend_context *context, const struct planned_operation &o) {
    switch (o.operation) {
    case OPERATION_EMBED:
        return cuda_embed(context, &o.embed);
    case OPERATION_NORM:
        return cuda_norm(context, &o.norm);
    case OPERATION_MATMUL:
        return cuda_matmul(context, &o.matmul);
    default: /* expected() has no other */
        return cuda_attention_decode(context, &o.attention);
    }
}

} // namespace

void network_plan_begin(struct backend_context *context) {
    if (!context->plan)
        return;
    context->plan->takes = step_fits(context);
    context->plan->n = 0;
}

void network_plan_abandon(struct backend_context *context) {
    if (!context->plan)
        return;
    context->plan->takes = false;
    context->plan->n = 0;
}

bool network_plan_expects_one(const struct backend_context *context) {
    return context->plan && context->plan->takes && context->plan->was_network;
}

enum status network_plan_flush(struct backend_context *context) {
    struct network_plan *plan = context->plan;
    if (!plan || !plan->takes)
        return STATUS_OK;
    struct network_params p;
    const bool is_network = plan_read(context, &p);
    plan->takes = false; /* what is queued below is not taken in again */
    if (plan->n > 0)     /* a replayed step takes nothing in */
        plan->was_network = is_network;
    if (is_network)
        return network_launch(context, &p);
    for (int32_t i = 0; i < plan->n; i++)
        TRY(queue(context, plan->operations[i]));
    return STATUS_OK;
}

enum status network_plan_embed(struct backend_context *context, const struct embed_args *args, bool *taken) {
    struct planned_operation *o;
    TRY(plan_next(context, OPERATION_EMBED, &o));
    *taken = o != nullptr;
    if (o)
        o->embed = *args;
    return STATUS_OK;
}

enum status network_plan_norm(struct backend_context *context, const struct norm_args *args, bool *taken) {
    struct planned_operation *o;
    TRY(plan_next(context, OPERATION_NORM, &o));
    *taken = o != nullptr;
    if (o)
        o->norm = *args;
    return STATUS_OK;
}

enum status network_plan_matmul(struct backend_context *context, const struct matmul_args *args,
                                bool *taken) {
    struct planned_operation *o;
    TRY(plan_next(context, OPERATION_MATMUL, &o));
    *taken = o != nullptr;
    if (o)
        o->matmul = *args;
    return STATUS_OK;
}

enum status network_plan_attention(struct backend_context *context, const struct attention_args *args,
                                   bool *taken) {
    struct planned_operation *o;
    TRY(plan_next(context, OPERATION_ATTENTION_DECODE, &o));
    *taken = o != nullptr;
    if (o)
        o->attention = *args;
    return STATUS_OK;
}

enum status network_plan_open(struct backend_context *context) {
    context->network_clusters = -1;
    if (!context->has_wgmma)
        return STATUS_OK;
    context->plan = new (std::nothrow) network_plan();
    RETURN_IF(!context->plan, STATUS_INTERNAL, "backend_open: out of host memory");
    return STATUS_OK;
}

void network_plan_close(struct backend_context *context) {
    delete context->plan;
    context->plan = nullptr;
}
