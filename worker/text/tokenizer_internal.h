/* What stands behind struct tokenizer. Private to worker/text/tokenizer*.c and detokenizer.c. */
#ifndef PRESSRUN_WORKER_TEXT_TOKENIZER_INTERNAL_H
#define PRESSRUN_WORKER_TEXT_TOKENIZER_INTERNAL_H

#include "worker/text/added_tokens.h"
#include "worker/text/bpe_model.h"
#include "worker/text/token_decoder.h"
#include "worker/text/normalizer.h"
#include "worker/text/post_processor.h"
#include "worker/text/pre_tokenizer.h"
#include "worker/text/tokenizer.h"
#include "worker/text/tokenizer_file.h"
#include "worker/text/vocab.h"

/* What the decoder makes of a token, in shown_bytes. */
struct shown_token {
    size_t begin;
    uint32_t size;
    bool exists;
    bool is_special;
    bool is_byte; /* one byte of a character */
};

struct tokenizer {
    struct vocab vocab; /* token strings as tokenizer.json writes them, added tokens included */
    struct added_tokens added;
    struct normalizer normalizer;
    struct pre_tokenizer pre_tokenizer;
    struct bpe_model model;
    struct post_processor post_processor;
    struct token_decoder decoder;
    struct shown_token *shown;       /* [vocab.n_ids] */
    struct shown_token *shown_first; /* [vocab.n_ids] at the beginning of a text; NULL: as anywhere */
    struct buffer shown_bytes;
    int32_t next_added_id; /* while reading: for an added token that model.vocab lacks */
    struct buffer description;
};

struct tokenizer_scratch {
    struct normalizer_scratch normalizer;
    struct pre_tokenizer_scratch pre_tokenizer;
    struct bpe_model_scratch model;
};

/* Fills tokenizer from its file. STATUS_DATA. */
enum status tokenizer_read(struct tokenizer *tokenizer, const struct tokenizer_file *file);

#endif
