#include "worker/base/hash.h"

#include <stdio.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* shows the size of XXH3_state_t, for the stack */
#include <xxhash.h>

static struct hash128 from_xxh(XXH128_hash_t value) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, value);
    struct hash128 out;
    memcpy(out.bytes, canonical.digest, sizeof out.bytes);
    return out;
}

struct hash128 hash128_of(const void *data, size_t size) {
    return from_xxh(XXH3_128bits(data, size));
}

struct hash128 hash128_chain(struct hash128 previous, const void *data, size_t size) {
    /* The state is 64-byte aligned and large; it lives on the stack of the caller's thread. */
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, previous.bytes, sizeof previous.bytes);
    XXH3_128bits_update(&state, data, size);
    return from_xxh(XXH3_128bits_digest(&state));
}

/* struct hash128_pieces is the library's state under the name that the header gives it. */
struct hash128_pieces *hash128_begin(void) {
    XXH3_state_t *state = XXH3_createState();
    if (state)
        XXH3_128bits_reset(state);
    return (struct hash128_pieces *)state;
}

void hash128_add(struct hash128_pieces *pieces, const void *data, size_t size) {
    XXH3_128bits_update((XXH3_state_t *)pieces, data, size);
}

struct hash128 hash128_end(struct hash128_pieces *pieces) {
    XXH3_state_t *state = (XXH3_state_t *)pieces;
    struct hash128 hash = from_xxh(XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return hash;
}

bool hash128_equal(struct hash128 a, struct hash128 b) {
    return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

void hash128_text(struct hash128 hash, char out[HASH128_TEXT_BYTES]) {
    for (size_t i = 0; i < sizeof hash.bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", hash.bytes[i]);
}
