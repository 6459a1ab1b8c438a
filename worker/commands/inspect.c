/* pressrun inspect: what a model directory holds. */
#include <stdio.h>

#include "worker/commands/commands.h"
#include "worker/model/model.h"
#include "worker/model/safetensors.h"
#include "worker/run/session.h"

static void print_tensors(struct safetensors *files) {
    printf("tensors      %d\n", safetensors_count(files));
    for (int32_t i = 0; i < safetensors_count(files); i++) {
        const struct stored_tensor *tensor = safetensors_at(files, i);
        printf("  %-50s %-5s [", tensor->name, tensor->dtype_name);
        for (int32_t d = 0; d < tensor->n_dims; d++)
            printf("%s%lld", d ? ", " : "", (long long)tensor->shape[d]);
        printf("]\n");
    }
}

static void print_rope(const char *where, const struct rope_config *rope) {
    static const char *const scalings[] = {
        [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3", [ROPE_YARN] = "yarn"};
    if (rope->kind == ROPE_NONE)
        return;
    printf("%stheta %g", where, rope->theta);
    if (rope->kind != ROPE_DEFAULT)
        printf(", %s scaling by %g", scalings[rope->kind], rope->factor);
}

static void print_positions(const struct model_config *config) {
    int32_t n_sliding = model_config_n_sliding(config);
    printf("context      %d positions", config->n_positions);
    print_rope(", rotary, ", &config->rope);
    print_rope("; in layers with a window ", &config->sliding_rope);
    printf("\n");
    if (n_sliding > 0)
        printf("window       %d positions in %d of %d layers\n", config->window, n_sliding, config->n_layers);
    if (config->attention_softcap > 0 || config->logit_softcap > 0)
        printf("soft caps    %g of scores, %g of logits (0: none)\n", (double)config->attention_softcap,
               (double)config->logit_softcap);
}

static enum status inspect(const char *folder, struct tokenizer **tokenizer, struct safetensors **files,
                           struct sampling *defaults) {
    struct model_config config;
    TRY(model_config_load(folder, &config, defaults));
    TRY(session_open_tokenizer(folder, tokenizer));
    TRY(safetensors_open_folder(folder, files));
    char fingerprint[33];
    TRY(model_fingerprint(folder, fingerprint));
    int64_t body, head;
    model_parameter_counts(&config, &body, &head);
    printf("model        %s\n", folder);
    printf("family       %s\n", config.model_type);
    printf("shape        %d layers, %d wide, %d heads of %d (%d for keys and values), MLP %d\n",
           config.n_layers, config.n_embd, config.n_heads, config.head_dim, config.n_kv_heads,
           config.n_inner);
    print_positions(&config);
    printf("vocabulary   %d tokens\n", config.n_vocab);
    printf("parameters   %.2fM per token, %.2fM of them in the head%s\n", (double)(body + head) / 1e6,
           (double)head / 1e6, config.tie_word_embeddings ? " (tied to the embedding)" : "");
    printf("dtype        %s\n", config.is_float16
                                    ? "float16 (computed as float32, or as the job's dtype says)"
                                : !config.has_dtype             ? "not given (float32)"
                                : config.dtype == DTYPE_FLOAT32 ? "float32"
                                                                : "bfloat16");
    printf("weights      %.1f MiB as float32, %.1f MiB as bfloat16\n",
           (double)model_weight_bytes(&config, DTYPE_FLOAT32) / (1 << 20),
           (double)model_weight_bytes(&config, DTYPE_BFLOAT16) / (1 << 20));
    printf("end tokens  ");
    for (int32_t i = 0; i < config.n_eos; i++)
        printf(" %d", config.eos_ids[i]);
    printf("%s\n", config.n_eos ? "" : " none");
    printf("tokenizer    %s\n",
           *tokenizer ? tokenizer_description(*tokenizer) : "none: prompts must be token ids");
    printf("fingerprint  %s\n", fingerprint);
    print_tensors(*files);
    return STATUS_OK;
}

enum status command_inspect(const struct command_options *options) {
    struct tokenizer *tokenizer = NULL;
    struct safetensors *files = NULL;
    struct sampling defaults;
    sampling_init(&defaults);
    enum status result = inspect(options->target, &tokenizer, &files, &defaults);
    sampling_free(&defaults);
    if (files)
        safetensors_close(files);
    if (tokenizer)
        tokenizer_close(tokenizer);
    return result;
}
