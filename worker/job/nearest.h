/* nearest: the known name that a mistyped one is most likely meant to be, for "did you mean". */
#ifndef PRESSRUN_WORKER_JOB_NEAREST_H
#define PRESSRUN_WORKER_JOB_NEAREST_H

#include <stddef.h>

/* The entry of names (NULL-terminated) with the smallest edit distance to text, the first of equals; NULL
 * when none is near: a name may differ in a third of its characters, rounded up, but not in
 * all of them. Case is ignored, and '-'
 * counts as
 * '_'. The distance is optimal string alignment: insert, delete, replace, swap of two neighbours (Damerau, "A
 * technique for computer detection and correction of spelling errors", CACM 1964). */
const char *nearest_name(const char *text, size_t size, const char *const *names);

/* Writes "; did you mean NAME?" or nothing. Returns out. */
enum { NEAREST_HINT_BYTES = 96 };
const char *nearest_hint(const char *text, size_t size, const char *const *names,
                         char out[NEAREST_HINT_BYTES]);

#endif
