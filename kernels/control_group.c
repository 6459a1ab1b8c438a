#include "kernels/control_group.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 4096, LINE_BYTES = 4096 };

/* A group of one hierarchy. */
struct group {
    char folder[PATH_BYTES];
    size_t top; /* length of the part of folder that is the top of the hierarchy */
};

/* Reads the first line of a file; false when there is none. */
static bool read_line(const char *path, char line[LINE_BYTES]) {
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    bool has_line = fgets(line, LINE_BYTES, file) != NULL;
    fclose(file);
    return has_line;
}

/* The first line of a control file. */
static bool read_control(const struct group *group, const char *name, char line[LINE_BYTES]) {
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", group->folder, name);
    return read_line(path, line);
}

static bool read_number(const struct group *group, const char *name, unsigned long long *value) {
    char line[LINE_BYTES];
    return read_control(group, name, line) && line[0] != '-' && sscanf(line, "%llu", value) == 1;
}

/* Whether a list of names that commas separate holds one. */
static bool list_holds(const char *list, const char *name) {
    size_t length = strlen(name);
    for (; *list; list += strcspn(list, ","), list += *list == ',')
        if (strcspn(list, ",") == length && strncmp(list, name, length) == 0)
            return true;
    return false;
}

/* The path of this process's group: a line HIERARCHY:CONTROLLERS:PATH of /proc/self/cgroup, where version 2
 * has no controllers. Empty when there is none. */
static void find_path(const char *root, const char *controller, char path[LINE_BYTES]) {
    char line[LINE_BYTES];
    path[0] = '\0';
    snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
    FILE *file = fopen(line, "r");
    while (file && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'), *own = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!own)
            continue;
        *own++ = '\0';
        own[strcspn(own, "\n")] = '\0';
        if (*controller ? list_holds(controllers + 1, controller) : controllers[1] == '\0')
            strcpy(path, own);
    }
    if (file)
        fclose(file);
}

/* This process's group in the hierarchy of a controller of version 1, or ("") in that of version 2. */
static struct group own_group(const char *root, const char *controller) {
    struct group group;
    char path[LINE_BYTES];
    find_path(root, controller, path);
    int top = snprintf(group.folder, sizeof group.folder, "%s/sys/fs/cgroup%s%s", root,
                       *controller ? "/" : "", controller);
    group.top = (size_t)top < sizeof group.folder ? (size_t)top : sizeof group.folder - 1;
    snprintf(group.folder + group.top, sizeof group.folder - group.top, "%s", path);
    return group;
}

/* Goes to the group that holds this one; false at the top. */
static bool go_up(struct group *group) {
    char *slash = strrchr(group->folder + group->top, '/');
    if (slash)
        *slash = '\0';
    return slash != NULL;
}

/* ---- processors ---- */

/* The lesser of a limit so far (0: none) and a quota of microseconds in a period. */
static int lesser(int n, unsigned long long quota, unsigned long long period) {
    if (quota == 0 || period == 0)
        return n;
    unsigned long long more = (quota - 1) / period + 1;
    return n > 0 && (unsigned long long)n < more ? n : more > INT_MAX ? INT_MAX : (int)more;
}

int control_group_processors(const char *root) {
    int n = 0;
    unsigned long long quota, period;
    char line[LINE_BYTES];
    struct group group = own_group(root, "");
    do
        if (read_control(&group, "cpu.max", line) && sscanf(line, "%llu %llu", &quota, &period) == 2)
            n = lesser(n, quota, period);
    while (go_up(&group));
    group = own_group(root, "cpu");
    do
        if (read_number(&group, "cpu.cfs_quota_us", &quota) &&
            read_number(&group, "cpu.cfs_period_us", &period))
            n = lesser(n, quota, period);
    while (go_up(&group));
    return n;
}

/* ---- memory ---- */

/* A number of memory.stat, lines NAME VALUE; 0 when it is not there. */
static unsigned long long memory_stat(const struct group *group, const char *name) {
    char path[PATH_BYTES + 64], line[LINE_BYTES];
    unsigned long long value = 0;
    size_t length = strlen(name);
    snprintf(path, sizeof path, "%s/memory.stat", group->folder);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, length) == 0 && line[length] == ' ' &&
            sscanf(line + length, "%llu", &value) == 1)
            break;
    if (file)
        fclose(file);
    return value;
}

/* Usage includes pages of files that were read or written. Both lists of them (active_file and
 * inactive_file, with a prefix) can be dropped, and count as free, as in MemAvailable: what is read twice, as
 * the tensor files are for their weights and their fingerprint, is on the active list. */
static void add_memory(struct group group, const char *limit_name, const char *usage_name, const char *prefix,
                       uint64_t *limit, uint64_t *left) {
    do {
        unsigned long long most, used;
        if (!read_number(&group, limit_name, &most))
            continue;
        *limit = most < *limit ? most : *limit;
        if (!read_number(&group, usage_name, &used))
            continue;
        char inactive[32], active[32];
        snprintf(inactive, sizeof inactive, "%sinactive_file", prefix);
        snprintf(active, sizeof active, "%sactive_file", prefix);
        unsigned long long cache = memory_stat(&group, inactive) + memory_stat(&group, active);
        used -= cache < used ? cache : used;
        uint64_t more = used < most ? most - used : 0;
        *left = more < *left ? more : *left;
    } while (go_up(&group));
}

void control_group_memory(const char *root, uint64_t *limit, uint64_t *left) {
    *limit = *left = UINT64_MAX;
    add_memory(own_group(root, ""), "memory.max", "memory.current", "", limit, left);
    add_memory(own_group(root, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_", limit,
               left);
}
