#include "worker/engine/sequence.h"

#include <stdlib.h>

#include "kernels/backend.h"

/* The group's sequences become the samples from first_sample on, as many as there are places. */
static void begin_samples(struct group *group, int32_t first_sample) {
    struct record *record = group->record;
    int32_t left = record->request.sampling.n - first_sample;
    group->first_sample = first_sample;
    group->n_sequences = left < group->n_places ? left : group->n_places;
    group->n_prefilled = group->n_shared_pages = group->n_over = group->n_in_flight = 0;
    for (int32_t i = 0; i < group->n_sequences; i++) {
        struct sequence *sequence = &group->sequences[i];
        detokenizer_free(&sequence->detokenizer);
        *sequence = (struct sequence){.group = group,
                                      .completion = &record->completions[first_sample + i],
                                      .sample = first_sample + i,
                                      .slot = -1,
                                      .running_idx = -1,
                                      .max_tokens = group->max_tokens,
                                      .pages = sequence->pages};
    }
}

enum status group_new(struct record *record, int32_t max_tokens, int32_t most_samples, struct group **out) {
    int32_t n = record->request.error_code ? 0 : record->is_scored ? 1 : record->request.sampling.n;
    struct group *group = calloc(1, sizeof *group);
    if (!group)
        return status_fail(STATUS_INTERNAL, "out of host memory");
    group->record = record;
    group->prompt = record->request.prompt_token_ids;
    group->n_prompt = record->request.n_prompt_token_ids;
    group->n_prefill = record->is_scored ? group->n_prompt - 1 : group->n_prompt;
    group->max_tokens = record->is_scored ? 0 : max_tokens;
    if (n > 0) {
        group->n_places = n < most_samples ? n : most_samples;
        group->sequences = calloc((size_t)group->n_places, sizeof *group->sequences);
        record->completions = calloc((size_t)n, sizeof *record->completions);
        bool good = group->sequences && record->completions;
        if (record->is_scored) {
            record->prompt_logprobs = calloc((size_t)group->n_prompt, sizeof *record->prompt_logprobs);
            good = good && record->prompt_logprobs;
        }
        size_t pages = ((size_t)group->n_prompt + (size_t)group->max_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
        for (int32_t i = 0; good && i < group->n_places; i++) {
            group->sequences[i].pages = calloc(pages, sizeof(int32_t));
            good = group->sequences[i].pages != NULL;
        }
        if (!good) {
            group_free(group);
            return status_fail(STATUS_INTERNAL, "out of host memory");
        }
        if (group->n_prefill > 0)
            begin_samples(group, 0);
    }
    *out = group;
    return STATUS_OK;
}

bool group_next_samples(struct group *group) {
    int32_t next = group->first_sample + group->n_sequences;
    if (group->record->request.error_code || next >= group->record->request.sampling.n)
        return false;
    begin_samples(group, next);
    return true;
}

struct sequence *group_leader(struct group *group) {
    for (int32_t i = 0; i < group->n_sequences; i++)
        if (!group->sequences[i].is_over)
            return &group->sequences[i];
    return NULL;
}

void group_free(struct group *group) {
    if (!group)
        return;
    for (int32_t i = 0; group->sequences && i < group->n_places; i++) {
        free(group->sequences[i].pages);
        buffer_free(&group->sequences[i].text);
        detokenizer_free(&group->sequences[i].detokenizer);
    }
    free(group->sequences);
    free(group);
}
