#include "worker/model/family.h"

#include <string.h>

static const struct model_family *const families[] = {
    &gpt2_family,  &llama_family,  &mistral_family, &qwen2_family,
    &qwen3_family, &gemma2_family, &gemma3_family,
};

const char model_family_names[] = "gpt2, llama, mistral, qwen2, qwen3, gemma2, gemma3_text";

const struct model_family *model_family_find(const char *model_type) {
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(families[i]->model_type, model_type) == 0)
            return families[i];
    }
    return NULL;
}
