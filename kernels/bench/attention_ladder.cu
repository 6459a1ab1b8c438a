/* The attention ladder, bfloat16: rows of sequences over a paged KV cache, decode (one position a sequence,
 * lengths equal or uniform) and prefill (all positions, causal).
 *
 *   naive    one block per (row, head), scores of the whole row in memory, three passes
 *   tiled    one block per (row, head), scores in shared memory, lanes over the head's columns
 *   shipped  the backend's attention_decode and attention_prefill
 *
 * Decode is stated beside the copy bandwidth (K and V read once; calls rotate over layers beyond the L2
 * cache), prefill in TFLOP/s of the causal half. */
#include <algorithm>
#include <cmath>

#include "kernels/bench/bench.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/window.h"

namespace {

enum {
    THREADS = 128,
    CHECKED_ROWS = 8,
    FILL_ROWS = 16384,   /* prompt rows of a step that fills the pages */
    MAX_LAYERS = 512,    /* that calls rotate over */
    RAGGED_LIMIT = 4096, /* positions that the state of uniform lengths allows: it must not slow short ones */
    RAGGED_STRIDE = 97   /* coprime to the lengths below, so that all occur equally often */
};

/* Above it the plain kernels are left out: a second a call. */
const double PLAIN_FLOPS = 2e11;

struct shape {
    const char *name;
    int n_heads;
    int n_kv_heads;
    int head_dim;
    int n_sequences;
    int length; /* positions, the row's own included */
    bool prefill;
    bool ragged; /* decode: lengths are uniform in 1..length */
    int window;  /* positions that a row sees; 0: all */
};

const shape SHAPES[] = {
    {"char", 6, 6, 64, 1, 256, false, false, 0},        {"char", 6, 6, 64, 64, 256, false, false, 0},
    {"char", 6, 6, 64, 1024, 256, false, false, 0},     {"char", 6, 6, 64, 2048, 256, false, true, 0},
    {"gpt2", 12, 12, 64, 1, 1024, false, false, 0},     {"gpt2", 12, 12, 64, 64, 1024, false, false, 0},
    {"1b", 32, 8, 64, 1, 256, false, false, 0},         {"1b", 32, 8, 64, 1, 2048, false, false, 0},
    {"1b", 32, 8, 64, 8, 2048, false, false, 0},        {"1b", 32, 8, 64, 64, 2048, false, false, 0},
    {"1b", 32, 8, 64, 1024, 256, false, true, 0},       {"8b", 32, 8, 128, 1, 2048, false, false, 0},
    {"8b", 32, 8, 128, 64, 2048, false, false, 0},      {"8b", 32, 8, 128, 512, 256, false, true, 0},
    {"70b", 64, 8, 128, 32, 2048, false, false, 0},     {"d96", 32, 32, 96, 16, 2048, false, false, 0},
    {"d256", 16, 8, 256, 32, 2048, false, false, 0},    {"gemma", 8, 4, 256, 64, 4096, false, false, 0},
    {"gemma", 8, 4, 256, 64, 4096, false, false, 1024}, {"gemma", 4, 1, 256, 1, 4096, false, false, 512},
    {"char", 6, 6, 64, 16, 256, true, false, 0},        {"gpt2", 12, 12, 64, 8, 1024, true, false, 0},
    {"1b", 32, 8, 64, 8, 2048, true, false, 0},         {"8b", 32, 8, 128, 2, 2048, true, false, 0},
    {"8b", 32, 8, 128, 4, 4096, true, false, 0},        {"gemma", 8, 4, 256, 4, 4096, true, false, 0},
    {"gemma", 8, 4, 256, 4, 4096, true, false, 1024},
};

/* Positions of a sequence's row, its own included. */
__host__ __device__ inline int decode_length(int length, bool ragged, int sequence) {
    return ragged ? 1 + sequence * RAGGED_STRIDE % length : length;
}

/* What the plain kernels read: dense copies of q, K and V. */
struct dense_params {
    bfloat16 *out;     /* [n_rows, n_heads, head_dim] */
    const bfloat16 *q; /* [n_rows, n_heads, head_dim] */
    const bfloat16 *k; /* [n_sequences, length, n_kv_heads, head_dim] */
    const bfloat16 *v; /* the same */
    float *scores;     /* [n_rows, n_heads, length] */
    int n_heads;
    int n_kv_heads;
    int head_dim;
    int length;
    bool prefill;
    bool ragged;
    int window;
    float scale;
};

/* The row sees keys [first_key, n_keys). */
__device__ __forceinline__ void dense_row(const dense_params &p, int row, int *sequence, int *first_key,
                                          int *n_keys) {
    *sequence = p.prefill ? row / p.length : row;
    *n_keys = p.prefill ? row % p.length + 1 : decode_length(p.length, p.ragged, row);
    *first_key = window_first(*n_keys - 1, p.window);
}

__global__ void __launch_bounds__(THREADS) kernel_attention_naive(const dense_params p) {
    int row = blockIdx.x, head = blockIdx.y, kv_head = head / (p.n_heads / p.n_kv_heads), sequence, first_key,
        n_keys;
    dense_row(p, row, &sequence, &first_key, &n_keys);
    const bfloat16 *q = p.q + ((int64_t)row * p.n_heads + head) * p.head_dim;
    int64_t first = ((int64_t)sequence * p.length * p.n_kv_heads + kv_head) * p.head_dim;
    int64_t stride = (int64_t)p.n_kv_heads * p.head_dim;
    float *scores = p.scores + ((int64_t)row * p.n_heads + head) * p.length;
    for (int key = first_key + threadIdx.x; key < n_keys; key += THREADS) {
        float dot = 0;
        for (int i = 0; i < p.head_dim; i++)
            dot = fmaf(to_float(q[i]), to_float(p.k[first + key * stride + i]), dot);
        scores[key] = dot * p.scale;
    }
    __syncthreads(); /* all scores of the row */
    float largest = -INFINITY, sum = 0;
    for (int key = first_key; key < n_keys; key++)
        largest = fmaxf(largest, scores[key]);
    for (int key = first_key; key < n_keys; key++)
        sum += expf(scores[key] - largest);
    for (int i = threadIdx.x; i < p.head_dim; i += THREADS) {
        float out = 0;
        for (int key = first_key; key < n_keys; key++)
            out = fmaf(expf(scores[key] - largest), to_float(p.v[first + key * stride + i]), out);
        p.out[((int64_t)row * p.n_heads + head) * p.head_dim + i] = from_float<bfloat16>(out / sum);
    }
}

__global__ void __launch_bounds__(THREADS) kernel_attention_tiled(const dense_params p) {
    extern __shared__ float weights[]; /* [length] */
    __shared__ float reduce[MAX_WARPS], sums[THREADS / WARP_LANES][MAX_HEAD_DIM];
    int row = blockIdx.x, head = blockIdx.y, kv_head = head / (p.n_heads / p.n_kv_heads), sequence, first_key,
        n_keys;
    dense_row(p, row, &sequence, &first_key, &n_keys);
    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    const bfloat16 *q = p.q + ((int64_t)row * p.n_heads + head) * p.head_dim;
    int64_t first = ((int64_t)sequence * p.length * p.n_kv_heads + kv_head) * p.head_dim;
    int64_t stride = (int64_t)p.n_kv_heads * p.head_dim;
    float largest = -INFINITY, sum = 0;
    for (int key = first_key + warp; key < n_keys; key += THREADS / WARP_LANES) {
        float dot = 0;
        for (int i = lane; i < p.head_dim; i += WARP_LANES)
            dot = fmaf(to_float(q[i]), to_float(p.k[first + key * stride + i]), dot);
        dot = lanes_sum<WARP_LANES>(dot) * p.scale;
        weights[key] = dot;
        largest = fmaxf(largest, dot);
    }
    if (lane == 0)
        reduce[warp] = largest;
    __syncthreads(); /* scores, and maxima of all warps */
    for (int w = 0; w < THREADS / WARP_LANES; w++)
        largest = fmaxf(largest, reduce[w]);
    for (int key = first_key + threadIdx.x; key < n_keys; key += THREADS) {
        weights[key] = expf(weights[key] - largest);
        sum += weights[key];
    }
    sum = block_sum(sum, reduce);
    for (int i = lane; i < p.head_dim; i += WARP_LANES) {
        float out = 0;
        for (int key = first_key + warp; key < n_keys; key += THREADS / WARP_LANES)
            out = fmaf(weights[key], to_float(p.v[first + key * stride + i]), out);
        sums[warp][i] = out;
    }
    __syncthreads(); /* sums of all warps */
    for (int i = threadIdx.x; i < p.head_dim; i += THREADS) {
        float out = 0;
        for (int w = 0; w < THREADS / WARP_LANES; w++)
            out += sums[w][i];
        p.out[((int64_t)row * p.n_heads + head) * p.head_dim + i] = from_float<bfloat16>(out / sum);
    }
}

/* Largest difference of some rows from float64, over the largest magnitude. */
double attention_error(const shape &s, const std::vector<uint16_t> &out, const std::vector<uint16_t> &q,
                       const std::vector<uint16_t> &k, const std::vector<uint16_t> &v, int n_rows) {
    double largest = 0, difference = 0;
    for (int c = 0; c < CHECKED_ROWS; c++) {
        int row = n_rows == 1 ? 0 : (int)((int64_t)c * (n_rows - 1) / (CHECKED_ROWS - 1)),
            head = c % s.n_heads;
        int sequence = s.prefill ? row / s.length : row;
        int n_keys = s.prefill ? row % s.length + 1 : decode_length(s.length, s.ragged, row);
        int first_key = window_first(n_keys - 1, s.window);
        int kv_head = head / (s.n_heads / s.n_kv_heads);
        auto at = [&](int key, int i) {
            return (((size_t)sequence * s.length + key) * s.n_kv_heads + kv_head) * s.head_dim + i;
        };
        std::vector<double> weight(n_keys);
        double top = -INFINITY, sum = 0;
        for (int key = first_key; key < n_keys; key++) {
            double dot = 0;
            for (int i = 0; i < s.head_dim; i++)
                dot += (double)bench_widen(q[((size_t)row * s.n_heads + head) * s.head_dim + i]) *
                       bench_widen(k[at(key, i)]);
            weight[key] = dot / std::sqrt((double)s.head_dim);
            top = std::max(top, weight[key]);
        }
        for (int key = first_key; key < n_keys; key++)
            sum += weight[key] = std::exp(weight[key] - top);
        for (int i = 0; i < s.head_dim; i++) {
            double expected = 0;
            for (int key = first_key; key < n_keys; key++)
                expected += weight[key] * bench_widen(v[at(key, i)]);
            expected /= sum;
            double delta =
                std::fabs(expected - bench_widen(out[((size_t)row * s.n_heads + head) * s.head_dim + i]));
            largest = std::max(largest, std::fabs(expected));
            difference = delta <= difference ? difference : delta; /* NaN stays */
        }
    }
    return difference / largest;
}

/* The backend with K and V of positions [0, length) in its pages, in a step whose rows are the shape's. */
struct paged {
    struct backend backend;
    struct tensor *qkv;
    struct tensor *out;
    uint64_t ticket;
};

/* Queues one step up to its operations: over positions [position, position + n_each) of all sequences, or
 * over the last position of each. */
void step_begin(paged *paged, const shape &s, int position, int n_each, bool prefill) {
    int n_rows = s.n_sequences * n_each;
    std::vector<int32_t> token(n_rows), positions(n_rows), slot(n_rows);
    std::vector<struct segment> segments;
    for (int row = 0; row < n_rows; row++) {
        slot[row] = row / n_each;
        positions[row] = prefill ? position + row % n_each : decode_length(s.length, s.ragged, row) - 1;
        if (prefill && row % n_each == 0)
            segments.push_back({row, n_each, slot[row], position});
    }
    struct batch batch = {};
    batch.n_rows = n_rows;
    batch.n_decode = prefill ? 0 : n_rows;
    batch.n_segments = (int32_t)segments.size();
    batch.token = token.data();
    batch.position = positions.data();
    batch.slot = slot.data();
    batch.segments = segments.data();
    bool replayed;
    bench_must(paged->backend.step_begin(paged->backend.context, &batch, &replayed));
}

void step_end(paged *paged) {
    bench_must(paged->backend.step_end(paged->backend.context, &paged->ticket));
    bench_must(paged->backend.step_wait(paged->backend.context, paged->ticket, nullptr, nullptr));
}

/* qkv of the rows of step_begin, from the dense arrays. */
void qkv_write(paged *paged, const shape &s, const std::vector<uint16_t> &q, const std::vector<uint16_t> &k,
               const std::vector<uint16_t> &v, int position, int n_each, bool prefill) {
    size_t heads = (size_t)s.n_heads * s.head_dim, kv = (size_t)s.n_kv_heads * s.head_dim,
           width = heads + 2 * kv;
    size_t n_rows = (size_t)s.n_sequences * n_each;
    std::vector<uint16_t> rows(n_rows * width);
    for (size_t row = 0; row < n_rows; row++) {
        size_t sequence = row / n_each, own = position + row % n_each;
        if (!prefill)
            own = decode_length(s.length, s.ragged, (int)sequence) - 1;
        size_t source = sequence * s.length + own;    /* of K and V */
        size_t query = s.prefill ? source : sequence; /* of q; what filling computes is not read */
        std::copy_n(q.begin() + query * heads, heads, rows.begin() + row * width);
        std::copy_n(k.begin() + source * kv, kv, rows.begin() + row * width + heads);
        std::copy_n(v.begin() + source * kv, kv, rows.begin() + row * width + heads + kv);
    }
    bench_must(paged->backend.tensor_write(paged->backend.context, paged->qkv, (int64_t)n_rows, rows.data()));
}

void bench_shape(struct bench *bench, const shape &s) {
    int n_rows = s.prefill ? s.n_sequences * s.length : s.n_sequences;
    size_t heads = (size_t)s.n_heads * s.head_dim, kv = (size_t)s.n_kv_heads * s.head_dim;
    size_t kv_rows = (size_t)s.n_sequences * s.length;
    std::vector<uint16_t> q = bench_random_bfloat16(bench, n_rows * heads, 2), out(n_rows * heads);
    std::vector<uint16_t> k = bench_random_bfloat16(bench, kv_rows * kv, 2);
    std::vector<uint16_t> v = bench_random_bfloat16(bench, kv_rows * kv, 1);
    bench_memory q_memory(q.size() * 2, q.data()), k_memory(k.size() * 2, k.data()),
        v_memory(v.size() * 2, v.data());
    bench_memory out_memory(out.size() * 2);
    dense_params p = {};
    p.out = out_memory.as<bfloat16>();
    p.q = q_memory.as<bfloat16>();
    p.k = k_memory.as<bfloat16>();
    p.v = v_memory.as<bfloat16>();
    p.n_heads = s.n_heads;
    p.n_kv_heads = s.n_kv_heads;
    p.head_dim = s.head_dim;
    p.length = s.length;
    p.prefill = s.prefill;
    p.ragged = s.ragged;
    p.window = s.window;
    p.scale = 1 / std::sqrt((float)s.head_dim);

    bench_row row = {};
    row.operation = "attention";
    row.shape = std::string(s.name) + (s.prefill ? " prefill" : " decode") + " H" +
                std::to_string(s.n_heads) + "/" + std::to_string(s.n_kv_heads) + " D" +
                std::to_string(s.head_dim) + " B" + std::to_string(s.n_sequences) + " T" +
                (s.ragged ? "1.." : "") + std::to_string(s.length) +
                (s.window ? " W" + std::to_string(s.window) : "");
    double pairs = 0, keys = 0; /* (row, key) pairs; keys that are read */
    for (int sequence = 0; sequence < s.n_sequences; sequence++) {
        double length = decode_length(s.length, s.ragged, sequence);
        double seen = s.window > 0 ? std::min(length, (double)s.window) : length; /* by the last row */
        pairs += s.prefill ? seen * (length - seen) + 0.5 * seen * (seen + 1) : seen;
        keys += s.prefill ? length : seen;
    }
    row.flops = 4.0 * pairs * (double)heads;
    row.bytes = 2.0 * (2.0 * keys * (double)kv + 2.0 * n_rows * (double)heads);
    row.baseline_us = row.bytes / bench->copy_bytes_per_us;
    row.baseline = "copy";
    row.tolerance = 0x1p-6; /* the rounding of bfloat16 weights and results */

    const bool plain = row.flops <= PLAIN_FLOPS;
    bench_memory scores(plain ? (size_t)n_rows * s.n_heads * s.length * sizeof(float) : sizeof(float));
    p.scores = scores.as<float>();
    auto finish = [&](const char *variant, double us) {
        row.variant = variant;
        row.us = us;
        row.error = attention_error(s, out, q, k, v, n_rows);
        bench_report(bench, row);
    };
    cudaStream_t stream = bench->context->stream;
    dim3 grid(n_rows, s.n_heads);
    for (bool tiled : {false, true}) {
        if (!plain)
            break;
        bench_must(cudaMemsetAsync(p.out, 0xFF, out.size() * 2, stream), "poison");
        double us = bench_time(bench, [&](int) {
            if (tiled)
                kernel_attention_tiled<<<grid, THREADS, (size_t)s.length * sizeof(float), stream>>>(p);
            else
                kernel_attention_naive<<<grid, THREADS, 0, stream>>>(p);
            bench_must(cudaGetLastError(), "attention");
        });
        bench_must(cudaMemcpyAsync(out.data(), p.out, out.size() * 2, cudaMemcpyDeviceToHost, stream),
                   "copy");
        bench_must(cudaStreamSynchronize(stream), "attention");
        finish(tiled ? "tiled" : "naive", us);
    }

    /* What ships, in a backend of its own: a state is sized once. */
    struct paged paged = {};
    struct bench own = *bench;
    struct backend_options options = {};
    options.cuda_device = bench->context->device;
    bench_must(backend_open_cuda(&options, &paged.backend));
    own.context = paged.backend.context;
    struct state_limits limits = {};
    int n_pages = ceil_div(s.length, PAGE_TOKENS);
    int fill_each = std::min(s.length, std::max(1, std::min(64, FILL_ROWS / s.n_sequences)));
    size_t layer_bytes = kv_rows * kv * 2 * sizeof(bfloat16);
    int n_layers = s.prefill ? 1 : (int)std::min((size_t)MAX_LAYERS, BENCH_L2_BYTES / layer_bytes + 1);
    limits.n_slots = s.n_sequences;
    limits.n_pages = 1 + s.n_sequences * n_pages;
    limits.max_pages_per_slot = s.ragged ? RAGGED_LIMIT / PAGE_TOKENS : n_pages;
    limits.max_rows = std::max(n_rows, s.n_sequences * fill_each);
    limits.max_segments = s.n_sequences;
    limits.max_samples = 1;
    limits.n_layers = n_layers;
    limits.n_heads = s.n_heads;
    limits.n_kv_heads = s.n_kv_heads;
    limits.head_dim = s.head_dim;
    limits.n_vocab = 1;
    limits.kv_dtype = DTYPE_BFLOAT16;
    bench_must(paged.backend.state_init(own.context, &limits));
    bench_must(paged.backend.tensor_new(own.context, DTYPE_BFLOAT16, limits.max_rows,
                                        (int64_t)(heads + 2 * kv), &paged.qkv));
    bench_must(
        paged.backend.tensor_new(own.context, DTYPE_BFLOAT16, limits.max_rows, (int64_t)heads, &paged.out));
    for (int sequence = 0; sequence < s.n_sequences; sequence++) {
        std::vector<int32_t> pages(n_pages);
        for (int i = 0; i < n_pages; i++)
            pages[i] = 1 + i * s.n_sequences + sequence; /* neighbours in a sequence are apart in memory */
        struct slot_start start = {};
        start.slot = sequence;
        start.sampling.n_logprobs = -1;
        start.pages = pages.data();
        start.n_pages = n_pages;
        bench_must(paged.backend.slots_begin(own.context, &start, 1));
    }
    struct attention_args args = {};
    args.qkv = paged.qkv;
    args.out = paged.out;
    args.scale = p.scale;
    args.window = s.window;
    if (!s.prefill)
        for (int position = 0; position < s.length; position += fill_each) {
            int n_each = std::min(fill_each, s.length - position);
            qkv_write(&paged, s, q, k, v, position, n_each, true);
            step_begin(&paged, s, position, n_each, true);
            for (args.layer = 0; args.layer < n_layers; args.layer++)
                bench_must(paged.backend.attention_prefill(own.context, &args));
            step_end(&paged);
        }
    int n_each = s.prefill ? s.length : 1;
    qkv_write(&paged, s, q, k, v, 0, n_each, s.prefill);
    step_begin(&paged, s, 0, n_each, s.prefill);
    double us = bench_time(&own, [&](int i) {
        args.layer = i % n_layers;
        bench_must(s.prefill ? paged.backend.attention_prefill(own.context, &args)
                             : paged.backend.attention_decode(own.context, &args));
    });
    step_end(&paged);
    bench_must(paged.backend.tensor_read(own.context, paged.out, n_rows, out.data()));
    finish("shipped", us);
    paged.backend.close(own.context);
}

} // namespace

void bench_attention(struct bench *bench) {
    for (const shape &s : SHAPES)
        bench_shape(bench, s);
}
