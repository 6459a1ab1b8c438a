#include "worker/job/field.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/base/file.h"
#include "worker/job/byte_size.h"
#include "worker/job/nearest.h"
#include "worker/text/quote.h"

const char *field_place(const struct field *field, const struct yaml_node *node, char out[PLACE_BYTES]) {
    if (field->file) {
        snprintf(out, PLACE_BYTES, "%s:%d:%d", field->file, node->line, node->column);
    } else {
        char shown[QUOTE_BYTES];
        snprintf(out, PLACE_BYTES, "--set %s", quote(field->set_text, strlen(field->set_text), shown));
    }
    return out;
}

enum status field_fail(const struct field *field, const char *format, ...) {
    char text[1024], place[PLACE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return status_fail(STATUS_JOB, "%s: %s%s: %s", field_place(field, field->node, place), field->prefix,
                       field->key, text);
}

static const char *shown_value(const struct yaml_node *node, char out[QUOTE_BYTES]) {
    switch (node->kind) {
    case YAML_LIST:
        return "a list";
    case YAML_MAPPING:
        return "a mapping";
    case YAML_SCALAR:
        break;
    }
    return node->is_plain && node->size == 0 ? "no value" : quote(node->text, node->size, out);
}

enum status field_refuse(const struct field *field, const char *expected) {
    char shown[QUOTE_BYTES];
    return field_fail(field, "%s is not allowed; expected %s", shown_value(field->node, shown), expected);
}

enum status field_unknown(const struct field *field, const char *what, const char *hint) {
    char place[PLACE_BYTES], shown[QUOTE_BYTES];
    const struct yaml_node *at = field->node->key ? field->node->key : field->node;
    return status_fail(STATUS_JOB, "%s: %s: unknown %s%s", field_place(field, at, place),
                       quote(field->key, strlen(field->key), shown), what, hint);
}

static enum status check_root(const char *path, const struct yaml_node *root) {
    if (!root)
        return STATUS_OK;
    RETURN_IF(root->kind != YAML_MAPPING, STATUS_JOB,
              "%s:%d:%d: the file holds %s; expected lines \"key: value\"", path, root->line, root->column,
              root->kind == YAML_LIST ? "a list" : "a single value");
    for (const struct yaml_node *node = root->first_child; node; node = node->next)
        RETURN_IF(strlen(node->key->text) != node->key->size, STATUS_JOB, "%s:%d:%d: a key holds NUL", path,
                  node->key->line, node->key->column);
    return STATUS_OK;
}

enum status field_read_file(const char *path, struct yaml_tree *tree) {
    struct buffer text = {0};
    *tree = (struct yaml_tree){0};
    enum status status = file_read(path, YAML_MAX_BYTES, &text);
    if (status == STATUS_DATA)
        status = STATUS_JOB; /* too large, or no regular file */
    if (status == STATUS_OK)
        status = yaml_tree_parse(path, text.data, text.size, tree);
    buffer_free(&text);
    if (status == STATUS_OK)
        status = check_root(path, tree->root);
    if (status != STATUS_OK)
        yaml_tree_free(tree);
    return status;
}

enum status field_read_value(const char *set_text, const char *value, struct yaml_tree *tree) {
    if (!*value || !strchr("\"'[{", *value))
        return yaml_tree_of_scalar(value, tree);
    char shown[QUOTE_BYTES], name[QUOTE_BYTES + 16];
    snprintf(name, sizeof name, "--set %s", quote(set_text, strlen(set_text), shown));
    return yaml_tree_parse(name, value, strlen(value), tree);
}

enum status field_text(const struct field *field, char **out) {
    const struct yaml_node *node = field->node;
    if (node->kind != YAML_SCALAR || node->size == 0)
        return field_refuse(field, "a text");
    if (field->file && yaml_node_value(node).type != YAML_STRING)
        return field_refuse(field, "a text; put it between quotes if it is meant so");
    for (size_t i = 0; i < node->size; i++)
        if ((unsigned char)node->text[i] < 0x20 || node->text[i] == 0x7f)
            return field_refuse(field, "a text without control characters");
    char *copy = strdup(node->text);
    RETURN_IF(!copy, STATUS_INTERNAL, "out of host memory");
    free(*out);
    *out = copy;
    return STATUS_OK;
}

static bool is_same_folder(const char *a, const char *b) {
    struct stat a_info, b_info;
    return stat(a, &a_info) == 0 && stat(b, &b_info) == 0 && a_info.st_dev == b_info.st_dev &&
           a_info.st_ino == b_info.st_ino;
}

/* "jobs/../out/x.gz" becomes "out/x.gz" in place, step by step. A step is taken only where both folders exist
 * and are one: "link/.." of a symbolic link is elsewhere. */
static void shorten_path(char *path) {
    for (char *up; (up = strstr(path, "/../")) && up > path;) {
        char *name = up;
        while (name > path && name[-1] != '/')
            name--;
        if (name == up || strncmp(name, "../", 3) == 0 || strncmp(name, "./", 2) == 0)
            return;
        char saved_name = *name, saved_rest = up[4];
        char *shorter = NULL;
        *name = '\0';
        shorter = strdup(*path ? path : ".");
        *name = saved_name;
        up[4] = '\0';
        bool is_same = shorter && is_same_folder(shorter, path);
        up[4] = saved_rest;
        free(shorter);
        if (!is_same)
            return;
        memmove(name, up + 4, strlen(up + 4) + 1);
    }
}

enum status field_path(const struct field *field, const char *folder, char **out) {
    TRY(field_text(field, out));
    if (!field->file || strcmp(*out, "-") == 0)
        return STATUS_OK;
    char *joined = path_join(folder, *out);
    RETURN_IF(!joined, STATUS_INTERNAL, "out of host memory");
    shorten_path(joined);
    free(*out);
    *out = joined;
    return STATUS_OK;
}

enum status field_bool(const struct field *field, bool *out) {
    struct yaml_value value = yaml_node_value(field->node);
    if (value.type != YAML_BOOL)
        return field_refuse(field, "true or false");
    *out = value.boolean;
    return STATUS_OK;
}

enum status field_integer(const struct field *field, int64_t minimum, int64_t maximum, int64_t *out) {
    struct yaml_value value = yaml_node_value(field->node);
    if (value.type != YAML_INTEGER || value.integer < minimum || value.integer > maximum) {
        char expected[96];
        snprintf(expected, sizeof expected, "a whole number from %" PRId64 " to %" PRId64, minimum, maximum);
        return field_refuse(field, expected);
    }
    *out = value.integer;
    return STATUS_OK;
}

enum status field_real(const struct field *field, double minimum, double maximum, double *out) {
    struct yaml_value value = yaml_node_value(field->node);
    bool is_number = value.type == YAML_INTEGER || value.type == YAML_REAL;
    if (!is_number || !(value.real >= minimum && value.real <= maximum)) {
        char expected[96];
        snprintf(expected, sizeof expected, "a number from %g to %g", minimum, maximum);
        return field_refuse(field, expected);
    }
    *out = value.real;
    return STATUS_OK;
}

enum status field_byte_size(const struct field *field, uint64_t minimum, uint64_t maximum, uint64_t *out) {
    const struct yaml_node *node = field->node;
    uint64_t bytes = 0;
    if (node->kind != YAML_SCALAR || !byte_size_parse(node->text, node->size, &bytes))
        return field_refuse(field, "an amount of memory such as 512MiB, 80GiB or a number of bytes");
    if (bytes < minimum || bytes > maximum) {
        char expected[96];
        snprintf(expected, sizeof expected, "%" PRIu64 " to %" PRIu64 " bytes", minimum, maximum);
        return field_refuse(field, expected);
    }
    *out = bytes;
    return STATUS_OK;
}

enum status field_choice(const struct field *field, const char *const *choices, int *out) {
    const struct yaml_node *node = field->node;
    char expected[200] = "", hint[NEAREST_HINT_BYTES] = "";
    for (int i = 0; choices[i]; i++) {
        if (yaml_node_is(node, choices[i])) {
            *out = i;
            return STATUS_OK;
        }
        size_t used = strlen(expected);
        snprintf(expected + used, sizeof expected - used, "%s%s",
                 i == 0           ? ""
                 : choices[i + 1] ? ", "
                                  : " or ",
                 choices[i]);
    }
    if (node->kind == YAML_SCALAR) {
        size_t used = strlen(expected);
        snprintf(expected + used, sizeof expected - used, "%s",
                 nearest_hint(node->text, node->size, choices, hint));
    }
    return field_refuse(field, expected);
}

/* Puts the place of item in front of a message that begins with the sampling key. */
static enum status place_failure(const struct field *field, const struct yaml_node *item,
                                 enum status status) {
    char place[PLACE_BYTES];
    if (status == STATUS_JOB)
        return status_context(status, "%s: %s", field_place(field, item, place), field->prefix);
    return status;
}

static enum status sampling_stop(const struct field *field, struct sampling *sampling) {
    const struct yaml_node *node = field->node;
    bool is_list = node->kind == YAML_LIST;
    sampling_begin_stop(sampling);
    for (const struct yaml_node *item = is_list ? node->first_child : node; item;
         item = is_list ? item->next : NULL) {
        if (item->kind != YAML_SCALAR || yaml_node_value(item).type != YAML_STRING)
            return field_refuse(field, "a string or a list of strings; put numbers between quotes");
        TRY(place_failure(field, item, sampling_add_stop(sampling, STATUS_JOB, item->text, item->size)));
    }
    return STATUS_OK;
}

static enum status sampling_stop_token_ids(const struct field *field, struct sampling *sampling) {
    if (field->node->kind != YAML_LIST)
        return field_refuse(field, "a list of token ids, such as [50256]");
    sampling_begin_stop_token_ids(sampling);
    for (const struct yaml_node *item = field->node->first_child; item; item = item->next) {
        struct yaml_value value = yaml_node_value(item);
        if (value.type != YAML_INTEGER)
            return field_refuse(field, "a list of token ids, whole numbers such as [50256]");
        TRY(place_failure(field, item, sampling_add_stop_token_id(sampling, STATUS_JOB, value.integer)));
    }
    return STATUS_OK;
}

static enum status sampling_number(const struct field *field, struct sampling *sampling) {
    struct yaml_value from = yaml_node_value(field->node);
    if (field->node->kind != YAML_SCALAR || from.type == YAML_STRING)
        return field_refuse(field, "a number, or true or false, without quotes");
    static const enum sampling_value_kind kinds[] = {
        [YAML_NULL] = SAMPLING_VALUE_NULL,
        [YAML_BOOL] = SAMPLING_VALUE_BOOL,
        [YAML_INTEGER] = SAMPLING_VALUE_INTEGER,
        [YAML_REAL] = SAMPLING_VALUE_REAL,
    };
    struct sampling_value value = {kinds[from.type], from.integer, from.real, from.boolean};
    bool known;
    return place_failure(field, field->node,
                         sampling_set_scalar(sampling, STATUS_JOB, field->key, value, &known));
}

enum status field_sampling(const struct field *field, struct sampling *sampling, bool *known) {
    uint32_t bit = sampling_field_of(field->key);
    *known = bit != 0;
    if (!*known)
        return STATUS_OK;
    if (yaml_node_value(field->node).type == YAML_NULL)
        return STATUS_OK;
    if (bit == SAMPLING_STOP)
        return sampling_stop(field, sampling);
    if (bit == SAMPLING_STOP_TOKEN_IDS)
        return sampling_stop_token_ids(field, sampling);
    return sampling_number(field, sampling);
}
