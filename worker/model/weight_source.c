#include "worker/model/weight_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/arith.h"
#include "worker/base/log.h"

enum { MAX_PARTS = 3 };

/* A matrix of one or more tensors, their rows one behind the other. */
struct weight_matrix {
    struct weight_matrix *next; /* the one that was asked for before */
    int32_t n_parts;
    struct weight_rows parts[MAX_PARTS];
};

/* ---- tensors ---- */

struct stored_tensor *weight_source_find(struct weight_source *source, const char *name) {
    return source->files ? safetensors_find(source->files, name) : NULL;
}

/* The rows of a tensor that is made up, or noted where it is only asked for. */
static enum status invent(struct weight_source *source, const char *name, int32_t n_dims,
                          enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype,
                          struct weight_rows *rows) {
    bool is_transposed = layout == WEIGHT_IN_OUT;
    *rows = (struct weight_rows){.synthesis = source->synthesis,
                                 .made_dtype = source->dtype,
                                 .layout = layout,
                                 .dtype = dtype,
                                 .n_out = n_out,
                                 .n_in = n_in};
    struct synthetic_tensor *tensor = &rows->made;
    RETURN_IF(strlen(name) >= sizeof tensor->name, STATUS_INTERNAL, "tensor name \"%.200s\" is too long",
              name);
    strcpy(tensor->name, name);
    tensor->n_dims = n_dims;
    tensor->offset = source->offset;
    tensor->shape[0] = n_dims == 1 || is_transposed ? n_in : n_out;
    tensor->shape[1] = n_dims == 1 ? 1 : is_transposed ? n_out : n_in;
    return source->asked ? synthetic_list_add(source->asked, tensor) : STATUS_OK;
}

static enum status open_rows(struct weight_source *source, const char *name, int32_t n_dims,
                             enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype,
                             struct weight_rows *rows) {
    if (!source->files)
        return invent(source, name, n_dims, layout, n_out, n_in, dtype, rows);
    bool is_transposed = layout == WEIGHT_IN_OUT;
    struct stored_tensor *tensor;
    TRY(safetensors_get(source->files, name, n_dims, n_dims == 1 || is_transposed ? n_in : n_out,
                        is_transposed ? n_out : n_in, &tensor));
    return weight_rows_stored(rows, tensor, layout, n_out, n_in, dtype);
}

enum status weight_source_read(struct weight_source *source, const char *name, int32_t n_dims,
                               enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype,
                               void *out) {
    struct weight_rows rows;
    TRY(open_rows(source, name, n_dims, layout, n_out, n_in, dtype, &rows));
    if (source->asked)
        return STATUS_OK;
    weight_rows_read(&rows, 0, n_out, out);
    enum status result = weight_rows_check(&rows);
    weight_rows_close(&rows);
    return result;
}

/* ---- matrices ---- */

static void read_matrix(void *argument, int64_t first, int64_t n, void *to) {
    struct weight_matrix *matrix = argument;
    char *at = to;
    int64_t part_first = 0;
    for (int32_t i = 0; i < matrix->n_parts && n > 0; i++) {
        struct weight_rows *rows = &matrix->parts[i];
        int64_t part_end = part_first + rows->n_out;
        if (first < part_end) {
            int64_t more = n < part_end - first ? n : part_end - first;
            weight_rows_read(rows, first - part_first, more, at);
            at += (size_t)(more * rows->n_in) * dtype_bytes(rows->dtype);
            first += more;
            n -= more;
        }
        part_first = part_end;
    }
}

/* A matrix of the parts, to be read until the source is finished. */
static enum status open_matrix(struct weight_source *source, const struct weight_part *parts, int32_t n_parts,
                               enum weight_layout layout, int64_t n_in, struct row_source *out) {
    RETURN_IF(n_parts > MAX_PARTS, STATUS_INTERNAL, "a matrix of %d tensors", (int)n_parts);
    struct weight_matrix *matrix = malloc(sizeof *matrix);
    RETURN_IF(!matrix, STATUS_INTERNAL, "out of host memory");
    matrix->next = source->matrices;
    matrix->n_parts = 0;
    source->matrices = matrix;
    for (; matrix->n_parts < n_parts; matrix->n_parts++) {
        const struct weight_part *part = &parts[matrix->n_parts];
        TRY(open_rows(source, part->name, 2, layout, part->n_out, n_in, source->dtype,
                      &matrix->parts[matrix->n_parts]));
    }
    *out = (struct row_source){read_matrix, matrix};
    return STATUS_OK;
}

