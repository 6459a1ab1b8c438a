#include "worker/model/weight_rows.h"

#include "worker/model/weight_convert.h"

enum {
    READ_AT_ONCE = 128 << 10, /* bytes: read into the second-level cache and converted from there */
    TILE = 64,                /* edge of the square that is transposed at a time: 16 KiB of floats */
    CREATED_AT_ONCE = 1024    /* elements */
};

enum status weight_rows_stored(struct weight_rows *rows, const struct stored_tensor *tensor,
                               enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype) {
    float probe;
    TRY(stored_tensor_float32(tensor, 0, 0, &probe)); /* refuses dtypes that are no floats */
    RETURN_IF(n_out <= 0 || n_in <= 0 || tensor->n / (size_t)n_out != (size_t)n_in ||
                  tensor->n % (size_t)n_out,
              STATUS_INTERNAL, "tensor \"%s\" of %zu elements taken for [%lld, %lld]", tensor->name,
              tensor->n, (long long)n_out, (long long)n_in);
    *rows = (struct weight_rows){
        .tensor = tensor, .layout = layout, .dtype = dtype, .n_out = n_out, .n_in = n_in};
    return STATUS_OK;
}

static void *element_at(enum dtype dtype, void *out, size_t index) {
    return (char *)out + index * dtype_bytes(dtype);
}

/* Elements [first, first + n) as they are stored. */
static void read_stored(struct weight_rows *rows, size_t first, size_t n, void *to) {
    _Alignas(64) uint8_t piece[READ_AT_ONCE];
    const struct stored_tensor *tensor = rows->tensor;
    size_t size = weight_stored_bytes(tensor->dtype);
    for (size_t done = 0; done < n;) {
        size_t more = n - done < sizeof piece / size ? n - done : sizeof piece / size;
        int error = stored_tensor_read(tensor, (first + done) * size, more * size, piece);
        if (error) {
            int none = 0;
            atomic_compare_exchange_strong(&rows->error, &none, error);
            return;
        }
        int64_t n_bad =
            weight_convert(tensor->dtype, piece, more, rows->dtype, element_at(rows->dtype, to, done));
        if (n_bad)
            atomic_fetch_add(&rows->n_bad, n_bad);
        done += more;
    }
}

/* n floats to every stride-th element of `to`. */
static int64_t store_column(enum dtype dtype, const float *values, size_t n, void *to, size_t stride) {
    _Alignas(64) uint8_t converted[TILE * sizeof(float)];
    int64_t n_bad = weight_convert(STORED_F32, values, n, dtype, converted);
    for (size_t i = 0; i < n; i++)
        if (dtype == DTYPE_FLOAT32)
            ((float *)to)[i * stride] = ((const float *)(const void *)converted)[i];
        else
            ((uint16_t *)to)[i * stride] = ((const uint16_t *)(const void *)converted)[i];
    return n_bad;
}

/* At most TILE rows of a tensor stored as [n_in, n_out]: through the mapping, because the parts of its rows
 * that are wanted are too short for a read each. A file that is cut meanwhile ends the process: SIGBUS. */
static void transpose_stored(struct weight_rows *rows, size_t first, size_t n, void *to) {
    float tile[TILE][TILE], row[TILE]; /* [n_in part][n_out part] */
    size_t n_in = (size_t)rows->n_in, n_out = (size_t)rows->n_out;
    int64_t n_bad = 0;
    for (size_t column = 0; column < n_in; column += TILE) {
        size_t n_columns = n_in - column < TILE ? n_in - column : TILE;
        for (size_t i = 0; i < n_columns; i++)
            stored_tensor_float32(rows->tensor, (column + i) * n_out + first, n, tile[i]);
        for (size_t r = 0; r < n; r++) {
            for (size_t i = 0; i < n_columns; i++)
                row[i] = tile[i][r];
            n_bad +=
                store_column(rows->dtype, row, n_columns, element_at(rows->dtype, to, r * n_in + column), 1);
        }
    }
    if (n_bad)
        atomic_fetch_add(&rows->n_bad, n_bad);
}

/* ---- made-up weights ---- */

/* Elements [first, first + n). */
static void create(const struct weight_rows *rows, size_t first, size_t n, void *to) {
    float values[CREATED_AT_ONCE];
    for (size_t done = 0; done < n; done += CREATED_AT_ONCE) {
        size_t more = n - done < CREATED_AT_ONCE ? n - done : CREATED_AT_ONCE;
        synthesis_values(rows->synthesis, &rows->made, rows->made_dtype, first + done, more, values);
        weight_convert(STORED_F32, values, more, rows->dtype, element_at(rows->dtype, to, done));
    }
}

/* At most TILE rows of a tensor made as [n_in, n_out]. */
static void create_transposed(const struct weight_rows *rows, size_t first, size_t n, void *to) {
    float values[TILE];
    for (size_t i = 0; i < (size_t)rows->n_in; i++) {
        synthesis_values(rows->synthesis, &rows->made, rows->made_dtype, i * (size_t)rows->n_out + first, n,
                         values);
        store_column(rows->dtype, values, n, element_at(rows->dtype, to, i), (size_t)rows->n_in);
    }
}

/* ---- reading ---- */

void weight_rows_read(struct weight_rows *rows, int64_t first, int64_t n, void *to) {
    size_t n_in = (size_t)rows->n_in;
    if (rows->layout == WEIGHT_OUT_IN) {
        if (rows->tensor)
            read_stored(rows, (size_t)first * n_in, (size_t)n * n_in, to);
        else
            create(rows, (size_t)first * n_in, (size_t)n * n_in, to);
        return;
    }
    for (int64_t done = 0; done < n; done += TILE) {
        size_t more = n - done < TILE ? (size_t)(n - done) : TILE;
        void *at = element_at(rows->dtype, to, (size_t)done * n_in);
        if (rows->tensor)
            transpose_stored(rows, (size_t)(first + done), more, at);
        else
            create_transposed(rows, (size_t)(first + done), more, at);
    }
}

enum status weight_rows_check(struct weight_rows *rows) {
    const struct stored_tensor *tensor = rows->tensor;
    if (!tensor)
        return STATUS_OK;
    int error = atomic_load(&rows->error);
    if (error)
        return stored_tensor_read_failed(tensor, error);
    int64_t n_bad = atomic_load(&rows->n_bad);
    RETURN_IF(n_bad > 0, STATUS_DATA,
              "%s: tensor \"%s\": %lld of %zu values are NaN or infinite in %s; the file is damaged, or its "
              "training went wrong",
              tensor->file, tensor->name, (long long)n_bad, tensor->n,
              rows->dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16");
    return STATUS_OK;
}
