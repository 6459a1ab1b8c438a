/* attention_prefill: the kernels that prompt attention chooses from. All take p.tiles and find K and V of
 * every position in the pages. */
#ifndef PRESSRUN_KERNELS_CUDA_ATTENTION_PREFILL_CUH
#define PRESSRUN_KERNELS_CUDA_ATTENTION_PREFILL_CUH

#include "kernels/cuda/attention.cuh"

/* Of a bfloat16 in the low half of `half`, and of two in a register: not finite; with zeros for what is not.
 */
static __device__ __forceinline__ bool bfloat16_is_nonfinite(uint32_t half) {
    return (half & 0x7F80u) == 0x7F80u;
}

static __device__ __forceinline__ bool bfloat16_pair_is_nonfinite(uint32_t pair) {
    return bfloat16_is_nonfinite(pair) || bfloat16_is_nonfinite(pair >> 16);
}

static __device__ __forceinline__ uint32_t bfloat16_pair_finite(uint32_t pair) {
    return pair & ((bfloat16_is_nonfinite(pair) ? 0u : 0xFFFFu) |
                   (bfloat16_is_nonfinite(pair >> 16) ? 0u : 0xFFFF0000u));
}

/* Any dtype and kv dtype but bfloat16 over bfloat16; any head_dim that cuda_attention_supports() lets in. */
enum status attention_prefill_fma(struct backend_context *context, const attention_params &p,
                                  enum dtype dtype, enum dtype kv_dtype);

/* bfloat16 over bfloat16 pages, on tensor cores; the same head dims. */
enum status attention_prefill_mma(struct backend_context *context, const attention_params &p);

/* Shared memory of a block of it, in bytes. */
size_t attention_prefill_mma_shared_bytes(int32_t head_dim);

/* The same on Hopper, for head dims with a tile height here: rows of a tile, or 0. qkv: the tensor behind
 * p.qkv. */
int32_t attention_prefill_wgmma_tile_rows(int32_t head_dim);
enum status attention_prefill_wgmma(struct backend_context *context, const attention_params &p,
                                    const struct tensor *qkv);

/* Of whichever kernel the device takes for bfloat16 over bfloat16 pages, where that may be more than it has;
 * else 0. */
size_t attention_prefill_shared_bytes(const struct backend_context *context, int32_t head_dim);

#endif
