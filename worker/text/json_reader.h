/* json_reader: reads JSON text value by value, for what is too large to be held as a tree (RFC 8259).
 *
 * Every function returns false when the text is no valid JSON, or no value of the kind that is asked for, and
 * leaves it to a parser that knows lines and columns to say where. Strings may hold escaped NULs. */
#ifndef PRESSRUN_WORKER_TEXT_JSON_READER_H
#define PRESSRUN_WORKER_TEXT_JSON_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/base/buffer.h"

/* Set `at` and `end`, all else zero. */
struct json_reader {
    const char *at;
    const char *end;
    struct buffer texts[2]; /* strings that had escapes, in turns */
    int turn;
};
void json_reader_free(struct json_reader *reader);

/* The first byte of the next value, which tells its kind; 0 at the end of the text. */
char json_reader_peek(struct json_reader *reader);
/* Enters an object ('{') or a list ('['). */
bool json_reader_enter(struct json_reader *reader, char bracket);
/* Goes to the next member or element, or out of the object or list. `is_first` is true right behind the
 * bracket. */
bool json_reader_next(struct json_reader *reader, char bracket, bool is_first, bool *more);
/* A member's key, and the colon behind it. */
bool json_reader_key(struct json_reader *reader, const char **text, size_t *size);
/* A string; *text is good until the string after the next is read. */
bool json_reader_string(struct json_reader *reader, const char **text, size_t *size);
/* A number without fraction or exponent that fits. */
bool json_reader_integer(struct json_reader *reader, int64_t *value);
/* Goes over any value, looking at strings and brackets only. */
bool json_reader_skip(struct json_reader *reader);

#endif
