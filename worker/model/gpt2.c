/* gpt2: the GPT-2 family (Radford et al. 2019), as the Hugging Face checkpoints name and store it.
 *
 *     hidden = token_embedding[token] + position_embedding[position]
 *     for each layer:
 *         hidden += attention(norm1(hidden)) . attention_weight^T + attention_bias
 *         hidden += gelu_tanh(norm2(hidden) . up_weight^T + up_bias) . down_weight^T + down_bias
 *     logits = norm(hidden) . head^T
 *
 * The four matrices of a layer are Conv1D modules there, which store [n_in, n_out]. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/model/family.h"

enum { NAME_BYTES = 96 };

/* "transformer." where the checkpoint is of the model with its head, "" where it is of the body alone. */
static const char *name_prefix(struct safetensors *files) {
    static const char prefix[] = "transformer.";
    for (int32_t i = 0; i < safetensors_count(files); i++) {
        if (strncmp(safetensors_at(files, i)->name, prefix, sizeof prefix - 1) == 0)
            return prefix;
    }
    return "";
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
        TRY(weight_source_vector(source, name, vectors[i].n, vectors[i].out));
    }
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        snprintf(name, sizeof name, "%sh.%d.%s", prefix, (int)layer, matrices[i].name);
        TRY(weight_source_matrix(source, name, WEIGHT_IN_OUT, matrices[i].n_out, matrices[i].n_in,
                                 matrices[i].out));
    }
    return STATUS_OK;
}

/* The token embedding and the head. Tied, the file holds one of them, or both with equal bytes; a file whose
 * two differ was not trained as its config.json says. */
static enum status load_embedding(struct model *model, struct weight_source *source, const char *prefix) {
    const struct model_config *config = &model->config;
    struct model_weights *weights = &model->weights;
    const char *head_name = "lm_head.weight";
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%swte.weight", prefix);
    struct stored_tensor *table = safetensors_find(source->files, name);
    struct stored_tensor *head = safetensors_find(source->files, head_name);
    if (config->tie_word_embeddings && head && table) {
        TRY(safetensors_get(source->files, head_name, 2, config->n_vocab, config->n_embd, &head));
        RETURN_IF(head->dtype != table->dtype || head->bytes != table->bytes ||
                      memcmp(head->data, table->data, head->bytes) != 0,
                  STATUS_DATA,
                  "%s: \"%s\" differs from \"%s\", but config.json says tie_word_embeddings; if the head was "
                  "trained "
                  "by itself, set tie_word_embeddings to false",
                  head->file, head_name, name);
    }
    bool table_is_head = config->tie_word_embeddings && head && !table;
    TRY(weight_source_matrix(source, table_is_head ? head_name : name, WEIGHT_OUT_IN, config->n_vocab,
                             config->n_embd, &weights->token_embedding));
    weights->head = weights->token_embedding;
    if (config->tie_word_embeddings)
        return STATUS_OK;
    return weight_source_matrix(source, head_name, WEIGHT_OUT_IN, config->n_vocab, config->n_embd,
                                &weights->head);
}

