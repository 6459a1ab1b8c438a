/* philox: the published test vectors, and the range of the uniforms. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/philox.h"

/* Philox4x32-10 with the whole counter, after the paper. */
static void reference(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k[2] = {key[0], key[1]};
    for (int round = 0; round < 10; round++) {
        uint64_t p = (uint64_t)c[0] * 0xD2511F53u, q = (uint64_t)c[2] * 0xCD9E8D57u;
        uint32_t next[4] = {(uint32_t)(q >> 32) ^ c[1] ^ k[0], (uint32_t)q, (uint32_t)(p >> 32) ^ c[3] ^ k[1],
                            (uint32_t)p};
        for (int i = 0; i < 4; i++)
            c[i] = next[i];
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

/* The known answers that come with the authors' Random123 1.14. */
static void reference_gives_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } answers[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        uint32_t out[4];
        reference(answers[i].counter, answers[i].key, out);
        assert_memory_equal(out, answers[i].out, sizeof out);
    }
}

static void word_is_the_reference(void **state) {
    (void)state;
    assert_int_equal(philox_word(0, 0, 0), 0x6627e8d5);
    uint64_t key = 0x0123456789abcdefu;
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t index = i * 50021u, position = i * i, out[4];
        reference((uint32_t[4]){index / 4, position, 0, 0},
                  (uint32_t[2]){(uint32_t)key, (uint32_t)(key >> 32)}, out);
        assert_int_equal(philox_word(key, position, index), out[index % 4]);
        key = key * 6364136223846793005u + 1442695040888963407u;
    }
}

static void uniform_stays_inside(void **state) {
    (void)state;
    assert_true(philox_uniform(0) == 0x1p-33f);
    assert_true(philox_uniform(UINT32_MAX) == 1.0f - 0x1p-24f);
    assert_true(philox_uniform(UINT32_MAX - 300) < 1.0f);
    float last = 0.0f;
    for (uint64_t word = 0; word <= UINT32_MAX; word += 99991) {
        float u = philox_uniform((uint32_t)word);
        assert_true(u > 0.0f && u < 1.0f && u >= last);
        last = u;
    }
}

static void uniform_is_uniform(void **state) {
    (void)state;
    enum { N = 200000, BINS = 64 };
    int counts[BINS] = {0};
    for (uint32_t i = 0; i < N; i++)
        counts[(int)(philox_uniform(philox_word(42, i / 500, i % 500)) * BINS)]++;
    double chi_square = 0.0, expected = (double)N / BINS;
    for (int i = 0; i < BINS; i++)
        chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    /* 63 degrees of freedom: beyond 122 once in 100,000 keys, and this key is fixed. */
    assert_true(chi_square < 122.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_gives_known_answers),
        cmocka_unit_test(word_is_the_reference),
        cmocka_unit_test(uniform_stays_inside),
        cmocka_unit_test(uniform_is_uniform),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
