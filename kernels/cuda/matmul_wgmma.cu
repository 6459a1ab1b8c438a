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
 * What bounds it. Shared memory, 128 bytes a cycle: a group reads its weights and all rows of a stage for its
 * products, and the copies write both. So for each block of 64 columns of k a tile of G groups by T rows
 * takes G (64 + T) + (64 G + T) cycles, where its products take 2 G T: a single group is fed better by 128
 * rows than two by 64, and only from 128 x 256 on is a tile bound by its products.
 *
 * The pipeline. One warp (the producer) fills a ring of STAGES stages; CONSUMERS warpgroups multiply, each
 * its 64 outputs. Blocks are persistent: each takes tiles blockIdx.x, + gridDim.x, ... and its
 * ring runs on from one tile into the next, so the copy engine never waits for an epilogue. Weights, which no
 * kernel writes, are requested before the previous kernel is complete, the rows of in after it.
 *
 * The barriers. full[s]: completed by the bytes of stage s; consumers wait for it. empty[s]: completed by one
 * arrival of every consumer warp, when the products that read stage s are complete (BY_WARPS: of every lane,
 * when what it reads is in registers); the producer waits for it before it fills s again. A stage's use u (0,
 * 1, ...) waits for full[s] with parity u % 2 and for the empty[s] of use u - 1.
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
    BAND_ROWS = 1024,     /* that are taken for all outputs before the next */
    BY_WARPS_TOKENS = 16, /* up to so many rows of a tile are multiplied by warps */
    MOST_SHARED_BYTES = 227 * 1024,
    /* Of a thread, where HEAD_RAISES. */
    RAISED_PRODUCER_REGISTERS = 24,
    RAISED_CONSUMER_REGISTERS = 240
};
static_assert(RAISED_PRODUCER_REGISTERS + 2 * RAISED_CONSUMER_REGISTERS <= 3 * (65536 / 384 / 8 * 8),
              "what three warpgroups are launched with");

template <int CONSUMERS_, int TOKENS_, int K_BLOCKS_, int STAGES_, int PARTS_ = 1,
          int GROUP_OUTPUTS_ = WEIGHT_BLOCK>
struct wgmma_shape {
    static constexpr int CONSUMERS = CONSUMERS_, TOKENS = TOKENS_, K_BLOCKS = K_BLOCKS_, STAGES = STAGES_,
                         PARTS = PARTS_; /* 2: a cluster has a block for each part of K; 1: a block has all */
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
    static constexpr int BARRIER_BYTES = 2 * STAGES * 8;
    static_assert(std::max(SHARED_BYTES, HEAD_SHARED_BYTES) + BARRIER_BYTES <= MOST_SHARED_BYTES,
                  "a block of Hopper has them");
    static_assert(!BY_WARPS || (CONSUMERS == 1 && K_BLOCKS == 2), "what matmul_warp.cuh reads and releases");
    static_assert(!SLICED || BY_WARPS, "wgmma multiplies whole blocks");
    static_assert(BOX_BYTES % BOX_ALIGNMENT == 0, "every box of a stage is aligned");
    static_assert(K_BLOCKS <= 2, "rows of blocks are padded to an even number");
};

/* Where a block stands in its sequence of (tile, part, stage of k): the same walk for producer and consumers.
 * Tiles of the same outputs are neighbours, and many rows are taken in bands of BAND_ROWS, so that blocks
 * which run together share both weights and rows in L2. */
