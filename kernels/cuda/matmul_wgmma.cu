/* matmul_wgmma: bfloat16 products on Hopper (compute capability 9.0): warpgroup matrix multiply fed by the
 * copy engine.
 *
 * The picture. out^T = W . X^T is cut into tiles of 64 x CONSUMERS outputs by TOKENS rows:
 *
 *                    TOKENS rows of in (wgmma's N operand)
 *                  +-----------+
 *      64 outputs  |  group 0  |     A stage holds K_BLOCKS blocks of 64 columns of k of both operands:
 *                  +-----------+     weights [CONSUMERS][K_BLOCKS] blocks of 8 KiB (weight_layout.h),
 *      64 outputs  |  group 1  |     rows    [K_BLOCKS] boxes of TOKENS x 128 bytes, all 128-byte-swizzled.
 *                  +-----------+
 *
 * Few rows (BY_WARPS) are multiplied by warps, each its 16 outputs (matmul_warp.cuh), and where outputs are
 * few, too, a tile is a slice of 16 or 32 of them, so that more multiprocessors take weights in.
 *
 * The pipeline. One warp (the producer) fills a ring of STAGES stages; CONSUMERS warpgroups multiply, each
 * its 64 outputs. Blocks are persistent: each takes tiles blockIdx.x, + gridDim.x, ... and its
 * ring runs on from one tile into the next, so the copy engine never waits for an epilogue. Weights, which no
 * kernel writes, are requested before the previous kernel is complete, the rows of in after it.
 *
 * The barriers. full[s]: completed by the bytes of stage s; consumers wait for it. empty[s]: completed by one
 * arrival of every consumer warp, when the products that read stage s are complete (BY_WARPS: of every lane,
 * when it has read its part); the producer waits for it before it fills s again. A stage's use u (0, 1, ...)
 * waits for full[s] with parity u % 2 and for the empty[s] of use u - 1.
 *
 * Sharing. ROW_SHARERS == 2: a cluster of two blocks takes neighbouring rows of the same outputs; each
 * fetches half of the weights for both. A block's stage is then free when the consumers of both have released
 * it, so a consumer warp arrives at the barriers of both.
 *
 * The end of a tile is in matmul_end.cuh.
 *
 * Two parts of K (MATMUL_LONGEST_CHAIN). PARTS == 1: the block computes one after the other and adds each to
 * the residual. PARTS == 2: a cluster of two blocks computes one each, side by side; the second adds its sums
 * when the first's are in memory.
 *
 * Numerics: as matmul_mma.cu, bit for bit (the sandbox compares them): per output one chain over ascending k
 * from zero in steps of 16. */
#include <algorithm>
#include <cstdio>

#include "kernels/cuda/matmul_end.cuh"
#include "kernels/cuda/matmul_warp.cuh"
#include "kernels/cuda/tensor_map.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace {

enum {
    BOX_ALIGNMENT = 1024,
    BY_WARPS_TOKENS = 32, /* up to so many rows of a tile are multiplied by warps */
    /* Of a thread, where HEAD_RAISES. */
    RAISED_PRODUCER_REGISTERS = 24,
    RAISED_CONSUMER_REGISTERS = 240
};
static_assert(RAISED_PRODUCER_REGISTERS + 2 * RAISED_CONSUMER_REGISTERS <= 3 * (65536 / 384 / 8 * 8),
              "what three warpgroups are launched with");

template <int CONSUMERS_, int TOKENS_, int K_BLOCKS_, int STAGES_, int PARTS_ = 1, int ROW_SHARERS_ = 1,
          int GROUP_OUTPUTS_ = WEIGHT_BLOCK>
