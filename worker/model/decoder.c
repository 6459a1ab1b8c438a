/* decoder: what the families of decoder-only transformers share: a token embedding that may be the head too,
 * and a forward pass of pre-norm layers.
 *
 *     hidden = embedding_scale * token_embedding[token] (+ position_embedding[position])
 *     for each layer:
 *         hidden += attention(norm1(hidden)) . attention_weight^T + attention_bias
 *         hidden += activation(norm2(hidden) . up_weight^T + up_bias) . down_weight^T + down_bias
 *     logits = norm(hidden) . head^T
 *
 * Norm, activation, rotary positions, windows and soft caps are those of the config; biases and norms that a
 * family lacks are NULL. With norms behind attention and MLP, what the two add goes through them first. */
#include <stdio.h>
#include <string.h>

#include "worker/model/family.h"
#include "worker/model/float_convert.h"

/* norm, then a matrix: the two operations that begin each half of a layer. */
static enum status norm_matmul(struct model *model, const struct norm_args *norm,
                               const struct matmul_args *matmul) {
    struct backend *backend = model->backend;
    TRY(backend->norm(backend->context, norm));
    return backend->matmul(backend->context, matmul);
}

/* hidden += in . weight^T + bias, through a norm of its own where there is one. */
static enum status add_projection(struct model *model, const struct batch *batch, int32_t layer,
                                  const struct tensor *in, const struct tensor *weight,
                                  const struct tensor *bias, const struct tensor *post_norm) {
    struct backend *backend = model->backend;
    struct model_activations *on = &model->activations;
    TRY(backend->matmul(backend->context, &(struct matmul_args){.weight = weight,
                                                                .bias = bias,
                                                                .in = in,
                                                                .out = post_norm ? on->projected : on->hidden,
                                                                .n_rows = batch->n_rows,
                                                                .accumulate = !post_norm}));
    if (!post_norm)
        return STATUS_OK;
    return backend->norm(backend->context, &(struct norm_args){.kind = model->config.norm,
                                                               .hidden = on->projected,
                                                               .weight = post_norm,
                                                               .out = on->hidden,
                                                               .epsilon = model->config.norm_epsilon,
                                                               .accumulate = true,
                                                               .n = batch->n_rows,
                                                               .site = layer + 1}); /* within the layer */
}

static enum status forward_attention(struct model *model, const struct batch *batch, int32_t layer) {
    struct backend *backend = model->backend;
    const struct model_config *config = &model->config;
    const struct layer_weights *weights = &model->weights.layers[layer];
    struct model_activations *on = &model->activations;
    TRY(norm_matmul(
        model,
        &(struct norm_args){.kind = config->norm,
                            .hidden = on->hidden,
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
    const bool slides = model_config_is_sliding(config, layer);
    struct attention_args attention = {.qkv = on->qkv,
                                       .out = on->attended,
                                       .rope = slides && on->sliding_rope ? on->sliding_rope : on->rope,
                                       .q_norm = weights->q_norm_weight,
                                       .k_norm = weights->k_norm_weight,
                                       .norm_epsilon = config->norm_epsilon,
                                       .layer = layer,
                                       .scale = config->attention_scale,
                                       .softcap = config->attention_softcap,
                                       .window = slides ? config->window : 0};
    if (batch->n_decode > 0)
        TRY(backend->attention_decode(backend->context, &attention));
    if (batch->n_segments > 0)
        TRY(backend->attention_prefill(backend->context, &attention));
    return add_projection(model, batch, layer, on->attended, weights->attention_weight,
                          weights->attention_bias, weights->post_norm1_weight);
}

static enum status forward_mlp(struct model *model, const struct batch *batch, int32_t layer) {
    const struct model_config *config = &model->config;
    const struct layer_weights *weights = &model->weights.layers[layer];
    struct model_activations *on = &model->activations;
    TRY(norm_matmul(model,
                    &(struct norm_args){.kind = config->norm,
                                        .hidden = on->hidden,
                                        .weight = weights->norm2_weight,
                                        .bias = weights->norm2_bias,
                                        .out = on->normed,
                                        .epsilon = config->norm_epsilon,
                                        .n = batch->n_rows,
                                        .site = layer + 1}, /* within the layer, so its output */
                    &(struct matmul_args){.weight = weights->up_weight,
                                          .bias = weights->up_bias,
                                          .in = on->normed,
                                          .out = on->inner,
                                          .n_rows = batch->n_rows,
                                          .activation = config->activation}));
    return add_projection(model, batch, layer, on->inner, weights->down_weight, weights->down_bias,
                          weights->post_norm2_weight);
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
                        &(struct norm_args){.kind = model->config.norm,
                                            .hidden = on->hidden,
                                            .weight = weights->norm_weight,
                                            .bias = weights->norm_bias,
                                            .out = on->normed,
                                            .epsilon = model->config.norm_epsilon,
                                            .sampled_rows = true,
                                            .first_sample = first,
                                            .n = n,
                                            .site = model->config.n_layers},
                        &(struct matmul_args){.weight = weights->head,
                                              .in = on->normed,
                                              .out = on->logits,
                                              .n_rows = n,
                                              .softcap = model->config.logit_softcap,
                                              .sampled_rows = true,
                                              .first_sample = first}));
        TRY(backend->sample(backend->context,
                            &(struct sample_args){.logits = on->logits, .first_sample = first, .n = n}));
    }
    return STATUS_OK;
}

/* The scale of embeddings as the reference has it: rounded to the dtype of the weights. */
static float embedding_scale(const struct model *model) {
    float scale = model->config.embedding_scale;
    return model->dtype == DTYPE_BFLOAT16 ? float_from_bfloat16(bfloat16_from_float(scale)) : scale;
}

enum status decoder_forward(struct model *model, const struct batch *batch) {
    struct backend *backend = model->backend;
    TRY(backend->embed(backend->context,
                       &(struct embed_args){.hidden = model->activations.hidden,
                                            .token_embedding = model->weights.token_embedding,
                                            .position_embedding = model->weights.position_embedding,
                                            .scale = embedding_scale(model)}));
    for (int32_t layer = 0; layer < model->config.n_layers; layer++) {
        TRY(forward_attention(model, batch, layer));
        TRY(forward_mlp(model, batch, layer));
    }
    return forward_head(model, batch);
}
