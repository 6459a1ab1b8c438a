/* Seals: the layout byte by byte, every flipped bit, every cut, and which seal may follow which. */
#include "tests/unit/output_fixture.h"

static struct output_counts counts_of(int64_t n) {
    return (struct output_counts){.n_records = n,
                                  .n_lines = 2 * n,
                                  .n_errors = n / 3,
                                  .prompt_tokens = 5 * n,
                                  .completion_tokens = 7 * n,
                                  .n_members = n / 2};
}

/* A head member with its identity text, or a member of records with some bytes as its data. */
static struct seal make_member(enum seal_kind kind, const char *identity, uint8_t *member, size_t *size) {
    size_t identity_bytes = strlen(identity);
    struct seal seal = {.kind = kind,
                        .identity_bytes = (uint32_t)identity_bytes,
                        .text_bytes = 0x123456,
                        .first_record = 0x0102030405060708,
                        .n_records = 4,
                        .counts = counts_of(1000),
                        .identity = hash128_of("i", 1),
                        .input = hash128_of("n", 1),
                        .previous = hash128_of("p", 1)};
    memcpy(member + SEAL_HEADER_BYTES, identity, identity_bytes);
    size_t data = SEAL_HEADER_BYTES + identity_bytes;
    for (size_t i = 0; i < 30; i++)
        member[data + i] = (uint8_t)(i * 37);
    *size = seal.member_bytes = data + 30;
    seal_finish(&seal, member);
    return seal;
}

static void test_layout(void **state) {
    (void)state;
    static const uint8_t start[24] = {0x1f, 0x8b, 8,   4, 0, 0, 0, 0, 4, 255, 156 + 4, 0,
                                      'P',  'R',  156, 0, 1, 0, 0, 0, 4, 0,   0,       0};
    uint8_t member[300];
    size_t size;
    struct seal seal = make_member(SEAL_HEAD, "a=1\n", member, &size);
    assert_memory_equal(member, start, sizeof start);
    static const uint8_t member_bytes[8] = {202, 0, 0, 0, 0, 0, 0, 0};
    assert_memory_equal(member + 24, member_bytes, 8);
    static const uint8_t text_bytes[8] = {0x56, 0x34, 0x12, 0, 0, 0, 0, 0};
    assert_memory_equal(member + 32, text_bytes, 8);
    static const uint8_t first_record[8] = {8, 7, 6, 5, 4, 3, 2, 1};
    assert_memory_equal(member + 40, first_record, 8);
    for (int i = 0; i < 6; i++) {
        const int64_t values[] = {1000, 2000, 333, 5000, 7000, 500};
        assert_int_equal(member[56 + 8 * i], values[i] & 255);
        assert_int_equal(member[57 + 8 * i], values[i] >> 8);
    }
    assert_memory_equal(member + 104, seal.identity.bytes, 16);
    assert_memory_equal(member + 120, seal.input.bytes, 16);
    assert_memory_equal(member + 136, seal.previous.bytes, 16);
    assert_memory_equal(member + 152, seal.hash.bytes, 16);
    assert_memory_equal(member + 168, "a=1\n", 4);
}

static void test_round_trip(void **state) {
    (void)state;
    uint8_t member[300];
    size_t size;
    struct seal seal = make_member(SEAL_RECORDS, "", member, &size), parsed;
    assert_null(seal_parse(member, size, size, &parsed));
    assert_true(seal_check(&parsed, member));
    assert_int_equal(parsed.kind, SEAL_RECORDS);
    assert_int_equal(parsed.member_bytes, size);
    assert_int_equal(parsed.text_bytes, seal.text_bytes);
    assert_int_equal(parsed.first_record, seal.first_record);
    assert_int_equal(parsed.n_records, 4);
    assert_memory_equal(&parsed.counts, &seal.counts, sizeof seal.counts);
    assert_true(hash128_equal(parsed.identity, seal.identity));
    assert_true(hash128_equal(parsed.input, seal.input));
    assert_true(hash128_equal(parsed.previous, seal.previous));
    assert_true(hash128_equal(parsed.hash, seal.hash));
    /* A header alone is enough to parse, wherever the rest of the file ends behind it. */
    assert_null(seal_parse(member, SEAL_HEADER_BYTES, size + 1000, &parsed));
}

