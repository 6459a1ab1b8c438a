/* pressrun run: one job from its file to its published output. Three threads: intake reads and tokenizes,
 * this one drives the engine, outlet writes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/base/file.h"
#include "worker/base/log.h"
#include "worker/commands/commands.h"
#include "worker/output/manifest.h"
#include "worker/output/progress.h"
#include "worker/run/intake.h"
#include "worker/run/outlet.h"
#include "worker/run/session.h"
#include "worker/run/stop_signal.h"
#include "worker/version.h"

static const double IDLE_WAIT_SECONDS = 0.05; /* how long to wait at a time for input or output to move */

/* Everything a run holds; zeroed, then filled from top to bottom. */
struct run {
    const struct command_options *options;
    struct job job;
    struct config config;
    char *output; /* job.output with the shard in its name */
    struct session session;
    struct identity identity;
    struct writer *writer;
    struct writer_found found;
    struct prompt_reader *reader; /* until intake owns it */
    struct intake *intake;
    struct engine *engine;
    struct outlet *outlet;
    struct progress *progress;
    struct run_metrics *metrics;
    char started_at[32];
    int64_t n_expected; /* selected lines; -1 while unknown */
    bool is_input_ended;
    struct failure input; /* what ended the input before its end */
    double next_progress_s;
};

/* NAME.jsonl.gz -> NAME.i-of-n.jsonl.gz (or NAME.gz -> NAME.i-of-n.gz). malloc'ed. */
static char *shard_output(const char *name, struct shard shard) {
    if (shard.count <= 1)
        return strdup(name);
    size_t length = strlen(name);
    const char *suffix = name + length;
    static const char *const suffixes[] = {".jsonl.gz", ".gz"};
    for (size_t i = 0; i < 2 && !*suffix; i++)
        if (length > strlen(suffixes[i]) && strcmp(name + length - strlen(suffixes[i]), suffixes[i]) == 0)
            suffix = name + length - strlen(suffixes[i]);
    struct buffer out = {0};
    if (buffer_printf(&out, "%.*s.%d-of-%d%s", (int)(suffix - name), name, shard.index, shard.count,
                      suffix) != STATUS_OK ||
        buffer_terminate(&out) != STATUS_OK) {
        buffer_free(&out);
        return NULL;
    }
    return out.data;
}

static enum status write_manifest(struct run *run, const char *state, bool is_complete) {
    struct manifest_info info = {.output = run->output,
                                 .identity = &run->identity,
                                 .device = run->session.backend.device,
                                 .numerics_class = run->session.backend.numerics_class,
                                 .version = pressrun_version(),
                                 .is_complete = is_complete,
                                 .state = state,
                                 .n_expected = run->n_expected,
                                 .counts = writer_counts(run->writer),
                                 .found = run->found.counts,
                                 .metrics = run->metrics,
                                 .started_at = run->started_at};
    return manifest_write(&info);
}

/* ---- opening ---- */

/* The job with every value that a default left open, as the identity needs it. */
static struct job effective_job(const struct run *run) {
    struct job job = run->job;
    const struct plan *plan = &run->session.plan;
    job.has_dtype = job.has_kv_cache_dtype = true;
    job.dtype = plan->dtype;
    job.kv_cache_dtype = plan->kv_dtype;
    job.max_model_len = plan->max_model_len;
    return job;
}

/* Opens the output; *is_done when the job was finished before. */
static enum status open_output(struct run *run, bool *is_done) {
    struct job job = effective_job(run);
    TRY(identity_build(&job, &run->session.defaults, run->session.fingerprint,
                       run->session.backend.numerics_class, run->options->shard, &run->identity));
    struct writer_options options = {.seal_seconds = run->config.seal_seconds,
                                     .seal_bytes = run->config.seal_bytes,
                                     .restart = run->options->restart};
    TRY(writer_open(run->output, &run->identity, &options, &run->found, &run->writer));
    *is_done = run->found.is_complete;
    if (run->found.resumed)
        log_info("%s.part: going on behind record %lld%s", run->output,
                 (long long)run->found.counts.n_records,
                 run->found.cut_bytes ? " (an unsealed end was cut off)" : "");
    return STATUS_OK;
}

static enum status open_input(struct run *run) {
    if (run->reader)
        return STATUS_OK;
    return prompt_reader_open(&run->job, run->options->shard, &run->reader);
}

