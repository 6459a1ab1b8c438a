/* Histograms against sorted values, what bounded a run, occupancy. */
#include <math.h>

#include "tests/unit/output_fixture.h"
#include "worker/output/metrics.h"

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void test_percentiles_are_within_two_percent(void **state) {
    (void)state;
    enum { N = 20000 };
    double *values = malloc(N * sizeof *values);
    struct histogram *histogram = calloc(1, sizeof *histogram);
    uint32_t random = 5;
    assert_true(values && histogram);
    double sum = 0;
    for (int i = 0; i < N; i++) {
        random = random * 1664525 + 1013904223;
        values[i] = 2e-6 * exp((random >> 8) / 16777216.0 * log(4e10)); /* 2 us to 22 hours */
        histogram_add(histogram, values[i]);
        sum += values[i];
    }
    qsort(values, N, sizeof *values, compare);
    for (double percent = 0; percent <= 100; percent += 0.5) {
        int rank = (int)ceil(percent / 100 * N);
        double wanted = values[rank > 0 ? rank - 1 : 0], got = histogram_percentile(histogram, percent);
        if (fabs(got - wanted) > 0.02 * wanted)
            fail_msg("p%g: %g, expected %g", percent, got, wanted);
    }
    assert_true(histogram_percentile(histogram, 0) == values[0]);
    assert_true(histogram_percentile(histogram, 100) == values[N - 1]);
    assert_true(histogram->minimum == values[0] && histogram->maximum == values[N - 1]);
    assert_int_equal(histogram->n, N);
    assert_true(fabs(histogram->sum - sum) <= 1e-9 * sum);
    free(histogram);
    free(values);
}

static void test_few_and_odd_values(void **state) {
    (void)state;
    struct histogram *histogram = calloc(1, sizeof *histogram);
    assert_non_null(histogram);
    assert_true(histogram_percentile(histogram, 50) == 0);
    histogram_add(histogram, 0.25);
    for (int percent = 0; percent <= 100; percent += 10)
        assert_true(histogram_percentile(histogram, percent) == 0.25);
    histogram_add(histogram, NAN);
    assert_int_equal(histogram->n, 1);
    histogram_add(histogram, -3);
    assert_true(histogram->minimum == 0);
    histogram_add(histogram, INFINITY);
    histogram_add(histogram, 1e7);
    histogram_add(histogram, 1e-9);
    assert_int_equal(histogram->n, 5);
    assert_int_equal(histogram->bucket[0], 2);
    assert_int_equal(histogram->bucket[HISTOGRAM_BUCKETS - 1], 2);
    assert_true(isfinite(histogram->sum) && isfinite(histogram_percentile(histogram, 100)));
    int64_t n = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++)
        n += histogram->bucket[i];
    assert_int_equal(n, histogram->n);
    free(histogram);
}

static void test_what_bounded_the_run(void **state) {
    (void)state;
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    assert_non_null(metrics);
    assert_int_equal(run_metrics_bound(metrics), BOUND_DEVICE);
    metrics->generate_s = 10;
    metrics->wait_input_s = 0.9;
    metrics->wait_output_s = 0.8;
    metrics->wait_kv_s = 0.7;
    assert_int_equal(run_metrics_bound(metrics), BOUND_DEVICE);
    metrics->wait_input_s = 2;
    assert_int_equal(run_metrics_bound(metrics), BOUND_INPUT);
    metrics->wait_kv_s = 3;
    assert_int_equal(run_metrics_bound(metrics), BOUND_KV_MEMORY);
    metrics->wait_output_s = 4;
    assert_int_equal(run_metrics_bound(metrics), BOUND_OUTPUT);
    for (int bound = BOUND_DEVICE; bound <= BOUND_KV_MEMORY; bound++)
        assert_true(strcmp(bound_name((enum bound)bound), "unknown") != 0);
    free(metrics);
}

static void test_occupancy(void **state) {
    (void)state;
    struct run_metrics *metrics = calloc(1, sizeof *metrics);
    assert_non_null(metrics);
    assert_true(run_metrics_occupancy(metrics) == 0);
    metrics->max_num_seqs = 8;
    metrics->n_steps = 100;
    metrics->slot_steps = 400;
    assert_true(run_metrics_occupancy(metrics) == 0.5);
    metrics->n_steps_before_tail = 50;
    metrics->slot_steps_before_tail = 390;
    assert_true(fabs(run_metrics_occupancy(metrics) - 0.975) < 1e-12);
    free(metrics);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentiles_are_within_two_percent),
        cmocka_unit_test(test_few_and_odd_values),
        cmocka_unit_test(test_what_bounded_the_run),
        cmocka_unit_test(test_occupancy),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
