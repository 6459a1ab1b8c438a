/* A request out of one JSON line. */
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/job/json_cursor.h"
#include "worker/job/nearest.h"
#include "worker/job/prompt_reader.h"
#include "worker/text/quote.h"

enum { MAX_CUSTOM_ID_BYTES = 512, MAX_MESSAGE_BYTES = 1024 };

/* The keys a record may hold beside its prompt column and the sampling keys. */
static const char *const own_names[] = {"custom_id", "prompt_token_ids", "metadata"};
enum { N_OWN_NAMES = sizeof own_names / sizeof *own_names };

bool request_key_is_known(const char *name) {
    for (size_t i = 0; i < N_OWN_NAMES; i++)
        if (strcmp(name, own_names[i]) == 0)
            return true;
    return sampling_field_of(name) != 0;
}

void request_free(struct request *request) {
    free(request->custom_id);
    free(request->prompt.bytes);
    free(request->prompt_token_ids);
    free(request->metadata.bytes);
    free(request->error_message);
    sampling_free(&request->sampling);
    *request = (struct request){0};
}

enum status request_refuse(struct request *out, const char *code, const char *format, ...) {
    if (out->error_code)
        return STATUS_OK;
    char text[MAX_MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    out->error_message = strdup(text);
    RETURN_IF(!out->error_message, STATUS_INTERNAL, "out of host memory");
    out->error_code = code;
    return STATUS_OK;
}

static enum status refuse_value(struct request *out, const char *key, const json_t *value,
                                const char *expected) {
    static const char *const types[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a number",  [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null"};
    return request_refuse(out, "invalid_value", "%s: %s is not allowed; expected %s", key,
                          types[json_typeof(value)], expected);
}

/* Copies bytes with a NUL behind them. */
static enum status copy_bytes(const char *bytes, size_t size, char **out) {
    *out = malloc(size + 1);
    RETURN_IF(!*out, STATUS_INTERNAL, "out of host memory (%zu bytes wanted)", size);
    memcpy(*out, bytes, size);
    (*out)[size] = '\0';
    return STATUS_OK;
}

/* A whole number as it is written in JSON: -?digits. *fits is false beyond int64. */
static bool whole_number(struct json_span text, int64_t *out, bool *fits) {
    char digits[32];
    *fits = true;
    for (size_t i = text.size > 0 && text.bytes[0] == '-'; i < text.size; i++)
        if (text.bytes[i] < '0' || text.bytes[i] > '9')
            return false;
    *fits = text.size < sizeof digits; /* JSON writes no leading zeros */
    if (!*fits)
        return true;
    memcpy(digits, text.bytes, text.size);
    digits[text.size] = '\0';
    errno = 0;
    *out = strtoll(digits, NULL, 10);
    *fits = errno == 0;
    return true;
}

static enum status take_custom_id(struct request *out, const json_t *value) {
    if (!json_is_string(value))
        return refuse_value(out, "custom_id", value, "a string");
    size_t size = json_string_length(value);
    if (size == 0 || size > MAX_CUSTOM_ID_BYTES)
        return request_refuse(out, "invalid_value", "custom_id: %zu bytes long; expected 1 to %d", size,
                              MAX_CUSTOM_ID_BYTES);
    TRY(copy_bytes(json_string_value(value), size, &out->custom_id));
    out->custom_id_size = size;
    return STATUS_OK;
}

static enum status take_prompt(struct request *out, const char *key, const json_t *value) {
    if (json_is_array(value))
        return refuse_value(out, key, value, "a string; token ids belong in prompt_token_ids");
    if (!json_is_string(value))
        return refuse_value(out, key, value, "a string");
    out->prompt.size = json_string_length(value);
    return copy_bytes(json_string_value(value), out->prompt.size, &out->prompt.bytes);
}

/* One element of a list of token ids. */
static bool token_id(const json_t *value, struct json_span text, int64_t *id) {
    bool fits;
    return json_is_number(value) && whole_number(text, id, &fits) && fits && *id >= 0 && *id <= INT32_MAX;
}

static enum status refuse_token_id(struct request *out, const char *key, size_t index,
                                   struct json_span text) {
    char shown[QUOTE_BYTES];
    return request_refuse(out, "invalid_value",
                          "%s[%zu]: %s is no token id; expected a whole number from 0 to %d", key, index,
                          quote(text.bytes, text.size, shown), INT32_MAX);
}

static enum status take_token_ids(struct request *out, const json_t *value, struct json_span text) {
    struct json_cursor cursor;
    struct json_span key, element;
    size_t n = json_array_size(value);
    if (!json_is_array(value) || !json_cursor_open(&cursor, text.bytes, text.size))
        return refuse_value(out, "prompt_token_ids", value, "an array of token ids");
    if (n > INT32_MAX)
        return request_refuse(out, "invalid_value", "prompt_token_ids: more than %d ids", INT32_MAX);
    out->has_token_ids = true;
    out->prompt_token_ids = malloc((n ? n : 1) * sizeof *out->prompt_token_ids);
    RETURN_IF(!out->prompt_token_ids, STATUS_INTERNAL, "out of host memory (%zu token ids)", n);
    for (size_t i = 0; i < n && json_cursor_next(&cursor, &key, &element); i++) {
        int64_t id;
        if (!token_id(json_array_get(value, i), element, &id))
            return refuse_token_id(out, "prompt_token_ids", i, element);
        out->prompt_token_ids[out->n_prompt_token_ids++] = (int32_t)id;
    }
    return STATUS_OK;
}

static enum status take_stop(struct request *out, const json_t *value, enum status *refused) {
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    sampling_begin_stop(&out->sampling);
    for (size_t i = 0; i < n && *refused == STATUS_OK; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_string(item))
            return refuse_value(out, "stop", item, "a string or an array of strings");
        *refused = sampling_add_stop(&out->sampling, STATUS_RECORD, json_string_value(item),
                                     json_string_length(item));
    }
    return STATUS_OK;
}

