#include "tests/functional/invariance.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "kernels/philox.h"
#include "tests/functional/golden.h"
#include "tests/support/engine_rig.h"

enum { JOB_SEED = 2024, KV_PAGES = 2400 };

/* ---- the records ---- */

/* Draw number `what` of record `index`, in [0, 1). */
static double draw(int32_t index, uint32_t what) {
    return philox_word(0xC0FFEE, (uint32_t)index, what) * 0x1p-32;
}

static int32_t draw_below(int32_t index, uint32_t what, int32_t below) {
    return (int32_t)(draw(index, what) * below);
}

static float draw_among(int32_t index, uint32_t what, const float *values, int32_t n) {
    return values[draw_below(index, what, n)];
}
#define DRAW_AMONG(index, what, ...)                                                                         \
    draw_among((index), (what), (const float[]){__VA_ARGS__},                                                \
               (int32_t)(sizeof((const float[]){__VA_ARGS__}) / sizeof(float)))

/* Lengths at which pages, tiles and chunks begin or end, a few from the whole range, and many that are short.
 */
static int32_t prompt_length(const struct invariance_model *model, int32_t index) {
    static const int32_t edges[] = {1,   2,   3,   7,   8,   9,    31,   32,   33,  63,
                                    64,  65,  127, 128, 129, 199,  200,  255,  256, 257,
                                    511, 512, 513, 639, 767, 1023, 1024, 1025, 2000};
    int32_t n_edges = (int32_t)(sizeof edges / sizeof edges[0]);
    if (index % 5 == 0 && index / 5 < n_edges && edges[index / 5] <= model->longest_prompt)
        return edges[index / 5];
    double share = draw(index, 1);
    if (index % 50 == 7)
        return 1 + (int32_t)(share * model->longest_prompt);
    return 1 + (int32_t)(share * share * share * (model->longest_prompt < 300 ? model->longest_prompt : 300));
}

static void draw_sampling(int32_t index, struct sampling *sampling) {
    sampling_init(sampling);
    double length = draw(index, 2);
    sampling->max_tokens =
        index % 40 == 0 ? INVARIANCE_MAX_TOKENS : 1 + (int32_t)(length * length * INVARIANCE_MAX_TOKENS);
    bool is_greedy = draw_below(index, 3, 3) == 0;
    sampling->temperature = is_greedy ? 0 : DRAW_AMONG(index, 4, 0.3f, 0.8f, 1, 1.5f);
    sampling->top_k = (int32_t)DRAW_AMONG(index, 5, 0, 0, 1, 5, 40);
    sampling->top_p = DRAW_AMONG(index, 6, 1, 1, 0.9f, 0.5f);
    sampling->min_p = DRAW_AMONG(index, 7, 0, 0, 0.05f);
    sampling->repetition_penalty = DRAW_AMONG(index, 8, 1, 1, 1.1f);
    sampling->presence_penalty = DRAW_AMONG(index, 9, 0, 0, 0.5f);
    sampling->frequency_penalty = DRAW_AMONG(index, 10, 0, 0, 0.3f);
    sampling->logprobs = (int32_t)DRAW_AMONG(index, 11, -1, 0, 3, MAX_LOGPROBS);
    sampling->n = index % 9 == 4 ? 2 : 1;
    sampling->ignore_eos = draw_below(index, 12, 2) == 0;
    if (draw_below(index, 13, 4) == 0) {
        sampling->seed = (uint64_t)index;
        sampling->set |= SAMPLING_SEED;
    }
}

