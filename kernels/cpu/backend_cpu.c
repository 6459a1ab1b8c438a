/* backend_cpu: the CPU backend's memory, state and step; the operations are in the files of their names.
 *
 * Everything runs when it is called, so one step is in flight and results are ready at step_end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/context.h"
#include "kernels/host_info.h"

/* simd.h: bfloat16 products flush subnormals on x86-64 alone. */
#if defined(__x86_64__)
#define NUMERICS_CLASS "cpu-3"
#else
#define NUMERICS_CLASS "cpu-3-subnormals"
#endif

enum { MEMORY_ALIGNMENT = 64, HUGE_PAGE_BYTES = 2 << 20 };

/* Memory for tensors: aligned to a cache line, large pieces in huge pages where the system has them. NULL
 * when there is none. */
static void *memory_new(size_t bytes) {
    size_t alignment = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : MEMORY_ALIGNMENT;
    if (bytes > SIZE_MAX - alignment)
        return NULL;
    size_t padded = (bytes + alignment - 1) / alignment * alignment;
    void *memory = aligned_alloc(alignment, padded ? padded : alignment);
    if (memory && alignment == HUGE_PAGE_BYTES)
        madvise(memory, padded, MADV_HUGEPAGE); /* an optimisation: may fail */
    return memory;
}

/* ---- tensors ---- */

/* padded_rows: those that there is memory for; of a weight, PANEL_OUTPUTS to a panel. */
static enum status add_tensor(struct backend_context *context, enum dtype dtype, enum tensor_kind kind,
                              int64_t rows, int64_t cols, int64_t padded_rows, struct tensor **out) {
    RETURN_IF(rows < 1 || cols < 1, STATUS_INTERNAL, "a tensor of [%lld, %lld]: both must be at least 1",
              (long long)rows, (long long)cols);
    size_t bytes, padded_cols = (size_t)cols;
    if (kind == TENSOR_WEIGHT && dtype == DTYPE_BFLOAT16)
        padded_cols += padded_cols % 2; /* pairs: isa.h */
    bool fits = !__builtin_mul_overflow((size_t)padded_rows, padded_cols, &bytes) &&
                !__builtin_mul_overflow(bytes, dtype_bytes(dtype), &bytes);
    void *data = fits ? memory_new(bytes) : NULL;
    struct tensor *tensor = data ? malloc(sizeof *tensor) : NULL;
    if (!tensor) {
        free(data);
        return status_fail(STATUS_NO_FIT, "no memory for a tensor of [%lld, %lld] %s", (long long)rows,
                           (long long)cols, dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16");
    }
    *tensor = (struct tensor){
        .data = data,
        .rows = rows,
        .cols = cols,
        .bytes = bytes,
        .dtype = dtype,
        .kind = kind,
        .next = context->tensors,
    };
    context->tensors = tensor;
    *out = tensor;
    return STATUS_OK;
}

static enum status cpu_tensor_new(struct backend_context *context, enum dtype dtype, int64_t rows,
                                  int64_t cols, struct tensor **out) {
    return add_tensor(context, dtype, TENSOR_ROWS, rows, cols, rows, out);
}

/* n_matrices: 1, or 2 for a pair. */
static enum status add_weight(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                              int n_matrices, struct tensor **out) {
    RETURN_IF(n_out > INT64_MAX / 2 - PANEL_OUTPUTS, STATUS_NO_FIT, "a weight of %lld rows",
              (long long)n_out);
    int64_t padded = (n_out + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS * PANEL_OUTPUTS;
    return add_tensor(context, dtype, TENSOR_WEIGHT, n_out, n_in, n_matrices * padded, out);
}

static void cpu_tensor_free(struct backend_context *context, struct tensor *tensor) {
    if (!tensor)
        return;
    struct tensor **link = &context->tensors;
    while (*link != tensor)
        link = &(*link)->next;
    *link = tensor->next;
    free(tensor->data);
    free(tensor);
}

static enum status finish_weight(struct backend_context *context, enum status result, struct tensor **out) {
    context->weights_pending = true;
    if (result != STATUS_OK) {
        cpu_tensor_free(context, *out);
        *out = NULL;
    }
    return result;
}

static enum status cpu_weight_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                  int64_t n_in, struct row_source rows, struct tensor **out) {
    TRY(add_weight(context, dtype, n_out, n_in, 1, out));
    return finish_weight(context, cpu_weight_pack(context, dtype, n_out, n_in, rows, (*out)->data), out);
}

static enum status cpu_weight_pair_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                       int64_t n_in, struct row_source gate, struct row_source up,
                                       struct tensor **out) {
    TRY(add_weight(context, dtype, n_out, n_in, 2, out));
    (*out)->pair_rows = n_out;
    return finish_weight(context, cpu_weight_pair_pack(context, dtype, n_out, n_in, gate, up, (*out)->data),
                         out);
}