/* Passes over the prompts that are answered already, in NAME.part or in NAME. */
static enum status skip_answered(struct run *run) {
    int64_t answered = run->found.counts.n_records, skipped = 0;
    const char *ending = run->found.is_complete ? "" : ".part";
    if (answered == 0)
        return STATUS_OK;
    struct hash128 hash;
    TRY(prompt_reader_skip(run->reader, answered, &skipped, &hash));
    RETURN_IF(skipped < answered, STATUS_CANNOT_CREATE,
              "%s: has %lld prompts, but %s%s answers %lld: the input is not the one that the job "
              "began with; give the old input, or --restart to begin anew",
              run->job.prompts, (long long)skipped, run->output, ending, (long long)answered);
    RETURN_IF(!hash128_equal(hash, run->found.input_hash), STATUS_CANNOT_CREATE,
              "%s: the first %lld prompts are not those that %s%s answers; give the old input, or "
              "--restart to begin anew",
              run->job.prompts, (long long)answered, run->output, ending);
    return STATUS_OK;
}

/* A finished job needs its prompts no longer. Where they are still there, though, they must be those that it
 * answered: lines added since would be passed over without a word. */
static enum status check_finished_input(struct run *run) {
    struct stat info;
    bool is_there = strcmp(run->job.prompts, "-") != 0 && stat(run->job.prompts, &info) == 0;
    if (!is_there || !S_ISREG(info.st_mode))
        return STATUS_OK;
    TRY(open_input(run));
    TRY(skip_answered(run));
    int64_t more;
    struct hash128 hash;
    TRY(prompt_reader_skip(run->reader, 1, &more, &hash));
    RETURN_IF(more > 0, STATUS_CANNOT_CREATE,
              "%s: has more prompts than the %lld that %s answers; choose another output, or --restart to "
              "answer all anew",
              run->job.prompts, (long long)run->found.counts.n_records, run->output);
    return STATUS_OK;
}

static enum status open_pipeline(struct run *run) {
    TRY(open_input(run));
    TRY(skip_answered(run));
    struct session *session = &run->session;
    struct intake_options intake = {.job = &run->job,
                                    .config = &run->config,
                                    .model = &session->model_config,
                                    .defaults = &session->defaults,
                                    .tokenizer = session->tokenizer,
                                    .max_model_len = session->plan.max_model_len,
                                    .start_s = run->options->start_s};
    TRY(intake_start(&intake, run->reader, &run->intake));
    run->reader = NULL;
    struct engine_options engine = {.limits = session_scheduler_limits(&session->plan),
                                    .job_seed = run->job.seed,
                                    .start_s = run->options->start_s};
    TRY(engine_open(&session->backend, session->model, &session->model_config, session->tokenizer, &engine,
                    &run->engine));
    struct outlet_options outlet = {.tokenizer = session->tokenizer,
                                    /* without a tokenizer the ids are all there is to an answer */
                                    .output_token_ids =
                                        run->job.output_token_ids ||
                                        (!session->tokenizer && run->job.mode == MODE_GENERATE),
                                    .first_index = run->found.counts.n_records};
    TRY(outlet_start(&outlet, run->writer, &run->outlet));
    struct progress_options progress = {.is_terminal = run->options->is_terminal,
                                        .use_color = run->options->use_color,
                                        .is_quiet = run->options->is_quiet,
                                        .line_seconds = run->config.progress_seconds};
    return progress_open(&progress, &run->progress);
}

/* ---- the loop ---- */

static void show_progress(struct run *run, int64_t n_put, int64_t n_errors) {
    double now = clock_seconds();
    if (now < run->next_progress_s)
        return;
    run->next_progress_s = now + 0.1;
    struct progress_state state = {.elapsed_s = now - run->options->start_s,
                                   .n_done = run->found.counts.n_records + n_put,
                                   .n_resumed = run->found.counts.n_records,
                                   .n_errors = n_errors,
                                   .completion_tokens = engine_generated(run->engine),
                                   .occupancy =
                                       (double)engine_running(run->engine) / run->session.plan.max_num_seqs};
    if (run->job.mode == MODE_SCORE) /* a prompt that is scored holds its place for a step */
        state.occupancy = run_metrics_fill(run->metrics);
    int64_t n_read;
    bool ended;
    intake_progress(run->intake, &n_read, &ended, &state.fraction);
    state.n_total = ended ? run->found.counts.n_records + n_read : -1;
    progress_update(run->progress, &state);
}

