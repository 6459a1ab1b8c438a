#include "worker/job/plan.h"

#include "worker/base/arith.h"

enum {
    AUTO_SEQS_CPU = 64, /* beyond this a CPU step is bound by arithmetic, not by reading weights */
    AUTO_PROMPT_TOKENS =
        512, /* a prompt longer than most: half of an automatic width must have room for it */
    /* Most rows of a step on a GPU are a multiple of this: a matrix's tiles of 128 outputs by 256 rows then
     * fill whole waves of multiprocessors (kernels/README.md). */
    AUTO_ROWS_GPU = 4096,
    AUTO_PREFILL_ROWS_GPU = 1024, /* of them at least */
    AUTO_PREFILL_ROWS_CPU = 256,
    LOGIT_ROWS_BYTES = 256 << 20, /* logits of one LM head slice */
    LOGIT_ROWS_STEP = 256,        /* whole tiles of the widest matmul kernels */
};

static const double MIB = 1 << 20;

/* The width beyond which twice as many sequences bring less than 5 % more tokens a second, measured on an
 * H100 (new tokens/s at 1,024, 2,048, 4,096 and 8,192): the shipped model (20 MiB) 2.17, 2.42, 2.77, 2.87
 * million; GPT-2 (240 MiB) 248, 264, 269 thousand; Llama-3.2-1B (2.3 GiB) 90, 90 thousand. Where weights are
 * small, what a step takes whatever its width is shared by more. */
static int32_t auto_seqs_gpu(size_t weight_bytes) {
    return weight_bytes < (size_t)64 << 20 ? 4096 : weight_bytes < (size_t)1 << 30 ? 2048 : 1024;
}

/* Most rows of a step beside so many sequences, these included. */
static int32_t auto_rows(bool is_gpu, int32_t seqs) {
    if (!is_gpu)
        return seqs + AUTO_PREFILL_ROWS_CPU;
    return (int32_t)ceil_divide(seqs + AUTO_PREFILL_ROWS_GPU, AUTO_ROWS_GPU) * AUTO_ROWS_GPU;
}

static size_t kv_page_bytes(const struct state_limits *state) {
    return (size_t)state->n_layers * 2 * (size_t)state->n_kv_heads * PAGE_TOKENS * (size_t)state->head_dim *
           dtype_bytes(state->kv_dtype);
}

/* The sizes that follow from how many sequences run at once and how many rows a step may have. Where prompts
 * are scored every row may be an entry of the samples. */
static void set_width(struct plan *plan, enum job_mode mode, int32_t max_num_seqs, int32_t batched_tokens) {
    int32_t max_samples = mode == MODE_SCORE ? batched_tokens : max_num_seqs;
    plan->max_num_seqs = max_num_seqs;
    plan->max_num_batched_tokens = batched_tokens;
    plan->state.n_slots = max_num_seqs;
    plan->state.max_rows = batched_tokens;
    plan->state.max_segments = max_num_seqs;
    plan->state.max_samples = max_samples;
    plan->model.max_rows = batched_tokens;
    plan->model.max_samples = max_samples;
    plan->model.max_positions = plan->max_model_len;
    /* Samples fill one slice after the other, which makes the fewest tiles: slices of equal length would have
     * more that are not full. */
    int64_t rows = LOGIT_ROWS_BYTES / (4 * (int64_t)plan->state.n_vocab);
    if (rows > LOGIT_ROWS_STEP)
        rows -= rows % LOGIT_ROWS_STEP;
    plan->model.logit_rows = rows < 8 ? 8 : rows < max_samples ? (int32_t)rows : max_samples;
}

/* Everything, with the scratch page and n_pages more; SIZE_MAX when that is more than can be counted. */
static size_t total_with_pages(struct plan *plan, const struct model_config *model, int64_t n_pages) {
    plan->state.n_pages = (int32_t)n_pages + 1;
    plan->activation_bytes = model_activation_bytes(model, plan->dtype, &plan->model);
    plan->state_bytes = state_bytes(&plan->state);
    plan->kv_bytes = kv_page_bytes(&plan->state) * (size_t)plan->state.n_pages;
    if (plan->state_bytes == 0)
        return SIZE_MAX;
    size_t total;
    bool fits = size_add(plan->weight_bytes, plan->activation_bytes, &total) &&
                size_add(total, plan->state_bytes, &total);
    return fits ? total : SIZE_MAX;
}

