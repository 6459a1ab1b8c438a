/* What the tests of the engine share: an engine over the CPU backend and the tiny model, whose steps may be
 * late or fail, and records for it. */
#ifndef PRESSRUN_TESTS_UNIT_ENGINE_FIXTURE_H
#define PRESSRUN_TESTS_UNIT_ENGINE_FIXTURE_H

#include "kernels/fault/fault.h"
#include "tests/support/engine_rig.h"

/* Of every engine here. */
enum { N_SLOTS = 6, N_PAGES = 40, MAX_ROWS = 96, MAX_RECORDS = 16, EOS = 7 };

struct engine_fixture_options {
    bool is_late; /* results come one step late, as from a device beside the host; else at once */
    struct fault_plan plan;
    int32_t max_samples; /* entries of one step */
    int32_t logit_rows;  /* of them that get their logits at once */
};

struct engine_fixture {
    struct engine_rig rig;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct run_metrics metrics;
    struct record *records[MAX_RECORDS]; /* finished, by request.index */
    int32_t order[MAX_RECORDS];          /* indices as they finished */
    int32_t n_finished;
    int32_t n_streamed; /* tokens */
};

/* Backend, tokenizer, model and engine; what is open when one fails is closed by engine_fixture_close. */
enum status engine_fixture_try_open(struct engine_fixture *fixture,
                                    const struct engine_fixture_options *options);
void engine_fixture_close(struct engine_fixture *fixture);

/* A record whose prompt follows from its index. It ignores the end of a text. */
struct record *engine_fixture_record(int64_t index, int32_t n_prompt);

/* Keeps what the engine has finished. */
void engine_fixture_take(struct engine_fixture *fixture);
/* Steps until the engine is idle. */
enum status engine_fixture_run(struct engine_fixture *fixture);

#endif
