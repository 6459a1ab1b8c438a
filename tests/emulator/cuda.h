/* What the backend uses of the CUDA driver's interface, for the emulator: tensor maps. */
#ifndef PRESSRUN_TESTS_EMULATOR_CUDA_H
#define PRESSRUN_TESTS_EMULATOR_CUDA_H

#include <cstdint>

typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;

enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_64B = 2, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

/* A matrix in memory and the box in which it is copied; sizes in elements, strides in bytes. */
struct alignas(64) CUtensorMap {
    unsigned char *data;
    uint64_t columns, rows, row_bytes;
    uint32_t box_columns, box_rows;
    uint32_t element_bytes;
    uint32_t swizzle_rows; /* a chunk's number is combined with that of its 128 bytes, modulo this: 8 or 4 */
};

/* Refuses what the driver refuses: addresses, strides and boxes that the copy engine cannot take. */
CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *data,
                                const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill);

#endif
