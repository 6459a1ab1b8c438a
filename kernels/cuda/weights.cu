/* weights: matrices from their sources, in the layout that the kernels read (weight_layout.h for bfloat16,
 * rows of whole 16-byte vectors for float32).
 *
 *     source --read--> pinned half --copy engine--> device half --kernel--> weight
 *
 * Slices of whole rows go through lanes, one for each thread of an upload queue. A lane has two halves: while
 * one travels, the thread has the next rows written to the other; an event tells when a half is free again.
 * One thread alone reads and converts at the rate of one core; the link to the device takes several. All
 * copies and kernels are queued on the context's stream, behind the zeroing of the weight and before the
 * steps that use it. */
#include <algorithm>
#include <mutex>
#include <new>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/weight_layout.h"
#include "kernels/host_info.h"
#include "kernels/upload_queue.h"

enum {
    MAX_LANES = 12, /* more than fill the link; the fingerprint and the tokenizer want processors, too */
    LANE_HALVES = 2,
    HALF_BYTES = 1 << 20,  /* a slice: small beside a matrix, large beside what queueing it costs */
    SMALL_BYTES = 1 << 20, /* a matrix that is not worth threads */
    PLACE_THREADS = 256
};

/* Belongs to one thread of the queue, which pins its memory with its first slice: so the first rows travel
 * while other lanes are still being pinned. */
struct upload_lane {
    unsigned char *host;           /* [LANE_HALVES][half_bytes] pinned; NULL before the first slice */
    cudaEvent_t done[LANE_HALVES]; /* the half's rows are in their places */
    int next;                      /* half */
};

struct weight_staging {
    int n_lanes;
    size_t half_bytes;
    unsigned char *device; /* [n_lanes][LANE_HALVES][half_bytes] */
    struct upload_queue *queue;
    std::mutex stream; /* what belongs to a slice is queued together */
    struct upload_lane lanes[MAX_LANES];
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
    if (p.n_in % TILE_CHUNK_ELEMENTS == 0) { /* rows begin at 16 bytes, on both sides */
        for (int i = 0; i < (int)(TILE_CHUNK_ELEMENTS * sizeof(T) / sizeof(uint4)); i++)
            reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(from)[i];
        return;
    }
    for (int i = 0; i < TILE_CHUNK_ELEMENTS && column + i < p.n_in; i++)
        to[i] = from[i];
}

/* The processors that this process may use, within what helps. */
int upload_threads() {
    return std::clamp(host_processors(), 1, (int)MAX_LANES);
}

void lane_close(struct upload_lane *lane) {
    for (cudaEvent_t done : lane->done)
        if (done)
            cudaEventDestroy(done);
    if (lane->host)
        cudaFreeHost(lane->host);
    *lane = {};
}

enum status no_staging(size_t bytes, const char *memory) {
    cudaGetLastError(); /* not sticky: forget it */
    return status_fail(
        STATUS_NO_FIT,
        "loading weights needs %zu bytes of %s memory beside them; free some, or load on fewer "
        "processors",
        bytes, memory);
}

enum status lane_open(struct backend_context *context, struct upload_lane *lane, size_t half_bytes) {
    TRY_CUDA(cudaSetDevice(context->device), "weight_new"); /* the thread's first call */
    void *host = nullptr;
    cudaError_t error = cudaHostAlloc(&host, LANE_HALVES * half_bytes, cudaHostAllocDefault);
    if (error == cudaErrorMemoryAllocation)
        return no_staging(LANE_HALVES * half_bytes, "pinned host");
    lane->host = static_cast<unsigned char *>(host);
    for (int i = 0; i < LANE_HALVES && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&lane->done[i], cudaEventDisableTiming);
    if (error != cudaSuccess)
        lane_close(lane);
    return cuda_check(error, "weight_new (pinned memory)");
}

/* Where rows lie on their way: in the half's pinned memory, then in its device memory. */
unsigned char *half_host(const struct weight_staging *staging, int lane, int half) {
    return staging->lanes[lane].host + (size_t)half * staging->half_bytes;
}

unsigned char *half_device(const struct weight_staging *staging, int lane, int half) {
    return staging->device + (size_t)(lane * LANE_HALVES + half) * staging->half_bytes;
}

/* Queues the way of a half's rows to their places. */
cudaError_t half_queue(struct backend_context *context, int lane, int half, size_t bytes, place_params p,
                       enum dtype dtype) {
    struct weight_staging *staging = context->staging;
    unsigned char *device = half_device(staging, lane, half);
    const unsigned char *pinned = half_host(staging, lane, half);
    std::lock_guard<std::mutex> lock(staging->stream);
    cudaError_t error = cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, context->stream);
    if (error != cudaSuccess)
        return error;
    p.rows = device;
    int64_t chunks = (p.n_in + TILE_CHUNK_ELEMENTS - 1) / TILE_CHUNK_ELEMENTS * p.n_rows;
    unsigned blocks = (unsigned)((chunks + PLACE_THREADS - 1) / PLACE_THREADS);
    auto kernel = dtype == DTYPE_FLOAT32 ? kernel_weight_place<float> : kernel_weight_place<bfloat16>;
    error = cuda_start(context, kernel, blocks, PLACE_THREADS, p);
    return error != cudaSuccess ? error : cudaEventRecord(staging->lanes[lane].done[half], context->stream);
}

