/* attention_decode: what a block of decode attention works on, and how the chunks of a row meet; the same for
 * all dtypes. Included by attention.cu, whose head describes both, and attention_decode_fma.cu.
 *
 * Numerics: chunks merge in ascending order, one after the other, whichever blocks computed them. */
#ifndef PRESSRUN_KERNELS_CUDA_ATTENTION_DECODE_CUH
#define PRESSRUN_KERNELS_CUDA_ATTENTION_DECODE_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

/* A kernel of decode attention. */
struct decode_launch {
    void (*kernel)(const attention_params);
    int heads;             /* of one kv head that a block takes */
    bool several_kv_heads; /* or of several, as many in all */
    size_t shared_bytes;
};

/* That for any dtypes but bfloat16 over bfloat16 pages. */
struct decode_launch attention_decode_fma(const attention_params &p, enum dtype dtype, enum dtype kv_dtype);

namespace {

enum {
    DECODE_WARPS = 8,
    DECODE_THREADS = DECODE_WARPS * WARP_LANES,
    CHUNK = DECODE_CHUNK_TOKENS,
    CHUNK_PAGES = CHUNK / PAGE_TOKENS,
    MERGED_AT_ONCE = 8 /* chunks whose sums are requested together */
};

/* Grid: (row, kv head and up to `heads` of its query heads, or p.block_kv_heads of them with all theirs; part
 * of the row's chunks). */
struct decode_work {
    int row;
    int slot;
    int position;
    int kv_head; /* first one */
    int n_kv_heads;
    int head;    /* first query head */
    int n_heads; /* of the block */
    int span;    /* positions in front of the row's own that it sees */
    int first_chunk;

