#include "worker/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/file.h"
#include "worker/base/json_file.h"
#include "worker/text/byte_level.h"
#include "worker/text/tokenizer_internal.h"
#include "worker/text/utf8.h"

enum { MAX_FILE_BYTES = 256 << 20 };

enum status tokenizer_open(const char *folder, struct tokenizer **out) {
    *out = NULL;
    char *path = path_join(folder, "tokenizer.json");
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    json_t *root = NULL;
    enum status result = STATUS_OK;
    if (!path || !tokenizer)
        result = status_fail(STATUS_INTERNAL, "out of host memory");
    if (result == STATUS_OK)
        result = json_file_read(path, MAX_FILE_BYTES, JSON_ALLOW_NUL, &root);
    if (result == STATUS_OK)
        result = tokenizer_read(tokenizer, path, root);
    json_decref(root);
    free(path);
    if (result != STATUS_OK) {
        tokenizer_close(tokenizer);
        return result;
    }
    *out = tokenizer;
    return STATUS_OK;
}

void tokenizer_close(struct tokenizer *tokenizer) {
    if (!tokenizer)
        return;
    vocab_free(&tokenizer->vocab);
    bpe_free(&tokenizer->bpe);
    added_tokens_free(&tokenizer->added);
    buffer_free(&tokenizer->shown_bytes);
    free(tokenizer->shown);
    free(tokenizer);
}

int32_t tokenizer_n_vocab(const struct tokenizer *tokenizer) {
    return tokenizer->vocab.n_ids;
}

const char *tokenizer_description(const struct tokenizer *tokenizer) {
    return tokenizer->description;
}

const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *size,
                                  bool *is_special) {
    *size = 0;
    *is_special = false;
    if (id < 0 || id >= tokenizer->vocab.n_ids || !tokenizer->shown[id].exists)
        return NULL;
    *size = tokenizer->shown[id].size;
    *is_special = tokenizer->shown[id].is_special;
    return tokenizer->shown_bytes.data + tokenizer->shown[id].begin;
}

enum status tokenizer_scratch_new(const struct tokenizer *tokenizer, struct tokenizer_scratch **out) {
    (void)tokenizer;
    *out = calloc(1, sizeof **out);
    RETURN_IF(!*out, STATUS_INTERNAL, "out of host memory");
    return STATUS_OK;
}

void tokenizer_scratch_free(struct tokenizer_scratch *scratch) {
    if (!scratch)
        return;
    bpe_scratch_free(&scratch->bpe);
    buffer_free(&scratch->text);
    buffer_free(&scratch->piece);
    free(scratch);
}

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

/* Makes room for `more` ids behind n. */
static enum status list_reserve(struct token_list *list, size_t more) {
    if (list->capacity - list->n >= more)
        return STATUS_OK;
    size_t capacity = (list->n + more) + (list->n + more) / 2 + 16;
    int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
    RETURN_IF(!ids, STATUS_INTERNAL, "out of host memory for %zu tokens", capacity);
    list->ids = ids;
    list->capacity = capacity;
    return STATUS_OK;
}

/* One call of tokenizer_encode: where stretches of its text lie, for messages. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct token_list *out;
    size_t offset; /* of the current stretch in the caller's text */
};

/* Looks a whole piece up in the vocabulary (ignore_merges). */
static enum status find_whole(const struct encoding *encoding, const char *piece, size_t size, int32_t *id) {
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (!tokenizer->is_byte_level) {
        *id = vocab_find(&tokenizer->vocab, piece, size);
        return STATUS_OK;
    }
    struct buffer *written = &encoding->scratch->piece;
    buffer_clear(written);
    TRY(buffer_reserve(written, 2 * size)); /* characters of the alphabet have at most two bytes */
    for (size_t i = 0; i < size; i++)
        written->size += utf8_put(byte_level_character((uint8_t)piece[i]), written->data + written->size);
    *id = vocab_find(&tokenizer->vocab, written->data, written->size);
    return STATUS_OK;
}

/* The id of the symbol at text[at] and its bytes; -1 when the vocabulary lacks it. */
static int32_t symbol_at(const struct tokenizer *tokenizer, const char *text, size_t size, size_t at,
                         size_t *length) {
    uint8_t byte = (uint8_t)text[at];
    *length = 1;
    if (tokenizer->is_byte_level || byte < 0x80)
        return tokenizer->symbol[byte];
    *length = utf8_next(text + at, size - at, NULL);
    return vocab_find(&tokenizer->vocab, text + at, *length);
}

