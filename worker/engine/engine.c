#include "worker/engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/text/stop.h"

enum { MAX_IN_FLIGHT = 2 };

/* What the host must remember of a queued step. */
struct queued_step {
    uint64_t ticket;
    int32_t n_samples;
    bool want_logprobs;
    bool is_back;              /* its results were waited for */
    bool lacks_pages;          /* a prompt stayed out for want of KV pages alone */
    struct sequence **samples; /* [max_samples]; NULL: padding, or retired */
    double queued_s;
    struct step_report report;
};

struct engine {
    struct backend *backend;
    struct model *model;
    const struct model_config *config;
    const struct tokenizer *tokenizer;
    struct engine_options options;
    struct scheduler scheduler;
    struct queued_step queue[MAX_IN_FLIGHT]; /* ring */
    int32_t queue_head, n_queued;
    struct sample_result *results; /* [max_samples] */
    struct sample_top *top;        /* [max_samples] */
    struct group *finished_head, *finished_tail;
    int64_t n_generated; /* tokens kept */
    double last_retired_s;
    bool had_work;          /* when the last step came back */
    double blocked_s;       /* of the turn: in which the thread waited for the device, or was it */
    struct failure failure; /* of the step that failed; every later one fails alike */
};

enum status engine_open(struct backend *backend, struct model *model, const struct model_config *config,
                        const struct tokenizer *tokenizer, const struct engine_options *options,
                        struct engine **out) {
    struct engine *engine = calloc(1, sizeof *engine);
    RETURN_IF(!engine, STATUS_INTERNAL, "out of host memory");
    engine->backend = backend;
    engine->model = model;
    engine->config = config;
    engine->tokenizer = tokenizer;
    engine->options = *options;
    engine->options.limits.reserves_expected &= backend->slots_extend != NULL;
    size_t max_samples = (size_t)options->limits.max_samples;
    bool good = true;
    for (int i = 0; i < MAX_IN_FLIGHT; i++) {
        engine->queue[i].samples = calloc(max_samples, sizeof(struct sequence *));
        good = good && engine->queue[i].samples;
    }
    engine->results = calloc(max_samples, sizeof *engine->results);
    engine->top = calloc(max_samples, sizeof *engine->top);
    enum status result = good && engine->results && engine->top
                             ? scheduler_init(&engine->scheduler, &engine->options.limits, options->job_seed)
                             : status_fail(STATUS_INTERNAL, "out of host memory for the engine");
    if (result != STATUS_OK) {
        engine_close(engine);
        return result;
    }
    *out = engine;
    return STATUS_OK;
}

static struct record *take_finished(struct engine *engine) {
    struct group *group = engine->finished_head;
    if (!group)
        return NULL;
    engine->finished_head = group->next;
    if (!engine->finished_head)
        engine->finished_tail = NULL;
    struct record *record = group->record;
    group_free(group);
    return record;
}

void engine_close(struct engine *engine) {
    if (!engine)
        return;
    for (; engine->n_queued > 0; engine->n_queued--) {
        struct queued_step *step = &engine->queue[engine->queue_head];
        if (!step->is_back)
            engine->backend->step_wait(engine->backend->context, step->ticket, engine->results,
                                       step->want_logprobs ? engine->top : NULL);
        /* A group that only waited for this step hangs nowhere else. */
        for (int32_t i = 0; i < step->n_samples; i++)
            if (step->samples[i])
                scheduler_abandon(&engine->scheduler, step->samples[i]->group);
        engine->queue_head = (engine->queue_head + 1) % MAX_IN_FLIGHT;
    }
    for (struct record *record; (record = take_finished(engine)) != NULL;) {
        record_free(record);
        free(record);
    }
    scheduler_free(&engine->scheduler);
    for (int i = 0; i < MAX_IN_FLIGHT; i++)
        free(engine->queue[i].samples);
    free(engine->results);
    free(engine->top);
    free(engine);
}

