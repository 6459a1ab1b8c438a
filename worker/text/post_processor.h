/* post_processor: the component of tokenizer.json that puts special tokens around the ids of a text:
 * TemplateProcessing, ByteLevel (which concerns offsets only) and a Sequence of them. Immutable once read. */
#ifndef PRESSRUN_WORKER_TEXT_POST_PROCESSOR_H
#define PRESSRUN_WORKER_TEXT_POST_PROCESSOR_H

#include "worker/text/component.h"
#include "worker/text/token_list.h"

struct post_processor {
    struct token_list before; /* ids in front of the text's */
    struct token_list behind;
    bool has_template; /* one was read */
};

/* Zero-initialised adds nothing. STATUS_DATA. */
enum status post_processor_read(struct post_processor *post_processor, const struct component *component);
void post_processor_free(struct post_processor *post_processor);

#endif