struct wgmma_shape {
    static constexpr int CONSUMERS = CONSUMERS_, TOKENS = TOKENS_, K_BLOCKS = K_BLOCKS_, STAGES = STAGES_,
                         PARTS = PARTS_;
    static constexpr int ROW_SHARERS = ROW_SHARERS_; /* blocks of different rows with the same weights */
    static constexpr int CLUSTER = ROW_SHARERS * PARTS;
    static constexpr int GROUP_OUTPUTS = GROUP_OUTPUTS_; /* WEIGHT_BLOCK, or a slice of one */
    static constexpr bool SLICED = GROUP_OUTPUTS < WEIGHT_BLOCK;
    static constexpr int OUTPUTS = CONSUMERS * GROUP_OUTPUTS; /* of a block */
    static constexpr bool BY_WARPS = TOKENS <= BY_WARPS_TOKENS;
    static constexpr int CONSUMER_THREADS = CONSUMERS * GROUP_OUTPUTS / 16 * WARP_LANES;
    static constexpr int THREADS = CONSUMER_THREADS + WARP_LANES;
    /* Behind the head of 256 rows all sums are in registers until the last is staged: three idle warps beside
     * the producer let its warpgroup give registers to the consumers. */
    static constexpr bool HEAD_RAISES = CONSUMERS == 2 && TOKENS == 256;
    static constexpr int HEAD_THREADS = HEAD_RAISES ? CONSUMER_THREADS + 128 : THREADS;
    static constexpr int GROUP_BLOCK_BYTES = GROUP_OUTPUTS * ROW_BYTES; /* of a block of k */
    static constexpr int WEIGHT_BYTES = CONSUMERS * K_BLOCKS * GROUP_BLOCK_BYTES;
    static constexpr int BOX_BYTES = TOKENS * ROW_BYTES;
    static constexpr int STAGE_BYTES = WEIGHT_BYTES + K_BLOCKS * BOX_BYTES;
    static constexpr int RING_BYTES = STAGES * STAGE_BYTES;
    static constexpr bool STAGED = TOKENS >= STAGED_ROWS; /* bfloat16 results go through shared memory */
    static constexpr int SHARED_BYTES =
        RING_BYTES + BOX_ALIGNMENT + (STAGED ? CONSUMERS * STAGING_BUFFERS * STAGING_BYTES : 0);
    static constexpr int HEAD_ROWS = TOKENS < STAGED_ROWS ? TOKENS : (int)STAGED_ROWS; /* staged at a time */
    static constexpr int HEAD_STAGING_BYTES = HEAD_ROWS * WEIGHT_BLOCK * (int)sizeof(float);
    static constexpr int HEAD_SHARED_BYTES = RING_BYTES + BOX_ALIGNMENT + CONSUMERS * HEAD_STAGING_BYTES;
    static_assert(PARTS == 1 || ROW_SHARERS == 1, "a cluster is for one of the two");
    static_assert(!BY_WARPS || (CONSUMERS == 1 && K_BLOCKS == 2 && ROW_SHARERS == 1),
                  "what matmul_warp.cuh reads and releases");
    static_assert(!SLICED || BY_WARPS, "wgmma multiplies whole blocks");
    static_assert(CONSUMERS * K_BLOCKS % ROW_SHARERS == 0, "sharers fetch whole blocks of the weight");
    static_assert(BOX_BYTES % BOX_ALIGNMENT == 0, "every box of a stage is aligned");
    static_assert(K_BLOCKS <= 2, "rows of blocks are padded to an even number");
};

/* Where a block stands in its sequence of (tile, part, stage of k): the same walk for producer and consumers.
 * Tiles of the same outputs are neighbours, so that blocks which run together share weights in L2. */
