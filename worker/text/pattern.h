/* pattern: reads a pattern in Oniguruma's Ruby syntax and rewrites it in PCRE2's, with every character, class
 * and property as a reference to a set of characters. Private to regex.c.
 *
 * What is understood: characters, escapes (\n \r \t \f \v \a \e \xHH \x{H} \uHHHH and punctuation), . ^ $ \A
 * \z \Z \b \B, \s \d \w \h and their complements, \p{..} and \P{..} of general categories, classes with
 * ranges, complements and classes within, groups ( ) (?: ) (?> ) (?<name> ), look-around, alternation, the
 * flags i and m, and quantifiers greedy, lazy and possessive. All else is refused by name. */
#ifndef PRESSRUN_WORKER_TEXT_PATTERN_H
#define PRESSRUN_WORKER_TEXT_PATTERN_H

#include "worker/base/buffer.h"
#include "worker/text/char_set.h"

/* In `rewritten` this byte and the number of a set stand for one character of the set. All else is ASCII. */
enum { PATTERN_SET_MARK = 0xFF, PATTERN_MAX_SETS = 250 };

struct pattern {
    struct buffer rewritten;
    struct char_set sets[PATTERN_MAX_SETS]; /* tidy, all different */
    size_t n_sets;
};

void pattern_free(struct pattern *pattern);
/* Fills a zero-initialised pattern. STATUS_DATA. */
enum status pattern_read(struct pattern *pattern, const char *text, size_t size);
/* A reference to a set, in rewritten. Takes the set, whether it succeeds or not. */
enum status pattern_put_set(struct pattern *pattern, struct char_set *set);

#endif
