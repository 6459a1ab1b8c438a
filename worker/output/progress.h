/* progress: what a person sees while a job runs, on stderr: a bar on a terminal, a plain line every few
 * seconds elsewhere, nothing with --quiet; and the summary table at the end. */
#ifndef PRESSRUN_WORKER_OUTPUT_PROGRESS_H
#define PRESSRUN_WORKER_OUTPUT_PROGRESS_H

#include <stdbool.h>
#include <stdio.h>

#include "worker/output/metrics.h"
#include "worker/output/writer.h"

struct progress_options {
    bool is_terminal; /* stderr is one, and TERM is not dumb */
    bool use_color;   /* terminal, and NO_COLOR is not set */
    bool is_quiet;
    double line_seconds; /* between plain lines */
};

struct progress_state { /* one moment of the run */
    double elapsed_s;
    int64_t n_done; /* records finished, resumed ones included */
    int64_t n_resumed;
    int64_t n_errors;
    int64_t n_total;           /* -1 unknown */
    double fraction;           /* of the input, 0..1, negative when unknown */
    int64_t completion_tokens; /* of this run */
    double occupancy;          /* running / max_num_seqs now */
};

struct progress;
enum status progress_open(const struct progress_options *options, struct progress **out);
void progress_update(struct progress *progress,
                     const struct progress_state *state); /* cheap: rate-limited inside */
void progress_close(struct progress *progress);           /* removes the bar */

/* A table of a dozen lines: records, errors, tokens, tokens/s in and out, time, occupancy, latency
 * percentiles, what bounded the run, where the output is. */
void summary_print(FILE *out, const char *output, const struct run_metrics *metrics,
                   const struct output_counts *counts, bool is_complete, bool use_color);

#endif
