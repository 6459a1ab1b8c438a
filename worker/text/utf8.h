/* utf8: validation and stepping (RFC 3629: shortest form, no surrogates, at most U+10FFFF). */
#ifndef PRESSRUN_WORKER_TEXT_UTF8_H
#define PRESSRUN_WORKER_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What stands at the beginning of some bytes. */
enum utf8_kind {
    UTF8_CHARACTER, /* a whole character */
    UTF8_CUT,       /* the beginning of a character, and then the end of the bytes */
    UTF8_INVALID    /* bytes that no character begins with */
};

/* Looks at text[0..size), size >= 1. *length: the character's bytes, 1..4; when cut, size (1..3); when
 * invalid, the bytes that one U+FFFD stands for, 1..3: the "maximal subpart" of the Unicode Standard, section
 * 3.9, as most decoders replace it. *code_point, only for UTF8_CHARACTER, may be NULL. */
enum utf8_kind utf8_scan(const char *text, size_t size, size_t *length, uint32_t *code_point);

/* Bytes of the character at text[0..size), 1..4; 0 when it is invalid, cut or absent. *code_point may be
 * NULL. */
size_t utf8_next(const char *text, size_t size, uint32_t *code_point);

/* True when all is valid; else *bad_offset (may be NULL) is the first byte of what is not. */
bool utf8_valid(const char *text, size_t size, size_t *bad_offset);

/* Writes a code point (no surrogate, at most U+10FFFF) to out; returns its bytes, 1..4. */
size_t utf8_put(uint32_t code_point, char out[4]);

#endif
