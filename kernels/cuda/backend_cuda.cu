/* backend_cuda: the CUDA backend's door: device, memory, state. Operations are in the files of their names,
 * steps in step.cu, slots in slots.cu. */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/network.cuh"
#include "kernels/state_layout.h"

namespace {

enum { MIN_COMPUTE_MAJOR = 8, STAGING_BYTES = 256 * 1024, PINNED_ALIGNMENT = 256 };

/* Never launched: its attributes tell which of the program's device codes this GPU runs. */
__global__ void kernel_probe() {}

/* Allocates zeroed device memory; STATUS_NO_FIT names what was wanted and what is free. */
enum status device_allocate(struct backend_context *context, size_t bytes, const char *what, void **out) {
    cudaError_t error = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not sticky: forget it */
        size_t free_bytes = 0, total_bytes = 0;
        cudaMemGetInfo(&free_bytes, &total_bytes);
        *out = nullptr;
        return status_fail(STATUS_NO_FIT,
                           "%s does not fit: %zu bytes wanted, %zu of %zu free on cuda:%d; lower "
                           "max_num_seqs, max_model_len or gpu_memory_utilization",
                           what, bytes, free_bytes, total_bytes, context->device);
    }
    TRY_CUDA(error, what);
    context->chained = false;
    error = cudaMemsetAsync(*out, 0, bytes, context->stream);
    if (error != cudaSuccess) {
        cudaFree(*out);
        *out = nullptr;
    }
    TRY_CUDA(error, what);
    return STATUS_OK;
}

/* Copies the first rows between host (dense) and device (padded rows), and waits. */
enum status tensor_copy(struct backend_context *context, const struct tensor *tensor, int64_t rows,
                        void *host, bool to_device, const char *operation) {
    RETURN_IF(rows < 0 || rows > tensor->rows, STATUS_INTERNAL, "%s: %lld rows of a tensor that has %lld",
              operation, (long long)rows, (long long)tensor->rows);
    RETURN_IF(context->mode == STEP_RECORD, STATUS_INTERNAL, "%s: called while a step is recorded",
              operation);
    if (rows == 0)
        return STATUS_OK;
    TRY_CUDA(cudaSetDevice(context->device), operation);
    TRY(network_plan_flush(context)); /* the tensor may be of a step's operations that were taken in */
    context->chained = false;
    size_t width = (size_t)tensor->cols * dtype_bytes(tensor->dtype);
    size_t pitch = (size_t)tensor_stride(tensor) * dtype_bytes(tensor->dtype);
    void *to = to_device ? tensor->data : host;
    const void *from = to_device ? host : tensor->data;
    enum cudaMemcpyKind kind = to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
    cudaError_t error;
    if (width == pitch)
        error = cudaMemcpyAsync(to, from, width * (size_t)rows, kind, context->stream);
    else
        error = cudaMemcpy2DAsync(to, to_device ? pitch : width, from, to_device ? width : pitch, width,
                                  (size_t)rows, kind, context->stream);
    TRY_CUDA(error, operation);
    TRY_CUDA(cudaStreamSynchronize(context->stream), operation);
    return STATUS_OK;
}

/* A zeroed tensor of whole 16-byte rows. */
enum status tensor_allocate(struct backend_context *context, enum tensor_kind kind, enum dtype dtype,
                            int64_t rows, int64_t cols, struct tensor **out) {
    *out = nullptr;
    RETURN_IF(rows < 0 || cols <= 0 || cols > INT32_MAX - 8 || rows > INT32_MAX, STATUS_DATA,
              "tensor [%lld, %lld]: expected up to 2^31 - 9 of each", (long long)rows, (long long)cols);
    struct tensor shape = {};
    shape.dtype = dtype;
    shape.cols = cols;
    size_t bytes;
    RETURN_IF(
        __builtin_mul_overflow((size_t)rows, (size_t)tensor_stride(&shape) * dtype_bytes(dtype), &bytes),
        STATUS_DATA, "tensor [%lld, %lld]: its size overflows", (long long)rows, (long long)cols);
    return cuda_tensor_allocate(context, kind, dtype, rows, cols, bytes, out);
}

