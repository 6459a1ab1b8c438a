#include "worker/text/stop.h"

#include <string.h>

bool stop_find(const struct text_span *stop, int n_stop, const char *text, size_t size, size_t from,
               size_t *match_begin) {
    bool found = false;
    for (int i = 0; i < n_stop; i++) {
        if (stop[i].size == 0 || stop[i].size > size)
            continue;
        /* A match that ends behind `from` begins at most size - 1 bytes before it. */
        size_t begin = from >= stop[i].size ? from - stop[i].size + 1 : 0;
        if (begin > size)
            continue;
        const char *match = memmem(text + begin, size - begin, stop[i].bytes, stop[i].size);
        if (match && (!found || (size_t)(match - text) < *match_begin)) {
            *match_begin = (size_t)(match - text);
            found = true;
        }
    }
    return found;
}

size_t stop_held_back(const struct text_span *stop, int n_stop, const char *text, size_t size) {
    size_t held = 0;
    for (int i = 0; i < n_stop; i++) {
        if (stop[i].size == 0)
            continue;
        size_t longest = stop[i].size - 1 < size ? stop[i].size - 1 : size;
        for (size_t length = longest; length > held; length--) {
            if (memcmp(text + size - length, stop[i].bytes, length) == 0) {
                held = length;
                break;
            }
        }
    }
    return held;
}
