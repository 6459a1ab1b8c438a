#define PCRE2_CODE_UNIT_WIDTH 8
#include "worker/text/regex.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "worker/text/code_map.h"
#include "worker/text/pattern.h"
#include "worker/text/utf8.h"

enum {
    MAX_KINDS = 256,
    SET_WORDS = (PATTERN_MAX_SETS + 63) / 64,
    /* Vector instructions of compiled patterns read a little around the text. */
    MARGIN = 64,
    JIT_STACK_BYTES = 16 << 20,
    HEAP_KIBIBYTES = 64 << 10
};

struct regex {
    char *literal; /* [literal_size], or NULL */
    size_t literal_size;
    pcre2_code *code;
    struct code_map kinds; /* of characters */
    uint8_t ascii[128];    /* the same, where most text is */
};

struct regex_search {
    const char *text;
    size_t size;
    struct buffer kinds; /* MARGIN zeros, a byte per character, MARGIN zeros */
    size_t n_characters;
    size_t from;         /* where the next match may begin: in characters, or for a literal in bytes */
    size_t character_at; /* the same place twice: … */
    size_t byte_at;      /* … in characters and in bytes */
    bool has_match;      /* there was one, and it ended … */
    size_t match_end;    /* … at this character */
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack; /* NULL until a pattern needs more than a thread has */
};

void regex_free(struct regex *regex) {
    if (!regex)
        return;
    free(regex->literal);
    pcre2_code_free(regex->code);
    code_map_free(&regex->kinds);
    free(regex);
}

/* ---- kinds of characters
 * ----------------------------------------------------------------------------------- */

/* Characters that are in the same sets are of one kind. */
struct partition {
    uint64_t members[MAX_KINDS][SET_WORDS]; /* per kind: bit s set when it is in set s */
    size_t n_kinds;
};

static int compare_codes(const void *left, const void *right) {
    const uint32_t *a = left, *b = right;
    return *a < *b ? -1 : *a > *b;
}

/* Every place where some set begins or ends, in ascending order, and LAST_CODE_POINT + 1. */
static enum status collect_borders(const struct pattern *pattern, uint32_t **out, size_t *n_out) {
    size_t n = 2;
    for (size_t i = 0; i < pattern->n_sets; i++)
        n += 2 * pattern->sets[i].n;
    uint32_t *borders = malloc(n * sizeof *borders);
    RETURN_IF(!borders, STATUS_INTERNAL, "out of host memory for a pattern");
    n = 0;
    borders[n++] = 0;
    borders[n++] = LAST_CODE_POINT + 1;
    for (size_t i = 0; i < pattern->n_sets; i++) {
        for (size_t j = 0; j < pattern->sets[i].n; j++) {
            borders[n++] = pattern->sets[i].ranges[j].first;
            borders[n++] = pattern->sets[i].ranges[j].last + 1;
        }
    }
    qsort(borders, n, sizeof *borders, compare_codes);
    size_t n_different = 1;
    for (size_t i = 1; i < n; i++)
        if (borders[i] != borders[n_different - 1])
            borders[n_different++] = borders[i];
    *out = borders;
    *n_out = n_different;
    return STATUS_OK;
}

static enum status find_kind(struct partition *partition, const uint64_t *members, size_t *kind) {
    for (*kind = 0; *kind < partition->n_kinds; ++*kind)
        if (memcmp(partition->members[*kind], members, sizeof partition->members[0]) == 0)
            return STATUS_OK;
    RETURN_IF(*kind == MAX_KINDS, STATUS_DATA, "distinguishes more than %d kinds of characters", MAX_KINDS);
    memcpy(partition->members[partition->n_kinds++], members, sizeof partition->members[0]);
    return STATUS_OK;
}

static enum status divide(const struct pattern *pattern, const uint32_t *borders, size_t n_borders,
                          struct partition *partition, struct code_map *kinds) {
    size_t next[PATTERN_MAX_SETS] = {0}; /* per set: the first range that does not end before the border */
    /* From above: kind 0, which costs the map no page, is that of the unassigned planes. */
    for (size_t i = 0; i < pattern->n_sets; i++)
        next[i] = pattern->sets[i].n;
    for (size_t border = n_borders - 1; border-- > 0;) {
        uint64_t members[SET_WORDS] = {0};
        for (size_t i = 0; i < pattern->n_sets; i++) {
            const struct char_set *set = &pattern->sets[i];
            while (next[i] > 0 && set->ranges[next[i] - 1].first > borders[border])
                next[i]--;
            if (next[i] > 0 && set->ranges[next[i] - 1].last >= borders[border])
                members[i / 64] |= (uint64_t)1 << i % 64;
        }
        size_t kind;
        TRY(find_kind(partition, members, &kind));
        if (kind > 0)
            TRY(code_map_set(kinds, borders[border], borders[border + 1] - 1, (uint8_t)kind));
    }
    return STATUS_OK;
}

