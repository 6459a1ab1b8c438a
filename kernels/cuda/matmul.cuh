/* matmul: what the kernels of matmul share: their operands, and what happens to a finished sum. Private to
 * matmul*.cu. */
#ifndef PRESSRUN_KERNELS_CUDA_MATMUL_CUH
#define PRESSRUN_KERNELS_CUDA_MATMUL_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/weight_layout.h"

/* Longest K that one chain of sums runs through when it is added to the residual; a longer one is cut into
 * two parts, which are added to the residual one after the other. A function of the weight alone. Few outputs
 * with a long K are all that keeps a multiprocessor waiting for others, and only projections back to the
 * residual have that shape. */
enum { MATMUL_LONGEST_CHAIN = 4096 };

/* From this many rows on, blocks take several tiles, and one of the next kernel beside them is in their way;
 * with fewer it waits with its weights at hand (kernels/README.md). */
enum { MATMUL_LATE_ROWS = 1024 };

struct matmul_params {
    const void *weight; /* [n_out, n_in]; bfloat16: weight_layout.h; float32: rows of in_stride */
    const void *in;     /* [n_rows, n_in] */
    void *out;          /* [n_rows, n_out], or [n_rows, n_out / 2] when gated */
    const float *bias;  /* [n_out] float32, or NULL */
    int64_t in_stride;
    int64_t out_stride;
    int32_t n_out; /* rows of the weight; of a pair both */
    int32_t n_rows;
    int32_t n_in;     /* padded to whole 16-byte vectors */
    int32_t k_blocks; /* of a row of blocks of the weight */
    int32_t split;    /* k block at which the second part begins; k_blocks: there is none */
    enum activation activation;
    bool gated;            /* the activation is one of a pair */
    float softcap;         /* 0: none */
    float softcap_inverse; /* 1 / softcap */
    int32_t width;         /* columns of out */
    bool accumulate;
    bool out_float32;
    struct head_entry *head; /* [n_rows]: the rows are logits, and these say what becomes of them; or NULL */
    float *maxima;           /* with head: [n_rows, groups] of the rows that it lists (context.cuh) */
    int32_t maxima_stride;   /* of groups of HEAD_GROUP */
    bool starts_next_late;   /* the next kernel starts when the last weights are requested, not at once */
};

static __device__ __forceinline__ float matmul_softcap(const matmul_params &p, float sum) {
    return __fmul_rn(p.softcap, tanh_of(__fmul_rn(sum, p.softcap_inverse)));
}

/* An output of a gated activation. */
static __device__ __forceinline__ float matmul_gate(const matmul_params &p, float gate, float up) {
    return __fmul_rn(p.activation == ACTIVATION_SILU_GATED ? silu(gate) : gelu_tanh(gate), up);
}

/* One function for all kernels, here and below, so that a row's bits do not depend on the tile. */
static __device__ __forceinline__ float matmul_finish(const matmul_params &p, float sum, float bias) {
    if (p.bias)
        sum = sum + bias;
    if (p.activation == ACTIVATION_GELU_TANH)
        sum = gelu_tanh(sum);
    if (p.softcap != 0)
        sum = matmul_softcap(p, sum);
    return sum;
}

/* Writes a finished sum. `second`: of the second part of K, whose first part has been written. */
static __device__ __forceinline__ void matmul_write(const matmul_params &p, int row, int output, float sum,
                                                    bool second) {
    if (row >= p.n_rows || output >= p.width)
        return;
    if (!second)
        sum = matmul_finish(p, sum, p.bias ? p.bias[output] : 0.0f);
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

/* Writes an output of a gated activation. */
static __device__ __forceinline__ void matmul_write_gated(const matmul_params &p, int row, int output,
                                                          float gate, float up) {
    if (row >= p.n_rows || output >= p.width)
        return;
    int64_t index = row * p.out_stride + output;
    float product = matmul_gate(p, gate, up);
    if (p.out_float32)
        static_cast<float *>(p.out)[index] = product;
    else
        static_cast<bfloat16 *>(p.out)[index] = from_float<bfloat16>(product);
}

/* Writes the four sums of an m16n8 accumulator tile (tile.h): outputs [first_output, + 16) of rows
 * [first_row, + 8). */
static __device__ __forceinline__ void matmul_write_tile(const matmul_params &p, int first_row,
                                                         int first_output, int lane, const float *sum,
                                                         bool second) {
    int row = first_row + (int)tile_c_column(lane, 0), output = first_output + (int)tile_c_row(lane, 0);
    if (p.gated) {
        static_assert(WEIGHT_PAIR_ROWS == 8, "rows of a pair are the two rows that a thread holds");
        output = first_output / 2 + (int)tile_c_row(lane, 0);
        matmul_write_gated(p, row, output, sum[0], sum[2]);
        matmul_write_gated(p, row + 1, output, sum[1], sum[3]);
        return;
    }
    matmul_write(p, row, output, sum[0], second);
    matmul_write(p, row + 1, output, sum[1], second);
    matmul_write(p, row, output + 8, sum[2], second);
    matmul_write(p, row + 1, output + 8, sum[3], second);
}

/* Each queues the product in its own way; the bits of bfloat16 products are the same. */
enum status matmul_fma(struct backend_context *context, const matmul_params &p);
enum status matmul_mma(struct backend_context *context, const matmul_params &p);
/* For context->has_wgmma, where matmul_wgmma_has_end(p). in: the tensor behind p.in. */
bool matmul_wgmma_has_end(const matmul_params &p);
enum status matmul_wgmma(struct backend_context *context, const matmul_params &p, const struct tensor *in);

/* matmul_wgmma's tile shapes by number, for the sandbox: how many there are, whether one can compute p, and
 * its launch where it can. name: NULL, or where its name goes. */
int matmul_wgmma_variants();
bool matmul_wgmma_can(const matmul_params &p, int index);
enum status matmul_wgmma_launch(struct backend_context *context, const matmul_params &p,
                                const struct tensor *in, int index, char *name, size_t name_bytes);

/* The operands as kernels take them, checked. */
enum status matmul_params_for(const struct matmul_args *args, matmul_params *p);

#endif
