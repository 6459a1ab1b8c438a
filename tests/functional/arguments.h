/* arguments: what every program of tests/functional is told:
 *
 *     PROGRAM [cpu|cuda [PATTERNS [small] [list]]]
 *
 * PATTERNS are shell patterns of case names with '|' between them. A name that nothing matches is an error: a
 * misspelt one must not pass. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_ARGUMENTS_H
#define PRESSRUN_TESTS_FUNCTIONAL_ARGUMENTS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ARGUMENTS_WRONG = 64, ARGUMENTS_SKIPPED = 77 }; /* exit codes */

struct arguments {
    const char *device;   /* "cpu" when absent */
    const char *patterns; /* "*" when absent */
    /* The same cases with less in them, and operations launched one by one: for sanitizers, which slow a
     * kernel down a thousand times and lose track of recorded steps. Least is in float32: its products read
     * shared memory for every k, which race detection pays for, and of the shipped model's cases only
     * the logits are left there. Every kernel is launched by some case all the same. */
    bool is_small;
    bool is_list; /* names of cases are printed, a line each, and none runs */
};

/* Prints what is wrong and ends the program where an argument behind PATTERNS is neither of the two. */
struct arguments arguments_read(int argc, char **argv);

/* Whether the case is among those to run. */
bool arguments_match(const struct arguments *arguments, const char *name);

/* Says on standard error that no case matches. Returns ARGUMENTS_WRONG. */
int arguments_matched_nothing(const struct arguments *arguments, const char *program);

#ifdef __cplusplus
}
#endif

#endif