/* The pattern over kinds, for PCRE2. */
static enum status write_over_kinds(const struct pattern *pattern, const struct partition *partition,
                                    struct buffer *out) {
    const struct buffer *in = &pattern->rewritten;
    for (size_t i = 0; i < in->size; i++) {
        if ((uint8_t)in->data[i] != PATTERN_SET_MARK) {
            TRY(buffer_append_byte(out, in->data[i]));
            continue;
        }
        size_t set = (uint8_t)in->data[++i], before = out->size;
        TRY(buffer_append_byte(out, '['));
        for (size_t kind = 0; kind < partition->n_kinds; kind++)
            if (partition->members[kind][set / 64] >> set % 64 & 1)
                TRY(buffer_printf(out, "\\x%02X", (unsigned)kind));
        if (out->size == before + 1) {
            out->size = before;
            TRY(buffer_append_text(out, "(?!)")); /* no character is in the set */
        } else {
            TRY(buffer_append_byte(out, ']'));
        }
    }
    return STATUS_OK;
}

static enum status compile_over_kinds(struct regex *regex, const struct buffer *text) {
    int error;
    PCRE2_SIZE offset;
    regex->code =
        pcre2_compile((PCRE2_SPTR)(text->size ? text->data : ""), text->size,
                      PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, NULL);
    if (!regex->code) {
        char message[160] = "";
        pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
        return status_fail(STATUS_DATA, "is not supported: %s", message);
    }
    /* Where code cannot be generated the pattern is interpreted: the same matches, later. */
    pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);
    return STATUS_OK;
}

static enum status build(struct regex *regex, const struct pattern *pattern) {
    struct partition *partition = calloc(1, sizeof *partition);
    struct buffer over_kinds = {0};
    uint32_t *borders = NULL;
    size_t n_borders = 0;
    enum status result =
        partition ? STATUS_OK : status_fail(STATUS_INTERNAL, "out of host memory for a pattern");
    if (result == STATUS_OK)
        result = code_map_init(&regex->kinds);
    if (result == STATUS_OK)
        result = collect_borders(pattern, &borders, &n_borders);
    if (result == STATUS_OK)
        result = divide(pattern, borders, n_borders, partition, &regex->kinds);
    if (result == STATUS_OK)
        result = write_over_kinds(pattern, partition, &over_kinds);
    if (result == STATUS_OK)
        result = compile_over_kinds(regex, &over_kinds);
    for (uint32_t code = 0; result == STATUS_OK && code < sizeof regex->ascii; code++)
        regex->ascii[code] = code_map_get(&regex->kinds, code);
    free(borders);
    free(partition);
    buffer_free(&over_kinds);
    return result;
}

/* Makes a regex of the pattern, and frees the pattern. */
static enum status finish(enum status result, struct pattern *pattern, struct regex **out) {
    struct regex *regex = calloc(1, sizeof *regex);
    if (result == STATUS_OK)
        result = regex ? build(regex, pattern) : status_fail(STATUS_INTERNAL, "out of host memory");
    pattern_free(pattern);
    free(pattern);
    if (result != STATUS_OK) {
        regex_free(regex);
        regex = NULL;
    }
    *out = regex;
    return result;
}

enum status regex_compile(const char *text, size_t size, struct regex **out) {
    *out = NULL;
    struct pattern *pattern = calloc(1, sizeof *pattern);
    RETURN_IF(!pattern, STATUS_INTERNAL, "out of host memory for a pattern");
    return finish(pattern_read(pattern, text, size), pattern, out);
}

enum status regex_compile_set(struct code_ranges ranges, struct regex **out) {
    *out = NULL;
    struct pattern *pattern = calloc(1, sizeof *pattern);
    RETURN_IF(!pattern, STATUS_INTERNAL, "out of host memory for a pattern");
    struct char_set set = {0};
    enum status result = char_set_add_ranges(&set, ranges);
    if (result == STATUS_OK)
        result = pattern_put_set(pattern, &set);
    else
        char_set_free(&set);
    return finish(result, pattern, out);
}

enum status regex_compile_literal(const char *text, size_t size, struct regex **out) {
    *out = calloc(1, sizeof **out);
    char *copy = malloc(size);
    if (!*out || !copy) {
        free(*out);
        free(copy);
        *out = NULL;
        return status_fail(STATUS_INTERNAL, "out of host memory for a pattern");
    }
    memcpy(copy, text, size);
    (*out)->literal = copy;
    (*out)->literal_size = size;
    return STATUS_OK;
}

/* ---- searching
 * --------------------------------------------------------------------------------------------- */

enum status regex_search_new(struct regex_search **out) {
    struct regex_search *search = calloc(1, sizeof *search);
    *out = search;
    if (search) {
        search->match = pcre2_match_data_create(1, NULL);
        search->context = pcre2_match_context_create(NULL);
    }
    if (!search || !search->match || !search->context) {
        regex_search_free(search);
        *out = NULL;
        return status_fail(STATUS_INTERNAL, "out of host memory for matching");
    }
    pcre2_set_match_limit(search->context, REGEX_MATCH_LIMIT);
    pcre2_set_heap_limit(search->context, HEAP_KIBIBYTES);
    return STATUS_OK;
}

