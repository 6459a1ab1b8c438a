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

/* The character at text, which must be whole and valid: for loops over text that was checked. Returns its
 * bytes. */
static inline size_t utf8_decode(const char *text, uint32_t *code_point) {
    const uint8_t *bytes = (const uint8_t *)text;
    if (bytes[0] < 0x80) {
        *code_point = bytes[0];
        return 1;
    }
    if (bytes[0] < 0xE0) {
        *code_point = (bytes[0] & 0x1Fu) << 6 | (bytes[1] & 0x3Fu);
        return 2;
    }
    if (bytes[0] < 0xF0) {
        *code_point = (bytes[0] & 0x0Fu) << 12 | (bytes[1] & 0x3Fu) << 6 | (bytes[2] & 0x3Fu);
        return 3;
    }
    *code_point =
        (bytes[0] & 0x07u) << 18 | (bytes[1] & 0x3Fu) << 12 | (bytes[2] & 0x3Fu) << 6 | (bytes[3] & 0x3Fu);
    return 4;
}

/* Where the last character of text[0..size), size >= 1, begins; the text must be whole and valid. */
static inline size_t utf8_last(const char *text, size_t size, uint32_t *code_point) {
    size_t begin = size - 1;
    while (begin > 0 && ((uint8_t)text[begin] & 0xC0) == 0x80)
        begin--;
    utf8_decode(text + begin, code_point);
    return begin;
}

/* Writes a code point (no surrogate, at most U+10FFFF) to out; returns its bytes, 1..4. */
size_t utf8_put(uint32_t code_point, char out[4]);

#endif
