/* model_config: config.json of a Hugging Face model directory, checked. */
#ifndef PRESSRUN_WORKER_MODEL_CONFIG_H
#define PRESSRUN_WORKER_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "worker/job/sampling.h"
#include "worker/model/rope.h"

enum { MAX_EOS_IDS = 16 };

struct model_config {
    char model_type[32]; /* "gpt2", "llama" */
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
    bool has_biases;
    struct rope_config rope;
    bool tie_word_embeddings;
    bool has_dtype;   /* the file names a dtype that is computed in: float32 or bfloat16 */
    enum dtype dtype; /* "dtype" or "torch_dtype" of the file */
    int32_t eos_ids[MAX_EOS_IDS];
    int32_t n_eos;
};

/* Reads folder/config.json, and folder/generation_config.json when it is there, whose eos_token_id goes
 * before that of config.json. `defaults` is initialised and gets the sampling fields that
 * generation_config.json sets: temperature, top_p, top_k, min_p, repetition_penalty; do_sample false means
 * temperature 0, but only when the file says it (it is also what an absent key means there); max_new_tokens
 * is ignored. STATUS_NO_INPUT, STATUS_DATA with file, key, value, what is supported. */
enum status model_config_load(const char *folder, struct model_config *config, struct sampling *defaults);
/* The same of a config.json alone, whatever its name. */
enum status model_config_load_file(const char *path, struct model_config *config);

#endif
