/* model_config: what config.json and generation_config.json decide; the sizes that follow; and loading a
 * model: the names and tensors of a GPT-2 checkpoint, and the fingerprint. What must be refused is in
 * test_bad_model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/model_folder.h"
#include "tests/unit/temp_folder.h"
#include "worker/base/hash.h"
#include "worker/model/model.h"

static struct model_config load(const char *config, const char *generation_config,
                                struct sampling *defaults) {
    struct model_config loaded;
    temp_text("config.json", config);
    model_folder_remove("generation_config.json");
    if (generation_config)
        temp_text("generation_config.json", generation_config);
    if (model_config_load(temp_path(""), &loaded, defaults) != STATUS_OK)
        fail_msg("%s", status_message());
    return loaded;
}

#define SIZES "\"model_type\":\"gpt2\",\"n_layer\":2,\"n_head\":4,\"n_embd\":64,\"vocab_size\":1000"

static void test_shapes_and_defaults(void **state) {
    (void)state;
    struct sampling defaults;
    struct model_config config = load("{" SIZES ",\"n_positions\":128}", NULL, &defaults);
    assert_string_equal(config.model_type, "gpt2");
    assert_int_equal(config.norm, NORM_LAYER);
    assert_int_equal(config.activation, ACTIVATION_GELU_TANH);
    assert_int_equal(config.rope.kind, ROPE_NONE);
    assert_true(config.has_mlp_biases);
    assert_int_equal(config.n_layers, 2);
    assert_int_equal(config.n_heads, 4);
    assert_int_equal(config.n_kv_heads, 4);
    assert_int_equal(config.head_dim, 16);
    assert_int_equal(config.n_embd, 64);
    assert_int_equal(config.n_inner, 256);
    assert_int_equal(config.n_positions, 128);
    assert_int_equal(config.n_vocab, 1000);
    assert_true(config.norm_epsilon == 1e-5f);
    assert_true(config.tie_word_embeddings);
    assert_false(config.has_dtype);
    assert_int_equal(config.n_eos, 0);
    assert_int_equal(defaults.set, 0);
    assert_true(defaults.temperature == 1);

    config = load(
        "{" SIZES ",\"n_ctx\":32,\"n_inner\":100,\"layer_norm_epsilon\":1e-6,\"torch_dtype\":\"bfloat16\","
        "\"tie_word_embeddings\":false,\"eos_token_id\":[7,9],\"activation_function\":\"gelu_pytorch_tanh\","
        "\"some_future_key\":1000000000000000000000000000000}",
        NULL, &defaults);
    assert_int_equal(config.n_positions, 32);
    assert_int_equal(config.n_inner, 100);
    assert_true(config.norm_epsilon == 1e-6f);
    assert_false(config.tie_word_embeddings);
    assert_true(config.has_dtype);
    assert_int_equal(config.dtype, DTYPE_BFLOAT16);
    assert_int_equal(config.n_eos, 2);
    assert_int_equal(config.eos_ids[1], 9);

    config =
        load("{" SIZES ",\"n_ctx\":32,\"n_positions\":64,\"dtype\":\"float32\",\"torch_dtype\":\"bfloat16\"}",
             NULL, &defaults);
    assert_int_equal(config.n_positions, 64);
    assert_int_equal(config.dtype, DTYPE_FLOAT32);
    config = load("{" SIZES ",\"n_positions\":64,\"torch_dtype\":\"torch.float16\"}", NULL, &defaults);
    assert_true(config.is_float16 && !config.has_dtype);
    assert_int_equal(config.dtype, DTYPE_FLOAT32);
}

#define LLAMA                                                                                                \
    "\"model_type\":\"llama\",\"num_hidden_layers\":2,\"num_attention_heads\":8,\"hidden_size\":64,"         \
    "\"intermediate_size\":176,\"vocab_size\":1000,\"max_position_embeddings\":128"

static void test_llama(void **state) {
    (void)state;
    struct sampling defaults;
    struct model_config config = load("{" LLAMA "}", NULL, &defaults);
    assert_string_equal(config.model_type, "llama");
    assert_int_equal(config.n_layers, 2);
    assert_int_equal(config.n_heads, 8);
    assert_int_equal(config.n_kv_heads, 8);
    assert_int_equal(config.head_dim, 8);
    assert_int_equal(config.n_inner, 176);
    assert_int_equal(config.n_positions, 128);
    assert_int_equal(config.norm, NORM_RMS);
    assert_true(config.norm_epsilon == 1e-6f);
    assert_int_equal(config.activation, ACTIVATION_SILU_GATED);
    assert_false(config.tie_word_embeddings || config.has_mlp_biases);
    assert_int_equal(config.rope.kind, ROPE_DEFAULT);
    assert_true(config.rope.theta == 10000);
    assert_int_equal(config.n_eos, 1);
    assert_int_equal(config.eos_ids[0], 2);

    /* As transformers 4 writes it. */
    config = load("{" LLAMA ",\"num_key_value_heads\":2,\"head_dim\":16,\"rms_norm_eps\":1e-5,"
                  "\"tie_word_embeddings\":true,\"rope_theta\":500000.0,\"hidden_act\":\"silu\","
                  "\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
                  "\"original_max_position_embeddings\":64,\"rope_type\":\"llama3\"}}",
                  NULL, &defaults);
    assert_int_equal(config.n_kv_heads, 2);
    assert_int_equal(config.head_dim, 16);
    assert_true(config.norm_epsilon == 1e-5f && config.tie_word_embeddings);
    assert_int_equal(config.rope.kind, ROPE_LLAMA3);
    assert_true(config.rope.theta == 500000 && config.rope.factor == 32);
    assert_true(config.rope.low_frequency == 1 && config.rope.high_frequency == 4);
    assert_int_equal(config.rope.original_positions, 64);

    /* As transformers 5 does. */
    config = load("{" LLAMA ",\"rope_parameters\":{\"rope_theta\":20000.0,\"rope_type\":\"default\"}}", NULL,
                  &defaults);
    assert_int_equal(config.rope.kind, ROPE_DEFAULT);
    assert_true(config.rope.theta == 20000);
    config = load("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}", NULL, &defaults);
    assert_int_equal(config.rope.kind, ROPE_LINEAR);
    assert_true(config.rope.theta == 10000 && config.rope.factor == 2.5);
}