static enum status refuse_symbol(const struct encoding *encoding, const char *text, size_t size, size_t at) {
    uint32_t code_point = 0;
    if (encoding->tokenizer->is_byte_level)
        return status_fail(STATUS_RECORD,
                           "byte 0x%02X at byte %zu of the prompt is not in the model's vocabulary",
                           (unsigned)(uint8_t)text[at], encoding->offset + at);
    size_t length = utf8_next(text + at, size - at, &code_point);
    bool is_shown = code_point >= 0x20 && code_point != 0x7F;
    return status_fail(STATUS_RECORD,
                       "character U+%04X%s%.*s%s at byte %zu of the prompt is not in the model's "
                       "vocabulary",
                       (unsigned)code_point, is_shown ? " (" : "", is_shown ? (int)length : 0, text + at,
                       is_shown ? ")" : "", encoding->offset + at);
}

/* BPE of text[begin..end). */
static enum status encode_piece(const struct encoding *encoding, const char *text, size_t begin, size_t end) {
    const struct tokenizer *tokenizer = encoding->tokenizer;
    struct token_list *out = encoding->out;
    TRY(list_reserve(out, end - begin));
    if (tokenizer->ignore_merges) {
        int32_t whole;
        TRY(find_whole(encoding, text + begin, end - begin, &whole));
        if (whole >= 0) {
            out->ids[out->n++] = whole;
            return STATUS_OK;
        }
    }
    int32_t *ids = out->ids + out->n;
    size_t n = 0, length;
    bool was_unknown = false;
    for (size_t at = begin; at < end; at += length) {
        int32_t id = symbol_at(tokenizer, text, end, at, &length);
        bool is_unknown = id < 0;
        if (is_unknown) {
            if (tokenizer->unk_id < 0)
                return refuse_symbol(encoding, text, end, at);
            id = tokenizer->unk_id;
        }
        if (!(is_unknown && was_unknown && tokenizer->fuse_unk))
            ids[n++] = id;
        was_unknown = is_unknown;
    }
    TRY(bpe_apply(&tokenizer->bpe, &encoding->scratch->bpe, ids, &n));
    out->n += n;
    return STATUS_OK;
}

/* Text between added tokens. */
static enum status encode_text(struct encoding *encoding, const char *text, size_t size) {
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (size == 0)
        return STATUS_OK;
    if (tokenizer->add_prefix_space && text[0] != ' ') {
        struct buffer *prefixed = &encoding->scratch->text;
        buffer_clear(prefixed);
        TRY(buffer_append_byte(prefixed, ' '));
        TRY(buffer_append(prefixed, text, size));
        text = prefixed->data;
        size++;
    }
    if (!tokenizer->is_byte_level || !tokenizer->use_regex)
        return encode_piece(encoding, text, 0, size);
    for (size_t at = 0; at < size;) {
        size_t end = at + byte_level_piece(text + at, size - at);
        TRY(encode_piece(encoding, text, at, end));
        at = end;
    }
    return STATUS_OK;
}

/* Cuts out the added tokens of one pass, and hands what is between them to the next. */
static enum status encode_pass(struct encoding *encoding, int pass, const char *text, size_t size) {
    if (pass == ADDED_TOKEN_PASSES)
        return encode_text(encoding, text, size);
    size_t base = encoding->offset, taken = 0, from = 0;
    struct added_match match;
    while (added_tokens_find(&encoding->tokenizer->added, pass, text, size, from, taken, &match, &from)) {
        if (taken < match.begin) {
            encoding->offset = base + taken;
            TRY(encode_pass(encoding, pass + 1, text + taken, match.begin - taken));
        }
        TRY(list_reserve(encoding->out, 1));
        encoding->out->ids[encoding->out->n++] = match.id;
        taken = match.end;
    }
    encoding->offset = base + taken;
    if (taken < size)
        return encode_pass(encoding, pass + 1, text + taken, size - taken);
    return STATUS_OK;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                             const char *text, size_t size, struct token_list *out) {
    size_t bad_offset;
    RETURN_IF(!utf8_valid(text, size, &bad_offset), STATUS_RECORD,
              "the prompt is not valid UTF-8: byte 0x%02X at byte %zu", (unsigned)(uint8_t)text[bad_offset],
              bad_offset);
    struct encoding encoding = {.tokenizer = tokenizer, .scratch = scratch, .out = out};
    size_t n_before = out->n;
    enum status result = encode_pass(&encoding, 0, text, size);
    if (result != STATUS_OK)
        out->n = n_before;
    return result;
}
