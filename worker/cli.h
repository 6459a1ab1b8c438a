/* cli: the command line and the environment, read here and nowhere else. */
#ifndef PRESSRUN_WORKER_CLI_H
#define PRESSRUN_WORKER_CLI_H

#include "kernels/status.h"

/* Parses, runs the subcommand, and returns the exit code; what went wrong is on stderr. */
enum status cli_main(int argc, char **argv);

#endif
