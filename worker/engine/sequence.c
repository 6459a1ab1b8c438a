#include "worker/engine/sequence.h"

#include <stdlib.h>

#include "kernels/backend.h"

enum status group_new(struct record *record, int32_t max_tokens, struct group **out) {
    int32_t n = record->request.error_code ? 0 : record->request.sampling.n;
    struct group *group = calloc(1, sizeof *group);
    if (!group)
        return status_fail(STATUS_INTERNAL, "out of host memory");
    group->record = record;
    group->prompt = record->request.prompt_token_ids;
    group->n_prompt = record->request.n_prompt_token_ids;
    group->n_sequences = n;
    if (n > 0) {
        group->sequences = calloc((size_t)n, sizeof *group->sequences);
        record->completions = calloc((size_t)n, sizeof *record->completions);
        if (!group->sequences || !record->completions) {
            group_free(group);
            return status_fail(STATUS_INTERNAL, "out of host memory");
        }
    }
    size_t pages = ((size_t)group->n_prompt + (size_t)max_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    for (int32_t i = 0; i < n; i++) {
        group->sequences[i] = (struct sequence){.group = group,
                                                .completion = &record->completions[i],
                                                .sample = i,
                                                .slot = -1,
                                                .running_idx = -1,
                                                .max_tokens = max_tokens,
                                                .pages = calloc(pages, sizeof(int32_t))};
        if (!group->sequences[i].pages) {
            group_free(group);
            return status_fail(STATUS_INTERNAL, "out of host memory");
        }
    }
    *out = group;
    return STATUS_OK;
}

void group_free(struct group *group) {
    if (!group)
        return;
    for (int32_t i = 0; group->sequences && i < group->n_sequences; i++) {
        free(group->sequences[i].pages);
        buffer_free(&group->sequences[i].text);
    }
    free(group->sequences);
    free(group);
}