/* Checks the matrices in the order in which they were asked for. */
static enum status check_matrices(struct weight_source *source) {
    enum status result = STATUS_OK;
    for (struct weight_matrix *matrix = source->matrices; matrix; matrix = matrix->next)
        for (int32_t i = matrix->n_parts - 1; i >= 0; i--) {
            enum status status = weight_rows_check(&matrix->parts[i]);
            result =
                status != STATUS_OK ? status : result; /* the last one's message stays: the first asked */
        }
    return result;
}

enum status weight_source_finish(struct weight_source *source, enum status result) {
    struct failure failure = {0};
    failure_note(&failure, result);
    failure_note(&failure, source->backend->weights_wait(source->backend->context));
    if (failure.code == STATUS_OK)
        failure_note(&failure, check_matrices(source));
    while (source->matrices) {
        struct weight_matrix *matrix = source->matrices;
        source->matrices = matrix->next;
        for (int32_t i = 0; i < matrix->n_parts; i++)
            weight_rows_close(&matrix->parts[i]);
        free(matrix);
    }
    buffer_free(&source->scratch);
    return failure_result(&failure);
}

static enum status take_matrix(struct weight_source *source, const struct weight_part *parts, int32_t n_parts,
                               enum weight_layout layout, int64_t n_in, struct tensor **out) {
    int64_t n_out = 0;
    for (int32_t i = 0; i < n_parts; i++)
        n_out += parts[i].n_out;
    struct row_source rows;
    TRY(open_matrix(source, parts, n_parts, layout, n_in, &rows));
    return source->backend->weight_new(source->backend->context, source->dtype, n_out, n_in, rows, out);
}

enum status weight_source_matrix(struct weight_source *source, const char *name, enum weight_layout layout,
                                 int64_t n_out, int64_t n_in, struct tensor **out) {
    return take_matrix(source, &(struct weight_part){name, n_out}, 1, layout, n_in, out);
}

enum status weight_source_stack(struct weight_source *source, const struct weight_part *parts,
                                int32_t n_parts, int64_t n_in, struct tensor **out) {
    return take_matrix(source, parts, n_parts, WEIGHT_OUT_IN, n_in, out);
}

enum status weight_source_pair(struct weight_source *source, const char *gate, const char *up, int64_t n_out,
                               int64_t n_in, struct tensor **out) {
    const struct weight_part parts[] = {{gate, n_out}, {up, n_out}};
    struct row_source rows[2];
    for (int i = 0; i < 2; i++)
        TRY(open_matrix(source, &parts[i], 1, WEIGHT_OUT_IN, n_in, &rows[i]));
    return source->backend->weight_pair_new(source->backend->context, source->dtype, n_out, n_in, rows[0],
                                            rows[1], out);
}

enum status weight_source_embedding(struct weight_source *source, const char *table_name,
                                    const char *head_name, bool is_tied, int64_t n_vocab, int64_t n_embd,
                                    struct tensor **table, struct tensor **head) {
    struct stored_tensor *stored_table = weight_source_find(source, table_name);
    struct stored_tensor *stored_head = weight_source_find(source, head_name);
    if (is_tied && stored_head && stored_table) {
        TRY(safetensors_get(source->files, head_name, 2, n_vocab, n_embd, &stored_head));
        bool equal;
        TRY(stored_tensor_compare(stored_head, stored_table, &equal));
        RETURN_IF(!equal, STATUS_DATA,
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

/* ---- vectors ---- */

/* Room in the scratch memory for n floats. */
static enum status reserve(struct weight_source *source, const char *name, int64_t n) {
    size_t bytes;
    RETURN_IF(!size_multiply((size_t)n, sizeof(float), &bytes), STATUS_DATA, "tensor \"%s\" is too large",
              name);
    buffer_clear(&source->scratch);
    return buffer_reserve(&source->scratch, source->asked ? 1 : bytes);
}

enum status weight_source_vector(struct weight_source *source, const char *name, int64_t n, float offset,
                                 struct tensor **out) {
    TRY(reserve(source, name, n));
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
    TRY(reserve(source, parts[0].name, n));
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
