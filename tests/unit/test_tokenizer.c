/* tokenizer: ids beside the reference's (tests/golden/tokenizer_*.jsonl), the options of tokenizer.json one
 * by one, and BPE beside a naive merge. What must be refused is in test_bad_tokenizer. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"
#include "worker/base/file.h"
#include "worker/text/bpe.h"
#include "worker/text/byte_level.h"
#include "worker/text/tokenizer.h"

static struct tokenizer *open_folder(const char *folder) {
    struct tokenizer *tokenizer;
    if (tokenizer_open(folder, &tokenizer) != STATUS_OK)
        fail_msg("%s: %s", folder, status_message());
    return tokenizer;
}

/* Opens a tokenizer.json given as text. */
static struct tokenizer *open_text(const char *json) {
    temp_text("tokenizer.json", json);
    return open_folder(temp_path(""));
}

static enum status encode(const struct tokenizer *tokenizer, const char *text, size_t size,
                          struct token_list *list) {
    struct tokenizer_scratch *scratch;
    assert_int_equal(tokenizer_scratch_new(tokenizer, &scratch), STATUS_OK);
    enum status result = tokenizer_encode(tokenizer, scratch, text, size, list);
    tokenizer_scratch_free(scratch);
    return result;
}

/* The ids of text are those of the list, which ends with -1. */
static void check_ids(const struct tokenizer *tokenizer, const char *text, const int32_t *expected) {
    struct token_list list = {0};
    if (encode(tokenizer, text, strlen(text), &list) != STATUS_OK)
        fail_msg("\"%s\": %s", text, status_message());
    size_t n = 0;
    while (expected[n] >= 0)
        n++;
    bool equal = list.n == n && (n == 0 || memcmp(list.ids, expected, n * sizeof *expected) == 0);
    if (!equal) {
        for (size_t i = 0; i < list.n; i++)
            print_error("%d ", (int)list.ids[i]);
        fail_msg("are the ids of \"%s\"", text);
    }
    token_list_free(&list);
}

#define CHECK_IDS(tokenizer, text, ...) check_ids(tokenizer, text, (const int32_t[]){__VA_ARGS__, -1})

/* ---- golden -------------------------------------------------------------------------------------------- */

static void check_golden_line(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                              const char *path, int line, const json_t *entry) {
    const json_t *text = json_object_get(entry, "text"), *ids = json_object_get(entry, "ids");
    struct token_list list = {0};
    struct buffer decoded = {0};
    struct detokenizer detokenizer = {0};
    if (tokenizer_encode(tokenizer, scratch, json_string_value(text), json_string_length(text), &list) !=
        STATUS_OK)
        fail_msg("%s:%d: %s", path, line, status_message());
    if (list.n != json_array_size(ids))
        fail_msg("%s:%d: %zu ids, expected %zu", path, line, list.n, json_array_size(ids));
    bool has_special = false;
    for (size_t i = 0; i < list.n; i++) {
        int32_t expected = (int32_t)json_integer_value(json_array_get(ids, i));
        if (list.ids[i] != expected)
            fail_msg("%s:%d: id %zu is %d, expected %d", path, line, i, (int)list.ids[i], (int)expected);
        size_t size;
        bool is_special;
        tokenizer_token_bytes(tokenizer, expected, &size, &is_special);
        has_special |= is_special;
        assert_int_equal(detokenizer_add(&detokenizer, tokenizer, expected, &decoded), STATUS_OK);
    }
    assert_int_equal(detokenizer_finish(&detokenizer, &decoded), STATUS_OK);
    if (!has_special) { /* special tokens are left out of the text */
        assert_int_equal(decoded.size, json_string_length(text));
        assert_memory_equal(decoded.data ? decoded.data : "", json_string_value(text), decoded.size);
    }
    buffer_free(&decoded);
    token_list_free(&list);
}

static void check_golden(const char *folder, const char *path) {
    struct tokenizer *tokenizer = open_folder(folder);
    struct tokenizer_scratch *scratch;
    struct buffer file = {0};
    assert_int_equal(tokenizer_scratch_new(tokenizer, &scratch), STATUS_OK);
    assert_int_equal(file_read(path, 64 << 20, &file), STATUS_OK);
    int line = 0;
    for (char *at = file.data, *end; (end = memchr(at, '\n', (size_t)(file.data + file.size - at)));
         at = end + 1) {
        json_t *entry = json_loadb(at, (size_t)(end - at), 0, NULL);
        assert_non_null(entry);
        check_golden_line(tokenizer, scratch, path, ++line, entry);
        json_decref(entry);
    }
    assert_true(line > 10);
    buffer_free(&file);
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
}

