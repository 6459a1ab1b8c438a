/* detokenizer: never half a character, and in all the text that decoding everything at once gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"
#include "worker/text/byte_level.h"
#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"

/* A byte-level tokenizer whose token `b` is the byte b, and then: 256 the two bytes C3 A9 and the first two
 * of U+20AC, 257 a special token, 258 an added one that is none of the alphabet. */
enum { MIXED = 256, SPECIAL = 257, ADDED = 258, OUTSIDE = 259 };

static struct tokenizer *open_bytes(void) {
    struct buffer json = {0};
    buffer_append_text(&json, "{\"added_tokens\":[");
    for (int i = 0; i < 2; i++)
        buffer_printf(
            &json,
            "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
            "\"normalized\":false,\"special\":%s}",
            i ? "," : "", i ? ADDED : SPECIAL, i ? "a b" : "<s>", i ? "false" : "true");
    buffer_append_text(&json,
                       "],\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],"
                       "\"vocab\":{");
    for (int byte = 0; byte < 256; byte++)
        buffer_printf(&json, "\"\\u%04x\":%d,", (unsigned)byte_level_character((uint8_t)byte), byte);
    buffer_printf(&json, "\"\\u%04x\\u%04x\\u%04x\\u%04x\":%d}}}", (unsigned)byte_level_character(0xC3),
                  (unsigned)byte_level_character(0xA9), (unsigned)byte_level_character(0xE2),
                  (unsigned)byte_level_character(0x82), MIXED);
    temp_file("tokenizer.json", json.data, json.size);
    buffer_free(&json);
    struct tokenizer *tokenizer;
    if (tokenizer_open(temp_path(""), &tokenizer) != STATUS_OK)
        fail_msg("%s", status_message());
    return tokenizer;
}

static void add(struct detokenizer *detokenizer, const struct tokenizer *tokenizer, int32_t id,
                struct buffer *text) {
    assert_int_equal(detokenizer_add(detokenizer, tokenizer, id, text), STATUS_OK);
    assert_true(utf8_valid(text->data ? text->data : "", text->size, NULL));
}

static void check_text(const struct tokenizer *tokenizer, const int32_t *ids, const char *expected) {
    struct detokenizer detokenizer = {0};
    struct buffer text = {0};
    for (; *ids != -2; ids++)
        add(&detokenizer, tokenizer, *ids, &text);
    assert_int_equal(detokenizer_finish(&detokenizer, &text), STATUS_OK);
    assert_int_equal(buffer_terminate(&text), STATUS_OK);
    assert_string_equal(text.data, expected);
    buffer_free(&text);
}

#define FFFD                      "\xEF\xBF\xBD"
#define CHECK_TEXT(expected, ...) check_text(tokenizer, (const int32_t[]){__VA_ARGS__, -2}, expected)

static void test_rows(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_bytes();
    CHECK_TEXT("abc", 'a', 'b', 'c');
    CHECK_TEXT("\xC3\xA9", 0xC3, 0xA9);
    CHECK_TEXT("\xF0\x9F\x98\x80", 0xF0, 0x9F, 0x98, 0x80);
    CHECK_TEXT("\xC3\xA9\xE2\x82\xAC", MIXED, 0xAC); /* a character begun within a longer token */
    CHECK_TEXT("\xC3\xA9" FFFD "\xC3\xA9" FFFD "a", MIXED, MIXED, 'a');
    CHECK_TEXT(FFFD, 0xF0, 0x9F, 0x98);          /* one for a cut character, at the end … */
    CHECK_TEXT(FFFD "a", 0xF0, 0x9F, 0x98, 'a'); /* … and before another */
    CHECK_TEXT(FFFD FFFD, 0xC0, 0x80);           /* two where nothing begins */
    CHECK_TEXT(FFFD FFFD FFFD, 0xED, 0xA0, 0x80);
    CHECK_TEXT(FFFD "\xC3\xA9", 0xE2, 0xC3, 0xA9);
    CHECK_TEXT("ab", 'a', SPECIAL, 'b');
    CHECK_TEXT("\xC3\xA9", 0xC3, SPECIAL, 0xA9); /* a special token shows nothing, not even a break */
    CHECK_TEXT("xa by", 'x', ADDED, 'y');        /* not in the alphabet: its own bytes */
    CHECK_TEXT("ab", 'a', OUTSIDE, -1, 'b');
    tokenizer_close(tokenizer);
}

