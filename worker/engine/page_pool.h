/* page_pool: which KV pages are free and how many sequences hold each. Host accounting only: the memory is
 * the backend's. Page 0 is the scratch page of padding rows and is never handed out. Pages are taken and
 * returned one reference at a time; the samples of one prompt share its full pages. */
#ifndef PRESSRUN_WORKER_ENGINE_PAGE_POOL_H
#define PRESSRUN_WORKER_ENGINE_PAGE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/status.h"

struct page_pool {
    int32_t n_pages; /* scratch page included */
    int32_t n_free;
    int32_t *free_ids;   /* [n_pages] stack, the first n_free are valid */
    int32_t *references; /* [n_pages] */
    int32_t peak_used;
};

enum status page_pool_init(struct page_pool *pool, int32_t n_pages);
void page_pool_release_all(struct page_pool *pool); /* frees the pool itself */

/* Takes n pages with one reference each, or none at all when fewer are free (false). */
bool page_pool_take(struct page_pool *pool, int32_t n, int32_t *ids);
/* One more holder for pages that are held already. */
void page_pool_share(struct page_pool *pool, const int32_t *ids, int32_t n);
/* One holder less each; a page without holders is free again. */
void page_pool_give_back(struct page_pool *pool, const int32_t *ids, int32_t n);
/* Recomputes every invariant; false when one is broken. For tests. */
bool page_pool_check(const struct page_pool *pool);

#endif
