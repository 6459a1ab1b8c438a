/* summary_print: what a person wants to know when a job ends, a dozen lines. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>

#include "worker/output/progress.h"
#include "worker/output/progress_text.h"

enum { VALUE_BYTES = 200, LABEL_WIDTH = 14, VALUE_WIDTH = 10 };

/* label, right-aligned figure, and what belongs to it. */
__attribute__((format(printf, 4, 5))) static void row(FILE *out, const char *label, const char *figure,
                                                      const char *format, ...) {
    char rest[VALUE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rest, sizeof rest, format, arguments);
    va_end(arguments);
    fprintf(out, "  %-*s %*s%s%s\n", LABEL_WIDTH, label, VALUE_WIDTH, figure, rest[0] ? "  " : "", rest);
}

static double per_second(int64_t n, double seconds) {
    return seconds > 0 ? (double)n / seconds : 0;
}

static double percent(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

static void latency_row(FILE *out, const char *label, const struct histogram *histogram) {
    char p50[FIGURE_BYTES], p90[FIGURE_BYTES], p99[FIGURE_BYTES], most[FIGURE_BYTES];
    if (histogram->n == 0)
        return;
    row(out, label, figure_latency(histogram_percentile(histogram, 50), p50),
        "median, %s p90, %s p99, %s max", figure_latency(histogram_percentile(histogram, 90), p90),
        figure_latency(histogram_percentile(histogram, 99), p99), figure_latency(histogram->maximum, most));
}

/* is_part: earlier runs scored some of the prompts. */
static void scored_row(FILE *out, const struct run_metrics *metrics, bool is_part) {
    char figure[FIGURE_BYTES];
    double mean = run_metrics_mean_nll(metrics);
    figure_count((double)metrics->scored_tokens, figure);
    if (metrics->scored_tokens == 0)
        row(out, "scored", figure, "no prompt has more than one token");
    else
        row(out, "scored", figure, "tokens%s, mean negative log-probability %.4f, perplexity %.6g",
            is_part ? " in this run" : "", mean, exp(mean));
}

/* How full the steps were: of sequences, or of prompt tokens where these are scored and gone after a step. */
static void steps_row(FILE *out, const struct run_metrics *metrics) {
    char figure[FIGURE_BYTES];
    if (metrics->is_scoring) {
        snprintf(figure, sizeof figure, "%.1f %%", 100 * run_metrics_fill(metrics));
        row(out, "steps filled", figure, "of %" PRId32 " tokens each; %" PRId64 " steps",
            metrics->max_num_batched_tokens, metrics->n_steps);
        return;
    }
    snprintf(figure, sizeof figure, "%.1f %%", 100 * run_metrics_occupancy(metrics));
    row(out, "occupancy", figure, "of %" PRId32 " sequences at once%s; %" PRId64 " steps",
        metrics->max_num_seqs, metrics->n_steps_before_tail > 0 ? " while prompts waited" : "",
        metrics->n_steps);
}

static void bound_row(FILE *out, const struct run_metrics *metrics) {
    enum bound bound = run_metrics_bound(metrics);
    const char *name = bound_name(bound);
    double seconds = metrics->generate_s;
    switch (bound) {
    case BOUND_INPUT:
        row(out, "bound by", name, "no prompts were ready for %.0f %% of the time",
            percent(metrics->wait_input_s, seconds));
        break;
    case BOUND_OUTPUT:
        row(out, "bound by", name,
            "admission paused for %.0f %% of the time, %" PRId64 " times, for finished records that waited "
            "for an earlier one (max_waiting_bytes)",
            percent(metrics->wait_output_s, seconds), metrics->output_pauses);
        break;
    case BOUND_KV_MEMORY:
        row(out, "bound by", name,
            "pages alone kept prompts waiting for %.0f %% of the time (%" PRId64 " of %" PRId64
            " pages used at the peak)",
            percent(metrics->wait_kv_s, seconds), metrics->kv_pages_peak, metrics->kv_pages);
        break;
    case BOUND_DEVICE:
        row(out, "bound by", name, "steps took %.0f %% of the time", percent(metrics->step_s, seconds));
        break;
    }
}

void summary_print(FILE *out, const char *output, const struct run_metrics *metrics,
                   const struct output_counts *counts, bool is_complete, bool use_color) {
    char a[FIGURE_BYTES], b[FIGURE_BYTES];
    const char *mark = !use_color ? "" : is_complete && counts->n_errors == 0 ? "\033[32m" : "\033[33m";
    int64_t before = counts->n_records - metrics->n_records;
    fprintf(out, "%s%s%s %s%s\n", mark,
            is_complete ? "complete:" : "not complete, resumable:", use_color ? "\033[0m" : "", output,
            is_complete ? "" : ".part");

    snprintf(a, sizeof a, "%" PRId64, counts->n_records);
    if (before > 0)
        row(out, "records", a, "%" PRId64 " in this run, %" PRId64 " before it", metrics->n_records, before);
    else
        row(out, "records", a, "in %" PRId64 " lines", counts->n_lines);
    snprintf(a, sizeof a, "%" PRId64, counts->n_errors);
    row(out, "failed", a, "%s", counts->n_errors ? "each has its \"error\" in the output" : "");
    row(out, "tokens in", figure_count((double)metrics->prompt_tokens, a), "%s per second",
        figure_count(per_second(metrics->prompt_tokens, metrics->generate_s), b));
    if (metrics->is_scoring)
        scored_row(out, metrics, before > 0);
    else
        row(out, "tokens out", figure_count((double)metrics->completion_tokens, a), "%s per second",
            figure_count(per_second(metrics->completion_tokens, metrics->generate_s), b));
    row(out, "time", figure_latency(metrics->wall_s, a), "of which %s until the first step",
        figure_latency(metrics->startup_s, b));
    steps_row(out, metrics);
    latency_row(out, "queued", &metrics->queue_s);
    latency_row(out, "first token", &metrics->time_to_first_token_s);
    latency_row(out, "per token", &metrics->time_per_output_token_s);
    latency_row(out, "whole record", &metrics->total_s);
    bound_row(out, metrics);
}
