#include "worker/model/weight_source.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "worker/base/arith.h"
#include "worker/base/log.h"
#include "worker/base/parallel.h"
#include "worker/model/float_convert.h"

enum {
    TILE = 64,                 /* edge of the square that is transposed at a time: 16 KiB of floats */
    SERIAL_ELEMENTS = 1 << 21, /* a few milliseconds; threads would save less than they take */
    SERIAL_CREATED = 1 << 18,  /* the same where each is computed */
    CREATED_AT_ONCE = 1024     /* at least TILE */
};

/* Stores a float as element `index` of out; returns 1 when what is stored is not finite. */
static inline int64_t store(enum dtype dtype, void *out, size_t index, float value) {
    if (dtype == DTYPE_FLOAT32) {
        ((float *)out)[index] = value;
        return (float_bits(value) & 0x7F800000u) == 0x7F800000u;
    }
    uint16_t narrow = bfloat16_from_float(value);
    ((uint16_t *)out)[index] = narrow;
    return (narrow & 0x7F80u) == 0x7F80u;
}

/* Elements [first, first + n) of out, where the stored tensor has the same layout. */
static int64_t convert_rows(const struct stored_tensor *tensor, size_t first, size_t n, enum dtype dtype,
                            void *out) {
    float values[TILE * TILE];
    int64_t n_bad = 0;
    for (size_t done = 0; done < n;) {
        size_t more = n - done < TILE * TILE ? n - done : TILE * TILE;
        stored_tensor_float32(tensor, first + done, more, values); /* range and dtype are checked */
        for (size_t i = 0; i < more; i++)
            n_bad += store(dtype, out, first + done + i, values[i]);
        done += more;
    }
    return n_bad;
}

/* Rows [row, end) of out [n_out, n_in], from a tensor stored as [n_in, n_out]. */
static int64_t transpose_rows(const struct stored_tensor *tensor, size_t n_out, size_t n_in, size_t row,
                              size_t end, enum dtype dtype, void *out) {
    float tile[TILE][TILE]; /* [n_in part][n_out part] */
    int64_t n_bad = 0;
    for (size_t column = 0; column < n_in; column += TILE) {
        size_t n_columns = n_in - column < TILE ? n_in - column : TILE;
        for (size_t i = 0; i < n_columns; i++)
            stored_tensor_float32(tensor, (column + i) * n_out + row, end - row, tile[i]);
        for (size_t r = row; r < end; r++)
            for (size_t i = 0; i < n_columns; i++)
                n_bad += store(dtype, out, r * n_in + column + i, tile[i][r - row]);
    }
    return n_bad;
}

/* One tensor, for the threads: a task is TILE rows of out. */
struct conversion {
    const struct stored_tensor *tensor;
    enum weight_layout layout;
    enum dtype dtype;
    size_t n_out;
    size_t n_in;
    void *out;
    atomic_int_fast64_t n_bad;
};

static void convert_tile(void *argument, int64_t tile) {
    struct conversion *c = argument;
    size_t row = (size_t)tile * TILE;
    size_t end = row + TILE < c->n_out ? row + TILE : c->n_out;
    int64_t n_bad = c->layout == WEIGHT_IN_OUT
                        ? transpose_rows(c->tensor, c->n_out, c->n_in, row, end, c->dtype, c->out)
                        : convert_rows(c->tensor, row * c->n_in, (end - row) * c->n_in, c->dtype, c->out);
    atomic_fetch_add(&c->n_bad, n_bad);
}

enum status weight_convert(const struct stored_tensor *tensor, enum weight_layout layout, int64_t n_out,
                           int64_t n_in, enum dtype dtype, void *out, int64_t *n_bad) {
    float probe;
    TRY(stored_tensor_float32(tensor, 0, 0, &probe)); /* refuses dtypes that are no floats */
    RETURN_IF(n_out <= 0 || n_in <= 0 || tensor->n / (size_t)n_out != (size_t)n_in ||
                  tensor->n % (size_t)n_out,
              STATUS_INTERNAL, "tensor \"%s\" of %zu elements taken for [%lld, %lld]", tensor->name,
              tensor->n, (long long)n_out, (long long)n_in);
    struct conversion conversion = {tensor, layout, dtype, (size_t)n_out, (size_t)n_in, out, 0};
    parallel_run(ceil_divide(n_out, TILE), tensor->n > SERIAL_ELEMENTS, convert_tile, &conversion);
    *n_bad = conversion.n_bad;
    return STATUS_OK;
}

/* ---- made-up weights ---- */

struct creation {
    const struct synthesis *synthesis;
    struct synthetic_tensor tensor;
    enum dtype values_dtype; /* that values are rounded to */
    struct conversion to;    /* layout, dtype, n_out, n_in, out */
};

