/* stop_signal: the signals that end a run early. SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask for an orderly end
 * (stop admitting, seal what is in order, exit 75); a second one, or the end of the grace period, ends the
 * process at once with the same exit code. Nothing sealed is lost either way. */
#ifndef PRESSRUN_WORKER_RUN_STOP_SIGNAL_H
#define PRESSRUN_WORKER_RUN_STOP_SIGNAL_H

#include <stdbool.h>

#include "kernels/status.h"

/* Installs the handlers. grace_s: seconds from the first signal to the end in any case; 0: at the first
 * signal. */
enum status stop_signal_install(double grace_s);
bool stop_signal_came(void);
/* Name of the signal that asked ("SIGTERM"), or NULL. */
const char *stop_signal_name(void);

#endif
