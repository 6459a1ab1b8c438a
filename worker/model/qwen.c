/* qwen: Qwen2 and Qwen2.5 (Yang et al. 2024): Llama's layers with biases of q, k and v. Qwen3 (Yang et al.
 * 2025): without these, q and k normalised head by head, heads of a width of their own. Either may have a
 * sliding window in the layers from max_window_layers on, which use_sliding_window switches on. Tensors:
 * llama_tensors.c. Forward pass: decoder.c. */
#include "worker/model/family.h"

static enum status read_windows(struct json_source source, struct model_config *config) {
    bool slides = false;
    int32_t first = 28;
    TRY(config_bool(source, "use_sliding_window", &slides));
    TRY(config_window(source, 4096, config));
    TRY(config_int(source, "max_window_layers", 0, MAX_LAYERS, &first));
    if (!slides)
        config->window = 0; /* sliding_window is there in most files, and means nothing then */
    for (int32_t layer = first; config->window > 0 && layer < config->n_layers; layer++)
        model_config_set_sliding(config, layer, true);
    return config_layer_types(source, config);
}

/* What both have in common; head_dim 0: hidden_size / num_attention_heads. */
static enum status read_shared(struct json_source source, int32_t head_dim, struct model_config *config) {
    static const char *const activations[] = {"silu", "swish", NULL};
    const struct config_sizes defaults = {.n_layers = 32,
                                          .n_embd = 4096,
                                          .n_inner = 22016,
                                          .n_vocab = 151936,
                                          .n_positions = 32768,
                                          .n_heads = 32,
                                          .n_kv_heads = 32,
                                          .head_dim = head_dim};
    TRY(config_decoder_sizes(source, &defaults, config));
    TRY(config_epsilon(source, "rms_norm_eps", 1e-6f, config));
    TRY(config_require_name(source, "hidden_act", activations));
    config->norm = NORM_RMS;
    config->activation = ACTIVATION_SILU_GATED;
    TRY(config_rope(source, 10000, config));
    TRY(config_tied(source, false, config));
    TRY(config_eos_or(source, -1, config));
    return read_windows(source, config);
}

static enum status qwen2_read_config(struct json_source source, struct model_config *config) {
    config->has_qkv_biases = true;
    return read_shared(source, 0, config);
}

static enum status qwen3_read_config(struct json_source source, struct model_config *config) {
    bool has_biases = false;
    TRY(config_bool(source, "attention_bias", &has_biases));
    config->has_qkv_biases = config->has_attention_bias = has_biases;
    config->has_qk_norms = true;
    return read_shared(source, 128, config);
}

const struct model_family qwen2_family = {.model_type = "qwen2",
                                          .read_config = qwen2_read_config,
                                          .load = llama_tensors_load,
                                          .is_buffer = llama_tensors_is_buffer,
                                          .forward = decoder_forward};
const struct model_family qwen3_family = {.model_type = "qwen3",
                                          .read_config = qwen3_read_config,
                                          .load = llama_tensors_load,
                                          .is_buffer = llama_tensors_is_buffer,
                                          .forward = decoder_forward};
