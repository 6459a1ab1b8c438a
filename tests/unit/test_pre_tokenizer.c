/* pre_tokenizer: the pieces that each component cuts a text into. The rows are what the reference (tokenizers
 * 0.23) gives; pieces behind ByteLevel are written as the bytes they stand for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/text/pre_tokenizer.h"

/* At the beginning of a prompt. Pieces are separated by '|'. */
static const struct {
    const char *json;
    const char *text;
    const char *pieces;
} rows[] = {
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "Hello world",
     "Hello| world"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}",
     "don't I'll we've you're he's I'm he'd", "don|'t| I|'ll| we|'ve| you|'re| he|'s| I|'m| he|'d"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "DON'T", "DON|'|T"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "'r'", "'|r|'"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", " 's", " '|s"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "abc123 456x",
     "abc|123| 456|x"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "a   b", "a|  | b"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "a   ", "a|   "},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "a\n\n b",
     "a|\n\n| b"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "  a", " | a"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", " ", " "},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "\tx", "\t|x"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", " \tx", " |\t|x"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "a!?. ...b",
     "a|!?.| ...|b"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}",
     "caf\xC3\xA9 \xC3\xA9t\xC3\xA9", "caf\xC3\xA9| \xC3\xA9t\xC3\xA9"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}",
     "\xC2\xA0"
     "a",
     "\xC2\xA0|a"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}",
     "\xE6\xBC\xA2\xE5\xAD\x97\xE3\x80\x80"
     "a",
     "\xE6\xBC\xA2\xE5\xAD\x97|\xE3\x80\x80|a"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "e\xCC\x81x",
     "e|\xCC\x81|x"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}",
     "\xE2\x85\xA7 \xC2\xBD", "\xE2\x85\xA7| \xC2\xBD"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "''''s", "''''|s"},
    {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}", "x'", "x|'"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": "
     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": "
     "\"Isolated\", \"invert\": false}",
     "Hello  world\n\n x", "Hello| | world|\n\n| x"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": "
     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": "
     "\"Isolated\", \"invert\": false}",
     "I'LL \xC5\xBF '\xC5\xBF DON'T", "I|'LL| \xC5\xBF| '|\xC5\xBF| DON|'T"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": "
     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": "
     "\"Isolated\", \"invert\": false}",
     "1234567 12", "123|456|7| |12"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": "
     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": "
     "\"Isolated\", \"invert\": false}",
     "a.\n\n\nb  \n  c", "a|.\n\n\n|b|  \n| | c"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": "
     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": "
     "\"Isolated\", \"invert\": false}",
     "\xE6\xBC\xA2\xE5\xAD\x97 \xE3\x81\xB2\xE3\x82\x89!!\r\n",
     "\xE6\xBC\xA2\xE5\xAD\x97| \xE3\x81\xB2\xE3\x82\x89|!!\r\n"},
    {"{\"type\": \"Split\", \"pattern\": {\"Regex\": "
     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": "
     "\"Isolated\", \"invert\": false}",
     "x\xC2\xA0y  ", "x|\xC2\xA0y|  "},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": false}",
     "--a--b-", "-|-|a|-|-|b|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": false}",
     "ab-", "ab|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": false}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": true}",
     "--a--b-", "-|-|a|-|-|b|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": true}",
     "ab-", "ab|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Isolated\", \"invert\": true}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Removed\", \"invert\": false}",
     "--a--b-", "a|b"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Removed\", \"invert\": false}",
     "ab-", "ab"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Removed\", \"invert\": false}",
     "-", ""},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Removed\", \"invert\": true}",
     "--a--b-", "-|-|-|-|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Removed\", \"invert\": true}",
     "ab-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Removed\", \"invert\": true}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": "
     "false}",
     "--a--b-", "--|a|--|b|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": "
     "false}",
     "ab-", "ab|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": "
     "false}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": "
     "true}",
     "--a--b-", "--|a|--|b|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": "
     "true}",
     "ab-", "ab|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"Contiguous\", \"invert\": "
     "true}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithPrevious\", "
     "\"invert\": false}",
     "--a--b-", "-|-|a-|-|b-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithPrevious\", "
     "\"invert\": false}",
     "ab-", "ab-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithPrevious\", "
     "\"invert\": false}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithPrevious\", "
     "\"invert\": true}",
     "--a--b-", "-|-a|-|-b|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithPrevious\", "
     "\"invert\": true}",
     "ab-", "ab|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithPrevious\", "
     "\"invert\": true}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": "
     "false}",
     "--a--b-", "-|-a|-|-b|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": "
     "false}",
     "ab-", "ab|-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": "
     "false}",
     "-", "-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": "
     "true}",
     "--a--b-", "-|-|a-|-|b-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": "
     "true}",
     "ab-", "ab-"},
    {"{\"type\": \"Split\", \"pattern\": {\"String\": \"-\"}, \"behavior\": \"MergedWithNext\", \"invert\": "
     "true}",
     "-", "-"},
    {"{\"type\": \"Digits\", \"individual_digits\": true}",
     "ab12\xC2\xBD"
     "c\xD9\xA3",
     "ab|1|2|\xC2\xBD|c|\xD9\xA3"},
    {"{\"type\": \"Digits\", \"individual_digits\": false}",
     "ab12\xC2\xBD"
     "c\xD9\xA3x",
     "ab|12\xC2\xBD|c|\xD9\xA3|x"},
    {"{\"type\": \"Punctuation\", \"behavior\": \"Isolated\"}",
     "a!?b\xE3\x80\x82"
     "c~",
     "a|!|?|b|\xE3\x80\x82|c|~"},
    {"{\"type\": \"Whitespace\"}",
     "Hi, it's  ok\xE2\x80\xA6 a\xE2\x80\x8D"
     "b \xC2\xBD",
     "Hi|,|it|'|s|ok|\xE2\x80\xA6|a\xE2\x80\x8D"
     "b|\xC2\xBD"},
    {"{\"type\": \"WhitespaceSplit\"}",
     " a b\xE3\x80\x80"
     "c\n",
     "a|b|c"},
    {"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, "
     "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true}]}",
     "a 12 b3", "a| |1|2| b|3"},
    {"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Punctuation\", \"behavior\": \"Removed\"}, "
     "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[ab]+\"}, \"behavior\": \"MergedWithNext\", "
     "\"invert\": false}]}",
     "xaby,abz!q", "x|aby|abz|q"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"always\", \"split\": "
     "true}",
     " a  b\xE2\x96\x81"
     "c",
     "\xE2\x96\x81"
     "a|\xE2\x96\x81|\xE2\x96\x81"
     "b|\xE2\x96\x81"
     "c"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"always\", \"split\": "
     "true}",
     "a b",
     "\xE2\x96\x81"
     "a|\xE2\x96\x81"
     "b"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"always\", \"split\": "
     "false}",
     " a  b\xE2\x96\x81"
     "c",
     "\xE2\x96\x81"
     "a\xE2\x96\x81\xE2\x96\x81"
     "b\xE2\x96\x81"
     "c"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"always\", \"split\": "
     "false}",
     "a b",
     "\xE2\x96\x81"
     "a\xE2\x96\x81"
     "b"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"never\", \"split\": "
     "true}",
     " a  b\xE2\x96\x81"
     "c",
     "\xE2\x96\x81"
     "a|\xE2\x96\x81|\xE2\x96\x81"
     "b|\xE2\x96\x81"
     "c"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"never\", \"split\": "
     "true}",
     "a b",
     "a|\xE2\x96\x81"
     "b"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"never\", \"split\": "
     "false}",
     " a  b\xE2\x96\x81"
     "c",
     "\xE2\x96\x81"
     "a\xE2\x96\x81\xE2\x96\x81"
     "b\xE2\x96\x81"
     "c"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"never\", \"split\": "
     "false}",
     "a b",
     "a\xE2\x96\x81"
     "b"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"first\", \"split\": "
     "true}",
     " a  b\xE2\x96\x81"
     "c",
     "\xE2\x96\x81"
     "a|\xE2\x96\x81|\xE2\x96\x81"
     "b|\xE2\x96\x81"
     "c"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"first\", \"split\": "
     "true}",
     "a b",
     "\xE2\x96\x81"
     "a|\xE2\x96\x81"
     "b"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"first\", \"split\": "
     "false}",
     " a  b\xE2\x96\x81"
     "c",
     "\xE2\x96\x81"
     "a\xE2\x96\x81\xE2\x96\x81"
     "b\xE2\x96\x81"
     "c"},
    {"{\"type\": \"Metaspace\", \"replacement\": \"\\u2581\", \"prepend_scheme\": \"first\", \"split\": "
     "false}",
     "a b",
     "\xE2\x96\x81"
     "a\xE2\x96\x81"
     "b"},
};

