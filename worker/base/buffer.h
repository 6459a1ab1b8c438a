/* buffer: growable bytes. Zero-initialised is empty and valid; the owner frees. */
#ifndef PRESSRUN_WORKER_BASE_BUFFER_H
#define PRESSRUN_WORKER_BASE_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/status.h"

struct buffer {
    char *data; /* not terminated; see buffer_terminate */
    size_t size;
    size_t capacity;
};

void buffer_free(struct buffer *buffer);  /* back to empty */
void buffer_clear(struct buffer *buffer); /* size 0, keeps the memory */

/* Makes room for `more` bytes behind size. STATUS_INTERNAL when memory is out. */
enum status buffer_reserve(struct buffer *buffer, size_t more);
enum status buffer_append(struct buffer *buffer, const void *bytes, size_t size);
enum status buffer_append_text(struct buffer *buffer, const char *text); /* NUL-terminated */
enum status buffer_append_byte(struct buffer *buffer, char byte);
enum status buffer_printf(struct buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Puts a NUL behind the last byte without counting it, so that data is a C string. */
enum status buffer_terminate(struct buffer *buffer);

#endif
