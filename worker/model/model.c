#include "worker/model/model.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/arith.h"
#include "worker/base/file.h"
#include "worker/model/family.h"

/* ---- sizes ---- */

static size_t saturating_add(size_t a, size_t b) {
    size_t sum;
    return size_add(a, b, &sum) ? sum : SIZE_MAX;
}

static size_t saturating_multiply(size_t a, size_t b) {
    size_t product;
    return size_multiply(a, b, &product) ? product : SIZE_MAX;
}

/* Backends lay weights out in panels: rows and columns are rounded up to no more than multiples of these
 * (those of a pair each), and no tensor takes more than this beside its elements. */
enum { PANEL_ROWS = 64, PANEL_COLUMNS = 128, TENSOR_OVERHEAD_BYTES = 512 };

static size_t matrix_bytes(int64_t n_out, int64_t n_in, enum dtype dtype) {
    size_t rows = (size_t)ceil_divide(n_out, PANEL_ROWS) * PANEL_ROWS;
    size_t columns = (size_t)ceil_divide(n_in, PANEL_COLUMNS) * PANEL_COLUMNS;
    return saturating_add(saturating_multiply(saturating_multiply(rows, columns), dtype_bytes(dtype)),
                          TENSOR_OVERHEAD_BYTES);
}

static size_t rows_bytes(int64_t rows, int64_t columns, enum dtype dtype) {
    size_t elements = saturating_multiply((size_t)rows, (size_t)columns);
    return saturating_add(saturating_multiply(elements, dtype_bytes(dtype)), TENSOR_OVERHEAD_BYTES);
}

/* Width of one row of q, k and v. */
static int64_t qkv_width(const struct model_config *config) {
    return ((int64_t)config->n_heads + 2 * (int64_t)config->n_kv_heads) * config->head_dim;
}

static int64_t attention_width(const struct model_config *config) {
    return (int64_t)config->n_heads * config->head_dim;
}

size_t model_weight_bytes(const struct model_config *config, enum dtype dtype) {
    const int64_t n_embd = config->n_embd, n_inner = config->n_inner, qkv = qkv_width(config);
    size_t layer = matrix_bytes(qkv, n_embd, dtype);
    layer = saturating_add(layer, matrix_bytes(n_embd, attention_width(config), dtype));
    size_t n_up = model_config_is_gated(config) ? 2 : 1;
    layer = saturating_add(layer, saturating_multiply(n_up, matrix_bytes(n_inner, n_embd, dtype)));
    layer = saturating_add(layer, matrix_bytes(n_embd, n_inner, dtype));
    int64_t n_vectors = 2 * n_embd; /* elements of all the layer's vectors: norms, then biases */
    n_vectors +=
        (config->has_post_norms ? 2 * n_embd : 0) + (config->has_qk_norms ? 2 * config->head_dim : 0);
    n_vectors += (config->has_norm_biases ? 2 * n_embd : 0) + (config->has_qkv_biases ? qkv : 0);
    n_vectors += (config->has_attention_bias ? n_embd : 0) + (config->has_mlp_biases ? n_inner + n_embd : 0);
    layer = saturating_add(layer, rows_bytes(1, n_vectors, DTYPE_FLOAT32));
    layer = saturating_add(layer, (size_t)8 * TENSOR_OVERHEAD_BYTES); /* of the vectors just counted as one */
    size_t total = saturating_multiply(layer, (size_t)config->n_layers);
    size_t tables = config->tie_word_embeddings ? 1 : 2;
    total = saturating_add(total, saturating_multiply(tables, matrix_bytes(config->n_vocab, n_embd, dtype)));
    if (config->rope.kind == ROPE_NONE)
        total = saturating_add(total, matrix_bytes(config->n_positions, n_embd, dtype));
    return saturating_add(total, 2 * rows_bytes(1, n_embd, DTYPE_FLOAT32));
}

static int32_t rope_positions(const struct model_config *config, const struct model_limits *limits) {
    return limits->max_positions > 0 ? limits->max_positions : config->n_positions;
}