template <typename Shape> struct walk {
    int tile, n_tiles, step; /* of clusters; row_clusters of them take all rows */
    int k, k_end;            /* blocks */
    int part;

    __device__ __forceinline__ void part_begin(const matmul_params &p) {
        k = part == 0 ? 0 : p.split;
        k_end = part == 0 ? p.split : p.k_blocks;
    }
    __device__ __forceinline__ void begin(const matmul_params &p, int n_tiles_) {
        n_tiles = n_tiles_;
        tile = blockIdx.x / Shape::CLUSTER;
        step = gridDim.x / Shape::CLUSTER;
        part = Shape::PARTS == 1 ? 0 : blockIdx.x % Shape::PARTS;
        part_begin(p);
    }
    __device__ __forceinline__ bool active() const { return tile < n_tiles; }
    /* Of the tile, of this block. They divide: not for every stage. */
    __device__ __forceinline__ int first_output(int row_clusters) const {
        return tile / row_clusters * Shape::OUTPUTS;
    }
    __device__ __forceinline__ int first_row(int row_clusters) const {
        return (tile % row_clusters * Shape::ROW_SHARERS + (int)(blockIdx.x % Shape::ROW_SHARERS)) *
               Shape::TOKENS;
    }
    /* To the next part, or tile. */
    __device__ __forceinline__ void next_part(const matmul_params &p) {
        if (Shape::PARTS == 1 && part == 0 && p.split < p.k_blocks) {
            part = 1;
        } else {
            tile += step;
            part = Shape::PARTS == 1 ? 0 : part;
        }
        part_begin(p);
    }
    __device__ __forceinline__ void next(const matmul_params &p) {
        k += Shape::K_BLOCKS;
        if (k >= k_end)
            next_part(p);
    }
};

/* A walk of the producer's, and where its tile lies. */
template <typename Shape> struct producer_walk : walk<Shape> {
    int row_clusters, output, row;

    __device__ __forceinline__ producer_walk(const matmul_params &p, int n_tiles, int row_clusters_)
        : row_clusters(row_clusters_) {
        this->begin(p, n_tiles);
        output = this->first_output(row_clusters), row = this->first_row(row_clusters);
    }
    __device__ __forceinline__ void next_stage(const matmul_params &p) {
        const int before = this->tile;
        this->next(p);
        if (this->tile != before)
            output = this->first_output(row_clusters), row = this->first_row(row_clusters);
    }
};

/* By a whole warp, of which one lane copies: addresses are then the warp's, as the copies want them. */
template <typename Shape>
__device__ __forceinline__ void produce(const matmul_params &p, const void *in_map, uint32_t ring,
                                        uint32_t full, uint32_t empty, int n_tiles, int row_clusters) {
    const bool copies = ptx_elect();
    const unsigned char *weight = static_cast<const unsigned char *>(p.weight);
    auto copy_weights = [&](const producer_walk<Shape> &w, int stage) {
        uint32_t barrier = full + 8 * stage, to = ring + stage * Shape::STAGE_BYTES;
        ptx_barrier_expect(barrier, Shape::STAGE_BYTES);
        /* Outputs beyond the weight read its last row of blocks again; nothing is written for them. */
        int first = w.output / WEIGHT_BLOCK, last = (int)weight_row_blocks(p.n_out) - 1;
        auto block_of = [&](int consumer) {
            return weight + ((int64_t)min(first + consumer, last) * p.k_blocks + w.k) * WEIGHT_BLOCK_BYTES;
        };
        if constexpr (Shape::SLICED) {
            const unsigned char *slice = block_of(0) + w.output % WEIGHT_BLOCK * ROW_BYTES;
#pragma unroll
            for (int b = 0; b < Shape::K_BLOCKS; b++)
                ptx_copy_bulk(to + b * Shape::GROUP_BLOCK_BYTES, slice + b * WEIGHT_BLOCK_BYTES,
                              Shape::GROUP_BLOCK_BYTES, barrier);
        } else if constexpr (Shape::ROW_SHARERS == 1) {
#pragma unroll
            for (int c = 0; c < Shape::CONSUMERS; c++)
                ptx_copy_bulk(to + c * Shape::K_BLOCKS * WEIGHT_BLOCK_BYTES, block_of(c),
                              Shape::K_BLOCKS * WEIGHT_BLOCK_BYTES, barrier);
        } else {
            constexpr int EACH = Shape::CONSUMERS * Shape::K_BLOCKS / Shape::ROW_SHARERS;
            constexpr uint16_t ALL = (1 << Shape::ROW_SHARERS) - 1;
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                int block = (int)(blockIdx.x % Shape::ROW_SHARERS) * EACH + i, c = block / Shape::K_BLOCKS,
                    b = block % Shape::K_BLOCKS;
                ptx_copy_bulk_shared(to + block * WEIGHT_BLOCK_BYTES, block_of(c) + b * WEIGHT_BLOCK_BYTES,
                                     WEIGHT_BLOCK_BYTES, barrier, ALL);
            }
        }
    };
    auto copy_rows = [&](const producer_walk<Shape> &w, int stage) {
        uint32_t to = ring + stage * Shape::STAGE_BYTES + Shape::WEIGHT_BYTES;
#pragma unroll
        for (int b = 0; b < Shape::K_BLOCKS; b++)
            ptx_copy_box(to + b * Shape::BOX_BYTES, in_map, (w.k + b) * WEIGHT_BLOCK, w.row,
                         full + 8 * stage);
    };
    producer_walk<Shape> ahead(p, n_tiles, row_clusters), behind(p, n_tiles, row_clusters);
    int n_first = 0;
    for (; n_first < Shape::STAGES && ahead.active(); n_first++, ahead.next_stage(p))
        if (copies)
            copy_weights(ahead, n_first);
    ptx_wait_for_previous_kernels();
    for (int stage = 0; stage < n_first; stage++, behind.next_stage(p))
        if (copies)
            copy_rows(behind, stage);
    ring_position<Shape::STAGES> at;
    for (; ahead.active(); ahead.next_stage(p), at.next()) {
        ptx_barrier_wait(empty + 8 * at.stage, at.parity, "matmul empty");
        if (copies) {
            copy_weights(ahead, at.stage);
            copy_rows(ahead, at.stage);
        }
        __syncwarp(); /* lanes stay together: one that is two uses behind would wait for ever */
    }
}

