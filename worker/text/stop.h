/* stop: finds stop strings in text that grows token by token. */
#ifndef PRESSRUN_WORKER_TEXT_STOP_H
#define PRESSRUN_WORKER_TEXT_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/job/sampling.h"

/* Looks for the earliest occurrence of any of the strings that ends behind `from` bytes (what was searched
 * before). Where two begin at one place the longer wins nothing: text is cut where the match begins. */
bool stop_find(const struct text_span *stop, int n_stop, const char *text, size_t size, size_t from,
               size_t *match_begin);
/* How many of the last bytes of text could still be the beginning of a stop string (to hold back when
 * streaming). */
size_t stop_held_back(const struct text_span *stop, int n_stop, const char *text, size_t size);

#endif
