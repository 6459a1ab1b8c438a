/* floor: the formula of DESIGN.md, worked out by hand for a small model and, to three digits, for the
 * published shapes on the limits of an H100. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/run/floor.h"

static void expect(double actual, double wanted, double tolerance) {
    if (!(fabs(actual - wanted) <= tolerance * wanted))
        fail_msg("%.9g instead of %.9g", actual, wanted);
}

/* Powers of ten, so that each term can be read off. */
static const struct floor plain = {.limits = {.read_bytes_per_s = 1e6, .flops = 1e8},
                                   .body = 1e4,
                                   .head = 1e3,
                                   .bytes_per_parameter = 2,
                                   .kv_bytes_per_position = 100,
                                   .kv_read_bytes = 100,
                                   .attention_flops = 1000,
                                   .memory_bytes = 1e5};

static void test_steps(void **state) {
    (void)state;
    static const struct {
        struct step_work work;
        double seconds, bytes;
    } rows[] = {
        {{.n_rows = 1, .n_samples = 1}, 0.022, 22000},      /* reading 22,000 bytes */
        {{.n_rows = 1, .n_samples = 0}, 0.020, 20000},      /* without the head */
        {{.n_rows = 1000, .n_samples = 0}, 0.2, 20000},     /* 2e7 operations */
        {{.n_rows = 1000, .n_samples = 1000}, 0.22, 22000}, /* and 2e6 of the head */
        {{.n_rows = 1, .n_samples = 1, .decode_positions = 50}, 0.022 + 0.005, 27000},
        {{.n_rows = 1000, .n_samples = 0, .prompt_positions = 500}, 0.2 + 0.005, 20000},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        expect(floor_of_step(&plain, &rows[i].work), rows[i].seconds, 1e-9);
        expect(floor_step_bytes(&plain, &rows[i].work), rows[i].bytes, 1e-9);
    }
}

static void test_sums_of_a_job(void **state) {
    (void)state;
    struct job_work work = {0};
    job_work_add(&work, 3, 4); /* prompt rows see 1, 2, 3 positions; generated ones 4, 5, 6 */
    job_work_add(&work, 5, 1);
    assert_int_equal(work.n_sequences, 2);
    assert_int_equal(work.prompt_tokens, 8);
    assert_int_equal(work.decode_rows, 3);
    assert_int_equal(work.longest_decode, 3);
    assert_int_equal(work.decode_positions, 15);
    assert_int_equal(work.prompt_positions, 6 + 15);
}

static void test_jobs(void **state) {
    (void)state;
    /* 100 sequences that hold 50 positions on average: 20 fit. 11 decode steps each, so 55 of 20 rows. */
    struct job_work work = {.n_sequences = 100,
                            .prompt_tokens = 1000,
                            .decode_rows = 1100,
                            .longest_decode = 11,
                            .decode_positions = 55000,
                            .prompt_positions = 5000};
    expect(floor_best_batch(&plain, &work), 20, 1e-9);
    double prompts = (2e7 + 2e5 + 5e6) / 1e8, weights = 55 * 0.022, kv = 5.5;
    expect(floor_of_job(&plain, &work), prompts + weights + kv, 1e-9);
    work.longest_decode = 200; /* one long answer takes its steps, whoever runs beside it */
    expect(floor_of_job(&plain, &work), prompts + 200 * 0.022 + kv, 1e-9);
    struct floor roomy = plain;
    roomy.memory_bytes = 1e12;
    work.longest_decode = 11;
    expect(floor_best_batch(&roomy, &work), 100, 1e-9);
    expect(floor_of_job(&roomy, &work), prompts + 2 * 11000 * 1100 / 1e8 + kv,
           1e-9); /* bound by arithmetic */
}

/* A floor for 4,096 prompts of 128 + 128 tokens where 80 GB hold weights and KV. */
static double tokens_per_s(struct model_config config, enum dtype dtype) {
    struct plan plan = {.dtype = dtype, .kv_dtype = dtype, .budget_bytes = 76000000000};
    plan.weight_bytes = model_weight_bytes(&config, dtype);
    struct floor floor =
        floor_of(&config, &plan, &(struct device_limits){.read_bytes_per_s = 2.9e12, .flops = 790e12});
    struct job_work work = {0};
    for (int i = 0; i < 4096; i++)
        job_work_add(&work, 128, 128);
    return 4096 * 128 / floor_of_job(&floor, &work);
}

/* The parameters that the other shapes multiply with; their cards count the norms too. */
static void test_parameters(void **state) {
    (void)state;
    static const struct {
        const char *path;
        int64_t body, head;
    } rows[] = {
        {"configs/models/qwen2.5-7b/config.json",
         28 * (3584LL * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584LL * 18944), 152064LL * 3584},
        {"configs/models/mistral-7b/config.json",
         32 * (4096LL * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096LL * 14336), 32768LL * 4096},
        {"configs/models/gemma-2-2b/config.json",
         26 * (2304LL * (2048 + 2 * 1024) + 2048 * 2304 + 3 * 2304LL * 9216), 256000LL * 2304},
        {"configs/models/gemma-3-1b/config.json",
         26 * (1152LL * (1024 + 2 * 256) + 1024 * 1152 + 3 * 1152LL * 6912), 262144LL * 1152},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_config config;
        if (model_config_load_file(rows[i].path, &config) != STATUS_OK)
            fail_msg("%s", status_message());
        int64_t body, head;
        model_parameter_counts(&config, &body, &head);
        assert_int_equal(body, rows[i].body);
        assert_int_equal(head, rows[i].head);
    }
}

/* Layers with a window count as memory, and not as what a long sequence must read. */
static void test_windows(void **state) {
    (void)state;
    struct model_config config;
    struct plan plan = {.kv_dtype = DTYPE_BFLOAT16};
    assert_int_equal(model_config_load_file("configs/models/gemma-3-1b/config.json", &config), STATUS_OK);
    struct floor floor = floor_of(&config, &plan, &(struct device_limits){1, 1});
    assert_true(floor.kv_bytes_per_position == 26 * 2 * 256 * 2);
    assert_true(floor.kv_read_bytes == 4 * 2 * 256 * 2);
    assert_true(floor.attention_flops == 4 * 4 * 4 * 256);
}

/* The shapes that are shipped to measure with: parameters, and the floors that were worked out for them by
 * others. */
static void test_published_shapes(void **state) {
    (void)state;
    static const struct {
        const char *path;
        int64_t body, head;
        double tokens_per_s;
    } rows[] = {
        {"configs/models/gpt2-124m/config.json", 12 * 12 * 768 * 768, 50257 * 768, 335e3},
        {"configs/models/llama-3.2-1b/config.json",
         16 * (2048LL * (2048 + 2 * 512) + 2048 * 2048 + 3 * 2048 * 8192), 128256LL * 2048, 129e3},
        {"configs/models/llama-3.1-8b/config.json",
         32 * (4096LL * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096LL * 14336), 128256LL * 4096, 22.0e3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model_config config;
        if (model_config_load_file(rows[i].path, &config) != STATUS_OK)
            fail_msg("%s", status_message());
        int64_t body, head;
        model_parameter_counts(&config, &body, &head);
        assert_int_equal(body, rows[i].body);
        assert_int_equal(head, rows[i].head);
        expect(tokens_per_s(config, DTYPE_BFLOAT16), rows[i].tokens_per_s, 0.02);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),      cmocka_unit_test(test_sums_of_a_job),
        cmocka_unit_test(test_jobs),       cmocka_unit_test(test_published_shapes),
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_windows),
    };
    return cmocka_run_group_tests_name("floor", tests, NULL, NULL);
}
