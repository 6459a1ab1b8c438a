/* state_layout: where the parts of a backend's state lie in one allocation. Private to kernels/.
 *
 * Offsets in bytes from its start, each a multiple of STATE_ALIGNMENT. state_bytes() is the total. */
#ifndef PRESSRUN_KERNELS_STATE_LAYOUT_H
#define PRESSRUN_KERNELS_STATE_LAYOUT_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    STATE_ALIGNMENT = 256,
    MAXIMA_GROUP = 32, /* tokens that share a maximum */
    MAXIMA_LEAST_ROWS = 64
};

struct state_layout {
    size_t keys;          /* [n_layers, n_pages, n_kv_heads, PAGE_TOKENS * head_dim] kv dtype */
    size_t values;        /* the same */
    size_t page_table;    /* [n_slots + 1, max_pages_per_slot] int32 */
    size_t token_counts;  /* [n_slots + 1, n_vocab] uint32 */
    size_t sampling;      /* [n_slots + 1] struct slot_sampling */
    size_t last_token;    /* [n_slots + 1] int32 */
    size_t faults;        /* [n_slots + 1] uint64: position * 2^32 + layer, UINT64_MAX for none */
    size_t token;         /* [max_rows] int32 */
    size_t position;      /* [max_rows] int32 */
    size_t slot;          /* [max_rows] int32 */
    size_t segments;      /* [max_segments] struct segment */
    size_t sample_row;    /* [max_samples] int32 */
    size_t sample_slot;   /* [max_samples] int32 */
    size_t sample_target; /* [max_samples] int32 */
    size_t results;       /* [max_samples] struct sample_result */
    size_t top;           /* [max_samples] struct sample_top */
    size_t partials;      /* [max_decode_rows, n_heads, max_chunks, head_dim + 2] float32 */
    size_t maxima; /* [max(max_samples, MAXIMA_LEAST_ROWS), groups of MAXIMA_GROUP tokens, a multiple of
                      4] float32; or of half as many rows groups of half as many tokens */
    size_t total;
    int32_t max_decode_rows; /* min(max_rows, n_slots) */
    int32_t max_chunks;      /* DECODE_CHUNK_TOKENS chunks of the longest sequence */
};

/* False when a size is negative or a product does not fit size_t; the layout is then undefined. */
bool state_layout_init(struct state_layout *layout, const struct state_limits *limits);

#ifdef __cplusplus
}
#endif
#endif
