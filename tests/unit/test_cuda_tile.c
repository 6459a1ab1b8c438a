/* Index arithmetic of the CUDA kernels' shared-memory tiles and tensor-core fragments, without a GPU:
 * ldmatrix is played on the host as the PTX manual describes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/tile.h"

enum { ROWS = 64, LANES = 32, BANKS = 32, BANK_BYTES = 4, MAX_CHUNKS = 32 };

/* Chunks a row of all tiles in use: head_dim 16, 32, 64, 96, 128, 256, and 64 elements of k. */
static const uint32_t chunk_counts[] = {2, 4, 8, 12, 16, 32};
enum { N_CHUNK_COUNTS = sizeof chunk_counts / sizeof chunk_counts[0] };

static void offsets_fill_the_tile_once(void **state) {
    (void)state;
    for (int c = 0; c < N_CHUNK_COUNTS; c++) {
        uint32_t chunks = chunk_counts[c];
        unsigned char seen[ROWS * MAX_CHUNKS] = {0};
        for (uint32_t row = 0; row < ROWS; row++)
            for (uint32_t chunk = 0; chunk < chunks; chunk++) {
                uint32_t offset = tile_offset(row, chunk, chunks);
                assert_int_equal(offset % TILE_CHUNK_BYTES, 0);
                assert_true(offset / TILE_CHUNK_BYTES < ROWS * chunks);
                assert_int_equal(seen[offset / TILE_CHUNK_BYTES]++, 0);
                assert_int_equal(offset / TILE_CHUNK_BYTES / chunks, row);
            }
    }
}

/* Eight rows at one chunk, as one 8x8 matrix of ldmatrix reads them: all 32 banks, each once. */
static void matrix_reads_meet_no_bank_twice(void **state) {
    (void)state;
    for (int c = 0; c < N_CHUNK_COUNTS; c++)
        for (uint32_t first = 0; first < ROWS; first += 8)
            for (uint32_t chunk = 0; chunk < chunk_counts[c]; chunk++) {
                int used[BANKS] = {0};
                for (uint32_t row = first; row < first + 8; row++)
                    for (uint32_t word = 0; word < TILE_CHUNK_BYTES / BANK_BYTES; word++) {
                        uint32_t bank = tile_offset(row, chunk, chunk_counts[c]) / BANK_BYTES + word;
                        assert_int_equal(used[bank % BANKS]++, 0);
                    }
            }
}

/* A tile [16][16] of which element (row, column) is 100 row + column. */
static void tile_fill(unsigned char *tile, uint32_t chunks) {
    for (uint32_t row = 0; row < 16; row++)
        for (uint32_t column = 0; column < 16; column++) {
            uint16_t value = (uint16_t)(100 * row + column);
            memcpy(tile + tile_offset(row, column / 8, chunks) + column % 8 * 2, &value, 2);
        }
}

/* Half `half` of register i that ldmatrix.x4 gives to `lane`, with addresses[l] from lane l. */
static uint32_t played_ldmatrix(const unsigned char *tile, const uint32_t *addresses, uint32_t lane,
                                uint32_t i, uint32_t half, int transposed) {
    uint32_t row = transposed ? lane % 4 * 2 + half : lane / 4;
    uint32_t column = transposed ? lane / 4 : lane % 4 * 2 + half;
    uint16_t value;
    memcpy(&value, tile + addresses[8 * i + row] + column * 2, 2);
    return value;
}

static void fragments_are_those_of_mma(void **state) {
    (void)state;
    for (int c = 0; c < N_CHUNK_COUNTS; c++) {
        uint32_t chunks = chunk_counts[c];
        unsigned char tile[16 * MAX_CHUNKS * TILE_CHUNK_BYTES];
        memset(tile, 0xFF, sizeof tile);
        tile_fill(tile, chunks);
        uint32_t a[LANES], b[LANES];
        for (uint32_t lane = 0; lane < LANES; lane++) {
            a[lane] = tile_offset(tile_a_row(lane), tile_a_chunk(lane), chunks);
            b[lane] = tile_offset(tile_b_row(lane), tile_b_chunk(lane), chunks);
        }
        for (uint32_t lane = 0; lane < LANES; lane++)
            for (uint32_t i = 0; i < 4; i++)
                for (uint32_t half = 0; half < 2; half++) {
                    uint32_t g = lane / 4, t = lane % 4;
                    /* A [m][k]: a1 and a3 are 8 rows on, a2 and a3 8 columns on. */
                    uint32_t row = g + i % 2 * 8, k = 2 * t + half + i / 2 * 8;
                    assert_int_equal(played_ldmatrix(tile, a, lane, i, half, 0), 100 * row + k);
                    /* B stored [n][k]: registers 0 and 1 are b0 and b1 of columns 0..7, 2 and 3 of 8..15. */
                    uint32_t n = g + i / 2 * 8;
                    k = 2 * t + half + i % 2 * 8;
                    assert_int_equal(played_ldmatrix(tile, b, lane, i, half, 0), 100 * n + k);
                    /* B stored [k][n], read transposed with A's addresses. */
                    assert_int_equal(played_ldmatrix(tile, a, lane, i, half, 1), 100 * k + n);
                }
    }
}

static void accumulators_cover_the_tile_once(void **state) {
    (void)state;
    int seen[16][8] = {{0}};
    for (uint32_t lane = 0; lane < LANES; lane++)
        for (uint32_t i = 0; i < 4; i++)
            assert_int_equal(seen[tile_c_row(lane, i)][tile_c_column(lane, i)]++, 0);
    /* c1 is the column after c0, c2 the row 8 after. */
    assert_int_equal(tile_c_column(5, 1), tile_c_column(5, 0) + 1);
    assert_int_equal(tile_c_row(5, 2), tile_c_row(5, 0) + 8);
    assert_int_equal(tile_c_row(5, 0), 1);
    assert_int_equal(tile_c_column(5, 0), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offsets_fill_the_tile_once),
        cmocka_unit_test(matrix_reads_meet_no_bank_twice),
        cmocka_unit_test(fragments_are_those_of_mma),
        cmocka_unit_test(accumulators_cover_the_tile_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
