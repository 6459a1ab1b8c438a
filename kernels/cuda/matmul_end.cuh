/* matmul_end: what becomes of the sums of a tile of matmul_wgmma.cu, which includes it: bias, activation, and
 * to memory.
 *
 * The end of a tile. Results of wide tiles are transposed into shared memory, 64 rows at a time, and taken
 * from there by the copy engine, while the consumers go on. Sums for the residual are added to it in memory
 * (by the copy engine; narrow tiles by red.add from registers): nobody waits for its old value. One addition
 * per element and part of K, so their order is fixed. */
#ifndef PRESSRUN_KERNELS_CUDA_MATMUL_END_CUH
#define PRESSRUN_KERNELS_CUDA_MATMUL_END_CUH

#include "kernels/cuda/head.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

enum {
    STAGED_ROWS = 64, /* rows of a tile that are transposed at a time */
    STAGING_BYTES = STAGED_ROWS * ROW_BYTES,
    STAGING_BUFFERS = 2 /* per warpgroup */
};

/* What becomes of the sums of a tile. Each has kernels of its own: together they outgrow the instruction
 * cache (kernels/README.md). */
enum tile_end {
    END_STORE,   /* bias, gelu; to bfloat16 */
    END_GATED,   /* a gated activation of pairs; to bfloat16 */
    END_FLOAT32, /* bias, soft cap; to float32 */
    END_ADD,     /* bias; added to the residual */
    END_HEAD,    /* logits that are only there to be sampled: head.cuh */
    N_ENDS
};

/* Where the sums of a warpgroup go: outputs [output, + 64), or a slice, of rows [row, + TOKENS). */
struct destination {
    const void *map; /* of out, for staged results */
    uint32_t staging;
    int row;
    int output;
    int warp; /* of the warpgroup */
    int lane;
};

/* float32 results of narrow tiles: eight lanes hold neighbouring outputs of a row. */
template <typename Shape, tile_end END>
__device__ __forceinline__ void write_float32(const matmul_params &p, const destination &d,
                                              const float (&sum)[Shape::TOKENS / 2]) {
#pragma unroll
    for (int i = 0; i < Shape::TOKENS / 2; i++) {
        int row = d.row + i / 4 * 8 + (int)tile_c_column(d.lane, i % 4);
        int output = d.output + d.warp * 16 + (int)tile_c_row(d.lane, i % 4);
        if (row >= p.n_rows || output >= p.width)
            continue;
        float *at = static_cast<float *>(p.out) + row * p.out_stride + output;
        if (END == END_ADD)
            ptx_add(at, sum[i]);
        else
            *at = sum[i];
    }
}

/* bfloat16 results of narrow tiles. */
template <typename Shape, tile_end END>
__device__ __forceinline__ void write_bfloat16(const matmul_params &p, const destination &d,
                                               const float (&sum)[Shape::TOKENS / 2]) {
    constexpr bool gated = END == END_GATED;
#pragma unroll
    for (int i = 0; i < Shape::TOKENS / 2; i++) {
        int row = d.row + i / 4 * 8 + (int)tile_c_column(d.lane, i % 4);
        int output = gated ? d.output / 2 + d.warp * 8 + d.lane / 4
                           : d.output + d.warp * 16 + (int)tile_c_row(d.lane, i % 4);
        if ((gated && i % 4 >= 2) || row >= p.n_rows || output >= p.width)
            continue;
        static_cast<bfloat16 *>(p.out)[row * p.out_stride + output] = from_float<bfloat16>(sum[i]);
    }
}

/* bfloat16 results of wide tiles: [64 rows][64 outputs, or 32 of a pair] transposed into shared memory,
 * swizzled as the tensor map says, then stored by the copy engine. */
template <typename Shape, tile_end END>
__device__ __forceinline__ void write_staged(const destination &d, const float (&sum)[Shape::TOKENS / 2]) {
    constexpr int ROUNDS = Shape::TOKENS / STAGED_ROWS;
    constexpr bool gated = END == END_GATED;
    bool leader = d.warp == 0 && d.lane == 0;
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t buffer = d.staging + round % STAGING_BUFFERS * STAGING_BYTES;
        if (leader)
            ptx_store_wait_read<(ROUNDS > 1 ? STAGING_BUFFERS - 1 : 0)>();
        ptx_named_barrier(1 + threadIdx.x / 128, 128); /* the buffer's last store has read it */
        if (gated) {
#pragma unroll
            for (int j = 0; j < STAGED_ROWS / 8; j += 4) {
                uint32_t r[4];
#pragma unroll
                for (int m = 0; m < 4; m++) {
                    const float *c = &sum[(round * (STAGED_ROWS / 8) + j + m) * 4];
                    r[m] = pack_bfloat16(c[0], c[1]);
                }
                uint32_t row = (uint32_t)(j * 8 + d.lane);
                ptx_store_matrix_x4_transposed(buffer + tile_offset(row, (uint32_t)d.warp, 4), r[0], r[1],
                                               r[2], r[3]);
            }
        } else {
#pragma unroll
            for (int j = 0; j < STAGED_ROWS / 8; j += 2) {
                uint32_t r[4];
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    const float *c = &sum[(round * (STAGED_ROWS / 8) + j + m) * 4];
                    r[2 * m] = pack_bfloat16(c[0], c[1]);
                    r[2 * m + 1] = pack_bfloat16(c[2], c[3]);
                }
                uint32_t row = (uint32_t)(j * 8 + d.lane / 16 * 8 + d.lane % 8);
                uint32_t chunk = (uint32_t)(d.warp * 2 + d.lane / 8 % 2);
                ptx_store_matrix_x4_transposed(buffer + tile_offset(row, chunk, 8), r[0], r[1], r[2], r[3]);
            }
        }
        ptx_fence_for_copies();
        ptx_named_barrier(1 + threadIdx.x / 128, 128); /* the buffer is complete */
        int column = gated ? d.output / 2 : d.output;
        if (leader)
            ptx_store_box(d.map, column, d.row + round * STAGED_ROWS, buffer);
    }
}

