/* model_config: config.json of a Hugging Face model directory, checked. */
#ifndef PRESSRUN_WORKER_MODEL_CONFIG_H
#define PRESSRUN_WORKER_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "worker/model/sampling.h"
#include "worker/model/rope.h"

enum { MAX_EOS_IDS = 16, MAX_LAYERS = 1 << 12 };

struct model_config {
    char model_type[32]; /* "gpt2", "llama", ...: family.c */
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t n_embd;
    int32_t n_inner; /* width of the MLP */
    int32_t n_positions;
    int32_t n_vocab;
    enum norm_kind norm;
    float norm_epsilon;
    enum activation activation; /* of the MLP */
    bool has_norm_biases;
    bool has_qkv_biases;
    bool has_attention_bias; /* of the projection behind attention */
    bool has_mlp_biases;
    bool has_qk_norms;        /* queries and keys are normalised, head by head */
    bool has_post_norms;      /* what attention and the MLP add is normalised too */
    float norm_weight_offset; /* added to every stored weight of a norm: 1 where they are stored as 1 + w */
    float embedding_scale;    /* of a token's embedding, rounded to the compute dtype; 0: none */
    float attention_scale;    /* of q . k */
    float attention_softcap;  /* 0: none */
    float logit_softcap;      /* 0: none */
    int32_t window;           /* positions that a row of a sliding layer sees, its own included */
    uint64_t sliding[MAX_LAYERS / 64]; /* a bit for each layer: model_config_is_sliding */
    struct rope_config rope;
    struct rope_config sliding_rope; /* of the sliding layers; ROPE_NONE: rope is theirs too */
    bool tie_word_embeddings;
    bool has_dtype;   /* the file names a dtype that is computed in: float32 or bfloat16 */
    bool is_float16;  /* the file names float16, which is not */
    enum dtype dtype; /* "dtype" or "torch_dtype" of the file; else float32 */
    int32_t eos_ids[MAX_EOS_IDS];
    int32_t n_eos;
};

/* Whether a layer sees `window` positions only. */
bool model_config_is_sliding(const struct model_config *config, int32_t layer);
void model_config_set_sliding(struct model_config *config, int32_t layer, bool slides);
int32_t model_config_n_sliding(const struct model_config *config);
/* Whether the MLP multiplies two matrices' results, one through the activation. */
bool model_config_is_gated(const struct model_config *config);

/* Reads folder/config.json, and folder/generation_config.json when it is there, whose eos_token_id goes
 * before that of config.json. `defaults` is initialised and gets the sampling fields that
 * generation_config.json sets: temperature, top_p, top_k, min_p, repetition_penalty; do_sample false means
 * temperature 0, but only when the file says it (it is also what an absent key means there); max_new_tokens
 * is ignored. STATUS_NO_INPUT, STATUS_DATA with file, key, value, what is supported. */
enum status model_config_load(const char *folder, struct model_config *config, struct sampling *defaults);
/* The same of a config.json alone, whatever its name. */
enum status model_config_load_file(const char *path, struct model_config *config);

#endif