enum status tensor_new(struct backend_context *context, enum dtype dtype, int64_t rows, int64_t cols,
                       struct tensor **out) {
    return tensor_allocate(context, TENSOR_ROWS, dtype, rows, cols, out);
}

enum status tensor_write(struct backend_context *context, struct tensor *tensor, int64_t rows,
                         const void *host) {
    return tensor_copy(context, tensor, rows, const_cast<void *>(host), true, "tensor_write");
}

enum status tensor_read(struct backend_context *context, const struct tensor *tensor, int64_t rows,
                        void *host) {
    return tensor_copy(context, tensor, rows, host, false, "tensor_read");
}

/* Waits, if not for long: cudaMemcpyAsync may leave memory that is not pinned to be read later (CUDA Runtime
 * API, "API synchronization behavior": "might be synchronous"), and the host memory is the caller's again. */
enum status vector_new(struct backend_context *context, int64_t n, const float *host, struct tensor **out) {
    TRY(tensor_allocate(context, TENSOR_VECTOR, DTYPE_FLOAT32, 1, n, out));
    enum status status = tensor_copy(context, *out, 1, const_cast<float *>(host), true, "vector_new");
    if (status != STATUS_OK) {
        cuda_tensor_free(context, *out);
        *out = nullptr;
    }
    return status;
}

enum status memory_info(struct backend_context *context, size_t *free_bytes, size_t *total_bytes) {
    TRY_CUDA(cudaSetDevice(context->device), "memory_info");
    TRY_CUDA(cudaMemGetInfo(free_bytes, total_bytes), "memory_info");
    return STATUS_OK;
}

/* Cuts the next `bytes` from the pinned allocation. */
size_t pinned_cut(size_t *used, size_t bytes) {
    size_t offset = *used;
    *used += (bytes + PINNED_ALIGNMENT - 1) / PINNED_ALIGNMENT * PINNED_ALIGNMENT;
    return offset;
}

enum status pinned_init(struct backend_context *context, const struct state_limits *limits) {
    /* One entry holds at least the longest start: its parameters, pages and prompt. */
    size_t longest = 256 + (size_t)limits->max_pages_per_slot * (1 + PAGE_TOKENS) * sizeof(int32_t);
    size_t samples = (size_t)limits->max_samples, used = 0;
    context->staging_bytes = longest > STAGING_BYTES ? longest : (size_t)STAGING_BYTES;
    context->staging_bytes =
        (context->staging_bytes + PINNED_ALIGNMENT - 1) / PINNED_ALIGNMENT * PINNED_ALIGNMENT;
    size_t step = pinned_cut(&used, RING_ENTRIES * context->step_bytes);
    size_t staging = pinned_cut(&used, RING_ENTRIES * context->staging_bytes);
    size_t results = pinned_cut(&used, RING_ENTRIES * samples * sizeof(struct sample_result));
    size_t top = pinned_cut(&used, RING_ENTRIES * samples * sizeof(struct sample_top));
    void *host = nullptr, *device = nullptr;
    cudaError_t error = cudaHostAlloc(&host, used, cudaHostAllocMapped);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* not sticky: forget it */
        return status_fail(
            STATUS_NO_FIT,
            "steps need %zu bytes of pinned host memory, which are not to be had; lower max_num_seqs "
            "or max_num_batched_tokens",
            used);
    }
    TRY_CUDA(error, "state_init (pinned memory)");
    context->pinned = static_cast<unsigned char *>(host);
    TRY_CUDA(cudaHostGetDevicePointer(&device, host, 0), "state_init (pinned memory)");
    memset(host, 0, used);
    unsigned char *mapped = static_cast<unsigned char *>(device);
    context->pinned_step = context->pinned + step;
    context->step_device = mapped + step;
    context->pinned_staging = context->pinned + staging;
    context->results = reinterpret_cast<struct sample_result *>(context->pinned + results);
    context->top = reinterpret_cast<struct sample_top *>(context->pinned + top);
    context->results_device = reinterpret_cast<struct sample_result *>(mapped + results);
    context->top_device = reinterpret_cast<struct sample_top *>(mapped + top);
    return STATUS_OK;
}

