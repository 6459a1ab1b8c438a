/* Cases for the head: a matmul of sampled rows, whose tokens a backend may choose from its sums, gives the
 * results that `sample` gives from written logits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

enum { N_IN = 72, N_STEPS = 2 };

/* Columns of the input that are zero but for rows with one logit that is not finite. */
enum { LAST_COLUMN = N_IN - 1, FIRST_COLUMN = N_IN - 2, MIDDLE_COLUMN = N_IN - 3 };
/* One that is added to all logits. */
enum { SHIFT_COLUMN = N_IN - 4 };

/* Settings by slot: slot s has those of kind s % n. */
struct kinds {
    struct slot_sampling (*of)(struct operations *ops, int32_t kind, int32_t n_vocab, uint64_t key);
    int32_t n;
};

struct head {
    struct operations *ops;
    struct kinds kinds;
    int32_t n_rows, n_vocab;
    float softcap;
    bool scores; /* some entries are scored */
    struct tensor *weight, *in, *logits, *hidden;
    float *rows[N_STEPS];                 /* [n_rows, N_IN] */
    struct sample_result *plain[N_STEPS]; /* [n_rows] from written logits */
    float *plain_hidden;                  /* [n_rows, N_IN] embeddings of the last tokens */
};

/* Three that a head can finish, one that it lists, and what it must leave to `sample`. */
static struct slot_sampling of_all_kinds(struct operations *ops, int32_t kind, int32_t n_vocab,
                                         uint64_t key) {
    (void)n_vocab;
    struct slot_sampling s = ops_sampling(key);
    switch (kind) {
    case 0:
        s.temperature = 0.0f;
        s.top_k = 3; /* without effect */
        break;
    case 1:
        break;
    case 2:
        s.temperature = 0.05f;
        break;
    case 3:
        s.temperature = 0.8f;
        s.top_k = 5;
        break;
    case 4:
        s.temperature = 0.0f;
        s.repetition_penalty = 1.5f;
        break;
    case 5:
        s.temperature = 50.0f;
        break;
    case 6:
        s.n_logprobs = 2;
        break;
    case 7:
        s.top_p = 0.9f;
        s.min_p = 0.01f;
        break;
    default:
        OPS_FAIL(ops, "head: kind %d", kind);
    }
    return s;
}
static const struct kinds ALL_KINDS = {of_all_kinds, 8};

/* top_k from 1 to beyond what is listed and what there is, with the other filters at their extremes. */
static struct slot_sampling of_lists(struct operations *ops, int32_t kind, int32_t n_vocab, uint64_t key) {
    (void)ops;
    static const struct {
        int32_t top_k; /* -1: more than the vocabulary */
        float temperature, top_p, min_p;
    } settings[] = {
        {50, 0.8f, 0.95f, 0.02f},  {1, 1.0f, 1.0f, 0.0f},    {2, 3.0f, 1.0f, 0.0f},
        {50, 1.0f, 1.0f, 0.0f},    {100, 1.0f, 0.9f, 0.0f},  {256, 2.0f, 0.999f, 0.0f},
        {257, 2.0f, 1.0f, 0.0f},   {1000, 1.0f, 0.9f, 0.0f}, {-1, 1.0f, 1.0f, 0.0f},
        {50, 1e-4f, 1.0f, 0.0f},   {50, 1e4f, 1.0f, 0.0f},   {20, 1.0f, 1e-6f, 0.0f},
        {20, 1.0f, 1.0f, 1.0f},    {20, 1.0f, 1.0f, 1.5f},   {40, 1.0f, 0.5f, 1e-6f},
        {256, 100.0f, 1.0f, 0.0f}, {0, 1.0f, 1.0f, 0.0f},    {0, 0.0f, 1.0f, 0.0f},
        {7, 1.0f, 0.8f, 0.0f},     {2, 1.0f, 0.5f, 0.0f},    {256, 50.0f, 0.6f, 0.0f},
        {130, 1.0f, 1.0f, 0.3f},
    };
    struct slot_sampling s = ops_sampling(key);
    s.top_k = settings[kind].top_k < 0 ? n_vocab + 5 : settings[kind].top_k;
    s.temperature = settings[kind].temperature;
    s.top_p = settings[kind].top_p;
    s.min_p = settings[kind].min_p;
    return s;
}
static const struct kinds LISTS = {of_lists, 22}; /* has no factor in common with what else repeats by row */

static struct slot_sampling sampling_of(const struct head *head, int32_t slot) {
    return head->kinds.of(head->ops, slot % head->kinds.n, head->n_vocab,
                          (uint64_t)slot * 0x9E3779B97F4A7C15u);
}

static float uniform(struct operations *ops, float size) {
    return ops_round(ops_uniform(ops, -size, size), DTYPE_BFLOAT16);
}

