/* operations_rig: a backend with sequences for the cases of attention. The queries, keys and values of
 * position p of a slot are fixed random numbers, whichever step computes them. Before every case all pages
 * hold NaN. operations_rig.c is the rig itself and the double-precision reference; operations_attention.c the
 * checks that every variant must pass. */
#ifndef PRESSRUN_TESTS_FUNCTIONAL_OPERATIONS_RIG_H
#define PRESSRUN_TESTS_FUNCTIONAL_OPERATIONS_RIG_H

#include "tests/functional/operations.h"

struct rig_model {
    int32_t n_heads, n_kv_heads, head_dim;
    enum dtype dtype, kv_dtype;
    bool rope; /* queries and keys are rotated */
};

/* What else attention may be told; zero is off. */
struct rig_variant {
    int32_t window;
    float softcap;
    bool norms; /* of queries and keys */
};

extern const struct rig_variant plain_attention; /* all zero */

struct rig {
    struct operations *ops;
    struct rig_model model;
    struct rig_variant variant;
    int32_t n_slots, max_positions, max_rows;
    int32_t cols, out_cols; /* of qkv and of out */
    float scale;
    float **qkv;      /* [n_slots] of [max_positions, cols] */
    float **prepared; /* the same with queries and keys normalised and rotated; qkv itself with neither */
    int32_t *pages;   /* [n_slots, pages_per_slot] */
    int32_t pages_per_slot;
    struct tensor *in, *out; /* [max_rows + EXTRA_ROWS, ...] */
    float *angles;           /* [max_positions, head_dim] cosines, sines; NULL without rope */
    struct tensor *rope;     /* the same in the backend */
    float *norm[2];          /* [head_dim] of queries, of keys; NULL without */
    struct tensor *norm_vector[2];
};

/* Rows of one sequence in a step. Decode parts (one row) come first. */
struct part {
    int32_t slot, position, n_rows;
    bool decode;
};

/* False, with a note, when this backend refuses such a model by name. */
bool rig_init(struct rig *rig, struct operations *ops, struct rig_model model,
              const struct rig_variant *variant, int32_t n_slots, int32_t max_positions, int32_t max_rows);
void rig_free(struct rig *rig);
/* Fills every page of the layer with NaN, one through prefill and the others as its copies, and starts all
 * slots again. */
void rig_poison(struct rig *rig);
/* Runs one step; returns its rows' outputs [sum of n_rows, out_cols]. values replaces the rows' qkv when not
 * NULL. */
float *rig_step(struct rig *rig, const struct part *parts, int n_parts, const float *values);
/* Compares out [out_cols] with the double-precision attention of position p of a slot. */
void rig_expect_row(const struct rig *rig, int32_t slot, int32_t p, const float *out);

/* ---- what every variant must pass ---- */

/* Values: prefill of ragged sequences, more prompt with decode beside it, then decode alone. */
void attention_values(struct operations *ops, struct rig_model model, const struct rig_variant *variant);
/* A prompt in one piece and in pieces, with others beside them: equal bits. */
void attention_cuts(struct operations *ops, struct rig_model model, const struct rig_variant *variant);
/* Prompts of lengths around the borders of pages and tiles, together, alone, cut: values and equal bits; and
 * a position whose key and value are NaN, which only the rows that see it notice. */
void attention_prompts(struct operations *ops, struct rig_model model, const struct rig_variant *variant);
/* Generated rows at lengths around the borders of pages and chunks, alone and with 16 others: values and
 * equal bits. */
void attention_decode_alone(struct operations *ops, struct rig_model model,
                            const struct rig_variant *variant);

#endif
