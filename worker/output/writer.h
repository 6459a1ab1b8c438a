/* writer: the sealed output file, which is its own journal (format: docs/output.md).
 *
 * NAME.part grows by gzip members; each carries a seal in its extra field (record range, counts, identity
 * hash, hash of the input so far, hash of header fields and compressed bytes, hash of the previous seal). The
 * first, empty member carries the identity text; a last, empty member carries totals. Each seal is synced.
 * Publishing: fsync file, rename to NAME without replacing (link and unlink where that is missing), fsync
 * folder. One thread at a time. All calls leave the file resumable when they fail. */
#ifndef PRESSRUN_WORKER_OUTPUT_WRITER_H
#define PRESSRUN_WORKER_OUTPUT_WRITER_H

#include "worker/base/hash.h"
#include "worker/job/identity.h"
#include "worker/output/seal.h"

struct writer;

struct writer_options {
    double seal_seconds; /* 0: default 2 */
    uint64_t seal_bytes; /* 0: default 1 MiB of text */
    bool restart;        /* discard an existing .part or NAME of whatever identity */
};

/* What was found at open. */
struct writer_found {
    bool is_complete;            /* NAME is there, complete, of this identity: nothing to do */
    bool resumed;                /* an earlier .part goes on */
    struct output_counts counts; /* sealed so far */
    struct hash128 input_hash;   /* chain behind the last sealed record; zeros when none */
    uint64_t cut_bytes;          /* removed behind the last good seal */
    bool has_totals;             /* an earlier run died between its totals and publishing */
};

/* Locks and opens NAME.part, or finds NAME complete (found->is_complete; *out is NULL then). A resumed .part
 * is cut behind its last good seal; one that has its totals goes the usual way: skip what is sealed, finish,
 * publish. STATUS_LOCKED: another worker. STATUS_CANNOT_CREATE: folder missing or not writable, no locks, or
 * the file is of another identity (the message names the first difference and says --restart), not complete
 * or not ours. STATUS_CORRUPT: NAME is damaged, or NAME.part is with sealed records behind the damage.
 * STATUS_JOB: the identity text is too long for the head. STATUS_IO, STATUS_INTERNAL. No file that is refused
 * is changed. */
enum status writer_open(const char *name, const struct identity *identity,
                        const struct writer_options *options, struct writer_found *found,
                        struct writer **out);
/* Appends one record's lines in input order; numbers as record_totals gives them. input_hash is the
 * request's. Seals by itself when seal_bytes of text are reached or the oldest unsealed record waits for
 * seal_seconds. STATUS_CANNOT_CREATE: the file has its totals already. After a failure every further call
 * fails alike; the file is resumable by opening it anew. */
enum status writer_append(struct writer *writer, const char *lines, size_t size, int32_t n_lines,
                          bool is_error, int64_t prompt_tokens, int64_t completion_tokens,
                          struct hash128 input_hash);
/* To be called now and then: seals what is older than seal_seconds. */
enum status writer_tick(struct writer *writer);
/* Seals all that was appended, and syncs. */
enum status writer_seal(struct writer *writer);
struct output_counts writer_counts(const struct writer *writer); /* sealed only */
/* Seals, writes the totals, syncs; the file is complete but not yet published. Nothing to do where the totals
 * were there at open. */
enum status writer_finish(struct writer *writer);
/* Gives the file its final name without replacing, and syncs the folder. Call after the manifest is synced.
 * STATUS_CANNOT_CREATE: NAME has appeared meanwhile. STATUS_IO. */
enum status writer_publish(struct writer *writer);
void writer_close(struct writer *writer); /* NULL is fine; keeps NAME.part; releases the lock */

/* verify: walks NAME (or NAME.part), decompresses everything, checks every seal, count and JSON line (each a
 * whole object with its `line` rising, samples consecutive; records, lines, errors and tokens counted anew
 * and compared with each seal; of a scored record as many prompt_logprobs as prompt tokens). STATUS_OK
 * complete; STATUS_INCOMPLETE well formed, more to come; STATUS_CORRUPT with offset and reason;
 * STATUS_NO_INPUT. */
struct verify_report {
    struct output_counts counts;
    bool is_complete;
    struct buffer identity; /* its text */
    uint64_t file_bytes;
    uint64_t text_bytes;
    int64_t n_scored_records; /* that hold prompt_logprobs */
    int64_t scored_tokens;    /* numbers in these */
    double logprob_sum;       /* their sum */
};
enum status output_verify(const char *name, struct verify_report *report);
void verify_report_free(struct verify_report *report);

#endif
