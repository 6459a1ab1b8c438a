/* llama_tensors: checkpoints that name and store their tensors as Llama's do (Hugging Face's layout of Llama,
 * Mistral, Qwen, Gemma): matrices are Linear modules, which store [n_out, n_in]; a layer has q, k and v, the
 * projection behind attention, gate, up and down. Which biases and norms there are, and whether weights of
 * norms are stored as w of 1 + w, the config says. Where results are normalised before they are added
 * (has_post_norms), post_attention_layernorm is that norm, and the one in front of the MLP is called
 * pre_feedforward_layernorm. */
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
    snprintf(name.text, sizeof name.text, "%slayers.%d.%s", prefix, (int)layer, rest);
    return name;
}

/* A norm's weight. */
static enum status load_norm(struct weight_source *source, const struct model_config *config,
                             const char *name, int64_t n, struct tensor **out) {
    return weight_source_vector(source, name, n, config->norm_weight_offset, out);
}

static enum status load_layer_norms(struct model *model, struct weight_source *source, const char *prefix,
                                    int32_t layer) {
    const struct model_config *config = &model->config;
    struct layer_weights *weights = &model->weights.layers[layer];
    const bool post = config->has_post_norms;
    const struct {
        bool is_there;
        const char *name;
        int64_t n;
        struct tensor **out;
    } norms[] = {
        {true, "input_layernorm.weight", config->n_embd, &weights->norm1_weight},
        {config->has_qk_norms, "self_attn.q_norm.weight", config->head_dim, &weights->q_norm_weight},
        {config->has_qk_norms, "self_attn.k_norm.weight", config->head_dim, &weights->k_norm_weight},
        {true, "post_attention_layernorm.weight", config->n_embd,
         post ? &weights->post_norm1_weight : &weights->norm2_weight},
        {post, "pre_feedforward_layernorm.weight", config->n_embd, &weights->norm2_weight},
        {post, "post_feedforward_layernorm.weight", config->n_embd, &weights->post_norm2_weight},
    };
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        if (norms[i].is_there)
            TRY(load_norm(source, config, layer_name(prefix, layer, norms[i].name).text, norms[i].n,
                          norms[i].out));
    }
    return STATUS_OK;
}

static enum status load_layer(struct model *model, struct weight_source *source, const char *prefix,
                              int32_t layer) {
    const struct model_config *config = &model->config;
    struct layer_weights *weights = &model->weights.layers[layer];
    const int64_t n_embd = config->n_embd, n_inner = config->n_inner;
    const int64_t n_q = (int64_t)config->n_heads * config->head_dim;
    const int64_t n_kv = (int64_t)config->n_kv_heads * config->head_dim;
    struct layer_name q = layer_name(prefix, layer, "self_attn.q_proj.weight");
    struct layer_name k = layer_name(prefix, layer, "self_attn.k_proj.weight");
    struct layer_name v = layer_name(prefix, layer, "self_attn.v_proj.weight");
    struct layer_name q_bias = layer_name(prefix, layer, "self_attn.q_proj.bias");
    struct layer_name k_bias = layer_name(prefix, layer, "self_attn.k_proj.bias");
    struct layer_name v_bias = layer_name(prefix, layer, "self_attn.v_proj.bias");
    struct layer_name o = layer_name(prefix, layer, "self_attn.o_proj.weight");
    struct layer_name o_bias = layer_name(prefix, layer, "self_attn.o_proj.bias");
    struct layer_name gate = layer_name(prefix, layer, "mlp.gate_proj.weight");
    struct layer_name up = layer_name(prefix, layer, "mlp.up_proj.weight");
    struct layer_name down = layer_name(prefix, layer, "mlp.down_proj.weight");
    const struct weight_part qkv[] = {{q.text, n_q}, {k.text, n_kv}, {v.text, n_kv}};
    const struct weight_part qkv_biases[] = {{q_bias.text, n_q}, {k_bias.text, n_kv}, {v_bias.text, n_kv}};
    TRY(load_layer_norms(model, source, prefix, layer));
    TRY(weight_source_stack(source, qkv, 3, n_embd, &weights->qkv_weight));
    if (config->has_qkv_biases)
        TRY(weight_source_vector_stack(source, qkv_biases, 3, &weights->qkv_bias));
    TRY(weight_source_matrix(source, o.text, WEIGHT_OUT_IN, n_embd, n_q, &weights->attention_weight));
    if (config->has_attention_bias)
        TRY(weight_source_vector(source, o_bias.text, n_embd, 0, &weights->attention_bias));
    TRY(weight_source_pair(source, gate.text, up.text, n_inner, n_embd, &weights->up_weight));
    return weight_source_matrix(source, down.text, WEIGHT_OUT_IN, n_embd, n_inner, &weights->down_weight);
}

enum status llama_tensors_load(struct model *model, struct weight_source *source) {
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
    return load_norm(source, config, name, config->n_embd, &weights->norm_weight);
}

/* The rotary frequencies that older checkpoints hold: layers.N.self_attn.rotary_emb.inv_freq, or one for all
 * layers. */
bool llama_tensors_is_buffer(const char *name) {
    static const char prefix[] = "model.", buffer[] = "rotary_emb.inv_freq";
    if (strncmp(name, prefix, sizeof prefix - 1) == 0)
        name += sizeof prefix - 1;
    int layer, end = 0;
    if (sscanf(name, "layers.%d.self_attn.%n", &layer, &end) == 1 && end > 0)
        name += end;
    return strcmp(name, buffer) == 0;
}
