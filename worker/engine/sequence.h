/* sequence: one sample in the making; group: the samples of one record that run at a time, which share its
 * prompt. A record that is scored has one sequence, which samples nothing: each row of its prompt but the
 * last has an entry of the samples, whose target is the token behind it. A prompt of one token has none.
 *
 * Two clocks run side by side: what was queued on the device (n_prefilled, n_queued) and what came back
 * (n_tokens). The host is up to one step ahead, so a sequence may be over (is_over) while a step that still
 * holds a row of it is in flight; that row's token is dropped. Its slot and pages are given back at once:
 * later steps are queued behind.
 *
 * A group may have to start again from its prompt. The tokens that came back stay: the replay brings the same
 * ones (DESIGN: numbers), which are compared and dropped until it is where it was. */
#ifndef PRESSRUN_WORKER_ENGINE_SEQUENCE_H
#define PRESSRUN_WORKER_ENGINE_SEQUENCE_H

#include "worker/output/record.h"
#include "worker/text/tokenizer.h"

struct group;

struct sequence {
    struct group *group;
    struct completion *completion; /* tokens land here; belongs to the group's record */
    int32_t sample;                /* index within the record */
    int32_t slot;                  /* -1: none, or given back */
    int32_t running_idx;           /* place in the scheduler's running list; -1: not in it */
    int32_t max_tokens;            /* most tokens to sample */
    int32_t n_queued;              /* tokens whose sampling is queued */
    int32_t n_queued_before;       /* the most that were, before the group started again */
    int32_t n_back;                /* tokens that came back since the group started, replayed ones included */
    int32_t *pages; /* [n_pages] in order of position; the first group->n_shared_pages are shared */
    int32_t n_pages;
    int32_t n_reserved_pages; /* of them when it began */
    int32_t token_capacity;
    bool is_over; /* no further token is kept */
    struct detokenizer detokenizer;
    struct buffer text;   /* grows with the tokens when the record has stop strings */
    size_t text_searched; /* bytes of text that hold no stop string's end */
};

struct group {
    struct record *record;
    int64_t order;         /* of submission: who is younger */
    const int32_t *prompt; /* [n_prompt], the record's */
    int32_t n_prompt;
    int32_t n_prefill;          /* prompt positions to compute: all, or all but the last of a scored prompt */
    int32_t n_prefilled;        /* of them queued */
    int32_t n_shared_pages;     /* full prompt pages, held by each sequence */
    int32_t max_tokens;         /* of each sample; 0: the prompt is scored */
    int32_t first_sample;       /* of the record, among those that run now */
    int32_t n_sequences;        /* samples that run now */
    int32_t n_places;           /* most of them at a time */
    int32_t n_over;             /* sequences that are over */
    int32_t n_in_flight;        /* entries of queued steps that point here */
    bool is_prefilling;         /* it is admitted, and its prompt not wholly queued */
    int32_t n_restarts;         /* times that it gave its place back, to start again from its prompt */
    bool is_parked;             /* it did so, and waits for what is in flight before it queues again */
    struct sequence *sequences; /* [n_places], the first n_sequences in use */
    struct group *next;         /* in the list that the group is in */
};

/* A group over record (taken over on success). max_tokens: most tokens of each sample, without meaning for a
 * record that is scored. most_samples: how many of the record's samples run at a time; the others follow in
 * turns, prefilling the prompt again (the same bits). */
enum status group_new(struct record *record, int32_t max_tokens, int32_t most_samples, struct group **out);
static inline bool group_is_scored(const struct group *group) {
    return group->record->is_scored;
}
/* All sequences are over and none is in flight: makes the group ready to run the record's next samples. False
 * when there are none, or the record failed. */
bool group_next_samples(struct group *group);
/* The first sequence that is not over: the prompt is computed in its slot. NULL when all are. */
struct sequence *group_leader(struct group *group);
/* Frees the group, not its record. */
void group_free(struct group *group);

#endif
