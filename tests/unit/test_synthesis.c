/* synthesis: made-up weights have the distribution that is promised, depend on seed and name alone, and are
 * the same in memory and in the directory that is written. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"
#include "worker/model/synthesis.h"
#include "worker/model/weight_source.h"

static const struct synthesis seven = {.seed = 7};

static struct synthetic_tensor matrix(const char *name, int64_t rows, int64_t columns) {
    struct synthetic_tensor tensor = {.n_dims = 2, .shape = {rows, columns}};
    strcpy(tensor.name, name);
    return tensor;
}

static void check(enum status result) {
    if (result != STATUS_OK)
        fail_msg("%s", status_message());
}

static void test_distribution(void **state) {
    (void)state;
    enum { N = 1 << 16 };
    static float values[N], again[N], part[100];
    struct synthetic_tensor tensor = matrix("h.0.mlp.c_fc.weight", 256, 256);
    synthesis_values(&seven, &tensor, DTYPE_FLOAT32, 0, N, values);
    double sum = 0, squares = 0, fourth = 0;
    for (int i = 0; i < N; i++) {
        sum += values[i];
        squares += (double)values[i] * values[i];
        fourth += pow(values[i], 4);
    }
    double variance = squares / N;
    /* Standard errors: 0.02 / 256 of the mean, 0.3 % of the deviation; four uniforms have a kurtosis of 2.7.
     */
    assert_true(fabs(sum / N) < 4 * 0.02 / 256);
    assert_true(fabs(sqrt(variance) - 0.02) < 0.02 * 0.012);
    assert_true(fabs(fourth / N / (variance * variance) - 2.7) < 0.1);
    synthesis_values(&seven, &tensor, DTYPE_FLOAT32, 12345, 100, part);
    assert_memory_equal(part, values + 12345, sizeof part);

    struct synthetic_tensor other = matrix("h.1.mlp.c_fc.weight", 256, 256);
    synthesis_values(&seven, &other, DTYPE_FLOAT32, 0, N, again);
    double product = 0;
    for (int i = 0; i < N; i++)
        product += (double)values[i] * again[i];
    assert_true(fabs(product / N) < 4 * variance / 256);
    synthesis_values(&(struct synthesis){.seed = 8}, &tensor, DTYPE_FLOAT32, 0, N, again);
    assert_memory_not_equal(values, again, sizeof values);
}

/* A norm that is stored as w of 1 + w is made up as 0, so that it multiplies with 1. */
static void test_offset(void **state) {
    (void)state;
    struct synthetic_tensor tensor = {
        .name = "model.layers.0.input_layernorm.weight", .n_dims = 1, .shape = {4, 1}, .offset = 1};
    float values[4];
    synthesis_values(&seven, &tensor, DTYPE_FLOAT32, 0, 4, values);
    for (int i = 0; i < 4; i++)
        assert_true(values[i] == 0);
    tensor.offset = 0;
    synthesis_values(&seven, &tensor, DTYPE_FLOAT32, 0, 4, values);
    assert_true(values[3] == 1);
}

static float first_value(const char *name, bool peaked) {
    struct synthetic_tensor tensor = {.n_dims = 1, .shape = {64, 1}};
    strcpy(tensor.name, name);
    float value;
    synthesis_values(&(struct synthesis){.seed = 7, .peaked_logits = peaked}, &tensor, DTYPE_FLOAT32, 0, 1,
                     &value);
    return value;
}

/* Norms pass on what comes, but for the last one where logits are to be peaked. */
static void test_vectors(void **state) {
    (void)state;
    static const struct {
        const char *name;
        float flat, peaked;
    } rows[] = {
        {"h.3.ln_1.weight", 1, 1},
        {"h.3.ln_1.bias", 0, 0},
        {"transformer.h.3.ln_2.weight", 1, 1},
        {"ln_f.weight", 1, 50},
        {"ln_f.bias", 0, 0},
        {"model.layers.0.input_layernorm.weight", 1, 1},
        {"model.norm.weight", 1, 50}, /* 8 / (0.02 sqrt(64)) */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(first_value(rows[i].name, false) == rows[i].flat);
        assert_true(fabsf(first_value(rows[i].name, true) - rows[i].peaked) < 1e-5f);
    }
}

