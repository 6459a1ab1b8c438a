#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/json_file.h"
#include "worker/text/bpe_model.h"
#include "worker/text/byte_level.h"
#include "worker/text/quote.h"
#include "worker/text/utf8.h"

/* ---- symbols
 * ----------------------------------------------------------------------------------------------- */

static enum status set_symbol(struct bpe_model *model, uint32_t code_point, int32_t id) {
    int32_t **page = &model->pages[code_point / CODE_MAP_PAGE];
    if (!*page) {
        *page = malloc(CODE_MAP_PAGE * sizeof **page);
        RETURN_IF(!*page, STATUS_INTERNAL, "out of host memory for a vocabulary");
        memset(*page, 0xFF, CODE_MAP_PAGE * sizeof **page); /* all -1 */
    }
    (*page)[code_point % CODE_MAP_PAGE] = id;
    return STATUS_OK;
}

/* The ids that a text's first symbols have. */
static enum status read_symbols(struct bpe_model *model) {
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        size_t size = utf8_put(byte_level_character((uint8_t)byte), text);
        model->byte_symbol[byte] = vocab_find(model->vocab, text, size);
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        model->byte_token[byte] = vocab_find(model->vocab, text, strlen(text));
    }
    for (int32_t id = 0; id < model->vocab->n_ids; id++) {
        size_t size;
        uint32_t code_point;
        const char *token = vocab_token(model->vocab, id, &size);
        if (token && size > 0 && size <= 4 && utf8_next(token, size, &code_point) == size)
            TRY(set_symbol(model, code_point, id));
    }
    return STATUS_OK;
}

/* ---- merges
 * ------------------------------------------------------------------------------------------------ */

/* The two halves of a merge, "a b" or ["a", "b"]. */
static bool read_halves(struct json_reader *reader, const char *half[2], size_t size[2]) {
    if (json_reader_peek(reader) == '"') {
        const char *text;
        size_t length;
        if (!json_reader_string(reader, &text, &length))
            return false;
        const char *space = memchr(text, ' ', length);
        if (!space || memchr(space + 1, ' ', length - (size_t)(space + 1 - text)))
            return false;
        half[0] = text;
        size[0] = (size_t)(space - text);
        half[1] = space + 1;
        size[1] = length - size[0] - 1;
        return true;
    }
    bool more;
    if (!json_reader_enter(reader, '['))
        return false;
    for (int i = 0; i < 2; i++)
        if (!json_reader_next(reader, '[', i == 0, &more) || !more ||
            !json_reader_string(reader, &half[i], &size[i]))
            return false;
    return json_reader_next(reader, '[', false, &more) && !more;
}

/* The symbol that a token of text begins (or ends) with when it was merged from symbols; -1 when it cannot
 * be. */
static int32_t edge_symbol(const struct bpe_model *model, int32_t id, bool is_end) {
    size_t size;
    const char *token = vocab_token(model->vocab, id, &size);
    uint32_t code_point;
    if (size == 0)
        return -1;
    if (is_end)
        utf8_last(token, size, &code_point);
    else
        utf8_decode(token, &code_point);
    if (model->is_byte_level) {
        int byte = byte_level_byte(code_point);
        return byte < 0 ? -1 : model->byte_symbol[byte];
    }
    return bpe_model_symbol(model, code_point);
}

static void set_neighbours(struct bpe_model *model, int32_t left, int32_t right) {
    if (left < 0 || right < 0)
        return;
    size_t bit = bpe_model_neighbour_bit(model, left, right);
    model->neighbours[bit / 64] |= (uint64_t)1 << bit % 64;
}

/* A half of a merge is a symbol itself (also a byte token, whose name says nothing), or was merged from
 * symbols. */
static void add_neighbours(struct bpe_model *model, int32_t left, int32_t right) {
    int32_t left_edges[2] = {left, edge_symbol(model, left, true)};
    int32_t right_edges[2] = {right, edge_symbol(model, right, false)};
    for (int i = 0; i < 4; i++)
        set_neighbours(model, left_edges[i / 2], right_edges[i % 2]);
}

