/* Published tokenizer files, which are not part of the repository: each folder NAME of $PRESSRUN_TOKENIZERS
 * that holds tokenizer.json, beside the tokenizer_golden.jsonl that `python reference/golden_tokenizers.py
 * --published DIR` wrote there. Skipped where the variable is not set. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/tokenizer_golden.h"
#include "worker/base/file.h"

enum { MAX_FOLDERS = 64, SKIPPED = 77 };

static const char *root;

static void test_published(void **state) {
    const char *name = *state;
    char folder[4096], golden[4200];
    snprintf(folder, sizeof folder, "%s/%s", root, name);
    snprintf(golden, sizeof golden, "%s/tokenizer_golden.jsonl", folder);
    if (!file_exists(golden))
        fail_msg("%s is missing; make it with: python reference/golden_tokenizers.py --published %s", golden,
                 root);
    tokenizer_golden_check(name, folder, golden);
}

static int holds_tokenizer(const struct dirent *entry) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/tokenizer.json", root, entry->d_name);
    return entry->d_name[0] != '.' && file_exists(path);
}

int main(void) {
    root = getenv("PRESSRUN_TOKENIZERS");
    if (!root) {
        puts("PRESSRUN_TOKENIZERS is not set to a folder of published tokenizers");
        return SKIPPED;
    }
    struct dirent **folders;
    int n = scandir(root, &folders, holds_tokenizer, alphasort);
    if (n <= 0 || n > MAX_FOLDERS) {
        fprintf(stderr, "%s: no folder there has a tokenizer.json, or more than %d have\n", root,
                MAX_FOLDERS);
        return 1;
    }
    struct CMUnitTest tests[MAX_FOLDERS];
    for (int i = 0; i < n; i++)
        tests[i] = (struct CMUnitTest){folders[i]->d_name, test_published, NULL, NULL, folders[i]->d_name};
    /* The macro cmocka_run_group_tests_name takes the size of an array; this one is filled in part. */
    int result = _cmocka_run_group_tests("tokenizer_published", tests, (size_t)n, NULL, NULL);
    for (int i = 0; i < n; i++)
        free(folders[i]);
    free(folders);
    return result;
}
