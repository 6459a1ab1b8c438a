/* kv_layout: where a key or value lies in the paged KV cache. Shared by host and device code of all backends.
 *
 *     K and V, each  [n_layers, n_pages, n_kv_heads, PAGE_TOKENS, head_dim]  kv dtype
 *
 * so one head's part of one page is PAGE_TOKENS * head_dim contiguous elements. A slot's page table lists its
 * pages in order of position: position p lies in entry p / PAGE_TOKENS, row p % PAGE_TOKENS. */
#ifndef PRESSRUN_KERNELS_KV_LAYOUT_H
#define PRESSRUN_KERNELS_KV_LAYOUT_H

#include "kernels/backend.h"

#ifdef __CUDACC__
#define KV_INLINE static __host__ __device__ __forceinline__
#else
#define KV_INLINE static inline
#endif

struct kv_layout {
    int32_t n_pages;
    int32_t n_kv_heads;
    int32_t head_dim;
};

/* Index of the first element of (layer, page, kv_head, row_in_page). */
KV_INLINE size_t kv_offset(struct kv_layout layout, int32_t layer, int32_t page, int32_t kv_head,
                           int32_t row_in_page) {
    size_t head =
        ((size_t)layer * (size_t)layout.n_pages + (size_t)page) * (size_t)layout.n_kv_heads + (size_t)kv_head;
    return (head * PAGE_TOKENS + (size_t)row_in_page) * (size_t)layout.head_dim;
}

#endif
