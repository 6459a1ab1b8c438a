#include "worker/run/stop_signal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

/* Handlers have no argument of ours, so this is the one place with state per process. */
static volatile sig_atomic_t signal_number;
static double grace_seconds;

static void end_now(int number) {
    (void)number;
    _exit(STATUS_STOPPED);
}

static void note_signal(int number) {
    if (signal_number)
        _exit(STATUS_STOPPED);
    signal_number = number;
    if (grace_seconds <= 0)
        _exit(STATUS_STOPPED);
    struct itimerval timer = {
        .it_value = {.tv_sec = (time_t)grace_seconds,
                     .tv_usec = (suseconds_t)((grace_seconds - (double)(time_t)grace_seconds) * 1e6)}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

enum status stop_signal_install(double grace_s) {
    grace_seconds = grace_s;
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    /* One handler at a time: of two signals that come together the second must find the first one's note. */
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&action.sa_mask, numbers[i]);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction old;
        /* nohup and the like set a signal to be ignored before they start us: it stays ignored. */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue;
        RETURN_IF(sigaction(numbers[i], &action, NULL) != 0, STATUS_INTERNAL, "signal handler: %s",
                  strerror(errno));
    }
    action.sa_handler = end_now;
    RETURN_IF(sigaction(SIGALRM, &action, NULL) != 0, STATUS_INTERNAL, "signal handler: %s", strerror(errno));
    /* A reader that goes away shows as an error of write, with a message, not as a silent death. */
    signal(SIGPIPE, SIG_IGN);
    return STATUS_OK;
}

bool stop_signal_came(void) {
    return signal_number != 0;
}

const char *stop_signal_name(void) {
    switch (signal_number) {
    case SIGTERM:
        return "SIGTERM";
    case SIGINT:
        return "SIGINT";
    case SIGHUP:
        return "SIGHUP";
    case SIGUSR1:
        return "SIGUSR1";
    default:
        return NULL;
    }
}
