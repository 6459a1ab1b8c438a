/* weights: matrices from host memory, in the layout that the kernels read (weight_layout.h for bfloat16, rows
 * of whole 16-byte vectors for float32).
 *
 * A large matrix is cut into slices of whole rows. Threads take slices in turn: each copies its slice into a
 * pinned slot of its own, queues the copy to the device and the kernel that puts the rows in their places.
 * One thread alone copies at the rate of one core; the link to the device takes several. */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <sched.h>
#include <thread>
#include <vector>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/weight_layout.h"

enum {
    MAX_UPLOAD_THREADS = 8,
    SLICE_BYTES = 8 << 20,
    SMALL_BYTES = 1 << 20, /* not worth threads */
    PLACE_THREADS = 256
};

/* One slot per thread: pinned memory on the host, and the same on the device. */
struct weight_staging {
    int n_slots;
    size_t slot_bytes;
    unsigned char *host;
    unsigned char *device;
    cudaEvent_t done[MAX_UPLOAD_THREADS]; /* the slot's last rows are in their places */
};

namespace {

enum placement { PLACE_ALONE, PLACE_FIRST_OF_PAIR, PLACE_SECOND_OF_PAIR };

struct place_params {
    const void *rows; /* [n_rows, n_in] dense */
    void *weight;
    int64_t first_row;
    int64_t n_rows;
    int64_t n_in;
    int64_t stride; /* float32: elements of a row; bfloat16: blocks in a row of blocks */
    enum placement placement;
};

__device__ __forceinline__ float *chunk_of(float *weight, int64_t row, int64_t chunk, int64_t stride) {
    return weight + row * stride + chunk * TILE_CHUNK_ELEMENTS;
}

__device__ __forceinline__ bfloat16 *chunk_of(bfloat16 *weight, int64_t row, int64_t chunk,
                                              int64_t k_blocks) {
    return reinterpret_cast<bfloat16 *>(reinterpret_cast<unsigned char *>(weight) +
                                        weight_offset(row, chunk, k_blocks));
}

/* One thread per eight columns of a row. Padding was zeroed with the tensor. */
template <typename T> __global__ void __launch_bounds__(PLACE_THREADS) kernel_weight_place(place_params p) {
    int64_t chunks = (p.n_in + TILE_CHUNK_ELEMENTS - 1) / TILE_CHUNK_ELEMENTS;
    int64_t index = (int64_t)blockIdx.x * PLACE_THREADS + threadIdx.x;
    if (index >= p.n_rows * chunks)
        return;
    int64_t row = index / chunks, chunk = index % chunks, column = chunk * TILE_CHUNK_ELEMENTS;
    const T *from = static_cast<const T *>(p.rows) + row * p.n_in + column;
    int64_t to_row = p.first_row + row;
    if (p.placement != PLACE_ALONE)
        to_row = weight_pair_row(to_row, p.placement == PLACE_SECOND_OF_PAIR);
    T *to = chunk_of(static_cast<T *>(p.weight), to_row, chunk, p.stride);
    for (int i = 0; i < TILE_CHUNK_ELEMENTS && column + i < p.n_in; i++)
        to[i] = from[i];
}

/* The processors that this process may use, within what helps. */
int upload_threads() {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return std::clamp(n, 1, (int)MAX_UPLOAD_THREADS);
}

/* Slots of slot_bytes each, on the host, on the device, and their events. */
enum status staging_allocate(struct weight_staging *staging) {
    size_t total = staging->slot_bytes * (size_t)staging->n_slots;
    void *host = nullptr, *device = nullptr;
    cudaError_t error = cudaHostAlloc(&host, total, cudaHostAllocDefault);
    staging->host = static_cast<unsigned char *>(host);
    if (error == cudaSuccess)
        error = cudaMalloc(&device, total);
    staging->device = static_cast<unsigned char *>(device);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not sticky: forget it */
        return status_fail(
            STATUS_NO_FIT,
            "loading weights needs %zu bytes of pinned memory and of device memory beside them; "
            "free some, or load on fewer processors",
            total);
    }
    TRY_CUDA(error, "weight_new (staging)");
    for (int i = 0; i < staging->n_slots; i++)
        TRY_CUDA(cudaEventCreateWithFlags(&staging->done[i], cudaEventDisableTiming), "weight_new");
    return STATUS_OK;
}

