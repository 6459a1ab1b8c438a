/* sample: the next token of each entry. A row of logits is read from memory once.
 *
 * Order: penalties, temperature, top_k, top_p, min_p, then the largest of z + gumbel over what is left, where
 * y is the penalised logit, z = y / temperature, and gumbel = -log(-log1p(-u)) with u from Philox for (slot's
 * key, position of the new token, id). Temperature 0 takes the largest y. Ties go to the lowest id.
 *
 *     slice     parts of a row (sample.cuh) copy their logits to shared memory; all passes run there, so one
 *               row fills several multiprocessors and many rows overlap one's passes with another's copies
 *     scan      the largest y, whether all are finite: greedy ends here
 *     bound     a distance from the largest y beyond which no token is in the prefix that is wanted. top_k:
 *               the k-th largest of the maxima of groups of tokens. top_p: the histogram of weights by
 *               distance. Any bound holds the prefix, so its rounding does not matter
 *     list      the tokens within the bound go to the first part's block, which finishes alone: the ends of
 *               top_k and top_p, min_p, the winner. Where they are too many (flat logits, large top_p) all
 *               parts search together
 *     winner    a token whose z + the largest gumbel stays below a score that is known cannot win: its gumbel
 *               is not computed. Nor is its logarithm unless u is small enough. Exact, and most of the work
 *               of pure temperature
 *
 * An entry whose token the head has chosen (head.cuh) is only written down: its logits are not in memory.
 * Where all are such, a kernel of a few blocks does it.
 *
 * An entry whose token is given (batch.sample_target) is scored: of all this only the scan and the
 * log-sum-exp run, and the slot stays as it is. Steps without such entries run a kernel that knows nothing of
 * them.
 *
 * Numerics: a token depends on its logits, counts, sampling parameters and position alone. All that parts
 * combine commutes exactly, except the log-sum-exp behind the log-probabilities: a fixed tree by vocabulary
 * size, parts in ascending order. */
#include "kernels/cuda/network.cuh"
#include "kernels/cuda/sample.cuh"

namespace {

enum {
    SMALL_VOCAB = 2048, /* up to here: small blocks */
    SMALL_THREADS = 128,
    CHOSEN_THREADS = 64,
    LARGE_THREADS = 256,
    LARGE_BLOCKS = 3,         /* that a multiprocessor holds at once */
    PART_LOGITS = 16384,      /* a row is cut until a slice is at most this, or MAX_PARTS */
    SHARED_BYTES_90 = 232448, /* that a block may have, compute capability 9.0 */
    SHARED_BYTES_80 = 101376  /* 8.0 and later: the least of all */
};
static_assert((int)LARGE_THREADS / (int)GROUP_LANES * (int)MAX_PARTS == (int)MAX_GROUPS &&
                  (int)BINS % (int)LARGE_THREADS == 0 && (int)BINS % (int)SMALL_THREADS == 0,
              "groups have room, and threads take bins evenly");

static constexpr uint64_t KNOWN_FAULT = ~1ull; /* above every candidate, below NOT_FINITE */

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
    struct sample_result *results;        /* [RING_ENTRIES, max_samples] */
    struct sample_top *top;               /* [RING_ENTRIES, max_samples] */
};

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

/* The logarithm of the sum of e^logit over the row of raw logits; and its n best tokens, written by the first
 * part's first thread. */
__device__ float write_logprobs(row_part &row, uint64_t best, uint64_t own, int n, struct sample_top *top,
                                sample_shared &shared) {
    float largest = candidate_value(best), sum = 0;
    row.for_each([&](float x, int) { sum += expf(x - largest); });
    sum = block_sum(sum, reinterpret_cast<float *>(shared.reduce));
    if (row.n_parts > 1) {
        const uint64_t *of_part = row_exchange(row, __float_as_uint(sum), shared);
        sum = 0;
        for (int part = 0; part < row.n_parts; part++)
            sum += __uint_as_float((uint32_t)of_part[part]);
    }
    float normaliser = largest + logf(sum);
    for (int i = 0; i < n; i++) {
        if (row.part == 0 && threadIdx.x == 0) {
            top->token[i] = candidate_id(best);
            top->logprob[i] = candidate_value(best) - normaliser;
        }
        if (own == best) { /* true of one thread: it looks for its next */
            own = 0;
            row.for_each([&](float x, int at) {
                uint64_t c = candidate(x, row.id(at));
                if (c < best)
                    own = max(own, c);
            });
        }
        if (i + 1 < n)
            best = row_max(row, own, shared);
    }
    return normaliser;
}

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

