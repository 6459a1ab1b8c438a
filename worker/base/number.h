/* number: numbers as JSON text, fast and exact. Each writer writes at `out` without a NUL and returns the
 * end. */
#ifndef PRESSRUN_WORKER_BASE_NUMBER_H
#define PRESSRUN_WORKER_BASE_NUMBER_H

#include <stdint.h>

enum { NUMBER_MAX_BYTES = 24 }; /* the longest that any of these writes */

char *number_write_int(char *out, int64_t value);

/* The fewest significant digits (at most 9) from which a reader gets the same float32 back, always with a
 * point or an exponent, so that typed readers see a real number. Not finite: the largest finite value of that
 * sign, 0 for NaN, because JSON has no others. */
char *number_write_float(char *out, float value);

/* Seconds with six decimals. Negative or NaN: 0. At most 1e12. */
char *number_write_seconds(char *out, double seconds);

/* The value of a hexadecimal digit in either case; -1 for any other character. */
static inline int number_hex_digit(char character) {
    if (character >= '0' && character <= '9')
        return character - '0';
    character |= 0x20;
    return character >= 'a' && character <= 'f' ? character - 'a' + 10 : -1;
}

#endif
