#include "worker/text/bpe.h"

#include <stdlib.h>
#include <string.h>

enum {
    NO_MERGE = -1,
    SHORT_PIECE = 48 /* symbols up to which scanning for the best pair is faster than a heap (measured) */
};

static const uint32_t NO_RANK = UINT32_MAX;
static const uint32_t NO_INDEX = UINT32_MAX;

enum status bpe_init(struct bpe *bpe, size_t n_merges) {
    *bpe = (struct bpe){0};
    RETURN_IF(n_merges > (size_t)1 << 28, STATUS_DATA, "%zu merges, allowed are %d", n_merges, 1 << 28);
    int n_bits = 1;
    while ((size_t)1 << n_bits < 2 * n_merges)
        n_bits++;
    bpe->merges = malloc(sizeof *bpe->merges << n_bits);
    RETURN_IF(!bpe->merges, STATUS_INTERNAL, "out of host memory for %zu merges", n_merges);
    memset(bpe->merges, 0xFF, sizeof *bpe->merges << n_bits);
    bpe->n_bits = n_bits;
    return STATUS_OK;
}

void bpe_free(struct bpe *bpe) {
    free(bpe->merges);
    *bpe = (struct bpe){0};
}

/* Where the pair is, or the free place where it belongs. Fibonacci hashing: the golden ratio's bits spread
 * small ids over the high end. */
static struct bpe_merge *find_place(const struct bpe *bpe, uint64_t pair) {
    uint64_t mixed = pair ^ pair >> 29;
    size_t mask = ((size_t)1 << bpe->n_bits) - 1;
    size_t slot = (size_t)(mixed * 0x9E3779B97F4A7C15u >> (64 - bpe->n_bits));
    while (bpe->merges[slot].pair != pair && bpe->merges[slot].pair != UINT64_MAX)
        slot = (slot + 1) & mask;
    return &bpe->merges[slot];
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    struct bpe_merge *place = find_place(bpe, pair_of(left, right));
    if (place->pair == UINT64_MAX)
        bpe->n_merges++;
    *place = (struct bpe_merge){.pair = pair_of(left, right), .rank = rank, .id = id};
}

static uint32_t rank_of(const struct bpe *bpe, int32_t left, int32_t right) {
    const struct bpe_merge *place = find_place(bpe, pair_of(left, right));
    return place->pair == UINT64_MAX ? NO_RANK : place->rank;
}

void bpe_scratch_free(struct bpe_scratch *scratch) {
    free(scratch->ranks);
    free(scratch->next);
    free(scratch->before);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

static enum status scratch_reserve(struct bpe_scratch *scratch, size_t n) {
    if (n <= scratch->capacity)
        return STATUS_OK;
    size_t capacity = n + n / 2;
    bpe_scratch_free(scratch);
    scratch->ranks = malloc(capacity * sizeof *scratch->ranks);
    scratch->next = malloc(capacity * sizeof *scratch->next);
    scratch->before = malloc(capacity * sizeof *scratch->before);
    scratch->heap = malloc(3 * capacity * sizeof *scratch->heap);
    RETURN_IF(!scratch->ranks || !scratch->next || !scratch->before || !scratch->heap, STATUS_INTERNAL,
              "out of host memory for a piece of %zu symbols", n);
    scratch->capacity = capacity;
    return STATUS_OK;
}

/* n <= SHORT_PIECE: finds the best pair by looking at all of them. */
static size_t apply_short(const struct bpe *bpe, int32_t *ids, size_t n) {
    uint32_t ranks[SHORT_PIECE];
    for (size_t i = 0; i + 1 < n; i++)
        ranks[i] = rank_of(bpe, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best])
                best = i;
        }
        if (ranks[best] == NO_RANK)
            break;
        ids[best] = find_place(bpe, pair_of(ids[best], ids[best + 1]))->id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        memmove(ranks + best, ranks + best + 1, (n - best - 1) * sizeof *ranks);
        if (best + 1 < n)
            ranks[best] = rank_of(bpe, ids[best], ids[best + 1]);
        if (best > 0)
            ranks[best - 1] = rank_of(bpe, ids[best - 1], ids[best]);
    }
    return n;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t value) {
    size_t at = (*n)++;
    while (at > 0 && heap[(at - 1) / 2] > value) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = value;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
    uint64_t least = heap[0], value = heap[--*n];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= *n)
            break;
        if (child + 1 < *n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= value)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
    return least;
}

/* Symbols in a linked list, pairs in a heap ordered by rank, then place. An entry whose pair has changed
 * since is recognised by its rank and dropped. Each merge pushes at most two entries: n + 2 (n - 1) in all.
 */
static size_t apply_long(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t *ids, size_t n) {
    uint32_t *ranks = scratch->ranks, *next = scratch->next, *before = scratch->before;
    uint64_t *heap = scratch->heap;
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        before[i] = i > 0 ? (uint32_t)(i - 1) : NO_INDEX;
        next[i] = i + 1 < n ? (uint32_t)(i + 1) : NO_INDEX;
        ranks[i] = i + 1 < n ? rank_of(bpe, ids[i], ids[i + 1]) : NO_RANK;
        if (ranks[i] != NO_RANK)
            heap_push(heap, &n_heap, (uint64_t)ranks[i] << 32 | i);
    }
    while (n_heap > 0) {
        uint64_t top = heap_pop(heap, &n_heap);
        uint32_t left = (uint32_t)top;
        if (ranks[left] != (uint32_t)(top >> 32))
            continue;
        uint32_t right = next[left];
        ids[left] = find_place(bpe, pair_of(ids[left], ids[right]))->id;
        ids[right] = NO_MERGE; /* gone */
        ranks[right] = NO_RANK;
        next[left] = next[right];
        if (next[left] != NO_INDEX)
            before[next[left]] = left;
        ranks[left] = next[left] != NO_INDEX ? rank_of(bpe, ids[left], ids[next[left]]) : NO_RANK;
        if (ranks[left] != NO_RANK)
            heap_push(heap, &n_heap, (uint64_t)ranks[left] << 32 | left);
        uint32_t previous = before[left];
        if (previous != NO_INDEX) {
            ranks[previous] = rank_of(bpe, ids[previous], ids[left]);
            if (ranks[previous] != NO_RANK)
                heap_push(heap, &n_heap, (uint64_t)ranks[previous] << 32 | previous);
        }
    }
    size_t n_left = 0;
    for (uint32_t i = 0; i != NO_INDEX; i = next[i])
        ids[n_left++] = ids[i];
    return n_left;
}

enum status bpe_apply(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t *ids, size_t *n) {
    if (bpe->n_merges == 0 || *n < 2)
        return STATUS_OK;
    if (*n <= SHORT_PIECE) {
        *n = apply_short(bpe, ids, *n);
        return STATUS_OK;
    }
    RETURN_IF(*n >= NO_INDEX, STATUS_RECORD, "a piece of %zu symbols, allowed are 4294967294", *n);
    TRY(scratch_reserve(scratch, *n));
    *n = apply_long(bpe, scratch, ids, *n);
    return STATUS_OK;
}
