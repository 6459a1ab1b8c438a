/* Cases for attention over pages: against a reference, and bits that do not depend on cuts and neighbours.
 *
 * The queries, keys and values of position p of a slot are fixed random numbers, whichever step computes
 * them. Before every case all pages hold NaN. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations.h"

struct model {
    int32_t n_heads, n_kv_heads, head_dim;
    enum dtype dtype, kv_dtype;
    bool rope; /* queries and keys are rotated */
};

struct rig {
    struct operations *ops;
    struct model model;
    int32_t n_slots, max_positions, max_rows;
    int32_t cols, out_cols; /* of qkv and of out */
    float scale;
    float **qkv;     /* [n_slots] of [max_positions, cols] */
    float **rotated; /* the same with queries and keys rotated; qkv itself without rope */
    int32_t *pages;  /* [n_slots, pages_per_slot] */
    int32_t pages_per_slot;
    struct tensor *in, *out; /* [max_rows + EXTRA_ROWS, ...] */
    float *angles;           /* [max_positions, head_dim] cosines, sines; NULL without rope */
    struct tensor *rope;     /* the same in the backend */
};

enum { EXTRA_ROWS = 2, LAYER = 1, LAYERS = 2 };

/* Rows of one sequence in a step. Decode parts (one row) come first. */
struct part {
    int32_t slot, position, n_rows;
    bool decode;
};

/* Runs one step; returns its rows' outputs [sum of n_rows, out_cols]. values replaces the rows' qkv when not
 * NULL. */
static float *rig_step(struct rig *rig, const struct part *parts, int n_parts, const float *values) {
    struct operations *ops = rig->ops;
    struct backend *backend = &ops->backend;
    int32_t n_rows = 0, n_decode = 0, n_segments = 0;
    int32_t *token = ops_alloc(ops, (size_t)rig->max_rows, sizeof *token);
    int32_t *position = ops_alloc(ops, (size_t)rig->max_rows, sizeof *position);
    int32_t *slot = ops_alloc(ops, (size_t)rig->max_rows, sizeof *slot);
    struct segment *segments = ops_alloc(ops, (size_t)n_parts, sizeof *segments);
    float *rows = ops_alloc(ops, (size_t)(rig->max_rows * rig->cols), sizeof *rows);
    for (int i = 0; i < n_parts; i++) {
        const struct part *part = &parts[i];
        if (part->decode)
            n_decode++;
        else
            segments[n_segments++] = (struct segment){n_rows, part->n_rows, part->slot, part->position};
        for (int32_t r = 0; r < part->n_rows; r++, n_rows++) {
            position[n_rows] = part->position + r;
            slot[n_rows] = part->slot;
            if (part->slot < rig->n_slots)
                memcpy(rows + (int64_t)n_rows * rig->cols,
                       rig->qkv[part->slot] + (int64_t)(part->position + r) * rig->cols,
                       (size_t)rig->cols * sizeof *rows);
        }
    }
    ops_write(ops, rig->in, rig->model.dtype, n_rows, rig->cols, values ? values : rows);
    int64_t all_rows = rig->max_rows + EXTRA_ROWS;
    float *junk = ops_alloc(ops, (size_t)(all_rows * rig->out_cols), sizeof *junk);
    for (int64_t i = 0; i < all_rows * rig->out_cols; i++)
        junk[i] = ops_junk_value;
    ops_write(ops, rig->out, rig->model.dtype, all_rows, rig->out_cols, junk);
    struct batch batch = {
        .n_rows = n_rows,
        .n_decode = n_decode,
        .n_segments = n_segments,
        .token = token,
        .position = position,
        .slot = slot,
        .segments = segments,
    };
    struct attention_args args = {
        .qkv = rig->in, .out = rig->out, .rope = rig->rope, .layer = LAYER, .scale = rig->scale};
    ops_step_begin(ops, &batch);
    if (n_decode > 0)
        OPS_OK(ops, backend->attention_decode(backend->context, &args));
    if (n_segments > 0)
        OPS_OK(ops, backend->attention_prefill(backend->context, &args));
    ops_step_end(ops, &batch, NULL, NULL);
    float *got = ops_read(ops, rig->out, rig->model.dtype, all_rows, rig->out_cols);
    ops_expect_junk(ops, got, n_rows, all_rows, rig->out_cols, "attention");
    free(token);
    free(position);
    free(slot);
    free(segments);
    free(rows);
    free(junk);
    return got;
}