/* Rows of the weight repeat, so that logits tie within a tile and far apart. */
static void head_init(struct head *head, struct operations *ops, struct kinds kinds, int32_t n_rows,
                      int32_t n_vocab, int32_t n_distinct, float softcap) {
    ops_open(ops);
    struct state_limits limits = {
        .n_slots = n_rows,
        .n_pages = 2,
        .max_pages_per_slot = 4,
        .max_rows = n_rows,
        .max_segments = 1,
        .max_samples = n_rows,
        .n_layers = 3,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 64,
        .n_vocab = n_vocab,
        .kv_dtype = DTYPE_BFLOAT16,
    };
    OPS_OK(ops, ops_state(ops, &limits));
    *head =
        (struct head){.ops = ops, .kinds = kinds, .n_rows = n_rows, .n_vocab = n_vocab, .softcap = softcap};
    float *weight = ops_alloc(ops, (size_t)n_vocab * N_IN, sizeof *weight);
    for (int32_t o = 0; o < n_vocab; o++) {
        float *row = weight + (size_t)o * N_IN;
        if (o < n_distinct)
            for (int32_t i = 0; i < N_IN; i++)
                row[i] = uniform(ops, 0.5f);
        else
            memcpy(row, weight + (size_t)ops_below(ops, n_distinct) * N_IN, N_IN * sizeof *row);
    }
    for (int32_t o = 0; o < n_vocab; o++)
        weight[(size_t)o * N_IN + SHIFT_COLUMN] = 1.0f;
    for (int32_t o = 0; o < n_vocab; o++)
        for (int32_t column = MIDDLE_COLUMN; column <= LAST_COLUMN; column++)
            weight[(size_t)o * N_IN + (size_t)column] = 0.0f;
    weight[(size_t)(n_vocab - 1) * N_IN + LAST_COLUMN] = 4.0f;
    weight[FIRST_COLUMN] = -4.0f;
    weight[(size_t)(n_vocab / 2) * N_IN + MIDDLE_COLUMN] = -4.0f;
    head->weight = ops_weight(ops, DTYPE_BFLOAT16, n_vocab, N_IN, weight);
    free(weight);
    head->in = ops_junk(ops, DTYPE_BFLOAT16, n_rows, N_IN);
    head->hidden = ops_junk(ops, DTYPE_FLOAT32, n_rows, N_IN);
    head->logits = ops_junk(ops, DTYPE_FLOAT32, n_rows, n_vocab);
    for (int step = 0; step < N_STEPS; step++) {
        float *rows = head->rows[step] = ops_alloc(ops, (size_t)(n_rows * N_IN), sizeof *rows);
        for (int32_t i = 0; i < n_rows * N_IN; i++)
            rows[i] = i % N_IN >= MIDDLE_COLUMN ? 0.0f : uniform(ops, 1.0f);
        head->plain[step] = ops_alloc(ops, (size_t)n_rows, sizeof **head->plain);
    }
    /* Of each kind of slot one row in the last step with NaN, and with one infinite logit in each place. */
    static const int32_t columns[] = {0, LAST_COLUMN, FIRST_COLUMN, MIDDLE_COLUMN};
    for (int32_t place = 0; place < 4; place++)
        for (int32_t kind = 0; kind < kinds.n; kind++) {
            int32_t row = kinds.n * (2 + 3 * place) + kind;
            if (row < n_rows)
                head->rows[N_STEPS - 1][row * N_IN + columns[place]] = place == 0 ? NAN : 0x1.fep127f;
        }
}

static void head_free(struct head *head) {
    for (int step = 0; step < N_STEPS; step++) {
        free(head->rows[step]);
        free(head->plain[step]);
    }
    free(head->plain_hidden);
}

static void start_slots(struct head *head, int32_t n) {
    static const int32_t page[] = {1}, prompt[] = {1, 2, 3, 7, 100};
    struct slot_start *starts = ops_alloc(head->ops, (size_t)n, sizeof *starts);
    for (int32_t slot = 0; slot < n; slot++)
        starts[slot] = (struct slot_start){.slot = slot,
                                           .sampling = sampling_of(head, slot),
                                           .pages = page,
                                           .n_pages = 1,
                                           .prompt = prompt,
                                           .n_prompt = 5};
    ops_slots_begin(head->ops, starts, n);
    free(starts);
}

/* Both steps with the first n rows, each entry i in slot slot_of(i), the head in slices. Results by step, and
 * the embeddings of the tokens that slots [0, n) sampled last, to be freed. */