/* The keys that a published checkpoint of each family has, and what follows from them. */
static void test_mistral(void **state) {
    (void)state;
    struct sampling defaults;
    struct model_config config =
        load("{\"model_type\":\"mistral\",\"num_hidden_layers\":3}", NULL, &defaults);
    assert_int_equal(config.n_heads, 32);
    assert_int_equal(config.n_kv_heads, 8);
    assert_int_equal(config.head_dim, 128);
    assert_int_equal(config.n_inner, 14336);
    assert_int_equal(config.n_positions, 131072);
    assert_int_equal(config.window, 4096);
    assert_int_equal(model_config_n_sliding(&config), 3);
    assert_int_equal(config.eos_ids[0], 2);
    config = load("{\"model_type\":\"mistral\",\"num_hidden_layers\":3,\"sliding_window\":null,"
                  "\"rope_theta\":1000000.0,\"num_key_value_heads\":null}",
                  NULL, &defaults);
    assert_int_equal(config.window, 0);
    assert_int_equal(model_config_n_sliding(&config), 0);
    assert_int_equal(config.n_kv_heads, 32);
    assert_true(config.rope.theta == 1e6);
}

static void test_qwen(void **state) {
    (void)state;
    struct sampling defaults;
    struct model_config config = load(
        "{\"model_type\":\"qwen2\",\"num_hidden_layers\":4,\"hidden_size\":128,\"num_attention_heads\":8,"
        "\"num_key_value_heads\":2,\"use_sliding_window\":true,\"sliding_window\":77,"
        "\"max_window_layers\":3,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,"
        "\"original_max_position_embeddings\":32768}}",
        NULL, &defaults);
    assert_true(config.has_qkv_biases && !config.has_attention_bias && !config.has_qk_norms);
    assert_int_equal(config.head_dim, 16);
    assert_int_equal(config.window, 77);
    assert_int_equal(model_config_n_sliding(&config), 1);
    assert_true(model_config_is_sliding(&config, 3));
    assert_int_equal(config.n_eos, 0);
    assert_int_equal(config.rope.kind, ROPE_YARN);
    assert_true(config.rope.fast_turns == 32 && config.rope.slow_turns == 1 && !config.rope.keeps_fractions);
    assert_true(fabs(config.rope.amplitude - (0.1 * log(4) + 1)) < 1e-12);
    config = load("{\"model_type\":\"qwen3\",\"num_hidden_layers\":4,\"hidden_size\":64,"
                  "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"sliding_window\":4096}",
                  NULL, &defaults);
    assert_true(!config.has_qkv_biases && config.has_qk_norms);
    assert_int_equal(config.head_dim, 128);
    assert_int_equal(model_config_n_sliding(&config), 0);
    assert_int_equal(config.window, 0);
}

