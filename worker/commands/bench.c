/* pressrun bench: throughput of a model at different batch sizes, through the same engine as a run. Random
 * prompts of one length, one output length, stop conditions ignored, one warm-up, medians of the repeats. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "worker/base/clock.h"
#include "worker/base/file.h"
#include "worker/base/log.h"
#include "worker/commands/commands.h"
#include "worker/run/session.h"
#include "worker/version.h"

enum { MAX_BATCH_SIZES = 64 };

/* One batch size's medians. */
struct point {
    int32_t batch_size;
    double total_s;   /* submit to last token */
    double prefill_s; /* submit to the last sequence's first token */
    double decode_s;  /* from there to the last token */
    int64_t n_decode_steps;
    int64_t launches_per_decode_step;
    double floor_s;      /* of the decode steps */
    double decode_bytes; /* that the decode steps must read at least */
};

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int32_t n) {
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

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

static enum status make_record(const struct session *session, const struct command_options *options,
                               int32_t index, struct record **out) {
    struct record *record = calloc(1, sizeof *record);
    int32_t *ids = malloc((size_t)options->prompt_tokens * sizeof *ids);
    if (!record || !ids) {
        free(record);
        free(ids);
        return status_fail(STATUS_INTERNAL, "out of host memory");
    }
    for (int32_t i = 0; i < options->prompt_tokens; i++)
        ids[i] =
            (int32_t)(philox_word(7, (uint32_t)index, (uint32_t)i) % (uint32_t)session->model_config.n_vocab);
    struct request *request = &record->request;
    sampling_init(&request->sampling);
    request->line = index + 1;
    request->index = index;
    request->prompt_token_ids = ids;
    request->n_prompt_token_ids = record->n_prompt_tokens = options->prompt_tokens;
    request->has_token_ids = true;
    request->sampling.ignore_eos = true;
    request->sampling.temperature = 0;
    *out = record;
    return STATUS_OK;
}

/* One pass of n sequences through a fresh engine. */
static enum status run_once(struct session *session, const struct command_options *options, int32_t n,
                            struct point *times, struct run_metrics *metrics) {
    struct engine_options engine_options = {.limits = session_scheduler_limits(&session->plan),
                                            .start_s = clock_seconds()};
    struct engine *engine;
    TRY(engine_open(&session->backend, session->model, &session->model_config, NULL, &engine_options,
                    &engine));
    enum status result = STATUS_OK;
    for (int32_t i = 0; result == STATUS_OK && i < n; i++) {
        struct record *record = NULL;
        result = make_record(session, options, i, &record);
        if (result == STATUS_OK &&
            (result = engine_submit(engine, record, options->new_tokens)) != STATUS_OK) {
            record_free(record);
            free(record);
        }
    }
    memset(metrics, 0, sizeof *metrics);
    double began = clock_seconds() - engine_options.start_s, first = 0, last = 0;
    while (result == STATUS_OK && !engine_is_idle(engine)) {
        result = engine_step(engine, false, true, metrics);
        for (struct record *record; (record = engine_take(engine)) != NULL;) {
            if (record->completions[0].first_token_s > first)
                first = record->completions[0].first_token_s;
            if (record->completions[0].last_token_s > last)
                last = record->completions[0].last_token_s;
            record_free(record);
            free(record);
        }
    }
    engine_close(engine);
    if (result == STATUS_RECORD)
        return status_fail(STATUS_NO_FIT, "%s", status_message());
    times->total_s = last - began;
    times->prefill_s = first - began;
    times->decode_s = last - first;
    times->n_decode_steps = metrics->n_decode_steps;
    times->launches_per_decode_step = metrics->launches_per_decode_step;
    return result;
}

/* The least time of the decode steps (DESIGN: speed): arithmetic or weights, and every sequence's KV once. */
static void add_floor(const struct session *session, const struct command_options *options,
                      const struct device_limits *limits, struct point *point) {
    int64_t body, head;
    model_parameter_counts(&session->model_config, &body, &head);
    const struct model_config *config = &session->model_config;
    const struct plan *plan = &session->plan;
    double weight_bytes = (double)(body + head) * (double)dtype_bytes(plan->dtype);
    double kv =
        2.0 * config->n_layers * config->n_kv_heads * config->head_dim * (double)dtype_bytes(plan->kv_dtype);
    double steps = options->new_tokens - 1, n = point->batch_size;
    double mean_positions = options->prompt_tokens + 0.5 * steps + 0.5;
    double flops = 2.0 * (double)(body + head) * n;
    point->decode_bytes = steps * (weight_bytes + n * mean_positions * kv);
    double arithmetic_s = flops / limits->flops, weights_s = weight_bytes / limits->read_bytes_per_s;
    point->floor_s = steps * ((arithmetic_s > weights_s ? arithmetic_s : weights_s) +
                              n * mean_positions * kv / limits->read_bytes_per_s);
}

static enum status measure_point(struct session *session, const struct command_options *options,
                                 const struct device_limits *limits, int32_t batch_size,
                                 struct point *point) {
    *point = (struct point){.batch_size = batch_size};
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    double *totals = calloc(3 * (size_t)options->repeats, sizeof *totals);
    enum status result = metrics && totals ? STATUS_OK : status_fail(STATUS_INTERNAL, "out of host memory");
    for (int32_t i = -1; result == STATUS_OK && i < options->repeats; i++) {
        result = run_once(session, options, batch_size, point, metrics);
        if (i >= 0) {
            totals[i] = point->total_s;
            totals[options->repeats + i] = point->prefill_s;
            totals[2 * options->repeats + i] = point->decode_s;
        }
    }
    if (result == STATUS_OK) {
        point->total_s = median(totals, options->repeats);
        point->prefill_s = median(totals + options->repeats, options->repeats);
        point->decode_s = median(totals + 2 * options->repeats, options->repeats);
        add_floor(session, options, limits, point);
    }
    free(totals);
    free(metrics);
    return result;
}

static double rate(double amount, double seconds) {
    return seconds > 0 ? amount / seconds : 0;
}

/* The decode steps' share of their floor, in which all is read from memory; negative where they were faster
 * than that: they read from a cache, and it says nothing. */
static double floor_share(const struct point *point) {
    double share = rate(point->floor_s, point->decode_s);
    return share <= 1 ? share : -1;
}

static void print_point(const struct command_options *options, const struct point *point) {
    double n = point->batch_size, steps = options->new_tokens - 1, share = floor_share(point);
    char shown[16] = "in cache";
    if (share >= 0)
        snprintf(shown, sizeof shown, "%.1f", 100 * share);
    printf("%6d %12.0f %12.0f %12.0f %12.1f %10.1f %10.1f %8s %9lld\n", point->batch_size,
           rate(n * options->new_tokens, point->total_s), rate(n * options->prompt_tokens, point->prefill_s),
           rate(n * steps, point->decode_s), rate(point->decode_s * 1e6, steps), point->total_s * 1e3,
           rate(point->decode_bytes, point->decode_s) / 1e9, shown,
           (long long)point->launches_per_decode_step);
    fflush(stdout);
}

static enum status append_row(const struct session *session, const struct command_options *options,
                              const struct device_limits *limits, const struct point *point,
                              struct buffer *rows) {
    double n = point->batch_size, steps = options->new_tokens - 1, share = floor_share(point);
    char shown[16] = "null";
    if (share >= 0)
        snprintf(shown, sizeof shown, "%.4f", share);
    json_t *text = json_string(session->backend.device);
    char *device =
        text ? json_dumps(text, JSON_ENCODE_ANY) : NULL; /* drivers and CPUs name themselves as they like */
    json_decref(text);
    RETURN_IF(!device, STATUS_INTERNAL, "the device's name is no UTF-8, or out of host memory");
    enum status result = buffer_printf(
        rows,
        "{\"bench\":\"engine\",\"device\":%s,\"commit\":\"%s\",\"model\":\"%s\",\"dtype\":\"%s\","
        "\"batch_size\":%d,\"prompt_tokens\":%d,\"new_tokens\":%d,\"total_s\":%.6f,\"tokens_per_s\":%.1f,"
        "\"prefill_tokens_per_s\":%.1f,\"decode_tokens_per_s\":%.1f,\"decode_step_us\":%.2f,"
        "\"launches_per_decode_step\":%lld,\"decode_gb_per_s\":%.2f,\"floor_share\":%s,"
        "\"read_gb_per_s\":%.1f,\"tflops\":%.3f}\n",
        device, pressrun_commit(), session->fingerprint,
        session->plan.dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16", point->batch_size,
        options->prompt_tokens, options->new_tokens, point->total_s,
        rate(n * options->new_tokens, point->total_s), rate(n * options->prompt_tokens, point->prefill_s),
        rate(n * steps, point->decode_s), rate(point->decode_s * 1e6, steps),
        (long long)point->launches_per_decode_step, rate(point->decode_bytes, point->decode_s) / 1e9, shown,
        limits->read_bytes_per_s / 1e9, limits->flops / 1e12);
    free(device);
    return result;
}

static enum status measure_all(struct session *session, const struct command_options *options,
                               const int32_t *sizes, int32_t n_sizes, struct buffer *rows) {
    struct device_limits limits;
    TRY(session->backend.measure_limits(session->backend.context, session->plan.dtype, &limits));
    printf("device   %s\nlimits   %.0f GB/s read, %.2f TFLOP/s (measured here)\nmodel    %s, %s, %d + %d "
           "tokens\n\n",
           session->backend.device, limits.read_bytes_per_s / 1e9, limits.flops / 1e12,
           session->model_config.model_type, session->plan.dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16",
           options->prompt_tokens, options->new_tokens);
    printf("%6s %12s %12s %12s %12s %10s %10s %8s %9s\n", "batch", "tokens/s", "prefill t/s", "decode t/s",
           "us/step", "total ms", "GB/s", "floor %", "launches");
    for (int32_t i = 0; i < n_sizes; i++) {
        struct point point;
        TRY(measure_point(session, options, &limits, sizes[i], &point));
        print_point(options, &point);
        TRY(append_row(session, options, &limits, &point, rows));
    }
    return STATUS_OK;
}

/* Lengths that the model can have. */
static enum status check_lengths(const struct command_options *options, const struct job *job) {
    struct model_config model;
    struct sampling defaults;
    sampling_init(&defaults);
    enum status result = model_config_load(job->model, &model, &defaults);
    sampling_free(&defaults);
    TRY(result);
    int64_t length = (int64_t)options->prompt_tokens + options->new_tokens;
    RETURN_IF(
        length > model.n_positions, STATUS_USAGE,
        "--prompt-tokens %d and --new-tokens %d make sequences of %lld tokens, but %s has a context of %d",
        options->prompt_tokens, options->new_tokens, (long long)length, job->model, model.n_positions);
    return STATUS_OK;
}

enum status command_bench(const struct command_options *options) {
    int32_t sizes[MAX_BATCH_SIZES], n_sizes, widest = 0;
    TRY(parse_batch_sizes(options->batch_sizes, sizes, &n_sizes));
    for (int32_t i = 0; i < n_sizes; i++)
        widest = sizes[i] > widest ? sizes[i] : widest;
    struct job job = {0};
    struct config config = {0};
    struct session session = {0};
    struct buffer rows = {0};
    enum status result = job_load(options->target, options->overrides, options->n_overrides, &job, &config);
    if (result == STATUS_OK)
        result = check_lengths(options, &job);
    if (result == STATUS_OK) {
        config.max_num_seqs = widest;
        /* Room for these lengths and no more, so that wide batches fit. */
        job.max_model_len = options->prompt_tokens + options->new_tokens;
        result = session_open(&job, &config, &session);
    }
    if (result == STATUS_OK) {
        result = measure_all(&session, options, sizes, n_sizes, &rows);
        if (result == STATUS_OK && options->json_path)
            result = file_replace(options->json_path, rows.data, rows.size);
        session_close(&session);
    }
    buffer_free(&rows);
    job_free(&job);
    config_free(&config);
    return result;
}
