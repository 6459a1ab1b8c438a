/* isa_matmul: out[r, o] = epilogue(sum over k of weight[o, k] * in[r, k]).
 *
 * Numerics: one chain of fused multiply-adds in float32 per output, from zero, k ascending; then + bias,
 * activation, + out. A gated activation has two chains per output, which meet in silu(gate) * up, or
 * gelu(gate) * up. Lanes run over the 16 outputs of a panel. Tiles, blocks of k (between which the
 * accumulators rest in memory as float32) and threads only choose which chains advance together, so they
 * change no bit. bfloat16 operands are widened exactly; their chains take subnormal operands and sums as
 * zero, and end with 0 * 0 where n_in is odd. That is what the processor's dot product of bfloat16 pairs
 * computes, which takes the place of two multiply-adds where there is one.
 *
 * Blocking: a tile is P panels times R rows of accumulators in registers. Few rows stream each weight once
 * over as much of k as there is room for rows, which is bound by memory. Many rows keep a block of k of the
 * tile's panels in the L1 cache while all rows pass over it; without a dot product, bfloat16 weights are
 * widened once for the block. The next block is on its way from memory meanwhile. */
#include "kernels/cpu/isa_kernels.h"

enum {
    GROUP_PANELS = PANEL_STEP, /* panels worked on together */
    GROUP_OUTPUTS = GROUP_PANELS * PANEL_OUTPUTS,
    ROW_BLOCK = 72, /* rows whose accumulators rest in one stack tile */
    K_BLOCK = 128
};

/* Most rows of a tile, and how many panels a tile of R rows takes: what fills the registers while leaving one
 * for the broadcast input and one for a weight. */
#if V16_REGISTERS == 32
enum { TILE_ROWS = 6 };
#define TILE_PANELS(rows) 4
#elif V16_REGISTERS == 8
enum { TILE_ROWS = 6 };
#define TILE_PANELS(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
#else
enum { TILE_ROWS = 2 };
#define TILE_PANELS(rows) 1
#endif

/* Inputs of few rows that there is room for in the place of a block of many. */
enum { FEW_ROWS_K_BLOCK = ROW_BLOCK * K_BLOCK / TILE_ROWS };

_Static_assert(K_BLOCK % (2 * V16_LANES) == 0 && FEW_ROWS_K_BLOCK % (2 * V16_LANES) == 0,
               "rows are copied in whole vectors of pairs");

/* Of a row, what a line of bfloat16 pairs is multiplied by: a pair, or two float32. */
enum { PAIR_WORDS = V16_DOTS ? 1 : 2 };

/* What advance() takes of a line: its float32, or one half of its pairs. */
enum part { PART_FLOAT32, PART_UPPER, PART_LOWER };

/* One multiply-add for each of n_panels x n_rows outputs. Panels lie panel_bytes apart, rows in_stride words.
 */
SIMD_INLINE void advance(const char *line, int64_t panel_bytes, enum part part, const float *in,
                         int64_t in_stride, v16 (*sum)[GROUP_PANELS], const int n_panels, const int n_rows) {
    v16 w[GROUP_PANELS];
#pragma GCC unroll 8
    for (int p = 0; p < n_panels; p++) {
        const void *from = line + p * panel_bytes;
        w[p] = part == PART_FLOAT32 ? v16_load(from)
               : part == PART_UPPER ? v16_load_upper(from)
                                    : v16_load_lower(from);
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        v16 x = v16_set1(in[r * in_stride]);
#pragma GCC unroll 8
        for (int p = 0; p < n_panels; p++)
            sum[r][p] = v16_fma(w[p], x, sum[r][p]);
    }
}

/* The two of a pair. */
SIMD_INLINE void advance_pair(const char *line, int64_t panel_bytes, const uint32_t *in, int64_t in_stride,
                              v16 (*sum)[GROUP_PANELS], const int n_panels, const int n_rows) {
#if V16_DOTS
    v16_pairs w[GROUP_PANELS];
#pragma GCC unroll 8
    for (int p = 0; p < n_panels; p++)
        w[p] = v16_pairs_load((const void *)(line + p * panel_bytes));
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
        v16_pairs x = v16_pairs_set1(in[r * in_stride]);
#pragma GCC unroll 8
        for (int p = 0; p < n_panels; p++)
            sum[r][p] = v16_dot(w[p], x, sum[r][p]);
    }
