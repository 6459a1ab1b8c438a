/* seal: the gzip member that the output file is made of, and the seal in its header (layout byte by byte:
 * docs/output.md). A member is
 *
 *     gzip header (RFC 1952), 10 fixed bytes | XLEN | 'P' 'R' | LEN | seal, 152 bytes | identity text (head
 *     only) | deflate data | CRC32 | ISIZE
 *
 * and its last seal field is a hash over every other byte of the member, so that no flipped bit passes.
 * Fixed bytes are compared, all numbers are little-endian and packed one by one. Pure functions. */
#ifndef PRESSRUN_WORKER_OUTPUT_SEAL_H
#define PRESSRUN_WORKER_OUTPUT_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/hash.h"

enum seal_kind {
    SEAL_HEAD = 0,    /* first member: empty text; carries the identity text */
    SEAL_RECORDS = 1, /* at least one whole record */
    SEAL_TOTALS = 2   /* last member: empty text; the file is complete */
};

enum {
    SEAL_VERSION = 1,
    SEAL_GZIP_BYTES = 10, /* the fixed start of each member */
    SEAL_HASH_OFFSET = 152,
    SEAL_HEADER_BYTES = 168, /* gzip header, extra field and seal, without identity text */
    SEAL_TRAILER_BYTES = 8,  /* CRC32 and ISIZE */
    SEAL_MIN_BYTES = SEAL_HEADER_BYTES + 2 + SEAL_TRAILER_BYTES,
    SEAL_IDENTITY_MAX = 65535 - (SEAL_HEADER_BYTES - 12), /* what XLEN leaves for the identity text */
    SEAL_HEAD_MAX = SEAL_HEADER_BYTES + SEAL_IDENTITY_MAX + 2 + SEAL_TRAILER_BYTES
};

/* What the seals count, cumulative from the first record. */
struct output_counts {
    int64_t n_records;         /* input lines answered */
    int64_t n_lines;           /* JSON lines */
    int64_t n_errors;          /* records that failed */
    int64_t prompt_tokens;     /* each record's once */
    int64_t completion_tokens; /* of all samples */
    int64_t n_members;         /* sealed, with records */
};

struct seal {
    enum seal_kind kind;
    uint32_t identity_bytes; /* identity text behind the seal; head only */
    uint64_t member_bytes;   /* the whole member, from ID1 to ISIZE */
    uint64_t text_bytes;     /* of this member, uncompressed */
    int64_t first_record;    /* 0-based index among the records of the file */
    int64_t n_records;       /* of this member */
    struct output_counts counts;
    struct hash128 identity;
    struct hash128 input;    /* chain over the input lines up to the last record; zeros before the first */
    struct hash128 previous; /* hash of the previous member's seal; zeros in the head */
    struct hash128 hash;     /* of all other bytes of the member; set by seal_finish */
};

/* Writes header and seal (all but the hash) to out[SEAL_HEADER_BYTES]. */
void seal_pack(const struct seal *seal, uint8_t *out);

/* Completes a member whose bytes are all in place except header and hash: packs the seal, computes the hash,
 * writes it into the member and to seal->hash. seal->member_bytes is the member's size. */
void seal_finish(struct seal *seal, uint8_t *member);

/* Reads header and seal from the first `size` bytes of a member (SEAL_HEADER_BYTES are needed), of which
 * `remaining` bytes are there in the file. Checks every fixed byte and each bound. NULL when good, else the
 * reason (static text). */
const char *seal_parse(const uint8_t *bytes, size_t size, uint64_t remaining, struct seal *out);

/* True when the hash of member[0..seal->member_bytes) is the one in the seal. */
bool seal_check(const struct seal *seal, const uint8_t *member);

/* Checks that `seal` may follow `previous` (NULL: at the start of the file): kinds, chain, record index and
 * counts. NULL when good, else the reason (static text). */
const char *seal_follows(const struct seal *previous, const struct seal *seal);

/* Little-endian, for the trailer. */
void seal_pack_u32(uint8_t *out, uint32_t value);
uint32_t seal_unpack_u32(const uint8_t *bytes);

#endif
