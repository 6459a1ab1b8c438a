#include "worker/text/unicode_class.h"

/* {first, last, step, delta}: every step-th character from first to last has the lower case code + delta. */
struct lowercase_range {
    uint32_t first;
    uint32_t last;
    uint32_t step;
    int32_t delta;
};

#include "worker/text/unicode_class_table.h"

#define N_ROWS(table) (sizeof(table) / sizeof(table)[0])
#define RANGES(table) ((struct code_ranges){table, N_ROWS(table)})

const struct category_range *unicode_categories(size_t *n) {
    *n = N_ROWS(category_ranges);
    return category_ranges;
}

struct code_ranges unicode_space(void) {
    return RANGES(space_ranges);
}

struct code_ranges unicode_word(void) {
    return RANGES(word_ranges);
}

struct code_ranges unicode_lone_word(void) {
    return RANGES(lone_word_ranges);
}

struct code_ranges unicode_crate_word(void) {
    return RANGES(crate_word_ranges);
}

struct code_ranges unicode_numeric(void) {
    return RANGES(numeric_ranges);
}

struct code_ranges unicode_punctuation(void) {
    return RANGES(punctuation_ranges);
}

struct code_ranges unicode_mark(void) {
    return RANGES(mark_ranges);
}

bool code_ranges_contain(struct code_ranges set, uint32_t code_point) {
    size_t low = 0, high = set.n;
    while (low < high) { /* the first range that ends at or behind the code point */
        size_t middle = low + (high - low) / 2;
        if (set.ranges[middle].last < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    return low < set.n && set.ranges[low].first <= code_point;
}

bool unicode_is_space(uint32_t code_point) {
    return code_ranges_contain(unicode_space(), code_point);
}

size_t unicode_fold_class(uint32_t code_point, uint32_t out[4]) {
    for (size_t row = 0; row < N_ROWS(fold_classes); row++) {
        bool found = false;
        size_t n = 0;
        for (; n < 4 && fold_classes[row][n]; n++)
            found |= fold_classes[row][n] == code_point;
        if (!found)
            continue;
        for (size_t i = 0; i < n; i++)
            out[i] = fold_classes[row][i];
        return n;
    }
    out[0] = code_point;
    return 1;
}

const struct fold_of_several *unicode_folds_of_several(size_t *n) {
    *n = N_ROWS(folds_of_several);
    return folds_of_several;
}

size_t unicode_lowercase(uint32_t code_point, uint32_t out[2]) {
    out[0] = code_point;
    if (code_point == 0x130) { /* I with dot above: the dot stays */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    size_t low = 0, high = N_ROWS(lowercase_ranges);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (lowercase_ranges[middle].last < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == N_ROWS(lowercase_ranges))
        return 1;
    const struct lowercase_range *range = &lowercase_ranges[low];
    if (code_point >= range->first && (code_point - range->first) % range->step == 0)
        out[0] = (uint32_t)((int32_t)code_point + range->delta);
    return 1;
}

const struct form_range *unicode_forms(size_t *n) {
    *n = N_ROWS(form_ranges);
    return form_ranges;
}
