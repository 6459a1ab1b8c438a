/* sample: a row of logits as one or more blocks hold it, and the end of a prefix of its tokens. Included by
 * sample.cu alone, whose head describes the whole.
 *
 * Parts. A row is cut into equal slices of the vocabulary, one block each; the blocks of a row are a cluster
 * and meet through each other's shared memory. What they combine are maxima and sums of integers, which
 * commute exactly. A list of candidates is a row of one part.
 *
 * Prefixes. top_k and top_p keep a prefix of the tokens in order of (y descending, id ascending), where y is
 * the penalised logit; it ends at the token at which a count or a sum of weights reaches a target. For short
 * lists the end is found by the rank of each token. For others by histograms: first of the distance to the
 * largest y, linear over DISTANCE_NATS (beyond it a token has no weight and cannot win), then, among the
 * tokens of the bin found, of ever lower digits of the bits of y, and of the id where y ties.
 *
 * Weights: probability over that of the likeliest token, 2^(-(largest - y) log2(e) / temperature), rounded to
 * an integer of units 2^-40: every sum is exact. */
#ifndef PRESSRUN_KERNELS_CUDA_SAMPLE_CUH
#define PRESSRUN_KERNELS_CUDA_SAMPLE_CUH

#include "kernels/cuda/candidate.cuh"
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace {

enum {
    MAX_PARTS = 8, /* blocks of a row: the largest cluster that every device takes */
    BIN_BITS = 9,
    BINS = 1 << BIN_BITS,
    GROUP_LANES = 4,  /* threads that share a maximum for the bound of top_k */
    MAX_GROUPS = 512, /* of a row */
    RANKED = 256,     /* tokens whose order is found by ranks */
    LISTED = 896 /* candidates that one block finishes alone; beside an eighth of 128,256 logits this leaves
                    room for three blocks on a multiprocessor */
};

/* Above the distance of the largest from the smallest gumbel (22.88 + 2.82), and above 41 ln 2: a token
 * further than this below the likeliest one cannot win and weighs less than half a unit. Its last bin begins
 * at 28.44. */
static constexpr float DISTANCE_NATS = 28.5f;
static constexpr uint32_t IN_PROMPT = 0x80000000u;

/* The last token of a prefix in order of (y descending, id ascending). */
struct prefix_end {
    uint32_t order;
    int id;
    __device__ __forceinline__ bool holds(uint32_t other, int other_id) const {
        return other > order || (other == order && other_id <= id);
    }
};

struct sample_shared {
    uint64_t reduce[MAX_WARPS];
    uint64_t exchange[2][MAX_PARTS]; /* a value of each part; used in turns */
    float own_group[MAX_GROUPS / MAX_PARTS];
    uint64_t found_above; /* weight above the bin found */
    uint64_t found_inside;
    struct prefix_end end;
    int found_bin;
    float bound;
    slot_sampling sampling; /* of the entry */
    union {
        struct {
            uint32_t low, high; /* sums of 64 bits in two halves: shared-memory atomics of 32 bits are native,
                                   and carries can be added in any order */
        } bins[BINS];
        struct {
            uint64_t weight[RANKED];
            uint32_t order[RANKED];
        };
    };
    union {
        alignas(16) float group[MAX_GROUPS]; /* maxima of all parts; done with before candidates are listed */
        struct {
            alignas(16) float list[LISTED]; /* of the first part's block */
            int32_t list_id[LISTED];
        };
    };
};
static_assert(LISTED % 4 == 0 && offsetof(sample_shared, list) % 16 == 0 && sizeof(sample_shared) % 16 == 0,
              "lists and slices are read in 16-byte vectors");

/* y of a raw logit, kept finite. Not inlined: most rows have no penalties. */
__device__ __noinline__ float penalised(float x, uint32_t count, const slot_sampling *sampling) {
    uint32_t times = count & ~IN_PROMPT;
    if (count != 0)
        x = x > 0 ? x / sampling->repetition_penalty : x * sampling->repetition_penalty;
    if (times != 0)
        x = x - fmaf(sampling->frequency_penalty, (float)times, sampling->presence_penalty);
    return fminf(fmaxf(x, -FLT_MAX), FLT_MAX);
}

/* One block's tokens of a row. A thread looks at the same tokens in every pass. */
struct row_part {
    const float *values;    /* [n] of y, or of raw logits when counts; 16-byte aligned, readable to a multiple
                               of 4 */
    const uint32_t *counts; /* [n], or NULL: nothing left to penalise */
    const int32_t *ids;     /* [n], or NULL: first + i */
    int first;
    int n;
    int n_parts;
    int part;
    int turn;                      /* of shared.exchange */
    const slot_sampling *sampling; /* for the penalties; set with counts */

    __device__ __forceinline__ int id(int i) const { return ids ? ids[i] : first + i; }

    /* y of tokens [i, min(i + 4, n)); i < n. Those beyond n repeat the first. */
    __device__ __forceinline__ void load(float (&y)[4], int i) const {
        float4 v = load_4(values + i);
        y[0] = v.x, y[1] = v.y, y[2] = v.z, y[3] = v.w;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (counts && i + j < n)
                y[j] = penalised(y[j], counts[i + j], sampling);
            if (j > 0 && i + j >= n)
                y[j] = y[0];
        }
    }

    /* body(y, i) for this thread's tokens. */
    template <typename Body> __device__ __forceinline__ void for_each(const Body &body) const {
#pragma unroll 1
        for (int i = 4 * threadIdx.x; i < n; i += 4 * blockDim.x) {
            float y[4];
            load(y, i);
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (j == 0 || i + j < n)
                    body(y[j], i + j);
        }
    }
};