#else
    const float *wide = (const float *)(const void *)in;
    advance(line, panel_bytes, PART_UPPER, wide, in_stride, sum, n_panels, n_rows);
    advance(line, panel_bytes, PART_LOWER, wide + 1, in_stride, sum, n_panels, n_rows);
#endif
}

/* Advances the chains of n_panels x n_rows outputs over n_lines lines of each panel. Rows lie in_stride words
 * (32 bits) apart; sums [n_rows, GROUP_OUTPUTS]. All counts but n_lines are constants where this is called.
 */
SIMD_INLINE void tile(const char *weight, int64_t panel_bytes, enum dtype dtype, const uint32_t *in,
                      int64_t in_stride, int64_t n_lines, float *sums, const int n_panels, const int n_rows) {
    v16 sum[TILE_ROWS][GROUP_PANELS];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 8
        for (int p = 0; p < n_panels; p++)
            sum[r][p] = v16_load(sums + r * GROUP_OUTPUTS + p * PANEL_OUTPUTS);
    }
    for (int64_t i = 0; i < n_lines; i++) {
        const char *line = weight + i * PANEL_LINE_BYTES;
        if (dtype == DTYPE_FLOAT32)
            advance(line, panel_bytes, PART_FLOAT32, (const float *)(const void *)(in + i), in_stride, sum,
                    n_panels, n_rows);
        else
            advance_pair(line, panel_bytes, in + PAIR_WORDS * i, in_stride, sum, n_panels, n_rows);
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 8
        for (int p = 0; p < n_panels; p++)
            v16_store(sums + r * GROUP_OUTPUTS + p * PANEL_OUTPUTS, sum[r][p]);
    }
}

/* n_rows rows of a group of up to GROUP_PANELS panels: as many full tiles as there are, then single panels.
 */
SIMD_INLINE void tile_group(const char *weight, int64_t panel_bytes, enum dtype dtype, int n_panels,
                            const uint32_t *in, int64_t in_stride, int64_t n_lines, float *sums,
                            const int n_rows) {
    const int at_once = TILE_PANELS(n_rows);
    int p = 0;
    for (; p + at_once <= n_panels; p += at_once)
        tile(weight + p * panel_bytes, panel_bytes, dtype, in, in_stride, n_lines, sums + p * PANEL_OUTPUTS,
             at_once, n_rows);
    for (; p < n_panels; p++)
        tile(weight + p * panel_bytes, panel_bytes, dtype, in, in_stride, n_lines, sums + p * PANEL_OUTPUTS,
             1, n_rows);
}

SIMD_INLINE void tile_rows(const char *weight, int64_t panel_bytes, enum dtype dtype, int n_panels,
                           const uint32_t *in, int64_t in_stride, int64_t n_lines, float *sums, int n_rows) {
    switch (n_rows) {
    case 1:
        tile_group(weight, panel_bytes, dtype, n_panels, in, in_stride, n_lines, sums, 1);
        break;
    case 2:
        tile_group(weight, panel_bytes, dtype, n_panels, in, in_stride, n_lines, sums, 2);
        break;
#if V16_REGISTERS > 4
    case 3:
        tile_group(weight, panel_bytes, dtype, n_panels, in, in_stride, n_lines, sums, 3);
        break;
    case 4:
        tile_group(weight, panel_bytes, dtype, n_panels, in, in_stride, n_lines, sums, 4);
        break;
    case 5:
        tile_group(weight, panel_bytes, dtype, n_panels, in, in_stride, n_lines, sums, 5);
        break;
    case 6:
        tile_group(weight, panel_bytes, dtype, n_panels, in, in_stride, n_lines, sums, 6);
        break;
#endif
    }
}

/* The weights that are wanted next, which come from memory while the tiles of this block are worked on: of
 * n_panels panels the first panel_lines cache lines each. */
struct ahead {
    const char *weight;
    int64_t panel_bytes; /* from panel to panel */
    int64_t panel_lines;
    int n_panels; /* 0: nothing is wanted */
};

