/* limits: what this GPU can do at best, for the floors of benchmarks: 16-byte reads of a gigabyte, and
 * multiply-adds (bfloat16: wgmma from shared memory on Hopper, else mma.sync from registers; float32: FFMA).
 */
#include <algorithm>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/wgmma.cuh"

static constexpr int THREADS = 512;
static constexpr int REPEATS = 16;
static constexpr int LOADS = 8; /* 16-byte loads in flight per thread */

/* data [n] 16-byte words, n a multiple of the words that one round of the grid reads. */
__global__ void __launch_bounds__(THREADS, 1)
    kernel_limits_read(const uint4 *data, int64_t n, uint32_t *out) {
    uint32_t sum = 0;
    int64_t stride = (int64_t)gridDim.x * THREADS;
    for (int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x; at + (LOADS - 1) * stride < n;
         at += LOADS * stride) {
        uint4 word[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++)
            word[i] = __ldcs(data + at + i * stride);
#pragma unroll
        for (int i = 0; i < LOADS; i++)
            sum ^= word[i].x ^ word[i].y ^ word[i].z ^ word[i].w;
    }
    if (sum == 0x12345678u) /* never for the data given; keeps the loads */
        *out = sum;
}

/* 8 independent accumulator tiles a warp, so that the latency of one mma hides behind the others. */
__global__ void __launch_bounds__(THREADS, 1) kernel_limits_mma(int rounds, float *out) {
    float c[8][4] = {};
    uint32_t a[4] = {threadIdx.x * 0x3f813f7fu, threadIdx.x * 0x3f013f05u, 0x3f803f01u, 0x3e803f80u};
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            ptx_mma_bf16(c[i], a, a[0] + i, a[1] + i);
    float sum = 0;
    for (int i = 0; i < 8; i++)
        sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
    if (sum == 1.2345f)
        *out = sum;
}

/* Two warpgroups, each 64 x 128 products over tiles of 64 k that lie in shared memory, of numbers with the
 * spread of real operands: on constant data the chip draws less power and clocks higher. */
enum { WGMMA_THREADS = 256, WGMMA_GROUPS = WGMMA_THREADS / 128, WGMMA_WIDTH = 128, WGMMA_ROW_BYTES = 128 };

__global__ void __launch_bounds__(WGMMA_THREADS, 1) kernel_limits_wgmma(int rounds, float *out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    __shared__ __align__(1024) uint32_t tiles[(WGMMA_GROUPS * 64 + WGMMA_WIDTH) * WGMMA_ROW_BYTES / 4];
    uint32_t random = threadIdx.x * 2654435761u + blockIdx.x;
    for (int i = threadIdx.x; i < (int)(sizeof tiles / 4); i += WGMMA_THREADS) {
        random = random * 1664525u + 1013904223u;
        tiles[i] = (random & 0x807f807fu) | 0x3f003f00u; /* +-0.5 to +-1 */
    }
    ptx_fence_for_copies(); /* the tensor cores read shared memory as the copy engine does */
    __syncthreads();
    uint32_t a = ptx_shared_address(tiles) + threadIdx.x / 128 * 64 * WGMMA_ROW_BYTES;
    uint32_t b = ptx_shared_address(tiles) + WGMMA_GROUPS * 64 * WGMMA_ROW_BYTES;
    float c[WGMMA_WIDTH / 2] = {};
    for (int round = 0; round < rounds; round++) {
        wgmma_begin();
#pragma unroll
        for (int k16 = 0; k16 < 4; k16++)
            wgmma<WGMMA_WIDTH>(c, wgmma_operand(a + k16 * 32), wgmma_operand(b + k16 * 32));
        wgmma_commit();
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    float sum = 0;
    for (int i = 0; i < WGMMA_WIDTH / 2; i++)
        sum += c[i];
    if (sum == 1.2345f)
        *out = sum;
#endif
}

__global__ void __launch_bounds__(THREADS, 1) kernel_limits_fma(int rounds, float factor, float *out) {
    float c[16];
#pragma unroll
    for (int i = 0; i < 16; i++)
        c[i] = (float)(threadIdx.x + i);
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < 16; i++)
            c[i] = fmaf(c[i], factor, factor);
    float sum = 0;
    for (int i = 0; i < 16; i++)
        sum += c[i];
    if (sum == 1.2345f)
        *out = sum;
}

