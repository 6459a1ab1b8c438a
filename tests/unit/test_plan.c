/* The memory plan: whatever the model, the device and the config, what it promises fits, and what cannot fit
 * is refused with the keys to turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "worker/job/plan.h"

static const size_t MIB = 1 << 20;

static struct model_config make_model(int32_t n_layers, int32_t n_heads, int32_t head_dim,
                                      int32_t n_positions, int32_t n_vocab) {
    return (struct model_config){.model_type = "gpt2",
                                 .n_layers = n_layers,
                                 .n_heads = n_heads,
                                 .n_kv_heads = n_heads,
                                 .head_dim = head_dim,
                                 .n_embd = n_heads * head_dim,
                                 .n_inner = 4 * n_heads * head_dim,
                                 .n_positions = n_positions,
                                 .n_vocab = n_vocab,
                                 .tie_word_embeddings = true,
                                 .has_dtype = true,
                                 .dtype = DTYPE_BFLOAT16};
}

static struct job make_job(void) {
    return (struct job){.path = "job.yaml", .model = "model", .config = "config.yaml"};
}

/* All that the plan says, reckoned anew. */
static void check_plan(const struct plan *plan, const struct job *job, const struct config *config,
                       const struct model_config *model, const struct plan_device *device) {
    const struct state_limits *state = &plan->state;
    int32_t length = job->max_model_len ? job->max_model_len : model->n_positions;
    assert_int_equal(plan->max_model_len, length);
    assert_int_equal(state->max_pages_per_slot, (length + PAGE_TOKENS - 1) / PAGE_TOKENS);
    assert_true(plan->weight_bytes == model_weight_bytes(model, plan->dtype));
    assert_true(plan->state_bytes == state_bytes(state));
    assert_true(plan->activation_bytes == model_activation_bytes(model, plan->dtype, &plan->model));
    assert_true(plan->kv_bytes < plan->state_bytes);
    size_t budget = device->is_gpu ? (size_t)((double)device->free_bytes * config->gpu_memory_utilization)
                    : config->cpu_memory ? config->cpu_memory
                                         : device->free_bytes / 2;
    assert_true(plan->budget_bytes == budget);
    assert_true(plan->weight_bytes + plan->activation_bytes + plan->state_bytes <= budget);
    /* Room for one sequence of full length beside the scratch page, and never more than all could use. */
    assert_true(state->n_pages > state->max_pages_per_slot);
    assert_true(state->n_pages - 1 <= (int64_t)state->n_slots * state->max_pages_per_slot);
    assert_int_equal(state->n_slots, plan->max_num_seqs);
    assert_int_equal(state->max_rows, plan->max_num_batched_tokens);
    assert_true(state->max_rows > state->n_slots);
    assert_int_equal(state->max_samples, job->mode == MODE_SCORE ? state->max_rows : state->n_slots);
    assert_true(state->max_segments >= state->n_slots);
    assert_int_equal(plan->model.max_rows, state->max_rows);
    assert_int_equal(plan->model.max_samples, state->max_samples);
    /* Logits of one slice: as many rows as 256 MiB hold, in whole tiles of 256 where they are more; at least
     * 8, and all samples where there are fewer. */
    size_t row_bytes = (size_t)model->n_vocab * 4, n_rows = (size_t)plan->model.logit_rows;
    assert_true(n_rows <= 8 || n_rows * row_bytes <= 256 * MIB);
    if (n_rows < (size_t)state->max_samples) {
        assert_true(n_rows <= 256 || n_rows % 256 == 0);
        assert_true((n_rows + (n_rows < 256 ? 1 : 256)) * row_bytes > 256 * MIB);
        assert_true(n_rows >= 8);
    } else {
        assert_true(n_rows == (size_t)state->max_samples || (n_rows == 8 && 8 * row_bytes > 256 * MIB));
    }
    if (config->max_num_seqs)
        assert_int_equal(plan->max_num_seqs, config->max_num_seqs);
    if (config->max_num_batched_tokens)
        assert_int_equal(plan->max_num_batched_tokens, config->max_num_batched_tokens);
    /* An automatic width leaves room for half of its sequences with 512 prompt tokens and the job's new ones.
     */
    int64_t typical = 512 + job->sampling.max_tokens;
    typical = typical < plan->max_model_len ? typical : plan->max_model_len;
    if (!config->max_num_seqs && plan->max_num_seqs > 1)
        assert_true(2 * (int64_t)(state->n_pages - 1) >=
                    (int64_t)state->n_slots * ((typical + PAGE_TOKENS - 1) / PAGE_TOKENS));
    /* No page is left out that would have fitted. */
    if (state->n_pages < INT32_MAX &&
        state->n_pages - 1 < (int64_t)state->n_slots * state->max_pages_per_slot) {
        struct state_limits more = *state;
        more.n_pages++;
        assert_true(plan->weight_bytes + plan->activation_bytes + state_bytes(&more) > budget);
    }
}

