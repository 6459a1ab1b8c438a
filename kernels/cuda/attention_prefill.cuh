/* attention_prefill: the kernels that prompt attention chooses from. All take p.tiles and find K and V of
 * every position in the pages. */
#ifndef PRESSRUN_KERNELS_CUDA_ATTENTION_PREFILL_CUH
#define PRESSRUN_KERNELS_CUDA_ATTENTION_PREFILL_CUH

#include "kernels/cuda/attention.cuh"

/* Any dtype and kv dtype but bfloat16 over bfloat16; any head_dim that cuda_attention_supports() lets in. */
enum status attention_prefill_fma(struct backend_context *context, const attention_params &p,
                                  enum dtype dtype, enum dtype kv_dtype);

/* bfloat16 over bfloat16 pages, on tensor cores; the same head dims. */
enum status attention_prefill_mma(struct backend_context *context, const attention_params &p);

/* The same on Hopper, for head dims with a tile height here: rows of a tile, or 0. qkv: the tensor behind
 * p.qkv. */
int32_t attention_prefill_wgmma_tile_rows(int32_t head_dim);
enum status attention_prefill_wgmma(struct backend_context *context, const attention_params &p,
                                    const struct tensor *qkv);

#endif
