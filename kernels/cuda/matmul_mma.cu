/* matmul_mma: bfloat16 products by mma.sync, for every GPU from compute capability 8.0 that has no kernel in
 * matmul_wgmma.cu.
 *
 * Computed as out^T = W . X^T: weight rows are the tensor core's M operand, tokens its N, so that a step of
 * few tokens still uses whole tensor-core tiles and each weight is read once.
 *
 * Numerics: float32 accumulation, one chain per output and part of K over ascending k from zero in steps of
 * 16 (m16n8k16). The order is the same in every tile shape, so the shape may follow the token count while the
 * bits of a row do not: they depend on the weight and the row alone. Padding of k is exact zeros.
 *
 * Shared memory is a ring of stages filled by cp.async. The first stages' weights, which no kernel writes,
 * are requested before the previous kernel is complete. */
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

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
    static_assert(BLOCK_K == WEIGHT_BLOCK, "a stage is one block of the weight layout");
    static_assert(BLOCK_O * CHUNKS % THREADS == 0, "every thread copies the same number of chunks");
};

/* Requests rows [first, first + ROWS) x k block of a weight; rows outside of it are padding of the layout, or
 * zeros. */
template <typename Shape>
__device__ __forceinline__ void request_weight(uint32_t tile, const matmul_params &p, int first, int block) {
    constexpr int CHUNKS = Shape::BLOCK_O * Shape::CHUNKS;
    const unsigned char *weight = static_cast<const unsigned char *>(p.weight);
#pragma unroll
    for (int base = 0; base < CHUNKS; base += Shape::THREADS) {
        int index = base + threadIdx.x;
        int row = index / Shape::CHUNKS, chunk = index % Shape::CHUNKS;
        bool valid = first + row < p.n_out;
        size_t offset = weight_offset(valid ? first + row : 0, block * Shape::CHUNKS + chunk, p.k_blocks);
        ptx_copy_async_16(tile + tile_offset(row, chunk, Shape::CHUNKS), weight + offset, valid);
    }
}

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
    PTX_DYNAMIC_SHARED(shared, 128);
    constexpr int TILES_O = Shape::WARP_O / 16, TILES_R = Shape::WARP_R / 8;
    const bfloat16 *in = static_cast<const bfloat16 *>(p.in);
    int first_output = blockIdx.x * Shape::BLOCK_O, first_row = blockIdx.y * Shape::BLOCK_R;
    int n_steps = (p.n_in + Shape::BLOCK_K - 1) / Shape::BLOCK_K;
    uint32_t ring = ptx_shared_address(shared);

#pragma unroll
    for (int stage = 0; stage < Shape::STAGES - 1; stage++)
        if (stage < n_steps)
            request_weight<Shape>(ring + stage * Shape::STAGE_BYTES, p, first_output, stage);
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

    auto write = [&](bool second) {
#pragma unroll
        for (int i = 0; i < TILES_O; i++)
#pragma unroll
            for (int j = 0; j < TILES_R; j++)
                matmul_write_tile(p, first_row + warp_row + j * 8, first_output + warp_output + i * 16, lane,
                                  sum[i][j], second);
    };

    int stage = 0;
    for (int step = 0; step < n_steps; step++) {
        if (step == p.split) { /* the first part of K is complete */
            write(false);
#pragma unroll
            for (int i = 0; i < TILES_O; i++)
#pragma unroll
                for (int j = 0; j < TILES_R; j++)
                    sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = 0;
        }
        ptx_copy_async_wait<Shape::STAGES - 2>();
        __syncthreads(); /* this stage has arrived for all threads, and all are done with the one refilled
                            below */
        int next = step + Shape::STAGES - 1;
        if (next < n_steps) {
            int refill = stage == 0 ? Shape::STAGES - 1 : stage - 1;
            uint32_t tile = ring + refill * Shape::STAGE_BYTES;
            request_weight<Shape>(tile, p, first_output, next);
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

    write(p.split < n_steps);
}

struct mma_variant {
    int32_t block_o;
    int32_t block_r;
    int32_t threads;
    int32_t shared_bytes;
    void (*kernel)(const matmul_params);
};

template <typename Shape> mma_variant variant() {
    return {Shape::BLOCK_O, Shape::BLOCK_R, Shape::THREADS, Shape::SHARED_BYTES, kernel_matmul_mma<Shape>};
}

/* Few tokens: narrow blocks, many of them, deep rings, to stream weights. More tokens: the largest tile that
 * still gives every multiprocessor a block. */
mma_variant choose(const struct backend_context *context, int32_t n_out, int32_t n_rows) {
    if (n_rows <= 8)
        return variant<mma_shape<16, 8, 16, 8, 12>>();
    if (n_rows <= 16)
        return variant<mma_shape<16, 16, 16, 16, 10>>();
    if (n_rows <= 32)
        return variant<mma_shape<16, 32, 16, 16, 8>>();
    const mma_variant tiles[] = {
        variant<mma_shape<128, 128, 64, 32, 4>>(),
        variant<mma_shape<64, 64, 32, 32, 5>>(),
        variant<mma_shape<32, 64, 16, 32, 6>>(),
    };
    for (const mma_variant &tile : tiles)
        if (ceil_div(n_out, tile.block_o) * ceil_div(n_rows, tile.block_r) >= context->n_multiprocessors)
            return tile;
    return variant<mma_shape<16, 64, 16, 16, 6>>();
}

} // namespace

enum status matmul_mma(struct backend_context *context, const matmul_params &p) {
    mma_variant v = choose(context, p.n_out, p.n_rows);
    dim3 grid(ceil_div(p.n_out, v.block_o), ceil_div(p.n_rows, v.block_r));
    return cuda_launch(context, "matmul", v.kernel, grid, (unsigned)v.threads, (size_t)v.shared_bytes, p);
}
