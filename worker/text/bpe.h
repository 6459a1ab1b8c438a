/* bpe: byte-pair merges over token ids (Sennrich et al. 2016): of all neighbouring pairs the one that was
 * learned first is merged first, the leftmost where several are equal, until none is left. Immutable once
 * filled. */
#ifndef PRESSRUN_WORKER_TEXT_BPE_H
#define PRESSRUN_WORKER_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"

struct bpe_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: free */
    uint32_t rank; /* line of the merge list, from 0 */
    int32_t id;    /* what the pair becomes */
};

/* Zero-initialised is empty. */
struct bpe {
    struct bpe_merge *merges; /* [1 << n_bits] open addressing, at most half full */
    int n_bits;
    uint32_t n_merges; /* pairs that are in the table */
};

enum status bpe_init(struct bpe *bpe, size_t n_merges); /* room for n_merges pairs */
void bpe_free(struct bpe *bpe);
/* A pair that comes again takes the later rank, as the reference has it. */
void bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);

/* Memory of bpe_apply, kept between calls; zero-initialised. */
struct bpe_scratch {
    uint32_t *ranks;  /* [capacity] of the pair that begins at a symbol */
    uint32_t *next;   /* [capacity] index of the symbol to the right */
    uint32_t *before; /* [capacity] index of the symbol to the left */
    uint64_t *heap;   /* [3 capacity] rank << 32 | index */
    size_t capacity;
};
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Merges ids[0..n) in place; *n becomes the number of tokens. At most O(n log n). */
enum status bpe_apply(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t *ids, size_t *n);

#endif
