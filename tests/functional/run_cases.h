/* run_cases: cmocka tests, of which the program's arguments choose some. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_RUN_CASES_H
#define PRESSRUN_TESTS_FUNCTIONAL_RUN_CASES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/functional/arguments.h"

/* Runs, or lists, those of the n tests that the arguments choose, which move to the front. Returns the exit
 * code: how many failed, or ARGUMENTS_WRONG where there is none. */
int run_cases(const struct arguments *arguments, const char *group, struct CMUnitTest *tests, size_t n);

#endif