static enum status take_piece(void *argument, const char *piece, size_t size) {
    struct buffer *pieces = argument;
    if (pieces->size > 0)
        assert_int_equal(buffer_append_byte(pieces, '|'), STATUS_OK);
    return buffer_append(pieces, piece, size);
}

static void read_component(struct pre_tokenizer *pre_tokenizer, const char *json) {
    json_t *object = json_loads(json, 0, NULL);
    assert_non_null(object);
    const struct component component = {"tokenizer.json", "pre_tokenizer", object};
    if (pre_tokenizer_read(pre_tokenizer, &component) != STATUS_OK)
        fail_msg("%s: %s", json, status_message());
    json_decref(object);
}

static void check_pieces(const char *json, bool is_first, const char *text, const char *expected) {
    struct pre_tokenizer pre_tokenizer = {0};
    struct pre_tokenizer_scratch scratch = {0};
    struct buffer pieces = {0};
    read_component(&pre_tokenizer, json);
    for (int round = 0; round < 2; round++) { /* the second with used scratch */
        buffer_clear(&pieces);
        assert_int_equal(
            pre_tokenizer_cut(&pre_tokenizer, &scratch, is_first, text, strlen(text), take_piece, &pieces),
            STATUS_OK);
        assert_int_equal(buffer_terminate(&pieces), STATUS_OK);
        if (strcmp(pieces.data, expected) != 0)
            fail_msg("%s: \"%s\" is cut into \"%s\", expected \"%s\"", json, text, pieces.data, expected);
    }
    buffer_free(&pieces);
    pre_tokenizer_scratch_free(&scratch);
    pre_tokenizer_free(&pre_tokenizer);
}

