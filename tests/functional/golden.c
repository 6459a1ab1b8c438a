#include "tests/functional/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/memory_rows.h"
#include "worker/model/float_convert.h"
#include "worker/model/weight_convert.h"

struct arguments golden_arguments;
const char *golden_backend = "cpu";

bool golden_choose_backend(int argc, char **argv) {
    golden_arguments = arguments_read(argc, argv);
    golden_backend = golden_arguments.device;
    struct backend backend;
    enum status result = backend_open(golden_backend, NULL, &backend);
    if (result == STATUS_OK)
        backend.close(backend.context);
    if (result == STATUS_NO_DEVICE)
        printf("SKIPPED: %s\n", status_message());
    else if (result != STATUS_OK)
        fprintf(stderr, "%s: %s\n", golden_backend, status_message());
    return result != STATUS_NO_DEVICE;
}

void golden_open_backend(struct backend *backend) {
    struct backend_options options = {.no_graphs = golden_arguments.is_small,
                                      .no_network = golden_arguments.is_small};
    golden_check(backend_open(golden_backend, &options, backend), golden_backend);
}

void golden_check(enum status status, const char *what) {
    if (status != STATUS_OK)
        fail_msg("%s: status %d: %s", what, (int)status, status_message());
}

struct safetensors *golden_open(const char *name) {
    char path[256];
    struct safetensors *files;
    snprintf(path, sizeof path, "tests/golden/%s.safetensors", name);
    golden_check(safetensors_open_file(path, &files), path);
    return files;
}

struct stored_tensor *golden_find(struct safetensors *files, int index, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "case%d.%s", index, name);
    return safetensors_find(files, full);
}

static void *read_all(const struct stored_tensor *tensor) {
    void *bytes = malloc(tensor->bytes ? tensor->bytes : 1);
    int error = stored_tensor_read(tensor, 0, tensor->bytes, bytes);
    if (error)
        golden_check(stored_tensor_read_failed(tensor, error), tensor->name);
    return bytes;
}

float *golden_floats(struct safetensors *files, int index, const char *name, int64_t shape[2]) {
    struct stored_tensor *tensor = golden_find(files, index, name);
    if (!tensor)
        fail_msg("case %d: %s is missing", index, name);
    float *values = malloc((tensor->n ? tensor->n : 1) * sizeof *values);
    if (weight_stored_bytes(tensor->dtype) == 0)
        fail_msg("case %d: %s is stored as %s", index, name, tensor->dtype_name);
    void *bytes = read_all(tensor);
    weight_convert(tensor->dtype, bytes, tensor->n, DTYPE_FLOAT32, values);
    free(bytes);
    if (shape) {
        shape[0] = tensor->n_dims > 0 ? tensor->shape[0] : 1;
        shape[1] = shape[0] > 0 ? (int64_t)tensor->n / shape[0] : 0;
    }
    return values;
}

int32_t *golden_ints(struct safetensors *files, int index, const char *name, int64_t *n) {
    struct stored_tensor *tensor = golden_find(files, index, name);
    if (!tensor || tensor->dtype != STORED_I32)
        fail_msg("case %d: %s is missing, or not int32", index, name);
    *n = (int64_t)tensor->n;
    return read_all(tensor);
}

void golden_check_close(const char *what, int index, const float *actual, const float *expected, size_t n,
                        double tolerance) {
    double largest = 0, difference = 0;
    size_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(actual[i]))
            fail_msg("%s, case %d: element %zu is %g, expected %g", what, index, i, (double)actual[i],
                     (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        double apart = fabs((double)actual[i] - (double)expected[i]);
        if (apart > difference) {
            difference = apart;
            worst = i;
        }
    }
    if (difference > tolerance * largest)
        fail_msg("%s, case %d: element %zu is %.9g, expected %.9g; off by %.3g, allowed is %.3g", what, index,
                 worst, (double)actual[worst], (double)expected[worst], difference, tolerance * largest);
}

/* values as dtype; free. */
static void *narrow(enum dtype dtype, size_t n, const float *values) {
    void *out = malloc((n ? n : 1) * dtype_bytes(dtype));
    if (dtype == DTYPE_FLOAT32)
        memcpy(out, values, n * sizeof *values);
    else
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)out)[i] = bfloat16_from_float(values[i]);
    return out;
}

void golden_write(struct backend *backend, struct tensor *tensor, enum dtype dtype, int64_t rows,
                  int64_t cols, const float *values) {
    void *host = narrow(dtype, (size_t)(rows * cols), values);
    golden_check(backend->tensor_write(backend->context, tensor, rows, host), "tensor_write");
    free(host);
}

void golden_read(struct backend *backend, const struct tensor *tensor, enum dtype dtype, int64_t rows,
                 int64_t cols, float *values) {
    size_t n = (size_t)(rows * cols);
    void *host = malloc((n ? n : 1) * dtype_bytes(dtype));
    golden_check(backend->tensor_read(backend->context, tensor, rows, host), "tensor_read");
    for (size_t i = 0; i < n; i++)
        values[i] = dtype == DTYPE_FLOAT32 ? ((const float *)host)[i]
                                           : float_from_bfloat16(((const uint16_t *)host)[i]);
    free(host);
}

struct tensor *golden_tensor(struct backend *backend, enum dtype dtype, int64_t rows, int64_t cols) {
    struct tensor *tensor;
    golden_check(backend->tensor_new(backend->context, dtype, rows, cols, &tensor), "tensor_new");
    return tensor;
}

struct tensor *golden_weight(struct backend *backend, enum dtype dtype, int64_t n_out, int64_t n_in,
                             const float *values) {
    struct tensor *tensor;
    void *host = narrow(dtype, (size_t)(n_out * n_in), values);
    struct memory_rows memory = {host, (size_t)n_in * dtype_bytes(dtype)};
    golden_check(
        backend->weight_new(backend->context, dtype, n_out, n_in, memory_rows_source(&memory), &tensor),
        "weight_new");
    golden_check(backend->weights_wait(backend->context), "weights_wait");
    free(host);
    return tensor;
}

struct tensor *golden_vector(struct backend *backend, int64_t n, const float *values) {
    struct tensor *tensor;
    golden_check(backend->vector_new(backend->context, n, values, &tensor), "vector_new");
    return tensor;
}
