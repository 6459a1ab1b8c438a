#include "worker/model/synthesis.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model/float_convert.h"

/* What the Hugging Face classes of GPT-2 and Llama draw a matrix with when they train from nothing. */
static const double initializer_range = 0.02;
/* Of the logits over the vocabulary. A random-energy model of V levels is dominated by its best few beyond
 * sqrt(2 ln V), 4.8 for 128k (Derrida 1981); 8 gives the best token two fifths of the probability. */
static const double peaked_logits_deviation = 8;

/* SplitMix64's output function (Steele, Lea and Flood 2014) of a counter. */
static inline uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint64_t tensor_key(uint64_t seed, const char *name) {
    uint64_t key = mix(seed + 0x9E3779B97F4A7C15u);
    for (; *name; name++)
        key = mix(key ^ (unsigned char)*name);
    return key;
}

/* Nearly normal: the sum of four uniforms of 16 bits, scaled. |value| stays below 3.5 deviations. */
static inline float normal(uint64_t key, uint64_t index, float scale) {
    uint64_t bits = mix(key + index * 0x9E3779B97F4A7C15u);
    int32_t sum = (int32_t)(bits & 0xFFFF) + (int32_t)(bits >> 16 & 0xFFFF) + (int32_t)(bits >> 32 & 0xFFFF) +
                  (int32_t)(bits >> 48);
    return ((float)(sum - 2 * 0xFFFF)) * scale;
}

/* Whether a part of the name between dots is a number: the tensor belongs to one of the layers. */
static bool is_of_layer(const char *name) {
    for (const char *at = name; (at = strchr(at, '.')) != NULL;) {
        at++;
        size_t digits = strspn(at, "0123456789");
        if (digits > 0 && at[digits] == '.')
            return true;
    }
    return isdigit((unsigned char)name[0]);
}

/* All elements of a vector are equal. */
static float vector_value(const struct synthesis *synthesis, const struct synthetic_tensor *tensor) {
    size_t length = strlen(tensor->name);
    if (length >= 4 && strcmp(tensor->name + length - 4, "bias") == 0)
        return 0;
    if (!synthesis->peaked_logits || is_of_layer(tensor->name))
        return 1;
    /* The norm behind the last layer has outputs of deviation 1 times this. */
    return (float)(peaked_logits_deviation / (initializer_range * sqrt((double)tensor->shape[0])));
}

void synthesis_values(const struct synthesis *synthesis, const struct synthetic_tensor *tensor,
                      enum dtype dtype, size_t first, size_t n, float *out) {
    if (tensor->n_dims == 1) {
        float value = vector_value(synthesis, tensor) - tensor->offset;
        for (size_t i = 0; i < n; i++)
            out[i] = value;
    } else {
        uint64_t key = tensor_key(synthesis->seed, tensor->name);
        /* Four uniforms of 2^16 values each have a variance of 4 (2^32 - 1) / 12. */
        float scale = (float)(initializer_range / sqrt((0x1p32 - 1) / 3));
        for (size_t i = 0; i < n; i++)
            out[i] = normal(key, first + i, scale);
    }
    if (dtype == DTYPE_BFLOAT16)
        for (size_t i = 0; i < n; i++)
            out[i] = float_from_bfloat16(bfloat16_from_float(out[i]));
}

enum status synthetic_list_add(struct synthetic_list *list, const struct synthetic_tensor *tensor) {
    for (int32_t i = 0; i < list->n; i++)
        if (strcmp(list->tensors[i].name, tensor->name) == 0)
            return STATUS_OK;
    if (list->n == list->capacity) {
        int32_t capacity = list->capacity ? 2 * list->capacity : 64;
        struct synthetic_tensor *tensors = realloc(list->tensors, (size_t)capacity * sizeof *list->tensors);
        RETURN_IF(!tensors, STATUS_INTERNAL, "out of host memory");
        list->tensors = tensors;
        list->capacity = capacity;
    }
    list->tensors[list->n++] = *tensor;
    return STATUS_OK;
}

void synthetic_list_free(struct synthetic_list *list) {
    free(list->tensors);
    *list = (struct synthetic_list){0};
}