/* The share of one tile out of n: few enough lines to be under way at once. */
static void prefetch_share(const struct ahead *ahead, int tile, int n_tiles) {
    int64_t lines = ahead->panel_lines;
    int64_t first = lines * tile / n_tiles, end = lines * (tile + 1) / n_tiles;
    for (int p = 0; p < ahead->n_panels; p++)
        for (int64_t line = first; line < end; line++)
            __builtin_prefetch(ahead->weight + p * ahead->panel_bytes + line * PANEL_LINE_BYTES, 0, 2);
}

/* Rows [0, n_rows) in tiles of nearly equal height. */
SIMD_INLINE void tile_all_rows(const char *weight, int64_t panel_bytes, enum dtype dtype, int n_panels,
                               const uint32_t *in, int64_t in_stride, int64_t n_lines, float *sums,
                               int n_rows, const struct ahead *ahead) {
    int n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int r = 0, tile = 0; r < n_rows; tile++) {
        int left = n_tiles - tile;
        int height = (n_rows - r + left - 1) / left;
        prefetch_share(ahead, tile, n_tiles);
        tile_rows(weight, panel_bytes, dtype, n_panels, in + r * in_stride, in_stride, n_lines,
                  sums + r * GROUP_OUTPUTS, height);
        r += height;
    }
}

/* Some panels of a call, and some rows. */
struct group {
    const struct matmul_job *job;
    int64_t first; /* panel */
    int64_t end;   /* behind the last panel of the call */
    int64_t row;
    int n_panels;
    int n_rows;
};

/* What follows n_k inputs from k on of a group's panels. Many rows hide the way from memory behind
 * arithmetic; few rows wait for it anyway, and the processor sees their streams. */
static struct ahead ahead_of(const struct group *group, int64_t k, int64_t n_k) {
    const struct matmul_job *job = group->job;
    int64_t first = group->first;
    int n_panels = group->n_panels;
    if (group->n_rows <= TILE_ROWS)
        return (struct ahead){0};
    k += n_k;
    if (k == job->n_in) {
        k = 0;
        first += n_panels;
        n_panels = group->end - first < GROUP_PANELS ? (int)(group->end - first) : GROUP_PANELS;
    }
    n_k = job->n_in - k < K_BLOCK ? job->n_in - k : K_BLOCK;
    int64_t all_lines = panel_lines(job->dtype, job->n_in);
    return (struct ahead){.weight = (const char *)job->weight +
                                    (first * all_lines + panel_lines(job->dtype, k)) * PANEL_LINE_BYTES,
                          .panel_bytes = all_lines * PANEL_LINE_BYTES,
                          .panel_lines = panel_lines(job->dtype, n_k),
                          .n_panels = n_panels};
}

static void chains_float32(const struct group *group, float *sums) {
    const struct matmul_job *job = group->job;
    const int64_t panel_bytes = job->n_in * PANEL_LINE_BYTES;
    const char *weight = (const char *)job->weight + group->first * panel_bytes;
    const uint32_t *in = (const uint32_t *)job->in + group->row * job->n_in;
    int64_t block = group->n_rows <= TILE_ROWS ? job->n_in : K_BLOCK;
    for (int64_t k = 0; k < job->n_in; k += block) {
        int64_t n_k = job->n_in - k < block ? job->n_in - k : block;
        struct ahead ahead = ahead_of(group, k, n_k);
        tile_all_rows(weight + k * PANEL_LINE_BYTES, panel_bytes, DTYPE_FLOAT32, group->n_panels, in + k,
                      job->n_in, n_k, sums, group->n_rows, &ahead);
    }
}

#if V16_DOTS

/* to [n_rows, stride] = narrow [n_rows, n_in], n of each row, as pairs of a k and, in the lower half, the one
 * behind it, or zero. Writes beyond n as far as a vector reaches. */
static void copy_rows(const uint16_t *narrow, int64_t n_in, int64_t n, int n_rows, uint32_t *to,
                      int64_t stride) {
    for (int r = 0; r < n_rows; r++) {
        for (int64_t k = 0; k < n; k += 2 * V16_LANES) {
            int here = n - k < 2 * V16_LANES ? (int)(n - k) : 2 * V16_LANES;
            v16_pairs_store(to + r * stride + k / 2,
                            v16_pairs_load_swapped_first(narrow + r * n_in + k, here));
        }
    }
}

