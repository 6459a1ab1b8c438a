#include "worker/model/safetensors.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/arith.h"
#include "worker/base/background.h"
#include "worker/base/buffer.h"
#include "worker/base/file.h"
#include "worker/base/json_file.h"
#include "worker/base/parallel.h"
#include "worker/text/quote.h"
#include "worker/text/utf8.h"

enum { MAX_HEADER_BYTES = 100 << 20, LENGTH_BYTES = 8, MAX_INDEX_BYTES = 100 << 20, NAME_SHOWN = 200 };
enum {
    SERIAL_BYTES = 64 << 20,    /* a few milliseconds; threads would save less than they take */
    HASHED_AT_ONCE = 128 << 10, /* read into the second-level cache and hashed there */
    COMPARED_AT_ONCE = 64 << 10 /* of each of two */
};

/* One open file. Its parsed header owns the tensors' names. */
struct tensor_file {
    char *path;
    int fd;
    size_t size;
    json_t *header;
};

struct safetensors {
    struct tensor_file *files; /* [n_files] */
    size_t n_files;
    struct stored_tensor *tensors; /* [n_tensors] in order of name */
    size_t n_tensors;
    struct background hashing;
    struct stored_tensor **by_size; /* [n_tensors] the largest first, while they are hashed */
    atomic_bool hashing_stops;
};

/* ---- one tensor of a header ---- */

static const struct dtype_entry {
    const char *name;
    uint32_t bits;
    enum stored_dtype dtype;
} dtypes[] = {
    {"F32", 32, STORED_F32},      {"F16", 16, STORED_F16},      {"BF16", 16, STORED_BF16},
    {"I32", 32, STORED_I32},      {"I64", 64, STORED_I64},      {"BOOL", 8, STORED_OTHER},
    {"U8", 8, STORED_OTHER},      {"I8", 8, STORED_OTHER},      {"I16", 16, STORED_OTHER},
    {"U16", 16, STORED_OTHER},    {"U32", 32, STORED_OTHER},    {"U64", 64, STORED_OTHER},
    {"F64", 64, STORED_OTHER},    {"C64", 64, STORED_OTHER},    {"F8_E4M3", 8, STORED_OTHER},
    {"F8_E5M2", 8, STORED_OTHER}, {"F8_E8M0", 8, STORED_OTHER}, {"F4", 4, STORED_OTHER},
    {"F6_E2M3", 6, STORED_OTHER}, {"F6_E3M2", 6, STORED_OTHER},
};

static const struct dtype_entry *find_dtype(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    }
    return NULL;
}

static enum status read_shape(const char *path, const json_t *shape, struct stored_tensor *tensor) {
    RETURN_IF(!json_is_array(shape), STATUS_DATA, "%s: tensor \"%.*s\": shape is %s, expected a list", path,
              NAME_SHOWN, tensor->name, json_kind(shape));
    size_t n_dims = json_array_size(shape);
    RETURN_IF(n_dims > MAX_TENSOR_DIMS, STATUS_DATA, "%s: tensor \"%.*s\" has %zu dimensions, allowed are %d",
              path, NAME_SHOWN, tensor->name, n_dims, (int)MAX_TENSOR_DIMS);
    tensor->n_dims = (int32_t)n_dims;
    tensor->n = 1;
    for (size_t i = 0; i < n_dims; i++) {
        const json_t *dim = json_array_get(shape, i);
        RETURN_IF(!json_is_integer(dim) || json_integer_value(dim) < 0, STATUS_DATA,
                  "%s: tensor \"%.*s\": shape[%zu] is no integer from 0 on", path, NAME_SHOWN, tensor->name,
                  i);
        tensor->shape[i] = json_integer_value(dim);
        RETURN_IF(!size_multiply(tensor->n, (size_t)tensor->shape[i], &tensor->n), STATUS_DATA,
                  "%s: tensor \"%.*s\": the product of its shape does not fit 64 bits", path, NAME_SHOWN,
                  tensor->name);
    }
    return STATUS_OK;
}

/* Names go into messages, which are one line each: so they hold no control characters. */
static enum status check_name(const char *path, const char *name) {
    uint32_t code_point = 0;
    char shown[QUOTE_BYTES];
    for (size_t at = 0, size = strlen(name), length; at < size; at += length) {
        length = utf8_next(name + at, size - at, &code_point);
        RETURN_IF(length == 0 || code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0) ||
                      code_point == 0x2028 || code_point == 0x2029,
                  STATUS_DATA, "%s: the name %s holds control characters", path, quote(name, size, shown));
    }
    return STATUS_OK;
}

