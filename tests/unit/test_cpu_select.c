/* select: against a full sort, with many ties. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/select.h"

enum { MOST = 300 };

static uint64_t random_state = 5;

static uint32_t below(uint32_t limit) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % limit;
}

struct item {
    int32_t id;
    float value;
};

static int by_rank(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* n items of `distinct` values in random order; sorted is their ranking. */
struct setting {
    int32_t ids[MOST];
    float values[MOST], weights[MOST];
    struct item sorted[MOST];
    struct candidates candidates;
};

static void setting_init(struct setting *s, int64_t n, uint32_t distinct) {
    for (int64_t i = 0; i < n; i++)
        s->sorted[i] = (struct item){(int32_t)i * 3, (float)below(distinct)};
    for (int64_t i = 0; i < n; i++) {
        int64_t j = i + below((uint32_t)(n - i));
        struct item item = s->sorted[i];
        s->sorted[i] = s->sorted[j];
        s->sorted[j] = item;
        s->ids[i] = s->sorted[i].id;
        s->values[i] = s->sorted[i].value;
        s->weights[i] = s->values[i] + 1.0f;
    }
    qsort(s->sorted, (size_t)n, sizeof s->sorted[0], by_rank);
    s->candidates = (struct candidates){s->ids, s->values, s->weights, n};
}

/* The candidates are the first n of the ranking, in any order, each with its own value and weight. */
static void assert_prefix(struct setting *s, int64_t n) {
    assert_int_equal(s->candidates.n, n);
    candidates_sort(&s->candidates);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(s->ids[i], s->sorted[i].id);
        assert_true(s->values[i] == s->sorted[i].value);
        assert_true(s->weights[i] == s->values[i] + 1.0f);
    }
}

static void keeps_the_best(void **state) {
    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct setting s;
        int64_t n = 1 + below(MOST);
        setting_init(&s, n, 1 + below(round % 2 ? 5 : 1000));
        int64_t k = 1 + below((uint32_t)n + 3);
        candidates_keep_best(&s.candidates, k);
        assert_prefix(&s, k < n ? k : n);
    }
}

static void keeps_the_mass(void **state) {
    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct setting s;
        int64_t n = 1 + below(MOST);
        setting_init(&s, n, 1 + below(round % 2 ? 5 : 1000));
        double total = 0.0, before = 0.0;
        for (int64_t i = 0; i < n; i++)
            total += s.sorted[i].value + 1.0f;
        /* Weights are whole numbers, so sums are exact and borders are hit. */
        double mass = below((uint32_t)total + 2);
        int64_t expected = 0;
        while (expected < n && (expected == 0 || before < mass))
            before += s.sorted[expected++].value + 1.0f;
        candidates_keep_mass(&s.candidates, mass);
        assert_prefix(&s, expected);
    }
}

static void finds_the_kth_largest(void **state) {
    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct setting s;
        int64_t n = 1 + below(MOST), k = 1 + below((uint32_t)n);
        setting_init(&s, n, 1 + below(round % 2 ? 5 : 1000));
        assert_true(select_kth_largest(s.values, n, k) == s.sorted[k - 1].value);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_the_best),
        cmocka_unit_test(keeps_the_mass),
        cmocka_unit_test(finds_the_kth_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