/* TILE rows of out. */
static void create_tile(void *argument, int64_t tile) {
    const struct creation *c = argument;
    const struct conversion *to = &c->to;
    size_t row = (size_t)tile * TILE, end = row + TILE < to->n_out ? row + TILE : to->n_out;
    float values[CREATED_AT_ONCE];
    if (to->layout == WEIGHT_IN_OUT) {
        for (size_t i = 0; i < to->n_in; i++) {
            synthesis_values(c->synthesis, &c->tensor, c->values_dtype, i * to->n_out + row, end - row,
                             values);
            for (size_t r = row; r < end; r++)
                store(to->dtype, to->out, r * to->n_in + i, values[r - row]);
        }
        return;
    }
    size_t last = end * to->n_in;
    for (size_t at = row * to->n_in; at < last; at += CREATED_AT_ONCE) {
        size_t n = last - at < CREATED_AT_ONCE ? last - at : CREATED_AT_ONCE;
        synthesis_values(c->synthesis, &c->tensor, c->values_dtype, at, n, values);
        for (size_t i = 0; i < n; i++)
            store(to->dtype, to->out, at + i, values[i]);
    }
}

static enum status create(struct weight_source *source, const char *name, int32_t n_dims,
                          enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype,
                          void *out) {
    bool is_transposed = layout == WEIGHT_IN_OUT;
    struct creation creation = {
        .synthesis = source->synthesis,
        .values_dtype = source->dtype,
        .to = {.layout = layout, .dtype = dtype, .n_out = (size_t)n_out, .n_in = (size_t)n_in, .out = out}};
    struct synthetic_tensor *tensor = &creation.tensor;
    RETURN_IF(strlen(name) >= sizeof tensor->name, STATUS_INTERNAL, "tensor name \"%.200s\" is too long",
              name);
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->n_dims = n_dims;
    tensor->offset = source->offset;
    tensor->shape[0] = n_dims == 1 || is_transposed ? n_in : n_out;
    tensor->shape[1] = n_dims == 1 ? 1 : is_transposed ? n_out : n_in;
    if (source->asked)
        return synthetic_list_add(source->asked, tensor);
    parallel_run(ceil_divide(n_out, TILE), n_out * n_in > SERIAL_CREATED, create_tile, &creation);
    return STATUS_OK;
}

/* ---- taking a tensor ---- */

struct stored_tensor *weight_source_find(struct weight_source *source, const char *name) {
    return source->files ? safetensors_find(source->files, name) : NULL;
}

