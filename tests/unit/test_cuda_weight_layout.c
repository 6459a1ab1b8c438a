/* The layout of bfloat16 weights on CUDA: every element has a place of its own, inside of the allocation,
 * where the tensor cores' 128-byte swizzle looks for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "kernels/cuda/weight_layout.h"

static void test_places_are_distinct(void **state) {
    (void)state;
    const int64_t shapes[][2] = {{1, 1}, {64, 64}, {65, 130}, {200, 384}};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        int64_t rows = shapes[s][0], cols = shapes[s][1], k_blocks = weight_k_blocks(cols);
        size_t bytes = (size_t)(weight_row_blocks(rows) * k_blocks) * WEIGHT_BLOCK_BYTES;
        unsigned char *taken = calloc(bytes / TILE_CHUNK_BYTES, 1);
        assert_non_null(taken);
        assert_true(k_blocks % 2 == 0 && k_blocks * WEIGHT_BLOCK >= cols);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t chunk = 0; chunk * TILE_CHUNK_ELEMENTS < cols; chunk++) {
                size_t offset = weight_offset(row, chunk, k_blocks);
                assert_true(offset % TILE_CHUNK_BYTES == 0 && offset < bytes);
                assert_int_equal(taken[offset / TILE_CHUNK_BYTES]++, 0);
            }
        free(taken);
    }
}

/* PTX ISA, 128-byte swizzle: bits 4 to 6 of an address in a 1,024-byte atom are xored with bits 7 to 9. */
static void test_block_is_a_swizzled_tile(void **state) {
    (void)state;
    const int64_t k_blocks = 4;
    for (int64_t row = 0; row < 130; row++)
        for (int64_t chunk = 0; chunk < k_blocks * WEIGHT_BLOCK_CHUNKS; chunk++) {
            int64_t block = row / 64 * k_blocks + chunk / 8;
            size_t plain = (size_t)(row % 64 * 128 + chunk % 8 * 16);
            size_t swizzled = plain ^ (plain >> 7 & 7) << 4;
            assert_int_equal(weight_offset(row, chunk, k_blocks), (size_t)block * 8192 + swizzled);
        }
}

static void test_pairs_alternate(void **state) {
    (void)state;
    enum { ROWS = 24 };
    int owner[2 * ROWS] = {0};
    for (int64_t row = 0; row < ROWS; row++)
        for (int second = 0; second < 2; second++) {
            int64_t joint = weight_pair_row(row, second);
            assert_true(joint < 2 * ROWS);
            assert_int_equal(owner[joint]++, 0);
            /* Rows of both matrices are in the same sixteen, eight apart. */
            assert_int_equal(joint / 16, row / 8);
            assert_int_equal(joint % 16, row % 8 + 8 * second);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places_are_distinct),
        cmocka_unit_test(test_block_is_a_swizzled_tile),
        cmocka_unit_test(test_pairs_alternate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