enum status engine_submit(struct engine *engine, struct record *record, int32_t max_tokens) {
    const struct scheduler_limits *limits = &engine->options.limits;
    int32_t n = 0;
    if (record->is_scored)
        max_tokens = 0;
    if (!record->request.error_code) {
        n = scheduler_samples_at_once(limits, record->request.n_prompt_token_ids, max_tokens,
                                      record->request.sampling.n);
        RETURN_IF(n == 0, STATUS_RECORD,
                  "%d prompt tokens and up to %d new ones need %lld KV pages, but there are %d; lower "
                  "max_tokens, or give the job more memory",
                  record->request.n_prompt_token_ids, max_tokens,
                  (long long)scheduler_pages_needed(record->request.n_prompt_token_ids, max_tokens, 1),
                  limits->n_pages - 1);
    }
    struct group *group;
    TRY(group_new(record, max_tokens, n, &group));
    scheduler_submit(&engine->scheduler, group);
    return STATUS_OK;
}

int64_t engine_waiting(const struct engine *engine) {
    return engine->scheduler.n_waiting;
}

int32_t engine_running(const struct engine *engine) {
    return engine->options.limits.n_slots - engine->scheduler.n_free_slots;
}

int64_t engine_generated(const struct engine *engine) {
    return engine->n_generated;
}

bool engine_is_idle(const struct engine *engine) {
    return engine->n_queued == 0 && engine->scheduler.n_waiting == 0 && !engine->scheduler.prefilling_head &&
           engine_running(engine) == 0;
}

struct record *engine_take(struct engine *engine) {
    return take_finished(engine);
}

/* Hands the record back, unless samples of it are still to run. */
static void finish_group(struct engine *engine, struct group *group) {
    if (group->n_sequences > 0 && group_next_samples(group)) {
        scheduler_resubmit(&engine->scheduler, group);
        return;
    }
    group->next = NULL;
    if (engine->finished_tail)
        engine->finished_tail->next = group;
    else
        engine->finished_head = group;
    engine->finished_tail = group;
}

/* ---- retiring: what came back ---- */

static enum status keep_token(struct sequence *sequence, const struct sample_result *result,
                              const struct sample_top *top) {
    struct completion *completion = sequence->completion;
    int32_t n_logprobs = sequence->group->record->request.sampling.logprobs;
    if (completion->n_tokens == sequence->token_capacity) {
        int32_t capacity = sequence->token_capacity ? sequence->token_capacity * 2 : 32;
        if (capacity > sequence->max_tokens)
            capacity = sequence->max_tokens;
        int32_t *ids = realloc(completion->token_ids, (size_t)capacity * sizeof *ids);
        RETURN_IF(!ids, STATUS_INTERNAL, "out of host memory for %d tokens", capacity);
        completion->token_ids = ids;
        if (n_logprobs >= 0) {
            float *logprobs = realloc(completion->logprobs, (size_t)capacity * sizeof *logprobs);
            RETURN_IF(!logprobs, STATUS_INTERNAL, "out of host memory for %d tokens", capacity);
            completion->logprobs = logprobs;
        }
        if (n_logprobs > 0) {
            struct top_logprob *best =
                realloc(completion->top, (size_t)capacity * (size_t)n_logprobs * sizeof *best);
            RETURN_IF(!best, STATUS_INTERNAL, "out of host memory for %d tokens", capacity);
            completion->top = best;
        }
        sequence->token_capacity = capacity;
    }
    int32_t at = completion->n_tokens++;
    completion->token_ids[at] = result->token;
    if (n_logprobs >= 0)
        completion->logprobs[at] = result->logprob;
    completion->n_top = n_logprobs > 0 ? n_logprobs : 0;
    for (int32_t i = 0; i < n_logprobs; i++)
        completion->top[(size_t)at * (size_t)n_logprobs + (size_t)i] =
            (struct top_logprob){.token = top->token[i], .logprob = top->logprob[i]};
    return STATUS_OK;
}