template <typename Shape> struct walk {
    static constexpr int BAND_TILES = BAND_ROWS / Shape::TOKENS;
    int tile, n_tiles, step; /* row_tiles of them take all rows of the same outputs */
    int k, k_end;            /* blocks */
    int part;

    __device__ __forceinline__ void part_begin(const matmul_params &p) {
        k = part == 0 ? 0 : p.split;
        k_end = part == 0 ? p.split : p.k_blocks;
    }
    __device__ __forceinline__ void begin(const matmul_params &p, int n_tiles_) {
        n_tiles = n_tiles_;
        tile = blockIdx.x / Shape::PARTS;
        step = gridDim.x / Shape::PARTS;
        part = Shape::PARTS == 1 ? 0 : blockIdx.x % Shape::PARTS;
        part_begin(p);
    }
    __device__ __forceinline__ bool active() const { return tile < n_tiles; }
    /* First output and row of the tile; behind the last tile, an output behind the last. Divides: not for
     * every stage. The last band has the rows that are left, too: weights are not read again for a few. */
    __device__ __forceinline__ void place(int row_tiles, int &output, int &row) const {
        int index = tile, first = 0, tiles = row_tiles; /* of rows: the band's first, and how many */
        if (row_tiles >= 2 * BAND_TILES) {
            const int of_band = n_tiles / row_tiles * BAND_TILES, last = row_tiles / BAND_TILES - 1;
            const int band = min(index / of_band, last);
            index -= band * of_band;
            first = band * BAND_TILES;
            tiles = band == last ? row_tiles - first : BAND_TILES;
        }
        output = index / tiles * Shape::OUTPUTS;
        row = (first + index % tiles) * Shape::TOKENS;
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
    int row_tiles, output, row;

    __device__ __forceinline__ producer_walk(const matmul_params &p, int n_tiles, int row_tiles_)
        : row_tiles(row_tiles_) {
        this->begin(p, n_tiles);
        this->place(row_tiles, output, row);
    }
    __device__ __forceinline__ void next_stage(const matmul_params &p) {
        const int before = this->tile;
        this->next(p);
        if (this->tile != before)
            this->place(row_tiles, output, row);
    }
};

/* By a whole warp, of which one lane copies: addresses are then the warp's, as the copies want them. */
template <typename Shape, tile_end END>
__device__ __forceinline__ void produce(const matmul_params &p, const void *in_map, const void *out_map,
                                        uint32_t ring, uint32_t full, uint32_t empty, int n_tiles,
                                        int row_tiles) {
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
        } else {
#pragma unroll
            for (int c = 0; c < Shape::CONSUMERS; c++)
                ptx_copy_bulk(to + c * Shape::K_BLOCKS * WEIGHT_BLOCK_BYTES, block_of(c),
                              Shape::K_BLOCKS * WEIGHT_BLOCK_BYTES, barrier);
        }
    };
    auto copy_rows = [&](const producer_walk<Shape> &w, int stage) {
        uint32_t to = ring + stage * Shape::STAGE_BYTES + Shape::WEIGHT_BYTES;
#pragma unroll
        for (int b = 0; b < Shape::K_BLOCKS; b++)
            ptx_copy_box(to + b * Shape::BOX_BYTES, in_map, (w.k + b) * WEIGHT_BLOCK, w.row,
                         full + 8 * stage);
    };
    /* What a wide tile is added to is fetched into L2, a box with each of the last stages of its first part
     * (of a short K some of the boxes): additions run at a third of their rate where memory has to be read
     * for them, and memory has time now. Kernels in front may still add to it: they do so in L2, too. */
    auto fetch_residual = [&](const producer_walk<Shape> &w) {
        if constexpr (END == END_ADD && Shape::STAGED) {
            constexpr int BOX_OUTPUTS = WEIGHT_BLOCK / 2, COLUMNS = Shape::OUTPUTS / BOX_OUTPUTS;
            constexpr int BOXES = COLUMNS * (Shape::TOKENS / STAGED_ROWS);
            const int box = (p.split - w.k) / Shape::K_BLOCKS - 1;
            if (copies && w.part == 0 && box < BOXES)
                ptx_prefetch_box(out_map, w.output + box % COLUMNS * BOX_OUTPUTS,
                                 w.row + box / COLUMNS * STAGED_ROWS);
        }
    };
    producer_walk<Shape> ahead(p, n_tiles, row_tiles), behind(p, n_tiles, row_tiles);
    int n_first = 0;
    for (; n_first < Shape::STAGES && ahead.active(); n_first++, ahead.next_stage(p)) {
        if (copies)
            copy_weights(ahead, n_first);
        fetch_residual(ahead);
    }
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
        fetch_residual(ahead);
        __syncwarp(); /* lanes stay together: one that is two uses behind would wait for ever */
    }
}

