/* progress_text: the words and figures of the progress bar, the plain line and the summary. Pure functions;
 * out is always NUL-terminated and cut at out_size. */
#ifndef PRESSRUN_WORKER_OUTPUT_PROGRESS_TEXT_H
#define PRESSRUN_WORKER_OUTPUT_PROGRESS_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/output/progress.h"

enum { FIGURE_BYTES = 32 };

/* 987, 5.12K, 51.2K, 512K, 5.12M ... */
const char *figure_count(double value, char out[FIGURE_BYTES]);
/* 0:12, 1:02:03; "-" when negative or not finite. */
const char *figure_duration(double seconds, char out[FIGURE_BYTES]);
/* 12 us, 1.23 ms, 4.56 s */
const char *figure_latency(double seconds, char out[FIGURE_BYTES]);

/* Seconds to the end at the pace since the start, resumed records left out; negative when unknown. */
double progress_eta(const struct progress_state *state);

/* "120/300 prompts, 5.10K tok/s, occupancy 93 %, ETA 0:12" */
void progress_line(const struct progress_state *state, double tokens_per_s, char *out, size_t out_size);

/* The same behind a bar, in at most `columns` columns (a bar needs a fraction and room for itself). */
void progress_bar(const struct progress_state *state, double tokens_per_s, int columns, bool use_color,
                  char *out, size_t out_size);

#endif