static bool is_among(int32_t id, const int32_t *ids, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* Grows the text by the token and looks for stop strings; cuts the text in front of a match. */
static enum status search_stop(struct engine *engine, struct sequence *sequence, int32_t token, bool is_last,
                               bool *found) {
    const struct sampling *sampling = &sequence->group->record->request.sampling;
    TRY(detokenizer_add(&sequence->detokenizer, engine->tokenizer, token, &sequence->text));
    if (is_last)
        TRY(detokenizer_finish(&sequence->detokenizer, &sequence->text));
    size_t begin;
    *found = stop_find(sampling->stop, sampling->n_stop, sequence->text.data, sequence->text.size,
                       sequence->text_searched, &begin);
    if (*found)
        sequence->text.size = begin;
    sequence->text_searched = sequence->text.size;
    return STATUS_OK;
}

static enum status fail_record(struct engine *engine, struct group *group,
                               const struct sample_result *result) {
    struct request *request = &group->record->request;
    if (request->error_code)
        return STATUS_OK;
    char where[64];
    int32_t layer = result->fault_layer, n_layers = engine->config->n_layers;
    if (layer == 0)
        snprintf(where, sizeof where, "the embedding");
    else if (layer <= n_layers)
        snprintf(where, sizeof where, "layer %d of %d", layer, n_layers);
    else
        snprintf(where, sizeof where, "the logits");
    char message[256];
    snprintf(
        message, sizeof message,
        "a value that is not finite came out of %s at position %d; try dtype: float32, or check the weights",
        where, result->fault_position);
    request->error_message = strdup(message);
    RETURN_IF(!request->error_message, STATUS_INTERNAL, "out of host memory");
    request->error_code = "not_finite";
    for (int32_t i = 0; i < group->n_sequences; i++)
        scheduler_end_sequence(&engine->scheduler, &group->sequences[i]);
    return STATUS_OK;
}

/* A token that is kept already: the sequence started again and is not yet where it was. */
static enum status check_replayed(const struct sequence *sequence, const struct sample_result *result,
                                  struct run_metrics *metrics) {
    int32_t at = sequence->n_back - 1;
    metrics->replayed_rows++;
    RETURN_IF(
        result->token != sequence->completion->token_ids[at], STATUS_INTERNAL,
        "line %lld: token %d was %d, and %d when the sequence started again; answers must not depend on "
        "the batch: please report this, and set kv_reserve: full",
        (long long)sequence->group->record->request.line, at, sequence->completion->token_ids[at],
        result->token);
    return STATUS_OK;
}

static enum status retire_token(struct engine *engine, struct sequence *sequence,
                                const struct sample_result *result, const struct sample_top *top, double now,
                                struct run_metrics *metrics) {
    struct group *group = sequence->group;
    if (result->fault_layer >= 0)
        return fail_record(engine, group, result);
    if (sequence->n_back++ < sequence->completion->n_tokens)
        return check_replayed(sequence, result, metrics);
    const struct sampling *sampling = &group->record->request.sampling;
    struct completion *completion = sequence->completion;
    TRY(keep_token(sequence, result, top));
    engine->n_generated++;
    if (completion->n_tokens == 1)
        completion->first_token_s = now;
    completion->last_token_s = now;

    bool is_stop =
        is_among(result->token, sampling->stop_token_ids, sampling->n_stop_token_ids) ||
        (!sampling->ignore_eos && is_among(result->token, engine->config->eos_ids, engine->config->n_eos));
    bool is_last = completion->n_tokens == sequence->max_tokens;
    if (sampling->n_stop > 0) {
        bool found = false;
        if (is_stop)
            TRY(detokenizer_finish(&sequence->detokenizer, &sequence->text));
        else
            TRY(search_stop(engine, sequence, result->token, is_last, &found));
        is_stop = is_stop || found;
    }
    if (engine->options.on_token && !is_stop)
        engine->options.on_token(engine->options.on_token_argument, sequence, result->token);
    if (is_stop || is_last) {
        completion->finish_reason = is_stop ? FINISH_STOP : FINISH_LENGTH;
        completion->text = sequence->text;
        sequence->text = (struct buffer){0};
        scheduler_end_sequence(&engine->scheduler, sequence);
    }
    return STATUS_OK;
}

/* What the first fault of the sequence in the step is, of which entry `first` has some: entries run beside
 * each other, and which of them see another's fault is a matter of time. */
static struct sample_result first_fault(const struct queued_step *step, const struct sample_result *results,
                                        int32_t first) {
    struct sample_result fault = results[first];
    for (int32_t i = first + 1; i < step->n_samples; i++) {
        const struct sample_result *other = &results[i];
        if (step->samples[i] != step->samples[first] || other->fault_layer < 0)
            continue;
        if (other->fault_position < fault.fault_position ||
            (other->fault_position == fault.fault_position && other->fault_layer < fault.fault_layer))
            fault = *other;
    }
    return fault;
}

/* The log-probability of a scored prompt's next token: entries come back in order of position. */
static enum status retire_score(struct engine *engine, const struct queued_step *step, int32_t entry,
                                double now, struct run_metrics *metrics) {
    struct sequence *sequence = step->samples[entry];
    struct record *record = sequence->group->record;
    struct completion *completion = sequence->completion;
    if (engine->results[entry].fault_layer >= 0) {
        struct sample_result fault = first_fault(step, engine->results, entry);
        return fail_record(engine, sequence->group, &fault);
    }
    float logprob = engine->results[entry].logprob;
    int32_t at = ++sequence->n_back;
    if (at <= record->n_scored) {
        metrics->replayed_rows++;
        RETURN_IF(memcmp(&logprob, &record->prompt_logprobs[at], sizeof logprob) != 0, STATUS_INTERNAL,
                  "line %lld: the log-probability of prompt token %d was %.9g, and %.9g when the prompt "
                  "started again; answers must not depend on the batch: please report this",
                  (long long)record->request.line, at, (double)record->prompt_logprobs[at], (double)logprob);
        return STATUS_OK;
    }
    record->prompt_logprobs[at] = logprob;
    record->n_scored = at;
    engine->n_generated++;
    if (at == sequence->group->n_prefill) {
        completion->first_token_s = completion->last_token_s = now;
        scheduler_end_sequence(&engine->scheduler, sequence);
    }
    return STATUS_OK;
}

static enum status retire_oldest(struct engine *engine, struct run_metrics *metrics) {
    struct queued_step *step = &engine->queue[engine->queue_head];
    struct backend *backend = engine->backend;
    double waited_from = clock_seconds();
    TRY(backend->step_wait(backend->context, step->ticket, engine->results,
                           step->want_logprobs ? engine->top : NULL));
    step->is_back = true;
    double clock = clock_seconds();
    engine->blocked_s += clock - waited_from;
    /* A step takes from when it was queued, or from the end of the one before, to its own end. */
    double began = step->queued_s > engine->last_retired_s ? step->queued_s : engine->last_retired_s;
    metrics->step_s += clock - began;
    if (step->lacks_pages)
        metrics->wait_kv_s += clock - began;
    metrics->gap_s += step->report.gap_s;
    step->report.step_s = clock - began;
    if (engine->options.on_step)
        engine->options.on_step(engine->options.on_step_argument, &step->report);
    engine->last_retired_s = clock;
    double now = clock - engine->options.start_s;
    for (int32_t i = 0; i < step->n_samples; i++) {
        struct sequence *sequence = step->samples[i];
        if (!sequence)
            continue;
        struct group *group = sequence->group;
        group->n_in_flight--;
        if (!sequence->is_over && group_is_scored(group))
            TRY(retire_score(engine, step, i, now, metrics));
        else if (!sequence->is_over)
            TRY(retire_token(engine, sequence, &engine->results[i], &engine->top[i], now, metrics));
        step->samples[i] = NULL;
        if (group->n_in_flight > 0)
            continue;
        if (group->n_over == group->n_sequences)
            finish_group(engine, group);
        else if (group->is_parked)
            scheduler_resubmit(&engine->scheduler, group);
    }
    engine->queue_head = (engine->queue_head + 1) % MAX_IN_FLIGHT;
    engine->n_queued--;
    engine->had_work = !engine_is_idle(engine);
    return STATUS_OK;
}

/* ---- queueing ---- */

static void count_step(struct engine *engine, const struct step_plan *plan, bool has_company,
                       struct run_metrics *metrics) {
    metrics->n_steps++;
    metrics->decode_rows += plan->n_useful_decode;
    metrics->slot_steps += plan->n_running;
    metrics->n_restarts += plan->n_restarts;
    if (plan->batch.n_segments == 0) {
        metrics->n_decode_steps++;
        metrics->padding_rows += plan->batch.n_rows - plan->n_useful_decode;
        metrics->launches_per_decode_step = engine->backend->launches_per_step(engine->backend->context);
    } else {
        metrics->prefill_rows += plan->batch.n_rows - plan->batch.n_decode;
    }
    if (has_company) {
        metrics->n_steps_before_tail++;
        metrics->slot_steps_before_tail += plan->n_running;
    }
    metrics->kv_pages_peak = engine->scheduler.pool.peak_used;
}

static enum status queue_step(struct engine *engine, const struct step_plan *plan) {
    struct backend *backend = engine->backend;
    struct backend_context *context = backend->context;
    const struct batch *batch = &plan->batch;
    double began = clock_seconds(); /* a backend without a queue computes in the calls below */
    if (plan->n_starts > 0)
        TRY(backend->slots_begin(context, plan->starts, plan->n_starts));
    if (plan->n_extensions > 0)
        TRY(backend->slots_extend(context, plan->extensions, plan->n_extensions));
    if (plan->n_copies > 0)
        TRY(backend->pages_copy(context, plan->copies, plan->n_copies));
    bool replayed;
    TRY(backend->step_begin(context, &plan->batch, &replayed));
    if (!replayed)
        TRY(model_forward(engine->model, &plan->batch));
    struct queued_step *step = &engine->queue[(engine->queue_head + engine->n_queued) % MAX_IN_FLIGHT];
    step->queued_s = began;
    step->is_back = false;
    step->lacks_pages = plan->admission == ADMISSION_NO_PAGES;
    step->n_samples = plan->batch.n_samples;
    step->want_logprobs = plan->batch.want_logprobs;
    memcpy(step->samples, plan->samples, (size_t)step->n_samples * sizeof *step->samples);
    step->report =
        (struct step_report){.n_rows = plan->n_useful_decode + batch->n_rows - batch->n_decode,
                             .n_decode = plan->n_useful_decode,
                             .n_samples = batch->n_samples - (batch->n_decode - plan->n_useful_decode),
                             .n_launched = batch->n_rows,
                             .decode_positions = plan->decode_positions,
                             .prompt_positions = plan->prompt_positions};
    if (engine->n_queued == 0 && engine->had_work)
        step->report.gap_s = began - engine->last_retired_s;
    TRY(backend->step_end(context, &step->ticket));
    engine->n_queued++;
    if (backend->max_steps_in_flight == 1) /* it computed in the calls above */
        engine->blocked_s += clock_seconds() - began;
    return STATUS_OK;
}

static enum status take_turn(struct engine *engine, bool is_paused, bool input_ended,
                             struct run_metrics *metrics) {
    struct scheduler *scheduler = &engine->scheduler;
    /* In a pause records in error stay too: they would pile up behind the one that all wait for. */
    double now = clock_seconds() - engine->options.start_s;
    for (struct group *group; !is_paused && (group = scheduler_take_idle(scheduler)) != NULL;) {
        struct record *record = group->record;
        if (!record->request.error_code) /* nothing is to be scored */
            record->admitted_s = record->completions[0].last_token_s = now;
        finish_group(engine, group);
    }

    struct step_plan plan;
    struct step_request request = {.is_paused = is_paused,
                                   .force = input_ended && scheduler->n_waiting <= scheduler->n_free_slots,
                                   .now_s = now,
                                   .decode_rows = engine->backend->decode_rows,
                                   .context = engine->backend->context};
    scheduler_step(scheduler, &request, &plan);
    if (plan.batch.n_rows > 0) {
        enum status queued = queue_step(engine, &plan);
        /* A prompt whose last row was to be scored hangs nowhere but in this step. */
        for (int32_t i = 0; queued != STATUS_OK && i < plan.batch.n_samples; i++)
            if (plan.samples[i])
                scheduler_abandon(scheduler, plan.samples[i]->group);
        TRY(queued);
        count_step(engine, &plan, scheduler->n_waiting > 0 || !input_ended, metrics);
    }
    int32_t ahead = engine->backend->max_steps_in_flight < MAX_IN_FLIGHT
                        ? engine->backend->max_steps_in_flight
                        : MAX_IN_FLIGHT;
    if (engine->n_queued == ahead || (engine->n_queued > 0 && plan.batch.n_rows == 0))
        TRY(retire_oldest(engine, metrics));
    return STATUS_OK;
}

enum status engine_step(struct engine *engine, bool is_paused, bool input_ended,
                        struct run_metrics *metrics) {
    TRY(failure_result(&engine->failure));
    double began = clock_seconds();
    engine->blocked_s = 0;
    enum status result = take_turn(engine, is_paused, input_ended, metrics);
    metrics->host_s += clock_seconds() - began - engine->blocked_s;
    failure_note(&engine->failure, result);
    return result;
}
