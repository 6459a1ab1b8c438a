/* Every tokenizer of tests/tokenizers beside what the `tokenizers` library makes of a great many texts, of
 * lists of ids, and of every code point (tests/golden/tokenizers); and text that is no UTF-8 is refused by
 * each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/tokenizer_golden.h"
#include "worker/text/tokenizer.h"

static void test_golden(void **state) {
    const char *name = *state;
    char folder[256], golden[256];
    snprintf(folder, sizeof folder, "tests/tokenizers/%s", name);
    snprintf(golden, sizeof golden, "tests/golden/tokenizers/%s.jsonl", name);
    tokenizer_golden_check(name, folder, golden);
}

static void test_invalid_utf8(void **state) {
    static const char *const rows[] = {
        "\x80",             /* a continuation byte alone */
        "a\xC3",            /* cut */
        "\xE4\xBD",         /* cut */
        "\xE4\xBDz",        /* cut, and then more */
        "\xC0\xAF",         /* not the shortest form */
        "\xE0\x80\xAF",     /* not the shortest form */
        "\xED\xA0\x80",     /* a surrogate */
        "\xF4\x90\x80\x80", /* beyond U+10FFFF */
        "\xFF",
    };
    char folder[256];
    snprintf(folder, sizeof folder, "tests/tokenizers/%s", (const char *)*state);
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct token_list list = {0};
    if (tokenizer_open(folder, &tokenizer) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(tokenizer_scratch_new(tokenizer, &scratch), STATUS_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (tokenizer_encode(tokenizer, scratch, rows[i], strlen(rows[i]), &list) != STATUS_RECORD)
            fail_msg("row %zu is taken, or refused otherwise than as a record", i);
    token_list_free(&list);
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
}

#define TOKENIZER(name)                                                                                      \
    {name " golden", test_golden, NULL, NULL, name}, {                                                       \
        name " invalid UTF-8", test_invalid_utf8, NULL, NULL, name                                           \
    }

int main(void) {
    static const struct CMUnitTest tests[] = {
        TOKENIZER("gpt2"),      TOKENIZER("llama3"),
        TOKENIZER("qwen2"),     TOKENIZER("smollm2"),
        TOKENIZER("llama2"),    TOKENIZER("mistral"),
        TOKENIZER("gemma3"),    TOKENIZER("added"),
        TOKENIZER("splits"),    TOKENIZER("splits_inverted"),
        TOKENIZER("template"),  TOKENIZER("nfkc"),
        TOKENIZER("nfd"),       TOKENIZER("nfkd"),
        TOKENIZER("metaspace"), TOKENIZER("metaspace_never"),
        TOKENIZER("byte_gaps"), TOKENIZER("digits"),
        TOKENIZER("accents"),
    };
    return cmocka_run_group_tests_name("tokenizer_golden", tests, NULL, NULL);
}
