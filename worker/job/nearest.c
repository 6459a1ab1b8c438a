#include "worker/job/nearest.h"

#include <stdio.h>
#include <string.h>

enum { LONGEST_NAME = 40 };

static char folded(char c) {
    if (c >= 'A' && c <= 'Z')
        return (char)(c - 'A' + 'a');
    return c == '-' ? '_' : c;
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* Both at most LONGEST_NAME bytes. Three rows of the table are alive at a time. */
static int distance(const char *a, size_t a_size, const char *b, size_t b_size) {
    int rows[3][LONGEST_NAME + 1];
    for (size_t j = 0; j <= b_size; j++)
        rows[0][j] = (int)j;
    for (size_t i = 1; i <= a_size; i++) {
        int *row = rows[i % 3];
        const int *above = rows[(i - 1) % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= b_size; j++) {
            char x = folded(a[i - 1]), y = folded(b[j - 1]);
            row[j] = smaller(smaller(above[j], row[j - 1]) + 1, above[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == folded(b[j - 2]) && y == folded(a[i - 2]))
                row[j] = smaller(row[j], rows[(i - 2) % 3][j - 2] + 1);
        }
    }
    return rows[a_size % 3][b_size];
}

const char *nearest_name(const char *text, size_t size, const char *const *names) {
    if (size > LONGEST_NAME)
        return NULL;
    const char *best = NULL;
    int best_distance = 0;
    for (; *names; names++) {
        size_t name_size = strlen(*names);
        if (name_size > LONGEST_NAME)
            continue;
        int d = distance(text, size, *names, name_size);
        if (d <= (int)(name_size + 2) / 3 && d < (int)name_size && (!best || d < best_distance)) {
            best = *names;
            best_distance = d;
        }
    }
    return best;
}

const char *nearest_hint(const char *text, size_t size, const char *const *names,
                         char out[NEAREST_HINT_BYTES]) {
    const char *name = nearest_name(text, size, names);
    if (name)
        snprintf(out, NEAREST_HINT_BYTES, "; did you mean %s?", name);
    else
        out[0] = '\0';
    return out;
}