static float *run_steps(struct head *head, int32_t n, int32_t slice, bool sampled_rows,
                        struct sample_result *const results[N_STEPS]) {
    struct operations *ops = head->ops;
    struct backend *backend = &ops->backend;
    int32_t *numbers = ops_alloc(ops, 5 * (size_t)n, sizeof *numbers), *row = numbers, *slot = row + n,
            *position = slot + n, *target = position + n, *token = target + n;
    for (int32_t i = 0; i < n; i++) {
        row[i] = i;
        slot[i] = i % 19 == 18 ? head->n_rows : i; /* some are padding */
        token[i] = -1;
        target[i] = head->scores && i % 5 == 0 ? i : -1;
    }
    start_slots(head, n);
    struct batch batch = {.n_rows = n,
                          .n_decode = n,
                          .n_samples = n,
                          .want_logprobs = true,
                          .token = token,
                          .position = position,
                          .slot = slot,
                          .sample_row = row,
                          .sample_slot = slot,
                          .sample_target = head->scores ? target : NULL};
    for (int step = 0; step < N_STEPS; step++) {
        for (int32_t i = 0; i < n; i++)
            position[i] = 5 + step;
        ops_step_begin(ops, &batch);
        for (int32_t first = 0; first < n; first += slice) {
            int32_t count = n - first < slice ? n - first : slice;
            ops_write(ops, head->in, DTYPE_BFLOAT16, count, N_IN, head->rows[step] + first * N_IN);
            struct matmul_args matmul = {.weight = head->weight,
                                         .in = head->in,
                                         .out = head->logits,
                                         .n_rows = count,
                                         .softcap = head->softcap,
                                         .sampled_rows = sampled_rows,
                                         .first_sample = first};
            OPS_OK(ops, backend->matmul(backend->context, &matmul));
            struct sample_args sample = {.logits = head->logits, .first_sample = first, .n = count};
            OPS_OK(ops, backend->sample(backend->context, &sample));
        }
        ops_step_end(ops, &batch, results[step], NULL);
    }
    for (int32_t i = 0; i < n; i++)
        position[i] = 5 + N_STEPS;
    batch.n_samples = 0;
    batch.sample_target = NULL;
    ops_step_begin(ops, &batch);
    struct embed_args embed = {.hidden = head->hidden, .token_embedding = head->weight};
    OPS_OK(ops, backend->embed(backend->context, &embed));
    ops_step_end(ops, &batch, NULL, NULL);
    free(numbers);
    return ops_read(ops, head->hidden, DTYPE_FLOAT32, n, N_IN);
}

/* The plain way for all rows, then the head's for each count, over logits that hold junk; of small cases for
 * every second count. */
static void compare(struct head *head, const int32_t *counts, int n_counts) {
    struct operations *ops = head->ops;
    head->plain_hidden = run_steps(head, head->n_rows, head->n_rows, false, head->plain);
    struct sample_result *results[N_STEPS];
    for (int step = 0; step < N_STEPS; step++)
        results[step] = ops_alloc(ops, (size_t)head->n_rows, sizeof **results);
    float *junk = ops_alloc(ops, (size_t)head->n_rows * (size_t)head->n_vocab, sizeof *junk);
    for (int64_t i = 0; i < (int64_t)head->n_rows * head->n_vocab; i++)
        junk[i] = ops_junk_value;
    int n_faults = 0;
    for (int c = 0; c < n_counts; c++) {
        int32_t n = counts[c];
        if (ops->is_small && (n_counts - 1 - c) % 2 != 0)
            continue;
        ops_write(ops, head->logits, DTYPE_FLOAT32, head->n_rows, head->n_vocab, junk);
        float *hidden = run_steps(head, n, c % 2 ? (n + 2) / 3 : n, true, results);
        for (int step = 0; step < N_STEPS; step++)
            for (int32_t i = 0; i < n; i++) {
                const struct sample_result *got = &results[step][i], *expected = &head->plain[step][i];
                const bool fault = expected->fault_layer >= 0;
                n_faults += fault;
                if (got->fault_layer != expected->fault_layer ||
                    (fault && got->fault_position != expected->fault_position))
                    OPS_FAIL(ops, "head: row %d of %d, step %d has fault %d at %d, expected %d at %d", i, n,
                             step, got->fault_layer, got->fault_position, expected->fault_layer,
                             expected->fault_position);
                bool has_logprob = sampling_of(head, i).n_logprobs >= 0 || (head->scores && i % 5 == 0);
                if (!fault && (got->token != expected->token ||
                               (has_logprob && i % 19 != 18 && got->logprob != expected->logprob)))
                    OPS_FAIL(ops, "head: row %d of %d, step %d took %d (%.9g), expected %d (%.9g)", i, n,
                             step, got->token, (double)got->logprob, expected->token,
                             (double)expected->logprob);
            }
        ops_expect_equal(ops, hidden, head->plain_hidden, (int64_t)n * N_IN, "embeddings of last tokens");
        free(hidden);
    }
    if (n_faults == 0)
        OPS_FAIL(ops, "head: no row with a fault: the case tests too little");
    free(junk);
    for (int step = 0; step < N_STEPS; step++)
        free(results[step]);
}

