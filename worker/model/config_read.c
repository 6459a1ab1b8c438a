#include "worker/model/config_read.h"

#include <math.h>
#include <string.h>

#include "worker/base/json_file.h"
#include "worker/text/quote.h"

const json_t *config_get(struct json_source source, const char *key) {
    const json_t *value = json_object_get(source.object, key);
    return json_is_null(value) ? NULL : value;
}

enum status config_int(struct json_source source, const char *key, int32_t minimum, int32_t maximum,
                       int32_t *out) {
    const json_t *value = config_get(source, key);
    if (!value)
        return STATUS_OK;
    RETURN_IF(!json_is_number(value), STATUS_DATA, "%s: %s%s is %s, expected an integer", source.path,
              source.block, key, json_kind(value));
    double number = json_number_value(value);
    RETURN_IF(number != floor(number) || number < minimum || number > maximum, STATUS_DATA,
              "%s: %s%s: %g, expected an integer from %d to %d", source.path, source.block, key, number,
              (int)minimum, (int)maximum);
    *out = (int32_t)number;
    return STATUS_OK;
}

enum status config_required_real(struct json_source source, const char *key, double minimum, double maximum,
                                 double *out) {
    const json_t *value = config_get(source, key);
    double number = json_number_value(value);
    RETURN_IF(!json_is_number(value) || !(number >= minimum && number <= maximum), STATUS_DATA,
              "%s: %s%s is %s; expected a number from %g to %g", source.path, source.block, key,
              json_is_number(value) ? "out of range" : json_kind(value), minimum, maximum);
    *out = number;
    return STATUS_OK;
}

enum status config_real(struct json_source source, const char *key, double minimum, double maximum,
                        double *out) {
    return config_get(source, key) ? config_required_real(source, key, minimum, maximum, out) : STATUS_OK;
}

enum status config_bool(struct json_source source, const char *key, bool *out) {
    const json_t *value = config_get(source, key);
    if (!value)
        return STATUS_OK;
    RETURN_IF(!json_is_boolean(value), STATUS_DATA, "%s: %s%s is %s, expected true or false", source.path,
              source.block, key, json_kind(value));
    *out = json_is_true(value);
    return STATUS_OK;
}

enum status config_require_bool(struct json_source source, const char *key, bool supported) {
    bool value = supported;
    TRY(config_bool(source, key, &value));
    RETURN_IF(value != supported, STATUS_DATA, "%s: %s: %s is not supported; supported: %s", source.path, key,
              value ? "true" : "false", supported ? "true" : "false");
    return STATUS_OK;
}

enum status config_require_name(struct json_source source, const char *key, const char *const *supported) {
    const json_t *value = config_get(source, key);
    if (!value)
        return STATUS_OK;
    const char *name = json_string_value(value);
    RETURN_IF(!name, STATUS_DATA, "%s: %s is %s, expected a string", source.path, key, json_kind(value));
    char names[200] = "", shown[QUOTE_BYTES];
    for (int i = 0; supported[i]; i++) {
        if (strcmp(name, supported[i]) == 0)
            return STATUS_OK;
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "", supported[i]);
    }
    return status_fail(STATUS_DATA, "%s: %s: %s is not supported; supported: %s", source.path, key,
                       quote(name, strlen(name), shown), names);
}

enum status config_softcap(struct json_source source, const char *key, float family_default, float *out) {
    double cap = family_default;
    if (json_is_null(json_object_get(source.object, key)))
        cap = 0;
    TRY(config_real(source, key, 1e-3, 1e6, &cap));
    *out = (float)cap;
    return STATUS_OK;
}

enum status config_epsilon(struct json_source source, const char *key, float family_default,
                           struct model_config *config) {
    const json_t *value = config_get(source, key);
    config->norm_epsilon = family_default;
    if (!value)
        return STATUS_OK;
    double number = json_number_value(value);
    RETURN_IF(!json_is_number(value) || !(number > 0 && number < 1), STATUS_DATA,
              "%s: %s: expected a number above 0 and below 1", source.path, key);
    config->norm_epsilon = (float)number;
    return STATUS_OK;
}

enum status config_tied(struct json_source source, bool family_default, struct model_config *config) {
    config->tie_word_embeddings = family_default;
    return config_bool(source, "tie_word_embeddings", &config->tie_word_embeddings);
}

