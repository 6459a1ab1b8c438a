#include "worker/engine/step_bound.h"

#include <stdlib.h>

#include "worker/base/arith.h"

enum status step_bound_init(struct step_bound *bound, const struct scheduler_limits *limits) {
    /* Admission is due when slots * 10 >= n_slots are idle (is_admission_due): one less may stay idle for
     * long. */
    int32_t idle = (int32_t)ceil_divide(limits->n_slots, 10) - 1;
    *bound = (struct step_bound){
        .limits = *limits, .n_slots = limits->n_slots - idle, .n_pages = limits->n_pages - 1};
    bound->heap = calloc((size_t)limits->n_slots, sizeof *bound->heap);
    RETURN_IF(!bound->heap, STATUS_INTERNAL, "out of host memory");
    return STATUS_OK;
}

void step_bound_free(struct step_bound *bound) {
    free(bound->heap);
    *bound = (struct step_bound){0};
}

static void heap_push(struct step_bound *bound, struct step_bound_place place) {
    int32_t at = bound->n_heap++;
    for (int32_t parent; at > 0 && bound->heap[parent = (at - 1) / 2].until_step > place.until_step;
         at = parent)
        bound->heap[at] = bound->heap[parent];
    bound->heap[at] = place;
}

static struct step_bound_place heap_pop(struct step_bound *bound) {
    struct step_bound_place *heap = bound->heap, top = heap[0], last = heap[--bound->n_heap];
    int32_t at = 0;
    for (int32_t child; (child = 2 * at + 1) < bound->n_heap; at = child) {
        if (child + 1 < bound->n_heap && heap[child + 1].until_step < heap[child].until_step)
            child++;
        if (heap[child].until_step >= last.until_step)
            break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

/* Waits until n samples of one prompt have their places, and takes them. An idle device takes any group. */
static void place_group(struct step_bound *bound, int32_t n_prompt, int32_t max_tokens, int32_t n) {
    int64_t pages = scheduler_pages_needed(n_prompt, max_tokens, n);
    while (bound->n_heap > 0 && (bound->n_busy + n > bound->n_slots || pages > bound->n_pages)) {
        struct step_bound_place ended = heap_pop(bound);
        bound->now_step = ended.until_step; /* never earlier than now: ends before it were popped */
        bound->n_busy -= ended.n_slots;
        bound->n_pages += ended.n_pages;
    }
    bound->n_busy += n;
    bound->n_pages -= pages;
    int64_t until = bound->now_step + max_tokens;
    heap_push(bound, (struct step_bound_place){until, pages, n});
    if (until > bound->last_step)
        bound->last_step = until;
    bound->prompt_rows += n_prompt;
}

void step_bound_add(struct step_bound *bound, int32_t n_prompt, int32_t max_tokens, int32_t n_samples) {
    int32_t at_once = scheduler_samples_at_once(&bound->limits, n_prompt, max_tokens, n_samples);
    if (at_once == 0)
        return;
    place_group(bound, n_prompt, max_tokens, at_once);
    if (max_tokens > bound->longest)
        bound->longest = max_tokens;
    int64_t turns = ceil_divide(n_samples, at_once) - 1;
    bound->n_turns += turns;
    bound->turn_steps += turns * max_tokens;
    bound->prompt_rows += turns * n_prompt;
}

int64_t step_bound_steps(const struct step_bound *bound) {
    /* A step that does not finish the prompts it has is full of their rows, but for a chunk that was cut
     * short. */
    int64_t rows = bound->limits.max_rows - bound->limits.n_slots;
    if (bound->limits.chunk_rows > 0 && bound->limits.chunk_rows < rows)
        rows = bound->limits.chunk_rows;
    /* Further samples come to the head of the queue when their predecessors' last tokens are back, two steps
     * behind; there they wait for whoever was let in meanwhile. */
    int64_t turns = bound->turn_steps + bound->n_turns * (bound->longest + 2);
    return bound->last_step + turns + ceil_divide(bound->prompt_rows, rows);
}