static int64_t normed_rows(const struct model_limits *limits) {
    return limits->max_rows > limits->logit_rows ? limits->max_rows : limits->logit_rows;
}

size_t model_activation_bytes(const struct model_config *config, enum dtype dtype,
                              const struct model_limits *limits) {
    size_t total = rows_bytes(limits->max_rows, config->n_embd, DTYPE_FLOAT32);
    total = saturating_add(total, rows_bytes(normed_rows(limits), config->n_embd, dtype));
    total = saturating_add(total, rows_bytes(limits->max_rows, qkv_width(config), dtype));
    total = saturating_add(total, rows_bytes(limits->max_rows, attention_width(config), dtype));
    total = saturating_add(total, rows_bytes(limits->max_rows, config->n_inner, dtype));
    const enum rope_kind ropes[] = {config->rope.kind, config->sliding_rope.kind};
    for (int i = 0; i < 2; i++)
        if (ropes[i] != ROPE_NONE)
            total = saturating_add(
                total, rows_bytes(rope_positions(config, limits), config->head_dim, DTYPE_FLOAT32));
    if (config->has_post_norms)
        total = saturating_add(total, rows_bytes(limits->max_rows, config->n_embd, DTYPE_FLOAT32));
    return saturating_add(total, rows_bytes(limits->logit_rows, config->n_vocab, DTYPE_FLOAT32));
}

void model_parameter_counts(const struct model_config *config, int64_t *body, int64_t *head) {
    const int64_t n_embd = config->n_embd;
    int64_t n_mlp = model_config_is_gated(config) ? 3 : 2;
    int64_t layer =
        qkv_width(config) * n_embd + n_embd * attention_width(config) + n_mlp * config->n_inner * n_embd;
    *body = config->n_layers * layer;
    *head = config->n_vocab * n_embd;
}

/* ---- fingerprint ---- */

enum { MAX_JSON_BYTES = 256 << 20 };

/* Puts a JSON file of the folder, whole, into the hash; an absent one too, as absent. */
static enum status chain_file(const char *folder, const char *name, struct hash128 *hash) {
    char *path = path_join(folder, name);
    RETURN_IF(!path, STATUS_INTERNAL, "out of host memory");
    struct buffer text = {0};
    enum status result = STATUS_OK;
    bool exists = file_exists(path);
    if (exists)
        result = file_read(path, MAX_JSON_BYTES, &text);
    if (result == STATUS_OK) {
        *hash = hash128_chain(*hash, name, strlen(name) + 1);
        struct hash128 contents = hash128_of(text.data ? text.data : "", text.size);
        *hash = hash128_chain(*hash, contents.bytes, exists ? sizeof contents.bytes : 0);
    }
    buffer_free(&text);
    free(path);
    return result;
}

static enum status folder_fingerprint(const char *folder, struct safetensors *files, char out[33]) {
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
                                        "tokenizer_config.json"};
    struct hash128 hash;
    TRY(safetensors_fingerprint(files, &hash));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        TRY(chain_file(folder, names[i], &hash));
    hash128_text(hash, out);
    return STATUS_OK;
}

enum status model_fingerprint(const char *folder, char out[33]) {
    struct safetensors *files;
    TRY(safetensors_open_folder(folder, &files));
    enum status result = folder_fingerprint(folder, files, out);
    safetensors_close(files);
    return result;
}

/* ---- loading ---- */

/* A tensor that nothing reads means that the model is not what config.json says it is. */
static enum status check_all_used(struct safetensors *files, const struct model_family *family) {
    for (int32_t i = 0; i < safetensors_count(files); i++) {
        const struct stored_tensor *tensor = safetensors_at(files, i);
        RETURN_IF(!tensor->used && !family->is_buffer(tensor->name), STATUS_DATA,
                  "%s: tensor \"%.200s\" is no part of a %s model as config.json describes it", tensor->file,
                  tensor->name, family->model_type);
    }
    return STATUS_OK;
}

