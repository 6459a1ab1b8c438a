/* invariance: one set of records, generated again and again in batches of different make, and the comparison
 * of the answers, bit for bit. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_INVARIANCE_H
#define PRESSRUN_TESTS_FUNCTIONAL_INVARIANCE_H

#include "tests/functional/relay.h"
#include "worker/engine/engine.h"

enum { INVARIANCE_RECORDS = 300, INVARIANCE_MAX_TOKENS = 40 };

/* A model directory and the prompts it is given. */
struct invariance_model {
    const char *name;
    const char *folder;
    int32_t longest_prompt;
};

/* How one batch is made. Zero: as the baseline. */
struct invariance_variant {
    const char *name;
    int32_t max_num_seqs; /* 0: 64 */
    int32_t max_rows;     /* of a step; 0: max_num_seqs + 2048 */
    int32_t chunk_rows;   /* of one prompt in a step; 0: no limit */
    int32_t n_shards;     /* record i runs with those of the same i mod n_shards; 0: 1 */
    int32_t every;        /* only each n-th record runs, of those only prompts up to longest_prompt; 0: all */
    int32_t longest_prompt;
    int32_t most_records; /* the first of those; 0: no limit */
    int32_t most_tokens;  /* that an answer has; 0: what its record asks for */
    bool is_permuted;
    struct backend_options options;
    struct relay_options relay;
};

/* What the records of one run answered, and what the batches were like. */
struct invariance_run {
    struct record *records[INVARIANCE_RECORDS]; /* NULL: did not run; owned */
    int32_t n_records;
    struct relay_counts counts;
    struct run_metrics metrics;
};

/* Where two runs differ first. */
struct invariance_difference {
    int32_t record;
    int32_t sample;
    int32_t position; /* of the generated token; -1: the answer as a whole */
    char what[160];
};

/* Runs the variant through the worker's engine. Failures end the running cmocka test. */
void invariance_run(const char *device, const struct invariance_model *model, enum dtype dtype,
                    const struct invariance_variant *variant, struct invariance_run *out);
void invariance_run_free(struct invariance_run *run);

/* True when all that run answered, tokens, log-probabilities and ends, is in baseline with the same bits. */
bool invariance_equal(const struct invariance_run *baseline, const struct invariance_run *run,
                      struct invariance_difference *difference);

#endif
