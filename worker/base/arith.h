/* arith: checked arithmetic for sizes that come from files. Each returns true when the result is exact. */
#ifndef PRESSRUN_WORKER_BASE_ARITH_H
#define PRESSRUN_WORKER_BASE_ARITH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static inline bool size_multiply(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

static inline int64_t ceil_divide(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

#endif