/* Row counts around all tile widths, a vocabulary that ends within a tile. */
void case_head(struct operations *ops) {
    static const int32_t counts[] = {1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 96, 128, 129, 256, 300};
    struct head head;
    head_init(&head, ops, ALL_KINDS, 300, 2309, 700, 0.0f);
    compare(&head, counts, sizeof counts / sizeof counts[0]);
    head_free(&head);
}

/* Soft-capped logits; entries that are scored beside the others. */
void case_head_softcap(struct operations *ops) {
    static const int32_t counts[] = {1, 20, 70, 140};
    struct head head;
    head_init(&head, ops, ALL_KINDS, 140, 2304, 2304, 3.0f);
    head.scores = true;
    compare(&head, counts, sizeof counts / sizeof counts[0]);
    head_free(&head);
}

/* So many tiles that blocks take several. */
void case_head_large_vocabulary(struct operations *ops) {
    static const int32_t counts[] = {1, 5, 24};
    struct head head;
    head_init(&head, ops, ALL_KINDS, 24, 40001, 20000, 0.0f);
    compare(&head, counts, sizeof counts / sizeof counts[0]);
    head_free(&head);
}

/* Rows of lists_init() that repeat: logits of spread 1, all equal, near each other, far apart. */
static const float LIST_SIZES[] = {1.0f, 0.0f, 0.03125f, 16.0f, 1.0f};

static void lists_compare(struct operations *ops, int32_t n_rows, int32_t n_vocab, int32_t n_distinct,
                          const int32_t *counts, int n_counts) {
    struct head head;
    head_init(&head, ops, LISTS, n_rows, n_vocab, n_distinct, 0.0f);
    const int n_sizes = sizeof LIST_SIZES / sizeof LIST_SIZES[0];
    for (int step = 0; step < N_STEPS; step++)
        for (int32_t row = 0; row < n_rows; row++) {
            float *values = head.rows[step] + row * N_IN;
            for (int32_t i = 0; i < SHIFT_COLUMN; i++)
                values[i] *= LIST_SIZES[row % n_sizes];
            values[SHIFT_COLUMN] = row % 3 == 1 ? -64.0f : 0.0f; /* all below what pads a row */
        }
    compare(&head, counts, n_counts);
    head_free(&head);
}

/* Groups of a narrow tile and of wide ones, more than the threads of a block have registers for. */
void case_head_lists(struct operations *ops) {
    static const int32_t counts[] = {7, 24, 48, 65, 285}, small_counts[] = {7, 65};
    if (ops->is_small)
        lists_compare(ops, 65, 9001, 7000, small_counts, 2);
    else
        lists_compare(ops, 285, 20001, 15000, counts, sizeof counts / sizeof counts[0]);
}

/* Many tokens share the k-th largest logit: few of them in few groups, too many tokens, too many groups. */
void case_head_lists_ties(struct operations *ops) {
    static const int32_t counts[] = {19, 95, 64}, small_count = 48, distinct[] = {1500, 100, 20, 3};
    for (size_t i = 0; i < sizeof distinct / sizeof distinct[0]; i++)
        if (!ops->is_small)
            lists_compare(ops, 95, 33011, distinct[i], counts, 3);
        else if (i % 2 == 1)
            lists_compare(ops, small_count, 9011, distinct[i], &small_count, 1);
}

/* Fewer groups than top_k. */
void case_head_lists_small(struct operations *ops) {
    static const int32_t counts[] = {32, 95, 64};
    lists_compare(ops, 95, 2049, 2049, counts, 3);
}

/* Entries that the step does not have. */
void case_head_refused(struct operations *ops) {
    struct head head;
    head_init(&head, ops, ALL_KINDS, 4, 2100, 100, 0.0f);
    int32_t zero[4] = {0}, slot[4] = {0, 1, 2, 3};
    start_slots(&head, 4);
    struct batch batch = {.n_rows = 4,
                          .n_decode = 4,
                          .n_samples = 4,
                          .token = zero,
                          .position = zero,
                          .slot = slot,
                          .sample_row = slot,
                          .sample_slot = slot};
    struct backend *backend = &ops->backend;
    struct matmul_args matmul = {.weight = head.weight,
                                 .in = head.in,
                                 .out = head.logits,
                                 .n_rows = 4,
                                 .sampled_rows = true,
                                 .first_sample = 1};
    ops_step_begin(ops, &batch);
    if (backend->matmul(backend->context, &matmul) == STATUS_OK)
        OPS_FAIL(ops, "head: logits of entries 1 to 5 of a step of 4 were not refused");
    matmul.first_sample = 0;
    OPS_OK(ops, backend->matmul(backend->context, &matmul));
    ops_step_end(ops, &batch, NULL, NULL);
    head_free(&head);
}