/* Hands the engine as many records as it can soon use. An input that cannot be read on is an input that ends:
 * what was read before is answered first. */
static enum status feed(struct run *run, double wait_s) {
    int64_t wanted = 2 * (int64_t)run->session.plan.max_num_seqs;
    while (!run->is_input_ended && engine_waiting(run->engine) < wanted) {
        struct record *record;
        int32_t max_tokens;
        enum status failure = STATUS_OK;
        switch (intake_take(run->intake, wait_s, &record, &max_tokens, &failure)) {
        case INTAKE_NONE_YET:
            return STATUS_OK;
        case INTAKE_FAILED:
            failure_note(&run->input, failure);
            if (!engine_is_idle(run->engine))
                log_info("%s; the prompts before it are answered, then the job ends", status_message());
            run->is_input_ended = true;
            return STATUS_OK;
        case INTAKE_END:
            run->is_input_ended = true;
            return STATUS_OK;
        case INTAKE_RECORD:
            break;
        }
        enum status result = engine_submit(run->engine, record, max_tokens);
        /* The plan has room for a sequence of full length: no answer depends on the memory. */
        if (result == STATUS_RECORD)
            result = status_fail(STATUS_INTERNAL, "line %lld: %s", (long long)record->request.line,
                                 status_message());
        if (result != STATUS_OK) {
            record_free(record);
            free(record);
            return result;
        }
        wait_s = 0;
    }
    return STATUS_OK;
}

static enum status generate(struct run *run) {
    struct run_metrics *metrics = run->metrics;
    int64_t n_put = 0, n_errors = 0;
    bool was_paused = false;
    metrics->is_scoring = run->job.mode == MODE_SCORE;
    metrics->max_num_batched_tokens = run->session.plan.max_num_batched_tokens;
    metrics->startup_s = clock_seconds() - run->options->start_s;
    while (!stop_signal_came()) {
        TRY(feed(run, 0));
        if (engine_is_idle(run->engine)) {
            if (run->is_input_ended)
                break;
            double before = clock_seconds();
            TRY(feed(run, IDLE_WAIT_SECONDS));
            metrics->wait_input_s += clock_seconds() - before;
            show_progress(run, n_put, n_errors);
            continue;
        }
        bool is_paused = outlet_waiting_bytes(run->outlet) > run->config.max_waiting_bytes;
        metrics->output_pauses += is_paused && !was_paused;
        was_paused = is_paused;
        if (is_paused && engine_running(run->engine) == 0) {
            double before = clock_seconds();
            outlet_wait_below(run->outlet, run->config.max_waiting_bytes, IDLE_WAIT_SECONDS);
            metrics->wait_output_s += clock_seconds() - before;
        }
        TRY(engine_step(run->engine, is_paused, run->is_input_ended, metrics));
        for (struct record *record; (record = engine_take(run->engine)) != NULL;) {
            n_put++;
            n_errors += record->request.error_code != NULL;
            TRY(outlet_put(run->outlet, record));
        }
        show_progress(run, n_put, n_errors);
    }
    return engine_is_idle(run->engine) ? failure_result(&run->input) : STATUS_OK;
}

/* ---- the end ---- */

static void finish_metrics(struct run *run) {
    struct run_metrics *metrics = run->metrics;
    const struct plan *plan = &run->session.plan;
    metrics->device_s = run->session.device_s;
    metrics->load_s = run->session.load_s;
    metrics->weights_s = run->session.weights_s;
    metrics->wall_s = clock_seconds() - run->options->start_s;
    metrics->max_num_seqs = plan->max_num_seqs;
    metrics->kv_pages = plan->state.n_pages - 1;
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        metrics->peak_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
}

/* Publishes: all sealed, manifest synced, then the name. Only then does the manifest say so: whoever reads
 * "complete" there finds the file. */
static enum status publish(struct run *run) {
    TRY(writer_finish(run->writer));
    run->n_expected = writer_counts(run->writer).n_records;
    TRY(write_manifest(run, "publishing", false));
    TRY(writer_publish(run->writer));
    return write_manifest(run, "complete", true);
}

