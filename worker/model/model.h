/* model: a loaded model: configuration and weights in backend memory, and its forward pass as a list of
 * backend operations. One file per architecture family (gpt2.c, llama.c). Immutable after loading, but for
 * the activations, which belong to the one step that is being queued. */
#ifndef PRESSRUN_WORKER_MODEL_MODEL_H
#define PRESSRUN_WORKER_MODEL_MODEL_H

#include "kernels/backend.h"
#include "worker/model/config.h"

struct model;
struct safetensors;

/* What a step may hold at most; decides the size of the activations. */
struct model_limits {
    int32_t max_rows;
    int32_t max_samples;
    int32_t logit_rows;    /* rows of logits computed at a time (LM head in slices) */
    int32_t max_positions; /* of a sequence; 0: the model's context */
};

/* Host side only: config, tensor headers, fingerprint (32 hex digits). Reads every weight once. */
enum status model_fingerprint(const char *folder, char out[33]);

/* Loads folder's weights into backend memory as dtype. The config must come from the same folder. Every
 * tensor that the family needs must be there with its shape, as F32, F16 or BF16, and all its values finite;
 * a tensor that nothing reads is an error that names it, but for the family's known buffers. `fingerprint`
 * (33 bytes) is computed along the way when not NULL. STATUS_DATA, STATUS_NO_INPUT, STATUS_IO, STATUS_NO_FIT.
 */
enum status model_load(const char *folder, const struct model_config *config, enum dtype dtype,
                       struct backend *backend, char *fingerprint, struct model **out);
/* The same from the folder's tensor files, which the caller has opened (and whose hashes it may have begun)
 * and closes. */
enum status model_load_files(const char *folder, struct safetensors *files, const struct model_config *config,
                             enum dtype dtype, struct backend *backend, char *fingerprint,
                             struct model **out);

/* Random weights for a config alone, for benchmarks: normal, with the deviation that the families train from;
 * activations stay finite in any depth. Same seed, same weights, on every machine. */
struct synthesis {
    uint64_t seed;
    bool peaked_logits; /* a few tokens share most of the probability, as in text; else it is spread over all
                         */
};
/* A model of made-up weights in backend memory. STATUS_NO_FIT, STATUS_DATA. */
enum status model_synthesize(const struct model_config *config, const struct synthesis *synthesis,
                             enum dtype dtype, struct backend *backend, struct model **out);
/* Writes that model as a Hugging Face directory: config_path's bytes as config.json, and the tensors, rounded
 * to dtype, in model.safetensors or in shards of at most shard_bytes (0: 5 GB) with their index. The folder
 * is made when it is not there; one that holds a model is refused. STATUS_CANNOT_CREATE, STATUS_IO. */
enum status model_synthesis_write(const struct model_config *config, const char *config_path,
                                  const struct synthesis *synthesis, enum dtype dtype, uint64_t shard_bytes,
                                  const char *folder);

/* Bytes of weights in device memory for dtype, and of activations for limits: upper bounds, without a device.
 */
size_t model_weight_bytes(const struct model_config *config, enum dtype dtype);
size_t model_activation_bytes(const struct model_config *config, enum dtype dtype,
                              const struct model_limits *limits);
/* Parameters that each row multiplies with (body) and those of the LM head, for floors. */
void model_parameter_counts(const struct model_config *config, int64_t *body, int64_t *head);

/* Allocates the activations; once, before the first forward. STATUS_NO_FIT. */
enum status model_prepare(struct model *model, const struct model_limits *limits);
/* Queues the operations of one step between step_begin (which said replayed false) and step_end. */
enum status model_forward(struct model *model, const struct batch *batch);
void model_close(struct model *model); /* before the backend is closed; NULL is fine */

#endif