/* Fills the tensor from its header entry; the file's data begin at data_offset, behind the header. */
static enum status read_tensor(const struct tensor_file *file, const json_t *entry, size_t data_offset,
                               struct stored_tensor *tensor) {
    const char *path = file->path, *name = tensor->name;
    size_t n_data_bytes = file->size - data_offset;
    RETURN_IF(!json_is_object(entry), STATUS_DATA, "%s: tensor \"%.*s\" is %s, expected an object", path,
              NAME_SHOWN, name, json_kind(entry));
    const char *dtype_name = json_string_value(json_object_get(entry, "dtype"));
    const struct dtype_entry *dtype = dtype_name ? find_dtype(dtype_name) : NULL;
    char shown[QUOTE_BYTES];
    RETURN_IF(!dtype, STATUS_DATA, "%s: tensor \"%.*s\": dtype %s is unknown", path, NAME_SHOWN, name,
              dtype_name ? quote(dtype_name, strlen(dtype_name), shown) : "(absent)");
    tensor->dtype = dtype->dtype;
    snprintf(tensor->dtype_name, sizeof tensor->dtype_name, "%s", dtype->name);
    TRY(read_shape(path, json_object_get(entry, "shape"), tensor));

    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    RETURN_IF(json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last), STATUS_DATA,
              "%s: tensor \"%.*s\": data_offsets is no pair of integers", path, NAME_SHOWN, name);
    long long begin = json_integer_value(first), end = json_integer_value(last);
    RETURN_IF(
        begin < 0 || end < begin || (uint64_t)end > n_data_bytes, STATUS_DATA,
        "%s: tensor \"%.*s\": data_offsets [%lld, %lld] do not lie within the %zu bytes behind the header; "
        "the file may be cut",
        path, NAME_SHOWN, name, begin, end, n_data_bytes);
    tensor->file = path;
    tensor->fd = file->fd;
    tensor->offset = data_offset + (size_t)begin;
    tensor->bytes = (size_t)(end - begin);
    size_t bits;
    RETURN_IF(!size_multiply(tensor->n, dtype->bits, &bits) || bits % 8 != 0 || bits / 8 != tensor->bytes,
              STATUS_DATA,
              "%s: tensor \"%.*s\": %zu elements of %s do not take the %zu bytes of its data_offsets", path,
              NAME_SHOWN, name, tensor->n, dtype->name, tensor->bytes);
    return STATUS_OK;
}

/* ---- one file ---- */

static enum status check_metadata(const char *path, const json_t *metadata) {
    RETURN_IF(!json_is_object(metadata), STATUS_DATA, "%s: __metadata__ is %s, expected an object of strings",
              path, json_kind(metadata));
    void *at = json_object_iter((json_t *)(uintptr_t)metadata);
    for (; at; at = json_object_iter_next((json_t *)(uintptr_t)metadata, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        char shown[QUOTE_BYTES];
        RETURN_IF(!json_is_string(value), STATUS_DATA, "%s: __metadata__: %s is %s, expected a string", path,
                  quote(key, strlen(key), shown), json_kind(value));
    }
    return STATUS_OK;
}

static int compare_place(const void *left, const void *right) {
    const struct stored_tensor *a = left, *b = right;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

/* Every byte behind the header belongs to exactly one tensor. Sorts by place. */
static enum status check_cover(const struct tensor_file *file, struct stored_tensor *tensors, size_t n,
                               size_t data_offset) {
    const char *path = file->path;
    size_t n_data_bytes = file->size - data_offset;
    if (n > 1)
        qsort(tensors, n, sizeof *tensors, compare_place);
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = tensors[i].offset - data_offset;
        RETURN_IF(begin != end, STATUS_DATA,
                  "%s: tensor \"%.*s\" begins at byte %zu of the data, but the one before it ends at %zu: %s",
                  path, NAME_SHOWN, tensors[i].name, begin, end,
                  begin < end ? "they overlap" : "there is a hole");
        end = begin + tensors[i].bytes;
    }
    RETURN_IF(end != n_data_bytes, STATUS_DATA,
              "%s: the tensors end at byte %zu of the data, the file at %zu", path, end, n_data_bytes);
    return STATUS_OK;
}

static enum status read_at(const struct tensor_file *file, size_t offset, size_t size, void *to) {
    int error = file_read_at(file->fd, offset, size, to);
    RETURN_IF(error, STATUS_IO, "%s: the header cannot be read: %s", file->path, file_read_error(error));
    return STATUS_OK;
}

/* The header, which begins behind its length. */
static enum status parse_header(struct tensor_file *file, size_t length, struct buffer *text) {
    TRY(buffer_reserve(text, length));
    TRY(read_at(file, LENGTH_BYTES, length, text->data));
    RETURN_IF(length < 2 || text->data[0] != '{', STATUS_DATA, "%s: the header does not begin with '{'",
              file->path);
    return json_parse(file->path, text->data, length, 0, &file->header);
}

/* Reads the header; the data behind it begin at *data_offset. */
static enum status read_header(struct tensor_file *file, size_t *data_offset) {
    const char *path = file->path;
    size_t size = file->size;
    RETURN_IF(size < LENGTH_BYTES, STATUS_DATA, "%s: %zu bytes are too few for a safetensors file", path,
              size);
    uint8_t begin[64];
    size_t n_begin = size < sizeof begin ? size : sizeof begin;
    TRY(read_at(file, 0, n_begin, begin));
    TRY(file_refuse_pointer(path, begin, n_begin));
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) /* little-endian */
        length = length << 8 | begin[i];
    RETURN_IF(length > MAX_HEADER_BYTES, STATUS_DATA,
              "%s: a header of %llu bytes, allowed are %d; this is no safetensors file", path,
              (unsigned long long)length, (int)MAX_HEADER_BYTES);
    RETURN_IF(length > size - LENGTH_BYTES, STATUS_DATA,
              "%s: a header of %llu bytes, but the file has %zu; the file is cut", path,
              (unsigned long long)length, size);
    struct buffer text = {0};
    enum status result = parse_header(file, (size_t)length, &text);
    buffer_free(&text);
    *data_offset = LENGTH_BYTES + (size_t)length;
    return result;
}

