/* token_list: token ids that grow. Zero-initialised is empty; owned by the caller, reused between calls. */
#ifndef PRESSRUN_WORKER_TEXT_TOKEN_LIST_H
#define PRESSRUN_WORKER_TEXT_TOKEN_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"

struct token_list {
    int32_t *ids;
    size_t n;
    size_t capacity;
};

void token_list_free(struct token_list *list);
/* Makes room for `more` ids behind n. */
enum status token_list_reserve(struct token_list *list, size_t more);
enum status token_list_append(struct token_list *list, const int32_t *ids, size_t n);

#endif
