/* code_map: a byte for every code point, in two levels. Zero-initialised maps everything to 0. */
#ifndef PRESSRUN_WORKER_TEXT_CODE_MAP_H
#define PRESSRUN_WORKER_TEXT_CODE_MAP_H

#include <stdint.h>

#include "kernels/status.h"
#include "worker/text/unicode_class.h"

enum { CODE_MAP_PAGE = 256, CODE_MAP_PAGES = (LAST_CODE_POINT + 1) / CODE_MAP_PAGE };

struct code_map {
    uint16_t *pages; /* [CODE_MAP_PAGES] index of the page's cells; 0 is all zero */
    uint8_t *cells;  /* [n_pages, CODE_MAP_PAGE] */
    size_t n_pages;
};

void code_map_free(struct code_map *map);
enum status code_map_init(struct code_map *map);
enum status code_map_set(struct code_map *map, uint32_t first, uint32_t last, uint8_t value);

/* For an initialised map and a code point up to LAST_CODE_POINT. */
static inline uint8_t code_map_get(const struct code_map *map, uint32_t code_point) {
    return map
        ->cells[(size_t)map->pages[code_point / CODE_MAP_PAGE] * CODE_MAP_PAGE + code_point % CODE_MAP_PAGE];
}

#endif
