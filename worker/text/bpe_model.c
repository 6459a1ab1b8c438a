#include "worker/text/bpe_model.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "worker/text/byte_level.h"
#include "worker/text/utf8.h"

enum { CACHE_WORDS = 1 << 14, CACHED_BYTES = 30, CACHED_IDS = 8 };

/* A word and its ids, in one cache line. size 0: free. */
struct cached_word {
    uint8_t size;
    uint8_t n_ids;
    char bytes[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
};
_Static_assert(sizeof(struct cached_word) == 64, "a cached word is a cache line");

void bpe_model_free(struct bpe_model *model) {
    bpe_free(&model->bpe);
    for (size_t i = 0; i < CODE_MAP_PAGES; i++)
        free(model->pages[i]);
    free(model->neighbours);
    *model = (struct bpe_model){0};
}

void bpe_model_scratch_free(struct bpe_model_scratch *scratch) {
    bpe_scratch_free(&scratch->bpe);
    buffer_free(&scratch->written);
    free(scratch->cache);
    *scratch = (struct bpe_model_scratch){0};
}

/* ---- cutting
 * ----------------------------------------------------------------------------------------------- */

static bool are_neighbours(const struct bpe_model *model, int32_t left, int32_t right) {
    size_t bit = bpe_model_neighbour_bit(model, left, right);
    return model->neighbours[bit / 64] >> bit % 64 & 1;
}

/* Appends the ids of a piece's symbols, as far as no merge can reach over a cut; *at moves behind them.
 * Characters outside the vocabulary are bytes, or unknown; where one is unknown nothing is cut, so that
 * fusing sees them all. Returns false when there is no id for the character at *at. */
static bool add_symbols(const struct bpe_model *model, const char *piece, size_t size, size_t *at,
                        int32_t *ids, size_t *n_out) {
    size_t n = 0, from = *at, length;
    int n_waiting = 0; /* unknown characters whose id is not written yet */
    bool cuts = true;  /* … at this place, if the symbols are no neighbours */
    for (size_t i = from; i < size; i += length) {
        int32_t id;
        length = 1;
        if (model->is_byte_level) {
            id = model->byte_symbol[(uint8_t)piece[i]];
        } else {
            uint32_t code_point;
            length = utf8_decode(piece + i, &code_point);
            id = bpe_model_symbol(model, code_point);
        }
        if (id >= 0) {
            if (n > 0 && cuts && !are_neighbours(model, ids[n - 1], id)) {
                *at = i;
                *n_out = n;
                return true;
            }
            if (n_waiting > 0)
                ids[n++] = model->unk_id;
            n_waiting = 0;
            cuts = true;
            ids[n++] = id;
            continue;
        }
        bool has_bytes = model->byte_fallback;
        for (size_t j = 0; has_bytes && j < length; j++)
            has_bytes = model->byte_token[(uint8_t)piece[i + j]] >= 0;
        if (has_bytes) {
            int32_t first = model->byte_token[(uint8_t)piece[i]];
            if (n > 0 && cuts && !are_neighbours(model, ids[n - 1], first)) {
                *at = i;
                *n_out = n;
                return true;
            }
            /* An unknown character before them is written behind them, as the reference does. */
            for (size_t j = 0; j < length; j++)
                ids[n++] = model->byte_token[(uint8_t)piece[i + j]];
            continue;
        }
        if (model->unk_id < 0) {
            *at = i;
            return false;
        }
        if (n_waiting > 0 && !model->fuse_unk)
            ids[n++] = model->unk_id;
        n_waiting = 1;
        cuts = false;
    }
    if (n_waiting > 0)
        ids[n++] = model->unk_id;
    *at = size;
    *n_out = n;
    return true;
}

/* ---- encoding
 * ---------------------------------------------------------------------------------------------- */

static enum status refuse_symbol(const struct bpe_model *model, const char *piece, size_t at, size_t offset) {
    char place[64];
    if (offset == SIZE_MAX)
        snprintf(place, sizeof place, "of the prompt, as it was normalised,");
    else
        snprintf(place, sizeof place, "at byte %zu of the prompt", offset + at);
    if (model->is_byte_level)
        return status_fail(STATUS_RECORD, "byte 0x%02X %s is not in the model's vocabulary",
                           (unsigned)(uint8_t)piece[at], place);
    uint32_t code_point;
    size_t length = utf8_decode(piece + at, &code_point);
    bool is_shown = code_point >= 0x20 && code_point != 0x7F;
    return status_fail(STATUS_RECORD, "character U+%04X%s%.*s%s %s is not in the model's vocabulary",
                       (unsigned)code_point, is_shown ? " (" : "", is_shown ? (int)length : 0, piece + at,
                       is_shown ? ")" : "", place);
}

/* Looks a whole piece up in the vocabulary, to which added tokens do not belong. */
static enum status find_whole(const struct bpe_model *model, struct bpe_model_scratch *scratch,
                              const char *piece, size_t size, int32_t *id) {
    if (!model->is_byte_level) {
        *id = vocab_find(model->vocab, piece, size);
    } else {
        struct buffer *written = &scratch->written;
        buffer_clear(written);
        TRY(buffer_reserve(written, 2 * size)); /* characters of the alphabet have at most two bytes */
        for (size_t i = 0; i < size; i++)
            written->size += utf8_put(byte_level_character((uint8_t)piece[i]), written->data + written->size);
        *id = vocab_find(model->vocab, written->data, written->size);
    }
    if (*id >= 0 && model->vocab->entries[*id].is_added)
        *id = -1;
    return STATUS_OK;
}

static struct cached_word *cache_place(const struct bpe_model_scratch *scratch, const char *word,
                                       size_t size) {
    return &scratch->cache[XXH3_64bits(word, size) % CACHE_WORDS];
}

static bool cache_holds(const struct cached_word *place, const char *word, size_t size) {
    return place->size == size && memcmp(place->bytes, word, size) == 0;
}

static void cache_keep(struct cached_word *place, const char *word, size_t size, const int32_t *ids,
                       size_t n) {
    if (n > CACHED_IDS)
        return;
    place->size = (uint8_t)size;
    place->n_ids = (uint8_t)n;
    memcpy(place->bytes, word, size);
    memcpy(place->ids, ids, n * sizeof *ids);
}

/* Words of a piece, each merged by itself. */
static enum status encode_words(const struct bpe_model *model, struct bpe_model_scratch *scratch,
                                const char *piece, size_t size, size_t offset, struct token_list *out) {
    for (size_t at = 0; at < size;) {
        size_t begin = at, n = 0;
        int32_t *ids = out->ids + out->n;
        if (!add_symbols(model, piece, size, &at, ids, &n))
            return refuse_symbol(model, piece, at, offset);
        size_t length = at - begin;
        /* A whole piece was looked for before; with ignore_merges it may have other ids than the same word
         * within a piece. */
        bool is_cached = length <= CACHED_BYTES && length < size && !model->ignore_merges;
        struct cached_word *place = is_cached ? cache_place(scratch, piece + begin, length) : NULL;
        if (place && cache_holds(place, piece + begin, length)) {
            memcpy(ids, place->ids, place->n_ids * sizeof *ids);
            n = place->n_ids;
        } else {
            TRY(bpe_apply(&model->bpe, &scratch->bpe, ids, &n));
            if (place)
                cache_keep(place, piece + begin, length, ids, n);
        }
        out->n += n;
    }
    return STATUS_OK;
}

enum status bpe_model_encode(const struct bpe_model *model, struct bpe_model_scratch *scratch,
                             const char *piece, size_t size, size_t offset, struct token_list *out) {
    if (!scratch->cache) {
        scratch->cache = calloc(CACHE_WORDS, sizeof *scratch->cache);
        RETURN_IF(!scratch->cache, STATUS_INTERNAL, "out of host memory");
    }
    struct cached_word *place = size <= CACHED_BYTES ? cache_place(scratch, piece, size) : NULL;
    if (place && cache_holds(place, piece, size))
        return token_list_append(out, place->ids, place->n_ids);
    TRY(token_list_reserve(out, size > CACHED_IDS ? size : CACHED_IDS)); /* a byte is at most one id */
    size_t n_before = out->n;
    int32_t whole = -1;
    if (model->ignore_merges)
        TRY(find_whole(model, scratch, piece, size, &whole));
    if (whole >= 0)
        out->ids[out->n++] = whole;
    else
        TRY(encode_words(model, scratch, piece, size, offset, out));
    if (place)
        cache_keep(place, piece, size, out->ids + n_before, out->n - n_before);
    return STATUS_OK;
}
