/* bpe_model: the model of tokenizer.json: a piece of text -> token ids. What the characters (or, behind
 * ByteLevel, the bytes) of a piece are, which of them the vocabulary lacks, and then the merges of bpe.
 *
 * A piece is cut once more, between two symbols that no merge's result ever holds side by side: merging never
 * crosses such a place, so the ids are the same, and what is left are words, which are kept in a cache.
 * Pieces of models without a pre-tokenizer, whole prompts, are merged word by word so. Immutable once read.
 */
#ifndef PRESSRUN_WORKER_TEXT_BPE_MODEL_H
#define PRESSRUN_WORKER_TEXT_BPE_MODEL_H

#include "worker/text/bpe.h"
#include "worker/text/code_map.h"
#include "worker/text/component.h"
#include "worker/text/token_list.h"
#include "worker/text/tokenizer_file.h"
#include "worker/text/vocab.h"

struct bpe_model {
    const struct vocab *vocab; /* the tokenizer's */
    struct bpe bpe;
    bool is_byte_level; /* symbols are bytes */
    bool ignore_merges; /* a piece that is a token is taken whole */
    bool fuse_unk;
    bool byte_fallback;
    int32_t unk_id;                 /* -1: a character outside the vocabulary is an error */
    int32_t byte_symbol[256];       /* is_byte_level: id of the byte's character in the alphabet; -1 none */
    int32_t byte_token[256];        /* byte_fallback: id of "<0x41>"; -1 none */
    int32_t *pages[CODE_MAP_PAGES]; /* else: id of a character, by page of CODE_MAP_PAGE; NULL: none at all */
    /* Pairs of symbols that lie side by side in some merge's result, by hash. A bit too many costs a cut,
     * never an id. */
    uint64_t *neighbours; /* [1 << neighbour_bits] / 64 */
    int neighbour_bits;
};

/* Reads everything but the vocabulary, which must be there, without the added tokens. STATUS_DATA. */
enum status bpe_model_read(struct bpe_model *model, const struct component *component,
                           const struct tokenizer_file *file, const struct vocab *vocab, bool is_byte_level);
void bpe_model_free(struct bpe_model *model);

/* The id of a character, -1 when the vocabulary lacks it. */
static inline int32_t bpe_model_symbol(const struct bpe_model *model, uint32_t code_point) {
    const int32_t *page = model->pages[code_point / CODE_MAP_PAGE];
    return page ? page[code_point % CODE_MAP_PAGE] : -1;
}

/* The bit of a pair in neighbours. */
static inline size_t bpe_model_neighbour_bit(const struct bpe_model *model, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    pair ^= pair >> 29;
    return (size_t)(pair * 0x9E3779B97F4A7C15u >> (64 - model->neighbour_bits));
}

/* Memory of one thread; zero-initialised. */
struct bpe_model_scratch {
    struct bpe_scratch bpe;
    struct buffer written;     /* a piece in the byte-level alphabet */
    struct cached_word *cache; /* [CACHE_WORDS], direct-mapped */
};
void bpe_model_scratch_free(struct bpe_model_scratch *scratch);

/* Appends the ids of a piece. STATUS_RECORD: a character that the vocabulary lacks, named with its byte's
 * place in the prompt, which is `offset` where the piece begins; SIZE_MAX where that is not known. */
enum status bpe_model_encode(const struct bpe_model *model, struct bpe_model_scratch *scratch,
                             const char *piece, size_t size, size_t offset, struct token_list *out);

#endif
