#include "worker/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static bool is_quiet;
static char status_line[512];

static void write_line(const char *kind, const char *format, va_list arguments) {
    pthread_mutex_lock(&mutex);
    if (status_line[0])
        fputs("\r\033[K", stderr);
    fprintf(stderr, "pressrun: %s", kind);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    if (status_line[0])
        fputs(status_line, stderr);
    fflush(stderr);
    pthread_mutex_unlock(&mutex);
}

void log_set_quiet(bool quiet) {
    is_quiet = quiet;
}

bool log_is_quiet(void) {
    return is_quiet;
}

void log_info(const char *format, ...) {
    if (is_quiet)
        return;
    va_list arguments;
    va_start(arguments, format);
    write_line("", format, arguments);
    va_end(arguments);
}

void log_warning(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line("warning: ", format, arguments);
    va_end(arguments);
}

void log_error(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line("error: ", format, arguments);
    va_end(arguments);
}

void log_set_status_line(const char *text) {
    pthread_mutex_lock(&mutex);
    if (status_line[0])
        fputs("\r\033[K", stderr);
    snprintf(status_line, sizeof status_line, "%s", text ? text : "");
    fputs(status_line, stderr);
    fflush(stderr);
    pthread_mutex_unlock(&mutex);
}