static int32_t draw(uint64_t seed, uint32_t what, int32_t low, int32_t high) {
    return low + (int32_t)(philox_word(seed, 3, what) % (uint32_t)(high - low + 1));
}

static void test_many_shapes_fit(void **state) {
    (void)state;
    int32_t n_fit = 0, n_refused = 0;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct model_config model =
            make_model(draw(seed, 0, 1, 48), draw(seed, 1, 1, 32), 8 * draw(seed, 2, 1, 16),
                       1 << draw(seed, 3, 3, 15), draw(seed, 4, 2, 200000));
        struct job job = make_job();
        job.has_dtype = draw(seed, 5, 0, 1);
        job.dtype = draw(seed, 6, 0, 1) ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
        job.has_kv_cache_dtype = draw(seed, 7, 0, 1);
        job.kv_cache_dtype = DTYPE_FLOAT32;
        job.mode = draw(seed, 18, 0, 1) ? MODE_SCORE : MODE_GENERATE;
        job.max_model_len = draw(seed, 8, 0, 1) ? draw(seed, 9, 1, model.n_positions) : 0;
        struct config config;
        config_defaults(&config);
        config.max_num_seqs = draw(seed, 10, 0, 1) ? draw(seed, 11, 1, 2000) : 0;
        config.max_num_batched_tokens =
            draw(seed, 12, 0, 2) == 0 ? config.max_num_seqs + draw(seed, 13, 2, 5000) : 0;
        struct plan_device device = {.is_gpu = draw(seed, 14, 0, 1),
                                     .free_bytes = ((size_t)16 << draw(seed, 15, 0, 12)) * MIB};
        device.total_bytes = device.free_bytes;
        if (draw(seed, 16, 0, 2) == 0)
            config.cpu_memory = (size_t)draw(seed, 17, 16, 40000) * MIB;
        struct plan plan;
        enum status result = plan_make(&job, &config, &model, &device, &plan);
        if (result == STATUS_OK)
            check_plan(&plan, &job, &config, &model, &device);
        else if (result != STATUS_NO_FIT)
            fail_msg("seed %llu: %s", (unsigned long long)seed, status_message());
        n_fit += result == STATUS_OK;
        n_refused += result != STATUS_OK;
        config_free(&config);
    }
    if (n_fit < 100 || n_refused < 30)
        fail_msg("%d shapes fit and %d are refused: the test sees too little of one", n_fit, n_refused);
}

/* The head's slices: whole tiles, as many as 256 MiB of logits hold, or all samples in one. */
static void test_slices_of_the_head(void **state) {
    (void)state;
    static const struct {
        int32_t n_vocab, max_num_seqs, expected;
    } cases[] = {
        {65, 3, 3},         {50257, 1000, 1000}, {50257, 1281, 1280}, {128256, 300, 300},
        {128256, 512, 512}, {128256, 520, 512},  {262144, 300, 256},  {262145, 300, 255},
        {1 << 23, 300, 8},  {1 << 24, 300, 8},   {1 << 24, 3, 8},
    };
    struct job job = make_job();
    struct config config;
    config_defaults(&config);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config model = make_model(1, 1, 8, 64, cases[i].n_vocab);
        struct plan_device device = {.is_gpu = true, .free_bytes = 4000000 * MIB};
        struct plan plan;
        config.max_num_seqs = cases[i].max_num_seqs;
        assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
        check_plan(&plan, &job, &config, &model, &device);
        if (plan.model.logit_rows != cases[i].expected)
            fail_msg("%d ids, %d sequences: slices of %d rows, expected %d", cases[i].n_vocab,
                     cases[i].max_num_seqs, plan.model.logit_rows, cases[i].expected);
    }
    config_free(&config);
}

/* On a GPU the smaller the weights, the wider; on a CPU all alike. */
static void test_automatic_width_follows_weights(void **state) {
    (void)state;
    const struct {
        struct model_config model;
        int32_t on_gpu, rows_on_gpu;
    } cases[] = {
        {make_model(6, 6, 64, 256, 65), 4096, 8192},        /* 20 MiB */
        {make_model(12, 12, 64, 1024, 50257), 2048, 4096},  /* 236 MiB */
        {make_model(16, 32, 64, 1024, 128256), 1024, 4096}, /* 2 GiB */
    };
    struct job job = make_job();
    struct config config;
    config_defaults(&config);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int is_gpu = 0; is_gpu < 2; is_gpu++) {
            struct plan_device device = {.is_gpu = is_gpu, .free_bytes = 400000 * MIB};
            struct plan plan;
            assert_int_equal(plan_make(&job, &config, &cases[i].model, &device, &plan), STATUS_OK);
            assert_int_equal(plan.max_num_seqs, is_gpu ? cases[i].on_gpu : 64);
            /* Room for prompts beside all sequences; on a GPU whole multiples of 4,096 rows. */
            assert_int_equal(plan.max_num_batched_tokens, is_gpu ? cases[i].rows_on_gpu : 64 + 256);
        }
    config_free(&config);
}