/* sum += the products of the part where w stands, by this thread's warp or warpgroup; `at` moves behind its
 * stages. release(stage): they are no longer needed here. */
template <typename Shape, typename Release>
__device__ __forceinline__ void multiply(float (&sum)[Shape::TOKENS / 2], const walk<Shape> &w, uint32_t ring,
                                         uint32_t full, ring_position<Shape::STAGES> &at, int group, int warp,
                                         int lane, const Release &release) {
    if constexpr (Shape::BY_WARPS) {
        warp_multiply<Shape>(sum, ring, full, at, (w.k_end - w.k) / Shape::K_BLOCKS, warp, lane, release);
    } else {
        int previous = -1;
        for (int k = w.k; k < w.k_end; k += Shape::K_BLOCKS, at.next()) {
            ptx_barrier_wait(full + 8 * at.stage, at.parity, "matmul full");
            uint32_t weights =
                ring + at.stage * Shape::STAGE_BYTES + group * Shape::K_BLOCKS * WEIGHT_BLOCK_BYTES;
            uint32_t rows = ring + at.stage * Shape::STAGE_BYTES + Shape::WEIGHT_BYTES;
            wgmma_begin();
#pragma unroll
            for (int b = 0; b < Shape::K_BLOCKS; b++)
#pragma unroll
                for (int k16 = 0; k16 < WEIGHT_BLOCK / 16; k16++)
                    wgmma<Shape::TOKENS>(sum, wgmma_operand(weights + b * WEIGHT_BLOCK_BYTES + k16 * 32),
                                         wgmma_operand(rows + b * Shape::BOX_BYTES + k16 * 32));
            wgmma_commit();
            wgmma_wait<1>(); /* the products of the stage before this one are complete */
            if (previous >= 0)
                release(previous);
            previous = at.stage;
        }
        wgmma_wait<0>();
        release(previous);
    }
}

