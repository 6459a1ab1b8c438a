/* memory_rows: a row_source over a matrix that lies in memory. Valid C11 and C++17. */
#ifndef PRESSRUN_KERNELS_MEMORY_ROWS_H
#define PRESSRUN_KERNELS_MEMORY_ROWS_H

#include <string.h>

#include "kernels/backend.h"

struct memory_rows {
    const void *rows; /* dense */
    size_t row_bytes;
};

static inline void memory_rows_read(void *argument, int64_t first, int64_t n, void *to) {
    const struct memory_rows *memory = (const struct memory_rows *)argument;
    const char *from = (const char *)memory->rows + (size_t)first * memory->row_bytes;
    memcpy(to, from, (size_t)n * memory->row_bytes);
}

/* A view: memory and its rows must outlive the source. */
static inline struct row_source memory_rows_source(struct memory_rows *memory) {
    struct row_source source;
    source.read = memory_rows_read;
    source.argument = memory;
    return source;
}

#endif
