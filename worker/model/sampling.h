/* sampling: how the tokens of one record are chosen and when it ends. The same struct serves each level
 * (record, job, generation_config.json); `set` tells which fields a level gives, sampling_merge puts one
 * level over another. */
#ifndef PRESSRUN_WORKER_MODEL_SAMPLING_H
#define PRESSRUN_WORKER_MODEL_SAMPLING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"
#include "worker/base/text_span.h"

enum sampling_field {
    SAMPLING_MAX_TOKENS = 1 << 0,
    SAMPLING_TEMPERATURE = 1 << 1,
    SAMPLING_TOP_P = 1 << 2,
    SAMPLING_TOP_K = 1 << 3,
    SAMPLING_MIN_P = 1 << 4,
    SAMPLING_REPETITION_PENALTY = 1 << 5,
    SAMPLING_PRESENCE_PENALTY = 1 << 6,
    SAMPLING_FREQUENCY_PENALTY = 1 << 7,
    SAMPLING_N = 1 << 8,
    SAMPLING_LOGPROBS = 1 << 9,
    SAMPLING_IGNORE_EOS = 1 << 10,
    SAMPLING_SEED = 1 << 11,
    SAMPLING_STOP = 1 << 12,
    SAMPLING_STOP_TOKEN_IDS = 1 << 13
};

enum {
    MAX_STOP_STRINGS = 16,
    MAX_STOP_BYTES = 1024, /* of one stop string */
    MAX_STOP_TOKEN_IDS = 64,
    MAX_SAMPLES_PER_RECORD = 128,
    MAX_MAX_TOKENS = 1 << 30 /* so that prompt + max_tokens fits int32 */
};

struct sampling {
    uint32_t set; /* enum sampling_field bits given at this level */
    int32_t max_tokens;
    float temperature; /* 0 greedy */
    float top_p;       /* (0, 1] */
    int32_t top_k;     /* 0 off (-1 is accepted in files) */
    float min_p;       /* [0, 1] */
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    int32_t n;        /* samples, [1, MAX_SAMPLES_PER_RECORD] */
    int32_t logprobs; /* -1 none; 0..MAX_LOGPROBS alternatives beside the chosen token's */
    bool ignore_eos;
    uint64_t seed;
    struct text_span *stop; /* [n_stop] owned */
    int32_t n_stop;
    int32_t *stop_token_ids; /* [n_stop_token_ids] owned */
    int32_t n_stop_token_ids;
};

/* Nothing set, values at their defaults: max_tokens 16, temperature 1, top_p 1, top_k 0, min_p 0, penalties
 * off, n 1, logprobs -1. (max_tokens has no natural default; 16 is what the OpenAI API and vLLM use.) */
void sampling_init(struct sampling *sampling);
void sampling_free(struct sampling *sampling);
/* Fields that `over` sets replace those of `base` (deep copies). */
enum status sampling_merge(struct sampling *base, const struct sampling *over);
enum status sampling_copy(struct sampling *out, const struct sampling *from);

/* The field of a name as users write it, scalars and lists alike (aliases max_new_tokens,
 * max_completion_tokens accepted); 0 when it is no sampling key. */
uint32_t sampling_field_of(const char *name);

/* Sets one field from a JSON or YAML scalar that was parsed already; checks type and range. Lists and strings
 * go through the specific calls. A null leaves the field to the level below, as if it were not given. */
enum sampling_value_kind {
    SAMPLING_VALUE_INTEGER,
    SAMPLING_VALUE_REAL,
    SAMPLING_VALUE_BOOL,
    SAMPLING_VALUE_NULL
};
struct sampling_value {
    enum sampling_value_kind kind;
    int64_t integer;
    double real; /* also set for integers; a whole number beyond int64 comes as a real */
    bool boolean;
};
/* *known is false when name is no sampling scalar. Failure: status code with "temperature: -1 is not allowed;
 * expected …". */
enum status sampling_set_scalar(struct sampling *sampling, enum status code, const char *name,
                                struct sampling_value value, bool *known);
/* Begin a list: it is given at this level, and empty (which overrides a list of the level below). */
void sampling_begin_stop(struct sampling *sampling);
void sampling_begin_stop_token_ids(struct sampling *sampling);
/* Append to a list that was begun. */
enum status sampling_add_stop(struct sampling *sampling, enum status code, const char *bytes, size_t size);
enum status sampling_add_stop_token_id(struct sampling *sampling, enum status code, int64_t id);

/* Names of all sampling keys, NULL-terminated, for "did you mean". */
enum { N_SAMPLING_NAMES = 16 };
extern const char *const sampling_names[N_SAMPLING_NAMES + 1];

#endif
