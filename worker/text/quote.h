/* quote: text from a file, made fit for one line of a message. */
#ifndef PRESSRUN_WORKER_TEXT_QUOTE_H
#define PRESSRUN_WORKER_TEXT_QUOTE_H

#include <stddef.h>

enum { QUOTE_BYTES = 100 };

/* Writes text between single quotes, cut behind about 70 bytes with "...". Control characters and bytes that
 * are no UTF-8 become \xNN, so the result is valid UTF-8, one line, and moves no terminal's cursor. Returns
 * out. */
const char *quote(const char *text, size_t size, char out[QUOTE_BYTES]);

/* The same without the quotes, for text that carries its own. */
const char *quote_bare(const char *text, size_t size, char out[QUOTE_BYTES]);

#endif
