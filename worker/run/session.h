/* session: a model made ready to run on a device: what run, prompt and bench share. */
#ifndef PRESSRUN_WORKER_RUN_SESSION_H
#define PRESSRUN_WORKER_RUN_SESSION_H

#include "worker/engine/engine.h"
#include "worker/job/plan.h"
#include "worker/text/tokenizer.h"

struct session {
    struct model_config model_config;
    struct sampling defaults; /* what generation_config.json sets */
    struct backend backend;
    struct plan plan;
    struct model *model;
    struct tokenizer *tokenizer; /* NULL when the folder has no tokenizer.json */
    char fingerprint[33];
    double device_s;  /* seconds to open the device, and meanwhile what needs none */
    double load_s;    /* seconds to load the model: weights, activations, KV memory */
    double weights_s; /* seconds of these from tensor files to backend memory, fingerprint included */
};

/* Chooses the device (config.device; with auto says on stderr what it chose), plans memory, loads model and
 * tokenizer, allocates all device memory. On failure everything is released. */
enum status session_open(const struct job *job, const struct config *config, struct session *session);
/* The same with made-up weights: shape is a config.json or a directory that holds one, whose other files are
 * not looked at; there is no tokenizer. The fingerprint names seed and shape ("random-7", 33 bytes at most).
 */
enum status session_open_synthetic(const struct job *job, const struct config *config, const char *shape,
                                   const struct synthesis *synthesis, struct session *session);
void session_close(struct session *session);
/* A model's shape without the model: loads the config.json that shape is or holds; *path is malloc'ed. */
enum status session_load_shape(const char *shape, struct model_config *config, char **path);

/* The engine's limits that go with the session's plan. */
struct scheduler_limits session_scheduler_limits(const struct plan *plan);

/* The model folder's tokenizer; NULL where it has none (a model that is prompted with token ids alone). */
enum status session_open_tokenizer(const char *folder, struct tokenizer **out);

/* Opens the device that config asks for; *is_gpu tells which it became. */
enum status session_open_device(const struct config *config, struct backend *backend, bool *is_gpu);

#endif
