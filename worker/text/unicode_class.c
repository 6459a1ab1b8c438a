#include "worker/text/unicode_class.h"

#include <stddef.h>

struct class_range {
    uint32_t first;
    uint32_t last;
    enum unicode_class class;
};

static const struct class_range ranges[] = {
#include "worker/text/unicode_class_table.h"
};

enum unicode_class unicode_class_of(uint32_t code_point) {
    if (code_point < 0x80) { /* most text; the table agrees (test_utf8) */
        uint32_t lower = code_point | 0x20;
        if (lower >= 'a' && lower <= 'z')
            return CLASS_LETTER;
        if (code_point == ' ' || (code_point >= '\t' && code_point <= '\r'))
            return CLASS_SPACE;
        return code_point >= '0' && code_point <= '9' ? CLASS_NUMBER : CLASS_OTHER;
    }
    size_t low = 0, high = sizeof ranges / sizeof ranges[0];
    while (low < high) { /* the first range that ends at or behind the code point */
        size_t middle = low + (high - low) / 2;
        if (ranges[middle].last < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == sizeof ranges / sizeof ranges[0] || ranges[low].first > code_point)
        return CLASS_OTHER;
    return ranges[low].class;
}
