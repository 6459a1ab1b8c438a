/* safetensors: the tensor files of a model directory, open and read by position. Header rules as the format's
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

/* A view: name, file and fd belong to the file set. */
struct stored_tensor {
    const char *name;
    const char *file; /* path, for messages */
    enum stored_dtype dtype;
    char dtype_name[12];
    int32_t n_dims;
    int64_t shape[MAX_TENSOR_DIMS]; /* outermost first */
    int fd;                         /* of the file, */
    size_t offset;                  /* and where in it the contents begin, */
    size_t bytes;                   /* and how many they are */
    size_t n;                       /* elements */
    bool used;                      /* marked by safetensors_get: what stays unused is reported */
    bool is_hashed;
    struct hash128 hash; /* of the contents, once is_hashed */
};

struct safetensors;
/* STATUS_NO_INPUT, STATUS_IO, or STATUS_DATA with the file, the tensor and the rule that it breaks. */
enum status safetensors_open_file(const char *path, struct safetensors **out);
enum status safetensors_open_folder(const char *folder, struct safetensors **out);
void safetensors_close(struct safetensors *files); /* NULL is fine */
int32_t safetensors_count(const struct safetensors *files);
/* In order of name. */
struct stored_tensor *safetensors_at(struct safetensors *files, int32_t index);
/* NULL when absent. */
struct stored_tensor *safetensors_find(struct safetensors *files, const char *name);
/* Must exist with this shape (n_dims 1 or 2; dim1 is ignored for 1); the message prints expected and actual.
 * Marks it used. */
enum status safetensors_get(struct safetensors *files, const char *name, int32_t n_dims, int64_t dim0,
                            int64_t dim1, struct stored_tensor **out);
/* Reads bytes [offset, offset + size) of the tensor, which are within it, to `to`. Any thread; 0, or what
 * file_read_at returned. */
int stored_tensor_read(const struct stored_tensor *tensor, size_t offset, size_t size, void *to);
/* Whether two tensors have the same dtype and the same bytes, by threads where they are many. STATUS_IO. */
enum status stored_tensor_compare(const struct stored_tensor *a, const struct stored_tensor *b, bool *equal);
/* What stored_tensor_read failed with, as STATUS_IO. */
enum status stored_tensor_read_failed(const struct stored_tensor *tensor, int error);
/* Begins to hash the contents of all tensors, in threads beside the caller, who may read them meanwhile.
 * Those who need the hashes wait. Once. */
void safetensors_hash_begin(struct safetensors *files);
/* Hash over tensor names, dtypes, shapes and contents, in order of name; independent of the split into files.
 * Waits for the hashes of contents, and computes those that nobody began. STATUS_IO. */
enum status safetensors_fingerprint(struct safetensors *files, struct hash128 *out);

#endif
