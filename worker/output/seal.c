#include "worker/output/seal.h"

#include <assert.h>
#include <string.h>

/* ID1, ID2, CM deflate, FLG FEXTRA alone, MTIME none, XFL fastest, OS unknown. Gzip readers ignore flips in
 * most of these, so they are constants here and compared. */
static const uint8_t gzip_header[SEAL_GZIP_BYTES] = {0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 4, 255};

/* Offsets within a member. */
enum {
    AT_XLEN = 10,
    AT_SUBFIELD_ID = 12,
    AT_SUBFIELD_LEN = 14,
    AT_VERSION = 16,
    AT_KIND = 17,
    AT_RESERVED = 18,
    AT_IDENTITY_BYTES = 20,
    AT_MEMBER_BYTES = 24,
    AT_TEXT_BYTES = 32,
    AT_FIRST_RECORD = 40,
    AT_N_RECORDS = 48,
    AT_COUNTS = 56,
    AT_IDENTITY = 104,
    AT_INPUT = 120,
    AT_PREVIOUS = 136,
    AT_HASH = SEAL_HASH_OFFSET,
    HASH_BYTES = 16,
    N_COUNTS = 6
};

static_assert(AT_COUNTS + 8 * N_COUNTS == AT_IDENTITY, "counts fill their place");
static_assert(AT_HASH + HASH_BYTES == SEAL_HEADER_BYTES, "the hash ends the seal");

