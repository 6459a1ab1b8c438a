/* Scoring through the worker's engine: log-probabilities beside transformers' (tests/golden), and the same
 * bits whatever the batch, the chunks of a prompt, the slices of the head, or what is generated beside it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/golden.h"
#include "tests/functional/run_cases.h"
#include "tests/support/engine_rig.h"

enum {
    N_RANDOM = 60, /* short prompts of random ids, so that many run at once */
    MAX_RECORDS = 80,
    N_GENERATED = 12, /* records that sample beside those that are scored */
    N_TOKENS = 9,     /* of each of their samples */
    KV_PAGES = 600,
};

/* Of small cases. In float32, whose products race detection is slow with, they are the beginning of one
 * golden prompt; in bfloat16 some prompts, whose bits are compared. */
enum {
    N_SMALL_GOLDEN = 1,
    N_SMALL_RANDOM = 2,
    N_SMALL_GENERATED = 2,
    N_SMALL_TOKENS = 2,
    SMALL_PROMPT = 40, /* tokens of a golden prompt: beyond a page */
    LEAST_PROMPT = 9,  /* eight rows are scored */
};

static bool is_least(enum dtype dtype) {
    return golden_arguments.is_small && dtype == DTYPE_FLOAT32;
}

static int32_t n_random(enum dtype dtype) {
    return is_least(dtype) ? 0 : golden_arguments.is_small ? N_SMALL_RANDOM : N_RANDOM;
}

static int32_t n_generated(void) {
    return golden_arguments.is_small ? N_SMALL_GENERATED : N_GENERATED;
}

static int32_t n_tokens(void) {
    return golden_arguments.is_small ? N_SMALL_TOKENS : N_TOKENS;
}

/* transformers rounds logits of up to 30 to float32 after sums in another order; a log-probability is the
 * difference of two such numbers. What was promised is 1e-3. */
static const double TOLERANCE_FLOAT32 = 1e-3;

/* How one batch is made. Zero: no limit of its own. */
struct variant {
    const char *name;
    int32_t n_slots;
    int32_t max_samples; /* entries of a step; 0: as many as rows */
    int32_t chunk_rows;
    int32_t logit_rows; /* 0: 64 */
    bool generates;     /* others sample meanwhile */
};

static const struct variant baseline_variant = {"64 sequences, whole prompts", 64, 0, 0, 0, false};

static const struct variant variants[] = {
    {"1 sequence", 1, 0, 0, 0, false},
    {"1 sequence, 1 entry a step", 1, 1, 0, 1, false},
    {"7 sequences, chunks of 33 rows, heads of 5", 7, 0, 33, 5, false},
    {"64 sequences, 100 entries a step", 64, 100, 0, 0, false},
    {"7 sequences, of which some generate", 7, 24, 0, 0, true},
};

static const struct variant small_variants[] = {
    {"3 sequences, of which some generate, chunks of 33 rows, heads of 20", 3, 100, 33, 20, true},
};

struct run {
    struct record *scored[MAX_RECORDS]; /* NULL: a golden prompt that small cases leave out */
    int32_t n_scored;
    struct record *generated[N_GENERATED];
    struct run_metrics metrics;
};

/* ---- records ---- */

/* The golden prompts, then random ones. */
static int32_t submit_scored(struct engine *engine, struct safetensors *golden, enum dtype dtype,
                             int32_t n_vocab) {
    const int32_t longest = is_least(dtype) ? LEAST_PROMPT : SMALL_PROMPT;
    int32_t n = 0;
    for (; golden_find(golden, n, "ids"); n++) {
        int64_t n_ids;
        if (golden_arguments.is_small && n >= N_SMALL_GOLDEN)
            continue;
        int32_t *ids = golden_ints(golden, n, "ids", &n_ids);
        if (golden_arguments.is_small && n_ids > longest)
            n_ids = longest;
        struct record *record = record_of_ids(n, ids, (int32_t)n_ids);
        record->is_scored = true;
        golden_check(engine_submit(engine, record, 1), "engine_submit");
        free(ids);
    }
    assert_true(n >= 5);
    for (int32_t i = 0; i < n_random(dtype); i++, n++) {
        struct record *record = record_of_random_ids(n, 1 + i % 41, n_vocab);
        record->is_scored = true;
        golden_check(engine_submit(engine, record, 1), "engine_submit");
    }
    assert_true(n <= MAX_RECORDS);
    return n;
}

static void submit_generated(struct engine *engine, int32_t n_vocab) {
    for (int32_t i = 0; i < n_generated(); i++) {
        struct record *record = record_of_random_ids(MAX_RECORDS + i, 3 + i * 5, n_vocab);
        record->request.sampling.n = 1 + i % 3;
        record->request.sampling.logprobs = 2;
        record->request.sampling.ignore_eos = true;
        golden_check(engine_submit(engine, record, n_tokens()), "engine_submit");
    }
}

