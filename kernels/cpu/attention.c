/* attention: normalises and rotates queries and keys, appends K and V to pages and divides the rows'
 * attention over threads; isa_attention.c has the arithmetic. Both phases read every key and value back from
 * the pages. */
#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/context.h"

#include <string.h>

/* A window beyond every position, small enough that sums with it fit 32 bits. */
enum { ALL_POSITIONS = 1 << 30 };

/* Sizes of one call, and where its operands lie. */
struct attention {
    struct backend_context *context;
    const struct attention_args *args;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t group; /* query heads per key/value head */
    int32_t head_dim;
    int64_t qkv_cols;  /* (n_heads + 2 n_kv_heads) head_dim */
    int64_t out_cols;  /* n_heads head_dim */
    const float *rope; /* [positions, head_dim] cosines, sines; or NULL */
    int32_t window;    /* positions that a row sees; ALL_POSITIONS without a window */
    int64_t n_tasks;   /* of the pool_run under way */
};

/* A rope table covers every position of the step's rows. */
static enum status check_rope(const struct attention *a, const char *name) {
    const struct batch *batch = &a->context->batch;
    int32_t longest = 0;
    for (int32_t r = 0; r < batch->n_rows; r++)
        longest = batch->position[r] > longest ? batch->position[r] : longest;
    RETURN_IF(a->head_dim % 2 != 0, STATUS_INTERNAL, "%s: a rope table for heads of %d, which is odd", name,
              a->head_dim);
    return cpu_tensor_check(a->args->rope, name, "rope", TENSOR_ROWS, DTYPE_FLOAT32, (int64_t)longest + 1,
                            a->head_dim);
}

static enum status attention_init(struct attention *a, struct backend_context *context,
                                  const struct attention_args *args, const char *name) {
    const struct state_limits *limits = &context->limits;
    RETURN_IF(!context->memory, STATUS_INTERNAL, "%s: called before state_init", name);
    RETURN_IF(args->layer < 0 || args->layer >= limits->n_layers, STATUS_INTERNAL,
              "%s: layer %d of a model that has %d", name, args->layer, limits->n_layers);
    *a = (struct attention){
        .context = context,
        .args = args,
        .n_heads = limits->n_heads,
        .n_kv_heads = limits->n_kv_heads,
        .group = limits->n_heads / limits->n_kv_heads,
        .head_dim = limits->head_dim,
        .qkv_cols = (int64_t)(limits->n_heads + 2 * limits->n_kv_heads) * limits->head_dim,
        .out_cols = (int64_t)limits->n_heads * limits->head_dim,
        .rope = args->rope ? args->rope->data : NULL,
        .window = args->window ? args->window : ALL_POSITIONS,
    };
    RETURN_IF(args->window < 0 || !(args->softcap >= 0), STATUS_INTERNAL,
              "%s: a window of %d positions and a soft cap of %g; both are at least 0", name, args->window,
              (double)args->softcap);
    RETURN_IF(!args->q_norm != !args->k_norm, STATUS_INTERNAL, "%s: q_norm and k_norm belong together", name);
    if (args->q_norm) {
        TRY(cpu_tensor_check(args->q_norm, name, "q_norm", TENSOR_VECTOR, DTYPE_FLOAT32, 1, a->head_dim));
        TRY(cpu_tensor_check(args->k_norm, name, "k_norm", TENSOR_VECTOR, DTYPE_FLOAT32, 1, a->head_dim));
    }
    if (args->rope)
        TRY(check_rope(a, name));
    TRY(cpu_tensor_check(args->qkv, name, "qkv", TENSOR_ROWS, -1, context->batch.n_rows, a->qkv_cols));
    return cpu_tensor_check(args->out, name, "out", TENSOR_ROWS, -1, context->batch.n_rows, a->out_cols);
}

