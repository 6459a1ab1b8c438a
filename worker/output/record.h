/* record: one input line's answer, and its JSON lines. Owned by whoever holds it. */
#ifndef PRESSRUN_WORKER_OUTPUT_RECORD_H
#define PRESSRUN_WORKER_OUTPUT_RECORD_H

#include "worker/base/buffer.h"
#include "worker/job/prompt_reader.h"

enum finish_reason { FINISH_STOP, FINISH_LENGTH };

struct top_logprob {
    int32_t token;
    float logprob;
};

/* One sample's answer. */
struct completion {
    struct buffer text; /* valid UTF-8 */
    enum finish_reason finish_reason;
    int32_t *token_ids; /* [n_tokens] owned */
    int32_t n_tokens;
    float *logprobs;         /* [n_tokens], or NULL */
    struct top_logprob *top; /* [n_tokens, n_top], or NULL */
    int32_t n_top;
    /* seconds on the monotonic clock, relative to the run's start */
    double first_token_s;
    double last_token_s;
};

struct record {
    struct request request; /* sampling holds the effective values; error_code set when it failed */
    int32_t n_prompt_tokens;
    int32_t n_truncated_tokens;     /* cut from the left by on_too_long: truncate_left */
    struct completion *completions; /* [request.sampling.n]; NULL when the record failed */
    bool is_scored;         /* mode: score. Its one completion holds no tokens, only when scoring ended */
    float *prompt_logprobs; /* [n_prompt_tokens]: of each prompt token after the first; [0] is not used. NULL
                               where the record is not scored, or failed */
    int32_t n_scored;       /* prompt tokens that have theirs */
    double queued_s;        /* read from the input */
    double admitted_s;      /* took its slots */
};
void record_free(struct record *record);

/* What the record adds to the counts of the seals: tokens as its usage fields say (the prompt once, the
 * samples summed), none when it failed. */
void record_totals(const struct record *record, bool *is_error, int64_t *prompt_tokens,
                   int64_t *completion_tokens);

/* Sum of the log-probabilities of a scored record, in order. */
double record_logprob_sum(const struct record *record);

/* Host memory that the record holds, but for what allocators add. */
size_t record_bytes(const struct record *record);

/* Appends the record's JSON lines (n lines, or one error line), each with '\n'. Field order is fixed:
 * line, custom_id, sample, text, finish_reason, token_ids, logprobs, usage, metadata, timing; an error line:
 * line, custom_id, error, metadata, timing (queue_s alone); a scored record's one line: line, custom_id,
 * prompt_token_ids, prompt_logprobs, perplexity, usage, metadata, timing. token_ids and prompt_token_ids are
 * written when asked for, token_ids always beside logprobs too. Everything that may differ between two runs
 * lies in timing. n_lines gets the number of lines. STATUS_INTERNAL: memory is out, or the record has neither
 * answer nor error. */
enum status record_write(const struct record *record, bool token_ids, struct buffer *out, int32_t *n_lines);

#endif