static void test_golden_tiny(void **state) {
    (void)state;
    check_golden("tests/models/tiny", "tests/golden/tokenizer_tiny.jsonl");
}

static void test_golden_shakespeare(void **state) {
    (void)state;
    check_golden("weights/shakespeare", "tests/golden/tokenizer_shakespeare.jsonl");
}

/* ---- alphabet ------------------------------------------------------------------------------------------ */

static void test_alphabet(void **state) {
    (void)state;
    bool seen[0x144] = {false};
    for (int byte = 0; byte < 256; byte++) {
        uint32_t character = byte_level_character((uint8_t)byte);
        assert_in_range(character, 0x21, 0x143);
        assert_false(seen[character]);
        seen[character] = true;
        assert_int_equal(byte_level_byte(character), byte);
    }
    assert_int_equal(byte_level_character(' '), 0x120);
    assert_int_equal(byte_level_character('\n'), 0x10A);
    assert_int_equal(byte_level_byte(' '), -1);
    assert_int_equal(byte_level_byte(0x144), -1);
    assert_int_equal(byte_level_byte(0xAD), -1);
}

/* ---- options ------------------------------------------------------------------------------------------- */

#define TOKENIZER(added, pre, decoder, model)                                                                \
    "{\"added_tokens\":[" added "],\"normalizer\":null,\"pre_tokenizer\":" pre                               \
    ",\"post_processor\":null,\"decoder\":{\"type\":\"" decoder "\"},\"model\":{\"type\":\"BPE\"," model     \
    "}}"
#define BYTE_LEVEL(prefix) "{\"type\":\"ByteLevel\",\"add_prefix_space\":" prefix ",\"trim_offsets\":true}"
/* Flags: lstrip, rstrip, normalized, special. */
#define ADDED(id, content, lstrip, rstrip, normalized, special)                                              \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":" #lstrip                  \
    ",\"rstrip\":" #rstrip ",\"normalized\":" #normalized ",\"special\":" #special "}"
#define LETTERS "\"a\":0,\"b\":1,\"c\":2,\" \":3,\"\\u0120\":4"

static void test_merges_in_order(void **state) {
    (void)state;
    struct tokenizer *tokenizer =
        open_text(TOKENIZER("", "null", "Fuse",
                            "\"vocab\":{" LETTERS ",\"bc\":5,\"ab\":6,\"abc\":7,\"aa\":8},"
                            "\"merges\":[\"b c\",[\"a\",\"b\"],\"a bc\",\"a a\"]"));
    CHECK_IDS(tokenizer, "abc", 7); /* "b c" first, then "a bc" */
    CHECK_IDS(tokenizer, "ab", 6);
    CHECK_IDS(tokenizer, "aaa", 8, 0); /* the leftmost of equal pairs */
    CHECK_IDS(tokenizer, "abab c", 6, 6, 3, 2);
    CHECK_IDS(tokenizer, "", -1);
    assert_string_equal(tokenizer_description(tokenizer), "BPE, 9 tokens, 4 merges; by characters");
    assert_int_equal(tokenizer_n_vocab(tokenizer), 9);
    tokenizer_close(tokenizer);
}

static void test_repeated_merge_takes_the_later_rank(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_text(TOKENIZER("", "null", "Fuse",
                                                      "\"vocab\":{" LETTERS ",\"ab\":5,\"bc\":6},"
                                                      "\"merges\":[\"a b\",\"b c\",\"a b\"]"));
    CHECK_IDS(tokenizer, "abc", 0, 6);
    tokenizer_close(tokenizer);
}

static void test_ignore_merges(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_text(TOKENIZER("", BYTE_LEVEL("false"), "ByteLevel",
                                                      "\"ignore_merges\":true,\"vocab\":{" LETTERS
                                                      ",\"\\u0120cab\":5,\"ab\":6},\"merges\":[\"a b\"]"));
    CHECK_IDS(tokenizer, " cab", 5);
    CHECK_IDS(tokenizer, "cab", 2, 6);
    tokenizer_close(tokenizer);
}

