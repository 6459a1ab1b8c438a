/* pressrun bench: throughput of a model at different batch sizes, through the same engine as a run, and why
 * it is what it is: random prompts, stop conditions ignored, one warm-up, the repeat of median time, further
 * passes for the gaps between steps and for the time of each operation, where the backend can tell. The model
 * is the job's, or one of random weights made for a config.json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "worker/base/clock.h"
#include "worker/base/file.h"
#include "worker/base/log.h"
#include "worker/commands/bench.h"

enum { MAX_BATCH_SIZES = 64, PROMPT_KEY = 7, PROMPT_LENGTH_KEY = 8, NEW_LENGTH_KEY = 9 };

static enum status parse_batch_sizes(const char *text, int32_t *sizes, int32_t *n) {
    *n = 0;
    const char *at = text;
    while (*at) {
        char *end;
        long value = strtol(at, &end, 10);
        RETURN_IF(end == at || value < 1 || value > 65536 || (*end && *end != ','), STATUS_USAGE,
                  "--batch-sizes: \"%s\" is not a list of numbers from 1 to 65536, like 1,8,64", text);
        RETURN_IF(*n == MAX_BATCH_SIZES, STATUS_USAGE, "--batch-sizes: more than %d sizes", MAX_BATCH_SIZES);
        sizes[(*n)++] = (int32_t)value;
        at = *end ? end + 1 : end;
    }
    RETURN_IF(*n == 0, STATUS_USAGE, "--batch-sizes: no size is given");
    return STATUS_OK;
}

/* ---- the work ---- */

/* Sequence `index` of every point has these lengths: the longest, or drawn evenly from a range, prompts from
 * a 64th of the longest on. */
static void lengths_of(const struct command_options *options, int32_t index, int32_t *n_prompt,
                       int32_t *n_new) {
    *n_prompt = options->prompt_tokens;
    *n_new = options->new_tokens;
    if (!options->mixed_lengths)
        return;
    int32_t least = options->prompt_tokens < 64 ? 1 : options->prompt_tokens / 64;
    uint32_t range = (uint32_t)(options->prompt_tokens - least + 1);
    *n_prompt = least + (int32_t)(philox_word(PROMPT_LENGTH_KEY, 0, (uint32_t)index) % range);
    *n_new = 1 + (int32_t)(philox_word(NEW_LENGTH_KEY, 0, (uint32_t)index) % (uint32_t)options->new_tokens);
}

static enum status make_record(const struct session *session, const struct job *job,
                               const struct command_options *options, int32_t index, struct record **out,
                               int32_t *n_new) {
    int32_t n_prompt;
    lengths_of(options, index, &n_prompt, n_new);
    struct record *record = calloc(1, sizeof *record);
    int32_t *ids = malloc((size_t)n_prompt * sizeof *ids);
    if (!record || !ids) {
        free(record);
        free(ids);
        return status_fail(STATUS_INTERNAL, "out of host memory");
    }
    uint32_t n_vocab = (uint32_t)session->model_config.n_vocab;
    for (int32_t i = 0; i < n_prompt; i++)
        ids[i] = (int32_t)(philox_word(PROMPT_KEY, (uint32_t)index, (uint32_t)i) % n_vocab);
    struct request *request = &record->request;
    sampling_init(&request->sampling);
    if (options->draws) {
        request->sampling.temperature = job->sampling.temperature;
        request->sampling.top_k = job->sampling.top_k;
        request->sampling.top_p = job->sampling.top_p;
        request->sampling.min_p = job->sampling.min_p;
    } else {
        request->sampling.temperature = 0;
    }
    request->line = index + 1;
    request->index = index;
    request->prompt_token_ids = ids;
    request->n_prompt_token_ids = record->n_prompt_tokens = n_prompt;
    request->has_token_ids = true;
    request->sampling.ignore_eos = true;
    *out = record;
    return STATUS_OK;
}

/* ---- measuring ---- */