/* Weights are packed when they are made. */
static enum status cpu_weights_wait(struct backend_context *context) {
    context->weights_pending = false;
    return STATUS_OK;
}

static enum status cpu_vector_new(struct backend_context *context, int64_t n, const float *host,
                                  struct tensor **out) {
    TRY(add_tensor(context, DTYPE_FLOAT32, TENSOR_VECTOR, 1, n, 1, out));
    memcpy((*out)->data, host, (*out)->bytes);
    return STATUS_OK;
}

static enum status check_copy(const struct tensor *tensor, int64_t rows, const char *what) {
    RETURN_IF(tensor->kind != TENSOR_ROWS, STATUS_INTERNAL, "%s: only row-major tensors are copied", what);
    RETURN_IF(rows < 0 || rows > tensor->rows, STATUS_INTERNAL, "%s: %lld rows of a tensor of %lld", what,
              (long long)rows, (long long)tensor->rows);
    return STATUS_OK;
}

static enum status cpu_tensor_write(struct backend_context *context, struct tensor *tensor, int64_t rows,
                                    const void *host) {
    (void)context;
    TRY(check_copy(tensor, rows, "tensor_write"));
    memcpy(tensor->data, host, (size_t)rows * (size_t)tensor->cols * dtype_bytes(tensor->dtype));
    return STATUS_OK;
}

static enum status cpu_tensor_read(struct backend_context *context, const struct tensor *tensor, int64_t rows,
                                   void *host) {
    (void)context;
    TRY(check_copy(tensor, rows, "tensor_read"));
    memcpy(host, tensor->data, (size_t)rows * (size_t)tensor->cols * dtype_bytes(tensor->dtype));
    return STATUS_OK;
}