static void test_prefix_space(void **state) {
    (void)state;
    struct tokenizer *tokenizer =
        open_text(TOKENIZER(ADDED(5, "<x>", false, false, false, false), BYTE_LEVEL("true"), "ByteLevel",
                            "\"vocab\":{" LETTERS "},\"merges\":[]"));
    CHECK_IDS(tokenizer, "a", 4, 0);
    CHECK_IDS(tokenizer, " a", 4, 0);
    CHECK_IDS(tokenizer, "a<x>b", 4, 0, 5, 4, 1); /* at each stretch between added tokens */
    CHECK_IDS(tokenizer, "<x>", 5);
    tokenizer_close(tokenizer);
}

static void test_unknown_characters(void **state) {
    (void)state;
#define UNK(fuse) "\"unk_token\":\"?\",\"fuse_unk\":" fuse ",\"vocab\":{" LETTERS ",\"?\":5},\"merges\":[]"
    struct tokenizer *tokenizer = open_text(TOKENIZER("", "null", "Fuse", UNK("false")));
    CHECK_IDS(tokenizer,
              "xy\xC3\xA9z"
              "a",
              5, 5, 5, 5, 0);
    tokenizer_close(tokenizer);
    tokenizer = open_text(TOKENIZER("", "null", "Fuse", UNK("true")));
    CHECK_IDS(tokenizer,
              "xy\xC3\xA9z"
              "ay",
              5, 0, 5);
    tokenizer_close(tokenizer);
}

static void test_added_tokens(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_text(
        TOKENIZER(ADDED(5, "<x>", false, false, false, false) "," ADDED(
                      6, "<x><y>", false, false, false,
                      false) "," ADDED(7, "<l>", true, false, false,
                                       false) "," ADDED(8, "<r>", false, true, false,
                                                        false) "," ADDED(9, "ab<", false, false, true,
                                                                         false) "," ADDED(10, "<s>", false,
                                                                                          false, false, true),
                  "null", "Fuse", "\"vocab\":{" LETTERS "},\"merges\":[]"));
    CHECK_IDS(tokenizer, "a<x>b", 0, 5, 1);
    CHECK_IDS(tokenizer, "<x><y>", 6); /* the longest */
    CHECK_IDS(tokenizer, "<x><x>", 5, 5);
    CHECK_IDS(tokenizer, "a <l> b", 0, 7, 3, 1);
    CHECK_IDS(tokenizer, "a <r>  b", 0, 3, 8, 1);
    CHECK_IDS(tokenizer, "<r> <l>", 8, 7);  /* the space is taken already */
    CHECK_IDS(tokenizer, "ab<x>", 0, 1, 5); /* what is not normalised goes first, wherever it begins */
    CHECK_IDS(tokenizer, "ab<ab<", 9, 9);
    CHECK_IDS(tokenizer, "a<s>b", 0, 10, 1);
    size_t size;
    bool is_special;
    assert_memory_equal(tokenizer_token_bytes(tokenizer, 10, &size, &is_special), "<s>", 3);
    assert_true(is_special);
    tokenizer_token_bytes(tokenizer, 5, &size, &is_special);
    assert_false(is_special);
    assert_null(tokenizer_token_bytes(tokenizer, 11, &size, &is_special));
    assert_null(tokenizer_token_bytes(tokenizer, -1, &size, &is_special));
    tokenizer_close(tokenizer);
}

static void test_byte_fallback(void **state) {
    (void)state;
#define BYTES "\"<0xC3>\":5,\"<0xA9>\":6,\"?\":7"
#define FALLBACK(fuse)                                                                                       \
    TOKENIZER("", "null", "Fuse",                                                                            \
              "\"byte_fallback\":true,\"unk_token\":\"?\",\"fuse_unk\":" fuse ",\"vocab\":{" LETTERS         \
              "," BYTES "},\"merges\":[]")
    struct tokenizer *tokenizer = open_text(FALLBACK("true"));
    CHECK_IDS(tokenizer,
              "a\xC3\xA9"
              "b",
              0, 5, 6, 1);
    CHECK_IDS(tokenizer,
              "\xC3\xA8"
              "a",
              7, 0); /* one of its bytes is no token */
    CHECK_IDS(tokenizer,
              "xy\xC3\xA9"
              "za",
              5, 6, 7, 0); /* bytes go before the unknown ones, as in the reference */
    tokenizer_close(tokenizer);
    tokenizer = open_text(FALLBACK("false"));
    CHECK_IDS(tokenizer,
              "xy\xC3\xA9"
              "za",
              7, 5, 6, 7, 7, 0);
    tokenizer_close(tokenizer);
}

