/* The tables of bad model directories: tensor files, their index, a model's tensors. What
 * config.json may not say is in test_bad_config. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/bad_row.h"
#include "tests/unit/model_folder.h"
#include "tests/unit/temp_folder.h"
#include "worker/base/buffer.h"
#include "worker/model/model.h"
#include "worker/model/safetensors.h"

/* ---- safetensors --------------------------------------------------------------------------------------- */

#define ENTRY(name, dtype, shape, begin, end)                                                                \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define A8 ENTRY("a", "F32", "[2]", "0", "8")

static const struct {
    const char *header;
    size_t n_data_bytes;
    enum status status;
    const char *message;
} tensor_rows[] = {
    {"", 0, STATUS_DATA, "the header does not begin with '\\{'"},
    {" {}", 0, STATUS_DATA, "the header does not begin with '\\{'"},
    {"[]", 0, STATUS_DATA, "the header does not begin with '\\{'"},
    {"{", 0, STATUS_DATA, "header does not begin|not valid JSON"},
    {"{]", 0, STATUS_DATA, "not valid JSON"},
    {"{} {}", 0, STATUS_DATA, "not valid JSON"},
    {"{\"a\":1}", 0, STATUS_DATA, "tensor \"a\" is a number, expected an object"},
    {"{\"a\":{}}", 0, STATUS_DATA, "tensor \"a\": dtype \\(absent\\) is unknown"},
    {"{" ENTRY("a", "F99", "[2]", "0", "8") "}", 8, STATUS_DATA, "dtype 'F99' is unknown"},
    {"{" ENTRY("a", "F\\n2", "[2]", "0", "8") "}", 8, STATUS_DATA, "dtype 'F.x0A2' is unknown"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, STATUS_DATA,
     "shape is absent, expected a list"},
    {"{" ENTRY("a", "F32", "2", "0", "8") "}", 8, STATUS_DATA, "shape is a number, expected a list"},
    {"{" ENTRY("a", "F32", "[-2]", "0", "8") "}", 8, STATUS_DATA, "shape\\[0\\] is no integer from 0"},
    {"{" ENTRY("a", "F32", "[2.0]", "0", "8") "}", 8, STATUS_DATA, "shape\\[0\\] is no integer"},
    {"{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,2]", "0", "8") "}", 8, STATUS_DATA,
     "has 9 dimensions, allowed are 8"},
    {"{" ENTRY("a", "F32", "[4294967296,4294967296,2]", "0", "8") "}", 8, STATUS_DATA,
     "does not fit 64 bits"},
    {"{" ENTRY("a", "F32", "[4611686018427387904]", "0", "0") "}", 0, STATUS_DATA, "do not take the 0 bytes"},
    {"{" ENTRY("a", "F32", "[9223372036854775808]", "0", "8") "}", 8, STATUS_DATA,
     "not valid JSON: too big integer"},
    {"{" ENTRY("a", "F32", "[3]", "0", "8") "}", 8, STATUS_DATA, "3 elements of F32 do not take the 8 bytes"},
    {"{" ENTRY("a", "F4", "[3]", "0", "2") "}", 2, STATUS_DATA, "3 elements of F4 do not take the 2 bytes"},
    {"{" ENTRY("a", "F32", "[2]", "0", "9") "}", 8, STATUS_DATA,
     "\\[0, 9\\] do not lie within the 8 bytes.*may be cut"},
    {"{" ENTRY("a", "F32", "[2]", "8", "0") "}", 8, STATUS_DATA, "\\[8, 0\\] do not lie within"},
    {"{" ENTRY("a", "F32", "[2]", "-8", "0") "}", 8, STATUS_DATA, "\\[-8, 0\\] do not lie within"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, STATUS_DATA,
     "data_offsets is no pair of integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, STATUS_DATA,
     "data_offsets is no pair"},
    {"{" A8 "}", 9, STATUS_DATA, "the tensors end at byte 8 of the data, the file at 9"},
    {"{}", 1, STATUS_DATA, "the tensors end at byte 0 of the data, the file at 1"},
    {"{" A8 "," ENTRY("b", "F32", "[1]", "12", "16") "}", 16, STATUS_DATA,
     "tensor \"b\" begins at byte 12 of the data, but the one before it ends at 8: there is a hole"},
    {"{" A8 "," ENTRY("b", "F32", "[1]", "4", "8") "}", 8, STATUS_DATA, "begins at byte 4.*they overlap"},
    {"{" ENTRY("b", "F32", "[1]", "4", "8") "}", 8, STATUS_DATA, "begins at byte 4.*there is a hole"},
    {"{" A8 "," A8 "}", 8, STATUS_DATA, "duplicate object key"},
    {"{" A8 ",\"__metadata__\":{\"k\":1}}", 8, STATUS_DATA,
     "__metadata__: 'k' is a number, expected a string"},
    {"{" A8 ",\"__metadata__\":[]}", 8, STATUS_DATA, "__metadata__ is a list, expected an object of strings"},
    {"{" ENTRY("a\\nb", "F32", "[2]", "0", "8") "}", 8, STATUS_DATA,
     "the name 'a.x0Ab' holds control characters"},
    {"{" ENTRY("a\\u0000b", "F32", "[2]", "0", "8") "}", 8, STATUS_DATA,
     "not valid JSON: NUL byte in object key"},
    /* accepted */
    {"{}", 0, STATUS_OK, ""},
    {"{" A8 "}        ", 8, STATUS_OK, ""},
    {"{" ENTRY("b", "F32", "[1]", "8", "12") "," A8 "}", 12, STATUS_OK, ""},
    {"{" A8 "," ENTRY("none", "F32", "[0]", "8", "8") "," ENTRY("one", "I64", "[]", "8", "16") "}", 16,
     STATUS_OK, ""},
    {"{" A8 ",\"__metadata__\":{\"format\":\"pt\",\"n\":\"a\\nb\"}}", 8, STATUS_OK, ""},
    {"{" ENTRY("f4", "F4", "[4]", "0", "2") "}", 2, STATUS_OK, ""},
};

