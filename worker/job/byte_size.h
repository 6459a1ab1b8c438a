/* byte_size: amounts of memory as people write them. */
#ifndef PRESSRUN_WORKER_JOB_BYTE_SIZE_H
#define PRESSRUN_WORKER_JOB_BYTE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "1048576", "512MiB", "1.5 GiB", "80GB": a decimal number and a unit: none or B (bytes), KiB MiB GiB TiB
 * (powers of 1024) or kB KB MB GB TB (powers of 1000). False when text is anything else, or 2^63 or more. */
bool byte_size_parse(const char *text, size_t size, uint64_t *bytes);

#endif
