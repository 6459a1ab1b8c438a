/* norm: out[i, :] = (hidden[row, :] - mean) / sqrt(variance + epsilon) * weight + bias; an RMS norm has no
 * mean and no bias. Or out[i, :] += that.
 *
 * One block per row, or, of many narrow rows, one warp; the row held in registers between its two passes
 * (mean, then variance about it; an RMS norm takes the second alone, about zero). Numerics, the same in both:
 * float32. Sixteen lanes sum 64 consecutive features as a fixed tree; these partial sums are added in
 * ascending order. So a sum depends on the width and the row alone. */
#include <type_traits>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/network.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/ptx.cuh"

namespace {

enum {
    NORM_WARPS = 4,     /* rows of a block of the warp kernel */
    NORM_THREADS = 512, /* of a block of the block kernel, at most */
    /* Of a multiprocessor: fewer have a thread each, so many are taken four by a thread. */
    FEW_VECTORS = 1024,
    MANY_VECTORS = 3072
};
static_assert(MAX_NORM_WIDTH <= 8 * NORM_THREADS * NORM_VECTOR,
              "a row fits a block of eight vectors a thread");

struct norm_params {
    enum norm_kind kind;
    const float *hidden; /* [n_rows, n_embd] float32 */
    const float *weight; /* [n_embd] float32 */
    const float *bias;   /* [n_embd] float32, or NULL */
    void *out;           /* [n, n_embd]; float32 when accumulate */
    int64_t hidden_stride;
    int64_t out_stride;
    int32_t n_embd;
    int32_t n; /* entries */
    float epsilon;
    bool accumulate;
    int32_t site;
    const int32_t *sample_row; /* [n] row of each entry, or NULL: entry i is row i */
    const int32_t *position;   /* [n_rows] */
    const int32_t *slot;       /* [n_rows] */
    unsigned long long *fault; /* [n_slots + 1] */
};

/* Sum of the row of which this thread holds v, ascending over groups of 64. shared: one float per group, not
 * used by another call in the same kernel. */
template <int VECTORS>
__device__ __forceinline__ float row_sum(const float4 (&v)[VECTORS], int n_vectors, float *shared) {
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = j * blockDim.x + threadIdx.x;
        float partial = lanes_sum<NORM_GROUP_LANES>((v[j].x + v[j].y) + (v[j].z + v[j].w));
        if (vector % NORM_GROUP_LANES == 0 && vector < n_vectors)
            shared[vector / NORM_GROUP_LANES] = partial;
    }
    __syncthreads(); /* all partial sums are written before anyone adds them */
    int n_groups = (n_vectors + NORM_GROUP_LANES - 1) / NORM_GROUP_LANES;
    float sum = shared[0];
    int group = 1;
    for (; group < 4 && group < n_groups; group++)
        sum += shared[group];
    for (; group + 4 <= n_groups; group += 4) {
        const float4 four = load_4(shared + group);
        sum = (((sum + four.x) + four.y) + four.z) + four.w;
    }
    for (; group < n_groups; group++)
        sum += shared[group];
    return sum;
}

/* What out holds of one vector, when the norm is added to it. */
template <typename T>
__device__ __forceinline__ float4 load_residual(const norm_params &p, const T *out, int vector,
                                                int n_vectors) {
    if (std::is_same_v<T, float> && p.accumulate && vector < n_vectors)
        return load_4(out + vector * NORM_VECTOR);
    return make_float4(0, 0, 0, 0);
}

template <typename T>
__device__ __forceinline__ void write(const norm_params &p, T *out, int vector, float4 v, float4 residual) {
    if (std::is_same_v<T, float> && p.accumulate)
        v = make_float4(__fadd_rn(residual.x, v.x), __fadd_rn(residual.y, v.y), __fadd_rn(residual.z, v.z),
                        __fadd_rn(residual.w, v.w));
    store_4(out + vector * NORM_VECTOR, v);
}

