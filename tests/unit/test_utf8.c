/* utf8: every code point, every kind of damage, and the U+FFFD rule; sets of characters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/text/unicode_class.h"
#include "worker/text/utf8.h"

static bool is_surrogate(uint32_t code_point) {
    return code_point >= 0xD800 && code_point <= 0xDFFF;
}

static void test_every_code_point(void **state) {
    (void)state;
    for (uint32_t code_point = 0; code_point <= LAST_CODE_POINT; code_point++) {
        char text[4];
        size_t size = utf8_put(code_point, text);
        uint32_t found = UINT32_MAX;
        size_t length = utf8_next(text, size, &found);
        if (is_surrogate(code_point)) {
            assert_int_equal(length, 0);
            continue;
        }
        assert_int_equal(length, size);
        assert_int_equal(found, code_point);
        char behind[9] = "\xC3\xA9\xE6\xBC\xA2"; /* other characters in front of it */
        memcpy(behind + 5, text, size);
        assert_int_equal(utf8_last(behind, 5 + size, &found), 5);
        assert_int_equal(found, code_point);
        assert_int_equal(utf8_last(text, size, &found), 0);
        for (size_t cut = 1; cut < size; cut++) { /* every beginning of it is cut, none is invalid */
            assert_int_equal(utf8_scan(text, cut, &length, NULL), UTF8_CUT);
            assert_int_equal(length, cut);
            assert_int_equal(utf8_next(text, cut, NULL), 0);
        }
    }
}

/* What one U+FFFD stands for (the Unicode Standard, table 3-8 and its neighbours). */
static void test_maximal_subparts(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t size;
        enum utf8_kind kind;
        size_t length;
    } rows[] = {
        {"\x80", 1, UTF8_INVALID, 1},             /* a lone continuation */
        {"\xC0\x80", 2, UTF8_INVALID, 1},         /* overlong NUL */
        {"\xC1\xBF", 2, UTF8_INVALID, 1},         /* overlong */
        {"\xE0\x80\x80", 3, UTF8_INVALID, 1},     /* overlong */
        {"\xE0\x9F\xBF", 3, UTF8_INVALID, 1},     /* overlong */
        {"\xED\xA0\x80", 3, UTF8_INVALID, 1},     /* a surrogate */
        {"\xF0\x8F\xBF\xBF", 4, UTF8_INVALID, 1}, /* overlong */
        {"\xF4\x90\x80\x80", 4, UTF8_INVALID, 1}, /* above U+10FFFF */
        {"\xF5\x80\x80\x80", 4, UTF8_INVALID, 1},
        {"\xFF", 1, UTF8_INVALID, 1},
        {"\xE1\x80"
         "A",
         3, UTF8_INVALID, 2},
        {"\xF1\x80\x80\xE1", 4, UTF8_INVALID, 3},
        {"\xF1\x80\x80", 3, UTF8_CUT, 3},
        {"\xC3", 1, UTF8_CUT, 1},
        {"\xC3\xA9", 2, UTF8_CHARACTER, 2},
        {"", 1, UTF8_CHARACTER, 1}, /* NUL is a character */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t length = 0;
        assert_int_equal(utf8_scan(rows[i].text, rows[i].size, &length, NULL), rows[i].kind);
        assert_int_equal(length, rows[i].length);
    }
}

/* The first bad byte is found wherever it lies, in particular around the eight bytes looked at together. */
static void test_valid_finds_the_place(void **state) {
    (void)state;
    enum { SIZE = 40 };
    char text[SIZE];
    for (size_t bad = 0; bad < SIZE; bad++) {
        memset(text, 'a', sizeof text);
        assert_true(utf8_valid(text, sizeof text, NULL));
        text[bad] = '\xFF';
        size_t offset = SIZE;
        assert_false(utf8_valid(text, sizeof text, &offset));
        assert_int_equal(offset, bad);
        text[bad] = '\xE2'; /* the beginning of a character, and then another */
        assert_false(utf8_valid(text, sizeof text, &offset));
        assert_int_equal(offset, bad);
    }
    assert_true(utf8_valid("", 0, NULL));
    assert_true(utf8_valid("h\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 10, NULL));
    size_t offset = 0;
    assert_false(utf8_valid("h\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98", 9, &offset));
    assert_int_equal(offset, 6);
}

/* The shortcut for ASCII says what the generated table says. */
static void test_classes(void **state) {
    (void)state;
    static const struct {
        struct code_ranges (*set)(void);
        uint32_t in[4];
        uint32_t out[4];
    } rows[] = {
        {unicode_space, {'\t', ' ', 0x85, 0x3000}, {'a', 0x200B, 0x180E, 0xFEFF}},
        {unicode_word, {'_', 'z', 0x301, 0x4E00}, {'-', ' ', 0x200D, 0xB2}},
        {unicode_lone_word, {0xB2, 0xB3, 0xB9, 0xBC}, {'1', 0xB4, 0xBB, 0x2070}},
        {unicode_crate_word, {'_', 'z', 0x301, 0x200D}, {'-', ' ', 0xB2, 0x1F600}},
        {unicode_numeric, {'0', 0x660, 0xBD, 0x2167}, {'a', 0x301, 0x4E00, '-'}},
        {unicode_punctuation, {'!', '~', 0x3001, 0xBF}, {'a', ' ', 0x2044, 0xA2}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct code_ranges set = rows[i].set();
        for (size_t j = 0; j < set.n; j++) {
            assert_true(set.ranges[j].first <= set.ranges[j].last);
            assert_true(j == 0 || set.ranges[j].first > set.ranges[j - 1].last + 1);
        }
        for (int j = 0; j < 4; j++) {
            assert_true(code_ranges_contain(set, rows[i].in[j]));
            assert_false(code_ranges_contain(set, rows[i].out[j]));
        }
    }
    uint32_t same[4], lower[2];
    assert_int_equal(unicode_fold_class('s', same), 3); /* S, s and the long s */
    assert_int_equal(same[2], 0x17F);
    assert_int_equal(unicode_fold_class('1', same), 1);
    assert_int_equal(unicode_lowercase(0x130, lower), 2);
    assert_int_equal(unicode_lowercase(0x416, lower), 1);
    assert_int_equal(lower[0], 0x436);
    unicode_lowercase(0x436, lower);
    assert_int_equal(lower[0], 0x436);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_maximal_subparts),
        cmocka_unit_test(test_valid_finds_the_place),
        cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests_name("utf8", tests, NULL, NULL);
}
