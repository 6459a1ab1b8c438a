#include "worker/model/sampling.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

enum key_type { KEY_INT32, KEY_FLOAT, KEY_BOOL, KEY_SEED, KEY_LIST };

struct sampling_key {
    const char *name;
    uint32_t field;
    enum key_type type;
    size_t offset;
    double minimum;
    double maximum;
    bool or_zero; /* 0 is allowed below the minimum */
    const char *range;
};

#define KEY(name, field, type, member, minimum, maximum, or_zero, range)                                     \
    { name, field, type, offsetof(struct sampling, member), minimum, maximum, or_zero, range }

#define MAX_TOKENS_KEY(name)                                                                                 \
    KEY(name, SAMPLING_MAX_TOKENS, KEY_INT32, max_tokens, 1, MAX_MAX_TOKENS, false,                          \
        "a whole number from 1 to 1073741824")

/* A temperature below 0.01 would only overflow the scaled logits; it is written as 0. */
static const struct sampling_key keys[] = {
    MAX_TOKENS_KEY("max_tokens"),
    MAX_TOKENS_KEY("max_new_tokens"),
    MAX_TOKENS_KEY("max_completion_tokens"),
    KEY("temperature", SAMPLING_TEMPERATURE, KEY_FLOAT, temperature, 0.01, 100, true,
        "0 (greedy), or 0.01 to 100"),
    KEY("top_p", SAMPLING_TOP_P, KEY_FLOAT, top_p, (double)FLT_MIN, 1, false,
        "above 0, up to 1 (1 switches it off)"),
    KEY("top_k", SAMPLING_TOP_K, KEY_INT32, top_k, -1, INT32_MAX, false,
        "a whole number from 1, or 0 or -1 to switch it off"),
    KEY("min_p", SAMPLING_MIN_P, KEY_FLOAT, min_p, 0, 1, false, "0 (off) to 1"),
    KEY("repetition_penalty", SAMPLING_REPETITION_PENALTY, KEY_FLOAT, repetition_penalty, 0.01, 100, false,
        "0.01 to 100 (1 switches it off)"),
    KEY("presence_penalty", SAMPLING_PRESENCE_PENALTY, KEY_FLOAT, presence_penalty, -2, 2, false,
        "-2 to 2 (0 switches it off)"),
    KEY("frequency_penalty", SAMPLING_FREQUENCY_PENALTY, KEY_FLOAT, frequency_penalty, -2, 2, false,
        "-2 to 2 (0 switches it off)"),
    KEY("n", SAMPLING_N, KEY_INT32, n, 1, MAX_SAMPLES_PER_RECORD, false, "a whole number from 1 to 128"),
    KEY("logprobs", SAMPLING_LOGPROBS, KEY_INT32, logprobs, -1, MAX_LOGPROBS, false,
        "how many alternatives to list beside the chosen token: a whole number from 0 to 20, or -1 for no "
        "logprobs"),
    KEY("ignore_eos", SAMPLING_IGNORE_EOS, KEY_BOOL, ignore_eos, 0, 1, false, "true or false"),
    KEY("seed", SAMPLING_SEED, KEY_SEED, seed, 0, 0, false, "a whole number from 0 to 9223372036854775807"),
    KEY("stop", SAMPLING_STOP, KEY_LIST, stop, 0, 0, false, "a string or a list of strings"),
    KEY("stop_token_ids", SAMPLING_STOP_TOKEN_IDS, KEY_LIST, stop_token_ids, 0, 0, false,
        "a list of token ids"),
};

_Static_assert(MAX_LOGPROBS == 20, "the text for logprobs names the limit");
_Static_assert(MAX_SAMPLES_PER_RECORD == 128, "the text for n names the limit");
_Static_assert(MAX_MAX_TOKENS == 1073741824, "the text for max_tokens names the limit");

_Static_assert(sizeof keys / sizeof *keys == N_SAMPLING_NAMES, "every key has a name in the list");

