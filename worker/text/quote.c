#include "worker/text/quote.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "worker/text/utf8.h"

enum { LONGEST_CHARACTER = 4, CLOSING = 5 /* ...' and NUL */ };

static void write_text(const char *text, size_t size, const char *mark, char out[QUOTE_BYTES]) {
    size_t n = 0, i = 0;
    if (*mark)
        out[n++] = *mark;
    while (i < size && n + LONGEST_CHARACTER + CLOSING <= QUOTE_BYTES && i < 70) {
        uint32_t code_point = 0;
        size_t bytes = utf8_next(text + i, size - i, &code_point);
        /* C0, DEL and C1 controls, and the line and paragraph separators. */
        if (bytes == 0 || code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0) ||
            code_point == 0x2028 || code_point == 0x2029) {
            n += (size_t)snprintf(out + n, LONGEST_CHARACTER + 1, "\\x%02X", (unsigned char)text[i]);
            i++;
        } else {
            memcpy(out + n, text + i, bytes);
            n += bytes;
            i += bytes;
        }
    }
    snprintf(out + n, CLOSING, "%s%s", i < size ? "..." : "", mark);
}

const char *quote(const char *text, size_t size, char out[QUOTE_BYTES]) {
    write_text(text, size, "'", out);
    return out;
}

const char *quote_bare(const char *text, size_t size, char out[QUOTE_BYTES]) {
    write_text(text, size, "", out);
    return out;
}
