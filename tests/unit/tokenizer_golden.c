#include "tests/unit/tokenizer_golden.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

#include "worker/base/file.h"
#include "worker/text/quote.h"
#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"

enum { MAX_SHOWN = 8 }; /* lines that differ, before the rest is only counted */

/* Of the digests every so manyth is compared: all, but with sanitizers, which would take minutes, some. */
#ifdef __SANITIZE_ADDRESS__
enum { DIGEST_STRIDE = 16 };
#else
enum { DIGEST_STRIDE = 1 };
#endif

struct golden {
    const char *name;
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct detokenizer detokenizer;
    struct token_list list;
    struct buffer text;
    int line;
    int n_different;
    int n_texts;
    int n_digests;
};

/* ---- what differs -------------------------------------------------------------------------------------- */

/* Says where a line differs; text may be NULL. False when enough has been said. */
static bool report(struct golden *golden, const char *which, const char *text, size_t size) {
    char quoted[QUOTE_BYTES];
    if (++golden->n_different > MAX_SHOWN)
        return false;
    print_error("%s: line %d, %s %s\n", golden->name, golden->line, which,
                text ? quote(text, size, quoted) : "");
    return true;
}

/* A few ids on each side of the first that differs. */
static void print_ids(const char *label, const int32_t *ids, size_t n, size_t first_different) {
    size_t begin = first_different < 5 ? 0 : first_different - 5;
    print_error("    %s %zu ids, from %zu:", label, n, begin);
    for (size_t i = begin; i < n && i < begin + 16; i++)
        print_error(" %d", (int)ids[i]);
    print_error("\n");
}

static void print_text(const char *label, const char *text, size_t size, size_t first_different) {
    char quoted[QUOTE_BYTES];
    size_t begin = first_different < 20 ? 0 : first_different - 20;
    print_error("    %s %zu bytes, from %zu: %s\n", label, size, begin,
                quote(text + begin, size - begin, quoted));
}

/* ---- lines --------------------------------------------------------------------------------------------- */