/* Sums of ROWS rows, float32, to shared memory: of the outputs two halves [ROWS][32], swizzled as the tensor
 * map says. */
template <typename Shape, int ROWS>
__device__ __forceinline__ void stage_float32(const destination &d, int round,
                                              const float (&sum)[Shape::TOKENS / 2]) {
    static_assert(ROWS % TILE_SWIZZLE_ROWS == 0, "rows of the swizzle repeat");
    uint32_t buffer = d.staging + (uint32_t)(d.warp / 2) * (ROWS * ROW_BYTES), at[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t row = tile_c_column(d.lane, i), output = (uint32_t)(d.warp % 2 * 16) + tile_c_row(d.lane, i);
        at[i] = buffer + tile_offset(row, output / 4, 8) + output % 4 * 4;
    }
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++)
        ptx_store_shared(at[i % 4] + i / 4 * (TILE_SWIZZLE_ROWS * ROW_BYTES), sum[round * (ROWS / 2) + i]);
}

/* The same of a round that is counted while the kernel runs: registers name the sums, so each has its own
 * stores. */
template <typename Shape, int ROUND = 0>
__device__ __forceinline__ void stage_round(const destination &d, int round,
                                            const float (&sum)[Shape::TOKENS / 2]) {
    if (round == ROUND)
        stage_float32<Shape, Shape::HEAD_ROWS>(d, ROUND, sum);
    else if constexpr (ROUND + 1 < Shape::TOKENS / Shape::HEAD_ROWS)
        stage_round<Shape, ROUND + 1>(d, round, sum);
}

/* float32 results of wide tiles: [64 rows][32 outputs] twice, as above, stored or added. */
template <typename Shape, tile_end END>
__device__ __forceinline__ void write_staged_float32(const destination &d,
                                                     const float (&sum)[Shape::TOKENS / 2]) {
    static_assert(STAGING_BUFFERS == 2, "a buffer for each half of the outputs");
    constexpr int HALF = WEIGHT_BLOCK / 2;
    bool leader = d.warp == 0 && d.lane == 0;
#pragma unroll
    for (int round = 0; round < Shape::TOKENS / STAGED_ROWS; round++) {
        if (leader)
            ptx_store_wait_read<0>();
        ptx_named_barrier(1 + threadIdx.x / 128, 128); /* the buffers' last stores have read them */
        stage_float32<Shape, STAGED_ROWS>(d, round, sum);
        ptx_fence_for_copies();
        ptx_named_barrier(1 + threadIdx.x / 128, 128); /* the buffers are complete */
        if (!leader)
            continue;
        int row = d.row + round * STAGED_ROWS;
        for (int half = 0; half < 2; half++) {
            if (END == END_ADD)
                ptx_add_box(d.map, d.output + half * HALF, row, d.staging + half * STAGING_BYTES);
            else
                ptx_store_box(d.map, d.output + half * HALF, row, d.staging + half * STAGING_BYTES);
        }
    }
}

/* Of the two outputs whose sums a thread holds. */
struct output_bias {
    float low, high;
};

/* Bias, activation, and to memory. second: the sums of the second part of K. The steps over all sums are
 * apart, each behind one branch: code that is executed once costs more than it computes. */
template <typename Shape, tile_end END>
__device__ __forceinline__ void finish(const matmul_params &p, const destination &d,
                                       float (&sum)[Shape::TOKENS / 2], output_bias bias, bool second) {
    constexpr int N = Shape::TOKENS / 2;
    if constexpr (END == END_HEAD) {
        head_finish<Shape>(p, d.map, d.staging, d.row, d.output,
                           [&](int round) { stage_round<Shape>(d, round, sum); });
        return;
    }
    if (END != END_GATED && p.bias && !second) {
#pragma unroll
        for (int i = 0; i < N; i++)
            sum[i] = sum[i] + (i % 4 < 2 ? bias.low : bias.high);
    }
    if (END == END_STORE && p.activation == ACTIVATION_GELU_TANH) {
#pragma unroll
        for (int i = 0; i < N; i++)
            sum[i] = gelu_tanh(sum[i]);
    }
    if (END == END_GATED && p.activation == ACTIVATION_SILU_GATED) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            sum[i] = silu(sum[i]) * sum[i + 2];
            sum[i + 1] = silu(sum[i + 1]) * sum[i + 3];
        }
    }
    if (END == END_GATED && p.activation == ACTIVATION_GELU_TANH_GATED) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            sum[i] = gelu_tanh(sum[i]) * sum[i + 2];
            sum[i + 1] = gelu_tanh(sum[i + 1]) * sum[i + 3];
        }
    }
    if (END == END_FLOAT32 && p.softcap != 0) {
#pragma unroll
        for (int i = 0; i < N; i++)
            sum[i] = matmul_softcap(p, sum[i]);
    }
    constexpr bool to_float32 = END == END_FLOAT32 || END == END_ADD;
    if constexpr (Shape::STAGED) {
        if (second && d.warp == 0 && d.lane == 0)
            ptx_store_wait_all(); /* the first part is added before the second */
        if constexpr (to_float32)
            write_staged_float32<Shape, END>(d, sum);
        else
            write_staged<Shape, END>(d, sum);
    } else if constexpr (to_float32) {
        write_float32<Shape, END>(p, d, sum);
    } else {
        write_bfloat16<Shape, END>(p, d, sum);
    }
}

} // namespace

#endif
