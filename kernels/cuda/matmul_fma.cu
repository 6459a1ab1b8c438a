/* matmul_fma: float32 products, one fma per k, no TF32.
 *
 * Numerics: one chain per output and part of K over ascending k from zero, whatever the tile. */
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

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
    auto write = [&](bool second) {
#pragma unroll
        for (int o = 0; o < Shape::EACH_O; o++)
#pragma unroll
            for (int r = 0; r < Shape::EACH_R; r++) {
                int row = first_row + thread_r + r * Shape::THREADS_R;
                int output = first_output + thread_o + o * Shape::THREADS_O;
                if (!p.gated) {
                    matmul_write(p, row, output, sum[o][r], second);
                    continue;
                }
                /* The other matrix's row of the pair is with the lane that differs in bit 3. */
                static_assert(WEIGHT_PAIR_ROWS == 8 && Shape::THREADS_O % 16 == 0, "pairs within a warp");
                float up = __shfl_xor_sync(ALL_LANES, sum[o][r], WEIGHT_PAIR_ROWS);
                if (output / WEIGHT_PAIR_ROWS % 2 == 0)
                    matmul_write_gated(p, row,
                                       output / (2 * WEIGHT_PAIR_ROWS) * WEIGHT_PAIR_ROWS +
                                           output % WEIGHT_PAIR_ROWS,
                                       sum[o][r], up);
            }
    };
    for (int k = 0; k < p.n_in; k += Shape::BLOCK_K) {
        if (k == p.split * WEIGHT_BLOCK) { /* the first part of K is complete */
            write(false);
#pragma unroll
            for (int o = 0; o < Shape::EACH_O; o++)
#pragma unroll
                for (int r = 0; r < Shape::EACH_R; r++)
                    sum[o][r] = 0;
        }
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
    write(p.split * WEIGHT_BLOCK < p.n_in);
}

template <typename Shape> enum status launch(struct backend_context *context, const matmul_params &p) {
    dim3 grid(ceil_div(p.n_out, Shape::BLOCK_O), ceil_div(p.n_rows, Shape::BLOCK_R));
    return cuda_launch(context, "matmul", kernel_matmul_fma<Shape>, grid, Shape::THREADS, 0, p);
}

} // namespace

enum status matmul_fma(struct backend_context *context, const matmul_params &p) {
    return p.n_rows <= 8 ? launch<fma_shape<32, 8, 1, 1>>(context, p)
                         : launch<fma_shape<16, 16, 4, 4>>(context, p);
}