static enum status grow_tensors(struct safetensors *files, size_t more) {
    size_t n;
    RETURN_IF(!size_add(files->n_tensors, more, &n) || n > INT32_MAX, STATUS_DATA, "too many tensors");
    struct stored_tensor *tensors = realloc(files->tensors, (n ? n : 1) * sizeof *tensors);
    RETURN_IF(!tensors, STATUS_INTERNAL, "out of host memory for %zu tensors", n);
    files->tensors = tensors;
    memset(tensors + files->n_tensors, 0, more * sizeof *tensors);
    return STATUS_OK;
}

/* Adds the file and its tensors. On failure the set is still to be closed. Takes path over. */
static enum status add_file(struct safetensors *files, char *path) {
    struct tensor_file *list = realloc(files->files, (files->n_files + 1) * sizeof *list);
    if (!list || !path) {
        free(path);
        files->files = list ? list : files->files;
        return status_fail(STATUS_INTERNAL, "out of host memory");
    }
    files->files = list;
    struct tensor_file *file = &list[files->n_files++];
    *file = (struct tensor_file){.path = path, .fd = -1};
    TRY(file_open(path, &file->fd, &file->size));
    size_t data_offset = 0;
    TRY(read_header(file, &data_offset));

    TRY(grow_tensors(files, json_object_size(file->header)));
    struct stored_tensor *tensors = files->tensors + files->n_tensors;
    size_t n = 0;
    for (void *at = json_object_iter(file->header); at; at = json_object_iter_next(file->header, at)) {
        if (strcmp(json_object_iter_key(at), "__metadata__") == 0) {
            TRY(check_metadata(path, json_object_iter_value(at)));
            continue;
        }
        tensors[n].name = json_object_iter_key(at);
        TRY(check_name(path, tensors[n].name));
        TRY(read_tensor(file, json_object_iter_value(at), data_offset, &tensors[n]));
        n++;
    }
    TRY(check_cover(file, tensors, n, data_offset));
    files->n_tensors += n;
    return STATUS_OK;
}

