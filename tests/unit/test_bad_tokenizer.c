/* The table of bad tokenizer.json files: the text, and the status and message (an extended regular
 * expression; the folder is cut from it) that it is refused with, or that it is accepted. */
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"
#include "worker/text/tokenizer.h"

#define BPE              "\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]"
#define FUSE             "\"decoder\":{\"type\":\"Fuse\"}"
#define TOKENIZER(more)  "{" FUSE ",\"model\":{" BPE "}" more "}"
#define MODEL(text)      "{" FUSE ",\"model\":{" text "}}"
#define DECODER(text)    "{\"decoder\":" text ",\"model\":{" BPE "}}"
#define NORMALIZER(text) TOKENIZER(",\"normalizer\":" text)
#define PRE(text)        TOKENIZER(",\"pre_tokenizer\":" text)
#define POST(text)       TOKENIZER(",\"post_processor\":" text)
#define NFC              "{\"type\":\"NFC\"}"
#define REPLACE(pattern, content)                                                                            \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":" pattern "},\"content\":" content "}"
#define STRIP(start, stop) "{\"type\":\"Strip\",\"content\":\" \",\"start\":" start ",\"stop\":" stop "}"
#define SPLIT(pattern, behavior)                                                                             \
    "{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":" behavior ",\"invert\":false}"
#define REGEX(text) SPLIT("\"Regex\":\"" text "\"", "\"Isolated\"")
#define A           "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define BOS         "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
#define TEMPLATE(single, tokens)                                                                             \
    "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{" tokens "}}"
#define FLAGS "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":false"

