/* gemma: Gemma 2 (Gemma Team 2024) and the text models of Gemma 3 (Gemma Team 2025). Llama's layers with:
 * embeddings scaled by sqrt(hidden_size), weights of norms stored as w of 1 + w, norms behind attention and
 * MLP as well as in front, gelu(gate) * up, the head tied to the embedding, and a sliding window in some
 * layers. Gemma 2: soft caps on scores and logits. Gemma 3: norms of q and k, and slower rotary positions in
 * the layers without a window. Tensors: llama_tensors.c. Forward pass: decoder.c. */
#include <math.h>
#include <string.h>

#include "worker/base/json_file.h"
#include "worker/model/family.h"
#include "worker/text/quote.h"

/* Every nth layer sees everything; the others have the window. */
static void set_pattern(struct model_config *config, int32_t n) {
    for (int32_t layer = 0; layer < config->n_layers; layer++)
        model_config_set_sliding(config, layer, (layer + 1) % n != 0);
}

static enum status read_shared(struct json_source source, const struct config_sizes *defaults,
                               struct model_config *config) {
    static const char *const activations[] = {"gelu_pytorch_tanh", "gelu_new", NULL};
    TRY(config_decoder_sizes(source, defaults, config));
    TRY(config_epsilon(source, "rms_norm_eps", 1e-6f, config));
    TRY(config_require_name(source, "hidden_activation", activations));
    TRY(config_require_bool(source, "use_bidirectional_attention", false));
    double scalar = 256;
    TRY(config_real(source, "query_pre_attn_scalar", 1e-3, 1e9, &scalar));
    config->attention_scale = (float)(1 / sqrt(scalar));
    config->norm = NORM_RMS;
    config->norm_weight_offset = 1;
    config->has_post_norms = true;
    config->embedding_scale = (float)sqrt((double)config->n_embd);
    config->activation = ACTIVATION_GELU_TANH_GATED;
    bool has_biases = false;
    TRY(config_bool(source, "attention_bias", &has_biases));
    config->has_qkv_biases = config->has_attention_bias = has_biases;
    TRY(config_tied(source, true, config));
    TRY(config_eos_or(source, 1, config)); /* <eos> */
    return config_window(source, 4096, config);
}

static enum status gemma2_read_config(struct json_source source, struct model_config *config) {
    static const struct config_sizes defaults = {.n_layers = 26,
                                                 .n_embd = 2304,
                                                 .n_inner = 9216,
                                                 .n_vocab = 256000,
                                                 .n_positions = 8192,
                                                 .n_heads = 8,
                                                 .n_kv_heads = 4,
                                                 .head_dim = 256};
    TRY(read_shared(source, &defaults, config));
    TRY(config_softcap(source, "attn_logit_softcapping", 50, &config->attention_softcap));
    TRY(config_softcap(source, "final_logit_softcapping", 30, &config->logit_softcap));
    TRY(config_rope(source, 10000, config));
    set_pattern(config, 2);
    return config_layer_types(source, config);
}

/* Rotary positions by layer type: rope_parameters.full_attention and .sliding_attention; or, in older files,
 * rope_theta and rope_scaling for the layers that see everything and rope_local_base_freq for the others. */
static enum status gemma3_read_rope(struct json_source source, struct model_config *config) {
    static const struct {
        const char *name;
        const char *block;
        const char *theta;
        double default_theta;
    } types[] = {{"full_attention", "rope_parameters.full_attention.", "rope_theta", 1e6},
                 {"sliding_attention", "rope_parameters.sliding_attention.", "rope_local_base_freq", 1e4}};
    struct rope_config *ropes[] = {&config->rope, &config->sliding_rope};
    double rotated_part = 1;
    TRY(config_real(source, "partial_rotary_factor", 1, 1, &rotated_part));
    const json_t *parameters = config_get(source, "rope_parameters");
    const json_t *scaling = config_get(source, "rope_scaling");
    RETURN_IF(parameters && scaling, STATUS_DATA,
              "%s: rope_parameters and rope_scaling are both given; keep one", source.path);
    RETURN_IF(parameters && !json_is_object(parameters), STATUS_DATA,
              "%s: rope_parameters is %s, expected an object", source.path, json_kind(parameters));
    const char *key;
    json_t *value;
    char shown_key[QUOTE_BYTES];
    json_object_foreach((json_t *)parameters, key, value) {
        RETURN_IF(strcmp(key, types[0].name) != 0 && strcmp(key, types[1].name) != 0, STATUS_DATA,
                  "%s: rope_parameters.%s: expected an object for full_attention and one for "
                  "sliding_attention",
                  source.path, quote(key, strlen(key), shown_key));
    }
    for (int i = 0; i < 2; i++) {
        RETURN_IF(json_object_get(scaling, types[i].name), STATUS_DATA,
                  "%s: rope_scaling.%s: rotary positions by layer type belong in rope_parameters",
                  source.path, types[i].name);
        *ropes[i] = (struct rope_config){.kind = ROPE_DEFAULT, .theta = types[i].default_theta};
        TRY(config_real(source, types[i].theta, 1, 1e15, &ropes[i]->theta));
        const json_t *block = parameters ? json_object_get(parameters, types[i].name) : i ? NULL : scaling;
        const char *shown = parameters ? types[i].block : "rope_scaling.";
        if (!block || json_is_null(block))
            continue;
        RETURN_IF(!json_is_object(block), STATUS_DATA, "%s: %s is %s, expected an object", source.path,
                  parameters ? types[i].name : "rope_scaling", json_kind(block));
        TRY(config_rope_block((struct json_source){source.path, shown, block}, config, ropes[i]));
    }
    return STATUS_OK;
}

static enum status gemma3_read_config(struct json_source source, struct model_config *config) {
    static const struct config_sizes defaults = {.n_layers = 26,
                                                 .n_embd = 2304,
                                                 .n_inner = 9216,
                                                 .n_vocab = 262208,
                                                 .n_positions = 131072,
                                                 .n_heads = 8,
                                                 .n_kv_heads = 4,
                                                 .head_dim = 256};
    TRY(read_shared(source, &defaults, config));
    config->has_qk_norms = true;
    RETURN_IF(
        config_get(source, "attn_logit_softcapping"), STATUS_DATA,
        "%s: attn_logit_softcapping is not supported for gemma3_text models, which normalise queries and "
        "keys instead; expected null",
        source.path);
    TRY(config_softcap(source, "final_logit_softcapping", 0, &config->logit_softcap));
    TRY(gemma3_read_rope(source, config));
    int32_t every = 6;
    TRY(config_int(source, "sliding_window_pattern", 1, MAX_LAYERS, &every));
    set_pattern(config, every);
    return config_layer_types(source, config);
}

const struct model_family gemma2_family = {.model_type = "gemma2",
                                           .read_config = gemma2_read_config,
                                           .load = llama_tensors_load,
                                           .is_buffer = llama_tensors_is_buffer,
                                           .forward = decoder_forward};
const struct model_family gemma3_family = {.model_type = "gemma3_text",
                                           .read_config = gemma3_read_config,
                                           .load = llama_tensors_load,
                                           .is_buffer = llama_tensors_is_buffer,
                                           .forward = decoder_forward};