/* Staging with slots of at least `bytes`; none is left when it fails. */
enum status staging_get(struct backend_context *context, size_t bytes) {
    if (context->staging && context->staging->slot_bytes >= bytes)
        return STATUS_OK;
    cuda_weights_done(context);
    struct weight_staging *staging = static_cast<struct weight_staging *>(calloc(1, sizeof *staging));
    RETURN_IF(!staging, STATUS_INTERNAL, "weight_new: out of host memory");
    context->staging = staging;
    staging->n_slots = bytes <= SMALL_BYTES ? 1 : upload_threads();
    staging->slot_bytes = bytes <= SMALL_BYTES ? (size_t)SMALL_BYTES : std::max(bytes, (size_t)SLICE_BYTES);
    enum status status = staging_allocate(staging);
    if (status != STATUS_OK)
        cuda_weights_done(context);
    return status;
}

/* Copies rows [first, first + n) through a slot. `queue` serialises use of the stream. */
cudaError_t slice_upload(struct backend_context *context, int slot, place_params p, enum dtype dtype,
                         const void *host, std::mutex *queue) {
    struct weight_staging *staging = context->staging;
    cudaError_t error = cudaEventSynchronize(staging->done[slot]);
    if (error != cudaSuccess)
        return error;
    size_t bytes = (size_t)(p.n_rows * p.n_in) * dtype_bytes(dtype);
    unsigned char *pinned = staging->host + (size_t)slot * staging->slot_bytes;
    unsigned char *device = staging->device + (size_t)slot * staging->slot_bytes;
    memcpy(pinned, host, bytes);
    std::lock_guard<std::mutex> lock(*queue);
    error = cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, context->stream);
    if (error != cudaSuccess)
        return error;
    p.rows = device;
    int64_t chunks = (p.n_in + TILE_CHUNK_ELEMENTS - 1) / TILE_CHUNK_ELEMENTS * p.n_rows;
    unsigned blocks = (unsigned)((chunks + PLACE_THREADS - 1) / PLACE_THREADS);
    if (dtype == DTYPE_FLOAT32)
        kernel_weight_place<float><<<blocks, PLACE_THREADS, 0, context->stream>>>(p);
    else
        kernel_weight_place<bfloat16><<<blocks, PLACE_THREADS, 0, context->stream>>>(p);
    error = cudaGetLastError();
    return error != cudaSuccess ? error : cudaEventRecord(staging->done[slot], context->stream);
}

/* Puts a matrix [n_rows, n_in] from the host into a weight, and waits. */
enum status matrix_upload(struct backend_context *context, struct tensor *weight, enum placement placement,
                          int64_t n_rows, const void *host) {
    size_t row_bytes = (size_t)weight->cols * dtype_bytes(weight->dtype);
    if (n_rows == 0)
        return STATUS_OK;
    bool small = row_bytes * (size_t)n_rows <= SMALL_BYTES;
    TRY(staging_get(context, small ? row_bytes * (size_t)n_rows : std::max(row_bytes, (size_t)SLICE_BYTES)));
    struct weight_staging *staging = context->staging;
    int64_t slice_rows = std::max((int64_t)1, (int64_t)(staging->slot_bytes / row_bytes));
    int64_t n_slices = (n_rows + slice_rows - 1) / slice_rows;
    int n_threads = (int)std::min((int64_t)staging->n_slots, n_slices);
    cudaError_t errors[MAX_UPLOAD_THREADS] = {};
    std::mutex queue;
    auto work = [&](int slot) {
        errors[slot] = cudaSetDevice(context->device);
        for (int64_t slice = slot; slice < n_slices && errors[slot] == cudaSuccess; slice += n_threads) {
            place_params p = {};
            p.weight = weight->data;
            p.first_row = slice * slice_rows;
            p.n_rows = std::min(slice_rows, n_rows - p.first_row);
            p.n_in = weight->cols;
            p.stride = weight->dtype == DTYPE_FLOAT32 ? tensor_stride(weight) : weight_k_blocks(weight->cols);
            p.placement = placement;
            errors[slot] = slice_upload(
                context, slot, p, weight->dtype,
                static_cast<const unsigned char *>(host) + (size_t)p.first_row * row_bytes, &queue);
        }
    };
    std::vector<std::thread> threads;
    int started = 1;
    try {
        for (; started < n_threads; started++)
            threads.emplace_back(work, started);
    } catch (const std::exception &) {
        /* The slices of a thread that did not start are taken below. */
    }
    work(0);
    for (std::thread &thread : threads)
        thread.join();
    for (int slot = started; slot < n_threads; slot++)
        work(slot);
    for (int slot = 0; slot < n_threads; slot++)
        TRY_CUDA(errors[slot], "weight_new");
    return cuda_check(cudaStreamSynchronize(context->stream), "weight_new");
}