enum status config_eos(struct json_source source, struct model_config *config, bool *is_given) {
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

enum status config_eos_or(struct json_source source, int32_t family_default, struct model_config *config) {
    bool eos_is_given;
    TRY(config_eos(source, config, &eos_is_given));
    if (!eos_is_given && family_default >= 0 && config->n_vocab > family_default) {
        config->eos_ids[0] = family_default;
        config->n_eos = 1;
    }
    return STATUS_OK;
}

/* ---- shared by the families that descend from Llama ---- */

static enum status read_heads(struct json_source source, const struct config_sizes *defaults,
                              struct model_config *config) {
    config->n_heads = defaults->n_heads;
    TRY(config_int(source, "num_attention_heads", 1, MAX_WIDTH, &config->n_heads));
    bool as_many =
        defaults->n_kv_heads == 0 || json_is_null(json_object_get(source.object, "num_key_value_heads"));
    config->n_kv_heads = as_many ? config->n_heads : defaults->n_kv_heads;
    TRY(config_int(source, "num_key_value_heads", 1, MAX_WIDTH, &config->n_kv_heads));
    RETURN_IF(config->n_heads % config->n_kv_heads != 0, STATUS_DATA,
              "%s: num_attention_heads: %d is no multiple of num_key_value_heads, %d", source.path,
              (int)config->n_heads, (int)config->n_kv_heads);
    bool has_head_dim = config_get(source, "head_dim") != NULL || defaults->head_dim > 0;
    RETURN_IF(!has_head_dim && config->n_embd % config->n_heads != 0, STATUS_DATA,
              "%s: hidden_size: %d is no multiple of num_attention_heads, %d, and head_dim is absent",
              source.path, (int)config->n_embd, (int)config->n_heads);
    config->head_dim = defaults->head_dim ? defaults->head_dim : config->n_embd / config->n_heads;
    TRY(config_int(source, "head_dim", 1, MAX_HEAD_WIDTH, &config->head_dim));
    RETURN_IF(config->head_dim % 2 != 0 || config->head_dim > MAX_HEAD_WIDTH, STATUS_DATA,
              "%s: heads of %d; rotary positions need an even size up to %d", source.path,
              (int)config->head_dim, (int)MAX_HEAD_WIDTH);
    RETURN_IF((int64_t)config->n_heads * config->head_dim > 8 * MAX_WIDTH, STATUS_DATA,
              "%s: num_attention_heads: %d heads of %d are more than %d wide", source.path,
              (int)config->n_heads, (int)config->head_dim, 8 * (int)MAX_WIDTH);
    config->attention_scale = 1.0f / sqrtf((float)config->head_dim);
    return STATUS_OK;
}

enum status config_decoder_sizes(struct json_source source, const struct config_sizes *defaults,
                                 struct model_config *config) {
    config->n_layers = defaults->n_layers;
    config->n_embd = defaults->n_embd;
    config->n_inner = defaults->n_inner;
    config->n_vocab = defaults->n_vocab;
    config->n_positions = defaults->n_positions;
    TRY(config_int(source, "num_hidden_layers", 1, MAX_LAYERS, &config->n_layers));
    TRY(config_int(source, "hidden_size", 1, MAX_WIDTH, &config->n_embd));
    TRY(config_int(source, "intermediate_size", 1, 8 * MAX_WIDTH, &config->n_inner));
    TRY(config_int(source, "vocab_size", 1, MAX_VOCAB, &config->n_vocab));
    TRY(config_int(source, "max_position_embeddings", 1, MAX_POSITIONS, &config->n_positions));
    return read_heads(source, defaults, config);
}

enum status config_window(struct json_source source, int32_t family_default, struct model_config *config) {
    bool is_null = json_is_null(json_object_get(source.object, "sliding_window"));
    config->window = is_null ? 0 : family_default;
    return config_int(source, "sliding_window", 1, MAX_POSITIONS, &config->window);
}

enum status config_layer_types(struct json_source source, struct model_config *config) {
    const json_t *types = config_get(source, "layer_types");
    RETURN_IF(types && (!json_is_array(types) || json_array_size(types) != (size_t)config->n_layers),
              STATUS_DATA, "%s: layer_types is %s of %zu, expected a list of %d (num_hidden_layers)",
              source.path, json_kind(types), json_array_size(types), (int)config->n_layers);
    bool any = false;
    for (int32_t layer = 0; layer < config->n_layers; layer++) {
        if (types) {
            const json_t *type = json_array_get(types, (size_t)layer);
            const char *name = json_is_string(type) ? json_string_value(type) : "";
            char shown[QUOTE_BYTES];
            bool slides = strcmp(name, "sliding_attention") == 0;
            RETURN_IF(!slides && strcmp(name, "full_attention") != 0, STATUS_DATA,
                      "%s: layer_types[%d]: %s is not supported; supported: full_attention, "
                      "sliding_attention",
                      source.path, (int)layer,
                      json_is_string(type) ? quote(name, strlen(name), shown) : json_kind(type));
            model_config_set_sliding(config, layer, slides);
        }
        any = any || model_config_is_sliding(config, layer);
    }
    RETURN_IF(any && config->window == 0, STATUS_DATA,
              "%s: some layers have sliding attention, but there is no sliding_window for them", source.path);
    return STATUS_OK;
}

/* ---- rotary positions ---- */

/* Yarn (Peng et al. 2023): which pairs are scaled, and by how much cosines and sines grow. */
static enum status read_yarn(struct json_source block, struct rope_config *rope) {
    rope->fast_turns = 32;
    rope->slow_turns = 1;
    TRY(config_real(block, "beta_fast", 1e-6, 1e6, &rope->fast_turns));
    TRY(config_real(block, "beta_slow", 1e-6, 1e6, &rope->slow_turns));
    RETURN_IF(rope->fast_turns < rope->slow_turns, STATUS_DATA, "%s: %sbeta_fast: %g is below beta_slow, %g",
              block.path, block.block, rope->fast_turns, rope->slow_turns);
    bool truncate = true;
    TRY(config_bool(block, "truncate", &truncate));
    rope->keeps_fractions = !truncate;
    double mscale = 0, mscale_all_dim = 0, grown = 0.1 * log(rope->factor);
    TRY(config_real(block, "mscale", 0, 1e6, &mscale));
    TRY(config_real(block, "mscale_all_dim", 0, 1e6, &mscale_all_dim));
    rope->amplitude =
        mscale > 0 && mscale_all_dim > 0 ? (mscale * grown + 1) / (mscale_all_dim * grown + 1) : grown + 1;
    return config_real(block, "attention_factor", 1e-6, 1e6, &rope->amplitude);
}

enum status config_rope_block(struct json_source block, const struct model_config *config,
                              struct rope_config *rope) {
    static const struct {
        const char *name;
        enum rope_kind kind;
        const char *refused; /* why */
    } kinds[] = {{"default", ROPE_DEFAULT, NULL},
                 {"linear", ROPE_LINEAR, NULL},
                 {"llama3", ROPE_LLAMA3, NULL},
                 {"yarn", ROPE_YARN, NULL},
                 {"dynamic", ROPE_NONE, "its angles follow the longest sequence of a batch"},
                 {"longrope", ROPE_NONE, "its angles change with the length that a sequence has reached"}};
    TRY(config_real(block, "rope_theta", 1, 1e15, &rope->theta));
    double rotated_part = 1;
    TRY(config_real(block, "partial_rotary_factor", 1, 1, &rotated_part));
    const json_t *type = config_get(block, "rope_type");
    if (!type)
        type = config_get(block, "type");
    const char *name = type ? json_string_value(type) : "default";
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA, "%s: %srope_type is %s, expected a string", block.path, block.block,
              json_kind(type));
    size_t i = 0, n_kinds = sizeof kinds / sizeof kinds[0];
    while (i < n_kinds && strcmp(kinds[i].name, name) != 0)
        i++;
    RETURN_IF(i < n_kinds && kinds[i].refused, STATUS_DATA,
              "%s: %srope_type: '%s' is not supported: %s, and here an answer never depends on its batch",
              block.path, block.block, name, kinds[i].refused);
    RETURN_IF(i == n_kinds, STATUS_DATA,
              "%s: %srope_type: %s is not supported; supported: default, linear, llama3, yarn", block.path,
              block.block, quote(name, strlen(name), shown));
    rope->kind = kinds[i].kind;
    if (rope->kind == ROPE_DEFAULT)
        return STATUS_OK;
    TRY(config_required_real(block, "factor", 1, 1e6, &rope->factor));
    if (rope->kind == ROPE_LINEAR)
        return STATUS_OK;
    rope->original_positions = config->n_positions;
    TRY(config_int(block, "original_max_position_embeddings", 1, MAX_POSITIONS, &rope->original_positions));
    if (rope->kind == ROPE_YARN)
        return read_yarn(block, rope);
    TRY(config_required_real(block, "low_freq_factor", 1e-6, 1e6, &rope->low_frequency));
    TRY(config_required_real(block, "high_freq_factor", 1e-6, 1e6, &rope->high_frequency));
    RETURN_IF(!(rope->low_frequency < rope->high_frequency), STATUS_DATA,
              "%s: %slow_freq_factor: %g is not below high_freq_factor, %g", block.path, block.block,
              rope->low_frequency, rope->high_frequency);
    return STATUS_OK;
}

