/* The components of tokenizer.json, checked one by one: what is not known is refused by its name, because a
 * component that is ignored changes the ids silently. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/json_file.h"
#include "worker/text/quote.h"
#include "worker/text/byte_level.h"
#include "worker/text/tokenizer_internal.h"
#include "worker/text/utf8.h"

static bool is_absent(const json_t *value) {
    return !value || json_is_null(value);
}

/* A component's "type", or NULL. */
static const char *type_of(const json_t *component) {
    return json_string_value(json_object_get(component, "type"));
}

/* Reads a boolean key of a component, which must be there. */
static enum status require_bool(const char *path, const char *where, const json_t *object, const char *key,
                                bool *out) {
    const json_t *value = json_object_get(object, key);
    RETURN_IF(!json_is_boolean(value), STATUS_DATA, "%s: %s.%s is %s, expected true or false", path, where,
              key, json_kind(value));
    *out = json_is_true(value);
    return STATUS_OK;
}

/* The same where an absent key has a default. */
static enum status read_bool(const char *path, const char *where, const json_t *object, const char *key,
                             bool absent, bool *out) {
    *out = absent;
    return json_object_get(object, key) ? require_bool(path, where, object, key, out) : STATUS_OK;
}

static enum status refuse_component(const char *path, const char *key, const json_t *component,
                                    const char *supported) {
    const char *type = type_of(component);
    char shown[QUOTE_BYTES];
    if (type)
        return status_fail(STATUS_DATA, "%s: %s %s is not supported; supported: %s", path, key,
                           quote(type, strlen(type), shown), supported);
    return status_fail(STATUS_DATA, "%s: %s is %s without a \"type\"; supported: %s", path, key,
                       json_kind(component), supported);
}

static bool has_type(const json_t *component, const char *type) {
    const char *found = type_of(component);
    return found && strcmp(found, type) == 0;
}

static enum status read_pre_tokenizer(struct tokenizer *tokenizer, const char *path,
                                      const json_t *component) {
    if (is_absent(component))
        return STATUS_OK;
    if (!has_type(component, "ByteLevel"))
        return refuse_component(path, "pre_tokenizer", component, "null, ByteLevel");
    tokenizer->is_byte_level = true;
    /* trim_offsets concerns offsets only, which nobody here asks for. */
    TRY(read_bool(path, "pre_tokenizer", component, "add_prefix_space", true, &tokenizer->add_prefix_space));
    return read_bool(path, "pre_tokenizer", component, "use_regex", true, &tokenizer->use_regex);
}

static enum status read_decoder(const char *path, const json_t *component, bool *is_byte_level) {
    *is_byte_level = has_type(component, "ByteLevel");
    if (*is_byte_level || has_type(component, "Fuse"))
        return STATUS_OK;
    RETURN_IF(is_absent(component), STATUS_DATA,
              "%s: decoder is null, which puts a space between any two tokens; supported: ByteLevel, Fuse",
              path);
    return refuse_component(path, "decoder", component, "ByteLevel, Fuse");
}

static enum status read_vocab(struct tokenizer *tokenizer, const char *path, const json_t *model) {
    const json_t *vocab = json_object_get(model, "vocab");
    RETURN_IF(!json_is_object(vocab), STATUS_DATA, "%s: model.vocab is %s, expected an object of token: id",
              path, json_kind(vocab));
    RETURN_IF(json_object_size(vocab) == 0, STATUS_DATA, "%s: model.vocab is empty", path);
    void *at = json_object_iter((json_t *)(uintptr_t)vocab);
    for (; at; at = json_object_iter_next((json_t *)(uintptr_t)vocab, at)) {
        const json_t *id = json_object_iter_value(at);
        const char *token = json_object_iter_key(at);
        char shown[QUOTE_BYTES];
        RETURN_IF(!json_is_integer(id), STATUS_DATA,
                  "%s: model.vocab: the id of token %s is %s, expected an integer", path,
                  quote(token, json_object_iter_key_len(at), shown), json_kind(id));
        enum status result =
            vocab_add(&tokenizer->vocab, token, json_object_iter_key_len(at), json_integer_value(id));
        if (result != STATUS_OK)
            return status_context(result, "%s: model.vocab: ", path);
    }
    tokenizer->next_added_id = tokenizer->vocab.n_tokens;
    return STATUS_OK;
}

