/* One word, claim, holds the number of the operation and the next task. A thread reads it, reads what the
 * operation is, and takes the task by compare-and-swap. Before an operation's description changes, claim is
 * closed under a new number; so whoever read an older word, or a description in change, fails to swap and
 * looks again. */
#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    IDLE_SPINS = 4000, /* of some tens of cycles: then an idle thread sleeps */
    JOIN_SPINS = 1000  /* then the caller gives up its processor between looks at the last tasks */
};

#define CLOSED UINT32_MAX

struct worker {
    struct pool *pool;
    pthread_t thread;
    int number;
};

struct pool {
    _Alignas(64) atomic_uint_fast64_t claim; /* operation << 32 | next task */
    _Alignas(64) atomic_int_fast64_t left;   /* tasks of this operation that are not done */
    _Alignas(64) atomic_int_fast64_t n_tasks;
    _Atomic(pool_task *) run;
    _Atomic(void *) argument;
    atomic_int sleepers;
    atomic_bool stopping;
    uint32_t operation; /* the caller's */
    int n_workers;      /* started */
    struct worker *workers;
    pthread_mutex_t mutex; /* of sleeping and waking */
    pthread_cond_t wake;
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool has_task(struct pool *pool) {
    uint64_t claim = atomic_load(&pool->claim);
    return (uint32_t)claim < atomic_load_explicit(&pool->n_tasks, memory_order_acquire);
}

/* Takes and runs tasks until there are none. */
static void work(struct pool *pool, int thread) {
    uint64_t claim = atomic_load(&pool->claim);
    for (;;) {
        int64_t n_tasks = atomic_load_explicit(&pool->n_tasks, memory_order_acquire);
        pool_task *run = atomic_load_explicit(&pool->run, memory_order_acquire);
        void *argument = atomic_load_explicit(&pool->argument, memory_order_acquire);
        int64_t task = (uint32_t)claim;
        if (task >= n_tasks) {
            uint64_t now = atomic_load(&pool->claim);
            if (now == claim)
                return;
            claim = now;
            continue;
        }
        if (!atomic_compare_exchange_weak(&pool->claim, &claim, claim + 1))
            continue;
        run(argument, task, thread);
        atomic_fetch_sub_explicit(&pool->left, 1, memory_order_release);
        claim = atomic_load(&pool->claim);
    }
}

static void *worker_main(void *argument) {
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    while (!atomic_load(&pool->stopping)) {
        work(pool, worker->number);
        int spins = 0;
        while (spins < IDLE_SPINS && !has_task(pool) && !atomic_load(&pool->stopping)) {
            relax();
            spins++;
        }
        if (spins < IDLE_SPINS)
            continue;
        /* The caller publishes and then looks for sleepers; here it is the other way round: one of the two
         * sees the other. */
        pthread_mutex_lock(&pool->mutex);
        atomic_fetch_add(&pool->sleepers, 1);
        while (!has_task(pool) && !atomic_load(&pool->stopping))
            pthread_cond_wait(&pool->wake, &pool->mutex);
        atomic_fetch_sub(&pool->sleepers, 1);
        pthread_mutex_unlock(&pool->mutex);
    }
    return NULL;
}

static void wake_sleepers(struct pool *pool) {
    if (atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

enum status pool_open(int n_threads, struct pool **out) {
    struct pool *pool = aligned_alloc(_Alignof(struct pool), sizeof *pool);
    RETURN_IF(!pool, STATUS_INTERNAL, "no memory for %d threads", n_threads);
    memset(pool, 0, sizeof *pool);
    pool->workers = calloc((size_t)n_threads, sizeof *pool->workers);
    if (!pool->workers) {
        free(pool);
        return status_fail(STATUS_INTERNAL, "no memory for %d threads", n_threads);
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = 0;
    for (int i = 0; i < n_threads - 1 && !error; i++) {
        pool->workers[i] = (struct worker){.pool = pool, .number = i + 1};
        error = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        pool->n_workers += !error;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error) {
        int started = pool->n_workers;
        pool_close(pool);
        return status_fail(STATUS_INTERNAL, "thread %d of %d does not start: %s; lower threads", started + 2,
                           n_threads, strerror(error));
    }
    *out = pool;
    return STATUS_OK;
}

void pool_close(struct pool *pool) {
    if (!pool)
        return;
    atomic_store(&pool->stopping, true);
    wake_sleepers(pool);
    for (int i = 0; i < pool->n_workers; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

void pool_run(struct pool *pool, int64_t n_tasks, pool_task *run, void *argument) {
    if (n_tasks <= 1 || pool->n_workers == 0) {
        for (int64_t task = 0; task < n_tasks; task++)
            run(argument, task, 0);
        return;
    }
    uint64_t operation = (uint64_t)++pool->operation << 32;
    atomic_store(&pool->claim, operation | CLOSED);
    atomic_store_explicit(&pool->n_tasks, n_tasks, memory_order_release);
    atomic_store_explicit(&pool->run, run, memory_order_release);
    atomic_store_explicit(&pool->argument, argument, memory_order_release);
    atomic_store_explicit(&pool->left, n_tasks, memory_order_relaxed);
    atomic_store(&pool->claim, operation);
    wake_sleepers(pool);
    work(pool, 0);
    for (int spins = 0; atomic_load_explicit(&pool->left, memory_order_acquire) > 0; spins++) {
        if (spins < JOIN_SPINS)
            relax();
        else
            sched_yield();
    }
}