void regex_search_free(struct regex_search *search) {
    if (!search)
        return;
    pcre2_match_data_free(search->match);
    pcre2_match_context_free(search->context);
    if (search->stack)
        pcre2_jit_stack_free(search->stack);
    buffer_free(&search->kinds);
    free(search);
}

enum status regex_begin(const struct regex *regex, struct regex_search *search, const char *text,
                        size_t size) {
    search->text = text;
    search->size = size;
    search->from = search->character_at = search->byte_at = 0;
    search->has_match = false;
    if (regex->literal)
        return STATUS_OK;
    buffer_clear(&search->kinds);
    TRY(buffer_reserve(&search->kinds, size + 2 * MARGIN));
    memset(search->kinds.data, 0, MARGIN);
    uint8_t *kinds = (uint8_t *)search->kinds.data + MARGIN;
    size_t n = 0;
    for (size_t at = 0; at < size;) {
        if ((uint8_t)text[at] < 0x80) {
            kinds[n++] = regex->ascii[(uint8_t)text[at++]];
            continue;
        }
        uint32_t code_point;
        at += utf8_decode(text + at, &code_point);
        kinds[n++] = code_map_get(&regex->kinds, code_point);
    }
    memset(kinds + n, 0, MARGIN);
    search->n_characters = n;
    return STATUS_OK;
}

static size_t character_bytes(uint8_t lead) {
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* The byte at which a character begins; asked for in ascending order. */
static size_t byte_of(struct regex_search *search, size_t character) {
    if (search->n_characters == search->size)
        return character;
    size_t byte = search->byte_at;
    for (size_t i = search->character_at; i < character; i++)
        byte += character_bytes((uint8_t)search->text[byte]);
    search->character_at = character;
    return search->byte_at = byte;
}

static int match_once(const struct regex *regex, struct regex_search *search) {
    return pcre2_match(regex->code, (PCRE2_SPTR)search->kinds.data + MARGIN, search->n_characters,
                       search->from, 0, search->match, search->context);
}

static enum status next_match(const struct regex *regex, struct regex_search *search, size_t *begin,
                              size_t *end, bool *found) {
    int result = match_once(regex, search);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && !search->stack) {
        search->stack = pcre2_jit_stack_create(64 << 10, JIT_STACK_BYTES, NULL);
        RETURN_IF(!search->stack, STATUS_INTERNAL, "out of host memory for matching");
        pcre2_jit_stack_assign(search->context, NULL, search->stack);
        result = match_once(regex, search);
    }
    *found = result >= 0;
    if (result == PCRE2_ERROR_NOMATCH)
        return STATUS_OK;
    if (result < 0) {
        char message[160] = "";
        pcre2_get_error_message(result, (PCRE2_UCHAR *)message, sizeof message);
        return status_fail(STATUS_RECORD, "the tokenizer's pattern gives up on this prompt: %s", message);
    }
    *begin = pcre2_get_ovector_pointer(search->match)[0];
    *end = pcre2_get_ovector_pointer(search->match)[1];
    return STATUS_OK;
}

enum status regex_next(const struct regex *regex, struct regex_search *search, size_t *begin, size_t *end,
                       bool *found) {
    if (regex->literal) {
        const char *at = search->from < search->size
                             ? memmem(search->text + search->from, search->size - search->from,
                                      regex->literal, regex->literal_size)
                             : NULL;
        *found = at != NULL;
        if (at) {
            *begin = (size_t)(at - search->text);
            *end = search->from = *begin + regex->literal_size;
        }
        return STATUS_OK;
    }
    for (;;) {
        *found = false;
        if (search->from > search->n_characters)
            return STATUS_OK;
        TRY(next_match(regex, search, begin, end, found));
        if (!*found)
            return STATUS_OK;
        if (*begin < *end || !search->has_match || search->match_end != *end)
            break;
        search->from++;
    }
    search->from = search->match_end = *end;
    search->has_match = true;
    *begin = byte_of(search, *begin);
    *end = byte_of(search, *end);
    return STATUS_OK;
}

enum status regex_replace(const struct regex *regex, struct regex_search **search, const char *text,
                          size_t size, const char *content, size_t content_size, struct buffer *out) {
    if (!*search)
        TRY(regex_search_new(search));
    buffer_clear(out);
    TRY(buffer_reserve(out, size + 1));
    TRY(regex_begin(regex, *search, text, size));
    size_t copied = 0, begin, end;
    bool found;
    for (;;) {
        TRY(regex_next(regex, *search, &begin, &end, &found));
        if (!found)
            break;
        TRY(buffer_append(out, text + copied, begin - copied));
        TRY(buffer_append(out, content, content_size));
        copied = end;
    }
    return buffer_append(out, text + copied, size - copied);
}
