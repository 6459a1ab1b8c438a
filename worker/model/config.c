#include "worker/model/config.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/file.h"
#include "worker/base/json_file.h"
#include "worker/text/quote.h"

enum {
    MAX_FILE_BYTES = 16 << 20,
    /* Bounds of what a config may ask for: far above any model, and low enough that no product of three of
     * them leaves 64 bits. */
    MAX_LAYERS = 1 << 12,
    MAX_WIDTH = 1 << 20,
    MAX_POSITIONS = 1 << 24,
    MAX_VOCAB = 1 << 22
};

/* Where a value stands, for messages. */
struct json_source {
    const char *path;
    const json_t *object;
};

static const json_t *get(struct json_source source, const char *key) {
    const json_t *value = json_object_get(source.object, key);
    return json_is_null(value) ? NULL : value;
}

/* An integer key; numbers are parsed as reals, because writers of these files use 1e30 as "no limit". */
static enum status read_int(struct json_source source, const char *key, int32_t minimum, int32_t maximum,
                            bool required, int32_t *out) {
    const json_t *value = get(source, key);
    if (!value) {
        RETURN_IF(required, STATUS_DATA, "%s: %s is absent; expected an integer from %d to %d", source.path,
                  key, (int)minimum, (int)maximum);
        return STATUS_OK;
    }
    RETURN_IF(!json_is_number(value), STATUS_DATA, "%s: %s is %s, expected an integer", source.path, key,
              json_kind(value));
    double number = json_number_value(value);
    RETURN_IF(number != floor(number) || number < minimum || number > maximum, STATUS_DATA,
              "%s: %s: %g, expected an integer from %d to %d", source.path, key, number, (int)minimum,
              (int)maximum);
    *out = (int32_t)number;
    return STATUS_OK;
}

/* A switch of the architecture that is supported in one position only. */
static enum status require_bool(struct json_source source, const char *key, bool supported) {
    const json_t *value = get(source, key);
    if (!value)
        return STATUS_OK; /* the supported position is the family's default for all of them */
    RETURN_IF(!json_is_boolean(value), STATUS_DATA, "%s: %s is %s, expected true or false", source.path, key,
              json_kind(value));
    RETURN_IF(json_is_true(value) != supported, STATUS_DATA, "%s: %s: %s is not supported; supported: %s",
              source.path, key, supported ? "false" : "true", supported ? "true" : "false");
    return STATUS_OK;
}

static enum status read_dtype(struct json_source source, struct model_config *config) {
    const char *key = get(source, "dtype") ? "dtype" : "torch_dtype";
    const json_t *value = get(source, key);
    if (!value)
        return STATUS_OK;
    const char *name = json_string_value(value);
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA, "%s: %s is %s, expected a string", source.path, key, json_kind(value));
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    /* float16 weights are computed in bfloat16's range or in float32; the file then has no say. */
    config->has_dtype = strcmp(name, "float32") == 0 || strcmp(name, "bfloat16") == 0;
    config->dtype = strcmp(name, "bfloat16") == 0 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
    RETURN_IF(!config->has_dtype && strcmp(name, "float16") != 0, STATUS_DATA,
              "%s: %s: %s is not supported; supported: float32, bfloat16, float16", source.path, key,
              quote(name, strlen(name), shown));
    return STATUS_OK;
}

/* eos_token_id: an integer, a list of integers, or null. *is_given tells whether the key is there. */
static enum status read_eos(struct json_source source, struct model_config *config, bool *is_given) {
    const json_t *value = json_object_get(source.object, "eos_token_id");
    *is_given = value != NULL;
    if (!value)
        return STATUS_OK;
    config->n_eos = 0;
    if (json_is_null(value))
        return STATUS_OK;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    RETURN_IF(n > MAX_EOS_IDS, STATUS_DATA, "%s: eos_token_id lists %zu ids, allowed are %d", source.path, n,
              (int)MAX_EOS_IDS);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        double number = json_number_value(id);
        RETURN_IF(!json_is_number(id) || number != floor(number) || number < 0 || number >= config->n_vocab,
                  STATUS_DATA,
                  "%s: eos_token_id: expected an integer from 0 to %d (vocab_size - 1), or a list of "
                  "these, or null",
                  source.path, (int)config->n_vocab - 1);
        config->eos_ids[config->n_eos++] = (int32_t)number;
    }
    return STATUS_OK;
}

static enum status read_activation(struct json_source source) {
    const json_t *value = get(source, "activation_function");
    if (!value)
        return STATUS_OK; /* GPT-2's default is gelu_new */
    const char *name = json_string_value(value);
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA, "%s: activation_function is %s, expected a string", source.path,
              json_kind(value));
    RETURN_IF(strcmp(name, "gelu_new") != 0 && strcmp(name, "gelu_pytorch_tanh") != 0, STATUS_DATA,
              "%s: activation_function: %s is not supported; supported: gelu_new, gelu_pytorch_tanh",
              source.path, quote(name, strlen(name), shown));
    return STATUS_OK;
}

/* n_positions, or n_ctx as older files call it. */
static enum status read_positions(struct json_source source, struct model_config *config) {
    int32_t n_ctx = 0;
    TRY(read_int(source, "n_ctx", 1, MAX_POSITIONS, false, &n_ctx));
    TRY(read_int(source, "n_positions", 1, MAX_POSITIONS, n_ctx == 0, &config->n_positions));
    if (config->n_positions == 0)
        config->n_positions = n_ctx;
    return STATUS_OK;
}

static enum status read_epsilon(struct json_source source, struct model_config *config) {
    const json_t *value = get(source, "layer_norm_epsilon");
    config->norm_epsilon = 1e-5f;
    if (!value)
        return STATUS_OK;
    double number = json_number_value(value);
    RETURN_IF(!json_is_number(value) || !(number > 0 && number < 1), STATUS_DATA,
              "%s: layer_norm_epsilon: expected a number above 0 and below 1", source.path);
    config->norm_epsilon = (float)number;
    return STATUS_OK;
}