/* All slots start (again), with pages in a new random order. */
static void rig_begin_slots(struct rig *rig) {
    struct operations *ops = rig->ops;
    int32_t n = rig->n_slots * rig->pages_per_slot;
    for (int32_t i = 0; i < n; i++)
        rig->pages[i] = i + 1;
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = ops_below(ops, i + 1), page = rig->pages[i];
        rig->pages[i] = rig->pages[j];
        rig->pages[j] = page;
    }
    for (int32_t s = 0; s < rig->n_slots; s++) {
        struct slot_start start = {
            .slot = s,
            .sampling = ops_sampling(0),
            .pages = rig->pages + s * rig->pages_per_slot,
            .n_pages = rig->pages_per_slot,
        };
        OPS_OK(ops, ops->backend.slots_begin(ops->backend.context, &start, 1));
    }
}

/* Fills every page of the layer with NaN, one through prefill and the others as its copies, and starts all
 * slots again. */
static void rig_poison(struct rig *rig) {
    struct operations *ops = rig->ops;
    float *nan = ops_alloc(ops, (size_t)(PAGE_TOKENS * rig->cols), sizeof *nan);
    for (int32_t i = 0; i < PAGE_TOKENS * rig->cols; i++)
        nan[i] = NAN;
    rig_begin_slots(rig);
    struct part page = {0, 0, PAGE_TOKENS, false};
    free(rig_step(rig, &page, 1, nan));
    int32_t n = rig->n_slots * rig->pages_per_slot - 1;
    int32_t(*pairs)[2] = ops_alloc(ops, (size_t)n, sizeof *pairs);
    for (int32_t i = 0; i < n; i++) {
        pairs[i][0] = rig->pages[0];
        pairs[i][1] = rig->pages[1 + i];
    }
    OPS_OK(ops, ops->backend.pages_copy(ops->backend.context, (const int32_t(*)[2])pairs, n));
    free(pairs);
    free(nan);
    rig_begin_slots(rig);
}

/* Angles from a turn per position to a turn in ten thousand, as models have them. */
static void rig_make_angles(struct rig *rig) {
    int32_t half = rig->model.head_dim / 2;
    rig->angles = ops_alloc(rig->ops, (size_t)(rig->max_positions * rig->model.head_dim), sizeof(float));
    for (int32_t p = 0; p < rig->max_positions; p++) {
        for (int32_t i = 0; i < half; i++) {
            double angle = p * pow(10000.0, -(double)i / half);
            rig->angles[p * rig->model.head_dim + i] = (float)cos(angle);
            rig->angles[p * rig->model.head_dim + half + i] = (float)sin(angle);
        }
    }
    rig->rope = ops_rows(rig->ops, DTYPE_FLOAT32, rig->max_positions, rig->model.head_dim, rig->angles);
}

/* qkv as attention uses it: queries and keys rotated and rounded, values as they are. */
static void rig_rotate(struct rig *rig, int32_t slot) {
    const struct model *m = &rig->model;
    int64_t n = (int64_t)rig->max_positions * rig->cols;
    int32_t half = m->head_dim / 2;
    rig->rotated[slot] = ops_alloc(rig->ops, (size_t)n, sizeof(float));
    memcpy(rig->rotated[slot], rig->qkv[slot], (size_t)n * sizeof(float));
    for (int32_t p = 0; p < rig->max_positions; p++) {
        const float *cosine = rig->angles + (int64_t)p * m->head_dim, *sine = cosine + half;
        for (int32_t head = 0; head < m->n_heads + m->n_kv_heads; head++) {
            float *x = rig->rotated[slot] + (int64_t)p * rig->cols + head * m->head_dim;
            for (int32_t i = 0; i < half; i++) {
                double low = x[i], high = x[i + half];
                x[i] = ops_round((float)(low * cosine[i] - high * sine[i]), m->dtype);
                x[i + half] = ops_round((float)(high * cosine[i] + low * sine[i]), m->dtype);
            }
        }
    }
}