/* An entry whose token the head has chosen. */
__device__ __forceinline__ void write_chosen(const sample_params &p, const entry_place &at,
                                             unsigned long long chosen) {
    unsigned long long fault = known_fault(p, at);
    if (chosen == NOT_FINITE)
        fault = min(fault, logits_fault(p, at));
    if (fault != NO_FAULT)
        write_fault(p, at, fault, true);
    else
        write_token(p, at, candidate_id(chosen), 0);
}

/* Entries that the head has chosen or that are padding, one thread each. */
__global__ void __launch_bounds__(CHOSEN_THREADS) kernel_sample_chosen(const sample_params p, int n) {
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int entry = p.first_sample + (int)(blockIdx.x * CHOSEN_THREADS + threadIdx.x);
    if (entry >= p.first_sample + n)
        return;
    int slot = p.sample_slot[entry], state_row = p.sample_row[entry];
    const entry_place at = {(int64_t)*p.ring * p.max_samples + entry, slot, state_row, p.position[state_row]};
    if (slot == p.n_slots)
        p.results[at.out] = {0, 0, -1, 0};
    else
        write_chosen(p, at, p.head[entry].best);
}

/* SCORES: some entries may have a target. */
template <int THREADS, bool SCORES>
__global__ void __launch_bounds__(THREADS, THREADS == LARGE_THREADS ? LARGE_BLOCKS : 1)
    kernel_sample(const sample_params p) {
    PTX_DYNAMIC_SHARED(shared_bytes, 16);
    sample_shared &shared = *reinterpret_cast<sample_shared *>(shared_bytes);
    float *resident = reinterpret_cast<float *>(&shared + 1);
    row_part row = {};
    row.n_parts = p.n_parts;
    row.part = (int)blockIdx.x % p.n_parts;
    row.first = row.part * p.slice;
    row.n = min(p.slice, p.n_vocab - row.first);
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    if (row.n_parts > 1)
        ptx_cluster_meet(); /* blocks may write to others' shared memory once those run */
#endif
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int i_entry = (int)blockIdx.x / p.n_parts, entry = p.first_sample + i_entry;
    const unsigned long long chosen = p.head ? p.head[entry].best : 0;
    int slot = p.sample_slot[entry], state_row = p.sample_row[entry];
    int position = p.position[state_row];
    int64_t out = (int64_t)*p.ring * p.max_samples + entry;
    const entry_place at = {out, slot, state_row, position};
    bool writes = row.part == 0 && threadIdx.x == 0;
    if (slot == p.n_slots) { /* padding */
        if (writes)
            p.results[out] = {0, 0, -1, 0};
        return;
    }
    if (chosen != 0) {
        if (writes)
            write_chosen(p, at, chosen);
        return;
    }
    int target = SCORES ? p.sample_target[entry] : -1;
    const float *logits = p.logits + (int64_t)i_entry * p.logits_stride;
    row.values = logits + row.first;
    if (p.resident) {
        for (int i = 4 * threadIdx.x; i < row.n; i += 4 * THREADS)
            ptx_copy_async_16(ptx_shared_address(resident + i), row.values + i, true);
        ptx_copy_async_commit();
        ptx_copy_async_wait<0>(); /* each thread reads what it copied */
        row.values = resident;
    }

    scan seen = scan_row(row);
    uint64_t best = seen.top;
    unsigned long long fault = NO_FAULT;
    if (writes) {
        /* Read by one thread alone: other entries may note theirs meanwhile, and all parts must agree. */
        fault = known_fault(p, at);
        if (fault != NO_FAULT)
            best = max(best, KNOWN_FAULT);
    }
    best = row_max(row, best, shared);
    if (best >= KNOWN_FAULT) {
        if (writes) {
            if (best == NOT_FINITE)
                fault = min(fault, logits_fault(p, at));
            write_fault(p, at, fault, target < 0);
        }
        return;
    }

    if (threadIdx.x == 0)
        shared.sampling = p.sampling[slot];
    __syncthreads(); /* sampling, for all */
    const slot_sampling &sampling = shared.sampling;
    bool wants_logprob = target >= 0 || (p.want_logprobs && sampling.n_logprobs >= 0);
    float normaliser = 0;
    if (wants_logprob) {
        int n_top = target >= 0 ? 0 : min(min(sampling.n_logprobs, (int)MAX_LOGPROBS), p.n_vocab);
        normaliser = write_logprobs(row, best, seen.top, n_top, p.top + out, shared);
    }
    if (target >= 0) {
        if (writes)
            p.results[out] = {target, logits[target] - normaliser, -1, 0};
        return;
    }
    uint32_t *counts = p.counts + (int64_t)slot * p.n_vocab;
    if (sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 ||
        sampling.frequency_penalty != 0) {
        row.sampling = &sampling;
        row.counts = counts + row.first;
        if (p.resident) {
            row.for_each([&](float y, int i) { resident[i] = y; });
            row.counts = nullptr;
        }
        seen = scan_row(row);
        best = row_max(row, seen.top, shared);
    }
    int token = candidate_id(best);
    if (sampling.temperature > 0 && !(sampling.min_p > 1))
        token = choose_token(row, candidate_value(best), seen.largest, sampling, (uint32_t)position + 1,
                             p.n_vocab, shared);
    if (writes)
        write_token(p, at, token, wants_logprob ? logits[token] - normaliser : 0);
}

