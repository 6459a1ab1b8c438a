/* golden: what test_blocks and test_network share: the reference's tensors (tests/golden/README.md), the
 * backend under test, and host copies of its tensors as float32. Failures end the running cmocka test. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_GOLDEN_H
#define PRESSRUN_TESTS_FUNCTIONAL_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "tests/functional/arguments.h"
#include "worker/model/safetensors.h"

extern struct arguments golden_arguments;
extern const char *golden_backend; /* golden_arguments.device */

/* Reads the arguments; returns false, having printed "SKIPPED: …", where there is no such device. */
bool golden_choose_backend(int argc, char **argv);
void golden_open_backend(struct backend *backend);

/* Fails the running test with status_message() when status is not STATUS_OK. */
void golden_check(enum status status, const char *what);

/* tests/golden/NAME.safetensors; safetensors_close. */
struct safetensors *golden_open(const char *name);
/* Tensor "case<index>.<name>"; NULL when absent. */
struct stored_tensor *golden_find(struct safetensors *files, int index, const char *name);
/* A copy of its values; free. golden_floats for float32, golden_ints for int32 tensors. */
float *golden_floats(struct safetensors *files, int index, const char *name, int64_t shape[2]);
int32_t *golden_ints(struct safetensors *files, int index, const char *name, int64_t *n);

/* max|actual - expected| <= tolerance * max|expected|, and nothing is NaN. */
void golden_check_close(const char *what, int index, const float *actual, const float *expected, size_t n,
                        double tolerance);

/* Copies between float32 host memory and a row-major tensor of any dtype; rounds to nearest even. */
void golden_write(struct backend *backend, struct tensor *tensor, enum dtype dtype, int64_t rows,
                  int64_t cols, const float *values);
void golden_read(struct backend *backend, const struct tensor *tensor, enum dtype dtype, int64_t rows,
                 int64_t cols, float *values);
struct tensor *golden_tensor(struct backend *backend, enum dtype dtype, int64_t rows, int64_t cols);
struct tensor *golden_weight(struct backend *backend, enum dtype dtype, int64_t n_out, int64_t n_in,
                             const float *values);
struct tensor *golden_vector(struct backend *backend, int64_t n, const float *values);

#endif