enum status config_rope(struct json_source source, double default_theta, struct model_config *config) {
    struct rope_config *rope = &config->rope;
    *rope = (struct rope_config){.kind = ROPE_DEFAULT, .theta = default_theta};
    TRY(config_real(source, "rope_theta", 1, 1e15, &rope->theta));
    double rotated_part = 1;
    TRY(config_real(source, "partial_rotary_factor", 1, 1, &rotated_part));
    const json_t *parameters = config_get(source, "rope_parameters");
    const json_t *scaling = config_get(source, "rope_scaling");
    RETURN_IF(parameters && scaling, STATUS_DATA,
              "%s: rope_parameters and rope_scaling are both given; keep one", source.path);
    const char *key = parameters ? "rope_parameters" : "rope_scaling";
    const json_t *block = parameters ? parameters : scaling;
    if (!block)
        return STATUS_OK;
    RETURN_IF(!json_is_object(block), STATUS_DATA, "%s: %s is %s, expected an object", source.path, key,
              json_kind(block));
    RETURN_IF(json_object_get(block, "full_attention") || json_object_get(block, "sliding_attention"),
              STATUS_DATA, "%s: %s by layer type is not supported for %s models", source.path, key,
              config->model_type);
    const char *shown = parameters ? "rope_parameters." : "rope_scaling.";
    return config_rope_block((struct json_source){source.path, shown, block}, config, rope);
}