static void test_tensors(void **state) {
    (void)state;
    n_failed = 0;
    for (size_t i = 0; i < sizeof tensor_rows / sizeof tensor_rows[0]; i++) {
        struct safetensors *files;
        model_folder_tensors("model.safetensors", tensor_rows[i].header, tensor_rows[i].n_data_bytes);
        enum status result = safetensors_open_folder(temp_path(""), &files);
        check_row("safetensors", i, result, tensor_rows[i].status, tensor_rows[i].message);
        safetensors_close(files);
    }
    assert_int_equal(n_failed, 0);
}

/* Files whose very length is wrong: the header's length against the file's. */
static void test_tensor_lengths(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *message;
    } rows[] = {
        {"", 0, "^a\\.safetensors: 0 bytes are too few"},
        {"\2\0\0\0\0\0\0", 7, "7 bytes are too few"},
        {"\2\0\0\0\0\0\0\0{", 9, "a header of 2 bytes, but the file has 9; the file is cut"},
        {"\0\0\0\0\0\0\0\0{}", 10, "the header does not begin"},
        {"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10,
         "a header of 18446744073709551615 bytes, allowed are 104857600"},
        {"\1\0\x40\6\0\0\0\0{}", 10, "a header of 104857601 bytes, allowed are"},
        {"version https://git-lfs.github.com/spec/v1\n", 43, "a Git LFS pointer, .* git lfs pull"},
    };
    n_failed = 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct safetensors *files;
        temp_file("a.safetensors", rows[i].bytes, rows[i].size);
        enum status result = safetensors_open_file(temp_path("a.safetensors"), &files);
        check_row("lengths", i, result, STATUS_DATA, rows[i].message);
    }
    assert_int_equal(n_failed, 0);
}

/* ---- the index ----------------------------------------------------------------------------------------- */

