#include "worker/text/byte_level.h"

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