enum status weight_source_read(struct weight_source *source, const char *name, int32_t n_dims,
                               enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype,
                               void *out) {
    if (!source->files)
        return create(source, name, n_dims, layout, n_out, n_in, dtype, out);
    bool is_transposed = layout == WEIGHT_IN_OUT;
    struct stored_tensor *tensor;
    TRY(safetensors_get(source->files, name, n_dims, n_dims == 1 || is_transposed ? n_in : n_out,
                        is_transposed ? n_out : n_in, &tensor));
    int64_t n_bad;
    TRY(weight_convert(tensor, layout, n_out, n_in, dtype, out, &n_bad));
    RETURN_IF(n_bad > 0, STATUS_DATA,
              "%s: tensor \"%s\": %lld of %zu values are NaN or infinite in %s; the file is damaged, or its "
              "training went wrong",
              tensor->file, tensor->name, (long long)n_bad, tensor->n,
              dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16");
    if (source->hashes)
        stored_tensor_hash(tensor);
    return STATUS_OK;
}

/* Room in the scratch memory for rows x columns of dtype. */
static enum status reserve(struct weight_source *source, const char *name, int64_t rows, int64_t columns,
                           enum dtype dtype) {
    size_t bytes;
    RETURN_IF(!size_multiply((size_t)rows, (size_t)columns, &bytes) ||
                  !size_multiply(bytes, dtype_bytes(dtype), &bytes),
              STATUS_DATA, "tensor \"%s\" is too large", name);
    buffer_clear(&source->scratch);
    return buffer_reserve(&source->scratch, source->asked ? 1 : bytes);
}

enum status weight_source_matrix(struct weight_source *source, const char *name, enum weight_layout layout,
                                 int64_t n_out, int64_t n_in, struct tensor **out) {
    TRY(reserve(source, name, n_out, n_in, source->dtype));
    TRY(weight_source_read(source, name, 2, layout, n_out, n_in, source->dtype, source->scratch.data));
    return source->backend->weight_new(source->backend->context, source->dtype, n_out, n_in,
                                       source->scratch.data, out);
}

/* The parts one behind the other in the scratch memory. */
static enum status stack(struct weight_source *source, const struct weight_part *parts, int32_t n_parts,
                         int64_t n_in, int64_t *n_out) {
    *n_out = 0;
    for (int32_t i = 0; i < n_parts; i++)
        *n_out += parts[i].n_out;
    TRY(reserve(source, parts[0].name, *n_out, n_in, source->dtype));
    size_t at = 0;
    for (int32_t i = 0; i < n_parts; i++) {
        void *to = source->asked ? NULL : source->scratch.data + at;
        TRY(weight_source_read(source, parts[i].name, 2, WEIGHT_OUT_IN, parts[i].n_out, n_in, source->dtype,
                               to));
        at += (size_t)parts[i].n_out * (size_t)n_in * dtype_bytes(source->dtype);
    }
    return STATUS_OK;
}

enum status weight_source_stack(struct weight_source *source, const struct weight_part *parts,
                                int32_t n_parts, int64_t n_in, struct tensor **out) {
    int64_t n_out;
    TRY(stack(source, parts, n_parts, n_in, &n_out));
    return source->backend->weight_new(source->backend->context, source->dtype, n_out, n_in,
                                       source->scratch.data, out);
}

enum status weight_source_pair(struct weight_source *source, const char *gate, const char *up, int64_t n_out,
                               int64_t n_in, struct tensor **out) {
    const struct weight_part parts[] = {{gate, n_out}, {up, n_out}};
    int64_t n_both;
    TRY(stack(source, parts, 2, n_in, &n_both));
    const char *first = source->scratch.data;
    size_t bytes = source->asked ? 0 : (size_t)n_out * (size_t)n_in * dtype_bytes(source->dtype);
    return source->backend->weight_pair_new(source->backend->context, source->dtype, n_out, n_in, first,
                                            first + bytes, out);
}

enum status weight_source_embedding(struct weight_source *source, const char *table_name,
                                    const char *head_name, bool is_tied, int64_t n_vocab, int64_t n_embd,
                                    struct tensor **table, struct tensor **head) {
    struct stored_tensor *stored_table = weight_source_find(source, table_name);
    struct stored_tensor *stored_head = weight_source_find(source, head_name);
    if (is_tied && stored_head && stored_table) {
        TRY(safetensors_get(source->files, head_name, 2, n_vocab, n_embd, &stored_head));
        RETURN_IF(stored_head->dtype != stored_table->dtype || stored_head->bytes != stored_table->bytes ||
                      memcmp(stored_head->data, stored_table->data, stored_head->bytes) != 0,
                  STATUS_DATA,
                  "%s: \"%s\" differs from \"%s\", but config.json says tie_word_embeddings; if the head was "
                  "trained by itself, set tie_word_embeddings to false",
                  stored_head->file, head_name, table_name);
    }
    bool table_is_head = is_tied && stored_head && !stored_table;
    TRY(weight_source_matrix(source, table_is_head ? head_name : table_name, WEIGHT_OUT_IN, n_vocab, n_embd,
                             table));
    *head = *table;
    return is_tied ? STATUS_OK
                   : weight_source_matrix(source, head_name, WEIGHT_OUT_IN, n_vocab, n_embd, head);
}

const char *weight_source_prefix(const struct weight_source *source, const char *prefix) {
    if (!source->files)
        return prefix;
    for (int32_t i = 0; i < safetensors_count(source->files); i++) {
        if (strncmp(safetensors_at(source->files, i)->name, prefix, strlen(prefix)) == 0)
            return prefix;
    }
    return "";
}

enum status weight_source_vector(struct weight_source *source, const char *name, int64_t n, float offset,
                                 struct tensor **out) {
    TRY(reserve(source, name, 1, n, DTYPE_FLOAT32));
    float *values = (float *)(void *)source->scratch.data;
    source->offset = offset;
    enum status result = weight_source_read(source, name, 1, WEIGHT_OUT_IN, 1, n, DTYPE_FLOAT32, values);
    source->offset = 0;
    TRY(result);
    for (int64_t i = 0; offset != 0 && !source->asked && i < n; i++)
        values[i] += offset;
    return source->backend->vector_new(source->backend->context, n, values, out);
}

enum status weight_source_vector_stack(struct weight_source *source, const struct weight_part *parts,
                                       int32_t n_parts, struct tensor **out) {
    int64_t n = 0;
    for (int32_t i = 0; i < n_parts; i++)
        n += parts[i].n_out;
    TRY(reserve(source, parts[0].name, 1, n, DTYPE_FLOAT32));
    float *values = (float *)(void *)source->scratch.data;
    int64_t at = 0;
    for (int32_t i = 0; i < n_parts; i++) {
        float *to = source->asked ? NULL : values + at;
        TRY(weight_source_read(source, parts[i].name, 1, WEIGHT_OUT_IN, 1, parts[i].n_out, DTYPE_FLOAT32,
                               to));
        at += parts[i].n_out;
    }
    return source->backend->vector_new(source->backend->context, n, values, out);
}

void weight_source_report(const struct weight_source *source) {
    static const char *const stored_names[] = {[STORED_F32] = "F32", [STORED_F16] = "F16"};
    for (int stored = STORED_F32; stored <= STORED_F16; stored++) {
        int32_t n = 0;
        const struct stored_tensor *first = NULL;
        for (int32_t i = 0; i < safetensors_count(source->files); i++) {
            const struct stored_tensor *tensor = safetensors_at(source->files, i);
            bool counts = tensor->used && tensor->n_dims == 2 && (int)tensor->dtype == stored;
            first = counts && n == 0 ? tensor : first;
            n += counts;
        }
        if (n > 0 && (stored == STORED_F16 || source->dtype == DTYPE_BFLOAT16))
            log_info("%s: %d matrices stored as %s are computed in %s", first->file, (int)n,
                     stored_names[stored], source->dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16");
    }
}
