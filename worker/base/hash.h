/* hash: XXH3-128 as a value, and its text form. Used for fingerprints, identity, the hash of the input so far
 * and the seals. It guards against accidents, not against forgers. */
#ifndef PRESSRUN_WORKER_BASE_HASH_H
#define PRESSRUN_WORKER_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint8_t bytes[16]; /* canonical (big-endian) order */
};

enum { HASH128_TEXT_BYTES = 33 };

struct hash128 hash128_of(const void *data, size_t size);
/* Hash of a previous value followed by data: a chain over pieces. */
struct hash128 hash128_chain(struct hash128 previous, const void *data, size_t size);
/* The hash of pieces one behind the other: that of the whole. hash128_begin returns NULL when memory is out;
 * hash128_end frees. */
struct hash128_pieces;
struct hash128_pieces *hash128_begin(void);
void hash128_add(struct hash128_pieces *pieces, const void *data, size_t size);
struct hash128 hash128_end(struct hash128_pieces *pieces);
bool hash128_equal(struct hash128 a, struct hash128 b);
/* 32 lower-case hex digits and a NUL. */
void hash128_text(struct hash128 hash, char out[HASH128_TEXT_BYTES]);

#endif
