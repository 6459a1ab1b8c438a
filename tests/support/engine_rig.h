/* engine_rig: what tests that run the engine share, on whatever backend: a model with its state in backend
 * memory, and records. */
#ifndef PRESSRUN_TESTS_SUPPORT_ENGINE_RIG_H
#define PRESSRUN_TESTS_SUPPORT_ENGINE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/engine/engine.h"
#include "worker/model/model.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        enum status ok_status_ = (call);                                                                     \
        if (ok_status_ != STATUS_OK)                                                                         \
            fail_msg("%s: status %d: %s", #call, (int)ok_status_, status_message());                         \
    } while (0)

struct engine_rig {
    struct backend backend;
    struct model_config config;
    struct model *model;
};

/* Reads the folder's config.json into rig->config. */
enum status engine_rig_configure(struct engine_rig *rig, const char *folder);
/* With rig->config, loads the folder's model into rig->backend, which is open, and makes the state that an
 * engine with these limits needs, KV in dtype. logit_rows: samples that get their logits at once. */
enum status engine_rig_load(struct engine_rig *rig, const char *folder, enum dtype dtype,
                            const struct scheduler_limits *limits, int32_t logit_rows);
/* Closes model and backend, if they are open. */
void engine_rig_close(struct engine_rig *rig);

/* A record with these token ids as its prompt, on line index + 1. */
struct record *record_of_ids(int64_t index, const int32_t *ids, int32_t n);
/* The same, with n ids in [0, n_vocab) that follow from its index. */
struct record *record_of_random_ids(int64_t index, int32_t n, int32_t n_vocab);

#endif
