/* engine: the loop. Takes records with tokenized prompts, runs them through the model in shared steps, and
 * hands them back finished, in the order in which they finish. One thread: all calls from the thread that
 * opened it.
 *
 *     schedule -> slots_begin, slots_extend, pages_copy, step_begin, forward, step_end
 *              -> (one step later) step_wait, retire
 *
 * No memory grows inside a step but the records' own token lists. */
#ifndef PRESSRUN_WORKER_ENGINE_ENGINE_H
#define PRESSRUN_WORKER_ENGINE_ENGINE_H

#include "worker/engine/scheduler.h"
#include "worker/model/model.h"
#include "worker/output/metrics.h"

/* A step that is done. */
struct step_report {
    double step_s; /* from when it was queued, or from the end of the one before, to its own end */
    double gap_s;  /* before it, in which the device had nothing queued though there was work */
    int32_t n_rows, n_decode, n_samples;        /* without padding */
    int32_t n_launched;                         /* rows with padding */
    int64_t decode_positions, prompt_positions; /* sums of position + 1 over decode and prompt rows */
};

struct engine_options {
    struct scheduler_limits limits;
    uint64_t job_seed;
    double start_s; /* clock_seconds() that record times count from */
    /* Called for each token that becomes text, when not NULL (streaming): not for the one that ends a sample
     * by being a stop token or completing a stop string. */
    void (*on_token)(void *argument, const struct sequence *sequence, int32_t token);
    void *on_token_argument;
    void (*on_step)(void *argument, const struct step_report *report); /* when not NULL, for each step */
    void *on_step_argument;
};

struct engine;

/* backend: state_init done. model: model_prepare done. All stay the caller's and must outlive the engine. */
enum status engine_open(struct backend *backend, struct model *model, const struct model_config *config,
                        const struct tokenizer *tokenizer, const struct engine_options *options,
                        struct engine **out);
/* Waits for what is in flight and frees everything, records that are not finished included. */
void engine_close(struct engine *engine);

/* Queues a record (malloc'ed; the engine's until engine_take). request.prompt_token_ids and effective
 * sampling must be there; a record whose error_code is set comes back in its turn without running.
 * max_tokens: for each sample, at least 1, already cut to the room that the model leaves; without meaning for
 * a record that is scored. More samples than slots or pages hold run in turns. STATUS_RECORD, with the record
 * still the caller's, when not even one sample fits the pages. */
enum status engine_submit(struct engine *engine, struct record *record, int32_t max_tokens);
int64_t engine_waiting(const struct engine *engine); /* submitted, not admitted */
bool engine_is_idle(const struct engine *engine);    /* nothing waits, runs or is in flight */

/* One turn of the loop: queues a step if there is work and retires the oldest when the device is far enough
 * ahead. is_paused: begin and hand back no record that waits (what runs, and further samples of what began,
 * go on). input_ended: no further submit will come, so waiting for company is pointless. After a failure
 * every further turn fails alike; what was in flight is lost. */
enum status engine_step(struct engine *engine, bool is_paused, bool input_ended, struct run_metrics *metrics);

/* A finished record, or NULL. The caller owns it: record_free and free. */
struct record *engine_take(struct engine *engine);
/* Sequences that hold slots now. */
int32_t engine_running(const struct engine *engine);
/* Tokens generated or scored so far, those of unfinished records included. */
int64_t engine_generated(const struct engine *engine);

#endif