static enum status gpt2_load(struct model *model, struct weight_source *source) {
    const struct model_config *config = &model->config;
    struct model_weights *weights = &model->weights;
    const char *prefix = name_prefix(source->files);
    char name[NAME_BYTES];
    TRY(load_embedding(model, source, prefix));
    snprintf(name, sizeof name, "%swpe.weight", prefix);
    TRY(weight_source_matrix(source, name, WEIGHT_OUT_IN, config->n_positions, config->n_embd,
                             &weights->position_embedding));
    for (int32_t layer = 0; layer < config->n_layers; layer++)
        TRY(load_layer(model, source, prefix, layer));
    snprintf(name, sizeof name, "%sln_f.weight", prefix);
    TRY(weight_source_vector(source, name, config->n_embd, &weights->norm_weight));
    snprintf(name, sizeof name, "%sln_f.bias", prefix);
    return weight_source_vector(source, name, config->n_embd, &weights->norm_bias);
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

/* norm, then a matrix: the two operations that begin each half of a layer. */
static enum status norm_matmul(struct model *model, const struct norm_args *norm,
                               const struct matmul_args *matmul) {
    struct backend *backend = model->backend;
    TRY(backend->norm(backend->context, norm));
    return backend->matmul(backend->context, matmul);
}

static enum status forward_attention(struct model *model, const struct batch *batch, int32_t layer) {
    struct backend *backend = model->backend;
    const struct model_config *config = &model->config;
    const struct layer_weights *weights = &model->weights.layers[layer];
    struct model_activations *on = &model->activations;
    TRY(norm_matmul(
        model,
        &(struct norm_args){.hidden = on->hidden,
                            .weight = weights->norm1_weight,
                            .bias = weights->norm1_bias,
                            .out = on->normed,
                            .epsilon = config->norm_epsilon,
                            .n = batch->n_rows,
                            .site = layer}, /* reads the output of layer `layer`, counted from 1 */
        &(struct matmul_args){.weight = weights->qkv_weight,
                              .bias = weights->qkv_bias,
                              .in = on->normed,
                              .out = on->qkv,
                              .n_rows = batch->n_rows}));
    struct attention_args attention = {
        .qkv = on->qkv, .out = on->attended, .layer = layer, .scale = 1.0f / sqrtf((float)config->head_dim)};
    if (batch->n_decode > 0)
        TRY(backend->attention_decode(backend->context, &attention));
    if (batch->n_segments > 0)
        TRY(backend->attention_prefill(backend->context, &attention));
    return backend->matmul(backend->context, &(struct matmul_args){.weight = weights->attention_weight,
                                                                   .bias = weights->attention_bias,
                                                                   .in = on->attended,
                                                                   .out = on->hidden,
                                                                   .n_rows = batch->n_rows,
                                                                   .accumulate = true});
}

static enum status forward_mlp(struct model *model, const struct batch *batch, int32_t layer) {
    struct backend *backend = model->backend;
    const struct layer_weights *weights = &model->weights.layers[layer];
    struct model_activations *on = &model->activations;
    TRY(norm_matmul(model,
                    &(struct norm_args){.hidden = on->hidden,
                                        .weight = weights->norm2_weight,
                                        .bias = weights->norm2_bias,
                                        .out = on->normed,
                                        .epsilon = model->config.norm_epsilon,
                                        .n = batch->n_rows,
                                        .site = layer + 1}, /* within the layer, so its output */
                    &(struct matmul_args){.weight = weights->up_weight,
                                          .bias = weights->up_bias,
                                          .in = on->normed,
                                          .out = on->inner,
                                          .n_rows = batch->n_rows,
                                          .activation = ACTIVATION_GELU_TANH}));
    return backend->matmul(backend->context, &(struct matmul_args){.weight = weights->down_weight,
                                                                   .bias = weights->down_bias,
                                                                   .in = on->inner,
                                                                   .out = on->hidden,
                                                                   .n_rows = batch->n_rows,
                                                                   .accumulate = true});
}

/* The head, for logit_rows samples at a time, so that logits stay small whatever the batch. */
static enum status forward_head(struct model *model, const struct batch *batch) {
    struct backend *backend = model->backend;
    const struct model_weights *weights = &model->weights;
    struct model_activations *on = &model->activations;
    for (int32_t first = 0; first < batch->n_samples; first += model->limits.logit_rows) {
        int32_t left = batch->n_samples - first;
        int32_t n = left < model->limits.logit_rows ? left : model->limits.logit_rows;
        TRY(norm_matmul(model,
                        &(struct norm_args){.hidden = on->hidden,
                                            .weight = weights->norm_weight,
                                            .bias = weights->norm_bias,
                                            .out = on->normed,
                                            .epsilon = model->config.norm_epsilon,
                                            .sampled_rows = true,
                                            .first_sample = first,
                                            .n = n,
                                            .site = model->config.n_layers},
                        &(struct matmul_args){
                            .weight = weights->head, .in = on->normed, .out = on->logits, .n_rows = n}));
        TRY(backend->sample(backend->context,
                            &(struct sample_args){.logits = on->logits, .first_sample = first, .n = n}));
    }
    return STATUS_OK;
}

static enum status gpt2_forward(struct model *model, const struct batch *batch) {
    struct backend *backend = model->backend;
    TRY(backend->embed(backend->context,
                       &(struct embed_args){.hidden = model->activations.hidden,
                                            .token_embedding = model->weights.token_embedding,
                                            .position_embedding = model->weights.position_embedding}));
    for (int32_t layer = 0; layer < model->config.n_layers; layer++) {
        TRY(forward_attention(model, batch, layer));
        TRY(forward_mlp(model, batch, layer));
    }
    return forward_head(model, batch);
}

const struct model_family gpt2_family = {
    .model_type = "gpt2", .load = gpt2_load, .is_buffer = gpt2_is_buffer, .forward = gpt2_forward};
