/* json_cursor: spans of members and elements; compared with jansson's own reading on random documents. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "worker/job/json_cursor.h"

/* All keys and values of text as "key=value|key=value|". */
static void walk(const char *text, size_t size, char *out, size_t out_size) {
    struct json_cursor cursor;
    struct json_span key, value;
    size_t used = 0;
    out[0] = '\0';
    if (!json_cursor_open(&cursor, text, size)) {
        snprintf(out, out_size, "none");
        return;
    }
    while (json_cursor_next(&cursor, &key, &value) && used < out_size)
        used += (size_t)snprintf(out + used, out_size - used, "%.*s=%.*s|", (int)key.size, key.bytes,
                                 (int)value.size, value.bytes);
}

static void test_spans(void **state) {
    (void)state;
    const struct {
        const char *text;
        const char *spans;
    } cases[] = {
        {"{}", ""},
        {" \t{ } ", ""},
        {"[]", ""},
        {"{\"a\":1}", "a=1|"},
        {"{\"a\":1,\"b\":\"x\"}", "a=1|b=\"x\"|"},
        {" { \"a\" :\t1 , \"b\" : [ 1 , 2 ] } ", "a=1|b=[ 1 , 2 ]|"},
        {"{\"a\":{\"b\":{\"c\":[]}},\"d\":null}", "a={\"b\":{\"c\":[]}}|d=null|"},
        {"{\"m\":\"}\",\"n\":\"]\\\"}{\"}", "m=\"}\"|n=\"]\\\"}{\"|"},
        {"{\"m\":{\"s\":\"\\\\\"},\"n\":\"\\\\\\\"\"}", "m={\"s\":\"\\\\\"}|n=\"\\\\\\\"\"|"},
        {"{\"\\u006detadata\":{\"a\":1},\"\\\"\":2}", "\\u006detadata={\"a\":1}|\\\"=2|"},
        {"{\"a\":-1.5e+30,\"b\":true}", "a=-1.5e+30|b=true|"},
        {"{\"\":\"\"}", "=\"\"|"},
        {"[1, \"a,b\",{\"x\":[3]} ,[4,5]]", "=1|=\"a,b\"|={\"x\":[3]}|=[4,5]|"},
        {"{\"é\":\"\\u00e9\",\"b\":[\"]\"]}", "é=\"\\u00e9\"|b=[\"]\"]|"},
        {"3", "none"},
        {"", "none"},
        {"\"{\"", "none"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char spans[300];
        /* A copy without anything behind it, so that Valgrind sees a read beyond the end. */
        size_t size = strlen(cases[i].text);
        char *text = malloc(size + !size);
        assert_non_null(text);
        memcpy(text, cases[i].text, size);
        walk(text, size, spans, sizeof spans);
        assert_string_equal(spans, cases[i].spans);
        for (size_t cut = 0; cut <= size; cut++) /* only must not read outside */
            walk(text + cut, size - cut, spans, sizeof spans), walk(text, cut, spans, sizeof spans);
        free(text);
    }
}

static unsigned random_state;
static unsigned below(unsigned n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static json_t *random_value(int depth) {
    static const char *const strings[] = {"", "\"", "\\", "{", "}]", ",", ":", "é\n", "\x01", "a b", "\\\""};
    switch (below(depth > 0 ? 7 : 5)) {
    case 0:
        return json_integer((json_int_t)below(1000) - 500);
    case 1:
        return json_real(below(1000) / 8.0);
    case 2:
        return below(2) ? json_true() : json_null();
    case 3:
    case 4:
        return json_string(strings[below(sizeof strings / sizeof *strings)]);
    case 5: {
        json_t *array = json_array();
        for (unsigned n = below(4); n > 0; n--)
            json_array_append_new(array, random_value(depth - 1));
        return array;
    }
    default: {
        json_t *object = json_object();
        for (unsigned n = below(5); n > 0; n--) {
            char key[24];
            snprintf(key, sizeof key, "%s%u", strings[below(7)], below(100));
            json_object_set_new(object, key, random_value(depth - 1));
        }
        return object;
    }
    }
}

/* The k-th member that jansson iterates is the k-th span, and the span parses to an equal value. */
static void test_random_documents(void **state) {
    (void)state;
    static const size_t flags[] = {JSON_COMPACT, 0, JSON_INDENT(3), JSON_ENSURE_ASCII, JSON_ESCAPE_SLASH};
    random_state = 12345;
    int n_members = 0;
    for (int round = 0; round < 3000; round++) {
        json_t *document = json_object();
        for (unsigned n = below(6); n > 0; n--) {
            char key[16];
            snprintf(key, sizeof key, "k%u", below(50));
            json_object_set_new(document, key, random_value(4));
        }
        char *text = json_dumps(document, flags[below(5)]);
        json_t *read = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        struct json_cursor cursor;
        struct json_span key, value;
        const char *name;
        json_t *member;
        assert_true(json_cursor_open(&cursor, text, strlen(text)));
        json_object_foreach(read, name, member) {
            assert_true(json_cursor_next(&cursor, &key, &value));
            assert_int_equal(key.size, strlen(name));
            assert_memory_equal(key.bytes, name, key.size);
            json_t *again = json_loadb(value.bytes, value.size, JSON_DECODE_ANY, NULL);
            if (!json_equal(again, member))
                fail_msg("round %d: %.*s in %s", round, (int)value.size, value.bytes, text);
            json_decref(again);
            n_members++;
        }
        assert_false(json_cursor_next(&cursor, &key, &value));
        json_decref(read);
        json_decref(document);
        free(text);
    }
    assert_true(n_members > 3000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_random_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