static const struct {
    const char *text; /* NULL: no such file */
    enum status status;
    const char *message;
} tokenizer_rows[] = {
    {NULL, STATUS_NO_INPUT, "^tokenizer\\.json: No such file"},
    {"{", STATUS_DATA, "^tokenizer\\.json:1:1: not valid JSON"},
    {"{}", STATUS_DATA, "model is absent, expected an object"},
    {"version https://git-lfs.github.com/spec/v1\nsize 9\n", STATUS_DATA,
     "^tokenizer\\.json: a Git LFS pointer, not the file itself; fetch that with git lfs pull$"},
    {"{\"model\":{" BPE "}}", STATUS_DATA, "decoder is null, which puts a space between"},
    {DECODER("{\"type\":\"WordPiece\"}"), STATUS_DATA,
     "decoder 'WordPiece' is not supported; supported: ByteLevel, ByteFallback, Fuse, Replace, Strip, "
     "Metaspace, "
     "Sequence"},
    {DECODER("{\"type\":\"Sequence\"}"), STATUS_DATA, "decoder\\.decoders is absent, expected a list"},
    {DECODER(
         "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"CTC\"}]}]}"),
     STATUS_DATA, "decoder\\.decoders\\[0\\]\\.decoders\\[0\\] 'CTC' is not supported"},
    {DECODER("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Sequence\"}]}"), STATUS_DATA,
     "decoder\\.decoders\\[0\\]\\.decoders is absent, expected a list"},
    {DECODER("{\"type\":\"Sequence\",\"decoders\":[null]}"), STATUS_DATA,
     "decoder\\.decoders\\[0\\] is null without a \"type\""},
    {DECODER("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}"),
     STATUS_DATA, "decoder\\.decoders\\[1\\]: ByteFallback behind Fuse is not supported"},
    {DECODER(
         "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"}," REPLACE("\"a\"", "\"b\"") "]}"),
     STATUS_DATA, "decoders\\[1\\]: Replace behind ByteLevel or ByteFallback is not supported"},
    {DECODER("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}," STRIP("0", "1") "]}"), STATUS_DATA,
     "decoders\\[1\\]\\.stop: 1 is not supported where tokens are one text"},
    {DECODER("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"}," STRIP("1", "0") "," STRIP("1",
                                                                                                   "0") "]}"),
     STATUS_DATA, "a second Strip of the whole text"},
    {DECODER(STRIP("-1", "0")), STATUS_DATA, "decoder\\.start is out of range, expected an integer from 0"},
    {DECODER("{\"type\":\"Strip\",\"content\":\"ab\",\"start\":0,\"stop\":0}"), STATUS_DATA,
     "decoder\\.content: expected one character"},
    {DECODER("{\"type\":\"Metaspace\",\"replacement\":\"\"}"), STATUS_DATA,
     "decoder\\.replacement: expected one character"},
    {DECODER("7"), STATUS_DATA, "decoder is a number without a \"type\""},
    {NORMALIZER("{\"type\":\"BertNormalizer\"}"), STATUS_DATA,
     "normalizer 'BertNormalizer' is not supported; supported: null, NFC, NFD"},
    {NORMALIZER("{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AA==\"}"), STATUS_DATA,
     "normalizer 'Precompiled' is not supported"},
    {NORMALIZER("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Nmt\"}]}"),
     STATUS_DATA, "normalizer\\.normalizers\\[1\\] 'Nmt' is not supported"},
    {NORMALIZER("[]"), STATUS_DATA, "normalizer is a list without a \"type\""},
    {NORMALIZER("{\"type\":\"Prepend\"}"), STATUS_DATA, "normalizer\\.prepend is absent, expected a string"},
    {NORMALIZER("{\"type\":\"Strip\",\"strip_left\":true}"), STATUS_DATA,
     "normalizer\\.strip_right is absent"},
    {NORMALIZER("{\"type\":\"Replace\",\"pattern\":\"a\",\"content\":\"b\"}"), STATUS_DATA,
     "normalizer\\.pattern is a string, expected"},
    {NORMALIZER("{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"b\"}"), STATUS_DATA,
     "normalizer\\.pattern is empty"},
    {NORMALIZER("{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"}}"), STATUS_DATA,
     "normalizer\\.content is absent"},
    {NORMALIZER("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"b\"}"), STATUS_DATA,
     "normalizer\\.pattern '\\(': has a group without an end"},
    {NORMALIZER("{\"type\":\"Sequence\",\"normalizers\":[" NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC
                "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC "," NFC "]}"),
     STATUS_DATA, "more than 16 normalizers"},
    {TOKENIZER(",\"truncation\":{\"max_length\":3}"), STATUS_DATA, "truncation is an object, expected null"},
    {TOKENIZER(",\"padding\":{}"), STATUS_DATA,
     "padding adds tokens to a prompt; supported: null, strategy BatchLongest"},
    {TOKENIZER(",\"padding\":{\"strategy\":{\"Fixed\":8}}"), STATUS_DATA, "padding adds tokens"},
    {TOKENIZER(",\"padding\":{\"strategy\":\"BatchLongest\",\"pad_to_multiple_of\":8}"), STATUS_DATA,
     "padding adds tokens"},
    {PRE("{\"type\":\"BertPreTokenizer\"}"), STATUS_DATA,
     "pre_tokenizer 'BertPreTokenizer' is not supported; supported: null, Split, ByteLevel"},
    {PRE("{\"type\":\"Sequence\",\"pretokenizers\":7}"), STATUS_DATA,
     "pre_tokenizer\\.pretokenizers is a number, expected a list"},
    {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"WhitespaceSplit\"}]"
         "}"),
     STATUS_DATA, "pretokenizers\\[1\\]: a pre-tokenizer behind ByteLevel is not supported"},
    {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\","
         "\"replacement\":\"_\",\"prepend_scheme\":\"first\"}]}"),
     STATUS_DATA, "prepend_scheme first is supported for the first pre-tokenizer only"},
    {PRE("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}"), STATUS_DATA,
     "prepend_scheme 'last' is not supported; supported: always, never, first"},
    {PRE("{\"type\":\"Metaspace\",\"replacement\":\"__\"}"), STATUS_DATA,
     "replacement: expected one character"},
    {PRE("{\"type\":\"Digits\"}"), STATUS_DATA, "pre_tokenizer\\.individual_digits is absent"},
    {PRE(SPLIT("\"String\":\"a\"", "\"Isolate\"")), STATUS_DATA,
     "pre_tokenizer\\.behavior 'Isolate' is not supported; supported: Isolated, Removed"},
    {PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}"), STATUS_DATA,
     "pre_tokenizer\\.invert is absent, expected true or false"},
    {PRE(SPLIT("\"Glob\":\"a\"", "\"Isolated\"")), STATUS_DATA,
     "pre_tokenizer\\.pattern is an object, expected"},
    {PRE(REGEX("\\\\p{Foo}+")), STATUS_DATA,
     "pre_tokenizer\\.pattern '.*': at character 1: '.*Foo.' is not supported"},
    {PRE(REGEX("a[b&&c]")), STATUS_DATA, "at character 4: '&&' is not supported"},
    {PRE(REGEX("(?i:[a-z])")), STATUS_DATA, "a class under the flag i is not supported"},
    {PRE(REGEX("(?<=a*)b")), STATUS_DATA, "is not supported: lookbehind assertion is not fixed length"},
    {TOKENIZER(",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":1}"), STATUS_DATA,
     "pre_tokenizer\\.use_regex is a number, expected true or false"},
    {POST("{\"type\":\"BertProcessing\"}"), STATUS_DATA,
     "post_processor 'BertProcessing' is not supported; supported: null, TemplateProcessing"},
    {POST(TEMPLATE("", "")), STATUS_DATA,
     "post_processor\\.single has the sequence A 0 times, expected once"},
    {POST(TEMPLATE(A "," A, "")), STATUS_DATA, "has the sequence A 2 times, expected once"},
    {POST("{\"type\":\"Sequence\",\"processors\":[" TEMPLATE(
         A, "") ",{\"type\":\"Sequence\",\"processors\":[" TEMPLATE(A, "") "]}]}"),
     STATUS_DATA, "processors\\[1\\]\\.processors\\[0\\]: a second TemplateProcessing is not supported"},
    {POST(TEMPLATE("{\"Sequence\":{\"id\":\"B\"}}", "")), STATUS_DATA,
     "post_processor\\.single\\[0\\]: expected"},
    {POST(TEMPLATE(BOS "," A, "")), STATUS_DATA, "special_tokens has no ids for '<s>'"},
    {POST(TEMPLATE(BOS "," A, "\"<s>\":{\"ids\":[\"1\"]}")), STATUS_DATA,
     "an id of '<s>' is no integer from 0"},
    {POST(TEMPLATE(BOS "," A, "\"<s>\":{\"ids\":[3]}")), STATUS_DATA,
     "post_processor: a special token has the id 3, which is outside the vocabulary"},
    {"{" FUSE "}", STATUS_DATA, "model is absent, expected an object"},
    {MODEL(""), STATUS_DATA, "model is an object without a \"type\"; supported: BPE"},
    {MODEL("\"type\":\"Unigram\""), STATUS_DATA, "model 'Unigram' is not supported; supported: BPE"},
    /* … whatever else is unknown in its file. */
    {"{\"normalizer\":{\"type\":\"Precompiled\"},\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", STATUS_DATA,
     "model 'Unigram' is not supported; supported: BPE"},
    {MODEL("\"type\":\"BPE\",\"merges\":[]"), STATUS_DATA, "model\\.vocab is absent, expected an object"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{},\"merges\":[]"), STATUS_DATA, "model\\.vocab is empty"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0}"), STATUS_DATA, "model\\.merges is absent, expected a list"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]"), STATUS_DATA,
     "the id of token 'a' is no integer"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]"), STATUS_DATA,
     "token 'a' has the id -1, allowed are 0 to"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":4194304},\"merges\":[]"), STATUS_DATA,
     "has the id 4194304, allowed"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\\n\":0},\"merges\":[]"), STATUS_DATA,
     "tokens '.*' and '.*' both have the id 0"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]"), STATUS_DATA,
     "token 'a' has two ids, 0 and 1"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]"), STATUS_DATA,
     "model\\.merges\\[0\\] is no pair"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]"), STATUS_DATA,
     "merges\\[0\\] is no pair"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]"), STATUS_DATA,
     "merges\\[0\\] is no pair"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]"), STATUS_DATA,
     "merges\\[0\\] is no pair"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]"), STATUS_DATA,
     "merges\\[0\\]: 'b' is not in the vocabulary"},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]"), STATUS_DATA,
     "the merged token 'aa' is not in the vocabulary"},
    {MODEL(BPE ",\"dropout\":0.1"), STATUS_DATA, "model\\.dropout is set"},
    {MODEL(BPE ",\"continuing_subword_prefix\":\"##\""), STATUS_DATA,
     "model\\.continuing_subword_prefix is set"},
    {MODEL(BPE ",\"end_of_word_suffix\":\"</w>\""), STATUS_DATA, "model\\.end_of_word_suffix is set"},
    {MODEL(BPE ",\"byte_fallback\":1"), STATUS_DATA,
     "model\\.byte_fallback is a number, expected true or false"},
    {MODEL(BPE ",\"dropout\":\"0\""), STATUS_DATA, "model\\.dropout is set"},
    {MODEL(BPE ",\"unk_token\":3"), STATUS_DATA, "model\\.unk_token is a number"},
    {TOKENIZER(",\"added_tokens\":{}"), STATUS_DATA, "added_tokens is an object, expected a list"},
    {TOKENIZER(",\"added_tokens\":[{}]"), STATUS_DATA, "added_tokens\\[0\\]: expected an object with"},
    {TOKENIZER(",\"added_tokens\":[{\"id\":3,\"content\":\"x\"}]"), STATUS_DATA,
     "added_tokens\\[0\\]\\.single_word is absent"},
    {TOKENIZER(",\"added_tokens\":[{\"id\":5,\"content\":\"x\"," FLAGS "}]"), STATUS_DATA,
     "'x' has the id 5, but the next free one is 3"},
    {TOKENIZER(",\"added_tokens\":[{\"id\":3,\"content\":\"a\"," FLAGS "}]"), STATUS_DATA,
     "'a' has the id 3, but 0 in the vocabulary"},
    {NORMALIZER("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},\"added_tokens\":[{\"id\":3,"
                "\"content\":"
                "\" "
                "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":true,\"special\":"
                "false}]"),
     STATUS_DATA, "added_tokens\\[0\\] ' ': nothing is left of it when it is normalised"},
    /* accepted */
    {TOKENIZER(""), STATUS_OK, ""},
    {"{\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"post_processor\":{"
     "\"type\":\"ByteLevel\"},"
     "\"truncation\":null,\"model\":{" BPE "}}",
     STATUS_OK, ""},
    {MODEL("\"vocab\":{\"a\":0},\"merges\":[]"), STATUS_OK, ""}, /* GPT-2's own file names no type */
    {DECODER("{\"type\":\"Sequence\",\"decoders\":[]}"), STATUS_OK, ""},
    {DECODER("{\"type\":\"Sequence\",\"decoders\":[" REPLACE(
         "\"a\"", "\"b\"") ",{\"type\":\"ByteFallback\"},{\"type\":"
                           "\"Fuse\"}," STRIP("1", "0") "]}"),
     STATUS_OK, ""},
    {DECODER(STRIP("1", "1")), STATUS_OK, ""},
    {DECODER("{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"add_prefix_space\":true}"), STATUS_OK,
     ""},
    {NORMALIZER("{\"type\":\"Sequence\",\"normalizers\":[" NFC
                ",{\"type\":\"Lowercase\"},{\"type\":\"Prepend\","
                "\"prepend\":\"x\"},{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}]}"),
     STATUS_OK, ""},
    {PRE(REGEX("(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|\\\\s+(?!\\\\S)")),
     STATUS_OK, ""},
    {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Punctuation\"},{\"type\":\"Whitespace\"},{"
         "\"type\":"
         "\"Digits\",\"individual_digits\":false},{\"type\":\"ByteLevel\"}]}"),
     STATUS_OK, ""},
    {POST("{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," TEMPLATE(
         BOS "," A, "\"<s>\":{\"ids\":[2]}") "]}"),
     STATUS_OK, ""},
    {TOKENIZER(",\"padding\":{\"strategy\":\"BatchLongest\",\"pad_to_multiple_of\":null}"), STATUS_OK, ""},
    {MODEL(BPE ",\"byte_fallback\":true,\"fuse_unk\":true,\"ignore_merges\":true"), STATUS_OK, ""},
    {MODEL(BPE ",\"dropout\":0.0"), STATUS_OK, ""},
    {MODEL(BPE ",\"dropout\":null,\"unk_token\":\"\",\"continuing_subword_prefix\":\"\",\"end_of_word_"
               "suffix\":\"\""),
     STATUS_OK, ""},
    {TOKENIZER(",\"added_tokens\":[{\"id\":0,\"content\":\"a\"," FLAGS "},{\"id\":3,\"content\":\"x\"," FLAGS
               "}]"),
     STATUS_OK, ""},
    {MODEL("\"type\":\"BPE\",\"vocab\":{\"a\":7,\"\":3},\"merges\":[]"), STATUS_OK, ""},
};

