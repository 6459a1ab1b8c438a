#include "worker/base/background.h"

#include <signal.h>

static void *run_call(void *argument) {
    struct background *background = argument;
    failure_note(&background->failure, background->run(background->argument));
    return NULL;
}

void background_begin(struct background *background, background_call *run, void *argument) {
    *background = (struct background){.run = run, .argument = argument};
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    background->has_thread = pthread_create(&background->thread, NULL, run_call, background) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!background->has_thread)
        run_call(background);
}

enum status background_join(struct background *background) {
    if (background->has_thread)
        pthread_join(background->thread, NULL);
    enum status result = failure_result(&background->failure);
    *background = (struct background){0};
    return result;
}
