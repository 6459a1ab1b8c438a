/* field: one key of a job or config file, or of --set, and the typed reading of its value. Every failure
 * names the place, the key, the value and what is allowed (STATUS_JOB). */
#ifndef PRESSRUN_WORKER_JOB_FIELD_H
#define PRESSRUN_WORKER_JOB_FIELD_H

#include "worker/model/sampling.h"
#include "worker/job/yaml_node.h"

enum { PLACE_BYTES = 512 };

struct field {
    const char *file;     /* the file's name; NULL: from the command line */
    const char *set_text; /* "key=value" of --set, when file is NULL */
    const char *prefix;   /* "", "sampling." or "config." */
    const char *key;      /* terminated; holds no NUL */
    const struct yaml_node *node;
};

/* "FILE:line:column" of a node, or "--set TEXT". Returns out. */
const char *field_place(const struct field *field, const struct yaml_node *node, char out[PLACE_BYTES]);

enum status field_fail(const struct field *field, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "KEY: VALUE is not allowed; expected …", VALUE shortened, lists and mappings by their kind. */
enum status field_refuse(const struct field *field, const char *expected);

/* An unknown key, at the key's own place; what is "job key", hint the text of nearest_hint. */
enum status field_unknown(const struct field *field, const char *what, const char *hint);

/* Reads a file whose root is a mapping (or nothing: root NULL) with keys that hold no NUL. STATUS_NO_INPUT
 * when it cannot be opened. */
enum status field_read_file(const char *path, struct yaml_tree *tree);
/* The value of --set: YAML when it begins with a quote or bracket, else one scalar, taken as it stands. */
enum status field_read_value(const char *set_text, const char *value, struct yaml_tree *tree);

/* A non-empty string without control characters (it will stand in messages); replaces *out (malloc'ed).
 * Numbers and booleans must be quoted. */
enum status field_text(const struct field *field, char **out);
/* A path, joined to folder where it is relative, and without "..", where leaving it out leads to the same
 * place. "-" and a path of --set (which is relative to where the command was given) stay as they are. */
enum status field_path(const struct field *field, const char *folder, char **out);
enum status field_bool(const struct field *field, bool *out);
enum status field_integer(const struct field *field, int64_t minimum, int64_t maximum, int64_t *out);
enum status field_real(const struct field *field, double minimum, double maximum, double *out);
/* A number of bytes, plain or with a unit (byte_size.h). */
enum status field_byte_size(const struct field *field, uint64_t minimum, uint64_t maximum, uint64_t *out);
/* One of the words of choices (NULL-terminated); *out is its index. */
enum status field_choice(const struct field *field, const char *const *choices, int *out);

/* A sampling key, scalar or list, set on sampling; *known is false when the key is none. */
enum status field_sampling(const struct field *field, struct sampling *sampling, bool *known);

#endif
