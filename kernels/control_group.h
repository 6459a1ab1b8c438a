/* control_group: the limits of the control groups that this process is in (cgroups(7), versions 1 and 2): of
 * its own, and of all that hold it. In a container the own group is the top of what is mounted, whatever
 * /proc/self/cgroup calls it.
 *
 * `root` is put before the paths that are read: "" but in tests. What cannot be read sets no limit. */
#ifndef PRESSRUN_KERNELS_CONTROL_GROUP_H
#define PRESSRUN_KERNELS_CONTROL_GROUP_H

#include <stdint.h>

/* Processors that the CPU quota (cpu.max; cpu.cfs_quota_us and cpu.cfs_period_us) is worth, rounded up, at
 * least 1; 0: no quota. */
int control_group_processors(const char *root);

/* Bytes: the lowest memory limit, and the least that is left below one, where cached pages of files
 * (inactive_file and active_file of memory.stat) count as free; UINT64_MAX: no limit. */
void control_group_memory(const char *root, uint64_t *limit, uint64_t *left);

#endif
