/* config_read: the values of a config.json, each checked, for the families' readers. A key that is absent or
 * null leaves what the caller put there: the default that the family's configuration class in transformers
 * has. A wrong value is STATUS_DATA with file, key, value and what is supported. Private to worker/model. */
#ifndef PRESSRUN_WORKER_MODEL_CONFIG_READ_H
#define PRESSRUN_WORKER_MODEL_CONFIG_READ_H

#include <jansson.h>

#include "worker/model/config.h"

enum {
    /* Bounds of what a config may ask for: far above any model, and low enough that no product of three of
     * them leaves 64 bits. MAX_LAYERS is in config.h. */
    MAX_WIDTH = 1 << 20,
    MAX_HEAD_WIDTH = 1 << 10,
    MAX_POSITIONS = 1 << 24,
    MAX_VOCAB = 1 << 22
};

/* Where a value stands, for messages. */
struct json_source {
    const char *path;
    const char *block; /* what stands in front of a key in messages: "", "rope_scaling." */
    const json_t *object;
};

/* NULL when absent or null. */
const json_t *config_get(struct json_source source, const char *key);

/* Numbers are parsed as reals, because writers of these files use 1e30 as "no limit". */
enum status config_int(struct json_source source, const char *key, int32_t minimum, int32_t maximum,
                       int32_t *out);
enum status config_real(struct json_source source, const char *key, double minimum, double maximum,
                        double *out);
/* The same, and the key must be there. */
enum status config_required_real(struct json_source source, const char *key, double minimum, double maximum,
                                 double *out);
enum status config_bool(struct json_source source, const char *key, bool *out);
/* A switch of the architecture that is supported in one position only, the default of all families. */
enum status config_require_bool(struct json_source source, const char *key, bool supported);
/* A name among those of `supported` (NULL-terminated), else it is refused. Absent: supported[0] is meant. */
enum status config_require_name(struct json_source source, const char *key, const char *const *supported);
/* 0 for null: no cap. */
enum status config_softcap(struct json_source source, const char *key, float family_default, float *out);
enum status config_epsilon(struct json_source source, const char *key, float family_default,
                           struct model_config *config);
enum status config_tied(struct json_source source, bool family_default, struct model_config *config);
/* eos_token_id: an integer, a list of integers, or null. *is_given tells whether the key is there. */
enum status config_eos(struct json_source source, struct model_config *config, bool *is_given);
/* The same; absent: family_default, or none when that is negative. */
enum status config_eos_or(struct json_source source, int32_t family_default, struct model_config *config);

/* ---- shared by the families that descend from Llama ---- */

/* The sizes of a family's configuration class, where the file names none. */
struct config_sizes {
    int32_t n_layers, n_embd, n_inner, n_vocab, n_positions, n_heads;
    int32_t n_kv_heads; /* 0: as many as n_heads */
    int32_t head_dim;   /* 0: n_embd / n_heads */
};

/* num_hidden_layers, hidden_size, intermediate_size, vocab_size, max_position_embeddings, and the heads:
 * query heads share key/value heads evenly, and every head has pairs to rotate. The scale of attention is set
 * to 1 / sqrt(head_dim). */
enum status config_decoder_sizes(struct json_source source, const struct config_sizes *defaults,
                                 struct model_config *config);

/* Which layers have the window: layer_types, a list of full_attention and sliding_attention; absent: as the
 * caller set them. config->window is there already; with sliding layers and none it is an error. */
enum status config_layer_types(struct json_source source, struct model_config *config);
/* sliding_window, or 0 for null. */
enum status config_window(struct json_source source, int32_t family_default, struct model_config *config);

/* Rotary positions: rope_theta, and rope_scaling or, as transformers 5 calls it, rope_parameters, for all
 * layers alike. `dynamic` and `longrope` are refused: their angles follow the lengths of the sequences. */
enum status config_rope(struct json_source source, double default_theta, struct model_config *config);
/* One such block, whose theta is in *rope already; n_positions and head_dim of config are set. */
enum status config_rope_block(struct json_source block, const struct model_config *config,
                              struct rope_config *rope);

#endif