static void test_template(void **state) {
    (void)state;
    struct tokenizer *tokenizer =
        open_text("{\"added_tokens\":[" ADDED(5, "<s>", false, false, false,
                                              true) "," ADDED(6, "</s>", false, false, false, true) //
                  "],\"decoder\":{\"type\":\"Fuse\"},\"post_processor\":{\"type\":\"Sequence\","
                  "\"processors\":[{\"type\":\"ByteLevel\"},{"
                  "\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"B\",\"type_id\":0}"
                  "},{\"Sequence\":{\"id\":\"A\","
                  "\"type_id\":0}},{\"SpecialToken\":{\"id\":\"E\",\"type_id\":0}}],\"special_tokens\":{"
                  "\"B\":{\"id\":\"B\",\"ids\":[5,4],"
                  "\"tokens\":[\"<s>\",\"x\"]},\"E\":{\"id\":\"E\",\"ids\":[6],\"tokens\":[\"</"
                  "s>\"]}}}]},\"model\":{\"type\":\"BPE\",\"vocab\":{" LETTERS "},\"merges\":[]}}");
    CHECK_IDS(tokenizer, "ab", 5, 4, 0, 1, 6);
    CHECK_IDS(tokenizer, "", 5, 4, 6);
    CHECK_IDS(tokenizer, "<s>a</s>", 5, 4, 5, 0, 6, 6); /* those in the text are found as well */
    assert_non_null(
        strstr(tokenizer_description(tokenizer), "; in front of a prompt <s>, \xC4\xA0; behind it </s>"));
    tokenizer_close(tokenizer);
}

/* Metaspace puts a mark in front of the prompt, not in front of what follows an added token. */
static void test_metaspace_first(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_text(TOKENIZER(
        ADDED(6, "<x>", false, false, false, false),
        "{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\",\"split\":false}",
        "Fuse", "\"vocab\":{" LETTERS ",\"\\u2581\":5},\"merges\":[]"));
    CHECK_IDS(tokenizer, "a b", 5, 0, 5, 1);
    CHECK_IDS(tokenizer, "a<x>b", 5, 0, 6, 1);
    CHECK_IDS(tokenizer, "<x>b", 6, 1);
    CHECK_IDS(tokenizer, " a", 5, 0);
    tokenizer_close(tokenizer);
}

static void test_single_word(void **state) {
    (void)state;
    struct tokenizer *tokenizer =
        open_text(TOKENIZER("{\"id\":5,\"content\":\"ab\",\"single_word\":true,\"lstrip\":false,\"rstrip\":"
                            "false,\"normalized\":false,"
                            "\"special\":false}",
                            "null", "Fuse", "\"unk_token\":\"c\",\"vocab\":{" LETTERS "},\"merges\":[]"));
    CHECK_IDS(tokenizer, "ab", 5);
    CHECK_IDS(tokenizer, " ab.", 3, 5, 2);
    CHECK_IDS(tokenizer, "abab", 0, 1, 0, 1);
    CHECK_IDS(tokenizer, "ab_ ab", 0, 1, 2, 3, 5);
    CHECK_IDS(tokenizer,
              "\xC3\xA9"
              "ab",
              2, 0, 1); /* a letter before it, of whatever script */
    tokenizer_close(tokenizer);
}

/* An added token that is looked for in normalised text is normalised itself. */
static void test_normalized_added_token(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_text("{\"added_tokens\":[" ADDED(
        5, "<X>", false, false, true,
        false) "],\"normalizer\":{\"type\":\"Lowercase\"},"
               "\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{" LETTERS
               "},\"merges\":[]}}");
    CHECK_IDS(tokenizer, "A<x>B<X>", 0, 5, 1, 5);
    size_t size;
    bool is_special;
    assert_memory_equal(tokenizer_token_bytes(tokenizer, 5, &size, &is_special), "<x>", 3);
    tokenizer_close(tokenizer);
}

