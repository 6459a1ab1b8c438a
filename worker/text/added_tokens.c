#include "worker/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "worker/text/unicode_class.h"
#include "worker/text/utf8.h"

void added_tokens_free(struct added_tokens *added) {
    for (size_t i = 0; i < added->n; i++)
        free(added->tokens[i].content);
    free(added->tokens);
    *added = (struct added_tokens){0};
}

enum status added_tokens_add(struct added_tokens *added, const struct added_token *token) {
    if (added->n == added->capacity) {
        size_t capacity = added->capacity ? 2 * added->capacity : 16;
        struct added_token *tokens = realloc(added->tokens, capacity * sizeof *tokens);
        RETURN_IF(!tokens, STATUS_INTERNAL, "out of host memory for added tokens");
        added->tokens = tokens;
        added->capacity = capacity;
    }
    struct added_token *copy = &added->tokens[added->n];
    *copy = *token;
    copy->content = malloc(token->size);
    RETURN_IF(!copy->content, STATUS_INTERNAL, "out of host memory for added tokens");
    memcpy(copy->content, token->content, token->size);
    added->n++;
    return STATUS_OK;
}

static int compare(const void *left, const void *right) {
    const struct added_token *a = left, *b = right;
    if (a->normalized != b->normalized)
        return a->normalized ? 1 : -1;
    int order = memcmp(a->content, b->content, a->size < b->size ? a->size : b->size);
    if (order == 0)
        order = a->size < b->size ? -1 : a->size > b->size;
    return order;
}

void added_tokens_seal(struct added_tokens *added) {
    if (added->n > 1)
        qsort(added->tokens, added->n, sizeof *added->tokens, compare);
    size_t at = 0;
    for (int pass = 0; pass < ADDED_TOKEN_PASSES; pass++) {
        for (size_t byte = 0; byte < 257; byte++) {
            while (byte > 0 && at < added->n && added->tokens[at].normalized == pass &&
                   (uint8_t)added->tokens[at].content[0] == byte - 1)
                at++;
            added->first[pass][byte] = at;
        }
    }
}

static size_t space_at_start(const char *text, size_t size) {
    size_t at = 0, length;
    uint32_t code_point;
    while ((length = utf8_next(text + at, size - at, &code_point)) > 0 && unicode_is_space(code_point))
        at += length;
    return at;
}

/* Where the white space at the end of text begins. */
static size_t space_at_end(const char *text, size_t size) {
    while (size > 0) {
        uint32_t code_point;
        size_t begin = utf8_last(text, size, &code_point);
        if (!unicode_is_space(code_point))
            break;
        size = begin;
    }
    return size;
}

static bool is_in_word(const char *text, size_t size, size_t begin, size_t end) {
    uint32_t code_point;
    if (begin > 0) {
        utf8_last(text, begin, &code_point);
        if (code_ranges_contain(unicode_crate_word(), code_point))
            return true;
    }
    if (end < size) {
        utf8_decode(text + end, &code_point);
        return code_ranges_contain(unicode_crate_word(), code_point);
    }
    return false;
}

/* The first of tokens [low, high) whose byte at depth is at least `byte`. All are longer than depth. */
static size_t lower_bound(const struct added_token *tokens, size_t low, size_t high, size_t depth,
                          unsigned byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)tokens[middle].content[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token of a pass that text[0..size), size >= 1, begins with; NULL when none does. Tokens that
 * share a beginning lie together, the shortest first: each further byte narrows them down. */
static const struct added_token *longest_at(const struct added_tokens *added, int pass, const char *text,
                                            size_t size) {
    const struct added_token *tokens = added->tokens, *longest = NULL;
    size_t low = added->first[pass][(uint8_t)text[0]], high = added->first[pass][(uint8_t)text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        while (low < high && tokens[low].size == depth)
            longest = &tokens[low++];
        if (depth == size || low == high)
            break;
        uint8_t byte = (uint8_t)text[depth];
        low = lower_bound(tokens, low, high, depth, byte);
        high = lower_bound(tokens, low, high, depth, byte + 1u);
    }
    return longest;
}

bool added_tokens_find(const struct added_tokens *added, int pass, const char *text, size_t size, size_t from,
                       size_t taken, struct added_match *match, size_t *search_end) {
    const size_t *first = added->first[pass];
    if (first[0] == first[256])
        return false;
    for (size_t at = from; at < size; at++) {
        uint8_t byte = (uint8_t)text[at];
        if (first[byte] == first[byte + 1])
            continue;
        const struct added_token *token = longest_at(added, pass, text + at, size - at);
        if (!token)
            continue;
        if (token->single_word && is_in_word(text, size, at, at + token->size)) {
            at += token->size - 1;
            continue;
        }
        *search_end = at + token->size;
        match->id = token->id;
        match->begin = at;
        match->end = *search_end;
        if (token->lstrip) {
            size_t begin = space_at_end(text, at);
            match->begin = begin > taken ? begin : taken;
        }
        if (token->rstrip)
            match->end += space_at_start(text + match->end, size - match->end);
        return true;
    }
    return false;
}
