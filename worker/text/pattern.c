#include "worker/text/pattern.h"

#include <stdio.h>
#include <string.h>

#include "worker/base/number.h"
#include "worker/text/quote.h"
#include "worker/text/utf8.h"

enum { MAX_DEPTH = 50, LONGEST_FOLD = 3 };

struct reader {
    struct pattern *pattern;
    const char *text;
    size_t size;
    size_t at;
    bool ignore_case;
    bool dot_all;
    int depth;
    uint32_t run[LONGEST_FOLD]; /* the last literals under ignore_case, folded: what a ß could stand for */
    int n_run;
};

void pattern_free(struct pattern *pattern) {
    buffer_free(&pattern->rewritten);
    for (size_t i = 0; i < pattern->n_sets; i++)
        char_set_free(&pattern->sets[i]);
    *pattern = (struct pattern){0};
}

enum status pattern_put_set(struct pattern *pattern, struct char_set *set) {
    char_set_tidy(set);
    size_t index = 0;
    while (index < pattern->n_sets && !char_set_equal(&pattern->sets[index], set))
        index++;
    if (index == PATTERN_MAX_SETS) {
        char_set_free(set);
        return status_fail(STATUS_DATA, "more than %d different sets of characters", PATTERN_MAX_SETS);
    }
    if (index < pattern->n_sets)
        char_set_free(set);
    else
        pattern->sets[pattern->n_sets++] = *set;
    *set = (struct char_set){0};
    TRY(buffer_append_byte(&pattern->rewritten, (char)PATTERN_SET_MARK));
    return buffer_append_byte(&pattern->rewritten, (char)index);
}

static enum status put(struct reader *reader, const char *text) {
    return buffer_append_text(&reader->pattern->rewritten, text);
}

/* "… at character 7: WHAT is not supported" */
static enum status refuse(const struct reader *reader, size_t at, const char *what) {
    size_t n = 1;
    for (size_t i = 0; i < at; i++)
        n += ((uint8_t)reader->text[i] & 0xC0) != 0x80;
    return status_fail(STATUS_DATA, "at character %zu: %s is not supported", n, what);
}

static enum status refuse_quoted(const struct reader *reader, size_t at, size_t end) {
    char shown[QUOTE_BYTES];
    return refuse(reader, at,
                  quote(reader->text + at, (end < reader->size ? end : reader->size) - at, shown));
}

static bool is_next(const struct reader *reader, const char *text) {
    size_t size = strlen(text);
    return reader->size - reader->at >= size && memcmp(reader->text + reader->at, text, size) == 0;
}

static bool skip(struct reader *reader, const char *text) {
    bool found = is_next(reader, text);
    if (found)
        reader->at += strlen(text);
    return found;
}

/* ---- sets
 * -------------------------------------------------------------------------------------------------- */

#define BIT(category) (1u << CATEGORY_##category)

static const struct property {
    const char *name; /* small letters */
    uint32_t categories;
} properties[] = {
    {"l", BIT(LU) | BIT(LL) | BIT(LT) | BIT(LM) | BIT(LO)},
    {"m", BIT(MN) | BIT(MC) | BIT(ME)},
    {"n", BIT(ND) | BIT(NL) | BIT(NO)},
    {"p", BIT(PC) | BIT(PD) | BIT(PS) | BIT(PE) | BIT(PI) | BIT(PF) | BIT(PO)},
    {"s", BIT(SM) | BIT(SC) | BIT(SK) | BIT(SO)},
    {"z", BIT(ZS) | BIT(ZL) | BIT(ZP)},
    {"c", BIT(CC) | BIT(CF) | BIT(CO) | BIT(CS) | BIT(CN)},
    {"lu", BIT(LU)},
    {"ll", BIT(LL)},
    {"lt", BIT(LT)},
    {"lm", BIT(LM)},
    {"lo", BIT(LO)},
    {"mn", BIT(MN)},
    {"mc", BIT(MC)},
    {"me", BIT(ME)},
    {"nd", BIT(ND)},
    {"nl", BIT(NL)},
    {"no", BIT(NO)},
    {"pc", BIT(PC)},
    {"pd", BIT(PD)},
    {"ps", BIT(PS)},
    {"pe", BIT(PE)},
    {"pi", BIT(PI)},
    {"pf", BIT(PF)},
    {"po", BIT(PO)},
    {"sm", BIT(SM)},
    {"sc", BIT(SC)},
    {"sk", BIT(SK)},
    {"so", BIT(SO)},
    {"zs", BIT(ZS)},
    {"zl", BIT(ZL)},
    {"zp", BIT(ZP)},
    {"cc", BIT(CC)},
    {"cf", BIT(CF)},
    {"co", BIT(CO)},
    {"cn", BIT(CN)},
};

