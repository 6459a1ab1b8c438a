#include "worker/text/pre_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "worker/text/quote.h"

enum step_kind { STEP_SPLIT, STEP_METASPACE, STEP_BYTE_LEVEL };

/* What becomes of a match of the pattern. */
enum behavior { ISOLATED, REMOVED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT };

enum prepend { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

struct pre_tokenizer_step {
    enum step_kind kind;
    char name[16];       /* its type in tokenizer.json */
    struct regex *regex; /* NULL: the text is not cut */
    enum behavior behavior;
    bool inverts; /* what lies between the matches is what counts */
    enum prepend
        prepend; /* of a space (ByteLevel) or the replacement (Metaspace), where none begins the text */
    char replacement[5]; /* Metaspace: what a space is rewritten to */
};

static const char supported[] =
    "null, Split, ByteLevel, Digits, Metaspace, Punctuation, Whitespace, WhitespaceSplit, Sequence";

/* GPT-2's pattern, which a ByteLevel has without being told. */
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- reading
 * ----------------------------------------------------------------------------------------------- */

static enum status read_behavior(struct pre_tokenizer_step *step, const struct component *component) {
    static const char *const names[] = {[ISOLATED] = "Isolated",
                                        [REMOVED] = "Removed",
                                        [CONTIGUOUS] = "Contiguous",
                                        [MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [MERGED_WITH_NEXT] = "MergedWithNext"};
    const char *name;
    size_t size;
    TRY(component_require_string(component, "behavior", &name, &size));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) {
            step->behavior = (enum behavior)i;
            return STATUS_OK;
        }
    }
    char shown[QUOTE_BYTES];
    return status_fail(STATUS_DATA,
                       "%s: %s.behavior %s is not supported; supported: Isolated, Removed, Contiguous, "
                       "MergedWithPrevious, MergedWithNext",
                       component->path, component->where, quote(name, size, shown));
}

static enum status read_split(struct pre_tokenizer_step *step, const struct component *component) {
    TRY(component_require_pattern(component, &step->regex));
    TRY(read_behavior(step, component));
    return component_require_bool(component, "invert", &step->inverts);
}

static enum status read_metaspace(struct pre_tokenizer_step *step, const struct component *component,
                                  bool is_first_step) {
    const char *text;
    size_t size;
    bool splits;
    TRY(component_require_character(component, "replacement", step->replacement));
    TRY(component_read_bool(component, "split", true, &splits));
    const json_t *scheme = json_object_get(component->object, "prepend_scheme");
    if (!scheme) { /* files from before the scheme */
        bool adds;
        TRY(component_read_bool(component, "add_prefix_space", true, &adds));
        step->prepend = adds ? PREPEND_ALWAYS : PREPEND_NEVER;
    } else {
        TRY(component_require_string(component, "prepend_scheme", &text, &size));
        bool is_first = strcmp(text, "first") == 0, is_never = strcmp(text, "never") == 0;
        char shown[QUOTE_BYTES];
        RETURN_IF(!is_first && !is_never && strcmp(text, "always") != 0, STATUS_DATA,
                  "%s: %s.prepend_scheme %s is not supported; supported: always, never, first",
                  component->path, component->where, quote(text, size, shown));
        step->prepend = is_first ? PREPEND_FIRST : is_never ? PREPEND_NEVER : PREPEND_ALWAYS;
    }
    RETURN_IF(step->prepend == PREPEND_FIRST && !is_first_step, STATUS_DATA,
              "%s: %s: prepend_scheme first is supported for the first pre-tokenizer only", component->path,
              component->where);
    step->behavior = MERGED_WITH_NEXT;
    return splits ? regex_compile_literal(step->replacement, strlen(step->replacement), &step->regex)
                  : STATUS_OK;
}

static enum status read_byte_level(struct pre_tokenizer_step *step, const struct component *component) {
    bool prepends, uses_regex;
    /* trim_offsets concerns offsets only, which nobody here asks for. */
    TRY(component_read_bool(component, "add_prefix_space", true, &prepends));
    TRY(component_read_bool(component, "use_regex", true, &uses_regex));
    step->prepend = prepends ? PREPEND_ALWAYS : PREPEND_NEVER;
    step->replacement[0] = ' ';
    return uses_regex ? regex_compile(byte_level_pattern, sizeof byte_level_pattern - 1, &step->regex)
                      : STATUS_OK;
}

static enum status read_digits(struct pre_tokenizer_step *step, const struct component *component) {
    bool individual;
    TRY(component_require_bool(component, "individual_digits", &individual));
    step->behavior = individual ? ISOLATED : CONTIGUOUS;
    return regex_compile_set(unicode_numeric(), &step->regex);
}