/* How a row is cut: a function of the vocabulary and the device. */
void shape_choose(const struct backend_context *context, sample_params *p) {
    p->n_parts = 1;
    p->slice = (p->n_vocab + 3) / 4 * 4;
    while (context->has_wgmma && p->n_parts < MAX_PARTS && p->slice > PART_LOGITS) {
        p->n_parts *= 2;
        p->slice = (ceil_div(p->n_vocab, p->n_parts) + 3) / 4 * 4;
    }
    size_t most = context->has_wgmma ? SHARED_BYTES_90 : SHARED_BYTES_80;
    p->resident = sizeof(sample_shared) + (size_t)p->slice * sizeof(float) <= most;
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
    TRY(network_plan_flush(context));
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
    p.sample_target = context->step.sample_target;
    p.position = context->step.position;
    p.slot = context->step.slot;
    p.sampling = context->state.sampling;
    p.counts = context->state.counts;
    p.last_token = context->state.last_token;
    p.fault = context->state.fault;
    p.head = context->step.head;
    p.results = context->results_device;
    p.top = context->top_device;
    const struct step_view &step = context->step;
    if (!step.head_writes && args->first_sample >= step.head_first &&
        args->first_sample + args->n <= step.head_end)
        return cuda_launch(context, "sample", kernel_sample_chosen,
                           dim3((unsigned)ceil_div(args->n, CHOSEN_THREADS)), CHOSEN_THREADS, 0, p, args->n);
    shape_choose(context, &p);
    bool small = p.n_vocab <= SMALL_VOCAB;
    size_t shared_bytes = sizeof(sample_shared) + (p.resident ? (size_t)p.slice * sizeof(float) : 0);
    bool scores = p.sample_target != nullptr;
    auto kernel = small ? (scores ? kernel_sample<SMALL_THREADS, true> : kernel_sample<SMALL_THREADS, false>)
                        : (scores ? kernel_sample<LARGE_THREADS, true> : kernel_sample<LARGE_THREADS, false>);
    return cuda_launch_clusters(context, "sample", kernel, dim3((unsigned)args->n * (unsigned)p.n_parts),
                                small ? SMALL_THREADS : LARGE_THREADS, shared_bytes, (unsigned)p.n_parts, p);
}
