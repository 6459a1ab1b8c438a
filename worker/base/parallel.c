#include "worker/base/parallel.h"

#include <pthread.h>
#include <stdatomic.h>

#include "kernels/host_info.h"

enum { MAX_THREADS = 16 };

struct loop {
    atomic_int_fast64_t next; /* task that nobody has taken */
    int64_t n_tasks;
    parallel_task *run;
    void *argument;
};

static void *take_tasks(void *argument) {
    struct loop *loop = argument;
    for (;;) {
        int64_t task = atomic_fetch_add(&loop->next, 1);
        if (task >= loop->n_tasks)
            return NULL;
        loop->run(loop->argument, task);
    }
}

/* The calling thread included. */
static int64_t most_threads(void) {
    int n = host_processors();
    return n < MAX_THREADS ? n : MAX_THREADS;
}

void parallel_run(int64_t n_tasks, bool threads, parallel_task *run, void *argument) {
    struct loop loop = {.n_tasks = n_tasks, .run = run, .argument = argument};
    int64_t n = threads ? most_threads() : 1;
    if (n > n_tasks)
        n = n_tasks;
    pthread_t others[MAX_THREADS];
    int n_others = 0;
    while (n_others < n - 1 && pthread_create(&others[n_others], NULL, take_tasks, &loop) == 0)
        n_others++;
    take_tasks(&loop);
    for (int i = 0; i < n_others; i++)
        pthread_join(others[i], NULL);
}