static enum status take_stop_token_ids(struct request *out, const json_t *value, struct json_span text,
                                       enum status *refused) {
    struct json_cursor cursor;
    struct json_span key, element;
    if (!json_is_array(value) || !json_cursor_open(&cursor, text.bytes, text.size))
        return refuse_value(out, "stop_token_ids", value, "an array of token ids");
    sampling_begin_stop_token_ids(&out->sampling);
    for (size_t i = 0; *refused == STATUS_OK && json_cursor_next(&cursor, &key, &element); i++) {
        int64_t id;
        if (!token_id(json_array_get(value, i), element, &id))
            return refuse_token_id(out, "stop_token_ids", i, element);
        *refused = sampling_add_stop_token_id(&out->sampling, STATUS_RECORD, id);
    }
    return STATUS_OK;
}

static enum status take_number(struct request *out, const char *name, const json_t *value,
                               struct json_span text, enum status *refused) {
    struct sampling_value number = {.kind = SAMPLING_VALUE_BOOL};
    if (json_is_boolean(value)) {
        number.boolean = json_is_true(value);
    } else if (json_is_number(value)) {
        bool fits;
        bool is_whole = whole_number(text, &number.integer, &fits) && fits;
        number.kind = is_whole ? SAMPLING_VALUE_INTEGER : SAMPLING_VALUE_REAL;
        number.real = json_number_value(value);
    } else {
        return refuse_value(out, name, value, "a number, or true or false, without quotes");
    }
    bool known;
    *refused = sampling_set_scalar(&out->sampling, STATUS_RECORD, name, number, &known);
    return STATUS_OK;
}

static enum status take_sampling(struct request *out, const char *name, uint32_t field, const json_t *value,
                                 struct json_span text) {
    if (json_is_null(value))
        return STATUS_OK;
    if (out->sampling.set & field)
        return request_refuse(out, "duplicate_key", "%s: given twice, under two of its names; keep one",
                              name);
    enum status refused = STATUS_OK;
    if (field == SAMPLING_STOP)
        TRY(take_stop(out, value, &refused));
    else if (field == SAMPLING_STOP_TOKEN_IDS)
        TRY(take_stop_token_ids(out, value, text, &refused));
    else
        TRY(take_number(out, name, value, text, &refused));
    if (refused == STATUS_RECORD)
        return request_refuse(out, "invalid_value", "%s", status_message());
    return refused;
}

