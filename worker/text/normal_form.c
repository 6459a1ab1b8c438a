#include "worker/text/normal_form.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "worker/text/utf8.h"

enum status normal_form_init(struct normal_form *form, int flag) {
    *form = (struct normal_form){.flag = flag};
    TRY(code_map_init(&form->flags));
    size_t n;
    const struct form_range *ranges = unicode_forms(&n);
    for (size_t i = 0; i < n; i++)
        TRY(code_map_set(&form->flags, ranges[i].first, ranges[i].last, ranges[i].flags));
    return STATUS_OK;
}

void normal_form_free(struct normal_form *form) {
    code_map_free(&form->flags);
    *form = (struct normal_form){0};
}

/* Sorts the marks of a row, those with a combining class, by it: equal ones keep their order (Unicode
 * Standard, section 3.11). A key is class, place, character; so n log n for any row. */
static int compare_keys(const void *left, const void *right) {
    const uint64_t *a = left, *b = right;
    return *a < *b ? -1 : *a > *b;
}

static uint64_t key_of(utf8proc_int32_t code, size_t place) {
    return (uint64_t)utf8proc_get_property(code)->combining_class << 56 | (uint64_t)place << 21 |
           (uint64_t)code;
}

static enum status sort_marks(utf8proc_int32_t *codes, size_t n, struct buffer *keys_buffer) {
    buffer_clear(keys_buffer);
    TRY(buffer_reserve(keys_buffer, n * sizeof(uint64_t)));
    uint64_t *keys = (uint64_t *)keys_buffer->data;
    for (size_t begin = 0; begin < n;) {
        size_t end = begin;
        bool is_sorted = true;
        for (; end < n; end++) {
            keys[end] = key_of(codes[end], end);
            if (keys[end] >> 56 == 0)
                break;
            is_sorted &= end == begin || keys[end - 1] < keys[end];
        }
        if (!is_sorted) {
            qsort(keys + begin, end - begin, sizeof *keys, compare_keys);
            for (size_t i = begin; i < end; i++)
                codes[i] = (utf8proc_int32_t)(keys[i] & 0x1FFFFF);
        }
        begin = end + 1;
    }
    return STATUS_OK;
}

/* Brings text[0..size), which depends on nothing around it, into the form. */
static enum status append_form(const struct normal_form *form, struct normal_form_scratch *scratch,
                               const char *text, size_t size, struct buffer *out) {
    enum { LONGEST = 32 }; /* characters that one is decomposed to; the longest has 18 */
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    options |= form->flag & (FORM_NFKC | FORM_NFKD) ? UTF8PROC_COMPAT : 0;
    struct buffer *buffer = &scratch->codes;
    buffer_clear(buffer);
    size_t n = 0;
    for (size_t at = 0; at < size;) {
        uint32_t code_point;
        at += utf8_decode(text + at, &code_point);
        buffer->size = n * sizeof(utf8proc_int32_t);
        TRY(buffer_reserve(buffer, LONGEST * sizeof(utf8proc_int32_t)));
        utf8proc_ssize_t n_more = utf8proc_decompose_char(
            (utf8proc_int32_t)code_point, (utf8proc_int32_t *)buffer->data + n, LONGEST, options, NULL);
        RETURN_IF(n_more < 0 || n_more > LONGEST, STATUS_INTERNAL, "utf8proc cannot decompose U+%04X",
                  (unsigned)code_point);
        n += (size_t)n_more;
    }
    utf8proc_int32_t *codes = (utf8proc_int32_t *)buffer->data;
    TRY(sort_marks(codes, n, &scratch->keys));
    if (form->flag & (FORM_NFC | FORM_NFKC))
        n = (size_t)utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    TRY(buffer_reserve(out, 4 * n));
    for (size_t i = 0; i < n; i++)
        out->size += utf8_put((uint32_t)codes[i], out->data + out->size);
    return STATUS_OK;
}

void normal_form_scratch_free(struct normal_form_scratch *scratch) {
    buffer_free(&scratch->codes);
    buffer_free(&scratch->keys);
}

/* The text is cut into stretches around the characters that the form may change: from the character before,
 * if something may be joined to it, to the last such character in a row. What is between them stays. */
enum status normal_form_apply(const struct normal_form *form, struct normal_form_scratch *scratch,
                              const char *text, size_t size, struct buffer *out, bool *changed) {
    size_t copied = 0, before = 0; /* the character before begins there … */
    bool is_base = false;          /* … and may take up what follows */
    *changed = false;
    for (size_t at = 0; at < size;) {
        if ((uint8_t)text[at] < 0x80) { /* never changed, always a base */
            before = at++;
            is_base = true;
            continue;
        }
        uint32_t code_point;
        size_t length = utf8_decode(text + at, &code_point);
        uint8_t flags = code_map_get(&form->flags, code_point);
        if (!(flags & form->flag)) {
            before = at;
            is_base = flags & FORM_BASE;
            at += length;
            continue;
        }
        if (!*changed)
            buffer_clear(out);
        *changed = true;
        size_t begin = is_base ? before : at, end = at + length;
        while (end < size && (uint8_t)text[end] >= 0x80) {
            length = utf8_decode(text + end, &code_point);
            if (!(code_map_get(&form->flags, code_point) & form->flag))
                break;
            end += length;
        }
        TRY(buffer_append(out, text + copied, begin - copied));
        TRY(append_form(form, scratch, text + begin, end - begin, out));
        copied = at = end;
        is_base = false;
    }
    return *changed ? buffer_append(out, text + copied, size - copied) : STATUS_OK;
}
