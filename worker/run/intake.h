/* intake: the thread that reads, tokenizes and checks prompts, a bounded distance ahead of the engine.
 * Records come out in input order, good ones ready for engine_submit, bad ones with error_code set. */
#ifndef PRESSRUN_WORKER_RUN_INTAKE_H
#define PRESSRUN_WORKER_RUN_INTAKE_H

#include "worker/job/plan.h"
#include "worker/output/record.h"
#include "worker/text/tokenizer.h"

/* What a request needs to become a record; all of it outlives the intake. */
struct intake_options {
    const struct job *job;
    const struct config *config;
    const struct model_config *model;
    const struct sampling *defaults;   /* of generation_config.json */
    const struct tokenizer *tokenizer; /* NULL: only records with token ids */
    int32_t max_model_len;
    double start_s; /* clock_seconds() that record times count from */
};

/* Merges sampling levels, tokenizes and checks one request, in place. `scratch` may be NULL without a
 * tokenizer. Wrong with the record: request->error_code set, STATUS_OK. *max_tokens: each sample's, cut to
 * the model's room. */
enum status intake_prepare(const struct intake_options *options, struct tokenizer_scratch *scratch,
                           struct record *record, int32_t *max_tokens);
/* Sets the request's error from the thread's status message. */
enum status intake_set_error(struct request *request, const char *code);

struct intake;
/* Starts the thread over an open reader, which it owns from then on. */
enum status intake_start(const struct intake_options *options, struct prompt_reader *reader,
                         struct intake **out);

enum intake_event { INTAKE_RECORD, INTAKE_NONE_YET, INTAKE_END, INTAKE_FAILED };
/* Next record with its max_tokens, waiting at most wait_s. INTAKE_FAILED: *failure and status_message() tell.
 */
enum intake_event intake_take(struct intake *intake, double wait_s, struct record **record,
                              int32_t *max_tokens, enum status *failure);
/* Lines read so far, whether these are all, and the share of the file in [0, 1] (negative: unknown). */
void intake_progress(struct intake *intake, int64_t *n_read, bool *ended, double *fraction);
/* Ends the thread, also one that waits for more of a pipe, and frees everything. NULL is fine. */
void intake_stop(struct intake *intake);

#endif
