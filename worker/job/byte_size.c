#include "worker/job/byte_size.h"

#include <string.h>

static bool unit_factor(const char *unit, size_t size, uint64_t *factor) {
    static const struct {
        const char *name;
        uint64_t factor;
    } units[] = {
        {"", 1},
        {"B", 1},
        {"KiB", 1ull << 10},
        {"MiB", 1ull << 20},
        {"GiB", 1ull << 30},
        {"TiB", 1ull << 40},
        {"kB", 1000ull},
        {"KB", 1000ull},
        {"MB", 1000000ull},
        {"GB", 1000000000ull},
        {"TB", 1000000000000ull},
    };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strlen(units[i].name) == size && memcmp(units[i].name, unit, size) == 0) {
            *factor = units[i].factor;
            return true;
        }
    return false;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool byte_size_parse(const char *text, size_t size, uint64_t *bytes) {
    size_t i = 0;
    uint64_t whole = 0;
    for (; i < size && is_digit(text[i]); i++)
        if (__builtin_mul_overflow(whole, 10u, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(text[i] - '0'), &whole))
            return false;
    if (i == 0)
        return false;
    double fraction = 0, place = 0.1;
    if (i < size && text[i] == '.') {
        size_t first = ++i;
        for (; i < size && is_digit(text[i]); i++, place /= 10)
            fraction += place * (text[i] - '0');
        if (i == first)
            return false;
    }
    while (i < size && text[i] == ' ')
        i++;
    uint64_t factor, product;
    if (!unit_factor(text + i, size - i, &factor) || __builtin_mul_overflow(whole, factor, &product))
        return false;
    if (fraction > 0 && factor == 1)
        return false;
    if (__builtin_add_overflow(product, (uint64_t)(fraction * (double)factor), &product) ||
        product > INT64_MAX)
        return false;
    *bytes = product;
    return true;
}
