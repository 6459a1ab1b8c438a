/* select: the best candidates of a row of logits, without sorting all of them.
 *
 * Candidates are ranked by value descending, equal values by id ascending; so every rank is taken once. */
#ifndef PRESSRUN_KERNELS_CPU_SELECT_H
#define PRESSRUN_KERNELS_CPU_SELECT_H

#include <stdint.h>

/* Parallel arrays, permuted together. */
struct candidates {
    int32_t *ids;   /* [n] distinct */
    float *values;  /* [n] */
    float *weights; /* [n] not negative, in the order of values; or NULL */
    int64_t n;
};

/* Keeps the k best, in any order. Expected time O(n). */
void candidates_keep_best(struct candidates *candidates, int64_t k);

/* Keeps the shortest prefix of the ranking whose weights sum to at least mass, all if none does; in any
 * order. Expected time O(n). */
void candidates_keep_mass(struct candidates *candidates, double mass);

/* Sorts by rank. Meant for few. */
void candidates_sort(struct candidates *candidates);

/* The k-th largest of values (k in [1, n]), which are permuted. Expected time O(n). */
float select_kth_largest(float *values, int64_t n, int64_t k);

#endif