static void take(struct engine *engine, struct run *run) {
    for (struct record *record; (record = engine_take(engine)) != NULL;) {
        int64_t index = record->request.index;
        struct record **place =
            index < MAX_RECORDS ? &run->scored[index] : &run->generated[index - MAX_RECORDS];
        assert_null(record->request.error_code);
        assert_null(*place);
        *place = record;
    }
}

/* Runs the variant; with is_alone only what is generated. */
static void run_variant(const char *name, const char *folder, enum dtype dtype, const struct variant *variant,
                        bool is_alone, struct run *run) {
    memset(run, 0, sizeof *run);
    struct engine_rig rig = {0};
    golden_open_backend(&rig.backend);
    const struct model_config *config = &rig.config;
    golden_check(engine_rig_configure(&rig, folder), folder);
    int32_t per_slot = (config->n_positions + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int32_t n_pages = per_slot * variant->n_slots < KV_PAGES ? per_slot * variant->n_slots : KV_PAGES;
    struct engine_options options = {.limits = {.n_slots = variant->n_slots,
                                                .n_pages = 1 + n_pages,
                                                .max_pages_per_slot = per_slot,
                                                .max_rows = variant->n_slots + 2048,
                                                .max_samples = variant->max_samples,
                                                .chunk_rows = variant->chunk_rows},
                                     .job_seed = 3};
    struct scheduler_limits *limits = &options.limits;
    if (limits->max_samples == 0)
        limits->max_samples = limits->max_rows;
    golden_check(engine_rig_load(&rig, folder, dtype, limits, variant->logit_rows ? variant->logit_rows : 64),
                 folder);
    struct engine *engine;
    golden_check(engine_open(&rig.backend, rig.model, config, NULL, &options, &engine), "engine_open");
    if (variant->generates)
        submit_generated(engine, config->n_vocab);
    if (!is_alone) {
        char file[80];
        snprintf(file, sizeof file, "score_%s", name);
        struct safetensors *golden = golden_open(file);
        run->n_scored = submit_scored(engine, golden, dtype, config->n_vocab);
        safetensors_close(golden);
    }
    while (!engine_is_idle(engine)) {
        golden_check(engine_step(engine, false, true, &run->metrics), "engine_step");
        take(engine, run);
    }
    take(engine, run);
    engine_close(engine);
    engine_rig_close(&rig);
}

static void run_free(struct run *run) {
    for (int32_t i = 0; i < MAX_RECORDS + N_GENERATED; i++) {
        struct record *record = i < MAX_RECORDS ? run->scored[i] : run->generated[i - MAX_RECORDS];
        if (record)
            record_free(record);
        free(record);
    }
}

/* ---- comparisons ---- */

static void compare_golden(const char *name, const struct run *run) {
    char file[80];
    snprintf(file, sizeof file, "score_%s", name);
    struct safetensors *golden = golden_open(file);
    double largest = 0;
    for (int32_t c = 0; golden_find(golden, c, "ids"); c++) {
        int64_t shape[2];
        float *expected = golden_floats(golden, c, "logprobs", shape);
        const struct record *record = run->scored[c];
        if (!record) {
            free(expected);
            continue;
        }
        assert_int_equal(record->n_scored, golden_arguments.is_small ? LEAST_PROMPT - 1 : shape[0]);
        double sum = 0;
        for (int32_t i = 0; i < record->n_scored; i++) {
            double difference = fabs((double)record->prompt_logprobs[i + 1] - expected[i]);
            if (!(difference <= TOLERANCE_FLOAT32)) /* true of NaN too */
                fail_msg("%s, case %d, token %d: %.7g, expected %.7g", name, c, i + 1,
                         (double)record->prompt_logprobs[i + 1], (double)expected[i]);
            largest = difference > largest ? difference : largest;
            sum += record->prompt_logprobs[i + 1];
        }
        assert_true(record_logprob_sum(record) == sum);
        free(expected);
    }
    safetensors_close(golden);
    printf("  %s: at most %.1e from transformers\n", name, largest);
}

static void compare_runs(const struct run *baseline, const struct run *run, const char *what) {
    assert_int_equal(run->n_scored, baseline->n_scored);
    for (int32_t r = 0; r < run->n_scored; r++) {
        const struct record *a = baseline->scored[r], *b = run->scored[r];
        if (!a && !b)
            continue;
        assert_int_equal(a->n_scored, a->n_prompt_tokens - 1);
        assert_int_equal(b->n_scored, a->n_scored);
        for (int32_t i = 1; i <= a->n_scored; i++)
            if (memcmp(&a->prompt_logprobs[i], &b->prompt_logprobs[i], sizeof(float)) != 0)
                fail_msg("%s: record %d, token %d: %.9g, in the baseline %.9g", what, r, i,
                         (double)b->prompt_logprobs[i], (double)a->prompt_logprobs[i]);
    }
}

/* What was generated beside scored prompts is what is generated without them. */
static void compare_generated(const struct run *alone, const struct run *beside) {
    const int32_t n = n_tokens();
    for (int32_t r = 0; r < n_generated(); r++)
        for (int32_t s = 0; s < alone->generated[r]->request.sampling.n; s++) {
            const struct completion *a = &alone->generated[r]->completions[s];
            const struct completion *b = &beside->generated[r]->completions[s];
            assert_int_equal(a->n_tokens, n);
            assert_int_equal(b->n_tokens, n);
            assert_memory_equal(a->token_ids, b->token_ids, (size_t)n * sizeof(int32_t));
            assert_memory_equal(a->logprobs, b->logprobs, (size_t)n * sizeof(float));
            for (int32_t i = 0; i < n * 2; i++)
                assert_true(a->top[i].token == b->top[i].token && a->top[i].logprob == b->top[i].logprob);
        }
}

static void check_model(const char *name, const char *folder, enum dtype dtype) {
    struct run baseline, run, alone;
    run_variant(name, folder, dtype, &baseline_variant, false, &baseline);
    /* Scoring computes no position twice, and none that nothing is read from. */
    int64_t n_rows = 0;
    for (int32_t r = 0; r < baseline.n_scored; r++)
        n_rows += baseline.scored[r] ? baseline.scored[r]->n_prompt_tokens - 1 : 0;
    assert_int_equal(baseline.metrics.prefill_rows, n_rows);
    assert_int_equal(baseline.metrics.decode_rows, 0);
    if (dtype == DTYPE_FLOAT32)
        compare_golden(name, &baseline);
    const struct variant *chosen = golden_arguments.is_small ? small_variants : variants;
    size_t n = golden_arguments.is_small ? sizeof small_variants / sizeof small_variants[0]
                                         : sizeof variants / sizeof variants[0];
    if (is_least(dtype))
        n = 0;
    for (const struct variant *variant = chosen; variant < chosen + n; variant++) {
        run_variant(name, folder, dtype, variant, false, &run);
        compare_runs(&baseline, &run, variant->name);
        if (variant->generates) {
            run_variant(name, folder, dtype, variant, true, &alone);
            compare_generated(&alone, &run);
            run_free(&alone);
        }
        run_free(&run);
    }
    run_free(&baseline);
}

struct score_model {
    const char *name, *folder;
};

static const struct score_model models[] = {
    {"tiny", "tests/models/tiny"},
    {"tiny_llama", "tests/models/tiny_llama"},
    {"tiny_mistral", "tests/models/tiny_mistral"},
    {"tiny_qwen2", "tests/models/tiny_qwen2"},
    {"tiny_qwen3", "tests/models/tiny_qwen3"},
    {"tiny_gemma2", "tests/models/tiny_gemma2"},
    {"tiny_gemma3", "tests/models/tiny_gemma3"},
    {"shakespeare", "weights/shakespeare"},
};
enum { N_CASES = 2 * sizeof models / sizeof models[0] };

struct score_case {
    const struct score_model *model;
    enum dtype dtype;
    char name[64];
};

static void test_score(void **state) {
    const struct score_case *it = *state;
    check_model(it->model->name, it->model->folder, it->dtype);
}

/* Small cases leave out the shipped model in float32: a step takes race detection the better part of a
 * minute, with kernels that the tiny models' cases launch. */
static bool is_left_out(const struct score_case *it) {
    return is_least(it->dtype) && strcmp(it->model->name, "shakespeare") == 0;
}

int main(int argc, char **argv) {
    if (!golden_choose_backend(argc, argv))
        return ARGUMENTS_SKIPPED;
    static struct score_case cases[N_CASES];
    struct CMUnitTest tests[N_CASES];
    size_t n = 0;
    for (size_t i = 0; i < N_CASES; i++) {
        struct score_case *it = &cases[i];
        it->model = &models[i / 2];
        it->dtype = i % 2 == 0 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16;
        snprintf(it->name, sizeof it->name, "%s_%s", it->model->name, i % 2 == 0 ? "float32" : "bfloat16");
        if (!is_left_out(it))
            tests[n++] = (struct CMUnitTest){.name = it->name, .test_func = test_score, .initial_state = it};
    }
    return run_cases(&golden_arguments, "score", tests, n);
}
