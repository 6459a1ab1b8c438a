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

/* Brings text[0..size), which depends on nothing around it, into the form. */
static enum status append_form(const struct normal_form *form, const char *text, size_t size,
                               struct buffer *out) {
    utf8proc_option_t options = UTF8PROC_STABLE;
    options |= form->flag & (FORM_NFC | FORM_NFKC) ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    options |= form->flag & (FORM_NFKC | FORM_NFKD) ? UTF8PROC_COMPAT : 0;
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &mapped, options);
    enum status result = n < 0 ? status_fail(STATUS_INTERNAL, "utf8proc: %s", utf8proc_errmsg(n))
                               : buffer_append(out, mapped, (size_t)n);
    free(mapped);
    return result;
}

/* The text is cut into stretches around the characters that the form may change: from the character before,
 * if something may be joined to it, to the last such character in a row. What is between them stays. */
enum status normal_form_apply(const struct normal_form *form, const char *text, size_t size,
                              struct buffer *out, bool *changed) {
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
        TRY(append_form(form, text + begin, end - begin, out));
        copied = at = end;
        is_base = false;
    }
    return *changed ? buffer_append(out, text + copied, size - copied) : STATUS_OK;
}
