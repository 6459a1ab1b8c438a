#include "worker/text/token_decoder.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/number.h"
#include "worker/text/byte_level.h"

enum step_kind { STEP_REPLACE, STEP_STRIP, STEP_METASPACE };

struct token_decoder_step {
    enum step_kind kind;
    struct regex *regex;   /* STEP_REPLACE, STEP_METASPACE: what is replaced … */
    struct buffer content; /* … by this */
    char strip[5];         /* STEP_STRIP: this character … */
    size_t n_strip_left;   /* … at most so often at the beginning … */
    size_t n_strip_right;  /* … and at the end */
    bool drops_first;      /* STEP_METASPACE: in the first token it is dropped */
};

static const char supported[] = "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, Sequence";

/* ---- reading
 * ----------------------------------------------------------------------------------------------- */

static enum status refuse_order(const struct component *component, const char *behind) {
    return status_fail(STATUS_DATA, "%s: %s: %s behind %s is not supported", component->path,
                       component->where, component_type(component->object), behind);
}

static enum status add_step(struct token_decoder *decoder, const struct component *component,
                            enum step_kind kind, struct token_decoder_step **out) {
    if (decoder->is_fused || decoder->bytes != DECODER_TEXT)
        return refuse_order(component, decoder->is_fused ? "Fuse" : "ByteLevel or ByteFallback");
    RETURN_IF(decoder->n_steps == DECODER_MAX_STEPS, STATUS_DATA, "%s: %s: more than %d decoders",
              component->path, component->where, DECODER_MAX_STEPS);
    *out = &decoder->steps[decoder->n_steps++];
    (*out)->kind = kind;
    return STATUS_OK;
}

static enum status read_replace(struct token_decoder *decoder, const struct component *component) {
    struct token_decoder_step *step = NULL;
    const char *content;
    size_t size;
    TRY(add_step(decoder, component, STEP_REPLACE, &step));
    TRY(component_require_pattern(component, &step->regex));
    TRY(component_require_string(component, "content", &content, &size));
    return buffer_append(&step->content, content, size);
}

static enum status read_strip(struct token_decoder *decoder, const struct component *component) {
    enum { MOST = 1 << 20 };
    size_t n_left, n_right;
    char content[5];
    TRY(component_require_character(component, "content", content));
    TRY(component_require_count(component, "start", MOST, &n_left));
    TRY(component_require_count(component, "stop", MOST, &n_right));
    /* Behind ByteLevel there is one text, too. */
    if (decoder->is_fused || decoder->bytes == DECODER_BYTE_LEVEL) {
        RETURN_IF(n_right > 0, STATUS_DATA,
                  "%s: %s.stop: %zu is not supported where tokens are one text already; supported: 0",
                  component->path, component->where, n_right);
        RETURN_IF(decoder->n_strip > 0, STATUS_DATA,
                  "%s: %s: a second Strip of the whole text is not supported", component->path,
                  component->where);
        decoder->n_strip = n_left;
        memcpy(decoder->strip_content, content, sizeof content);
        return STATUS_OK;
    }
    struct token_decoder_step *step = NULL;
    TRY(add_step(decoder, component, STEP_STRIP, &step));
    memcpy(step->strip, content, sizeof content);
    step->n_strip_left = n_left;
    step->n_strip_right = n_right;
    return STATUS_OK;
}

static enum status read_metaspace(struct token_decoder *decoder, const struct component *component) {
    struct token_decoder_step *step = NULL;
    char replacement[5];
    TRY(add_step(decoder, component, STEP_METASPACE, &step));
    TRY(component_require_character(component, "replacement", replacement));
    TRY(buffer_append_byte(&step->content, ' '));
    TRY(regex_compile_literal(replacement, strlen(replacement), &step->regex));
    const json_t *scheme = json_object_get(component->object, "prepend_scheme");
    if (scheme) {
        const char *text;
        size_t size;
        TRY(component_require_string(component, "prepend_scheme", &text, &size));
        step->drops_first = strcmp(text, "never") != 0;
    } else {
        TRY(component_read_bool(component, "add_prefix_space", true, &step->drops_first));
    }
    decoder->first_differs |= step->drops_first;
    return STATUS_OK;
}

