#include "worker/model/config.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/file.h"
#include "worker/base/json_file.h"
#include "worker/model/config_read.h"
#include "worker/model/family.h"
#include "worker/text/quote.h"

enum { MAX_FILE_BYTES = 16 << 20 };

bool model_config_is_sliding(const struct model_config *config, int32_t layer) {
    return config->sliding[layer / 64] >> layer % 64 & 1;
}

void model_config_set_sliding(struct model_config *config, int32_t layer, bool slides) {
    uint64_t bit = (uint64_t)1 << layer % 64;
    config->sliding[layer / 64] = (config->sliding[layer / 64] & ~bit) | (slides ? bit : 0);
}

int32_t model_config_n_sliding(const struct model_config *config) {
    int32_t n = 0;
    for (int32_t layer = 0; layer < config->n_layers; layer++)
        n += model_config_is_sliding(config, layer);
    return n;
}

bool model_config_is_gated(const struct model_config *config) {
    return config->activation == ACTIVATION_SILU_GATED || config->activation == ACTIVATION_GELU_TANH_GATED;
}

static enum status read_dtype(struct json_source source, struct model_config *config) {
    const char *key = config_get(source, "dtype") ? "dtype" : "torch_dtype";
    const json_t *value = config_get(source, key);
    if (!value)
        return STATUS_OK;
    const char *name = json_string_value(value);
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA, "%s: %s is %s, expected a string", source.path, key, json_kind(value));
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    config->has_dtype = strcmp(name, "float32") == 0 || strcmp(name, "bfloat16") == 0;
    config->is_float16 = strcmp(name, "float16") == 0;
    config->dtype = strcmp(name, "bfloat16") == 0 ? DTYPE_BFLOAT16 : DTYPE_FLOAT32;
    RETURN_IF(!config->has_dtype && !config->is_float16, STATUS_DATA,
              "%s: %s: %s is not supported; supported: float32, bfloat16, float16", source.path, key,
              quote(name, strlen(name), shown));
    return STATUS_OK;
}

/* What no family is read with. */
static enum status refuse_foreign(struct json_source source) {
    static const struct {
        const char *key;
        const char *why;
    } foreign[] = {
        {"quantization_config", "quantized weights are not supported; use the original model"},
        {"vision_config",
         "models that take images are not supported; use the text model alone (of a Gemma 3: "
         "reference/gemma3_text.py writes it)"},
        {"audio_config", "models that take sound are not supported; use the text model alone"},
        {"auto_map", "models that bring their own code are not supported"},
    };
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        RETURN_IF(config_get(source, foreign[i].key), STATUS_DATA, "%s: %s: %s", source.path, foreign[i].key,
                  foreign[i].why);
    return STATUS_OK;
}

static enum status read_config(struct json_source source, struct model_config *config) {
    const json_t *type = config_get(source, "model_type");
    const char *name = json_string_value(type);
    char shown[QUOTE_BYTES];
    RETURN_IF(!name, STATUS_DATA, "%s: model_type is %s, expected the name of an architecture; supported: %s",
              source.path, json_kind(json_object_get(source.object, "model_type")), model_family_names);
    TRY(refuse_foreign(source));
    const struct model_family *family = model_family_find(name);
    RETURN_IF(!family, STATUS_DATA, "%s: model_type: %s is not supported; supported: %s", source.path,
              quote(name, strlen(name), shown), model_family_names);
    snprintf(config->model_type, sizeof config->model_type, "%s", name);
    TRY(read_dtype(source, config));
    return family->read_config(source, config);
}

/* The keys of generation_config.json that are defaults of a job's sampling. */
static enum status read_sampling(struct json_source source, struct sampling *defaults) {
    static const char *const keys[] = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *json = config_get(source, keys[i]);
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
    const json_t *do_sample = config_get(source, "do_sample");
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
    enum status result = read_config((struct json_source){path, "", root}, config);
    json_decref(root);
    return result;
}

static enum status load_generation_config(const char *path, struct model_config *config,
                                          struct sampling *defaults) {
    json_t *root;
    TRY(json_file_read(path, MAX_FILE_BYTES, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &root));
    struct json_source source = {path, "", root};
    bool is_given;
    enum status result = config_eos(source, config, &is_given);
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
