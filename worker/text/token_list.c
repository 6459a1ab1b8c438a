#include "worker/text/token_list.h"

#include <stdlib.h>
#include <string.h>

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

enum status token_list_reserve(struct token_list *list, size_t more) {
    if (list->capacity - list->n >= more)
        return STATUS_OK;
    size_t capacity = (list->n + more) + (list->n + more) / 2 + 16;
    int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
    RETURN_IF(!ids, STATUS_INTERNAL, "out of host memory for %zu tokens", capacity);
    list->ids = ids;
    list->capacity = capacity;
    return STATUS_OK;
}

enum status token_list_append(struct token_list *list, const int32_t *ids, size_t n) {
    if (n == 0)
        return STATUS_OK;
    TRY(token_list_reserve(list, n));
    memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return STATUS_OK;
}