static struct record *make_record(const struct invariance_model *model, const struct model_config *config,
                                  int32_t index) {
    struct record *record = calloc(1, sizeof *record);
    assert_non_null(record);
    struct request *request = &record->request;
    request->line = request->index = index; /* the custom_id takes their place in the key */
    request->custom_id = malloc(32);
    assert_non_null(request->custom_id);
    request->custom_id_size = (size_t)snprintf(request->custom_id, 32, "record-%d", index);
    request->has_token_ids = true;
    request->n_prompt_token_ids = record->n_prompt_tokens = prompt_length(model, index);
    request->prompt_token_ids = malloc((size_t)request->n_prompt_token_ids * sizeof(int32_t));
    assert_non_null(request->prompt_token_ids);
    for (int32_t i = 0; i < request->n_prompt_token_ids; i++)
        request->prompt_token_ids[i] = draw_below(index, 100 + (uint32_t)i, config->n_vocab);
    draw_sampling(index, &request->sampling);
    /* Some end early, where nobody foresees it. */
    if (draw_below(index, 14, 3) == 0) {
        sampling_begin_stop_token_ids(&request->sampling);
        for (uint32_t i = 0; i < 4; i++)
            golden_check(sampling_add_stop_token_id(&request->sampling, STATUS_RECORD,
                                                    draw_below(index, 15 + i, config->n_vocab)),
                         "stop_token_ids");
    }
    return record;
}

/* ---- a run ---- */

struct bench {
    struct engine_rig rig;
    struct scheduler_limits limits;
};

static void bench_open(const char *device, const struct invariance_model *model, enum dtype dtype,
                       const struct invariance_variant *variant, struct bench *bench) {
    golden_check(engine_rig_configure(&bench->rig, model->folder), model->folder);
    const struct model_config *config = &bench->rig.config;
    struct scheduler_limits *limits = &bench->limits;
    int32_t n_slots = variant->max_num_seqs ? variant->max_num_seqs : 64;
    int32_t per_slot = (config->n_positions + PAGE_TOKENS - 1) / PAGE_TOKENS;
    *limits = (struct scheduler_limits){
        .n_slots = n_slots,
        .n_pages = 1 + (per_slot * n_slots < KV_PAGES ? per_slot * n_slots : KV_PAGES),
        .max_pages_per_slot = per_slot,
        .max_rows = variant->max_rows ? variant->max_rows : n_slots + 2048,
        .max_samples = n_slots,
        .chunk_rows = variant->chunk_rows};
    struct backend inner;
    golden_check(backend_open(device, &variant->options, &inner), device);
    golden_check(relay_open(&inner, &variant->relay, &bench->rig.backend), "relay");
    golden_check(engine_rig_load(&bench->rig, model->folder, dtype, limits, limits->max_samples),
                 model->folder);
}

/* n_before: how many do, of those before it. */
static bool takes_part(const struct invariance_variant *variant, const struct record *record,
                       int32_t n_before) {
    int32_t index = (int32_t)record->request.index;
    return (variant->most_records == 0 || n_before < variant->most_records) &&
           (variant->every == 0 || index % variant->every == 0) &&
           (variant->longest_prompt == 0 || record->n_prompt_tokens <= variant->longest_prompt);
}

static void submit(struct engine *engine, const struct bench *bench, const struct invariance_variant *variant,
                   struct record *record) {
    int32_t room = bench->rig.config.n_positions - record->n_prompt_tokens;
    if (variant->most_tokens > 0 && room > variant->most_tokens)
        room = variant->most_tokens;
    int32_t max_tokens = record->request.sampling.max_tokens;
    golden_check(engine_submit(engine, record, max_tokens < room ? max_tokens : room), "engine_submit");
}

static void run_shard(struct bench *bench, const struct invariance_model *model,
                      const struct invariance_variant *variant, int32_t shard, struct invariance_run *out) {
    struct engine_options options = {.limits = bench->limits, .job_seed = JOB_SEED};
    struct engine *engine;
    golden_check(
        engine_open(&bench->rig.backend, bench->rig.model, &bench->rig.config, NULL, &options, &engine),
        "engine_open");
    int32_t n_shards = variant->n_shards ? variant->n_shards : 1, n_submitted = 0;
    for (int32_t i = 0; i < INVARIANCE_RECORDS; i++) {
        /* 7 * i + 113 mod 300 passes through all of them. */
        int32_t index = variant->is_permuted ? (7 * i + 113) % INVARIANCE_RECORDS : i;
        struct record *record = make_record(model, &bench->rig.config, index);
        if (index % n_shards == shard && takes_part(variant, record, n_submitted)) {
            submit(engine, bench, variant, record);
            n_submitted++;
        } else {
            record_free(record);
            free(record);
        }
    }
    while (!engine_is_idle(engine)) {
        golden_check(engine_step(engine, false, true, &out->metrics), "engine_step");
        for (struct record *record; (record = engine_take(engine)) != NULL; out->n_records++) {
            assert_null(record->request.error_code);
            assert_null(out->records[record->request.index]);
            out->records[record->request.index] = record;
        }
    }
    engine_close(engine);
}