static const struct {
    const char *index;
    enum status status;
    const char *message;
} index_rows[] = {
    {"[]", STATUS_DATA, "^model\\.safetensors\\.index\\.json: the whole file is a list"},
    {"{}", STATUS_DATA, "weight_map is absent, expected an object"},
    {"{\"weight_map\":{}}", STATUS_DATA, "weight_map is empty"},
    {"{\"weight_map\":{\"a\":1}}", STATUS_DATA, "weight_map: \"a\" is a number, expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", STATUS_DATA,
     "'\\.\\./x\\.safetensors' is not the name of a .*beside the index"},
    {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", STATUS_DATA, "is not the name of"},
    {"{\"weight_map\":{\"a\":\"..safetensors\"}}", STATUS_DATA, "is not the name of"},
    {"{\"weight_map\":{\"a\":\".safetensors\"}}", STATUS_DATA, "is not the name of"},
    {"{\"weight_map\":{\"a\":\"config.json\"}}", STATUS_DATA, "is not the name of"},
    {"{\"weight_map\":{\"a\":\"one\\n.safetensors\"}}", STATUS_DATA, "holds control characters"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"three.safetensors\"}}", STATUS_NO_INPUT,
     "names a file that is missing: three\\.safetensors: No such file"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}", STATUS_DATA,
     "tensor \"b\" should be in one\\.safetensors, but is in none of the files"},
    {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}", STATUS_DATA,
     "tensor \"a\" should be in two\\.safetensors, but is in one\\.safetensors"},
    {"{\"weight_map\":{\"b\":\"two.safetensors\",\"c\":\"one.safetensors\"}}", STATUS_DATA,
     "tensor \"c\" should be in one\\.safetensors, but is in none"},
    {"{\"weight_map\":{\"b\":\"two.safetensors\",\"a\":\"copy.safetensors\",\"c\":\"one.safetensors\"}}",
     STATUS_DATA, "tensor \"a\" is in (one|copy)\\.safetensors and in (one|copy)\\.safetensors"},
    {"{\"weight_map\":{\"b\":\"both.safetensors\"}}", STATUS_DATA,
     "^both\\.safetensors: tensor \"a\" is not in the weight_map"},
    /* accepted */
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"},\"metadata\":{\"total_size\":16}"
     "}",
     STATUS_OK, ""},
    {"{\"weight_map\":{\"a\":\"both.safetensors\",\"b\":\"both.safetensors\"}}", STATUS_OK, ""},
};

static void test_index(void **state) {
    (void)state;
    n_failed = 0;
    model_folder_tensors("one.safetensors", "{" A8 "}", 8);
    model_folder_tensors("copy.safetensors", "{" A8 "}", 8);
    model_folder_tensors("two.safetensors", "{" ENTRY("b", "F32", "[2]", "0", "8") "}", 8);
    model_folder_tensors("both.safetensors", "{" A8 "," ENTRY("b", "F32", "[2]", "8", "16") "}", 16);
    for (size_t i = 0; i < sizeof index_rows / sizeof index_rows[0]; i++) {
        struct safetensors *files;
        temp_text("model.safetensors.index.json", index_rows[i].index);
        enum status result = safetensors_open_folder(temp_path(""), &files);
        check_row("index", i, result, index_rows[i].status, index_rows[i].message);
        safetensors_close(files);
    }
    model_folder_remove("model.safetensors.index.json");
    model_folder_remove("model.safetensors");
    struct safetensors *files;
    check_row("index", 99, safetensors_open_folder(temp_path(""), &files), STATUS_NO_INPUT,
              "neither model\\.safetensors nor model\\.safetensors\\.index\\.json is there");
    assert_int_equal(n_failed, 0);
}

/* ---- a model's tensors --------------------------------------------------------------------------------- */

