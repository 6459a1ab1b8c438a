/* What stands behind struct tokenizer. Private to worker/text/tokenizer*.c. */
#ifndef PRESSRUN_WORKER_TEXT_TOKENIZER_INTERNAL_H
#define PRESSRUN_WORKER_TEXT_TOKENIZER_INTERNAL_H

#include <jansson.h>

#include "worker/text/added_tokens.h"
#include "worker/text/bpe.h"
#include "worker/text/tokenizer.h"
#include "worker/text/vocab.h"

struct tokenizer {
    struct vocab vocab;        /* token strings as tokenizer.json writes them, added tokens included */
    struct vocab_entry *shown; /* [vocab.n_ids] per id: what the decoder shows, in shown_bytes */
    struct buffer shown_bytes;
    struct bpe bpe;
    struct added_tokens added;
    int32_t next_added_id; /* while reading: for an added token that model.vocab lacks */
    int32_t symbol[256];   /* id of a byte's symbol (byte-level), or of an ASCII character; -1 none */
    int32_t unk_id;        /* -1: a character outside the vocabulary is an error */
    bool fuse_unk;
    bool ignore_merges; /* a piece that is a token is taken whole */
    bool is_byte_level; /* pre-tokenizer */
    bool use_regex;
    bool add_prefix_space;
    char description[160];
};

struct tokenizer_scratch {
    struct bpe_scratch bpe;
    struct buffer text;  /* a stretch with its prefix space */
    struct buffer piece; /* a piece in the byte-level alphabet */
};

/* Fills tokenizer from the parsed file; `path` stands in messages. STATUS_DATA. */
enum status tokenizer_read(struct tokenizer *tokenizer, const char *path, const json_t *root);

#endif
