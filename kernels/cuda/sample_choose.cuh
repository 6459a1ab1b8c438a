/* sample: from a row of y to its token, above temperature 0: the list of candidates, the ends of top_k and
 * top_p, the winner. Included by sample.cu alone, whose head describes the whole. */
#ifndef PRESSRUN_KERNELS_CUDA_SAMPLE_CHOOSE_CUH
#define PRESSRUN_KERNELS_CUDA_SAMPLE_CHOOSE_CUH

#include "kernels/cuda/sample.cuh"

namespace {

/* What a thread saw of its tokens. */
struct scan {
    uint64_t top;  /* its best candidate by y, or NOT_FINITE */
    float largest; /* of its y */
};

__device__ __forceinline__ scan scan_row(const row_part &row) {
    float largest = -INFINITY, finite = 0;
    int at = 0;
    for (int i = 4 * threadIdx.x; i < row.n; i += 4 * blockDim.x) {
        float y[4];
        row.load(y, i);
        float most = fmaxf(fmaxf(y[0], y[1]), fmaxf(y[2], y[3]));
#pragma unroll
        for (int j = 0; j < 4; j++)
            finite = fmaf(y[j], 0.0f, finite); /* NaN once one is not finite */
        if (most > largest) {
            largest = most;
            at = i;
        }
    }
    if (finite != 0)
        return {NOT_FINITE, largest};
    if (largest == -INFINITY) /* no tokens */
        return {0, largest};
    float y[4];
    row.load(y, at);
    int j = y[0] == largest ? 0 : y[1] == largest ? 1 : y[2] == largest ? 2 : 3;
    return {candidate(largest, row.id(at + j)), largest};
}

/* A distance that holds the k best tokens of the row: at least k groups of tokens have a maximum within it.
 * k is at most the number of groups. */
__device__ float top_k_distance(const row_part &row, const row_scale &scale, float largest_of_thread, int k,
                                sample_shared &shared) {
    int thread = threadIdx.x, of_block = (int)blockDim.x / GROUP_LANES, n_groups = of_block * row.n_parts;
    float largest = lanes_max<GROUP_LANES>(largest_of_thread);
    if (thread % GROUP_LANES == 0)
        shared.own_group[thread / GROUP_LANES] = largest;
    __syncthreads(); /* maxima of the block's groups */
    for (int i = thread; i < n_groups; i += blockDim.x)
        row_store(row, i / of_block, shared.group + row.part * of_block + i % of_block,
                  shared.own_group[i % of_block]);
    row_barrier(row); /* maxima of all groups */
    /* A block ranks its own groups, the threads of each together. */
    const int group = row.part * of_block + thread / GROUP_LANES;
    const float mine = shared.group[group];
    int before = 0;
#pragma unroll 8
    for (int other = thread % GROUP_LANES; other < n_groups; other += GROUP_LANES) {
        float theirs = shared.group[other];
        before += theirs > mine || (theirs == mine && other < group);
    }
    before = lanes_sum<GROUP_LANES>(before);
    if (before == k - 1 && thread % GROUP_LANES == 0) /* true of one thread of the row */
        for (int part = 0; part < row.n_parts; part++)
            row_store(row, part, &shared.bound, mine);
    row_barrier(row); /* the bound */
    return scale.distance(shared.bound);
}

/* Moves all tokens within the distance to the first part's block, and makes them a row of their own there.
 * False when they are too many. */
__device__ bool list_candidates(row_part &row, const row_scale &scale, float distance,
                                sample_shared &shared) {
    int count = 0;
    row.for_each([&](float y, int) { count += scale.distance(y) <= distance; });
    uint64_t n;
    uint64_t before = block_scan((uint64_t)count, shared.reduce, &n);
    if (row.n_parts > 1) {
        const uint64_t *of_part = row_exchange(row, n, shared);
        n = 0;
        for (int part = 0; part < row.n_parts; part++) {
            before += part < row.part ? of_part[part] : 0;
            n += of_part[part];
        }
    }
    if (n > LISTED)
        return false;
    if (count > 0)
        row.for_each([&](float y, int i) {
            if (scale.distance(y) > distance)
                return;
            row_store(row, 0, shared.list + before, y);
            row_store(row, 0, shared.list_id + before, (int32_t)row.id(i));
            before++;
        });
    row_barrier(row); /* the list is complete */
    row.values = shared.list;
    row.ids = shared.list_id;
    row.counts = nullptr;
    row.n = (int)n;
    row.n_parts = 1;
    return true;
}

/* Weight of the smallest prefix that top_p keeps of a total. */
__device__ __forceinline__ uint64_t top_p_weight(float top_p, uint64_t total) {
    double wanted = ceil((double)top_p * (double)total);
    return wanted < 1 ? 1 : wanted < (double)total ? (uint64_t)wanted : total;
}

/* The best candidate by z + gumbel of the tokens before `end` that min_p leaves. The likeliest token is one
 * of them. */
__device__ uint64_t best_score(row_part &row, const row_scale &scale, prefix_end end,
                               const slot_sampling &sampling, uint32_t position, sample_shared &shared) {
    float temperature = sampling.temperature;
    float top = scaled_logit(scale.largest, temperature);
    /* Scores are rounded, more coarsely the larger z is. */
    float margin = 1e-3f + 4e-7f * fabsf(top);
    float threshold = top + SMALLEST_GUMBEL; /* some score is at least this */
    float reach = (LARGEST_GUMBEL - SMALLEST_GUMBEL + margin) * 1.001f * temperature;
    if (sampling.min_p > 0)
        reach = fminf(reach, (1e-3f - log2f(sampling.min_p)) / scale.nats_log2);
    uint64_t best = 0;
    for (int base = 0; base < row.n; base += 4 * blockDim.x) {
        int i = base + 4 * threadIdx.x;
        float y[4] = {};
        bool near[4] = {};
        if (i < row.n) {
            row.load(y, i);
#pragma unroll
            for (int j = 0; j < 4; j++)
                near[j] = i + j < row.n && !(scale.distance(y[j]) > reach);
        }
        if (!__any_sync(ALL_LANES, near[0] || near[1] || near[2] || near[3]))
            continue;
        float lead = (top - threshold + margin) * LOG2_E;
        uint32_t words[4];
        if (row.ids) {
#pragma unroll
            for (int j = 0; j < 4; j++)
                words[j] = near[j] ? philox_word(sampling.key, position, (uint32_t)row.ids[i + j]) : 0;
        } else { /* four neighbours, from a multiple of four on */
            philox_block(sampling.key, position, (uint32_t)(row.first + i) / 4, words);
        }
        float u[4];
        bool hit = false;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (near[j]) {
                u[j] = philox_uniform(words[j]);
                /* gumbel <= -log(u), because -log1p(-u) >= u */
                near[j] = !(u[j] > ptx_exp2(lead - scale.distance(y[j]) * scale.nats_log2));
            }
            hit = hit || near[j];
        }
        if (!__any_sync(ALL_LANES, hit))
            continue;
#pragma unroll 1
        for (int j = 0; j < 4; j++) {
            bool now = j == 0 ? near[0] : j == 1 ? near[1] : j == 2 ? near[2] : near[3];
            if (!now)
                continue;
            float this_y = j == 0 ? y[0] : j == 1 ? y[1] : j == 2 ? y[2] : y[3];
            float this_u = j == 0 ? u[0] : j == 1 ? u[1] : j == 2 ? u[2] : u[3];
            int id = row.id(i + j);
            if (end.holds(order_bits(this_y), id) &&
                !(sampling.min_p > 0 && scale.probability(this_y) < sampling.min_p))
                best = max(best, candidate(token_score(this_y, temperature, this_u), id));
        }
        uint32_t most = __reduce_max_sync(ALL_LANES, (uint32_t)(best >> 32));
        if (most != 0)
            threshold = fmaxf(threshold, order_float(most));
    }
    return row_max(row, best, shared);
}

