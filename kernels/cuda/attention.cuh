/* attention: what the decode and the prefill kernels share. */
#ifndef PRESSRUN_KERNELS_CUDA_ATTENTION_CUH
#define PRESSRUN_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/context.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/window.h"

struct attention_params {
    const void *qkv; /* [n_rows, (n_heads + 2 n_kv_heads) head_dim] */
    void *out;       /* [n_rows, n_heads head_dim] */
    void *k;         /* kv_layout.h */
    void *v;         /* kv_layout.h */
    int64_t qkv_stride;
    int64_t out_stride;
    struct kv_layout layout;
    int32_t layer;
    int32_t n_heads;
    int32_t group;          /* query heads per kv head */
    int32_t block_kv_heads; /* decode: that a block takes; more than one where groups are small */
    int32_t n_slots;
    int32_t max_pages; /* row length of page_table */
    int32_t max_chunks;
    float scale;           /* times log2(e): softmax is computed with powers of two */
    float softcap;         /* times log2(e) too; 0: none */
    float softcap_inverse; /* 1 / softcap */
    int32_t window;        /* positions that a row sees; 0: all in front of it */
    float norm_epsilon;
    const float *q_norm;       /* [head_dim] float32, or NULL */
    const float *k_norm;       /* the same; both or neither */
    float *partials;           /* [n_rows, n_heads, max_chunks, head_dim + 2] */
    uint32_t *arrivals;        /* [n_rows, n_heads] zero */
    const float *rope;         /* [positions, head_dim] cosines, sines (rope.cuh); or NULL */
    const int32_t *page_table; /* [n_slots + 1, max_pages] */
    const int32_t *position;   /* [n_rows] */
    const int32_t *slot;       /* [n_rows] */
    const struct segment *tiles;
    int32_t tile_rows;   /* at most, of a tile */
    uint32_t *next_item; /* [1] prefill: items taken behind the first of each block */
    int32_t *handed;     /* [blocks, PREFILL_MAX_CONSUMERS] prefill: what a block's warpgroups work on */
};

/* The rope table's row of a position; NULL without a table. */
static __device__ __forceinline__ const float *attention_rope_row(const attention_params &p, int position) {
    return p.rope ? p.rope + (int64_t)position * p.layout.head_dim : nullptr;
}

/* Whether the operation has what only some models need. Kernels with code in their hot loops for it exist
 * twice. */
static inline bool attention_is_general(const attention_params &p) {
    return p.softcap != 0 || p.window != 0 || p.q_norm;
}

/* In front of the largest score of a row that has seen no key: below any score, and finite, so that a tile
 * without a visible key leaves the row's sums as they are (2^0 times them, plus zeros). */
static constexpr float NO_SCORE = -1e30f;

/* A score, times log2(e), behind the soft cap; for p.softcap != 0. */
static __device__ __forceinline__ float attention_softcap(const attention_params &p, float score) {
    return __fmul_rn(p.softcap, tanh_of(__fmul_rn(score, p.softcap_inverse)));
}

/* Copies K, rotated, and V of one row and kv head from qkv to the page of its position, by the calling
 * threads [0, n_threads). */
template <typename T, typename KV>
static __device__ __forceinline__ void attention_append(const attention_params &p, int row, int kv_head,
                                                        int page, int row_in_page, int thread,
                                                        int n_threads) {
    int head_dim = p.layout.head_dim;
    const T *k =
        static_cast<const T *>(p.qkv) + row * p.qkv_stride + (int64_t)(p.n_heads + kv_head) * head_dim;
    const T *v = k + (int64_t)p.layout.n_kv_heads * head_dim;
    const float *rope = attention_rope_row(p, p.position[row]);
    size_t offset = kv_offset(p.layout, p.layer, page, kv_head, row_in_page);
    for (int column = thread * 8; column < head_dim; column += n_threads * 8) {
        float x[8];
        rope_load_8(x, k, column, head_dim, rope);
        store_8(static_cast<KV *>(p.k) + offset + column, x);
        load_8(x, v + column);
        store_8(static_cast<KV *>(p.v) + offset + column, x);
    }
}

/* The same for models with a norm of k, by the lanes of one warp. */
template <typename T, typename KV>
static __device__ __forceinline__ void attention_append_normed(const attention_params &p, int row,
                                                               int kv_head, int page, int row_in_page,
                                                               int lane) {
    int head_dim = p.layout.head_dim, column = lane * 8;
    const T *k =
        static_cast<const T *>(p.qkv) + row * p.qkv_stride + (int64_t)(p.n_heads + kv_head) * head_dim;
    const T *v = k + (int64_t)p.layout.n_kv_heads * head_dim;
    size_t offset = kv_offset(p.layout, p.layer, page, kv_head, row_in_page) + (size_t)column;
    float x[8] = {};
    if (column < head_dim)
        load_8(x, k + column);
    rope_norm_head<T, WARP_LANES>(x, lane, head_dim, p.k_norm, p.norm_epsilon,
                                  attention_rope_row(p, p.position[row]));
    if (column >= head_dim)
        return;
    store_8(static_cast<KV *>(p.k) + offset, x);
    load_8(x, v + column);
    store_8(static_cast<KV *>(p.v) + offset, x);
}

/* Fills what decode and prefill have in common. */
struct attention_params attention_params_for(struct backend_context *context,
                                             const struct attention_args *args);

/* Refuses operands of the wrong shape by name. */
enum status attention_check(struct backend_context *context, const struct attention_args *args,
                            const char *operation);

#endif
