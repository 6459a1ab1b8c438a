/* tokenizer.json as a whole: its components, the vocabulary and the added tokens. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/json_file.h"
#include "worker/text/component.h"
#include "worker/text/quote.h"
#include "worker/text/tokenizer_internal.h"

static enum status read_token(struct tokenizer *tokenizer, const struct tokenizer_file *file,
                              struct json_reader *reader) {
    const char *token;
    size_t size;
    int64_t id;
    if (!json_reader_key(reader, &token, &size))
        return tokenizer_file_refuse(file, "model.vocab");
    if (!json_reader_integer(reader, &id)) {
        char shown[QUOTE_BYTES];
        TRY(tokenizer_file_check(file));
        return status_fail(STATUS_DATA, "%s: model.vocab: the id of token %s is no integer", file->path,
                           quote(token, size, shown));
    }
    enum status result = vocab_add(&tokenizer->vocab, token, size, id);
    return result == STATUS_OK ? STATUS_OK : status_context(result, "%s: model.vocab: ", file->path);
}

static enum status read_vocab(struct tokenizer *tokenizer, const struct tokenizer_file *file,
                              const json_t *model) {
    const json_t *vocab = json_object_get(model, "vocab");
    RETURN_IF(!json_is_object(vocab), STATUS_DATA, "%s: model.vocab is %s, expected an object of token: id",
              file->path, json_kind(vocab));
    struct json_reader reader = tokenizer_file_reader(file, file->vocab);
    enum status result = STATUS_OK;
    bool more = json_reader_enter(&reader, '{'), is_first = true;
    while (more && result == STATUS_OK) {
        if (!json_reader_next(&reader, '{', is_first, &more))
            result = tokenizer_file_refuse(file, "model.vocab");
        else if (more)
            result = read_token(tokenizer, file, &reader);
        is_first = false;
    }
    json_reader_free(&reader);
    TRY(result);
    RETURN_IF(tokenizer->vocab.n_tokens == 0, STATUS_DATA, "%s: model.vocab is empty", file->path);
    tokenizer->next_added_id = tokenizer->vocab.n_tokens;
    return STATUS_OK;
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
    const struct component component = {path, where, entry};
    bool is_special = false;
    TRY(component_require_bool(&component, "single_word", &token.single_word));
    TRY(component_require_bool(&component, "special", &is_special));
    TRY(component_require_bool(&component, "lstrip", &token.lstrip));
    TRY(component_require_bool(&component, "rstrip", &token.rstrip));
    TRY(component_require_bool(&component, "normalized", &token.normalized));
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
        tokenizer->vocab.entries[known].is_added = true;
    }
    if (known >= tokenizer->next_added_id)
        tokenizer->next_added_id = known + 1;
    RETURN_IF(known != json_integer_value(id), STATUS_DATA,
              "%s: %s %s has the id %" JSON_INTEGER_FORMAT ", but %d in the vocabulary", path, where, shown,
              json_integer_value(id), (int)known);
    tokenizer->vocab.entries[known].is_special |= is_special;
    token.id = known;
    if (!token.normalized)
        return added_tokens_add(&tokenizer->added, &token);
    /* It is looked for in normalised text, as it is when it is normalised itself. */
    struct normalizer_scratch scratch = {0};
    const char *normalized = NULL;
    enum status result = normalizer_apply(&tokenizer->normalizer, &scratch, token.content, token.size,
                                          &normalized, &token.size);
    token.content = (char *)(uintptr_t)normalized;
    if (result == STATUS_OK && token.size == 0)
        result = status_fail(STATUS_DATA, "%s: %s %s: nothing is left of it when it is normalised", path,
                             where, shown);
    if (result == STATUS_OK)
        result = added_tokens_add(&tokenizer->added, &token);
    normalizer_scratch_free(&scratch);
    return result;
}