static void chains_bfloat16(const struct group *group, float *sums) {
    const struct matmul_job *job = group->job;
    _Alignas(64) uint32_t rows[ROW_BLOCK * K_BLOCK / 2];
    const int64_t panel_bytes = panel_lines(DTYPE_BFLOAT16, job->n_in) * PANEL_LINE_BYTES;
    const char *weight = (const char *)job->weight + group->first * panel_bytes;
    const uint16_t *in = (const uint16_t *)job->in + group->row * job->n_in;
    const int64_t block = group->n_rows <= TILE_ROWS ? FEW_ROWS_K_BLOCK : K_BLOCK;
    for (int64_t k = 0; k < job->n_in; k += block) {
        int64_t n_k = job->n_in - k < block ? job->n_in - k : block;
        struct ahead ahead = ahead_of(group, k, n_k);
        copy_rows(in + k, job->n_in, n_k, group->n_rows, rows, block / 2);
        tile_all_rows(weight + k / 2 * PANEL_LINE_BYTES, panel_bytes, DTYPE_BFLOAT16, group->n_panels, rows,
                      block / 2, panel_lines(DTYPE_BFLOAT16, n_k), sums, group->n_rows, &ahead);
    }
}

#else

/* to [n_rows, stride] = narrow [n_rows, n_in], n of each row, and zero behind an odd n. */
static void widen_rows(const uint16_t *narrow, int64_t n_in, int64_t n, int n_rows, float *to,
                       int64_t stride) {
    for (int r = 0; r < n_rows; r++) {
        const uint16_t *from = narrow + r * n_in;
        float *wide = to + r * stride;
        int64_t k = 0;
        for (; k + V16_LANES <= n; k += V16_LANES)
            v16_store(wide + k, v16_load_bf16(from + k));
        for (; k < n; k++)
            wide[k] = bfloat16_to_float(from[k]);
        if (n % 2 != 0)
            wide[n] = 0;
    }
}

/* n_lines of each panel as float32: to [n_panels, K_BLOCK, PANEL_OUTPUTS]. */
static void widen_weight(const char *weight, int64_t panel_bytes, int n_panels, int64_t n_lines, float *to) {
    for (int p = 0; p < n_panels; p++) {
        const uint16_t *pairs = (const uint16_t *)(const void *)(weight + p * panel_bytes);
        float *wide = to + p * K_BLOCK * PANEL_OUTPUTS;
        for (int64_t i = 0; i < n_lines; i++) {
            v16_store(wide + 2 * i * PANEL_OUTPUTS, v16_load_upper(pairs + 2 * i * PANEL_OUTPUTS));
            v16_store(wide + (2 * i + 1) * PANEL_OUTPUTS, v16_load_lower(pairs + 2 * i * PANEL_OUTPUTS));
        }
    }
}

/* Not inlined: simd_flush_subnormals. */
static __attribute__((noinline)) void chains_flushed(const struct group *group, float *sums) {
    const struct matmul_job *job = group->job;
    _Alignas(64) float wide_in[ROW_BLOCK * K_BLOCK];
    _Alignas(64) float wide_weight[K_BLOCK * GROUP_OUTPUTS];
    const uint32_t *rows = (const uint32_t *)(const void *)wide_in;
    const bool few_rows = group->n_rows <= TILE_ROWS;
    const int64_t panel_bytes = panel_lines(DTYPE_BFLOAT16, job->n_in) * PANEL_LINE_BYTES;
    const char *weight = (const char *)job->weight + group->first * panel_bytes;
    const uint16_t *in = (const uint16_t *)job->in + group->row * job->n_in;
    const int64_t block = few_rows ? FEW_ROWS_K_BLOCK : K_BLOCK;
    for (int64_t k = 0; k < job->n_in; k += block) {
        int64_t n_k = job->n_in - k < block ? job->n_in - k : block;
        int64_t n_lines = panel_lines(DTYPE_BFLOAT16, n_k);
        const char *from = weight + k / 2 * PANEL_LINE_BYTES;
        struct ahead ahead = ahead_of(group, k, n_k);
        widen_rows(in + k, job->n_in, n_k, group->n_rows, wide_in, block);
        if (few_rows) {
            tile_rows(from, panel_bytes, DTYPE_BFLOAT16, group->n_panels, rows, block, n_lines, sums,
                      group->n_rows);
        } else {
            widen_weight(from, panel_bytes, group->n_panels, n_lines, wide_weight);
            tile_all_rows((const char *)wide_weight, K_BLOCK * PANEL_LINE_BYTES, DTYPE_FLOAT32,
                          group->n_panels, rows, block, 2 * n_lines, sums, group->n_rows, &ahead);
        }
    }
}

