/* stop: finds stop strings in text that grows token by token. */
#ifndef PRESSRUN_WORKER_TEXT_STOP_H
#define PRESSRUN_WORKER_TEXT_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/base/text_span.h"

/* Looks for the earliest beginning of any of the strings among the occurrences that end behind `from` bytes
 * (what was searched before). Text is cut where the match begins, so where two begin at one place it does not
 * matter which one it was. An empty string never matches. */
bool stop_find(const struct text_span *stop, int n_stop, const char *text, size_t size, size_t from,
               size_t *match_begin);
/* How many of the last bytes of text could still be the beginning of a stop string (to hold back when
 * streaming). */
size_t stop_held_back(const struct text_span *stop, int n_stop, const char *text, size_t size);

#endif
