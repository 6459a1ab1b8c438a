/* token_decoder: the component of tokenizer.json that makes text of token strings: ByteLevel, ByteFallback,
 * Fuse, Replace, Strip, Metaspace and a Sequence of them. Immutable once read.
 *
 * What a decoder does falls into three parts, which is what lets text grow token by token: each token's
 * string is rewritten by itself (Replace, Strip, Metaspace); then tokens become bytes (ByteLevel: all of
 * them, ByteFallback: those like "<0x0A>"); then they are one text (Fuse), from whose beginning something may
 * be cut (Strip). A Sequence in another order is refused. */
#ifndef PRESSRUN_WORKER_TEXT_TOKEN_DECODER_H
#define PRESSRUN_WORKER_TEXT_TOKEN_DECODER_H

#include "worker/text/component.h"

enum { DECODER_MAX_STEPS = 8 };

enum token_decoder_bytes { DECODER_TEXT, DECODER_BYTE_LEVEL, DECODER_BYTE_FALLBACK };

struct token_decoder_step;

struct token_decoder {
    struct token_decoder_step *steps; /* [n_steps] what is done to each token */
    size_t n_steps;
    enum token_decoder_bytes bytes;
    bool is_fused;         /* while reading */
    bool first_differs;    /* some step looks at whether a token is the first of the text */
    size_t n_strip;        /* at most so many … */
    char strip_content[5]; /* … of this character are cut from the beginning of the text */
    struct buffer names;   /* for descriptions */
};

/* STATUS_DATA, also where there is no decoder. */
enum status token_decoder_read(struct token_decoder *decoder, const struct component *component);
void token_decoder_free(struct token_decoder *decoder);

/* Memory of token_decoder_show; zero-initialised. */
struct token_decoder_scratch {
    struct buffer texts[2];
    struct regex_search *search;
};
void token_decoder_scratch_free(struct token_decoder_scratch *scratch);

/* What a token's string becomes. *out points into scratch, or to the token, until the next call. *is_byte:
 * the token is one byte of a character (ByteFallback), which *out is then. */
enum status token_decoder_show(const struct token_decoder *decoder, struct token_decoder_scratch *scratch,
                               bool is_first, const char *token, size_t size, const char **out,
                               size_t *out_size, bool *is_byte);

#endif