/* The two halves of a merge, "a b" or ["a", "b"]. */
static bool split_merge(const json_t *merge, const char *half[2], size_t size[2]) {
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        size_t length = json_string_length(merge);
        const char *space = memchr(text, ' ', length);
        if (!space || memchr(space + 1, ' ', length - (size_t)(space + 1 - text)))
            return false;
        half[0] = text;
        size[0] = (size_t)(space - text);
        half[1] = space + 1;
        size[1] = length - size[0] - 1;
        return true;
    }
    if (json_array_size(merge) != 2)
        return false;
    for (size_t i = 0; i < 2; i++) {
        const json_t *part = json_array_get(merge, i);
        if (!json_is_string(part))
            return false;
        half[i] = json_string_value(part);
        size[i] = json_string_length(part);
    }
    return true;
}

static enum status read_merge(struct tokenizer *tokenizer, const char *path, size_t rank, const json_t *merge,
                              struct buffer *both) {
    const char *half[2];
    size_t size[2];
    RETURN_IF(!split_merge(merge, half, size), STATUS_DATA,
              "%s: model.merges[%zu] is no pair; expected \"a b\" or [\"a\", \"b\"]", path, rank);
    int32_t ids[2];
    char shown[QUOTE_BYTES];
    for (int i = 0; i < 2; i++) {
        ids[i] = vocab_find(&tokenizer->vocab, half[i], size[i]);
        RETURN_IF(ids[i] < 0, STATUS_DATA, "%s: model.merges[%zu]: %s is not in the vocabulary", path, rank,
                  quote(half[i], size[i], shown));
    }
    buffer_clear(both);
    TRY(buffer_append(both, half[0], size[0]));
    TRY(buffer_append(both, half[1], size[1]));
    int32_t id = vocab_find(&tokenizer->vocab, both->data, both->size);
    RETURN_IF(id < 0, STATUS_DATA, "%s: model.merges[%zu]: the merged token %s is not in the vocabulary",
              path, rank, quote(both->data, both->size, shown));
    bpe_add(&tokenizer->bpe, ids[0], ids[1], (uint32_t)rank, id);
    return STATUS_OK;
}

static enum status read_merges(struct tokenizer *tokenizer, const char *path, const json_t *model) {
    const json_t *merges = json_object_get(model, "merges");
    RETURN_IF(!json_is_array(merges), STATUS_DATA, "%s: model.merges is %s, expected a list of pairs", path,
              json_kind(merges));
    TRY(bpe_init(&tokenizer->bpe, json_array_size(merges)));
    struct buffer both = {0};
    enum status result = buffer_reserve(&both, 1);
    for (size_t rank = 0; rank < json_array_size(merges) && result == STATUS_OK; rank++)
        result = read_merge(tokenizer, path, rank, json_array_get(merges, rank), &both);
    buffer_free(&both);
    return result;
}

static enum status read_unknown(struct tokenizer *tokenizer, const char *path, const json_t *model) {
    tokenizer->unk_id = -1;
    const json_t *unk = json_object_get(model, "unk_token");
    if (is_absent(unk))
        return STATUS_OK;
    RETURN_IF(!json_is_string(unk), STATUS_DATA, "%s: model.unk_token is %s, expected a string or null", path,
              json_kind(unk));
    tokenizer->unk_id = vocab_find(&tokenizer->vocab, json_string_value(unk), json_string_length(unk));
    return STATUS_OK;
}

