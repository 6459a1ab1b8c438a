#include "worker/model/weight_rows.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model/weight_convert.h"

enum {
    READ_AT_ONCE = 128 << 10, /* bytes: read into the second-level cache and converted from there */
    BAND_ROWS = 32,           /* of the file: a line of the cache and more of each row of the image */
    TILE = 64,                /* outputs that are transposed at a time */
    CREATED_AT_ONCE = 1024    /* elements */
};

enum status weight_rows_stored(struct weight_rows *rows, const struct stored_tensor *tensor,
                               enum weight_layout layout, int64_t n_out, int64_t n_in, enum dtype dtype) {
    RETURN_IF(weight_stored_bytes(tensor->dtype) == 0, STATUS_DATA,
              "%s: tensor \"%s\" is stored as %s; supported are F32, F16 and BF16", tensor->file,
              tensor->name, tensor->dtype_name);
    RETURN_IF(n_out <= 0 || n_in <= 0 || tensor->n / (size_t)n_out != (size_t)n_in ||
                  tensor->n % (size_t)n_out,
              STATUS_INTERNAL, "tensor \"%s\" of %zu elements taken for [%lld, %lld]", tensor->name,
              tensor->n, (long long)n_out, (long long)n_in);
    *rows = (struct weight_rows){.tensor = tensor,
                                 .layout = layout,
                                 .dtype = dtype,
                                 .n_out = n_out,
                                 .n_in = n_in,
                                 .staged = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                                            .is_read = PTHREAD_COND_INITIALIZER,
                                            .n_rows_left = n_out}};
    return STATUS_OK;
}

static void *element_at(enum dtype dtype, void *out, size_t index) {
    return (char *)out + index * dtype_bytes(dtype);
}

static void note_error(struct weight_rows *rows, int error) {
    int none = 0;
    atomic_compare_exchange_strong(&rows->error, &none, error);
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
            note_error(rows, error);
            return;
        }
        int64_t n_bad =
            weight_convert(tensor->dtype, piece, more, rows->dtype, element_at(rows->dtype, to, done));
        if (n_bad)
            atomic_fetch_add(&rows->n_bad, n_bad);
        done += more;
    }
}

/* ---- stored as [n_in, n_out] ----
 *
 * A run of rows is a few elements of each row of the file: too few for a read each. So the file is read in
 * order, in bands of its rows, and each band is written across an image of the matrix, from which rows are
 * copied. All threads that want rows take bands. */

/* to[r][first + i] = tile[i][r], in rows of n_in elements. */
#define TRANSPOSE_TILE(NAME, TYPE)                                                                           \
    static void NAME(const TYPE *restrict tile, int64_t n, int64_t n_columns, TYPE *restrict to,             \
                     int64_t n_in) {                                                                         \
        for (int64_t r = 0; r < n_columns; r++)                                                              \
            for (int64_t i = 0; i < n; i++)                                                                  \
                to[r * n_in + i] = tile[i * TILE + r];                                                       \
    }
TRANSPOSE_TILE(transpose_float32, float)
TRANSPOSE_TILE(transpose_bfloat16, uint16_t)

/* Writes rows [first, first + n) of the file, which `band` holds, across the image. */
static void spread_band(struct weight_rows *rows, const uint8_t *band, int64_t first, int64_t n) {
    _Alignas(64) uint8_t tile[BAND_ROWS * TILE * sizeof(float)]; /* [n][TILE] of dtype */
    const struct stored_tensor *tensor = rows->tensor;
    const size_t size = weight_stored_bytes(tensor->dtype);
    int64_t n_bad = 0;
    for (int64_t column = 0; column < rows->n_out; column += TILE) {
        int64_t n_columns = rows->n_out - column < TILE ? rows->n_out - column : TILE;
        for (int64_t i = 0; i < n; i++)
            n_bad += weight_convert(tensor->dtype, band + (size_t)(i * rows->n_out + column) * size,
                                    (size_t)n_columns, rows->dtype,
                                    element_at(rows->dtype, tile, (size_t)(i * TILE)));
        void *to = element_at(rows->dtype, rows->staged.image, (size_t)(column * rows->n_in + first));
        if (rows->dtype == DTYPE_FLOAT32)
            transpose_float32((const float *)(const void *)tile, n, n_columns, to, rows->n_in);
        else
            transpose_bfloat16((const uint16_t *)(const void *)tile, n, n_columns, to, rows->n_in);
    }
    if (n_bad)
        atomic_fetch_add(&rows->n_bad, n_bad);
}