static int compare_reals(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int compare_points(const void *a, const void *b) {
    return compare_reals(&((const struct point *)a)->total_s, &((const struct point *)b)->total_s);
}

/* What the steps of one pass are added to. */
struct pass {
    const struct floor *floor;
    struct point *point;
};

static void add_step(void *argument, const struct step_report *report) {
    const struct pass *pass = argument;
    struct step_sums *sums = report->n_rows == report->n_decode ? &pass->point->decode : &pass->point->prompt;
    struct step_work work = {.n_rows = report->n_rows,
                             .n_samples = report->n_samples,
                             .decode_positions = report->decode_positions,
                             .prompt_positions = report->prompt_positions};
    sums->n_steps++;
    sums->n_rows += report->n_rows;
    sums->n_launched += report->n_launched;
    sums->seconds += report->step_s + report->gap_s;
    sums->gap_s += report->gap_s;
    sums->floor_s += floor_of_step(pass->floor, &work);
    sums->floor_bytes += floor_step_bytes(pass->floor, &work);
}

static enum status submit_all(struct engine *engine, const struct session *session, const struct job *job,
                              const struct command_options *options, int32_t n_prompts, struct point *point) {
    for (int32_t i = 0; i < n_prompts; i++) {
        struct record *record = NULL;
        int32_t n_new = 0;
        TRY(make_record(session, job, options, i, &record, &n_new));
        job_work_add(&point->work, record->n_prompt_tokens, n_new);
        point->new_tokens += n_new;
        enum status result = engine_submit(engine, record, n_new);
        if (result != STATUS_OK) {
            record_free(record);
            free(record);
            return result == STATUS_RECORD ? status_fail(STATUS_NO_FIT, "%s", status_message()) : result;
        }
    }
    return STATUS_OK;
}

/* One pass of all prompts through a fresh engine, at most batch_size at a time; it ends early behind
 * most_decode_steps of those. */
static enum status run_once(struct session *session, const struct job *job,
                            const struct command_options *options, const struct floor *floor,
                            int32_t batch_size, int64_t most_decode_steps, struct point *point) {
    *point = (struct point){.batch_size = batch_size};
    struct pass pass = {floor, point};
    struct engine_options engine_options = {.limits = session_scheduler_limits(&session->plan),
                                            .job_seed = job->seed,
                                            .start_s = clock_seconds(),
                                            .on_step = add_step,
                                            .on_step_argument = &pass};
    struct scheduler_limits *limits = &engine_options.limits;
    limits->scratch_slot = limits->n_slots;
    limits->n_slots = batch_size < limits->n_slots ? batch_size : limits->n_slots;
    struct engine *engine;
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    RETURN_IF(!metrics, STATUS_INTERNAL, "out of host memory");
    enum status result = engine_open(&session->backend, session->model, &session->model_config, NULL,
                                     &engine_options, &engine);
    if (result != STATUS_OK) {
        free(metrics);
        return result;
    }
    int32_t n_prompts = options->n_prompts > 0 ? options->n_prompts : batch_size;
    result = submit_all(engine, session, job, options, n_prompts, point);
    double began = clock_seconds() - engine_options.start_s, last = began;
    while (result == STATUS_OK && !engine_is_idle(engine) && point->decode.n_steps < most_decode_steps) {
        result = engine_step(engine, false, true, metrics);
        for (struct record *record; (record = engine_take(engine)) != NULL;) {
            if (record->completions && record->completions[0].last_token_s > last)
                last = record->completions[0].last_token_s;
            if (record->request.error_code && result == STATUS_OK)
                result = status_fail(STATUS_DATA, "prompt %lld: %s", (long long)record->request.line,
                                     record->request.error_message);
            record_free(record);
            free(record);
        }
    }
    engine_close(engine);
    point->total_s = last - began;
    point->host_s = metrics->host_s;
    point->launches_per_decode_step = metrics->launches_per_decode_step;
    point->n_restarts = metrics->n_restarts;
    point->replayed_rows = metrics->replayed_rows;
    free(metrics);
    return result;
}

/* A further pass, which is short, in which the device times what is between its steps. */
static enum status measure_gaps(struct session *session, const struct job *job,
                                const struct command_options *options, const struct floor *floor,
                                struct point *point) {
    struct backend *backend = &session->backend;
    if (!backend->gaps)
        return STATUS_OK;
    struct point scratch;
    double seconds[MAX_GAPS];
    int32_t n;
    TRY(backend->gaps(backend->context, true, seconds, &n));
    TRY(run_once(session, job, options, floor, point->batch_size, MAX_GAPS, &scratch));
    TRY(backend->gaps(backend->context, false, seconds, &n));
    point->has_gaps = n > 0;
    if (n > 0) {
        qsort(seconds, (size_t)n, sizeof *seconds, compare_reals);
        point->gap_s = seconds[(n - 1) / 2];
    }
    return STATUS_OK;
}

/* A further pass, in which operations are timed. */
static enum status measure_operations(struct session *session, const struct job *job,
                                      const struct command_options *options, const struct floor *floor,
                                      struct point *point) {
    struct backend *backend = &session->backend;
    if (!backend->profile)
        return STATUS_OK;
    struct point scratch;
    TRY(backend->profile(backend->context, true, point->operation_s));
    TRY(run_once(session, job, options, floor, point->batch_size, INT64_MAX, &scratch));
    TRY(backend->profile(backend->context, false, point->operation_s));
    point->has_operations = true;
    return STATUS_OK;
}

static enum status measure_point(struct session *session, const struct job *job,
                                 const struct command_options *options, const struct floor *floor,
                                 int32_t batch_size, struct point *point) {
    struct point *repeats = calloc((size_t)options->repeats, sizeof *repeats);
    RETURN_IF(!repeats, STATUS_INTERNAL, "out of host memory");
    enum status result = run_once(session, job, options, floor, batch_size, INT64_MAX, point); /* warms up */
    for (int32_t i = 0; result == STATUS_OK && i < options->repeats; i++)
        result = run_once(session, job, options, floor, batch_size, INT64_MAX, &repeats[i]);
    if (result == STATUS_OK) {
        qsort(repeats, (size_t)options->repeats, sizeof *repeats, compare_points);
        *point = repeats[(options->repeats - 1) / 2];
        point->job_floor_s = floor_of_job(floor, &point->work);
        point->best_batch = floor_best_batch(floor, &point->work);
        result = measure_gaps(session, job, options, floor, point);
    }
    if (result == STATUS_OK)
        result = measure_operations(session, job, options, floor, point);
    free(repeats);
    return result;
}

static enum status measure_all(struct session *session, const struct job *job,
                               const struct command_options *options, const int32_t *sizes, int32_t n_sizes,
                               struct buffer *rows) {
    struct device_limits limits;
    struct point points[MAX_BATCH_SIZES];
    TRY(session->backend.measure_limits(session->backend.context, session->plan.dtype, &limits));
    struct floor floor = floor_of(&session->model_config, &session->plan, &limits);
    bench_print_head(session, options, &floor);
    for (int32_t i = 0; i < n_sizes; i++) {
        TRY(measure_point(session, job, options, &floor, sizes[i], &points[i]));
        bench_print_point(&points[i]);
        TRY(bench_append_row(session, options, &floor, &points[i], rows));
    }
    bench_print_choice(points, n_sizes);
    return STATUS_OK;
}

/* ---- the command ---- */

/* Lengths that the model can have. */
static enum status check_lengths(const struct command_options *options, const struct job *job,
                                 const struct model_config *model) {
    int64_t length = (int64_t)options->prompt_tokens + options->new_tokens;
    RETURN_IF(
        length > model->n_positions, STATUS_USAGE,
        "--prompt-tokens %d and --new-tokens %d make sequences of %lld tokens, but %s has a context of %d",
        options->prompt_tokens, options->new_tokens, (long long)length,
        options->model_config ? options->model_config : job->model, model->n_positions);
    return STATUS_OK;
}

static enum status load_job(const struct command_options *options, struct job *job, struct config *config) {
    RETURN_IF(options->write_model && !options->model_config, STATUS_USAGE,
              "--write-model needs --model-config: it writes the model that is made for a config.json");
    if (options->target)
        return job_load(options->target, options->overrides, options->n_overrides, job, config);
    return job_from_values(options->model_config, options->overrides, options->n_overrides, job, config);
}

/* The model's config.json: checked, and where it lies (malloc'ed; NULL where it is the job's model). */
static enum status load_shape(const struct command_options *options, const struct job *job,
                              struct model_config *model, char **path) {
    *path = NULL;
    if (options->model_config)
        return session_load_shape(options->model_config, model, path);
    struct sampling defaults;
    enum status result = model_config_load(job->model, model, &defaults);
    sampling_free(&defaults);
    return result;
}

static enum status write_model(const struct command_options *options, const struct job *job,
                               const struct model_config *model, const char *path,
                               const struct synthesis *synthesis) {
    enum dtype dtype = job->has_dtype ? job->dtype : model->has_dtype ? model->dtype : DTYPE_FLOAT32;
    double began = clock_seconds();
    TRY(model_synthesis_write(model, path, synthesis, dtype, 0, options->write_model));
    log_info("%s: written in %.1f s", options->write_model, clock_seconds() - began);
    return STATUS_OK;
}

static enum status measure(const struct command_options *options, const struct job *job,
                           const struct config *config, const struct synthesis *synthesis,
                           const int32_t *sizes, int32_t n_sizes) {
    struct session session;
    if (options->model_config)
        TRY(session_open_synthetic(job, config, options->model_config, synthesis, &session));
    else
        TRY(session_open(job, config, &session));
    if (options->model_config)
        log_info("made weights for %s in %.1f s", options->model_config, session.load_s);
    struct buffer rows = {0};
    enum status result = measure_all(&session, job, options, sizes, n_sizes, &rows);
    if (result == STATUS_OK && options->json_path)
        result = file_replace(options->json_path, rows.data, rows.size);
    buffer_free(&rows);
    session_close(&session);
    return result;
}

static enum status run(const struct command_options *options, struct job *job, struct config *config,
                       const int32_t *sizes, int32_t n_sizes) {
    RETURN_IF(job->mode == MODE_SCORE, STATUS_USAGE,
              "mode: score: bench measures generation; add --set mode=generate");
    struct model_config model;
    char *path;
    struct synthesis synthesis = {.seed = job->seed, .peaked_logits = options->peaked_logits};
    enum status result = load_shape(options, job, &model, &path);
    if (result == STATUS_OK && options->write_model)
        result = write_model(options, job, &model, path, &synthesis);
    else if (result == STATUS_OK)
        result = check_lengths(options, job, &model);
    free(path);
    if (result != STATUS_OK || options->write_model)
        return result;
    for (int32_t i = 0; i < n_sizes; i++)
        config->max_num_seqs = sizes[i] > config->max_num_seqs || i == 0 ? sizes[i] : config->max_num_seqs;
    /* Room for these lengths and no more, so that wide batches fit. */
    job->max_model_len = options->prompt_tokens + options->new_tokens;
    return measure(options, job, config, &synthesis, sizes, n_sizes);
}

enum status command_bench(const struct command_options *options) {
    int32_t sizes[MAX_BATCH_SIZES], n_sizes;
    TRY(parse_batch_sizes(options->batch_sizes, sizes, &n_sizes));
    struct job job = {0};
    struct config config = {0};
    TRY(load_job(options, &job, &config));
    enum status result = run(options, &job, &config, sizes, n_sizes);
    job_free(&job);
    config_free(&config);
    return result;
}
