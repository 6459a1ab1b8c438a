#include "tests/functional/operations_sampler.h"

#include <stdlib.h>

enum { HEAD_DIM = 16 };

static struct state_limits sample_limits(int32_t n_slots, int32_t n_vocab) {
    return (struct state_limits){
        .n_slots = n_slots,
        .n_pages = 2,
        .max_pages_per_slot = 64,
        .max_rows = n_slots,
        .max_segments = 4,
        .max_samples = n_slots,
        .n_layers = 3,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = HEAD_DIM,
        .n_vocab = n_vocab,
        .kv_dtype = DTYPE_FLOAT32,
    };
}

void sampler_init(struct sampler *sampler, struct operations *ops, int32_t n_slots, int32_t n_vocab) {
    struct state_limits limits = sample_limits(n_slots, n_vocab);
    ops_open(ops);
    OPS_OK(ops, ops_state(ops, &limits));
    *sampler = (struct sampler){
        .ops = ops,
        .n_slots = n_slots,
        .n_vocab = n_vocab,
        .logits = ops_junk(ops, DTYPE_FLOAT32, n_slots, n_vocab),
        .slot = ops_alloc(ops, (size_t)n_slots, sizeof(int32_t)),
        .position = ops_alloc(ops, (size_t)n_slots, sizeof(int32_t)),
        .token = ops_alloc(ops, (size_t)n_slots, sizeof(int32_t)),
    };
    for (int32_t s = 0; s < n_slots; s++)
        sampler->slot[s] = s;
}

void sampler_free(struct sampler *sampler) {
    free(sampler->slot);
    free(sampler->position);
    free(sampler->token);
}

void sampler_start_some(struct sampler *sampler, int32_t first, int32_t n,
                        const struct slot_sampling *sampling, const int32_t *prompt, int32_t n_prompt) {
    static const int32_t page[] = {1};
    struct slot_start *starts = ops_alloc(sampler->ops, (size_t)n, sizeof *starts);
    for (int32_t i = 0; i < n; i++)
        starts[i] = (struct slot_start){
            .slot = first + i,
            .sampling = sampling[i],
            .pages = page,
            .n_pages = 1,
            .prompt = prompt,
            .n_prompt = n_prompt,
        };
    ops_slots_begin(sampler->ops, starts, n);
    free(starts);
}

void sampler_start(struct sampler *sampler, int32_t slot, struct slot_sampling sampling,
                   const int32_t *prompt, int32_t n_prompt) {
    sampler_start_some(sampler, slot, 1, &sampling, prompt, n_prompt);
}

void sampler_step(struct sampler *sampler, int32_t n, const float *logits, bool want_logprobs,
                  struct sample_result *results, struct sample_top *top) {
    struct operations *ops = sampler->ops;
    struct backend *backend = &ops->backend;
    int32_t *row = ops_alloc(ops, (size_t)n, sizeof *row);
    for (int32_t i = 0; i < n; i++)
        row[i] = i;
    struct batch batch = {
        .n_rows = n,
        .n_decode = n,
        .n_samples = n,
        .want_logprobs = want_logprobs,
        .token = sampler->token,
        .position = sampler->position,
        .slot = sampler->slot,
        .sample_row = row,
        .sample_slot = sampler->slot,
    };
    ops_step_begin(ops, &batch);
    int32_t first = n > 2 ? n / 2 : n;
    for (int32_t done = 0; done < n;) {
        int32_t count = done == 0 ? first : n - first;
        ops_write(ops, sampler->logits, DTYPE_FLOAT32, count, sampler->n_vocab,
                  logits + (int64_t)done * sampler->n_vocab);
        struct sample_args args = {.logits = sampler->logits, .first_sample = done, .n = count};
        OPS_OK(ops, backend->sample(backend->context, &args));
        done += count;
    }
    ops_step_end(ops, &batch, results, top);
    free(row);
}
