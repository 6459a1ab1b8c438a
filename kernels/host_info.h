/* host_info: what this process may use of the machine that it runs on. Valid C11 and C++17. */
#ifndef PRESSRUN_KERNELS_HOST_INFO_H
#define PRESSRUN_KERNELS_HOST_INFO_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Processors that this process may use, at least 1: those of its affinity mask, or as many as the CPU quota
 * of its control groups is worth, rounded up, where these are fewer. Whoever starts threads that compute asks
 * here. */
int host_processors(void);

/* Bytes of memory that can still be allocated without swapping, and in total: the machine's, cut by the
 * memory limits of the control groups. Zeros when the machine does not tell. */
void host_memory(size_t *free_bytes, size_t *total_bytes);

/* The processor's name for people, "CPU" when unknown. */
void host_cpu_name(char *name, size_t size);

#ifdef __cplusplus
}
#endif
#endif
