/* Cases for attention over pages: against a reference, and bits that do not depend on cuts and neighbours. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations_rig.h"

/* ---- against the reference ---- */

void attention_values(struct operations *ops, struct rig_model model, const struct rig_variant *variant) {
    enum { SLOTS = 4, POSITIONS = 600 };
    const int32_t longest = ops->is_small ? 259 : 513, other = ops->is_small ? 40 : 100; /* prompts */
    const int32_t more = ops->is_small ? 30 : 70;                                        /* of the other */
    struct rig rig;
    if (!rig_init(&rig, ops, model, variant, SLOTS, POSITIONS, 700))
        return;
    const struct part steps[][5] = {
        {{0, 0, 1, false}, {1, 0, 31, false}, {2, 0, longest, false}, {3, 0, other, false}},
        {{0, 1, 1, true}, {1, 31, 1, true}, {2, longest, 1, true}, {3, other, more, false}},
        /* The slot n_slots is padding: harmless, and it may write its output. */
        {{3, other + more, 1, true}, {2, longest + 1, 1, true}, {1, 32, 1, true}, {SLOTS, 0, 1, true}},
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
                    rig_expect_row(&rig, part->slot, part->position + r, out + (int64_t)row * rig.out_cols);
            }
        }
        free(out);
    }
    rig_free(&rig);
}