static void test_gemma(void **state) {
    (void)state;
    struct sampling defaults;
    struct model_config config = load("{\"model_type\":\"gemma2\",\"num_hidden_layers\":4,"
                                      "\"query_pre_attn_scalar\":144,\"hidden_size\":576}",
                                      NULL, &defaults);
    assert_true(config.has_post_norms && config.norm_weight_offset == 1 && config.tie_word_embeddings);
    assert_true(config.embedding_scale == 24 && fabsf(config.attention_scale - 1.0f / 12) < 1e-8f);
    assert_true(config.attention_softcap == 50 && config.logit_softcap == 30);
    assert_int_equal(config.activation, ACTIVATION_GELU_TANH_GATED);
    assert_int_equal(config.window, 4096);
    assert_true(model_config_is_sliding(&config, 0) && !model_config_is_sliding(&config, 1));
    assert_int_equal(model_config_n_sliding(&config), 2);
    assert_int_equal(config.sliding_rope.kind, ROPE_NONE);
    assert_int_equal(config.eos_ids[0], 1);

    /* Gemma 3 as its first files have it, and as transformers 5 writes it. */
    static const char *const spellings[] = {
        "\"rope_theta\":1000000,\"rope_local_base_freq\":10000,\"rope_scaling\":{\"factor\":8.0,"
        "\"rope_type\":\"linear\"},\"sliding_window_pattern\":6",
        "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8.0,"
        "\"rope_theta\":1000000.0},\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}},"
        "\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\","
        "\"sliding_attention\",\"sliding_attention\",\"full_attention\",\"sliding_attention\"]"};
    for (int i = 0; i < 2; i++) {
        char text[800];
        snprintf(text, sizeof text,
                 "{\"model_type\":\"gemma3_text\",\"num_hidden_layers\":7,\"sliding_window\":512,"
                 "\"eos_token_id\":[1,106],%s}",
                 spellings[i]);
        config = load(text, NULL, &defaults);
        assert_true(config.has_qk_norms && config.has_post_norms);
        assert_true(config.attention_softcap == 0 && config.logit_softcap == 0);
        assert_int_equal(config.n_eos, 2);
        assert_int_equal(config.window, 512);
        assert_int_equal(model_config_n_sliding(&config), 6);
        assert_false(model_config_is_sliding(&config, 5));
        assert_int_equal(config.rope.kind, ROPE_LINEAR);
        assert_true(config.rope.theta == 1e6 && config.rope.factor == 8);
        assert_int_equal(config.sliding_rope.kind, ROPE_DEFAULT);
        assert_true(config.sliding_rope.theta == 1e4);
    }
}