/* Seals what is in order whatever happened before, and reports the first failure. */
static enum status finish(struct run *run, enum status generated) {
    struct failure failure = {0};
    failure_note(&failure, generated);
    run->metrics->generate_s = clock_seconds() - run->options->start_s - run->metrics->startup_s;
    progress_close(run->progress);
    run->progress = NULL;
    failure_note(&failure, outlet_stop(run->outlet, run->metrics));
    run->outlet = NULL;
    finish_metrics(run);

    /* A signal that comes when all is answered stops nothing. */
    bool is_whole = run->is_input_ended && engine_is_idle(run->engine);
    bool is_stopped = failure.code == STATUS_OK && !is_whole;
    if (failure.code == STATUS_OK && is_whole)
        failure_note(&failure, publish(run));
    else /* a writer that failed seals nothing more; what it sealed holds */
        failure_note(&failure, writer_seal(run->writer));
    bool is_complete = failure.code == STATUS_OK && is_whole;
    if (!is_complete)
        failure_note(&failure, write_manifest(run, failure.code == STATUS_OK ? "stopped" : "failed", false));
    struct output_counts counts = writer_counts(run->writer);
    if (!run->options->is_quiet)
        summary_print(stderr, run->output, run->metrics, &counts, is_complete, run->options->use_color);
    TRY(failure_result(&failure));
    if (is_stopped)
        return status_fail(STATUS_STOPPED,
                           "stopped by %s behind record %lld; the same command goes on from there",
                           stop_signal_name(), (long long)counts.n_records);
    if (run->options->strict && counts.n_errors > 0)
        return status_fail(STATUS_RECORD, "%s: %lld of %lld records failed (--strict)", run->output,
                           (long long)counts.n_errors, (long long)counts.n_records);
    return STATUS_OK;
}

static enum status run_job(struct run *run) {
    const struct command_options *options = run->options;
    TRY(job_load(options->target, options->overrides, options->n_overrides, &run->job, &run->config));
    run->output = shard_output(run->job.output, options->shard);
    RETURN_IF(!run->output, STATUS_INTERNAL, "out of host memory");
    TRY(stop_signal_install(run->config.grace_s));
    /* Missing prompts are found before anything is written, where the job is not finished. */
    if (options->restart || !file_exists(run->output))
        TRY(open_input(run));
    TRY(session_open(&run->job, &run->config, &run->session));
    bool is_done;
    TRY(open_output(run, &is_done));
    if (is_done) {
        TRY(check_finished_input(run));
        if (manifest_write_published(run->output, &run->identity, &run->found.counts) != STATUS_OK)
            log_warning("%s", status_message()); /* nothing depends on it */
        log_info("%s: complete already (%lld records); nothing to do", run->output,
                 (long long)run->found.counts.n_records);
        RETURN_IF(options->strict && run->found.counts.n_errors > 0, STATUS_RECORD,
                  "%s: %lld of %lld records failed (--strict)", run->output,
                  (long long)run->found.counts.n_errors, (long long)run->found.counts.n_records);
        return STATUS_OK;
    }
    TRY(open_pipeline(run));
    TRY(write_manifest(run, "running", false));
    return finish(run, generate(run));
}

/* RFC 3339, UTC, in microseconds: two runs of one process id never share it. */
static void write_start_time(char *out, size_t size) {
    struct timespec now;
    struct tm utc;
    char fraction[16];
    clock_gettime(CLOCK_REALTIME, &now);
    strftime(out, size, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    snprintf(fraction, sizeof fraction, ".%06dZ", (int)(now.tv_nsec / 1000));
    strncat(out, fraction, size - strlen(out) - 1);
}

enum status command_run(const struct command_options *options) {
    struct run run = {.options = options, .n_expected = -1};
    run.metrics = calloc(1, sizeof *run.metrics);
    RETURN_IF(!run.metrics, STATUS_INTERNAL, "out of host memory");
    write_start_time(run.started_at, sizeof run.started_at);

    struct failure failure = {0};
    failure_note(&failure, run_job(&run));
    progress_close(run.progress);
    if (run.outlet)
        outlet_stop(run.outlet, run.metrics);
    intake_stop(run.intake);
    if (run.reader)
        prompt_reader_close(run.reader);
    engine_close(run.engine);
    if (run.writer)
        writer_close(run.writer);
    identity_free(&run.identity);
    session_close(&run.session);
    free(run.output);
    job_free(&run.job);
    config_free(&run.config);
    free(run.metrics);
    return failure_result(&failure);
}
