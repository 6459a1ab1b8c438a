/* rope: which angles rotary positions use (RoFormer, Su et al. 2021), and the table of their cosines and
 * sines that attention reads. */
#ifndef PRESSRUN_WORKER_MODEL_ROPE_H
#define PRESSRUN_WORKER_MODEL_ROPE_H

#include <stdbool.h>
#include <stdint.h>

enum rope_kind {
    ROPE_NONE,    /* positions are embedded, not rotated */
    ROPE_DEFAULT, /* pair i turns by position * theta^(-2 i / head_dim) */
    ROPE_LINEAR,  /* that, divided by factor */
    ROPE_LLAMA3,  /* slow pairs divided by factor, fast ones as they are, smoothly between (Llama 3.1) */
    ROPE_YARN /* the same with a border by pair, and cosines and sines times amplitude (Peng et al. 2023) */
};

struct rope_config {
    enum rope_kind kind;
    double theta;
    double factor;              /* linear, llama3, yarn */
    double low_frequency;       /* llama3: pairs with fewer turns than this in original_positions are slow */
    double high_frequency;      /* llama3: those with more are fast */
    int32_t original_positions; /* llama3, yarn: context that the model was first trained with */
    double fast_turns;          /* yarn: pairs with more turns than this in original_positions are fast */
    double slow_turns;          /* yarn: those with fewer are slow */
    bool keeps_fractions;       /* yarn: the two borders are not widened to whole pairs */
    double amplitude;           /* yarn */
};

/* How far pair i of a head [0, head_dim / 2) turns from one position to the next, in radians. */
double rope_frequency(const struct rope_config *config, int32_t head_dim, int32_t pair);

/* What cosines and sines are multiplied with: 1 but for yarn. */
double rope_amplitude(const struct rope_config *config);

/* table [n_positions, head_dim]: row p holds the cosines of its head_dim / 2 pairs at position p, then their
 * sines, times the amplitude, computed in double and rounded once. Shared by threads when it is large. */
void rope_fill(const struct rope_config *config, int32_t head_dim, int32_t n_positions, float *table);

#endif