static void test_eos(void **state) {
    (void)state;
    static const struct {
        const char *config;
        const char *generation;
        int n_eos;
        int first;
    } rows[] = {
        {"\"eos_token_id\":5", NULL, 1, 5},
        {"\"eos_token_id\":5", "{}", 1, 5},
        {"\"eos_token_id\":5", "{\"eos_token_id\":6}", 1, 6},
        {"\"eos_token_id\":5", "{\"eos_token_id\":[8,6]}", 2, 8},
        {"\"eos_token_id\":5", "{\"eos_token_id\":null}", 0, 0},
        {"\"eos_token_id\":null", "{\"eos_token_id\":0}", 1, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[400];
        struct sampling defaults;
        snprintf(text, sizeof text, "{" SIZES ",\"n_positions\":64,%s}", rows[i].config);
        struct model_config config = load(text, rows[i].generation, &defaults);
        assert_int_equal(config.n_eos, rows[i].n_eos);
        if (config.n_eos)
            assert_int_equal(config.eos_ids[0], rows[i].first);
    }
    struct sampling defaults; /* GPT-2's own, which its config class supplies */
    struct model_config config = load("{\"model_type\":\"gpt2\",\"n_layer\":1,\"n_head\":1,\"n_embd\":8,"
                                      "\"vocab_size\":50257,\"n_positions\":8}",
                                      NULL, &defaults);
    assert_int_equal(config.n_eos, 1);
    assert_int_equal(config.eos_ids[0], 50256);
}

static void test_sampling_defaults(void **state) {
    (void)state;
    struct sampling defaults;
    load("{" SIZES ",\"n_positions\":64}",
         "{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":50,\"min_p\":0.05,\"repetition_"
         "penalty\":1.1,"
         "\"max_new_tokens\":77,\"max_length\":20,\"pad_token_id\":3}",
         &defaults);
    assert_int_equal(defaults.set, SAMPLING_TEMPERATURE | SAMPLING_TOP_P | SAMPLING_TOP_K | SAMPLING_MIN_P |
                                       SAMPLING_REPETITION_PENALTY);
    assert_true(defaults.temperature == 0.6f && defaults.top_p == 0.9f && defaults.top_k == 50);
    assert_true(defaults.min_p == 0.05f && defaults.repetition_penalty == 1.1f);

    load("{" SIZES ",\"n_positions\":64}", "{\"do_sample\":false,\"temperature\":0.6}", &defaults);
    assert_int_equal(defaults.set, SAMPLING_TEMPERATURE);
    assert_true(defaults.temperature == 0);
    load("{" SIZES ",\"n_positions\":64}", "{\"temperature\":0.6,\"top_p\":null}", &defaults);
    assert_int_equal(defaults.set, SAMPLING_TEMPERATURE);
    assert_true(defaults.temperature == 0.6f);
}

/* ---- loading ------------------------------------------------------------------------------------------- */

static struct backend open_cpu(void) {
    struct backend backend;
    if (backend_open("cpu", &(struct backend_options){.n_threads = 1}, &backend) != STATUS_OK)
        fail_msg("%s", status_message());
    return backend;
}

/* Loads the GPT-2 of model_folder; out gets the four best
 * logprobs behind token 1, and the best token. */
static void run_gpt2(const struct model_folder_options *options, const char *config_text,
                     char fingerprint[33], float out[5]) {
    struct sampling defaults;
    struct backend backend = open_cpu();
    struct model *model;
    struct model_config config = load(config_text, NULL, &defaults);
    model_folder_gpt2("model.safetensors", options);
    if (model_load(temp_path(""), &config, DTYPE_FLOAT32, &backend, fingerprint, &model) != STATUS_OK)
        fail_msg("%s", status_message());
    struct state_limits limits = {.n_slots = 1,
                                  .n_pages = 2,
                                  .max_pages_per_slot = 1,
                                  .max_rows = 8,
                                  .max_segments = 1,
                                  .max_samples = 1,
                                  .n_layers = 1,
                                  .n_heads = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 16,
                                  .n_vocab = 5,
                                  .kv_dtype = DTYPE_FLOAT32};
    assert_int_equal(backend.state_init(backend.context, &limits), STATUS_OK);
    assert_int_equal(model_forward(model, &(struct batch){.n_rows = 1}), STATUS_INTERNAL); /* not prepared */
    assert_int_equal(
        model_prepare(model, &(struct model_limits){.max_rows = 8, .max_samples = 1, .logit_rows = 1}),
        STATUS_OK);
    assert_int_equal(
        model_prepare(model, &(struct model_limits){.max_rows = 8, .max_samples = 1, .logit_rows = 1}),
        STATUS_INTERNAL);
    assert_int_equal(model_forward(model, &(struct batch){.n_rows = 9}), STATUS_INTERNAL);

    static const int32_t token[] = {1}, zero[] = {0}, page[] = {1};
    struct slot_start start = {.sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = 4},
                               .pages = page,
                               .n_pages = 1,
                               .prompt = token,
                               .n_prompt = 1};
    struct segment segment = {.n_rows = 1};
    struct batch batch = {.n_rows = 1,
                          .n_segments = 1,
                          .n_samples = 1,
                          .want_logprobs = true,
                          .token = token,
                          .position = zero,
                          .slot = zero,
                          .segments = &segment,
                          .sample_row = zero,
                          .sample_slot = zero};
    struct sample_result result;
    struct sample_top top;
    bool replayed;
    uint64_t ticket;
    assert_int_equal(backend.slots_begin(backend.context, &start, 1), STATUS_OK);
    assert_int_equal(backend.step_begin(backend.context, &batch, &replayed), STATUS_OK);
    assert_int_equal(model_forward(model, &batch), STATUS_OK);
    assert_int_equal(backend.step_end(backend.context, &ticket), STATUS_OK);
    assert_int_equal(backend.step_wait(backend.context, ticket, &result, &top), STATUS_OK);
    assert_int_equal(result.fault_layer, -1);
    memcpy(out, top.logprob, 4 * sizeof *out);
    out[4] = (float)top.token[0];
    model_close(model);
    backend.close(backend.context);
}

