/* pre_tokenizer: the component of tokenizer.json that cuts text into the pieces that BPE sees: Split, Digits,
 * Punctuation, Whitespace, WhitespaceSplit, Metaspace, ByteLevel and a Sequence of them. Immutable once read.
 *
 * ByteLevel (Radford et al. 2019) writes each byte as a visible character of an alphabet; here pieces stay
 * bytes, and the model looks bytes up instead. So nothing may follow it in a Sequence. */
#ifndef PRESSRUN_WORKER_TEXT_PRE_TOKENIZER_H
#define PRESSRUN_WORKER_TEXT_PRE_TOKENIZER_H

#include "worker/text/component.h"

enum { PRE_TOKENIZER_MAX_STEPS = 8 };

struct pre_tokenizer_step;

struct pre_tokenizer {
    struct pre_tokenizer_step *steps; /* [n_steps] */
    size_t n_steps;
    bool is_byte_level; /* the last step is ByteLevel */
    bool rewrites;      /* pieces need not be parts of the text */
};

/* Zero-initialised has no steps: the text is one piece. STATUS_DATA. */
enum status pre_tokenizer_read(struct pre_tokenizer *pre_tokenizer, const struct component *component);
void pre_tokenizer_free(struct pre_tokenizer *pre_tokenizer);
enum status pre_tokenizer_describe(const struct pre_tokenizer *pre_tokenizer, struct buffer *out);

/* Memory of pre_tokenizer_cut; zero-initialised. */
struct pre_tokenizer_scratch {
    struct buffer texts[PRE_TOKENIZER_MAX_STEPS]; /* per step: what it has rewritten */
    struct regex_search *searches[PRE_TOKENIZER_MAX_STEPS];
};
void pre_tokenizer_scratch_free(struct pre_tokenizer_scratch *scratch);

/* Takes a piece, of at least one byte. */
typedef enum status piece_taker(void *argument, const char *piece, size_t size);

/* Hands the pieces of text (valid UTF-8) to take, in order. is_first: the text begins where the prompt
 * begins. STATUS_RECORD (a pattern that gives up), STATUS_INTERNAL, and what take returns. */
enum status pre_tokenizer_cut(const struct pre_tokenizer *pre_tokenizer,
                              struct pre_tokenizer_scratch *scratch, bool is_first, const char *text,
                              size_t size, piece_taker *take, void *argument);

#endif
