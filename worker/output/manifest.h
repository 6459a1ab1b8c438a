/* manifest: NAME.manifest.json beside the output: complete or k of n, counts, identity, effective parameters,
 * versions, device, and the metrics of every run that worked on it (runs of earlier processes are kept).
 * Written whole (temporary file, fsync, rename). A lost or damaged manifest is rebuilt from the seals, marked
 * "rebuilt": never a reason to stop. Fields: docs/output.md. */
#ifndef PRESSRUN_WORKER_OUTPUT_MANIFEST_H
#define PRESSRUN_WORKER_OUTPUT_MANIFEST_H

#include "worker/job/identity.h"
#include "worker/output/metrics.h"
#include "worker/output/writer.h"

struct manifest_info {
    const char *output; /* NAME */
    const struct identity *identity;
    const char *device;
    const char *numerics_class;
    const char *version; /* of pressrun */
    bool is_complete;
    const char *state;  /* "running", "publishing", "complete", "stopped", "failed" */
    int64_t n_expected; /* selected input lines; -1 while unknown */
    struct output_counts counts;
    struct output_counts found;        /* counts at this run's start: records not generated again */
    const struct run_metrics *metrics; /* of this run */
    const char *started_at;            /* RFC 3339, UTC; with fractions, so that no two runs share it */
};

/* Writes the manifest, keeping the entries of earlier runs of this identity. A run is known by started_at and
 * process id: later calls replace its entry. The caller holds the output's lock. STATUS_CANNOT_CREATE,
 * STATUS_IO, STATUS_INTERNAL. */
enum status manifest_write(const struct manifest_info *info);

/* For an output that is published: where the manifest does not say so (its writer died behind the rename, or
 * it was lost), it does afterwards. Otherwise untouched. Same failures. */
enum status manifest_write_published(const char *output, const struct identity *identity,
                                     const struct output_counts *counts);

#endif
