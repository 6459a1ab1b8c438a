/* pool: every task of every operation runs once, whatever the threads do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "kernels/cpu/pool.h"

enum { MOST_TASKS = 40, MOST_THREADS = 5 };

struct record {
    atomic_int runs[MOST_TASKS];
    atomic_int bad_thread;
    int n_threads;
    int64_t parts[MOST_TASKS]; /* plain: written by tasks, read after pool_run */
    bool linger;
};

static void note(void *argument, int64_t task, int thread) {
    struct record *record = argument;
    atomic_fetch_add(&record->runs[task], 1);
    if (thread < 0 || thread >= record->n_threads)
        atomic_store(&record->bad_thread, 1);
    record->parts[task] = task + 1;
    if (record->linger && task % 3 == 0)
        sched_yield();
}

static void every_task_runs_once(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
        struct pool *pool;
        assert_int_equal(pool_open(n_threads, &pool), STATUS_OK);
        for (int operation = 0; operation < 3000; operation++) {
            struct record record = {.n_threads = n_threads, .linger = operation % 7 == 0};
            int64_t n_tasks = operation % (MOST_TASKS + 1), sum = 0;
            pool_run(pool, n_tasks, note, &record);
            for (int64_t i = 0; i < MOST_TASKS; i++) {
                assert_int_equal(atomic_load(&record.runs[i]), i < n_tasks ? 1 : 0);
                sum += record.parts[i];
            }
            assert_int_equal(sum, n_tasks * (n_tasks + 1) / 2);
            assert_int_equal(atomic_load(&record.bad_thread), 0);
        }
        pool_close(pool);
    }
}

/* Threads that went to sleep are woken, or at least nothing waits for them. */
static void runs_after_a_pause(void **state) {
    (void)state;
    struct pool *pool;
    assert_int_equal(pool_open(3, &pool), STATUS_OK);
    for (int i = 0; i < 20; i++) {
        struct timespec pause = {.tv_nsec = 3000000};
        nanosleep(&pause, NULL);
        struct record record = {.n_threads = 3, .linger = true};
        pool_run(pool, MOST_TASKS, note, &record);
        for (int64_t task = 0; task < MOST_TASKS; task++)
            assert_int_equal(atomic_load(&record.runs[task]), 1);
    }
    pool_close(pool);
}

static void shares_cover_all(void **state) {
    (void)state;
    for (int64_t n = 0; n < 50; n++) {
        for (int64_t n_tasks = 1; n_tasks < 20; n_tasks++) {
            assert_int_equal(pool_share(n, n_tasks, 0), 0);
            assert_int_equal(pool_share(n, n_tasks, n_tasks), n);
            for (int64_t task = 0; task < n_tasks; task++) {
                int64_t share = pool_share(n, n_tasks, task + 1) - pool_share(n, n_tasks, task);
                assert_true(share == n / n_tasks || share == (n + n_tasks - 1) / n_tasks);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(runs_after_a_pause),
        cmocka_unit_test(shares_cover_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
