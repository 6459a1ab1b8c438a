#include "worker/model/weight_source.h"

#include <stdatomic.h>

#include "worker/base/arith.h"
#include "worker/base/parallel.h"
#include "worker/model/float_convert.h"

enum {
    TILE = 64,                 /* edge of the square that is transposed at a time: 16 KiB of floats */
    SERIAL_ELEMENTS = 1 << 21, /* a few milliseconds; threads would save less than they take */
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

/* The tensor converted into the scratch memory. */
static enum status convert(struct weight_source *source, struct stored_tensor *tensor,
                           enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype) {
    size_t bytes;
    RETURN_IF(!size_multiply(tensor->n, dtype_bytes(dtype), &bytes), STATUS_DATA,
              "%s: tensor \"%s\" is too large", tensor->file, tensor->name);
    buffer_clear(&source->scratch);
    TRY(buffer_reserve(&source->scratch, bytes));
    int64_t n_bad;
    TRY(weight_convert(tensor, layout, n_out, n_in, dtype, source->scratch.data, &n_bad));
    RETURN_IF(n_bad > 0, STATUS_DATA,
              "%s: tensor \"%s\": %lld of %zu values are NaN or infinite in %s; the file is damaged, or its "
              "training went wrong",
              tensor->file, tensor->name, (long long)n_bad, tensor->n,
              dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16");
    if (source->hashes)
        stored_tensor_hash(tensor);
    return STATUS_OK;
}

enum status weight_source_matrix(struct weight_source *source, const char *name, enum weight_layout layout,
                                 int64_t n_out, int64_t n_in, struct tensor **out) {
    struct stored_tensor *tensor;
    bool is_transposed = layout == WEIGHT_IN_OUT;
    TRY(safetensors_get(source->files, name, 2, is_transposed ? n_in : n_out, is_transposed ? n_out : n_in,
                        &tensor));
    TRY(convert(source, tensor, layout, n_out, n_in, source->dtype));
    return source->backend->weight_new(source->backend->context, source->dtype, n_out, n_in,
                                       source->scratch.data, out);
}

enum status weight_source_vector(struct weight_source *source, const char *name, int64_t n,
                                 struct tensor **out) {
    struct stored_tensor *tensor;
    TRY(safetensors_get(source->files, name, 1, n, 0, &tensor));
    TRY(convert(source, tensor, WEIGHT_OUT_IN, 1, n, DTYPE_FLOAT32));
    return source->backend->vector_new(source->backend->context, n,
                                       (const float *)(void *)source->scratch.data, out);
}
