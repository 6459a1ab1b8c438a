/* metrics: what a run measured, for the manifest and the summary table. */
#ifndef PRESSRUN_WORKER_OUTPUT_METRICS_H
#define PRESSRUN_WORKER_OUTPUT_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/status.h"

/* A value's distribution in logarithmic buckets: bounded memory for any number of records; percentiles are
 * within 2 %. Values in seconds, from 1 us to 1 day (beyond: the outermost buckets); minimum, maximum
 * and the outermost percentiles are exact. Zero-initialised is empty. */
enum { HISTOGRAM_BUCKETS = 1300 };
struct histogram {
    int64_t n;
    double sum;
    double minimum;
    double maximum;
    int64_t bucket[HISTOGRAM_BUCKETS];
};
void histogram_add(struct histogram *histogram, double seconds); /* NaN is left out, below 0 counts as 0 */
/* By nearest rank, percent in [0, 100]; 0 when empty. */
double histogram_percentile(const struct histogram *histogram, double percent);

/* Which of these was the reason that fewer sequences ran than could, or that the run took as long as it did:
 * the longest wait when it took a tenth of generate_s, else the device. */
enum bound { BOUND_DEVICE, BOUND_INPUT, BOUND_OUTPUT, BOUND_KV_MEMORY };
const char *bound_name(enum bound bound);

struct run_metrics {
    double startup_s;     /* process start to the first step */
    double device_s;      /* opening the device within it */
    double load_s;        /* model loading within it: weights, activations, KV memory */
    double weights_s;     /* from tensor files to backend memory within load_s */
    double wall_s;        /* process start to the end */
    double generate_s;    /* first step to last */
    double step_s;        /* sum of step times */
    double wait_input_s;  /* engine idle for want of requests */
    double wait_output_s; /* admission paused: too many finished bytes wait */
    double gap_s;         /* between steps, in which the device had nothing queued */
    double host_s;        /* of the engine's thread, without waiting for the device */
    double wait_kv_s;     /* steps in which KV pages alone kept a request out */
    int64_t n_steps;
    int64_t n_decode_steps;
    int64_t prefill_rows; /* prompt tokens computed */
    int64_t decode_rows;  /* generated positions computed */
    int64_t padding_rows;
    int64_t n_restarts;    /* requests that ran out of KV pages and started again from their prompts */
    int64_t replayed_rows; /* tokens that these computed again */
    int64_t slot_steps;    /* sum over steps of running sequences */
    int64_t slot_steps_before_tail; /* the same while requests were waiting or input was not at its end */
    int64_t n_steps_before_tail;
    int64_t output_pauses; /* times admission was paused for waiting bytes */
    int64_t n_records;     /* of this run */
    int64_t n_errors;
    int64_t prompt_tokens;
    int64_t completion_tokens;
    bool is_scoring;                  /* mode: score */
    int64_t scored_tokens;            /* prompt tokens that got a log-probability */
    double logprob_sum;               /* of these */
    int64_t launches_per_decode_step; /* kernel launches of the last decode step */
    int32_t max_num_seqs;
    int32_t max_num_batched_tokens;
    int64_t kv_pages;
    int64_t kv_pages_peak;
    uint64_t peak_rss_bytes;
    struct histogram queue_s;
    struct histogram prefill_s;
    struct histogram decode_s;
    struct histogram total_s;
    struct histogram time_to_first_token_s;
    struct histogram time_per_output_token_s;
};

/* Of the scored tokens: the mean of their negative log-probabilities; 0 where there are none. */
static inline double run_metrics_mean_nll(const struct run_metrics *metrics) {
    return metrics->scored_tokens > 0 ? -metrics->logprob_sum / (double)metrics->scored_tokens : 0;
}

/* Of a scoring run: the mean share of a step's rows that held prompt tokens, 0..1. */
static inline double run_metrics_fill(const struct run_metrics *metrics) {
    double rows = (double)metrics->n_steps * metrics->max_num_batched_tokens;
    return rows > 0 ? (double)metrics->prefill_rows / rows : 0;
}

enum bound run_metrics_bound(const struct run_metrics *metrics);
/* Mean share of max_num_seqs that ran before the tail, 0..1 (over all steps where there is only a tail). */
double run_metrics_occupancy(const struct run_metrics *metrics);

#endif
