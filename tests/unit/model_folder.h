/* model_folder: writes small model directories for tests: safetensors files and a GPT-2 and a Llama
 * of a few numbers. */
#ifndef PRESSRUN_TESTS_UNIT_MODEL_FOLDER_H
#define PRESSRUN_TESTS_UNIT_MODEL_FOLDER_H

#include <stddef.h>

/* Writes NAME in the temporary folder: the header's length, the header, n_data_bytes bytes 0, 1, 2, … */
void model_folder_tensors(const char *name, const char *header, size_t n_data_bytes);
/* Removes NAME when it is there. */
void model_folder_remove(const char *name);

/* A GPT-2 with n_embd 16, one head, one layer, 8 positions, 5 tokens: what config.json holds. */
extern const char model_folder_config[];
/* Its tensors, float32, with small values that differ, each name behind prefix, as NAME. Options change one
 * thing: `skip` leaves a tensor out, `extra` puts in another one of that name, shaped [16]; either may be
 * NULL. `n_head` rows of lm_head.weight (0: none), equal to the embedding but for `head_offset`. */
struct model_folder_options {
    const char *prefix;
    const char *skip;
    const char *extra;
    int n_head_rows;
    float head_offset;
    float extra_value; /* written over the first value of `spoil` */
    const char *spoil; /* a tensor's name, or NULL */
};
void model_folder_gpt2(const char *name, const struct model_folder_options *options);

/* The same for a Llama with hidden_size 16, two heads of 6 that share one for keys and values, an MLP of 24,
 * one layer, 8 positions, 5 tokens. Its head is not tied: without n_head_rows it is missing. The config
 * leaves num_key_value_heads: 1 to the test. */
extern const char model_folder_llama_config[];
void model_folder_llama(const char *name, const struct model_folder_options *options);

#endif
