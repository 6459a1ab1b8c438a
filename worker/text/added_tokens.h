/* added_tokens: the tokens of tokenizer.json that are found in the text before anything else is done to it
 * ("<|endoftext|>"), leftmost first, the longest where several begin at one place. Immutable once filled. */
#ifndef PRESSRUN_WORKER_TEXT_ADDED_TOKENS_H
#define PRESSRUN_WORKER_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"

struct added_token {
    char *content; /* owned; never empty */
    size_t size;
    int32_t id;
    bool lstrip;      /* takes the white space to its left with it */
    bool rstrip;      /* … and to its right */
    bool single_word; /* not found within a word */
    bool normalized;  /* looked for in normalised text: after all those that are not */
};

enum { ADDED_TOKEN_PASSES = 2 };

/* Zero-initialised is empty. */
struct added_tokens {
    struct added_token
        *tokens; /* [n], in passes: those not normalised first; in order of bytes within a pass */
    size_t n;
    size_t capacity;
    /* Per pass, the tokens that begin with a byte: [first[byte], first[byte + 1]). */
    size_t first[ADDED_TOKEN_PASSES][257];
};

void added_tokens_free(struct added_tokens *added);
/* Takes a copy of content. */
enum status added_tokens_add(struct added_tokens *added, const struct added_token *token);
/* To be called once, behind the last added_tokens_add. */
void added_tokens_seal(struct added_tokens *added);

/* One stretch of text: an added token (id >= 0), or text between them (id -1). */
struct added_match {
    size_t begin;
    size_t end;
    int32_t id;
};

/* Finds the next added token of a pass in text[0..size) from `from` on. *search_end is where the search for
 * the one behind it begins (its last byte's end, before rstrip). `taken` is the end of the stretch before,
 * which lstrip must leave alone. False when there is none. */
bool added_tokens_find(const struct added_tokens *added, int pass, const char *text, size_t size, size_t from,
                       size_t taken, struct added_match *match, size_t *search_end);

#endif
