/* prompt_reader: the input file as a stream of requests, one per selected line, bounded memory.
 *
 * Formats: .txt (one prompt per line), .jsonl (one object per line), either with .gz, "-" for standard input
 * (told apart from gzip by its magic; a stdin line is JSON when the first non-blank byte of the first line is
 * '{'). A line that is wrong becomes a request with status STATUS_RECORD, not a failure. Failures of the
 * stream itself (damaged gzip, read error) end the job: STATUS_DATA or STATUS_IO, naming the line reached. */
#ifndef PRESSRUN_WORKER_JOB_PROMPT_READER_H
#define PRESSRUN_WORKER_JOB_PROMPT_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/base/hash.h"
#include "worker/job/job.h"

/* One input line. Owned by whoever holds it; request_free. */
struct request {
    int64_t line;    /* 1-based line of the whole input, before sharding */
    int64_t index;   /* 0-based among the selected lines */
    char *custom_id; /* NULL when the record has none */
    size_t custom_id_size;
    struct text_span prompt;   /* bytes NULL when the record gives token ids, and once it is tokenized */
    int32_t *prompt_token_ids; /* [n_prompt_token_ids]; NULL when the record gives text, until the tokenizer
                                  fills it */
    int32_t n_prompt_token_ids;
    bool has_token_ids;        /* the record itself gave token ids */
    struct sampling sampling;  /* record level, then merged to the effective values */
    struct text_span metadata; /* source bytes of the value, copied through; bytes NULL when absent */
    struct hash128 input_hash; /* chain over the selected lines up to and including this one: hash of the
                                  previous value, the line number (8 bytes, little-endian) and the line's
                                  bytes without byte order mark and line end */
    const char *error_code;    /* NULL: good. Else static text: "line_too_long", "invalid_utf8",
                                  "empty_prompt", "empty_line", "invalid_json", "duplicate_key",
                                  "unknown_key", "missing_prompt", "invalid_value" */
    char *error_message;
};
void request_free(struct request *request);

struct shard {
    int32_t index; /* i of i/n, from 0 */
    int32_t count; /* 1: whole input */
};
/* Parses "i/n". STATUS_USAGE. */
enum status shard_parse(const char *text, struct shard *out);

enum prompt_format { PROMPT_TEXT, PROMPT_JSONL, PROMPT_DETECT };
/* The format that a name stands for: .txt, .jsonl (or .ndjson), either with .gz; PROMPT_DETECT for "-" and
 * for pipes and devices (/dev/fd/63). False for any other name. */
bool prompt_format_of_name(const char *name, enum prompt_format *format);

/* Parses one JSONL line into *out, whose line and index are set already: fills id, prompt or token ids,
 * sampling and metadata, or error_code and error_message. Fails only when memory is out. */
enum status request_parse_json(const char *line, size_t size, const char *prompt_field, struct request *out);
/* Makes *out a failed request (the first failure stays): code is static text, the message is formatted. */
enum status request_refuse(struct request *out, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Whether a record may hold this key beside its prompt column. */
bool request_key_is_known(const char *name);

struct prompt_reader;
/* Reads job->prompts. */
enum status prompt_reader_open(const struct job *job, struct shard shard, struct prompt_reader **out);
/* Next request, or *end. The request is the caller's. */
enum status prompt_reader_next(struct prompt_reader *reader, struct request *out, bool *end);
/* Skips n selected lines (hashing them); the chain hash behind the last. *skipped < n when the input ends
 * early. */
enum status prompt_reader_skip(struct prompt_reader *reader, int64_t n, int64_t *skipped,
                               struct hash128 *hash);
/* Bytes of the file read so far and in all (0 when unknown), for the ETA. */
void prompt_reader_progress(const struct prompt_reader *reader, uint64_t *bytes_read, uint64_t *bytes_total);
/* From any thread: a next or skip that waits for a pipe or terminal, and every later one that would read,
 * returns STATUS_STOPPED. */
void prompt_reader_stop(struct prompt_reader *reader);
void prompt_reader_close(struct prompt_reader *reader);

#endif
