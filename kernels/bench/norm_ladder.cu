/* The norm ladder: rows of the residual stream, float32, to operands, bfloat16.
 *
 *   naive     one block per row, up to three passes over memory, a tree for each sum
 *   shipped   the backend's norm (kernels/cuda/norm.cu), in a step of as many rows
 *
 * Rows are not rotated: in a step the product in front has just written them, and up to some 2,048 rows they
 * are still in the L2 cache. So the share of the copy bandwidth can be above 1. */
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/bench/bench.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

enum { NAIVE_THREADS = 256, CHECKED_ROWS = 16 };

const struct {
    const char *name;
    enum norm_kind kind;
    int32_t width;
} SHAPES[] = {
    {"char", NORM_LAYER, 384}, {"gpt2", NORM_LAYER, 768}, {"gemma", NORM_RMS, 1152},
    {"1b", NORM_RMS, 2048},    {"7b", NORM_RMS, 3584},    {"8b", NORM_RMS, 4096},
};
const float EPSILON = 1e-5f;

__global__ void __launch_bounds__(NAIVE_THREADS)
    kernel_norm_naive(bfloat16 *out, const float *in, const float *weight, const float *bias, int width) {
    __shared__ float shared[MAX_WARPS];
    const float *x = in + (int64_t)blockIdx.x * width;
    float sum = 0, squares = 0;
    if (bias)
        for (int i = threadIdx.x; i < width; i += NAIVE_THREADS)
            sum += x[i];
    const float mean = block_sum(sum, shared) / (float)width;
    for (int i = threadIdx.x; i < width; i += NAIVE_THREADS)
        squares += (x[i] - mean) * (x[i] - mean);
    const float scale = rsqrtf(block_sum(squares, shared) / (float)width + EPSILON);
    for (int i = threadIdx.x; i < width; i += NAIVE_THREADS)
        out[(int64_t)blockIdx.x * width + i] =
            from_float<bfloat16>((x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0));
}

struct rig {
    struct bench own;
    int n_rows, width;
    enum norm_kind kind;
    std::vector<float> in, weight, bias;
    struct tensor *hidden, *scale, *shift, *out;
};

void rig_open(struct rig *rig, struct bench *bench) {
    rig->own = *bench;
    struct backend *backend = &rig->own.backend;
    struct backend_options options = {};
    options.cuda_device = bench->context->device;
    bench_must(backend_open_cuda(&options, backend));
    struct backend_context *context = rig->own.context = backend->context;
    for (std::vector<float> *values : {&rig->in, &rig->weight, &rig->bias})
        for (float &x : *values)
            x = bench_random(bench);
    bench_must(backend->tensor_new(context, DTYPE_FLOAT32, rig->n_rows, rig->width, &rig->hidden));
    bench_must(backend->tensor_new(context, DTYPE_FLOAT32, 1, rig->width, &rig->scale));
    bench_must(backend->tensor_new(context, DTYPE_FLOAT32, 1, rig->width, &rig->shift));
    bench_must(backend->tensor_new(context, DTYPE_BFLOAT16, rig->n_rows, rig->width, &rig->out));
    bench_must(backend->tensor_write(context, rig->hidden, rig->n_rows, rig->in.data()));
    bench_must(backend->tensor_write(context, rig->scale, 1, rig->weight.data()));
    bench_must(backend->tensor_write(context, rig->shift, 1, rig->bias.data()));
    struct state_limits limits = {};
    limits.n_slots = limits.max_samples = limits.max_segments = limits.n_layers = 1;
    limits.n_heads = limits.n_kv_heads = 1;
    limits.max_rows = rig->n_rows;
    limits.n_pages = limits.max_pages_per_slot = ceil_div(rig->n_rows, (int)PAGE_TOKENS) + 1;
    limits.head_dim = 64;
    limits.n_vocab = 64;
    limits.kv_dtype = DTYPE_BFLOAT16;
    bench_must(backend->state_init(context, &limits));
    std::vector<int32_t> pages(limits.max_pages_per_slot - 1);
    for (size_t i = 0; i < pages.size(); i++)
        pages[i] = (int32_t)i + 1;
    struct slot_start start = {};
    start.pages = pages.data();
    start.n_pages = (int32_t)pages.size();
    bench_must(backend->slots_begin(context, &start, 1));
}