/* Distances from the largest y, and what they weigh. */
struct row_scale {
    float largest;
    float nats_log2; /* log2(e) / temperature */
    float bins;      /* BINS / (DISTANCE_NATS temperature) */

    __device__ __forceinline__ row_scale(float largest_y, float temperature) : largest(largest_y) {
        nats_log2 = fminf(LOG2_E / temperature, FLT_MAX);
        bins = fminf(BINS / DISTANCE_NATS / temperature, FLT_MAX);
    }
    __device__ __forceinline__ float distance(float y) const { return fminf(largest - y, FLT_MAX); }

    /* Over the likeliest token's. */
    __device__ __forceinline__ float probability(float y) const {
        return ptx_exp2(-(distance(y) * nats_log2));
    }

    /* The likeliest token's bin is the highest. */
    __device__ __forceinline__ int bin(float y) const {
        return BINS - 1 - (int)fminf(distance(y) * bins, (float)(BINS - 1));
    }

    /* All tokens of bins down to this one are at most this far from the largest; the rounding of bin() is far
     * less than the margin. */
    __device__ __forceinline__ float bin_distance(int bin) const {
        return fminf((float)(BINS - bin) / bins * 1.0001f, FLT_MAX);
    }
};

/* round(p 2^40), ties to even, for p in [0, 1]. Adding 96 rounds to multiples of 2^-17; what is left fits 23
 * bits, which adding 1.5 2^23 rounds to an integer. */
__device__ __forceinline__ uint64_t weight_units(float p) {
    const float UPPER = 96.0f, LOWER = 12582912.0f, UNITS = 1099511627776.0f;
    float upper = __fadd_rn(p, UPPER), rest = __fsub_rn(p, __fsub_rn(upper, UPPER));
    float lower = __fmaf_rn(rest, UNITS, LOWER);
    int32_t high = (int32_t)(__float_as_uint(upper) - __float_as_uint(UPPER));
    int32_t low = (int32_t)(__float_as_uint(lower) - __float_as_uint(LOWER));
    return (uint64_t)((int64_t)high * (1 << 23) + low);
}

template <bool WEIGHTED> __device__ __forceinline__ uint64_t token_weight(const row_scale &scale, float y) {
    return WEIGHTED ? weight_units(scale.probability(y)) : 1;
}

/* ---- how the blocks of a row meet ---- */

/* All threads of all parts; what they wrote to shared memory is visible behind it. */
__device__ __forceinline__ void row_barrier(const row_part &row) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (row.n_parts > 1) {
        ptx_cluster_barrier();
        return;
    }
#endif
    __syncthreads();
}

/* Writes an object of the shared memory of a part's block. */
template <typename T>
__device__ __forceinline__ void row_store(const row_part &row, int part, T *object, T value) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (row.n_parts > 1) {
        ptx_cluster_store(ptx_cluster_address(ptx_shared_address(object), (uint32_t)part), value);
        return;
    }
#endif
    *object = value;
}

/* Reads 64 bits of the shared memory of a part's block. */
__device__ __forceinline__ uint64_t row_load_64(const row_part &row, int part, const void *object) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (row.n_parts > 1)
        return ptx_cluster_load_64(ptx_cluster_address(ptx_shared_address(object), (uint32_t)part));
#endif
    return *static_cast<const uint64_t *>(object);
}

