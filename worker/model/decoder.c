/* decoder: what the families of decoder-only transformers share: a token embedding that may be the head too,
 * and a forward pass of pre-norm layers.
 *
 *     hidden = token_embedding[token] (+ position_embedding[position])
 *     for each layer:
 *         hidden += attention(norm1(hidden)) . attention_weight^T + attention_bias
 *         hidden += activation(norm2(hidden) . up_weight^T + up_bias) . down_weight^T + down_bias
 *     logits = norm(hidden) . head^T
 *
 * Norm, activation and rotary positions are those of the config; biases that a family lacks are NULL. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker/model/family.h"

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
    struct attention_args attention = {.qkv = on->qkv,
                                       .out = on->attended,
                                       .rope = on->rope,
                                       .layer = layer,
                                       .scale = 1.0f / sqrtf((float)config->head_dim)};
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
                        &(struct matmul_args){
                            .weight = weights->head, .in = on->normed, .out = on->logits, .n_rows = n}));
        TRY(backend->sample(backend->context,
                            &(struct sample_args){.logits = on->logits, .first_sample = first, .n = n}));
    }
    return STATUS_OK;
}

enum status decoder_forward(struct model *model, const struct batch *batch) {
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
