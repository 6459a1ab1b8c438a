#include "worker/job/yaml_node.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "worker/text/quote.h"

/* Where the parser stands: the open mappings and lists, and per mapping the key that waits for its value. */
struct builder {
    const char *name;
    struct yaml_tree *tree;
    struct yaml_node *open[YAML_MAX_DEPTH];
    struct yaml_node *key[YAML_MAX_DEPTH];
    int depth;
    int n_documents;
};

static enum status fail_at(const struct builder *builder, yaml_mark_t mark, const char *what) {
    return status_fail(STATUS_JOB, "%s:%zu:%zu: %s", builder->name, mark.line + 1, mark.column + 1, what);
}

static struct yaml_node *node_new(struct yaml_tree *tree, enum yaml_kind kind, const char *text,
                                  size_t size) {
    struct yaml_node *node = calloc(1, sizeof *node + size + 1);
    if (!node)
        return NULL;
    node->kind = kind;
    node->size = size;
    if (size)
        memcpy(node->text, text, size);
    node->owned_next = tree->nodes;
    tree->nodes = node;
    tree->n_nodes++;
    return node;
}

static enum status check_key(const struct builder *builder, const struct yaml_node *mapping,
                             const struct yaml_node *key, yaml_mark_t mark) {
    if (key->kind != YAML_SCALAR)
        return fail_at(builder, mark, "a key must be a plain word, not a list or a mapping");
    if (key->is_plain && yaml_node_is(key, "<<"))
        return fail_at(builder, mark, "merge keys (<<) are not allowed; write the keys out");
    for (const struct yaml_node *child = mapping->first_child; child; child = child->next)
        if (child->key->size == key->size && memcmp(child->key->text, key->text, key->size) == 0) {
            char shown[QUOTE_BYTES];
            return status_fail(
                STATUS_JOB, "%s:%d:%d: key %s is given twice (first in line %d); remove one of them",
                builder->name, key->line, key->column, quote(key->text, key->size, shown), child->key->line);
        }
    return STATUS_OK;
}

/* Puts a node where the parser stands: root, list element, key or value. */
static enum status attach(struct builder *builder, struct yaml_node *node, yaml_mark_t mark) {
    if (builder->depth == 0) {
        builder->tree->root = node;
        return STATUS_OK;
    }
    struct yaml_node *parent = builder->open[builder->depth - 1];
    struct yaml_node **key = &builder->key[builder->depth - 1];
    if (parent->kind == YAML_MAPPING && !*key) {
        TRY(check_key(builder, parent, node, mark));
        *key = node;
        return STATUS_OK;
    }
    node->key = *key;
    *key = NULL;
    if (parent->last_child)
        parent->last_child->next = node;
    else
        parent->first_child = node;
    parent->last_child = node;
    return STATUS_OK;
}

static enum status add_node(struct builder *builder, const yaml_event_t *event, enum yaml_kind kind,
                            bool is_decorated) {
    yaml_mark_t mark = event->start_mark;
    if (is_decorated)
        return fail_at(builder, mark, "anchors (&) and tags (!) are not allowed; write the value itself");
    if (builder->tree->n_nodes == YAML_MAX_NODES)
        return fail_at(builder, mark, "more than 10000 values in one file");
    if (kind != YAML_SCALAR && builder->depth == YAML_MAX_DEPTH)
        return fail_at(builder, mark, "nested deeper than 16 levels");
    const char *text = "";
    size_t size = 0;
    if (kind == YAML_SCALAR) {
        text = (const char *)event->data.scalar.value;
        size = event->data.scalar.length;
    }
    struct yaml_node *node = node_new(builder->tree, kind, text, size);
    RETURN_IF(!node, STATUS_INTERNAL, "out of host memory (%zu bytes wanted)", size);
    node->line = (int)mark.line + 1;
    node->column = (int)mark.column + 1;
    node->is_plain = kind == YAML_SCALAR && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    TRY(attach(builder, node, mark));
    if (kind != YAML_SCALAR) {
        builder->open[builder->depth] = node;
        builder->key[builder->depth] = NULL;
        builder->depth++;
    }
    return STATUS_OK;
}

static enum status take_event(struct builder *builder, const yaml_event_t *event) {
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (builder->n_documents++ > 0)
            return fail_at(builder, event->start_mark, "a second document (---) is not allowed");
        if (event->data.document_start.tag_directives.start != event->data.document_start.tag_directives.end)
            return fail_at(builder, event->start_mark, "%TAG is not allowed; remove it");
        return STATUS_OK;
    case YAML_ALIAS_EVENT:
        return fail_at(builder, event->start_mark, "aliases (*) are not allowed; write the value out");
    case YAML_SCALAR_EVENT:
        return add_node(builder, event, YAML_SCALAR,
                        event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL);
    case YAML_SEQUENCE_START_EVENT:
        return add_node(builder, event, YAML_LIST,
                        event->data.sequence_start.anchor != NULL || event->data.sequence_start.tag != NULL);
    case YAML_MAPPING_START_EVENT:
        return add_node(builder, event, YAML_MAPPING,
                        event->data.mapping_start.anchor != NULL || event->data.mapping_start.tag != NULL);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        builder->depth--;
        return STATUS_OK;
    default:
        return STATUS_OK;
    }
}