/* The values that all parts' threads give (the same in all threads of a block), by part. */
__device__ __forceinline__ const uint64_t *row_exchange(row_part &row, uint64_t value,
                                                        sample_shared &shared) {
    uint64_t *slots = shared.exchange[row.turn];
    row.turn ^= 1; /* the other turn's slots may still be read */
    if ((int)threadIdx.x < row.n_parts)
        row_store(row, (int)threadIdx.x, slots + row.part, value);
    row_barrier(row); /* values of all parts are there */
    return slots;
}

__device__ __forceinline__ uint64_t row_max(row_part &row, uint64_t x, sample_shared &shared) {
    x = block_max(x, shared.reduce);
    if (row.n_parts > 1) {
        const uint64_t *of_part = row_exchange(row, x, shared);
#pragma unroll 1
        for (int part = 0; part < row.n_parts; part++)
            x = max(x, of_part[part]);
    }
    return x;
}

__device__ __forceinline__ uint64_t row_sum(row_part &row, uint64_t x, sample_shared &shared) {
    x = block_sum(x, shared.reduce);
    if (row.n_parts > 1) {
        const uint64_t *of_part = row_exchange(row, x, shared);
        x = 0;
#pragma unroll 1
        for (int part = 0; part < row.n_parts; part++)
            x += of_part[part];
    }
    return x;
}

/* ---- prefixes ---- */

/* Sum of x over the threads below this one in the block; *total over all. */
__device__ __forceinline__ uint64_t block_scan(uint64_t x, uint64_t *shared, uint64_t *total) {
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    uint64_t sum = x;
#pragma unroll
    for (int offset = 1; offset < WARP_LANES; offset *= 2) {
        uint64_t lower = __shfl_up_sync(ALL_LANES, sum, offset);
        if (lane >= offset)
            sum += lower;
    }
    __syncthreads(); /* the previous use of shared is over */
    if (lane == WARP_LANES - 1)
        shared[warp] = sum;
    __syncthreads(); /* sums of all warps */
    uint64_t before = sum - x;
    *total = 0;
#pragma unroll 1
    for (int w = 0; w < (int)(blockDim.x / WARP_LANES); w++) {
        if (w < warp)
            before += shared[w];
        *total += shared[w];
    }
    return before;
}

/* The bin, from the highest down, at which the weight of the row reaches target(weight of all that have a
 * bin): shared.found_*. digit(y, i) gives a token's bin, or -1. Returns that weight of all. */
template <bool WEIGHTED, typename Target, typename Digit>
__device__ uint64_t find_bin(row_part &row, const row_scale &scale, const Target &target_of,
                             sample_shared &shared, const Digit &digit) {
    __syncthreads(); /* the previous use of the bins is over */
#pragma unroll 1
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x)
        shared.bins[bin].low = shared.bins[bin].high = 0;
    __syncthreads(); /* bins are empty */
    row.for_each([&](float y, int i) {
        int bin = digit(y, i);
        if (bin < 0)
            return;
        if (!WEIGHTED) {
            atomicAdd(&shared.bins[bin].low, 1u);
            return;
        }
        uint64_t weight = token_weight<WEIGHTED>(scale, y);
        uint32_t low = (uint32_t)weight, high = (uint32_t)(weight >> 32);
        if (weight == 0)
            return;
        if (atomicAdd(&shared.bins[bin].low, low) > 0xFFFFFFFFu - low)
            high++;
        if (high != 0)
            atomicAdd(&shared.bins[bin].high, high);
    });
    row_barrier(row); /* bins of all parts are complete */
    /* Threads take bins in descending order; every block finds the same. */
    int each = BINS / (int)blockDim.x, first = BINS - 1 - (int)threadIdx.x * each;
    uint64_t sum = 0, total;
    auto bin_sum = [&](int bin) {
        uint64_t in_bin = 0;
#pragma unroll 4
        for (int part = 0; part < row.n_parts; part++)
            in_bin += row_load_64(row, part, &shared.bins[bin]);
        return in_bin;
    };
#pragma unroll 1
    for (int bin = first; bin > first - each; bin--)
        sum += bin_sum(bin);
    uint64_t before = block_scan(sum, shared.reduce, &total);
    const uint64_t target = target_of(total);
    if (before < target && before + sum >= target) { /* true of one thread */
#pragma unroll 1
        for (int bin = first; bin > first - each; bin--) {
            uint64_t inside = bin_sum(bin);
            if (before + inside >= target) {
                shared.found_bin = bin;
                shared.found_above = before;
                shared.found_inside = inside;
                break;
            }
            before += inside;
        }
    }
    row_barrier(row); /* the bin for all; and no other block reads these bins any more */
    return total;
}

