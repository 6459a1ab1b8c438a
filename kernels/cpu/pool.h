/* pool: threads that share the tasks of one operation after another.
 *
 * Tasks are claimed one by one, so a thread that the system has put aside holds up nobody: the others take
 * its share. A fork-join runtime waits for every thread at every operation instead, which on a shared
 * processor costs a scheduling slice (milliseconds) each time. Idle threads spin for a fraction of a
 * millisecond, longer than the next operation of a step takes to come, and then sleep, so they burn no quota
 * while the program waits for anything else. */
#ifndef PRESSRUN_KERNELS_CPU_POOL_H
#define PRESSRUN_KERNELS_CPU_POOL_H

#include <stdint.h>

#include "kernels/status.h"

struct pool;

/* One task of an operation; thread is in [0, n_threads), the caller's is 0. */
typedef void pool_task(void *argument, int64_t task, int thread);

/* The calling thread is one of n_threads. The others take no signals. */
enum status pool_open(int n_threads, struct pool **out);
void pool_close(struct pool *pool); /* NULL is fine */

/* Runs tasks [0, n_tasks), n_tasks below 2^31, in any order, and returns when all are done. Not reentrant;
 * from one thread. */
void pool_run(struct pool *pool, int64_t n_tasks, pool_task *run, void *argument);

/* The first of n items that belongs to task (or n, for task = n_tasks): contiguous, nearly equal shares. */
static inline int64_t pool_share(int64_t n, int64_t n_tasks, int64_t task) {
    return n * task / n_tasks;
}

#endif
