/* An answer never depends on its batch: 300 records, greedy and sampled, generated in batches of every make
 * and compared with one baseline, bit for bit. One line per run says what its batches were like, and the test
 * holds them to be as different as they claim. Small cases run few records in two or three ways. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/functional/golden.h"
#include "tests/functional/invariance.h"
#include "tests/functional/run_cases.h"

static const struct invariance_model shakespeare = {"shakespeare", "weights/shakespeare", 200};
static const struct invariance_model tiny = {"tiny", "tests/models/tiny", 2000};
static const struct invariance_model tiny_llama = {"tiny_llama", "tests/models/tiny_llama", 900};
/* What other families have of their own: windows, norms of queries and keys, norms into the residual, several
 * rope tables. They share all else, so they run the brief variants alone. */
static const struct invariance_model tiny_mistral = {"tiny_mistral", "tests/models/tiny_mistral", 450};
static const struct invariance_model tiny_qwen3 = {"tiny_qwen3", "tests/models/tiny_qwen3", 450};
static const struct invariance_model tiny_gemma3 = {"tiny_gemma3", "tests/models/tiny_gemma3", 450};

static const struct invariance_variant baseline_variant = {.name = "baseline"};

/* Of each list, so many are the brief ones. */
enum { N_BRIEF_COMMON = 4, N_BRIEF_DEVICE = 1 };

/* Each varies one thing. The slow ones run a part of the records. */
static const struct invariance_variant common_variants[] = {
    {.name = "7 sequences", .max_num_seqs = 7},
    {.name = "permuted", .is_permuted = true},
    {.name = "chunks of 7", .chunk_rows = 7},
    {.name = "narrow steps", .max_rows = 80},
    {.name = "1 sequence", .max_num_seqs = 1},
    {.name = "256 sequences", .max_num_seqs = 256},
    {.name = "chunks of 1", .chunk_rows = 1, .every = 7, .longest_prompt = 300},
    {.name = "chunks of 100", .chunk_rows = 100},
    {.name = "wide steps", .max_rows = 8192},
    {.name = "3 shards", .n_shards = 3},
};

static const struct invariance_variant cpu_variants[] = {
    {.name = "portable", .options.cpu_isa = "portable", .every = 20, .longest_prompt = 130},
    {.name = "1 thread", .options.n_threads = 1},
    {.name = "2 threads", .options.n_threads = 2},
    {.name = "avx2", .options.cpu_isa = "avx2"},
    {.name = "avx512", .options.cpu_isa = "avx512"},
    {.name = "avx512_bf16", .options.cpu_isa = "avx512_bf16"},
    {.name = "results late", .relay.is_late = true},
};

static const struct invariance_variant cuda_variants[] = {
    {.name = "no graphs", .options.no_graphs = true},
};

/* Wrong on purpose: more than 8 rows are summed in another order. */
static const struct invariance_variant planted_variant = {.name = "planted split",
                                                          .every = 7,
                                                          .longest_prompt = 300,
                                                          .options.no_graphs = true,
                                                          .relay.splits_k = true};

/* Of small cases: every tenth record with a prompt of up to 33 tokens, the first of them; in float32, whose
 * products race detection is slow with, every fifth of up to 3, of which one runs alone. */
enum { SMALL_EVERY = 10, SMALL_PROMPT = 33, SMALL_RECORDS = 5, SMALL_CHUNK = 17, SMALL_TOKENS = 2 };
enum { LEAST_EVERY = 5, LEAST_PROMPT = 3, LEAST_RECORDS = 3, LEAST_APART = 1 };