/* False, with a note, when this backend refuses such a model by name. */
static bool rig_init(struct rig *rig, struct operations *ops, struct model model, int32_t n_slots,
                     int32_t max_positions, int32_t max_rows) {
    *rig = (struct rig){
        .ops = ops,
        .model = model,
        .n_slots = n_slots,
        .max_positions = max_positions,
        .max_rows = max_rows,
        .cols = (model.n_heads + 2 * model.n_kv_heads) * model.head_dim,
        .out_cols = model.n_heads * model.head_dim,
        .scale = 1.0f / sqrtf((float)model.head_dim),
        .pages_per_slot = (max_positions + PAGE_TOKENS - 1) / PAGE_TOKENS,
    };
    ops_open(ops);
    struct state_limits limits = {
        .n_slots = n_slots,
        .n_pages = n_slots * rig->pages_per_slot + 1,
        .max_pages_per_slot = rig->pages_per_slot,
        .max_rows = max_rows,
        .max_segments = 64,
        .max_samples = n_slots,
        .n_layers = LAYERS,
        .n_heads = model.n_heads,
        .n_kv_heads = model.n_kv_heads,
        .head_dim = model.head_dim,
        .n_vocab = 10,
        .kv_dtype = model.kv_dtype,
    };
    if (ops_state(ops, &limits) != STATUS_OK) {
        if (model.head_dim == 16 || model.head_dim == 64)
            OPS_FAIL(ops, "state_init: %s", status_message());
        print_message("refused by name: %s\n", status_message());
        return false;
    }
    rig->in = ops_junk(ops, model.dtype, max_rows + EXTRA_ROWS, rig->cols);
    rig->out = ops_junk(ops, model.dtype, max_rows + EXTRA_ROWS, rig->out_cols);
    rig->pages = ops_alloc(ops, (size_t)(n_slots * rig->pages_per_slot), sizeof *rig->pages);
    rig->qkv = ops_alloc(ops, (size_t)n_slots, sizeof *rig->qkv);
    for (int32_t s = 0; s < n_slots; s++) {
        int64_t n = (int64_t)max_positions * rig->cols;
        rig->qkv[s] = ops_alloc(ops, (size_t)n, sizeof(float));
        for (int64_t i = 0; i < n; i++)
            rig->qkv[s][i] = ops_round(ops_uniform(ops, -2.0f, 2.0f), model.dtype);
    }
    rig->rotated = rig->qkv;
    if (model.rope) {
        rig_make_angles(rig);
        rig->rotated = ops_alloc(ops, (size_t)n_slots, sizeof *rig->rotated);
        for (int32_t s = 0; s < n_slots; s++)
            rig_rotate(rig, s);
    }
    rig_poison(rig);
    return true;
}

static void rig_free(struct rig *rig) {
    for (int32_t s = 0; s < rig->n_slots; s++) {
        if (rig->rotated != rig->qkv)
            free(rig->rotated[s]);
        free(rig->qkv[s]);
    }
    if (rig->rotated != rig->qkv)
        free(rig->rotated);
    free(rig->qkv);
    free(rig->pages);
    free(rig->angles);
}

/* ---- against the reference ---- */

