/* sample_listed: entries with top_k whose logits the head has written and listed (HEAD_LISTS): of each group
 * of neighbouring tokens it has left the largest. One block a row; of the logits only the groups that can
 * hold one of the k best are read. Included by sample.cu alone.
 *
 *     maxima    a thread takes the largest of every 128th run of four groups, for each of the four
 *     bound     the upper bits of the k-th largest of those 512: at least k tokens reach it. One warp finds
 *               them, bit by bit
 *     groups    those whose largest reaches the bound hold all tokens that do: k of them and some more
 *     list      their tokens that reach it are the candidates, and the row ends as every list does
 * (sample.cu)
 *
 * Where groups or candidates are too many, because many tokens share the k-th largest logit, the block takes
 * the whole row.
 *
 * 128,256 logits, top_k 50: 16 KB of maxima and 60 groups of 128 bytes, where the row has 513 KB. A block is
 * small and keeps no logits, so all blocks of 1,024 rows run at once.
 *
 * Numerics: the candidates hold the k best tokens; which others are among them, and in which order, changes
 * nothing. Weights, and what top_p makes of their exact sum, are those of sample.cu, and so is a token's
 * score: the winner is the same. */
#ifndef PRESSRUN_KERNELS_CUDA_SAMPLE_LISTED_CUH
#define PRESSRUN_KERNELS_CUDA_SAMPLE_LISTED_CUH

#include "kernels/cuda/sample_choose.cuh"
#include "kernels/cuda/sample_entry.cuh"

