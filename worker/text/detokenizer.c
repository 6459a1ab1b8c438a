#include <string.h>

#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

enum status detokenizer_add(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, int32_t id,
                            struct buffer *text) {
    size_t size;
    bool is_special;
    const char *bytes = tokenizer_token_bytes(tokenizer, id, &size, &is_special);
    if (is_special)
        return STATUS_OK;
    char *pending = detokenizer->pending;
    for (size_t at = 0; at < size;) {
        size_t length;
        if (detokenizer->n_pending > 0) {
            /* One byte at a time behind what waits: it completes the character, goes on with it, or shows
             * that it never was one; then the byte is looked at again by itself. */
            pending[detokenizer->n_pending] = bytes[at];
            size_t n_known = detokenizer->n_pending;
            enum utf8_kind kind = utf8_scan(pending, n_known + 1, &length, NULL);
            if (kind == UTF8_CUT) {
                detokenizer->n_pending++;
                at++;
                continue;
            }
            detokenizer->n_pending = 0;
            if (kind == UTF8_CHARACTER) {
                TRY(buffer_append(text, pending, length));
                at++;
            } else {
                TRY(buffer_append(text, replacement, 3));
            }
            continue;
        }
        size_t begin = at;
        enum utf8_kind kind = UTF8_CHARACTER;
        while (at < size && (kind = utf8_scan(bytes + at, size - at, &length, NULL)) == UTF8_CHARACTER)
            at += length;
        TRY(buffer_append(text, bytes + begin, at - begin));
        if (kind == UTF8_INVALID)
            TRY(buffer_append(text, replacement, 3));
        if (kind == UTF8_CUT) {
            memcpy(pending, bytes + at, length);
            detokenizer->n_pending = (uint8_t)length;
        }
        if (kind != UTF8_CHARACTER)
            at += length;
    }
    return STATUS_OK;
}

enum status detokenizer_finish(struct detokenizer *detokenizer, struct buffer *text) {
    if (detokenizer->n_pending == 0)
        return STATUS_OK;
    detokenizer->n_pending = 0;
    return buffer_append(text, replacement, 3);
}