static int32_t *read_ids(const json_t *ids, size_t *n) {
    *n = json_array_size(ids);
    int32_t *values = malloc((*n + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < *n; i++)
        values[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    return values;
}

static void check_encode(struct golden *golden, const char *which, const char *text, size_t size,
                         const int32_t *expected, size_t n) {
    struct token_list *list = &golden->list;
    list->n = 0;
    /* Twice, behind each other: ids are appended, and nothing is left over from the first time. */
    for (int time = 0; time < 2; time++) {
        size_t begin = list->n;
        if (tokenizer_encode(golden->tokenizer, golden->scratch, text, size, list) != STATUS_OK) {
            if (report(golden, which, text, size))
                print_error("    refused: %s\n", status_message());
            return;
        }
        const int32_t *ids = list->ids + begin;
        size_t n_ids = list->n - begin, at = 0;
        while (at < n && at < n_ids && ids[at] == expected[at])
            at++;
        if (at == n && at == n_ids)
            continue;
        if (report(golden, which, text, size)) {
            print_ids("expected", expected, n, at);
            print_ids("actual  ", ids, n_ids, at);
        }
        return;
    }
}

/* True when nothing can still be held back behind a text that ends so: these characters are in every
 * vocabulary, and none begins anything longer. */
static bool ends_plainly(const char *text, size_t size) {
    return size > 0 && memchr("aest.", text[size - 1], 5);
}

/* Token by token; what has been given out so far never ends within a character. is_encoded: the ids are those
 * of a text. */
static void check_decode(struct golden *golden, const char *which, const int32_t *ids, size_t n,
                         const char *expected, size_t size, bool is_encoded) {
    struct buffer *text = &golden->text;
    buffer_clear(text);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(detokenizer_add(&golden->detokenizer, golden->tokenizer, ids[i], text), STATUS_OK);
        if (!utf8_valid(text->data ? text->data : "", text->size, NULL) &&
            report(golden, which, expected, size))
            print_error("    half a character behind id %zu of %zu (%d)\n", i, n, (int)ids[i]);
    }
    size_t n_given = text->size;
    assert_int_equal(detokenizer_finish(&golden->detokenizer, text), STATUS_OK);
    const char *actual = text->data ? text->data : "";
    size_t at = 0;
    while (at < size && at < text->size && actual[at] == expected[at])
        at++;
    bool is_late = is_encoded && n_given < text->size && ends_plainly(actual, text->size);
    if (at == size && at == text->size && !is_late)
        return;
    if (report(golden, which, expected, size)) {
        if (is_late)
            print_error("    %zu of %zu bytes only at the end\n", text->size - n_given, text->size);
        print_ids("decoded", ids, n, 0);
        print_text("expected", expected, size, at);
        print_text("actual  ", actual, text->size, at);
    }
}

static void check_refused(struct golden *golden, const char *group, const char *text, size_t size) {
    golden->list.n = 0;
    if (tokenizer_encode(golden->tokenizer, golden->scratch, text, size, &golden->list) != STATUS_RECORD &&
        report(golden, group, text, size))
        print_error("    is taken; expected to be refused\n");
}

static void check_text(struct golden *golden, const json_t *row) {
    const json_t *text = json_object_get(row, "text"), *decoded = json_object_get(row, "decoded");
    const char *group = json_string_value(json_object_get(row, "case"));
    char encode_name[64], decode_name[64];
    assert_non_null(group);
    if (json_is_true(json_object_get(row, "refused"))) {
        check_refused(golden, group, json_string_value(text), json_string_length(text));
        return;
    }
    assert_true(json_is_array(json_object_get(row, "ids")));
    snprintf(encode_name, sizeof encode_name, "encode, case %s:", group);
    snprintf(decode_name, sizeof decode_name, "decode, case %s:", group);
    size_t n;
    int32_t *ids = read_ids(json_object_get(row, "ids"), &n);
    if (text)
        check_encode(golden, encode_name, json_string_value(text), json_string_length(text), ids, n);
    if (!decoded)
        decoded = text;
    assert_true(json_is_string(decoded));
    check_decode(golden, decode_name, ids, n, json_string_value(decoded), json_string_length(decoded),
                 text != NULL);
    free(ids);
    golden->n_texts++;
}

/* The surroundings of a code point, which stands for '#', in a digest; see tests/golden/README.md. */
static const struct {
    const char *name;
    const char *text;
} forms[] = {{"alone", "#"}, {"letters", "a#b"}, {"others", "1#1!#!'#s"}};

static size_t write_form(size_t form, uint32_t code, char out[32]) {
    size_t n = 0;
    for (const char *at = forms[form].text; *at; at++) {
        if (*at == '#')
            n += utf8_put(code, out + n);
        else
            out[n++] = *at;
    }
    return n;
}

static uint32_t digest(struct golden *golden, size_t form, uint32_t first, uint32_t last) {
    uLong crc = crc32(0, NULL, 0);
    struct token_list *list = &golden->list;
    for (uint32_t code = first; code <= last; code++) {
        char text[32];
        size_t size = write_form(form, code, text);
        list->n = 0;
        /* What is refused has no ids. */
        enum status status = tokenizer_encode(golden->tokenizer, golden->scratch, text, size, list);
        assert_true(status == STATUS_OK || status == STATUS_RECORD);
        if (status != STATUS_OK)
            list->n = 0;
        for (size_t i = 0; i <= list->n; i++) {
            uint32_t id = i < list->n ? (uint32_t)list->ids[i] : UINT32_MAX;
            uint8_t bytes[4] = {(uint8_t)id, (uint8_t)(id >> 8), (uint8_t)(id >> 16), (uint8_t)(id >> 24)};
            crc = crc32(crc, bytes, 4);
        }
    }
    return (uint32_t)crc;
}

static void check_digests(struct golden *golden, const json_t *row) {
    uint32_t first = (uint32_t)json_integer_value(json_object_get(row, "first"));
    uint32_t last = (uint32_t)json_integer_value(json_object_get(row, "last"));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const char *expected = json_string_value(json_object_get(row, forms[i].name));
        char actual[16];
        assert_non_null(expected);
        snprintf(actual, sizeof actual, "%08x", digest(golden, i, first, last));
        if (strcmp(actual, expected) != 0 && report(golden, forms[i].name, NULL, 0))
            print_error("    digest of U+%04X to U+%04X: expected %s, actual %s\n", first, last, expected,
                        actual);
    }
}

/* ---- file ---------------------------------------------------------------------------------------------- */

void tokenizer_golden_check(const char *name, const char *folder, const char *golden_path) {
    struct golden golden = {.name = name};
    struct buffer file = {0};
    if (tokenizer_open(folder, &golden.tokenizer) != STATUS_OK)
        fail_msg("%s: %s", name, status_message());
    assert_int_equal(tokenizer_scratch_new(golden.tokenizer, &golden.scratch), STATUS_OK);
    if (file_read(golden_path, 256 << 20, &file) != STATUS_OK)
        fail_msg("%s: %s", name, status_message());
    for (char *at = file.data, *end; (end = memchr(at, '\n', (size_t)(file.data + file.size - at)));
         at = end + 1) {
        json_error_t error;
        json_t *row = json_loadb(at, (size_t)(end - at), JSON_ALLOW_NUL, &error);
        golden.line++;
        if (!row)
            fail_msg("%s:%d: %s", golden_path, golden.line, error.text);
        if (json_object_get(row, "case"))
            check_text(&golden, row);
        else if (golden.n_digests++ % DIGEST_STRIDE == 0)
            check_digests(&golden, row);
        json_decref(row);
    }
    if (golden.n_different > 0)
        fail_msg("%s: %d of %d lines differ from %s", name, golden.n_different, golden.line, golden_path);
    assert_true(golden.n_texts > 100); /* the file is there in full */
    assert_true(golden.n_digests > 100);
    buffer_free(&file);
    buffer_free(&golden.text);
    token_list_free(&golden.list);
    tokenizer_scratch_free(golden.scratch);
    tokenizer_close(golden.tokenizer);
}
