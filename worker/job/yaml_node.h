/* yaml_node: a small YAML file as a tree of nodes with their places, for files that people write.
 *
 * A strict subset of YAML: one document of mappings, lists and scalars. Anchors, aliases, tags, merge keys,
 * duplicate keys and further documents are refused, and so is a file of more than YAML_MAX_BYTES,
 * YAML_MAX_DEPTH levels or YAML_MAX_NODES nodes. Built over libyaml's events, so that a hostile file costs no
 * more than its size. */
#ifndef PRESSRUN_WORKER_JOB_YAML_NODE_H
#define PRESSRUN_WORKER_JOB_YAML_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"

enum { YAML_MAX_BYTES = 1 << 20, YAML_MAX_DEPTH = 16, YAML_MAX_NODES = 10000 };

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAPPING };

struct yaml_node {
    enum yaml_kind kind;
    int line; /* 1-based, of its first character */
    int column;
    bool is_plain;          /* scalar without quotes: only these have a type other than string */
    struct yaml_node *key;  /* its key, where the parent is a mapping */
    struct yaml_node *next; /* behind it in the parent */
    struct yaml_node *first_child;
    struct yaml_node *last_child;
    struct yaml_node *owned_next; /* all nodes of the tree */
    size_t size;                  /* of text */
    char text[];                  /* scalar: its value, UTF-8, may hold NUL; a NUL stands behind it */
};

struct yaml_tree {
    struct yaml_node *root; /* NULL: the file holds nothing but comments */
    struct yaml_node *nodes;
    int n_nodes;
};

/* Parses text. STATUS_JOB: "NAME:line:column: …". */
enum status yaml_tree_parse(const char *name, const char *text, size_t size, struct yaml_tree *out);
/* A tree of one plain scalar, taken literally. */
enum status yaml_tree_of_scalar(const char *text, struct yaml_tree *out);
void yaml_tree_free(struct yaml_tree *tree);

/* Whether a scalar's text is exactly `text`. */
bool yaml_node_is(const struct yaml_node *node, const char *text);

/* What a scalar means by the core schema of YAML 1.2 (chapter 10.3): null, bool, integer, real, else string.
 * So `yes` and `on` are strings, 1e3 is a real. Integers are decimal only (0o17 and 0x1f are strings); one
 * beyond int64 is a real. */
enum yaml_type { YAML_NULL, YAML_BOOL, YAML_INTEGER, YAML_REAL, YAML_STRING };
struct yaml_value {
    enum yaml_type type;
    bool boolean;
    int64_t integer;
    double real; /* also set for integers */
};
struct yaml_value yaml_node_value(const struct yaml_node *node);

#endif