template <typename Shape, tile_end END>
__global__ void __launch_bounds__(END == END_HEAD ? Shape::HEAD_THREADS : Shape::THREADS, 1)
    kernel_matmul_wgmma(const __grid_constant__ CUtensorMap in_map,
                        const __grid_constant__ CUtensorMap out_map, const matmul_params p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    PTX_DYNAMIC_SHARED(shared, 1);
    __shared__ __align__(8) uint64_t barriers[2 * Shape::STAGES];
    uint32_t ring = (ptx_shared_address(shared) + BOX_ALIGNMENT - 1) / BOX_ALIGNMENT * BOX_ALIGNMENT;
    uint32_t full = ptx_shared_address(barriers), empty = full + 8 * Shape::STAGES;
    constexpr int RELEASES =
        Shape::BY_WARPS ? Shape::CONSUMER_THREADS : Shape::CONSUMER_THREADS / WARP_LANES * Shape::ROW_SHARERS;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Shape::STAGES; stage++) {
            ptx_barrier_init(full + 8 * stage, 1);
            ptx_barrier_init(empty + 8 * stage, RELEASES);
        }
        ptx_barrier_init_done();
    }
    if (Shape::ROW_SHARERS > 1)
        ptx_cluster_meet(); /* the barriers of all blocks are initialised */
    else
        __syncthreads(); /* the barriers are initialised */
    constexpr int CLUSTER_ROWS = Shape::TOKENS * Shape::ROW_SHARERS;
    int row_clusters = (p.n_rows + CLUSTER_ROWS - 1) / CLUSTER_ROWS;
    int n_tiles = (p.n_out + Shape::OUTPUTS - 1) / Shape::OUTPUTS * row_clusters;
    int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    if (!p.starts_next_late)
        ptx_allow_next_kernel();

    constexpr bool RAISES = END == END_HEAD && Shape::HEAD_RAISES;
    if (warp >= Shape::CONSUMER_THREADS / WARP_LANES) {
        if (RAISES) {
            ptx_registers_lower<RAISED_PRODUCER_REGISTERS>();
            if (warp > Shape::CONSUMER_THREADS / WARP_LANES)
                return;
        }
        produce<Shape>(p, &in_map, ring, full, empty, n_tiles, row_clusters);
        __syncwarp(); /* all is requested; the cluster's barriers below are for whole warps */
        if (p.starts_next_late)
            ptx_allow_next_kernel();
        if (Shape::PARTS == 2)
            ptx_cluster_barrier();
        if (Shape::ROW_SHARERS > 1)
            ptx_cluster_meet(); /* the other blocks may still arrive here */
        return;
    }

    if (RAISES)
        ptx_registers_raise<RAISED_CONSUMER_REGISTERS>();
    int group = warp / 4;
    walk<Shape> w;
    w.begin(p, n_tiles);
    auto bias_here = [&]() {
        const int output = w.first_output(row_clusters) + warp * 16 + (int)tile_c_row(lane, 0);
        return output_bias{p.bias && output < p.n_out ? p.bias[output] : 0.0f,
                           p.bias && output + 8 < p.n_out ? p.bias[output + 8] : 0.0f};
    };
    /* No kernel writes it: read ahead, but where the sums leave no register for it. */
    output_bias bias = {0, 0};
    if (!Shape::STAGED)
        bias = bias_here();
    ptx_wait_for_previous_kernels();
    constexpr int OF_GROUP = END == END_HEAD ? Shape::HEAD_STAGING_BYTES : STAGING_BUFFERS * STAGING_BYTES;
    destination d = {&out_map, ring + Shape::RING_BYTES + group * OF_GROUP, 0, 0, warp % 4, lane};
    /* Lane i releases a stage to block i of those that copy here. */
    uint32_t released = Shape::ROW_SHARERS > 1 && lane < Shape::ROW_SHARERS
                            ? ptx_cluster_address(empty, (uint32_t)lane)
                            : empty;
    auto release = [&](int stage) {
        if (!Shape::BY_WARPS && lane >= Shape::ROW_SHARERS)
            return;
        if (Shape::ROW_SHARERS > 1)
            ptx_cluster_arrive(released + 8 * stage);
        else
            ptx_barrier_arrive(released + 8 * stage);
    };
    ring_position<Shape::STAGES> at;
    while (w.active()) {
        float sum[Shape::TOKENS / 2] = {};
        multiply<Shape>(sum, w, ring, full, at, group, warp, lane, release);
        d.row = w.first_row(row_clusters);
        d.output = w.first_output(row_clusters) + group * Shape::GROUP_OUTPUTS;
        if (Shape::STAGED && p.bias)
            bias = bias_here();
        if (Shape::PARTS == 2 && w.part == 1)
            ptx_cluster_barrier(); /* the first part is in memory */
        finish<Shape, END>(p, d, sum, bias, w.part == 1);
        if (Shape::PARTS == 2 && w.part == 0) {
            if (Shape::STAGED)
                ptx_store_wait_all();
            ptx_cluster_barrier();
        }
        w.next_part(p);
        if (!Shape::STAGED)
            bias = bias_here();
    }
    if (Shape::STAGED || END == END_HEAD)
        ptx_store_wait_all();
    if (Shape::ROW_SHARERS > 1)
        ptx_cluster_meet(); /* the other blocks may still arrive here */
