/* log: lines for people, on stderr, each with the program's name in front. Standard output is for results
 * only. Thread-safe: a line is written whole. */
#ifndef PRESSRUN_WORKER_BASE_LOG_H
#define PRESSRUN_WORKER_BASE_LOG_H

#include <stdbool.h>

void log_set_quiet(bool quiet); /* hides log_info; warnings and errors stay */
bool log_is_quiet(void);

void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A status line at the bottom of a terminal (progress bar) that log lines must not tear: log_* clear it first
 * and draw it again. Text NULL removes it. Only to be used when stderr is a terminal. */
void log_set_status_line(const char *text);

#endif