/* Errors of a record: what, and where in the whole prompt. */
static void test_record_errors(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_text(TOKENIZER(ADDED(5, "<x>", false, false, false, false), "null",
                                                      "Fuse", "\"vocab\":{" LETTERS "},\"merges\":[]"));
    struct token_list list = {0};
    assert_int_equal(encode(tokenizer, "ab", 2, &list), STATUS_OK);
    static const struct {
        const char *text;
        size_t size;
        const char *message;
    } rows[] = {
        {"a<x>b\xE6\xBC\xA2", 8,
         "character U+6F22 (\xE6\xBC\xA2) at byte 5 of the prompt is not in the model's vocabulary"},
        {"ab\n", 3, "character U+000A at byte 2 of the prompt is not in the model's vocabulary"},
        {"a\0b", 3, "character U+0000 at byte 1 of the prompt is not in the model's vocabulary"},
        {"ab\xFF", 3, "the prompt is not valid UTF-8: byte 0xFF at byte 2"},
        {"a\xE6\xBC", 3, "the prompt is not valid UTF-8: byte 0xE6 at byte 1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(encode(tokenizer, rows[i].text, rows[i].size, &list), STATUS_RECORD);
        assert_string_equal(status_message(), rows[i].message);
        assert_int_equal(list.n, 2); /* what was there before stays, and nothing else */
    }
    token_list_free(&list);
    tokenizer_close(tokenizer);
}

/* ---- BPE ----------------------------------------------------------------------------------------------- */

enum { N_LETTERS = 4, N_MERGES = 60 };

/* Merges the best pair again and again, looking at all of them each time. */
static size_t merge_naively(const int32_t (*merges)[3], int n_merges, int32_t *ids, size_t n) {
    for (;;) {
        size_t best = n;
        int best_rank = n_merges;
        for (size_t i = 0; i + 1 < n; i++)
            for (int rank = 0; rank < best_rank; rank++)
                if (merges[rank][0] == ids[i] && merges[rank][1] == ids[i + 1]) {
                    best = i;
                    best_rank = rank;
                }
        if (best == n)
            return n;
        ids[best] = merges[best_rank][2];
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

/* Short and long pieces, with merge lists over four letters, so that pairs overlap everywhere. */
static void test_bpe_beside_naive(void **state) {
    (void)state;
    enum { MAX_SYMBOLS = 300, ROUNDS = 3000 };
    struct bpe_scratch scratch = {0};
    srand(11);
    for (int round = 0; round < ROUNDS; round++) {
        int32_t merges[N_MERGES][3], ids[MAX_SYMBOLS], expected[MAX_SYMBOLS];
        struct bpe bpe;
        int n_merges = rand() % N_MERGES;
        assert_int_equal(bpe_init(&bpe, (size_t)n_merges), STATUS_OK);
        for (int rank = 0; rank < n_merges; rank++) {
            bool is_new;
            do { /* pairs of what there is so far, each once */
                merges[rank][0] = rand() % (N_LETTERS + rank);
                merges[rank][1] = rand() % (N_LETTERS + rank);
                is_new = true;
                for (int other = 0; other < rank; other++)
                    is_new &= merges[other][0] != merges[rank][0] || merges[other][1] != merges[rank][1];
            } while (!is_new);
            merges[rank][2] = N_LETTERS + rank;
            bpe_add(&bpe, merges[rank][0], merges[rank][1], (uint32_t)rank, merges[rank][2]);
        }
        size_t n = 1 + (size_t)rand() % (round % 2 ? MAX_SYMBOLS : 60);
        for (size_t i = 0; i < n; i++)
            ids[i] = expected[i] = rand() % (1 + rand() % N_LETTERS);
        size_t n_expected = merge_naively(merges, n_merges, expected, n);
        assert_int_equal(bpe_apply(&bpe, &scratch, ids, &n), STATUS_OK);
        assert_int_equal(n, n_expected);
        assert_memory_equal(ids, expected, n * sizeof *ids);
        bpe_free(&bpe);
    }
    bpe_scratch_free(&scratch);
}

/* A text without a pre-tokenizer is cut into words where no merge can reach across, and words are cached: the
 * ids are those of merging it in one piece. */
static void test_words_beside_one_piece(void **state) {
    (void)state;
    enum { MAX_SYMBOLS = 120, ROUNDS = 300, TEXTS = 20 };
    srand(12);
    for (int round = 0; round < ROUNDS; round++) {
        struct buffer json = {0}, names[N_LETTERS + N_MERGES] = {0};
        int32_t merges[N_MERGES][3];
        int n_merges = 0;
        for (int i = 0; i < N_LETTERS; i++)
            buffer_append_byte(&names[i], (char)('a' + i));
        buffer_append_text(
            &json,
            "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,"
            "\"d\":3");
        for (int i = rand() % 12; i > 0; i--) { /* few, so that many pairs of letters lie in no token */
            int left = rand() % (N_LETTERS + n_merges), right = rand() % (N_LETTERS + n_merges);
            struct buffer *name = &names[N_LETTERS + n_merges];
            buffer_append(name, names[left].data, names[left].size);
            buffer_append(name, names[right].data, names[right].size);
            bool is_new = true;
            for (int other = 0; other < N_LETTERS + n_merges; other++)
                is_new &=
                    names[other].size != name->size || memcmp(names[other].data, name->data, name->size) != 0;
            if (!is_new) {
                buffer_clear(name);
                continue;
            }
            merges[n_merges][0] = left;
            merges[n_merges][1] = right;
            merges[n_merges][2] = N_LETTERS + n_merges;
            buffer_printf(&json, ",\"%.*s\":%d", (int)name->size, name->data, N_LETTERS + n_merges);
            n_merges++;
        }
        buffer_append_text(&json, "},\"merges\":[");
        for (int i = 0; i < n_merges; i++)
            buffer_printf(&json, "%s\"%.*s %.*s\"", i ? "," : "", (int)names[merges[i][0]].size,
                          names[merges[i][0]].data, (int)names[merges[i][1]].size, names[merges[i][1]].data);
        buffer_append_text(&json, "]}}");
        assert_int_equal(buffer_terminate(&json), STATUS_OK);
        struct tokenizer *tokenizer = open_text(json.data);
        struct tokenizer_scratch *scratch;
        assert_int_equal(tokenizer_scratch_new(tokenizer, &scratch), STATUS_OK);
        struct token_list list = {0};
        for (int i = 0; i < TEXTS; i++) {
            char text[MAX_SYMBOLS];
            int32_t expected[MAX_SYMBOLS];
            size_t n = 1 + (size_t)rand() % MAX_SYMBOLS;
            for (size_t j = 0; j < n; j++)
                text[j] = (char)('a' + (expected[j] = rand() % N_LETTERS));
            n = merge_naively(merges, n_merges, expected, n);
            size_t n_letters = 0;
            for (size_t j = 0; j < n; j++)
                n_letters += names[expected[j]].size;
            list.n = 0;
            assert_int_equal(tokenizer_encode(tokenizer, scratch, text, n_letters, &list), STATUS_OK);
            assert_int_equal(list.n, n);
            assert_memory_equal(list.ids, expected, n * sizeof *expected);
        }
        token_list_free(&list);
        tokenizer_scratch_free(scratch);
        tokenizer_close(tokenizer);
        buffer_free(&json);
        for (int i = 0; i < N_LETTERS + N_MERGES; i++)
            buffer_free(&names[i]);
    }
}

/* A piece of a million equal letters: minutes where merging is quadratic. */
static void test_long_piece(void **state) {
    (void)state;
    enum { SIZE = 1 << 20 };
    struct tokenizer *tokenizer = open_text(TOKENIZER("", BYTE_LEVEL("false"), "ByteLevel",
                                                      "\"vocab\":{" LETTERS ",\"aa\":5,\"aaaa\":6},"
                                                      "\"merges\":[\"a a\",\"aa aa\"]"));
    char *text = malloc(SIZE);
    memset(text, 'a', SIZE);
    struct token_list list = {0};
    assert_int_equal(encode(tokenizer, text, SIZE, &list), STATUS_OK);
    assert_int_equal(list.n, SIZE / 4);
    for (size_t i = 0; i < list.n; i++)
        assert_int_equal(list.ids[i], 6);
    token_list_free(&list);
    free(text);
    tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_tiny),
        cmocka_unit_test(test_golden_shakespeare),
        cmocka_unit_test(test_alphabet),
        cmocka_unit_test(test_merges_in_order),
        cmocka_unit_test(test_repeated_merge_takes_the_later_rank),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_prefix_space),
        cmocka_unit_test(test_unknown_characters),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_record_errors),
        cmocka_unit_test(test_bpe_beside_naive),
        cmocka_unit_test(test_byte_fallback),
        cmocka_unit_test(test_template),
        cmocka_unit_test(test_metaspace_first),
        cmocka_unit_test(test_single_word),
        cmocka_unit_test(test_normalized_added_token),
        cmocka_unit_test(test_words_beside_one_piece),
        cmocka_unit_test(test_long_piece),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, temp_folder_open, temp_folder_close);
}
