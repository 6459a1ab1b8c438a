/* weight_convert: elements of tensor files to the dtypes that are computed in. Private to worker/model. */
#ifndef PRESSRUN_WORKER_MODEL_WEIGHT_CONVERT_H
#define PRESSRUN_WORKER_MODEL_WEIGHT_CONVERT_H

#include "kernels/backend.h"
#include "worker/model/safetensors.h"

/* Bytes of an element that weight_convert takes; 0 for dtypes that it does not. */
size_t weight_stored_bytes(enum stored_dtype dtype);

/* n stored elements, aligned in any way, to n of dtype at `to`, rounded to nearest, ties to even. Returns how
 * many of the results are NaN or infinite. */
int64_t weight_convert(enum stored_dtype from_dtype, const void *from, size_t n, enum dtype dtype, void *to);

#endif
