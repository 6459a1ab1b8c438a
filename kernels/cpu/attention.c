/* attention: appends K and V to pages and divides the rows' attention over threads; isa_attention.c has the
 * arithmetic. Both phases read every key and value back from the pages. */
#include "kernels/cpu/bfloat16.h"
#include "kernels/cpu/context.h"

#include <string.h>

/* Sizes of one call, and where its operands lie. */
struct attention {
    struct backend_context *context;
    const struct attention_args *args;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t group; /* query heads per key/value head */
    int32_t head_dim;
    int64_t qkv_cols; /* (n_heads + 2 n_kv_heads) head_dim */
    int64_t out_cols; /* n_heads head_dim */
};

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
    };
    TRY(cpu_tensor_check(args->qkv, name, "qkv", TENSOR_ROWS, -1, context->batch.n_rows, a->qkv_cols));
    return cpu_tensor_check(args->out, name, "out", TENSOR_ROWS, -1, context->batch.n_rows, a->out_cols);
}

static float row_element(const struct tensor *rows, int64_t element) {
    if (rows->dtype == DTYPE_FLOAT32)
        return ((const float *)rows->data)[element];
    return bfloat16_to_float(((const uint16_t *)rows->data)[element]);
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
    for (int32_t d = 0; d < a->head_dim; d++) {
        float k = row_element(a->args->qkv, key_in + d);
        float v = row_element(a->args->qkv, value_in + d);
        size_t key_out = key + (size_t)d * PAGE_TOKENS;
        if (context->limits.kv_dtype == DTYPE_FLOAT32) {
            ((float *)context->keys)[key_out] = k;
            ((float *)context->values)[value + (size_t)d] = v;
        } else {
            ((uint16_t *)context->keys)[key_out] = bfloat16_from_float(k);
            ((uint16_t *)context->values)[value + (size_t)d] = bfloat16_from_float(v);
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

static int32_t row_chunks(const struct attention *a, int32_t row) {
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
    for (int32_t done = 0; done < a->group; done += AT_ONCE) {
        int32_t n = a->group - done < AT_ONCE ? a->group - done : AT_ONCE;
        int32_t head = kv_head * a->group + done;
        read_elements(a->args->qkv, row * a->qkv_cols + (int64_t)head * a->head_dim, (int64_t)n * a->head_dim,
                      queries);
        float *partial = partial_of(a, row, head) + (size_t)chunk * (size_t)(a->head_dim + 2);
        a->context->isa->attention_decode_chunk(&view, queries, n, first, end, partial, partial_stride(a));
    }
}

static void combine_heads(const struct attention *a, int32_t row, int32_t kv_head) {
    float out[MAX_HEAD_DIM];
    for (int32_t head = kv_head * a->group; head < (kv_head + 1) * a->group; head++) {
        a->context->isa->attention_combine(partial_of(a, row, head), (size_t)(a->head_dim + 2),
                                           row_chunks(a, row), a->head_dim, out);
        write_elements(a->args->out, row * a->out_cols + (int64_t)head * a->head_dim, a->head_dim, out);
    }
}

/* A padding row has no sequence: its output is zero, its pages stay as they are. */
static void zero_heads(const struct attention *a, int32_t row, int32_t kv_head) {
    size_t element = (size_t)(row * a->out_cols + (int64_t)kv_head * a->group * a->head_dim);
    size_t bytes = dtype_bytes(a->args->out->dtype);
    memset((char *)a->args->out->data + element * bytes, 0, (size_t)a->group * (size_t)a->head_dim * bytes);
}

/* Few rows with long contexts: threads share the chunks of a row. Only the last chunk of a row reads what is
 * appended here, so the thread that has it appends. */
static void decode_by_chunks(const struct attention *a, int n_threads) {
    const struct batch *batch = &a->context->batch;
    int32_t n_pairs = batch->n_decode * a->n_kv_heads;
    int32_t max_chunks = a->context->layout.max_chunks;
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int32_t pair = 0; pair < n_pairs; pair++) {
            for (int32_t chunk = 0; chunk < max_chunks; chunk++) {
                int32_t row = pair / a->n_kv_heads, kv_head = pair % a->n_kv_heads;
                int32_t n_chunks = row_chunks(a, row);
                if (batch->slot[row] == a->context->limits.n_slots || chunk >= n_chunks)
                    continue;
                if (chunk == n_chunks - 1)
                    append_head(a, row, kv_head);
                decode_chunk(a, row, kv_head, chunk);
            }
        }
#pragma omp for schedule(static)
        for (int32_t pair = 0; pair < n_pairs; pair++) {
            int32_t row = pair / a->n_kv_heads, kv_head = pair % a->n_kv_heads;
            if (batch->slot[row] == a->context->limits.n_slots)
                zero_heads(a, row, kv_head);
            else
                combine_heads(a, row, kv_head);
        }
    }
}

static void decode_by_rows(const struct attention *a, int n_threads) {
    const struct batch *batch = &a->context->batch;
    int32_t n_pairs = batch->n_decode * a->n_kv_heads;
    /* Whole rows, whose heads lie side by side in memory; with few rows, equal parts. */
    int32_t share = (n_pairs + n_threads - 1) / n_threads;
    if (share > a->n_kv_heads)
        share = a->n_kv_heads;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, share)
    for (int32_t pair = 0; pair < n_pairs; pair++) {
        int32_t row = pair / a->n_kv_heads, kv_head = pair % a->n_kv_heads;
        if (batch->slot[row] == a->context->limits.n_slots) {
            zero_heads(a, row, kv_head);
            continue;
        }
        append_head(a, row, kv_head);
        for (int32_t chunk = 0; chunk < row_chunks(a, row); chunk++)
            decode_chunk(a, row, kv_head, chunk);
        combine_heads(a, row, kv_head);
    }
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
    int n_threads = context_threads(context, positions * 2 * a.out_cols);
    if (n_threads > 1 && longest >= DECODE_CHUNK_TOKENS && batch->n_decode * a.n_kv_heads < 4 * n_threads)
        decode_by_chunks(&a, n_threads);
    else
        decode_by_rows(&a, n_threads);
    return STATUS_OK;
}

