#include "worker/text/component.h"

#include <stdio.h>
#include <string.h>

#include "worker/base/json_file.h"
#include "worker/text/quote.h"
#include "worker/text/utf8.h"

bool component_is_absent(const json_t *value) {
    return !value || json_is_null(value);
}

const char *component_type(const json_t *object) {
    return json_string_value(json_object_get(object, "type"));
}

bool component_has_type(const struct component *component, const char *type) {
    const char *found = component_type(component->object);
    return found && strcmp(found, type) == 0;
}

enum status component_refuse(const struct component *component, const char *supported) {
    const char *type = component_type(component->object);
    char shown[QUOTE_BYTES];
    if (type)
        return status_fail(STATUS_DATA, "%s: %s %s is not supported; supported: %s", component->path,
                           component->where, quote(type, strlen(type), shown), supported);
    return status_fail(STATUS_DATA, "%s: %s is %s without a \"type\"; supported: %s", component->path,
                       component->where, json_kind(component->object), supported);
}

enum status component_require_bool(const struct component *component, const char *key, bool *out) {
    const json_t *value = json_object_get(component->object, key);
    RETURN_IF(!json_is_boolean(value), STATUS_DATA, "%s: %s.%s is %s, expected true or false",
              component->path, component->where, key, json_kind(value));
    *out = json_is_true(value);
    return STATUS_OK;
}

enum status component_read_bool(const struct component *component, const char *key, bool absent, bool *out) {
    *out = absent;
    return json_object_get(component->object, key) ? component_require_bool(component, key, out) : STATUS_OK;
}

enum status component_require_string(const struct component *component, const char *key, const char **out,
                                     size_t *size) {
    const json_t *value = json_object_get(component->object, key);
    RETURN_IF(!json_is_string(value), STATUS_DATA, "%s: %s.%s is %s, expected a string", component->path,
              component->where, key, json_kind(value));
    *out = json_string_value(value);
    *size = json_string_length(value);
    return STATUS_OK;
}

enum status component_require_character(const struct component *component, const char *key, char out[5]) {
    const char *text = NULL;
    size_t size = 0;
    TRY(component_require_string(component, key, &text, &size));
    RETURN_IF(size == 0 || size > 4 || utf8_next(text, size, NULL) != size, STATUS_DATA,
              "%s: %s.%s: expected one character", component->path, component->where, key);
    memset(out, 0, 5);
    memcpy(out, text, size);
    return STATUS_OK;
}

enum status component_require_count(const struct component *component, const char *key, size_t most,
                                    size_t *out) {
    const json_t *value = json_object_get(component->object, key);
    RETURN_IF(!json_is_integer(value) || json_integer_value(value) < 0 ||
                  (uint64_t)json_integer_value(value) > most,
              STATUS_DATA, "%s: %s.%s is %s, expected an integer from 0 to %zu", component->path,
              component->where, key, json_is_integer(value) ? "out of range" : json_kind(value), most);
    *out = (size_t)json_integer_value(value);
    return STATUS_OK;
}

enum status component_require_pattern(const struct component *component, struct regex **out) {
    const json_t *pattern = json_object_get(component->object, "pattern");
    const json_t *text = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");
    const json_t *value = text ? text : regex;
    RETURN_IF(json_object_size(pattern) != 1 || !json_is_string(value), STATUS_DATA,
              "%s: %s.pattern is %s, expected {\"String\": ..} or {\"Regex\": ..}", component->path,
              component->where, json_kind(pattern));
    RETURN_IF(json_string_length(value) == 0, STATUS_DATA, "%s: %s.pattern is empty", component->path,
              component->where);
    if (text)
        return regex_compile_literal(json_string_value(value), json_string_length(value), out);
    enum status result = regex_compile(json_string_value(value), json_string_length(value), out);
    char shown[QUOTE_BYTES];
    if (result == STATUS_OK)
        return STATUS_OK;
    return status_context(result, "%s: %s.pattern %s: ", component->path, component->where,
                          quote(json_string_value(value), json_string_length(value), shown));
}

enum status component_each(const struct component *component, const char *key, component_reader *read,
                           void *argument) {
    if (component_is_absent(component->object))
        return STATUS_OK;
    if (!component_has_type(component, "Sequence"))
        return read(argument, component);
    const json_t *list = json_object_get(component->object, key);
    RETURN_IF(!json_is_array(list), STATUS_DATA, "%s: %s.%s is %s, expected a list", component->path,
              component->where, key, json_kind(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        char where[COMPONENT_WHERE];
        snprintf(where, sizeof where, "%s.%s[%zu]", component->where, key, i);
        const struct component member = {component->path, where, json_array_get(list, i)};
        TRY(json_is_object(member.object) ? component_each(&member, key, read, argument)
                                          : read(argument, &member));
    }
    return STATUS_OK;
}