/* Compares out [out_cols] with the double-precision attention of position p of a slot. */
static void expect_row(const struct rig *rig, int32_t slot, int32_t p, const float *out) {
    const struct model *m = &rig->model;
    double *weight = ops_alloc(rig->ops, (size_t)p + 1, sizeof *weight);
    double *sum = ops_alloc(rig->ops, (size_t)m->head_dim, sizeof *sum);
    for (int32_t h = 0; h < m->n_heads; h++) {
        int32_t kv_head = h / (m->n_heads / m->n_kv_heads);
        const float *q = rig->rotated[slot] + (int64_t)p * rig->cols + h * m->head_dim;
        double largest = -INFINITY, size = 0.0, total = 0.0;
        for (int32_t j = 0; j <= p; j++) {
            const float *k =
                rig->rotated[slot] + (int64_t)j * rig->cols + (m->n_heads + kv_head) * m->head_dim;
            double dot = 0.0;
            for (int32_t d = 0; d < m->head_dim; d++)
                dot += (double)q[d] * ops_round(k[d], m->kv_dtype);
            weight[j] = dot * rig->scale;
            size = fabs(weight[j]) > size ? fabs(weight[j]) : size;
            largest = weight[j] > largest ? weight[j] : largest;
        }
        memset(sum, 0, (size_t)m->head_dim * sizeof *sum);
        for (int32_t j = 0; j <= p; j++) {
            const float *v = rig->qkv[slot] + (int64_t)j * rig->cols +
                             (m->n_heads + m->n_kv_heads + kv_head) * m->head_dim;
            weight[j] = exp(weight[j] - largest);
            total += weight[j];
            for (int32_t d = 0; d < m->head_dim; d++)
                sum[d] += weight[j] * ops_round(v[d], m->kv_dtype);
        }
        for (int32_t d = 0; d < m->head_dim; d++) {
            double expected = sum[d] / total;
            /* The result is a mean of values of at most 2. A score is off by some units of its last place,
             * which is the relative error of its weight; sums over p positions add sqrt(p) roundings. With
             * bfloat16, weights may be rounded to it before they meet the values, and the result is. */
            double tolerance = 2.0 * 0x1p-24 * (16.0 * (size + 1.0) + 4.0 * sqrt(p + 1.0));
            /* A rotated element may be rounded the other way than here: the least unit of bfloat16, on the
             * few elements that lie that near the middle. */
            if (rig->angles && m->dtype == DTYPE_BFLOAT16)
                tolerance += 0x1p-9 * 2.0 * rig->scale;
            if (m->dtype == DTYPE_BFLOAT16 || m->kv_dtype == DTYPE_BFLOAT16)
                tolerance += 2.0 * 0x1p-9 * 2.0;
            if (m->dtype == DTYPE_BFLOAT16)
                tolerance += 0x1p-8 * fabs(expected);
            ops_expect_near(rig->ops, out[h * m->head_dim + d], expected, tolerance, "attention", p,
                            h * m->head_dim + d);
        }
    }
    free(weight);
    free(sum);
}

/* Prefill of several ragged sequences in one step, more prompt with decode beside it, then decode alone. */
static void attention_one(struct operations *ops, struct model model) {
    enum { SLOTS = 4, POSITIONS = 600 };
    struct rig rig;
    if (!rig_init(&rig, ops, model, SLOTS, POSITIONS, 700))
        return;
    static const struct part steps[][5] = {
        {{0, 0, 1, false}, {1, 0, 31, false}, {2, 0, 513, false}, {3, 0, 100, false}},
        {{0, 1, 1, true}, {1, 31, 1, true}, {2, 513, 1, true}, {3, 100, 70, false}},
        /* The slot n_slots is padding: harmless, and it may write its output. */
        {{3, 170, 1, true}, {2, 514, 1, true}, {1, 32, 1, true}, {SLOTS, 0, 1, true}},
    };
    static const int n_parts[] = {4, 4, 4};
    const int32_t every = model.rope ? 41 : 7;
    for (int step = 0; step < 3; step++) {
        float *out = rig_step(&rig, steps[step], n_parts[step], NULL);
        int32_t row = 0;
        for (int i = 0; i < n_parts[step]; i++) {
            const struct part *part = &steps[step][i];
            for (int32_t r = 0; r < part->n_rows; r++, row++) {
                /* All rows are scanned; of long prompts some are compared. */
                for (int32_t c = 0; part->slot < SLOTS && c < rig.out_cols; c++) {
                    if (!isfinite(out[(int64_t)row * rig.out_cols + c]))
                        OPS_FAIL(ops, "attention: slot %d, position %d is not finite", part->slot,
                                 part->position + r);
                }
                if (part->slot < SLOTS && (part->n_rows < 40 || r % every == 0 || r + 1 == part->n_rows))
                    expect_row(&rig, part->slot, part->position + r, out + (int64_t)row * rig.out_cols);
            }
        }
        free(out);
    }
    rig_free(&rig);
}

