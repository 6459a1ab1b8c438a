/* char_set: sets of characters that are built while a pattern is read. */
#ifndef PRESSRUN_WORKER_TEXT_CHAR_SET_H
#define PRESSRUN_WORKER_TEXT_CHAR_SET_H

#include "kernels/status.h"
#include "worker/text/unicode_class.h"

/* Zero-initialised is empty. Ranges may overlap until char_set_tidy. */
struct char_set {
    struct code_range *ranges; /* [n] */
    size_t n;
    size_t capacity;
};

void char_set_free(struct char_set *set);
enum status char_set_add(struct char_set *set, uint32_t first, uint32_t last);
enum status char_set_add_ranges(struct char_set *set, struct code_ranges ranges);
/* The categories whose bit, 1 << enum category, is set. */
enum status char_set_add_categories(struct char_set *set, uint32_t categories);
/* Ascending order, nothing overlaps or touches. */
void char_set_tidy(struct char_set *set);
/* The set becomes what is not in it. Leaves it tidy. */
enum status char_set_complement(struct char_set *set);
struct code_ranges char_set_ranges(const struct char_set *set);          /* a view of a tidy set */
bool char_set_equal(const struct char_set *a, const struct char_set *b); /* both tidy */

#endif
