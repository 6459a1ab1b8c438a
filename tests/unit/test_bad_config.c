/* The table of config.json and generation_config.json: what is refused with which message, and what is
 * accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/bad_row.h"
#include "tests/unit/model_folder.h"
#include "tests/unit/temp_folder.h"
#include "worker/model/config.h"

#define GPT2         "\"model_type\":\"gpt2\""
#define SIZES        "\"n_layer\":1,\"n_head\":2,\"n_embd\":16,\"n_positions\":8,\"vocab_size\":5"
#define CONFIG(more) "{" GPT2 "," SIZES more "}"

#define LLAMA3  "\"rope_type\":\"llama3\",\"factor\":8,\"original_max_position_embeddings\":4"
#define FACTORS ",\"low_freq_factor\":1,\"high_freq_factor\":4"
#define LLAMA(more)                                                                                          \
    "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"hidden_size\":16,\"intermediate_size\":24,"         \
    "\"vocab_size\":5,\"max_position_embeddings\":8," more "}"
#define HEADS(more) LLAMA("\"num_attention_heads\":2" more)
/* A family of one layer with whatever else its configuration class says; Mistral's 8 key/value heads need 8.
 */
#define FAMILY(type, more)                                                                                   \
    "{\"model_type\":\"" type "\",\"num_hidden_layers\":1,\"hidden_size\":64,\"vocab_size\":5" more "}"

