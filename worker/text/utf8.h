/* utf8: validation and stepping (RFC 3629: shortest form, no surrogates, at most U+10FFFF). */
#ifndef PRESSRUN_WORKER_TEXT_UTF8_H
#define PRESSRUN_WORKER_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at text[0..size), 1..4; 0 when it is invalid or cut. *code_point may be NULL. */
size_t utf8_next(const char *text, size_t size, uint32_t *code_point);
/* True when all is valid; else *bad_offset is the first bad byte. */
bool utf8_valid(const char *text, size_t size, size_t *bad_offset);

#endif