static enum status read_merge(struct bpe_model *model, const struct tokenizer_file *file, size_t rank,
                              struct json_reader *reader, struct buffer *both) {
    const char *path = file->path, *half[2];
    size_t size[2];
    if (!read_halves(reader, half, size)) {
        TRY(tokenizer_file_check(file));
        return status_fail(
            STATUS_DATA, "%s: model.merges[%zu] is no pair; expected \"a b\" or [\"a\", \"b\"]", path, rank);
    }
    int32_t ids[2];
    char shown[QUOTE_BYTES];
    for (int i = 0; i < 2; i++) {
        ids[i] = vocab_find(model->vocab, half[i], size[i]);
        RETURN_IF(ids[i] < 0, STATUS_DATA, "%s: model.merges[%zu]: %s is not in the vocabulary", path, rank,
                  quote(half[i], size[i], shown));
    }
    buffer_clear(both);
    TRY(buffer_append(both, half[0], size[0]));
    TRY(buffer_append(both, half[1], size[1]));
    int32_t id = vocab_find(model->vocab, both->data, both->size);
    RETURN_IF(id < 0, STATUS_DATA, "%s: model.merges[%zu]: the merged token %s is not in the vocabulary",
              path, rank, quote(both->data, both->size, shown));
    bpe_add(&model->bpe, ids[0], ids[1], (uint32_t)rank, id);
    add_neighbours(model, ids[0], ids[1]);
    return STATUS_OK;
}

/* Calls read_merge for each, or only counts where model is NULL. */
static enum status walk_merges(struct bpe_model *model, const struct tokenizer_file *file, size_t *n) {
    struct json_reader reader = tokenizer_file_reader(file, file->merges);
    struct buffer both = {0};
    enum status result = buffer_reserve(&both, 1);
    bool more = json_reader_enter(&reader, '[');
    *n = 0;
    while (more && result == STATUS_OK) {
        if (!json_reader_next(&reader, '[', *n == 0, &more))
            result = tokenizer_file_refuse(file, "model.merges");
        else if (more && model)
            result = read_merge(model, file, *n, &reader, &both);
        else if (more && !json_reader_skip(&reader))
            result = tokenizer_file_refuse(file, "model.merges");
        *n += more;
    }
    buffer_free(&both);
    json_reader_free(&reader);
    return result;
}

static enum status read_merges(struct bpe_model *model, const struct tokenizer_file *file,
                               const json_t *merges) {
    RETURN_IF(!json_is_array(merges), STATUS_DATA, "%s: model.merges is %s, expected a list of pairs",
              file->path, json_kind(merges));
    size_t n;
    TRY(walk_merges(NULL, file, &n));
    TRY(bpe_init(&model->bpe, n));
    /* About 8 bits for each pair, of which four lie in one merge at most. */
    model->neighbour_bits = 12;
    while ((size_t)1 << model->neighbour_bits < 8 * n)
        model->neighbour_bits++;
    model->neighbours = calloc(((size_t)1 << model->neighbour_bits) / 64, sizeof *model->neighbours);
    RETURN_IF(!model->neighbours, STATUS_INTERNAL, "out of host memory for %zu merges", n);
    return walk_merges(model, file, &n);
}

/* ---- options
 * ----------------------------------------------------------------------------------------------- */

static enum status read_unknown(struct bpe_model *model, const struct component *component) {
    model->unk_id = -1;
    if (component_is_absent(json_object_get(component->object, "unk_token")))
        return STATUS_OK;
    const char *token;
    size_t size;
    TRY(component_require_string(component, "unk_token", &token, &size));
    /* One that is not in the vocabulary is an error of the record that needs it. */
    model->unk_id = vocab_find(model->vocab, token, size);
    return STATUS_OK;
}

static enum status refuse_options(const struct component *component) {
    const json_t *dropout = json_object_get(component->object, "dropout");
    RETURN_IF(
        !component_is_absent(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0),
        STATUS_DATA,
        "%s: model.dropout is set; a tokenizer that draws random merges is not supported (expected null)",
        component->path);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(component->object, affixes[i]);
        RETURN_IF(!component_is_absent(affix) && !(json_is_string(affix) && json_string_length(affix) == 0),
                  STATUS_DATA, "%s: model.%s is set, which is not supported; expected null", component->path,
                  affixes[i]);
    }
    return STATUS_OK;
}

enum status bpe_model_read(struct bpe_model *model, const struct component *component,
                           const struct tokenizer_file *file, const struct vocab *vocab, bool is_byte_level) {
    model->vocab = vocab;
    model->is_byte_level = is_byte_level;
    TRY(refuse_options(component));
    TRY(component_read_bool(component, "byte_fallback", false, &model->byte_fallback));
    TRY(component_read_bool(component, "fuse_unk", false, &model->fuse_unk));
    TRY(component_read_bool(component, "ignore_merges", false, &model->ignore_merges));
    TRY(read_symbols(model));
    TRY(read_merges(model, file, json_object_get(component->object, "merges")));
    return read_unknown(model, component);
}