/* sum += the products of the part where w stands, by this thread's warp or warpgroup; `at` moves behind its
 * stages. release(stage, loaded): it is no longer needed here, when `loaded` is there. */
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
                release(previous, 0);
            previous = at.stage;
        }
        wgmma_wait<0>();
        release(previous, 0);
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
    constexpr int RELEASES = Shape::CONSUMER_THREADS / (Shape::BY_WARPS ? 1 : WARP_LANES);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Shape::STAGES; stage++) {
            ptx_barrier_init(full + 8 * stage, 1);
            ptx_barrier_init(empty + 8 * stage, RELEASES);
        }
        ptx_barrier_init_done();
    }
    __syncthreads(); /* the barriers are initialised */
    int row_tiles = (p.n_rows + Shape::TOKENS - 1) / Shape::TOKENS;
    int n_tiles = (p.n_out + Shape::OUTPUTS - 1) / Shape::OUTPUTS * row_tiles;
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
        produce<Shape, END>(p, &in_map, &out_map, ring, full, empty, n_tiles, row_tiles);
        __syncwarp(); /* all is requested; the cluster's barriers below are for whole warps */
        if (p.starts_next_late)
            ptx_allow_next_kernel();
        if (Shape::PARTS == 2)
            ptx_cluster_barrier();
        return;
    }

    if (RAISES)
        ptx_registers_raise<RAISED_CONSUMER_REGISTERS>();
    int group = warp / 4;
    walk<Shape> w;
    w.begin(p, n_tiles);
    int tile_output, tile_row;
    auto bias_here = [&]() {
        const int output = tile_output + warp * 16 + (int)tile_c_row(lane, 0);
        return output_bias{p.bias && output < p.n_out ? p.bias[output] : 0.0f,
                           p.bias && output + 8 < p.n_out ? p.bias[output + 8] : 0.0f};
    };
    /* No kernel writes it: read ahead, but where the sums leave no register for it. */
    output_bias bias = {0, 0};
    w.place(row_tiles, tile_output, tile_row);
    if (!Shape::STAGED)
        bias = bias_here();
    ptx_wait_for_previous_kernels();
    constexpr int OF_GROUP = END == END_HEAD ? Shape::HEAD_STAGING_BYTES : STAGING_BUFFERS * STAGING_BYTES;
    destination d = {&out_map, ring + Shape::RING_BYTES + group * OF_GROUP, 0, 0, warp % 4, lane};
    auto release = [&](int stage, uint32_t loaded) {
        if (Shape::BY_WARPS || lane == 0)
            ptx_barrier_arrive_behind(empty + 8 * stage, loaded);
    };
    ring_position<Shape::STAGES> at;
    while (w.active()) {
        float sum[Shape::TOKENS / 2] = {};
        multiply<Shape>(sum, w, ring, full, at, group, warp, lane, release);
        d.row = tile_row;
        d.output = tile_output + group * Shape::GROUP_OUTPUTS;
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
        w.place(row_tiles, tile_output, tile_row);
        if (!Shape::STAGED)
            bias = bias_here();
    }
    if (Shape::STAGED || END == END_HEAD)
        ptx_store_wait_all();
#endif
}

/* ---- launch shape ---- */

struct wgmma_variant {
    int32_t outputs;
    int32_t tokens;
    int32_t k_blocks; /* of a stage */
    int32_t stages;
    int32_t parts;
    bool by_warps;
    int32_t threads;
    int32_t head_threads; /* with END_HEAD, as what follows */
    int32_t shared_bytes;
    int32_t head_shared_bytes;
    int32_t head_rows; /* that it stages at a time */
    void (*kernels[N_ENDS])(const CUtensorMap, const CUtensorMap, const matmul_params); /* NULL: none */
};

