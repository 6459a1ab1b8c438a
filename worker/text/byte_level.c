#include "worker/text/byte_level.h"

#include "worker/text/unicode_class.h"
#include "worker/text/utf8.h"

static bool is_visible(uint32_t byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

/* The bytes that are not visible, in ascending order, have the characters U+0100, U+0101, …: 00..20, 7F..A0,
 * AD. */
enum { N_LOW = 0x21, N_MIDDLE = 0xA1 - 0x7F, FIRST_REPLACEMENT = 0x100 };

uint32_t byte_level_character(uint8_t byte) {
    if (is_visible(byte))
        return byte;
    if (byte < N_LOW)
        return FIRST_REPLACEMENT + byte;
    if (byte < 0xA1)
        return FIRST_REPLACEMENT + N_LOW + (uint32_t)(byte - 0x7F);
    return FIRST_REPLACEMENT + N_LOW + N_MIDDLE;
}

int byte_level_byte(uint32_t code_point) {
    if (code_point < FIRST_REPLACEMENT)
        return is_visible(code_point) ? (int)code_point : -1;
    uint32_t index = code_point - FIRST_REPLACEMENT;
    if (index < N_LOW)
        return (int)index;
    if (index < N_LOW + N_MIDDLE)
        return (int)(0x7F + (index - N_LOW));
    return index == N_LOW + N_MIDDLE ? 0xAD : -1;
}

bool byte_level_decode(char *token, size_t *size) {
    uint32_t code_point;
    for (size_t at = 0, length; at < *size; at += length) {
        length = utf8_next(token + at, *size - at, &code_point);
        if (length == 0 || byte_level_byte(code_point) < 0)
            return false;
    }
    size_t n_bytes = 0;
    for (size_t at = 0; at < *size;) {
        at += utf8_next(token + at, *size - at, &code_point);
        token[n_bytes++] = (char)byte_level_byte(code_point);
    }
    *size = n_bytes;
    return true;
}

/* Class and length of the character at text[at]; at < size. */
static enum unicode_class class_at(const char *text, size_t size, size_t at, size_t *length) {
    uint32_t code_point = (uint8_t)text[at];
    *length = 1;
    if (code_point >= 0x80) {
        *length = utf8_next(text + at, size - at, &code_point);
        if (*length == 0) { /* not reached with valid text; goes on in any case */
            *length = 1;
            return CLASS_OTHER;
        }
    }
    return unicode_class_of(code_point);
}

/* Bytes of 's 't 're 've 'm 'll 'd at text, or 0. */
static size_t contraction(const char *text, size_t size) {
    if (size < 2 || text[0] != '\'')
        return 0;
    switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
        return 2;
    case 'r':
    case 'v':
        return size >= 3 && text[2] == 'e' ? 3 : 0;
    case 'l':
        return size >= 3 && text[2] == 'l' ? 3 : 0;
    default:
        return 0;
    }
}

size_t byte_level_piece(const char *text, size_t size) {
    size_t length = contraction(text, size);
    if (length > 0)
        return length;
    size_t at = text[0] == ' ' && size > 1 ? 1 : 0;
    enum unicode_class class = class_at(text, size, at, &length);
    if (class == CLASS_SPACE && at == 1) /* the space begins white space, not a word */
        class = class_at(text, size, at = 0, &length);
    size_t last = at;
    for (at += length; at < size; at += length) {
        enum unicode_class next = class_at(text, size, at, &length);
        if (next == class) {
            last = at;
            continue;
        }
        /* \s+(?!\S) gives its last character back to what follows, unless it is the only one. */
        if (class == CLASS_SPACE && last > 0)
            return last;
        break;
    }
    return at;
}
