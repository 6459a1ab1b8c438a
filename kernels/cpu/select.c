/* Quickselect (Hoare, "Algorithm 65: Find", 1961) with the median of three as pivot. Ranks are distinct, so
 * two-way partitions suffice; for keep_mass each partition also sums the weights before the pivot. */
#include "kernels/cpu/select.h"

#include <stdbool.h>

static bool ranks_before(const struct candidates *c, int64_t a, int64_t b) {
    return c->values[a] > c->values[b] || (c->values[a] == c->values[b] && c->ids[a] < c->ids[b]);
}

static void swap(struct candidates *c, int64_t a, int64_t b) {
    int32_t id = c->ids[a];
    c->ids[a] = c->ids[b];
    c->ids[b] = id;
    float value = c->values[a];
    c->values[a] = c->values[b];
    c->values[b] = value;
    if (c->weights) {
        float weight = c->weights[a];
        c->weights[a] = c->weights[b];
        c->weights[b] = weight;
    }
}

/* Partitions [first, end) around a pivot: returns its place, with all that rank before it in front. */
static int64_t partition(struct candidates *c, int64_t first, int64_t end) {
    int64_t middle = first + (end - first) / 2, last = end - 1;
    if (ranks_before(c, middle, first))
        swap(c, middle, first);
    if (ranks_before(c, last, first))
        swap(c, last, first);
    if (ranks_before(c, last, middle))
        swap(c, last, middle);
    /* The median goes to the end. */
    swap(c, middle, last);
    int64_t place = first;
    for (int64_t i = first; i < last; i++) {
        if (ranks_before(c, i, last))
            swap(c, i, place++);
    }
    swap(c, place, last);
    return place;
}

void candidates_keep_best(struct candidates *candidates, int64_t k) {
    if (k >= candidates->n)
        return;
    int64_t first = 0, end = candidates->n;
    while (end - first > 1) {
        int64_t place = partition(candidates, first, end);
        if (place < k)
            first = place + 1;
        else
            end = place;
    }
    candidates->n = k;
}

void candidates_keep_mass(struct candidates *candidates, double mass) {
    /* The answer's length lies in [first + 1, end], or nothing before n reaches mass; `before` is the sum of
     * [0, first). */
    int64_t first = 0, end = candidates->n;
    double before = 0.0;
    while (first < end) {
        int64_t place = partition(candidates, first, end);
        double upper = 0.0;
        for (int64_t i = first; i < place; i++)
            upper += candidates->weights[i];
        if (place > first && before + upper >= mass) {
            end = place;
        } else if (before + upper + candidates->weights[place] >= mass) {
            candidates->n = place + 1;
            return;
        } else {
            before += upper + candidates->weights[place];
            first = place + 1;
        }
    }
    /* Only rounding, or a mass beyond the sum, leads here: the prefix ends where the search did. */
    if (first > 0 && first < candidates->n)
        candidates->n = first;
}

void candidates_sort(struct candidates *candidates) {
    for (int64_t i = 1; i < candidates->n; i++) {
        for (int64_t j = i; j > 0 && ranks_before(candidates, j, j - 1); j--)
            swap(candidates, j, j - 1);
    }
}

float select_kth_largest(float *values, int64_t n, int64_t k) {
    int64_t first = 0, last = n - 1;
    /* Hoare's own partition: values may repeat, and equal ones must split evenly. */
    while (first < last) {
        float pivot = values[first + (last - first) / 2];
        int64_t i = first, j = last;
        while (i <= j) {
            while (values[i] > pivot)
                i++;
            while (values[j] < pivot)
                j--;
            if (i <= j) {
                float value = values[i];
                values[i++] = values[j];
                values[j--] = value;
            }
        }
        if (k - 1 <= j)
            last = j;
        else if (k - 1 >= i)
            first = i;
        else
            break;
    }
    return values[k - 1];
}
