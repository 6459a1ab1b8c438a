#include "worker/text/code_map.h"

#include <stdlib.h>
#include <string.h>

void code_map_free(struct code_map *map) {
    free(map->pages);
    free(map->cells);
    *map = (struct code_map){0};
}

/* Appends a page of zeros. */
static enum status add_page(struct code_map *map) {
    uint8_t *cells = realloc(map->cells, (map->n_pages + 1) * CODE_MAP_PAGE);
    RETURN_IF(!cells, STATUS_INTERNAL, "out of host memory for a map of characters");
    memset(cells + map->n_pages * CODE_MAP_PAGE, 0, CODE_MAP_PAGE);
    map->cells = cells;
    map->n_pages++;
    return STATUS_OK;
}

enum status code_map_init(struct code_map *map) {
    *map = (struct code_map){.pages = calloc(CODE_MAP_PAGES, sizeof *map->pages)};
    RETURN_IF(!map->pages, STATUS_INTERNAL, "out of host memory for a map of characters");
    return add_page(map);
}

enum status code_map_set(struct code_map *map, uint32_t first, uint32_t last, uint8_t value) {
    for (uint32_t at = first; at <= last;) {
        uint32_t page = at / CODE_MAP_PAGE, end = (page + 1) * CODE_MAP_PAGE;
        if (end > last + 1)
            end = last + 1;
        if (map->pages[page] == 0) {
            map->pages[page] = (uint16_t)map->n_pages;
            TRY(add_page(map));
        }
        memset(map->cells + (size_t)map->pages[page] * CODE_MAP_PAGE + at % CODE_MAP_PAGE, value, end - at);
        at = end;
    }
    return STATUS_OK;
}
