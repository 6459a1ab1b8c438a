/* llama: Llama (Touvron et al. 2023; Llama 3, Grattafiori et al. 2024) and what is the same model under its
 * name (TinyLlama, SmolLM2): RMS norm, rotary positions, query heads that share key/value heads in groups, an
 * MLP of silu(gate) * up. Mistral (Jiang et al. 2023): the same, with a sliding window in every layer of some
 * checkpoints. Tensors: llama_tensors.c. Forward pass: decoder.c. */
#include "worker/model/family.h"

static const char *const activations[] = {"silu", "swish", NULL};

/* What both have in common. */
static enum status read_shared(struct json_source source, const struct config_sizes *defaults,
                               struct model_config *config) {
    TRY(config_decoder_sizes(source, defaults, config));
    TRY(config_epsilon(source, "rms_norm_eps", 1e-6f, config));
    TRY(config_require_name(source, "hidden_act", activations));
    config->norm = NORM_RMS;
    config->activation = ACTIVATION_SILU_GATED;
    TRY(config_rope(source, 10000, config));
    TRY(config_tied(source, false, config));
    return config_eos_or(source, 2, config); /* </s> */
}

static enum status llama_read_config(struct json_source source, struct model_config *config) {
    static const struct config_sizes defaults = {.n_layers = 32,
                                                 .n_embd = 4096,
                                                 .n_inner = 11008,
                                                 .n_vocab = 32000,
                                                 .n_positions = 2048,
                                                 .n_heads = 32};
    TRY(read_shared(source, &defaults, config));
    bool has_biases = false;
    TRY(config_bool(source, "attention_bias", &has_biases));
    config->has_qkv_biases = config->has_attention_bias = has_biases;
    /* The door's gated activation takes no bias; no published checkpoint asks for one. */
    TRY(config_require_bool(source, "mlp_bias", false));
    return config_layer_types(source, config);
}

static enum status mistral_read_config(struct json_source source, struct model_config *config) {
    static const struct config_sizes defaults = {.n_layers = 32,
                                                 .n_embd = 4096,
                                                 .n_inner = 14336,
                                                 .n_vocab = 32000,
                                                 .n_positions = 131072,
                                                 .n_heads = 32,
                                                 .n_kv_heads = 8};
    TRY(read_shared(source, &defaults, config));
    TRY(config_window(source, 4096, config));
    for (int32_t layer = 0; layer < config->n_layers; layer++)
        model_config_set_sliding(config, layer, config->window > 0);
    int32_t n_sliding = model_config_n_sliding(config);
    TRY(config_layer_types(source, config));
    RETURN_IF(model_config_n_sliding(config) != n_sliding, STATUS_DATA,
              "%s: layer_types: a mistral model has sliding_window in every layer, or is null in all",
              source.path);
    return STATUS_OK;
}

const struct model_family llama_family = {.model_type = "llama",
                                          .read_config = llama_read_config,
                                          .load = llama_tensors_load,
                                          .is_buffer = llama_tensors_is_buffer,
                                          .forward = decoder_forward};
const struct model_family mistral_family = {.model_type = "mistral",
                                            .read_config = mistral_read_config,
                                            .load = llama_tensors_load,
                                            .is_buffer = llama_tensors_is_buffer,
                                            .forward = decoder_forward};