/* Milliseconds of one launch() between two events. */
template <typename Launch>
static enum status launch_ms(struct backend_context *context, Launch launch, const cudaEvent_t (&events)[2],
                             float *ms) {
    TRY_CUDA(cudaEventRecord(events[0], context->stream), "measure_limits");
    TRY_CUDA(launch(), "measure_limits");
    TRY_CUDA(cudaEventRecord(events[1], context->stream), "measure_limits");
    TRY_CUDA(cudaEventSynchronize(events[1]), "measure_limits");
    return cuda_check(cudaEventElapsedTime(ms, events[0], events[1]), "measure_limits");
}

/* Best of the last runs of launch(), in seconds: by then the chip has settled at the clock that its power
 * allows. */
template <typename Launch>
static enum status best_seconds(struct backend_context *context, Launch launch, double *seconds) {
    cudaEvent_t events[2] = {};
    enum status status = STATUS_OK;
    for (cudaEvent_t &event : events)
        if (status == STATUS_OK)
            status = cuda_check(cudaEventCreate(&event), "measure_limits");
    float best = 1e9f, ms = 0;
    for (int repeat = 0; status == STATUS_OK && repeat < REPEATS; repeat++) {
        status = launch_ms(context, launch, events, &ms);
        if (repeat >= REPEATS / 2)
            best = std::min(best, ms);
    }
    for (cudaEvent_t event : events)
        if (event)
            cudaEventDestroy(event);
    *seconds = best * 1e-3;
    return status;
}

enum status cuda_measure_limits(struct backend_context *context, enum dtype dtype,
                                struct device_limits *limits) {
    int blocks = context->n_multiprocessors * 2;
    int64_t round_words = (int64_t)blocks * THREADS * LOADS;
    int64_t words = ((int64_t)1 << 30) / 16 / round_words * round_words;
    uint4 *data;
    cudaError_t error = cudaMalloc(&data, words * 16 + 256);
    if (error != cudaSuccess) {
        cudaGetLastError();
        return status_fail(STATUS_NO_FIT,
                           "measuring the read bandwidth needs 1 GiB of free device memory: %s",
                           cudaGetErrorString(error));
    }
    uint32_t *out = reinterpret_cast<uint32_t *>(data + words);
    enum status status =
        cuda_check(cudaMemsetAsync(data, 0x5a, words * 16 + 256, context->stream), "measure_limits");
    double seconds = 1;
    if (status == STATUS_OK)
        status = best_seconds(
            context,
            [&] { return cuda_start(context, kernel_limits_read, blocks, THREADS, data, words, out); },
            &seconds);
    limits->read_bytes_per_s = (double)words * 16 / seconds;

    const int rounds = 65536; /* some 20 ms */
    double operations;
    float *float_out = reinterpret_cast<float *>(out);
    if (dtype == DTYPE_BFLOAT16 && context->has_wgmma) {
        operations = 2.0 * 64 * WGMMA_WIDTH * 64 * rounds * WGMMA_GROUPS * context->n_multiprocessors;
        if (status == STATUS_OK)
            status = best_seconds(
                context,
                [&] {
                    return cuda_start(context, kernel_limits_wgmma, context->n_multiprocessors, WGMMA_THREADS,
                                      rounds, float_out);
                },
                &seconds);
    } else if (dtype == DTYPE_BFLOAT16) {
        operations = 2.0 * 16 * 8 * 16 * 8 * rounds * (THREADS / 32) * blocks;
        if (status == STATUS_OK)
            status = best_seconds(
                context,
                [&] { return cuda_start(context, kernel_limits_mma, blocks, THREADS, rounds, float_out); },
                &seconds);
    } else {
        operations = 2.0 * 16 * rounds * THREADS * blocks;
        if (status == STATUS_OK)
            status = best_seconds(
                context,
                [&] {
                    return cuda_start(context, kernel_limits_fma, blocks, THREADS, rounds, 0.5f, float_out);
                },
                &seconds);
    }
    limits->flops = operations / seconds;
    cudaFree(data);
    return status;
}