static void test_every_flipped_bit_is_found(void **state) {
    (void)state;
    uint8_t member[300];
    size_t size;
    for (int kind = SEAL_HEAD; kind <= SEAL_RECORDS; kind++) {
        make_member((enum seal_kind)kind, kind == SEAL_HEAD ? "a=1\nb=2\n" : "", member, &size);
        for (size_t bit = 0; bit < 8 * size; bit++) {
            struct seal parsed;
            member[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (!seal_parse(member, size, size, &parsed) && seal_check(&parsed, member))
                fail_msg("bit %d of byte %d passes", (int)(bit % 8), (int)(bit / 8));
            member[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

/* Gzip readers let most of these pass; here each is refused even where the hash fits. */
static void test_fixed_bytes(void **state) {
    (void)state;
    uint8_t member[300];
    size_t size;
    struct seal parsed;
    make_member(SEAL_RECORDS, "", member, &size);
    for (size_t bit = 0; bit < 8 * 24; bit++) {
        bool is_other_kind =
            bit >= 8 * 17 && bit < 8 * 17 + 2; /* records made head or totals: seal_follows */
        member[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (!seal_parse(member, size, size, &parsed) && !(is_other_kind && parsed.kind != SEAL_RECORDS))
            fail_msg("bit %d of byte %d passes", (int)(bit % 8), (int)(bit / 8));
        member[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void test_every_cut_is_found(void **state) {
    (void)state;
    uint8_t member[300];
    size_t size;
    struct seal parsed;
    make_member(SEAL_HEAD, "a=1\n", member, &size);
    for (size_t cut = 0; cut < size; cut++)
        assert_non_null(seal_parse(member, cut, cut, &parsed));
    assert_null(seal_parse(member, size, size, &parsed));
}

static void test_bounds(void **state) {
    (void)state;
    uint8_t member[300];
    size_t size;
    struct seal parsed, seal = make_member(SEAL_RECORDS, "", member, &size);
    const uint64_t bad[] = {0, 1, SEAL_MIN_BYTES - 1, size + 1, (uint64_t)1 << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct seal other = seal;
        other.member_bytes = bad[i];
        seal_pack(&other, member);
        assert_non_null(seal_parse(member, size, size, &parsed));
    }
    struct seal other = seal;
    other.counts.n_errors = -1;
    seal_pack(&other, member);
    assert_non_null(seal_parse(member, size, size, &parsed));
    other = seal;
    other.n_records = -5;
    seal_pack(&other, member);
    assert_non_null(seal_parse(member, size, size, &parsed));
    /* An identity text belongs to the head, and must leave room for the rest of the member. */
    other = seal;
    other.identity_bytes = 4;
    seal_pack(&other, member);
    assert_non_null(seal_parse(member, size, size, &parsed));
    other.kind = SEAL_HEAD;
    other.identity_bytes = 40;
    seal_pack(&other, member);
    assert_non_null(seal_parse(member, size, size, &parsed));
    seal_pack(&seal, member);
    assert_null(seal_parse(member, size, size, &parsed));
}

/* The three seals of a good little file. */
static void good_chain(struct seal *head, struct seal *records, struct seal *totals) {
    *head = (struct seal){.kind = SEAL_HEAD, .identity = hash128_of("i", 1), .hash = hash128_of("1", 1)};
    *records = (struct seal){.kind = SEAL_RECORDS,
                             .text_bytes = 10,
                             .n_records = 3,
                             .counts = {3, 4, 1, 9, 9, 1},
                             .identity = head->identity,
                             .input = hash128_of("n", 1),
                             .previous = head->hash,
                             .hash = hash128_of("2", 1)};
    *totals = *records;
    totals->kind = SEAL_TOTALS;
    totals->text_bytes = 0;
    totals->n_records = 0;
    totals->first_record = 3;
    totals->previous = records->hash;
}

static void test_what_may_follow(void **state) {
    (void)state;
    struct seal head, records, totals, bad;
    good_chain(&head, &records, &totals);
    assert_null(seal_follows(NULL, &head));
    assert_null(seal_follows(&head, &records));
    assert_null(seal_follows(&records, &totals));
    struct seal empty = head;
    empty.kind = SEAL_TOTALS;
    empty.previous = head.hash;
    assert_null(seal_follows(&head, &empty));

    assert_non_null(seal_follows(NULL, &records));
    assert_non_null(seal_follows(NULL, &totals));
    assert_non_null(seal_follows(&head, &head));
    assert_non_null(seal_follows(&totals, &records));
    assert_non_null(seal_follows(&totals, &totals));
#define REFUSED(previous, good, change)                                                                      \
    do {                                                                                                     \
        bad = (good);                                                                                        \
        bad.change;                                                                                          \
        if (!seal_follows((previous), &bad))                                                                 \
            fail_msg("passes: " #change);                                                                    \
    } while (0)
    REFUSED(NULL, head, counts.n_records = 1);
    REFUSED(NULL, head, counts.n_members = 1);
    REFUSED(NULL, head, text_bytes = 1);
    REFUSED(NULL, head, previous.bytes[3] = 1);
    REFUSED(NULL, head, input.bytes[3] = 1);
    REFUSED(&head, records, identity.bytes[0] ^= 1);
    REFUSED(&head, records, previous.bytes[15] ^= 1);
    REFUSED(&head, records, first_record = 1);
    REFUSED(&head, records, n_records = 0);
    REFUSED(&head, records, n_records = 2);
    REFUSED(&head, records, counts.n_records = 4);
    REFUSED(&head, records, counts.n_lines = 2);
    REFUSED(&head, records, counts.n_errors = 4);
    REFUSED(&head, records, counts.n_members = 2);
    REFUSED(&records, totals, counts.n_lines = 5);
    REFUSED(&records, totals, counts.prompt_tokens = 8);
    REFUSED(&records, totals, n_records = 1);
    REFUSED(&records, totals, text_bytes = 1);
    REFUSED(&records, totals, input.bytes[0] ^= 1);
    REFUSED(&records, totals, first_record = 2);
#undef REFUSED
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_flipped_bit_is_found),
        cmocka_unit_test(test_fixed_bytes),
        cmocka_unit_test(test_every_cut_is_found),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_what_may_follow),
    };
    return cmocka_run_group_tests_name("seal", tests, NULL, NULL);
}
