/* What the backend uses of CUDA C++ and its runtime, for the emulator: the words of the language, the vector
 * types, the intrinsic functions, and a device whose streams are done with everything at once. */
#ifndef PRESSRUN_TESTS_EMULATOR_CUDA_RUNTIME_H
#define PRESSRUN_TESTS_EMULATOR_CUDA_RUNTIME_H

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "emulator.h"

/* ---- the language ---- */

#define __global__
#define __device__
#define __host__
#define __shared__      thread_local /* a block has its operating-system thread to itself */
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
#define __CUDA_ARCH__             900
#define __CUDA_ARCH_FEAT_SM90_ALL 1
#define CUDART_VERSION            13000

/* Names of objects, not macros: other objects have members of these names. */
template <emulator::index3 (*VALUE)()> struct emulator_index {
    template <unsigned emulator::index3::*MEMBER> struct member {
        operator unsigned() const { return VALUE().*MEMBER; }
    };
    member<&emulator::index3::x> x;
    member<&emulator::index3::y> y;
    member<&emulator::index3::z> z;
};
static const emulator_index<emulator::thread_index> threadIdx = {};
static const emulator_index<emulator::block_index> blockIdx = {};
static const emulator_index<emulator::block_size> blockDim = {};
static const emulator_index<emulator::grid_size> gridDim = {};

/* ---- vector types ---- */

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
static inline int4 make_int4(int x, int y, int z, int w) {
    return {x, y, z, w};
}

/* ---- intrinsic functions ---- */

using std::isfinite;
using std::isinf;
using std::isnan;

template <typename A, typename B> static inline std::common_type_t<A, B> min(A a, B b) {
    typedef std::common_type_t<A, B> T;
    return (T)b < (T)a ? (T)b : (T)a;
}
template <typename A, typename B> static inline std::common_type_t<A, B> max(A a, B b) {
    typedef std::common_type_t<A, B> T;
    return (T)a < (T)b ? (T)b : (T)a;
}

template <typename To, typename From> static inline To emulator_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) {
    return emulator_bits<unsigned>(x);
}
static inline int __float_as_int(float x) {
    return emulator_bits<int>(x);
}
static inline float __uint_as_float(unsigned x) {
    return emulator_bits<float>(x);
}
static inline float __int_as_float(int x) {
    return emulator_bits<float>(x);
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
/* Rounded up; NaN and what is below 0 becomes 0, what is too large the largest. */
static inline unsigned __float2uint_ru(float x) {
    x = ceilf(x);
    return !(x > 0) ? 0 : x >= 4294967296.0f ? UINT_MAX : (unsigned)x;
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++)
        result |= (unsigned)(bytes >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
    return result;
}
template <typename T> static inline T __ldcs(const T *p) {
    return *p;
}
template <typename T> static inline T __ldg(const T *p) {
    return *p;
}
[[noreturn]] static inline void __trap() {
    emulator::fail("a kernel trapped: thread %u of block %u", (unsigned)threadIdx.x, (unsigned)blockIdx.x);
}
static inline long long clock64() {
    return 0; /* time stands still: a wait that never ends is a deadlock, which is told apart */
}

template <typename T, typename U> static inline T atomicAdd(T *p, U x) {
    T before = __atomic_load_n(p, __ATOMIC_RELAXED);
    __atomic_store_n(p, before + (T)x, __ATOMIC_RELAXED);
    return before;
}
template <typename T, typename U> static inline T atomicOr(T *p, U x) {
    T before = __atomic_load_n(p, __ATOMIC_RELAXED);
    __atomic_store_n(p, before | (T)x, __ATOMIC_RELAXED);
    return before;
}
template <typename T, typename U> static inline T atomicMin(T *p, U x) {
    T before = __atomic_load_n(p, __ATOMIC_RELAXED);
    __atomic_store_n(p, (T)x < before ? (T)x : before, __ATOMIC_RELAXED);
    return before;
}
template <typename T, typename U> static inline T atomicMax(T *p, U x) {
    T before = __atomic_load_n(p, __ATOMIC_RELAXED);
    __atomic_store_n(p, before < (T)x ? (T)x : before, __ATOMIC_RELAXED);
    return before;
}

static inline void __syncthreads() {
    emulator::block_barrier(0, 0, false);
}
static inline int __syncthreads_or(int mine) {
    return emulator::block_barrier(0, 0, mine != 0);
}
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
    emulator::warp_meet(mask, "__syncwarp", nullptr, nullptr);
}
static inline void __threadfence() {}
template <typename T> static inline T __ldcv(const T *from) {
    return *from;
}

/* Each lane gives a value and the lane that it wants to hear. */
struct emulator_shuffle {
    uint64_t value, heard;
    unsigned from;
};

EMULATOR_UNSEEN static inline void emulator_shuffle_all(void *const *lanes) {
    for (unsigned lane = 0; lane < 32; lane++) {
        emulator_shuffle *s = static_cast<emulator_shuffle *>(lanes[lane]);
        s->heard = static_cast<emulator_shuffle *>(lanes[s->from])->value;
    }
}

