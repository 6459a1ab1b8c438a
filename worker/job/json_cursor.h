/* json_cursor: where the members of a JSON object, or the elements of an array, lie in its source text.
 *
 * jansson parses and validates but tells no offsets; this walks the same text beside it, for values whose
 * source bytes are wanted (metadata, exact integers). It expects text that was validated before. On any other
 * text it may give wrong spans, but never reads outside it. */
#ifndef PRESSRUN_WORKER_JOB_JSON_CURSOR_H
#define PRESSRUN_WORKER_JOB_JSON_CURSOR_H

#include <stdbool.h>
#include <stddef.h>

struct json_span { /* a view into the text */
    const char *bytes;
    size_t size;
};

struct json_cursor {
    const char *at;
    const char *end;
    bool is_object;
};

/* Opens an object or array; false when text, white space aside, begins with neither. */
bool json_cursor_open(struct json_cursor *cursor, const char *text, size_t size);

/* Next member or element, in source order; false behind the last. key gets the key's source bytes without the
 * quotes, escapes as they are (empty for an array); value the value's, strings with their quotes. */
bool json_cursor_next(struct json_cursor *cursor, struct json_span *key, struct json_span *value);

#endif