static int compare_name(const void *left, const void *right) {
    const struct stored_tensor *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static enum status sort_by_name(struct safetensors *files) {
    if (files->n_tensors > 1)
        qsort(files->tensors, files->n_tensors, sizeof *files->tensors, compare_name);
    for (size_t i = 1; i < files->n_tensors; i++) {
        const struct stored_tensor *a = &files->tensors[i - 1], *b = &files->tensors[i];
        RETURN_IF(strcmp(a->name, b->name) == 0, STATUS_DATA, "tensor \"%.*s\" is in %s and in %s",
                  NAME_SHOWN, a->name, a->file, b->file);
    }
    return STATUS_OK;
}

static enum status open_single(struct safetensors *files, const char *path) {
    TRY(add_file(files, strdup(path)));
    return sort_by_name(files);
}

enum status safetensors_open_file(const char *path, struct safetensors **out) {
    *out = NULL;
    struct safetensors *files = calloc(1, sizeof *files);
    RETURN_IF(!files, STATUS_INTERNAL, "out of host memory");
    enum status result = open_single(files, path);
    if (result != STATUS_OK) {
        safetensors_close(files);
        return result;
    }
    *out = files;
    return STATUS_OK;
}

/* ---- a folder ---- */

/* A shard's name is a plain file name: the index must not lead out of the folder. */
static bool is_plain_name(const char *name) {
    size_t length = strlen(name);
    static const char suffix[] = ".safetensors";
    return length > sizeof suffix - 1 && !strchr(name, '/') && name[0] != '.' &&
           strcmp(name + length - (sizeof suffix - 1), suffix) == 0;
}

static bool has_file(const struct safetensors *files, const char *path) {
    for (size_t i = 0; i < files->n_files; i++) {
        if (strcmp(files->files[i].path, path) == 0)
            return true;
    }
    return false;
}

static enum status open_shards(struct safetensors *files, const char *folder, const char *index_path,
                               json_t *weight_map) {
    for (void *at = json_object_iter(weight_map); at; at = json_object_iter_next(weight_map, at)) {
        const char *tensor = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        const char *name = json_string_value(value);
        char shown[QUOTE_BYTES];
        TRY(check_name(index_path, tensor));
        RETURN_IF(!name, STATUS_DATA, "%s: weight_map: \"%.*s\" is %s, expected the name of a file",
                  index_path, NAME_SHOWN, tensor, json_kind(value));
        RETURN_IF(!is_plain_name(name), STATUS_DATA,
                  "%s: weight_map: \"%.*s\": %s is not the name of a .safetensors file beside the index",
                  index_path, NAME_SHOWN, tensor, quote(name, strlen(name), shown));
        TRY(check_name(index_path, name));
        char *path = path_join(folder, name);
        RETURN_IF(!path, STATUS_INTERNAL, "out of host memory");
        if (has_file(files, path)) {
            free(path);
            continue;
        }
        enum status result = add_file(files, path);
        if (result == STATUS_NO_INPUT)
            return status_context(result, "%s names a file that is missing: ", index_path);
        TRY(result);
    }
    return STATUS_OK;
}

/* The index and the files must tell the same: each tensor in the file that the index names. */
static enum status check_index(struct safetensors *files, const char *index_path, json_t *weight_map) {
    for (void *at = json_object_iter(weight_map); at; at = json_object_iter_next(weight_map, at)) {
        const char *tensor = json_object_iter_key(at);
        const char *name = json_string_value(json_object_iter_value(at));
        const struct stored_tensor *found = safetensors_find(files, tensor);
        const char *base = found ? strrchr(found->file, '/') : NULL;
        base = base ? base + 1 : found ? found->file : "none of the files";
        RETURN_IF(strcmp(base, name) != 0, STATUS_DATA,
                  "%s: weight_map: tensor \"%.*s\" should be in %s, but is in %s", index_path, NAME_SHOWN,
                  tensor, name, base);
    }
    for (size_t i = 0; i < files->n_tensors; i++)
        RETURN_IF(!json_object_get(weight_map, files->tensors[i].name), STATUS_DATA,
                  "%s: tensor \"%.*s\" is not in the weight_map of %s", files->tensors[i].file, NAME_SHOWN,
                  files->tensors[i].name, index_path);
    return STATUS_OK;
}

static enum status open_index(struct safetensors *files, const char *folder, const char *index_path) {
    json_t *index;
    TRY(json_file_read(index_path, MAX_INDEX_BYTES, 0, &index));
    json_t *weight_map = json_object_get(index, "weight_map");
    enum status result = STATUS_OK;
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        result = status_fail(STATUS_DATA, "%s: weight_map is %s, expected an object of tensor: file",
                             index_path, json_is_object(weight_map) ? "empty" : json_kind(weight_map));
    if (result == STATUS_OK)
        result = open_shards(files, folder, index_path, weight_map);
    if (result == STATUS_OK)
        result = sort_by_name(files);
    if (result == STATUS_OK)
        result = check_index(files, index_path, weight_map);
    json_decref(index);
    return result;
}

enum status safetensors_open_folder(const char *folder, struct safetensors **out) {
    *out = NULL;
    struct safetensors *files = calloc(1, sizeof *files);
    char *index = path_join(folder, "model.safetensors.index.json");
    char *single = path_join(folder, "model.safetensors");
    enum status result = STATUS_OK;
    if (!files || !index || !single)
        result = status_fail(STATUS_INTERNAL, "out of host memory");
    else if (file_exists(index))
        result = open_index(files, folder, index);
    else if (file_exists(single))
        result = open_single(files, single);
    else
        result =
            status_fail(STATUS_NO_INPUT,
                        "%s: neither model.safetensors nor model.safetensors.index.json is there", folder);
    free(index);
    free(single);
    if (result != STATUS_OK) {
        safetensors_close(files);
        return result;
    }
    *out = files;
    return STATUS_OK;
}

void safetensors_close(struct safetensors *files) {
    if (!files)
        return;
    atomic_store(&files->hashing_stops, true);
    background_join(&files->hashing);
    for (size_t i = 0; i < files->n_files; i++) {
        json_decref(files->files[i].header);
        if (files->files[i].fd >= 0)
            close(files->files[i].fd);
        free(files->files[i].path);
    }
    free(files->files);
    free(files->by_size);
    free(files->tensors);
    free(files);
}

/* ---- tensors ---- */

int32_t safetensors_count(const struct safetensors *files) {
    return (int32_t)files->n_tensors;
}

struct stored_tensor *safetensors_at(struct safetensors *files, int32_t index) {
    return &files->tensors[index];
}

struct stored_tensor *safetensors_find(struct safetensors *files, const char *name) {
    struct stored_tensor key = {.name = name};
    if (files->n_tensors == 0)
        return NULL;
    return bsearch(&key, files->tensors, files->n_tensors, sizeof *files->tensors, compare_name);
}

static void shape_text(int32_t n_dims, const int64_t *shape, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "[");
    for (int32_t i = 0; i < n_dims && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < size)
        snprintf(out + at, size - at, "]");
}

