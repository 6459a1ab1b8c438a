/* normalizer: each component, beside what the reference (tokenizers 0.23) gives; and marks in adversarial
 * order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/text/normalizer.h"

static const struct {
    const char *json;
    const char *text;
    const char *expected;
} rows[] = {
    {"{\"type\": \"NFC\"}", "plain", "plain"},
    {"{\"type\": \"NFC\"}", "e\xCC\x81 \xC3\xA9 \xEF\xAC\x81\xE2\x91\xA0",
     "\xC3\xA9 \xC3\xA9 \xEF\xAC\x81\xE2\x91\xA0"},
    {"{\"type\": \"NFC\"}", "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xEA\xB0\x81\xEA\xB0\x80\xE1\x86\xA8",
     "\xEA\xB0\x81\xEA\xB0\x81\xEA\xB0\x81"},
    {"{\"type\": \"NFC\"}", "\xC3\xA0\xCC\x80\xCC\xA3\xE3\x82\x99",
     "\xE1\xBA\xA1\xE3\x82\x99\xCC\x80\xCC\x80"},
    {"{\"type\": \"NFC\"}", "\xE2\x84\xAB\xE2\x84\xA6", "\xC3\x85\xCE\xA9"},
    {"{\"type\": \"NFC\"}",
     "\xCD\x84"
     "a\xD6\xBC\xD6\xB0",
     "\xCC\x88\xCC\x81"
     "a\xD6\xB0\xD6\xBC"},
    {"{\"type\": \"NFC\"}", "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF",
     "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF"},
    {"{\"type\": \"NFC\"}", "\xE6\xBC\xA2\xEF\xA4\x80", "\xE6\xBC\xA2\xE8\xB1\x88"},
    {"{\"type\": \"NFC\"}", "\xCC\x81", "\xCC\x81"},
    {"{\"type\": \"NFD\"}", "plain", "plain"},
    {"{\"type\": \"NFD\"}", "e\xCC\x81 \xC3\xA9 \xEF\xAC\x81\xE2\x91\xA0",
     "e\xCC\x81 e\xCC\x81 \xEF\xAC\x81\xE2\x91\xA0"},
    {"{\"type\": \"NFD\"}", "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xEA\xB0\x81\xEA\xB0\x80\xE1\x86\xA8",
     "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xE1\x84\x80\xE1\x85\xA1\xE1"
     "\x86\xA8"},
    {"{\"type\": \"NFD\"}", "\xC3\xA0\xCC\x80\xCC\xA3\xE3\x82\x99", "a\xE3\x82\x99\xCC\xA3\xCC\x80\xCC\x80"},
    {"{\"type\": \"NFD\"}", "\xE2\x84\xAB\xE2\x84\xA6", "A\xCC\x8A\xCE\xA9"},
    {"{\"type\": \"NFD\"}",
     "\xCD\x84"
     "a\xD6\xBC\xD6\xB0",
     "\xCC\x88\xCC\x81"
     "a\xD6\xB0\xD6\xBC"},
    {"{\"type\": \"NFD\"}", "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF",
     "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF"},
    {"{\"type\": \"NFD\"}", "\xE6\xBC\xA2\xEF\xA4\x80", "\xE6\xBC\xA2\xE8\xB1\x88"},
    {"{\"type\": \"NFD\"}", "\xCC\x81", "\xCC\x81"},
    {"{\"type\": \"NFKC\"}", "plain", "plain"},
    {"{\"type\": \"NFKC\"}", "e\xCC\x81 \xC3\xA9 \xEF\xAC\x81\xE2\x91\xA0", "\xC3\xA9 \xC3\xA9 fi1"},
    {"{\"type\": \"NFKC\"}", "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xEA\xB0\x81\xEA\xB0\x80\xE1\x86\xA8",
     "\xEA\xB0\x81\xEA\xB0\x81\xEA\xB0\x81"},
    {"{\"type\": \"NFKC\"}", "\xC3\xA0\xCC\x80\xCC\xA3\xE3\x82\x99",
     "\xE1\xBA\xA1\xE3\x82\x99\xCC\x80\xCC\x80"},
    {"{\"type\": \"NFKC\"}", "\xE2\x84\xAB\xE2\x84\xA6", "\xC3\x85\xCE\xA9"},
    {"{\"type\": \"NFKC\"}",
     "\xCD\x84"
     "a\xD6\xBC\xD6\xB0",
     "\xCC\x88\xCC\x81"
     "a\xD6\xB0\xD6\xBC"},
    {"{\"type\": \"NFKC\"}", "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF",
     "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF"},
    {"{\"type\": \"NFKC\"}", "\xE6\xBC\xA2\xEF\xA4\x80", "\xE6\xBC\xA2\xE8\xB1\x88"},
    {"{\"type\": \"NFKC\"}", "\xCC\x81", "\xCC\x81"},
    {"{\"type\": \"NFKD\"}", "plain", "plain"},
    {"{\"type\": \"NFKD\"}", "e\xCC\x81 \xC3\xA9 \xEF\xAC\x81\xE2\x91\xA0", "e\xCC\x81 e\xCC\x81 fi1"},
    {"{\"type\": \"NFKD\"}", "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xEA\xB0\x81\xEA\xB0\x80\xE1\x86\xA8",
     "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8\xE1\x84\x80\xE1\x85\xA1\xE1"
     "\x86\xA8"},
    {"{\"type\": \"NFKD\"}", "\xC3\xA0\xCC\x80\xCC\xA3\xE3\x82\x99", "a\xE3\x82\x99\xCC\xA3\xCC\x80\xCC\x80"},
    {"{\"type\": \"NFKD\"}", "\xE2\x84\xAB\xE2\x84\xA6", "A\xCC\x8A\xCE\xA9"},
    {"{\"type\": \"NFKD\"}",
     "\xCD\x84"
     "a\xD6\xBC\xD6\xB0",
     "\xCC\x88\xCC\x81"
     "a\xD6\xB0\xD6\xBC"},
    {"{\"type\": \"NFKD\"}", "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF",
     "\xF0\x91\xA4\xB8\xF0\x90\xA4\xB9\xE3\x8B\xBF"},
    {"{\"type\": \"NFKD\"}", "\xE6\xBC\xA2\xEF\xA4\x80", "\xE6\xBC\xA2\xE8\xB1\x88"},
    {"{\"type\": \"NFKD\"}", "\xCC\x81", "\xCC\x81"},
    {"{\"type\": \"Lowercase\"}",
     "\xC3\x80"
     "BC \xC4\xB0I \xC3\x9F \xCE\x91\xCE\xA3 \xC7\x85 \xE1\x8E\xA0",
     "\xC3\xA0"
     "bc i\xCC\x87i \xC3\x9F \xCE\xB1\xCF\x83 \xC7\x86 \xEA\xAD\xB0"},
    {"{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}", "a",
     "\xE2\x96\x81"
     "a"},
    {"{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}", "", ""},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", " \xE3\x80\x80 a b\n", "a b"},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": false}", "  a ", "a "},
    {"{\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true}", "  a ", "  a"},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", "  \n ", ""},
    {"{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}", " a  b ",
     "\xE2\x96\x81"
     "a\xE2\x96\x81\xE2\x96\x81"
     "b\xE2\x96\x81"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"[0-9]+|\\u00e9\"}, \"content\": \"#\"}",
     "12\xC3\xA9"
     "3x45",
     "###x#"},
    {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"aa\"}, \"content\": \"\"}", "aaaab", "b"},
    {"{\"type\": \"Replace\", \"pattern\": {\"String\": \".\"}, \"content\": \"\\\\1\"}", "a.b", "a\\1b"},
    {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Strip\", \"strip_left\": true, "
     "\"strip_right\": false}, {\"type\": \"Lowercase\"}, {\"type\": \"Prepend\", \"prepend\": \" X\"}, "
     "{\"type\": \"NFKC\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"_\"}]}",
     "  A \xEF\xAC\x81 ", "_Xa_fi_"},
    {"{\"type\": \"Sequence\", \"normalizers\": []}", "A", "A"},
    {"{\"type\": \"StripAccents\"}", "e\xCC\x81\xC3\xA9", "e\xC3\xA9"}, /* what is composed stays */
    {"{\"type\": \"StripAccents\"}", "\xCC\x81\xE0\xA4\x83", ""},       /* marks that take room, too */
    /* The reference's Unicode version has no marks at U+10D24 and U+10F46 yet. */
    {"{\"type\": \"StripAccents\"}", "\xF0\x90\xB4\xA4\xF0\x90\xBD\x86", "\xF0\x90\xB4\xA4\xF0\x90\xBD\x86"},
    {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Sequence\", \"normalizers\": ["
     "{\"type\": \"NFD\"}, {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"StripAccents\"}]}]}, "
     "{\"type\": \"Lowercase\"}]}",
     "\xC3\x89t\xC3\xA9", "ete"},
};

