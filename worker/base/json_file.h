/* json_file: a whole JSON file as a jansson value, with messages that name file, line and column. */
#ifndef PRESSRUN_WORKER_BASE_JSON_FILE_H
#define PRESSRUN_WORKER_BASE_JSON_FILE_H

#include <jansson.h>
#include <stddef.h>

#include "kernels/status.h"

/* Parses size bytes; duplicate keys are refused; `flags` adds JSON_* decoding flags. `name` stands for the
 * bytes in messages. STATUS_DATA. The caller owns *out (json_decref). */
enum status json_parse(const char *name, const char *bytes, size_t size, size_t flags, json_t **out);

/* Reads a file of at most max_bytes and parses it; its root must be an object. STATUS_NO_INPUT, STATUS_IO,
 * STATUS_DATA. */
enum status json_file_read(const char *path, size_t max_bytes, size_t flags, json_t **out);

/* What a value is, for messages: "null", "a string", "an object", … */
const char *json_kind(const json_t *value);

#endif
