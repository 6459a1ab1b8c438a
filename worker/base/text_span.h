/* text_span: text by its length. Whoever holds one says whether the bytes are its own. */
#ifndef PRESSRUN_WORKER_BASE_TEXT_SPAN_H
#define PRESSRUN_WORKER_BASE_TEXT_SPAN_H

#include <stddef.h>

struct text_span { /* bytes, not terminated; may hold NUL */
    char *bytes;
    size_t size;
};

#endif