namespace {

enum {
    LISTED_THREADS = 128,
    LISTED_BLOCKS = 8,   /* that a multiprocessor holds at once */
    LISTED_GROUPS = 512, /* that are read */
    BOUND_BITS = 20      /* of an order; the others are 0 in the bound */
};
static_assert((int)MAX_GROUPS == 4 * (int)LISTED_THREADS && (int)HEAD_MOST_LISTED <= (int)LISTED &&
                  (int)BINS % (int)LISTED_THREADS == 0,
              "a thread has four maxima, all that top_k keeps can be listed, threads take bins evenly");
static_assert((int)HEAD_MOST_LISTED == 2 * (int)LISTED_THREADS,
              "a thread has two of the tokens that are kept");

struct listed_shared {
    sample_shared row;
    unsigned long long fault; /* of the entry's slot */
    float largest;            /* of the row; INFINITY where a logit is not finite */
    float bound;
    int n_groups;
    int n_tokens;
    union {
        int32_t group[LISTED_GROUPS];
        struct {
            float y[HEAD_MOST_LISTED]; /* of the best tokens, in order; behind the use of groups */
            int32_t id[HEAD_MOST_LISTED];
        };
    };
};

/* The largest of the maxima in shared.row.group and a bound that k of them reach, by the first warp. */
__device__ __forceinline__ void find_bound(int k, listed_shared &shared) {
    enum { EACH = MAX_GROUPS / WARP_LANES };
    const int lane = threadIdx.x % WARP_LANES;
    uint32_t order[EACH], largest = 0, bound = 0;
#pragma unroll
    for (int i = 0; i < EACH; i += 4) {
        float4 v = load_4(shared.row.group + i * WARP_LANES + 4 * lane);
        order[i] = order_bits(v.x), order[i + 1] = order_bits(v.y);
        order[i + 2] = order_bits(v.z), order[i + 3] = order_bits(v.w);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        largest = max(largest, order[i]);
    largest = __reduce_max_sync(ALL_LANES, largest);
#pragma unroll 1
    for (int bit = 31; bit >= 32 - BOUND_BITS; bit--) {
        const uint32_t next = bound | 1u << bit;
        uint32_t n = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            n += order[i] >= next;
        n = __reduce_add_sync(ALL_LANES, n);
        if (n >= (uint32_t)k)
            bound = next;
        if (n == (uint32_t)k)
            break;
    }
    if (lane == 0) {
        shared.largest = order_float(largest);
        /* Below every finite number where fewer than k threads had a group: all tokens reach it. */
        shared.bound = bound <= order_bits(-FLT_MAX) ? -FLT_MAX : order_float(bound);
        shared.n_groups = shared.n_tokens = 0;
    }
}

/* Makes the tokens that reach shared.bound a row of their own. maxima: of this row. False when they are too
 * many, or their groups are. */
template <int GROUP>
__device__ __forceinline__ bool list_groups(row_part &row, const sample_params &p, const float *maxima,
                                            const float *logits, listed_shared &shared) {
    constexpr int RUNS = GROUP / 4;
    const int n_maxima = head_groups(p.n_vocab, GROUP);
    const float bound = shared.bound;
#pragma unroll 4
    for (int i = 4 * threadIdx.x; i < n_maxima; i += 4 * LISTED_THREADS) {
        float4 v = load_4(maxima + i);
        const float of_group[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (of_group[j] >= bound && i + j < n_maxima) {
                int at = atomicAdd(&shared.n_groups, 1);
                if (at < LISTED_GROUPS)
                    shared.group[at] = i + j;
            }
    }
    __syncthreads(); /* all groups are there */
    if (shared.n_groups > LISTED_GROUPS)
        return false;
#pragma unroll 4
    for (int i = threadIdx.x; i < shared.n_groups * RUNS; i += LISTED_THREADS) {
        const int token = shared.group[i / RUNS] * GROUP + i % RUNS * 4;
        if (token >= p.n_vocab)
            continue;
        float4 v = load_4(logits + token);
        const float y[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (y[j] >= bound && token + j < p.n_vocab) {
                int at = atomicAdd(&shared.n_tokens, 1);
                if (at < LISTED) {
                    shared.row.list[at] = y[j];
                    shared.row.list_id[at] = token + j;
                }
            }
    }
    __syncthreads(); /* the list is complete */
    if (shared.n_tokens > LISTED)
        return false;
    row.values = shared.row.list;
    row.ids = shared.row.list_id;
    row.n = shared.n_tokens;
    return true;
}

/* The token of a list. */
__device__ __forceinline__ int choose_listed(const row_part &row, const slot_sampling &sampling,
                                             uint32_t position, listed_shared &shared) {
    const int n_kept = min(row.n, sampling.top_k);
#pragma unroll 1
    for (int i = threadIdx.x; i < row.n; i += LISTED_THREADS) {
        const float y = row.values[i];
        const int id = row.ids[i];
        int before = 0;
#pragma unroll 2
        for (int other = 0; other < row.n; other += 4) {
            const float4 v = load_4(row.values + other);
            const int4 ids = *reinterpret_cast<const int4 *>(row.ids + other);
            const float theirs[4] = {v.x, v.y, v.z, v.w};
            const int their_ids[4] = {ids.x, ids.y, ids.z, ids.w};
#pragma unroll
            for (int j = 0; j < 4; j++)
                before += other + j < row.n && (theirs[j] > y || (theirs[j] == y && their_ids[j] < id));
        }
        if (before < n_kept) {
            shared.y[before] = y;
            shared.id[before] = id;
        }
    }
    __syncthreads(); /* the kept tokens are in order */
    const row_scale scale(shared.largest, sampling.temperature);
    const int place[2] = {(int)threadIdx.x, (int)threadIdx.x + LISTED_THREADS};
    bool in[2] = {place[0] < n_kept, place[1] < n_kept};
    if (sampling.top_p < 1) {
        uint64_t before[2], total[2] = {0, 0};
        before[0] = block_scan(in[0] ? token_weight<true>(scale, shared.y[place[0]]) : 0, shared.row.reduce,
                               &total[0]);
        before[1] = 0;
        if (n_kept > LISTED_THREADS)
            before[1] = total[0] + block_scan(in[1] ? token_weight<true>(scale, shared.y[place[1]]) : 0,
                                              shared.row.reduce, &total[1]);
        const uint64_t target = top_p_weight(sampling.top_p, total[0] + total[1]);
        in[0] = in[0] && before[0] < target;
        in[1] = in[1] && before[1] < target;
    }
    uint64_t best = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < n_kept; i += LISTED_THREADS) {
        const float y = shared.y[i];
        const int id = shared.id[i];
        if (!(i < LISTED_THREADS ? in[0] : in[1]) ||
            (sampling.min_p > 0 && scale.probability(y) < sampling.min_p))
            continue;
        const float u = philox_uniform(philox_word(sampling.key, position, (uint32_t)id));
        best = max(best, candidate(token_score(y, sampling.temperature, u), id));
    }
    return candidate_id(block_max(best, shared.row.reduce));
}

/* Entries [first_sample, first_sample + gridDim.x) that the head has listed. others: also those that it has
 * chosen or that are padding, and there are no more. GROUP: tokens of a maximum. */
template <int GROUP>
__global__ void __launch_bounds__(LISTED_THREADS, LISTED_BLOCKS)
    kernel_sample_listed(const sample_params p, bool others) {
    __shared__ listed_shared shared;
    /* No kernel of the step writes these. */
    const int i_entry = (int)blockIdx.x, entry = p.first_sample + i_entry;
    const enum head_end end = p.head[entry].end;
    const int slot = p.sample_slot[entry], state_row = p.sample_row[entry];
    const entry_place at = {(int64_t)*p.ring * p.max_samples + entry, slot, state_row, p.position[state_row]};
    const bool writes = threadIdx.x == 0, reads_settings = threadIdx.x == LISTED_THREADS - 1;
    if (reads_settings)
        shared.row.sampling = p.sampling[slot];
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    if (end != HEAD_LISTS) {
        if (writes && others)
            write_chosen(p, at,
                         ptx_load_relaxed(&p.head[entry].best)); /* `end` may have brought an old one */
        return;
    }
    if (reads_settings)
        shared.fault = known_fault(p, at);
    const float *maxima = p.maxima + (int64_t)i_entry * head_groups_stride(p.n_vocab, GROUP);
    const int n_maxima = head_groups(p.n_vocab, GROUP);
    float most[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
#pragma unroll 8
    for (int i = 4 * threadIdx.x; i < n_maxima; i += 4 * LISTED_THREADS) {
        float4 v = load_4(maxima + i);
        const float of_group[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (i + j < n_maxima)
                most[j] = fmaxf(most[j], of_group[j]);
    }
    store_4(shared.row.group + 4 * threadIdx.x, make_float4(most[0], most[1], most[2], most[3]));
    __syncthreads(); /* maxima of all threads; sampling */
    const slot_sampling &sampling = shared.row.sampling;
    if (threadIdx.x < WARP_LANES)
        find_bound(sampling.top_k, shared);
    __syncthreads(); /* the bound */
    unsigned long long fault = shared.fault;
    if (shared.largest == INFINITY)
        fault = min(fault, logits_fault(p, at));
    if (fault != NO_FAULT) {
        if (writes)
            write_fault(p, at, fault, true);
        return;
    }
    const float *logits = p.logits + (int64_t)i_entry * p.logits_stride;
    row_part row = {};
    row.n_parts = 1;
    const uint32_t position = (uint32_t)at.position + 1;
    int token;
    if (list_groups<GROUP>(row, p, maxima, logits, shared)) {
        token = choose_listed(row, sampling, position, shared);
    } else {
        row.values = logits;
        row.n = p.n_vocab;
        token = choose_token(row, shared.largest, scan_row(row).largest, sampling, position, p.n_vocab,
                             shared.row);
    }
    if (writes)
        write_token(p, at, token, 0);
}

} // namespace

#endif