static void test_names_and_heads(void **state) {
    (void)state;
    char fingerprint[33], other[33], computed[33];
    float expected[5], actual[5];
    run_gpt2(&(struct model_folder_options){.prefix = "transformer."}, model_folder_config, fingerprint,
             expected);
    assert_int_equal(model_fingerprint(temp_path(""), computed), STATUS_OK);
    assert_string_equal(fingerprint, computed); /* with a model in memory or without */

    /* Other files around the weights are part of the fingerprint; other files of the folder are not. */
    temp_text("notes.txt", "x");
    assert_int_equal(model_fingerprint(temp_path(""), other), STATUS_OK);
    assert_string_equal(other, fingerprint);
    temp_text("tokenizer_config.json", "{}");
    assert_int_equal(model_fingerprint(temp_path(""), other), STATUS_OK);
    assert_string_not_equal(other, fingerprint);
    temp_text("tokenizer_config.json", "");
    assert_int_equal(model_fingerprint(temp_path(""), computed), STATUS_OK);
    assert_string_not_equal(other, computed);
    assert_string_not_equal(fingerprint, computed); /* an empty file is not an absent one */
    model_folder_remove("tokenizer_config.json");

    /* Without the prefix, with a buffer, with the tied head spelled out: the same model. */
    run_gpt2(&(struct model_folder_options){.prefix = ""}, model_folder_config, other, actual);
    assert_memory_equal(actual, expected, sizeof expected);
    assert_string_not_equal(other, fingerprint);
    run_gpt2(&(struct model_folder_options){.prefix = "transformer.", .extra = "h.0.attn.bias"},
             model_folder_config, NULL, actual);
    assert_memory_equal(actual, expected, sizeof expected);
    run_gpt2(&(struct model_folder_options){.prefix = "", .extra = "h.0.attn.masked_bias"},
             model_folder_config, NULL, actual);
    assert_memory_equal(actual, expected, sizeof expected);
    run_gpt2(&(struct model_folder_options){.prefix = "transformer.", .n_head_rows = 5}, model_folder_config,
             NULL, actual);
    assert_memory_equal(actual, expected, sizeof expected);
    run_gpt2(&(struct model_folder_options){.prefix = "transformer.", .n_head_rows = 5, .skip = "wte.weight"},
             model_folder_config, NULL, actual);
    assert_memory_equal(actual, expected, sizeof expected);

    /* A head of its own. */
    char untied[400];
    snprintf(untied, sizeof untied, "{\"tie_word_embeddings\":false,%s", model_folder_config + 1);
    run_gpt2(&(struct model_folder_options){.prefix = "transformer.", .n_head_rows = 5}, untied, NULL,
             actual);
    assert_memory_equal(actual, expected, sizeof expected);
    run_gpt2(
        &(struct model_folder_options){
            .prefix = "transformer.", .n_head_rows = 5, .spoil = "wpe.weight", .extra_value = 3},
        untied, NULL, actual);
    assert_memory_not_equal(actual, expected, sizeof expected);
}

