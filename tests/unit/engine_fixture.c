#include "tests/unit/engine_fixture.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "tests/functional/relay.h"

static const char folder[] = "tests/models/tiny";

static enum status open_backend(const struct engine_fixture_options *options, struct backend *out) {
    struct backend cpu, relay;
    TRY(backend_open("cpu", &(struct backend_options){.n_threads = 1}, &cpu));
    TRY(relay_open(&cpu, &(struct relay_options){.is_late = options->is_late}, &relay));
    return backend_open_fault(&relay, &options->plan, out);
}

static void count_token(void *argument, const struct sequence *sequence, int32_t token) {
    struct engine_fixture *fixture = argument;
    assert_int_equal(sequence->completion->token_ids[sequence->completion->n_tokens - 1], token);
    fixture->n_streamed++;
}

enum status engine_fixture_try_open(struct engine_fixture *fixture,
                                    const struct engine_fixture_options *options) {
    const int32_t max_samples = options->max_samples;
    memset(fixture, 0, sizeof *fixture);
    struct sampling defaults;
    TRY(model_config_load(folder, &fixture->config, &defaults));
    sampling_free(&defaults);
    fixture->config.eos_ids[0] = EOS;
    TRY(open_backend(options, &fixture->backend));
    TRY(tokenizer_open(folder, &fixture->tokenizer));
    struct backend *backend = &fixture->backend;
    const struct model_config *config = &fixture->config;
    TRY(model_load(folder, config, DTYPE_FLOAT32, backend, NULL, &fixture->model));
    TRY(model_prepare(fixture->model, &(struct model_limits){.max_rows = MAX_ROWS,
                                                             .max_samples = max_samples,
                                                             .logit_rows = options->logit_rows}));
    TRY(backend->state_init(backend->context, &(struct state_limits){.n_slots = N_SLOTS,
                                                                     .n_pages = N_PAGES,
                                                                     .max_pages_per_slot = 64,
                                                                     .max_rows = MAX_ROWS,
                                                                     .max_segments = N_SLOTS,
                                                                     .max_samples = max_samples,
                                                                     .n_layers = config->n_layers,
                                                                     .n_heads = config->n_heads,
                                                                     .n_kv_heads = config->n_kv_heads,
                                                                     .head_dim = config->head_dim,
                                                                     .n_vocab = config->n_vocab,
                                                                     .kv_dtype = DTYPE_FLOAT32}));
    struct engine_options engine = {.limits = {.n_slots = N_SLOTS,
                                               .n_pages = N_PAGES,
                                               .max_pages_per_slot = 64,
                                               .max_rows = MAX_ROWS,
                                               .max_samples = max_samples},
                                    .job_seed = 5,
                                    .on_token = count_token,
                                    .on_token_argument = fixture};
    return engine_open(backend, fixture->model, config, fixture->tokenizer, &engine, &fixture->engine);
}

void engine_fixture_close(struct engine_fixture *fixture) {
    engine_close(fixture->engine);
    for (int32_t i = 0; i < MAX_RECORDS; i++) {
        if (fixture->records[i])
            record_free(fixture->records[i]);
        free(fixture->records[i]);
    }
    model_close(fixture->model);
    if (fixture->backend.close)
        fixture->backend.close(fixture->backend.context);
    if (fixture->tokenizer)
        tokenizer_close(fixture->tokenizer);
    memset(fixture, 0, sizeof *fixture);
}

struct record *engine_fixture_record(int64_t index, int32_t n_prompt) {
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    struct request *request = &record->request;
    sampling_init(&request->sampling);
    request->line = index + 1;
    request->index = index;
    request->n_prompt_token_ids = record->n_prompt_tokens = n_prompt;
    request->prompt_token_ids = malloc((size_t)n_prompt * sizeof(int32_t));
    assert_non_null(request->prompt_token_ids);
    for (int32_t i = 0; i < n_prompt; i++)
        request->prompt_token_ids[i] = (int32_t)(philox_word(9, (uint32_t)index, (uint32_t)i) % 1000);
    request->sampling.ignore_eos = true;
    return record;
}

void engine_fixture_take(struct engine_fixture *fixture) {
    for (struct record *record; (record = engine_take(fixture->engine)) != NULL;) {
        assert_null(fixture->records[record->request.index]);
        fixture->records[record->request.index] = record;
        fixture->order[fixture->n_finished++] = (int32_t)record->request.index;
    }
}

enum status engine_fixture_run(struct engine_fixture *fixture) {
    for (int32_t turn = 0; !engine_is_idle(fixture->engine); turn++) {
        assert_true(turn < 10000);
        TRY(engine_step(fixture->engine, false, true, &fixture->metrics));
        engine_fixture_take(fixture);
    }
    assert_int_equal(engine_running(fixture->engine), 0);
    assert_int_equal(engine_waiting(fixture->engine), 0);
    return STATUS_OK;
}
