/* version: of the program and of the libraries it is built with. */
#ifndef PRESSRUN_WORKER_VERSION_H
#define PRESSRUN_WORKER_VERSION_H

#include "worker/base/buffer.h"

const char *pressrun_version(void); /* "0.1.0" */
const char *pressrun_commit(void);  /* of the source tree, or "unknown" */
/* The lines of --version. */
enum status version_write(struct buffer *out);

#endif
