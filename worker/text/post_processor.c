#include "worker/text/post_processor.h"

#include <string.h>

#include "worker/base/json_file.h"
#include "worker/text/quote.h"
#include "worker/text/vocab.h"

static const char supported[] = "null, TemplateProcessing, ByteLevel, Sequence";

/* The ids that special_tokens gives to a name. */
static enum status append_special(const struct component *component, const char *name,
                                  struct token_list *out) {
    const json_t *entry = json_object_get(json_object_get(component->object, "special_tokens"), name);
    const json_t *ids = json_object_get(entry, "ids");
    char shown[QUOTE_BYTES];
    quote(name, strlen(name), shown);
    RETURN_IF(!json_is_array(ids), STATUS_DATA, "%s: %s.special_tokens has no ids for %s", component->path,
              component->where, shown);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        RETURN_IF(!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > MAX_TOKEN_ID,
                  STATUS_DATA, "%s: %s.special_tokens: an id of %s is no integer from 0 to %d",
                  component->path, component->where, shown, (int)MAX_TOKEN_ID);
        const int32_t value = (int32_t)json_integer_value(id);
        TRY(token_list_append(out, &value, 1));
    }
    return STATUS_OK;
}

/* "single": a list of {"SpecialToken": {"id": name}} around one {"Sequence": {"id": "A"}}. */
static enum status read_template(const struct component *component, struct post_processor *out) {
    const json_t *single = json_object_get(component->object, "single");
    RETURN_IF(!json_is_array(single), STATUS_DATA, "%s: %s.single is %s, expected a list", component->path,
              component->where, json_kind(single));
    int n_texts = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const char *special = json_string_value(json_object_get(json_object_get(part, "SpecialToken"), "id"));
        const char *text = json_string_value(json_object_get(json_object_get(part, "Sequence"), "id"));
        RETURN_IF(!special && !(text && strcmp(text, "A") == 0), STATUS_DATA,
                  "%s: %s.single[%zu]: expected {\"SpecialToken\": {\"id\": ..}} or {\"Sequence\": {\"id\": "
                  "\"A\"}}",
                  component->path, component->where, i);
        if (special)
            TRY(append_special(component, special, n_texts ? &out->behind : &out->before));
        else
            n_texts++;
    }
    RETURN_IF(n_texts != 1, STATUS_DATA, "%s: %s.single has the sequence A %d times, expected once",
              component->path, component->where, n_texts);
    return STATUS_OK;
}

static enum status read_step(void *argument, const struct component *component) {
    struct post_processor *post_processor = argument;
    if (component_has_type(component, "ByteLevel"))
        return STATUS_OK;
    if (!component_has_type(component, "TemplateProcessing"))
        return component_refuse(component, supported);
    /* The reference then takes what the first one made for a pair of texts, and repeats tokens. */
    RETURN_IF(post_processor->has_template, STATUS_DATA,
              "%s: %s: a second TemplateProcessing is not supported", component->path, component->where);
    post_processor->has_template = true;
    return read_template(component, post_processor);
}

enum status post_processor_read(struct post_processor *post_processor, const struct component *component) {
    return component_each(component, "processors", read_step, post_processor);
}

void post_processor_free(struct post_processor *post_processor) {
    token_list_free(&post_processor->before);
    token_list_free(&post_processor->behind);
}