template <typename T, int VECTORS>
__global__ void __launch_bounds__(NORM_THREADS) kernel_norm(const norm_params p) {
    __shared__ __align__(16) float sums[2][MAX_NORM_WIDTH / NORM_GROUP];
    int n_vectors = (p.n_embd + NORM_VECTOR - 1) / NORM_VECTOR;
    float4 weight[VECTORS], bias[VECTORS];
    constexpr bool EARLY = VECTORS <= 4; /* registers hold them beside the row */
#pragma unroll
    for (int j = 0; j < VECTORS && EARLY; j++)
        load_weights(weight[j], bias[j], p.weight, p.bias, j * blockDim.x + threadIdx.x, n_vectors);
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int row = p.sample_row ? p.sample_row[blockIdx.x] : (int)blockIdx.x;
    const float *hidden = p.hidden + row * p.hidden_stride;

    float4 v[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = j * blockDim.x + threadIdx.x;
        v[j] = vector < n_vectors ? load_4(hidden + vector * NORM_VECTOR) : make_float4(0, 0, 0, 0);
    }
    T *out = static_cast<T *>(p.out) + blockIdx.x * p.out_stride;
    float4 residual;
    if (VECTORS == 1)
        residual = load_residual(p, out, threadIdx.x, n_vectors);
    float mean = 0;
    if (p.kind == NORM_LAYER)
        mean = row_sum(v, n_vectors, sums[0]) / (float)p.n_embd;

    float4 square[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int column = (j * blockDim.x + threadIdx.x) * NORM_VECTOR;
        v[j].x = column + 0 < p.n_embd ? v[j].x - mean : 0;
        v[j].y = column + 1 < p.n_embd ? v[j].y - mean : 0;
        v[j].z = column + 2 < p.n_embd ? v[j].z - mean : 0;
        v[j].w = column + 3 < p.n_embd ? v[j].w - mean : 0;
        square[j] = squared(v[j]);
    }
    float squares = row_sum(square, n_vectors, sums[1]);
    float scale = 1.0f / sqrtf(squares / (float)p.n_embd + p.epsilon);

    if (threadIdx.x == 0 && !isfinite(squares)) {
        unsigned long long fault = (unsigned long long)(uint32_t)p.position[row] << 32 | (uint32_t)p.site;
        atomicMin(p.fault + p.slot[row], fault);
    }
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = j * blockDim.x + threadIdx.x;
        if (vector >= n_vectors)
            continue;
        if (!EARLY)
            load_weights(weight[j], bias[j], p.weight, p.bias, vector, n_vectors);
        if (VECTORS > 1)
            residual = load_residual(p, out, vector, n_vectors);
        write(p, out, vector, scaled(v[j], scale, weight[j], bias[j]), residual);
    }
}

template <typename T, int VECTORS>
__global__ void __launch_bounds__(NORM_WARPS *WARP_LANES) kernel_norm_warp(const norm_params p) {
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int lane = threadIdx.x % WARP_LANES, entry = blockIdx.x * NORM_WARPS + threadIdx.x / WARP_LANES;
    if (entry >= p.n)
        return;
    int row = p.sample_row ? p.sample_row[entry] : entry;
    const float *hidden = p.hidden + row * p.hidden_stride;
    int n_vectors = (p.n_embd + NORM_VECTOR - 1) / NORM_VECTOR;

    float4 v[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = j * WARP_LANES + lane;
        v[j] = vector < n_vectors ? load_4(hidden + vector * NORM_VECTOR) : make_float4(0, 0, 0, 0);
    }
    float squares;
    float scale = norm_of_warp(v, &squares, p.kind, p.n_embd, p.epsilon, lane);

    if (lane == 0 && !isfinite(squares)) {
        unsigned long long fault = (unsigned long long)(uint32_t)p.position[row] << 32 | (uint32_t)p.site;
        atomicMin(p.fault + p.slot[row], fault);
    }
    T *out = static_cast<T *>(p.out) + entry * p.out_stride;
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = j * WARP_LANES + lane;
        if (vector >= n_vectors)
            continue;
        float4 weight, bias;
        load_weights(weight, bias, p.weight, p.bias, vector, n_vectors);
        write(p, out, vector, scaled(v[j], scale, weight, bias), load_residual(p, out, vector, n_vectors));
    }
}

struct norm_variant {
    int32_t rows; /* of a block */
    int32_t threads;
    void (*kernel)(const norm_params);
};

template <typename T, int VECTORS> norm_variant norm_by_blocks(int32_t n_vectors) {
    return {1, ceil_div(n_vectors, VECTORS * WARP_LANES) * WARP_LANES, kernel_norm<T, VECTORS>};
}