static enum status read_model(struct tokenizer *tokenizer, const char *path, const json_t *model) {
    RETURN_IF(!json_is_object(model), STATUS_DATA, "%s: model is %s, expected an object", path,
              json_kind(model));
    /* GPT-2's published file, of the format's first year, names no type. */
    bool is_untyped = !json_object_get(model, "type") && json_object_get(model, "merges");
    if (!is_untyped && !has_type(model, "BPE"))
        return refuse_component(path, "model", model, "BPE");
    const json_t *dropout = json_object_get(model, "dropout");
    RETURN_IF(
        !is_absent(dropout) && json_number_value(dropout) != 0, STATUS_DATA,
        "%s: model.dropout is set; a tokenizer that draws random merges is not supported (expected null)",
        path);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        RETURN_IF(!is_absent(affix) && !(json_is_string(affix) && json_string_length(affix) == 0),
                  STATUS_DATA, "%s: model.%s is set, which is not supported; expected null", path,
                  affixes[i]);
    }
    bool byte_fallback;
    TRY(read_bool(path, "model", model, "byte_fallback", false, &byte_fallback));
    RETURN_IF(byte_fallback, STATUS_DATA, "%s: model.byte_fallback true is not supported", path);
    TRY(read_bool(path, "model", model, "fuse_unk", false, &tokenizer->fuse_unk));
    TRY(read_bool(path, "model", model, "ignore_merges", false, &tokenizer->ignore_merges));
    TRY(read_vocab(tokenizer, path, model));
    TRY(read_merges(tokenizer, path, model));
    return read_unknown(tokenizer, path, model);
}

static enum status read_added_token(struct tokenizer *tokenizer, const char *path, size_t index,
                                    const json_t *entry) {
    char where[48];
    snprintf(where, sizeof where, "added_tokens[%zu]", index);
    const json_t *content = json_object_get(entry, "content"), *id = json_object_get(entry, "id");
    RETURN_IF(!json_is_string(content) || !json_is_integer(id), STATUS_DATA,
              "%s: %s: expected an object with \"id\" (integer) and \"content\" (string)", path, where);
    struct added_token token = {.content = (char *)(uintptr_t)json_string_value(content),
                                .size = json_string_length(content)};
    char shown[QUOTE_BYTES];
    quote(token.content, token.size, shown);
    bool single_word = false, is_special = false;
    TRY(require_bool(path, where, entry, "single_word", &single_word));
    TRY(require_bool(path, where, entry, "special", &is_special));
    TRY(require_bool(path, where, entry, "lstrip", &token.lstrip));
    TRY(require_bool(path, where, entry, "rstrip", &token.rstrip));
    TRY(require_bool(path, where, entry, "normalized", &token.normalized));
    RETURN_IF(single_word, STATUS_DATA, "%s: %s %s: single_word true is not supported", path, where, shown);
    if (token.size == 0)
        return STATUS_OK; /* the reference passes over it, too */
    int32_t known = vocab_find(&tokenizer->vocab, token.content, token.size);
    if (known < 0) {
        /* The reference counts on and does not look at the file's id. Where the two differ nobody can tell
         * which one the model was trained with. */
        RETURN_IF(json_integer_value(id) != tokenizer->next_added_id, STATUS_DATA,
                  "%s: %s %s has the id %" JSON_INTEGER_FORMAT ", but the next free one is %d", path, where,
                  shown, json_integer_value(id), (int)tokenizer->next_added_id);
        known = tokenizer->next_added_id;
        enum status result = vocab_add(&tokenizer->vocab, token.content, token.size, known);
        if (result != STATUS_OK)
            return status_context(result, "%s: %s: ", path, where);
    }
    if (known >= tokenizer->next_added_id)
        tokenizer->next_added_id = known + 1;
    RETURN_IF(known != json_integer_value(id), STATUS_DATA,
              "%s: %s %s has the id %" JSON_INTEGER_FORMAT ", but %d in the vocabulary", path, where, shown,
              json_integer_value(id), (int)known);
    tokenizer->vocab.entries[known].is_special |= is_special;
    token.id = known;
    return added_tokens_add(&tokenizer->added, &token);
}

