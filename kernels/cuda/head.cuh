/* head: the end of a tile whose sums are logits that are only there to be sampled (matmul_args.sampled_rows).
 * Included by matmul_end.cuh alone.
 *
 * What becomes of a row is decided by the host, per entry and step (step_view.head), so one recorded step
 * serves every mix: rows that are greedy, or drawn at a temperature with no other setting, end here and are
 * not written; the others go to memory as ever, and `sample` reads them. It knows the former by their best
 * candidate, which is never 0. Beside a row with top_k the largest logit of each group of neighbouring tokens
 * goes to memory: at least k groups reach the k-th largest of those, so `sample` reads few of the others
 * (sample_listed.cuh).
 *
 *     stage     64 rows (or all of a narrow tile) by 64 outputs are transposed into shared memory: two halves
 *               of [rows][32 outputs], swizzled as the tensor map says
 *     write     the copy engine takes them all from there, if one of the rows is written
 *     look      a thread takes a piece of one row (32 outputs; 16, 8, 4 in tiles of 32, 16, 8 rows): the
 *               largest, and whether all are finite
 *     choose    of a drawn row also the best z + gumbel. The best candidate goes to the entry by an atomic
 *               maximum of integers, which commutes exactly
 *     list      of a row with top_k the largest goes to memory, for 32 tokens; in narrow tiles pieces meet in
 *               the lanes of a warp, for 16
 *
 * What the entry holds already, from other tiles, only saves work: a piece whose best candidate cannot beat
 * it writes nothing, and a token whose z + its gumbel cannot reach it is not computed further. With T the
 * best score so far and z the largest of the piece, a token can win only if its gumbel, at most -log(u),
 * reaches T - z, so if u <= e^(z - T): the random word is compared with one bound, no conversion, no
 * logarithm. About 16 issue slots a token are left, nearly all of them Philox, a block for four neighbours.
 *
 * A tile ends in rounds of 64 rows. They are a loop, because code that is executed once costs several times
 * what it computes; only the stores to the stage, whose registers name the sums, are there for each round.
 * All sums stay where wgmma leaves them (moving them makes the compiler wait for each product), and so that
 * none is spilled, the producer's warpgroup gives registers to the consumers (HEAD_RAISES in
 * matmul_wgmma.cu). What a round wants to know of its rows is requested in the one before it.
 *
 * Numerics: the sums are those that would be written, soft cap included, and a candidate's key is computed by
 * the same functions (candidate.cuh): the token is the one that `sample` would choose. */
#ifndef PRESSRUN_KERNELS_CUDA_HEAD_CUH
#define PRESSRUN_KERNELS_CUDA_HEAD_CUH

#include "kernels/cuda/candidate.cuh"
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/tile.h"

/* A thread's piece of a staged row: CHUNKS chunks of four neighbouring outputs. */
template <int CHUNKS> struct head_piece {
    static constexpr int OUTPUTS = 4 * CHUNKS;
    uint32_t half; /* the staged half */
    int row;       /* of the staged rows */
    int chunk;     /* of the half */
    int first;     /* token */

    __device__ __forceinline__ uint32_t address(int c) const {
        return half + tile_offset((uint32_t)row, (uint32_t)(chunk + c), 8);
    }
};

/* Words above this belong to a u above e^lead. Rounding up, and the margin that every lead has, keep words at
 * the border. */
static __device__ __forceinline__ uint32_t head_word_bound(float lead) {
    return __float2uint_ru(ptx_exp2(lead * LOG2_E) * 4294967296.0f);
}

/* The best z + gumbel among the tokens of a piece below n_vocab, or 0 where none can beat `known`. largest:
 * of the piece, which is finite. */
