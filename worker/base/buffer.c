#include "worker/base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_free(struct buffer *buffer) {
    free(buffer->data);
    *buffer = (struct buffer){0};
}

void buffer_clear(struct buffer *buffer) {
    buffer->size = 0;
}

enum status buffer_reserve(struct buffer *buffer, size_t more) {
    size_t need;
    RETURN_IF(__builtin_add_overflow(buffer->size, more, &need), STATUS_INTERNAL, "buffer size overflow");
    if (need <= buffer->capacity)
        return STATUS_OK;
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity < need)
        capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    char *data = realloc(buffer->data, capacity);
    RETURN_IF(!data, STATUS_INTERNAL, "out of host memory (%zu bytes wanted)", capacity);
    buffer->data = data;
    buffer->capacity = capacity;
    return STATUS_OK;
}

enum status buffer_append(struct buffer *buffer, const void *bytes, size_t size) {
    TRY(buffer_reserve(buffer, size));
    if (size)
        memcpy(buffer->data + buffer->size, bytes, size);
    buffer->size += size;
    return STATUS_OK;
}

enum status buffer_append_text(struct buffer *buffer, const char *text) {
    return buffer_append(buffer, text, strlen(text));
}

enum status buffer_append_byte(struct buffer *buffer, char byte) {
    if (buffer->size == buffer->capacity)
        TRY(buffer_reserve(buffer, 1));
    buffer->data[buffer->size++] = byte;
    return STATUS_OK;
}

enum status buffer_printf(struct buffer *buffer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    RETURN_IF(length < 0, STATUS_INTERNAL, "text cannot be formatted");
    TRY(buffer_reserve(buffer, (size_t)length + 1));
    va_start(arguments, format);
    vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buffer->size += (size_t)length;
    return STATUS_OK;
}

enum status buffer_terminate(struct buffer *buffer) {
    TRY(buffer_reserve(buffer, 1));
    buffer->data[buffer->size] = '\0';
    return STATUS_OK;
}
