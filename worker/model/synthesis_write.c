/* Made-up weights as a Hugging Face directory (safetensors: 8 bytes of header length, a JSON header, the
 * tensors without holes). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/base/arith.h"
#include "worker/base/file.h"
#include "worker/base/parallel.h"
#include "worker/model/float_convert.h"
#include "worker/model/synthesis.h"

enum { TASK_ELEMENTS = 1 << 16, CHUNK_ELEMENTS = 1 << 22, FILE_NAME_BYTES = 64, MAX_CONFIG_BYTES = 16 << 20 };

static const uint64_t default_shard_bytes = 5000000000;

/* ---- a backend that keeps nothing ---- */

static char nothing; /* what every tensor of it points to */

static enum status drop_tensor(struct backend_context *context, enum dtype dtype, int64_t rows, int64_t cols,
                               struct tensor **out) {
    (void)context, (void)dtype, (void)rows, (void)cols;
    *out = (struct tensor *)(void *)&nothing;
    return STATUS_OK;
}

static enum status drop_weight(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                               struct row_source rows, struct tensor **out) {
    (void)rows;
    return drop_tensor(context, dtype, n_out, n_in, out);
}

static enum status drop_pair(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                             struct row_source gate, struct row_source up, struct tensor **out) {
    (void)gate, (void)up;
    return drop_tensor(context, dtype, n_out, n_in, out);
}

static enum status drop_wait(struct backend_context *context) {
    (void)context;
    return STATUS_OK;
}

static enum status drop_vector(struct backend_context *context, int64_t n, const float *host,
                               struct tensor **out) {
    (void)host;
    return drop_tensor(context, DTYPE_FLOAT32, 1, n, out);
}

static enum status drop_write(struct backend_context *context, struct tensor *tensor, int64_t rows,
                              const void *host) {
    (void)context, (void)tensor, (void)rows, (void)host;
    return STATUS_OK;
}

static void drop_free(struct backend_context *context, struct tensor *tensor) {
    (void)context, (void)tensor;
}

struct backend synthesis_backend(void) {
    return (struct backend){.kind = "none",
                            .tensor_new = drop_tensor,
                            .weight_new = drop_weight,
                            .weight_pair_new = drop_pair,
                            .weights_wait = drop_wait,
                            .vector_new = drop_vector,
                            .tensor_write = drop_write,
                            .tensor_free = drop_free};
}

/* ---- writing ---- */

struct directory {
    const char *folder;
    const struct synthesis *synthesis;
    enum dtype dtype;
    struct synthetic_list tensors;
    int32_t *shard; /* [tensors.n] which file each is in, from 0 */
    int32_t n_shards;
    void *chunk; /* CHUNK_ELEMENTS elements of dtype */
};

static size_t tensor_elements(const struct synthetic_tensor *tensor) {
    return (size_t)tensor->shape[0] * (size_t)tensor->shape[1];
}

static size_t tensor_bytes(const struct directory *directory, int32_t i) {
    return tensor_elements(&directory->tensors.tensors[i]) * dtype_bytes(directory->dtype);
}

/* Tensors in order, a new file where the next would make the last too large. */
static enum status assign_shards(struct directory *directory, uint64_t shard_bytes) {
    size_t n = (size_t)directory->tensors.n;
    directory->shard = calloc(n ? n : 1, sizeof *directory->shard);
    RETURN_IF(!directory->shard, STATUS_INTERNAL, "out of host memory");
    uint64_t filled = 0;
    for (int32_t i = 0; i < directory->tensors.n; i++) {
        uint64_t bytes = tensor_bytes(directory, i);
        if (i > 0 && filled + bytes > shard_bytes) {
            directory->n_shards++;
            filled = 0;
        }
        filled += bytes;
        directory->shard[i] = directory->n_shards;
    }
    directory->n_shards++;
    return STATUS_OK;
}

static void shard_name(const struct directory *directory, int32_t shard, char out[FILE_NAME_BYTES]) {
    if (directory->n_shards == 1)
        snprintf(out, FILE_NAME_BYTES, "model.safetensors");
    else
        snprintf(out, FILE_NAME_BYTES, "model-%05d-of-%05d.safetensors", (int)shard + 1,
                 (int)directory->n_shards);
}

