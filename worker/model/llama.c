/* llama: the Llama family (Touvron et al. 2023; Llama 3, Grattafiori et al. 2024), as the Hugging Face
 * checkpoints name and store it: RMS norm, rotary positions, query heads that share key/value heads in
 * groups, an MLP of silu(gate) * up, no biases. Its matrices are Linear modules, which store [n_out, n_in].
 * The forward pass is decoder.c's. */
#include <stdio.h>
#include <string.h>

#include "worker/model/family.h"

enum { NAME_BYTES = 96 };

/* The name of a tensor of a layer. */
struct layer_name {
    char text[NAME_BYTES];
};

static struct layer_name layer_name(const char *prefix, int32_t layer, const char *rest) {
    struct layer_name name;
    snprintf(name.text, sizeof name.text, "%slayers.%d.%s.weight", prefix, (int)layer, rest);
    return name;
}

static enum status load_layer(struct model *model, struct weight_source *source, const char *prefix,
                              int32_t layer) {
    const struct model_config *config = &model->config;
    struct layer_weights *weights = &model->weights.layers[layer];
    const int64_t n_embd = config->n_embd, n_inner = config->n_inner;
    const int64_t n_q = (int64_t)config->n_heads * config->head_dim;
    const int64_t n_kv = (int64_t)config->n_kv_heads * config->head_dim;
    struct layer_name norm1 = layer_name(prefix, layer, "input_layernorm");
    struct layer_name q = layer_name(prefix, layer, "self_attn.q_proj");
    struct layer_name k = layer_name(prefix, layer, "self_attn.k_proj");
    struct layer_name v = layer_name(prefix, layer, "self_attn.v_proj");
    struct layer_name o = layer_name(prefix, layer, "self_attn.o_proj");
    struct layer_name norm2 = layer_name(prefix, layer, "post_attention_layernorm");
    struct layer_name gate = layer_name(prefix, layer, "mlp.gate_proj");
    struct layer_name up = layer_name(prefix, layer, "mlp.up_proj");
    struct layer_name down = layer_name(prefix, layer, "mlp.down_proj");
    const struct weight_part qkv[] = {{q.text, n_q}, {k.text, n_kv}, {v.text, n_kv}};
    TRY(weight_source_vector(source, norm1.text, n_embd, &weights->norm1_weight));
    TRY(weight_source_stack(source, qkv, 3, n_embd, &weights->qkv_weight));
    TRY(weight_source_matrix(source, o.text, WEIGHT_OUT_IN, n_embd, n_q, &weights->attention_weight));
    TRY(weight_source_vector(source, norm2.text, n_embd, &weights->norm2_weight));
    TRY(weight_source_pair(source, gate.text, up.text, n_inner, n_embd, &weights->up_weight));
    return weight_source_matrix(source, down.text, WEIGHT_OUT_IN, n_embd, n_inner, &weights->down_weight);
}

static enum status llama_load(struct model *model, struct weight_source *source) {
    const struct model_config *config = &model->config;
    struct model_weights *weights = &model->weights;
    const char *prefix = weight_source_prefix(source, "model.");
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%sembed_tokens.weight", prefix);
    TRY(weight_source_embedding(source, name, "lm_head.weight", config->tie_word_embeddings, config->n_vocab,
                                config->n_embd, &weights->token_embedding, &weights->head));
    for (int32_t layer = 0; layer < config->n_layers; layer++)
        TRY(load_layer(model, source, prefix, layer));
    snprintf(name, sizeof name, "%snorm.weight", prefix);
    return weight_source_vector(source, name, config->n_embd, &weights->norm_weight);
}

/* The rotary frequencies that older checkpoints hold: layers.N.self_attn.rotary_emb.inv_freq, or one for all
 * layers. */
static bool llama_is_buffer(const char *name) {
    static const char prefix[] = "model.", buffer[] = "rotary_emb.inv_freq";
    if (strncmp(name, prefix, sizeof prefix - 1) == 0)
        name += sizeof prefix - 1;
    int layer, end = 0;
    if (sscanf(name, "layers.%d.self_attn.%n", &layer, &end) == 1 && end > 0)
        name += end;
    return strcmp(name, buffer) == 0;
}

const struct model_family llama_family = {
    .model_type = "llama", .load = llama_load, .is_buffer = llama_is_buffer, .forward = decoder_forward};
