/* cuda_absent: stands for the CUDA backend in a build without the CUDA toolkit. */
#include "kernels/backend.h"

#include <string.h>

enum status backend_open_cuda(const struct backend_options *options, struct backend *out) {
    (void)options;
    memset(out, 0, sizeof *out);
    return status_fail(
        STATUS_NO_DEVICE,
        "cuda: built without CUDA; use device: cpu, or build where the CUDA toolkit is installed");
}