enum status cpu_tensor_check(const struct tensor *tensor, const char *operation, const char *name,
                             enum tensor_kind kind, int dtype, int64_t rows, int64_t cols) {
    static const char *const kinds[] = {"rows", "weight", "vector"};
    RETURN_IF(tensor->kind != kind, STATUS_INTERNAL, "%s: %s is a tensor of kind %s; expected %s", operation,
              name, kinds[tensor->kind], kinds[kind]);
    RETURN_IF(dtype >= 0 && (int)tensor->dtype != dtype, STATUS_INTERNAL, "%s: %s is %s; expected %s",
              operation, name, tensor->dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16",
              dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16");
    RETURN_IF(tensor->rows < rows || tensor->cols != cols, STATUS_INTERNAL,
              "%s: %s is [%lld, %lld]; expected [at least %lld, %lld]", operation, name,
              (long long)tensor->rows, (long long)tensor->cols, (long long)rows, (long long)cols);
    return STATUS_OK;
}

/* ---- state ---- */

static enum status check_limits(const struct state_limits *l) {
    RETURN_IF(l->n_slots < 1 || l->n_pages < 1 || l->max_pages_per_slot < 1 || l->max_rows < 1 ||
                  l->max_segments < 0 || l->max_samples < 0 || l->n_layers < 1 || l->n_vocab < 1,
              STATUS_INTERNAL, "state_init: a limit is below its smallest value");
    RETURN_IF(l->n_kv_heads < 1 || l->n_heads < 1 || l->n_heads % l->n_kv_heads != 0, STATUS_INTERNAL,
              "state_init: %d heads do not share %d key/value heads evenly", l->n_heads, l->n_kv_heads);
    RETURN_IF(l->head_dim < 1 || l->head_dim > MAX_HEAD_DIM, STATUS_INTERNAL,
              "state_init: a head dimension of %d; the CPU backend takes 1 to %d", l->head_dim, MAX_HEAD_DIM);
    return STATUS_OK;
}

static enum status scratch_init(struct backend_context *context) {
    size_t vocab = ((size_t)context->limits.n_vocab + 15) / 16 * 16;
    size_t blocks = (vocab / LOGIT_BLOCK + 1 + 15) / 16 * 16;
    size_t per_thread = 4 * vocab + 2 * blocks;
    context->scratch_memory = memory_new(per_thread * (size_t)context->n_threads * sizeof(float));
    context->scratch = calloc((size_t)context->n_threads, sizeof *context->scratch);
    RETURN_IF(!context->scratch_memory || !context->scratch, STATUS_NO_FIT,
              "no memory for sampling a vocabulary of %d tokens", context->limits.n_vocab);
    float *next = (float *)context->scratch_memory;
    for (int i = 0; i < context->n_threads; i++) {
        context->scratch[i] = (struct sample_scratch){
            .logits = next,
            .values = next + vocab,
            .weights = next + 2 * vocab,
            .ids = (int32_t *)(next + 3 * vocab),
            .maxima = next + 4 * vocab,
        };
        next += per_thread;
    }
    return STATUS_OK;
}

static enum status cpu_state_init(struct backend_context *context, const struct state_limits *limits) {
    RETURN_IF(context->memory, STATUS_INTERNAL, "state_init: called twice");
    RETURN_IF(context->weights_pending, STATUS_INTERNAL, "state_init: weights_wait was not called");
    TRY(check_limits(limits));
    struct state_layout l;
    RETURN_IF(!state_layout_init(&l, limits), STATUS_NO_FIT, "the state's size does not fit in 64 bits");
    size_t free_bytes, total_bytes;
    host_memory(&free_bytes, &total_bytes);
    RETURN_IF(total_bytes > 0 && l.total > free_bytes, STATUS_NO_FIT,
              "the state takes %zu MiB (%d KV pages); %zu MiB of memory are free; lower max_num_seqs or "
              "max_model_len",
              l.total >> 20, limits->n_pages, free_bytes >> 20);
    char *memory = memory_new(l.total);
    RETURN_IF(!memory, STATUS_NO_FIT, "no memory for a state of %zu MiB", l.total >> 20);
    context->limits = *limits;
    context->layout = l;
    context->memory = memory;
    context->kv = (struct kv_layout){limits->n_pages, limits->n_kv_heads, limits->head_dim};
    context->keys = memory + l.keys;
    context->values = memory + l.values;
    context->page_table = (int32_t *)(memory + l.page_table);
    context->token_counts = (uint32_t *)(memory + l.token_counts);
    context->sampling = (struct slot_sampling *)(memory + l.sampling);
    context->last_token = (int32_t *)(memory + l.last_token);
    context->faults = (_Atomic uint64_t *)(memory + l.faults);
    context->results = (struct sample_result *)(memory + l.results);
    context->top = (struct sample_top *)(memory + l.top);
    context->partials = (float *)(memory + l.partials);
    /* All but K and V starts at zero: every slot has the scratch page. */
    memset(memory + l.page_table, 0, l.partials - l.page_table);
    for (int32_t slot = 0; slot <= limits->n_slots; slot++)
        context->faults[slot] = NO_FAULT;
    return scratch_init(context);
}

static int32_t cpu_decode_rows(struct backend_context *context, int32_t n) {
    (void)context;
    return n;
}

static enum status cpu_slots_begin(struct backend_context *context, const struct slot_start *starts,
                                   int32_t n) {
    RETURN_IF(!context->memory, STATUS_INTERNAL, "slots_begin: called before state_init");
    const struct state_limits *limits = &context->limits;
    for (int32_t i = 0; i < n; i++) {
        const struct slot_start *start = &starts[i];
        RETURN_IF(start->slot < 0 || start->slot >= limits->n_slots, STATUS_INTERNAL,
                  "slots_begin: slot %d of %d", start->slot, limits->n_slots);
        RETURN_IF(start->n_pages < 0 || start->n_pages > limits->max_pages_per_slot, STATUS_INTERNAL,
                  "slots_begin: %d pages for a slot that holds %d", start->n_pages,
                  limits->max_pages_per_slot);
        for (int32_t p = 0; p < start->n_pages; p++)
            RETURN_IF(start->pages[p] < 1 || start->pages[p] >= limits->n_pages, STATUS_INTERNAL,
                      "slots_begin: page %d of %d", start->pages[p], limits->n_pages);
        for (int32_t t = 0; t < start->n_prompt; t++)
            RETURN_IF(start->prompt[t] < 0 || start->prompt[t] >= limits->n_vocab, STATUS_INTERNAL,
                      "slots_begin: prompt token %d of a vocabulary of %d", start->prompt[t],
                      limits->n_vocab);
    }
    for (int32_t i = 0; i < n; i++) {
        const struct slot_start *start = &starts[i];
        int32_t *pages = context->page_table + (int64_t)start->slot * limits->max_pages_per_slot;
        for (int32_t p = 0; p < limits->max_pages_per_slot; p++)
            pages[p] = p < start->n_pages ? start->pages[p] : SCRATCH_PAGE;
        uint32_t *counts = context->token_counts + (int64_t)start->slot * limits->n_vocab;
        memset(counts, 0, (size_t)limits->n_vocab * sizeof *counts);
        for (int32_t t = 0; t < start->n_prompt; t++)
            counts[start->prompt[t]] = TOKEN_IN_PROMPT;
        context->sampling[start->slot] = start->sampling;
        context->last_token[start->slot] = 0;
        context->faults[start->slot] = NO_FAULT;
    }
    return STATUS_OK;
}

static enum status cpu_slots_extend(struct backend_context *context, const struct slot_extension *extensions,
                                    int32_t n) {
    RETURN_IF(!context->memory, STATUS_INTERNAL, "slots_extend: called before state_init");
    const struct state_limits *limits = &context->limits;
    for (int32_t i = 0; i < n; i++) {
        const struct slot_extension *extension = &extensions[i];
        int32_t first = extension->first_page;
        RETURN_IF(extension->slot < 0 || extension->slot >= limits->n_slots || first < 0 ||
                      extension->n_pages < 0 || extension->n_pages > limits->max_pages_per_slot - first,
                  STATUS_INTERNAL, "slots_extend: slot %d of %d, pages [%d, %d) of %d", extension->slot,
                  limits->n_slots, first, first + extension->n_pages, limits->max_pages_per_slot);
        int32_t *pages = context->page_table + (int64_t)extension->slot * limits->max_pages_per_slot;
        for (int32_t p = 0; p < extension->n_pages; p++) {
            RETURN_IF(extension->pages[p] < 1 || extension->pages[p] >= limits->n_pages, STATUS_INTERNAL,
                      "slots_extend: page %d of %d", extension->pages[p], limits->n_pages);
            pages[first + p] = extension->pages[p];
        }
    }
    return STATUS_OK;
}

static enum status cpu_pages_copy(struct backend_context *context, const int32_t (*pairs)[2], int32_t n) {
    RETURN_IF(!context->memory, STATUS_INTERNAL, "pages_copy: called before state_init");
    size_t element = dtype_bytes(context->limits.kv_dtype);
    size_t page_bytes = kv_offset(context->kv, 0, 1, 0, 0) * element;
    for (int32_t i = 0; i < n; i++) {
        for (int side = 0; side < 2; side++)
            RETURN_IF(pairs[i][side] < 0 || pairs[i][side] >= context->limits.n_pages, STATUS_INTERNAL,
                      "pages_copy: page %d of %d", pairs[i][side], context->limits.n_pages);
        for (int32_t layer = 0; layer < context->limits.n_layers; layer++) {
            size_t from = kv_offset(context->kv, layer, pairs[i][0], 0, 0) * element;
            size_t to = kv_offset(context->kv, layer, pairs[i][1], 0, 0) * element;
            memmove(context->keys + to, context->keys + from, page_bytes);
            memmove(context->values + to, context->values + from, page_bytes);
        }
    }
    return STATUS_OK;
}

/* ---- a step ---- */

static enum status check_batch(const struct backend_context *context, const struct batch *b) {
    const struct state_limits *limits = &context->limits;
    RETURN_IF(b->n_decode < 0 || b->n_decode > b->n_rows || b->n_rows > limits->max_rows ||
                  b->n_segments < 0 || b->n_segments > limits->max_segments || b->n_samples < 0 ||
                  b->n_samples > limits->max_samples || b->n_decode > context->layout.max_decode_rows,
              STATUS_INTERNAL,
              "step_begin: %d rows (limit %d), %d of decode (limit %d), %d segments (limit %d), %d samples "
              "(limit %d)",
              b->n_rows, limits->max_rows, b->n_decode, context->layout.max_decode_rows, b->n_segments,
              limits->max_segments, b->n_samples, limits->max_samples);
    int64_t max_positions = (int64_t)limits->max_pages_per_slot * PAGE_TOKENS;
    for (int32_t r = 0; r < b->n_rows; r++)
        RETURN_IF(b->slot[r] < 0 || b->slot[r] > limits->n_slots || b->position[r] < 0 ||
                      b->position[r] >= max_positions || b->token[r] < -1 || b->token[r] >= limits->n_vocab,
                  STATUS_INTERNAL, "step_begin: row %d has slot %d, position %d, token %d", r, b->slot[r],
                  b->position[r], b->token[r]);
    int32_t row = b->n_decode;
    for (int32_t s = 0; s < b->n_segments; s++) {
        const struct segment *segment = &b->segments[s];
        RETURN_IF(segment->row != row || segment->n_rows < 1 || segment->n_rows > b->n_rows - row,
                  STATUS_INTERNAL, "step_begin: segment %d has rows [%d, %d); the next row is %d of %d", s,
                  segment->row, segment->row + segment->n_rows, row, b->n_rows);
        for (int32_t i = 0; i < segment->n_rows; i++)
            RETURN_IF(b->slot[row + i] != segment->slot || b->position[row + i] != segment->position + i,
                      STATUS_INTERNAL, "step_begin: row %d does not belong to its segment %d", row + i, s);
        row += segment->n_rows;
    }
    RETURN_IF(row != b->n_rows, STATUS_INTERNAL, "step_begin: rows from %d on are in no segment", row);
    for (int32_t i = 0; i < b->n_samples; i++)
        RETURN_IF(b->sample_row[i] < 0 || b->sample_row[i] >= b->n_rows || b->sample_slot[i] < 0 ||
                      b->sample_slot[i] > limits->n_slots,
                  STATUS_INTERNAL, "step_begin: sample %d reads row %d for slot %d", i, b->sample_row[i],
                  b->sample_slot[i]);
    for (int32_t i = 0; b->sample_target && i < b->n_samples; i++)
        RETURN_IF(b->sample_target[i] < -1 || b->sample_target[i] >= limits->n_vocab, STATUS_INTERNAL,
                  "step_begin: sample %d is to score token %d of a vocabulary of %d", i, b->sample_target[i],
                  limits->n_vocab);
    return STATUS_OK;
}

static const int32_t *copy_int32(struct backend_context *context, size_t offset, const int32_t *from,
                                 int32_t n) {
    int32_t *to = (int32_t *)(context->memory + offset);
    if (n > 0)
        memcpy(to, from, (size_t)n * sizeof *to);
    return to;
}

static enum status cpu_step_begin(struct backend_context *context, const struct batch *batch,
                                  bool *replayed) {
    RETURN_IF(!context->memory, STATUS_INTERNAL, "step_begin: called before state_init");
    RETURN_IF(context->in_step, STATUS_INTERNAL, "step_begin: the last step has not ended");
    RETURN_IF(context->weights_pending, STATUS_INTERNAL, "step_begin: weights_wait was not called");
    TRY(check_batch(context, batch));
    const struct state_layout *l = &context->layout;
    context->batch = *batch;
    context->batch.token = copy_int32(context, l->token, batch->token, batch->n_rows);
    context->batch.position = copy_int32(context, l->position, batch->position, batch->n_rows);
    context->batch.slot = copy_int32(context, l->slot, batch->slot, batch->n_rows);
    context->batch.sample_row = copy_int32(context, l->sample_row, batch->sample_row, batch->n_samples);
    context->batch.sample_slot = copy_int32(context, l->sample_slot, batch->sample_slot, batch->n_samples);
    if (batch->sample_target)
        context->batch.sample_target =
            copy_int32(context, l->sample_target, batch->sample_target, batch->n_samples);
    struct segment *segments = (struct segment *)(context->memory + l->segments);
    if (batch->n_segments > 0)
        memcpy(segments, batch->segments, (size_t)batch->n_segments * sizeof *segments);
    context->batch.segments = segments;
    context->in_step = true;
    *replayed = false;
    return STATUS_OK;
}

static enum status cpu_step_end(struct backend_context *context, uint64_t *ticket) {
    RETURN_IF(!context->in_step, STATUS_INTERNAL, "step_end: no step has begun");
    context->in_step = false;
    *ticket = ++context->ticket;
    return STATUS_OK;
}

static enum status cpu_step_wait(struct backend_context *context, uint64_t ticket,
                                 struct sample_result *results, struct sample_top *top) {
    RETURN_IF(context->in_step || ticket == 0 || ticket != context->ticket, STATUS_INTERNAL,
              "step_wait: ticket %llu; the last step that ended is %llu", (unsigned long long)ticket,
              (unsigned long long)context->ticket);
    size_t n = (size_t)context->batch.n_samples;
    if (n > 0)
        memcpy(results, context->results, n * sizeof *results);
    if (n > 0 && top && context->batch.want_logprobs)
        memcpy(top, context->top, n * sizeof *top);
    return STATUS_OK;
}

static int64_t cpu_launches_per_step(struct backend_context *context) {
    (void)context;
    return 0;
}

/* ---- open and close ---- */

static enum status cpu_memory_info(struct backend_context *context, size_t *free_bytes, size_t *total_bytes) {
    (void)context;
    host_memory(free_bytes, total_bytes);
    return STATUS_OK;
}

static void cpu_close(struct backend_context *context) {
    while (context->tensors)
        cpu_tensor_free(context, context->tensors);
    free(context->memory);
    free(context->scratch_memory);
    free(context->scratch);
    pool_close(context->pool);
    free(context);
}

enum status backend_open_cpu(const struct backend_options *options, struct backend *out) {
    static const struct backend_options defaults;
    memset(out, 0, sizeof *out);
    if (!options)
        options = &defaults;
    RETURN_IF(options->n_threads < 0 || options->n_threads > 4096, STATUS_USAGE,
              "threads: %d; expected 1 to 4096, or 0 for all", options->n_threads);
    const struct cpu_isa *isa;
    TRY(cpu_isa_find(options->cpu_isa, &isa));
    struct backend_context *context = calloc(1, sizeof *context);
    RETURN_IF(!context, STATUS_INTERNAL, "no memory for the CPU backend");
    context->isa = isa;
    context->n_threads = options->n_threads > 0 ? options->n_threads : host_processors();
    enum status status = pool_open(context->n_threads, &context->pool);
    if (status != STATUS_OK) {
        free(context);
        return status;
    }
    *out = (struct backend){
        .context = context,
        .kind = "cpu",
        .numerics_class = NUMERICS_CLASS,
        .max_steps_in_flight = 1,
        .close = cpu_close,
        .memory_info = cpu_memory_info,
        .tensor_new = cpu_tensor_new,
        .weight_new = cpu_weight_new,
        .weight_pair_new = cpu_weight_pair_new,
        .weights_wait = cpu_weights_wait,
        .vector_new = cpu_vector_new,
        .tensor_free = cpu_tensor_free,
        .tensor_write = cpu_tensor_write,
        .tensor_read = cpu_tensor_read,
        .state_init = cpu_state_init,
        .decode_rows = cpu_decode_rows,
        .slots_begin = cpu_slots_begin,
        .slots_extend = cpu_slots_extend,
        .pages_copy = cpu_pages_copy,
        .step_begin = cpu_step_begin,
        .embed = cpu_timed_embed,
        .norm = cpu_timed_norm,
        .matmul = cpu_timed_matmul,
        .attention_decode = cpu_timed_attention_decode,
        .attention_prefill = cpu_timed_attention_prefill,
        .sample = cpu_timed_sample,
        .step_end = cpu_step_end,
        .step_wait = cpu_step_wait,
        .measure_limits = cpu_measure_limits,
        .profile = cpu_profile,
        .launches_per_step = cpu_launches_per_step,
    };
    char name[64];
    host_cpu_name(name, sizeof name);
    snprintf(out->device, sizeof out->device, "%s, %d thread%s, %s", name, context->n_threads,
             context->n_threads == 1 ? "" : "s", isa->name);
    return STATUS_OK;
}
