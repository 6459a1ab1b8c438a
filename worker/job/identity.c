#include "worker/job/identity.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "worker/base/number.h"
#include "worker/text/quote.h"

/* Raised when the meaning of a line, or how an answer follows from it, changes. */
enum { IDENTITY_FORMAT = 1 };

/* A JSON string: control characters, quote and backslash escaped, the rest as it is. */
static enum status append_string(struct buffer *out, const char *text, size_t size) {
    TRY(buffer_append_byte(out, '"'));
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f)
            TRY(buffer_printf(out, "\\u%04x", c));
        else if (c == '"' || c == '\\')
            TRY(buffer_printf(out, "\\%c", c));
        else
            TRY(buffer_append_byte(out, (char)c));
    }
    return buffer_append_byte(out, '"');
}

static enum status append_line(struct buffer *out, const char *key, const char *text) {
    TRY(buffer_printf(out, "%s=", key));
    TRY(append_string(out, text, strlen(text)));
    return buffer_append_byte(out, '\n');
}

static const char *dtype_text(bool is_given, enum dtype dtype) {
    return !is_given ? "auto" : dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16";
}

static const char *prompts_text(const char *name) {
    enum prompt_format format;
    if (!name || !prompt_format_of_name(name, &format))
        return "unknown";
    return format == PROMPT_TEXT ? "txt" : format == PROMPT_JSONL ? "jsonl" : "detected";
}

static enum status append_float(struct buffer *out, const char *key, float value) {
    char text[NUMBER_MAX_BYTES];
    int n = (int)(number_write_float(text, value) - text);
    return buffer_printf(out, "%s=%.*s\n", key, n, text);
}

static enum status append_sampling(struct buffer *out, const struct sampling *sampling) {
    TRY(buffer_printf(out, "max_tokens=%" PRId32 "\n", sampling->max_tokens));
    TRY(append_float(out, "temperature", sampling->temperature));
    TRY(append_float(out, "top_p", sampling->top_p));
    TRY(buffer_printf(out, "top_k=%" PRId32 "\n", sampling->top_k));
    TRY(append_float(out, "min_p", sampling->min_p));
    TRY(append_float(out, "repetition_penalty", sampling->repetition_penalty));
    TRY(append_float(out, "presence_penalty", sampling->presence_penalty));
    TRY(append_float(out, "frequency_penalty", sampling->frequency_penalty));
    TRY(buffer_printf(out, "n=%" PRId32 "\n", sampling->n));
    TRY(buffer_printf(out, "logprobs=%" PRId32 "\n", sampling->logprobs));
    TRY(buffer_printf(out, "ignore_eos=%s\n", sampling->ignore_eos ? "true" : "false"));
    TRY(buffer_append_text(out, "stop=["));
    for (int32_t i = 0; i < sampling->n_stop; i++) {
        TRY(buffer_append_text(out, i ? "," : ""));
        TRY(append_string(out, sampling->stop[i].bytes, sampling->stop[i].size));
    }
    TRY(buffer_append_text(out, "]\nstop_token_ids=["));
    for (int32_t i = 0; i < sampling->n_stop_token_ids; i++)
        TRY(buffer_printf(out, i ? ",%" PRId32 : "%" PRId32, sampling->stop_token_ids[i]));
    return buffer_append_text(out, "]\n");
}

static enum status append_all(struct buffer *out, const struct job *job, const struct sampling *effective,
                              const char *fingerprint, const char *numerics_class, struct shard shard) {
    TRY(buffer_printf(out, "identity_format=%d\n", IDENTITY_FORMAT));
    TRY(append_line(out, "model", fingerprint));
    TRY(append_line(out, "numerics", numerics_class));
    TRY(append_line(out, "dtype", dtype_text(job->has_dtype, job->dtype)));
    TRY(append_line(out, "kv_cache_dtype", dtype_text(job->has_kv_cache_dtype, job->kv_cache_dtype)));
    TRY(buffer_printf(out, "max_model_len=%" PRId32 "\n", job->max_model_len));
    TRY(append_line(out, "mode", job->mode == MODE_SCORE ? "score" : "generate"));
    if (job->mode == MODE_GENERATE)
        TRY(buffer_printf(out, "seed=%" PRIu64 "\n", job->seed));
    TRY(append_line(out, "on_too_long", job->on_too_long == ON_TOO_LONG_ERROR ? "error" : "truncate_left"));
    TRY(buffer_printf(out, "max_line_bytes=%" PRIu64 "\n", job_max_line_bytes(job)));
    TRY(append_line(out, "prompts", prompts_text(job->prompts)));
    TRY(append_line(out, "prompt_field", job->prompt_field ? job->prompt_field : "prompt"));
    TRY(buffer_printf(out, "output_token_ids=%s\n", job->output_token_ids ? "true" : "false"));
    TRY(buffer_printf(out, "shard=%" PRId32 "/%" PRId32 "\n", shard.index, shard.count));
    return job->mode == MODE_GENERATE ? append_sampling(out, effective) : STATUS_OK;
}

