/* sample: what its kernels are given, and how they write down what became of an entry. Included by sample.cu
 * alone. */
#ifndef PRESSRUN_KERNELS_CUDA_SAMPLE_ENTRY_CUH
#define PRESSRUN_KERNELS_CUDA_SAMPLE_ENTRY_CUH

#include "kernels/cuda/candidate.cuh"
#include "kernels/cuda/context.cuh"

namespace {

struct sample_params {
    const float *logits; /* [n, n_vocab] float32 */
    int64_t logits_stride;
    int32_t n_vocab;
    int32_t n_parts;
    int32_t slice; /* logits of a part; a multiple of 4 */
    bool resident; /* a slice fits shared memory */
    int32_t first_sample;
    int32_t logits_site; /* n_layers + 1 */
    int32_t n_slots;
    int32_t max_samples;
    bool want_logprobs;
    const int32_t *ring;                  /* [1] */
    const int32_t *sample_row;            /* [n_samples] */
    const int32_t *sample_slot;           /* [n_samples] */
    const int32_t *sample_target;         /* [n_samples]; read when SCORES */
    const int32_t *position;              /* [n_rows] */
    const int32_t *slot;                  /* [n_rows] */
    const struct slot_sampling *sampling; /* [n_slots + 1] */
    uint32_t *counts;                     /* [n_slots + 1, n_vocab] */
    int32_t *last_token;                  /* [n_slots + 1] */
    unsigned long long *fault;            /* [n_slots + 1] */
    const struct head_entry *head;        /* [n_samples], or NULL */
    const float *maxima;                  /* [n, groups] of entries that are HEAD_LISTS, which sample_listed
                                             takes; NULL: it takes none */
    struct sample_result *results;        /* [RING_ENTRIES, max_samples] */
    struct sample_top *top;               /* [RING_ENTRIES, max_samples] */
};

/* Where an entry's result goes, and who it is of. One thread writes it. */
struct entry_place {
    int64_t out;
    int slot, state_row, position;
};

/* A prompt's rows note their fault in the slot that they were computed in; its other samples see it here. */
__device__ __forceinline__ unsigned long long known_fault(const sample_params &p, const entry_place &at) {
    return min(p.fault[at.slot], p.fault[p.slot[at.state_row]]);
}

__device__ __forceinline__ unsigned long long logits_fault(const sample_params &p, const entry_place &at) {
    return (unsigned long long)(uint32_t)at.position << 32 | (uint32_t)p.logits_site;
}

__device__ __forceinline__ void write_fault(const sample_params &p, const entry_place &at,
                                            unsigned long long fault, bool sampled) {
    atomicMin(p.fault + at.slot, fault);
    p.results[at.out] = {0, 0, (int32_t)(uint32_t)fault, (int32_t)(fault >> 32)};
    if (sampled)
        p.last_token[at.slot] = 0;
}

__device__ __forceinline__ void write_token(const sample_params &p, const entry_place &at, int token,
                                            float logprob) {
    p.results[at.out] = {token, logprob, -1, 0};
    p.last_token[at.slot] = token;
    p.counts[(int64_t)at.slot * p.n_vocab + token]++; /* the row's other parts have read what they need */
}

/* An entry that is padding, or whose token the head has chosen. */
__device__ __forceinline__ void write_chosen(const sample_params &p, const entry_place &at,
                                             unsigned long long chosen) {
    if (at.slot == p.n_slots) {
        p.results[at.out] = {0, 0, -1, 0};
        return;
    }
    unsigned long long fault = known_fault(p, at);
    if (chosen == NOT_FINITE)
        fault = min(fault, logits_fault(p, at));
    if (fault != NO_FAULT)
        write_fault(p, at, fault, true);
    else
        write_token(p, at, candidate_id(chosen), 0);
}

} // namespace

#endif
