#include "worker/text/detokenizer.h"

#include <string.h>

#include "worker/text/tokenizer_internal.h"
#include "worker/text/utf8.h"

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

void detokenizer_free(struct detokenizer *detokenizer) {
    buffer_free(&detokenizer->run);
    *detokenizer = (struct detokenizer){0};
}

/* Appends whole characters, without what the decoder cuts from the beginning of the text. */
static enum status put(struct detokenizer *detokenizer, const char *bytes, size_t size, struct buffer *text) {
    const struct token_decoder *decoder = &detokenizer->tokenizer->decoder;
    size_t length = strlen(decoder->strip_content);
    while (!detokenizer->is_stripped && size > 0) {
        detokenizer->is_stripped = detokenizer->n_stripped == decoder->n_strip || size < length ||
                                   memcmp(bytes, decoder->strip_content, length) != 0;
        if (detokenizer->is_stripped)
            break;
        detokenizer->n_stripped++;
        bytes += length;
        size -= length;
    }
    return buffer_append(text, bytes, size);
}

/* Ends a row of byte tokens. */
static enum status put_run(struct detokenizer *detokenizer, struct buffer *text) {
    struct buffer *run = &detokenizer->run;
    if (run->size == 0)
        return STATUS_OK;
    size_t size = run->size;
    buffer_clear(run);
    if (utf8_valid(run->data, size, NULL))
        return put(detokenizer, run->data, size, text);
    for (size_t i = 0; i < size; i++)
        TRY(put(detokenizer, replacement, 3, text));
    return STATUS_OK;
}

/* Bytes that need not be whole characters. */
static enum status put_bytes(struct detokenizer *detokenizer, const char *bytes, size_t size,
                             struct buffer *text) {
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
                TRY(put(detokenizer, pending, length, text));
                at++;
            } else {
                TRY(put(detokenizer, replacement, 3, text));
            }
            continue;
        }
        size_t begin = at;
        enum utf8_kind kind = UTF8_CHARACTER;
        while (at < size && (kind = utf8_scan(bytes + at, size - at, &length, NULL)) == UTF8_CHARACTER)
            at += length;
        TRY(put(detokenizer, bytes + begin, at - begin, text));
        if (kind == UTF8_INVALID)
            TRY(put(detokenizer, replacement, 3, text));
        if (kind == UTF8_CUT) {
            memcpy(pending, bytes + at, length);
            detokenizer->n_pending = (uint8_t)length;
        }
        if (kind != UTF8_CHARACTER)
            at += length;
    }
    return STATUS_OK;
}

enum status detokenizer_add(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, int32_t id,
                            struct buffer *text) {
    if (id < 0 || id >= tokenizer->vocab.n_ids || !tokenizer->shown[id].exists ||
        tokenizer->shown[id].is_special)
        return STATUS_OK;
    bool is_first = !detokenizer->has_token && tokenizer->shown_first;
    const struct shown_token *shown = is_first ? &tokenizer->shown_first[id] : &tokenizer->shown[id];
    const char *bytes = tokenizer->shown_bytes.data + shown->begin;
    detokenizer->tokenizer = tokenizer;
    detokenizer->has_token = true;
    if (shown->is_byte)
        return buffer_append(&detokenizer->run, bytes, shown->size);
    TRY(put_run(detokenizer, text));
    if (tokenizer->decoder.bytes == DECODER_BYTE_LEVEL)
        return put_bytes(detokenizer, bytes, shown->size, text);
    return put(detokenizer, bytes, shown->size, text);
}

enum status detokenizer_finish(struct detokenizer *detokenizer, struct buffer *text) {
    enum status result = put_run(detokenizer, text);
    if (result == STATUS_OK && detokenizer->n_pending > 0)
        result = put(detokenizer, replacement, 3, text);
    detokenizer_free(detokenizer);
    return result;
}