static void chains_bfloat16(const struct group *group, float *sums) {
    uint32_t mode = simd_flush_subnormals();
    chains_flushed(group, sums);
    simd_restore(mode);
}

#endif

/* One row's n (1..16) outputs of one panel. */
SIMD_INLINE void finish(const struct matmul_job *job, v16 sum, int64_t row, int64_t output, int n) {
    if (job->bias)
        sum = v16_add(sum,
                      n == V16_LANES ? v16_load(job->bias + output) : v16_load_first(job->bias + output, n));
    if (job->activation == ACTIVATION_GELU_TANH)
        sum = v16_gelu_tanh(sum); /* gated ones are done: their sums met before they came here */
    if (job->softcap > 0)
        sum = v16_softcap(sum, job->softcap);
    if (job->out_dtype == DTYPE_BFLOAT16) {
        uint16_t *narrow = (uint16_t *)job->out + row * job->n_out + output;
        if (n == V16_LANES)
            v16_store_bf16(narrow, sum);
        else
            v16_store_bf16_first(narrow, sum, n);
        return;
    }
    float *out = (float *)job->out + row * job->n_out + output;
    if (n == V16_LANES) {
        v16_store(out, job->accumulate ? v16_add(v16_load(out), sum) : sum);
    } else {
        v16_store_first(out, job->accumulate ? v16_add(v16_load_first(out, n), sum) : sum, n);
    }
}

static void compute_group(const struct group *group) {
    const struct matmul_job *job = group->job;
    const int n_panels = group->n_panels;
    _Alignas(64) float sums[ROW_BLOCK * GROUP_OUTPUTS];
    memset(sums, 0, (size_t)group->n_rows * GROUP_OUTPUTS * sizeof *sums);
    if (job->dtype == DTYPE_FLOAT32)
        chains_float32(group, sums);
    else
        chains_bfloat16(group, sums);
    const bool is_silu = job->activation == ACTIVATION_SILU_GATED;
    const int panels_each =
        is_silu || job->activation == ACTIVATION_GELU_TANH_GATED ? 2 : 1; /* make 16 outputs */
    for (int r = 0; r < group->n_rows; r++) {
        for (int p = 0; p < n_panels; p += panels_each) {
            int64_t output = (group->first + p) / panels_each * PANEL_OUTPUTS;
            int n = job->n_out - output < PANEL_OUTPUTS ? (int)(job->n_out - output) : PANEL_OUTPUTS;
            const float *sum = sums + r * GROUP_OUTPUTS + p * PANEL_OUTPUTS;
            v16 result = v16_load(sum);
            if (panels_each == 2)
                result = v16_mul(is_silu ? v16_silu(result) : v16_gelu_tanh(result),
                                 v16_load(sum + PANEL_OUTPUTS));
            finish(job, result, group->row + r, output, n);
        }
    }
}

void CPU_SYMBOL(cpu_matmul_panels)(const struct matmul_job *job, int64_t first, int64_t end) {
    for (int64_t panel = first; panel < end; panel += GROUP_PANELS) {
        int n_panels = end - panel < GROUP_PANELS ? (int)(end - panel) : GROUP_PANELS;
        for (int64_t row = 0; row < job->n_rows; row += ROW_BLOCK) {
            int n_rows = job->n_rows - row < ROW_BLOCK ? (int)(job->n_rows - row) : ROW_BLOCK;
            compute_group(&(struct group){job, panel, end, row, n_panels, n_rows});
        }
    }
}