static enum status fail_syntax(const struct builder *builder, const yaml_parser_t *parser) {
    RETURN_IF(parser->error == YAML_MEMORY_ERROR, STATUS_INTERNAL, "out of host memory");
    const char *problem = parser->problem ? parser->problem : "not understood";
    if (parser->error == YAML_READER_ERROR)
        return status_fail(STATUS_JOB, "%s: not valid UTF-8 text: %s at byte %zu", builder->name, problem,
                           parser->problem_offset);
    return status_fail(STATUS_JOB, "%s:%zu:%zu: not valid YAML: %s%s%s", builder->name,
                       parser->problem_mark.line + 1, parser->problem_mark.column + 1, problem,
                       parser->context ? " " : "", parser->context ? parser->context : "");
}

enum status yaml_tree_parse(const char *name, const char *text, size_t size, struct yaml_tree *out) {
    *out = (struct yaml_tree){0};
    RETURN_IF(size > YAML_MAX_BYTES, STATUS_JOB, "%s: %zu bytes; at most %d are allowed", name, size,
              YAML_MAX_BYTES);
    /* libyaml knows a byte order mark only while it guesses the encoding, which it shall not. */
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        size -= 3;
    }
    yaml_parser_t parser;
    RETURN_IF(!yaml_parser_initialize(&parser), STATUS_INTERNAL, "out of host memory");
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);

    struct builder builder = {.name = name, .tree = out};
    enum status status = STATUS_OK;
    for (bool is_end = false; !is_end && status == STATUS_OK;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            status = fail_syntax(&builder, &parser);
            break;
        }
        is_end = event.type == YAML_STREAM_END_EVENT;
        status = take_event(&builder, &event);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    if (status != STATUS_OK)
        yaml_tree_free(out);
    return status;
}

enum status yaml_tree_of_scalar(const char *text, struct yaml_tree *out) {
    *out = (struct yaml_tree){0};
    out->root = node_new(out, YAML_SCALAR, text, strlen(text));
    RETURN_IF(!out->root, STATUS_INTERNAL, "out of host memory (%zu bytes wanted)", strlen(text));
    out->root->is_plain = true;
    return STATUS_OK;
}

void yaml_tree_free(struct yaml_tree *tree) {
    for (struct yaml_node *node = tree->nodes; node;) {
        struct yaml_node *next = node->owned_next;
        free(node);
        node = next;
    }
    *tree = (struct yaml_tree){0};
}

bool yaml_node_is(const struct yaml_node *node, const char *text) {
    return node->kind == YAML_SCALAR && node->size == strlen(text) &&
           memcmp(node->text, text, node->size) == 0;
}

static bool is_one_of(const struct yaml_node *node, const char *a, const char *b, const char *c) {
    return yaml_node_is(node, a) || yaml_node_is(node, b) || yaml_node_is(node, c);
}

static size_t skip_digits(const char *text, size_t i) {
    while (text[i] >= '0' && text[i] <= '9')
        i++;
    return i;
}

/* [-+]? digits: integer. [-+]? ( . digits | digits (. digits?)? ) ( [eE] [-+]? digits )?: real. */
static enum yaml_type number_type(const char *text, size_t size) {
    size_t i = text[0] == '-' || text[0] == '+';
    size_t whole_end = skip_digits(text, i);
    size_t n_whole = whole_end - i, n_fraction = 0;
    if (n_whole > 0 && whole_end == size)
        return YAML_INTEGER;
    i = whole_end;
    if (text[i] == '.') {
        size_t fraction_end = skip_digits(text, i + 1);
        n_fraction = fraction_end - (i + 1);
        i = fraction_end;
    }
    if (n_whole + n_fraction == 0)
        return YAML_STRING;
    if (text[i] == 'e' || text[i] == 'E') {
        size_t exponent = i + 1 + (text[i + 1] == '-' || text[i + 1] == '+');
        i = skip_digits(text, exponent);
        if (i == exponent)
            return YAML_STRING;
    }
    return i == size ? YAML_REAL : YAML_STRING;
}

static bool special_real(const struct yaml_node *node, double *real) {
    if (is_one_of(node, ".nan", ".NaN", ".NAN")) {
        *real = NAN;
        return true;
    }
    bool is_negative = node->size > 0 && node->text[0] == '-';
    size_t sign = node->size > 0 && (is_negative || node->text[0] == '+');
    const char *rest = node->text + sign;
    if (strlen(rest) + sign != node->size ||
        (strcmp(rest, ".inf") != 0 && strcmp(rest, ".Inf") != 0 && strcmp(rest, ".INF") != 0))
        return false;
    *real = is_negative ? -INFINITY : INFINITY;
    return true;
}

struct yaml_value yaml_node_value(const struct yaml_node *node) {
    struct yaml_value value = {.type = YAML_STRING};
    if (node->kind != YAML_SCALAR || !node->is_plain)
        return value;
    if (node->size == 0 || yaml_node_is(node, "~") || is_one_of(node, "null", "Null", "NULL")) {
        value.type = YAML_NULL;
    } else if (is_one_of(node, "true", "True", "TRUE") || is_one_of(node, "false", "False", "FALSE")) {
        value.type = YAML_BOOL;
        value.boolean = node->text[0] == 't' || node->text[0] == 'T';
    } else if (special_real(node, &value.real)) {
        value.type = YAML_REAL;
    } else {
        value.type = number_type(node->text, node->size);
        if (value.type == YAML_INTEGER) {
            errno = 0;
            value.integer = strtoll(node->text, NULL, 10);
            if (errno == ERANGE) {
                value.integer = 0;
                value.type = YAML_REAL;
            }
        }
        if (value.type != YAML_STRING)
            value.real = strtod(node->text, NULL);
    }
    return value;
}
