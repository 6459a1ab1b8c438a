#include "worker/text/vocab.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "worker/text/quote.h"

void vocab_free(struct vocab *vocab) {
    free(vocab->entries);
    free(vocab->slots);
    buffer_free(&vocab->bytes);
    *vocab = (struct vocab){0};
}

static void insert(struct vocab *vocab, int32_t id) {
    const struct vocab_entry *entry = &vocab->entries[id];
    size_t slot = XXH3_64bits(vocab->bytes.data + entry->begin, entry->size) & (vocab->n_slots - 1);
    while (vocab->slots[slot] >= 0)
        slot = (slot + 1) & (vocab->n_slots - 1);
    vocab->slots[slot] = id;
}

/* Keeps the table at most half full. */
static enum status grow_slots(struct vocab *vocab) {
    if ((size_t)vocab->n_tokens * 2 < vocab->n_slots)
        return STATUS_OK;
    size_t n_slots = vocab->n_slots ? vocab->n_slots * 2 : 1024;
    int32_t *slots = malloc(n_slots * sizeof *slots);
    RETURN_IF(!slots, STATUS_INTERNAL, "out of host memory for a vocabulary of %d tokens",
              (int)vocab->n_tokens);
    memset(slots, 0xFF, n_slots * sizeof *slots); /* all -1 */
    free(vocab->slots);
    vocab->slots = slots;
    vocab->n_slots = n_slots;
    for (int32_t id = 0; id < vocab->n_ids; id++) {
        if (vocab->entries[id].exists)
            insert(vocab, id);
    }
    return STATUS_OK;
}

static enum status grow_entries(struct vocab *vocab, int32_t id) {
    if (id < vocab->capacity)
        return STATUS_OK;
    int32_t capacity = vocab->capacity ? vocab->capacity : 1024;
    while (capacity <= id)
        capacity *= 2;
    struct vocab_entry *entries = realloc(vocab->entries, (size_t)capacity * sizeof *entries);
    RETURN_IF(!entries, STATUS_INTERNAL, "out of host memory for a vocabulary of %d ids", (int)capacity);
    memset(entries + vocab->capacity, 0, (size_t)(capacity - vocab->capacity) * sizeof *entries);
    vocab->entries = entries;
    vocab->capacity = capacity;
    return STATUS_OK;
}

enum status vocab_add(struct vocab *vocab, const char *token, size_t size, int64_t id) {
    char shown[QUOTE_BYTES], shown_other[QUOTE_BYTES];
    RETURN_IF(id < 0 || id > MAX_TOKEN_ID, STATUS_DATA, "token %s has the id %lld, allowed are 0 to %d",
              quote(token, size, shown), (long long)id, (int)MAX_TOKEN_ID);
    RETURN_IF(size > UINT32_MAX, STATUS_DATA, "token %lld: string of %zu bytes", (long long)id, size);
    size_t other_size;
    const char *other = vocab_token(vocab, (int32_t)id, &other_size);
    RETURN_IF(other, STATUS_DATA, "tokens %s and %s both have the id %lld",
              quote(other, other_size, shown_other), quote(token, size, shown), (long long)id);
    int32_t other_id = vocab_find(vocab, token, size);
    RETURN_IF(other_id >= 0, STATUS_DATA, "token %s has two ids, %d and %lld", quote(token, size, shown),
              (int)other_id, (long long)id);
    TRY(grow_entries(vocab, (int32_t)id));
    TRY(grow_slots(vocab));
    struct vocab_entry *entry = &vocab->entries[id];
    entry->begin = vocab->bytes.size;
    entry->size = (uint32_t)size;
    TRY(buffer_append(&vocab->bytes, token, size));
    TRY(buffer_append_byte(&vocab->bytes, '\0')); /* so that an empty token has an address too */
    entry->exists = true;
    if (id >= vocab->n_ids)
        vocab->n_ids = (int32_t)id + 1;
    vocab->n_tokens++;
    insert(vocab, (int32_t)id);
    return STATUS_OK;
}

int32_t vocab_find(const struct vocab *vocab, const char *token, size_t size) {
    if (vocab->n_slots == 0)
        return -1;
    size_t slot = XXH3_64bits(token, size) & (vocab->n_slots - 1);
    for (; vocab->slots[slot] >= 0; slot = (slot + 1) & (vocab->n_slots - 1)) {
        const struct vocab_entry *entry = &vocab->entries[vocab->slots[slot]];
        if (entry->size == size && memcmp(vocab->bytes.data + entry->begin, token, size) == 0)
            return vocab->slots[slot];
    }
    return -1;
}

const char *vocab_token(const struct vocab *vocab, int32_t id, size_t *size) {
    *size = 0;
    if (id < 0 || id >= vocab->n_ids || !vocab->entries[id].exists)
        return NULL;
    *size = vocab->entries[id].size;
    return vocab->bytes.data + vocab->entries[id].begin;
}