#endif
}

/* ---- launch shape ---- */

struct wgmma_variant {
    int32_t outputs;
    int32_t tokens;
    int32_t k_blocks; /* of a stage */
    int32_t parts;
    int32_t cluster;
    int32_t row_sharers;
    int32_t threads;
    int32_t head_threads; /* with END_HEAD, as what follows */
    int32_t shared_bytes;
    int32_t head_shared_bytes;
    int32_t head_rows; /* that it stages at a time */
    void (*kernels[N_ENDS])(const CUtensorMap, const CUtensorMap, const matmul_params); /* NULL: none */
};

template <typename Shape> wgmma_variant variant() {
    wgmma_variant v = {Shape::OUTPUTS,      Shape::TOKENS,
                       Shape::K_BLOCKS,     Shape::PARTS,
                       Shape::CLUSTER,      Shape::ROW_SHARERS,
                       Shape::THREADS,      Shape::HEAD_THREADS,
                       Shape::SHARED_BYTES, Shape::HEAD_SHARED_BYTES,
                       Shape::HEAD_ROWS,    {}};
    v.kernels[END_ADD] = kernel_matmul_wgmma<Shape, END_ADD>;
    if constexpr (Shape::PARTS == 1) { /* only what is added to the residual has two parts */
        v.kernels[END_STORE] = kernel_matmul_wgmma<Shape, END_STORE>;
        v.kernels[END_GATED] = kernel_matmul_wgmma<Shape, END_GATED>;
    }
    if constexpr (Shape::PARTS == 1 && !Shape::SLICED) /* heads have outputs enough */
        v.kernels[END_FLOAT32] = kernel_matmul_wgmma<Shape, END_FLOAT32>;
    if constexpr (Shape::CLUSTER == 1 && !Shape::SLICED && Shape::CONSUMERS < 3)
        v.kernels[END_HEAD] = kernel_matmul_wgmma<Shape, END_HEAD>;
    return v;
}

tile_end end_of(const matmul_params &p) {
    return p.head          ? END_HEAD
           : p.accumulate  ? END_ADD
           : p.gated       ? END_GATED
           : p.out_float32 ? END_FLOAT32
                           : END_STORE;
}

/* Predicted time of a shape in nanoseconds, but for what all shapes have in common. Tiles run in waves over
 * the multiprocessors; a tile takes as long as its bytes take (out of L2 to all, or into one multiprocessor),
 * or its products, or its stages' copies, then its end; all take as long as the weights do from memory. The
 * constants are fitted together to a sweep on an H100 (kernel_bench --sweep 1), so that the choice is good;
 * none is a measurement of its own. Each warp reads all rows of a tile from shared memory, so more rows cost
 * more where there are more warps. Over 13 layers and 8 row counts the choice is 1.6 % slower than the best
 * on average. */
