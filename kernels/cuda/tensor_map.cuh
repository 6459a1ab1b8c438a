/* tensor_map: describes a tensor in device memory to the copy engine (compute capability 9.0). */
#ifndef PRESSRUN_KERNELS_CUDA_TENSOR_MAP_CUH
#define PRESSRUN_KERNELS_CUDA_TENSOR_MAP_CUH

#include <cuda.h>

#include "kernels/cuda/context.cuh"

/* A tensor [rows, cols], `stride` elements from row to row, as boxes of box_rows by box_cols. Rows of a box
 * of 128 or 64 bytes are swizzled over their width (tile.h). What a box has outside of the tensor arrives as
 * zeros, and is not stored. For context->has_wgmma. */
enum status cuda_tensor_map(struct backend_context *context, const char *operation, const void *data,
                            enum dtype dtype, int64_t rows, int64_t cols, int64_t stride, int32_t box_rows,
                            int32_t box_cols, CUtensorMap *map);

#endif
