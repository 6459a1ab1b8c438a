/* status: messages, cut and put in front of one another; failure: the first of several stays, with its
 * message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "kernels/status.h"

static void test_messages(void **state) {
    (void)state;
    assert_int_equal(status_fail(STATUS_IO, "%d of %s", 3, "four"), STATUS_IO);
    assert_string_equal(status_message(), "3 of four");
    assert_int_equal(status_context(STATUS_DATA, "line %d: ", 7), STATUS_DATA);
    assert_string_equal(status_message(), "line 7: 3 of four");
    status_fail(STATUS_IO, "(%s)", status_message());
    assert_string_equal(status_message(), "(line 7: 3 of four)");
    char long_text[3000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    status_fail(STATUS_IO, "%s", long_text);
    assert_int_equal(strlen(status_message()), STATUS_MESSAGE_BYTES - 1);
    status_context(STATUS_IO, "a");
    assert_int_equal(strlen(status_message()), STATUS_MESSAGE_BYTES - 1);
    assert_memory_equal(status_message(), "axx", 3);
}

static void test_first_failure_stays(void **state) {
    (void)state;
    struct failure failure = {0};
    status_fail(STATUS_IO, "before");
    failure_note(&failure, STATUS_OK);
    assert_int_equal(failure_result(&failure), STATUS_OK);
    assert_string_equal(status_message(), "before");
    failure_note(&failure, status_fail(STATUS_DATA, "first"));
    failure_note(&failure, STATUS_OK);
    failure_note(&failure, status_fail(STATUS_IO, "second"));
    for (int i = 0; i < 2; i++) {
        status_fail(STATUS_IO, "other");
        assert_int_equal(failure_result(&failure), STATUS_DATA);
        assert_string_equal(status_message(), "first");
    }
}

static void *fail_elsewhere(void *argument) {
    failure_note(argument, status_fail(STATUS_NO_FIT, "elsewhere"));
    return NULL;
}

static void test_failure_of_another_thread(void **state) {
    (void)state;
    struct failure failure = {0};
    status_fail(STATUS_IO, "here");
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &failure), 0);
    pthread_join(thread, NULL);
    assert_string_equal(status_message(), "here");
    assert_int_equal(failure_result(&failure), STATUS_NO_FIT);
    assert_string_equal(status_message(), "elsewhere");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_first_failure_stays),
        cmocka_unit_test(test_failure_of_another_thread),
    };
    return cmocka_run_group_tests_name("status", tests, NULL, NULL);
}
