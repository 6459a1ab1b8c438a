/* detokenizer: the text of token ids that come one by one. */
#ifndef PRESSRUN_WORKER_TEXT_DETOKENIZER_H
#define PRESSRUN_WORKER_TEXT_DETOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/base/buffer.h"

struct tokenizer;

/* Appends the text of further tokens, and only what no later token can change: never half a character, and
 * all in all the same text as the reference decodes from all ids at once without special tokens.
 *
 * - Bytes that are no whole UTF-8 character yet are held back (ByteLevel). What can be none any more becomes
 *   U+FFFD, one for each maximal subpart.
 * - A row of byte tokens is held back to its end (ByteFallback): when it is not valid as a whole, each of its
 * bytes becomes U+FFFD.
 * - What the decoder cuts from the beginning of the text never shows.
 * Ids outside the vocabulary and special tokens show nothing. Zero-initialised; after finish ready for the
 * next text. */
struct detokenizer {
    const struct tokenizer *tokenizer; /* of the tokens so far; not owned */
    char pending[4];                   /* ByteLevel: the beginning of a character */
    uint8_t n_pending;
    bool has_token;      /* some token was shown: what follows is not the first */
    bool is_stripped;    /* nothing more is cut from the beginning */
    uint32_t n_stripped; /* characters cut so far */
    struct buffer run;   /* ByteFallback: bytes of the current row */
};
enum status detokenizer_add(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, int32_t id,
                            struct buffer *text);
/* Behind the last token: appends what was held back. */
enum status detokenizer_finish(struct detokenizer *detokenizer, struct buffer *text);
/* For a text that is dropped before finish. */
void detokenizer_free(struct detokenizer *detokenizer);

#endif