double predicted_ns(const struct backend_context *context, const matmul_params &p, const wgmma_variant &v) {
    const double all_bytes_per_ns = 9100, sm_bytes_per_ns = 76, memory_bytes_per_ns = 3970;
    const double cycles_per_ns = 1.755, least_wgmma_cycles = 45;
    const double mma_cycles = 37, more_rows_cycles = 8.6; /* of a warp's step; each eight rows more */
    const double stage_ns = 171, warps_tile_ns = 690, result_ns = 0.062, parts_ns = 3225, sharing_ns = 170;
    const bool by_warps = v.tokens <= BY_WARPS_TOKENS;
    double k_blocks = (double)p.k_blocks / v.parts;
    double tiles = (double)ceil_div(p.n_out, v.outputs) * v.parts *
                   (ceil_div(p.n_rows, v.tokens * v.row_sharers) * v.row_sharers);
    double n_sm = context->n_multiprocessors, at_once = tiles < n_sm ? tiles : n_sm;
    double waves = (double)(int64_t)((tiles + n_sm - 1) / n_sm);
    double cycles;
    if (by_warps)
        cycles =
            mma_cycles + more_rows_cycles * (v.tokens / 8 - 1) * (v.outputs > 32 ? v.outputs / 32.0 : 1.0);
    else
        cycles = std::max(v.outputs / WEIGHT_BLOCK * v.tokens / 2.0, least_wgmma_cycles);
    const double from_l2 = k_blocks * ROW_BYTES * ((double)v.outputs / v.row_sharers + v.tokens);
    const double into_sm = k_blocks * ROW_BYTES * (v.outputs + v.tokens);
    double ns =
        std::max({from_l2 * at_once / all_bytes_per_ns, into_sm / sm_bytes_per_ns,
                  k_blocks * (WEIGHT_BLOCK / 16) * cycles / cycles_per_ns, k_blocks / v.k_blocks * stage_ns});
    ns = waves * (ns + (by_warps ? warps_tile_ns : 0) + result_ns * v.outputs * v.tokens);
    return std::max(ns, 2.0 * p.n_out * p.n_in / memory_bytes_per_ns) + (v.parts == 2 ? parts_ns : 0) +
           (v.row_sharers > 1 ? sharing_ns : 0);
}

template <int OUTPUTS, int TOKENS, int STAGES, int PARTS = 1>
using slices = wgmma_shape<1, TOKENS, 2, STAGES, PARTS, 1, OUTPUTS>;

const wgmma_variant VARIANTS[] = {
    variant<wgmma_shape<1, 8, 2, 6>>(),
    variant<wgmma_shape<1, 16, 2, 6>>(),
    variant<wgmma_shape<1, 32, 2, 6>>(),
    variant<wgmma_shape<1, 64, 2, 5>>(),
    variant<wgmma_shape<2, 64, 1, 8>>(),
    variant<wgmma_shape<2, 64, 1, 8, 1, 2>>(),
    variant<wgmma_shape<2, 128, 1, 6>>(),
    variant<wgmma_shape<2, 128, 1, 6, 1, 2>>(),
    variant<wgmma_shape<3, 128, 1, 4>>(),
    variant<wgmma_shape<2, 256, 1, 4>>(),
    variant<wgmma_shape<1, 8, 2, 6, 2>>(),
    variant<wgmma_shape<1, 16, 2, 6, 2>>(),
    variant<wgmma_shape<1, 32, 2, 6, 2>>(),
    variant<wgmma_shape<1, 64, 2, 5, 2>>(),
    variant<wgmma_shape<2, 64, 1, 8, 2>>(),
    variant<wgmma_shape<2, 128, 1, 6, 2>>(),
    variant<wgmma_shape<2, 256, 1, 4, 2>>(),
    variant<slices<16, 8, 12>>(),
    variant<slices<16, 16, 12>>(),
    variant<slices<16, 32, 8>>(),
    variant<slices<32, 8, 10>>(),
    variant<slices<32, 16, 10>>(),
    variant<slices<32, 32, 8>>(),
    variant<slices<32, 8, 10, 2>>(),
    variant<slices<32, 16, 10, 2>>(),
    variant<slices<32, 32, 8, 2>>(),
};
const int N_VARIANTS = sizeof VARIANTS / sizeof VARIANTS[0];