static enum status load_files(struct model *model, const char *folder, struct safetensors *files,
                              char *fingerprint) {
    struct weight_source source = {.files = files, .backend = model->backend, .dtype = model->dtype};
    enum status result = model->family->load(model, &source);
    if (result == STATUS_OK)
        result = check_all_used(files, model->family);
    TRY(weight_source_finish(&source, result));
    if (fingerprint)
        TRY(folder_fingerprint(folder, files, fingerprint));
    weight_source_report(&source);
    return STATUS_OK;
}

/* A model without weights yet. */
static enum status model_new(const struct model_config *config, enum dtype dtype, struct backend *backend,
                             struct model **out) {
    *out = NULL;
    const struct model_family *family = model_family_find(config->model_type);
    RETURN_IF(!family, STATUS_DATA, "model_type \"%s\" is not supported", config->model_type);
    struct model *model = calloc(1, sizeof *model);
    RETURN_IF(!model, STATUS_INTERNAL, "out of host memory");
    *model = (struct model){.config = *config, .dtype = dtype, .backend = backend, .family = family};
    model->weights.layers = calloc((size_t)config->n_layers, sizeof *model->weights.layers);
    if (!model->weights.layers) {
        model_close(model);
        return status_fail(STATUS_INTERNAL, "out of host memory");
    }
    *out = model;
    return STATUS_OK;
}

/* The model when its loading succeeded; else it is closed. */
static enum status loaded(enum status result, struct model *model, struct model **out) {
    if (result == STATUS_OK)
        *out = model;
    else
        model_close(model);
    return result;
}

enum status model_load_files(const char *folder, struct safetensors *files, const struct model_config *config,
                             enum dtype dtype, struct backend *backend, char *fingerprint,
                             struct model **out) {
    *out = NULL;
    struct model *model;
    TRY(model_new(config, dtype, backend, &model));
    return loaded(load_files(model, folder, files, fingerprint), model, out);
}

enum status model_load(const char *folder, const struct model_config *config, enum dtype dtype,
                       struct backend *backend, char *fingerprint, struct model **out) {
    *out = NULL;
    struct safetensors *files;
    TRY(safetensors_open_folder(folder, &files));
    if (fingerprint)
        safetensors_hash_begin(files);
    enum status result = model_load_files(folder, files, config, dtype, backend, fingerprint, out);
    safetensors_close(files);
    return result;
}

enum status model_synthesize(const struct model_config *config, const struct synthesis *synthesis,
                             enum dtype dtype, struct backend *backend, struct model **out) {
    *out = NULL;
    struct model *model;
    TRY(model_new(config, dtype, backend, &model));
    struct weight_source source = {.synthesis = synthesis, .backend = backend, .dtype = dtype};
    enum status result = weight_source_finish(&source, model->family->load(model, &source));
    return loaded(result, model, out);
}

enum status model_list_tensors(const struct model_config *config, enum dtype dtype,
                               struct synthetic_list *list) {
    struct backend nowhere = synthesis_backend();
    struct model *model;
    TRY(model_new(config, dtype, &nowhere, &model));
    struct weight_source source = {.backend = &nowhere, .dtype = dtype, .asked = list};
    enum status result = weight_source_finish(&source, model->family->load(model, &source));
    model_close(model);
    return result;
}

/* A table of rotary positions, in backend memory; none for ROPE_NONE. */
static enum status prepare_rope(struct model *model, const struct rope_config *angles, struct tensor **rope) {
    struct backend *backend = model->backend;
    const struct model_config *config = &model->config;
    int32_t n_positions = rope_positions(config, &model->limits);
    size_t bytes;
    if (angles->kind == ROPE_NONE)
        return STATUS_OK;
    RETURN_IF(!size_multiply((size_t)n_positions, (size_t)config->head_dim * sizeof(float), &bytes),
              STATUS_NO_FIT, "a table of %d rotary positions", (int)n_positions);
    float *table = malloc(bytes);
    RETURN_IF(!table, STATUS_INTERNAL, "out of host memory");
    rope_fill(angles, config->head_dim, n_positions, table);
    enum status result =
        backend->tensor_new(backend->context, DTYPE_FLOAT32, n_positions, config->head_dim, rope);
    if (result == STATUS_OK)
        result = backend->tensor_write(backend->context, *rope, n_positions, table);
    free(table);
    return result;
}