static void read_component(struct normalizer *normalizer, const char *json) {
    json_t *object = json_loads(json, 0, NULL);
    assert_non_null(object);
    const struct component component = {"tokenizer.json", "normalizer", object};
    if (normalizer_read(normalizer, &component) != STATUS_OK)
        fail_msg("%s: %s", json, status_message());
    json_decref(object);
}

static void test_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct normalizer normalizer = {0};
        struct normalizer_scratch scratch = {0};
        read_component(&normalizer, rows[i].json);
        for (int round = 0; round < 2; round++) { /* the second with used scratch */
            const char *out;
            size_t size;
            assert_int_equal(
                normalizer_apply(&normalizer, &scratch, rows[i].text, strlen(rows[i].text), &out, &size),
                STATUS_OK);
            if (size != strlen(rows[i].expected) || (size > 0 && memcmp(out, rows[i].expected, size) != 0))
                fail_msg("%s: \"%s\" becomes \"%.*s\", expected \"%s\"", rows[i].json, rows[i].text,
                         (int)size, out, rows[i].expected);
        }
        normalizer_scratch_free(&scratch);
        normalizer_free(&normalizer);
    }
}

/* A hundred thousand marks in the wrong order: minutes where sorting them is quadratic. */
static void test_long_row_of_marks(void **state) {
    (void)state;
    enum { N = 50000 };
    char *text = malloc(4 * N);
    for (size_t i = 0; i < N; i++) {
        memcpy(text + 2 * i, "\xCC\x81", 2);       /* acute accent, above: class 230 */
        memcpy(text + 2 * (N + i), "\xCC\xA3", 2); /* dot below: class 220 */
    }
    struct normalizer normalizer = {0};
    struct normalizer_scratch scratch = {0};
    const char *out;
    size_t size;
    read_component(&normalizer, "{\"type\":\"NFC\"}");
    assert_int_equal(normalizer_apply(&normalizer, &scratch, text, 4 * N, &out, &size), STATUS_OK);
    assert_int_equal(size, 4 * N);
    for (size_t i = 0; i < 2 * N; i++)
        assert_memory_equal(out + 2 * i, i < N ? "\xCC\xA3" : "\xCC\x81", 2);
    normalizer_scratch_free(&scratch);
    normalizer_free(&normalizer);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_long_row_of_marks)};
    return cmocka_run_group_tests_name("normalizer", tests, NULL, NULL);
}
