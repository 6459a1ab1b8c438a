/* component: what the readers of tokenizer.json's components share. Each component is an object with a
 * "type"; what is not known is refused by its name, because a component that is ignored changes the ids
 * silently. */
#ifndef PRESSRUN_WORKER_TEXT_COMPONENT_H
#define PRESSRUN_WORKER_TEXT_COMPONENT_H

#include <jansson.h>
#include <stdbool.h>

#include "kernels/status.h"
#include "worker/base/buffer.h"
#include "worker/text/regex.h"

/* Where in which file a component stands: "tokenizer.json", "pre_tokenizer.pretokenizers[1]". */
struct component {
    const char *path;
    const char *where;
    const json_t *object; /* NULL and null mean that there is none */
};

enum { COMPONENT_WHERE = 80 };

bool component_is_absent(const json_t *value);
const char *component_type(const json_t *object); /* NULL when it has none */
bool component_has_type(const struct component *component, const char *type);
/* STATUS_DATA: the type is none of `supported`, a list for the message. */
enum status component_refuse(const struct component *component, const char *supported);

/* A boolean that must be there, and one that may be absent. */
enum status component_require_bool(const struct component *component, const char *key, bool *out);
enum status component_read_bool(const struct component *component, const char *key, bool absent, bool *out);
/* A string that must be there; a view that the JSON value owns. */
enum status component_require_string(const struct component *component, const char *key, const char **out,
                                     size_t *size);
/* A string of one character that must be there; padded with zeros. */
enum status component_require_character(const struct component *component, const char *key, char out[5]);
/* A whole number from 0 to most that must be there. */
enum status component_require_count(const struct component *component, const char *key, size_t most,
                                    size_t *out);
/* "pattern": {"String": ..} or {"Regex": ..}. */
enum status component_require_pattern(const struct component *component, struct regex **out);

/* Components in a Sequence are read one after another, those of a Sequence within it in its place. What is no
 * Sequence is read alone. `key` is the list's. */
typedef enum status component_reader(void *argument, const struct component *component);
enum status component_each(const struct component *component, const char *key, component_reader *read,
                           void *argument);

#endif