/* Takes bands until none is left. The mutex is held, but for the work. */
static void take_bands(struct weight_rows *rows, uint8_t *band) {
    struct staged_matrix *staged = &rows->staged;
    const size_t row_bytes = (size_t)rows->n_out * weight_stored_bytes(rows->tensor->dtype);
    while (staged->n_taken < rows->n_in) {
        int64_t first = staged->n_taken;
        int64_t n = rows->n_in - first < BAND_ROWS ? rows->n_in - first : BAND_ROWS;
        staged->n_taken += n;
        pthread_mutex_unlock(&staged->mutex);
        int error = stored_tensor_read(rows->tensor, (size_t)first * row_bytes, (size_t)n * row_bytes, band);
        if (error)
            note_error(rows, error);
        else
            spread_band(rows, band, first, n);
        pthread_mutex_lock(&staged->mutex);
        staged->n_read += n;
    }
    if (staged->n_read == rows->n_in)
        pthread_cond_broadcast(&staged->is_read);
}

/* Returns when the image is there, or rows->error set: EINVAL where it is not there any more. */
static void stage(struct weight_rows *rows) {
    struct staged_matrix *staged = &rows->staged;
    uint8_t *band = NULL;
    pthread_mutex_lock(&staged->mutex);
    if (!staged->image && staged->n_taken == 0)
        staged->image = malloc((size_t)(rows->n_out * rows->n_in) * dtype_bytes(rows->dtype));
    if (staged->image && staged->n_taken < rows->n_in)
        band = malloc(BAND_ROWS * (size_t)rows->n_out * weight_stored_bytes(rows->tensor->dtype));
    if (band)
        take_bands(rows, band);
    else if (!staged->image && staged->n_taken > 0)
        note_error(rows, EINVAL);
    else if (!staged->image || staged->n_taken < rows->n_in)
        note_error(rows, ENOMEM);
    while (!atomic_load(&rows->error) && staged->n_read < rows->n_in)
        pthread_cond_wait(&staged->is_read, &staged->mutex);
    pthread_mutex_unlock(&staged->mutex);
    free(band);
}

/* Rows [first, first + n) of the image; behind the last its memory is given back. */
static void copy_staged(struct weight_rows *rows, int64_t first, int64_t n, void *to) {
    struct staged_matrix *staged = &rows->staged;
    stage(rows);
    if (!atomic_load(&rows->error))
        memcpy(to, element_at(rows->dtype, staged->image, (size_t)(first * rows->n_in)),
               (size_t)(n * rows->n_in) * dtype_bytes(rows->dtype));
    pthread_mutex_lock(&staged->mutex);
    staged->n_rows_left -= n;
    if (staged->n_rows_left == 0)
        weight_rows_close(rows);
    pthread_mutex_unlock(&staged->mutex);
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

/* n floats to every stride-th element of `to`. */
static void store_column(enum dtype dtype, const float *values, size_t n, void *to, size_t stride) {
    _Alignas(64) uint8_t converted[TILE * sizeof(float)];
    weight_convert(STORED_F32, values, n, dtype, converted);
    for (size_t i = 0; i < n; i++)
        if (dtype == DTYPE_FLOAT32)
            ((float *)to)[i * stride] = ((const float *)(const void *)converted)[i];
        else
            ((uint16_t *)to)[i * stride] = ((const uint16_t *)(const void *)converted)[i];
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
    if (rows->tensor) {
        copy_staged(rows, first, n, to);
        return;
    }
    for (int64_t done = 0; done < n; done += TILE) {
        size_t more = n - done < TILE ? (size_t)(n - done) : TILE;
        create_transposed(rows, (size_t)(first + done), more,
                          element_at(rows->dtype, to, (size_t)done * n_in));
    }
}

enum status weight_rows_check(struct weight_rows *rows) {
    const struct stored_tensor *tensor = rows->tensor;
    if (!tensor)
        return STATUS_OK;
    int error = atomic_load(&rows->error);
    int64_t n_asked = rows->n_out - rows->staged.n_rows_left;
    RETURN_IF(error == EINVAL && n_asked > rows->n_out, STATUS_INTERNAL,
              "tensor \"%s\": %lld rows asked for, of %lld; each is read once", tensor->name,
              (long long)n_asked, (long long)rows->n_out);
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

void weight_rows_close(struct weight_rows *rows) {
    free(rows->staged.image);
    rows->staged.image = NULL;
}