/* One chunk of a tensor, for the threads. */
struct chunk {
    const struct directory *directory;
    const struct synthetic_tensor *tensor;
    size_t first;
    size_t n;
};

static void fill_task(void *argument, int64_t task) {
    const struct chunk *chunk = argument;
    size_t begin = (size_t)task * TASK_ELEMENTS;
    size_t end = begin + TASK_ELEMENTS < chunk->n ? begin + TASK_ELEMENTS : chunk->n;
    enum dtype dtype = chunk->directory->dtype;
    float values[256];
    for (size_t at = begin; at < end; at += 256) {
        size_t n = end - at < 256 ? end - at : 256;
        synthesis_values(chunk->directory->synthesis, chunk->tensor, dtype, chunk->first + at, n, values);
        if (dtype == DTYPE_FLOAT32) {
            memcpy((float *)chunk->directory->chunk + at, values, n * sizeof *values);
            continue;
        }
        uint16_t *out = (uint16_t *)chunk->directory->chunk + at;
        for (size_t i = 0; i < n; i++)
            out[i] = bfloat16_from_float(values[i]);
    }
}

static enum status write_tensor(const struct directory *directory, const struct synthetic_tensor *tensor,
                                int fd, const char *path) {
    size_t n = tensor_elements(tensor);
    for (size_t first = 0; first < n; first += CHUNK_ELEMENTS) {
        struct chunk chunk = {directory, tensor, first,
                              n - first < CHUNK_ELEMENTS ? n - first : CHUNK_ELEMENTS};
        parallel_run(ceil_divide((int64_t)chunk.n, TASK_ELEMENTS), chunk.n > 4 * (size_t)TASK_ELEMENTS,
                     fill_task, &chunk);
        TRY(file_write_all(fd, directory->chunk, chunk.n * dtype_bytes(directory->dtype), path));
    }
    return STATUS_OK;
}

/* The header's length and the header, padded with blanks so that the tensors lie at a multiple of 8. */
static enum status append_header(const struct directory *directory, int32_t shard, struct buffer *out) {
    static const char length_place[8];
    TRY(buffer_append(out, length_place, sizeof length_place));
    TRY(buffer_append_text(out, "{\"__metadata__\":{\"format\":\"pt\"}"));
    size_t offset = 0;
    for (int32_t i = 0; i < directory->tensors.n; i++) {
        if (directory->shard[i] != shard)
            continue;
        const struct synthetic_tensor *tensor = &directory->tensors.tensors[i];
        TRY(buffer_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", tensor->name,
                          directory->dtype == DTYPE_FLOAT32 ? "F32" : "BF16", (long long)tensor->shape[0]));
        if (tensor->n_dims == 2)
            TRY(buffer_printf(out, ",%lld", (long long)tensor->shape[1]));
        size_t end = offset + tensor_bytes(directory, i);
        TRY(buffer_printf(out, "],\"data_offsets\":[%zu,%zu]}", offset, end));
        offset = end;
    }
    TRY(buffer_append_byte(out, '}'));
    while (out->size % 8 != 0)
        TRY(buffer_append_byte(out, ' '));
    uint64_t length = out->size - sizeof length_place;
    memcpy(out->data, &length, sizeof length);
    return STATUS_OK;
}

static enum status write_shard_to(const struct directory *directory, int32_t shard, int fd,
                                  const char *path) {
    struct buffer header = {0};
    enum status result = append_header(directory, shard, &header);
    if (result == STATUS_OK)
        result = file_write_all(fd, header.data, header.size, path);
    buffer_free(&header);
    for (int32_t i = 0; result == STATUS_OK && i < directory->tensors.n; i++)
        if (directory->shard[i] == shard)
            result = write_tensor(directory, &directory->tensors.tensors[i], fd, path);
    return result;
}