/* Most pages up to wanted that fit the budget; 0 when not even one does. */
static int64_t pages_that_fit(struct plan *plan, const struct model_config *model, int64_t wanted) {
    int64_t low = 0, high = wanted;
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        if (total_with_pages(plan, model, middle) <= plan->budget_bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static enum status resolve_length(const struct job *job, const struct model_config *model,
                                  struct plan *plan) {
    plan->max_model_len = job->max_model_len ? job->max_model_len : model->n_positions;
    RETURN_IF(plan->max_model_len > model->n_positions, STATUS_JOB,
              "%s: max_model_len: %d is more than the model's context of %d positions (%s/config.json)",
              job->path, plan->max_model_len, model->n_positions, job->model);
    return STATUS_OK;
}

/* Pages of a sequence as an automatic width expects them: far fewer than the context of many models. Longer
 * ones run too, fewer at a time. */
static int64_t typical_pages(const struct job *job, const struct plan *plan) {
    int64_t positions = (int64_t)AUTO_PROMPT_TOKENS + job->sampling.max_tokens;
    if (positions > plan->max_model_len)
        positions = plan->max_model_len;
    return ceil_divide(positions, PAGE_TOKENS);
}

enum status plan_make(const struct job *job, const struct config *config, const struct model_config *model,
                      const struct plan_device *device, struct plan *out) {
    struct plan plan = {.kv_reserve = config->kv_reserve};
    plan.dtype = job->has_dtype ? job->dtype : model->has_dtype ? model->dtype : DTYPE_FLOAT32;
    plan.kv_dtype = job->has_kv_cache_dtype ? job->kv_cache_dtype : plan.dtype;
    TRY(resolve_length(job, model, &plan));
    plan.weight_bytes = model_weight_bytes(model, plan.dtype);
    plan.state =
        (struct state_limits){.max_pages_per_slot = (int32_t)ceil_divide(plan.max_model_len, PAGE_TOKENS),
                              .n_layers = model->n_layers,
                              .n_heads = model->n_heads,
                              .n_kv_heads = model->n_kv_heads,
                              .head_dim = model->head_dim,
                              .n_vocab = model->n_vocab,
                              .kv_dtype = plan.kv_dtype};
    if (device->is_gpu)
        plan.budget_bytes = (size_t)((double)device->free_bytes * config->gpu_memory_utilization);
    else
        plan.budget_bytes = config->cpu_memory ? config->cpu_memory : device->free_bytes / 2;

    int32_t seqs = config->max_num_seqs ? config->max_num_seqs
                   : device->is_gpu     ? auto_seqs_gpu(plan.weight_bytes)
                                        : AUTO_SEQS_CPU;
    int64_t pages = 0, per_slot = plan.state.max_pages_per_slot;
    for (;;) {
        int32_t rows =
            config->max_num_batched_tokens ? config->max_num_batched_tokens : auto_rows(device->is_gpu, seqs);
        if (!config->max_num_seqs && rows <= seqs && seqs > 1) {
            seqs /= 2; /* the step is as narrow as it was asked to be: fewer sequences share it */
            continue;
        }
        RETURN_IF(rows <= seqs, STATUS_JOB,
                  "%s: max_num_batched_tokens: %d leaves no room for prompts beside %d sequences; give at "
                  "least %d, "
                  "or lower max_num_seqs",
                  job->config ? job->config : job->path, rows, seqs, seqs + 1);
        set_width(&plan, job->mode, seqs, rows);
        int64_t all_full = (int64_t)seqs * per_slot, most_ids = INT32_MAX - 1;
        pages = pages_that_fit(&plan, model, all_full < most_ids ? all_full : most_ids);
        /* An automatic width shrinks until half of the sequences can have a typical length. */
        if (config->max_num_seqs || seqs == 1 || pages * 2 >= seqs * typical_pages(job, &plan))
            break;
        seqs /= 2;
    }
    if (pages < per_slot) {
        size_t need = total_with_pages(&plan, model, per_slot);
        return status_fail(
            STATUS_NO_FIT,
            "%s: does not fit in memory: one sequence of %d positions needs %.1f MiB (weights %.1f, "
            "activations %.1f, KV cache and state %.1f), but %.1f MiB may be used; lower max_model_len, "
            "max_num_seqs or max_num_batched_tokens, or raise %s",
            job->path, plan.max_model_len, (double)need / MIB, (double)plan.weight_bytes / MIB,
            (double)plan.activation_bytes / MIB, (double)plan.state_bytes / MIB,
            (double)plan.budget_bytes / MIB, device->is_gpu ? "gpu_memory_utilization" : "cpu_memory");
    }
    total_with_pages(&plan, model, pages);
    *out = plan;
    return STATUS_OK;
}
