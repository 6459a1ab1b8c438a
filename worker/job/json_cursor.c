#include "worker/job/json_cursor.h"

static void skip_blanks(struct json_cursor *cursor) {
    while (cursor->at < cursor->end &&
           (*cursor->at == ' ' || *cursor->at == '\t' || *cursor->at == '\n' || *cursor->at == '\r'))
        cursor->at++;
}

/* From an opening quote to behind the closing one. A backslash takes the next byte with it; the rest of a
 * \uXXXX holds neither quote nor backslash. */
static bool skip_string(struct json_cursor *cursor) {
    cursor->at++;
    while (cursor->at < cursor->end) {
        char c = *cursor->at++;
        if (c == '"')
            return true;
        if (c == '\\' && cursor->at < cursor->end)
            cursor->at++;
    }
    return false;
}

/* From an opening bracket to behind its closing one. */
static bool skip_nested(struct json_cursor *cursor) {
    size_t depth = 0;
    while (cursor->at < cursor->end) {
        char c = *cursor->at;
        if (c == '"') {
            if (!skip_string(cursor))
                return false;
            continue;
        }
        cursor->at++;
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth == 0)
            return true;
    }
    return false;
}

static bool ends_scalar(char c) {
    return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool skip_value(struct json_cursor *cursor, struct json_span *value) {
    const char *begin = cursor->at;
    if (begin == cursor->end)
        return false;
    if (*begin == '"') {
        if (!skip_string(cursor))
            return false;
    } else if (*begin == '{' || *begin == '[') {
        if (!skip_nested(cursor))
            return false;
    } else {
        while (cursor->at < cursor->end && !ends_scalar(*cursor->at))
            cursor->at++;
    }
    *value = (struct json_span){begin, (size_t)(cursor->at - begin)};
    return value->size > 0;
}

bool json_cursor_open(struct json_cursor *cursor, const char *text, size_t size) {
    *cursor = (struct json_cursor){text, text + size, false};
    skip_blanks(cursor);
    if (cursor->at == cursor->end || (*cursor->at != '{' && *cursor->at != '['))
        return false;
    cursor->is_object = *cursor->at++ == '{';
    return true;
}

bool json_cursor_next(struct json_cursor *cursor, struct json_span *key, struct json_span *value) {
    *key = (struct json_span){"", 0};
    skip_blanks(cursor);
    if (cursor->at < cursor->end && *cursor->at == ',') {
        cursor->at++;
        skip_blanks(cursor);
    }
    if (cursor->at == cursor->end || *cursor->at == '}' || *cursor->at == ']')
        return false;
    if (cursor->is_object) {
        const char *begin = cursor->at + 1;
        if (*cursor->at != '"' || !skip_string(cursor))
            return false;
        *key = (struct json_span){begin, (size_t)(cursor->at - 1 - begin)};
        skip_blanks(cursor);
        if (cursor->at == cursor->end || *cursor->at++ != ':')
            return false;
        skip_blanks(cursor);
    }
    return skip_value(cursor, value);
}