static enum status read_added_tokens(struct tokenizer *tokenizer, const char *path, const json_t *entries) {
    if (is_absent(entries))
        return STATUS_OK;
    RETURN_IF(!json_is_array(entries), STATUS_DATA, "%s: added_tokens is %s, expected a list", path,
              json_kind(entries));
    for (size_t i = 0; i < json_array_size(entries); i++)
        TRY(read_added_token(tokenizer, path, i, json_array_get(entries, i)));
    added_tokens_seal(&tokenizer->added);
    return STATUS_OK;
}

/* The ids that a text's first symbols have: of each byte's character in the byte-level alphabet, or of each
 * ASCII character (others are looked up). */
static void fill_symbols(struct tokenizer *tokenizer) {
    for (int byte = 0; byte < 256; byte++) {
        char character[4];
        tokenizer->symbol[byte] = -1;
        if (!tokenizer->is_byte_level && byte >= 0x80)
            continue;
        uint32_t code_point = tokenizer->is_byte_level ? byte_level_character((uint8_t)byte) : (uint32_t)byte;
        size_t size = utf8_put(code_point, character);
        tokenizer->symbol[byte] = vocab_find(&tokenizer->vocab, character, size);
    }
}

static enum status fill_shown(struct tokenizer *tokenizer, bool is_byte_level) {
    const struct vocab *vocab = &tokenizer->vocab;
    tokenizer->shown = calloc((size_t)vocab->n_ids, sizeof *tokenizer->shown);
    RETURN_IF(!tokenizer->shown, STATUS_INTERNAL, "out of host memory for %d tokens", (int)vocab->n_ids);
    TRY(buffer_append(&tokenizer->shown_bytes, vocab->bytes.data, vocab->bytes.size));
    for (int32_t id = 0; id < vocab->n_ids; id++) {
        tokenizer->shown[id] = vocab->entries[id];
        size_t size = vocab->entries[id].size;
        if (is_byte_level && vocab->entries[id].exists &&
            byte_level_decode(tokenizer->shown_bytes.data + vocab->entries[id].begin, &size))
            tokenizer->shown[id].size = (uint32_t)size;
    }
    return STATUS_OK;
}

enum status tokenizer_read(struct tokenizer *tokenizer, const char *path, const json_t *root) {
    static const char *const unsupported[] = {"truncation", "padding", "normalizer"};
    for (size_t i = 0; i < sizeof unsupported / sizeof unsupported[0]; i++) {
        const json_t *component = json_object_get(root, unsupported[i]);
        if (!is_absent(component))
            return refuse_component(path, unsupported[i], component, "null");
    }
    bool decodes_bytes;
    TRY(read_pre_tokenizer(tokenizer, path, json_object_get(root, "pre_tokenizer")));
    TRY(read_decoder(path, json_object_get(root, "decoder"), &decodes_bytes));
    const json_t *post_processor = json_object_get(root, "post_processor");
    /* ByteLevel as post-processor changes offsets only. */
    if (!is_absent(post_processor) && !has_type(post_processor, "ByteLevel"))
        return refuse_component(path, "post_processor", post_processor, "null, ByteLevel");
    TRY(read_model(tokenizer, path, json_object_get(root, "model")));
    fill_symbols(tokenizer); /* before the added tokens, which BPE does not know */
    TRY(read_added_tokens(tokenizer, path, json_object_get(root, "added_tokens")));
    TRY(fill_shown(tokenizer, decodes_bytes));
    snprintf(tokenizer->description, sizeof tokenizer->description, "BPE, %d tokens, %u merges, %s%s%s",
             (int)tokenizer->vocab.n_tokens, (unsigned)tokenizer->bpe.n_merges,
             tokenizer->is_byte_level ? "ByteLevel" : "by characters",
             tokenizer->add_prefix_space ? " with prefix space" : "",
             tokenizer->is_byte_level && !tokenizer->use_regex ? " without pattern" : "");
    return STATUS_OK;
}