static enum status read_added_tokens(struct tokenizer *tokenizer, const char *path, const json_t *entries) {
    if (component_is_absent(entries))
        return STATUS_OK;
    RETURN_IF(!json_is_array(entries), STATUS_DATA, "%s: added_tokens is %s, expected a list", path,
              json_kind(entries));
    for (size_t i = 0; i < json_array_size(entries); i++)
        TRY(read_added_token(tokenizer, path, i, json_array_get(entries, i)));
    added_tokens_seal(&tokenizer->added);
    return STATUS_OK;
}

/* Asked first: a file of another model has components that nothing is known of either, and it is the model
 * that says why. */
static enum status check_model_type(const struct component *component) {
    RETURN_IF(!json_is_object(component->object), STATUS_DATA, "%s: model is %s, expected an object",
              component->path, json_kind(component->object));
    /* GPT-2's published file, of the format's first year, names no type. */
    bool is_untyped =
        !json_object_get(component->object, "type") && json_object_get(component->object, "merges");
    return is_untyped || component_has_type(component, "BPE") ? STATUS_OK
                                                              : component_refuse(component, "BPE");
}

static enum status read_model(struct tokenizer *tokenizer, const struct tokenizer_file *file,
                              const struct component *component) {
    TRY(read_vocab(tokenizer, file, component->object));
    return bpe_model_read(&tokenizer->model, component, file, &tokenizer->vocab,
                          tokenizer->pre_tokenizer.is_byte_level);
}

/* What would cut or lengthen the ids of a prompt by itself. Padding to the longest of a batch does nothing to
 * one prompt, and is ignored. */
static enum status refuse_lengths(const char *path, const json_t *root) {
    const json_t *truncation = json_object_get(root, "truncation"),
                 *padding = json_object_get(root, "padding");
    RETURN_IF(!component_is_absent(truncation), STATUS_DATA,
              "%s: truncation is %s, expected null; prompts are cut by on_too_long alone", path,
              json_kind(truncation));
    if (component_is_absent(padding))
        return STATUS_OK;
    const char *strategy = json_string_value(json_object_get(padding, "strategy"));
    RETURN_IF(!strategy || strcmp(strategy, "BatchLongest") != 0 ||
                  !component_is_absent(json_object_get(padding, "pad_to_multiple_of")),
              STATUS_DATA, "%s: padding adds tokens to a prompt; supported: null, strategy BatchLongest",
              path);
    return STATUS_OK;
}

static enum status show_token(struct tokenizer *tokenizer, bool is_first,
                              struct token_decoder_scratch *scratch, const char *token, size_t size,
                              struct shown_token *shown) {
    const char *text;
    TRY(token_decoder_show(&tokenizer->decoder, scratch, is_first, token, size, &text, &size,
                           &shown->is_byte));
    shown->exists = true;
    shown->begin = tokenizer->shown_bytes.size;
    shown->size = (uint32_t)size;
    return buffer_append(&tokenizer->shown_bytes, text, size);
}

static enum status fill_shown(struct tokenizer *tokenizer, bool is_first,
                              struct token_decoder_scratch *scratch, struct shown_token **out) {
    const struct vocab *vocab = &tokenizer->vocab;
    struct shown_token *shown = *out = calloc((size_t)vocab->n_ids, sizeof *shown);
    RETURN_IF(!shown, STATUS_INTERNAL, "out of host memory for %d tokens", (int)vocab->n_ids);
    for (int32_t id = 0; id < vocab->n_ids; id++) {
        size_t size;
        const char *token = vocab_token(vocab, id, &size);
        if (token)
            TRY(show_token(tokenizer, is_first, scratch, token, size, &shown[id]));
        shown[id].is_special = vocab->entries[id].is_special;
    }
    /* Added tokens that are looked for in normalised text are shown as they are found. */
    for (size_t i = 0; i < tokenizer->added.n; i++) {
        const struct added_token *token = &tokenizer->added.tokens[i];
        if (token->normalized)
            TRY(show_token(tokenizer, is_first, scratch, token->content, token->size, &shown[token->id]));
    }
    return buffer_reserve(&tokenizer->shown_bytes, 1); /* so that an empty token has an address too */
}

