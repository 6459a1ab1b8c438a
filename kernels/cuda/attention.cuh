/* attention: what the decode and the prefill kernels share. */
#ifndef PRESSRUN_KERNELS_CUDA_ATTENTION_CUH
#define PRESSRUN_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/rope.cuh"

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
    int32_t group; /* query heads per kv head */
    int32_t n_slots;
    int32_t max_pages; /* row length of page_table */
    int32_t max_chunks;
    float scale;               /* times log2(e): softmax is computed with powers of two */
    float *partials;           /* [n_rows, n_heads, max_chunks, head_dim + 2] */
    uint32_t *arrivals;        /* [n_rows, n_heads] zero */
    const float *rope;         /* [positions, head_dim] cosines, sines (rope.cuh); or NULL */
    const int32_t *page_table; /* [n_slots + 1, max_pages] */
    const int32_t *position;   /* [n_rows] */
    const int32_t *slot;       /* [n_rows] */
    const struct segment *tiles;
    int32_t tile_rows;   /* at most, of a tile */
    uint32_t *next_item; /* [1] prefill: items taken behind the first of each block */
};

/* The rope table's row of a position; NULL without a table. */
static __device__ __forceinline__ const float *attention_rope_row(const attention_params &p, int position) {
    return p.rope ? p.rope + (int64_t)position * p.layout.head_dim : nullptr;
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

/* Fills what decode and prefill have in common. */
struct attention_params attention_params_for(struct backend_context *context,
                                             const struct attention_args *args);

/* Refuses operands of the wrong shape by name. */
enum status attention_check(struct backend_context *context, const struct attention_args *args,
                            const char *operation);

#endif