static const struct {
    const char *config; /* NULL: no such file */
    const char *generation_config;
    enum status status;
    const char *message;
} config_rows[] = {
    {NULL, NULL, STATUS_NO_INPUT, "^config\\.json: No such file"},
    {"", NULL, STATUS_DATA, "^config\\.json.*not valid JSON"},
    {"{", NULL, STATUS_DATA, "^config\\.json:1:1: not valid JSON"},
    {"[]", NULL, STATUS_DATA, "the whole file is a list, expected an object"},
    {"{} x", NULL, STATUS_DATA, "not valid JSON"},
    {"{" GPT2 "," GPT2 "}", NULL, STATUS_DATA, "duplicate object key"},
    {"{\"a\":\"\xFF\"}", NULL, STATUS_DATA, "not valid JSON.*UTF-8|unable to decode byte 0xff"},
    {"{}", NULL, STATUS_DATA,
     "model_type is absent, expected the name of an architecture; supported: gpt2, llama"},
    {"{\"model_type\":\"mamba\"}", NULL, STATUS_DATA,
     "^config\\.json: model_type: 'mamba' is not supported; supported: gpt2, llama"},
    {"{\"model_type\":\"a\\nb\"}", NULL, STATUS_DATA, "'a.x0Ab' is not supported"},
    {"{\"model_type\":3}", NULL, STATUS_DATA, "model_type is a number"},
    {"{" GPT2 ",\"n_layer\":0}", NULL, STATUS_DATA, "n_layer: 0, expected an integer from 1 to 4096"},
    {"{" GPT2 ",\"n_layer\":-1}", NULL, STATUS_DATA, "n_layer: -1"},
    {"{" GPT2 ",\"n_layer\":1.5}", NULL, STATUS_DATA, "n_layer: 1\\.5"},
    {"{" GPT2 ",\"n_layer\":\"1\"}", NULL, STATUS_DATA, "n_layer is a string, expected an integer"},
    {"{" GPT2 ",\"n_layer\":1e30}", NULL, STATUS_DATA, "n_layer: 1e\\+30"},
    {"{" GPT2 ",\"n_layer\":99999999999999999999}", NULL, STATUS_DATA, "n_layer: 1e\\+20"},
    {"{" GPT2 ",\"n_layer\":1,\"n_head\":3,\"n_embd\":16,\"n_positions\":8,\"vocab_size\":5}", NULL,
     STATUS_DATA, "n_embd: 16 is no multiple of n_head, 3"},
    {"{" GPT2 ",\"n_layer\":1,\"n_head\":2,\"n_embd\":16,\"n_positions\":8,\"vocab_size\":2147483647}", NULL,
     STATUS_DATA, "vocab_size: 2\\.14748e\\+09, expected an integer from 1 to 4194304"},
    {CONFIG(",\"n_inner\":0"), NULL, STATUS_DATA, "n_inner: 0"},
    {CONFIG(",\"activation_function\":\"relu\""), NULL, STATUS_DATA,
     "activation_function: 'relu' is not supported; supported: gelu_new, gelu_pytorch_tanh"},
    {CONFIG(",\"activation_function\":\"gelu\""), NULL, STATUS_DATA, "'gelu' is not supported"},
    {CONFIG(",\"scale_attn_weights\":false"), NULL, STATUS_DATA,
     "scale_attn_weights: false is not supported; supported: true"},
    {CONFIG(",\"scale_attn_by_inverse_layer_idx\":true"), NULL, STATUS_DATA,
     "scale_attn_by_inverse_layer_idx: true"},
    {CONFIG(",\"reorder_and_upcast_attn\":true"), NULL, STATUS_DATA,
     "reorder_and_upcast_attn: true is not supported"},
    {CONFIG(",\"add_cross_attention\":true"), NULL, STATUS_DATA,
     "add_cross_attention: true is not supported"},
    {CONFIG(",\"add_cross_attention\":1"), NULL, STATUS_DATA,
     "add_cross_attention is a number, expected true or false"},
    {CONFIG(",\"layer_norm_epsilon\":0"), NULL, STATUS_DATA, "layer_norm_epsilon: expected a number above 0"},
    {CONFIG(",\"torch_dtype\":\"int8\""), NULL, STATUS_DATA, "torch_dtype: 'int8' is not supported"},
    {CONFIG(",\"quantization_config\":{}"), NULL, STATUS_DATA, "quantized weights are not supported"},
    {CONFIG(",\"eos_token_id\":5"), NULL, STATUS_DATA, "eos_token_id: expected an integer from 0 to 4"},
    {CONFIG(",\"eos_token_id\":[1,\"2\"]"), NULL, STATUS_DATA, "eos_token_id: expected an integer"},
    {CONFIG(",\"eos_token_id\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]"), NULL, STATUS_DATA,
     "lists 17 ids, allowed are 16"},
    {CONFIG(",\"tie_word_embeddings\":1"), NULL, STATUS_DATA, "tie_word_embeddings is a number"},
    {CONFIG(""), "{", STATUS_DATA, "^generation_config\\.json.*not valid JSON"},
    {CONFIG(""), "{\"eos_token_id\":7}", STATUS_DATA, "^generation_config\\.json: eos_token_id"},
    {CONFIG(""), "{\"temperature\":-1}", STATUS_DATA, "^generation_config\\.json: .*temperature"},
    {CONFIG(""), "{\"top_p\":1.5}", STATUS_DATA, "^generation_config\\.json: .*top_p"},
    {CONFIG(""), "{\"top_k\":\"many\"}", STATUS_DATA, "top_k is a string, expected a number"},
    {CONFIG(""), "{\"do_sample\":0}", STATUS_DATA, "do_sample is a number, expected true or false"},
    /* Llama */
    {LLAMA("\"a\":0"), NULL, STATUS_DATA, "hidden_size: 16 is no multiple of num_attention_heads, 32"},
    {LLAMA("\"num_attention_heads\":3"), NULL, STATUS_DATA,
     "hidden_size: 16 is no multiple of num_attention_heads, 3, and head_dim is absent"},
    {LLAMA("\"num_attention_heads\":16"), NULL, STATUS_DATA,
     "heads of 1; rotary positions need an even size"},
    {HEADS(",\"head_dim\":7"), NULL, STATUS_DATA, "heads of 7; rotary positions need an even size"},
    {HEADS(",\"head_dim\":2048"), NULL, STATUS_DATA, "head_dim: 2048, expected an integer from 1 to 1024"},
    {LLAMA("\"num_attention_heads\":1048576,\"head_dim\":64"), NULL, STATUS_DATA,
     "1048576 heads of 64 are more than 8388608 wide"},
    {HEADS(",\"num_key_value_heads\":0"), NULL, STATUS_DATA, "num_key_value_heads: 0, expected"},
    {LLAMA("\"num_attention_heads\":4,\"num_key_value_heads\":3"), NULL, STATUS_DATA,
     "num_attention_heads: 4 is no multiple of num_key_value_heads, 3"},
    {HEADS(",\"hidden_act\":\"gelu\""), NULL, STATUS_DATA,
     "hidden_act: 'gelu' is not supported; supported: silu"},
    {HEADS(",\"hidden_act\":1"), NULL, STATUS_DATA, "hidden_act is a number, expected a string"},
    {HEADS(",\"attention_bias\":1"), NULL, STATUS_DATA, "attention_bias is a number, expected true or false"},
    {HEADS(",\"mlp_bias\":true"), NULL, STATUS_DATA, "mlp_bias: true is not supported; supported: false"},
    {HEADS(",\"rms_norm_eps\":-1"), NULL, STATUS_DATA, "rms_norm_eps: expected a number above 0"},
    {HEADS(",\"rope_theta\":0"), NULL, STATUS_DATA, "rope_theta is out of range; expected a number from 1"},
    {HEADS(",\"rope_theta\":\"x\""), NULL, STATUS_DATA, "rope_theta is a string; expected a number from 1"},
    {HEADS(",\"partial_rotary_factor\":0.5"), NULL, STATUS_DATA, "partial_rotary_factor is out of range"},
    {HEADS(",\"rope_scaling\":[]"), NULL, STATUS_DATA, "rope_scaling is a list, expected an object"},
    {HEADS(",\"rope_scaling\":{\"rope_type\":\"mrope\"}"), NULL, STATUS_DATA,
     "rope_scaling\\.rope_type: 'mrope' is not supported; supported: default, linear, llama3, yarn"},
    {HEADS(",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}"), NULL, STATUS_DATA,
     "rope_scaling\\.rope_type: 'dynamic' is not supported: its angles follow the longest sequence of a "
     "batch"},
    {HEADS(",\"rope_parameters\":{\"rope_type\":\"longrope\"}"), NULL, STATUS_DATA,
     "rope_parameters\\.rope_type: 'longrope' is not supported: its angles change with the length"},
    {HEADS(",\"rope_scaling\":{\"rope_type\":\"yarn\"}"), NULL, STATUS_DATA,
     "rope_scaling\\.factor is absent; expected a number from 1"},
    {HEADS(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"beta_fast\":1,\"beta_slow\":2}"), NULL,
     STATUS_DATA, "beta_fast: 1 is below beta_slow, 2"},
    {HEADS(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":0}"), NULL, STATUS_DATA,
     "rope_scaling\\.truncate is a number, expected true or false"},
    {HEADS(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"attention_factor\":0}"), NULL, STATUS_DATA,
     "attention_factor is out of range"},
    {HEADS(",\"rope_parameters\":{\"full_attention\":{}}"), NULL, STATUS_DATA,
     "rope_parameters by layer type is not supported for llama models"},
    {HEADS(",\"layer_types\":\"full_attention\""), NULL, STATUS_DATA,
     "layer_types is a string of 0, expected a list of 1"},
    {HEADS(",\"layer_types\":[]"), NULL, STATUS_DATA, "layer_types is a list of 0, expected a list of 1"},
    {HEADS(",\"layer_types\":[\"chunked_attention\"]"), NULL, STATUS_DATA,
     "layer_types\\[0\\]: 'chunked_attention' is not supported; supported: full_attention"},
    {HEADS(",\"layer_types\":[3]"), NULL, STATUS_DATA, "layer_types\\[0\\]: a number is not supported"},
    {HEADS(",\"layer_types\":[\"sliding_attention\"]"), NULL, STATUS_DATA,
     "some layers have sliding attention, but there is no sliding_window"},
    {HEADS(",\"vision_config\":{}"), NULL, STATUS_DATA, "vision_config: models that take images"},
    {HEADS(",\"audio_config\":{}"), NULL, STATUS_DATA, "audio_config: models that take sound"},
    {HEADS(",\"auto_map\":{}"), NULL, STATUS_DATA, "auto_map: models that bring their own code"},
    {FAMILY("gemma3", ",\"vision_config\":{}"), NULL, STATUS_DATA,
     "vision_config: models that take images.*of a Gemma 3: reference/gemma3_text.py writes it"},
    {FAMILY("gemma3", ""), NULL, STATUS_DATA,
     "model_type: 'gemma3' is not supported; supported: gpt2, llama"},
    /* Mistral, Qwen, Gemma */
    {FAMILY("mistral", ",\"sliding_window\":0"), NULL, STATUS_DATA, "sliding_window: 0, expected an integer"},
    {FAMILY("mistral", ",\"sliding_window\":4,\"layer_types\":[\"full_attention\"]"), NULL, STATUS_DATA,
     "layer_types: a mistral model has sliding_window in every layer"},
    {FAMILY("mistral", ",\"sliding_window\":true"), NULL, STATUS_DATA,
     "sliding_window is (a )?(true|boolean)"},
    {FAMILY("qwen2", ",\"use_sliding_window\":1"), NULL, STATUS_DATA, "use_sliding_window is a number"},
    {FAMILY("qwen2", ",\"max_window_layers\":-1"), NULL, STATUS_DATA, "max_window_layers: -1, expected"},
    {FAMILY("qwen2", ",\"layer_types\":[\"sliding_attention\"]"), NULL, STATUS_DATA,
     "some layers have sliding attention, but there is no sliding_window"},
    {FAMILY("qwen2", ",\"hidden_act\":\"gelu_pytorch_tanh\""), NULL, STATUS_DATA,
     "hidden_act: 'gelu_pytorch_tanh' is not supported; supported: silu, swish"},
    {FAMILY("qwen3", ",\"head_dim\":5"), NULL, STATUS_DATA, "heads of 5; rotary positions need an even size"},
    {FAMILY("gemma2", ",\"hidden_activation\":\"gelu\""), NULL, STATUS_DATA,
     "hidden_activation: 'gelu' is not supported; supported: gelu_pytorch_tanh, gelu_new"},
    {FAMILY("gemma2", ",\"final_logit_softcapping\":0"), NULL, STATUS_DATA,
     "final_logit_softcapping is out of range"},
    {FAMILY("gemma2", ",\"query_pre_attn_scalar\":0"), NULL, STATUS_DATA,
     "query_pre_attn_scalar is out of range"},
    {FAMILY("gemma2", ",\"use_bidirectional_attention\":true"), NULL, STATUS_DATA,
     "use_bidirectional_attention: true is not supported"},
    {FAMILY("gemma2", ",\"sliding_window\":null"), NULL, STATUS_DATA,
     "some layers have sliding attention, but there is no sliding_window"},
    {FAMILY("gemma3_text", ",\"attn_logit_softcapping\":50"), NULL, STATUS_DATA,
     "attn_logit_softcapping is not supported for gemma3_text"},
    {FAMILY("gemma3_text", ",\"sliding_window_pattern\":0"), NULL, STATUS_DATA, "sliding_window_pattern: 0"},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{\"rope_type\":\"default\"}"), NULL, STATUS_DATA,
     "rope_parameters\\.'rope_type': expected an object for full_attention and one for sliding_attention"},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{\"factor\":2}"), NULL, STATUS_DATA,
     "rope_parameters\\.'factor': expected an object for full_attention and one for sliding_attention"},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{\"full_attention\":{},\"chunked_attention\":{}}"), NULL,
     STATUS_DATA, "rope_parameters\\.'chunked_attention': expected an object for full_attention"},
    {FAMILY("gemma3_text", ",\"rope_parameters\":[]"), NULL, STATUS_DATA,
     "rope_parameters is a list, expected an object"},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{},\"rope_scaling\":{}"), NULL, STATUS_DATA,
     "rope_parameters and rope_scaling are both given"},
    {FAMILY("gemma3_text", ",\"rope_scaling\":8"), NULL, STATUS_DATA,
     "rope_scaling is a number, expected an object"},
    {FAMILY("gemma3_text", ",\"rope_scaling\":{\"sliding_attention\":{}}"), NULL, STATUS_DATA,
     "rope_scaling\\.sliding_attention: rotary positions by layer type belong in rope_parameters"},
    {FAMILY("gemma3_text", ",\"rope_scaling\":{\"rope_type\":\"linear\"}"), NULL, STATUS_DATA,
     "rope_scaling\\.factor is absent; expected a number from 1"},
    {FAMILY("gemma3_text", ",\"partial_rotary_factor\":0.5"), NULL, STATUS_DATA,
     "partial_rotary_factor is out of range"},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{\"full_attention\":{\"partial_rotary_factor\":0.5}}"), NULL,
     STATUS_DATA, "rope_parameters\\.full_attention\\.partial_rotary_factor is out of range"},
    {FAMILY("gemma3_text", ",\"sliding_window\":null"), NULL, STATUS_DATA,
     "some layers have sliding attention, but there is no sliding_window"},
    {FAMILY("gemma3_text", ",\"use_bidirectional_attention\":true"), NULL, STATUS_DATA,
     "use_bidirectional_attention: true is not supported"},
    {FAMILY("gemma3_text", ",\"hidden_activation\":7"), NULL, STATUS_DATA,
     "hidden_activation is a number, expected a string"},
    {FAMILY("gemma3_text", ",\"head_dim\":31"), NULL, STATUS_DATA,
     "heads of 31; rotary positions need an even size"},
    {FAMILY("gemma3_text", ",\"num_key_value_heads\":3"), NULL, STATUS_DATA,
     "num_attention_heads: 8 is no multiple of num_key_value_heads, 3"},
    {FAMILY("gemma2", ",\"attn_logit_softcapping\":\"50\""), NULL, STATUS_DATA,
     "attn_logit_softcapping is a string"},
    {FAMILY("gemma2", ",\"rope_parameters\":{\"sliding_attention\":{}}"), NULL, STATUS_DATA,
     "rope_parameters by layer type is not supported for gemma2 models"},
    {FAMILY("gemma2", ",\"layer_types\":[\"linear_attention\"]"), NULL, STATUS_DATA,
     "layer_types\\[0\\]: 'linear_attention' is not supported"},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{\"full_attention\":3}"), NULL, STATUS_DATA,
     "full_attention is a number, expected an object"},
    {FAMILY("gemma3_text", ",\"rope_local_base_freq\":0"), NULL, STATUS_DATA,
     "rope_local_base_freq is out of range"},
    {FAMILY("gemma3_text",
            ",\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"dynamic\",\"factor\":2}}"),
     NULL, STATUS_DATA, "rope_parameters\\.sliding_attention\\.rope_type: 'dynamic' is not supported"},
    {HEADS(",\"rope_scaling\":{\"type\":3}"), NULL, STATUS_DATA, "rope_type is a number, expected a string"},
    {HEADS(",\"rope_scaling\":{\"type\":\"linear\"}"), NULL, STATUS_DATA,
     "rope_scaling\\.factor is absent; expected a number from 1"},
    {HEADS(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}"), NULL, STATUS_DATA,
     "rope_scaling\\.factor is out of range"},
    {HEADS(",\"rope_parameters\":{" LLAMA3 "}"), NULL, STATUS_DATA,
     "rope_parameters\\.low_freq_factor is absent"},
    {HEADS(",\"rope_parameters\":{" LLAMA3 ",\"low_freq_factor\":4,\"high_freq_factor\":4}"), NULL,
     STATUS_DATA, "low_freq_factor: 4 is not below high_freq_factor, 4"},
    {HEADS(",\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8,"
           "\"original_max_position_embeddings\":1.5" FACTORS "}"),
     NULL, STATUS_DATA, "rope_parameters\\.original_max_position_embeddings: 1\\.5, expected an integer"},
    {HEADS(",\"rope_parameters\":{},\"rope_scaling\":{}"), NULL, STATUS_DATA,
     "rope_parameters and rope_scaling are both given"},
    /* accepted */
    {CONFIG(""), NULL, STATUS_OK, ""},
    {CONFIG(",\"n_inner\":null,\"n_ctx\":8,\"unknown\":{\"a\":[]}"), NULL, STATUS_OK, ""},
    {CONFIG(",\"model_max_length\":1000000000000000019884624838656"), NULL, STATUS_OK, ""},
    {CONFIG(",\"eos_token_id\":4,\"activation_function\":\"gelu_pytorch_tanh\""), "{}", STATUS_OK, ""},
    {CONFIG(",\"scale_attn_weights\":true,\"add_cross_attention\":false"), "{\"max_length\":20,\"top_k\":-1}",
     STATUS_OK, ""},
    {CONFIG(",\"note\":\"\\u0000\""), "{\"temperature\":null}", STATUS_OK, ""},
    {HEADS(""), NULL, STATUS_OK, ""},
    {HEADS(",\"num_key_value_heads\":null,\"head_dim\":null,\"pretraining_tp\":1"), NULL, STATUS_OK, ""},
    {HEADS(",\"rope_scaling\":null,\"rope_parameters\":{" LLAMA3 FACTORS ",\"rope_theta\":5e5}"), NULL,
     STATUS_OK, ""},
    {HEADS(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}"), NULL, STATUS_OK, ""},
    {"{" GPT2 "}", NULL, STATUS_OK, ""}, /* all sizes are those of the configuration class */
    {"{\"model_type\":\"llama\"}", NULL, STATUS_OK, ""},
    {HEADS(",\"attention_bias\":true,\"hidden_act\":\"swish\",\"layer_types\":[\"full_attention\"]"), NULL,
     STATUS_OK, ""},
    {HEADS(",\"rope_parameters\":{\"rope_type\":\"llama3\",\"factor\":8" FACTORS "}"), NULL, STATUS_OK, ""},
    {HEADS(",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"truncate\":false,\"mscale\":1,"
           "\"mscale_all_dim\":0.5,\"beta_fast\":null}"),
     NULL, STATUS_OK, ""},
    {FAMILY("mistral", ",\"sliding_window\":null"), NULL, STATUS_OK, ""},
    {FAMILY("mistral", ",\"num_key_value_heads\":1,\"sliding_window\":4096"), NULL, STATUS_OK, ""},
    {FAMILY("qwen2", ",\"sliding_window\":131072,\"use_sliding_window\":false,\"max_window_layers\":0"), NULL,
     STATUS_OK, ""},
    {FAMILY("qwen3", ",\"use_sliding_window\":true,\"sliding_window\":3,\"max_window_layers\":0"), NULL,
     STATUS_OK, ""},
    {FAMILY("gemma2", ",\"hidden_act\":\"gelu\",\"final_logit_softcapping\":null,\"cache_implementation\":"
                      "\"hybrid\""),
     NULL, STATUS_OK, ""},
    {"{\"model_type\":\"gemma2\"}", NULL, STATUS_OK, ""},
    {"{\"model_type\":\"gemma3_text\"}", NULL, STATUS_OK, ""},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{\"full_attention\":null},\"eos_token_id\":[1,4],"
                           "\"sliding_window_pattern\":1,\"sliding_window\":null,"
                           "\"use_bidirectional_attention\":false"),
     "{\"eos_token_id\":[1,4],\"cache_implementation\":\"hybrid\",\"top_k\":64,\"top_p\":0.95}", STATUS_OK,
     ""},
    {FAMILY("gemma3_text", ",\"rope_local_base_freq\":10000,\"rope_theta\":1000000,\"rope_scaling\":null,"
                           "\"sliding_window_pattern\":6,\"attn_logit_softcapping\":null"),
     NULL, STATUS_OK, ""},
    {FAMILY("gemma3_text", ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8},"
                           "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e4}}"),
     NULL, STATUS_OK, ""},
};

static void test_config(void **state) {
    (void)state;
    n_failed = 0;
    for (size_t i = 0; i < sizeof config_rows / sizeof config_rows[0]; i++) {
        struct model_config config;
        struct sampling defaults;
        model_folder_remove("config.json");
        model_folder_remove("generation_config.json");
        if (config_rows[i].config)
            temp_text("config.json", config_rows[i].config);
        if (config_rows[i].generation_config)
            temp_text("generation_config.json", config_rows[i].generation_config);
        enum status result = model_config_load(temp_path(""), &config, &defaults);
        check_row("config", i, result, config_rows[i].status, config_rows[i].message);
        sampling_free(&defaults);
    }
    model_folder_remove("generation_config.json");
    assert_int_equal(n_failed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
    };
    return cmocka_run_group_tests_name("bad_config", tests, temp_folder_open, temp_folder_close);
}