/* A zeroed weight of n_rows rows in the layout of its dtype. */
enum status weight_allocate(struct backend_context *context, enum dtype dtype, int64_t n_rows, int64_t n_in,
                            struct tensor **out) {
    *out = nullptr;
    RETURN_IF(n_rows < 0 || n_in <= 0 || n_rows > INT32_MAX - 64 || n_in > INT32_MAX - 128, STATUS_DATA,
              "weight [%lld, %lld]: expected up to 2^31 - 128 of each", (long long)n_rows, (long long)n_in);
    size_t bytes;
    bool fits;
    if (dtype == DTYPE_FLOAT32)
        fits = !__builtin_mul_overflow((size_t)n_rows, (size_t)((n_in + 3) / 4 * 4 * 4), &bytes);
    else
        fits = !__builtin_mul_overflow((size_t)weight_row_blocks(n_rows),
                                       (size_t)weight_k_blocks(n_in) * WEIGHT_BLOCK_BYTES, &bytes);
    RETURN_IF(!fits, STATUS_DATA, "weight [%lld, %lld]: its size overflows", (long long)n_rows,
              (long long)n_in);
    return cuda_tensor_allocate(context, TENSOR_WEIGHT, dtype, n_rows, n_in, bytes, out);
}

/* Frees the weight when its upload failed. */
enum status weight_finish(struct backend_context *context, enum status status, struct tensor **weight) {
    if (status != STATUS_OK) {
        cuda_tensor_free(context, *weight);
        *weight = nullptr;
    }
    return status;
}

} // namespace

void cuda_weights_done(struct backend_context *context) {
    struct weight_staging *staging = context->staging;
    if (!staging)
        return;
    for (int i = 0; i < staging->n_slots; i++)
        if (staging->done[i])
            cudaEventDestroy(staging->done[i]);
    cudaFree(staging->device);
    if (staging->host)
        cudaFreeHost(staging->host);
    free(staging);
    context->staging = nullptr;
}

enum status cuda_weight_new(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                            const void *host, struct tensor **out) {
    TRY(weight_allocate(context, dtype, n_out, n_in, out));
    return weight_finish(context, matrix_upload(context, *out, PLACE_ALONE, n_out, host), out);
}

enum status cuda_weight_pair_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                 int64_t n_in, const void *gate, const void *up, struct tensor **out) {
    *out = nullptr;
    RETURN_IF(n_out <= 0 || n_out > INT32_MAX / 4, STATUS_DATA, "weight pair [%lld, %lld]: %s",
              (long long)n_out, (long long)n_in, "expected 1 to 2^29 rows");
    TRY(weight_allocate(context, dtype, weight_pair_row(n_out - 1, true) + 1, n_in, out));
    (*out)->pair_rows = n_out;
    enum status status = matrix_upload(context, *out, PLACE_FIRST_OF_PAIR, n_out, gate);
    if (status == STATUS_OK)
        status = matrix_upload(context, *out, PLACE_SECOND_OF_PAIR, n_out, up);
    return weight_finish(context, status, out);
}