/* Behind \p or \P: {Lu}, {^Lu}. The set is added to `set`. */
static enum status read_property(struct reader *reader, size_t begin, bool negated, struct char_set *set) {
    const char *close = NULL;
    if (reader->at < reader->size && reader->text[reader->at] == '{')
        close = memchr(reader->text + reader->at, '}', reader->size - reader->at);
    if (!close)
        return refuse_quoted(reader, begin, begin + 3);
    size_t at = reader->at + 1, end = (size_t)(close - reader->text);
    reader->at = end + 1;
    if (at < end && reader->text[at] == '^') {
        negated = !negated;
        at++;
    }
    char name[4] = "";
    for (size_t i = 0; at + i < end && i < sizeof name - 1; i++)
        name[i] = (char)(reader->text[at + i] | 0x20);
    for (size_t i = 0; i < sizeof properties / sizeof properties[0]; i++)
        if (strlen(properties[i].name) == end - at && strcmp(properties[i].name, name) == 0)
            return char_set_add_categories(set,
                                           negated ? ~properties[i].categories : properties[i].categories);
    return refuse_quoted(reader, begin, end + 1);
}

/* Adds ranges, or what is not in them. */
static enum status add_ranges(struct char_set *set, struct code_ranges ranges, bool negated) {
    struct char_set part = {0};
    enum status result = char_set_add_ranges(&part, ranges);
    if (result == STATUS_OK && negated)
        result = char_set_complement(&part);
    if (result == STATUS_OK)
        result = char_set_add_ranges(set, char_set_ranges(&part));
    char_set_free(&part);
    return result;
}

/* \w, which takes a few characters more where it stands alone than within a class. */
static enum status add_word(struct char_set *set, bool in_class, bool negated) {
    struct char_set word = {0};
    enum status result = char_set_add_ranges(&word, unicode_word());
    if (result == STATUS_OK && !in_class)
        result = char_set_add_ranges(&word, unicode_lone_word());
    char_set_tidy(&word);
    if (result == STATUS_OK)
        result = add_ranges(set, char_set_ranges(&word), negated);
    char_set_free(&word);
    return result;
}

/* \s \S \d \D \w \W \h \H \p{..} \P{..}: reader->at is at the letter. *known false when it is none of
 * them. */