static enum status fill_all_shown(struct tokenizer *tokenizer) {
    struct token_decoder_scratch scratch = {0};
    enum status result = fill_shown(tokenizer, false, &scratch, &tokenizer->shown);
    if (result == STATUS_OK && tokenizer->decoder.first_differs)
        result = fill_shown(tokenizer, true, &scratch, &tokenizer->shown_first);
    token_decoder_scratch_free(&scratch);
    return result;
}

/* Ids outside the vocabulary would be outside the model's embedding, too. */
static enum status check_special(const struct tokenizer *tokenizer, const char *path,
                                 const struct token_list *list) {
    for (size_t i = 0; i < list->n; i++)
        RETURN_IF(
            list->ids[i] >= tokenizer->vocab.n_ids, STATUS_DATA,
            "%s: post_processor: a special token has the id %d, which is outside the vocabulary of %d ids",
            path, (int)list->ids[i], (int)tokenizer->vocab.n_ids);
    return STATUS_OK;
}

static enum status append_tokens(const struct tokenizer *tokenizer, const char *title,
                                 const struct token_list *list, struct buffer *out) {
    for (size_t i = 0; i < list->n; i++) {
        size_t size;
        const char *token = vocab_token(&tokenizer->vocab, list->ids[i], &size);
        char shown[QUOTE_BYTES];
        TRY(buffer_printf(out, "%s%s", i ? ", " : title, token ? quote_bare(token, size, shown) : "?"));
    }
    return STATUS_OK;
}

static enum status describe(struct tokenizer *tokenizer) {
    struct buffer *out = &tokenizer->description;
    const struct bpe_model *model = &tokenizer->model;
    TRY(buffer_printf(out, "BPE%s, %d tokens, %u merges", model->byte_fallback ? " with byte fallback" : "",
                      (int)tokenizer->vocab.n_tokens, (unsigned)model->bpe.n_merges));
    if (tokenizer->normalizer.n_steps > 0)
        TRY(buffer_append_text(out, "; normalizer "));
    TRY(normalizer_describe(&tokenizer->normalizer, out));
    TRY(buffer_append_text(out, tokenizer->pre_tokenizer.n_steps ? "; pre-tokenizer " : "; by characters"));
    TRY(pre_tokenizer_describe(&tokenizer->pre_tokenizer, out));
    TRY(append_tokens(tokenizer, "; in front of a prompt ", &tokenizer->post_processor.before, out));
    TRY(append_tokens(tokenizer, "; behind it ", &tokenizer->post_processor.behind, out));
    return buffer_terminate(out);
}

enum status tokenizer_read(struct tokenizer *tokenizer, const struct tokenizer_file *file) {
    const char *path = file->path;
    const json_t *root = file->root;
#define COMPONENT(name) (&(const struct component){path, name, json_object_get(root, name)})
    TRY(check_model_type(COMPONENT("model")));
    TRY(refuse_lengths(path, root));
    TRY(normalizer_read(&tokenizer->normalizer, COMPONENT("normalizer")));
    TRY(pre_tokenizer_read(&tokenizer->pre_tokenizer, COMPONENT("pre_tokenizer")));
    TRY(post_processor_read(&tokenizer->post_processor, COMPONENT("post_processor")));
    TRY(token_decoder_read(&tokenizer->decoder, COMPONENT("decoder")));
    TRY(read_model(tokenizer, file,
                   COMPONENT("model"))); /* before the added tokens, which BPE does not know */
#undef COMPONENT
    TRY(read_added_tokens(tokenizer, path, json_object_get(root, "added_tokens")));
    TRY(check_special(tokenizer, path, &tokenizer->post_processor.before));
    TRY(check_special(tokenizer, path, &tokenizer->post_processor.behind));
    TRY(fill_all_shown(tokenizer));
    return describe(tokenizer);
}
