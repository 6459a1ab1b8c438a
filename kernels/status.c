#include "kernels/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 2048 };

static _Thread_local char message[MESSAGE_BYTES];

enum status status_fail(enum status code, const char *format, ...) {
    /* Formatted aside first: an argument may be the old message. */
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(message, text, sizeof text);
    return code;
}

enum status status_context(enum status code, const char *format, ...) {
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= 0 && length < MESSAGE_BYTES)
        snprintf(text + length, sizeof text - (size_t)length, "%s", message);
    memcpy(message, text, sizeof text);
    return code;
}

const char *status_message(void) {
    return message;
}
