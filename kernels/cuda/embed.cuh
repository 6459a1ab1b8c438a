/* embed: the arithmetic of embeddings. Included by embed.cu and network.cu: one of each, so that a row's bits
 * do not depend on which of them computed it. */
#ifndef PRESSRUN_KERNELS_CUDA_EMBED_CUH
#define PRESSRUN_KERNELS_CUDA_EMBED_CUH

#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/weight_layout.h"

namespace {

enum { EMBED_VECTOR = 4 };

/* Columns [column, column + 4) of a row of a table, which is a weight. */
__device__ __forceinline__ float4 table_load_4(const float *table, int64_t stride, int64_t row, int column) {
    return load_4(table + row * stride + column);
}

__device__ __forceinline__ float4 table_load_4(const bfloat16 *table, int64_t k_blocks, int64_t row,
                                               int column) {
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(table);
    bytes += weight_offset(row, column / TILE_CHUNK_ELEMENTS, k_blocks);
    return load_4(reinterpret_cast<const bfloat16 *>(bytes) + column % TILE_CHUNK_ELEMENTS);
}

/* Columns [column, column + 4) of the row's hidden state; NaN when the token or the position is not known.
 * positions: NULL where the model has none. stride: as table_load_4 takes it. */
template <typename T>
__device__ __forceinline__ float4 embed_4(const T *tokens, const T *positions, int64_t stride, bool known,
                                          int32_t token, int32_t position, float scale, int column) {
    float4 sum = table_load_4(tokens, stride, known ? token : 0, column);
    /* Rounded before the position is added, whatever the compiler may contract. */
    sum = make_float4(__fmul_rn(sum.x, scale), __fmul_rn(sum.y, scale), __fmul_rn(sum.z, scale),
                      __fmul_rn(sum.w, scale));
    if (positions) {
        float4 add = table_load_4(positions, stride, known ? position : 0, column);
        sum = make_float4(sum.x + add.x, sum.y + add.y, sum.z + add.z, sum.w + add.w);
    }
    if (!known)
        sum.x = sum.y = sum.z = sum.w = __int_as_float(0x7FC00000);
    return sum;
}

} // namespace

#endif
