/* identity: what a record's answer depends on besides its prompt, parameters and id, as a canonical text of
 * "key=value" lines and its hash. Two runs with equal identity may work on one output; the text lets a
 * refusal name the first difference. */
#ifndef PRESSRUN_WORKER_JOB_IDENTITY_H
#define PRESSRUN_WORKER_JOB_IDENTITY_H

#include "worker/base/buffer.h"
#include "worker/base/hash.h"
#include "worker/job/job.h"
#include "worker/job/prompt_reader.h"

struct identity {
    struct buffer text; /* lines "key=value\n", sorted as written; values JSON-escaped */
    struct hash128 hash;
};

/* From every job value that changes answers or what a record holds (never config), the effective defaults of
 * generation_config (`defaults`, merged below the job), the model's fingerprint, the numerics class, the
 * shard. Seed and sampling are left out where prompts are scored. */
enum status identity_build(const struct job *job, const struct sampling *defaults, const char *fingerprint,
                           const char *numerics_class, struct shard shard, struct identity *out);
void identity_free(struct identity *identity);

/* Writes "dtype: bfloat16 there, float32 here" for the first line that differs; false when equal. */
bool identity_difference(const char *there, size_t there_size, const struct identity *here, char *out,
                         size_t out_size);

/* Philox key of one sample. Without a record seed: hash(job seed, id, sample), id = custom_id or the decimal
 * line number; with one: hash(record seed, sample). */
uint64_t identity_sample_key(uint64_t job_seed, const struct request *request, int32_t sample);

#endif