/* n elements of a row tensor as float32. */
static void read_elements(const struct tensor *rows, int64_t element, int64_t n, float *out) {
    if (rows->dtype == DTYPE_FLOAT32) {
        memcpy(out, (const float *)rows->data + element, (size_t)n * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = bfloat16_to_float(((const uint16_t *)rows->data)[element + i]);
}

static void write_elements(struct tensor *rows, int64_t element, int64_t n, const float *in) {
    if (rows->dtype == DTYPE_FLOAT32) {
        memcpy((float *)rows->data + element, in, (size_t)n * sizeof *in);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        ((uint16_t *)rows->data)[element + i] = bfloat16_from_float(in[i]);
}

static const int32_t *slot_pages(const struct backend_context *context, int32_t slot) {
    return context->page_table + (int64_t)slot * context->limits.max_pages_per_slot;
}

static void rotate(const struct attention *a, int32_t row, float *out) {
    const int32_t half = a->head_dim / 2;
    const float *cosine = a->rope + (int64_t)a->context->batch.position[row] * a->head_dim;
    const float *sine = cosine + half;
    for (int32_t i = 0; i < half; i++) {
        float low = out[i], high = out[i + half];
        out[i] = low * cosine[i] - high * sine[i];
        out[i + half] = high * cosine[i] + low * sine[i];
    }
}

/* One head of a row of qkv, a query or a key, as float32: normalised by norm [head_dim] unless that is NULL,
 * rotated by its position, rounded to the compute dtype. */
static void read_prepared(const struct attention *a, const struct tensor *norm, int32_t row, int64_t element,
                          float *out) {
    read_elements(a->args->qkv, element, a->head_dim, out);
    if (norm) {
        struct norm_job job = {.kind = NORM_RMS,
                               .weight = norm->data,
                               .n = a->head_dim,
                               .epsilon = a->args->norm_epsilon,
                               .out_dtype = DTYPE_FLOAT32};
        a->context->isa->norm_row(&job, out, out); /* what is not finite is found further on */
    }
    if (a->rope)
        rotate(a, row, out);
    if ((norm || a->rope) && a->args->qkv->dtype == DTYPE_BFLOAT16)
        for (int32_t i = 0; i < a->head_dim; i++)
            out[i] = bfloat16_to_float(bfloat16_from_float(out[i]));
}

/* Writes one key/value head of a row to its page: the key as a column, the value as a row. */
static void append_head(const struct attention *a, int32_t row, int32_t kv_head) {
    struct backend_context *context = a->context;
    int32_t position = context->batch.position[row];
    int32_t page = slot_pages(context, context->batch.slot[row])[position / PAGE_TOKENS];
    int32_t in_page = position % PAGE_TOKENS;
    size_t key = kv_offset(context->kv, a->args->layer, page, kv_head, 0) + (size_t)in_page;
    size_t value = kv_offset(context->kv, a->args->layer, page, kv_head, in_page);
    int64_t key_in = row * a->qkv_cols + a->out_cols + (int64_t)kv_head * a->head_dim;
    int64_t value_in = key_in + (int64_t)a->n_kv_heads * a->head_dim;
    float k[MAX_HEAD_DIM], v[MAX_HEAD_DIM];
    read_prepared(a, a->args->k_norm, row, key_in, k);
    read_elements(a->args->qkv, value_in, a->head_dim, v);
    for (int32_t d = 0; d < a->head_dim; d++) {
        size_t key_out = key + (size_t)d * PAGE_TOKENS;
        if (context->limits.kv_dtype == DTYPE_FLOAT32) {
            ((float *)context->keys)[key_out] = k[d];
            ((float *)context->values)[value + (size_t)d] = v[d];
        } else {
            ((uint16_t *)context->keys)[key_out] = bfloat16_from_float(k[d]);
            ((uint16_t *)context->values)[value + (size_t)d] = bfloat16_from_float(v[d]);
        }
    }
}

static struct kv_view view_of(const struct attention *a, int32_t slot, int32_t kv_head) {
    const struct backend_context *context = a->context;
    size_t layer_bytes =
        kv_offset(context->kv, a->args->layer, 0, 0, 0) * dtype_bytes(context->limits.kv_dtype);
    return (struct kv_view){
        .keys = context->keys + layer_bytes,
        .values = context->values + layer_bytes,
        .pages = slot_pages(context, slot),
        .n_kv_heads = a->n_kv_heads,
        .head = kv_head,
        .head_dim = a->head_dim,
        .dtype = context->limits.kv_dtype,
        .scale = a->args->scale,
        .softcap = a->args->softcap,
    };
}

/* ---- decode ---- */

static size_t partial_stride(const struct attention *a) {
    return (size_t)a->context->layout.max_chunks * (size_t)(a->head_dim + 2);
}

/* The partials of chunk 0 of (row, head). */
static float *partial_of(const struct attention *a, int32_t row, int32_t head) {
    return a->context->partials + ((size_t)row * (size_t)a->n_heads + (size_t)head) * partial_stride(a);
}

/* The first position that a row sees. */
static int32_t first_visible(const struct attention *a, int32_t row) {
    int32_t position = a->context->batch.position[row];
    return position < a->window ? 0 : position + 1 - a->window;
}

/* The chunks that a row sees anything of: [first_chunk, end_chunk). */
static int32_t first_chunk(const struct attention *a, int32_t row) {
    return first_visible(a, row) / DECODE_CHUNK_TOKENS;
}

static int32_t end_chunk(const struct attention *a, int32_t row) {
    return a->context->batch.position[row] / DECODE_CHUNK_TOKENS + 1;
}

static void decode_chunk(const struct attention *a, int32_t row, int32_t kv_head, int32_t chunk) {
    enum { AT_ONCE = 8 };
    float queries[AT_ONCE * MAX_HEAD_DIM];
    struct kv_view view = view_of(a, a->context->batch.slot[row], kv_head);
    int32_t first = chunk * DECODE_CHUNK_TOKENS;
    int32_t end = a->context->batch.position[row] + 1;
    if (end > first + DECODE_CHUNK_TOKENS)
        end = first + DECODE_CHUNK_TOKENS;
    if (first < first_visible(a, row))
        first = first_visible(a, row);
    for (int32_t done = 0; done < a->group; done += AT_ONCE) {
        int32_t n = a->group - done < AT_ONCE ? a->group - done : AT_ONCE;
        int32_t head = kv_head * a->group + done;
        for (int32_t i = 0; i < n; i++)
            read_prepared(a, a->args->q_norm, row, row * a->qkv_cols + (int64_t)(head + i) * a->head_dim,
                          queries + i * a->head_dim);
        float *partial = partial_of(a, row, head) + (size_t)chunk * (size_t)(a->head_dim + 2);
        a->context->isa->attention_decode_chunk(&view, queries, n, first, end, partial, partial_stride(a));
    }
}

static void combine_heads(const struct attention *a, int32_t row, int32_t kv_head) {
    float out[MAX_HEAD_DIM];
    const size_t chunk_floats = (size_t)(a->head_dim + 2);
    int32_t first = first_chunk(a, row);
    for (int32_t head = kv_head * a->group; head < (kv_head + 1) * a->group; head++) {
        a->context->isa->attention_combine(partial_of(a, row, head) + (size_t)first * chunk_floats,
                                           chunk_floats, end_chunk(a, row) - first, a->head_dim, out);
        write_elements(a->args->out, row * a->out_cols + (int64_t)head * a->head_dim, a->head_dim, out);
    }
}

/* A padding row has no sequence: its output is zero, its pages stay as they are. */
static void zero_heads(const struct attention *a, int32_t row, int32_t kv_head) {
    size_t element = (size_t)(row * a->out_cols + (int64_t)kv_head * a->group * a->head_dim);
    size_t bytes = dtype_bytes(a->args->out->dtype);
    memset((char *)a->args->out->data + element * bytes, 0, (size_t)a->group * (size_t)a->head_dim * bytes);
}

static bool is_padding(const struct attention *a, int32_t row) {
    return a->context->batch.slot[row] == a->context->limits.n_slots;
}

/* Task: one chunk of one (row, key/value head). Only the last chunk of a row reads what is appended here, so
 * the thread that has it appends. */
static void decode_chunk_task(void *argument, int64_t task, int thread) {
    (void)thread;
    const struct attention *a = argument;
    int32_t chunk = (int32_t)(task % a->context->layout.max_chunks);
    int64_t pair = task / a->context->layout.max_chunks;
    int32_t row = (int32_t)(pair / a->n_kv_heads), kv_head = (int32_t)(pair % a->n_kv_heads);
    int32_t end = end_chunk(a, row);
    if (is_padding(a, row) || chunk < first_chunk(a, row) || chunk >= end)
        return;
    if (chunk == end - 1)
        append_head(a, row, kv_head);
    decode_chunk(a, row, kv_head, chunk);
}

/* Few rows with long contexts: threads share the chunks of a row. */
static void decode_by_chunks(struct attention *a) {
    int32_t n_decode = a->context->batch.n_decode;
    pool_run(a->context->pool, (int64_t)n_decode * a->n_kv_heads * a->context->layout.max_chunks,
             decode_chunk_task, a);
    for (int32_t row = 0; row < n_decode; row++) {
        for (int32_t kv_head = 0; kv_head < a->n_kv_heads; kv_head++) {
            if (is_padding(a, row))
                zero_heads(a, row, kv_head);
            else
                combine_heads(a, row, kv_head);
        }
    }
}

static void decode_head(const struct attention *a, int32_t row, int32_t kv_head) {
    if (is_padding(a, row)) {
        zero_heads(a, row, kv_head);
        return;
    }
    append_head(a, row, kv_head);
    for (int32_t chunk = first_chunk(a, row); chunk < end_chunk(a, row); chunk++)
        decode_chunk(a, row, kv_head, chunk);
    combine_heads(a, row, kv_head);
}

/* Task: a contiguous share of the (row, key/value head) pairs, whose keys and values lie side by side. */
static void decode_pairs_task(void *argument, int64_t task, int thread) {
    (void)thread;
    const struct attention *a = argument;
    int64_t n_pairs = (int64_t)a->context->batch.n_decode * a->n_kv_heads;
    int64_t end = pool_share(n_pairs, a->n_tasks, task + 1);
    for (int64_t pair = pool_share(n_pairs, a->n_tasks, task); pair < end; pair++)
        decode_head(a, (int32_t)(pair / a->n_kv_heads), (int32_t)(pair % a->n_kv_heads));
}

enum status cpu_attention_decode(struct backend_context *context, const struct attention_args *args) {
    struct attention a;
    TRY(attention_init(&a, context, args, "attention_decode"));
    const struct batch *batch = &context->batch;
    int64_t positions = 0;
    int32_t longest = 0;
    for (int32_t r = 0; r < batch->n_decode; r++) {
        positions += batch->position[r] + 1;
        longest = batch->position[r] > longest ? batch->position[r] : longest;
    }
    int64_t n_pairs = (int64_t)batch->n_decode * a.n_kv_heads;
    a.n_tasks = context_tasks(context, n_pairs, positions * 2 * a.out_cols);
    /* Rows differ in length: where there are many, one is a task. */
    if (batch->n_decode > a.n_tasks)
        a.n_tasks = batch->n_decode;
    if (a.n_tasks > 1 && longest >= DECODE_CHUNK_TOKENS && n_pairs < 4 * context->n_threads)
        decode_by_chunks(&a);
    else
        pool_run(context->pool, a.n_tasks, decode_pairs_task, &a);
    return STATUS_OK;
}

/* ---- prefill ---- */

static int64_t segment_blocks(const struct segment *segment) {
    return (segment->n_rows + PREFILL_BLOCK - 1) / PREFILL_BLOCK;
}

/* Rows [row, row + n) of one segment, one query head. */
static void prefill_block(const struct attention *a, const struct segment *segment, int32_t row, int32_t n,
                          int32_t head) {
    float queries[PREFILL_BLOCK * MAX_HEAD_DIM] = {0};
    float out[PREFILL_BLOCK * MAX_HEAD_DIM];
    struct kv_view view = view_of(a, segment->slot, head / a->group);
    for (int32_t i = 0; i < n; i++)
        read_prepared(a, a->args->q_norm, row + i, (row + i) * a->qkv_cols + (int64_t)head * a->head_dim,
                      queries + (int64_t)i * a->head_dim);
    a->context->isa->attention_prefill_block(&view, queries, n, segment->position + row - segment->row,
                                             a->window, out);
    for (int32_t i = 0; i < n; i++)
        write_elements(a->args->out, (row + i) * a->out_cols + (int64_t)head * a->head_dim, a->head_dim,
                       out + (int64_t)i * a->head_dim);
}

/* Task: one prompt row. */
static void append_task(void *argument, int64_t task, int thread) {
    (void)thread;
    const struct attention *a = argument;
    for (int32_t kv_head = 0; kv_head < a->n_kv_heads; kv_head++)
        append_head(a, a->context->batch.n_decode + (int32_t)task, kv_head);
}

/* Task: one head of one block of rows, the last block first: a prompt's last is its longest. */
static void prefill_task(void *argument, int64_t task, int thread) {
    (void)thread;
    const struct attention *a = argument;
    const struct segment *segment = a->context->batch.segments;
    int64_t from_end = a->n_tasks - 1 - task;
    int64_t block = from_end / a->n_heads;
    for (int64_t n; block >= (n = segment_blocks(segment)); segment++)
        block -= n;
    int32_t offset = (int32_t)block * PREFILL_BLOCK;
    int32_t left = segment->n_rows - offset;
    prefill_block(a, segment, segment->row + offset, left < PREFILL_BLOCK ? left : PREFILL_BLOCK,
                  (int32_t)(from_end % a->n_heads));
}

enum status cpu_attention_prefill(struct backend_context *context, const struct attention_args *args) {
    struct attention a;
    TRY(attention_init(&a, context, args, "attention_prefill"));
    const struct batch *batch = &context->batch;
    int64_t n_blocks = 0;
    for (int32_t s = 0; s < batch->n_segments; s++)
        n_blocks += segment_blocks(&batch->segments[s]);
    pool_run(context->pool, batch->n_rows - batch->n_decode, append_task, &a);
    a.n_tasks = n_blocks * a.n_heads;
    pool_run(context->pool, a.n_tasks, prefill_task, &a);
    return STATUS_OK;
}
