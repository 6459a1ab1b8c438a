#include "kernels/host_info.h"

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/control_group.h"

int host_processors(void) {
    cpu_set_t set;
    int n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    if (n < 1) /* more processors than a cpu_set_t holds */
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (n < 1)
        n = 1;
    int quota = control_group_processors("");
    return quota > 0 && quota < n ? quota : n;
}

void host_memory(size_t *free_bytes, size_t *total_bytes) {
    unsigned long long total_kib = 0, free_kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "MemTotal: %llu", &total_kib);
        sscanf(line, "MemAvailable: %llu", &free_kib);
    }
    if (file)
        fclose(file);
    uint64_t total = total_kib * 1024, available = free_kib * 1024, limit, left;
    control_group_memory("", &limit, &left);
    *free_bytes = (size_t)(left < available ? left : available);
    *total_bytes = (size_t)(limit < total ? limit : total);
}

void host_cpu_name(char *name, size_t size) {
    char line[256];
    snprintf(name, size, "CPU");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            colon[strcspn(colon, "\n")] = '\0';
            snprintf(name, size, "%.*s", (int)size - 1, colon + 1 + strspn(colon + 1, " "));
            break;
        }
    }
    if (file)
        fclose(file);
}