template <int CHUNKS>
static __device__ __forceinline__ uint64_t head_draw(const head_piece<CHUNKS> &piece, const head_entry &entry,
                                                     uint64_t known, float largest, int n_vocab) {
    const float top = scaled_logit(largest, entry.temperature);
    float threshold = top + SMALLEST_GUMBEL; /* some score is at least this */
    if (known != 0)
        threshold = fmaxf(threshold, candidate_value(known));
    /* Scores are rounded, more coarsely the larger z is. */
    const float margin = 1e-3f + (1e-6f * fabsf(top) + 1e-6f * fabsf(threshold));
    float lead = top - threshold + margin;
    uint64_t best = 0;
    if (lead < -LARGEST_GUMBEL)
        return best;
    uint32_t bound = head_word_bound(lead);
#pragma unroll 1
    for (int c = 0; c < CHUNKS; c++) {
        uint32_t words[4];
        philox_block(entry.key, (uint32_t)entry.position, (uint32_t)piece.first / 4 + c, words);
        if (min(min(words[0], words[1]), min(words[2], words[3])) > bound)
            continue;
#pragma unroll 1
        for (int j = 0; j < 4; j++) {
            int id = piece.first + 4 * c + j;
            uint32_t word = j & 2 ? (j & 1 ? words[3] : words[2]) : (j & 1 ? words[1] : words[0]);
            float y = ptx_load_shared(piece.address(c) + 4 * j);
            if (word <= bound && id < n_vocab &&
                word <= head_word_bound(scaled_logit(y, entry.temperature) - threshold + margin))
                best = max(best, candidate(token_score(y, entry.temperature, philox_uniform(word)), id));
        }
        if (best != 0) {
            threshold = fmaxf(threshold, candidate_value(best));
            bound = head_word_bound(top - threshold + margin);
        }
    }
    return best;
}

/* What a thread sees of a piece that begins below n_vocab. */
struct head_seen {
    float largest;
    int chunk; /* of the piece, that holds it first */
    bool finite;
};

template <int CHUNKS>
static __device__ __forceinline__ head_seen head_look(const head_piece<CHUNKS> &piece, int n_vocab) {
    /* Outputs beyond the vocabulary repeat the first of the piece: they are finite where it is, and lose. The
     * copy engine may be reading the row meanwhile, but stores none of these. */
    for (int i = n_vocab - piece.first; i < piece.OUTPUTS; i++)
        ptx_store_shared(piece.address(i / 4) + i % 4 * 4, ptx_load_shared(piece.address(0)));
    float largest = -INFINITY, finite = 0;
    int at = 0;
#pragma unroll 4 /* more would take registers that hold sums */
    for (int c = 0; c < CHUNKS; c++) {
        float y[4];
        ptx_load_shared_16(y, piece.address(c));
        float most = fmaxf(fmaxf(y[0], y[1]), fmaxf(y[2], y[3]));
#pragma unroll
        for (int j = 0; j < 4; j++)
            finite = fmaf(y[j], 0.0f, finite); /* NaN once one is not finite */
        if (most > largest) {
            largest = most;
            at = c;
        }
    }
    return {largest, at, finite == 0};
}

/* The best candidate of a piece, NOT_FINITE, or 0 where none can beat `known`. */
template <int CHUNKS>
static __device__ __forceinline__ uint64_t head_choose(const head_piece<CHUNKS> &piece, const head_seen &seen,
                                                       const head_entry &entry, uint64_t known, int n_vocab) {
    if (!seen.finite)
        return NOT_FINITE;
    if (entry.end == HEAD_DRAWS)
        return head_draw(piece, entry, known, seen.largest, n_vocab);
    float y[4];
    ptx_load_shared_16(y, piece.address(seen.chunk));
    int j = y[0] == seen.largest ? 0 : y[1] == seen.largest ? 1 : y[2] == seen.largest ? 2 : 3;
    const uint64_t best = candidate(seen.largest, piece.first + 4 * seen.chunk + j);
    return best > known ? best : 0;
}

/* Writes the largest of each group of a row that is listed. Pieces smaller than a group meet in the lanes of
 * their warp. mine: of this thread's piece, INFINITY where something is not finite, -INFINITY where it has
 * no tokens or its row is not listed. */
