/* isa_table: the table of one instruction set. */
#include "kernels/cpu/isa_kernels.h"

const struct cpu_isa CPU_SYMBOL(cpu_isa) = {
    .name = CPU_STRING(CPU_ISA),
    .matmul_panels = CPU_SYMBOL(cpu_matmul_panels),
    .norm_row = CPU_SYMBOL(cpu_norm_row),
    .attention_decode_chunk = CPU_SYMBOL(cpu_attention_decode_chunk),
    .attention_combine = CPU_SYMBOL(cpu_attention_combine),
    .attention_prefill_block = CPU_SYMBOL(cpu_attention_prefill_block),
    .sample_block_maxima = CPU_SYMBOL(cpu_sample_block_maxima),
    .sample_exp_sum = CPU_SYMBOL(cpu_sample_exp_sum),
    .sample_exp = CPU_SYMBOL(cpu_sample_exp),
    .sample_gumbel = CPU_SYMBOL(cpu_sample_gumbel),
    .sample_gather = CPU_SYMBOL(cpu_sample_gather),
    .fma_rounds = CPU_SYMBOL(cpu_fma_rounds),
    .log = CPU_SYMBOL(cpu_log),
};
