/* gpt2: the GPT-2 family (Radford et al. 2019), as the Hugging Face checkpoints name and store it: layer
 * norm, embedded positions, gelu, biases everywhere. The four matrices of a layer are Conv1D modules there,
 * which store [n_in, n_out]. The forward pass is decoder.c's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/model/family.h"

enum { NAME_BYTES = 96 };

static enum status gpt2_read_config(struct json_source source, struct model_config *config) {
    static const char *const activations[] = {"gelu_new", "gelu_pytorch_tanh", NULL};
    config->n_layers = config->n_heads = 12;
    config->n_embd = 768;
    config->n_vocab = 50257;
    config->n_positions = 1024;
    TRY(config_int(source, "n_layer", 1, MAX_LAYERS, &config->n_layers));
    TRY(config_int(source, "n_head", 1, MAX_WIDTH, &config->n_heads));
    TRY(config_int(source, "n_embd", 1, MAX_WIDTH, &config->n_embd));
    TRY(config_int(source, "vocab_size", 1, MAX_VOCAB, &config->n_vocab));
    TRY(config_int(source, "n_ctx", 1, MAX_POSITIONS, &config->n_positions)); /* in older files */
    TRY(config_int(source, "n_positions", 1, MAX_POSITIONS, &config->n_positions));
    RETURN_IF(config->n_embd % config->n_heads != 0, STATUS_DATA,
              "%s: n_embd: %d is no multiple of n_head, %d", source.path, (int)config->n_embd,
              (int)config->n_heads);
    config->n_kv_heads = config->n_heads;
    config->head_dim = config->n_embd / config->n_heads;
    config->attention_scale = 1.0f / sqrtf((float)config->head_dim);
    config->n_inner = 4 * config->n_embd;
    TRY(config_int(source, "n_inner", 1, 8 * MAX_WIDTH, &config->n_inner));
    TRY(config_epsilon(source, "layer_norm_epsilon", 1e-5f, config));
    TRY(config_require_name(source, "activation_function", activations));
    config->norm = NORM_LAYER;
    config->activation = ACTIVATION_GELU_TANH;
    config->has_norm_biases = config->has_qkv_biases = config->has_attention_bias = config->has_mlp_biases =
        true;
    TRY(config_require_bool(source, "scale_attn_weights", true));
    TRY(config_require_bool(source, "scale_attn_by_inverse_layer_idx", false));
    TRY(config_require_bool(source, "reorder_and_upcast_attn", false));
    TRY(config_require_bool(source, "reorder_and_upcast", false));
    TRY(config_require_bool(source, "add_cross_attention", false));
    TRY(config_tied(source, true, config));
    return config_eos_or(source, 50256, config); /* <|endoftext|> */
}

static enum status load_layer(struct model *model, struct weight_source *source, const char *prefix,
                              int32_t layer) {
    const struct model_config *config = &model->config;
    struct layer_weights *weights = &model->weights.layers[layer];
    const int64_t n_embd = config->n_embd, n_inner = config->n_inner;
    const struct {
        const char *name;
        int64_t n;
        struct tensor **out;
    } vectors[] = {
        {"ln_1.weight", n_embd, &weights->norm1_weight},
        {"ln_1.bias", n_embd, &weights->norm1_bias},
        {"attn.c_attn.bias", 3 * n_embd, &weights->qkv_bias},
        {"attn.c_proj.bias", n_embd, &weights->attention_bias},
        {"ln_2.weight", n_embd, &weights->norm2_weight},
        {"ln_2.bias", n_embd, &weights->norm2_bias},
        {"mlp.c_fc.bias", n_inner, &weights->up_bias},
        {"mlp.c_proj.bias", n_embd, &weights->down_bias},
    };
    const struct {
        const char *name;
        int64_t n_out;
        int64_t n_in;
        struct tensor **out;
    } matrices[] = {
        {"attn.c_attn.weight", 3 * n_embd, n_embd, &weights->qkv_weight},
        {"attn.c_proj.weight", n_embd, n_embd, &weights->attention_weight},
        {"mlp.c_fc.weight", n_inner, n_embd, &weights->up_weight},
        {"mlp.c_proj.weight", n_embd, n_inner, &weights->down_weight},
    };
    char name[NAME_BYTES];
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        snprintf(name, sizeof name, "%sh.%d.%s", prefix, (int)layer, vectors[i].name);
        TRY(weight_source_vector(source, name, vectors[i].n, 0, vectors[i].out));
    }
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        snprintf(name, sizeof name, "%sh.%d.%s", prefix, (int)layer, matrices[i].name);
        TRY(weight_source_matrix(source, name, WEIGHT_IN_OUT, matrices[i].n_out, matrices[i].n_in,
                                 matrices[i].out));
    }
    return STATUS_OK;
}

static enum status gpt2_load(struct model *model, struct weight_source *source) {
    const struct model_config *config = &model->config;
    struct model_weights *weights = &model->weights;
    const char *prefix = weight_source_prefix(source, "transformer.");
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%swte.weight", prefix);
    TRY(weight_source_embedding(source, name, "lm_head.weight", config->tie_word_embeddings, config->n_vocab,
                                config->n_embd, &weights->token_embedding, &weights->head));
    snprintf(name, sizeof name, "%swpe.weight", prefix);
    TRY(weight_source_matrix(source, name, WEIGHT_OUT_IN, config->n_positions, config->n_embd,
                             &weights->position_embedding));
    for (int32_t layer = 0; layer < config->n_layers; layer++)
        TRY(load_layer(model, source, prefix, layer));
    snprintf(name, sizeof name, "%sln_f.weight", prefix);
    TRY(weight_source_vector(source, name, config->n_embd, 0, &weights->norm_weight));
    snprintf(name, sizeof name, "%sln_f.bias", prefix);
    return weight_source_vector(source, name, config->n_embd, 0, &weights->norm_bias);
}

/* The causal masks that older checkpoints hold: h.N.attn.bias and h.N.attn.masked_bias. */
static bool gpt2_is_buffer(const char *name) {
    static const char prefix[] = "transformer.";
    if (strncmp(name, prefix, sizeof prefix - 1) == 0)
        name += sizeof prefix - 1;
    int layer, end = 0;
    if (sscanf(name, "h.%d.attn.%n", &layer, &end) != 1 || end == 0)
        return false;
    return strcmp(name + end, "bias") == 0 || strcmp(name + end, "masked_bias") == 0;
}

const struct model_family gpt2_family = {.model_type = "gpt2",
                                         .read_config = gpt2_read_config,
                                         .load = gpt2_load,
                                         .is_buffer = gpt2_is_buffer,
                                         .forward = decoder_forward};
