/* cpu_info: what this process may use of the machine. */
#ifndef PRESSRUN_KERNELS_CPU_CPU_INFO_H
#define PRESSRUN_KERNELS_CPU_CPU_INFO_H

#include <stddef.h>

/* Processors this process may use: its affinity mask, cut by the CPU quota of its control group (rounded
 * down, at least 1). */
int cpu_available_threads(void);

/* Bytes of memory that can still be allocated without swapping, and in total: the machine's, cut by the
 * memory limit of the control group. Zeros when the machine does not tell. */
void cpu_memory(size_t *free_bytes, size_t *total_bytes);

/* The processor's name for people, "CPU" when unknown. */
void cpu_name(char *name, size_t size);

#endif
