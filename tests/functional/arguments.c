#include "tests/functional/arguments.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments arguments_read(int argc, char **argv) {
    struct arguments arguments = {.device = argc > 1 ? argv[1] : "cpu", .patterns = argc > 2 ? argv[2] : "*"};
    for (int i = 3; i < argc; i++) {
        bool *word = strcmp(argv[i], "small") == 0  ? &arguments.is_small
                     : strcmp(argv[i], "list") == 0 ? &arguments.is_list
                                                    : NULL;
        if (!word || *word) {
            fprintf(stderr, "usage: %s [cpu|cuda [PATTERNS [small] [list]]]\n", argv[0]);
            exit(ARGUMENTS_WRONG);
        }
        *word = true;
    }
    /* What a sanitizer says of a case stands behind the case's name, and what a killed program said is there.
     */
    setvbuf(stdout, NULL, _IOLBF, 0);
    return arguments;
}

bool arguments_match(const struct arguments *arguments, const char *name) {
    bool matches = false;
    char *patterns = strdup(arguments->patterns), *rest = patterns;
    for (char *pattern; !matches && (pattern = strsep(&rest, "|")) != NULL;)
        matches = fnmatch(pattern, name, 0) == 0;
    free(patterns);
    return matches;
}

int arguments_matched_nothing(const struct arguments *arguments, const char *program) {
    fprintf(stderr, "%s: no case matches '%s'; the third argument `list` shows their names\n", program,
            arguments->patterns);
    return ARGUMENTS_WRONG;
}
