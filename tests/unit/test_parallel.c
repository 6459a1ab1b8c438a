/* parallel: every task runs once, with threads and without. background: a call beside its caller comes back
 * with its result and its message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "worker/base/background.h"
#include "worker/base/parallel.h"

enum { MOST_TASKS = 100 };

struct record {
    atomic_int runs[MOST_TASKS];
    atomic_int strangers; /* tasks that another thread than the caller ran */
    pthread_t caller;
    int64_t parts[MOST_TASKS]; /* plain: written by tasks, read after parallel_run */
};

static void note(void *argument, int64_t task) {
    struct record *record = argument;
    atomic_fetch_add(&record->runs[task], 1);
    if (!pthread_equal(pthread_self(), record->caller))
        atomic_fetch_add(&record->strangers, 1);
    record->parts[task] = task + 1;
    sched_yield();
}

static void every_task_runs_once(void **state) {
    (void)state;
    for (int64_t n_tasks = 0; n_tasks <= MOST_TASKS; n_tasks++) {
        for (int threads = 0; threads < 2; threads++) {
            struct record record;
            memset(&record, 0, sizeof record);
            record.caller = pthread_self();
            parallel_run(n_tasks, threads, note, &record);
            for (int64_t i = 0; i < MOST_TASKS; i++) {
                assert_int_equal(atomic_load(&record.runs[i]), i < n_tasks ? 1 : 0);
                assert_int_equal(record.parts[i], i < n_tasks ? i + 1 : 0);
            }
            if (!threads)
                assert_int_equal(atomic_load(&record.strangers), 0);
        }
    }
}

static enum status fail_at_odd(void *argument) {
    int *number = argument;
    return ++*number % 2 ? status_fail(STATUS_DATA, "%d is odd", *number) : STATUS_OK;
}

static void a_call_comes_back_with_its_message(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        int number = i;
        struct background background;
        background_begin(&background, fail_at_odd, &number);
        status_fail(STATUS_IO, "the caller's own");
        assert_int_equal(background_join(&background), i % 2 ? STATUS_OK : STATUS_DATA);
        assert_int_equal(number, i + 1);
        char expected[32];
        snprintf(expected, sizeof expected, "%d is odd", i + 1);
        assert_string_equal(status_message(), i % 2 ? "the caller's own" : expected);
        assert_int_equal(background_join(&background), STATUS_OK); /* nothing is left of it */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_task_runs_once),
                                       cmocka_unit_test(a_call_comes_back_with_its_message)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
