/* synthesis: weights without a file, for benchmarks: random values for whatever tensor a family asks for.
 * Every value is a function of seed, tensor name, index in the stored tensor and shape alone, so two
 * processes make the same model, and a written one equals the one in memory. Private to worker/model. */
#ifndef PRESSRUN_WORKER_MODEL_SYNTHESIS_H
#define PRESSRUN_WORKER_MODEL_SYNTHESIS_H

#include "worker/model/model.h"

enum { SYNTHETIC_NAME_BYTES = 128 };

/* A tensor as a file would hold it. */
struct synthetic_tensor {
    char name[SYNTHETIC_NAME_BYTES];
    int32_t n_dims;   /* 1 or 2 */
    int64_t shape[2]; /* outermost first; 1 behind the last */
    float offset;     /* that its reader adds to every element */
};

/* What a family asked for, in order, each name once. Zero-initialised is empty. */
struct synthetic_list {
    struct synthetic_tensor *tensors;
    int32_t n;
    int32_t capacity;
};
enum status synthetic_list_add(struct synthetic_list *list, const struct synthetic_tensor *tensor);
void synthetic_list_free(struct synthetic_list *list);

/* The tensor's elements [first, first + n), in stored order, rounded to dtype: normal, mean 0, standard
 * deviation 0.02 (the families' initializer_range) for a matrix; 0 for a bias; for the weight of a
 * norm 1, and for that behind the last layer the gain that the synthesis asks for, less the tensor's offset.
 * out: float32, values of dtype. */
void synthesis_values(const struct synthesis *synthesis, const struct synthetic_tensor *tensor,
                      enum dtype dtype, size_t first, size_t n, float *out);

/* A backend that keeps nothing: loading into it tells what a family asks for, without a device. */
struct backend synthesis_backend(void);
/* Every tensor that config's family asks for (model.c). */
enum status model_list_tensors(const struct model_config *config, enum dtype dtype,
                               struct synthetic_list *list);

#endif