void invariance_run(const char *device, const struct invariance_model *model, enum dtype dtype,
                    const struct invariance_variant *variant, struct invariance_run *out) {
    memset(out, 0, sizeof *out);
    struct bench bench = {0};
    bench_open(device, model, dtype, variant, &bench);
    for (int32_t shard = 0; shard < (variant->n_shards ? variant->n_shards : 1); shard++)
        run_shard(&bench, model, variant, shard, out);
    out->counts = relay_of(bench.rig.backend.context)->counts;
    engine_rig_close(&bench.rig);
}

void invariance_run_free(struct invariance_run *run) {
    for (int32_t i = 0; i < INVARIANCE_RECORDS; i++) {
        if (run->records[i])
            record_free(run->records[i]);
        free(run->records[i]);
        run->records[i] = NULL;
    }
}

/* ---- the comparison ---- */

static bool same_bits(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0;
}

/* Where two answers of one sample part; false when nowhere. */
static bool find_difference(const struct completion *a, const struct completion *b,
                            struct invariance_difference *out) {
    int32_t n = a->n_tokens < b->n_tokens ? a->n_tokens : b->n_tokens;
    for (out->position = 0; out->position < n; out->position++) {
        int32_t at = out->position;
        if (a->token_ids[at] != b->token_ids[at]) {
            snprintf(out->what, sizeof out->what, "token %d, in the baseline %d", b->token_ids[at],
                     a->token_ids[at]);
            return true;
        }
        if (a->logprobs && !same_bits(a->logprobs[at], b->logprobs[at])) {
            snprintf(out->what, sizeof out->what, "logprob %.9g, in the baseline %.9g",
                     (double)b->logprobs[at], (double)a->logprobs[at]);
            return true;
        }
        for (int32_t k = 0; k < a->n_top; k++) {
            const struct top_logprob *x = &a->top[at * a->n_top + k], *y = &b->top[at * a->n_top + k];
            if (x->token != y->token || !same_bits(x->logprob, y->logprob)) {
                snprintf(out->what, sizeof out->what,
                         "place %d of the best: %d %.9g, in the baseline %d %.9g", k, y->token,
                         (double)y->logprob, x->token, (double)x->logprob);
                return true;
            }
        }
    }
    if (a->n_tokens != b->n_tokens || a->finish_reason != b->finish_reason || a->n_top != b->n_top) {
        snprintf(out->what, sizeof out->what, "%d tokens (end %d), in the baseline %d (end %d)", b->n_tokens,
                 b->finish_reason, a->n_tokens, a->finish_reason);
        return true;
    }
    return false;
}

bool invariance_equal(const struct invariance_run *baseline, const struct invariance_run *run,
                      struct invariance_difference *difference) {
    for (int32_t i = 0; i < INVARIANCE_RECORDS; i++) {
        const struct record *a = baseline->records[i], *b = run->records[i];
        if (!b)
            continue;
        *difference = (struct invariance_difference){.record = i, .position = -1};
        if (!a) {
            snprintf(difference->what, sizeof difference->what, "the baseline lacks it");
            return false;
        }
        for (int32_t s = 0; s < a->request.sampling.n; s++) {
            difference->sample = s;
            if (find_difference(&a->completions[s], &b->completions[s], difference))
                return false;
        }
    }
    return true;
}
