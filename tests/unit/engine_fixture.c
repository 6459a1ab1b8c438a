#include "tests/unit/engine_fixture.h"

#include <stdlib.h>
#include <string.h>

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
    memset(fixture, 0, sizeof *fixture);
    struct engine_rig *rig = &fixture->rig;
    struct engine_options engine = {.limits = {.n_slots = N_SLOTS,
                                               .n_pages = N_PAGES,
                                               .max_pages_per_slot = 64,
                                               .max_rows = MAX_ROWS,
                                               .max_samples = options->max_samples},
                                    .job_seed = 5,
                                    .on_token = count_token,
                                    .on_token_argument = fixture};
    TRY(open_backend(options, &rig->backend));
    TRY(tokenizer_open(folder, &fixture->tokenizer));
    TRY(engine_rig_configure(rig, folder));
    rig->config.eos_ids[0] = EOS;
    TRY(engine_rig_load(rig, folder, DTYPE_FLOAT32, &engine.limits, options->logit_rows));
    return engine_open(&rig->backend, rig->model, &rig->config, fixture->tokenizer, &engine,
                       &fixture->engine);
}

void engine_fixture_close(struct engine_fixture *fixture) {
    engine_close(fixture->engine);
    for (int32_t i = 0; i < MAX_RECORDS; i++) {
        if (fixture->records[i])
            record_free(fixture->records[i]);
        free(fixture->records[i]);
    }
    engine_rig_close(&fixture->rig);
    if (fixture->tokenizer)
        tokenizer_close(fixture->tokenizer);
    memset(fixture, 0, sizeof *fixture);
}

struct record *engine_fixture_record(int64_t index, int32_t n_prompt) {
    struct record *record = record_of_random_ids(index, n_prompt, 1000);
    record->request.sampling.ignore_eos = true;
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