/* Rows by warps are the fastest form of many narrow rows, and slow for few: their code is long, and code that
 * is executed once takes 5 to 10 cycles an instruction. Measured (H100): rows of 2,048 by warps 5.9 us from
 * 256 to 1,024 rows, by blocks of 512, 256 or 128 threads 2.1 to 4.5. */
template <typename T>
norm_variant norm_variant_for(int32_t n_vectors, int32_t n_rows, int n_multiprocessors) {
    const int64_t load = (int64_t)n_rows * n_vectors / n_multiprocessors; /* vectors of one */
    const int32_t warp_threads = NORM_WARPS * WARP_LANES;
    if (n_vectors <= 4 * WARP_LANES && n_rows > n_multiprocessors)
        return {NORM_WARPS, warp_threads, kernel_norm_warp<T, 4>};
    if (n_vectors <= 8 * WARP_LANES && load >= MANY_VECTORS)
        return {NORM_WARPS, warp_threads, kernel_norm_warp<T, 8>};
    if (n_vectors <= NORM_THREADS && load < FEW_VECTORS)
        return norm_by_blocks<T, 1>(n_vectors);
    if (n_vectors <= 2 * NORM_THREADS && load < MANY_VECTORS)
        return norm_by_blocks<T, 2>(n_vectors);
    if (n_vectors <= 4 * NORM_THREADS)
        return norm_by_blocks<T, 4>(n_vectors);
    return norm_by_blocks<T, 8>(n_vectors);
}

} // namespace

enum status cuda_norm(struct backend_context *context, const struct norm_args *args) {
    TRY(cuda_operation_begin(context, "norm"));
    int64_t width = args->hidden->cols;
    int32_t n = args->sampled_rows ? args->n : context->step.n_rows;
    RETURN_IF(width > MAX_NORM_WIDTH, STATUS_DATA, "norm: rows of %lld features; this backend norms up to %d",
              (long long)width, (int)MAX_NORM_WIDTH);
    RETURN_IF(args->hidden->dtype != DTYPE_FLOAT32 || args->weight->cols != width ||
                  (args->bias && args->bias->cols != width) || args->out->cols != width ||
                  args->out->rows < n,
              STATUS_INTERNAL,
              "norm: hidden, weight, bias and out differ in width (%lld), or out has %lld of %d rows",
              (long long)width, (long long)args->out->rows, n);
    RETURN_IF(args->kind == NORM_RMS && args->bias, STATUS_INTERNAL, "norm: an RMS norm has no bias");
    RETURN_IF(args->accumulate &&
                  (args->sampled_rows || args->out->dtype != DTYPE_FLOAT32 || args->out == args->hidden),
              STATUS_INTERNAL, "norm: accumulate needs a float32 out that is not hidden, and all rows");
    RETURN_IF(args->sampled_rows &&
                  (args->first_sample < 0 || args->first_sample + n > context->step.n_samples),
              STATUS_INTERNAL, "norm: samples %d to %d of a step that has %d", args->first_sample,
              args->first_sample + n, context->step.n_samples);
    if (n == 0)
        return STATUS_OK;
    bool taken;
    TRY(network_plan_norm(context, args, &taken));
    if (taken)
        return STATUS_OK;
    norm_params p = {};
    p.kind = args->kind;
    p.hidden = static_cast<const float *>(args->hidden->data);
    p.weight = static_cast<const float *>(args->weight->data);
    p.bias = args->bias ? static_cast<const float *>(args->bias->data) : nullptr;
    p.out = args->out->data;
    p.hidden_stride = tensor_stride(args->hidden);
    p.out_stride = tensor_stride(args->out);
    p.n_embd = (int32_t)width;
    p.epsilon = args->epsilon;
    p.accumulate = args->accumulate;
    p.site = args->site;
    p.sample_row = args->sampled_rows ? context->step.sample_row + args->first_sample : nullptr;
    p.position = context->step.position;
    p.slot = context->step.slot;
    p.fault = context->state.fault;
    p.n = n;
    int32_t n_vectors = ceil_div((int32_t)width, NORM_VECTOR);
    norm_variant v = args->out->dtype == DTYPE_FLOAT32
                         ? norm_variant_for<float>(n_vectors, n, context->n_multiprocessors)
                         : norm_variant_for<bfloat16>(n_vectors, n, context->n_multiprocessors);
    return cuda_launch(context, "norm", v.kernel, dim3(ceil_div(n, v.rows)), (unsigned)v.threads, 0, p);
}