/* ---- sizes --------------------------------------------------------------------------------------------- */

static void test_sizes(void **state) {
    (void)state;
    struct sampling defaults;
    struct model_config config;
    int64_t body, head;
    assert_int_equal(model_config_load("weights/shakespeare", &config, &defaults), STATUS_OK);
    sampling_free(&defaults);
    model_parameter_counts(&config, &body, &head);
    assert_int_equal(body, 6 * 12 * 384 * 384);
    assert_int_equal(head, 65 * 384);
    /* Bounds: at least what the tensors hold, and not much more. */
    size_t elements = (size_t)(body + head + 256 * 384), bytes = model_weight_bytes(&config, DTYPE_BFLOAT16);
    assert_in_range(bytes, 2 * elements, 2 * elements + 2 * elements / 20);
    assert_true(model_weight_bytes(&config, DTYPE_FLOAT32) > 4 * elements);
    struct model_limits limits = {.max_rows = 100, .max_samples = 10, .logit_rows = 10};
    size_t activations = model_activation_bytes(&config, DTYPE_FLOAT32, &limits);
    size_t exact = 4 * (100 * (384 + 384 + 3 * 384 + 384 + 4 * 384) + 10 * 65);
    assert_in_range(activations, exact, exact + 4096);
    /* Llama 3.2 1B: three matrices in the MLP, no positions to embed, a table of angles. */
    config = load("{\"model_type\":\"llama\",\"num_hidden_layers\":16,\"num_attention_heads\":32,"
                  "\"num_key_value_heads\":8,\"head_dim\":64,\"hidden_size\":2048,\"intermediate_size\":8192,"
                  "\"vocab_size\":128256,\"max_position_embeddings\":131072,\"tie_word_embeddings\":true}",
                  NULL, &defaults);
    model_parameter_counts(&config, &body, &head);
    assert_int_equal(body, 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192));
    assert_int_equal(head, 128256 * 2048);
    elements = (size_t)(body + head + 33 * 2048); /* 1,235,814,400, as the model card has it */
    assert_int_equal(elements, 1235814400);
    bytes = model_weight_bytes(&config, DTYPE_BFLOAT16);
    assert_in_range(bytes, 2 * elements, 2 * elements + elements / 1000);
    limits.max_positions = 4096;
    activations = model_activation_bytes(&config, DTYPE_BFLOAT16, &limits);
    exact = 100 * (4 * 2048 + 2 * (2048 + 3072 + 2048 + 8192)) + 4 * (10 * 128256 + 4096 * 64);
    assert_in_range(activations, exact, exact + 4096);
    limits.max_positions = 0;
    assert_in_range(model_activation_bytes(&config, DTYPE_BFLOAT16, &limits),
                    exact + 4 * (131072 - 4096) * 64, exact + 4 * (131072 - 4096) * 64 + 4096);
    /* Absurd sizes do not wrap around. */
    config.n_vocab = config.n_embd = config.n_inner = config.n_layers = INT32_MAX;
    assert_true(model_weight_bytes(&config, DTYPE_FLOAT32) == SIZE_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes_and_defaults),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_qwen),
        cmocka_unit_test(test_gemma),
        cmocka_unit_test(test_eos),
        cmocka_unit_test(test_sampling_defaults),
        cmocka_unit_test(test_names_and_heads),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests_name("model_config", tests, temp_folder_open, temp_folder_close);
}
