/* sample: the next token of each entry, one block per entry.
 *
 * Order: penalties, temperature, top_k, top_p, min_p, then the largest of z + gumbel over what is left, where
 * z is the adjusted logit and gumbel = -log(-log1p(-u)) with u from Philox for (slot's key, position of the
 * new token, id). Temperature 0 takes the largest penalised logit. Ties go to the lowest id.
 *
 * top_k and top_p need no sort: both keep a prefix of the tokens in order of (z descending, id ascending),
 * which ends at a token found by its count (top_k) or its cumulative probability (top_p): for small
 * vocabularies by the rank of each token, for large ones by radix selection on the bits of z, most
 * significant first (three passes of at most 11 bits, with a histogram of counts or probabilities in shared
 * memory). Probabilities are summed as 64-bit integers in units of 2^-40 of the largest, so every sum is
 * exact and no order of addition matters.
 *
 * Numerics: a token depends on its logits, counts, sampling parameters and position alone. The log-sum-exp
 * behind the log-probabilities is a fixed tree by vocabulary size. */
#include <cfloat>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/philox.h"

namespace {

enum {
    SMALL_VOCAB = 256, /* up to here: ranks instead of radix selection */
    SMALL_THREADS = 128,
    LARGE_THREADS = 1024,
    RADIX_BINS = 2048,
    BIN_GROUP = 64, /* bins that one warp sums before the groups are scanned */
    BIN_GROUPS = RADIX_BINS / BIN_GROUP
};
static_assert((int)BIN_GROUPS == (int)WARP_LANES && (int)BIN_GROUP == 2 * (int)WARP_LANES,
              "one warp scans the groups, then one group");

static constexpr float WEIGHT_ONE =
    1099511627776.0f; /* 2^40: probability of the likeliest token, as an integer */
static constexpr uint32_t IN_PROMPT = 0x80000000u;

struct sample_params {
    const float *logits; /* [n, n_vocab] float32 */
    int64_t logits_stride;
    int32_t n_vocab;
    int32_t first_sample;
    int32_t logits_site; /* n_layers + 1 */
    int32_t n_slots;
    int32_t max_samples;
    bool want_logprobs;
    const int32_t *ring;                  /* [1] */
    const int32_t *sample_row;            /* [n_samples] */
    const int32_t *sample_slot;           /* [n_samples] */
    const int32_t *position;              /* [n_rows] */
    const int32_t *slot;                  /* [n_rows] */
    const struct slot_sampling *sampling; /* [n_slots + 1] */
    uint32_t *counts;                     /* [n_slots + 1, n_vocab] */
    int32_t *last_token;                  /* [n_slots + 1] */
    unsigned long long *fault;            /* [n_slots + 1] */
    struct sample_result *results;        /* [RING_ENTRIES, max_samples] */
    struct sample_top *top;               /* [RING_ENTRIES, max_samples] */
};

/* Floats in ascending order as unsigned integers; -0 counts as +0. */
__device__ __forceinline__ uint32_t order_bits(float x) {
    uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float order_float(uint32_t order) {
    return __uint_as_float(order & 0x80000000u ? order & 0x7FFFFFFFu : ~order);
}

/* A larger value wins, then a lower id. 0 is below every candidate. */
__device__ __forceinline__ uint64_t candidate(float value, int id) {
    return (uint64_t)order_bits(value) << 32 | (0xFFFFFFFFu - (uint32_t)id);
}

__device__ __forceinline__ int candidate_id(uint64_t c) {
    return (int)(0xFFFFFFFFu - (uint32_t)c);
}

__device__ __forceinline__ float candidate_value(uint64_t c) {
    return order_float((uint32_t)(c >> 32));
}

/* Logits of one entry as they are sampled from. */
struct adjusted_logits {
    const float *logits;
    const uint32_t *counts;
    int n_vocab;
    bool penalised;
    float repetition, presence, frequency, temperature;
    float largest; /* over the vocabulary */

    /* Penalised and divided by the temperature, kept finite. */
    __device__ __forceinline__ float z(int id) const {
        float x = logits[id];
        if (penalised) {
            uint32_t count = counts[id], times = count & ~IN_PROMPT;
            if (count != 0)
                x = x > 0 ? x / repetition : x * repetition;
            if (times != 0)
                x = x - fmaf(frequency, (float)times, presence);
        }
        if (temperature > 0)
            x = x / temperature;
        return fminf(fmaxf(x, -FLT_MAX), FLT_MAX);
    }

    /* Probability over that of the likeliest token, in units of 1 / WEIGHT_ONE. */
    __device__ __forceinline__ uint64_t weight(float z) const {
        return __float2ull_rn(expf(z - largest) * WEIGHT_ONE);
    }
};

/* The last token of a prefix in order of (z descending, id ascending). */
struct prefix_end {
    uint32_t order;
    int id;
    __device__ __forceinline__ bool holds(uint32_t other, int other_id) const {
        return other > order || (other == order && other_id <= id);
    }
};

struct sample_shared {
    uint64_t reduce[MAX_WARPS];
    uint64_t group[BIN_GROUPS];
    uint64_t above;  /* weight above the bin found */
    uint64_t inside; /* weight of the bin found */
    struct prefix_end end;
    int bin;
    int warp_count[MAX_WARPS];
    union {
        struct {
            uint32_t low[RADIX_BINS];  /* sums of 64 bits in two halves: shared-memory atomics of 32 bits are
                                          native, */
            uint32_t high[RADIX_BINS]; /* and carries can be added in any order */
        };
        struct {
            uint32_t order[SMALL_VOCAB];
            uint64_t weight[SMALL_VOCAB];
        };
    };
};

template <bool WEIGHTED>
__device__ __forceinline__ uint64_t token_weight(const adjusted_logits &adjusted, float z) {
    if (WEIGHTED)
        return adjusted.weight(z);
    return 1;
}

/* End of the smallest prefix of the tokens before `bound` whose weight reaches target (at least 1, at most
 * their weight). By ranks: every thread compares its tokens with all. */
template <bool WEIGHTED>
__device__ prefix_end select_small(const adjusted_logits &adjusted, prefix_end bound, uint64_t target,
                                   sample_shared &shared) {
    __syncthreads(); /* the previous use of shared is over */
    for (int id = threadIdx.x; id < adjusted.n_vocab; id += blockDim.x) {
        float z = adjusted.z(id);
        shared.order[id] = order_bits(z);
        shared.weight[id] = bound.holds(order_bits(z), id) ? token_weight<WEIGHTED>(adjusted, z) : 0;
    }
    __syncthreads(); /* all tokens are there */
    for (int id = threadIdx.x; id < adjusted.n_vocab; id += blockDim.x) {
        uint32_t order = shared.order[id];
        uint64_t before = 0;
        for (int other = 0; other < adjusted.n_vocab; other++) {
            uint32_t other_order = shared.order[other];
            if (other_order > order || (other_order == order && other < id))
                before += shared.weight[other];
        }
        if (before < target && before + shared.weight[id] >= target)
            shared.end = {order, id}; /* true of one token */
    }
    __syncthreads(); /* the end is found */
    return shared.end;
}

/* Finds the bin, from the highest down, at which the weight above it plus its own reaches target. One warp.
 */
__device__ void find_bin(sample_shared &shared, uint64_t target, int lane) {
    /* First which group of 64 bins, then which bin: lanes stand in descending order, an inclusive scan each.
     */
    uint64_t own = shared.group[BIN_GROUPS - 1 - lane], sum = own;
    for (int offset = 1; offset < WARP_LANES; offset *= 2) {
        uint64_t lower = __shfl_up_sync(ALL_LANES, sum, offset);
        if (lane >= offset)
            sum += lower;
    }
    int winner = __ffs(__ballot_sync(ALL_LANES, sum >= target)) - 1;
    uint64_t above = __shfl_sync(ALL_LANES, sum - own, winner);
    int first = (BIN_GROUPS - 1 - winner) * BIN_GROUP;

    int upper = first + BIN_GROUP - 1 - 2 * lane;
    uint64_t weight_upper = (uint64_t)shared.high[upper] << 32 | shared.low[upper];
    uint64_t weight_lower = (uint64_t)shared.high[upper - 1] << 32 | shared.low[upper - 1];
    own = weight_upper + weight_lower, sum = own;
    for (int offset = 1; offset < WARP_LANES; offset *= 2) {
        uint64_t lower = __shfl_up_sync(ALL_LANES, sum, offset);
        if (lane >= offset)
            sum += lower;
    }
    sum += above;
    winner = __ffs(__ballot_sync(ALL_LANES, sum >= target)) - 1;
    if (lane == winner) {
        uint64_t before = sum - own;
        bool is_upper = before + weight_upper >= target;
        shared.bin = is_upper ? upper : upper - 1;
        shared.above = is_upper ? before : before + weight_upper;
        shared.inside = is_upper ? weight_upper : weight_lower;
    }
}

/* As select_small, for any vocabulary. */
template <bool WEIGHTED>
__device__ prefix_end select_radix(const adjusted_logits &adjusted, prefix_end bound, uint64_t target,
                                   sample_shared &shared) {
    const int shifts[3] = {21, 10, 0}, widths[3] = {11, 11, 10};
    int thread = threadIdx.x, lane = thread % WARP_LANES, warp = thread / WARP_LANES;
    int n_warps = blockDim.x / WARP_LANES;
    uint32_t found = 0, mask = 0; /* the bits of the end's order that are known */
    uint64_t inside = 0;
    for (int pass = 0; pass < 3; pass++) {
        __syncthreads(); /* the previous use of the bins is over */
        for (int bin = thread; bin < RADIX_BINS; bin += blockDim.x)
            shared.low[bin] = shared.high[bin] = 0;
        __syncthreads(); /* bins are empty */
        uint32_t digits = (1u << widths[pass]) - 1;
        for (int id = thread; id < adjusted.n_vocab; id += blockDim.x) {
            float z = adjusted.z(id);
            uint32_t order = order_bits(z);
            if ((order & mask) != found || !bound.holds(order, id))
                continue;
            uint64_t weight = token_weight<WEIGHTED>(adjusted, z);
            uint32_t bin = order >> shifts[pass] & digits, low = (uint32_t)weight;
            uint32_t high = (uint32_t)(weight >> 32);
            if (atomicAdd(&shared.low[bin], low) > 0xFFFFFFFFu - low)
                high++;
            if (high != 0)
                atomicAdd(&shared.high[bin], high);
        }
        __syncthreads(); /* bins are complete */
        for (int group = warp; group < BIN_GROUPS; group += n_warps) {
            int bin = group * BIN_GROUP + lane;
            uint64_t sum = ((uint64_t)shared.high[bin] << 32 | shared.low[bin]) +
                           ((uint64_t)shared.high[bin + WARP_LANES] << 32 | shared.low[bin + WARP_LANES]);
            for (int offset = WARP_LANES / 2; offset > 0; offset /= 2)
                sum += __shfl_xor_sync(ALL_LANES, sum, offset);
            if (lane == 0)
                shared.group[group] = sum;
        }
        __syncthreads(); /* group sums, for the first warp */
        if (warp == 0)
            find_bin(shared, target, lane);
        __syncthreads(); /* the bin, for all */
        target -= shared.above;
        inside = shared.inside;
        found |= (uint32_t)shared.bin << shifts[pass];
        mask |= digits << shifts[pass];
    }

    /* Tokens of exactly this z weigh the same; of those the first n by id belong to the prefix. */
    uint64_t each = token_weight<WEIGHTED>(adjusted, order_float(found));
    uint64_t n = (target + each - 1) / each;
    if (n * each >= inside) /* all of them that were before `bound` */
        return {found, found == bound.order ? bound.id : INT32_MAX};
    uint64_t seen = 0;
    for (int base = 0;; base += blockDim.x) {
        int id = base + thread;
        uint32_t order = id < adjusted.n_vocab ? order_bits(adjusted.z(id)) : 0;
        bool tie = id < adjusted.n_vocab && order == found && bound.holds(order, id);
        unsigned ties = __ballot_sync(ALL_LANES, tie);
        if (lane == 0)
            shared.warp_count[warp] = __popc(ties);
        __syncthreads(); /* counts of all warps */
        uint64_t before = seen;
        for (int w = 0; w < n_warps; w++) {
            if (w < warp)
                before += shared.warp_count[w];
            seen += shared.warp_count[w];
        }
        if (tie && before + __popc(ties & ((1u << lane) - 1)) + 1 == n)
            shared.end = {found, id};
        __syncthreads(); /* the end if it is among these, and the counts are free again */
        if (seen >= n || base + (int)blockDim.x >= adjusted.n_vocab)
            return shared.end;
    }
}

template <bool SMALL, bool WEIGHTED>
__device__ __forceinline__ prefix_end select_prefix(const adjusted_logits &adjusted, prefix_end bound,
                                                    uint64_t target, sample_shared &shared) {
    if (SMALL)
        return select_small<WEIGHTED>(adjusted, bound, target, shared);
    return select_radix<WEIGHTED>(adjusted, bound, target, shared);
}

/* The sampled token; all threads return it. */
template <bool SMALL>
__device__ int choose_token(adjusted_logits &adjusted, const slot_sampling &sampling, uint32_t position,
                            sample_shared &shared) {
    uint64_t best = 0;
    for (int id = threadIdx.x; id < adjusted.n_vocab; id += blockDim.x)
        best = max(best, candidate(adjusted.z(id), id));
    best = block_max(best, shared.reduce);
    if (!(sampling.temperature > 0))
        return candidate_id(best);
    adjusted.largest = candidate_value(best);

    prefix_end end = {0, INT32_MAX};
    if (sampling.top_k > 0 && sampling.top_k < adjusted.n_vocab)
        end = select_prefix<SMALL, false>(adjusted, end, (uint64_t)sampling.top_k, shared);
    if (sampling.top_p < 1) {
        uint64_t total = 0;
        for (int id = threadIdx.x; id < adjusted.n_vocab; id += blockDim.x) {
            float z = adjusted.z(id);
            if (end.holds(order_bits(z), id))
                total += adjusted.weight(z);
        }
        total = block_sum(total, shared.reduce);
        double wanted = ceil((double)sampling.top_p * (double)total);
        uint64_t target = wanted < 1 ? 1 : wanted < (double)total ? (uint64_t)wanted : total;
        end = select_prefix<SMALL, true>(adjusted, end, target, shared);
    }
    best = 0;
    for (int id = threadIdx.x; id < adjusted.n_vocab; id += blockDim.x) {
        float z = adjusted.z(id);
        if (!end.holds(order_bits(z), id) ||
            (sampling.min_p > 0 && expf(z - adjusted.largest) < sampling.min_p))
            continue;
        float u = philox_uniform(philox_word(sampling.key, position, (uint32_t)id));
        best = max(best, candidate(z - logf(-log1pf(-u)), id));
    }
    return candidate_id(block_max(best, shared.reduce));
}

template <bool SMALL>
__global__ void __launch_bounds__(SMALL ? SMALL_THREADS : LARGE_THREADS)
    kernel_sample(const sample_params p) {
    __shared__ sample_shared shared;
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int entry = p.first_sample + blockIdx.x, thread = threadIdx.x;
    int row = p.sample_row[entry], slot = p.sample_slot[entry];
    int position = p.position[row];
    const float *logits = p.logits + blockIdx.x * p.logits_stride;
    int64_t out = (int64_t)*p.ring * p.max_samples + entry;

    bool finite = true;
    uint64_t best = 0;
    for (int id = thread; id < p.n_vocab; id += blockDim.x) {
        finite = finite && isfinite(logits[id]);
        best = max(best, candidate(logits[id], id));
    }
    finite = !__syncthreads_or(!finite);
    if (thread == 0) {
        /* A prompt's rows note their fault in the slot that they were computed in; its other samples see it
         * here. */
        unsigned long long fault = min(p.fault[slot], p.fault[p.slot[row]]);
        if (!finite)
            fault = min(fault, (unsigned long long)(uint32_t)position << 32 | (uint32_t)p.logits_site);
        if (fault != NO_FAULT)
            atomicMin(p.fault + slot, fault);
        shared.reduce[0] = fault;
    }
    __syncthreads(); /* the fault, for all */
    uint64_t fault = shared.reduce[0];
    if (fault != NO_FAULT) {
        if (thread == 0) {
            p.results[out] = {0, 0, (int32_t)(uint32_t)fault, (int32_t)(fault >> 32)};
            p.last_token[slot] = 0;
        }
        return;
    }

    struct slot_sampling sampling = p.sampling[slot];
    adjusted_logits adjusted = {};
    adjusted.logits = logits;
    adjusted.counts = p.counts + (int64_t)slot * p.n_vocab;
    adjusted.n_vocab = p.n_vocab;
    adjusted.repetition = sampling.repetition_penalty;
    adjusted.presence = sampling.presence_penalty;
    adjusted.frequency = sampling.frequency_penalty;
    adjusted.temperature = sampling.temperature;
    adjusted.penalised =
        sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0;
    int token = choose_token<SMALL>(adjusted, sampling, (uint32_t)position + 1, shared);

    float logprob = 0;
    if (p.want_logprobs && sampling.n_logprobs >= 0) {
        best = block_max(best, shared.reduce);
        float largest = candidate_value(best), sum = 0;
        for (int id = thread; id < p.n_vocab; id += blockDim.x)
            sum += expf(logits[id] - largest);
        float normaliser = largest + logf(block_sum(sum, reinterpret_cast<float *>(shared.reduce)));
        logprob = logits[token] - normaliser;
        int n = min(min(sampling.n_logprobs, (int)MAX_LOGPROBS), p.n_vocab);
        for (int i = 0; i < n; i++) {
            if (thread == 0) {
                p.top[out].token[i] = candidate_id(best);
                p.top[out].logprob[i] = candidate_value(best) - normaliser;
            }
            uint64_t next = 0; /* the best of those behind the last */
            for (int id = thread; id < p.n_vocab; id += blockDim.x) {
                uint64_t c = candidate(logits[id], id);
                if (c < best)
                    next = max(next, c);
            }
            best = block_max(next, shared.reduce);
        }
    }
    if (thread == 0) {
        p.results[out] = {token, logprob, -1, 0};
        p.last_token[slot] = token;
        /* Atomic because all padding entries share the scratch slot. */
        atomicAdd(p.counts + (int64_t)slot * p.n_vocab + token, 1u);
    }
}

} // namespace

enum status cuda_sample(struct backend_context *context, const struct sample_args *args) {
    TRY(cuda_operation_begin(context, "sample"));
    RETURN_IF(args->logits->cols != context->limits.n_vocab || args->logits->dtype != DTYPE_FLOAT32 ||
                  args->logits->rows < args->n,
              STATUS_INTERNAL, "sample: logits must be float32 [>= %d, %d], are [%lld, %lld]", args->n,
              context->limits.n_vocab, (long long)args->logits->rows, (long long)args->logits->cols);
    RETURN_IF(args->first_sample < 0 || args->first_sample + args->n > context->step.n_samples,
              STATUS_INTERNAL, "sample: entries %d to %d of a step that has %d", args->first_sample,
              args->first_sample + args->n, context->step.n_samples);
    if (args->n == 0)
        return STATUS_OK;
    sample_params p = {};
    p.logits = static_cast<const float *>(args->logits->data);
    p.logits_stride = tensor_stride(args->logits);
    p.n_vocab = context->limits.n_vocab;
    p.first_sample = args->first_sample;
    p.logits_site = context->limits.n_layers + 1;
    p.n_slots = context->limits.n_slots;
    p.max_samples = context->limits.max_samples;
    p.want_logprobs = context->step.want_logprobs;
    p.ring = context->step.ring;
    p.sample_row = context->step.sample_row;
    p.sample_slot = context->step.sample_slot;
    p.position = context->step.position;
    p.slot = context->step.slot;
    p.sampling = context->state.sampling;
    p.counts = context->state.counts;
    p.last_token = context->state.last_token;
    p.fault = context->state.fault;
    p.results = context->results_device;
    p.top = context->top_device;
    bool small = p.n_vocab <= SMALL_VOCAB;
    return cuda_launch(context, "sample", small ? kernel_sample<true> : kernel_sample<false>, dim3(args->n),
                       small ? SMALL_THREADS : LARGE_THREADS, 0, p);
}
