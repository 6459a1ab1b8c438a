/* rope: frequencies beside those of the transformers library, and the table that is made of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/model/rope.h"

static const struct rope_config plain = {.kind = ROPE_DEFAULT, .theta = 10000};
static const struct rope_config linear = {.kind = ROPE_LINEAR, .theta = 10000, .factor = 4};
/* Llama 3.1 8B and Llama 3.2 1B. */
static const struct rope_config llama_8b = {.kind = ROPE_LLAMA3,
                                            .theta = 500000,
                                            .factor = 8,
                                            .low_frequency = 1,
                                            .high_frequency = 4,
                                            .original_positions = 8192};
static const struct rope_config llama_1b = {.kind = ROPE_LLAMA3,
                                            .theta = 500000,
                                            .factor = 32,
                                            .low_frequency = 1,
                                            .high_frequency = 4,
                                            .original_positions = 8192};

/* Qwen2.5 beyond 32,768 positions; and one with everything that the file may say. */
static const struct rope_config yarn_qwen = {.kind = ROPE_YARN,
                                             .theta = 1000000,
                                             .factor = 4,
                                             .original_positions = 32768,
                                             .fast_turns = 32,
                                             .slow_turns = 1,
                                             .amplitude = 1.138629436111989};
static const struct rope_config yarn_fractions = {.kind = ROPE_YARN,
                                                  .theta = 10000,
                                                  .factor = 8,
                                                  .original_positions = 512,
                                                  .fast_turns = 16,
                                                  .slow_turns = 2,
                                                  .keeps_fractions = true,
                                                  .amplitude = 1.094179988101349};

/* transformers computes them in float32. */
static void test_frequencies(void **state) {
    (void)state;
    static const struct {
        const struct rope_config *config;
        int32_t head_dim;
        int32_t pair;
        double frequency;
    } rows[] = {
        {&plain, 128, 0, 1.0},
        {&plain, 128, 1, 0.865964353},
        {&plain, 128, 32, 0.00999999978},
        {&plain, 128, 37, 0.00486967526},
        {&plain, 128, 63, 0.000115478193},
        {&linear, 64, 0, 0.25},
        {&linear, 64, 1, 0.18747355},
        {&linear, 64, 21, 0.000592843455},
        {&linear, 64, 31, 3.33380376e-05},
        {&llama_8b, 128, 0, 1.0},
        {&llama_8b, 128, 2, 0.663601279},
        {&llama_8b, 128, 16, 0.0376060307},   /* fast: as it is */
        {&llama_8b, 128, 32, 0.000524846022}, /* between */
        {&llama_8b, 128, 37, 6.34151438e-05}, /* slow: divided */
        {&llama_8b, 128, 63, 3.06892588e-07},
        {&llama_1b, 64, 8, 0.0376060307},
        {&llama_1b, 64, 16, 0.000429556705},
        {&llama_1b, 64, 21, 5.68723226e-06},
        {&llama_1b, 64, 31, 9.41830649e-08},
        {&yarn_qwen, 128, 6, 0.273841977},    /* fast */
        {&yarn_qwen, 128, 24, 0.00537532149}, /* between */
        {&yarn_qwen, 128, 36, 0.000179841154},
        {&yarn_qwen, 128, 42, 2.88695483e-05}, /* slow */
        {&yarn_qwen, 128, 60, 5.92843435e-07},
        {&yarn_fractions, 64, 3, 0.421696514},
        {&yarn_fractions, 64, 6, 0.170414031},
        {&yarn_fractions, 64, 9, 0.0446166471},
        {&yarn_fractions, 64, 12, 0.00732499827},
        {&yarn_fractions, 64, 15, 0.00166690187},
        {&yarn_fractions, 64, 30, 2.22284925e-05},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double frequency = rope_frequency(rows[i].config, rows[i].head_dim, rows[i].pair);
        if (!(fabs(frequency - rows[i].frequency) <= 2e-6 * rows[i].frequency))
            fail_msg("row %zu: %.9g, expected %.9g", i, frequency, rows[i].frequency);
    }
}

/* Large enough for threads to share it; every row beside the formula, and its start beside a small table. */
static void test_table(void **state) {
    (void)state;
    enum { HEAD_DIM = 64, HALF = HEAD_DIM / 2, POSITIONS = 5000, FEW = 7 };
    float *table = malloc((size_t)POSITIONS * HEAD_DIM * sizeof *table);
    float few[(FEW + 1) * HEAD_DIM];
    assert_non_null(table);
    rope_fill(&llama_1b, HEAD_DIM, POSITIONS, table);
    for (int32_t p = 0; p < POSITIONS; p++) {
        for (int32_t i = 0; i < HALF; i++) {
            double angle = p * rope_frequency(&llama_1b, HEAD_DIM, i);
            if (table[p * HEAD_DIM + i] != (float)cos(angle) ||
                table[p * HEAD_DIM + HALF + i] != (float)sin(angle))
                fail_msg("position %d, pair %d: %g, %g for the angle %g", (int)p, (int)i,
                         (double)table[p * HEAD_DIM + i], (double)table[p * HEAD_DIM + HALF + i], angle);
        }
    }
    for (int32_t i = 0; i < HEAD_DIM; i++)
        few[FEW * HEAD_DIM + i] = -7;
    rope_fill(&llama_1b, HEAD_DIM, FEW, few);
    assert_memory_equal(few, table, sizeof(float) * FEW * HEAD_DIM);
    for (int32_t i = 0; i < HEAD_DIM; i++)
        assert_true(few[FEW * HEAD_DIM + i] == -7);
    free(table);
}

/* Yarn's table is larger by its amplitude. */
static void test_amplitude(void **state) {
    (void)state;
    enum { HEAD_DIM = 128, POSITIONS = 40 };
    float table[POSITIONS * HEAD_DIM];
    rope_fill(&yarn_qwen, HEAD_DIM, POSITIONS, table);
    for (int32_t p = 0; p < POSITIONS; p++) {
        for (int32_t i = 0; i < HEAD_DIM / 2; i++) {
            double angle = p * rope_frequency(&yarn_qwen, HEAD_DIM, i);
            assert_true(table[p * HEAD_DIM + i] == (float)(yarn_qwen.amplitude * cos(angle)));
            assert_true(table[p * HEAD_DIM + HEAD_DIM / 2 + i] == (float)(yarn_qwen.amplitude * sin(angle)));
        }
    }
    assert_true(rope_amplitude(&llama_1b) == 1 && rope_amplitude(&plain) == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_amplitude),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