static const struct {
    struct model_folder_options options;
    const char *more; /* put in front of config.json's keys */
    enum status status;
    const char *message;
} model_rows[] = {
    {{.prefix = "", .skip = "wpe.weight"},
     "",
     STATUS_DATA,
     "tensor \"wpe\\.weight\" \\[8, 16\\] is missing from model\\.safetensors"},
    {{.prefix = "transformer.", .skip = "h.0.mlp.c_fc.bias"},
     "",
     STATUS_DATA,
     "\"transformer\\.h\\.0\\.mlp\\.c_fc\\.bias\" \\[64\\] is missing"},
    {{.prefix = "", .skip = "wte.weight"}, "", STATUS_DATA, "\"wte\\.weight\" \\[5, 16\\] is missing"},
    {{.prefix = "model."}, "", STATUS_DATA, "tensor \"wte\\.weight\" \\[5, 16\\] is missing"},
    {{.prefix = "", .extra = "h.0.attn.q_norm.weight"},
     "",
     STATUS_DATA,
     "tensor \"h\\.0\\.attn\\.q_norm\\.weight\" is no part of a gpt2 model as config\\.json describes it"},
    {{.prefix = "", .extra = "h.1.ln_1.weight"}, "", STATUS_DATA, "\"h\\.1\\.ln_1\\.weight\" is no part of"},
    {{.prefix = "", .n_head_rows = 5, .head_offset = 1},
     "",
     STATUS_DATA,
     "\"lm_head\\.weight\" differs from \"wte\\.weight\", but config\\.json says tie_word_embeddings"},
    {{.prefix = "", .n_head_rows = 4},
     "",
     STATUS_DATA,
     "\"lm_head\\.weight\" has the shape \\[4, 16\\], but .* \\[5, 16\\]"},
    {{.prefix = ""},
     "\"tie_word_embeddings\":false,",
     STATUS_DATA,
     "\"lm_head\\.weight\" \\[5, 16\\] is missing"},
    {{.prefix = "", .spoil = "h.0.attn.c_attn.weight", .extra_value = INFINITY},
     "",
     STATUS_DATA,
     "\"h\\.0\\.attn\\.c_attn\\.weight\": 1 of 768 values are NaN or infinite in float32"},
    {{.prefix = "", .spoil = "ln_f.bias", .extra_value = -INFINITY},
     "",
     STATUS_DATA,
     "\"ln_f\\.bias\": 1 of 16 values"},
    {{.prefix = ""},
     "\"n_inner\":32,",
     STATUS_DATA,
     "\"h\\.0\\.mlp\\.c_fc\\.bias\" has the shape \\[64\\], but config\\.json asks for \\[32\\]"},
    /* accepted */
    {{.prefix = ""}, "", STATUS_OK, ""},
    {{.prefix = "transformer.", .extra = "h.0.attn.bias"}, "", STATUS_OK, ""},
    {{.prefix = "", .n_head_rows = 5}, "", STATUS_OK, ""},
    {{.prefix = "", .n_head_rows = 5, .head_offset = 1}, "\"tie_word_embeddings\":false,", STATUS_OK, ""},
    {{.prefix = "", .spoil = "ln_f.bias", .extra_value = 3e38f}, "", STATUS_OK, ""},
};

