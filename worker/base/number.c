#include "worker/base/number.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static char *write_digits(char *out, uint64_t value) {
    char digits[20];
    int n = 0;
    do {
        digits[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (n)
        *out++ = digits[--n];
    return out;
}

char *number_write_int(char *out, int64_t value) {
    if (value >= 0)
        return write_digits(out, (uint64_t)value);
    *out++ = '-';
    return write_digits(out, 0 - (uint64_t)value);
}

char *number_write_seconds(char *out, double seconds) {
    uint64_t us = seconds > 0 ? (uint64_t)(fmin(seconds, 1e12) * 1e6 + 0.5) : 0;
    uint64_t fraction = us % 1000000;
    out = write_digits(out, us / 1000000);
    *out++ = '.';
    for (int i = 5; i >= 0; i--, fraction /= 10)
        out[i] = (char)('0' + fraction % 10);
    return out + 6;
}

/* Powers of ten that a double holds exactly. */
static const double power_of_ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
enum { MAX_POWER = 22 };

/* True when a reader of the decimal whose nearest double is `decimal` certainly gets `value`. A decimal that
 * rounds to exactly the middle of two floats says nothing about the side on which it lies. */
static bool reads_back(double decimal, float value) {
    uint64_t bits;
    memcpy(&bits, &decimal, sizeof bits);
    bool is_middle = (bits & 0x1fffffff) == 0x10000000;
    return (float)decimal == value && !is_middle;
}

/* Finds digits * 10^exponent that reads back as value, with the fewest digits from 6 to 9 (fewer show as
 * zeros at the end). False outside the range in which every step is exact enough. */
static bool shortest_decimal(float value, uint32_t *digits, int *exponent) {
    double exact = value;
    int magnitude = (int)floor(log10(exact)); /* may be one off at a power of ten: one digit more or less */
    for (int n = 6; n <= 9; n++) {
        int shift = n - 1 - magnitude;
        if (shift > MAX_POWER || shift < -MAX_POWER)
            return false;
        double power = power_of_ten[shift < 0 ? -shift : shift];
        double rounded = rint(shift < 0 ? exact / power : exact * power);
        if (reads_back(shift < 0 ? rounded * power : rounded / power, value)) {
            *digits = (uint32_t)rounded;
            *exponent = -shift;
            return true;
        }
    }
    return false;
}

char *number_write_float(char *out, float value) {
    if (isnan(value) || value == 0) {
        memcpy(out, "0.0", 3);
        return out + 3;
    }
    if (signbit(value))
        *out++ = '-';
    value = fminf(fabsf(value), FLT_MAX);

    uint32_t digits;
    int exponent;
    if (value < FLT_MIN || !shortest_decimal(value, &digits, &exponent))
        return out + snprintf(out, NUMBER_MAX_BYTES - 1, "%.8e", (double)value);
    while (digits % 10 == 0) {
        digits /= 10;
        exponent++;
    }
    char text[10];
    int n = (int)(write_digits(text, digits) - text);
    int point = n + exponent; /* digits before the decimal point */
    if (point > 9 || point < -5) {
        *out++ = text[0];
        if (n > 1)
            *out++ = '.';
        memcpy(out, text + 1, (size_t)n - 1);
        out += n - 1;
        *out++ = 'e';
        return number_write_int(out, point - 1);
    }
    if (point <= 0) {
        *out++ = '0';
        *out++ = '.';
        for (int i = point; i < 0; i++)
            *out++ = '0';
        memcpy(out, text, (size_t)n);
        return out + n;
    }
    for (int i = 0; i < point; i++)
        *out++ = i < n ? text[i] : '0';
    *out++ = '.';
    if (n <= point) {
        *out++ = '0';
        return out;
    }
    memcpy(out, text + point, (size_t)(n - point));
    return out + (n - point);
}