static enum status read_step(void *argument, const struct component *component) {
    struct token_decoder *decoder = argument;
    const char *type = component_type(component->object);
    if (type)
        TRY(buffer_printf(&decoder->names, "%s%.40s", decoder->names.size ? ", " : "", type));
    if (component_has_type(component, "Replace"))
        return read_replace(decoder, component);
    if (component_has_type(component, "Strip"))
        return read_strip(decoder, component);
    if (component_has_type(component, "Metaspace"))
        return read_metaspace(decoder, component);
    if (component_has_type(component, "Fuse")) {
        decoder->is_fused = true;
        return STATUS_OK;
    }
    bool is_byte_level = component_has_type(component, "ByteLevel");
    if (!is_byte_level && !component_has_type(component, "ByteFallback"))
        return component_refuse(component, supported);
    if (decoder->is_fused || decoder->bytes != DECODER_TEXT)
        return refuse_order(component, decoder->is_fused ? "Fuse" : "ByteLevel or ByteFallback");
    decoder->bytes = is_byte_level ? DECODER_BYTE_LEVEL : DECODER_BYTE_FALLBACK;
    return STATUS_OK;
}

enum status token_decoder_read(struct token_decoder *decoder, const struct component *component) {
    RETURN_IF(component_is_absent(component->object), STATUS_DATA,
              "%s: %s is null, which puts a space between any two tokens; supported: %s", component->path,
              component->where, supported);
    decoder->steps = calloc(DECODER_MAX_STEPS, sizeof *decoder->steps);
    RETURN_IF(!decoder->steps, STATUS_INTERNAL, "out of host memory");
    return component_each(component, "decoders", read_step, decoder);
}

void token_decoder_free(struct token_decoder *decoder) {
    for (size_t i = 0; i < decoder->n_steps; i++) {
        regex_free(decoder->steps[i].regex);
        buffer_free(&decoder->steps[i].content);
    }
    free(decoder->steps);
    buffer_free(&decoder->names);
    *decoder = (struct token_decoder){0};
}

/* ---- showing
 * ----------------------------------------------------------------------------------------------- */

void token_decoder_scratch_free(struct token_decoder_scratch *scratch) {
    buffer_free(&scratch->texts[0]);
    buffer_free(&scratch->texts[1]);
    regex_search_free(scratch->search);
    *scratch = (struct token_decoder_scratch){0};
}

static void strip(const struct token_decoder_step *step, const char **text, size_t *size) {
    size_t length = strlen(step->strip);
    for (size_t i = 0; i < step->n_strip_left && *size >= length && memcmp(*text, step->strip, length) == 0;
         i++) {
        *text += length;
        *size -= length;
    }
    for (size_t i = 0; i < step->n_strip_right && *size >= length; i++) {
        if (memcmp(*text + *size - length, step->strip, length) != 0)
            break;
        *size -= length;
    }
}

/* The byte that "<0x0A>" names, or -1. */
static int named_byte(const char *token, size_t size) {
    if (size != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>')
        return -1;
    int high = number_hex_digit(token[3]), low = number_hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

enum status token_decoder_show(const struct token_decoder *decoder, struct token_decoder_scratch *scratch,
                               bool is_first, const char *token, size_t size, const char **out,
                               size_t *out_size, bool *is_byte) {
    int next = 0; /* the buffer that token does not lie in */
    for (size_t i = 0; i < decoder->n_steps; i++) {
        const struct token_decoder_step *step = &decoder->steps[i];
        if (step->kind == STEP_STRIP) {
            strip(step, &token, &size);
            continue;
        }
        size_t content_size = step->drops_first && is_first ? 0 : step->content.size;
        TRY(regex_replace(step->regex, &scratch->search, token, size, step->content.data, content_size,
                          &scratch->texts[next]));
        token = scratch->texts[next].data;
        size = scratch->texts[next].size;
        next = !next;
    }
    *is_byte = false;
    if (decoder->bytes == DECODER_BYTE_FALLBACK) {
        int byte = named_byte(token, size);
        if (byte >= 0) {
            buffer_clear(&scratch->texts[next]);
            TRY(buffer_append_byte(&scratch->texts[next], (char)byte));
            token = scratch->texts[next].data;
            size = 1;
            *is_byte = true;
        }
    } else if (decoder->bytes == DECODER_BYTE_LEVEL) {
        struct buffer *decoded = &scratch->texts[next];
        buffer_clear(decoded);
        TRY(buffer_append(decoded, token, size));
        TRY(buffer_reserve(decoded, 1));
        if (byte_level_decode(decoded->data, &size))
            token = decoded->data;
    }
    *out = token;
    *out_size = size;
    return STATUS_OK;
}
