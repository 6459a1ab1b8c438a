/* tensor: what stands behind backend.h's opaque struct tensor, in both backends. Private to kernels/.
 *
 * Owned by the backend that made it, which keeps its tensors in one list. Valid C11 and C++17. */
#ifndef PRESSRUN_KERNELS_TENSOR_H
#define PRESSRUN_KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tensor_kind {
    TENSOR_ROWS,   /* row-major activations [rows, cols] */
    TENSOR_WEIGHT, /* matmul weight or embedding table [rows = n_out, cols = n_in], in the backend's own
                      layout */
    TENSOR_VECTOR  /* float32 vector [cols], rows = 1 */
};

struct tensor {
    void *data; /* memory of the backend, `bytes` long, padding of the layout included */
    int64_t rows;
    int64_t cols;
    int64_t pair_rows; /* rows of each matrix of a weight made by weight_pair_new; else 0 */
    size_t bytes;
    enum dtype dtype;
    enum tensor_kind kind;
    struct tensor *next; /* the backend's list of what it must release */
};

#ifdef __cplusplus
}
#endif
#endif
