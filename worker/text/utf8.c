#include "worker/text/utf8.h"

#include <string.h>

enum utf8_kind utf8_scan(const char *text, size_t size, size_t *length, uint32_t *code_point) {
    const uint8_t *bytes = (const uint8_t *)text;
    uint8_t lead = bytes[0];
    *length = 1;
    if (lead < 0x80) {
        if (code_point)
            *code_point = lead;
        return UTF8_CHARACTER;
    }
    /* RFC 3629, section 4: the second byte's range depends on the first, which rules out overlong forms,
     * surrogates and what lies above U+10FFFF; all later bytes are 80..BF. */
    size_t need;
    uint8_t low = 0x80, high = 0xBF;
    uint32_t value;
    if (lead >= 0xC2 && lead <= 0xDF) {
        need = 2;
        value = lead & 0x1Fu;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        need = 3;
        value = lead & 0x0Fu;
        if (lead == 0xE0)
            low = 0xA0;
        if (lead == 0xED)
            high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        need = 4;
        value = lead & 0x07u;
        if (lead == 0xF0)
            low = 0x90;
        if (lead == 0xF4)
            high = 0x8F;
    } else {
        return UTF8_INVALID;
    }
    for (size_t i = 1; i < need; i++) {
        *length = i;
        if (i == size)
            return UTF8_CUT;
        if (bytes[i] < low || bytes[i] > high)
            return UTF8_INVALID;
        value = value << 6 | (bytes[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *length = need;
    if (code_point)
        *code_point = value;
    return UTF8_CHARACTER;
}

size_t utf8_next(const char *text, size_t size, uint32_t *code_point) {
    size_t length;
    if (size == 0 || utf8_scan(text, size, &length, code_point) != UTF8_CHARACTER)
        return 0;
    return length;
}

bool utf8_valid(const char *text, size_t size, size_t *bad_offset) {
    size_t at = 0;
    while (at < size) {
        uint64_t eight;
        if (size - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) { /* eight ASCII characters */
                at += sizeof eight;
                continue;
            }
        }
        size_t length = utf8_next(text + at, size - at, NULL);
        if (length == 0) {
            if (bad_offset)
                *bad_offset = at;
            return false;
        }
        at += length;
    }
    return true;
}

size_t utf8_put(uint32_t code_point, char out[4]) {
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xC0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3F));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xE0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code_point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code_point & 0x3F));
    return 4;
}