static enum status read_gpt2(struct json_source source, struct model_config *config) {
    TRY(read_int(source, "n_layer", 1, MAX_LAYERS, true, &config->n_layers));
    TRY(read_int(source, "n_head", 1, MAX_WIDTH, true, &config->n_heads));
    TRY(read_int(source, "n_embd", 1, MAX_WIDTH, true, &config->n_embd));
    TRY(read_int(source, "vocab_size", 1, MAX_VOCAB, true, &config->n_vocab));
    TRY(read_positions(source, config));
    RETURN_IF(config->n_embd % config->n_heads != 0, STATUS_DATA,
              "%s: n_embd: %d is no multiple of n_head, %d", source.path, (int)config->n_embd,
              (int)config->n_heads);
    config->n_kv_heads = config->n_heads;
    config->head_dim = config->n_embd / config->n_heads;
    config->n_inner = 4 * config->n_embd;
    TRY(read_int(source, "n_inner", 1, 8 * MAX_WIDTH, false, &config->n_inner));
    TRY(read_epsilon(source, config));
    TRY(read_activation(source));
    TRY(require_bool(source, "scale_attn_weights", true));
    TRY(require_bool(source, "scale_attn_by_inverse_layer_idx", false));
    TRY(require_bool(source, "reorder_and_upcast_attn", false));
    TRY(require_bool(source, "reorder_and_upcast", false));
    TRY(require_bool(source, "add_cross_attention", false));
    const json_t *tied = get(source, "tie_word_embeddings");
    RETURN_IF(tied && !json_is_boolean(tied), STATUS_DATA,
              "%s: tie_word_embeddings is %s, expected true or false", source.path, json_kind(tied));
    config->tie_word_embeddings = !tied || json_is_true(tied);
    bool eos_is_given;
    TRY(read_eos(source, config, &eos_is_given));
    if (!eos_is_given && config->n_vocab > 50256) { /* the family's default, GPT-2's <|endoftext|> */
        config->eos_ids[0] = 50256;
        config->n_eos = 1;
    }
    return STATUS_OK;
}

static enum status read_config(struct json_source source, struct model_config *config) {
    const json_t *type = get(source, "model_type");
    const char *name = json_string_value(type);
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA,
              "%s: model_type is %s, expected the name of an architecture; supported: gpt2", source.path,
              json_kind(json_object_get(source.object, "model_type")));
    RETURN_IF(strcmp(name, "gpt2") != 0, STATUS_DATA, "%s: model_type: %s is not supported; supported: gpt2",
              source.path, quote(name, strlen(name), shown));
    snprintf(config->model_type, sizeof config->model_type, "%s", name);
    const json_t *quantization = get(source, "quantization_config");
    RETURN_IF(quantization, STATUS_DATA,
              "%s: quantization_config: quantized weights are not supported; use the original model",
              source.path);
    TRY(read_dtype(source, config));
    return read_gpt2(source, config);
}

/* The keys of generation_config.json that are defaults of a job's sampling. */
static enum status read_sampling(struct json_source source, struct sampling *defaults) {
    static const char *const keys[] = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *json = get(source, keys[i]);
        if (!json)
            continue;
        RETURN_IF(!json_is_number(json), STATUS_DATA, "%s: %s is %s, expected a number", source.path, keys[i],
                  json_kind(json));
        struct sampling_value value = {.kind = SAMPLING_VALUE_REAL, .real = json_number_value(json)};
        if (value.real == floor(value.real) && fabs(value.real) < 0x1p53) {
            value.kind = SAMPLING_VALUE_INTEGER;
            value.integer = (int64_t)value.real;
        }
        bool known;
        enum status result = sampling_set_scalar(defaults, STATUS_DATA, keys[i], value, &known);
        if (result != STATUS_OK)
            return status_context(result, "%s: ", source.path);
    }
    const json_t *do_sample = get(source, "do_sample");
    RETURN_IF(do_sample && !json_is_boolean(do_sample), STATUS_DATA,
              "%s: do_sample is %s, expected true or false", source.path, json_kind(do_sample));
    if (json_is_false(do_sample)) {
        defaults->temperature = 0;
        defaults->set |= SAMPLING_TEMPERATURE;
    }
    return STATUS_OK;
}

static enum status load_config(const char *path, struct model_config *config) {
    json_t *root;
    TRY(json_file_read(path, MAX_FILE_BYTES, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &root));
    enum status result = read_config((struct json_source){path, root}, config);
    json_decref(root);
    return result;
}

static enum status load_generation_config(const char *path, struct model_config *config,
                                          struct sampling *defaults) {
    json_t *root;
    TRY(json_file_read(path, MAX_FILE_BYTES, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &root));
    struct json_source source = {path, root};
    bool is_given;
    enum status result = read_eos(source, config, &is_given);
    if (result == STATUS_OK)
        result = read_sampling(source, defaults);
    json_decref(root);
    return result;
}

enum status model_config_load(const char *folder, struct model_config *config, struct sampling *defaults) {
    *config = (struct model_config){0};
    sampling_init(defaults);
    char *path = path_join(folder, "config.json");
    char *generation_path = path_join(folder, "generation_config.json");
    enum status result = STATUS_OK;
    if (!path || !generation_path)
        result = status_fail(STATUS_INTERNAL, "out of host memory");
    if (result == STATUS_OK)
        result = load_config(path, config);
    if (result == STATUS_OK && file_exists(generation_path))
        result = load_generation_config(generation_path, config, defaults);
    free(path);
    free(generation_path);
    return result;
}