static enum status read_class_escape(struct reader *reader, bool in_class, struct char_set *set,
                                     bool *known) {
    static const struct code_range hexadecimal[] = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
    size_t begin = reader->at - 1;
    char letter = reader->text[reader->at], lower = (char)(letter | 0x20);
    bool negated = letter != lower;
    *known = (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z');
    *known &= lower == 's' || lower == 'd' || lower == 'w' || lower == 'h' || lower == 'p';
    if (!*known)
        return STATUS_OK;
    reader->at++;
    if (reader->ignore_case && lower != 's' && lower != 'd')
        return refuse(reader, begin, "a class of letters under the flag i");
    switch (lower) {
    case 's':
        return add_ranges(set, unicode_space(), negated);
    case 'd':
        return char_set_add_categories(set, negated ? ~BIT(ND) : BIT(ND));
    case 'w':
        return add_word(set, in_class, negated);
    case 'h':
        return add_ranges(set, (struct code_ranges){hexadecimal, 3}, negated);
    default:
        return read_property(reader, begin, negated, set);
    }
}

/* Behind \x or \u: the digits of a code point. */
static enum status read_hex(struct reader *reader, size_t begin, char letter, uint32_t *code_point) {
    bool braces = letter == 'x' && skip(reader, "{");
    size_t most = braces ? 6 : letter == 'x' ? 2 : 4, n = 0;
    *code_point = 0;
    for (int digit;
         n < most && reader->at < reader->size && (digit = number_hex_digit(reader->text[reader->at])) >= 0;
         n++, reader->at++)
        *code_point = *code_point * 16 + (uint32_t)digit;
    bool good = n > 0 && (letter == 'x' || n == 4) && (!braces || skip(reader, "}"));
    /* Two digits without braces are a byte, which above 7F is no character. */
    good &= braces || letter == 'u' || *code_point < 0x80;
    good &= *code_point <= LAST_CODE_POINT && (*code_point < 0xD800 || *code_point > 0xDFFF);
    return good ? STATUS_OK : refuse_quoted(reader, begin, reader->at + 1);
}

/* An escape that stands for one character; reader->at is behind the backslash. */
static enum status read_character_escape(struct reader *reader, bool in_class, uint32_t *code_point) {
    static const char letters[] = "tnrfvae", values[] = "\t\n\r\f\v\a\x1B";
    size_t begin = reader->at - 1;
    reader->at += utf8_decode(reader->text + reader->at, code_point);
    if (*code_point == 'x' || *code_point == 'u')
        return read_hex(reader, begin, (char)*code_point, code_point);
    if (in_class && *code_point == 'b') {
        *code_point = '\b';
        return STATUS_OK;
    }
    const char *known = *code_point < 0x80 ? memchr(letters, (int)*code_point, sizeof letters - 1) : NULL;
    if (known) {
        *code_point = (uint8_t)values[known - letters];
        return STATUS_OK;
    }
    uint32_t lower = *code_point | 0x20;
    if ((lower >= 'a' && lower <= 'z') || (*code_point >= '0' && *code_point <= '9'))
        return refuse_quoted(reader, begin, reader->at);
    return STATUS_OK;
}

static enum status read_class(struct reader *reader, struct char_set *set);

/* One member of a class: a character, a range, an escape or a class. */
static enum status read_member(struct reader *reader, size_t open, struct char_set *set) {
    size_t begin = reader->at;
    if (is_next(reader, "[:"))
        return refuse_quoted(reader, begin, begin + 2);
    if (is_next(reader, "&&"))
        return refuse_quoted(reader, begin, begin + 2);
    if (is_next(reader, "[")) {
        struct char_set inner = {0};
        enum status result = read_class(reader, &inner);
        if (result == STATUS_OK)
            result = char_set_add_ranges(set, char_set_ranges(&inner));
        char_set_free(&inner);
        return result;
    }
    uint32_t first, last;
    if (skip(reader, "\\")) {
        bool known = false;
        RETURN_IF(reader->at == reader->size, STATUS_DATA, "ends with a backslash");
        TRY(read_class_escape(reader, true, set, &known));
        if (known) {
            if (is_next(reader, "-") && !is_next(reader, "-]"))
                return refuse(reader, reader->at, "a range that begins with a class");
            return STATUS_OK;
        }
        TRY(read_character_escape(reader, true, &first));
    } else {
        reader->at += utf8_decode(reader->text + reader->at, &first);
        /* At the beginning and the end of a class a hyphen is itself; in between Oniguruma has cases. */
        if (first == '-' && begin != open && !is_next(reader, "]"))
            return refuse(reader, begin, "a hyphen in the middle of a class, without a backslash,");
    }
    last = first;
    if (is_next(reader, "-") && !is_next(reader, "-]")) {
        reader->at++;
        RETURN_IF(reader->at == reader->size, STATUS_DATA, "has a class without an end");
        if (skip(reader, "\\")) {
            RETURN_IF(reader->at == reader->size, STATUS_DATA, "ends with a backslash");
            TRY(read_character_escape(reader, true, &last));
        } else if (is_next(reader, "[") || is_next(reader, "&&")) {
            return refuse(reader, begin, "a range that ends with a class");
        } else {
            reader->at += utf8_decode(reader->text + reader->at, &last);
        }
        if (last < first)
            return refuse(reader, begin, "a range whose end is before its beginning");
    }
    return char_set_add(set, first, last);
}

/* [...]: reader->at is at the bracket. */
static enum status read_class(struct reader *reader, struct char_set *set) {
    size_t begin = reader->at++;
    if (reader->ignore_case)
        return refuse(reader, begin, "a class under the flag i");
    if (++reader->depth > MAX_DEPTH)
        return refuse(reader, begin, "nesting that deep");
    bool negated = skip(reader, "^");
    size_t open = reader->at;
    if (is_next(reader, "]"))
        return refuse(reader, begin, "a class that begins with ']'");
    while (reader->at < reader->size && reader->text[reader->at] != ']')
        TRY(read_member(reader, open, set));
    RETURN_IF(reader->at == reader->size, STATUS_DATA, "has a class without an end");
    reader->at++;
    reader->depth--;
    char_set_tidy(set);
    return negated ? char_set_complement(set) : STATUS_OK;
}

/* ---- atoms
 * ------------------------------------------------------------------------------------------------- */

static enum status put_ranges(struct reader *reader, struct code_ranges ranges, bool negated) {
    struct char_set set = {0};
    enum status result = add_ranges(&set, ranges, negated);
    if (result == STATUS_OK)
        return pattern_put_set(reader->pattern, &set);
    char_set_free(&set);
    return result;
}

static enum status put_newline(struct reader *reader, bool negated) {
    static const struct code_range newline[] = {{'\n', '\n'}};
    return put_ranges(reader, (struct code_ranges){newline, 1}, negated);
}

/* Under the flag i a ß matches "ss" and the other way round; such characters, and such sequences, are
 * refused. */
static enum status check_folds(struct reader *reader, size_t begin, uint32_t code_point) {
    uint32_t same[4];
    unicode_fold_class(code_point, same);
    if (reader->n_run == LONGEST_FOLD)
        memmove(reader->run, reader->run + 1, (LONGEST_FOLD - 1) * sizeof *reader->run);
    else
        reader->n_run++;
    reader->run[reader->n_run - 1] = same[0];
    size_t n;
    const struct fold_of_several *folds = unicode_folds_of_several(&n);
    for (size_t i = 0; i < n; i++) {
        int length = folds[i].folded[2] ? 3 : 2;
        bool equal = length <= reader->n_run;
        for (int j = 0; equal && j < length; j++) {
            unicode_fold_class(folds[i].folded[j], same);
            equal = same[0] == reader->run[reader->n_run - length + j];
        }
        if (equal || folds[i].code_point == code_point)
            return refuse(reader, begin, "a character that folds to several, under the flag i,");
    }
    return STATUS_OK;
}

static enum status put_literal(struct reader *reader, size_t begin, uint32_t code_point) {
    uint32_t same[4] = {code_point};
    size_t n = 1;
    if (reader->ignore_case) {
        TRY(check_folds(reader, begin, code_point));
        n = unicode_fold_class(code_point, same);
    }
    struct char_set set = {0};
    enum status result = STATUS_OK;
    for (size_t i = 0; i < n && result == STATUS_OK; i++)
        result = char_set_add(&set, same[i], same[i]);
    if (result == STATUS_OK)
        return pattern_put_set(reader->pattern, &set);
    char_set_free(&set);
    return result;
}

/* \b: between a character of a word and none; \B: anywhere else. */
static enum status put_word_boundary(struct reader *reader, bool negated) {
    static const char *const boundary[] = {"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"};
    static const char *const inside[] = {"(?:(?<=", ")(?=", ")|(?<!", ")(?!", "))"};
    const char *const *parts = negated ? inside : boundary;
    for (int i = 0; i < 4; i++) {
        struct char_set word = {0};
        TRY(put(reader, parts[i]));
        TRY(add_word(&word, false, false));
        TRY(pattern_put_set(reader->pattern, &word));
    }
    return put(reader, parts[4]);
}

/* An escape outside classes. *repeats: a quantifier may follow. */
static enum status read_escape(struct reader *reader, bool *repeats) {
    size_t begin = reader->at++;
    RETURN_IF(reader->at == reader->size, STATUS_DATA, "ends with a backslash");
    *repeats = false;
    switch (reader->text[reader->at]) {
    case 'A':
        reader->at++;
        return put(reader, "\\A");
    case 'z':
        reader->at++;
        return put(reader, "\\z");
    case 'Z':
        reader->at++;
        TRY(put(reader, "(?="));
        TRY(put_newline(reader, false));
        return put(reader, "?\\z)");
    case 'b':
    case 'B':
        return put_word_boundary(reader, reader->text[reader->at++] == 'B');
    default:
        break;
    }
    *repeats = true;
    bool known = false;
    struct char_set set = {0};
    enum status result = read_class_escape(reader, false, &set, &known);
    if (result == STATUS_OK && known) {
        reader->n_run = 0;
        return pattern_put_set(reader->pattern, &set);
    }
    char_set_free(&set);
    TRY(result);
    uint32_t code_point;
    TRY(read_character_escape(reader, false, &code_point));
    return put_literal(reader, begin, code_point);
}

static enum status read_alternatives(struct reader *reader, bool in_group);

/* Behind "(?": flags. *to_the_end: "(?i)", which holds to the end of the group around it. */
static enum status read_flags(struct reader *reader, size_t begin, bool *to_the_end) {
    bool on = true;
    for (;; reader->at++) {
        RETURN_IF(reader->at == reader->size, STATUS_DATA, "has a group without an end");
        switch (reader->text[reader->at]) {
        case 'i':
            reader->ignore_case = on;
            break;
        case 'm':
            reader->dot_all = on; /* Ruby's name for it */
            break;
        case '-':
            on = false;
            break;
        case ':':
        case ')':
            *to_the_end = reader->text[reader->at++] == ')';
            return STATUS_OK;
        default:
            return refuse_quoted(reader, begin, reader->at + 1);
        }
    }
}

/* (...): reader->at is at the parenthesis. *repeats: a quantifier may follow. */
static enum status read_group(struct reader *reader, bool *repeats) {
    static const char *const plain[] = {"(?=", "(?!", "(?<=", "(?<!", "(?>", "(?:"};
    size_t begin = reader->at;
    bool ignore_case = reader->ignore_case, dot_all = reader->dot_all, to_the_end = false;
    if (++reader->depth > MAX_DEPTH)
        return refuse(reader, begin, "nesting that deep");
    reader->n_run = 0;
    *repeats = true;
    if (skip(reader, "(?#")) {
        const char *close = memchr(reader->text + reader->at, ')', reader->size - reader->at);
        RETURN_IF(!close, STATUS_DATA, "has a comment without an end");
        return refuse(reader, begin, "a comment");
    }
    size_t kind = 0, n_kinds = sizeof plain / sizeof plain[0];
    while (kind < n_kinds && !skip(reader, plain[kind]))
        kind++;
    if (kind < n_kinds) {
        *repeats = kind >= 4;
        TRY(put(reader, plain[kind]));
    } else if (skip(reader, "(?<")) {
        const char *close = memchr(reader->text + reader->at, '>', reader->size - reader->at);
        if (!close)
            return refuse_quoted(reader, begin, begin + 4);
        reader->at = (size_t)(close - reader->text) + 1;
        TRY(put(reader, "(?:"));
    } else if (skip(reader, "(?")) {
        TRY(read_flags(reader, begin, &to_the_end));
        TRY(put(reader, "(?:"));
    } else {
        reader->at++;
        TRY(put(reader, "(?:"));
    }
    TRY(read_alternatives(reader, true));
    TRY(put(reader, ")"));
    reader->depth--;
    reader->n_run = 0;
    if (to_the_end) /* the parenthesis, or the end, belongs to the group around this one */
        return STATUS_OK;
    RETURN_IF(reader->at == reader->size, STATUS_DATA, "has a group without an end");
    reader->at++;
    reader->ignore_case = ignore_case;
    reader->dot_all = dot_all;
    return STATUS_OK;
}

/* ---- quantifiers
 * ------------------------------------------------------------------------------------------- */

/* {n} {n,} {n,m} {,m}: reader->at is at the brace. */
static enum status read_interval(struct reader *reader) {
    enum { MOST = 65535 };
    size_t begin = reader->at++;
    unsigned bounds[2] = {0, 0};
    bool has[2] = {false, false}, has_comma = false;
    for (int i = 0; i < 2; i++) {
        for (;
             reader->at < reader->size && reader->text[reader->at] >= '0' && reader->text[reader->at] <= '9';
             reader->at++) {
            bounds[i] = bounds[i] * 10 + (unsigned)(reader->text[reader->at] - '0');
            has[i] = true;
            if (bounds[i] > MOST)
                return refuse(reader, begin, "more than 65535 repetitions");
        }
        if (i == 0 && !(has_comma = skip(reader, ",")))
            break;
    }
    if (!skip(reader, "}") || (!has[0] && !has[1]) || (has[1] && bounds[1] < bounds[0]))
        return refuse(reader, begin, "a brace that begins no {n}, {n,}, {n,m} or {,m}");
    /* Ruby reads {n}? as an optional {n}, and {n,m}+ as a repeated {n,m}. */
    if (is_next(reader, "+") || (!has_comma && is_next(reader, "?")))
        return refuse_quoted(reader, begin, reader->at + 1);
    TRY(buffer_printf(&reader->pattern->rewritten, "{%u", bounds[0]));
    if (has_comma)
        TRY(put(reader, ","));
    if (has[1])
        TRY(buffer_printf(&reader->pattern->rewritten, "%u", bounds[1]));
    TRY(put(reader, "}"));
    return skip(reader, "?") ? put(reader, "?") : STATUS_OK;
}

static enum status read_quantifier(struct reader *reader, bool repeats) {
    if (reader->at == reader->size || !strchr("*+?{", reader->text[reader->at]) || !reader->text[reader->at])
        return STATUS_OK;
    size_t begin = reader->at;
    reader->n_run = 0;
    if (!repeats)
        return refuse(reader, begin, "a quantifier behind what has no width");
    if (reader->text[reader->at] == '{') {
        TRY(read_interval(reader));
    } else {
        TRY(buffer_append_byte(&reader->pattern->rewritten, reader->text[reader->at++]));
        if (skip(reader, "?"))
            TRY(put(reader, "?"));
        else if (skip(reader, "+"))
            TRY(put(reader, "+"));
    }
    if (reader->at < reader->size && reader->text[reader->at] && strchr("*+?{", reader->text[reader->at]))
        return refuse(reader, reader->at, "a quantifier behind a quantifier");
    return STATUS_OK;
}

static enum status read_atom(struct reader *reader, bool *repeats) {
    size_t begin = reader->at;
    *repeats = true;
    switch (reader->text[reader->at]) {
    case '(':
        return read_group(reader, repeats);
    case '[': {
        struct char_set set = {0};
        enum status result = read_class(reader, &set);
        if (result == STATUS_OK)
            return pattern_put_set(reader->pattern, &set);
        char_set_free(&set);
        return result;
    }
    case '\\':
        return read_escape(reader, repeats);
    case '.':
        reader->at++;
        reader->n_run = 0;
        return reader->dot_all ? put_ranges(reader, (struct code_ranges){NULL, 0}, true)
                               : put_newline(reader, true);
    case '^': /* at the beginning of any line, but for an empty one at the very end */
        reader->at++;
        *repeats = false;
        TRY(put(reader, "(?:\\A|(?<="));
        TRY(put_newline(reader, false));
        return put(reader, ")(?!\\z))");
    case '$': /* at the end of any line */
        reader->at++;
        *repeats = false;
        TRY(put(reader, "(?:\\z|(?="));
        TRY(put_newline(reader, false));
        return put(reader, "))");
    case '*':
    case '+':
    case '?':
    case '{':
        return refuse(reader, begin, "a quantifier with nothing before it");
    default: {
        uint32_t code_point;
        reader->at += utf8_decode(reader->text + reader->at, &code_point);
        return put_literal(reader, begin, code_point);
    }
    }
}

/* Up to the end of the pattern, or of the group, whose parenthesis is left. */
static enum status read_alternatives(struct reader *reader, bool in_group) {
    while (reader->at < reader->size) {
        if (reader->text[reader->at] == ')') {
            if (!in_group)
                return refuse(reader, reader->at, "a ')' that closes nothing");
            return STATUS_OK;
        }
        if (skip(reader, "|")) {
            reader->n_run = 0;
            TRY(put(reader, "|"));
            continue;
        }
        bool repeats;
        TRY(read_atom(reader, &repeats));
        TRY(read_quantifier(reader, repeats));
    }
    return STATUS_OK;
}

enum status pattern_read(struct pattern *pattern, const char *text, size_t size) {
    RETURN_IF(!utf8_valid(text, size, NULL), STATUS_DATA, "is not valid UTF-8");
    struct reader reader = {.pattern = pattern, .text = text, .size = size};
    return read_alternatives(&reader, false);
}
