/* The sample ladder: logits [n_rows, n_vocab] float32 to one token a row.
 *
 *   naive    one block a row, temperature alone, every gumbel computed
 *   shipped  kernels/cuda/sample.cu through the backend: greedy, temperature alone, top_p alone, and
 *            temperature, top_k, top_p and min_p together
 *
 * Beside the time of reading the logits at the copy bandwidth. Flat logits are those of a model that is
 * unsure (the prefix of top_p 0.95 is tens of thousands of tokens), peaked ones of a model that is sure.
 * Tokens of the first rows are compared with the definition in float64. */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/bench/bench.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/philox.h"

namespace {

enum {
    NAIVE_THREADS = 512,
    CHECKED_ROWS = 4,
    DISTINCT_ROWS = 64, /* of the host; further rows repeat them */
    MAX_COPIES = 200
};

struct setting {
    const char *name;
    float temperature, top_p, min_p;
    int32_t top_k;
};

const setting SETTINGS[] = {
    {"greedy", 0, 1, 0, 0},
    {"temperature", 1, 1, 0, 0},
    {"top_p 0.95", 1, 0.95f, 0, 0},
    {"top_k 50, top_p 0.95, min_p 0.02", 0.8f, 0.95f, 0.02f, 50},
};
enum { N_SETTINGS = sizeof SETTINGS / sizeof SETTINGS[0] };

/* score, then the lower id; as one integer. */
__device__ uint64_t naive_candidate(float score, int id) {
    uint32_t bits = __float_as_uint(score);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (0xFFFFFFFFu - (uint32_t)id);
}

__global__ void __launch_bounds__(NAIVE_THREADS)
    kernel_sample_naive(int32_t *token, const float *logits, int64_t stride, int n_vocab) {
    __shared__ uint64_t shared[MAX_WARPS];
    uint64_t best = 0;
    for (int id = threadIdx.x; id < n_vocab; id += NAIVE_THREADS) {
        float u = philox_uniform(philox_word(blockIdx.x, 1, (uint32_t)id));
        float score = logits[blockIdx.x * stride + id] - logf(-log1pf(-u));
        best = max(best, naive_candidate(score, id));
    }
    best = block_max(best, shared);
    if (threadIdx.x == 0)
        token[blockIdx.x] = (int32_t)(0xFFFFFFFFu - (uint32_t)best);
}

/* The token by definition; -1 where rounding may decide. */
int32_t expected_token(const float *logits, int n, const setting &s, uint64_t key) {
    std::vector<int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    if (s.temperature == 0)
        return order[0];
    int k = s.top_k > 0 ? std::min(s.top_k, n) : n;
    std::vector<double> weight(k);
    double total = 0;
    for (int i = 0; i < k; i++)
        total += weight[i] = std::exp(((double)logits[order[i]] - logits[order[0]]) / s.temperature);
    int32_t found[2];
    for (int wide = 0; wide < 2; wide++) {
        double margin = wide ? 1.0001 : 0.9999, before = 0, best = -INFINITY, second = -INFINITY;
        for (int i = 0; i < k; i++) {
            bool kept = (s.top_p >= 1 || before < s.top_p * margin * total) && weight[i] * margin >= s.min_p;
            before += weight[i];
            if (!kept)
                continue;
            double u = philox_uniform(philox_word(key, 1, (uint32_t)order[i]));
            double score = (double)logits[order[i]] / s.temperature - std::log(-std::log1p(-u));
            if (score > best) {
                second = best;
                best = score;
                found[wide] = order[i];
            } else {
                second = std::max(second, score);
            }
        }
        if (best - second < 1e-3)
            return -1;
    }
    return found[0] == found[1] ? found[0] : -1;
}

void bench_shape(struct bench *bench, int n_vocab, int n_rows) {
    struct bench own = *bench;
    struct backend_options options = {};
    options.cuda_device = bench->context->device;
    bench_must(backend_open_cuda(&options, &own.backend));
    own.context = own.backend.context;
    struct backend_context *context = own.context;

    /* A slot and an entry for every row, setting and shape: one step holds all that is timed. */
    int n_entries = 2 * N_SETTINGS * n_rows;
    struct state_limits limits = {};
    limits.n_slots = limits.max_samples = n_entries;
    limits.n_pages = 2;
    limits.max_pages_per_slot = limits.n_layers = limits.n_heads = limits.n_kv_heads = 1;
    limits.max_rows = n_entries;
    limits.max_segments = 1;
    limits.head_dim = 64;
    limits.n_vocab = n_vocab;
    limits.kv_dtype = DTYPE_BFLOAT16;
    bench_must(own.backend.state_init(context, &limits));
    const int32_t page = 1;
    std::vector<struct slot_start> starts(n_entries);
    std::vector<int32_t> sample_row(n_entries), slot(n_entries), zero(n_entries);
    for (int i = 0; i < n_entries; i++) {
        const setting &s = SETTINGS[i / n_rows % N_SETTINGS];
        starts[i].slot = slot[i] = i;
        starts[i].sampling = {s.temperature, s.top_p, s.min_p, s.top_k, 1, 0, 0, -1, (uint64_t)(i % n_rows)};
        starts[i].pages = &page;
        starts[i].n_pages = 1;
        sample_row[i] = i % n_rows;
    }
    bench_must(own.backend.slots_begin(context, starts.data(), n_entries));

    size_t bytes = (size_t)n_rows * n_vocab * sizeof(float);
    int n_copies = (int)std::min((size_t)MAX_COPIES, BENCH_L2_BYTES / bytes + 1);
    int n_distinct = std::min(n_rows, (int)DISTINCT_ROWS);
    std::vector<float> rows[2];
    std::vector<struct tensor *> logits[2];
    for (int peaked = 0; peaked < 2; peaked++) {
        std::vector<float> &values = rows[peaked];
        values.resize((size_t)n_rows * n_vocab);
        for (size_t i = 0; i < values.size(); i++) {
            if (i >= (size_t)n_distinct * n_vocab) {
                values[i] = values[i - (size_t)n_distinct * n_vocab];
                continue;
            }
            values[i] = (bench_random(bench) + bench_random(bench) + bench_random(bench)) * 1.5f;
            if (peaked && bench_random(bench) > 0.999f)
                values[i] += 16.0f;
        }
        for (int copy = 0; copy < n_copies; copy++) {
            struct tensor *tensor;
            bench_must(own.backend.tensor_new(context, DTYPE_FLOAT32, n_rows, n_vocab, &tensor));
            bench_must(own.backend.tensor_write(context, tensor, n_rows, values.data()));
            logits[peaked].push_back(tensor);
        }
    }

    struct batch batch = {};
    batch.n_rows = batch.n_decode = n_rows;
    batch.n_samples = n_entries;
    batch.token = batch.position = zero.data();
    batch.slot = slot.data();
    batch.sample_row = sample_row.data();
    batch.sample_slot = slot.data();
    bool replayed;
    bench_must(own.backend.step_begin(context, &batch, &replayed));

    bench_memory naive(n_rows * sizeof(int32_t));
    std::vector<bench_row> reports;
    std::vector<struct sample_result> results(n_entries);
    auto wrong_tokens = [&](int peaked, const setting &s, const std::function<int32_t(int)> &token) {
        int n_wrong = 0;
        for (int i = 0; i < std::min(n_rows, (int)CHECKED_ROWS); i++) {
            const float *x = rows[peaked].data() + (size_t)i * n_vocab;
            int32_t expected = expected_token(x, n_vocab, s, (uint64_t)i);
            n_wrong += token(i) < 0 || (expected >= 0 && expected != token(i));
        }
        return (double)n_wrong;
    };
    for (int peaked = 0; peaked < 2; peaked++)
        for (int variant = -1; variant < N_SETTINGS; variant++) {
            const setting &s = SETTINGS[variant < 0 ? 1 : variant];
            bench_row row = {};
            row.us = bench_time(&own, [&](int i) {
                struct tensor *tensor = logits[peaked][i % n_copies];
                if (variant < 0) {
                    kernel_sample_naive<<<n_rows, NAIVE_THREADS, 0, context->stream>>>(
                        naive.as<int32_t>(), static_cast<const float *>(tensor->data), tensor_stride(tensor),
                        n_vocab);
                    return;
                }
                struct sample_args args = {};
                args.logits = tensor;
                args.first_sample = (peaked * N_SETTINGS + variant) * n_rows;
                args.n = n_rows;
                bench_must(own.backend.sample(context, &args));
            });
            row.operation = "sample";
            row.variant = variant < 0 ? "naive" : "shipped";
            row.shape = std::to_string(n_rows) + "x" + std::to_string(n_vocab) +
                        (peaked ? " peaked " : " flat ") + s.name;
            row.bytes = (double)bytes;
            row.baseline_us = row.bytes / bench->copy_bytes_per_us;
            row.baseline = "reading";
            reports.push_back(row);
            if (variant >= 0)
                continue;
            std::vector<int32_t> token(n_rows);
            bench_must(cudaMemcpyAsync(token.data(), naive.data, n_rows * sizeof(int32_t),
                                       cudaMemcpyDeviceToHost, context->stream),
                       "copy");
            bench_must(cudaStreamSynchronize(context->stream), "naive");
            reports.back().error = wrong_tokens(peaked, s, [&](int i) { return token[i]; });
        }
    uint64_t ticket;
    bench_must(own.backend.step_end(context, &ticket));
    bench_must(own.backend.step_wait(context, ticket, results.data(), nullptr));
    for (int peaked = 0; peaked < 2; peaked++)
        for (int variant = 0; variant < N_SETTINGS; variant++) {
            const struct sample_result *of_rows =
                results.data() + (size_t)(peaked * N_SETTINGS + variant) * n_rows;
            reports[peaked * (N_SETTINGS + 1) + variant + 1].error =
                wrong_tokens(peaked, SETTINGS[variant],
                             [&](int i) { return of_rows[i].fault_layer == -1 ? of_rows[i].token : -1; });
        }
    for (const bench_row &row : reports) /* the error is the number of wrong tokens */
        bench_report(bench, row);
    own.backend.close(context);
}

} // namespace

void bench_sample(struct bench *bench) {
    for (int n_vocab : {65, 50257, 128256})
        for (int n_rows : {1, 64, 1024})
            bench_shape(bench, n_vocab, n_rows);
}
