#include "kernels/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[STATUS_MESSAGE_BYTES];

enum status status_fail(enum status code, const char *format, ...) {
    /* Formatted aside first: an argument may be the old message. */
    char text[STATUS_MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(message, text, sizeof text);
    return code;
}

enum status status_context(enum status code, const char *format, ...) {
    char text[STATUS_MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= 0 && length < STATUS_MESSAGE_BYTES)
        snprintf(text + length, sizeof text - (size_t)length, "%s", message);
    memcpy(message, text, sizeof text);
    return code;
}

const char *status_message(void) {
    return message;
}

void failure_note(struct failure *failure, enum status code) {
    if (failure->code != STATUS_OK || code == STATUS_OK)
        return;
    failure->code = code;
    memcpy(failure->message, message, sizeof failure->message);
}

enum status failure_result(const struct failure *failure) {
    return failure->code == STATUS_OK ? STATUS_OK : status_fail(failure->code, "%s", failure->message);
}