static void pack_u16(uint8_t *out, uint32_t value) {
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

static uint32_t unpack_u16(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

void seal_pack_u32(uint8_t *out, uint32_t value) {
    pack_u16(out, value & 0xffff);
    pack_u16(out + 2, value >> 16);
}

uint32_t seal_unpack_u32(const uint8_t *bytes) {
    return unpack_u16(bytes) | unpack_u16(bytes + 2) << 16;
}

static void pack_u64(uint8_t *out, uint64_t value) {
    seal_pack_u32(out, (uint32_t)value);
    seal_pack_u32(out + 4, (uint32_t)(value >> 32));
}

static uint64_t unpack_u64(const uint8_t *bytes) {
    return (uint64_t)seal_unpack_u32(bytes) | (uint64_t)seal_unpack_u32(bytes + 4) << 32;
}

static struct hash128 unpack_hash(const uint8_t *bytes) {
    struct hash128 hash;
    memcpy(hash.bytes, bytes, sizeof hash.bytes);
    return hash;
}

static bool hash_is_zero(struct hash128 hash) {
    return hash128_equal(hash, (struct hash128){{0}});
}

void seal_pack(const struct seal *seal, uint8_t *out) {
    const struct output_counts *counts = &seal->counts;
    const int64_t values[N_COUNTS] = {counts->n_records,     counts->n_lines,           counts->n_errors,
                                      counts->prompt_tokens, counts->completion_tokens, counts->n_members};
    uint32_t extra_bytes = SEAL_HEADER_BYTES - AT_SUBFIELD_ID + seal->identity_bytes;
    memcpy(out, gzip_header, sizeof gzip_header);
    pack_u16(out + AT_XLEN, extra_bytes);
    out[AT_SUBFIELD_ID] = 'P';
    out[AT_SUBFIELD_ID + 1] = 'R';
    pack_u16(out + AT_SUBFIELD_LEN, extra_bytes - 4);
    out[AT_VERSION] = SEAL_VERSION;
    out[AT_KIND] = (uint8_t)seal->kind;
    pack_u16(out + AT_RESERVED, 0);
    seal_pack_u32(out + AT_IDENTITY_BYTES, seal->identity_bytes);
    pack_u64(out + AT_MEMBER_BYTES, seal->member_bytes);
    pack_u64(out + AT_TEXT_BYTES, seal->text_bytes);
    pack_u64(out + AT_FIRST_RECORD, (uint64_t)seal->first_record);
    pack_u64(out + AT_N_RECORDS, (uint64_t)seal->n_records);
    for (int i = 0; i < N_COUNTS; i++)
        pack_u64(out + AT_COUNTS + 8 * i, (uint64_t)values[i]);
    memcpy(out + AT_IDENTITY, seal->identity.bytes, HASH_BYTES);
    memcpy(out + AT_INPUT, seal->input.bytes, HASH_BYTES);
    memcpy(out + AT_PREVIOUS, seal->previous.bytes, HASH_BYTES);
}

/* Over the bytes before the hash and, chained, those behind it. */
static struct hash128 member_hash(const uint8_t *member, uint64_t member_bytes) {
    return hash128_chain(hash128_of(member, AT_HASH), member + SEAL_HEADER_BYTES,
                         (size_t)(member_bytes - SEAL_HEADER_BYTES));
}

void seal_finish(struct seal *seal, uint8_t *member) {
    seal_pack(seal, member);
    seal->hash = member_hash(member, seal->member_bytes);
    memcpy(member + AT_HASH, seal->hash.bytes, HASH_BYTES);
}

bool seal_check(const struct seal *seal, const uint8_t *member) {
    return hash128_equal(seal->hash, member_hash(member, seal->member_bytes));
}

/* Counts are written as int64_t and never negative. */
static bool unpack_count(const uint8_t *bytes, int64_t *out) {
    uint64_t value = unpack_u64(bytes);
    *out = (int64_t)value;
    return value <= INT64_MAX;
}

const char *seal_parse(const uint8_t *bytes, size_t size, uint64_t remaining, struct seal *out) {
    if (size < SEAL_HEADER_BYTES || remaining < SEAL_MIN_BYTES)
        return "a member is cut in its header";
    if (memcmp(bytes, gzip_header, sizeof gzip_header) != 0)
        return "no gzip member as pressrun writes it starts here";
    if (bytes[AT_SUBFIELD_ID] != 'P' || bytes[AT_SUBFIELD_ID + 1] != 'R')
        return "the gzip member has no seal";
    if (bytes[AT_VERSION] != SEAL_VERSION)
        return "the seal's version is unknown";
    if (bytes[AT_KIND] > SEAL_TOTALS || unpack_u16(bytes + AT_RESERVED) != 0)
        return "the seal's kind is unknown";

    uint32_t identity_bytes = seal_unpack_u32(bytes + AT_IDENTITY_BYTES);
    if (identity_bytes > SEAL_IDENTITY_MAX || (identity_bytes > 0 && bytes[AT_KIND] != SEAL_HEAD))
        return "the seal's identity text is longer than allowed";
    uint32_t extra_bytes = SEAL_HEADER_BYTES - AT_SUBFIELD_ID + identity_bytes;
    if (unpack_u16(bytes + AT_XLEN) != extra_bytes || unpack_u16(bytes + AT_SUBFIELD_LEN) != extra_bytes - 4)
        return "the length of the gzip extra field is wrong";

    out->kind = (enum seal_kind)bytes[AT_KIND];
    out->identity_bytes = identity_bytes;
    out->member_bytes = unpack_u64(bytes + AT_MEMBER_BYTES);
    out->text_bytes = unpack_u64(bytes + AT_TEXT_BYTES);
    if (out->member_bytes < (uint64_t)SEAL_MIN_BYTES + identity_bytes)
        return "the member's length is wrong";
    if (out->member_bytes > remaining)
        return "a member is cut";

    struct output_counts *counts = &out->counts;
    int64_t *const values[N_COUNTS] = {&counts->n_records,         &counts->n_lines,
                                       &counts->n_errors,          &counts->prompt_tokens,
                                       &counts->completion_tokens, &counts->n_members};
    bool good = unpack_count(bytes + AT_FIRST_RECORD, &out->first_record) &&
                unpack_count(bytes + AT_N_RECORDS, &out->n_records);
    for (int i = 0; i < N_COUNTS; i++)
        good = unpack_count(bytes + AT_COUNTS + 8 * i, values[i]) && good;
    if (!good)
        return "a count in the seal is out of range";
    out->identity = unpack_hash(bytes + AT_IDENTITY);
    out->input = unpack_hash(bytes + AT_INPUT);
    out->previous = unpack_hash(bytes + AT_PREVIOUS);
    out->hash = unpack_hash(bytes + AT_HASH);
    return NULL;
}

static const char *head_fits(const struct seal *seal) {
    const struct output_counts *counts = &seal->counts;
    bool empty = seal->first_record == 0 && seal->n_records == 0 && seal->text_bytes == 0 &&
                 counts->n_records == 0 && counts->n_lines == 0 && counts->n_errors == 0 &&
                 counts->prompt_tokens == 0 && counts->completion_tokens == 0 && counts->n_members == 0;
    if (seal->kind != SEAL_HEAD)
        return "the file does not start with a head member";
    if (!empty || !hash_is_zero(seal->previous) || !hash_is_zero(seal->input))
        return "the head member counts records";
    return NULL;
}

static const char *totals_fit(const struct seal *previous, const struct seal *seal) {
    const struct output_counts *a = &previous->counts, *b = &seal->counts;
    bool same = a->n_records == b->n_records && a->n_lines == b->n_lines && a->n_errors == b->n_errors &&
                a->prompt_tokens == b->prompt_tokens && a->completion_tokens == b->completion_tokens &&
                a->n_members == b->n_members;
    if (!same || seal->n_records != 0 || seal->text_bytes != 0 ||
        !hash128_equal(seal->input, previous->input))
        return "the totals differ from the seal before";
    return NULL;
}

static const char *records_fit(const struct seal *previous, const struct seal *seal) {
    /* No count is negative, so a sum below INT64_MAX is compared by subtraction. */
    const struct output_counts *a = &previous->counts, *b = &seal->counts;
    int64_t n_records = b->n_records - a->n_records;
    int64_t n_lines = b->n_lines - a->n_lines;
    int64_t n_errors = b->n_errors - a->n_errors;
    if (seal->n_records < 1 || n_records != seal->n_records || n_lines < n_records || n_errors < 0 ||
        n_errors > n_records || b->n_members - a->n_members != 1 || b->prompt_tokens < a->prompt_tokens ||
        b->completion_tokens < a->completion_tokens)
        return "the seal's counts do not go on from the seal before";
    return NULL;
}

const char *seal_follows(const struct seal *previous, const struct seal *seal) {
    if (!previous)
        return head_fits(seal);
    if (previous->kind == SEAL_TOTALS)
        return "a member follows behind the totals";
    if (seal->kind == SEAL_HEAD)
        return "a second head member";
    if (!hash128_equal(seal->identity, previous->identity))
        return "the seal is of another identity than the seal before";
    if (!hash128_equal(seal->previous, previous->hash))
        return "the seal does not continue the chain of seals";
    if (seal->first_record != previous->counts.n_records)
        return "the seal's first record does not go on from the seal before";
    return seal->kind == SEAL_TOTALS ? totals_fit(previous, seal) : records_fit(previous, seal);
}
