#include "kernels/backend.h"

#include <string.h>

enum status backend_open(const char *name, const struct backend_options *options, struct backend *out) {
    static const struct backend_options defaults;
    if (!options)
        options = &defaults;
    memset(out, 0, sizeof *out);
    if (strcmp(name, "cpu") == 0)
        return backend_open_cpu(options, out);
    if (strcmp(name, "cuda") == 0)
        return backend_open_cuda(options, out);
    return status_fail(STATUS_USAGE, "device \"%s\" is unknown; use auto, cpu, cuda or cuda:N", name);
}
