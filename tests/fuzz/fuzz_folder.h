/* A folder for fuzz targets that read a model directory: in memory where there is such a file system, because
 * every input is written once; removed at exit. */
#ifndef PRESSRUN_TESTS_FUZZ_FOLDER_H
#define PRESSRUN_TESTS_FUZZ_FOLDER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/status.h"

static char fuzz_folder[64], fuzz_file[128];

static void fuzz_folder_remove(void) {
    unlink(fuzz_file);
    rmdir(fuzz_folder);
}

/* Writes the input as NAME, the same in all calls; returns the folder. */
static const char *fuzz_folder_write(const char *name, const uint8_t *data, size_t size) {
    if (!fuzz_folder[0]) {
        snprintf(fuzz_folder, sizeof fuzz_folder, "%s/pressrun-fuzz-XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(fuzz_folder))
            abort();
        snprintf(fuzz_file, sizeof fuzz_file, "%s/%s", fuzz_folder, name);
        atexit(fuzz_folder_remove);
    }
    FILE *file = fopen(fuzz_file, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        abort();
    return fuzz_folder;
}

/* A refusal must be STATUS_DATA, with a message of one line. */
static void fuzz_check_refusal(enum status status) {
    if (status != STATUS_OK &&
        (status != STATUS_DATA || !*status_message() || strchr(status_message(), '\n')))
        abort();
}

#endif
