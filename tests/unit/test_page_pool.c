/* page_pool beside a naive model: who holds which page, kept as plain lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "kernels/philox.h"
#include "worker/engine/page_pool.h"

enum { N_SEEDS = 60, N_OPERATIONS = 400, MAX_HOLDERS = 24, MAX_PAGES = 64 };

/* One imaginary sequence and the pages it holds. */
struct holder {
    int32_t pages[MAX_PAGES];
    int32_t n;
};

struct world {
    struct page_pool pool;
    struct holder holders[MAX_HOLDERS];
    int32_t n_holders;
    int32_t peak_used;
    uint64_t seed;
    uint32_t n_drawn;
};

static int32_t draw(struct world *world, int32_t below) {
    return (int32_t)(philox_word(world->seed, 0, world->n_drawn++) % (uint32_t)below);
}

static int32_t n_holders_of(const struct world *world, int32_t page) {
    int32_t n = 0;
    for (int32_t i = 0; i < world->n_holders; i++)
        for (int32_t k = 0; k < world->holders[i].n; k++)
            n += world->holders[i].pages[k] == page;
    return n;
}

/* The pool says what the lists say. */
static void check(struct world *world) {
    int32_t n_free = 0;
    for (int32_t page = 0; page < world->pool.n_pages; page++) {
        int32_t n = n_holders_of(world, page);
        assert_int_equal(world->pool.references[page], n);
        n_free += page != SCRATCH_PAGE && n == 0;
    }
    assert_int_equal(world->pool.n_free, n_free);
    int32_t n_used = world->pool.n_pages - 1 - n_free;
    if (n_used > world->peak_used)
        world->peak_used = n_used;
    assert_int_equal(world->pool.peak_used, world->peak_used);
    assert_true(page_pool_check(&world->pool));
}

static void take(struct world *world) {
    if (world->n_holders == MAX_HOLDERS)
        return;
    struct holder *holder = &world->holders[world->n_holders];
    int32_t n = draw(world, 12), n_free = world->pool.n_free;
    memset(holder, 0, sizeof *holder);
    bool taken = page_pool_take(&world->pool, n, holder->pages);
    assert_int_equal(taken, n <= n_free);
    if (!taken)
        return;
    for (int32_t i = 0; i < n; i++) {
        assert_in_range(holder->pages[i], 1, world->pool.n_pages - 1); /* never the scratch page */
        assert_int_equal(n_holders_of(world, holder->pages[i]), 0);    /* never a page in use */
    }
    holder->n = n;
    world->n_holders++;
}

static void share(struct world *world) {
    if (world->n_holders == 0 || world->n_holders == MAX_HOLDERS)
        return;
    const struct holder *from = &world->holders[draw(world, world->n_holders)];
    struct holder *holder = &world->holders[world->n_holders++];
    holder->n = from->n ? draw(world, from->n + 1) : 0;
    memcpy(holder->pages, from->pages, (size_t)holder->n * sizeof *holder->pages);
    page_pool_share(&world->pool, holder->pages, holder->n);
}

static void give_back(struct world *world) {
    if (world->n_holders == 0)
        return;
    struct holder *holder = &world->holders[draw(world, world->n_holders)];
    page_pool_give_back(&world->pool, holder->pages, holder->n);
    *holder = world->holders[--world->n_holders];
}

static void test_random_operations(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        struct world world = {.seed = seed};
        assert_int_equal(page_pool_init(&world.pool, 2 + draw(&world, MAX_PAGES - 2)), STATUS_OK);
        for (int32_t i = 0; i < N_OPERATIONS; i++) {
            int32_t kind = draw(&world, 5);
            if (kind < 2)
                take(&world);
            else if (kind == 2)
                share(&world);
            else
                give_back(&world);
            check(&world);
        }
        while (world.n_holders > 0)
            give_back(&world);
        check(&world);
        assert_int_equal(world.pool.n_free, world.pool.n_pages - 1);
        page_pool_release_all(&world.pool);
    }
}

/* A small job touches the lowest pages only, and the same ones again. */
static void test_low_pages_first(void **state) {
    (void)state;
    struct page_pool pool;
    int32_t ids[4];
    assert_int_equal(page_pool_init(&pool, 100), STATUS_OK);
    for (int turn = 0; turn < 2; turn++) {
        assert_true(page_pool_take(&pool, 4, ids));
        for (int32_t i = 0; i < 4; i++)
            assert_int_equal(ids[i], 1 + i);
        page_pool_give_back(&pool, ids, 4);
    }
    page_pool_release_all(&pool);
}

static void test_take_is_all_or_nothing(void **state) {
    (void)state;
    struct page_pool pool;
    int32_t ids[4] = {-7, -7, -7, -7};
    assert_int_equal(page_pool_init(&pool, 4), STATUS_OK); /* three to give */
    assert_false(page_pool_take(&pool, 4, ids));
    assert_int_equal(ids[0], -7);
    assert_int_equal(pool.n_free, 3);
    assert_true(page_pool_take(&pool, 3, ids));
    assert_false(page_pool_take(&pool, 1, ids + 3));
    assert_true(page_pool_take(&pool, 0, ids + 3));
    page_pool_give_back(&pool, ids, 3);
    page_pool_release_all(&pool);
}

/* The checker itself sees what it is there for. */
static void test_check_sees_damage(void **state) {
    (void)state;
    struct page_pool pool;
    int32_t ids[2];
    assert_int_equal(page_pool_init(&pool, 8), STATUS_OK);
    assert_true(page_pool_take(&pool, 2, ids));
    assert_true(page_pool_check(&pool));
    pool.references[ids[0]] = 0; /* held by nobody, and not free */
    assert_false(page_pool_check(&pool));
    pool.references[ids[0]] = 1;
    pool.references[SCRATCH_PAGE] = 1;
    assert_false(page_pool_check(&pool));
    pool.references[SCRATCH_PAGE] = 0;
    int32_t top = pool.free_ids[pool.n_free - 1];
    pool.free_ids[pool.n_free - 1] = pool.free_ids[0]; /* free twice */
    assert_false(page_pool_check(&pool));
    pool.free_ids[pool.n_free - 1] = ids[0]; /* free and held */
    assert_false(page_pool_check(&pool));
    pool.free_ids[pool.n_free - 1] = top;
    assert_true(page_pool_check(&pool));
    page_pool_release_all(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_low_pages_first),
        cmocka_unit_test(test_take_is_all_or_nothing),
        cmocka_unit_test(test_check_sees_damage),
    };
    return cmocka_run_group_tests_name("page_pool", tests, NULL, NULL);
}
