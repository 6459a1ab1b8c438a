/* tokenizer: tokenizer.json (Hugging Face tokenizers format) -> token ids and back. Immutable after loading,
 * so all threads share it; per-call scratch is the caller's.
 *
 * The way of a text: added tokens that are looked for in the text as it is (added_tokens), normalizer, added
 * tokens that are looked for in normalised text, pre_tokenizer, bpe_model, post_processor. The way back:
 * decoder, and detokenizer, which lets the text grow. The model is BPE. Every component that is not known is
 * refused by its name, never ignored. */
#ifndef PRESSRUN_WORKER_TEXT_TOKENIZER_H
#define PRESSRUN_WORKER_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/buffer.h"
#include "worker/text/detokenizer.h"
#include "worker/text/token_list.h"

struct tokenizer;
struct tokenizer_scratch; /* per thread */

/* Loads folder/tokenizer.json. STATUS_DATA names file and component. */
enum status tokenizer_open(const char *folder, struct tokenizer **out);
void tokenizer_close(struct tokenizer *tokenizer);
int32_t tokenizer_n_vocab(const struct tokenizer *tokenizer); /* largest id + 1 */
/* One line for `inspect`: "BPE, 1,000 tokens, 743 merges; pre-tokenizer ByteLevel; …". Points into the
 * tokenizer. */
const char *tokenizer_description(const struct tokenizer *tokenizer);

enum status tokenizer_scratch_new(const struct tokenizer *tokenizer, struct tokenizer_scratch **out);
void tokenizer_scratch_free(struct tokenizer_scratch *scratch);

/* Appends the ids of text (valid UTF-8) to out, with the special tokens that the post-processor puts around a
 * text; added and special tokens that stand in the text are recognised. STATUS_RECORD: a character that the
 * vocabulary lacks (named as U+XXXX with its byte offset), invalid UTF-8 (byte offset), a pattern that gives
 * up. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                             const char *text, size_t size, struct token_list *out);

/* How many special tokens tokenizer_encode puts in front of every text, and behind it. */
void tokenizer_n_around(const struct tokenizer *tokenizer, int32_t *n_before, int32_t *n_behind);

/* Bytes of one token as the decoder shows them (before any UTF-8 repair across tokens). NULL and size 0 for
 * an id outside the vocabulary (models round their vocabulary up). Special tokens have *is_special true; they
 * are left out of the text of a record. */
const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *size,
                                  bool *is_special);

#endif
