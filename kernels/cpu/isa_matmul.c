/* isa_matmul: out[r, o] = epilogue(sum over k of weight[o, k] * in[r, k]).
 *
 * Numerics: one chain of fused multiply-adds in float32 per output, from zero, k ascending; then + bias,
 * activation, + out. A gated activation has two chains per output, which meet in silu(gate) * up, or
 * gelu(gate) * up. Lanes run over the 16 outputs of a panel. Tiles, blocks of k (between which the
 * accumulators rest in memory as float32) and threads only choose which chains advance together, so they
 * change no bit. bfloat16 operands are widened exactly.
 *
 * Blocking: a tile is P panels times R rows of accumulators in registers. Few rows stream each weight once
 * over the whole of k, which is bound by memory. Many rows keep a block of k of the tile's panels in the L1
 * cache while all rows pass over it; bfloat16 weights are widened once for the block, and the next block is
 * on its way from memory meanwhile. */
#include "kernels/cpu/isa_kernels.h"

enum {
    GROUP_PANELS = PANEL_STEP, /* panels worked on together */
    GROUP_OUTPUTS = GROUP_PANELS * PANEL_OUTPUTS,
    ROW_BLOCK = 72, /* rows whose accumulators rest in one stack tile */
    K_BLOCK = 128,
    CACHE_LINE_BYTES = 64
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

SIMD_INLINE v16 load_weight(const void *weight, int64_t element, enum dtype dtype) {
    if (dtype == DTYPE_FLOAT32)
        return v16_load((const float *)weight + element);
    return v16_load_bf16((const uint16_t *)weight + element);
}

/* Advances the chains of n_panels x n_rows outputs over n_k inputs. sums [n_rows, GROUP_OUTPUTS]; the
 * weight's panels lie panel_stride elements apart. All counts are constants where this is called. */
SIMD_INLINE void tile(const void *weight, int64_t panel_stride, enum dtype dtype, const float *in,
                      int64_t in_stride, int64_t n_k, float *sums, const int n_panels, const int n_rows) {
    v16 sum[TILE_ROWS][GROUP_PANELS];
#pragma GCC unroll 8
    for (int r = 0; r < n_rows; r++) {
#pragma GCC unroll 8
        for (int p = 0; p < n_panels; p++)
            sum[r][p] = v16_load(sums + r * GROUP_OUTPUTS + p * PANEL_OUTPUTS);
    }
    for (int64_t k = 0; k < n_k; k++) {
        v16 w[GROUP_PANELS];
#pragma GCC unroll 8
        for (int p = 0; p < n_panels; p++)
            w[p] = load_weight(weight, p * panel_stride + k * PANEL_OUTPUTS, dtype);
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++) {
            v16 x = v16_set1(in[r * in_stride + k]);
#pragma GCC unroll 8
            for (int p = 0; p < n_panels; p++)
                sum[r][p] = v16_fma(w[p], x, sum[r][p]);
        }
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
SIMD_INLINE void tile_group(const void *weight, int64_t panel_stride, enum dtype dtype, int n_panels,
                            const float *in, int64_t in_stride, int64_t n_k, float *sums, const int n_rows) {
    const int at_once = TILE_PANELS(n_rows);
    size_t panel_bytes = (size_t)panel_stride * (dtype == DTYPE_FLOAT32 ? 4 : 2);
    int p = 0;
    for (; p + at_once <= n_panels; p += at_once)
        tile((const char *)weight + (size_t)p * panel_bytes, panel_stride, dtype, in, in_stride, n_k,
             sums + p * PANEL_OUTPUTS, at_once, n_rows);
    for (; p < n_panels; p++)
        tile((const char *)weight + (size_t)p * panel_bytes, panel_stride, dtype, in, in_stride, n_k,
             sums + p * PANEL_OUTPUTS, 1, n_rows);
}

SIMD_INLINE void tile_rows(const void *weight, int64_t panel_stride, enum dtype dtype, int n_panels,
                           const float *in, int64_t in_stride, int64_t n_k, float *sums, int n_rows) {
    switch (n_rows) {
    case 1:
        tile_group(weight, panel_stride, dtype, n_panels, in, in_stride, n_k, sums, 1);
        break;
    case 2:
        tile_group(weight, panel_stride, dtype, n_panels, in, in_stride, n_k, sums, 2);
        break;
#if V16_REGISTERS > 4
    case 3:
        tile_group(weight, panel_stride, dtype, n_panels, in, in_stride, n_k, sums, 3);
        break;
    case 4:
        tile_group(weight, panel_stride, dtype, n_panels, in, in_stride, n_k, sums, 4);
        break;
    case 5:
        tile_group(weight, panel_stride, dtype, n_panels, in, in_stride, n_k, sums, 5);
        break;
    case 6:
        tile_group(weight, panel_stride, dtype, n_panels, in, in_stride, n_k, sums, 6);
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
            __builtin_prefetch(ahead->weight + p * ahead->panel_bytes + line * CACHE_LINE_BYTES, 0, 2);
}

/* Rows [0, n_rows) in tiles of nearly equal height. */
static void rows_float32(const void *weight, int64_t panel_stride, int n_panels, const float *in,
                         int64_t in_stride, int64_t n_k, float *sums, int n_rows, const struct ahead *ahead) {
    int n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int r = 0, tile = 0; r < n_rows; tile++) {
        int left = n_tiles - tile;
        int height = (n_rows - r + left - 1) / left;
        prefetch_share(ahead, tile, n_tiles);
        tile_rows(weight, panel_stride, DTYPE_FLOAT32, n_panels, in + r * in_stride, in_stride, n_k,
                  sums + r * GROUP_OUTPUTS, height);
        r += height;
    }
}

/* wide [n_rows, wide_stride] = narrow [n_rows, stride], n of each row. */
static void widen(const uint16_t *narrow, int64_t stride, int64_t n, int n_rows, float *wide,
                  int64_t wide_stride) {
    for (int r = 0; r < n_rows; r++) {
        const uint16_t *from = narrow + r * stride;
        float *to = wide + r * wide_stride;
        int64_t k = 0;
        for (; k + V16_LANES <= n; k += V16_LANES)
            v16_store(to + k, v16_load_bf16(from + k));
        for (; k < n; k++)
            to[k] = bfloat16_to_float(from[k]);
    }
}

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

/* What follows n_k inputs from k on of n_panels panels from first on, of which there are panels up to end.
 * Many rows hide the way from memory behind arithmetic; few rows wait for it anyway, and the processor sees
 * their streams. */
static struct ahead ahead_of(const struct matmul_job *job, int64_t first, int n_panels, int64_t end,
                             int64_t k, int64_t n_k) {
    size_t bytes = dtype_bytes(job->weight_dtype);
    k += n_k;
    if (k == job->n_in) {
        k = 0;
        first += n_panels;
        n_panels = end - first < GROUP_PANELS ? (int)(end - first) : GROUP_PANELS;
    }
    n_k = job->n_in - k < K_BLOCK ? job->n_in - k : K_BLOCK;
    return (struct ahead){.weight = (const char *)job->weight +
                                    (size_t)((first * job->n_in + k) * PANEL_OUTPUTS) * bytes,
                          .panel_bytes = job->n_in * PANEL_OUTPUTS * (int64_t)bytes,
                          .panel_lines = n_k * PANEL_OUTPUTS * (int64_t)bytes / CACHE_LINE_BYTES,
                          .n_panels = n_panels};
}

/* Panels [first, first + n_panels), rows [row, row + n_rows). end: behind the last panel of this call. */
static void group(const struct matmul_job *job, int64_t first, int n_panels, int64_t end, int64_t row,
                  int n_rows) {
    _Alignas(64) float sums[ROW_BLOCK * GROUP_OUTPUTS];
    _Alignas(64) float wide_in[ROW_BLOCK * K_BLOCK];
    _Alignas(64) float wide_weight[K_BLOCK * GROUP_OUTPUTS];
    memset(sums, 0, (size_t)n_rows * GROUP_OUTPUTS * sizeof *sums);
    bool few_rows = n_rows <= TILE_ROWS;
    bool narrow_in = job->in_dtype == DTYPE_BFLOAT16;
    bool narrow_weight = job->weight_dtype == DTYPE_BFLOAT16;
    int64_t step = few_rows && !narrow_in ? job->n_in : K_BLOCK;
    for (int64_t k = 0; k < job->n_in; k += step) {
        int64_t n_k = job->n_in - k < step ? job->n_in - k : step;
        int64_t in_element = row * job->n_in + k;
        const float *in = (const float *)job->in + in_element;
        int64_t in_stride = job->n_in;
        if (narrow_in) {
            widen((const uint16_t *)job->in + in_element, job->n_in, n_k, n_rows, wide_in, K_BLOCK);
            in = wide_in;
            in_stride = K_BLOCK;
        }
        int64_t element = (first * job->n_in + k) * PANEL_OUTPUTS;
        int64_t panel_stride = job->n_in * PANEL_OUTPUTS;
        struct ahead ahead = {0};
        if (!few_rows)
            ahead = ahead_of(job, first, n_panels, end, k, n_k);
        if (!narrow_weight) {
            rows_float32((const float *)job->weight + element, panel_stride, n_panels, in, in_stride, n_k,
                         sums, n_rows, &ahead);
        } else if (few_rows) {
            tile_rows((const uint16_t *)job->weight + element, panel_stride, DTYPE_BFLOAT16, n_panels, in,
                      in_stride, n_k, sums, n_rows);
        } else {
            widen((const uint16_t *)job->weight + element, panel_stride, n_k * PANEL_OUTPUTS, n_panels,
                  wide_weight, K_BLOCK * PANEL_OUTPUTS);
            rows_float32(wide_weight, K_BLOCK * PANEL_OUTPUTS, n_panels, in, in_stride, n_k, sums, n_rows,
                         &ahead);
        }
    }
    const bool is_silu = job->activation == ACTIVATION_SILU_GATED;
    const int panels_each =
        is_silu || job->activation == ACTIVATION_GELU_TANH_GATED ? 2 : 1; /* make 16 outputs */
    for (int r = 0; r < n_rows; r++) {
        for (int p = 0; p < n_panels; p += panels_each) {
            int64_t output = (first + p) / panels_each * PANEL_OUTPUTS;
            int n = job->n_out - output < PANEL_OUTPUTS ? (int)(job->n_out - output) : PANEL_OUTPUTS;
            const float *sum = sums + r * GROUP_OUTPUTS + p * PANEL_OUTPUTS;
            v16 result = v16_load(sum);
            if (panels_each == 2)
                result = v16_mul(is_silu ? v16_silu(result) : v16_gelu_tanh(result),
                                 v16_load(sum + PANEL_OUTPUTS));
            finish(job, result, row + r, output, n);
        }
    }
}

void CPU_SYMBOL(cpu_matmul_panels)(const struct matmul_job *job, int64_t first, int64_t end) {
    for (int64_t panel = first; panel < end; panel += GROUP_PANELS) {
        int n_panels = end - panel < GROUP_PANELS ? (int)(end - panel) : GROUP_PANELS;
        for (int64_t row = 0; row < job->n_rows; row += ROW_BLOCK) {
            int n_rows = job->n_rows - row < ROW_BLOCK ? (int)(job->n_rows - row) : ROW_BLOCK;
            group(job, panel, n_panels, end, row, n_rows);
        }
    }
}
