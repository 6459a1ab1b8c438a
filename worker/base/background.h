/* background: one call that runs in a thread of its own, beside its caller, and comes back with its result
 * and its message. For work of many milliseconds at start-up. */
#ifndef PRESSRUN_WORKER_BASE_BACKGROUND_H
#define PRESSRUN_WORKER_BASE_BACKGROUND_H

#include <pthread.h>
#include <stdbool.h>

#include "kernels/status.h"

typedef enum status background_call(void *argument);

/* Zero-initialised: nothing was begun. Must not move until it is joined. */
struct background {
    background_call *run;
    void *argument;
    pthread_t thread;
    bool has_thread;
    struct failure failure; /* the call's */
};

/* Runs call in a thread that takes no signals; where none can be started, at once. */
void background_begin(struct background *background, background_call *run, void *argument);
/* Waits for the call and returns its result, its message set in the calling thread. STATUS_OK when nothing
 * was begun. */
enum status background_join(struct background *background);

#endif
