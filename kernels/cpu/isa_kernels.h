/* isa_kernels: prototypes of one instruction set's kernels, for the isa_*.c files. What each does: isa.h. */
#ifndef PRESSRUN_KERNELS_CPU_ISA_KERNELS_H
#define PRESSRUN_KERNELS_CPU_ISA_KERNELS_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

void CPU_SYMBOL(cpu_matmul_panels)(const struct matmul_job *job, int64_t first, int64_t end);
bool CPU_SYMBOL(cpu_norm_row)(const struct norm_job *job, const float *in, void *out);
void CPU_SYMBOL(cpu_attention_decode_chunk)(const struct kv_view *view, const float *queries,
                                            int32_t n_queries, int32_t first, int32_t end, float *partial,
                                            size_t stride);
void CPU_SYMBOL(cpu_attention_combine)(const float *partial, size_t stride, int32_t n, int32_t head_dim,
                                       float *out);
void CPU_SYMBOL(cpu_attention_prefill_block)(const struct kv_view *view, const float *queries, int32_t n,
                                             int32_t position, int32_t window, float *out);
bool CPU_SYMBOL(cpu_sample_block_maxima)(const float *values, int64_t n, float *maxima);
double CPU_SYMBOL(cpu_sample_exp_sum)(const float *values, int64_t n, float largest, float factor);
void CPU_SYMBOL(cpu_sample_exp)(const float *values, int64_t n, float largest, float factor, float *out);
int32_t CPU_SYMBOL(cpu_sample_gumbel)(const float *values, const int32_t *ids, int64_t n, float largest,
                                      float factor, uint64_t key, uint32_t position);
int64_t CPU_SYMBOL(cpu_sample_gather)(const float *values, int64_t n, float bound, int32_t *ids, float *kept);
int64_t CPU_SYMBOL(cpu_fma_rounds)(enum dtype dtype, int64_t n, float factor, float *sink);
float CPU_SYMBOL(cpu_log)(float x);

#endif
