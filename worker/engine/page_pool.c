#include "worker/engine/page_pool.h"

#include <stdlib.h>

#include "kernels/backend.h"

enum status page_pool_init(struct page_pool *pool, int32_t n_pages) {
    *pool = (struct page_pool){.n_pages = n_pages};
    pool->free_ids = calloc((size_t)n_pages, sizeof *pool->free_ids);
    pool->references = calloc((size_t)n_pages, sizeof *pool->references);
    if (!pool->free_ids || !pool->references) {
        page_pool_release_all(pool);
        return status_fail(STATUS_INTERNAL, "out of host memory for %d KV pages", n_pages);
    }
    /* The lowest ids lie on top of the stack, so that a small job touches little memory. */
    for (int32_t id = n_pages - 1; id > SCRATCH_PAGE; id--)
        pool->free_ids[pool->n_free++] = id;
    return STATUS_OK;
}

void page_pool_release_all(struct page_pool *pool) {
    free(pool->free_ids);
    free(pool->references);
    *pool = (struct page_pool){0};
}

bool page_pool_take(struct page_pool *pool, int32_t n, int32_t *ids) {
    if (n > pool->n_free)
        return false;
    for (int32_t i = 0; i < n; i++) {
        ids[i] = pool->free_ids[--pool->n_free];
        pool->references[ids[i]] = 1;
    }
    int32_t used = pool->n_pages - 1 - pool->n_free;
    if (used > pool->peak_used)
        pool->peak_used = used;
    return true;
}

void page_pool_share(struct page_pool *pool, const int32_t *ids, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        pool->references[ids[i]]++;
}

void page_pool_give_back(struct page_pool *pool, const int32_t *ids, int32_t n) {
    /* Backwards, so that taking again hands out the same order. */
    for (int32_t i = n - 1; i >= 0; i--)
        if (--pool->references[ids[i]] == 0)
            pool->free_ids[pool->n_free++] = ids[i];
}

bool page_pool_check(const struct page_pool *pool) {
    int32_t n_unused = 0;
    for (int32_t id = 0; id < pool->n_pages; id++) {
        if (pool->references[id] < 0)
            return false;
        n_unused += id != SCRATCH_PAGE && pool->references[id] == 0;
    }
    if (n_unused != pool->n_free || pool->references[SCRATCH_PAGE] != 0)
        return false;
    bool *seen = calloc((size_t)pool->n_pages, 1);
    bool good = seen != NULL;
    for (int32_t i = 0; good && i < pool->n_free; i++) {
        int32_t id = pool->free_ids[i];
        good = id > SCRATCH_PAGE && id < pool->n_pages && pool->references[id] == 0 && !seen[id];
        if (good)
            seen[id] = true;
    }
    free(seen);
    return good;
}
