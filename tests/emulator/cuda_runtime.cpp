/* A device whose memory is the host's and whose streams are done with everything at once. */
#include "cuda_runtime.h"

#include <chrono>
#include <map>

#include "cuda.h"

enum {
    MULTIPROCESSORS = 6,        /* so few that blocks of small matrices take several tiles */
    CLUSTERS = 3,               /* that would run at once: so few that they take several rows each */
    STATIC_SHARED_BYTES = 2048, /* of any kernel, as far as it can know */
    FRESH_BYTE = 0xFF,          /* memory that no one has written is NaN */
    MEMORY_ALIGNMENT = 256
};
static const size_t MEMORY_BYTES = (size_t)1 << 30;

struct emulator_graph {
    std::vector<std::function<void()>> work;
};

struct emulator_stream {
    emulator_graph *capture; /* NULL: not captured */
};

struct emulator_event {
    bool is_timed, is_recorded;
    std::chrono::steady_clock::time_point time;
};

static std::mutex memory_mutex;
static std::map<void *, size_t> allocations;
static size_t allocated_bytes;
static thread_local cudaError_t last_error;

static cudaError_t noted(cudaError_t error) {
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

cudaError_t cudaGetDeviceCount(int *n) {
    *n = 1;
    return cudaSuccess;
}

/* EMULATOR_CAPABILITY: 90 (Hopper), or 80, where kernels for older devices run. */
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    const char *capability = getenv("EMULATOR_CAPABILITY");
    int number = capability ? atoi(capability) : 90;
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "emulator");
    properties->major = number / 10;
    properties->minor = number % 10;
    properties->multiProcessorCount = MULTIPROCESSORS;
    properties->sharedMemPerBlockOptin = emulator::SHARED_BYTES;
    properties->totalGlobalMem = MEMORY_BYTES;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return noted(device == 0 ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGetLastError() {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
        return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidResourceHandle:
        return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
        return "cudaErrorNotReady";
    }
    return "an unknown error";
}

const char *cudaGetErrorString(cudaError_t error) {
    return cudaGetErrorName(error);
}

/* ---- memory ---- */

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    *free_bytes = MEMORY_BYTES - allocated_bytes;
    *total_bytes = MEMORY_BYTES;
    return cudaSuccess;
}

cudaError_t emulator_malloc(void **out, size_t bytes) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    *out = nullptr;
    if (bytes > MEMORY_BYTES - allocated_bytes)
        return noted(cudaErrorMemoryAllocation);
    if (posix_memalign(out, MEMORY_ALIGNMENT, bytes > 0 ? bytes : 1) != 0)
        return noted(cudaErrorMemoryAllocation);
    memset(*out, FRESH_BYTE, bytes);
    allocations[*out] = bytes;
    allocated_bytes += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (!p)
        return cudaSuccess;
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto found = allocations.find(p);
    if (found == allocations.end())
        emulator::fail("cudaFree of %p, which was not allocated", p);
    allocated_bytes -= found->second;
    allocations.erase(found);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    *out = nullptr;
    return noted(posix_memalign(out, MEMORY_ALIGNMENT, bytes) == 0 ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **out, void *host, unsigned) {
    *out = host;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return emulator_queue(stream, [=] { memcpy(to, from, bytes); });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
    return emulator_queue(stream, [=] {
        for (size_t row = 0; row < height; row++)
            memcpy(static_cast<char *>(to) + row * to_pitch,
                   static_cast<const char *>(from) + row * from_pitch, width);
    });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    return emulator_queue(stream, [=] { memset(to, value, bytes); });
}

/* ---- streams, graphs, events ---- */

cudaError_t emulator_queue(cudaStream_t stream, std::function<void()> work) {
    if (stream->capture)
        stream->capture->work.push_back(std::move(work));
    else
        work();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    *out = new emulator_stream();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return noted(stream->capture ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream->capture = new emulator_graph();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    *out = stream->capture;
    stream->capture = nullptr;
    return noted(*out ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    *out = new emulator_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    for (const std::function<void()> &work : graph->work)
        emulator_queue(stream, work);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    *out = new emulator_event();
    (*out)->is_timed = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

/* What the stream is given is done at once, so this is when all of it was. Not while it is captured: CUDA
 * makes it a part of the graph then, which nothing here wants. */
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (stream->capture)
        return noted(cudaErrorInvalidValue);
    event->is_recorded = true;
    event->time = std::chrono::steady_clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t) {
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    for (cudaEvent_t event : {from, to})
        if (!event->is_timed || !event->is_recorded)
            return noted(cudaErrorInvalidResourceHandle);
    *ms = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return cudaSuccess;
}

/* ---- kernels ---- */

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute attribute, int value) {
    bool fits =
        attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value <= (int)emulator::SHARED_BYTES;
    return noted(fits ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
    *attributes = {90, 90, STATIC_SHARED_BYTES};
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int *n, const void *, const cudaLaunchConfig_t *) {
    *n = CLUSTERS;
    return cudaSuccess;
}

cudaError_t emulator_launch(const cudaLaunchConfig_t *config, std::function<void()> body) {
    emulator::launch_shape shape = {{config->gridDim.x, config->gridDim.y, config->gridDim.z},
                                    config->blockDim.x,
                                    1,
                                    config->dynamicSmemBytes};
    for (unsigned i = 0; i < config->numAttrs; i++)
        if (config->attrs[i].id == cudaLaunchAttributeClusterDimension)
            shape.cluster = config->attrs[i].val.clusterDim.x;
    return emulator_queue(config->stream, [shape, body] { emulator::launch(shape, body); });
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *result) {
    bool known = strcmp(name, "cuTensorMapEncodeTiled") == 0;
    *out = known ? reinterpret_cast<void *>(cuTensorMapEncodeTiled) : nullptr;
    *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *data,
                                const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    uint32_t element_bytes = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32 ? 4 : 2;
    uint32_t swizzle_bytes = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : 64;
    if (rank != 2 || reinterpret_cast<uintptr_t>(data) % 16 || strides[0] % 16 || box[0] == 0 ||
        box[1] == 0 || box[0] > 256 || box[1] > 256 || steps[0] != 1 || steps[1] != 1 || sizes[0] == 0 ||
        sizes[1] == 0 || box[0] * element_bytes > swizzle_bytes)
        return CUDA_ERROR_INVALID_VALUE;
    *map = {};
    map->data = static_cast<unsigned char *>(data);
    map->columns = sizes[0];
    map->rows = sizes[1];
    map->row_bytes = strides[0];
    map->box_columns = box[0];
    map->box_rows = box[1];
    map->element_bytes = element_bytes;
    map->swizzle_rows = swizzle_bytes / 16;
    return CUDA_SUCCESS;
}