template <int ROWS, int OUTPUTS>
static __device__ __forceinline__ void head_write_maximum(const matmul_params &p, int row, int output,
                                                          bool listed, float mine) {
    constexpr int GROUP = head_group_tokens(ROWS);
    static_assert(OUTPUTS >= GROUP || WARP_LANES / ROWS * OUTPUTS == GROUP, "a warp holds its groups whole");
#pragma unroll
    for (int lanes = ROWS; lanes < WARP_LANES; lanes *= 2)
        mine = fmaxf(mine, __shfl_xor_sync(ALL_LANES, mine, lanes));
    if (listed && output < p.n_out && output % GROUP == 0)
        p.maxima[(int64_t)row * p.maxima_stride * (HEAD_GROUP / GROUP) + output / GROUP] = mine;
}

/* Ends a tile of a warpgroup: 64 outputs from `output` on of Shape::TOKENS rows from `row` on. staging:
 * Shape's HEAD_STAGING_BYTES of shared memory. stage(round): this thread's sums of that round's rows to
 * there. All threads of the warpgroup. */
template <typename Shape, typename Stage>
static __device__ __forceinline__ void head_finish(const matmul_params &p, const void *map, uint32_t staging,
                                                   int row, int output, const Stage &stage) {
    constexpr int ROWS = Shape::HEAD_ROWS, PIECES = 128 / ROWS, CHUNKS = WEIGHT_BLOCK / PIECES / 4;
    constexpr int ROUNDS = Shape::TOKENS / ROWS;
    constexpr int HALF = WEIGHT_BLOCK / 2, HALF_BYTES = ROWS * HALF * (int)sizeof(float);
    static_assert(HALF * sizeof(float) == 8 * TILE_CHUNK_BYTES, "eight chunks a row of a half");
    const int thread = (int)threadIdx.x % 128, column = thread / ROWS * CHUNKS * 4;
    const uint32_t barrier = 1 + threadIdx.x / 128;
    const bool leader = thread == 0;
    const head_piece<CHUNKS> piece = {staging + (uint32_t)(column / HALF * HALF_BYTES), thread % ROWS,
                                      column % HALF / 4, output + column};
    row += piece.row;
    enum head_end next_end = HEAD_SKIPS;
    uint64_t next_known = 0;
    auto read_entry = [&](int i) {
        next_end = HEAD_SKIPS;
        if (i >= p.n_rows)
            return;
        next_end = p.head[i].end;
        next_known = ptx_load_relaxed(&p.head[i].best);
    };
    read_entry(row);
#pragma unroll 1
    for (int round = 0; round < ROUNDS; round++, row += ROWS) {
        const enum head_end end = next_end;
        const uint64_t known = next_known;
        const bool listed = end == HEAD_LISTS, chosen = end == HEAD_GREEDY || end == HEAD_DRAWS;
        if (leader)
            ptx_store_wait_read<0>();
        ptx_named_barrier(barrier, 128); /* the last round's rows have been read, by all */
        stage(round);
        if (p.softcap != 0) {
            ptx_named_barrier(barrier, 128); /* the rows are complete */
#pragma unroll 1
            for (int c = 0; c < CHUNKS; c++) {
                float y[4];
                ptx_load_shared_16(y, piece.address(c));
#pragma unroll
                for (int j = 0; j < 4; j++)
                    ptx_store_shared(piece.address(c) + 4 * j, matmul_softcap(p, y[j]));
            }
        }
        ptx_fence_for_copies();
        const bool written = ptx_named_barrier_or(barrier, 128, end == HEAD_WRITES || listed); /* complete */
        if (written && leader) /* whose row is the first of the round */
            for (int half = 0; half < 2; half++)
                ptx_store_box(map, output + half * HALF, row, staging + half * HALF_BYTES);
        if (round + 1 < ROUNDS)
            read_entry(row + ROWS); /* it arrives while this round's rows are looked at */
        head_seen seen = {-INFINITY, 0, true};
        if ((chosen || listed) && piece.first < p.n_out)
            seen = head_look(piece, p.n_out);
        head_write_maximum<ROWS, piece.OUTPUTS>(p, row, piece.first, listed,
                                                seen.finite ? seen.largest : INFINITY);
        if (chosen && piece.first < p.n_out) {
            const head_entry entry = p.head[row];
            uint64_t best = head_choose(piece, seen, entry, known, p.n_out);
            if (best != 0)
                atomicMax(&p.head[row].best, (unsigned long long)best);
        }
    }
}

#endif
