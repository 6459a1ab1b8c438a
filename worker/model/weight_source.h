/* weight_source: takes weights out of tensor files into backend memory: checks the shape, converts to the
 * compute dtype, transposes where a checkpoint stores [n_in, n_out], refuses NaN and infinity. Host memory in
 * use is near that of one tensor. Private to worker/model. */
#ifndef PRESSRUN_WORKER_MODEL_WEIGHT_SOURCE_H
#define PRESSRUN_WORKER_MODEL_WEIGHT_SOURCE_H

#include "kernels/backend.h"
#include "worker/base/buffer.h"
#include "worker/model/safetensors.h"

struct weight_source {
    struct safetensors *files;
    struct backend *backend;
    enum dtype dtype;
    bool hashes;           /* hash each tensor while its pages are at hand */
    struct buffer scratch; /* one tensor, converted; freed by the owner of the source */
};

enum weight_layout {
    WEIGHT_OUT_IN, /* stored as [n_out, n_in] */
    WEIGHT_IN_OUT  /* stored as [n_in, n_out] (GPT-2's Conv1D): transposed on loading */
};

/* A matrix [n_out, n_in] in the source's dtype. STATUS_DATA when it is missing, has another shape or dtype,
 * or values that are not finite. */
enum status weight_source_matrix(struct weight_source *source, const char *name, enum weight_layout layout,
                                 int64_t n_out, int64_t n_in, struct tensor **out);
/* A float32 vector [n]. */
enum status weight_source_vector(struct weight_source *source, const char *name, int64_t n,
                                 struct tensor **out);

/* The conversion alone: tensor, stored in `layout`, to out [n_out, n_in] of dtype. *n_bad counts the elements
 * of out that are NaN or infinite. Large ones are shared by threads; each element is rounded to nearest even
 * by itself. */
enum status weight_convert(const struct stored_tensor *tensor, enum weight_layout layout, int64_t n_out,
                           int64_t n_in, enum dtype dtype, void *out, int64_t *n_bad);

#endif
