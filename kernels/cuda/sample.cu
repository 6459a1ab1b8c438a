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
 * Where all are such, a kernel of a few blocks does it. An entry with top_k whose logits the head has listed
 * is taken by a kernel that reads few of them (sample_listed.cuh), unless something else needs its whole row.
 *
 * An entry whose token is given (batch.sample_target) is scored: of all this only the scan and the
 * log-sum-exp run, and the slot stays as it is. Steps without such entries run a kernel that knows nothing of
 * them.
 *
 * Numerics: a token depends on its logits, counts, sampling parameters and position alone. All that parts
 * combine commutes exactly, except the log-sum-exp behind the log-probabilities: a fixed tree by vocabulary
 * size, parts in ascending order. */
#include "kernels/cuda/network.cuh"
#include "kernels/cuda/sample_choose.cuh"
#include "kernels/cuda/sample_entry.cuh"
#include "kernels/cuda/sample_listed.cuh"

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

/* Entries that the head has chosen or that are padding, one thread each. */
__global__ void __launch_bounds__(CHOSEN_THREADS) kernel_sample_chosen(const sample_params p, int n) {
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int entry = p.first_sample + (int)(blockIdx.x * CHOSEN_THREADS + threadIdx.x);
    if (entry >= p.first_sample + n)
        return;
    int slot = p.sample_slot[entry], state_row = p.sample_row[entry];
    const entry_place at = {(int64_t)*p.ring * p.max_samples + entry, slot, state_row, p.position[state_row]};
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
    if (slot == p.n_slots || chosen != 0) {
        if (writes)
            write_chosen(p, at, chosen);
        return;
    }
    if (p.maxima && p.head[entry].end == HEAD_LISTS)
        return;
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
    const bool ended = args->first_sample >= step.head_first && args->first_sample + args->n <= step.head_end;
    const bool lists = ended && step.head_lists, whole_rows = !ended || step.head_writes;
    if (!lists && !whole_rows)
        return cuda_launch(context, "sample", kernel_sample_chosen,
                           dim3((unsigned)ceil_div(args->n, CHOSEN_THREADS)), CHOSEN_THREADS, 0, p, args->n);
    if (lists) {
        p.maxima = context->state.maxima +
                   (args->first_sample - step.head_first) * head_groups_stride(p.n_vocab, step.head_group);
        TRY(cuda_launch(context, "sample",
                        step.head_group == HEAD_GROUP ? kernel_sample_listed<HEAD_GROUP>
                                                      : kernel_sample_listed<HEAD_NARROW_GROUP>,
                        dim3((unsigned)args->n), LISTED_THREADS, 0, p, !whole_rows));
    }
    if (!whole_rows)
        return STATUS_OK;
    shape_choose(context, &p);
    bool small = p.n_vocab <= SMALL_VOCAB;
    size_t shared_bytes = sizeof(sample_shared) + (p.resident ? (size_t)p.slice * sizeof(float) : 0);
    bool scores = p.sample_target != nullptr;
    auto kernel = small ? (scores ? kernel_sample<SMALL_THREADS, true> : kernel_sample<SMALL_THREADS, false>)
                        : (scores ? kernel_sample<LARGE_THREADS, true> : kernel_sample<LARGE_THREADS, false>);
    return cuda_launch_clusters(context, "sample", kernel, dim3((unsigned)args->n * (unsigned)p.n_parts),
                                small ? SMALL_THREADS : LARGE_THREADS, shared_bytes, (unsigned)p.n_parts, p);
}