enum status state_init(struct backend_context *context, const struct state_limits *limits) {
    RETURN_IF(context->arena, STATUS_INTERNAL, "state_init: called twice");
    RETURN_IF(context->weights_pending, STATUS_INTERNAL, "state_init: weights_wait was not called");
    TRY(cuda_attention_supports(context, limits));
    struct state_layout layout;
    RETURN_IF(limits->n_slots < 1 || limits->n_pages < 1 || limits->max_pages_per_slot < 1 ||
                  limits->max_rows < 1 || limits->max_samples < 1 || limits->n_layers < 1 ||
                  limits->n_vocab < 1 || limits->max_segments < 0 || !state_layout_init(&layout, limits),
              STATUS_INTERNAL, "state_init: limits are not positive or their products overflow");
    TRY_CUDA(cudaSetDevice(context->device), "state_init");
    cuda_weights_done(context); /* the state may need the memory */
    context->limits = *limits;
    context->layout = {limits->n_pages, limits->n_kv_heads, limits->head_dim};
    context->max_chunks = layout.max_chunks;
    context->max_decode_rows = layout.max_decode_rows;
    TRY(device_allocate(context, layout.total, "the KV cache and the state", &context->arena));
    const size_t n_arrivals = (size_t)context->max_decode_rows * (size_t)limits->n_heads;
    const size_t n_handed = (size_t)context->n_multiprocessors * PREFILL_MAX_CONSUMERS;
    void *arrivals = nullptr;
    TRY(device_allocate(context, (n_arrivals + 1 + n_handed) * sizeof(uint32_t), "the counters of attention",
                        &arrivals));
    context->state.arrivals = static_cast<uint32_t *>(arrivals);
    context->state.prefill_next = context->state.arrivals + n_arrivals;
    context->state.prefill_handed = reinterpret_cast<int32_t *>(context->state.prefill_next + 1);
    context->prefill_tile_rows = attention_prefill_tile_rows(context);

    size_t max_tiles = (size_t)limits->max_rows / PREFILL_STRIP_ROWS + (size_t)limits->max_segments;
    context->step_bytes =
        (4 + 3 * (size_t)limits->max_rows + 3 * (size_t)limits->max_samples) * sizeof(int32_t) +
        max_tiles * sizeof(struct segment);
    if (context->has_wgmma && limits->n_vocab >= HEAD_LEAST_VOCABULARY) {
        context->step_bytes += 12 + (size_t)limits->max_samples * sizeof(struct head_entry);
        const size_t n_entries = (size_t)limits->n_slots + 1;
        context->slot_head = static_cast<struct head_entry *>(calloc(n_entries, sizeof *context->slot_head));
        RETURN_IF(!context->slot_head, STATUS_INTERNAL, "state_init: out of host memory");
        context->slot_head[limits->n_slots].end = HEAD_SKIPS;
    }
    context->step_bytes = (context->step_bytes + 15) / 16 * 16;
    void *step = nullptr;
    TRY(device_allocate(context, context->step_bytes, "the arrays of a step", &step));
    unsigned char *arena = static_cast<unsigned char *>(context->arena);
    struct state_view *state = &context->state;
    state->step = static_cast<unsigned char *>(step);
    state->k = arena + layout.keys;
    state->v = arena + layout.values;
    state->page_table = reinterpret_cast<int32_t *>(arena + layout.page_table);
    state->counts = reinterpret_cast<uint32_t *>(arena + layout.token_counts);
    state->sampling = reinterpret_cast<struct slot_sampling *>(arena + layout.sampling);
    state->last_token = reinterpret_cast<int32_t *>(arena + layout.last_token);
    state->fault = reinterpret_cast<unsigned long long *>(arena + layout.faults);
    state->partials = reinterpret_cast<float *>(arena + layout.partials);
    state->maxima = reinterpret_cast<float *>(arena + layout.maxima);
    TRY_CUDA(cudaMemsetAsync(state->fault, 0xFF, ((size_t)limits->n_slots + 1) * sizeof *state->fault,
                             context->stream),
             "state_init");
    TRY(pinned_init(context, limits));
    for (int i = 0; i < RING_ENTRIES; i++) {
        TRY_CUDA(cudaEventCreateWithFlags(&context->staging_done[i], cudaEventDisableTiming), "state_init");
        TRY_CUDA(cudaEventCreateWithFlags(&context->step_done[i], cudaEventDisableTiming), "state_init");
    }
    TRY_CUDA(cudaStreamSynchronize(context->stream), "state_init");
    context->has_state = true;
    return STATUS_OK;
}

