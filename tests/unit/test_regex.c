/* regex: patterns mean what the reference's engine takes them to mean (the rows are what tokenizers 0.23
 * gives), and what is not supported is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/base/buffer.h"
#include "worker/text/regex.h"

/* Matches that are not empty, separated by '|'. */
static const struct {
    const char *pattern;
    const char *text;
    const char *matches;
} rows[] = {
    {"\\w+",
     "a\xC2\xBD\xC2\xB2_\xC3\xA9"
     "1-\xE6\xBC\xA2",
     "a\xC2\xBD\xC2\xB2_\xC3\xA9"
     "1|\xE6\xBC\xA2"},
    {"[\\w]+",
     "a\xC2\xBD\xC2\xB2_\xC3\xA9"
     "1-\xE6\xBC\xA2",
     "a|_\xC3\xA9"
     "1|\xE6\xBC\xA2"},
    {"\\W", "a-\xC2\xBD b", "-| "},
    {"[^\\W\\d]+", "ab12c_", "ab|c_"},
    {"\\h+", "12afgAFG", "12af|AF"},
    {"\\s",
     "a\xC2\x85\xE3\x80\x80 \xE2\x80\x8B"
     "b",
     "\xC2\x85|\xE3\x80\x80| "},
    {".", "a\nb", "a|b"},
    {"(?m:.)+", "a\nb", "a\nb"},
    {"^.", "ab\ncd", "a|c"},
    {".$", "ab\ncd\n", "b|d"},
    {".\\Z", "ab\n", "b"},
    {".\\z", "ab\n", ""},
    {"\\A.", "ab\ncd", "a"},
    {"\\bthe\\b", "the then the", "the|the"},
    {"\\Bb", "ab b", "b"},
    {"a(?i)b|c", "aB C c ac", "aB|ac"},
    {"(?i:k)", "kK\xE2\x84\xAAx", "k|K|\xE2\x84\xAA"},
    {"(?i:'s)", "'s'S'\xC5\xBF's", "'s|'S|'\xC5\xBF|'s"},
    {"(?i:\xCF\x83)+", "\xCE\xA3\xCF\x83\xCF\x82\xCE\xA4", "\xCE\xA3\xCF\x83\xCF\x82"},
    {"(?>a+)b", "aaab", "aaab"},
    {"a++b", "aab", "aab"},
    {"a{,2}b", "aaab", "aab"},
    {"a{2}", "aaaaa", "aa|aa"},
    {"a{1,2}?", "aaa", "a|a|a"},
    {"(?<=\\n).", "a\nb", "b"},
    {"(?<!a)b", "ab cb", "b"},
    {"(?<n>a)b", "abab", "ab|ab"},
    {"[a-f[0-3]]+", "afg03 4", "af|03"},
    {"[^a-z[^0-9]]+", "ab12", "12"},
    {"\\p{Lu}\\p{Ll}*",
     "Ab C\xC3\x89 \xC3\xA9"
     "a",
     "Ab|C|\xC3\x89"},
    {"\\p{^L}+", "a12b", "12"},
    {"\\P{^N}", "a1\xC2\xBD", "1|\xC2\xBD"},
    {"[\\p{M}]+", "e\xCC\x81\xCC\x82x", "\xCC\x81\xCC\x82"},
    {"\\x61|\\x{6F22}|\\u5b57", "a\xE6\xBC\xA2\xE5\xAD\x97", "a|\xE6\xBC\xA2|\xE5\xAD\x97"},
    {"[-a]+", "a-b-", "a-|-"},
    {"[\\s\\S]", "a\n", "a|\n"},
    {"x*", "axxb", "xx"},
    {"a|", "ba", "a"},
    {"\\t|\\n|\\e|\\a", "\t\n\x1B\x07", "\t|\n|\x1B|\x07"},
    {"[\\x{10000}-\\x{10FFFF}]+",
     "a\xF0\x9F\x98\x80\xF0\x9F\x8C\x88"
     "b",
     "\xF0\x9F\x98\x80\xF0\x9F\x8C\x88"},
    {"\\p{Cn}+",
     "a\xCD\xB8\xF0\xBF\xBF\xBF"
     "b",
     "\xCD\xB8\xF0\xBF\xBF\xBF"},
    {"(?:a|b|\\s){2,3}", "ab ab", "ab |ab"},
    {"[.\\]\\-]+", "a.]-b", ".]-"},
};

