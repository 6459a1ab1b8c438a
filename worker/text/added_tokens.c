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
    struct added_token *tokens = realloc(added->tokens, (added->n + 1) * sizeof *tokens);
    RETURN_IF(!tokens, STATUS_INTERNAL, "out of host memory for added tokens");
    added->tokens = tokens;
    struct added_token *copy = &tokens[added->n];
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
    if (a->size != b->size)
        return a->size > b->size ? -1 : 1;
    return memcmp(a->content, b->content, a->size);
}

void added_tokens_seal(struct added_tokens *added) {
    if (added->n > 1)
        qsort(added->tokens, added->n, sizeof *added->tokens, compare);
    for (size_t i = 0; i < added->n; i++) {
        if (!added->tokens[i].normalized)
            added->n_first_pass = i + 1;
        added->begins[added->tokens[i].normalized][(uint8_t)added->tokens[i].content[0]] = true;
    }
}

static size_t space_at_start(const char *text, size_t size) {
    size_t at = 0, length;
    uint32_t code_point;
    while ((length = utf8_next(text + at, size - at, &code_point)) > 0 &&
           unicode_class_of(code_point) == CLASS_SPACE)
        at += length;
    return at;
}

/* Where the white space at the end of text begins. */
static size_t space_at_end(const char *text, size_t size) {
    while (size > 0) {
        size_t begin = size - 1;
        while (begin > 0 && ((uint8_t)text[begin] & 0xC0) == 0x80)
            begin--;
        uint32_t code_point;
        if (utf8_next(text + begin, size - begin, &code_point) != size - begin ||
            unicode_class_of(code_point) != CLASS_SPACE)
            break;
        size = begin;
    }
    return size;
}

bool added_tokens_find(const struct added_tokens *added, int pass, const char *text, size_t size, size_t from,
                       size_t taken, struct added_match *match, size_t *search_end) {
    size_t first = pass == 0 ? 0 : added->n_first_pass;
    size_t end = pass == 0 ? added->n_first_pass : added->n;
    if (first == end)
        return false;
    for (size_t at = from; at < size; at++) {
        if (!added->begins[pass][(uint8_t)text[at]])
            continue;
        for (size_t i = first; i < end; i++) {
            const struct added_token *token = &added->tokens[i];
            if (token->size > size - at || memcmp(text + at, token->content, token->size) != 0)
                continue;
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
    }
    return false;
}
