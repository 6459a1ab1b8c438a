/* matmul_norm: the norm of a few rows by every block of the matrix behind it, in place of a kernel that the
 * matrix would have to wait for. Included by matmul_wgmma.cu.
 *
 * The rows [8, n_embd] are normed into shared memory, where they lie as the copy engine would have put them:
 * for every 64 columns of k a box of 8 rows of 128 bytes, swizzled (tile.h). Columns that pad k are zeros;
 * rows that are not there are anything, since products of a row are its own. They stay there while tiles
 * pass, and the ring holds weights alone, which the producer requests meanwhile. Block 0 also writes them
 * where the norm was to write them, and says what is not finite.
 *
 * NORMING_WARPS warps share the rows: the fewer there are, the more warps work on one. Those that do not
 * multiply leave when that is done. Code that is executed for the first time costs several times what it
 * computes (kernels/README.md), so all rehearse while the kernels in front still run: the same code norms the
 * norm's own weights, which are read in any case.
 *
 * Numerics: those of norm.cu, bit for bit: 16 lanes sum 64 consecutive features as a fixed tree, and these
 * sums are added in ascending order. */
#ifndef PRESSRUN_KERNELS_CUDA_MATMUL_NORM_CUH
#define PRESSRUN_KERNELS_CUDA_MATMUL_NORM_CUH

#include <type_traits>

#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tile.h"
#include "kernels/cuda/weight_layout.h"

namespace {

enum {
    NORMING_WARPS = 8, /* of a block; as many again would have too few registers beside the kernel in front */
    NORMING_THREADS = NORMING_WARPS * WARP_LANES,
    NORMING_TEAMS = FUSED_NORM_ROWS, /* at most: one for each row */
    NORMED_BOX_BYTES = FUSED_NORM_ROWS * WEIGHT_BLOCK * 2,
    /* Named barriers. */
    ALL_NORMED = 1,
    FIRST_TEAM
};
static_assert((int)FUSED_NORM_ROWS == (int)TILE_SWIZZLE_ROWS, "a box is one unit of the swizzle");
static_assert((int)FIRST_TEAM + (int)NORMING_TEAMS <= 16, "a block has 16 named barriers");
static_assert((int)NORM_GROUP == (int)WEIGHT_BLOCK, "a box has the features of a group");

/* What a team of warps tells each other of its row: sums of groups of 64 features, of the features and of
 * their squares. GROUPS: at most, a multiple of 4. */
template <int GROUPS> struct alignas(16) norm_sums { float of[2][GROUPS]; };

/* Warps that norm a row together. */
struct norm_team {
    int team;
    int n_teams;
    uint32_t thread; /* of the team */
    __device__ __forceinline__ uint32_t threads() const { return NORMING_THREADS / n_teams; }
    __device__ __forceinline__ void meet() const {
        ptx_named_barrier((uint32_t)(FIRST_TEAM + team), threads());
    }
};

/* A team for each row, as far as a thread has registers for its part of one. */
__device__ __forceinline__ norm_team norm_team_of(int thread, int n_rows, int most_teams) {
    norm_team team;
    team.n_teams = n_rows == 1 ? 1 : n_rows == 2 ? 2 : n_rows <= 4 ? 4 : most_teams;
    team.team = thread / (int)team.threads();
    team.thread = (uint32_t)thread % team.threads();
    return team;
}

__device__ __forceinline__ float sum_of(float4 v) {
    return (v.x + v.y) + (v.z + v.w);
}

/* Sum of a row, of which this thread has the sums of some vectors. Groups behind the row's are -0, which
 * changes no sum. */
template <int VECTORS, int GROUPS>
__device__ __forceinline__ float row_sum_of_team(float (&partial)[VECTORS], const norm_team &team,
                                                 int n_vectors, float (&sums)[GROUPS]) {
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = (int)(j * team.threads() + team.thread);
        partial[j] = lanes_sum<NORM_GROUP_LANES>(partial[j]);
        if (vector % NORM_GROUP_LANES == 0 && vector < n_vectors)
            sums[vector / NORM_GROUP_LANES] = partial[j];
    }
    team.meet(); /* all groups are written before anyone adds them */
    float4 four = load_4(sums);
    float sum = ((four.x + four.y) + four.z) + four.w;
#pragma unroll
    for (int group = 4; group < GROUPS; group += 4) {
        four = load_4(sums + group);
        sum = (((sum + four.x) + four.y) + four.z) + four.w;
    }
    return sum;
}

/* Norms `from`, of which each thread of the team holds up to VECTORS vectors. writes: to p.out, too, and what
 * is not finite is noted. */