/* On a GPU the least multiple of 4,096 rows that has room for 1,024 of prompts beside all sequences. */
static void test_rows_of_a_step(void **state) {
    (void)state;
    static const int32_t seqs_and_rows[][2] = {
        {1, 4096}, {3072, 4096}, {3073, 8192}, {7168, 8192}, {7169, 12288}};
    struct model_config model = make_model(2, 2, 64, 256, 65);
    struct plan_device device = {.is_gpu = true, .free_bytes = 400000 * MIB};
    struct job job = make_job();
    struct config config;
    config_defaults(&config);
    for (size_t i = 0; i < sizeof seqs_and_rows / sizeof seqs_and_rows[0]; i++) {
        struct plan plan;
        config.max_num_seqs = seqs_and_rows[i][0];
        assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
        assert_int_equal(plan.max_num_batched_tokens, seqs_and_rows[i][1]);
    }
    config_free(&config);
}

/* The same job on ever smaller devices: fewer sequences, at last one, then a refusal. */
static void test_automatic_width_shrinks(void **state) {
    (void)state;
    struct model_config model = make_model(12, 12, 64, 4096, 50257);
    struct job job = make_job();
    struct config config;
    config_defaults(&config);
    for (int is_gpu = 0; is_gpu < 2; is_gpu++) {
        int32_t widest = is_gpu ? 2048 : 64, width = widest, n_widths = 0;
        enum status result = STATUS_OK;
        for (size_t mib = 400000; result == STATUS_OK; mib = mib * 3 / 4) {
            struct plan_device device = {.is_gpu = is_gpu, .free_bytes = mib * MIB};
            struct plan plan;
            assert_true(mib > 0);
            result = plan_make(&job, &config, &model, &device, &plan);
            if (result != STATUS_OK)
                break;
            check_plan(&plan, &job, &config, &model, &device);
            if (n_widths == 0)
                assert_int_equal(plan.max_num_seqs, widest);
            assert_true(plan.max_num_seqs <= width);
            n_widths += n_widths == 0 || plan.max_num_seqs < width;
            width = plan.max_num_seqs;
        }
        assert_int_equal(result, STATUS_NO_FIT);
        assert_true(n_widths >= 3);
        assert_true(width <= 16);
    }
    config_free(&config);
}

/* A long context costs no width where jobs do not use it; long answers do. */
static void test_width_follows_the_job(void **state) {
    (void)state;
    struct model_config model = make_model(16, 32, 64, 131072, 128256); /* 128 KiB of KV per position */
    struct config config;
    config_defaults(&config);
    struct plan_device device = {.is_gpu = true, .free_bytes = (size_t)80000 * MIB};
    static const struct {
        int32_t max_tokens, least, most;
    } rows[] = {{16, 1024, 1024}, {512, 512, 1024}, {8192, 64, 128}, {131072, 4, 16}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct job job = make_job();
        job.sampling.max_tokens = rows[i].max_tokens;
        struct plan plan;
        assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
        check_plan(&plan, &job, &config, &model, &device);
        assert_in_range(plan.max_num_seqs, rows[i].least, rows[i].most);
    }
    config_free(&config);
}

/* A step too narrow for the automatic width narrows the width; one that the user set is his to change. */
static void test_narrow_steps(void **state) {
    (void)state;
    struct model_config model = make_model(2, 4, 16, 2048, 1000);
    struct job job = make_job();
    struct config config;
    struct plan plan;
    struct plan_device device = {.is_gpu = true, .free_bytes = 40000 * MIB};
    config_defaults(&config);
    config.max_num_batched_tokens = 100;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
    check_plan(&plan, &job, &config, &model, &device);
    assert_int_equal(plan.max_num_seqs, 64);
    config.max_num_seqs = 100;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_JOB);
    assert_non_null(strstr(status_message(), "max_num_batched_tokens"));
    assert_non_null(strstr(status_message(), "max_num_seqs"));
    assert_non_null(strstr(status_message(), "101")); /* the least that would do */
    config.max_num_batched_tokens = 101;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
    check_plan(&plan, &job, &config, &model, &device);
    config.max_num_seqs = 0;
    config.max_num_batched_tokens = 1; /* not even one sequence and one prompt row */
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_JOB);
    config_free(&config);
}

