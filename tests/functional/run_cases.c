#include "tests/functional/run_cases.h"

#include <stdio.h>

int run_cases(const struct arguments *arguments, const char *group, struct CMUnitTest *tests, size_t n) {
    size_t n_chosen = 0;
    for (size_t i = 0; i < n; i++)
        if (arguments_match(arguments, tests[i].name))
            tests[n_chosen++] = tests[i];
    if (n_chosen == 0)
        return arguments_matched_nothing(arguments, group);
    for (size_t i = 0; arguments->is_list && i < n_chosen; i++)
        printf("%s\n", tests[i].name);
    /* Not the count: 77 would be taken for skipped, 256 for none. */
    return arguments->is_list ? 0 : _cmocka_run_group_tests(group, tests, n_chosen, NULL, NULL) != 0;
}