static double cpu_seconds(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

static double mean_running(const struct invariance_run *run) {
    return run->metrics.n_steps ? (double)run->metrics.slot_steps / (double)run->metrics.n_steps : 0;
}

static const char *dtype_name(enum dtype dtype) {
    return dtype == DTYPE_FLOAT32 ? "float32" : "bfloat16";
}

static void run_variant(const struct invariance_model *model, enum dtype dtype,
                        const struct invariance_variant *variant, struct invariance_run *run) {
    double began = cpu_seconds();
    invariance_run(golden_backend, model, dtype, variant, run);
    printf("%-11s %-8s %-13s %3d records, %5lld steps, %5.1f running, %5lld prompt pieces, widest %4d rows, "
           "%5.1f s of CPU\n",
           model->name, dtype_name(dtype), variant->name, run->n_records, (long long)run->counts.n_steps,
           mean_running(run), (long long)run->counts.n_segments, run->counts.widest_step,
           cpu_seconds() - began);
    fflush(stdout);
}

/* The batches were as the variant says, and not as in the baseline. */
static void check_make(const struct invariance_variant *variant, const struct invariance_run *baseline,
                       const struct invariance_run *run) {
    int32_t n_slots = variant->max_num_seqs ? variant->max_num_seqs : 64;
    assert_true(run->n_records >= 8);
    if (variant->every == 0)
        assert_int_equal(run->n_records, INVARIANCE_RECORDS);
    assert_true(mean_running(run) <= n_slots);
    if (n_slots == 1)
        assert_true(mean_running(run) == 1.0);
    else if (n_slots <= 7)
        assert_true(mean_running(run) > 0.7 * n_slots);
    else if (n_slots > 64)
        assert_true(mean_running(run) > 1.5 * mean_running(baseline));
    if (variant->chunk_rows > 0)
        assert_true((double)run->metrics.prefill_rows / (double)run->counts.n_segments <=
                    variant->chunk_rows);
    if (variant->chunk_rows > 0 && variant->every == 0)
        assert_true(run->counts.n_segments > baseline->counts.n_segments);
    if (variant->max_rows > 0)
        assert_true(run->counts.widest_step <= variant->max_rows);
    if (variant->max_rows > 64 + 2048)
        assert_true(run->counts.widest_step > baseline->counts.widest_step);
    if (variant->n_shards > 1)
        assert_true(run->counts.n_steps > baseline->counts.n_steps);
}

/* Runs the variant, and fails where an answer differs from the baseline's. */
static void run_equal(const struct invariance_model *model, enum dtype dtype,
                      const struct invariance_run *baseline, const struct invariance_variant *variant,
                      struct invariance_run *run) {
    struct invariance_difference difference;
    run_variant(model, dtype, variant, run);
    if (!invariance_equal(baseline, run, &difference))
        fail_msg("%s %s, %s: record %d (%d prompt tokens), sample %d, generated token %d: %s", model->name,
                 dtype_name(dtype), variant->name, difference.record,
                 run->records[difference.record]->n_prompt_tokens, difference.sample, difference.position,
                 difference.what);
}

static void check_variant(const struct invariance_model *model, enum dtype dtype,
                          const struct invariance_run *baseline, const struct invariance_variant *variant) {
    if (variant->options.cpu_isa) {
        struct backend backend;
        enum status result = backend_open("cpu", &variant->options, &backend);
        if (result == STATUS_NO_DEVICE) {
            printf("%s: %s is left out: %s\n", model->name, variant->name, status_message());
            return;
        }
        golden_check(result, variant->name);
        backend.close(backend.context);
    }
    struct invariance_run run;
    run_equal(model, dtype, baseline, variant, &run);
    check_make(variant, baseline, &run);
    invariance_run_free(&run);
}

/* The comparison is sharp: a split of K that depends on the number of rows does not pass it. */
static void check_planted(const struct invariance_model *model, enum dtype dtype,
                          const struct invariance_run *baseline) {
    struct invariance_run run;
    struct invariance_difference difference;
    run_variant(model, dtype, &planted_variant, &run);
    assert_false(invariance_equal(baseline, &run, &difference));
    printf("  found: record %d, sample %d, generated token %d: %s\n", difference.record, difference.sample,
           difference.position, difference.what);
    invariance_run_free(&run);
}

static void check_variants(const struct invariance_model *model, enum dtype dtype,
                           const struct invariance_run *baseline, const struct invariance_variant *variants,
                           size_t n) {
    for (size_t i = 0; i < n; i++)
        check_variant(model, dtype, baseline, &variants[i]);
}

/* A small case: few records together, few at a time, and, of bfloat16, with their prompts cut. */
static void check_small(const struct invariance_model *model, enum dtype dtype) {
    const bool is_least = dtype == DTYPE_FLOAT32;
    const struct invariance_variant together = {
        .name = "few",
        .every = is_least ? LEAST_EVERY : SMALL_EVERY,
        .longest_prompt = is_least ? LEAST_PROMPT : SMALL_PROMPT,
        .most_records = is_least ? LEAST_RECORDS : SMALL_RECORDS,
        .most_tokens = SMALL_TOKENS,
        .options = {.no_graphs = true, .no_network = true},
    };
    struct invariance_variant apart = together, cut = together;
    apart.name = "few apart";
    apart.max_num_seqs = is_least ? 1 : 3;
    apart.most_records = is_least ? LEAST_APART : SMALL_RECORDS;
    cut.name = "few, cut";
    cut.chunk_rows = SMALL_CHUNK;
    struct invariance_run baseline, run;
    run_variant(model, dtype, &together, &baseline);
    assert_int_equal(baseline.n_records, together.most_records);
    run_equal(model, dtype, &baseline, &apart, &run);
    assert_int_equal(run.n_records, apart.most_records);
    assert_true(run.counts.widest_step < baseline.counts.widest_step);
    assert_true(mean_running(&run) < mean_running(&baseline));
    invariance_run_free(&run);
    if (!is_least) {
        run_equal(model, dtype, &baseline, &cut, &run);
        assert_true(run.counts.n_segments > baseline.counts.n_segments);
        invariance_run_free(&run);
    }
    invariance_run_free(&baseline);
}

static void check_model(const struct invariance_model *model, enum dtype dtype, bool is_brief) {
    if (golden_arguments.is_small) {
        check_small(model, dtype);
        return;
    }
    bool is_cpu = strcmp(golden_backend, "cpu") == 0;
    const struct invariance_variant *device_variants = is_cpu ? cpu_variants : cuda_variants;
    size_t n_device = is_cpu ? sizeof cpu_variants / sizeof cpu_variants[0]
                             : sizeof cuda_variants / sizeof cuda_variants[0];
    size_t n_common = sizeof common_variants / sizeof common_variants[0];
    struct invariance_run baseline;
    run_variant(model, dtype, &baseline_variant, &baseline);
    assert_int_equal(baseline.n_records, INVARIANCE_RECORDS);
    assert_true(mean_running(&baseline) > 30);
    check_variants(model, dtype, &baseline, common_variants, is_brief ? N_BRIEF_COMMON : n_common);
    check_variants(model, dtype, &baseline, device_variants, is_brief ? N_BRIEF_DEVICE : n_device);
    if (!is_brief)
        check_planted(model, dtype, &baseline);
    invariance_run_free(&baseline);
}

static void test_tiny_float32(void **state) {
    (void)state;
    check_model(&tiny, DTYPE_FLOAT32, false);
}

static void test_tiny_bfloat16(void **state) {
    (void)state;
    check_model(&tiny, DTYPE_BFLOAT16, false);
}

static void test_shakespeare_float32(void **state) {
    (void)state;
    check_model(&shakespeare, DTYPE_FLOAT32, false);
}

static void test_shakespeare_bfloat16(void **state) {
    (void)state;
    check_model(&shakespeare, DTYPE_BFLOAT16, false);
}

static void test_tiny_llama_float32(void **state) {
    (void)state;
    check_model(&tiny_llama, DTYPE_FLOAT32, false);
}

static void test_tiny_llama_bfloat16(void **state) {
    (void)state;
    check_model(&tiny_llama, DTYPE_BFLOAT16, false);
}

static void test_tiny_mistral_float32(void **state) {
    (void)state;
    check_model(&tiny_mistral, DTYPE_FLOAT32, true);
}

static void test_tiny_mistral_bfloat16(void **state) {
    (void)state;
    check_model(&tiny_mistral, DTYPE_BFLOAT16, true);
}

static void test_tiny_qwen3_float32(void **state) {
    (void)state;
    check_model(&tiny_qwen3, DTYPE_FLOAT32, true);
}

static void test_tiny_qwen3_bfloat16(void **state) {
    (void)state;
    check_model(&tiny_qwen3, DTYPE_BFLOAT16, true);
}

static void test_tiny_gemma3_float32(void **state) {
    (void)state;
    check_model(&tiny_gemma3, DTYPE_FLOAT32, true);
}

static void test_tiny_gemma3_bfloat16(void **state) {
    (void)state;
    check_model(&tiny_gemma3, DTYPE_BFLOAT16, true);
}

int main(int argc, char **argv) {
    if (!golden_choose_backend(argc, argv))
        return ARGUMENTS_SKIPPED;
    struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_float32),         cmocka_unit_test(test_tiny_bfloat16),
        cmocka_unit_test(test_tiny_llama_float32),   cmocka_unit_test(test_tiny_llama_bfloat16),
        cmocka_unit_test(test_tiny_mistral_float32), cmocka_unit_test(test_tiny_mistral_bfloat16),
        cmocka_unit_test(test_tiny_qwen3_float32),   cmocka_unit_test(test_tiny_qwen3_bfloat16),
        cmocka_unit_test(test_tiny_gemma3_float32),  cmocka_unit_test(test_tiny_gemma3_bfloat16),
        cmocka_unit_test(test_shakespeare_bfloat16), cmocka_unit_test(test_shakespeare_float32),
    };
    size_t n = sizeof tests / sizeof tests[0];
    if (golden_arguments.is_small)
        n--; /* the shipped model in float32: each of its steps takes race detection the better part of a
                minute */
    return run_cases(&golden_arguments, "invariance", tests, n);
}
