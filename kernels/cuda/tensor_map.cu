#include "kernels/cuda/tensor_map.cuh"

enum status cuda_tensor_map(struct backend_context *context, const char *operation, const void *data,
                            enum dtype dtype, int64_t rows, int64_t cols, int64_t stride, int32_t box_rows,
                            int32_t box_cols, CUtensorMap *map) {
    const cuuint64_t sizes[2] = {(cuuint64_t)cols, (cuuint64_t)rows};
    const cuuint64_t strides[1] = {(cuuint64_t)stride * dtype_bytes(dtype)};
    const cuuint32_t box[2] = {(cuuint32_t)box_cols, (cuuint32_t)box_rows};
    const cuuint32_t steps[2] = {1, 1};
    auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(context->tensor_map_encode);
    CUresult result = encode(
        map, dtype == DTYPE_FLOAT32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
        const_cast<void *>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        (size_t)box_cols * dtype_bytes(dtype) == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    RETURN_IF(
        result != CUDA_SUCCESS, STATUS_INTERNAL,
        "%s: the tensor map of [%lld, %lld] was refused (driver error %d); update the NVIDIA driver, and "
        "report it if it stays",
        operation, (long long)rows, (long long)cols, (int)result);
    return STATUS_OK;
}
