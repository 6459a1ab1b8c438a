/* plan: what a job will hold in memory and how wide it runs, worked out before anything is loaded, from
 * config.json, the job, the config and the device's memory alone. */
#ifndef PRESSRUN_WORKER_JOB_PLAN_H
#define PRESSRUN_WORKER_JOB_PLAN_H

#include "worker/job/job.h"
#include "worker/model/model.h"

struct plan {
    enum dtype dtype;
    enum dtype kv_dtype;
    int32_t max_model_len;
    int32_t max_num_seqs;
    int32_t max_num_batched_tokens;
    enum kv_reserve kv_reserve;
    struct state_limits state;
    struct model_limits model;
    size_t weight_bytes;
    size_t activation_bytes;
    size_t state_bytes;  /* KV pages and everything else that state_init allocates */
    size_t kv_bytes;     /* the KV pages within it */
    size_t budget_bytes; /* what all of it must fit */
};

/* How decode rows are rounded up by the device that will run (backend.decode_rows); NULL: not at all. */
struct plan_device {
    bool is_gpu;
    size_t free_bytes;  /* memory that tensors may take now */
    size_t total_bytes; /* of the device */
};

/* STATUS_NO_FIT: says what is needed, what there is, and which key to change. STATUS_JOB: max_model_len
 * beyond the model's context and the like. */
enum status plan_make(const struct job *job, const struct config *config, const struct model_config *model,
                      const struct plan_device *device, struct plan *out);

#endif
