/* bad_row: a row of a table of bad files: the status and message that they are refused with, or that they are
 * accepted. */
#ifndef PRESSRUN_TESTS_UNIT_BAD_ROW_H
#define PRESSRUN_TESTS_UNIT_BAD_ROW_H

#include <stddef.h>

#include "kernels/status.h"

/* Rows that were not as the table says; a test sets it to 0 and looks at it behind its last row. */
extern int n_failed;

/* Compares what happened with the row: the status, and the message with an extended regular expression, the
 * temporary folder cut from it. Counts and prints a difference. */
void check_row(const char *table, size_t row, enum status actual, enum status expected, const char *pattern);

#endif