int64_t launches_per_step(struct backend_context *context) {
    return context->n_launches_last;
}

void context_close(struct backend_context *context) {
    if (!context)
        return;
    cudaSetDevice(context->device);
    if (context->stream) {
        cuda_step_abandon(context);
        cudaStreamSynchronize(context->stream);
    }
    cuda_graphs_drop(context);
    cuda_weights_done(context);
    cuda_profile_close(context);
    cuda_gaps_close(context);
    network_plan_close(context);
    while (context->tensors)
        cuda_tensor_free(context, context->tensors);
    for (int i = 0; i < RING_ENTRIES; i++) {
        if (context->staging_done[i])
            cudaEventDestroy(context->staging_done[i]);
        if (context->step_done[i])
            cudaEventDestroy(context->step_done[i]);
    }
    free(context->slot_head);
    cudaFree(context->state.arrivals);
    cudaFree(context->state.step);
    cudaFree(context->arena);
    if (context->pinned)
        cudaFreeHost(context->pinned);
    if (context->stream)
        cudaStreamDestroy(context->stream);
    free(context);
}

/* The driver's function that describes a tensor to the copy engine; NULL when it has none. */
void *tensor_map_function() {
    void *function = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                         cudaEnableDefault, &result);
#else
    cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result);
#endif
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? function : nullptr;
}

/* Finds the device and makes its context current. */
enum status device_open(struct backend_context *context, char *name, size_t name_bytes) {
    int n_devices = 0;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    RETURN_IF(error == cudaErrorInsufficientDriver, STATUS_NO_DEVICE,
              "no CUDA driver, or one older than this build's CUDA %d.%d; install a newer NVIDIA driver, or "
              "use device: "
              "cpu",
              CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    RETURN_IF(error == cudaErrorNoDevice || (error == cudaSuccess && n_devices == 0), STATUS_NO_DEVICE,
              "no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device: cpu");
    RETURN_IF(error != cudaSuccess, STATUS_NO_DEVICE,
              "CUDA does not start: %s; check nvidia-smi, or use device: cpu", cudaGetErrorString(error));
    RETURN_IF(context->device < 0 || context->device >= n_devices, STATUS_NO_DEVICE,
              "cuda:%d does not exist; %d visible, cuda:0 to cuda:%d", context->device, n_devices,
              n_devices - 1);
    struct cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, context->device);
    RETURN_IF(error != cudaSuccess, STATUS_NO_DEVICE, "cuda:%d cannot be used: %s", context->device,
              cudaGetErrorString(error));
    RETURN_IF(properties.major < MIN_COMPUTE_MAJOR, STATUS_NO_DEVICE,
              "cuda:%d (%s) has compute capability %d.%d; 8.0 or newer is needed, or use device: cpu",
              context->device, properties.name, properties.major, properties.minor);
    error = cudaSetDevice(context->device);
    struct cudaFuncAttributes probe = {};
    if (error == cudaSuccess)
        error = cudaFuncGetAttributes(&probe, reinterpret_cast<const void *>(kernel_probe));
    RETURN_IF(error != cudaSuccess, STATUS_NO_DEVICE,
              "cuda:%d (%s) cannot be used: %s; is it in exclusive use or the driver too old?",
              context->device, properties.name, cudaGetErrorString(error));
    context->n_multiprocessors = properties.multiProcessorCount;
    context->compute_capability = properties.major * 10 + properties.minor;
    context->max_shared_bytes = properties.sharedMemPerBlockOptin;
    /* Only the code built for compute capability 9.0 waits for the previous kernel itself. */
    context->dependent_launch = properties.major == 9 && probe.ptxVersion >= 90 && !context->no_graphs;
    if (context->compute_capability == 90 && probe.ptxVersion >= 90)
        context->tensor_map_encode = tensor_map_function();
    context->has_wgmma = context->tensor_map_encode != nullptr;
    if (!context->no_network)
        TRY(network_plan_open(context));
    snprintf(name, name_bytes, "%s", properties.name);
    TRY_CUDA(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking), "backend_open");
    return STATUS_OK;
}

} // namespace