enum status safetensors_get(struct safetensors *files, const char *name, int32_t n_dims, int64_t dim0,
                            int64_t dim1, struct stored_tensor **out) {
    struct stored_tensor *tensor = safetensors_find(files, name);
    int64_t shape[2] = {dim0, dim1};
    char expected[64], actual[200];
    shape_text(n_dims, shape, expected, sizeof expected);
    RETURN_IF(!tensor, STATUS_DATA, "tensor \"%s\" %s is missing from %s", name, expected,
              files->n_files == 1 ? files->files[0].path : "the tensor files");
    if (tensor->n_dims != n_dims || memcmp(tensor->shape, shape, (size_t)n_dims * sizeof *shape) != 0) {
        shape_text(tensor->n_dims, tensor->shape, actual, sizeof actual);
        return status_fail(STATUS_DATA, "%s: tensor \"%s\" has the shape %s, but config.json asks for %s",
                           tensor->file, name, actual, expected);
    }
    tensor->used = true;
    *out = tensor;
    return STATUS_OK;
}

int stored_tensor_read(const struct stored_tensor *tensor, size_t offset, size_t size, void *to) {
    return file_read_at(tensor->fd, tensor->offset + offset, size, to);
}

enum status stored_tensor_read_failed(const struct stored_tensor *tensor, int error) {
    return status_fail(STATUS_IO, "%s: tensor \"%.*s\" cannot be read: %s", tensor->file, NAME_SHOWN,
                       tensor->name, file_read_error(error));
}

/* Two tensors, for the threads: a task is COMPARED_AT_ONCE bytes. */
struct comparison {
    const struct stored_tensor *a, *b;
    atomic_bool differs;
    atomic_int a_error, b_error;
};

static void compare_task(void *argument, int64_t task) {
    struct comparison *c = argument;
    uint8_t a[COMPARED_AT_ONCE], b[COMPARED_AT_ONCE];
    size_t at = (size_t)task * sizeof a;
    size_t n = c->a->bytes - at < sizeof a ? c->a->bytes - at : sizeof a;
    if (atomic_load(&c->differs))
        return;
    int a_error = stored_tensor_read(c->a, at, n, a), b_error = stored_tensor_read(c->b, at, n, b);
    if (a_error)
        atomic_store(&c->a_error, a_error);
    else if (b_error)
        atomic_store(&c->b_error, b_error);
    else if (memcmp(a, b, n) != 0)
        atomic_store(&c->differs, true);
}