enum status model_prepare(struct model *model, const struct model_limits *limits) {
    struct backend *backend = model->backend;
    const struct model_config *config = &model->config;
    RETURN_IF(model->activations.hidden, STATUS_INTERNAL, "the model is prepared already");
    RETURN_IF(limits->max_rows < 1 || limits->max_samples < 1 || limits->logit_rows < 1, STATUS_INTERNAL,
              "a step of %d rows, %d samples, %d rows of logits", (int)limits->max_rows,
              (int)limits->max_samples, (int)limits->logit_rows);
    model->limits = *limits;
    struct model_activations *on = &model->activations;
    const struct {
        enum dtype dtype;
        int64_t rows;
        int64_t columns;
        struct tensor **out;
    } tensors[] = {
        {DTYPE_FLOAT32, limits->max_rows, config->n_embd, &on->hidden},
        {model->dtype, normed_rows(limits), config->n_embd, &on->normed},
        {model->dtype, limits->max_rows, qkv_width(config), &on->qkv},
        {model->dtype, limits->max_rows, attention_width(config), &on->attended},
        {model->dtype, limits->max_rows, config->n_inner, &on->inner},
        {DTYPE_FLOAT32, limits->logit_rows, config->n_vocab, &on->logits},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        TRY(backend->tensor_new(backend->context, tensors[i].dtype, tensors[i].rows, tensors[i].columns,
                                tensors[i].out));
    if (config->has_post_norms)
        TRY(backend->tensor_new(backend->context, DTYPE_FLOAT32, limits->max_rows, config->n_embd,
                                &on->projected));
    TRY(prepare_rope(model, &config->rope, &on->rope));
    return prepare_rope(model, &config->sliding_rope, &on->sliding_rope);
}

enum status model_forward(struct model *model, const struct batch *batch) {
    RETURN_IF(!model->activations.hidden || batch->n_rows > model->limits.max_rows ||
                  batch->n_samples > model->limits.max_samples,
              STATUS_INTERNAL, "a step of %d rows and %d samples; the model is prepared for %d and %d",
              (int)batch->n_rows, (int)batch->n_samples, (int)model->limits.max_rows,
              (int)model->limits.max_samples);
    return model->family->forward(model, batch);
}

void model_close(struct model *model) {
    if (!model)
        return;
    struct backend *backend = model->backend;
    struct model_weights *weights = &model->weights;
    struct model_activations *on = &model->activations;
    if (weights->head == weights->token_embedding) /* tied: freed once */
        weights->head = NULL;
    struct tensor *single[] = {weights->token_embedding,
                               weights->position_embedding,
                               weights->norm_weight,
                               weights->norm_bias,
                               weights->head,
                               on->hidden,
                               on->normed,
                               on->qkv,
                               on->attended,
                               on->inner,
                               on->logits,
                               on->rope,
                               on->sliding_rope,
                               on->projected};
    for (size_t i = 0; i < sizeof single / sizeof single[0]; i++)
        backend->tensor_free(backend->context, single[i]);
    for (int32_t i = 0; weights->layers && i < model->config.n_layers; i++) {
        struct layer_weights *layer = &weights->layers[i];
        struct tensor *tensors[] = {
            layer->norm1_weight,     layer->norm1_bias,       layer->qkv_weight,
            layer->qkv_bias,         layer->attention_weight, layer->attention_bias,
            layer->norm2_weight,     layer->norm2_bias,       layer->up_weight,
            layer->up_bias,          layer->down_weight,      layer->down_bias,
            layer->q_norm_weight,    layer->k_norm_weight,    layer->post_norm1_weight,
            layer->post_norm2_weight};
        for (size_t t = 0; t < sizeof tensors / sizeof tensors[0]; t++)
            backend->tensor_free(backend->context, tensors[t]);
    }
    free(weights->layers);
    free(model);
}