static void test_defaults_of_types(void **state) {
    (void)state;
    struct model_config model = make_model(2, 4, 16, 2048, 1000);
    struct job job = make_job();
    struct config config;
    struct plan plan;
    struct plan_device device = {.free_bytes = 4000 * MIB};
    config_defaults(&config);
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
    assert_int_equal(plan.dtype, DTYPE_BFLOAT16); /* the file's */
    assert_int_equal(plan.kv_dtype, DTYPE_BFLOAT16);
    job.has_dtype = true;
    job.dtype = DTYPE_FLOAT32;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
    assert_int_equal(plan.dtype, DTYPE_FLOAT32);
    assert_int_equal(plan.kv_dtype, DTYPE_FLOAT32);
    job.has_kv_cache_dtype = true;
    job.kv_cache_dtype = DTYPE_BFLOAT16;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
    assert_int_equal(plan.dtype, DTYPE_FLOAT32);
    assert_int_equal(plan.kv_dtype, DTYPE_BFLOAT16);
    job.has_dtype = job.has_kv_cache_dtype = model.has_dtype = false;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
    assert_int_equal(plan.dtype, DTYPE_FLOAT32);
    config_free(&config);
}

static void test_refusals_name_what_to_change(void **state) {
    (void)state;
    struct model_config model = make_model(12, 12, 64, 1024, 50257);
    struct job job = make_job();
    struct config config;
    struct plan plan;
    config_defaults(&config);
    struct plan_device device = {.is_gpu = true, .free_bytes = 100 * MIB};
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_NO_FIT);
    static const char *const keys[] = {
        "job.yaml", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization",
        "90.0 MiB"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (!strstr(status_message(), keys[i]))
            fail_msg("\"%s\" does not say %s", status_message(), keys[i]);
    device.is_gpu = false;
    config.cpu_memory = 50 * MIB;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_NO_FIT);
    assert_non_null(strstr(status_message(), "cpu_memory"));
    device.free_bytes = 40000 * MIB;
    config.cpu_memory = 0;
    job.max_model_len = 1025;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_JOB);
    assert_non_null(strstr(status_message(), "max_model_len: 1025"));
    assert_non_null(strstr(status_message(), "1024 positions"));
    job.max_model_len = 1024;
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_OK);
    config_free(&config);
}

/* 65,536 sequences of a million positions: as many pages as there are ids, never a wrapped number. */
static void test_the_largest_values(void **state) {
    (void)state;
    struct model_config model = make_model(1, 1, 8, 1 << 20, 300);
    struct job job = make_job();
    struct config config;
    struct plan plan;
    config_defaults(&config);
    config.max_num_seqs = 65536;
    struct plan_device device = {.is_gpu = true, .free_bytes = (size_t)1 << 46};
    enum status result = plan_make(&job, &config, &model, &device, &plan);
    if (result == STATUS_OK)
        check_plan(&plan, &job, &config, &model, &device);
    else
        assert_int_equal(result, STATUS_NO_FIT);
    config_free(&config);
}

/* A config.json that describes more weights than can be counted: the sum must not start again from zero. */
static void test_what_cannot_be_counted_does_not_fit(void **state) {
    (void)state;
    struct model_config model = make_model(2, 4, 16, 128, 1000);
    model.n_embd = model.n_vocab = INT32_MAX;
    model.tie_word_embeddings = false;
    struct job job = make_job();
    struct config config;
    struct plan plan;
    struct plan_device device = {.is_gpu = true, .free_bytes = (size_t)1 << 60};
    config_defaults(&config);
    assert_true(model_weight_bytes(&model, DTYPE_BFLOAT16) == SIZE_MAX);
    assert_int_equal(plan_make(&job, &config, &model, &device, &plan), STATUS_NO_FIT);
    config_free(&config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_shapes_fit),
        cmocka_unit_test(test_slices_of_the_head),
        cmocka_unit_test(test_automatic_width_follows_weights),
        cmocka_unit_test(test_rows_of_a_step),
        cmocka_unit_test(test_automatic_width_shrinks),
        cmocka_unit_test(test_width_follows_the_job),
        cmocka_unit_test(test_narrow_steps),
        cmocka_unit_test(test_defaults_of_types),
        cmocka_unit_test(test_refusals_name_what_to_change),
        cmocka_unit_test(test_the_largest_values),
        cmocka_unit_test(test_what_cannot_be_counted_does_not_fit),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