/* ---- prefill ---- */

/* Rows [row, row + n) of one segment, one query head. */
static void prefill_block(const struct attention *a, const struct segment *segment, int32_t row, int32_t n,
                          int32_t head) {
    float queries[PREFILL_BLOCK * MAX_HEAD_DIM] = {0};
    float out[PREFILL_BLOCK * MAX_HEAD_DIM];
    struct kv_view view = view_of(a, segment->slot, head / a->group);
    for (int32_t i = 0; i < n; i++)
        read_elements(a->args->qkv, (row + i) * a->qkv_cols + (int64_t)head * a->head_dim, a->head_dim,
                      queries + (int64_t)i * a->head_dim);
    a->context->isa->attention_prefill_block(&view, queries, n, segment->position + row - segment->row, out);
    for (int32_t i = 0; i < n; i++)
        write_elements(a->args->out, (row + i) * a->out_cols + (int64_t)head * a->head_dim, a->head_dim,
                       out + (int64_t)i * a->head_dim);
}

enum status cpu_attention_prefill(struct backend_context *context, const struct attention_args *args) {
    struct attention a;
    TRY(attention_init(&a, context, args, "attention_prefill"));
    const struct batch *batch = &context->batch;
    int64_t positions = 0, n_blocks = 0;
    for (int32_t s = 0; s < batch->n_segments; s++) {
        const struct segment *segment = &batch->segments[s];
        positions += (int64_t)segment->n_rows * (segment->position + segment->n_rows);
        n_blocks += (segment->n_rows + PREFILL_BLOCK - 1) / PREFILL_BLOCK;
    }
    int n_threads = context_threads(context, positions * 2 * a.out_cols);
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for schedule(static)
        for (int32_t row = batch->n_decode; row < batch->n_rows; row++) {
            for (int32_t kv_head = 0; kv_head < a.n_kv_heads; kv_head++)
                append_head(&a, row, kv_head);
        }
        /* Blocks of all segments, last (longest) first. */
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = n_blocks * a.n_heads - 1; task >= 0; task--) {
            int32_t head = (int32_t)(task % a.n_heads);
            int64_t block = task / a.n_heads;
            int32_t s = 0;
            for (;; s++) {
                int32_t n = (batch->segments[s].n_rows + PREFILL_BLOCK - 1) / PREFILL_BLOCK;
                if (block < n)
                    break;
                block -= n;
            }
            const struct segment *segment = &batch->segments[s];
            int32_t offset = (int32_t)block * PREFILL_BLOCK;
            int32_t left = segment->n_rows - offset;
            prefill_block(&a, segment, segment->row + offset, left < PREFILL_BLOCK ? left : PREFILL_BLOCK,
                          head);
        }
    }
    return STATUS_OK;
}
