#include "tests/unit/bad_row.h"

#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/temp_folder.h"

int n_failed;

void check_row(const char *table, size_t row, enum status actual, enum status expected, const char *pattern) {
    char message[2100] = "";
    const char *folder = temp_path(""), *from = actual == STATUS_OK ? "" : status_message();
    for (size_t n = 0, length = strlen(folder); *from && n + 1 < sizeof message;) {
        if (strncmp(from, folder, length) == 0)
            from += length;
        else
            message[n++] = *from++;
    }
    regex_t compiled;
    assert_int_equal(regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool matches =
        actual == expected && regexec(&compiled, message, 0, NULL, 0) == 0 && !strchr(message, '\n');
    regfree(&compiled);
    if (!matches) {
        print_error("%s row %zu: status %d \"%s\", expected %d matching \"%s\"\n", table, row, (int)actual,
                    message, (int)expected, pattern);
        n_failed++;
    }
}