enum status identity_build(const struct job *job, const struct sampling *defaults, const char *fingerprint,
                           const char *numerics_class, struct shard shard, struct identity *out) {
    *out = (struct identity){0};
    struct sampling effective;
    sampling_init(&effective);
    enum status status = defaults ? sampling_merge(&effective, defaults) : STATUS_OK;
    if (status == STATUS_OK)
        status = sampling_merge(&effective, &job->sampling);
    if (status == STATUS_OK)
        status = append_all(&out->text, job, &effective, fingerprint, numerics_class, shard);
    if (status == STATUS_OK)
        status = buffer_terminate(&out->text);
    sampling_free(&effective);
    if (status != STATUS_OK) {
        identity_free(out);
        return status;
    }
    out->hash = hash128_of(out->text.data, out->text.size);
    return STATUS_OK;
}

void identity_free(struct identity *identity) {
    buffer_free(&identity->text);
    *identity = (struct identity){0};
}

struct piece { /* a view */
    const char *bytes;
    size_t size;
};

/* Cuts the next line off text; false at its end. key is empty where the line has no '='. */
static bool next_line(struct piece *text, struct piece *key, struct piece *value) {
    if (text->size == 0)
        return false;
    const char *newline = memchr(text->bytes, '\n', text->size);
    size_t size = newline ? (size_t)(newline - text->bytes) : text->size;
    const char *equals = memchr(text->bytes, '=', size);
    size_t key_size = equals ? (size_t)(equals - text->bytes) : 0;
    size_t value_begin = equals ? key_size + 1 : 0;
    *key = (struct piece){text->bytes, key_size};
    *value = (struct piece){text->bytes + value_begin, size - value_begin};
    size += newline != NULL;
    *text = (struct piece){text->bytes + size, text->size - size};
    return true;
}

static bool is_equal(struct piece a, struct piece b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.bytes, b.bytes, a.size) == 0);
}

/* The value of a key anywhere in text; false when it is not there. */
static bool find_value(struct piece text, struct piece key, struct piece *value) {
    struct piece other;
    while (next_line(&text, &other, value))
        if (is_equal(other, key))
            return true;
    return false;
}

/* A value for people: strings without their quotes. */
static void show(struct piece value, char out[QUOTE_BYTES]) {
    if (value.size >= 2 && value.bytes[0] == '"' && value.bytes[value.size - 1] == '"')
        value = (struct piece){value.bytes + 1, value.size - 2};
    quote_bare(value.bytes, value.size, out);
}

/* First line of a whose key has another value in b, or none. */
static bool first_difference(struct piece a, struct piece b, struct piece *key, struct piece *a_value,
                             struct piece *b_value, bool *b_has) {
    for (struct piece rest = a; next_line(&rest, key, a_value);) {
        *b_has = find_value(b, *key, b_value);
        if (!*b_has || !is_equal(*a_value, *b_value))
            return true;
    }
    return false;
}

bool identity_difference(const char *there, size_t there_size, const struct identity *here, char *out,
                         size_t out_size) {
    struct piece theirs = {there, there_size}, ours = {here->text.data, here->text.size};
    if (out_size > 0)
        out[0] = '\0';
    if (is_equal(theirs, ours))
        return false;
    struct piece key, there_value = {"", 0}, here_value = {"", 0};
    bool has_there = true, has_here = true;
    if (!first_difference(ours, theirs, &key, &here_value, &there_value, &has_there) &&
        !first_difference(theirs, ours, &key, &there_value, &here_value, &has_here)) {
        snprintf(out, out_size, "the same values in another order");
        return true;
    }
    char there_text[QUOTE_BYTES] = "nothing", here_text[QUOTE_BYTES] = "nothing", key_text[QUOTE_BYTES];
    if (has_there)
        show(there_value, there_text);
    if (has_here)
        show(here_value, here_text);
    show(key, key_text);
    snprintf(out, out_size, "%s: %s there, %s here", key_text, there_text, here_text);
    return true;
}

static void put_little_endian(uint8_t *out, uint64_t value, int n_bytes) {
    for (int i = 0; i < n_bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

uint64_t identity_sample_key(uint64_t job_seed, const struct request *request, int32_t sample) {
    bool has_seed = request->sampling.set & SAMPLING_SEED;
    /* Kind, seed and sample; then the id, chained, which may be of any length. */
    uint8_t head[13] = {has_seed ? 'r' : 'j'};
    put_little_endian(head + 1, has_seed ? request->sampling.seed : job_seed, 8);
    put_little_endian(head + 9, (uint32_t)sample, 4);
    struct hash128 hash = hash128_of(head, sizeof head);
    if (!has_seed) {
        char number[24];
        const char *id = request->custom_id;
        size_t size = request->custom_id_size;
        if (!id) {
            size = (size_t)snprintf(number, sizeof number, "%" PRId64, request->line);
            id = number;
        }
        hash = hash128_chain(hash, id, size);
    }
    uint64_t key = 0;
    for (int i = 0; i < 8; i++)
        key = key << 8 | hash.bytes[i];
    return key;
}
