/* matmul: out[r, o] = activation(sum over k of weight[o, k] in[r, k] + bias[o]), or out[r, o] += that.
 *
 * Computed as out^T = W . X^T: weight rows are the tensor core's M operand, tokens its N, so that a step of
 * few tokens still uses whole tensor-core tiles and each weight is read once.
 *
 * Numerics: float32 accumulation, one chain per output over ascending k from zero (bf16: m16n8k16 steps;
 * float32: one fma per k, no TF32). The order is the same in every tile shape, so the shape may follow the
 * token count while the bits of a row do not: they depend on the weight and the row alone. Padding of k is
 * exact zeros.
 *
 * Shared memory is a ring of stages filled by cp.async. The first stages' weights, which no kernel writes,
 * are requested before the previous kernel is complete. */
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tile.h"
#include "kernels/cuda/vector.cuh"

namespace {

struct matmul_params {
    const void *weight; /* [n_out, n_in] */
    const void *in;     /* [n_rows, n_in] */
    void *out;          /* [n_rows, n_out] */
    const float *bias;  /* [n_out] float32, or NULL */
    int64_t in_stride;  /* also the weight's: both are rows of n_in, padded alike */
    int64_t out_stride;
    int32_t n_out;
    int32_t n_rows;
    int32_t n_in; /* padded to whole 16-byte vectors */
    bool gelu;
    bool accumulate;
    bool out_float32;
};

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the approximation named gelu_new in Hugging Face
 * configurations (Hendrycks and Gimpel, arXiv 1606.08415). Explicit fma: the same bits wherever it is
 * inlined. */
__device__ __forceinline__ float gelu_tanh(float x) {
    float cubic = fmaf(0.044715f * x * x, x, x);
    float half = 0.5f * x;
    return fmaf(half, tanhf(0.7978845608028654f * cubic), half);
}

/* What happens to a finished sum. One function for all tiles, so a row's bits do not depend on the tile. */
__device__ __forceinline__ void matmul_write(const matmul_params &p, int row, int output, float sum) {
    if (row >= p.n_rows || output >= p.n_out)
        return;
    if (p.bias)
        sum = sum + p.bias[output];
    if (p.gelu)
        sum = gelu_tanh(sum);
    int64_t index = row * p.out_stride + output;
    if (p.accumulate) {
        float *out = static_cast<float *>(p.out) + index;
        *out = *out + sum;
    } else if (p.out_float32) {
        static_cast<float *>(p.out)[index] = sum;
    } else {
        static_cast<bfloat16 *>(p.out)[index] = from_float<bfloat16>(sum);
    }
}

/* ---- bfloat16: tensor cores ---- */

/* BLOCK_O weight rows by BLOCK_R tokens a block; WARP_O x WARP_R a warp; BLOCK_K elements of k a stage. */
template <int BLOCK_O_, int BLOCK_R_, int WARP_O_, int WARP_R_, int STAGES_> struct mma_shape {
    static constexpr int BLOCK_O = BLOCK_O_, BLOCK_R = BLOCK_R_, WARP_O = WARP_O_, WARP_R = WARP_R_;
    static constexpr int STAGES = STAGES_;
    static constexpr int BLOCK_K = 64;
    static constexpr int CHUNKS = BLOCK_K / TILE_CHUNK_ELEMENTS;
    static constexpr int WARPS_O = BLOCK_O / WARP_O, WARPS_R = BLOCK_R / WARP_R;
    static constexpr int THREADS = WARPS_O * WARPS_R * WARP_LANES;
    static constexpr int WEIGHT_BYTES = BLOCK_O * BLOCK_K * 2;
    static constexpr int STAGE_BYTES = WEIGHT_BYTES + BLOCK_R * BLOCK_K * 2;
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    static_assert(WARP_O % 16 == 0 && WARP_R % 8 == 0, "whole m16n8 tiles");
    static_assert(BLOCK_O * CHUNKS % THREADS == 0, "every thread copies the same number of chunks");
};

/* Requests rows [first, first + ROWS) x k [k, k + BLOCK_K) of a row-major matrix into a tile; zeros outside
 * of [0, n_rows) x [0, n_in). */
template <typename Shape, int ROWS>
__device__ __forceinline__ void request_tile(uint32_t tile, const bfloat16 *matrix, int64_t stride, int first,
                                             int n_rows, int k, int n_in) {
    constexpr int CHUNKS = ROWS * Shape::CHUNKS;
#pragma unroll
    for (int base = 0; base < CHUNKS; base += Shape::THREADS) {
        int index = base + threadIdx.x;
        if (CHUNKS % Shape::THREADS != 0 && index >= CHUNKS)
            break;
        int row = index / Shape::CHUNKS, chunk = index % Shape::CHUNKS;
        int column = k + chunk * TILE_CHUNK_ELEMENTS;
        bool valid = first + row < n_rows && column < n_in;
        const bfloat16 *source = valid ? matrix + (first + row) * stride + column : matrix;
        ptx_copy_async_16(tile + tile_offset(row, chunk, Shape::CHUNKS), source, valid);
    }
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::THREADS) kernel_matmul_mma(const matmul_params p) {
    extern __shared__ __align__(128) unsigned char shared[];
    constexpr int TILES_O = Shape::WARP_O / 16, TILES_R = Shape::WARP_R / 8;
    const bfloat16 *weight = static_cast<const bfloat16 *>(p.weight);
    const bfloat16 *in = static_cast<const bfloat16 *>(p.in);
    int first_output = blockIdx.x * Shape::BLOCK_O, first_row = blockIdx.y * Shape::BLOCK_R;
    int n_steps = (p.n_in + Shape::BLOCK_K - 1) / Shape::BLOCK_K;
    uint32_t ring = ptx_shared_address(shared);

#pragma unroll
    for (int stage = 0; stage < Shape::STAGES - 1; stage++)
        if (stage < n_steps)
            request_tile<Shape, Shape::BLOCK_O>(ring + stage * Shape::STAGE_BYTES, weight, p.in_stride,
                                                first_output, p.n_out, stage * Shape::BLOCK_K, p.n_in);
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
#pragma unroll
    for (int stage = 0; stage < Shape::STAGES - 1; stage++) {
        if (stage < n_steps)
            request_tile<Shape, Shape::BLOCK_R>(ring + stage * Shape::STAGE_BYTES + Shape::WEIGHT_BYTES, in,
                                                p.in_stride, first_row, p.n_rows, stage * Shape::BLOCK_K,
                                                p.n_in);
        ptx_copy_async_commit();
    }

    int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
    int warp_output = warp % Shape::WARPS_O * Shape::WARP_O, warp_row = warp / Shape::WARPS_O * Shape::WARP_R;
    float sum[TILES_O][TILES_R][4] = {};

    int stage = 0;
    for (int step = 0; step < n_steps; step++) {
        ptx_copy_async_wait<Shape::STAGES - 2>();
        __syncthreads(); /* this stage has arrived for all threads, and all are done with the one refilled
                            below */
        int next = step + Shape::STAGES - 1;
        if (next < n_steps) {
            int refill = stage == 0 ? Shape::STAGES - 1 : stage - 1;
            uint32_t tile = ring + refill * Shape::STAGE_BYTES;
            request_tile<Shape, Shape::BLOCK_O>(tile, weight, p.in_stride, first_output, p.n_out,
                                                next * Shape::BLOCK_K, p.n_in);
            request_tile<Shape, Shape::BLOCK_R>(tile + Shape::WEIGHT_BYTES, in, p.in_stride, first_row,
                                                p.n_rows, next * Shape::BLOCK_K, p.n_in);
        }
        ptx_copy_async_commit();

        uint32_t weight_tile = ring + stage * Shape::STAGE_BYTES,
                 row_tile = weight_tile + Shape::WEIGHT_BYTES;
#pragma unroll
        for (int k16 = 0; k16 < Shape::BLOCK_K / 16; k16++) {
            uint32_t a[TILES_O][4], b[TILES_R][2];
#pragma unroll
            for (int i = 0; i < TILES_O; i++)
                ptx_load_matrix_x4(a[i],
                                   weight_tile + tile_offset(warp_output + i * 16 + tile_a_row(lane),
                                                             k16 * 2 + tile_a_chunk(lane), Shape::CHUNKS));
            if constexpr (TILES_R == 1) {
                ptx_load_matrix_x2(b[0][0], b[0][1],
                                   row_tile + tile_offset(warp_row + tile_b_row(lane % 16),
                                                          k16 * 2 + tile_b_chunk(lane), Shape::CHUNKS));
            } else {
                static_assert(TILES_R == 1 || TILES_R % 2 == 0, "row tiles are read in pairs");
#pragma unroll
                for (int j = 0; j < TILES_R; j += 2) {
                    uint32_t pair[4];
                    ptx_load_matrix_x4(pair,
                                       row_tile + tile_offset(warp_row + j * 8 + tile_b_row(lane),
                                                              k16 * 2 + tile_b_chunk(lane), Shape::CHUNKS));
                    b[j][0] = pair[0], b[j][1] = pair[1];
                    b[j + 1][0] = pair[2], b[j + 1][1] = pair[3];
                }
            }
#pragma unroll
            for (int i = 0; i < TILES_O; i++)
#pragma unroll
                for (int j = 0; j < TILES_R; j++)
                    ptx_mma_bf16(sum[i][j], a[i], b[j][0], b[j][1]);
        }
        stage = stage + 1 == Shape::STAGES ? 0 : stage + 1;
    }

#pragma unroll
    for (int i = 0; i < TILES_O; i++)
#pragma unroll
        for (int j = 0; j < TILES_R; j++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                matmul_write(p, first_row + warp_row + j * 8 + (int)tile_c_column(lane, c),
                             first_output + warp_output + i * 16 + (int)tile_c_row(lane, c), sum[i][j][c]);
}

/* ---- float32: fma ---- */

/* THREADS_O x THREADS_R threads, each with EACH_O x EACH_R outputs, threads apart so that shared reads of a
 * warp are consecutive or equal. */
template <int THREADS_O_, int THREADS_R_, int EACH_O_, int EACH_R_> struct fma_shape {
    static constexpr int THREADS_O = THREADS_O_, THREADS_R = THREADS_R_, EACH_O = EACH_O_, EACH_R = EACH_R_;
    static constexpr int THREADS = THREADS_O * THREADS_R;
    static constexpr int BLOCK_O = THREADS_O * EACH_O, BLOCK_R = THREADS_R * EACH_R;
    static constexpr int BLOCK_K = 32;
};

/* Loads rows of k into shared memory as [k][row], zeros outside. */
template <int THREADS, int ROWS, int BLOCK_K>
__device__ __forceinline__ void load_transposed(float (&tile)[BLOCK_K][ROWS + 1], const float *matrix,
                                                int64_t stride, int first, int n_rows, int k, int n_in) {
    for (int index = threadIdx.x; index < ROWS * BLOCK_K / 4; index += THREADS) {
        int row = index / (BLOCK_K / 4), column = index % (BLOCK_K / 4) * 4;
        float4 v = make_float4(0, 0, 0, 0);
        if (first + row < n_rows && k + column < n_in)
            v = load_4(matrix + (first + row) * stride + k + column);
        tile[column + 0][row] = v.x;
        tile[column + 1][row] = v.y;
        tile[column + 2][row] = v.z;
        tile[column + 3][row] = v.w;
    }
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::THREADS) kernel_matmul_fma(const matmul_params p) {
    __shared__ float weights[Shape::BLOCK_K][Shape::BLOCK_O + 1];
    __shared__ float rows[Shape::BLOCK_K][Shape::BLOCK_R + 1];
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int first_output = blockIdx.x * Shape::BLOCK_O, first_row = blockIdx.y * Shape::BLOCK_R;
    int thread_o = threadIdx.x % Shape::THREADS_O, thread_r = threadIdx.x / Shape::THREADS_O;
    float sum[Shape::EACH_O][Shape::EACH_R] = {};
    for (int k = 0; k < p.n_in; k += Shape::BLOCK_K) {
        __syncthreads(); /* all threads are done with the tiles of the previous k */
        load_transposed<Shape::THREADS, Shape::BLOCK_O, Shape::BLOCK_K>(
            weights, static_cast<const float *>(p.weight), p.in_stride, first_output, p.n_out, k, p.n_in);
        load_transposed<Shape::THREADS, Shape::BLOCK_R, Shape::BLOCK_K>(
            rows, static_cast<const float *>(p.in), p.in_stride, first_row, p.n_rows, k, p.n_in);
        __syncthreads(); /* the tiles are complete */
#pragma unroll 8
        for (int i = 0; i < Shape::BLOCK_K; i++) {
            float w[Shape::EACH_O], x[Shape::EACH_R];
#pragma unroll
            for (int o = 0; o < Shape::EACH_O; o++)
                w[o] = weights[i][thread_o + o * Shape::THREADS_O];
#pragma unroll
            for (int r = 0; r < Shape::EACH_R; r++)
                x[r] = rows[i][thread_r + r * Shape::THREADS_R];
#pragma unroll
            for (int o = 0; o < Shape::EACH_O; o++)
#pragma unroll
                for (int r = 0; r < Shape::EACH_R; r++)
                    sum[o][r] = fmaf(w[o], x[r], sum[o][r]);
        }
    }
#pragma unroll
    for (int o = 0; o < Shape::EACH_O; o++)
#pragma unroll
        for (int r = 0; r < Shape::EACH_R; r++)
            matmul_write(p, first_row + thread_r + r * Shape::THREADS_R,
                         first_output + thread_o + o * Shape::THREADS_O, sum[o][r]);
}

/* ---- launch shape ---- */

struct matmul_variant {
    int32_t block_o;
    int32_t block_r;
    int32_t threads;
    int32_t shared_bytes;
    void (*kernel)(const matmul_params);
};

template <typename Shape> matmul_variant mma_variant() {
    return {Shape::BLOCK_O, Shape::BLOCK_R, Shape::THREADS, Shape::SHARED_BYTES, kernel_matmul_mma<Shape>};
}

template <typename Shape> matmul_variant fma_variant() {
    return {Shape::BLOCK_O, Shape::BLOCK_R, Shape::THREADS, 0, kernel_matmul_fma<Shape>};
}

/* Bits do not depend on the choice. Few tokens: narrow blocks, many of them, deep rings, to stream weights.
 * More tokens: the largest tile that still gives every multiprocessor a block. */
matmul_variant matmul_choose(const struct backend_context *context, enum dtype dtype, int32_t n_out,
                             int32_t n_rows) {
    if (dtype == DTYPE_FLOAT32)
        return n_rows <= 8 ? fma_variant<fma_shape<32, 8, 1, 1>>() : fma_variant<fma_shape<16, 16, 4, 4>>();
    if (n_rows <= 8)
        return mma_variant<mma_shape<16, 8, 16, 8, 12>>();
    if (n_rows <= 16)
        return mma_variant<mma_shape<16, 16, 16, 16, 10>>();
    if (n_rows <= 32)
        return mma_variant<mma_shape<16, 32, 16, 16, 8>>();
    const matmul_variant tiles[] = {
        mma_variant<mma_shape<128, 128, 64, 32, 4>>(),
        mma_variant<mma_shape<64, 64, 32, 32, 5>>(),
        mma_variant<mma_shape<32, 64, 16, 32, 6>>(),
    };
    for (const matmul_variant &tile : tiles)
        if (ceil_div(n_out, tile.block_o) * ceil_div(n_rows, tile.block_r) >= context->n_multiprocessors)
            return tile;
    return mma_variant<mma_shape<16, 64, 16, 16, 6>>();
}

} // namespace

enum status cuda_matmul(struct backend_context *context, const struct matmul_args *args) {
    /* It reads nothing of the step, so tools may call it outside of one. */
    if (context->mode == STEP_NONE)
        context->chained = false;
    else
        TRY(cuda_operation_begin(context, "matmul"));
    const struct tensor *weight = args->weight, *in = args->in, *out = args->out;
    RETURN_IF(in->dtype != weight->dtype || in->cols != weight->cols || in->rows < args->n_rows,
              STATUS_INTERNAL, "matmul: in must be [>= %d, %lld] of the weight's dtype, is [%lld, %lld]",
              args->n_rows, (long long)weight->cols, (long long)in->rows, (long long)in->cols);
    RETURN_IF(out->cols != weight->rows || out->rows < args->n_rows ||
                  (out->dtype != DTYPE_FLOAT32 && (args->accumulate || out->dtype != weight->dtype)),
              STATUS_INTERNAL, "matmul: out must be [>= %d, %lld] (float32 to accumulate), is [%lld, %lld]",
              args->n_rows, (long long)weight->rows, (long long)out->rows, (long long)out->cols);
    RETURN_IF(args->bias && args->bias->cols != weight->rows, STATUS_INTERNAL,
              "matmul: bias has %lld elements, expected %lld", (long long)args->bias->cols,
              (long long)weight->rows);
    if (args->n_rows == 0)
        return STATUS_OK;
    matmul_params p = {};
    p.weight = weight->data;
    p.in = in->data;
    p.out = out->data;
    p.bias = args->bias ? static_cast<const float *>(args->bias->data) : nullptr;
    p.in_stride = tensor_stride(in);
    p.out_stride = tensor_stride(out);
    p.n_out = (int32_t)weight->rows;
    p.n_rows = args->n_rows;
    p.n_in = (int32_t)tensor_stride(in);
    p.gelu = args->activation == ACTIVATION_GELU_TANH;
    p.accumulate = args->accumulate;
    p.out_float32 = out->dtype == DTYPE_FLOAT32;
    matmul_variant v = matmul_choose(context, weight->dtype, p.n_out, p.n_rows);
    dim3 grid(ceil_div(p.n_out, v.block_o), ceil_div(p.n_rows, v.block_r));
    return cuda_launch(context, "matmul", v.kernel, grid, (unsigned)v.threads, (size_t)v.shared_bytes, p);
}
