#include "kernels/state_layout.h"

/* Appends an array of a * b * c * d elements; false on overflow. */
static bool append(struct state_layout *layout, size_t *offset, int64_t a, int64_t b, int64_t c, int64_t d,
                   size_t element_bytes) {
    size_t bytes = element_bytes;
    const int64_t factors[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (factors[i] < 0 || (uint64_t)factors[i] > SIZE_MAX ||
            __builtin_mul_overflow(bytes, (size_t)factors[i], &bytes))
            return false;
    }
    *offset = layout->total;
    size_t padded;
    if (__builtin_add_overflow(bytes, (size_t)STATE_ALIGNMENT - 1, &padded))
        return false;
    padded -= padded % STATE_ALIGNMENT;
    return !__builtin_add_overflow(layout->total, padded, &layout->total);
}

bool state_layout_init(struct state_layout *layout, const struct state_limits *limits) {
    *layout = (struct state_layout){0};
    int64_t slots = (int64_t)limits->n_slots + 1;
    int64_t head_elements = (int64_t)PAGE_TOKENS * limits->head_dim;
    int64_t heads = limits->n_kv_heads;
    size_t kv_bytes = dtype_bytes(limits->kv_dtype);
    int64_t rows = limits->max_rows;
    int64_t samples = limits->max_samples;
    int64_t positions = (int64_t)limits->max_pages_per_slot * PAGE_TOKENS;
    int64_t chunks = (positions + DECODE_CHUNK_TOKENS - 1) / DECODE_CHUNK_TOKENS;
    layout->max_decode_rows = limits->max_rows < limits->n_slots ? limits->max_rows : limits->n_slots;
    layout->max_chunks = (int32_t)chunks;
    int64_t maxima_rows =
        limits->max_samples > MAXIMA_LEAST_ROWS ? limits->max_samples : (int64_t)MAXIMA_LEAST_ROWS;
    int64_t vectors = (limits->n_vocab + 4 * (int64_t)MAXIMA_GROUP - 1) / (4 * MAXIMA_GROUP);
    int64_t groups = 4 * vectors;
    struct state_layout *l = layout;
    return append(l, &l->keys, limits->n_layers, limits->n_pages, heads, head_elements, kv_bytes) &&
           append(l, &l->values, limits->n_layers, limits->n_pages, heads, head_elements, kv_bytes) &&
           append(l, &l->page_table, slots, limits->max_pages_per_slot, 1, 1, sizeof(int32_t)) &&
           append(l, &l->token_counts, slots, limits->n_vocab, 1, 1, sizeof(uint32_t)) &&
           append(l, &l->sampling, slots, 1, 1, 1, sizeof(struct slot_sampling)) &&
           append(l, &l->last_token, slots, 1, 1, 1, sizeof(int32_t)) &&
           append(l, &l->faults, slots, 1, 1, 1, sizeof(uint64_t)) &&
           append(l, &l->token, rows, 1, 1, 1, sizeof(int32_t)) &&
           append(l, &l->position, rows, 1, 1, 1, sizeof(int32_t)) &&
           append(l, &l->slot, rows, 1, 1, 1, sizeof(int32_t)) &&
           append(l, &l->segments, limits->max_segments, 1, 1, 1, sizeof(struct segment)) &&
           append(l, &l->sample_row, samples, 1, 1, 1, sizeof(int32_t)) &&
           append(l, &l->sample_slot, samples, 1, 1, 1, sizeof(int32_t)) &&
           append(l, &l->sample_target, samples, 1, 1, 1, sizeof(int32_t)) &&
           append(l, &l->results, samples, 1, 1, 1, sizeof(struct sample_result)) &&
           append(l, &l->top, samples, 1, 1, 1, sizeof(struct sample_top)) &&
           append(l, &l->partials, l->max_decode_rows, limits->n_heads, chunks, (int64_t)limits->head_dim + 2,
                  sizeof(float)) &&
           append(l, &l->maxima, maxima_rows, groups, 1, 1, sizeof(float));
}

size_t state_bytes(const struct state_limits *limits) {
    struct state_layout layout;
    return state_layout_init(&layout, limits) ? layout.total : 0;
}
