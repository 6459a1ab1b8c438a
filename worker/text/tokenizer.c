#include "worker/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/file.h"
#include "worker/text/tokenizer_internal.h"
#include "worker/text/utf8.h"

enum status tokenizer_open(const char *folder, struct tokenizer **out) {
    *out = NULL;
    char *path = path_join(folder, "tokenizer.json");
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    struct tokenizer_file file = {0};
    enum status result = STATUS_OK;
    if (!path || !tokenizer)
        result = status_fail(STATUS_INTERNAL, "out of host memory");
    if (result == STATUS_OK)
        result = tokenizer_file_open(&file, path);
    if (result == STATUS_OK)
        result = tokenizer_read(tokenizer, &file);
    tokenizer_file_close(&file);
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
    added_tokens_free(&tokenizer->added);
    normalizer_free(&tokenizer->normalizer);
    pre_tokenizer_free(&tokenizer->pre_tokenizer);
    bpe_model_free(&tokenizer->model);
    post_processor_free(&tokenizer->post_processor);
    token_decoder_free(&tokenizer->decoder);
    free(tokenizer->shown);
    free(tokenizer->shown_first);
    buffer_free(&tokenizer->shown_bytes);
    buffer_free(&tokenizer->description);
    free(tokenizer);
}

int32_t tokenizer_n_vocab(const struct tokenizer *tokenizer) {
    return tokenizer->vocab.n_ids;
}

void tokenizer_n_around(const struct tokenizer *tokenizer, int32_t *n_before, int32_t *n_behind) {
    *n_before = (int32_t)tokenizer->post_processor.before.n;
    *n_behind = (int32_t)tokenizer->post_processor.behind.n;
}

const char *tokenizer_description(const struct tokenizer *tokenizer) {
    return tokenizer->description.data;
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
    normalizer_scratch_free(&scratch->normalizer);
    pre_tokenizer_scratch_free(&scratch->pre_tokenizer);
    bpe_model_scratch_free(&scratch->model);
    free(scratch);
}

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct token_list *out;
    const char *stretch; /* that is cut into pieces; its place in the prompt … */
    size_t offset;       /* … SIZE_MAX where pieces are no parts of the prompt */
};

static enum status encode_piece(void *argument, const char *piece, size_t size) {
    struct encoding *encoding = argument;
    size_t offset = SIZE_MAX;
    if (encoding->offset != SIZE_MAX)
        offset = encoding->offset + (size_t)(piece - encoding->stretch);
    return bpe_model_encode(&encoding->tokenizer->model, &encoding->scratch->model, piece, size, offset,
                            encoding->out);
}

/* A row of text and added tokens. `offset`: where it begins in the prompt. */
typedef enum status stretch_taker(struct encoding *encoding, const char *text, size_t size, size_t offset);

/* Cuts out the added tokens of one pass, and hands what is between them to take. */
static enum status encode_pass(struct encoding *encoding, int pass, const char *text, size_t size,
                               size_t offset, stretch_taker *take) {
    size_t taken = 0, from = 0;
    struct added_match match;
    while (added_tokens_find(&encoding->tokenizer->added, pass, text, size, from, taken, &match, &from)) {
        if (taken < match.begin)
            TRY(take(encoding, text + taken, match.begin - taken, offset + taken));
        TRY(token_list_append(encoding->out, &match.id, 1));
        taken = match.end;
    }
    return taken < size ? take(encoding, text + taken, size - taken, offset + taken) : STATUS_OK;
}

static enum status encode_normalized(struct encoding *encoding, const char *text, size_t size,
                                     size_t offset) {
    const struct tokenizer *tokenizer = encoding->tokenizer;
    bool is_rewritten = tokenizer->normalizer.n_steps > 0 || tokenizer->pre_tokenizer.rewrites;
    encoding->stretch = text;
    encoding->offset = is_rewritten ? SIZE_MAX : offset;
    return pre_tokenizer_cut(&tokenizer->pre_tokenizer, &encoding->scratch->pre_tokenizer, offset == 0, text,
                             size, encode_piece, encoding);
}

static enum status encode_plain(struct encoding *encoding, const char *text, size_t size, size_t offset) {
    TRY(normalizer_apply(&encoding->tokenizer->normalizer, &encoding->scratch->normalizer, text, size, &text,
                         &size));
    return encode_pass(encoding, 1, text, size, offset, encode_normalized);
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                             const char *text, size_t size, struct token_list *out) {
    size_t bad_offset;
    RETURN_IF(!utf8_valid(text, size, &bad_offset), STATUS_RECORD,
              "the prompt is not valid UTF-8: byte 0x%02X at byte %zu", (unsigned)(uint8_t)text[bad_offset],
              bad_offset);
    struct encoding encoding = {.tokenizer = tokenizer, .scratch = scratch, .out = out};
    const struct post_processor *post_processor = &tokenizer->post_processor;
    size_t n_before = out->n;
    enum status result = token_list_append(out, post_processor->before.ids, post_processor->before.n);
    if (result == STATUS_OK)
        result = encode_pass(&encoding, 0, text, size, 0, encode_plain);
    if (result == STATUS_OK)
        result = token_list_append(out, post_processor->behind.ids, post_processor->behind.n);
    if (result != STATUS_OK)
        out->n = n_before;
    return result;
}