/* Both sources give the tensor's bytes, in the layout that the family wants. */
static void compare_tensor(struct weight_source *made, struct weight_source *stored,
                           const struct synthetic_tensor *tensor, enum weight_layout layout,
                           enum dtype dtype) {
    bool is_transposed = layout == WEIGHT_IN_OUT;
    int64_t n_out = tensor->n_dims == 1 ? 1 : tensor->shape[is_transposed];
    int64_t n_in = tensor->n_dims == 1 ? tensor->shape[0] : tensor->shape[!is_transposed];
    size_t bytes = (size_t)(n_out * n_in) * dtype_bytes(dtype);
    void *a = malloc(bytes), *b = malloc(bytes);
    assert_true(a && b);
    check(weight_source_read(made, tensor->name, tensor->n_dims, layout, n_out, n_in, dtype, a));
    check(weight_source_read(stored, tensor->name, tensor->n_dims, layout, n_out, n_in, dtype, b));
    if (memcmp(a, b, bytes) != 0)
        fail_msg("%s differs in the directory", tensor->name);
    free(a);
    free(b);
}

static const char gpt2_text[] = "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_head\": 4, \"n_embd\": 72,"
                                " \"vocab_size\": 131, \"n_positions\": 33}\n";
/* Its embedding is longer than what is written at a time. */
static const char long_text[] = "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_head\": 1, \"n_embd\": 8,"
                                " \"vocab_size\": 600000, \"n_positions\": 9}\n";
static const char llama_text[] =
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2,"
    " \"hidden_size\": 64, \"intermediate_size\": 100, \"vocab_size\": 131, \"max_position_embeddings\": 64,"
    " \"tie_word_embeddings\": false}\n";

static void compare_written(const char *config_text, int32_t n_tensors, const char *name, enum dtype dtype,
                            uint64_t shard_bytes, int fewest_files) {
    const char *path = temp_text("shape.json", config_text);
    struct model_config config;
    check(model_config_load_file(path, &config));
    check(model_synthesis_write(&config, path, &seven, dtype, shard_bytes, temp_path(name)));
    /* Never over what is there. */
    assert_int_equal(model_synthesis_write(&config, path, &seven, dtype, shard_bytes, temp_path(name)),
                     STATUS_CANNOT_CREATE);

    struct sampling defaults;
    struct model_config read_back;
    check(model_config_load(temp_path(name), &read_back, &defaults));
    assert_int_equal(read_back.n_embd, config.n_embd);
    struct synthetic_list list = {0};
    check(model_list_tensors(&config, dtype, &list));
    assert_int_equal(list.n, n_tensors);

    struct weight_source made = {.synthesis = &seven, .dtype = dtype}, stored = {.dtype = dtype};
    check(safetensors_open_folder(temp_path(name), &stored.files));
    assert_int_equal(safetensors_count(stored.files), list.n);
    int n_files = 0;
    for (int32_t i = 0; i < list.n; i++) {
        const char *file = weight_source_find(&stored, list.tensors[i].name)->file;
        n_files += i == 0 || file != weight_source_find(&stored, list.tensors[i - 1].name)->file;
        compare_tensor(&made, &stored, &list.tensors[i], WEIGHT_OUT_IN, dtype);
        compare_tensor(&made, &stored, &list.tensors[i], WEIGHT_OUT_IN, DTYPE_FLOAT32);
        if (list.tensors[i].n_dims == 2)
            compare_tensor(&made, &stored, &list.tensors[i], WEIGHT_IN_OUT, dtype);
    }
    assert_true(fewest_files == 1 ? n_files == 1 : n_files >= fewest_files);
    safetensors_close(stored.files);
    synthetic_list_free(&list);
}

static void test_written_is_what_is_in_memory(void **state) {
    (void)state;
    compare_written(gpt2_text, 2 + 2 * 12 + 2, "float32", DTYPE_FLOAT32, 0, 1);
    compare_written(gpt2_text, 2 + 2 * 12 + 2, "bfloat16", DTYPE_BFLOAT16, 0, 1);
    compare_written(gpt2_text, 2 + 2 * 12 + 2, "shards", DTYPE_BFLOAT16, 100000, 2);
    compare_written(gpt2_text, 2 + 2 * 12 + 2, "single", DTYPE_FLOAT32, 1, 28); /* a file for each */
    compare_written(long_text, 2 + 12 + 2, "long", DTYPE_BFLOAT16, 0, 1);
    compare_written(llama_text, 2 + 2 * 9 + 1, "llama", DTYPE_BFLOAT16, 30000, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_offset),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_written_is_what_is_in_memory),
    };
    return cmocka_run_group_tests_name("synthesis", tests, temp_folder_open, temp_folder_close);
}
