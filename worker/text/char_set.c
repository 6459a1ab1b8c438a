#include "worker/text/char_set.h"

#include <stdlib.h>
#include <string.h>

void char_set_free(struct char_set *set) {
    free(set->ranges);
    *set = (struct char_set){0};
}

enum status char_set_add(struct char_set *set, uint32_t first, uint32_t last) {
    if (set->n == set->capacity) {
        size_t capacity = set->capacity ? 2 * set->capacity : 8;
        struct code_range *ranges = realloc(set->ranges, capacity * sizeof *ranges);
        RETURN_IF(!ranges, STATUS_INTERNAL, "out of host memory for a set of characters");
        set->ranges = ranges;
        set->capacity = capacity;
    }
    set->ranges[set->n++] = (struct code_range){first, last};
    return STATUS_OK;
}

enum status char_set_add_ranges(struct char_set *set, struct code_ranges ranges) {
    for (size_t i = 0; i < ranges.n; i++)
        TRY(char_set_add(set, ranges.ranges[i].first, ranges.ranges[i].last));
    return STATUS_OK;
}

enum status char_set_add_categories(struct char_set *set, uint32_t categories) {
    size_t n;
    const struct category_range *rows = unicode_categories(&n);
    uint32_t next = 0; /* behind the row before: the gaps are CATEGORY_CN */
    for (size_t i = 0; i < n; i++) {
        if (categories >> CATEGORY_CN & 1 && rows[i].first > next)
            TRY(char_set_add(set, next, rows[i].first - 1));
        if (categories >> rows[i].category & 1)
            TRY(char_set_add(set, rows[i].first, rows[i].last));
        next = rows[i].last + 1;
    }
    if (categories >> CATEGORY_CN & 1 && next <= LAST_CODE_POINT)
        TRY(char_set_add(set, next, LAST_CODE_POINT));
    return STATUS_OK;
}

static int compare(const void *left, const void *right) {
    const struct code_range *a = left, *b = right;
    return a->first < b->first ? -1 : a->first > b->first;
}

void char_set_tidy(struct char_set *set) {
    if (set->n == 0)
        return;
    qsort(set->ranges, set->n, sizeof *set->ranges, compare);
    size_t last = 0;
    for (size_t i = 1; i < set->n; i++) {
        if (set->ranges[i].first > set->ranges[last].last + 1)
            set->ranges[++last] = set->ranges[i];
        else if (set->ranges[i].last > set->ranges[last].last)
            set->ranges[last].last = set->ranges[i].last;
    }
    set->n = last + 1;
}

enum status char_set_complement(struct char_set *set) {
    char_set_tidy(set);
    struct char_set rest = {0};
    uint32_t next = 0;
    enum status result = STATUS_OK;
    for (size_t i = 0; i < set->n && result == STATUS_OK; i++) {
        if (set->ranges[i].first > next)
            result = char_set_add(&rest, next, set->ranges[i].first - 1);
        next = set->ranges[i].last + 1;
    }
    if (result == STATUS_OK && next <= LAST_CODE_POINT)
        result = char_set_add(&rest, next, LAST_CODE_POINT);
    if (result != STATUS_OK) {
        char_set_free(&rest);
        return result;
    }
    char_set_free(set);
    *set = rest;
    return STATUS_OK;
}

struct code_ranges char_set_ranges(const struct char_set *set) {
    return (struct code_ranges){set->ranges, set->n};
}

bool char_set_equal(const struct char_set *a, const struct char_set *b) {
    return a->n == b->n && (a->n == 0 || memcmp(a->ranges, b->ranges, a->n * sizeof *a->ranges) == 0);
}
