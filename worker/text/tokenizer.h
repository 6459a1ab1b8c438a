/* tokenizer: tokenizer.json (Hugging Face tokenizers format) -> token ids and back. Immutable after loading,
 * so all threads share it; per-call scratch is the caller's.
 *
 * This release: BPE with or without merges; ByteLevel pre-tokenizer and decoder, Fuse decoder; added tokens.
 * Every other component is refused by its name, never ignored. */
#ifndef PRESSRUN_WORKER_TEXT_TOKENIZER_H
#define PRESSRUN_WORKER_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/buffer.h"

struct tokenizer;
struct tokenizer_scratch; /* per thread */

/* Loads folder/tokenizer.json. STATUS_DATA names file and component. */
enum status tokenizer_open(const char *folder, struct tokenizer **out);
void tokenizer_close(struct tokenizer *tokenizer);
int32_t tokenizer_n_vocab(const struct tokenizer *tokenizer); /* largest id + 1 */
/* One line for `inspect`: "BPE, 1,000 tokens, 743 merges, ByteLevel". Points into the tokenizer. */
const char *tokenizer_description(const struct tokenizer *tokenizer);

enum status tokenizer_scratch_new(const struct tokenizer *tokenizer, struct tokenizer_scratch **out);
void tokenizer_scratch_free(struct tokenizer_scratch *scratch);

struct token_list { /* owned by the caller; reused between calls */
    int32_t *ids;
    size_t n;
    size_t capacity;
};
void token_list_free(struct token_list *list);

/* Appends the ids of text (valid UTF-8) to out. STATUS_RECORD: a character that the vocabulary lacks (named
 * as U+XXXX with its byte offset), invalid UTF-8 (byte offset). */
enum status tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                             const char *text, size_t size, struct token_list *out);

/* Bytes of one token as the decoder shows them (before any UTF-8 repair across tokens). NULL and size 0 for
 * an id outside the vocabulary (models round their vocabulary up). Special tokens have *is_special true; they
 * are left out of the text of a record. */
const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *size,
                                  bool *is_special);

/* Incremental detokenization: appends the text of further tokens, holding back bytes that are no whole UTF-8
 * character yet. What can be none any more becomes U+FFFD, one for each maximal subpart, and so does, at
 * finish, what is still held back: all in all the same text as the reference decodes from all ids at once.
 * Ids outside the vocabulary and special tokens show nothing. Zero-initialised; after finish ready for the
 * next text. */
struct detokenizer {
    char pending[4];
    uint8_t n_pending;
};
enum status detokenizer_add(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, int32_t id,
                            struct buffer *text);
enum status detokenizer_finish(struct detokenizer *detokenizer, struct buffer *text);

#endif
