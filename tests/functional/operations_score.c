/* Cases for entries of the samples that have a target: they are scored, beside others that are sampled. The
 * reference is the definition in double precision. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

enum { SLOTS = 9, EMBD = 16 };

/* The logits are float32 of at most 40, a log-probability is the difference of two such numbers, and sums of
 * positive numbers lose little. */
static const double TOLERANCE = 0x1p-24 * 16.0 * 40.0;

struct scorer {
    struct operations *ops;
    int32_t n_vocab;
    struct tensor *logits;
};

static void scorer_init(struct scorer *scorer, struct operations *ops, int32_t n_vocab) {
    struct state_limits limits = {.n_slots = SLOTS,
                                  .n_pages = 2,
                                  .max_pages_per_slot = 64,
                                  .max_rows = 2 * SLOTS,
                                  .max_segments = 4,
                                  .max_samples = 2 * SLOTS,
                                  .n_layers = 3,
                                  .n_heads = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 16,
                                  .n_vocab = n_vocab,
                                  .kv_dtype = DTYPE_FLOAT32};
    ops_open(ops);
    OPS_OK(ops, ops_state(ops, &limits));
    *scorer = (struct scorer){
        .ops = ops, .n_vocab = n_vocab, .logits = ops_junk(ops, DTYPE_FLOAT32, 2 * SLOTS, n_vocab)};
}

static void start_slot(struct operations *ops, int32_t slot, struct slot_sampling sampling) {
    static const int32_t page[] = {1};
    struct slot_start start = {.slot = slot, .sampling = sampling, .pages = page, .n_pages = 1};
    OPS_OK(ops, ops->backend.slots_begin(ops->backend.context, &start, 1));
}

/* A step without attention: the batch's entries, in two calls, over logits [n_samples, n_vocab]. */
static void score_step(struct scorer *scorer, const struct batch *batch, const float *logits,
                       struct sample_result *results, struct sample_top *top) {
    struct operations *ops = scorer->ops;
    ops_step_begin(ops, batch);
    int32_t first = batch->n_samples > 2 ? batch->n_samples / 2 : batch->n_samples;
    for (int32_t done = 0; done < batch->n_samples;) {
        int32_t count = done == 0 ? first : batch->n_samples - first;
        ops_write(ops, scorer->logits, DTYPE_FLOAT32, count, scorer->n_vocab,
                  logits + (int64_t)done * scorer->n_vocab);
        struct sample_args args = {.logits = scorer->logits, .first_sample = done, .n = count};
        OPS_OK(ops, ops->backend.sample(ops->backend.context, &args));
        done += count;
    }
    ops_step_end(ops, batch, results, top);
}

/* Row r in slot r at position 10 + r, one entry each. */
struct plain_batch {
    int32_t row[SLOTS], position[SLOTS], token[SLOTS], target[SLOTS];
    struct batch batch;
};

static void plain_batch_init(struct plain_batch *plain) {
    for (int32_t i = 0; i < SLOTS; i++) {
        plain->row[i] = i;
        plain->position[i] = 10 + i;
        plain->token[i] = 0;
        plain->target[i] = -1;
    }
    plain->batch = (struct batch){.n_rows = SLOTS,
                                  .n_decode = SLOTS,
                                  .n_samples = SLOTS,
                                  .want_logprobs = true,
                                  .token = plain->token,
                                  .position = plain->position,
                                  .slot = plain->row,
                                  .sample_row = plain->row,
                                  .sample_slot = plain->row};
}