void case_attention_float32(struct operations *ops) {
    attention_one(ops, (struct model){3, 3, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
    attention_one(ops, (struct model){4, 2, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
    attention_one(ops, (struct model){2, 1, 24, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
    attention_one(ops, (struct model){1, 1, 5, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
    attention_one(ops, (struct model){9, 1, 8, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
}

void case_attention_bfloat16(struct operations *ops) {
    attention_one(ops, (struct model){2, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    attention_one(ops, (struct model){4, 1, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    attention_one(ops, (struct model){2, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
}

void case_attention_mixed_dtypes(struct operations *ops) {
    attention_one(ops, (struct model){2, 1, 64, DTYPE_FLOAT32, DTYPE_BFLOAT16, false});
    attention_one(ops, (struct model){2, 2, 16, DTYPE_BFLOAT16, DTYPE_FLOAT32, false});
}

/* Groups of 1, 4 and 8 query heads, with rotated positions. */
void case_attention_rope_float32(struct operations *ops) {
    attention_one(ops, (struct model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, true});
    attention_one(ops, (struct model){4, 1, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, true});
    attention_one(ops, (struct model){8, 1, 128, DTYPE_FLOAT32, DTYPE_FLOAT32, true});
    attention_one(ops, (struct model){4, 2, 16, DTYPE_FLOAT32, DTYPE_BFLOAT16, true});
    attention_one(ops, (struct model){2, 1, 6, DTYPE_FLOAT32, DTYPE_FLOAT32, true});
}

void case_attention_rope_bfloat16(struct operations *ops) {
    attention_one(ops, (struct model){8, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    attention_one(ops, (struct model){2, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    attention_one(ops, (struct model){4, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    attention_one(ops, (struct model){4, 2, 32, DTYPE_BFLOAT16, DTYPE_FLOAT32, true});
}

/* ---- equal bits ---- */

/* A prompt in one piece, and in pieces with others beside them. */
static void cuts_one(struct operations *ops, struct model model) {
    enum { PROMPT = 330, POSITIONS = 352 };
    static const int32_t cuts[][6] = {
        {1, PROMPT},        {31, 32, 33, 64, 65, PROMPT},      {255, PROMPT},
        {256, 257, PROMPT}, {100, 101, 103, 200, 329, PROMPT},
    };
    struct rig rig;
    if (!rig_init(&rig, ops, model, 3, POSITIONS, 400))
        return;
    struct part whole = {1, 0, PROMPT, false};
    float *expected = rig_step(&rig, &whole, 1, NULL);
    for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
        rig_poison(&rig);
        int32_t done = 0, beside = 0;
        for (int i = 0; done < PROMPT; i++) {
            int32_t n = cuts[c][i] - done;
            struct part parts[2];
            int n_parts = 0;
            /* The other sequence comes in front, so that rows move. */
            if (i % 2 == 1)
                parts[n_parts++] = (struct part){0, beside, 5, false};
            beside += i % 2 == 1 ? 5 : 0;
            parts[n_parts++] = (struct part){1, done, n, false};
            float *out = rig_step(&rig, parts, n_parts, NULL);
            ops_expect_equal(ops, out + (n_parts - 1) * 5 * rig.out_cols,
                             expected + (int64_t)done * rig.out_cols, (int64_t)n * rig.out_cols,
                             "attention of a prompt that is cut");
            free(out);
            done += n;
        }
    }
    free(expected);
    rig_free(&rig);
}

void case_attention_cuts(struct operations *ops) {
    cuts_one(ops, (struct model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
    cuts_one(ops, (struct model){4, 2, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    cuts_one(ops, (struct model){4, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
}

/* Prompts of lengths around the borders of pages and of tiles of 64 and 128 rows or keys, together in one
 * step: against the reference, and the same bits alone, cut, and in front of a position whose key and value
 * are NaN. Wherever a prompt ends, its last page goes on with NaN. */
static void prompts_one(struct operations *ops, struct model model) {
    static const int32_t lengths[] = {1, 31, 33, 127, 128, 129, 300, 700};
    static const int32_t cuts[][5] = {{1, 300}, {7, 300}, {255, 300}, {257, 300}, {1, 7, 255, 257, 300}};
    enum { SLOTS = sizeof lengths / sizeof lengths[0], POSITIONS = 700, CUT = 6, FAULT = 133 };
    struct rig rig;
    if (!rig_init(&rig, ops, model, SLOTS, POSITIONS, 1500))
        return;
    struct part parts[SLOTS];
    const float *expected[SLOTS];
    for (int32_t s = 0; s < SLOTS; s++)
        parts[s] = (struct part){s, 0, lengths[s], false};
    float *together = rig_step(&rig, parts, SLOTS, NULL);
    int32_t row = 0;
    for (int32_t s = 0; s < SLOTS; row += lengths[s++]) {
        expected[s] = together + (int64_t)row * rig.out_cols;
        for (int32_t p = 0; p < lengths[s]; p++)
            if (p % 101 == 0 || (p + 1) % 64 == 0 || p + 1 == lengths[s])
                expect_row(&rig, s, p, expected[s] + (int64_t)p * rig.out_cols);
    }
    rig_poison(&rig);
    for (int32_t s = 0; s < SLOTS; s++) {
        float *alone = rig_step(&rig, &parts[s], 1, NULL);
        ops_expect_equal(ops, alone, expected[s], (int64_t)lengths[s] * rig.out_cols, "a prompt alone");
        free(alone);
    }
    for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
        rig_poison(&rig);
        for (int32_t i = 0, done = 0; done < lengths[CUT]; done = cuts[c][i++]) {
            struct part piece = {CUT, done, cuts[c][i] - done, false};
            float *out = rig_step(&rig, &piece, 1, NULL);
            ops_expect_equal(ops, out, expected[CUT] + (int64_t)done * rig.out_cols,
                             (int64_t)piece.n_rows * rig.out_cols, "a prompt that is cut");
            free(out);
        }
    }

    /* One position's key and value are NaN: rows in front of it do not notice. */
    rig_poison(&rig);
    float *values = ops_alloc(ops, (size_t)(lengths[CUT] * rig.cols), sizeof *values);
    memcpy(values, rig.qkv[CUT], (size_t)(lengths[CUT] * rig.cols) * sizeof *values);
    for (int32_t c = rig.out_cols; c < rig.cols; c++)
        values[FAULT * rig.cols + c] = NAN;
    float *faulty = rig_step(&rig, &parts[CUT], 1, values);
    ops_expect_equal(ops, faulty, expected[CUT], (int64_t)FAULT * rig.out_cols, "rows in front of a NaN");
    for (int64_t i = (int64_t)FAULT * rig.out_cols; i < (int64_t)lengths[CUT] * rig.out_cols; i++)
        if (isfinite(faulty[i]))
            OPS_FAIL(ops, "attention: position %d, column %d is finite although it sees a NaN",
                     (int)(i / rig.out_cols), (int)(i % rig.out_cols));
    free(faulty);
    free(values);
    free(together);
    rig_free(&rig);
}

/* Groups of 1, 4 and 8 query heads. */
void case_attention_prompts(struct operations *ops) {
    prompts_one(ops, (struct model){3, 3, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    prompts_one(ops, (struct model){8, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    prompts_one(ops, (struct model){8, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    prompts_one(ops, (struct model){2, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    prompts_one(ops, (struct model){8, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    prompts_one(ops, (struct model){8, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    prompts_one(ops, (struct model){4, 2, 96, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    prompts_one(ops, (struct model){4, 1, 32, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    prompts_one(ops, (struct model){4, 2, 64, DTYPE_FLOAT32, DTYPE_BFLOAT16, true});
}

/* Decode at lengths around the borders of pages and chunks, alone and with 16 others. */
static void decode_alone_one(struct operations *ops, struct model model) {
    static const int32_t positions[] = {0,   1,   30,  31,  32,  63,  100, 254, 255,
                                        256, 257, 300, 510, 511, 512, 513, 699};
    enum { SLOTS = sizeof positions / sizeof positions[0], POSITIONS = 704 };
    struct rig rig;
    if (!rig_init(&rig, ops, model, SLOTS, POSITIONS, 704))
        return;
    struct part parts[SLOTS];
    for (int32_t s = 0; s < SLOTS; s++) {
        struct part prompt = {s, 0, positions[s], false};
        if (prompt.n_rows > 0)
            free(rig_step(&rig, &prompt, 1, NULL));
        parts[SLOTS - 1 - s] = (struct part){s, positions[s], 1, true};
    }
    float *together = rig_step(&rig, parts, SLOTS, NULL);
    for (int32_t i = 0; i < SLOTS; i++) {
        expect_row(&rig, parts[i].slot, parts[i].position, together + i * rig.out_cols);
        float *alone = rig_step(&rig, &parts[i], 1, NULL);
        ops_expect_equal(ops, alone, together + i * rig.out_cols, rig.out_cols, "decode of a row alone");
        free(alone);
    }
    /* Again beside a prompt. */
    struct part beside[2] = {parts[0], {0, 1, 5, false}};
    float *mixed = rig_step(&rig, beside, 2, NULL);
    ops_expect_equal(ops, mixed, together, rig.out_cols, "decode beside a prompt");
    free(mixed);
    free(together);
    rig_free(&rig);
}

/* So many rows that no backend divides a row's chunks any more, against each of the long ones alone. */
static void decode_many_one(struct operations *ops, struct model model) {
    enum { SLOTS = 36, POSITIONS = 320, LONG = 6 };
    static const int32_t positions[LONG] = {254, 255, 256, 257, 287, 319};
    struct rig rig;
    if (!rig_init(&rig, ops, model, SLOTS, POSITIONS, 640))
        return;
    struct part parts[SLOTS];
    for (int32_t s = 0; s < SLOTS; s++) {
        int32_t position = s % LONG == 0 ? positions[s / LONG] : s * 7 % 40;
        struct part prompt = {s, 0, position, false};
        if (prompt.n_rows > 0)
            free(rig_step(&rig, &prompt, 1, NULL));
        parts[s] = (struct part){s, position, 1, true};
    }
    float *together = rig_step(&rig, parts, SLOTS, NULL);
    for (int32_t s = 0; s < SLOTS; s++) {
        expect_row(&rig, s, parts[s].position, together + s * rig.out_cols);
        if (s % LONG != 0)
            continue;
        float *alone = rig_step(&rig, &parts[s], 1, NULL);
        ops_expect_equal(ops, alone, together + s * rig.out_cols, rig.out_cols, "decode beside many rows");
        free(alone);
    }
    free(together);
    rig_free(&rig);
}

void case_attention_decode_alone(struct operations *ops) {
    decode_alone_one(ops, (struct model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
    decode_alone_one(ops, (struct model){4, 1, 128, DTYPE_FLOAT32, DTYPE_FLOAT32, true});
    decode_alone_one(ops, (struct model){4, 1, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    decode_alone_one(ops, (struct model){9, 1, 32, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    decode_alone_one(ops, (struct model){2, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false});
    decode_alone_one(ops, (struct model){8, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    decode_alone_one(ops, (struct model){3, 1, 96, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    decode_alone_one(ops, (struct model){8, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    decode_alone_one(ops, (struct model){2, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    decode_many_one(ops, (struct model){16, 16, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true});
    decode_many_one(ops, (struct model){16, 16, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, false});
}

/* A second slot shares the whole pages of a prompt, has a copy of its last page, and decodes the same;
 * afterwards the two go different ways without meeting. */
void case_attention_pages_copy(struct operations *ops) {
    enum { PROMPT = 75, LAST = PROMPT / PAGE_TOKENS };
    struct rig rig;
    if (!rig_init(&rig, ops, (struct model){2, 1, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, false}, 2, 128, 128))
        return;
    struct part prompt = {0, 0, PROMPT, false};
    free(rig_step(&rig, &prompt, 1, NULL));
    int32_t *second = rig.pages + rig.pages_per_slot;
    int32_t pair[1][2] = {{rig.pages[LAST], second[LAST]}};
    OPS_OK(ops, ops->backend.pages_copy(ops->backend.context, (const int32_t(*)[2])pair, 1));
    memcpy(second, rig.pages, LAST * sizeof *second);
    struct slot_start start = {
        .slot = 1, .sampling = ops_sampling(0), .pages = second, .n_pages = rig.pages_per_slot};
    OPS_OK(ops, ops->backend.slots_begin(ops->backend.context, &start, 1));

    /* The prompt of slot 1 is that of slot 0; its later positions are its own. */
    memcpy(rig.qkv[1], rig.qkv[0], (size_t)(PROMPT * rig.cols) * sizeof(float));
    for (int32_t p = PROMPT; p < PROMPT + 30; p++) {
        struct part parts[2] = {{1, p, 1, true}, {0, p, 1, true}};
        float *out = rig_step(&rig, parts, 2, NULL);
        expect_row(&rig, 1, p, out);
        expect_row(&rig, 0, p, out + rig.out_cols);
        free(out);
    }
    rig_free(&rig);
}

/* Slots that begin with the pages of their prompts alone, and get the others while they decode: some at a
 * time, in an order of their own, while a neighbour keeps what it has. */
void case_attention_slots_extend(struct operations *ops) {
    enum { PROMPT = 40, END = 40 + 3 * PAGE_TOKENS };
    struct backend *backend = &ops->backend;
    struct rig rig;
    if (!backend->slots_extend ||
        !rig_init(&rig, ops, (struct model){2, 1, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false}, 3, 160, 128))
        return;
    int32_t held[3] = {2, 2, rig.pages_per_slot};
    for (int32_t s = 0; s < 3; s++) {
        struct slot_start start = {.slot = s,
                                   .sampling = ops_sampling(0),
                                   .pages = rig.pages + s * rig.pages_per_slot,
                                   .n_pages = held[s]};
        OPS_OK(ops, backend->slots_begin(backend->context, &start, 1));
    }
    struct part prompts[3] = {{0, 0, PROMPT, false}, {1, 0, PROMPT, false}, {2, 0, PROMPT, false}};
    free(rig_step(&rig, prompts, 3, NULL));
    for (int32_t p = PROMPT; p < END; p++) {
        struct slot_extension extensions[2];
        int32_t n = 0;
        for (int32_t s = 1; s >= 0; s--) {
            if (p / PAGE_TOKENS < held[s])
                continue;
            int32_t more = s == 0 ? 1 : rig.pages_per_slot - held[s];
            extensions[n++] = (struct slot_extension){.slot = s,
                                                      .first_page = held[s],
                                                      .pages = rig.pages + s * rig.pages_per_slot + held[s],
                                                      .n_pages = more};
            held[s] += more;
        }
        if (n > 0)
            OPS_OK(ops, backend->slots_extend(backend->context, extensions, n));
        struct part parts[3] = {{0, p, 1, true}, {1, p, 1, true}, {2, p, 1, true}};
        float *out = rig_step(&rig, parts, 3, NULL);
        for (int32_t s = 0; s < 3; s++)
            expect_row(&rig, s, p, out + s * rig.out_cols);
        free(out);
    }
    rig_free(&rig);
}