bool can_compute(const matmul_params &p, const wgmma_variant &v) {
    bool has_groups = !p.head || v.tokens > HEAD_NARROW_ROWS || p.n_rows <= v.tokens;
    return matmul_wgmma_has_end(p) && (v.parts == 1 || p.split < p.k_blocks) && v.kernels[end_of(p)] &&
           has_groups;
}

/* Bits do not depend on the choice. */
int choose(const struct backend_context *context, const matmul_params &p) {
    int best = 0;
    double best_ns = 0;
    for (int i = 0; i < N_VARIANTS; i++) {
        const wgmma_variant &v = VARIANTS[i];
        /* Of shapes that are wider than all rows the narrowest: all stream the weights once. */
        if (!can_compute(p, v) || (v.tokens > 8 && v.tokens / 2 >= p.n_rows))
            continue;
        double ns = predicted_ns(context, p, v);
        if (best_ns == 0 || ns < best_ns) {
            best = i;
            best_ns = ns;
        }
    }
    return best;
}

} // namespace

/* Not there: float32 results of an activation, bfloat16 results of a soft cap. No model has them. */
bool matmul_wgmma_has_end(const matmul_params &p) {
    bool gelu = p.activation == ACTIVATION_GELU_TANH;
    return !(p.out_float32 && (p.gated || gelu)) && !(p.softcap != 0 && !p.out_float32);
}

int matmul_wgmma_variants() {
    return N_VARIANTS;
}

bool matmul_wgmma_can(const matmul_params &p, int index) {
    return can_compute(p, VARIANTS[index]);
}

enum status matmul_wgmma_launch(struct backend_context *context, const matmul_params &p,
                                const struct tensor *in, int index, char *name, size_t name_bytes) {
    const wgmma_variant &v = VARIANTS[index];
    if (name)
        snprintf(name, name_bytes,
                 v.parts == 2        ? "%dx%d parts"
                 : v.row_sharers > 1 ? "%dx%d shared"
                                     : "%dx%d",
                 v.outputs, v.tokens);
    if (p.head)
        context->step.head_group = head_group_tokens(v.head_rows);
    CUtensorMap in_map, out_map;
    TRY(cuda_tensor_map(context, "matmul", p.in, DTYPE_BFLOAT16, in->rows, in->cols, p.in_stride, v.tokens,
                        WEIGHT_BLOCK, &in_map));
    bool half = p.out_float32 || p.gated;
    TRY(cuda_tensor_map(context, "matmul", p.out, p.out_float32 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16, p.n_rows,
                        p.width, p.out_stride, p.head ? v.head_rows : (int32_t)STAGED_ROWS,
                        half ? WEIGHT_BLOCK / 2 : WEIGHT_BLOCK, &out_map));
    int32_t tiles = ceil_div(p.n_out, v.outputs) * ceil_div(p.n_rows, v.tokens * v.row_sharers);
    /* Two blocks that compute parts of K are gone after one tile; others stay. */
    int32_t most = v.parts == 2 ? tiles : context->n_multiprocessors / v.cluster;
    return cuda_launch_clusters(
        context, "matmul", v.kernels[end_of(p)], dim3((tiles < most ? tiles : most) * v.cluster),
        (unsigned)(p.head ? v.head_threads : v.threads),
        (size_t)(p.head ? v.head_shared_bytes : v.shared_bytes), (unsigned)v.cluster, in_map, out_map, p);
}

enum status matmul_wgmma(struct backend_context *context, const matmul_params &p, const struct tensor *in) {
    return matmul_wgmma_launch(context, p, in, choose(context, p), nullptr, 0);
}