/* Runs of word characters, and runs of what is neither that nor white space: each is a piece of its own. */
static enum status read_whitespace(struct pre_tokenizer_step *step) {
    struct code_ranges word = unicode_crate_word();
    struct buffer members = {0}, pattern = {0};
    enum status result = STATUS_OK;
    for (size_t i = 0; i < word.n && result == STATUS_OK; i++)
        result = buffer_printf(&members, "\\x{%X}-\\x{%X}", (unsigned)word.ranges[i].first,
                               (unsigned)word.ranges[i].last);
    if (result == STATUS_OK)
        result = buffer_printf(&pattern, "[%.*s]+|[^\\s%.*s]+", (int)members.size, members.data,
                               (int)members.size, members.data);
    if (result == STATUS_OK)
        result = regex_compile(pattern.data, pattern.size, &step->regex);
    step->behavior = REMOVED;
    step->inverts = true;
    buffer_free(&members);
    buffer_free(&pattern);
    return result;
}

static enum status read_step(void *argument, const struct component *component) {
    struct pre_tokenizer *pre_tokenizer = argument;
    RETURN_IF(pre_tokenizer->n_steps == PRE_TOKENIZER_MAX_STEPS, STATUS_DATA,
              "%s: %s: more than %d pre-tokenizers", component->path, component->where,
              PRE_TOKENIZER_MAX_STEPS);
    RETURN_IF(pre_tokenizer->is_byte_level, STATUS_DATA,
              "%s: %s: a pre-tokenizer behind ByteLevel is not supported", component->path, component->where);
    struct pre_tokenizer_step *step = &pre_tokenizer->steps[pre_tokenizer->n_steps];
    const char *type = component_type(component->object);
    if (type && strlen(type) < sizeof step->name)
        strcpy(step->name, type);
    bool is_first_step = pre_tokenizer->n_steps++ == 0;
    if (component_has_type(component, "Split"))
        return read_split(step, component);
    if (component_has_type(component, "Digits"))
        return read_digits(step, component);
    if (component_has_type(component, "Whitespace"))
        return read_whitespace(step);
    if (component_has_type(component, "WhitespaceSplit")) {
        step->behavior = REMOVED;
        return regex_compile_set(unicode_space(), &step->regex);
    }
    if (component_has_type(component, "Punctuation")) {
        step->behavior = ISOLATED;
        if (json_object_get(component->object, "behavior"))
            TRY(read_behavior(step, component));
        return regex_compile_set(unicode_punctuation(), &step->regex);
    }
    if (component_has_type(component, "Metaspace")) {
        step->kind = STEP_METASPACE;
        pre_tokenizer->rewrites = true;
        return read_metaspace(step, component, is_first_step);
    }
    if (component_has_type(component, "ByteLevel")) {
        step->kind = STEP_BYTE_LEVEL;
        pre_tokenizer->is_byte_level = true;
        TRY(read_byte_level(step, component));
        pre_tokenizer->rewrites |= step->prepend != PREPEND_NEVER;
        return STATUS_OK;
    }
    return component_refuse(component, supported);
}

enum status pre_tokenizer_read(struct pre_tokenizer *pre_tokenizer, const struct component *component) {
    pre_tokenizer->steps = calloc(PRE_TOKENIZER_MAX_STEPS, sizeof *pre_tokenizer->steps);
    RETURN_IF(!pre_tokenizer->steps, STATUS_INTERNAL, "out of host memory");
    return component_each(component, "pretokenizers", read_step, pre_tokenizer);
}

void pre_tokenizer_free(struct pre_tokenizer *pre_tokenizer) {
    for (size_t i = 0; i < pre_tokenizer->n_steps; i++)
        regex_free(pre_tokenizer->steps[i].regex);
    free(pre_tokenizer->steps);
    *pre_tokenizer = (struct pre_tokenizer){0};
}

enum status pre_tokenizer_describe(const struct pre_tokenizer *pre_tokenizer, struct buffer *out) {
    for (size_t i = 0; i < pre_tokenizer->n_steps; i++) {
        const struct pre_tokenizer_step *step = &pre_tokenizer->steps[i];
        TRY(buffer_printf(out, "%s%s", i ? ", " : "", step->name));
        if (step->kind == STEP_BYTE_LEVEL)
            TRY(buffer_printf(out, "%s%s", step->prepend == PREPEND_NEVER ? "" : " with prefix space",
                              step->regex ? "" : " without pattern"));
    }
    return STATUS_OK;
}

/* ---- cutting
 * ----------------------------------------------------------------------------------------------- */

void pre_tokenizer_scratch_free(struct pre_tokenizer_scratch *scratch) {
    for (size_t i = 0; i < PRE_TOKENIZER_MAX_STEPS; i++) {
        buffer_free(&scratch->texts[i]);
        regex_search_free(scratch->searches[i]);
    }
    *scratch = (struct pre_tokenizer_scratch){0};
}

struct cut {
    const struct pre_tokenizer *pre_tokenizer;
    struct pre_tokenizer_scratch *scratch;
    bool is_first;
    piece_taker *take;
    void *argument;
};

