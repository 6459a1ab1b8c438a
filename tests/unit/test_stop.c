/* stop: matches across the pieces in which text arrives, beside a search that looks at everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/text/stop.h"

static struct text_span span(const char *text) {
    return (struct text_span){(char *)(uintptr_t)text, strlen(text)};
}

static void test_rows(void **state) {
    (void)state;
    static const struct {
        const char *stop[3];
        const char *text;
        size_t from;
        long begin; /* -1: no match */
    } rows[] = {
        {{"END"}, "say END now", 0, 4},
        {{"END"}, "say EN", 0, -1},
        {{"END"}, "say END", 6, 4},   /* completed by the last byte */
        {{"END"}, "say END", 7, -1},  /* was searched before */
        {{"END"}, "END END", 3, 4},   /* only the second ends behind 3 */
        {{"b", "abc"}, "xabc", 0, 1}, /* the earlier beginning, not the earlier end */
        {{"abc", "ab"}, "xabc", 0, 1},
        {{"abc", "ab"}, "xab", 0, 1},
        {{""}, "text", 0, -1},
        {{"longer than the text"}, "text", 0, -1},
        {{"\n\n"}, "a\n\n\nb", 0, 1},
        {{"aa"}, "aaa", 2, 1},
        {{"x"}, "", 0, -1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct text_span stop[3];
        int n = 0;
        while (n < 3 && rows[i].stop[n]) {
            stop[n] = span(rows[i].stop[n]);
            n++;
        }
        size_t begin = 99;
        bool found = stop_find(stop, n, rows[i].text, strlen(rows[i].text), rows[i].from, &begin);
        assert_int_equal(found, rows[i].begin >= 0);
        if (found)
            assert_int_equal(begin, rows[i].begin);
    }
}

static void test_nul_is_a_byte(void **state) {
    (void)state;
    struct text_span stop = {"\0x", 2};
    size_t begin;
    assert_true(stop_find(&stop, 1, "a\0\0xb", 5, 0, &begin));
    assert_int_equal(begin, 2);
}

static void test_held_back(void **state) {
    (void)state;
    struct text_span stop[] = {span("\n\nROMEO"), span("END")};
    assert_int_equal(stop_held_back(stop, 2, "word", 4), 0);
    assert_int_equal(stop_held_back(stop, 2, "word\n", 5), 1);
    assert_int_equal(stop_held_back(stop, 2, "word\n\n", 6), 2);
    assert_int_equal(stop_held_back(stop, 2, "\n\n\n", 3), 2);
    assert_int_equal(stop_held_back(stop, 2, "\n\nROME", 6), 6);
    assert_int_equal(stop_held_back(stop, 2, "\n\nROMEX", 7), 0);
    assert_int_equal(stop_held_back(stop, 2, "\n\nROMEN", 7), 2); /* of the other string */
    assert_int_equal(stop_held_back(stop, 2, "xE", 2), 1);
    assert_int_equal(stop_held_back(stop, 2, "", 0), 0);
    assert_int_equal(stop_held_back(stop, 0, "END", 3), 0);
    struct text_span doubled = span("abab");
    assert_int_equal(stop_held_back(&doubled, 1, "xaba", 4), 3);
}

/* Text over two letters arrives in random pieces; the first match that is reported, and what is held back,
 * agree with a search of the whole. Nothing that was let go is part of a later match. */
static void test_random_pieces(void **state) {
    (void)state;
    enum { ROUNDS = 20000, MAX_TEXT = 24 };
    srand(7);
    for (int round = 0; round < ROUNDS; round++) {
        char text[MAX_TEXT], words[2][6];
        struct text_span stop[2];
        size_t size = 1 + (size_t)rand() % MAX_TEXT;
        for (size_t i = 0; i < size; i++)
            text[i] = (char)('a' + rand() % 2);
        for (int s = 0; s < 2; s++) {
            stop[s] = (struct text_span){words[s], 1 + (size_t)rand() % 5};
            for (size_t i = 0; i < stop[s].size; i++)
                words[s][i] = (char)('a' + rand() % 2);
        }
        size_t have = 0, let_go = 0, begin;
        while (have < size) {
            size_t more = 1 + (size_t)rand() % 4, from = have;
            have = have + more < size ? have + more : size;
            bool found = stop_find(stop, 2, text, have, from, &begin);
            /* The naive search: the earliest place where a string lies within what has arrived. */
            bool expected = false;
            size_t expected_begin = 0;
            for (size_t at = 0; at < have && !expected; at++)
                for (int s = 0; s < 2; s++)
                    if (at + stop[s].size <= have && memcmp(text + at, words[s], stop[s].size) == 0) {
                        expected = true;
                        expected_begin = at;
                    }
            assert_int_equal(found, expected);
            if (found) {
                assert_int_equal(begin, expected_begin);
                assert_true(begin >= let_go);
                break;
            }
            let_go = have - stop_held_back(stop, 2, text, have);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_nul_is_a_byte),
        cmocka_unit_test(test_held_back),
        cmocka_unit_test(test_random_pieces),
    };
    return cmocka_run_group_tests_name("stop", tests, NULL, NULL);
}