static enum status write_shard(const struct directory *directory, int32_t shard) {
    char name[FILE_NAME_BYTES];
    shard_name(directory, shard, name);
    char *path = path_join(directory->folder, name);
    RETURN_IF(!path, STATUS_INTERNAL, "out of host memory");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    enum status result = fd < 0 ? status_fail(STATUS_CANNOT_CREATE, "%s: %s", path, strerror(errno))
                                : write_shard_to(directory, shard, fd, path);
    if (fd >= 0 && close(fd) != 0 && result == STATUS_OK)
        result = status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    free(path);
    return result;
}

static enum status write_text(const struct directory *directory, const char *name,
                              const struct buffer *text) {
    char *path = path_join(directory->folder, name);
    RETURN_IF(!path, STATUS_INTERNAL, "out of host memory");
    enum status result = file_replace(path, text->data, text->size);
    free(path);
    return result;
}

static enum status append_index(const struct directory *directory, struct buffer *out) {
    size_t total = 0;
    for (int32_t i = 0; i < directory->tensors.n; i++)
        total += tensor_bytes(directory, i);
    TRY(buffer_printf(out, "{\n  \"metadata\": {\"total_size\": %zu},\n  \"weight_map\": {\n", total));
    for (int32_t i = 0; i < directory->tensors.n; i++) {
        char name[FILE_NAME_BYTES];
        shard_name(directory, directory->shard[i], name);
        TRY(buffer_printf(out, "    \"%s\": \"%s\"%s\n", directory->tensors.tensors[i].name, name,
                          i + 1 < directory->tensors.n ? "," : ""));
    }
    return buffer_append_text(out, "  }\n}\n");
}

/* config.json comes last: a directory without it is no model. */
static enum status write_all(const struct directory *directory, const char *config_path) {
    struct buffer text = {0};
    enum status result = STATUS_OK;
    for (int32_t shard = 0; result == STATUS_OK && shard < directory->n_shards; shard++)
        result = write_shard(directory, shard);
    if (result == STATUS_OK && directory->n_shards > 1) {
        result = append_index(directory, &text);
        if (result == STATUS_OK)
            result = write_text(directory, "model.safetensors.index.json", &text);
    }
    if (result == STATUS_OK)
        result = file_read(config_path, MAX_CONFIG_BYTES, &text);
    if (result == STATUS_OK)
        result = write_text(directory, "config.json", &text);
    buffer_free(&text);
    return result;
}

static enum status make_folder(const char *folder) {
    static const char *const taken[] = {"config.json", "model.safetensors", "model.safetensors.index.json"};
    RETURN_IF(mkdir(folder, 0777) != 0 && !(errno == EEXIST && file_is_directory(folder)),
              STATUS_CANNOT_CREATE, "%s: %s%s", folder, strerror(errno),
              errno == ENOENT ? "; the folder that it goes into must exist" : "");
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        char *path = path_join(folder, taken[i]);
        RETURN_IF(!path, STATUS_INTERNAL, "out of host memory");
        bool exists = file_exists(path);
        free(path);
        RETURN_IF(exists, STATUS_CANNOT_CREATE, "%s holds %s already; name a new directory", folder,
                  taken[i]);
    }
    return STATUS_OK;
}

enum status model_synthesis_write(const struct model_config *config, const char *config_path,
                                  const struct synthesis *synthesis, enum dtype dtype, uint64_t shard_bytes,
                                  const char *folder) {
    struct directory directory = {.folder = folder, .synthesis = synthesis, .dtype = dtype};
    TRY(make_folder(folder));
    enum status result = model_list_tensors(config, dtype, &directory.tensors);
    if (result == STATUS_OK)
        result = assign_shards(&directory, shard_bytes ? shard_bytes : default_shard_bytes);
    directory.chunk = malloc((size_t)CHUNK_ELEMENTS * dtype_bytes(dtype));
    if (result == STATUS_OK && !directory.chunk)
        result = status_fail(STATUS_INTERNAL, "out of host memory");
    if (result == STATUS_OK)
        result = write_all(&directory, config_path);
    free(directory.chunk);
    free(directory.shard);
    synthetic_list_free(&directory.tensors);
    return result;
}