static enum status cut_step(const struct cut *cut, size_t index, const char *text, size_t size);

/* Pieces of one step that are joined as its behaviour says. */
struct joiner {
    const struct cut *cut;
    size_t index; /* of the step */
    const char *text;
    enum behavior behavior;
    size_t begin; /* of the piece that may still grow */
    size_t end;
    bool has_piece;
    bool was_match; /* the last span */
    bool is_open;   /* MERGED_WITH_NEXT: the piece is a match alone, which what follows may join */
};

static enum status put_piece(const struct joiner *joiner) {
    if (!joiner->has_piece || joiner->begin == joiner->end)
        return STATUS_OK;
    return cut_step(joiner->cut, joiner->index + 1, joiner->text + joiner->begin,
                    joiner->end - joiner->begin);
}

/* The text is a row of spans, matches and what is between them. */
static enum status add_span(struct joiner *joiner, size_t begin, size_t end, bool is_match) {
    bool joins = false;
    switch (joiner->behavior) {
    case ISOLATED:
    case REMOVED:
        break;
    case CONTIGUOUS:
        joins = joiner->has_piece && is_match == joiner->was_match;
        break;
    case MERGED_WITH_PREVIOUS:
        joins = joiner->has_piece && is_match && !joiner->was_match;
        break;
    case MERGED_WITH_NEXT:
        joins = joiner->has_piece && joiner->is_open && !is_match;
        break;
    }
    joiner->was_match = is_match;
    joiner->is_open = is_match;
    if (joins) {
        joiner->end = end;
        return STATUS_OK;
    }
    TRY(put_piece(joiner));
    joiner->has_piece = !(joiner->behavior == REMOVED && is_match);
    joiner->begin = begin;
    joiner->end = end;
    return STATUS_OK;
}

static enum status split(const struct cut *cut, size_t index, const char *text, size_t size) {
    const struct pre_tokenizer_step *step = &cut->pre_tokenizer->steps[index];
    if (!cut->scratch->searches[index])
        TRY(regex_search_new(&cut->scratch->searches[index]));
    struct regex_search *search = cut->scratch->searches[index];
    struct joiner joiner = {.cut = cut, .index = index, .text = text, .behavior = step->behavior};
    TRY(regex_begin(step->regex, search, text, size));
    size_t taken = 0, begin, end;
    bool found;
    for (;;) {
        TRY(regex_next(step->regex, search, &begin, &end, &found));
        if (!found)
            break;
        if (taken < begin)
            TRY(add_span(&joiner, taken, begin, step->inverts));
        TRY(add_span(&joiner, begin, end, !step->inverts));
        taken = end;
    }
    if (taken < size)
        TRY(add_span(&joiner, taken, size, step->inverts));
    return put_piece(&joiner);
}

/* Puts a space, or what stands for one, before a text that begins with none, and rewrites spaces (Metaspace).
 */
static enum status rewrite(const struct cut *cut, size_t index, const char **text, size_t *size) {
    const struct pre_tokenizer_step *step = &cut->pre_tokenizer->steps[index];
    size_t length = strlen(step->replacement);
    bool begins = *size >= length && memcmp(*text, step->replacement, length) == 0;
    begins |= step->kind == STEP_METASPACE && (*text)[0] == ' ';
    bool prepends =
        !begins && (step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && cut->is_first));
    if (step->kind == STEP_BYTE_LEVEL && !prepends)
        return STATUS_OK;
    struct buffer *out = &cut->scratch->texts[index];
    buffer_clear(out);
    TRY(buffer_reserve(out, length + *size));
    if (prepends)
        TRY(buffer_append(out, step->replacement, length));
    const char *at = *text, *end = *text + *size;
    while (step->kind == STEP_METASPACE && at < end) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        if (!space)
            break;
        TRY(buffer_append(out, at, (size_t)(space - at)));
        TRY(buffer_append(out, step->replacement, length));
        at = space + 1;
    }
    TRY(buffer_append(out, at, (size_t)(end - at)));
    *text = out->data;
    *size = out->size;
    return STATUS_OK;
}

static enum status cut_step(const struct cut *cut, size_t index, const char *text, size_t size) {
    if (index == cut->pre_tokenizer->n_steps)
        return cut->take(cut->argument, text, size);
    const struct pre_tokenizer_step *step = &cut->pre_tokenizer->steps[index];
    if (step->kind != STEP_SPLIT)
        TRY(rewrite(cut, index, &text, &size));
    return step->regex ? split(cut, index, text, size) : cut_step(cut, index + 1, text, size);
}

enum status pre_tokenizer_cut(const struct pre_tokenizer *pre_tokenizer,
                              struct pre_tokenizer_scratch *scratch, bool is_first, const char *text,
                              size_t size, piece_taker *take, void *argument) {
    const struct cut cut = {pre_tokenizer, scratch, is_first, take, argument};
    return size > 0 ? cut_step(&cut, 0, text, size) : STATUS_OK;
}