void case_attention_float32(struct operations *ops) {
    attention_values(ops, (struct rig_model){3, 3, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                     &plain_attention);
    attention_values(ops, (struct rig_model){4, 2, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                     &plain_attention);
    attention_values(ops, (struct rig_model){2, 1, 24, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                     &plain_attention);
    attention_values(ops, (struct rig_model){1, 1, 5, DTYPE_FLOAT32, DTYPE_FLOAT32, false}, &plain_attention);
    attention_values(ops, (struct rig_model){9, 1, 8, DTYPE_FLOAT32, DTYPE_FLOAT32, false}, &plain_attention);
}

void case_attention_bfloat16(struct operations *ops) {
    attention_values(ops, (struct rig_model){2, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                     &plain_attention);
    attention_values(ops, (struct rig_model){4, 1, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                     &plain_attention);
    attention_values(ops, (struct rig_model){2, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                     &plain_attention);
}

void case_attention_mixed_dtypes(struct operations *ops) {
    attention_values(ops, (struct rig_model){2, 1, 64, DTYPE_FLOAT32, DTYPE_BFLOAT16, false},
                     &plain_attention);
    attention_values(ops, (struct rig_model){2, 2, 16, DTYPE_BFLOAT16, DTYPE_FLOAT32, false},
                     &plain_attention);
}

/* Groups of 1, 4 and 8 query heads, with rotated positions. */
void case_attention_rope_float32(struct operations *ops) {
    attention_values(ops, (struct rig_model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, true}, &plain_attention);
    attention_values(ops, (struct rig_model){4, 1, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, true}, &plain_attention);
    attention_values(ops, (struct rig_model){8, 1, 128, DTYPE_FLOAT32, DTYPE_FLOAT32, true},
                     &plain_attention);
    attention_values(ops, (struct rig_model){4, 2, 16, DTYPE_FLOAT32, DTYPE_BFLOAT16, true},
                     &plain_attention);
    attention_values(ops, (struct rig_model){2, 1, 6, DTYPE_FLOAT32, DTYPE_FLOAT32, true}, &plain_attention);
}

void case_attention_rope_bfloat16(struct operations *ops) {
    attention_values(ops, (struct rig_model){8, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &plain_attention);
    attention_values(ops, (struct rig_model){2, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &plain_attention);
    attention_values(ops, (struct rig_model){4, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &plain_attention);
    attention_values(ops, (struct rig_model){4, 2, 32, DTYPE_BFLOAT16, DTYPE_FLOAT32, true},
                     &plain_attention);
}

/* ---- equal bits ---- */

void attention_cuts(struct operations *ops, struct rig_model model, const struct rig_variant *variant) {
    enum { PROMPT = 330, POSITIONS = 352 };
    static const int32_t cuts[][6] = {
        {1, PROMPT},        {31, 32, 33, 64, 65, PROMPT},      {255, PROMPT},
        {256, 257, PROMPT}, {100, 101, 103, 200, 329, PROMPT},
    };
    struct rig rig;
    if (!rig_init(&rig, ops, model, variant, 3, POSITIONS, 400))
        return;
    struct part whole = {1, 0, PROMPT, false};
    float *expected = rig_step(&rig, &whole, 1, NULL);
    for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
        if (ops->is_small && c % 2 == 0)
            continue;
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
    attention_cuts(ops, (struct rig_model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false}, &plain_attention);
    attention_cuts(ops, (struct rig_model){4, 2, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                   &plain_attention);
    attention_cuts(ops, (struct rig_model){4, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true}, &plain_attention);
}

/* Prompts of lengths around the borders of pages and of tiles of 64 and 128 rows or keys, together in one
 * step: against the reference, and the same bits alone, cut, and in front of a position whose key and value
 * are NaN. Wherever a prompt ends, its last page goes on with NaN. */
void attention_prompts(struct operations *ops, struct rig_model model, const struct rig_variant *variant) {
    enum { SLOTS = 8, SMALL_SLOTS = 3, POSITIONS = 700, CUT = 0, FAULT = 133, N_CUTS = 5, SMALL_CUTS = 1 };
    static const int32_t all_lengths[SLOTS] = {300, 1, 31, 33, 127, 128, 129, 700};
    static const int32_t few_lengths[SMALL_SLOTS] = {200, 1, 129};
    static const int32_t all_cuts[N_CUTS][5] = {
        {1, 300}, {7, 300}, {255, 300}, {257, 300}, {1, 7, 255, 257, 300}};
    static const int32_t few_cuts[SMALL_CUTS][5] = {{7, 129, 200}};
    const int32_t *lengths = ops->is_small ? few_lengths : all_lengths;
    const int32_t(*cuts)[5] = ops->is_small ? few_cuts : all_cuts;
    const int32_t n_slots = ops->is_small ? SMALL_SLOTS : SLOTS, n_cuts = ops->is_small ? SMALL_CUTS : N_CUTS;
    struct rig rig;
    if (!rig_init(&rig, ops, model, variant, n_slots, POSITIONS, 1500))
        return;
    struct part parts[SLOTS];
    const float *expected[SLOTS];
    for (int32_t s = 0; s < n_slots; s++)
        parts[s] = (struct part){s, 0, lengths[s], false};
    float *together = rig_step(&rig, parts, n_slots, NULL);
    int32_t row = 0;
    for (int32_t s = 0; s < n_slots; row += lengths[s++]) {
        expected[s] = together + (int64_t)row * rig.out_cols;
        for (int32_t p = 0; p < lengths[s]; p++)
            if (p % 101 == 0 || (p + 1) % 64 == 0 || p + 1 == lengths[s])
                rig_expect_row(&rig, s, p, expected[s] + (int64_t)p * rig.out_cols);
    }
    rig_poison(&rig);
    for (int32_t s = 0; s < n_slots; s++) {
        float *alone = rig_step(&rig, &parts[s], 1, NULL);
        ops_expect_equal(ops, alone, expected[s], (int64_t)lengths[s] * rig.out_cols, "a prompt alone");
        free(alone);
    }
    for (int32_t c = 0; c < n_cuts; c++) {
        rig_poison(&rig);
        for (int32_t i = 0, done = 0; done < lengths[CUT]; done = cuts[c][i++]) {
            struct part piece = {CUT, done, cuts[c][i] - done, false};
            float *out = rig_step(&rig, &piece, 1, NULL);
            ops_expect_equal(ops, out, expected[CUT] + (int64_t)done * rig.out_cols,
                             (int64_t)piece.n_rows * rig.out_cols, "a prompt that is cut");
            free(out);
        }
    }

    /* One position's key and value are NaN: rows in front of it, and those whose window has left it, do not
     * notice. */
    rig_poison(&rig);
    float *values = ops_alloc(ops, (size_t)(lengths[CUT] * rig.cols), sizeof *values);
    memcpy(values, rig.qkv[CUT], (size_t)(lengths[CUT] * rig.cols) * sizeof *values);
    for (int32_t c = rig.out_cols; c < rig.cols; c++)
        values[FAULT * rig.cols + c] = NAN;
    float *faulty = rig_step(&rig, &parts[CUT], 1, values);
    int32_t seen = variant->window ? variant->window : lengths[CUT]; /* positions that see it */
    int32_t behind = seen < lengths[CUT] - FAULT ? FAULT + seen : lengths[CUT];
    ops_expect_equal(ops, faulty, expected[CUT], (int64_t)FAULT * rig.out_cols, "rows in front of a NaN");
    for (int64_t i = (int64_t)FAULT * rig.out_cols; i < (int64_t)behind * rig.out_cols; i++)
        if (isfinite(faulty[i]))
            OPS_FAIL(ops, "attention: position %d, column %d is finite although it sees a NaN",
                     (int)(i / rig.out_cols), (int)(i % rig.out_cols));
    ops_expect_equal(ops, faulty + (int64_t)behind * rig.out_cols,
                     expected[CUT] + (int64_t)behind * rig.out_cols,
                     (int64_t)(lengths[CUT] - behind) * rig.out_cols, "rows whose window has left a NaN");
    free(faulty);
    free(values);
    free(together);
    rig_free(&rig);
}

/* Groups of 1, 4 and 8 query heads; in small cases one or two of them for each head dim. */
void case_attention_prompts(struct operations *ops) {
    static const struct rig_model models[] = {
        {3, 3, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false}, {8, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
        {2, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true}, {8, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
        {4, 2, 96, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},  {4, 1, 32, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
        {4, 2, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true}, {4, 2, 64, DTYPE_FLOAT32, DTYPE_BFLOAT16, true},
        {8, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false}, {8, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
    };
    enum { N_MODELS = sizeof models / sizeof models[0], N_SMALL_MODELS = 8 };
    for (int i = 0; i < (ops->is_small ? N_SMALL_MODELS : N_MODELS); i++)
        attention_prompts(ops, models[i], &plain_attention);
}

/* Decode at lengths around the borders of pages and chunks, alone and with 16 others. */
void attention_decode_alone(struct operations *ops, struct rig_model model,
                            const struct rig_variant *variant) {
    static const int32_t all_positions[] = {0,   1,   30,  31,  32,  63,  100, 254, 255,
                                            256, 257, 300, 510, 511, 512, 513, 699};
    static const int32_t few_positions[] = {0, 31, 255, 256};
    enum { SLOTS = sizeof all_positions / sizeof all_positions[0], POSITIONS = 704 };
    const int32_t *positions = ops->is_small ? few_positions : all_positions;
    const int32_t n_slots = ops->is_small ? (int32_t)(sizeof few_positions / sizeof few_positions[0]) : SLOTS;
    struct rig rig;
    if (!rig_init(&rig, ops, model, variant, n_slots, POSITIONS, 704))
        return;
    struct part parts[SLOTS];
    for (int32_t s = 0; s < n_slots; s++) {
        struct part prompt = {s, 0, positions[s], false};
        if (prompt.n_rows > 0)
            free(rig_step(&rig, &prompt, 1, NULL));
        parts[n_slots - 1 - s] = (struct part){s, positions[s], 1, true};
    }
    float *together = rig_step(&rig, parts, n_slots, NULL);
    for (int32_t i = 0; i < n_slots; i++) {
        rig_expect_row(&rig, parts[i].slot, parts[i].position, together + i * rig.out_cols);
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

/* The first rows [0, n_tokens[s]) of all slots, several slots a step. */
static void prefill_slots(struct rig *rig, const int32_t *n_tokens) {
    enum { MAX_PARTS = 32 };
    struct part parts[MAX_PARTS];
    int32_t n_parts = 0, n_rows = 0;
    for (int32_t s = 0; s < rig->n_slots; s++) {
        if (n_tokens[s] == 0)
            continue;
        if (n_parts == MAX_PARTS || n_rows + n_tokens[s] > rig->max_rows) {
            free(rig_step(rig, parts, n_parts, NULL));
            n_parts = n_rows = 0;
        }
        parts[n_parts++] = (struct part){s, 0, n_tokens[s], false};
        n_rows += n_tokens[s];
    }
    if (n_parts > 0)
        free(rig_step(rig, parts, n_parts, NULL));
}

/* How many rows are generated together, and the positions of every sixth, around borders; the others are
 * below position 40. */
enum { MANY_EDGES = 6 };
struct many_rows {
    int32_t n_slots;
    int32_t edges[MANY_EDGES]; /* ascending */
};

/* So many that no backend divides a row's chunks any more: around the border of a chunk. */
static const struct many_rows many_rows = {36, {254, 255, 256, 257, 287, 319}};
/* So many that a block of a backend may take several kv heads: around the border of a page. */
static const struct many_rows crowd_of_rows = {300, {30, 31, 32, 33, 62, 63}};
/* The same with five kv heads, which blocks take two at a time: the last block has one; around the border of
 * a chunk. */
static const struct many_rows crowd_of_chunks = {180, {255, 256, 257, 287, 288, 289}};

/* The key of one kv head of the first of the parts is NaN: nobody notices but its own query heads. */
static void decode_many_nan(struct rig *rig, const struct part *parts, int32_t n_parts,
                            const float *expected) {
    struct operations *ops = rig->ops;
    const struct rig_model *model = &rig->model;
    const int32_t kv_head = model->n_kv_heads - 1, group = model->n_heads / model->n_kv_heads;
    const int32_t noticed = kv_head * group * model->head_dim; /* the first column of those heads */
    float *values = ops_alloc(ops, (size_t)n_parts * (size_t)rig->cols, sizeof *values);
    for (int32_t r = 0; r < n_parts; r++)
        memcpy(values + (int64_t)r * rig->cols,
               rig->qkv[parts[r].slot] + (int64_t)parts[r].position * rig->cols,
               (size_t)rig->cols * sizeof *values);
    for (int32_t c = 0; c < model->head_dim; c++)
        values[rig->out_cols + kv_head * model->head_dim + c] = NAN;
    float *out = rig_step(rig, parts, n_parts, values);
    ops_expect_equal(ops, out, expected, noticed, "heads beside one whose key is NaN");
    for (int32_t c = noticed; c < rig->out_cols; c++)
        if (isfinite(out[c]))
            OPS_FAIL(ops, "attention: column %d is finite although its head sees a NaN", (int)c);
    ops_expect_equal(ops, out + rig->out_cols, expected + rig->out_cols, (n_parts - 1) * rig->out_cols,
                     "rows beside one with a NaN");
    free(out);
    free(values);
}

/* Many rows together, against the reference and against some of them alone. */
static void decode_many_one(struct operations *ops, struct rig_model model, const struct rig_variant *variant,
                            const struct many_rows *many) {
    const int32_t n_slots = many->n_slots, n_positions = many->edges[MANY_EDGES - 1] + 1;
    struct rig rig;
    if (!rig_init(&rig, ops, model, variant, n_slots, n_positions, 640))
        return;
    int32_t *positions = ops_alloc(ops, (size_t)n_slots, sizeof *positions);
    struct part *parts = ops_alloc(ops, (size_t)n_slots, sizeof *parts);
    /* Small cases look at the first and the last edge alone, and keep the number of rows. */
    const int32_t stride = ops->is_small ? n_slots / 12 * 6 : 6;
    for (int32_t s = 0; s < n_slots; s++) {
        positions[s] = s % stride == 0 ? many->edges[s / 6 % MANY_EDGES] : s * 7 % 40;
        parts[s] = (struct part){s, positions[s], 1, true};
    }
    prefill_slots(&rig, positions);
    float *together = rig_step(&rig, parts, n_slots, NULL);
    for (int32_t s = 0; s < n_slots; s++) {
        rig_expect_row(&rig, s, positions[s], together + s * rig.out_cols);
        if (s % stride != 0)
            continue;
        float *alone = rig_step(&rig, &parts[s], 1, NULL);
        ops_expect_equal(ops, alone, together + s * rig.out_cols, rig.out_cols, "decode beside many rows");
        free(alone);
    }
    decode_many_nan(&rig, parts, n_slots, together);
    free(together);
    free(parts);
    free(positions);
    rig_free(&rig);
}

void case_attention_decode_many(struct operations *ops) {
    decode_many_one(ops, (struct rig_model){16, 16, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                    &plain_attention, &many_rows);
    decode_many_one(ops, (struct rig_model){16, 16, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                    &plain_attention, &many_rows);
    decode_many_one(ops, (struct rig_model){16, 16, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                    &plain_attention, &crowd_of_rows);
    decode_many_one(ops, (struct rig_model){4, 4, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                    &plain_attention, &crowd_of_rows);
    decode_many_one(ops, (struct rig_model){8, 4, 32, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true}, &plain_attention,
                    &crowd_of_rows);
    decode_many_one(ops, (struct rig_model){10, 5, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                    &plain_attention, &crowd_of_chunks);
    decode_many_one(ops, (struct rig_model){15, 5, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                    &(struct rig_variant){.window = 40, .softcap = 2.0f, .norms = true}, &crowd_of_chunks);
}

void case_attention_decode_alone(struct operations *ops) {
    attention_decode_alone(ops, (struct rig_model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){4, 1, 128, DTYPE_FLOAT32, DTYPE_FLOAT32, true},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){4, 1, 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){9, 1, 32, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){2, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){8, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){3, 1, 96, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){8, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &plain_attention);
    attention_decode_alone(ops, (struct rig_model){2, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &plain_attention);
}

/* A second slot shares the whole pages of a prompt, has a copy of its last page, and decodes the same;
 * afterwards the two go different ways without meeting. */
void case_attention_pages_copy(struct operations *ops) {
    enum { PROMPT = 75, LAST = PROMPT / PAGE_TOKENS };
    struct rig rig;
    if (!rig_init(&rig, ops, (struct rig_model){2, 1, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                  &plain_attention, 2, 128, 128))
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
        rig_expect_row(&rig, 1, p, out);
        rig_expect_row(&rig, 0, p, out + rig.out_cols);
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
    if (!rig_init(&rig, ops, (struct rig_model){2, 1, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                  &plain_attention, 3, 160, 128))
        return;
    if (!backend->slots_extend)
        OPS_FAIL(ops, "the backend gives running sequences no further pages");
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
            rig_expect_row(&rig, s, p, out + s * rig.out_cols);
        free(out);
    }
    rig_free(&rig);
}
