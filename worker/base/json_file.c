#include "worker/base/json_file.h"

#include <string.h>

#include "worker/base/buffer.h"
#include "worker/base/file.h"

enum status json_parse(const char *name, const char *bytes, size_t size, size_t flags, json_t **out) {
    json_error_t error;
    *out = json_loadb(bytes, size, flags | JSON_REJECT_DUPLICATES, &error);
    if (*out)
        return STATUS_OK;
    TRY(file_refuse_pointer(name, bytes, size));
    /* The parser's words quote the file, and a message is one line. */
    for (char *at = error.text; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7F)
            *at = '?';
    }
    if (error.line > 0)
        return status_fail(STATUS_DATA, "%s:%d:%d: not valid JSON: %s", name, error.line, error.column,
                           error.text);
    return status_fail(STATUS_DATA, "%s: not valid JSON: %s", name, error.text);
}

enum status json_file_read(const char *path, size_t max_bytes, size_t flags, json_t **out) {
    struct buffer text = {0};
    enum status result = file_read(path, max_bytes, &text);
    if (result == STATUS_OK)
        result = json_parse(path, text.data, text.size, flags, out);
    buffer_free(&text);
    if (result == STATUS_OK && !json_is_object(*out)) {
        result =
            status_fail(STATUS_DATA, "%s: the whole file is %s, expected an object", path, json_kind(*out));
        json_decref(*out);
    }
    if (result != STATUS_OK)
        *out = NULL;
    return result;
}

const char *json_kind(const json_t *value) {
    if (!value)
        return "absent";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return "null";
    }
}