/* The queue's carrier: rows [first, first + n) of an upload by way of a lane. */
enum status slice_carry(void *argument, int thread, const struct upload *upload, int64_t first, int64_t n) {
    struct backend_context *context = static_cast<struct backend_context *>(argument);
    struct weight_staging *staging = context->staging;
    struct upload_lane *lane = &staging->lanes[thread];
    const struct tensor *weight = upload->weight;
    if (!lane->host)
        TRY(lane_open(context, lane, staging->half_bytes));
    int half = lane->next;
    lane->next = (half + 1) % LANE_HALVES;
    TRY_CUDA(cudaEventSynchronize(lane->done[half]), "weight_new"); /* at once for one that never travelled */
    upload->rows.read(upload->rows.argument, first, n, half_host(staging, thread, half));
    place_params p = {};
    p.weight = weight->data;
    p.first_row = first;
    p.n_rows = n;
    p.n_in = weight->cols;
    p.stride = weight->dtype == DTYPE_FLOAT32 ? tensor_stride(weight) : weight_k_blocks(weight->cols);
    p.placement = static_cast<enum placement>(upload->placement);
    size_t bytes = (size_t)(n * weight->cols) * dtype_bytes(weight->dtype);
    return cuda_check(half_queue(context, thread, half, bytes, p, weight->dtype), "weight_new");
}

/* Staging for a matrix of `bytes` with rows of row_bytes. */
enum status staging_get(struct backend_context *context, size_t bytes, size_t row_bytes) {
    int n_lanes = bytes <= SMALL_BYTES ? 1 : upload_threads();
    struct weight_staging *staging = context->staging;
    if (staging && staging->half_bytes >= row_bytes && staging->n_lanes >= n_lanes)
        return STATUS_OK;
    if (staging)
        TRY(upload_queue_wait(staging->queue)); /* nothing is under way for what is replaced */
    cuda_weights_done(context);
    staging = new (std::nothrow) weight_staging();
    RETURN_IF(!staging, STATUS_INTERNAL, "weight_new: out of host memory");
    staging->n_lanes = n_lanes;
    staging->half_bytes = std::max((row_bytes + 255) / 256 * 256, (size_t)HALF_BYTES);
    context->staging = staging;
    size_t device_bytes = (size_t)n_lanes * LANE_HALVES * staging->half_bytes;
    void *device = nullptr;
    cudaError_t error = cudaMalloc(&device, device_bytes);
    staging->device = static_cast<unsigned char *>(device);
    enum status status = error == cudaErrorMemoryAllocation ? no_staging(device_bytes, "device")
                                                            : cuda_check(error, "weight_new (staging)");
    if (status == STATUS_OK)
        status = upload_queue_open(n_lanes, slice_carry, context, &staging->queue);
    if (status != STATUS_OK)
        cuda_weights_done(context);
    return status;
}

/* Queues a matrix [n_rows, n_in] for a weight. */
enum status matrix_queue(struct backend_context *context, struct tensor *weight, enum placement placement,
                         int64_t n_rows, struct row_source rows) {
    size_t row_bytes = (size_t)weight->cols * dtype_bytes(weight->dtype);
    TRY(staging_get(context, row_bytes * (size_t)n_rows, row_bytes));
    struct upload upload = {};
    upload.rows = rows;
    upload.n_rows = n_rows;
    upload.slice_rows = (int64_t)(context->staging->half_bytes / row_bytes);
    upload.weight = weight;
    upload.placement = placement;
    context->weights_pending = true;
    return upload_queue_add(context->staging->queue, &upload);
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

/* Frees the weight when it was not queued whole; rows of it may be under way. */
enum status weight_finish(struct backend_context *context, enum status status, struct tensor **weight) {
    if (status == STATUS_OK)
        return STATUS_OK;
    if (context->staging) {
        upload_queue_wait(context->staging->queue);
        cudaStreamSynchronize(context->stream);
    }
    cuda_tensor_free(context, *weight);
    *weight = nullptr;
    return status;
}

} // namespace

enum status cuda_weights_wait(struct backend_context *context) {
    context->weights_pending = false;
    if (!context->staging)
        return STATUS_OK;
    TRY(upload_queue_wait(context->staging->queue));
    return cuda_check(cudaStreamSynchronize(context->stream), "weights_wait");
}

void cuda_weights_done(struct backend_context *context) {
    struct weight_staging *staging = context->staging;
    if (!staging)
        return;
    upload_queue_close(staging->queue);
    cudaStreamSynchronize(context->stream); /* it may still read the lanes; failures show in the next call */
    for (struct upload_lane &lane : staging->lanes)
        lane_close(&lane);
    cudaFree(staging->device);
    delete staging;
    context->staging = nullptr;
}

enum status cuda_weight_new(struct backend_context *context, enum dtype dtype, int64_t n_out, int64_t n_in,
                            struct row_source rows, struct tensor **out) {
    TRY(weight_allocate(context, dtype, n_out, n_in, out));
    return weight_finish(context, matrix_queue(context, *out, PLACE_ALONE, n_out, rows), out);
}

enum status cuda_weight_pair_new(struct backend_context *context, enum dtype dtype, int64_t n_out,
                                 int64_t n_in, struct row_source gate, struct row_source up,
                                 struct tensor **out) {
    *out = nullptr;
    RETURN_IF(n_out <= 0 || n_out > INT32_MAX / 4, STATUS_DATA, "weight pair [%lld, %lld]: %s",
              (long long)n_out, (long long)n_in, "expected 1 to 2^29 rows");
    TRY(weight_allocate(context, dtype, weight_pair_row(n_out - 1, true) + 1, n_in, out));
    (*out)->pair_rows = n_out;
    enum status status = matrix_queue(context, *out, PLACE_FIRST_OF_PAIR, n_out, gate);
    if (status == STATUS_OK)
        status = matrix_queue(context, *out, PLACE_SECOND_OF_PAIR, n_out, up);
    return weight_finish(context, status, out);
}
