#include "kernels/cpu/cpu_info.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The first line of a file; false when it cannot be read. */
static bool read_line(const char *path, char *line, size_t size) {
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    bool read = fgets(line, (int)size, file) != NULL;
    fclose(file);
    return read;
}

/* The value of a control file of this process's control group (version 2, then version 1). A container
 * usually sees its own group at the root of the mount. */
static bool read_control(const char *file_v2, const char *file_v1, char *line, size_t size) {
    char group[512] = "", path[1024];
    if (read_line("/proc/self/cgroup", group, sizeof group) && strncmp(group, "0::", 3) == 0) {
        group[strcspn(group, "\n")] = '\0';
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group + 3, file_v2);
        if (read_line(path, line, size))
            return true;
    }
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s", file_v2);
    if (read_line(path, line, size))
        return true;
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s", file_v1);
    return read_line(path, line, size);
}

/* Whole processors that the quota allows; 0 for no quota. */
static int quota_threads(void) {
    char line[128];
    long long quota, period;
    if (!read_control("cpu.max", "cpu/cpu.cfs_quota_us", line, sizeof line))
        return 0;
    int n = sscanf(line, "%lld %lld", &quota, &period);
    if (n < 1 || quota <= 0) /* "max", or -1 */
        return 0;
    if (n == 1 && (!read_control("cpu.cfs_period_us", "cpu/cpu.cfs_period_us", line, sizeof line) ||
                   sscanf(line, "%lld", &period) != 1))
        return 0;
    if (period <= 0)
        return 0;
    return quota / period < 1 ? 1 : (int)(quota / period);
}

int cpu_available_threads(void) {
    cpu_set_t set;
    int n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    if (n < 1) /* more processors than a cpu_set_t holds */
        n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (n < 1)
        n = 1;
    int quota = quota_threads();
    return quota > 0 && quota < n ? quota : n;
}

void cpu_memory(size_t *free_bytes, size_t *total_bytes) {
    unsigned long long total_kib = 0, free_kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "MemTotal: %llu", &total_kib);
        sscanf(line, "MemAvailable: %llu", &free_kib);
    }
    if (file)
        fclose(file);
    uint64_t total = total_kib * 1024, available = free_kib * 1024;

    unsigned long long limit, used;
    if (read_control("memory.max", "memory/memory.limit_in_bytes", line, sizeof line) &&
        sscanf(line, "%llu", &limit) == 1 && limit < total) {
        total = limit;
        if (read_control("memory.current", "memory/memory.usage_in_bytes", line, sizeof line) &&
            sscanf(line, "%llu", &used) == 1) {
            uint64_t left = used < limit ? limit - used : 0;
            available = left < available ? left : available;
        }
    }
    *free_bytes = (size_t)available;
    *total_bytes = (size_t)total;
}

void cpu_name(char *name, size_t size) {
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