template <typename Shape> wgmma_variant variant() {
    wgmma_variant v = {Shape::OUTPUTS,      Shape::TOKENS,
                       Shape::K_BLOCKS,     Shape::STAGES,
                       Shape::PARTS,        Shape::BY_WARPS,
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
    if constexpr (Shape::PARTS == 1 && !Shape::SLICED && Shape::CONSUMERS < 3)
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
 * the multiprocessors. A block of k takes as long as its products, or its bytes in shared memory (above), or
 * its share of a stage, and with more rows than a band as its bytes do from L2, shared by all blocks. Beside
 * all that the weights come from memory. The constants are fitted together to a sweep on an H100 (--sweep 1
 * of kernel_bench), so that the choice is good; none is a measurement of its own. Over 13 layers and 8 row
 * counts the choice is 1.0 % slower than the best on average. */
double predicted_ns(const struct backend_context *context, const matmul_params &p, const wgmma_variant &v) {
    const double memory_bytes_per_ns = 3120, shared_bytes_per_ns = 205, cycles_per_ns = 1.41;
    const double mma_cycles = 17, more_rows_cycles = 12.5; /* of a warp, by 16 of k; each eight rows more */
    const double stage_ns = 174, parts_ns = 1450, beside = 0.19;
    const double l2_bytes_per_ns = 8250;
    const double n_sm = context->n_multiprocessors, groups = (double)v.outputs / WEIGHT_BLOCK;
    const double tiles = (double)ceil_div(p.n_out, v.outputs) * ceil_div(p.n_rows, v.tokens) * v.parts;
    const double waves = (double)(int64_t)((tiles + n_sm - 1) / n_sm);
    const double steps = WEIGHT_BLOCK / 16, copied = ROW_BYTES * (double)(v.outputs + v.tokens);
    double block_ns = stage_ns / v.k_blocks; /* of k */
    if (v.by_warps) {
        const double row_cycles = more_rows_cycles * (v.tokens / 8 - 1) * std::max(1.0, 2 * groups);
        block_ns = std::max(block_ns, steps * (mma_cycles + row_cycles) / cycles_per_ns);
    } else {
        const double read = ROW_BYTES * groups * (WEIGHT_BLOCK + v.tokens);
        block_ns = std::max(
            {block_ns, steps * groups * v.tokens / 2 / cycles_per_ns, (copied + read) / shared_bytes_per_ns});
    }
    if (p.n_rows > BAND_ROWS)
        block_ns = std::max(block_ns, copied * std::min(tiles, n_sm) / l2_bytes_per_ns);
    const double tiles_ns = waves * p.k_blocks / v.parts * block_ns;
    const double weights_ns = 2.0 * p.n_out * p.n_in / memory_bytes_per_ns;
    return std::max(tiles_ns, weights_ns) + beside * std::min(tiles_ns, weights_ns) +
           (v.parts == 2 ? parts_ns : 0);
}

template <int OUTPUTS, int TOKENS, int STAGES, int PARTS = 1>
using slices = wgmma_shape<1, TOKENS, 2, STAGES, PARTS, OUTPUTS>;

/* Of shapes that are predicted alike the first is chosen. */
const wgmma_variant VARIANTS[] = {
    variant<slices<32, 8, 10>>(),
    variant<slices<16, 8, 12>>(),
    variant<slices<32, 16, 10>>(),
    variant<slices<32, 16, 10, 2>>(),
    variant<wgmma_shape<1, 8, 2, 6>>(),
    variant<wgmma_shape<1, 16, 2, 6>>(),
    variant<wgmma_shape<1, 32, 2, 6>>(),
    variant<wgmma_shape<1, 64, 2, 5>>(),
    variant<wgmma_shape<1, 64, 2, 5, 2>>(),
    variant<wgmma_shape<1, 128, 2, 4>>(),
    variant<wgmma_shape<1, 128, 2, 4, 2>>(),
    variant<wgmma_shape<1, 256, 1, 5>>(),
    variant<wgmma_shape<2, 128, 1, 6>>(),
    variant<wgmma_shape<2, 128, 1, 6, 2>>(),
    variant<wgmma_shape<3, 128, 1, 4>>(),
    variant<wgmma_shape<2, 256, 1, 4>>(),
};
const int N_VARIANTS = sizeof VARIANTS / sizeof VARIANTS[0];

bool can_compute(const matmul_params &p, const wgmma_variant &v) {
    bool has_groups = !p.head || v.tokens > HEAD_NARROW_ROWS || p.n_rows <= v.tokens;
    return matmul_wgmma_has_end(p) && (v.parts == 1 || p.split < p.k_blocks) && v.kernels[end_of(p)] &&
           has_groups;
}

/* Attention, which may come next, requests keys and values before it waits for this product, whose loads of
 * operands then queue behind those. So where warps load them, attention starts when no stage of the ring is
 * refilled any more. (A stage is refilled behind its loads in any case: ptx_barrier_arrive_behind.) */
bool starts_next_late(const matmul_params &p, const wgmma_variant &v, int32_t tiles_of_block) {
    const bool refills = p.k_blocks / v.k_blocks * tiles_of_block > v.stages;
    return p.starts_next_late || (v.by_warps && refills && end_of(p) == END_STORE);
}

/* Bits do not depend on the choice. -1: no shape can compute it. */
int choose(const struct backend_context *context, const matmul_params &p) {
    int best = -1;
    double best_ns = 0;
    for (int i = 0; i < N_VARIANTS; i++) {
        const wgmma_variant &v = VARIANTS[i];
        /* Of shapes that are wider than all rows the narrowest: all stream the weights once. */
        if (!can_compute(p, v) || (v.tokens > 8 && v.tokens / 2 >= p.n_rows))
            continue;
        double ns = predicted_ns(context, p, v);
        if (best < 0 || ns < best_ns) {
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
        snprintf(name, name_bytes, v.parts == 2 ? "%dx%d parts" : "%dx%d", v.outputs, v.tokens);
    if (p.head)
        context->step.head_group = head_group_tokens(v.head_rows);
    CUtensorMap in_map, out_map;
    TRY(cuda_tensor_map(context, "matmul", p.in, DTYPE_BFLOAT16, in->rows, in->cols, p.in_stride, v.tokens,
                        WEIGHT_BLOCK, &in_map));
    bool half = p.out_float32 || p.gated;
    TRY(cuda_tensor_map(context, "matmul", p.out, p.out_float32 ? DTYPE_FLOAT32 : DTYPE_BFLOAT16, p.n_rows,
                        p.width, p.out_stride, p.head ? v.head_rows : (int32_t)STAGED_ROWS,
                        half ? WEIGHT_BLOCK / 2 : WEIGHT_BLOCK, &out_map));
    int32_t tiles = ceil_div(p.n_out, v.outputs) * ceil_div(p.n_rows, v.tokens);
    /* Two blocks that compute parts of K are gone after one tile; others stay. */
    int32_t most = v.parts == 2 ? tiles : context->n_multiprocessors;
    matmul_params params = p;
    params.starts_next_late = starts_next_late(p, v, ceil_div(tiles, most));
    return cuda_launch_clusters(
        context, "matmul", v.kernels[end_of(p)], dim3((tiles < most ? tiles : most) * v.parts),
        (unsigned)(p.head ? v.head_threads : v.threads),
        (size_t)(p.head ? v.head_shared_bytes : v.shared_bytes), (unsigned)v.parts, in_map, out_map, params);
}

enum status matmul_wgmma(struct backend_context *context, const matmul_params &p, const struct tensor *in) {
    const int index = choose(context, p);
    RETURN_IF(index < 0, STATUS_INTERNAL, "matmul: no tile shape for [%d, %d] by %d rows", p.n_out, p.n_in,
              p.n_rows);
    return matmul_wgmma_launch(context, p, in, index, nullptr, 0);
}