static double expected_logprob(const float *logits, int32_t n, int32_t target) {
    double largest = logits[0], total = 0.0;
    for (int32_t i = 1; i < n; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    for (int32_t i = 0; i < n; i++)
        total += exp(logits[i] - largest);
    return logits[target] - (largest + log(total));
}

static void start_all(struct operations *ops, uint64_t key) {
    static const int32_t page[] = {1};
    struct slot_start starts[SLOTS];
    for (int32_t s = 0; s < SLOTS; s++) {
        struct slot_sampling sampling = ops_sampling(key + (uint64_t)s);
        sampling.temperature = s % 3 == 0 ? 0.0f : 0.8f;
        sampling.top_k = s % 3 == 1 ? 5 : 0;
        sampling.n_logprobs = s < 2 ? -1 : s;
        starts[s] = (struct slot_start){.slot = s, .sampling = sampling, .pages = page, .n_pages = 1};
    }
    ops_slots_begin(ops, starts, SLOTS);
}

/* The same step without targets, then with some: what is sampled keeps its bits, and what is scored has those
 * that the token has where it is sampled. */
static void compare_mixed(struct operations *ops, int32_t n_vocab) {
    struct scorer scorer;
    struct plain_batch plain;
    struct sample_result sampled[SLOTS], mixed[SLOTS];
    struct sample_top sampled_top[SLOTS], mixed_top[SLOTS];
    scorer_init(&scorer, ops, n_vocab);
    float *logits = ops_alloc(ops, (size_t)(SLOTS * n_vocab), sizeof *logits);
    for (int32_t i = 0; i < SLOTS * n_vocab; i++)
        logits[i] = i / n_vocab == 4 ? 2.5f : ops_uniform(ops, -9.0f, 9.0f);
    uint64_t key = ops_random(ops);
    plain_batch_init(&plain);
    start_all(ops, key);
    score_step(&scorer, &plain.batch, logits, sampled, sampled_top);
    start_all(ops, key);
    for (int32_t s = 1; s < SLOTS; s += 2)
        plain.target[s] = s == 1 ? n_vocab - 1 : s == 5 ? 0 : sampled[s].token;
    plain.batch.sample_target = plain.target;
    score_step(&scorer, &plain.batch, logits, mixed, mixed_top);
    for (int32_t s = 0; s < SLOTS; s++) {
        const float *row = logits + (int64_t)s * n_vocab;
        int32_t token = plain.target[s] < 0 ? sampled[s].token : plain.target[s];
        if (mixed[s].fault_layer != -1 || mixed[s].token != token)
            OPS_FAIL(ops, "vocabulary %d: entry %d gave token %d, expected %d", n_vocab, s, mixed[s].token,
                     token);
        if (token == sampled[s].token && s >= 2) /* slots 0 and 1 ask for no log-probabilities */
            ops_expect_equal(ops, &mixed[s].logprob, &sampled[s].logprob, 1, "logprob in a mixed step");
        if (plain.target[s] >= 0)
            ops_expect_near(ops, mixed[s].logprob, expected_logprob(row, n_vocab, token), TOLERANCE,
                            "logprob of a target", s, token);
        for (int32_t i = 0; i < s && i < n_vocab && s >= 2 && plain.target[s] < 0; i++) {
            if (mixed_top[s].token[i] != sampled_top[s].token[i])
                OPS_FAIL(ops, "top %d of entry %d is %d, alone %d", i, s, mixed_top[s].token[i],
                         sampled_top[s].token[i]);
            ops_expect_equal(ops, &mixed_top[s].logprob[i], &sampled_top[s].logprob[i], 1, "top logprob");
        }
    }
    free(logits);
}

void case_score_mixed(struct operations *ops) {
    static const int32_t vocabularies[] = {1, 2, 65, 1000, 2049, 40001, 128256};
    for (size_t v = 0; v < sizeof vocabularies / sizeof vocabularies[0]; v++)
        compare_mixed(ops, vocabularies[v]);
}

/* Targets far above and far below all others, rows of one value, the ends of the row. */
void case_score_extremes(struct operations *ops) {
    static const int32_t vocabularies[] = {7, 4097, 50257};
    for (size_t v = 0; v < sizeof vocabularies / sizeof vocabularies[0]; v++) {
        int32_t n = vocabularies[v];
        struct scorer scorer;
        struct plain_batch plain;
        struct sample_result results[SLOTS];
        scorer_init(&scorer, ops, n);
        start_all(ops, 1);
        plain_batch_init(&plain);
        plain.batch.want_logprobs = false; /* of no meaning for a target */
        plain.batch.sample_target = plain.target;
        float *logits = ops_alloc(ops, (size_t)(SLOTS * n), sizeof *logits);
        static const float of_target[SLOTS] = {0, 1e30f, -1e30f, 100, -200, 1e-30f, 3e38f, 5, -3e38f};
        static const float of_others[SLOTS] = {0, -1e30f, 0, 0, 0, -1e-30f, 2e38f, 5, -2e38f};
        double log_n = log(n), log_others = log(n - 1.0);
        const double expected[SLOTS] = {
            -log_n, 0,      -1e30 - log_others, -log1p((n - 1.0) * exp(-100)), -200 - log_others, -log_n,
            0,      -log_n, -1e38 - log_others};
        for (int32_t s = 0; s < SLOTS; s++) {
            plain.target[s] = s % 3 == 0 ? 0 : s % 3 == 1 ? n - 1 : n / 2;
            for (int32_t i = 0; i < n; i++)
                logits[(int64_t)s * n + i] = i == plain.target[s] ? of_target[s] : of_others[s];
        }
        score_step(&scorer, &plain.batch, logits, results, NULL);
        for (int32_t s = 0; s < SLOTS; s++)
            ops_expect_near(ops, results[s].logprob, expected[s], 1e-6 * (16 + fabs(expected[s])),
                            "extreme target", s, plain.target[s]);
        free(logits);
    }
}

/* Scoring leaves a slot as it is: its penalties count nothing, and its last token stays. */
void case_score_leaves_slot(struct operations *ops) {
    enum { VOCAB = 40 };
    struct scorer scorer;
    struct plain_batch plain;
    struct sample_result first[SLOTS], results[SLOTS];
    scorer_init(&scorer, ops, VOCAB);
    float logits[SLOTS * VOCAB], table[VOCAB * EMBD];
    for (int32_t i = 0; i < VOCAB * EMBD; i++)
        table[i] = (float)(i / EMBD);
    struct tensor *hidden = ops_junk(ops, DTYPE_FLOAT32, SLOTS, EMBD);
    struct embed_args embed = {.hidden = hidden,
                               .token_embedding = ops_weight(ops, DTYPE_FLOAT32, VOCAB, EMBD, table)};
    /* Once sampled, the largest logit has a penalty beyond the distance to the second. */
    for (int32_t s = 0; s < SLOTS; s++) {
        struct slot_sampling greedy = ops_sampling((uint64_t)s);
        greedy.temperature = 0.0f;
        greedy.frequency_penalty = 1.0f;
        greedy.repetition_penalty = 1.01f;
        start_slot(ops, s, greedy);
        for (int32_t i = 0; i < VOCAB; i++)
            logits[s * VOCAB + i] = i == 3 + s ? 2.0f : i == 20 + s ? 1.5f : 0.0f;
    }
    plain_batch_init(&plain);
    plain.batch.want_logprobs = false;
    score_step(&scorer, &plain.batch, logits, first, NULL);
    for (int32_t s = 0; s < SLOTS; s++)
        plain.target[s] = 20 + s;
    plain.batch.sample_target = plain.target;
    for (int i = 0; i < 3; i++)
        score_step(&scorer, &plain.batch, logits, results, NULL);

    plain.batch.sample_target = NULL;
    for (int32_t s = 0; s < SLOTS; s++)
        plain.token[s] = -1;
    ops_step_begin(ops, &plain.batch);
    OPS_OK(ops, ops->backend.embed(ops->backend.context, &embed));
    ops_write(ops, scorer.logits, DTYPE_FLOAT32, SLOTS, VOCAB, logits);
    struct sample_args args = {.logits = scorer.logits, .n = SLOTS};
    OPS_OK(ops, ops->backend.sample(ops->backend.context, &args));
    ops_step_end(ops, &plain.batch, results, NULL);
    float *rows = ops_read(ops, hidden, DTYPE_FLOAT32, SLOTS, EMBD);
    for (int32_t s = 0; s < SLOTS; s++) {
        if (first[s].token != 3 + s || results[s].token != 20 + s)
            OPS_FAIL(ops, "slot %d took %d, then %d; expected %d, then %d", s, first[s].token,
                     results[s].token, 3 + s, 20 + s);
        if (rows[s * EMBD] != (float)(3 + s))
            OPS_FAIL(ops, "slot %d's last token is %g after scoring, expected %d", s, (double)rows[s * EMBD],
                     3 + s);
    }
    free(rows);
}

/* Prompt rows of two slots, all scored, one row twice: the same bits as each alone. A row that is not finite
 * costs its slot alone, and its position is among what the slot's entries report. */
static void compare_prompts(struct operations *ops, int32_t n_vocab) {
    enum { ROWS = 7, ENTRIES = 9, FIRST = 4 };
    static const struct segment segments[] = {{0, FIRST, 2, 5}, {FIRST, ROWS - FIRST, 6, 0}};
    static const int32_t row_of[ENTRIES] = {0, 1, 2, 3, 4, 5, 5, 6, 6};
    int32_t token[ROWS] = {0}, position[ROWS], slot[ROWS], entry_slot[ENTRIES], target[ENTRIES];
    struct scorer scorer;
    scorer_init(&scorer, ops, n_vocab);
    for (int32_t r = 0; r < ROWS; r++) {
        slot[r] = r < FIRST ? 2 : 6;
        position[r] = r < FIRST ? 5 + r : r - FIRST;
    }
    float *logits = ops_alloc(ops, (size_t)(ENTRIES * n_vocab), sizeof *logits);
    for (int32_t e = 0; e < ENTRIES; e++) {
        entry_slot[e] = slot[row_of[e]];
        target[e] = ops_below(ops, n_vocab);
        for (int32_t i = 0; i < n_vocab; i++)
            logits[(int64_t)e * n_vocab + i] = ops_uniform(ops, -9.0f, 9.0f);
    }
    struct batch batch = {.n_rows = ROWS,
                          .n_segments = 2,
                          .n_samples = ENTRIES,
                          .token = token,
                          .position = position,
                          .slot = slot,
                          .segments = segments,
                          .sample_row = row_of,
                          .sample_slot = entry_slot,
                          .sample_target = target};
    struct sample_result together[ENTRIES], alone, faulty[ENTRIES];
    start_slot(ops, 2, ops_sampling(1));
    start_slot(ops, 6, ops_sampling(2));
    score_step(&scorer, &batch, logits, together, NULL);
    struct batch one = batch;
    one.n_samples = 1;
    for (int32_t e = 0; e < ENTRIES; e++) {
        one.sample_row = row_of + e;
        one.sample_slot = entry_slot + e;
        one.sample_target = target + e;
        score_step(&scorer, &one, logits + (int64_t)e * n_vocab, &alone, NULL);
        ops_expect_equal(ops, &alone.logprob, &together[e].logprob, 1, "a scored entry alone");
    }

    logits[2 * (int64_t)n_vocab + n_vocab / 2] = NAN;
    /* Which entries of the slot see the fault of another is a matter of time. */
    uint64_t digest = ops->digest;
    score_step(&scorer, &batch, logits, faulty, NULL);
    ops->digest = digest;
    for (int32_t e = 0; e < ENTRIES; e++) {
        bool may_fail = e < FIRST, must_fail = e == 2, failed = faulty[e].fault_layer >= 0;
        if (failed ? !may_fail || faulty[e].fault_layer != 4 || faulty[e].fault_position != 7 : must_fail)
            OPS_FAIL(ops, "entry %d: fault at layer %d, position %d", e, faulty[e].fault_layer,
                     faulty[e].fault_position);
        if (!failed)
            ops_expect_equal(ops, &faulty[e].logprob, &together[e].logprob, 1, "an entry beside a NaN");
    }
    free(logits);
}

void case_score_prompts(struct operations *ops) {
    compare_prompts(ops, 130);
    compare_prompts(ops, 40001);
}

/* A target outside of the vocabulary is refused before anything follows it. */
void case_score_refused(struct operations *ops) {
    static const int32_t bad[] = {-2, 65, INT32_MAX, INT32_MIN};
    struct scorer scorer;
    struct plain_batch plain;
    scorer_init(&scorer, ops, 65);
    start_all(ops, 3);
    plain_batch_init(&plain);
    plain.batch.sample_target = plain.target;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bool replayed;
        plain.target[SLOTS - 1] = bad[i];
        enum status status = ops->backend.step_begin(ops->backend.context, &plain.batch, &replayed);
        if (status != STATUS_INTERNAL || !strstr(status_message(), "vocabulary of 65"))
            OPS_FAIL(ops, "target %d: status %d", bad[i], (int)status);
    }
}