enum status cuda_tensor_allocate(struct backend_context *context, enum tensor_kind kind, enum dtype dtype,
                                 int64_t rows, int64_t cols, size_t bytes, struct tensor **out) {
    *out = nullptr;
    RETURN_IF(context->mode == STEP_RECORD || context->mode == STEP_REPLAY, STATUS_INTERNAL,
              "tensor_new: called while a step is recorded or replayed; make tensors before step_begin");
    TRY_CUDA(cudaSetDevice(context->device), "tensor_new");
    struct tensor *tensor = static_cast<struct tensor *>(calloc(1, sizeof *tensor));
    RETURN_IF(!tensor, STATUS_INTERNAL, "tensor_new: out of host memory");
    tensor->rows = rows;
    tensor->cols = cols;
    tensor->dtype = dtype;
    tensor->kind = kind;
    tensor->bytes = bytes;
    enum status status = device_allocate(context, tensor->bytes, "tensor", &tensor->data);
    if (status != STATUS_OK) {
        free(tensor);
        return status;
    }
    cuda_graphs_drop(context);
    tensor->next = context->tensors;
    context->tensors = tensor;
    *out = tensor;
    return STATUS_OK;
}

void cuda_tensor_free(struct backend_context *context, struct tensor *tensor) {
    if (!tensor)
        return;
    cudaSetDevice(context->device);
    if (context->mode == STEP_RECORD || context->mode == STEP_REPLAY)
        cuda_step_abandon(context); /* its operations may use this tensor: step_end will refuse */
    if (network_plan_flush(context) != STATUS_OK)
        cuda_step_abandon(context);
    cuda_graphs_drop(context);
    for (struct tensor **link = &context->tensors; *link; link = &(*link)->next)
        if (*link == tensor) {
            *link = tensor->next;
            break;
        }
    cudaFree(tensor->data);
    free(tensor);
}

enum status cuda_check(cudaError_t error, const char *operation) {
    if (error == cudaSuccess)
        return STATUS_OK;
    return status_fail(STATUS_INTERNAL,
                       "CUDA error in %s: %s (%s); a fault of an earlier kernel may show here. Run "
                       "again; if it stays, run under compute-sanitizer and report it",
                       operation, cudaGetErrorString(error), cudaGetErrorName(error));
}

enum status backend_open_cuda(const struct backend_options *options, struct backend *out) {
    static const struct backend_options defaults = {};
    if (!options)
        options = &defaults;
    memset(out, 0, sizeof *out);
    struct backend_context *context = static_cast<struct backend_context *>(calloc(1, sizeof *context));
    RETURN_IF(!context, STATUS_INTERNAL, "backend_open: out of host memory");
    context->device = options->cuda_device;
    context->no_graphs = options->no_graphs;
    context->no_network = options->no_network;
    enum status status = device_open(context, out->device, sizeof out->device);
    if (status != STATUS_OK) {
        network_plan_close(context);
        free(context);
        memset(out, 0, sizeof *out);
        return status;
    }
    out->context = context;
    out->kind = "cuda";
    /* Tensor cores of different generations round their sums differently. */
    snprintf(out->numerics_class, sizeof out->numerics_class, "cuda-mma-3-sm%d", context->compute_capability);
    out->max_steps_in_flight = STEPS_IN_FLIGHT;
    out->close = context_close;
    out->memory_info = memory_info;
    out->tensor_new = tensor_new;
    out->weight_new = cuda_weight_new;
    out->weight_pair_new = cuda_weight_pair_new;
    out->weights_wait = cuda_weights_wait;
    out->vector_new = vector_new;
    out->tensor_free = cuda_tensor_free;
    out->tensor_write = tensor_write;
    out->tensor_read = tensor_read;
    out->state_init = state_init;
    out->decode_rows = cuda_decode_rows;
    out->slots_begin = cuda_slots_begin;
    out->slots_extend = cuda_slots_extend;
    out->pages_copy = cuda_pages_copy;
    out->step_begin = cuda_step_begin;
    cuda_profile_wrap(out);
    out->step_end = cuda_step_end;
    out->step_wait = cuda_step_wait;
    out->measure_limits = cuda_measure_limits;
    out->profile = cuda_profile;
    out->gaps = cuda_gaps;
    out->launches_per_step = launches_per_step;
    return STATUS_OK;
}