template <typename T> static inline T emulator_shuffle_from(unsigned mask, T x, unsigned from) {
    static_assert(sizeof(T) <= 8, "a word");
    if (mask != 0xFFFFFFFFu)
        emulator::fail("a shuffle of some lanes alone is not emulated");
    emulator_shuffle s = {0, 0, from};
    memcpy(&s.value, &x, sizeof x);
    emulator::warp_meet(mask, "__shfl_sync", &s, emulator_shuffle_all);
    memcpy(&x, &s.heard, sizeof x);
    return x;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T x, int lane, int width = 32) {
    unsigned own = emulator::self->lane;
    return emulator_shuffle_from(mask, x, (own & ~(unsigned)(width - 1)) | ((unsigned)lane & (width - 1)));
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T x, int lanes, int width = 32) {
    unsigned own = emulator::self->lane, other = own ^ (unsigned)lanes;
    return emulator_shuffle_from(mask, x, other / width > own / width ? own : other);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
    unsigned own = emulator::self->lane;
    return emulator_shuffle_from(mask, x, own % width < lanes ? own : own - lanes);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T x, unsigned lanes, int width = 32) {
    unsigned own = emulator::self->lane;
    return emulator_shuffle_from(mask, x, own % width + lanes >= (unsigned)width ? own : own + lanes);
}

/* A value of each lane, folded; all hear the result. */
template <typename Fold>
static inline uint32_t emulator_fold(unsigned mask, const char *name, uint32_t mine) {
    if (mask != 0xFFFFFFFFu)
        emulator::fail("%s of some lanes alone is not emulated", name);
    emulator::warp_meet(mask, name, &mine, [](void *const *lanes) EMULATOR_UNSEEN {
        uint32_t result = *static_cast<uint32_t *>(lanes[0]);
        for (int lane = 1; lane < 32; lane++)
            result = Fold()(result, *static_cast<uint32_t *>(lanes[lane]));
        for (int lane = 0; lane < 32; lane++)
            *static_cast<uint32_t *>(lanes[lane]) = result;
    });
    return mine;
}
struct emulator_larger {
    EMULATOR_UNSEEN uint32_t operator()(uint32_t a, uint32_t b) const { return a < b ? b : a; }
};
struct emulator_sum {
    EMULATOR_UNSEEN uint32_t operator()(uint32_t a, uint32_t b) const { return a + b; }
};
struct emulator_or {
    EMULATOR_UNSEEN uint32_t operator()(uint32_t a, uint32_t b) const { return a | b; }
};
struct emulator_and {
    EMULATOR_UNSEEN uint32_t operator()(uint32_t a, uint32_t b) const { return a & b; }
};
static inline uint32_t __reduce_max_sync(unsigned mask, uint32_t x) {
    return emulator_fold<emulator_larger>(mask, "__reduce_max_sync", x);
}
static inline uint32_t __reduce_add_sync(unsigned mask, uint32_t x) {
    return emulator_fold<emulator_sum>(mask, "__reduce_add_sync", x);
}
static inline int __any_sync(unsigned mask, int x) {
    return (int)emulator_fold<emulator_or>(mask, "__any_sync", x != 0);
}
static inline int __all_sync(unsigned mask, int x) {
    return (int)emulator_fold<emulator_and>(mask, "__all_sync", x != 0);
}
static inline unsigned __ballot_sync(unsigned mask, int x) {
    return emulator_fold<emulator_or>(mask, "__ballot_sync", x ? 1u << emulator::self->lane : 0u);
}

static inline size_t __cvta_generic_to_shared(const void *p) {
    return emulator::shared_address(p);
}
static inline void *__cvta_shared_to_generic(size_t address) {
    return emulator::shared_pointer((uint32_t)address);
}

/* ---- the runtime ---- */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributeNonPortableClusterSizeAllowed = 13
};
enum cudaLaunchAttributeID {
    cudaLaunchAttributeClusterDimension = 4,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
enum {
    cudaHostAllocDefault = 0,
    cudaHostAllocMapped = 2,
    cudaEventDefault = 0,
    cudaEventDisableTiming = 2,
    cudaStreamNonBlocking = 1,
    cudaEnableDefault = 0
};

struct emulator_stream; /* and what was queued on it while it was captured */
struct emulator_event;
struct emulator_graph;
typedef emulator_stream *cudaStream_t;
typedef emulator_event *cudaEvent_t;
typedef emulator_graph *cudaGraph_t;
typedef emulator_graph *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t sharedMemPerBlockOptin, totalGlobalMem;
};
struct cudaFuncAttributes {
    int ptxVersion, binaryVersion;
    size_t sharedSizeBytes;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        int programmaticStreamSerializationAllowed;
        struct {
            unsigned x, y, z;
        } clusterDim;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t emulator_malloc(void **out, size_t bytes);
template <typename T> static inline cudaError_t cudaMalloc(T **out, size_t bytes) {
    return emulator_malloc(reinterpret_cast<void **>(out), bytes);
}
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostGetDevicePointer(void **out, void *host, unsigned flags);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel);
cudaError_t cudaOccupancyMaxActiveClusters(int *n, const void *kernel, const cudaLaunchConfig_t *config);
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult *result);

/* Now, or when the graph that the stream is captured for is launched. */
cudaError_t emulator_queue(cudaStream_t stream, std::function<void()> work);
cudaError_t emulator_launch(const cudaLaunchConfig_t *config, std::function<void()> body);

template <typename... Parameters, typename... Arguments>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                                             Arguments &&...arguments) {
    std::tuple<std::decay_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
    return emulator_launch(config, [kernel, values] { std::apply(kernel, values); });
}

#endif