enum status stored_tensor_compare(const struct stored_tensor *a, const struct stored_tensor *b, bool *equal) {
    struct comparison comparison = {.a = a, .b = b};
    *equal = a->dtype == b->dtype && a->bytes == b->bytes;
    if (!*equal)
        return STATUS_OK;
    parallel_run(ceil_divide((int64_t)a->bytes, COMPARED_AT_ONCE), a->bytes > SERIAL_BYTES, compare_task,
                 &comparison);
    *equal = !atomic_load(&comparison.differs);
    int a_error = atomic_load(&comparison.a_error), b_error = atomic_load(&comparison.b_error);
    if (a_error)
        return stored_tensor_read_failed(a, a_error);
    return b_error ? stored_tensor_read_failed(b, b_error) : STATUS_OK;
}

/* ---- fingerprint ---- */

/* Hashes the tensor's contents, unless they are or `stops` becomes true. */
static enum status hash_contents(struct stored_tensor *tensor, const atomic_bool *stops) {
    if (tensor->is_hashed)
        return STATUS_OK;
    uint8_t piece[HASHED_AT_ONCE];
    struct hash128_pieces *pieces = hash128_begin();
    RETURN_IF(!pieces, STATUS_INTERNAL, "out of host memory");
    int error = 0;
    size_t at = 0;
    while (at < tensor->bytes && !error && !atomic_load(stops)) {
        size_t n = tensor->bytes - at < sizeof piece ? tensor->bytes - at : sizeof piece;
        error = stored_tensor_read(tensor, at, n, piece);
        if (!error)
            hash128_add(pieces, piece, n);
        at += n;
    }
    tensor->hash = hash128_end(pieces);
    tensor->is_hashed = !error && !atomic_load(stops);
    return error ? stored_tensor_read_failed(tensor, error) : STATUS_OK;
}

/* A failure leaves the tensor without its hash: safetensors_fingerprint tries again and tells why. */
static void hash_task(void *argument, int64_t task) {
    struct safetensors *files = argument;
    hash_contents(files->by_size[task], &files->hashing_stops);
}

static enum status hash_all(void *argument) {
    struct safetensors *files = argument;
    size_t n_bytes = 0;
    for (size_t i = 0; i < files->n_tensors; i++)
        n_bytes += files->tensors[i].bytes;
    parallel_run((int64_t)files->n_tensors, n_bytes > SERIAL_BYTES, hash_task, files);
    return STATUS_OK;
}

static int compare_size(const void *left, const void *right) {
    const struct stored_tensor *a = *(struct stored_tensor *const *)left;
    const struct stored_tensor *b = *(struct stored_tensor *const *)right;
    return a->bytes != b->bytes ? (a->bytes > b->bytes ? -1 : 1) : strcmp(a->name, b->name);
}

/* The largest tensor takes one thread longest, so it comes first. */
static bool sort_by_size(struct safetensors *files) {
    files->by_size = malloc((files->n_tensors ? files->n_tensors : 1) * sizeof *files->by_size);
    for (size_t i = 0; files->by_size && i < files->n_tensors; i++)
        files->by_size[i] = &files->tensors[i];
    if (files->by_size && files->n_tensors > 1)
        qsort(files->by_size, files->n_tensors, sizeof *files->by_size, compare_size);
    return files->by_size != NULL;
}

void safetensors_hash_begin(struct safetensors *files) {
    if (!files->by_size && sort_by_size(files))
        background_begin(&files->hashing, hash_all, files);
}

enum status safetensors_fingerprint(struct safetensors *files, struct hash128 *out) {
    safetensors_hash_begin(files);
    TRY(background_join(&files->hashing));
    static const char version[] = "tensors 1";
    struct hash128 hash = hash128_of(version, sizeof version);
    for (size_t i = 0; i < files->n_tensors; i++) {
        struct stored_tensor *tensor = &files->tensors[i];
        TRY(hash_contents(tensor, &files->hashing_stops));
        char shape[200];
        shape_text(tensor->n_dims, tensor->shape, shape, sizeof shape);
        /* Each with its NUL, so that no two lists of texts run together to the same bytes. */
        hash = hash128_chain(hash, tensor->name, strlen(tensor->name) + 1);
        hash = hash128_chain(hash, tensor->dtype_name, strlen(tensor->dtype_name) + 1);
        hash = hash128_chain(hash, shape, strlen(shape) + 1);
        hash = hash128_chain(hash, tensor->hash.bytes, sizeof tensor->hash.bytes);
    }
    *out = hash;
    return STATUS_OK;
}
