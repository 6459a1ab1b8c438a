/* vocab: token strings and their ids, both ways. Immutable once filled. */
#ifndef PRESSRUN_WORKER_TEXT_VOCAB_H
#define PRESSRUN_WORKER_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"
#include "worker/base/buffer.h"

/* Ids decide how much memory a vocabulary takes, so they are bounded: 16 times today's largest. */
enum { MAX_TOKEN_ID = (1 << 22) - 1 };

struct vocab_entry {
    size_t begin; /* in `bytes` */
    uint32_t size;
    bool exists;
    bool is_special;
    bool is_added; /* not in the model's own vocabulary */
};

/* Zero-initialised is empty. */
struct vocab {
    struct vocab_entry *entries; /* [n_ids] by id; holes do not exist */
    int32_t n_ids;               /* largest id + 1 */
    int32_t capacity;
    int32_t n_tokens;
    struct buffer bytes; /* all token strings, one behind another */
    int32_t *slots; /* [n_slots] open-addressing hash of ids by string, -1 free; n_slots a power of two */
    size_t n_slots;
};

void vocab_free(struct vocab *vocab);
/* Adds a token. STATUS_DATA when the id is out of range, or id or string are taken already (another token is
 * named). */
enum status vocab_add(struct vocab *vocab, const char *token, size_t size, int64_t id);
/* The id of a string, or -1. */
int32_t vocab_find(const struct vocab *vocab, const char *token, size_t size);
/* The string of an id; NULL outside the vocabulary and in its holes. */
const char *vocab_token(const struct vocab *vocab, int32_t id, size_t *size);

#endif