static void test_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check_pieces(rows[i].json, true, rows[i].text, rows[i].pieces);
}

/* What depends on where in the prompt the text stands. */
static void test_behind_another_text(void **state) {
    (void)state;
    check_pieces("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}", false, "a b",
                 "a|_b");
    check_pieces("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}", false, "a b",
                 "_a|_b");
    check_pieces("{\"type\":\"ByteLevel\",\"use_regex\":false}", false, "a b", " a b");
}

/* A pattern that backtracks without end costs the record. */
static void test_match_limit(void **state) {
    (void)state;
    struct pre_tokenizer pre_tokenizer = {0};
    struct pre_tokenizer_scratch scratch = {0};
    struct buffer pieces = {0};
    char text[60];
    memset(text, 'a', sizeof text);
    read_component(&pre_tokenizer, "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|a)+b|a\"},\"behavior\":"
                                   "\"Isolated\",\"invert\":false}");
    assert_int_equal(
        pre_tokenizer_cut(&pre_tokenizer, &scratch, true, text, sizeof text, take_piece, &pieces),
        STATUS_RECORD);
    assert_non_null(strstr(status_message(), "the tokenizer's pattern gives up on this prompt: match limit"));
    buffer_free(&pieces);
    pre_tokenizer_scratch_free(&scratch);
    pre_tokenizer_free(&pre_tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_behind_another_text),
        cmocka_unit_test(test_match_limit),
    };
    return cmocka_run_group_tests_name("pre_tokenizer", tests, NULL, NULL);
}
