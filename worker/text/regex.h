/* regex: patterns of tokenizer.json, with the meaning that the reference gives them (Oniguruma, Ruby's
 * syntax), on every host.
 *
 * A pattern distinguishes few kinds of characters. Compiling it splits Unicode into those kinds (at most 256)
 * by the tables of unicode_class, and rewrites the pattern into one over kinds: the text is then a string
 * with one byte per character, which PCRE2 searches without knowing of Unicode. Compiled with its JIT where
 * that can be had. Immutable once compiled. */
#ifndef PRESSRUN_WORKER_TEXT_REGEX_H
#define PRESSRUN_WORKER_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/status.h"
#include "worker/base/buffer.h"
#include "worker/text/unicode_class.h"

struct regex;

/* STATUS_DATA: what of the pattern is not supported, and at which character. */
enum status regex_compile(const char *pattern, size_t size, struct regex **out);
/* Finds the text as it stands; size >= 1. */
enum status regex_compile_literal(const char *text, size_t size, struct regex **out);
/* Finds one character of a set. */
enum status regex_compile_set(struct code_ranges set, struct regex **out);
void regex_free(struct regex *regex);

/* Memory of one search at a time; kept between searches. */
struct regex_search;
enum status regex_search_new(struct regex_search **out);
void regex_search_free(struct regex_search *search);

/* Begins to look for matches in text (valid UTF-8), which must stay while the search goes on. */
enum status regex_begin(const struct regex *regex, struct regex_search *search, const char *text,
                        size_t size);
/* The next match, [*begin, *end) in bytes of the text; *found false behind the last. Matches do not overlap,
 * and no empty one follows another match immediately. STATUS_RECORD: the pattern needs more than
 * REGEX_MATCH_LIMIT steps, or more memory than it may have, at one place of this text. */
enum status regex_next(const struct regex *regex, struct regex_search *search, size_t *begin, size_t *end,
                       bool *found);

/* Puts content in the place of every match: *out is text so rewritten, and has an address where nothing is
 * left. *search is made where it is NULL. */
enum status regex_replace(const struct regex *regex, struct regex_search **search, const char *text,
                          size_t size, const char *content, size_t content_size, struct buffer *out);

enum { REGEX_MATCH_LIMIT = 10000000 };

#endif
