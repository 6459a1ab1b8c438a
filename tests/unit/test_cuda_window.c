/* Which positions, chunks and tiles the CUDA kernels give to a row of a sliding window, beside counting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/cuda/window.h"

enum { POSITIONS = 2000 };

static const int32_t windows[] = {0, 1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 258, 512, 1000, 1999, 2000};
enum { N_WINDOWS = sizeof windows / sizeof windows[0] };

static void first_is_the_first_that_is_seen(void **state) {
    (void)state;
    for (int w = 0; w < N_WINDOWS; w++)
        for (int32_t position = 0; position < POSITIONS; position++) {
            int32_t first = window_first(position, windows[w]);
            assert_true(first >= 0 && first <= position);
            /* A row sees the positions (position - window, position]. */
            for (int32_t key = 0; key <= position; key++) {
                int sees = windows[w] == 0 || key > position - windows[w];
                assert_int_equal(key >= first, sees);
            }
        }
    assert_int_equal(window_first(INT32_MAX, INT32_MAX), 1);
    assert_int_equal(window_first(INT32_MAX - 1, INT32_MAX), 0);
    assert_int_equal(window_first(INT32_MAX, 0), 0);
}

/* The largest number of groups that any row sees, and no more than there are. */
static void groups_are_as_many_as_a_row_can_see(void **state) {
    (void)state;
    static const int32_t sizes[] = {1, 32, 64, 128, 256};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int w = 0; w < N_WINDOWS; w++) {
            int32_t keys = sizes[s], most = 0;
            for (int32_t position = 0; position < POSITIONS; position++) {
                int32_t n = position / keys - window_first(position, windows[w]) / keys + 1;
                most = n > most ? n : most;
            }
            assert_int_equal(window_groups(windows[w], keys, (POSITIONS + keys - 1) / keys), most);
            assert_int_equal(window_groups(windows[w], keys, 1), 1);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_is_the_first_that_is_seen),
        cmocka_unit_test(groups_are_as_many_as_a_row_can_see),
    };
    return cmocka_run_group_tests_name("cuda window", tests, NULL, NULL);
}
