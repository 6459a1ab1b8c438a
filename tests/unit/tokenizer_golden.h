/* tokenizer_golden: a tokenizer beside the golden data that reference/golden_tokenizers.py wrote for it. The
 * format is in tests/golden/README.md. */
#ifndef PRESSRUN_TESTS_UNIT_TOKENIZER_GOLDEN_H
#define PRESSRUN_TESTS_UNIT_TOKENIZER_GOLDEN_H

/* Opens folder/tokenizer.json and runs every line of the golden file on it: texts to ids, ids to text token
 * by token, and the digests of all code points. Prints `name`, case, expected and actual of the first lines
 * that differ, then fails the test. */
void tokenizer_golden_check(const char *name, const char *folder, const char *golden_path);

#endif