static void test_holds_back_and_starts_again(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_bytes();
    struct detokenizer detokenizer = {0};
    struct buffer text = {0};
    add(&detokenizer, tokenizer, 0xE2, &text);
    add(&detokenizer, tokenizer, 0x82, &text);
    assert_int_equal(text.size, 0);
    add(&detokenizer, tokenizer, 0xAC, &text);
    assert_int_equal(text.size, 3);
    add(&detokenizer, tokenizer, 0xE2, &text);
    assert_int_equal(detokenizer_finish(&detokenizer, &text), STATUS_OK);
    assert_int_equal(text.size, 6);
    add(&detokenizer, tokenizer, 0x82, &text); /* nothing is left of the text before */
    assert_int_equal(text.size, 9);
    assert_int_equal(detokenizer_finish(&detokenizer, &text), STATUS_OK);
    assert_int_equal(text.size, 9);
    buffer_free(&text);
    tokenizer_close(tokenizer);
}

/* All bytes at once, each maximal subpart of what is invalid replaced by one U+FFFD. */
static void decode_whole(const char *bytes, size_t size, struct buffer *text) {
    for (size_t at = 0, length; at < size; at += length) {
        if (utf8_scan(bytes + at, size - at, &length, NULL) == UTF8_CHARACTER)
            assert_int_equal(buffer_append(text, bytes + at, length), STATUS_OK);
        else
            assert_int_equal(buffer_append(text, FFFD, 3), STATUS_OK);
    }
}

static void test_random_beside_whole(void **state) {
    (void)state;
    enum { ROUNDS = 20000, MAX_TOKENS = 24 };
    static const uint8_t likely[] = {'a', 0x80, 0xA0, 0xBF, 0xC3, 0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0x90, 0xFF};
    struct tokenizer *tokenizer = open_bytes();
    srand(3);
    for (int round = 0; round < ROUNDS; round++) {
        struct detokenizer detokenizer = {0};
        struct buffer text = {0}, whole = {0}, bytes = {0};
        int n = 1 + rand() % MAX_TOKENS;
        for (int i = 0; i < n; i++) {
            int32_t id = rand() % 8 == 0 ? MIXED : likely[(size_t)rand() % sizeof likely];
            size_t size;
            bool is_special;
            const char *shown = tokenizer_token_bytes(tokenizer, id, &size, &is_special);
            assert_int_equal(buffer_append(&bytes, shown, size), STATUS_OK);
            add(&detokenizer, tokenizer, id, &text);
        }
        assert_int_equal(detokenizer_finish(&detokenizer, &text), STATUS_OK);
        decode_whole(bytes.data, bytes.size, &whole);
        assert_int_equal(text.size, whole.size);
        assert_memory_equal(text.data, whole.data, whole.size);
        buffer_free(&text);
        buffer_free(&whole);
        buffer_free(&bytes);
    }
    tokenizer_close(tokenizer);
}

/* ---- SentencePiece style ------------------------------------------------------------------------------- */

/* Ids 0..255 are the tokens "<0x00>" .. "<0xFF>"; then "\u2581", "\u2581a", "b", "\u2581\u2581", a special
 * one. */
enum { SPACE = 256, SPACE_A, B, SPACES, END };

