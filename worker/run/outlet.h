/* outlet: the thread that turns finished records into sealed output, in input order. Records may be put in
 * any order; those that wait for an earlier one wait here, and their bytes are what max_waiting_bytes bounds.
 */
#ifndef PRESSRUN_WORKER_RUN_OUTLET_H
#define PRESSRUN_WORKER_RUN_OUTLET_H

#include "worker/output/metrics.h"
#include "worker/output/record.h"
#include "worker/output/writer.h"
#include "worker/text/tokenizer.h"

struct outlet_options {
    const struct tokenizer *tokenizer; /* NULL: texts stay empty */
    bool output_token_ids;
    int64_t first_index; /* index of the record that comes first */
};

struct outlet;
/* The writer stays the caller's, but only the outlet calls it until outlet_stop returns. */
enum status outlet_start(const struct outlet_options *options, struct writer *writer, struct outlet **out);
/* Takes a record (malloc'ed) over. Fails with the thread's failure once there was one. */
enum status outlet_put(struct outlet *outlet, struct record *record);
/* Bytes of records that are put and not yet written. */
size_t outlet_waiting_bytes(struct outlet *outlet);
/* Waits until fewer than `bytes` wait or wait_s is over. */
void outlet_wait_below(struct outlet *outlet, size_t bytes, double wait_s);
/* Writes what is in order, drops the rest, ends the thread, and adds what it counted to metrics. Returns the
 * thread's failure. Does not seal. */
enum status outlet_stop(struct outlet *outlet, struct run_metrics *metrics);

#endif
