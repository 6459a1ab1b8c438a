#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/commands/bench.h"
#include "worker/version.h"

static const char *const operation_names[OPERATION_COUNT] = {
    [OPERATION_EMBED] = "embed",
    [OPERATION_NORM] = "norm",
    [OPERATION_MATMUL] = "matmul",
    [OPERATION_HEAD] = "head",
    [OPERATION_ATTENTION_DECODE] = "attention_decode",
    [OPERATION_ATTENTION_PREFILL] = "attention_prefill",
    [OPERATION_SAMPLE] = "sample",
};

/* floor_s as a share of seconds; negative where the work was faster than its floor, in which all is read from
 * memory: it was read from a cache, and the share says nothing. */
static double share_of(double floor_s, double seconds) {
    double share = seconds > 0 ? floor_s / seconds : 0;
    return share <= 1 ? share : -1;
}

static double rate(double amount, double seconds) {
    return seconds > 0 ? amount / seconds : 0;
}

static const char *dtype_name(const struct session *session) {
    return session->plan.dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16";
}

/* ---- the table ---- */

enum { SHARE_BYTES = 16 };

static const char *show_share(double floor_s, double seconds, char out[SHARE_BYTES]) {
    double share = share_of(floor_s, seconds);
    if (share >= 0)
        snprintf(out, SHARE_BYTES, "%.1f", 100 * share);
    else
        snprintf(out, SHARE_BYTES, "in cache");
    return out;
}

void bench_print_head(const struct session *session, const struct command_options *options,
                      const struct floor *floor) {
    printf("device   %s\nlimits   %.0f GB/s read, %.2f TFLOP/s (measured here)\nmodel    %s, %s, %s%d + %d "
           "tokens, %s\n\n",
           session->backend.device, floor->limits.read_bytes_per_s / 1e9, floor->limits.flops / 1e12,
           session->model_config.model_type, dtype_name(session), options->mixed_lengths ? "up to " : "",
           options->prompt_tokens, options->new_tokens,
           options->model_config == NULL ? session->fingerprint
           : options->peaked_logits      ? "random weights, peaked logits"
                                         : "random weights, flat logits");
    printf("%6s %12s %8s %12s %10s %8s %12s %10s %8s %8s %8s %9s %9s\n", "batch", "tokens/s", "job %",
           "prefill t/s", "ms/step", "floor %", "decode t/s", "us/step", "floor %", "gap us", "useful %",
           "host us/t", "launches");
}

void bench_print_point(const struct point *point) {
    const struct step_sums *decode = &point->decode, *prompt = &point->prompt;
    char job[SHARE_BYTES], prompt_share[SHARE_BYTES], decode_share[SHARE_BYTES], gap[32] = "-";
    int64_t useful = decode->n_rows + prompt->n_rows - point->replayed_rows;
    if (point->has_gaps)
        snprintf(gap, sizeof gap, "%.1f", 1e6 * point->gap_s);
    printf(
        "%6d %12.0f %8s %12.0f %10.2f %8s %12.0f %10.1f %8s %8s %8.1f %9.2f %9lld\n", point->batch_size,
        rate((double)point->new_tokens, point->total_s), show_share(point->job_floor_s, point->total_s, job),
        rate((double)prompt->n_rows, prompt->seconds), 1e3 * rate(prompt->seconds, (double)prompt->n_steps),
        show_share(prompt->floor_s, prompt->seconds, prompt_share),
        rate((double)decode->n_rows, decode->seconds), 1e6 * rate(decode->seconds, (double)decode->n_steps),
        show_share(decode->floor_s, decode->seconds, decode_share), gap,
        100 * rate((double)useful, (double)(decode->n_launched + prompt->n_launched)),
        1e6 * rate(point->host_s, (double)point->new_tokens), (long long)point->launches_per_decode_step);
    double sum = 0;
    for (int i = 0; i < OPERATION_COUNT; i++)
        sum += point->operation_s[i];
    if (point->has_operations && sum > 0) {
        printf("      ");
        for (int i = 0; i < OPERATION_COUNT; i++)
            printf(" %s %.1f %%%s", operation_names[i], 100 * point->operation_s[i] / sum,
                   i + 1 < OPERATION_COUNT ? "," : "\n");
    }
    if (point->n_restarts > 0)
        printf("       %lld prompts ran out of KV pages and began again\n", (long long)point->n_restarts);
    fflush(stdout);
}

void bench_print_choice(const struct point *points, int32_t n_points) {
    double best = 0;
    for (int32_t i = 0; i < n_points; i++) {
        double speed = rate((double)points[i].new_tokens, points[i].total_s);
        best = speed > best ? speed : best;
    }
    const struct point *choice = NULL;
    for (int32_t i = 0; i < n_points; i++)
        if (rate((double)points[i].new_tokens, points[i].total_s) >= 0.97 * best &&
            (!choice || points[i].batch_size < choice->batch_size))
            choice = &points[i];
    if (n_points > 1)
        printf("\nmax_num_seqs: %d is the smallest of these within 3 %% of the best\n", choice->batch_size);
}

