#include "worker/text/normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "worker/text/utf8.h"

enum step_kind { STEP_FORM, STEP_LOWERCASE, STEP_REPLACE, STEP_PREPEND, STEP_STRIP, STEP_STRIP_ACCENTS };

struct normalizer_step {
    enum step_kind kind;
    char name[16];           /* its type in tokenizer.json */
    struct normal_form form; /* STEP_FORM */
    struct regex *regex;     /* STEP_REPLACE: what is replaced … */
    struct buffer content;   /* … by this; STEP_PREPEND: what is put in front */
    bool strips_left;        /* STEP_STRIP */
    bool strips_right;
};

static const char supported[] =
    "null, NFC, NFD, NFKC, NFKD, Lowercase, Replace, Prepend, Strip, StripAccents, Sequence";

static enum status read_replace(struct normalizer_step *step, const struct component *component) {
    const char *content;
    size_t size;
    TRY(component_require_pattern(component, &step->regex));
    TRY(component_require_string(component, "content", &content, &size));
    return buffer_append(&step->content, content, size);
}

static enum status read_step(void *argument, const struct component *component) {
    static const struct {
        const char *type;
        enum step_kind kind;
        int form;
    } types[] = {
        {"NFC", STEP_FORM, FORM_NFC},
        {"NFD", STEP_FORM, FORM_NFD},
        {"NFKC", STEP_FORM, FORM_NFKC},
        {"NFKD", STEP_FORM, FORM_NFKD},
        {"Lowercase", STEP_LOWERCASE, 0},
        {"Replace", STEP_REPLACE, 0},
        {"Prepend", STEP_PREPEND, 0},
        {"Strip", STEP_STRIP, 0},
        {"StripAccents", STEP_STRIP_ACCENTS, 0},
    };
    struct normalizer *normalizer = argument;
    size_t type = 0, n_types = sizeof types / sizeof types[0];
    while (type < n_types && !component_has_type(component, types[type].type))
        type++;
    if (type == n_types)
        return component_refuse(component, supported);
    RETURN_IF(normalizer->n_steps == NORMALIZER_MAX_STEPS, STATUS_DATA, "%s: %s: more than %d normalizers",
              component->path, component->where, NORMALIZER_MAX_STEPS);
    struct normalizer_step *step = &normalizer->steps[normalizer->n_steps++];
    step->kind = types[type].kind;
    strcpy(step->name, types[type].type);
    const char *content;
    size_t size;
    switch (step->kind) {
    case STEP_FORM:
        return normal_form_init(&step->form, types[type].form);
    case STEP_REPLACE:
        return read_replace(step, component);
    case STEP_PREPEND:
        TRY(component_require_string(component, "prepend", &content, &size));
        return buffer_append(&step->content, content, size);
    case STEP_STRIP:
        TRY(component_require_bool(component, "strip_left", &step->strips_left));
        return component_require_bool(component, "strip_right", &step->strips_right);
    default:
        return STATUS_OK;
    }
}

enum status normalizer_read(struct normalizer *normalizer, const struct component *component) {
    normalizer->steps = calloc(NORMALIZER_MAX_STEPS, sizeof *normalizer->steps);
    RETURN_IF(!normalizer->steps, STATUS_INTERNAL, "out of host memory");
    return component_each(component, "normalizers", read_step, normalizer);
}

void normalizer_free(struct normalizer *normalizer) {
    for (size_t i = 0; i < normalizer->n_steps; i++) {
        normal_form_free(&normalizer->steps[i].form);
        regex_free(normalizer->steps[i].regex);
        buffer_free(&normalizer->steps[i].content);
    }
    free(normalizer->steps);
    *normalizer = (struct normalizer){0};
}

enum status normalizer_describe(const struct normalizer *normalizer, struct buffer *out) {
    for (size_t i = 0; i < normalizer->n_steps; i++)
        TRY(buffer_printf(out, "%s%s", i ? ", " : "", normalizer->steps[i].name));
    return STATUS_OK;
}

void normalizer_scratch_free(struct normalizer_scratch *scratch) {
    buffer_free(&scratch->texts[0]);
    buffer_free(&scratch->texts[1]);
    normal_form_scratch_free(&scratch->form);
    regex_search_free(scratch->search);
    *scratch = (struct normalizer_scratch){0};
}

static enum status lowercase(const char *text, size_t size, struct buffer *out) {
    buffer_clear(out);
    TRY(buffer_reserve(out, size));
    for (size_t at = 0; at < size;) {
        uint32_t code_point, lower[2];
        at += utf8_decode(text + at, &code_point);
        size_t n = unicode_lowercase(code_point, lower);
        for (size_t i = 0; i < n; i++) {
            char bytes[4];
            TRY(buffer_append(out, bytes, utf8_put(lower[i], bytes)));
        }
    }
    return STATUS_OK;
}

/* Marks are dropped; what is composed with one stays (NFD stands before it where that is not wanted). */
static enum status strip_accents(const char *text, size_t size, struct buffer *out) {
    const struct code_ranges marks = unicode_mark();
    buffer_clear(out);
    TRY(buffer_reserve(out, size));
    for (size_t at = 0; at < size;) {
        uint32_t code_point;
        size_t length = utf8_decode(text + at, &code_point);
        if (code_point < marks.ranges[0].first || !code_ranges_contain(marks, code_point))
            TRY(buffer_append(out, text + at, length));
        at += length;
    }
    return STATUS_OK;
}

/* White space at the ends is cut off, without copying. */
static void strip(const struct normalizer_step *step, const char **text, size_t *size) {
    uint32_t code_point;
    while (step->strips_left && *size > 0) {
        size_t length = utf8_decode(*text, &code_point);
        if (!unicode_is_space(code_point))
            break;
        *text += length;
        *size -= length;
    }
    while (step->strips_right && *size > 0) {
        size_t begin = utf8_last(*text, *size, &code_point);
        if (!unicode_is_space(code_point))
            break;
        *size = begin;
    }
}

enum status normalizer_apply(const struct normalizer *normalizer, struct normalizer_scratch *scratch,
                             const char *text, size_t size, const char **out, size_t *out_size) {
    int next = 0; /* the buffer that text does not lie in */
    for (size_t i = 0; i < normalizer->n_steps && size > 0; i++) {
        const struct normalizer_step *step = &normalizer->steps[i];
        struct buffer *to = &scratch->texts[next];
        bool changed = true;
        switch (step->kind) {
        case STEP_FORM:
            TRY(normal_form_apply(&step->form, &scratch->form, text, size, to, &changed));
            break;
        case STEP_LOWERCASE:
            TRY(lowercase(text, size, to));
            break;
        case STEP_REPLACE:
            TRY(regex_replace(step->regex, &scratch->search, text, size, step->content.data,
                              step->content.size, to));
            break;
        case STEP_PREPEND:
            buffer_clear(to);
            TRY(buffer_append(to, step->content.data, step->content.size));
            TRY(buffer_append(to, text, size));
            break;
        case STEP_STRIP_ACCENTS:
            TRY(strip_accents(text, size, to));
            break;
        case STEP_STRIP:
            strip(step, &text, &size);
            changed = false;
            break;
        }
        if (changed) {
            text = to->data;
            size = to->size;
            next = !next;
        }
    }
    *out = text;
    *out_size = size;
    return STATUS_OK;
}
