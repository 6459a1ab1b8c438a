/* Cases for what attention may be told beside queries, keys and values: windows, soft caps, norms of queries
 * and keys. Head dims 64, 128 and 256, groups of 1, 4 and 8 query heads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/functional/operations_rig.h"

/* ---- windows ---- */

/* Below a page, across its border, tiles of 64 and 128 keys, a chunk, beyond it, and beyond all. */
static const int32_t windows[] = {1, 20, 33, 128, 256, 400, 1 << 20};
enum { N_WINDOWS = sizeof windows / sizeof windows[0] };

void case_attention_window_float32(struct operations *ops) {
    for (int i = 0; i < N_WINDOWS; i++)
        attention_values(
            ops,
            (struct rig_model){4, i % 2 ? 4 : 1, i % 3 ? 16 : 64, DTYPE_FLOAT32, DTYPE_FLOAT32, i % 4 == 0},
            &(struct rig_variant){.window = windows[i]});
}

void case_attention_window_bfloat16(struct operations *ops) {
    attention_values(ops, (struct rig_model){2, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                     &(struct rig_variant){.window = 20});
    attention_values(ops, (struct rig_model){8, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &(struct rig_variant){.window = 257});
    attention_values(ops, (struct rig_model){4, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &(struct rig_variant){.window = 64});
}

void case_attention_window_cuts(struct operations *ops) {
    static const int32_t cut_windows[] = {1, 33, 128, 300};
    for (size_t i = 0; i < sizeof cut_windows / sizeof cut_windows[0]; i++)
        attention_cuts(ops, (struct rig_model){4, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, i % 2 == 0},
                       &(struct rig_variant){.window = cut_windows[i]});
    attention_cuts(ops, (struct rig_model){2, 2, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                   &(struct rig_variant){.window = 65});
}

void case_attention_window_prompts(struct operations *ops) {
    attention_prompts(ops, (struct rig_model){4, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                      &(struct rig_variant){.window = 20});
    attention_prompts(ops, (struct rig_model){2, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false},
                      &(struct rig_variant){.window = 256});
    attention_prompts(ops, (struct rig_model){2, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                      &(struct rig_variant){.window = 129});
}

void case_attention_window_decode(struct operations *ops) {
    for (int i = 0; i < N_WINDOWS; i++)
        attention_decode_alone(ops,
                               (struct rig_model){4,
                                                  i % 3 == 0   ? 1
                                                  : i % 3 == 1 ? 2
                                                               : 4,
                                                  i % 2 ? 64 : 16, DTYPE_BFLOAT16, DTYPE_BFLOAT16,
                                                  i % 2 == 0},
                               &(struct rig_variant){.window = windows[i]});
    attention_decode_alone(ops, (struct rig_model){2, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &(struct rig_variant){.window = 100});
    attention_decode_alone(ops, (struct rig_model){2, 1, 128, DTYPE_FLOAT32, DTYPE_FLOAT32, true},
                           &(struct rig_variant){.window = 255});
}

/* Keys and values in front of a generated row's window are NaN, from the position just outside it on. */
static void window_nan_one(struct operations *ops, struct rig_model model, int32_t window) {
    enum { POSITIONS = 608 };
    static const int32_t positions[] = {63, 257, 31, 32, 100, 255, 256, 511, 512, 600};
    const size_t n_positions = ops->is_small ? 2 : sizeof positions / sizeof positions[0];
    struct rig rig;
    if (!rig_init(&rig, ops, model, &(struct rig_variant){.window = window}, 1, POSITIONS, POSITIONS))
        return;
    for (size_t i = 0; i < n_positions; i++) {
        struct part prompt = {0, 0, positions[i], false}, row = {0, positions[i], 1, true};
        int32_t outside = positions[i] - window; /* the last position that the row does not see */
        if (outside < 0)
            continue;
        rig_poison(&rig);
        free(rig_step(&rig, &prompt, 1, NULL));
        float *expected = rig_step(&rig, &row, 1, NULL);
        rig_expect_row(&rig, 0, positions[i], expected);
        float *values = ops_alloc(ops, (size_t)(POSITIONS * rig.cols), sizeof *values);
        memcpy(values, rig.qkv[0], (size_t)(POSITIONS * rig.cols) * sizeof *values);
        for (int32_t p = 0; p <= outside; p++)
            for (int32_t c = rig.out_cols; c < rig.cols; c++)
                values[p * rig.cols + c] = NAN;
        rig_poison(&rig);
        free(rig_step(&rig, &prompt, 1, values));
        float *got = rig_step(&rig, &row, 1, NULL);
        ops_expect_equal(ops, got, expected, rig.out_cols, "a generated row behind NaN");
        free(expected);
        free(got);
        free(values);
    }
    rig_free(&rig);
}

void case_attention_window_nan(struct operations *ops) {
    window_nan_one(ops, (struct rig_model){4, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false}, 20);
    window_nan_one(ops, (struct rig_model){8, 1, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false}, 256);
    window_nan_one(ops, (struct rig_model){2, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, false}, 33);
    window_nan_one(ops, (struct rig_model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false}, 100);
}

/* ---- soft caps ---- */

/* Scores are of size 1 and up to 6, so these caps bend most of them, and some. */
void case_attention_softcap(struct operations *ops) {
    attention_values(ops, (struct rig_model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, false},
                     &(struct rig_variant){.softcap = 1.5f});
    attention_values(ops, (struct rig_model){8, 1, 128, DTYPE_FLOAT32, DTYPE_FLOAT32, true},
                     &(struct rig_variant){.softcap = 50.0f});
    attention_values(ops, (struct rig_model){4, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &(struct rig_variant){.softcap = 3.0f, .window = 70});
    attention_values(ops, (struct rig_model){8, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &(struct rig_variant){.softcap = 2.0f});
    attention_cuts(ops, (struct rig_model){4, 1, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                   &(struct rig_variant){.softcap = 2.0f, .window = 100});
    attention_decode_alone(ops, (struct rig_model){4, 2, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &(struct rig_variant){.softcap = 2.0f, .window = 300});
}

/* ---- norms of queries and keys ---- */

void case_attention_norms(struct operations *ops) {
    attention_values(ops, (struct rig_model){2, 2, 64, DTYPE_FLOAT32, DTYPE_FLOAT32, true},
                     &(struct rig_variant){.norms = true});
    attention_values(ops, (struct rig_model){8, 1, 128, DTYPE_FLOAT32, DTYPE_FLOAT32, true},
                     &(struct rig_variant){.norms = true});
    attention_values(ops, (struct rig_model){4, 2, 16, DTYPE_FLOAT32, DTYPE_FLOAT32, true},
                     &(struct rig_variant){.norms = true});
    attention_values(ops, (struct rig_model){8, 2, 128, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &(struct rig_variant){.norms = true});
    attention_values(ops, (struct rig_model){4, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                     &(struct rig_variant){.norms = true, .window = 64});
    attention_cuts(ops, (struct rig_model){2, 1, 256, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                   &(struct rig_variant){.norms = true, .window = 100, .softcap = 3.0f});
    attention_decode_alone(ops, (struct rig_model){8, 2, 64, DTYPE_BFLOAT16, DTYPE_BFLOAT16, true},
                           &(struct rig_variant){.norms = true});
}
