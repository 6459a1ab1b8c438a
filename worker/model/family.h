/* family: what stands behind struct model, and what an architecture family (gpt2.c, llama.c, qwen.c, gemma.c)
 * provides. How to add one: docs/families.md. Private to worker/model. */
#ifndef PRESSRUN_WORKER_MODEL_FAMILY_H
#define PRESSRUN_WORKER_MODEL_FAMILY_H

#include "worker/model/config_read.h"
#include "worker/model/model.h"
#include "worker/model/safetensors.h"
#include "worker/model/weight_source.h"

/* Weights are in the compute dtype, vectors in float32. What a family does not have is NULL. */
struct layer_weights {
    struct tensor *norm1_weight;      /* [n_embd] */
    struct tensor *norm1_bias;        /* [n_embd] */
    struct tensor *qkv_weight;        /* [(n_heads + 2 n_kv_heads) head_dim, n_embd]: q, k, v */
    struct tensor *qkv_bias;          /* [(n_heads + 2 n_kv_heads) head_dim] */
    struct tensor *q_norm_weight;     /* [head_dim] */
    struct tensor *k_norm_weight;     /* [head_dim] */
    struct tensor *attention_weight;  /* [n_embd, n_heads head_dim]: of the projection behind attention */
    struct tensor *attention_bias;    /* [n_embd] */
    struct tensor *post_norm1_weight; /* [n_embd]: of what attention adds to the residual stream */
    struct tensor *norm2_weight;      /* [n_embd] */
    struct tensor *norm2_bias;        /* [n_embd] */
    struct tensor *up_weight;         /* [n_inner, n_embd]; a pair, gate and up, for a gated activation */
    struct tensor *up_bias;           /* [n_inner] */
    struct tensor *down_weight;       /* [n_embd, n_inner] */
    struct tensor *down_bias;         /* [n_embd] */
    struct tensor *post_norm2_weight; /* [n_embd]: of what the MLP adds */
};

struct model_weights {
    struct tensor *token_embedding;    /* [n_vocab, n_embd] */
    struct tensor *position_embedding; /* [n_positions, n_embd] */
    struct tensor *norm_weight;        /* [n_embd], behind the last layer */
    struct tensor *norm_bias;          /* [n_embd] */
    struct tensor *head;               /* [n_vocab, n_embd]; the token embedding itself when they are tied */
    struct layer_weights *layers;      /* [n_layers] */
};

struct model_activations {
    struct tensor *hidden;   /* [max_rows, n_embd] float32: the residual stream */
    struct tensor *normed;   /* [max(max_rows, logit_rows), n_embd] compute dtype */
    struct tensor *qkv;      /* [max_rows, (n_heads + 2 n_kv_heads) head_dim] compute dtype */
    struct tensor *attended; /* [max_rows, n_heads head_dim] compute dtype */
    struct tensor *inner;    /* [max_rows, n_inner] compute dtype */
    struct tensor *logits;   /* [logit_rows, n_vocab] float32 */
    struct tensor *rope;     /* [max_positions, head_dim] float32: rope.h; NULL without rotary positions */
    struct tensor *sliding_rope; /* the same for sliding layers whose angles are others; else NULL */
    struct tensor *projected;    /* [max_rows, n_embd] float32: what is normalised before it is added; else
                                    NULL */
};

struct model_family {
    const char *model_type; /* as in config.json */
    /* Reads the family's keys; config is zeroed but for model_type and dtype. Every key that changes what is
     * computed is read, and refused where it asks for what decoder.c does not compute. */
    enum status (*read_config)(struct json_source source, struct model_config *config);
    /* Loads every tensor of the family into model->weights; layers are allocated. */
    enum status (*load)(struct model *model, struct weight_source *source);
    /* A tensor that checkpoints of the family carry along and nothing needs. */
    bool (*is_buffer)(const char *name);
    enum status (*forward)(struct model *model, const struct batch *batch);
};

struct model {
    struct model_config config;
    enum dtype dtype;
    struct backend *backend; /* not owned */
    const struct model_family *family;
    struct model_weights weights;
    struct model_limits limits;
    struct model_activations activations; /* hidden is NULL before model_prepare */
};

extern const struct model_family gpt2_family;
extern const struct model_family llama_family, mistral_family;
extern const struct model_family qwen2_family, qwen3_family;
extern const struct model_family gemma2_family, gemma3_family;

/* NULL for a model_type that is not supported. */
const struct model_family *model_family_find(const char *model_type);
extern const char model_family_names[]; /* "gpt2, llama, ..." */

/* Loading and buffers of the checkpoints that name and store their tensors as Llama's do; what a model has of
 * biases and norms is in its config (llama_tensors.c). */
enum status llama_tensors_load(struct model *model, struct weight_source *source);
bool llama_tensors_is_buffer(const char *name);

/* Forward pass of a decoder-only transformer of pre-norm layers (decoder.c). */
enum status decoder_forward(struct model *model, const struct batch *batch);

#endif
