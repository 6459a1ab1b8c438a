#include "tests/support/engine_rig.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"

enum status engine_rig_configure(struct engine_rig *rig, const char *folder) {
    struct sampling defaults;
    TRY(model_config_load(folder, &rig->config, &defaults));
    sampling_free(&defaults);
    return STATUS_OK;
}

enum status engine_rig_load(struct engine_rig *rig, const char *folder, enum dtype dtype,
                            const struct scheduler_limits *limits, int32_t logit_rows) {
    struct backend *backend = &rig->backend;
    const struct model_config *config = &rig->config;
    TRY(model_load(folder, config, dtype, backend, NULL, &rig->model));
    TRY(model_prepare(rig->model, &(struct model_limits){.max_rows = limits->max_rows,
                                                         .max_samples = limits->max_samples,
                                                         .logit_rows = logit_rows}));
    return backend->state_init(backend->context,
                               &(struct state_limits){.n_slots = limits->n_slots,
                                                      .n_pages = limits->n_pages,
                                                      .max_pages_per_slot = limits->max_pages_per_slot,
                                                      .max_rows = limits->max_rows,
                                                      .max_segments = limits->n_slots,
                                                      .max_samples = limits->max_samples,
                                                      .n_layers = config->n_layers,
                                                      .n_heads = config->n_heads,
                                                      .n_kv_heads = config->n_kv_heads,
                                                      .head_dim = config->head_dim,
                                                      .n_vocab = config->n_vocab,
                                                      .kv_dtype = dtype});
}

void engine_rig_close(struct engine_rig *rig) {
    model_close(rig->model);
    if (rig->backend.close)
        rig->backend.close(rig->backend.context);
    memset(rig, 0, sizeof *rig);
}

struct record *record_of_ids(int64_t index, const int32_t *ids, int32_t n) {
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    struct request *request = &record->request;
    sampling_init(&request->sampling);
    request->line = index + 1;
    request->index = index;
    request->n_prompt_token_ids = record->n_prompt_tokens = n;
    request->prompt_token_ids = malloc((size_t)n * sizeof *ids);
    assert_non_null(request->prompt_token_ids);
    memcpy(request->prompt_token_ids, ids, (size_t)n * sizeof *ids);
    return record;
}

struct record *record_of_random_ids(int64_t index, int32_t n, int32_t n_vocab) {
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    assert_non_null(ids);
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(philox_word(9, (uint32_t)index, (uint32_t)i) % (uint32_t)n_vocab);
    struct record *record = record_of_ids(index, ids, n);
    free(ids);
    return record;
}