const char *const sampling_names[N_SAMPLING_NAMES + 1] = {"max_tokens",
                                                          "max_new_tokens",
                                                          "max_completion_tokens",
                                                          "temperature",
                                                          "top_p",
                                                          "top_k",
                                                          "min_p",
                                                          "repetition_penalty",
                                                          "presence_penalty",
                                                          "frequency_penalty",
                                                          "n",
                                                          "logprobs",
                                                          "ignore_eos",
                                                          "seed",
                                                          "stop",
                                                          "stop_token_ids",
                                                          NULL};

static const struct sampling_key *key_find(const char *name) {
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

uint32_t sampling_field_of(const char *name) {
    const struct sampling_key *key = key_find(name);
    return key ? key->field : 0;
}

void sampling_init(struct sampling *sampling) {
    *sampling = (struct sampling){
        .max_tokens = 16,
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
        .n = 1,
        .logprobs = -1,
    };
}

static void stop_free(struct sampling *sampling) {
    for (int32_t i = 0; i < sampling->n_stop; i++)
        free(sampling->stop[i].bytes);
    free(sampling->stop);
    sampling->stop = NULL;
    sampling->n_stop = 0;
}

static void stop_token_ids_free(struct sampling *sampling) {
    free(sampling->stop_token_ids);
    sampling->stop_token_ids = NULL;
    sampling->n_stop_token_ids = 0;
}

void sampling_free(struct sampling *sampling) {
    stop_free(sampling);
    stop_token_ids_free(sampling);
    sampling_init(sampling);
}

void sampling_begin_stop(struct sampling *sampling) {
    stop_free(sampling);
    sampling->set |= SAMPLING_STOP;
}

void sampling_begin_stop_token_ids(struct sampling *sampling) {
    stop_token_ids_free(sampling);
    sampling->set |= SAMPLING_STOP_TOKEN_IDS;
}

enum status sampling_add_stop(struct sampling *sampling, enum status code, const char *bytes, size_t size) {
    RETURN_IF(size == 0, code, "stop: a stop string is empty; expected 1 to %d bytes", MAX_STOP_BYTES);
    RETURN_IF(size > MAX_STOP_BYTES, code, "stop: a stop string has %zu bytes; at most %d are allowed", size,
              MAX_STOP_BYTES);
    RETURN_IF(sampling->n_stop == MAX_STOP_STRINGS, code, "stop: more than %d stop strings",
              MAX_STOP_STRINGS);
    /* Room for all at the first: the list stays short, and grows once. */
    if (!sampling->stop)
        sampling->stop = calloc(MAX_STOP_STRINGS, sizeof *sampling->stop);
    char *copy = sampling->stop ? malloc(size) : NULL;
    RETURN_IF(!copy, STATUS_INTERNAL, "out of host memory (%zu bytes wanted)", size);
    memcpy(copy, bytes, size);
    sampling->stop[sampling->n_stop++] = (struct text_span){copy, size};
    sampling->set |= SAMPLING_STOP;
    return STATUS_OK;
}

enum status sampling_add_stop_token_id(struct sampling *sampling, enum status code, int64_t id) {
    RETURN_IF(id < 0 || id > INT32_MAX, code,
              "stop_token_ids: %lld is no token id; expected a whole number from 0 to %d", (long long)id,
              INT32_MAX);
    RETURN_IF(sampling->n_stop_token_ids == MAX_STOP_TOKEN_IDS, code, "stop_token_ids: more than %d ids",
              MAX_STOP_TOKEN_IDS);
    if (!sampling->stop_token_ids)
        sampling->stop_token_ids = calloc(MAX_STOP_TOKEN_IDS, sizeof *sampling->stop_token_ids);
    RETURN_IF(!sampling->stop_token_ids, STATUS_INTERNAL, "out of host memory");
    sampling->stop_token_ids[sampling->n_stop_token_ids++] = (int32_t)id;
    sampling->set |= SAMPLING_STOP_TOKEN_IDS;
    return STATUS_OK;
}

static size_t type_bytes(enum key_type type) {
    switch (type) {
    case KEY_INT32:
        return sizeof(int32_t);
    case KEY_FLOAT:
        return sizeof(float);
    case KEY_BOOL:
        return sizeof(bool);
    case KEY_SEED:
        return sizeof(uint64_t);
    case KEY_LIST:
        break;
    }
    return 0;
}

enum status sampling_merge(struct sampling *base, const struct sampling *over) {
    if (!over->set)
        return STATUS_OK;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (over->set & keys[i].field)
            memcpy((char *)base + keys[i].offset, (const char *)over + keys[i].offset,
                   type_bytes(keys[i].type));
    if (over->set & SAMPLING_STOP) {
        sampling_begin_stop(base);
        for (int32_t i = 0; i < over->n_stop; i++)
            TRY(sampling_add_stop(base, STATUS_INTERNAL, over->stop[i].bytes, over->stop[i].size));
    }
    if (over->set & SAMPLING_STOP_TOKEN_IDS) {
        sampling_begin_stop_token_ids(base);
        for (int32_t i = 0; i < over->n_stop_token_ids; i++)
            TRY(sampling_add_stop_token_id(base, STATUS_INTERNAL, over->stop_token_ids[i]));
    }
    base->set |= over->set;
    return STATUS_OK;
}

enum status sampling_copy(struct sampling *out, const struct sampling *from) {
    *out = *from;
    out->stop = NULL;
    out->n_stop = 0;
    out->stop_token_ids = NULL;
    out->n_stop_token_ids = 0;
    enum status status = sampling_merge(out, from);
    if (status != STATUS_OK)
        sampling_free(out);
    return status;
}

static enum status fail_type(const struct sampling_key *key, enum status code, struct sampling_value value) {
    if (value.kind == SAMPLING_VALUE_BOOL)
        return status_fail(code, "%s: %s is no number; expected %s", key->name,
                           value.boolean ? "true" : "false", key->range);
    if (value.kind == SAMPLING_VALUE_INTEGER)
        return status_fail(code, "%s: %lld is not allowed; expected %s", key->name, (long long)value.integer,
                           key->range);
    return status_fail(code, "%s: %.9g is not allowed; expected %s", key->name, value.real, key->range);
}

static enum status set_number(void *field, const struct sampling_key *key, enum status code,
                              struct sampling_value value) {
    if (value.kind == SAMPLING_VALUE_BOOL || (key->type != KEY_FLOAT && value.kind != SAMPLING_VALUE_INTEGER))
        return fail_type(key, code, value);
    if (key->type == KEY_SEED) {
        if (value.integer < 0)
            return fail_type(key, code, value);
        *(uint64_t *)field = (uint64_t)value.integer;
        return STATUS_OK;
    }
    bool is_in_range = value.real >= key->minimum && value.real <= key->maximum; /* false for NaN */
    if (!is_in_range && !(key->or_zero && value.real == 0))
        return fail_type(key, code, value);
    if (key->type == KEY_INT32)
        *(int32_t *)field = (int32_t)value.integer;
    else
        *(float *)field = (float)value.real + 0.0f; /* -0 becomes 0: equal values have equal bytes */
    return STATUS_OK;
}

enum status sampling_set_scalar(struct sampling *sampling, enum status code, const char *name,
                                struct sampling_value value, bool *known) {
    const struct sampling_key *key = key_find(name);
    *known = key && key->type != KEY_LIST;
    if (!*known || value.kind == SAMPLING_VALUE_NULL)
        return STATUS_OK;
    void *field = (char *)sampling + key->offset;
    if (key->type != KEY_BOOL) {
        TRY(set_number(field, key, code, value));
    } else {
        if (value.kind != SAMPLING_VALUE_BOOL)
            return fail_type(key, code, value);
        *(bool *)field = value.boolean;
    }
    if (key->field == SAMPLING_TOP_K && sampling->top_k < 0)
        sampling->top_k = 0;
    sampling->set |= key->field;
    return STATUS_OK;
}
