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
    MAX_HEAD_WIDTH = 1 << 10,
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

static enum status read_epsilon(struct json_source source, const char *key, float family_default,
                                struct model_config *config) {
    const json_t *value = get(source, key);
    config->norm_epsilon = family_default;
    if (!value)
        return STATUS_OK;
    double number = json_number_value(value);
    RETURN_IF(!json_is_number(value) || !(number > 0 && number < 1), STATUS_DATA,
              "%s: %s: expected a number above 0 and below 1", source.path, key);
    config->norm_epsilon = (float)number;
    return STATUS_OK;
}

static enum status read_tied(struct json_source source, bool family_default, struct model_config *config) {
    const json_t *tied = get(source, "tie_word_embeddings");
    RETURN_IF(tied && !json_is_boolean(tied), STATUS_DATA,
              "%s: tie_word_embeddings is %s, expected true or false", source.path, json_kind(tied));
    config->tie_word_embeddings = tied ? json_is_true(tied) : family_default;
    return STATUS_OK;
}

/* family_default is what the family's config class supplies where the key is absent. */
static enum status read_eos_or(struct json_source source, int32_t family_default,
                               struct model_config *config) {
    bool eos_is_given;
    TRY(read_eos(source, config, &eos_is_given));
    if (!eos_is_given && config->n_vocab > family_default) {
        config->eos_ids[0] = family_default;
        config->n_eos = 1;
    }
    return STATUS_OK;
}

/* ---- GPT-2 ---- */

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
    TRY(read_epsilon(source, "layer_norm_epsilon", 1e-5f, config));
    TRY(read_activation(source));
    config->norm = NORM_LAYER;
    config->activation = ACTIVATION_GELU_TANH;
    config->has_biases = true;
    TRY(require_bool(source, "scale_attn_weights", true));
    TRY(require_bool(source, "scale_attn_by_inverse_layer_idx", false));
    TRY(require_bool(source, "reorder_and_upcast_attn", false));
    TRY(require_bool(source, "reorder_and_upcast", false));
    TRY(require_bool(source, "add_cross_attention", false));
    TRY(read_tied(source, true, config));
    return read_eos_or(source, 50256, config); /* <|endoftext|> */
}

/* ---- Llama ---- */

/* A number from minimum to maximum; absent: *out stays, unless it is required. */
static enum status read_real(struct json_source source, const char *block, const char *key, double minimum,
                             double maximum, bool required, double *out) {
    const json_t *value = get(source, key);
    if (!value && !required)
        return STATUS_OK;
    double number = json_number_value(value);
    RETURN_IF(!json_is_number(value) || !(number >= minimum && number <= maximum), STATUS_DATA,
              "%s: %s%s is %s; expected a number from %g to %g", source.path, block, key,
              json_is_number(value) ? "out of range" : json_kind(value), minimum, maximum);
    *out = number;
    return STATUS_OK;
}

/* How rotary positions are scaled: rope_parameters, or rope_scaling as older files call it. */
static enum status read_rope_kind(struct json_source source, const char *block, struct rope_config *rope) {
    const json_t *type = get(source, "rope_type") ? get(source, "rope_type") : get(source, "type");
    const char *name = json_string_value(type);
    char shown[QUOTE_BYTES];
    RETURN_IF(type && !name, STATUS_DATA, "%s: %srope_type is %s, expected a string", source.path, block,
              json_kind(type));
    if (!name || strcmp(name, "default") == 0) {
        rope->kind = ROPE_DEFAULT;
        return STATUS_OK;
    }
    bool is_llama3 = strcmp(name, "llama3") == 0;
    RETURN_IF(!is_llama3 && strcmp(name, "linear") != 0, STATUS_DATA,
              "%s: %srope_type: %s is not supported; supported: default, linear, llama3", source.path, block,
              quote(name, strlen(name), shown));
    rope->kind = is_llama3 ? ROPE_LLAMA3 : ROPE_LINEAR;
    TRY(read_real(source, block, "factor", 1, 1e6, true, &rope->factor));
    if (!is_llama3)
        return STATUS_OK;
    TRY(read_real(source, block, "low_freq_factor", 1e-6, 1e6, true, &rope->low_frequency));
    TRY(read_real(source, block, "high_freq_factor", 1e-6, 1e6, true, &rope->high_frequency));
    RETURN_IF(!(rope->low_frequency < rope->high_frequency), STATUS_DATA,
              "%s: %slow_freq_factor: %g is not below high_freq_factor, %g", source.path, block,
              rope->low_frequency, rope->high_frequency);
    return read_int(source, "original_max_position_embeddings", 1, MAX_POSITIONS, true,
                    &rope->original_positions);
}

static enum status read_rope(struct json_source source, struct model_config *config) {
    struct rope_config *rope = &config->rope;
    *rope = (struct rope_config){.kind = ROPE_DEFAULT, .theta = 10000};
    TRY(read_real(source, "", "rope_theta", 1, 1e15, false, &rope->theta));
    double rotated_part = 1;
    TRY(read_real(source, "", "partial_rotary_factor", 1, 1, false, &rotated_part));
    const json_t *parameters = get(source, "rope_parameters"), *scaling = get(source, "rope_scaling");
    RETURN_IF(parameters && scaling, STATUS_DATA,
              "%s: rope_parameters and rope_scaling are both given; keep one", source.path);
    const char *key = parameters ? "rope_parameters" : "rope_scaling";
    const json_t *block = parameters ? parameters : scaling;
    if (!block)
        return STATUS_OK;
    RETURN_IF(!json_is_object(block), STATUS_DATA, "%s: %s is %s, expected an object", source.path, key,
              json_kind(block));
    struct json_source inside = {source.path, block};
    const char *shown = parameters ? "rope_parameters." : "rope_scaling.";
    TRY(read_real(inside, shown, "rope_theta", 1, 1e15, false, &rope->theta));
    TRY(read_real(inside, shown, "partial_rotary_factor", 1, 1, false, &rotated_part));
    return read_rope_kind(inside, shown, rope);
}