/* The same for the Llama of model_folder. */
static const struct {
    struct model_folder_options options;
    const char *more;
    enum status status;
    const char *message;
} llama_rows[] = {
    {{.prefix = "model.", .n_head_rows = 5, .skip = "layers.0.self_attn.v_proj.weight"},
     "",
     STATUS_DATA,
     "tensor \"model\\.layers\\.0\\.self_attn\\.v_proj\\.weight\" \\[6, 16\\] is missing"},
    {{.prefix = "model.", .n_head_rows = 5, .skip = "layers.0.mlp.up_proj.weight"},
     "",
     STATUS_DATA,
     "\"model\\.layers\\.0\\.mlp\\.up_proj\\.weight\" \\[24, 16\\] is missing"},
    {{.prefix = "model."}, "", STATUS_DATA, "\"lm_head\\.weight\" \\[5, 16\\] is missing"},
    {{.prefix = "model.", .n_head_rows = 5, .extra = "layers.0.self_attn.q_proj.bias"},
     "",
     STATUS_DATA,
     "\"model\\.layers\\.0\\.self_attn\\.q_proj\\.bias\" is no part of a llama model"},
    {{.prefix = "model.", .n_head_rows = 5, .extra = "layers.0.self_attn.inv_freq"},
     "",
     STATUS_DATA,
     "\"model\\.layers\\.0\\.self_attn\\.inv_freq\" is no part of"},
    {{.prefix = "model.", .n_head_rows = 5},
     "\"num_key_value_heads\":2,",
     STATUS_DATA,
     "k_proj\\.weight\" has the shape \\[6, 16\\], but config\\.json asks for \\[12, 16\\]"},
    {{.prefix = "model.", .n_head_rows = 5, .spoil = "layers.0.mlp.up_proj.weight", .extra_value = INFINITY},
     "",
     STATUS_DATA,
     "mlp\\.up_proj\\.weight\": 1 of 384 values are NaN or infinite"},
    {{.prefix = "model.", .n_head_rows = 5, .head_offset = 1},
     "\"tie_word_embeddings\":true,",
     STATUS_DATA,
     "\"lm_head\\.weight\" differs from \"model\\.embed_tokens\\.weight\""},
    /* accepted */
    {{.prefix = "model.", .n_head_rows = 5}, "", STATUS_OK, ""},
    {{.prefix = "", .n_head_rows = 5}, "", STATUS_OK, ""},
    {{.prefix = "model."}, "\"tie_word_embeddings\":true,", STATUS_OK, ""},
    {{.prefix = "model.", .n_head_rows = 5, .extra = "layers.0.self_attn.rotary_emb.inv_freq"},
     "",
     STATUS_OK,
     ""},
    {{.prefix = "model.", .n_head_rows = 5, .extra = "rotary_emb.inv_freq"}, "", STATUS_OK, ""},
};

/* Makes the folder as a row says and loads the model. config: without what the row puts in front. */
static enum status load_model(const char *more, const char *config_text, bool is_llama,
                              const struct model_folder_options *options) {
    char text[500];
    struct model_config config;
    struct sampling defaults;
    struct backend backend;
    struct model *model;
    /* A key of the row replaces the one of the config: JSON with a key twice is refused. */
    const char *kept = strstr(more, "num_key_value_heads") ? "" : "\"num_key_value_heads\":1,";
    snprintf(text, sizeof text, "{%s%s%s", more, is_llama ? kept : "", config_text + 1);
    temp_text("config.json", text);
    if (is_llama)
        model_folder_llama("model.safetensors", options);
    else
        model_folder_gpt2("model.safetensors", options);
    if (model_config_load(temp_path(""), &config, &defaults) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(backend_open("cpu", &(struct backend_options){.n_threads = 1}, &backend), STATUS_OK);
    enum status result = model_load(temp_path(""), &config, DTYPE_FLOAT32, &backend, NULL, &model);
    model_close(model);
    backend.close(backend.context);
    return result;
}

static void test_models(void **state) {
    (void)state;
    n_failed = 0;
    /* Mistral's directories hold their weights a second time, under names that no index has. */
    temp_text("consolidated.safetensors", "not read");
    for (size_t i = 0; i < sizeof model_rows / sizeof model_rows[0]; i++) {
        const struct model_folder_options *options = &model_rows[i].options;
        enum status result = load_model(model_rows[i].more, model_folder_config, false, options);
        check_row("model", i, result, model_rows[i].status, model_rows[i].message);
    }
    for (size_t i = 0; i < sizeof llama_rows / sizeof llama_rows[0]; i++) {
        const struct model_folder_options *options = &llama_rows[i].options;
        enum status result = load_model(llama_rows[i].more, model_folder_llama_config, true, options);
        check_row("llama", i, result, llama_rows[i].status, llama_rows[i].message);
    }
    assert_int_equal(n_failed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_tensor_lengths),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_models),
    };
    return cmocka_run_group_tests_name("bad_model", tests, temp_folder_open, temp_folder_close);
}