static struct tokenizer *open_byte_fallback(const char *decoder) {
    struct buffer json = {0};
    buffer_printf(
        &json,
        "{\"added_tokens\":[{\"id\":%d,\"content\":\"</s>\",\"single_word\":false,\"lstrip\":false,"
        "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"decoder\":%s,\"model\":{\"type\":\"BPE\","
        "\"byte_fallback\":true,\"merges\":[],\"vocab\":{",
        END, decoder);
    for (int byte = 0; byte < 256; byte++)
        buffer_printf(&json, "\"<0x%02X>\":%d,", (unsigned)byte, byte);
    buffer_printf(&json, "\"\\u2581\":%d,\"\\u2581a\":%d,\"b\":%d,\"\\u2581\\u2581\":%d}}}", SPACE, SPACE_A,
                  B, SPACES);
    temp_file("tokenizer.json", json.data, json.size);
    buffer_free(&json);
    struct tokenizer *tokenizer;
    if (tokenizer_open(temp_path(""), &tokenizer) != STATUS_OK)
        fail_msg("%s", status_message());
    return tokenizer;
}

#define TO_SPACE   "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"}"
#define BYTES_FUSE "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define LLAMA                                                                                                \
    "{\"type\":\"Sequence\",\"decoders\":[" TO_SPACE "," BYTES_FUSE                                          \
    ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
#define GEMMA "{\"type\":\"Sequence\",\"decoders\":[" TO_SPACE "," BYTES_FUSE "]}"
#define METASPACE                                                                                            \
    "{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":\"always\",\"split\":true}"

static void test_byte_fallback(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_byte_fallback(LLAMA);
    CHECK_TEXT("a b", SPACE_A, SPACE, B);
    CHECK_TEXT(" a", SPACES, 'a'); /* one space is cut … */
    CHECK_TEXT("b a", B, SPACE_A); /* … at the beginning alone */
    CHECK_TEXT("a", ' ', 'a');     /* also one that came as a byte */
    CHECK_TEXT("a", END, SPACE_A); /* a special token is no beginning */
    CHECK_TEXT("\xE6\xBC\xA2"
               "b",
               0xE6, 0xBC, 0xA2, B);
    CHECK_TEXT(FFFD FFFD "b", 0xE6, 0xBC, B);               /* one for each byte … */
    CHECK_TEXT(FFFD FFFD FFFD FFFD, 'a', 0xC3, 0xA9, 0xFF); /* … of the whole row, valid or not */
    CHECK_TEXT("\xC3\xA9", 0xC3, END, 0xA9);                /* a special token ends no row */
    CHECK_TEXT(FFFD "b" FFFD, 0xC3, B, 0xA9);
    CHECK_TEXT("", SPACE);
    tokenizer_close(tokenizer);
    tokenizer = open_byte_fallback(GEMMA);
    CHECK_TEXT(" a  b", SPACE_A, SPACES, B);
    tokenizer_close(tokenizer);
}

static void test_metaspace(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_byte_fallback(METASPACE);
    CHECK_TEXT("a a", SPACE_A, SPACE_A);
    CHECK_TEXT(" a", SPACES, SPACE_A); /* in the first token every one is dropped */
    tokenizer_close(tokenizer);
}

/* A row of bytes shows nothing before it ends. */
static void test_holds_back_rows(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_byte_fallback(LLAMA);
    struct detokenizer detokenizer = {0};
    struct buffer text = {0};
    add(&detokenizer, tokenizer, 0xC3, &text);
    add(&detokenizer, tokenizer, 0xA9, &text);
    assert_int_equal(text.size, 0);
    add(&detokenizer, tokenizer, B, &text);
    assert_int_equal(text.size, 3);
    add(&detokenizer, tokenizer, 0xC3, &text);
    detokenizer_free(&detokenizer); /* dropped: nothing of it is left */
    add(&detokenizer, tokenizer, SPACE_A, &text);
    assert_int_equal(detokenizer_finish(&detokenizer, &text), STATUS_OK);
    assert_int_equal(text.size, 4);
    assert_memory_equal(text.data,
                        "\xC3\xA9"
                        "ba",
                        4);
    buffer_free(&text);
    tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_holds_back_and_starts_again),
        cmocka_unit_test(test_random_beside_whole),
        cmocka_unit_test(test_byte_fallback),
        cmocka_unit_test(test_metaspace),
        cmocka_unit_test(test_holds_back_rows),
    };
    return cmocka_run_group_tests_name("detokenizer", tests, temp_folder_open, temp_folder_close);
}