/* The message without the folder. */
static void read_message(char *message, size_t capacity) {
    const char *folder = temp_path(""), *from = status_message();
    size_t n = 0, length = strlen(folder);
    while (*from && n + 1 < capacity) {
        if (strncmp(from, folder, length) == 0)
            from += length;
        else
            message[n++] = *from++;
    }
    message[n] = '\0';
}

static void test_rows(void **state) {
    (void)state;
    int n_failed = 0;
    for (size_t i = 0; i < sizeof tokenizer_rows / sizeof tokenizer_rows[0]; i++) {
        struct tokenizer *tokenizer;
        char message[2100] = "";
        unlink(temp_path("tokenizer.json"));
        if (tokenizer_rows[i].text)
            temp_text("tokenizer.json", tokenizer_rows[i].text);
        enum status status = tokenizer_open(temp_path(""), &tokenizer);
        if (status != STATUS_OK)
            read_message(message, sizeof message);
        regex_t pattern;
        assert_int_equal(regcomp(&pattern, tokenizer_rows[i].message, REG_EXTENDED | REG_NOSUB), 0);
        if (status != tokenizer_rows[i].status || regexec(&pattern, message, 0, NULL, 0) != 0 ||
            strchr(message, '\n')) {
            print_error("row %zu, %s: status %d \"%s\", expected %d matching \"%s\"\n", i,
                        tokenizer_rows[i].text ? tokenizer_rows[i].text : "no file", (int)status, message,
                        (int)tokenizer_rows[i].status, tokenizer_rows[i].message);
            n_failed++;
        }
        regfree(&pattern);
        tokenizer_close(tokenizer);
    }
    assert_int_equal(n_failed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests_name("bad_tokenizer", tests, temp_folder_open, temp_folder_close);
}