static void test_rows(void **state) {
    (void)state;
    struct regex_search *search;
    assert_int_equal(regex_search_new(&search), STATUS_OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct regex *regex;
        struct buffer matches = {0};
        if (regex_compile(rows[i].pattern, strlen(rows[i].pattern), &regex) != STATUS_OK)
            fail_msg("%s %s", rows[i].pattern, status_message());
        assert_int_equal(regex_begin(regex, search, rows[i].text, strlen(rows[i].text)), STATUS_OK);
        for (;;) {
            size_t begin, end;
            bool found;
            assert_int_equal(regex_next(regex, search, &begin, &end, &found), STATUS_OK);
            if (!found)
                break;
            if (begin < end && matches.size > 0)
                assert_int_equal(buffer_append_byte(&matches, '|'), STATUS_OK);
            assert_int_equal(buffer_append(&matches, rows[i].text + begin, end - begin), STATUS_OK);
        }
        assert_int_equal(buffer_terminate(&matches), STATUS_OK);
        if (strcmp(matches.data, rows[i].matches) != 0)
            fail_msg("%s in \"%s\" matches \"%s\", expected \"%s\"", rows[i].pattern, rows[i].text,
                     matches.data, rows[i].matches);
        buffer_free(&matches);
        regex_free(regex);
    }
    regex_search_free(search);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *pattern;
        const char *message; /* a part of it */
    } refused[] = {
        {"(a)\\1", "at character 4: '\\1' is not supported"},
        {"\xC3\xA9\\R", "at character 2: '\\R' is not supported"},
        {"\\p{Han}", "'\\p{Han}' is not supported"},
        {"\\p{L", "'\\p{' is not supported"},
        {"\\pL", "'\\pL' is not supported"},
        {"[[:alpha:]]", "'[:' is not supported"},
        {"[a&&b]", "'&&' is not supported"},
        {"[]a]", "a class that begins with ']' is not supported"},
        {"[a", "has a class without an end"},
        {"[z-a]", "a range whose end is before its beginning is not supported"},
        {"[\\d-z]", "a range that begins with a class is not supported"},
        {"[a-c-e]", "a hyphen in the middle of a class, without a backslash, is not supported"},
        {"(?i:[a-z])", "a class under the flag i is not supported"},
        {"(?i:\\w)", "a class of letters under the flag i is not supported"},
        {"(?i:st)", "a character that folds to several, under the flag i, is not supported"},
        {"(?i:\xC3\x9F)", "a character that folds to several, under the flag i, is not supported"},
        {"(?x: a)", "'(?x' is not supported"},
        {"(?#a)", "a comment is not supported"},
        {"(?~a)", "'(?~' is not supported"},
        {"(a", "has a group without an end"},
        {"a)", "a ')' that closes nothing is not supported"},
        {"*a", "a quantifier with nothing before it is not supported"},
        {"a**", "a quantifier behind a quantifier is not supported"},
        {"^*", "a quantifier behind what has no width is not supported"},
        {"a{2}+", "'{2}+' is not supported"},
        {"a{2}?", "'{2}?' is not supported"},
        {"a{3,2}", "a brace that begins no {n}, {n,}, {n,m} or {,m} is not supported"},
        {"a{99999}", "more than 65535 repetitions is not supported"},
        {"\\x{110000}", "is not supported"},
        {"\\uD800", "is not supported"},
        {"\\xE9", "is not supported"},
        {"\\q", "'\\q' is not supported"},
        {"a\\", "ends with a backslash"},
        {"(?<=a+)b", "is not supported: lookbehind assertion is not fixed length"},
        {"a\xFF", "is not valid UTF-8"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct regex *regex;
        assert_int_equal(regex_compile(refused[i].pattern, strlen(refused[i].pattern), &regex), STATUS_DATA);
        assert_null(regex);
        if (!strstr(status_message(), refused[i].message))
            fail_msg("%s: \"%s\", expected \"%s\"", refused[i].pattern, status_message(), refused[i].message);
    }
}

/* More sets of characters than there are bytes. */
static void test_too_many_kinds(void **state) {
    (void)state;
    struct buffer pattern = {0};
    struct regex *regex;
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(buffer_printf(&pattern, "\\x{%X}", 0x4E00 + i), STATUS_OK);
    assert_int_equal(regex_compile(pattern.data, pattern.size, &regex), STATUS_DATA);
    assert_non_null(strstr(status_message(), "more than 250 different sets of characters"));
    buffer_free(&pattern);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_too_many_kinds),
    };
    return cmocka_run_group_tests_name("regex", tests, NULL, NULL);
}