/* End of the smallest prefix of the tokens before `bound` whose weight reaches target (at least 1, at most
 * their weight). By ranks: every thread compares its tokens with all. One part. */
template <bool WEIGHTED>
__device__ prefix_end select_ranked(const row_part &row, const row_scale &scale, prefix_end bound,
                                    uint64_t target, sample_shared &shared) {
    __syncthreads(); /* the previous use of shared is over */
    row.for_each([&](float y, int i) {
        shared.order[i] = order_bits(y);
        shared.weight[i] = bound.holds(order_bits(y), row.id(i)) ? token_weight<WEIGHTED>(scale, y) : 0;
    });
    __syncthreads(); /* all tokens are there */
    for (int i = threadIdx.x; i < row.n; i += blockDim.x) {
        uint32_t order = shared.order[i];
        int id = row.id(i);
        uint64_t before = 0;
        for (int other = 0; other < row.n; other++) {
            uint32_t other_order = shared.order[other];
            if (other_order > order || (other_order == order && row.id(other) < id))
                before += shared.weight[other];
        }
        if (before < target && before + shared.weight[i] >= target)
            shared.end = {order, id}; /* true of one token */
    }
    __syncthreads(); /* the end is found */
    return shared.end;
}

/* The same for any row. found: shared.found_* is the bin of the distance already. */
template <bool WEIGHTED>
__device__ prefix_end select_binned(row_part &row, const row_scale &scale, prefix_end bound, uint64_t target,
                                    int n_vocab, bool found, sample_shared &shared) {
    auto target_of = [&](uint64_t) { return target; };
    if (!found)
        find_bin<WEIGHTED>(row, scale, target_of, shared, [&](float y, int i) {
            return bound.holds(order_bits(y), row.id(i)) ? scale.bin(y) : -1;
        });
    int coarse = shared.found_bin;
    if (!WEIGHTED && coarse == 0) /* those left out have no weight and cannot win */
        return bound;
    target -= shared.found_above;
    uint32_t order_found = 0, mask = 0; /* the bits of the end's order that are known */
    for (int width, top = 32; top > 0; top -= width) {
        width = min(top, (int)BIN_BITS);
        int shift = top - width;
        uint32_t digits = (1u << width) - 1;
        find_bin<WEIGHTED>(row, scale, target_of, shared, [&](float y, int i) {
            uint32_t order = order_bits(y);
            bool in =
                scale.bin(y) == coarse && (order & mask) == order_found && bound.holds(order, row.id(i));
            return in ? (int)(order >> shift & digits) : -1;
        });
        target -= shared.found_above;
        order_found |= (uint32_t)shared.found_bin << shift;
        mask |= digits << shift;
    }
    /* Tokens of exactly this y weigh the same. */
    uint64_t each = token_weight<WEIGHTED>(scale, order_float(order_found));
    if (target > shared.found_inside - each)
        return {order_found, order_found == bound.order ? bound.id : INT32_MAX};
    uint32_t id_found = 0, id_mask = 0; /* of the complement of the end's id: lower ids come first */
    int id_bits = 32 - __clz(n_vocab);
    for (int width, top = id_bits; top > 0; top -= width) {
        width = min(top, (int)BIN_BITS);
        int shift = top - width;
        uint32_t digits = (1u << width) - 1, all = (1u << id_bits) - 1;
        find_bin<WEIGHTED>(row, scale, target_of, shared, [&](float y, int i) {
            uint32_t order = order_bits(y), reversed = all - (uint32_t)row.id(i);
            bool in =
                order == order_found && (reversed & id_mask) == id_found && bound.holds(order, row.id(i));
            return in ? (int)(reversed >> shift & digits) : -1;
        });
        target -= shared.found_above;
        id_found |= (uint32_t)shared.found_bin << shift;
        id_mask |= digits << shift;
    }
    return {order_found, (int)(((1u << id_bits) - 1) - id_found)};
}

template <bool WEIGHTED>
__device__ __forceinline__ prefix_end select_prefix(row_part &row, const row_scale &scale, prefix_end bound,
                                                    uint64_t target, int n_vocab, bool found,
                                                    sample_shared &shared) {
    if (row.n_parts == 1 && row.n <= RANKED)
        return select_ranked<WEIGHTED>(row, scale, bound, target, shared);
    return select_binned<WEIGHTED>(row, scale, bound, target, n_vocab, found, shared);
}

} // namespace

#endif
