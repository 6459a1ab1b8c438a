/* yaml_node: the tree, places, scalar types, and what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/base/buffer.h"
#include "worker/job/yaml_node.h"

static enum status parse(const char *text, struct yaml_tree *tree) {
    return yaml_tree_parse("f.yaml", text, strlen(text), tree);
}

static void test_tree(void **state) {
    (void)state;
    struct yaml_tree tree;
    assert_int_equal(parse("# comment\na: 1\nb:\n  - x\n  - 'y z'\nc: {d: \"\\n\"}\n", &tree), STATUS_OK);
    struct yaml_node *a = tree.root->first_child, *b = a->next, *c = b->next;
    assert_null(c->next);
    assert_true(yaml_node_is(a->key, "a") && yaml_node_is(a, "1"));
    assert_int_equal(a->line, 2);
    assert_int_equal(a->column, 4);
    assert_int_equal(b->kind, YAML_LIST);
    assert_true(yaml_node_is(b->first_child->next, "y z"));
    assert_false(b->first_child->next->is_plain);
    assert_int_equal(b->first_child->next->line, 5);
    assert_int_equal(b->first_child->next->column, 5);
    assert_int_equal(c->kind, YAML_MAPPING);
    assert_true(yaml_node_is(c->first_child, "\n") && yaml_node_is(c->first_child->key, "d"));
    yaml_tree_free(&tree);
    assert_null(tree.root);

    assert_int_equal(parse("", &tree), STATUS_OK);
    assert_null(tree.root);
    assert_int_equal(parse("# nothing\n", &tree), STATUS_OK);
    assert_null(tree.root);
    yaml_tree_free(&tree);
}

static void test_values(void **state) {
    (void)state;
    const struct {
        const char *text;
        enum yaml_type type;
        double number;
    } cases[] = {
        {"yes", YAML_STRING, 0},
        {"on", YAML_STRING, 0},
        {"No", YAML_STRING, 0},
        {"true", YAML_BOOL, 1},
        {"False", YAML_BOOL, 0},
        {"tRUE", YAML_STRING, 0},
        {"~", YAML_NULL, 0},
        {"null", YAML_NULL, 0},
        {"", YAML_NULL, 0},
        {"nULL", YAML_STRING, 0},
        {"0", YAML_INTEGER, 0},
        {"-17", YAML_INTEGER, -17},
        {"+17", YAML_INTEGER, 17},
        {"010", YAML_INTEGER, 10},
        {"0o17", YAML_STRING, 0},
        {"0x1f", YAML_STRING, 0},
        {"1_000", YAML_STRING, 0},
        {"1e3", YAML_REAL, 1000},
        {"1.5", YAML_REAL, 1.5},
        {".5", YAML_REAL, 0.5},
        {"5.", YAML_REAL, 5},
        {"-2.5E-1", YAML_REAL, -0.25},
        {"1e", YAML_STRING, 0},
        {"e1", YAML_STRING, 0},
        {".", YAML_STRING, 0},
        {"-", YAML_STRING, 0},
        {"+", YAML_STRING, 0},
        {"1.2.3", YAML_STRING, 0},
        {"12:30", YAML_STRING, 0},
        {"9223372036854775807", YAML_INTEGER, 0x1p63},
        {"9223372036854775808", YAML_REAL, 0x1p63},
        {"-9223372036854775808", YAML_INTEGER, -0x1p63},
        {".inf", YAML_REAL, INFINITY},
        {"-.Inf", YAML_REAL, -INFINITY},
        {"inf", YAML_STRING, 0},
        {"nan", YAML_STRING, 0},
        {"1e400", YAML_REAL, INFINITY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct yaml_tree tree;
        assert_int_equal(yaml_tree_of_scalar(cases[i].text, &tree), STATUS_OK);
        struct yaml_value value = yaml_node_value(tree.root);
        double number = value.type == YAML_BOOL ? value.boolean : value.real;
        if (value.type != cases[i].type || !(number == cases[i].number))
            fail_msg("'%s': type %d, %g", cases[i].text, value.type, number);
        yaml_tree_free(&tree);
    }
    struct yaml_tree tree;
    assert_int_equal(yaml_tree_of_scalar(".nan", &tree), STATUS_OK);
    assert_true(isnan(yaml_node_value(tree.root).real));
    yaml_tree_free(&tree);
    assert_int_equal(parse("['1', \"true\", 1]", &tree), STATUS_OK);
    assert_int_equal(yaml_node_value(tree.root->first_child).type, YAML_STRING);
    assert_int_equal(yaml_node_value(tree.root->first_child->next).type, YAML_STRING);
    assert_int_equal(yaml_node_value(tree.root->last_child).type, YAML_INTEGER);
    yaml_tree_free(&tree);
}

/* A list nested `depth` deep, and a list of n elements: at the limit accepted, beyond it refused. */
static enum status parse_nested(int depth) {
    struct buffer text = {0};
    struct yaml_tree tree;
    for (int i = 0; i < depth; i++)
        assert_int_equal(buffer_append_byte(&text, '['), STATUS_OK);
    for (int i = 0; i < depth; i++)
        assert_int_equal(buffer_append_byte(&text, ']'), STATUS_OK);
    enum status status = yaml_tree_parse("f.yaml", text.data, text.size, &tree);
    yaml_tree_free(&tree);
    buffer_free(&text);
    return status;
}

static enum status parse_list(int n) {
    struct buffer text = {0};
    struct yaml_tree tree;
    for (int i = 0; i < n; i++)
        assert_int_equal(buffer_append_text(&text, "- a\n"), STATUS_OK);
    enum status status = yaml_tree_parse("f.yaml", text.data, text.size, &tree);
    yaml_tree_free(&tree);
    buffer_free(&text);
    return status;
}

static void test_limits(void **state) {
    (void)state;
    struct yaml_tree tree;
    assert_int_equal(parse_nested(YAML_MAX_DEPTH), STATUS_OK);
    assert_int_equal(parse_nested(YAML_MAX_DEPTH + 1), STATUS_JOB);
    assert_string_equal(status_message(), "f.yaml:1:17: nested deeper than 16 levels");
    assert_int_equal(parse_nested(200000), STATUS_JOB);
    assert_int_equal(parse_list(YAML_MAX_NODES - 1), STATUS_OK);
    assert_int_equal(parse_list(YAML_MAX_NODES), STATUS_JOB);
    assert_string_equal(status_message(), "f.yaml:10000:3: more than 10000 values in one file");
    char *large = calloc(1, YAML_MAX_BYTES + 1);
    assert_non_null(large);
    memset(large, '#', YAML_MAX_BYTES + 1);
    assert_int_equal(yaml_tree_parse("f.yaml", large, YAML_MAX_BYTES, &tree), STATUS_OK);
    yaml_tree_free(&tree);
    assert_int_equal(yaml_tree_parse("f.yaml", large, YAML_MAX_BYTES + 1, &tree), STATUS_JOB);
    free(large);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
