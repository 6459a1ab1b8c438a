/* The softmax ladder: out[r, :] = exp(x[r, :] - max) / sum, float32 rows.
 *
 *   naive    one thread per row, three passes over memory
 *   tiled    one block per row, three passes, threads side by side, trees for maximum and sum
 *   online   one warp per row, held in registers in 16-byte vectors, read once and written once: powers of
 * two and the lane reductions of kernels/cuda/reduce.cuh, as the attention kernels that ship use them
 *
 * Softmax never runs alone in the worker: what ships is this last form inside attention. */
#include <algorithm>
#include <cmath>

#include "kernels/bench/bench.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

enum { NAIVE_THREADS = 128, TILED_THREADS = 256, ONLINE_WARPS = 4, CHECKED_ROWS = 16 };

__global__ void __launch_bounds__(NAIVE_THREADS)
    kernel_softmax_naive(float *out, const float *in, int n_rows, int width) {
    int row = blockIdx.x * NAIVE_THREADS + threadIdx.x;
    if (row >= n_rows)
        return;
    const float *x = in + (int64_t)row * width;
    float *y = out + (int64_t)row * width;
    float largest = -INFINITY, sum = 0;
    for (int i = 0; i < width; i++)
        largest = fmaxf(largest, x[i]);
    for (int i = 0; i < width; i++)
        sum += expf(x[i] - largest);
    for (int i = 0; i < width; i++)
        y[i] = expf(x[i] - largest) / sum;
}

__global__ void __launch_bounds__(TILED_THREADS)
    kernel_softmax_tiled(float *out, const float *in, int width) {
    __shared__ float shared[MAX_WARPS];
    const float *x = in + (int64_t)blockIdx.x * width;
    float *y = out + (int64_t)blockIdx.x * width;
    float largest = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < width; i += TILED_THREADS)
        largest = fmaxf(largest, x[i]);
    largest = lanes_max<WARP_LANES>(largest);
    if (threadIdx.x % WARP_LANES == 0)
        shared[threadIdx.x / WARP_LANES] = largest;
    __syncthreads(); /* maxima of all warps */
    for (int warp = 0; warp < TILED_THREADS / WARP_LANES; warp++)
        largest = fmaxf(largest, shared[warp]);
    for (int i = threadIdx.x; i < width; i += TILED_THREADS)
        sum += expf(x[i] - largest);
    sum = block_sum(sum, shared);
    for (int i = threadIdx.x; i < width; i += TILED_THREADS)
        y[i] = expf(x[i] - largest) / sum;
}

/* width = VECTORS * 128. */
template <int VECTORS>
__global__ void __launch_bounds__(ONLINE_WARPS *WARP_LANES)
    kernel_softmax_online(float *out, const float *in, int n_rows) {
    constexpr int WIDTH = VECTORS * WARP_LANES * 4;
    const float LOG2_E = 1.4426950408889634f;
    int row = blockIdx.x * ONLINE_WARPS + threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    if (row >= n_rows)
        return;
    float4 v[VECTORS];
    float largest = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        v[i] = load_4(in + (int64_t)row * WIDTH + (i * WARP_LANES + lane) * 4);
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        largest = fmaxf(largest, fmaxf(fmaxf(v[i].x, v[i].y), fmaxf(v[i].z, v[i].w)));
    largest = lanes_max<WARP_LANES>(largest) * LOG2_E;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        v[i].x = ptx_exp2(fmaf(v[i].x, LOG2_E, -largest));
        v[i].y = ptx_exp2(fmaf(v[i].y, LOG2_E, -largest));
        v[i].z = ptx_exp2(fmaf(v[i].z, LOG2_E, -largest));
        v[i].w = ptx_exp2(fmaf(v[i].w, LOG2_E, -largest));
        sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    }
    float scale = 1 / lanes_sum<WARP_LANES>(sum);
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        store_4(out + (int64_t)row * WIDTH + (i * WARP_LANES + lane) * 4,
                make_float4(v[i].x * scale, v[i].y * scale, v[i].z * scale, v[i].w * scale));
}

template <int VECTORS> void bench_width(struct bench *bench, int n_rows) {
    const int width = VECTORS * WARP_LANES * 4;
    size_t elements = (size_t)n_rows * width;
    int n_copies = (int)(BENCH_L2_BYTES / (elements * sizeof(float)) + 1);
    std::vector<float> in(elements * n_copies), out(elements);
    for (float &x : in)
        x = bench_random(bench) * 8;
    bench_memory from(in.size() * sizeof(float), in.data()), to(elements * sizeof(float));
    cudaStream_t stream = bench->context->stream;
    const std::function<void(int)> bodies[] = {
        [&](int i) {
            const float *x = from.as<float>() + (size_t)(i % n_copies) * elements;
            kernel_softmax_naive<<<ceil_div(n_rows, NAIVE_THREADS), NAIVE_THREADS, 0, stream>>>(
                to.as<float>(), x, n_rows, width);
        },
        [&](int i) {
            const float *x = from.as<float>() + (size_t)(i % n_copies) * elements;
            kernel_softmax_tiled<<<n_rows, TILED_THREADS, 0, stream>>>(to.as<float>(), x, width);
        },
        [&](int i) {
            const float *x = from.as<float>() + (size_t)(i % n_copies) * elements;
            kernel_softmax_online<VECTORS>
                <<<ceil_div(n_rows, ONLINE_WARPS), ONLINE_WARPS * WARP_LANES, 0, stream>>>(to.as<float>(), x,
                                                                                           n_rows);
        },
    };
    const char *names[] = {"naive", "tiled", "online"};
    for (int variant = 0; variant < 3; variant++) {
        bench_row row = {};
        row.us = bench_time(bench, bodies[variant]);
        bench_must(cudaMemsetAsync(to.data, 0xFF, elements * sizeof(float), stream), "poison");
        bodies[variant](0);
        bench_must(cudaGetLastError(), names[variant]);
        bench_must(
            cudaMemcpyAsync(out.data(), to.data, elements * sizeof(float), cudaMemcpyDeviceToHost, stream),
            "copy");
        bench_must(cudaStreamSynchronize(stream), names[variant]);
        double largest = 0, difference = 0;
        for (int r = 0; r < CHECKED_ROWS; r++) {
            size_t at = (size_t)r * (n_rows - 1) / (CHECKED_ROWS - 1) * width;
            double top = *std::max_element(in.begin() + at, in.begin() + at + width), sum = 0;
            for (int i = 0; i < width; i++)
                sum += std::exp((double)in[at + i] - top);
            for (int i = 0; i < width; i++) {
                double expected = std::exp((double)in[at + i] - top) / sum,
                       delta = std::fabs(expected - out[at + i]);
                largest = std::max(largest, expected);
                difference = delta <= difference ? difference : delta; /* NaN stays */
            }
        }
        row.operation = "softmax";
        row.variant = names[variant];
        row.shape = std::to_string(n_rows) + "x" + std::to_string(width);
        row.bytes = 2.0 * (double)elements * sizeof(float);
        row.baseline_us = row.bytes / bench->copy_bytes_per_us;
        row.baseline = "copy";
        row.error = difference / largest;
        row.tolerance = 1e-5; /* two roundings of exp and a sum of up to 2048 float32 */
        bench_report(bench, row);
    }
}

} // namespace

void bench_softmax(struct bench *bench) {
    bench_width<1>(bench, 16384);
    bench_width<2>(bench, 16384);
    bench_width<8>(bench, 16384);
    bench_width<16>(bench, 16384);
}
