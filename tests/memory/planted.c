/* Planted defects, which the memory checks must catch (valgrind.sh): planted leak|read|overrun|none. A leak
 * that is small and is lost in a thread, as the worker's would be; a read behind a block; a write behind one.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile char sink;

static void *leak(void *argument) {
    (void)argument;
    char *volatile block = malloc(16);
    if (block)
        block[0] = 1;
    block = NULL;
    return NULL;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    char *volatile block = malloc(24);
    if (!block)
        return 1;
    memset(block, 1, 24);
    if (strcmp(what, "leak") == 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, leak, NULL) != 0)
            return 1;
        pthread_join(thread, NULL);
    } else if (strcmp(what, "read") == 0) {
        sink = block[24];
    } else if (strcmp(what, "overrun") == 0) {
        block[24] = sink;
    } else if (strcmp(what, "none") != 0) {
        fprintf(stderr, "usage: planted leak|read|overrun|none\n");
        free(block);
        return 64;
    }
    free(block);
    return 0;
}