/* Microseconds of one norm. Its rows are in `out` afterwards. */
double time_variant(struct rig *rig, bool shipped) {
    struct backend *backend = &rig->own.backend;
    struct backend_context *context = rig->own.context;
    /* A step of one prompt, none of whose rows is sampled. */
    std::vector<int32_t> position(rig->n_rows), zero(rig->n_rows);
    for (int i = 0; i < rig->n_rows; i++)
        position[i] = i;
    const struct segment segment = {0, rig->n_rows, 0, 0};
    struct batch batch = {};
    batch.n_rows = rig->n_rows;
    batch.n_segments = 1;
    batch.segments = &segment;
    batch.token = batch.slot = zero.data();
    batch.position = position.data();
    bool replayed;
    bench_must(cudaMemset(rig->out->data, 0xFF, (size_t)rig->n_rows * rig->width * sizeof(bfloat16)),
               "poison");
    bench_must(backend->step_begin(context, &batch, &replayed));
    struct norm_args args = {};
    args.kind = rig->kind;
    args.hidden = rig->hidden;
    args.weight = rig->scale;
    args.bias = rig->kind == NORM_LAYER ? rig->shift : nullptr;
    args.epsilon = EPSILON;
    args.out = rig->out;
    double us = bench_time(&rig->own, [&](int) {
        if (shipped)
            bench_must(backend->norm(context, &args));
        else
            kernel_norm_naive<<<rig->n_rows, NAIVE_THREADS, 0, context->stream>>>(
                static_cast<bfloat16 *>(args.out->data), static_cast<const float *>(args.hidden->data),
                static_cast<const float *>(args.weight->data),
                args.bias ? static_cast<const float *>(args.bias->data) : nullptr, rig->width);
    });
    uint64_t ticket;
    bench_must(backend->step_end(context, &ticket));
    bench_must(backend->step_wait(context, ticket, nullptr, nullptr));
    return us;
}

/* Largest difference from float64, over the largest result. */
double error_of(struct rig *rig) {
    std::vector<uint16_t> out((size_t)rig->n_rows * rig->width);
    bench_must(rig->own.backend.tensor_read(rig->own.context, rig->out, rig->n_rows, out.data()));
    const int n_checked = std::min(rig->n_rows, (int)CHECKED_ROWS);
    double largest = 0, difference = 0;
    for (int r = 0; r < n_checked; r++) {
        const size_t at = (size_t)r * (rig->n_rows - 1) / std::max(1, n_checked - 1) * rig->width;
        double mean = 0, squares = 0;
        if (rig->kind == NORM_LAYER)
            for (int i = 0; i < rig->width; i++)
                mean += rig->in[at + i] / rig->width;
        for (int i = 0; i < rig->width; i++)
            squares += (rig->in[at + i] - mean) * (rig->in[at + i] - mean);
        for (int i = 0; i < rig->width; i++) {
            double expected =
                (rig->in[at + i] - mean) / std::sqrt(squares / rig->width + EPSILON) * rig->weight[i] +
                (rig->kind == NORM_LAYER ? rig->bias[i] : 0);
            double delta = std::fabs(expected - bench_widen(out[at + i]));
            largest = std::max(largest, std::fabs(expected));
            difference = delta <= difference ? difference : delta; /* NaN stays */
        }
    }
    return difference / largest;
}

} // namespace

void bench_norm(struct bench *bench) {
    for (const auto &shape : SHAPES)
        for (int n_rows : {1, 16, 64, 128, 256, 512, 1024, 4096}) {
            if (n_rows < bench->least_rows || n_rows > bench->most_rows ||
                (bench->layers && !strstr(shape.name, bench->layers)))
                continue;
            struct rig rig;
            rig.n_rows = n_rows;
            rig.width = shape.width;
            rig.kind = shape.kind;
            rig.in.resize((size_t)n_rows * shape.width);
            rig.weight.resize(shape.width);
            rig.bias.resize(shape.width);
            rig_open(&rig, bench);
            for (bool shipped : {false, true}) {
                bench_row row = {};
                row.us = time_variant(&rig, shipped);
                row.operation = "norm";
                row.variant = shipped ? "shipped" : "naive";
                row.shape = std::string(shape.name) + " " + std::to_string(n_rows) + "x" +
                            std::to_string(shape.width);
                row.bytes = (double)n_rows * shape.width * (sizeof(float) + sizeof(bfloat16));
                row.baseline_us = row.bytes / bench->copy_bytes_per_us;
                row.baseline = "copy";
                row.error = error_of(&rig);
                row.tolerance = 0x1p-8; /* one rounding to bfloat16 */
                bench_report(bench, row);
            }
            rig.own.backend.close(rig.own.context);
        }
}