/* Query heads share key/value heads evenly, and every head has pairs to rotate. */
static enum status read_heads(struct json_source source, struct model_config *config) {
    TRY(read_int(source, "num_attention_heads", 1, MAX_WIDTH, true, &config->n_heads));
    config->n_kv_heads = config->n_heads;
    TRY(read_int(source, "num_key_value_heads", 1, MAX_WIDTH, false, &config->n_kv_heads));
    RETURN_IF(config->n_heads % config->n_kv_heads != 0, STATUS_DATA,
              "%s: num_attention_heads: %d is no multiple of num_key_value_heads, %d", source.path,
              (int)config->n_heads, (int)config->n_kv_heads);
    bool has_head_dim = get(source, "head_dim") != NULL;
    RETURN_IF(!has_head_dim && config->n_embd % config->n_heads != 0, STATUS_DATA,
              "%s: hidden_size: %d is no multiple of num_attention_heads, %d, and head_dim is absent",
              source.path, (int)config->n_embd, (int)config->n_heads);
    config->head_dim = config->n_embd / config->n_heads;
    TRY(read_int(source, "head_dim", 1, MAX_HEAD_WIDTH, false, &config->head_dim));
    RETURN_IF(config->head_dim % 2 != 0 || config->head_dim > MAX_HEAD_WIDTH, STATUS_DATA,
              "%s: heads of %d; rotary positions need an even size up to %d", source.path,
              (int)config->head_dim, (int)MAX_HEAD_WIDTH);
    RETURN_IF((int64_t)config->n_heads * config->head_dim > 8 * MAX_WIDTH, STATUS_DATA,
              "%s: num_attention_heads: %d heads of %d are more than %d wide", source.path,
              (int)config->n_heads, (int)config->head_dim, 8 * (int)MAX_WIDTH);
    return STATUS_OK;
}

static enum status read_llama(struct json_source source, struct model_config *config) {
    TRY(read_int(source, "num_hidden_layers", 1, MAX_LAYERS, true, &config->n_layers));
    TRY(read_int(source, "hidden_size", 1, MAX_WIDTH, true, &config->n_embd));
    TRY(read_int(source, "intermediate_size", 1, 8 * MAX_WIDTH, true, &config->n_inner));
    TRY(read_int(source, "vocab_size", 1, MAX_VOCAB, true, &config->n_vocab));
    TRY(read_int(source, "max_position_embeddings", 1, MAX_POSITIONS, true, &config->n_positions));
    TRY(read_heads(source, config));
    TRY(read_epsilon(source, "rms_norm_eps", 1e-6f, config));
    const json_t *activation = get(source, "hidden_act");
    const char *name = activation ? json_string_value(activation) : "silu";
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA, "%s: hidden_act is %s, expected a string", source.path,
              json_kind(activation));
    RETURN_IF(strcmp(name, "silu") != 0, STATUS_DATA, "%s: hidden_act: %s is not supported; supported: silu",
              source.path, quote(name, strlen(name), shown));
    config->norm = NORM_RMS;
    config->activation = ACTIVATION_SILU_GATED;
    TRY(require_bool(source, "attention_bias", false));
    TRY(require_bool(source, "mlp_bias", false));
    TRY(read_rope(source, config));
    TRY(read_tied(source, false, config));
    return read_eos_or(source, 2, config); /* </s> */
}

/* ---- all families ---- */

static const struct {
    const char *model_type;
    enum status (*read)(struct json_source source, struct model_config *config);
} families[] = {{"gpt2", read_gpt2}, {"llama", read_llama}};
static const char supported_families[] = "gpt2, llama";

static enum status read_config(struct json_source source, struct model_config *config) {
    const json_t *type = get(source, "model_type");
    const char *name = json_string_value(type);
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA, "%s: model_type is %s, expected the name of an architecture; supported: %s",
              source.path, json_kind(json_object_get(source.object, "model_type")), supported_families);
    size_t family = 0, n_families = sizeof families / sizeof families[0];
    while (family < n_families && strcmp(families[family].model_type, name) != 0)
        family++;
    RETURN_IF(family == n_families, STATUS_DATA, "%s: model_type: %s is not supported; supported: %s",
              source.path, quote(name, strlen(name), shown), supported_families);
    snprintf(config->model_type, sizeof config->model_type, "%s", name);
    const json_t *quantization = get(source, "quantization_config");
    RETURN_IF(quantization, STATUS_DATA,
              "%s: quantization_config: quantized weights are not supported; use the original model",
              source.path);
    TRY(read_dtype(source, config));
    return families[family].read(source, config);
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

enum status model_config_load_file(const char *path, struct model_config *config) {
    *config = (struct model_config){0};
    return load_config(path, config);
}
