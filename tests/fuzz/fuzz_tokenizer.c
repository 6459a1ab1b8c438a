/* Fuzzes tokenizer.json: with what is accepted a fixed text and the file's own bytes are encoded and decoded;
 * the text that comes out is valid UTF-8.
 *
 *   clang -fsanitize=fuzzer,address,undefined …   or, over given files,   cc -DFUZZ_STANDALONE … */
#include "tests/fuzz/fuzz_standalone.h"

#include "tests/fuzz/fuzz_folder.h"
#include "worker/text/tokenizer.h"
#include "worker/text/utf8.h"

static void round_trip(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch, const char *text,
                       size_t size) {
    struct token_list list = {0};
    struct detokenizer detokenizer = {0};
    struct buffer decoded = {0};
    enum status status = tokenizer_encode(tokenizer, scratch, text, size, &list);
    if (status != STATUS_OK && status != STATUS_RECORD)
        abort();
    for (size_t i = 0; i < list.n; i++)
        if (list.ids[i] < 0 || list.ids[i] >= tokenizer_n_vocab(tokenizer) ||
            detokenizer_add(&detokenizer, tokenizer, list.ids[i], &decoded) != STATUS_OK)
            abort();
    if (detokenizer_finish(&detokenizer, &decoded) != STATUS_OK ||
        !utf8_valid(decoded.data ? decoded.data : "", decoded.size, NULL))
        abort();
    buffer_free(&decoded);
    token_list_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] =
        "The cat's 12 <|endoftext|>  na\xC3\xAFve\n\n\xE6\xBC\xA2 \xF0\x9F\x98\x80 aaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    enum status status = tokenizer_open(fuzz_folder_write("tokenizer.json", data, size), &tokenizer);
    fuzz_check_refusal(status);
    if (status != STATUS_OK)
        return 0;
    if (tokenizer_scratch_new(tokenizer, &scratch) != STATUS_OK)
        abort();
    round_trip(tokenizer, scratch, text, sizeof text - 1);
    round_trip(tokenizer, scratch, (const char *)data, size);
    tokenizer_scratch_free(scratch);
    tokenizer_close(tokenizer);
    return 0;
}
