/* Fuzzes config.json: what is accepted has shapes that fit together.
 *
 *   clang -fsanitize=fuzzer,address,undefined …   or, over given files,   cc -DFUZZ_STANDALONE … */
#include "tests/fuzz/fuzz_standalone.h"

#include "tests/fuzz/fuzz_folder.h"
#include "worker/model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct model_config config;
    struct sampling defaults;
    enum status status = model_config_load(fuzz_folder_write("config.json", data, size), &config, &defaults);
    fuzz_check_refusal(status);
    sampling_free(&defaults);
    if (status != STATUS_OK)
        return 0;
    int64_t body, head;
    model_parameter_counts(&config, &body, &head);
    bool is_llama = strcmp(config.model_type, "llama") == 0;
    if ((!is_llama && config.n_heads * config.head_dim != config.n_embd) || config.n_layers < 1 ||
        config.n_kv_heads < 1 || config.n_heads % config.n_kv_heads != 0 ||
        is_llama != (config.rope.kind != ROPE_NONE) || config.n_inner < 1 || config.n_positions < 1 ||
        config.n_vocab < 1 || config.n_eos > MAX_EOS_IDS || body < 1 || head < 1 ||
        model_weight_bytes(&config, DTYPE_BFLOAT16) < (size_t)head)
        abort();
    for (int32_t pair = 0; is_llama && pair < config.head_dim / 2; pair++) {
        double frequency = rope_frequency(&config.rope, config.head_dim, pair);
        if (!(frequency > 0 && frequency <= 1))
            abort();
    }
    for (int32_t i = 0; i < config.n_eos; i++)
        if (config.eos_ids[i] < 0 || config.eos_ids[i] >= config.n_vocab)
            abort();
    return 0;
}
