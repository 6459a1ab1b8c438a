/* parallel: one loop shared by threads that live no longer than the call.
 *
 * For work of many milliseconds at start-up (tensor files, rope tables); the backend has threads of its
 * own for its steps. */
#ifndef PRESSRUN_WORKER_BASE_PARALLEL_H
#define PRESSRUN_WORKER_BASE_PARALLEL_H

#include <stdbool.h>
#include <stdint.h>

typedef void parallel_task(void *argument, int64_t task);

/* Runs tasks [0, n_tasks) in any order on the calling thread and, when `threads` is true, on others beside
 * it: one per processor that this process may use, 16 at most. Returns when all are done. Where no thread can
 * be started, the calling thread does it alone. */
void parallel_run(int64_t n_tasks, bool threads, parallel_task *run, void *argument);

#endif