/* The sampled token, temperature above 0, in the threads of the first part; the other parts' blocks may have
 * ended. */
__device__ int choose_token(row_part &row, float largest, float largest_of_thread,
                            const slot_sampling &sampling, uint32_t position, int n_vocab,
                            sample_shared &shared) {
    row_scale scale(largest, sampling.temperature);
    bool top_k = sampling.top_k > 0 && sampling.top_k < n_vocab, top_p = sampling.top_p < 1;
    prefix_end end = {0, INT32_MAX};
    uint64_t total = 0;
    bool found = false; /* the bin of the distance at which top_p's prefix ends is in shared.found_* */
    auto add_total = [&]() {
        row.for_each([&](float y, int i) {
            if (end.holds(order_bits(y), row.id(i)))
                total += token_weight<true>(scale, y);
        });
        total = row_sum(row, total, shared);
    };
    if ((top_k || top_p) && (row.n_parts > 1 || row.n > LISTED)) {
        int n_groups = (int)blockDim.x / GROUP_LANES * row.n_parts;
        float distance = 0;
        if (top_k && sampling.top_k <= n_groups / 4 * 3) {
            distance = top_k_distance(row, scale, largest_of_thread, sampling.top_k, shared);
        } else if (top_k) {
            find_bin<false>(
                row, scale, [&](uint64_t) { return (uint64_t)sampling.top_k; }, shared,
                [&](float y, int) { return scale.bin(y); });
            distance = scale.bin_distance(shared.found_bin);
            top_k = shared.found_bin > 0; /* else those left out have no weight and cannot win */
        }
        if (!top_k && top_p) {
            total = find_bin<true>(
                row, scale, [&](uint64_t all) { return top_p_weight(sampling.top_p, all); }, shared,
                [&](float y, int) { return scale.bin(y); });
            distance = scale.bin_distance(shared.found_bin);
            found = true;
        }
        if ((top_k || top_p) && list_candidates(row, scale, distance, shared)) {
            if (row.part > 0)
                return 0;
            found = false; /* by the list */
        }
    }
    if (top_k)
        end = select_prefix<false>(row, scale, end, (uint64_t)sampling.top_k, n_vocab, false, shared);
    if (top_p) {
        if (total == 0)
            add_total();
        end =
            select_prefix<true>(row, scale, end, top_p_weight(sampling.top_p, total), n_vocab, found, shared);
    }
    return candidate_id(best_score(row, scale, end, sampling, position, shared));
}

} // namespace

#endif