template <int VECTORS, int GROUPS>
__device__ __forceinline__ void norm_row_of_team(const norm_params &p, const norm_team &team, int row,
                                                 const float *from, unsigned char *normed,
                                                 norm_sums<GROUPS> &sums, bool writes) {
    /* More do not fit beside the row; they are in cache since the rehearsal. */
    constexpr bool LOADS_EARLY = VECTORS <= 4;
    const int n_vectors = p.n_embd / NORM_VECTOR;
    float4 v[VECTORS], weight[VECTORS], bias[VECTORS];
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = (int)(j * team.threads() + team.thread);
        v[j] = vector < n_vectors ? load_4(from + vector * NORM_VECTOR) : make_float4(0, 0, 0, 0);
        if (LOADS_EARLY)
            load_weights(weight[j], bias[j], p.weight, p.bias, vector, n_vectors);
    }
    float partial[VECTORS];
    if (p.kind == NORM_LAYER) {
#pragma unroll
        for (int j = 0; j < VECTORS; j++)
            partial[j] = sum_of(v[j]);
        const float mean = row_sum_of_team(partial, team, n_vectors, sums.of[0]) / (float)p.n_embd;
#pragma unroll
        for (int j = 0; j < VECTORS; j++)
            if ((int)(j * team.threads() + team.thread) < n_vectors)
                v[j] = make_float4(v[j].x - mean, v[j].y - mean, v[j].z - mean, v[j].w - mean);
    }
#pragma unroll
    for (int j = 0; j < VECTORS; j++)
        partial[j] = sum_of(squared(v[j]));
    const float squares = row_sum_of_team(partial, team, n_vectors, sums.of[1]);
    const float scale = 1.0f / sqrtf(squares / (float)p.n_embd + p.epsilon);
    if (writes && team.thread == 0 && !isfinite(squares))
        note_fault(p, row);
    bfloat16 *out = static_cast<bfloat16 *>(p.out) + row * p.out_stride;
#pragma unroll
    for (int j = 0; j < VECTORS; j++) {
        int vector = (int)(j * team.threads() + team.thread), column = vector * NORM_VECTOR;
        if (vector >= n_vectors)
            continue;
        if (!LOADS_EARLY)
            load_weights(weight[j], bias[j], p.weight, p.bias, vector, n_vectors);
        const float4 x = scaled(v[j], scale, weight[j], bias[j]);
        const uint32_t chunk = (uint32_t)(column % WEIGHT_BLOCK / TILE_CHUNK_ELEMENTS);
        unsigned char *to = normed + column / WEIGHT_BLOCK * NORMED_BOX_BYTES +
                            tile_offset((uint32_t)row, chunk, WEIGHT_BLOCK_CHUNKS) +
                            column % TILE_CHUNK_ELEMENTS * (int)sizeof(bfloat16);
        store_4(reinterpret_cast<bfloat16 *>(to), x);
        if (writes)
            store_4(out + column, x);
    }
}

/* normed: k_blocks boxes, of up to GROUPS groups of features. thread: of NORMING_THREADS, all of
 * which call this; behind it products may read the rows. Waits for the kernels in front. */
template <int GROUPS>
__device__ __forceinline__ void norm_rows(const norm_params &p, int k_blocks, int thread,
                                          unsigned char *normed, norm_sums<GROUPS> (&sums)[NORMING_TEAMS]) {
    constexpr int MOST_TEAMS = GROUPS <= 32 ? NORMING_TEAMS : NORMING_TEAMS / 2;
    constexpr int MOST_VECTORS = GROUPS * NORM_GROUP_LANES / (NORMING_THREADS / MOST_TEAMS);
    static_assert(MOST_VECTORS == 8 || MOST_VECTORS == 16, "see below");
    const int n_groups = p.n_embd / NORM_GROUP;
    for (int i = thread; i < NORMING_TEAMS * 2 * GROUPS; i += NORMING_THREADS)
        sums[i / (2 * GROUPS)].of[i / GROUPS % 2][i % GROUPS] = -0.0f;
    const int n_chunks = k_blocks * (NORMED_BOX_BYTES / TILE_CHUNK_BYTES);
    for (int i = n_groups * (NORMED_BOX_BYTES / TILE_CHUNK_BYTES) + thread; i < n_chunks;
         i += NORMING_THREADS)
        *reinterpret_cast<uint4 *>(normed + i * TILE_CHUNK_BYTES) = make_uint4(0, 0, 0, 0);
    ptx_named_barrier(ALL_NORMED, NORMING_THREADS); /* sums are initialised */
    norm_team team = norm_team_of(thread, p.n, MOST_TEAMS);
    const int vectors = (p.n_embd / NORM_VECTOR - 1) / (int)team.threads() + 1;
    const float *from = p.weight;
#pragma unroll 1
    for (int row = team.team < p.n ? team.team - team.n_teams : p.n; row < p.n; row += team.n_teams) {
        ptx_keep(team.thread); /* nobody computes ahead for all numbers of vectors */
        const bool rehearses = row < 0, writes = !rehearses && blockIdx.x == 0;
        auto norm_row = [&](auto most) {
            norm_row_of_team<decltype(most)::value>(p, team, rehearses ? team.team : row, from, normed,
                                                    sums[team.team], writes);
        };
        if (vectors == 1)
            norm_row(std::integral_constant<int, 1>());
        else if (vectors == 2)
            norm_row(std::integral_constant<int, 2>());
        else if (vectors <= 4)
            norm_row(std::integral_constant<int, 4>());
        else if (vectors <= 8)
            norm_row(std::integral_constant<int, 8>());
        else
            norm_row(std::integral_constant<int, MOST_VECTORS>());
        team.meet(); /* all have read the sums */
        if (rehearses)
            ptx_wait_for_previous_kernels();
        from = p.hidden + (row + team.n_teams) * p.hidden_stride;
    }
    ptx_named_barrier(ALL_NORMED, NORMING_THREADS);
}

} // namespace

#endif