static enum status refuse_key(struct request *out, const char *name, const char *prompt_field) {
    const char *names[1 + N_OWN_NAMES + N_SAMPLING_NAMES + 1] = {prompt_field};
    memcpy(names + 1, own_names, sizeof own_names);
    memcpy(names + 1 + N_OWN_NAMES, sampling_names, sizeof sampling_names);
    char shown[QUOTE_BYTES], hint[NEAREST_HINT_BYTES];
    return request_refuse(out, "unknown_key", "%s: unknown key%s", quote(name, strlen(name), shown),
                          nearest_hint(name, strlen(name), names, hint));
}

static enum status take_member(struct request *out, const char *name, const json_t *value,
                               struct json_span text, const char *prompt_field) {
    if (strcmp(name, prompt_field) == 0)
        return take_prompt(out, name, value);
    if (strcmp(name, "prompt_token_ids") == 0)
        return take_token_ids(out, value, text);
    if (strcmp(name, "custom_id") == 0)
        return take_custom_id(out, value);
    if (strcmp(name, "metadata") == 0) {
        out->metadata.size = text.size;
        return copy_bytes(text.bytes, text.size, &out->metadata.bytes);
    }
    uint32_t field = sampling_field_of(name);
    return field ? take_sampling(out, name, field, value, text) : refuse_key(out, name, prompt_field);
}

/* jansson keeps members in source order, so the k-th member of the object is the k-th of the text. */
static enum status take_members(struct request *out, json_t *object, const char *line, size_t size,
                                const char *prompt_field) {
    struct json_cursor cursor;
    struct json_span key, text;
    const char *name;
    json_t *value;
    json_cursor_open(&cursor, line, size);
    json_object_foreach(object, name, value) {
        RETURN_IF(!json_cursor_next(&cursor, &key, &text), STATUS_INTERNAL,
                  "line %lld: the place of key %.60s was not found", (long long)out->line, name);
        TRY(take_member(out, name, value, text, prompt_field));
    }
    if (out->error_code)
        return STATUS_OK;
    if (!out->prompt.bytes && !out->has_token_ids)
        return request_refuse(out, "missing_prompt", "the record has neither %s nor prompt_token_ids",
                              prompt_field);
    if (out->prompt.bytes && out->has_token_ids)
        return request_refuse(out, "invalid_value", "the record has both %s and prompt_token_ids; keep one",
                              prompt_field);
    if (out->has_token_ids && out->n_prompt_token_ids == 0)
        return request_refuse(out, "empty_prompt", "the prompt is empty; expected at least one token id");
    return STATUS_OK;
}

static enum status refuse_json(struct request *out, const json_error_t *error) {
    /* jansson shows a piece of the line, which may be anything. */
    char shown[QUOTE_BYTES];
    bool is_duplicate = json_error_code(error) == json_error_duplicate_key;
    return request_refuse(out, is_duplicate ? "duplicate_key" : "invalid_json",
                          "not a valid JSON object: %s (byte %d of the line)",
                          quote_bare(error->text, strlen(error->text), shown), error->position);
}

enum status request_parse_json(const char *line, size_t size, const char *prompt_field, struct request *out) {
    size_t blanks = 0;
    while (blanks < size && (line[blanks] == ' ' || line[blanks] == '\t' || line[blanks] == '\r'))
        blanks++;
    if (blanks == size)
        return request_refuse(out, "empty_line", "the line is empty; expected a JSON object");
    /* Whole numbers are read from the source text, exactly; as reals they cannot fail for their size. */
    json_error_t error;
    json_t *root = json_loadb(
        line, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL | JSON_DECODE_ANY,
        &error);
    if (!root)
        return refuse_json(out, &error);
    enum status status;
    if (json_is_object(root))
        status = take_members(out, root, line, size, prompt_field);
    else
        status = request_refuse(out, "invalid_json",
                                "the line is JSON, but no object; expected {\"%s\": ...}", prompt_field);
    json_decref(root);
    return status;
}
