/* upload_queue: every row of every matrix is carried once, whatever the threads and slices; failures come
 * back with their words, drop what is behind them, and leave a queue that works. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/memory_rows.h"
#include "kernels/upload_queue.h"

enum { N_MATRICES = 60, MOST_ROWS = 97, COLUMNS = 3, MOST_THREADS = 8 };

/* What stands for the device. */
struct device {
    int n_threads;
    int32_t to[N_MATRICES][MOST_ROWS][COLUMNS];
    atomic_int visits[N_MATRICES][MOST_ROWS];
    atomic_int n_longest;           /* rows of the longest slice */
    atomic_bool busy[MOST_THREADS]; /* the thread of this number carries */
    atomic_int n_overlaps;          /* two slices at once for one number */
    int fails_at;                   /* the matrix that fails; -1: none */
    atomic_int n_failures;          /* slices that failed */
};

static enum status carry(void *argument, int thread, const struct upload *upload, int64_t first, int64_t n) {
    struct device *device = argument;
    int matrix = upload->placement;
    if (thread < 0 || thread >= device->n_threads)
        return status_fail(STATUS_INTERNAL, "thread %d of %d", thread, device->n_threads);
    atomic_fetch_add(&device->n_overlaps, atomic_exchange(&device->busy[thread], true));
    if (matrix == device->fails_at) {
        atomic_fetch_add(&device->n_failures, 1);
        atomic_store(&device->busy[thread], false);
        return status_fail(STATUS_NO_FIT, "matrix %d does not fit", matrix);
    }
    if (first % 16 == 3) /* late, so that the others are done before */
        usleep(500);
    upload->rows.read(upload->rows.argument, first, n, device->to[matrix][first]);
    for (int64_t i = 0; i < n; i++)
        atomic_fetch_add(&device->visits[matrix][first + i], 1);
    int longest = atomic_load(&device->n_longest);
    while (n > longest && !atomic_compare_exchange_weak(&device->n_longest, &longest, (int)n))
        continue;
    atomic_store(&device->busy[thread], false);
    return STATUS_OK;
}

static int64_t rows_of(int matrix) {
    return (matrix * 37) % (MOST_ROWS + 1); /* none, too */
}

static int32_t from[N_MATRICES][MOST_ROWS][COLUMNS];
static struct memory_rows memory[N_MATRICES];

static enum status add_matrix(struct upload_queue *queue, int matrix, int64_t slice_rows) {
    for (int64_t r = 0; r < rows_of(matrix); r++)
        for (int c = 0; c < COLUMNS; c++)
            from[matrix][r][c] = (int32_t)(matrix * 100000 + r * 10 + c + 1);
    memory[matrix] = (struct memory_rows){from[matrix], sizeof from[matrix][0]};
    struct upload upload = {.rows = memory_rows_source(&memory[matrix]),
                            .n_rows = rows_of(matrix),
                            .slice_rows = slice_rows,
                            .placement = matrix};
    return upload_queue_add(queue, &upload);
}

static void check_matrices(const struct device *device) {
    for (int m = 0; m < N_MATRICES; m++)
        for (int64_t r = 0; r < MOST_ROWS; r++) {
            bool is_there = r < rows_of(m);
            assert_int_equal(atomic_load(&device->visits[m][r]), is_there ? 1 : 0);
            for (int c = 0; c < COLUMNS; c++)
                assert_int_equal(device->to[m][r][c], is_there ? from[m][r][c] : 0);
        }
    assert_int_equal(atomic_load(&device->n_overlaps), 0);
}

static struct device *device_new(int n_threads, int fails_at) {
    struct device *device = calloc(1, sizeof *device);
    assert_non_null(device);
    device->n_threads = n_threads;
    device->fails_at = fails_at;
    return device;
}

static void every_row_is_carried_once(void **state) {
    (void)state;
    static const int64_t slices[] = {1, 7, 64, 1000};
    for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++)
        for (size_t s = 0; s < sizeof slices / sizeof *slices; s++) {
            struct device *device = device_new(n_threads, -1);
            struct upload_queue *queue;
            assert_int_equal(upload_queue_open(n_threads, carry, device, &queue), STATUS_OK);
            for (int m = 0; m < N_MATRICES; m++) {
                assert_int_equal(add_matrix(queue, m, slices[s]), STATUS_OK);
                if (m % 25 == 7)
                    assert_int_equal(upload_queue_wait(queue), STATUS_OK);
            }
            assert_int_equal(upload_queue_wait(queue), STATUS_OK);
            check_matrices(device);
            assert_true(atomic_load(&device->n_longest) <= slices[s]);
            upload_queue_close(queue);
            free(device);
        }
}

static void failures_come_back(void **state) {
    (void)state;
    enum { FAILS_AT = 20 };
    for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
        struct device *device = device_new(n_threads, FAILS_AT);
        struct upload_queue *queue;
        assert_int_equal(upload_queue_open(n_threads, carry, device, &queue), STATUS_OK);
        enum status added = STATUS_OK;
        for (int m = 0; m < N_MATRICES; m++) {
            enum status status = add_matrix(queue, m, 5);
            assert_true(status == STATUS_OK || (status == STATUS_NO_FIT && m >= FAILS_AT));
            assert_true(status != STATUS_OK || added == STATUS_OK); /* it fails from then on */
            added = status;
        }
        assert_int_equal(upload_queue_wait(queue), STATUS_NO_FIT);
        assert_string_equal(status_message(), "matrix 20 does not fit");
        if (n_threads == 1)
            assert_int_equal(atomic_load(&device->n_failures), 1); /* the slices behind it are dropped */
        /* Told once; then all begins again. */
        device->fails_at = -1;
        memset(device->to, 0, sizeof device->to);
        for (int m = 0; m < N_MATRICES; m++)
            for (int r = 0; r < MOST_ROWS; r++)
                atomic_store(&device->visits[m][r], 0);
        assert_int_equal(upload_queue_wait(queue), STATUS_OK);
        for (int m = 0; m < N_MATRICES; m++)
            assert_int_equal(add_matrix(queue, m, 5), STATUS_OK);
        assert_int_equal(upload_queue_wait(queue), STATUS_OK);
        check_matrices(device);
        upload_queue_close(queue);
        free(device);
    }
}

/* With slices queued and carried: what was not taken is dropped, and nothing is used behind the close. */
static void closed_while_it_carries(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) {
        struct device *device = device_new(4, -1);
        struct upload_queue *queue;
        assert_int_equal(upload_queue_open(4, carry, device, &queue), STATUS_OK);
        for (int m = 0; m < N_MATRICES; m++)
            assert_int_equal(add_matrix(queue, m, 1), STATUS_OK);
        upload_queue_close(queue);
        for (int t = 0; t < 4; t++)
            assert_false(atomic_load(&device->busy[t]));
        free(device);
    }
    upload_queue_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_carried_once),
        cmocka_unit_test(failures_come_back),
        cmocka_unit_test(closed_while_it_carries),
    };
    return cmocka_run_group_tests_name("upload_queue", tests, NULL, NULL);
}