    __device__ __forceinline__ int end_chunk() const { return (int)((unsigned)position / CHUNK) + 1; }
    __device__ __forceinline__ int n_chunks() const { return end_chunk() - first_chunk; }
    __device__ __forceinline__ int32_t page(const attention_params &p, int chunk, int page_of_chunk) const {
        return p.page_table[(int64_t)slot * p.max_pages + chunk * CHUNK_PAGES + page_of_chunk];
    }
};

/* False when the block has nothing to do. Reads nothing that a kernel of this step writes. WINDOWED: rows may
 * have a window. */
template <bool WINDOWED>
__device__ __forceinline__ bool decode_work_init(decode_work &work, const attention_params &p, int heads) {
    int blocks_per_kv_head = (p.group + heads - 1) / heads, first_head = 0;
    work.row = blockIdx.x;
    work.kv_head = blockIdx.y * p.block_kv_heads;
    if (blocks_per_kv_head > 1) {
        work.kv_head = blockIdx.y / blocks_per_kv_head;
        first_head = blockIdx.y % blocks_per_kv_head * heads;
    }
    work.n_kv_heads = min(p.block_kv_heads, p.layout.n_kv_heads - work.kv_head);
    work.slot = p.slot[work.row];
    work.position = p.position[work.row];
    work.head = work.kv_head * p.group + first_head;
    work.n_heads = work.n_kv_heads > 1 ? work.n_kv_heads * p.group : min(heads, p.group - first_head);
    work.span = work.position - (WINDOWED ? window_first(work.position, p.window) : 0);
    work.first_chunk = WINDOWED ? (int)((unsigned)(work.position - work.span) / CHUNK) : 0;
    return work.slot < p.n_slots && (int)blockIdx.z < work.n_chunks();
}

/* Sums of one query head over some positions: weights are powers of two relative to `largest`. Warp h of a
 * block holds those of its head h; a lane has columns lane, lane + 32, .. */
template <int HEAD_DIM> struct head_sums {
    static constexpr int COLUMNS = (HEAD_DIM + WARP_LANES - 1) / WARP_LANES;
    float largest;
    float total;
    float sum[COLUMNS];
};

template <int HEAD_DIM>
__device__ __forceinline__ void merge_sums(head_sums<HEAD_DIM> &to, const head_sums<HEAD_DIM> &from) {
    float larger = fmaxf(to.largest, from.largest);
    float keep = ptx_exp2(to.largest - larger), add = ptx_exp2(from.largest - larger);
    to.largest = larger;
    to.total = fmaf(from.total, add, to.total * keep);
#pragma unroll
    for (int i = 0; i < head_sums<HEAD_DIM>::COLUMNS; i++)
        to.sum[i] = fmaf(from.sum[i], add, to.sum[i] * keep);
}

/* Where the sums of one chunk of a (row, query head) lie: columns, largest, total. */
template <int HEAD_DIM>
__device__ __forceinline__ float *partial_of(const attention_params &p, int row, int head, int chunk) {
    return p.partials + (((int64_t)row * p.n_heads + head) * p.max_chunks + chunk) * (HEAD_DIM + 2);
}

/* What a block has of its row: one call of add() per chunk in ascending order, by all threads, then one of
 * finish(). Warps beyond n_heads hold nothing. */
template <typename T, int HEAD_DIM> struct row_sums {
    using sums = head_sums<HEAD_DIM>;
    sums all;
    bool alone; /* the block has all chunks of the row */

    __device__ __forceinline__ explicit row_sums(const decode_work &work) {
        alone = gridDim.z == 1 || work.n_chunks() == 1;
        all.largest = -INFINITY;
        all.total = 0;
#pragma unroll
        for (int i = 0; i < sums::COLUMNS; i++)
            all.sum[i] = 0;
    }

    __device__ __forceinline__ void add(const attention_params &p, const decode_work &work, int chunk,
                                        const sums &part) {
        int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
        if (warp >= work.n_heads)
            return;
        if (alone) {
            merge_sums<HEAD_DIM>(all, part);
            return;
        }
        float *partial = partial_of<HEAD_DIM>(p, work.row, work.head + warp, chunk);
#pragma unroll
        for (int i = 0; i < sums::COLUMNS; i++)
            if (lane + i * WARP_LANES < HEAD_DIM)
                partial[lane + i * WARP_LANES] = part.sum[i];
        if (lane == 0)
            partial[HEAD_DIM] = part.largest, partial[HEAD_DIM + 1] = part.total;
    }

    __device__ __forceinline__ void finish(const attention_params &p, const decode_work &work) {
        int lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES;
        if (!alone) {
            __shared__ bool is_last;
            __syncthreads(); /* the sums of this block are written */
            if (threadIdx.x == 0) {
                uint32_t n = min((int)gridDim.z, work.n_chunks());
                is_last = ptx_count_round(p.arrivals + (int64_t)work.row * p.n_heads + work.head, n) == n - 1;
            }
            __syncthreads(); /* the sums of the blocks counted before are readable */
            if (!is_last)
                return;
        }
        if (warp >= work.n_heads)
            return;
        int head = work.head + warp;
        for (int first = work.first_chunk; !alone && first < work.end_chunk(); first += MERGED_AT_ONCE) {
            sums part[MERGED_AT_ONCE];
#pragma unroll
            for (int c = 0; c < MERGED_AT_ONCE; c++) {
                if (first + c >= work.end_chunk())
                    break;
                const float *partial = partial_of<HEAD_DIM>(p, work.row, head, first + c);
                part[c].largest = partial[HEAD_DIM];
                part[c].total = partial[HEAD_DIM + 1];
#pragma unroll
                for (int i = 0; i < sums::COLUMNS; i++)
                    part[c].sum[i] = lane + i * WARP_LANES < HEAD_DIM ? partial[lane + i * WARP_LANES] : 0.0f;
            }
#pragma unroll
            for (int c = 0; c < MERGED_AT_ONCE; c++)
                if (first + c < work.end_chunk())
                    merge_sums<HEAD_DIM>(all, part[c]);
        }
        T *to = static_cast<T *>(p.out) + work.row * p.out_stride + head * HEAD_DIM;
#pragma unroll
        for (int i = 0; i < sums::COLUMNS; i++)
            if (lane + i * WARP_LANES < HEAD_DIM)
                to[lane + i * WARP_LANES] = from_float<T>(all.sum[i] / all.total);
    }
};

} // namespace

#endif
