/* safetensors: the tensor files of a model directory, mapped read-only. Header rules as the format's
 * reference implementation enforces them (size, JSON object, offsets in order without holes or overlap, dtype
 * x shape = bytes, duplicate names refused). Sharded directories: model.safetensors.index.json; else
 * model.safetensors. */
#ifndef PRESSRUN_WORKER_MODEL_SAFETENSORS_H
#define PRESSRUN_WORKER_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"
#include "worker/base/hash.h"

enum stored_dtype { STORED_F32, STORED_F16, STORED_BF16, STORED_I32, STORED_I64, STORED_OTHER };

enum { MAX_TENSOR_DIMS = 8 };

/* A view: name and data belong to the file set. */
struct stored_tensor {
    const char *name;
    enum stored_dtype dtype;
    char dtype_name[8];
    int32_t n_dims;
    int64_t shape[MAX_TENSOR_DIMS]; /* outermost first */
    const void *data;
    size_t bytes;
    bool used; /* marked by safetensors_get: what stays unused is reported */
};

struct safetensors;
enum status safetensors_open_file(const char *path, struct safetensors **out);
enum status safetensors_open_folder(const char *folder, struct safetensors **out);
void safetensors_close(struct safetensors *files);
int32_t safetensors_count(const struct safetensors *files);
struct stored_tensor *safetensors_at(struct safetensors *files, int32_t index);
/* NULL when absent. */
struct stored_tensor *safetensors_find(struct safetensors *files, const char *name);
/* Must exist with this shape (n_dims <= 2 here); the message prints expected and actual. Marks it used. */
enum status safetensors_get(struct safetensors *files, const char *name, int32_t n_dims, int64_t dim0,
                            int64_t dim1, struct stored_tensor **out);
/* Converts n elements from offset (in elements) to float32 (F32, F16, BF16 only). */
enum status stored_tensor_float32(const struct stored_tensor *tensor, size_t offset, size_t n, float *out);
/* Hash over tensor names, dtypes, shapes and contents, in order of name; independent of the split into files.
 */
struct hash128 safetensors_fingerprint(const struct safetensors *files);

#endif