/* ---- JSON ---- */

static void set_real(json_t *object, const char *key, double value) {
    json_object_set_new(object, key, json_real(value));
}

static void set_count(json_t *object, const char *key, int64_t value) {
    json_object_set_new(object, key, json_integer(value));
}

/* Names of devices and files may be any bytes. */
static void set_text(json_t *object, const char *key, const char *text) {
    json_t *value = json_string(text);
    json_object_set_new(object, key, value ? value : json_string("(not UTF-8)"));
}

static void set_share(json_t *object, const char *key, double floor_s, double seconds) {
    double share = share_of(floor_s, seconds);
    json_object_set_new(object, key, share >= 0 ? json_real(share) : json_null());
}

static void set_what(json_t *row, const struct session *session, const struct command_options *options,
                     const struct point *point) {
    set_text(row, "bench", "engine");
    set_text(row, "device", session->backend.device);
    set_text(row, "commit", pressrun_commit());
    set_text(row, "model", session->fingerprint);
    if (options->model_config)
        set_text(row, "model_config", options->model_config);
    set_text(row, "logits", !options->model_config ? "trained" : options->peaked_logits ? "peaked" : "flat");
    set_text(row, "dtype", dtype_name(session));
    set_text(row, "sampling", options->draws ? "job" : "greedy");
    set_count(row, "batch_size", point->batch_size);
    set_count(row, "prompts", point->work.n_sequences);
    set_text(row, "lengths", options->mixed_lengths ? "mixed" : "equal");
    set_count(row, "prompt_tokens", options->prompt_tokens);
    set_count(row, "new_tokens", options->new_tokens);
}

static void set_times(json_t *row, const struct point *point) {
    const struct step_sums *decode = &point->decode, *prompt = &point->prompt;
    double n_steps = (double)(decode->n_steps + prompt->n_steps);
    int64_t useful = decode->n_rows + prompt->n_rows - point->replayed_rows;
    set_real(row, "total_s", point->total_s);
    set_real(row, "tokens_per_s", rate((double)point->new_tokens, point->total_s));
    set_real(row, "prefill_tokens_per_s", rate((double)prompt->n_rows, prompt->seconds));
    set_real(row, "decode_tokens_per_s", rate((double)decode->n_rows, decode->seconds));
    set_count(row, "prefill_steps", prompt->n_steps);
    set_count(row, "decode_steps", decode->n_steps);
    set_real(row, "prefill_step_us", 1e6 * rate(prompt->seconds, (double)prompt->n_steps));
    set_real(row, "decode_step_us", 1e6 * rate(decode->seconds, (double)decode->n_steps));
    json_object_set_new(row, "gap_us", point->has_gaps ? json_real(1e6 * point->gap_s) : json_null());
    set_real(row, "host_gap_us", 1e6 * rate(decode->gap_s + prompt->gap_s, n_steps));
    set_count(row, "launches_per_decode_step", point->launches_per_decode_step);
    set_real(row, "decode_gb_per_s", rate(decode->floor_bytes, decode->seconds) / 1e9);
    set_share(row, "floor_share", decode->floor_s, decode->seconds);
    set_share(row, "prefill_floor_share", prompt->floor_s, prompt->seconds);
    set_share(row, "steps_floor_share", decode->floor_s + prompt->floor_s, point->total_s);
    set_share(row, "job_floor_share", point->job_floor_s, point->total_s);
    set_real(row, "job_floor_tokens_per_s", rate((double)point->new_tokens, point->job_floor_s));
    set_real(row, "job_floor_batch", point->best_batch);
    set_real(row, "useful_rows_share",
             rate((double)useful, (double)(decode->n_launched + prompt->n_launched)));
    set_real(row, "host_us_per_token", 1e6 * rate(point->host_s, (double)point->new_tokens));
    set_count(row, "restarts", point->n_restarts);
}

enum status bench_append_row(const struct session *session, const struct command_options *options,
                             const struct floor *floor, const struct point *point, struct buffer *rows) {
    json_t *row = json_object();
    set_what(row, session, options, point);
    set_times(row, point);
    set_real(row, "read_gb_per_s", floor->limits.read_bytes_per_s / 1e9);
    set_real(row, "tflops", floor->limits.flops / 1e12);
    if (point->has_operations) {
        json_t *operations = json_object();
        for (int i = 0; i < OPERATION_COUNT; i++)
            set_real(operations, operation_names[i], point->operation_s[i]);
        json_object_set_new(row, "operation_s", operations);
    }
    char *text = json_dumps(row, JSON_COMPACT | JSON_REAL_PRECISION(7));
    json_decref(row);
    RETURN_IF(!text, STATUS_INTERNAL, "out of host memory");
    enum status result = buffer_printf(rows, "%s\n", text);
    free(text);
    return result;
}
