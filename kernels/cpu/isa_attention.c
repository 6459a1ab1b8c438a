/* isa_attention: softmax(scale * q . K) . V over the pages of one key/value head.
 *
 * Numerics: a score is one chain of fused multiply-adds over head_dim in ascending order, then times scale. A
 * value is one chain over positions in ascending order. Maxima do not depend on order.
 *   decode   per chunk of DECODE_CHUNK_TOKENS positions: its maximum, exp(score - maximum), their sum
 * (vectors of 16 positions added in ascending order, then the fixed tree), their chain of values; chunks are
 *            combined in ascending order.
 *   prefill  per page in ascending order, each row by itself: new maximum, old sum and values times
 *            exp(old - new maximum), then the page's chain goes on.
 * A row's bits depend on its own position alone: rows share only loads of keys and values. Positions beyond a
 * row's own and in front of its window are given the weight zero before the exponential and are not visited
 * in V, so nothing they hold is seen. */
#include "kernels/cpu/isa_kernels.h"

#include <math.h>

enum { HALVES = PAGE_TOKENS / V16_LANES, CHUNK_PAGES = DECODE_CHUNK_TOKENS / PAGE_TOKENS };

/* Queries per tile, and vectors of a value row that a tile keeps in registers for one or for more queries. */
#if V16_REGISTERS == 32
enum { TILE_QUERIES = 6, SCORE_PAGES = 4, VALUE_VECTORS_ONE = 4, VALUE_VECTORS = 4 };
#elif V16_REGISTERS == 8
enum { TILE_QUERIES = 3, SCORE_PAGES = 2, VALUE_VECTORS_ONE = 4, VALUE_VECTORS = 2 };
#else
enum { TILE_QUERIES = 1, SCORE_PAGES = 1, VALUE_VECTORS_ONE = 1, VALUE_VECTORS = 1 };
#endif

static const void *page_of(const struct kv_view *view, const void *base, int32_t page_idx) {
    size_t head = (size_t)view->pages[page_idx] * (size_t)view->n_kv_heads + (size_t)view->head;
    return (const char *)base + head * PAGE_TOKENS * (size_t)view->head_dim * dtype_bytes(view->dtype);
}

SIMD_INLINE v16 load_lanes(const void *from, size_t element, enum dtype dtype) {
    if (dtype == DTYPE_FLOAT32)
        return v16_load((const float *)from + element);
    return v16_load_bf16((const uint16_t *)from + element);
}

SIMD_INLINE v16 load_first_lanes(const void *from, size_t element, enum dtype dtype, int n) {
    if (dtype == DTYPE_FLOAT32)
        return v16_load_first((const float *)from + element, n);
    return v16_load_bf16_first((const uint16_t *)from + element, n);
}

/* scores[q * stride + 32 p + i] = scale * (query q . key i of page p). All counts are constants at the call.
 * ahead: NULL, or pages that are wanted in cache soon, one for each of keys. */
SIMD_INLINE void score_pages(const struct kv_view *view, const void *const *keys, const void *const *ahead,
                             enum dtype dtype, const float *queries, float *scores, int stride,
                             const int n_queries, const int n_pages) {
    v16 sum[TILE_QUERIES][SCORE_PAGES][HALVES];
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; q++) {
#pragma GCC unroll 8
        for (int p = 0; p < n_pages; p++) {
            sum[q][p][0] = v16_zero();
            sum[q][p][1] = v16_zero();
        }
    }
    for (int d = 0; d < view->head_dim; d++) {
#pragma GCC unroll 8
        for (int p = 0; p < n_pages; p++) {
            v16 low = load_lanes(keys[p], (size_t)d * PAGE_TOKENS, dtype);
            v16 high = load_lanes(keys[p], (size_t)d * PAGE_TOKENS + V16_LANES, dtype);
            if (ahead) {
                size_t line = (size_t)d * PAGE_TOKENS * dtype_bytes(dtype);
                __builtin_prefetch((const char *)ahead[p] + line, 0, 2);
                if (dtype == DTYPE_FLOAT32)
                    __builtin_prefetch((const char *)ahead[p] + line + 64, 0, 2);
            }
#pragma GCC unroll 8
            for (int q = 0; q < n_queries; q++) {
                v16 x = v16_set1(queries[q * view->head_dim + d]);
                sum[q][p][0] = v16_fma(x, low, sum[q][p][0]);
                sum[q][p][1] = v16_fma(x, high, sum[q][p][1]);
            }
        }
    }
    v16 scale = v16_set1(view->scale);
#pragma GCC unroll 8
    for (int q = 0; q < n_queries; q++) {
#pragma GCC unroll 8
        for (int p = 0; p < n_pages; p++) {
            float *to = scores + q * stride + p * PAGE_TOKENS;
            v16_store(to, v16_mul(sum[q][p][0], scale));
            v16_store(to + V16_LANES, v16_mul(sum[q][p][1], scale));
        }
    }
}

/* values[q * MAX_HEAD_DIM + d] += sum over j < n of weights[q * stride + j] * page[j, d], for vectors of d
 * from d on, n_vectors at once; returns the d where fewer remain. ahead: NULL, or a page that is wanted in
 * cache soon. */
SIMD_INLINE int value_vectors(const struct kv_view *view, const void *page, const void *ahead,
                              enum dtype dtype, const float *weights, int stride, int n, float *values, int d,
                              const int n_queries, const int n_vectors) {
    for (; d + n_vectors * V16_LANES <= view->head_dim; d += n_vectors * V16_LANES) {
        v16 sum[TILE_QUERIES][VALUE_VECTORS_ONE];
#pragma GCC unroll 8
        for (int q = 0; q < n_queries; q++) {
#pragma GCC unroll 8
            for (int i = 0; i < n_vectors; i++)
                sum[q][i] = v16_load(values + q * MAX_HEAD_DIM + d + i * V16_LANES);
        }
        for (int j = 0; j < n; j++) {
            size_t element = (size_t)j * (size_t)view->head_dim + (size_t)d;
            v16 v[VALUE_VECTORS_ONE];
#pragma GCC unroll 8
            for (int i = 0; i < n_vectors; i++) {
                v[i] = load_lanes(page, element + (size_t)(i * V16_LANES), dtype);
                /* A vector of float32 is a cache line, two of bfloat16 are. */
                if (ahead && (dtype == DTYPE_FLOAT32 || i % 2 == 0))
                    __builtin_prefetch(
                        (const char *)ahead + (element + (size_t)(i * V16_LANES)) * dtype_bytes(dtype), 0, 2);
            }
#pragma GCC unroll 8
            for (int q = 0; q < n_queries; q++) {
                v16 w = v16_set1(weights[q * stride + j]);
#pragma GCC unroll 8
                for (int i = 0; i < n_vectors; i++)
                    sum[q][i] = v16_fma(w, v[i], sum[q][i]);
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < n_queries; q++) {
#pragma GCC unroll 8
            for (int i = 0; i < n_vectors; i++)
                v16_store(values + q * MAX_HEAD_DIM + d + i * V16_LANES, sum[q][i]);
        }
    }
    return d;
}

SIMD_INLINE void value_page(const struct kv_view *view, const void *page, const void *ahead, enum dtype dtype,
                            const float *weights, int stride, int n, float *values, const int n_queries) {
    int d = value_vectors(view, page, ahead, dtype, weights, stride, n, values, 0, n_queries,
                          n_queries == 1 ? VALUE_VECTORS_ONE : VALUE_VECTORS);
    d = value_vectors(view, page, ahead, dtype, weights, stride, n, values, d, n_queries, 1);
    if (d == view->head_dim)
        return;
    for (int q = 0; q < n_queries; q++) {
        v16 sum = v16_load(values + q * MAX_HEAD_DIM + d);
        for (int j = 0; j < n; j++) {
            v16 v = load_first_lanes(page, (size_t)j * (size_t)view->head_dim + (size_t)d, dtype,
                                     view->head_dim - d);
            sum = v16_fma(v16_set1(weights[q * stride + j]), v, sum);
        }
        v16_store(values + q * MAX_HEAD_DIM + d, sum);
    }
}

/* The tables below turn run-time counts and dtype into the constants of the functions above. */

#define SCORE_CASE(n)                                                                                        \
    case n:                                                                                                  \
        if (view->dtype == DTYPE_FLOAT32)                                                                    \
            score_pages(view, keys, NULL, DTYPE_FLOAT32, queries, scores, stride, n, 1);                     \
        else                                                                                                 \
            score_pages(view, keys, NULL, DTYPE_BFLOAT16, queries, scores, stride, n, 1);                    \
        break

static void score_page(const struct kv_view *view, const void *const *keys, const float *queries,
                       int n_queries, float *scores, int stride) {
    switch (n_queries) {
        SCORE_CASE(1);
#if V16_REGISTERS > 4
        SCORE_CASE(2);
        SCORE_CASE(3);
#endif
#if V16_REGISTERS == 32
        SCORE_CASE(4);
        SCORE_CASE(5);
        SCORE_CASE(6);
#endif
    }
}

/* SCORE_PAGES pages, or one, for a single query. */
static void score_ahead(const struct kv_view *view, const void *const *keys, const void *const *ahead,
                        const float *queries, float *scores, int n_pages) {
    bool wide = view->dtype == DTYPE_FLOAT32;
    if (n_pages == SCORE_PAGES && wide)
        score_pages(view, keys, ahead, DTYPE_FLOAT32, queries, scores, 0, 1, SCORE_PAGES);
    else if (n_pages == SCORE_PAGES)
        score_pages(view, keys, ahead, DTYPE_BFLOAT16, queries, scores, 0, 1, SCORE_PAGES);
    else if (wide)
        score_pages(view, keys, ahead, DTYPE_FLOAT32, queries, scores, 0, 1, 1);
    else
        score_pages(view, keys, ahead, DTYPE_BFLOAT16, queries, scores, 0, 1, 1);
}

#define VALUE_CASE(n)                                                                                        \
    case n:                                                                                                  \
        if (view->dtype == DTYPE_FLOAT32)                                                                    \
            value_page(view, page, NULL, DTYPE_FLOAT32, weights, stride, n_positions, values, n);            \
        else                                                                                                 \
            value_page(view, page, NULL, DTYPE_BFLOAT16, weights, stride, n_positions, values, n);           \
        break

static void add_values(const struct kv_view *view, const void *page, const float *weights, int stride,
                       int n_positions, float *values, int n_queries) {
    switch (n_queries) {
        VALUE_CASE(1);
#if V16_REGISTERS > 4
        VALUE_CASE(2);
        VALUE_CASE(3);
#endif
#if V16_REGISTERS == 32
        VALUE_CASE(4);
        VALUE_CASE(5);
        VALUE_CASE(6);
#endif
    }
}

static void add_values_ahead(const struct kv_view *view, const void *page, const void *ahead,
                             const float *weights, int n_positions, float *values) {
    if (view->dtype == DTYPE_FLOAT32)
        value_page(view, page, ahead, DTYPE_FLOAT32, weights, 0, n_positions, values, 1);
    else
        value_page(view, page, ahead, DTYPE_BFLOAT16, weights, 0, n_positions, values, 1);
}

/* n scores, rounded up to whole vectors. */
static void cap_scores(const struct kv_view *view, float *scores, int n) {
    for (int i = 0; i < n; i += V16_LANES)
        v16_store(scores + i, v16_softcap(v16_load(scores + i), view->softcap));
}

/* A page's rows from row `from` on. */
static const void *from_row(const struct kv_view *view, const void *page, int from) {
    return (const char *)page + (size_t)from * (size_t)view->head_dim * dtype_bytes(view->dtype);
}

/* ---- decode ---- */

/* scores [skip, n) -> weights exp(score - maximum) in place, zero from the last multiple of 16 below skip and
 * up to the next one above n. */
static void chunk_weights(float *scores, int skip, int n, float *maximum, float *sum) {
    const v16 minus_infinity = v16_set1(-INFINITY);
    const int first = skip / V16_LANES * V16_LANES;
    v16 largest = minus_infinity;
    for (int i = first; i < n; i += V16_LANES) {
        v16 s = v16_keep_first(v16_load(scores + i), n - i, minus_infinity);
        if (i < skip)
            s = v16_keep_first(minus_infinity, skip - i, s);
        v16_store(scores + i, s);
        largest = v16_max(s, largest);
    }
    *maximum = v16_largest(largest);
    v16 center = v16_set1(*maximum);
    v16 total = v16_zero();
    for (int i = first; i < n; i += V16_LANES) {
        v16 weight = v16_exp(v16_sub(v16_load(scores + i), center));
        v16_store(scores + i, weight);
        total = v16_add(total, weight);
    }
    *sum = v16_sum(total);
}

void CPU_SYMBOL(cpu_attention_decode_chunk)(const struct kv_view *view, const float *queries,
                                            int32_t n_queries, int32_t first, int32_t end, float *partial,
                                            size_t stride) {
    _Alignas(64) float scores[TILE_QUERIES][DECODE_CHUNK_TOKENS];
    _Alignas(64) float values[TILE_QUERIES][MAX_HEAD_DIM];
    const int skip = first % DECODE_CHUNK_TOKENS; /* positions of the chunk in front of the window */
    const int skipped_pages = skip / PAGE_TOKENS;
    int n = end - first + skip;
    int n_pages = (n + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int first_page = (first - skip) / PAGE_TOKENS;
    size_t head_bytes = (size_t)PAGE_TOKENS * (size_t)view->head_dim * dtype_bytes(view->dtype);
    const void *keys[CHUNK_PAGES], *chunk_values[CHUNK_PAGES];
    for (int p = skipped_pages; p < n_pages; p++) {
        keys[p] = page_of(view, view->keys, first_page + p);
        chunk_values[p] = page_of(view, view->values, first_page + p);
    }

    for (int32_t done = 0; done < n_queries;) {
        int width = n_queries - done < TILE_QUERIES ? n_queries - done : TILE_QUERIES;
        const float *tile_queries = queries + (size_t)done * (size_t)view->head_dim;
        for (int p = skipped_pages; p < n_pages;) {
            if (width > 1) {
                score_page(view, keys + p, tile_queries, width, &scores[0][p * PAGE_TOKENS],
                           DECODE_CHUNK_TOKENS);
                p++;
            } else {
                /* Bound by memory: the values come while the keys are worked on. */
                int step = n_pages - p >= SCORE_PAGES ? SCORE_PAGES : 1;
                score_ahead(view, keys + p, chunk_values + p, tile_queries, &scores[0][p * PAGE_TOKENS],
                            step);
                p += step;
            }
        }

        memset(values, 0, (size_t)width * sizeof values[0]);
        for (int q = 0; q < width; q++) {
            float *out = partial + (size_t)(done + q) * stride + view->head_dim;
            if (view->softcap > 0)
                cap_scores(view, scores[q] + skipped_pages * PAGE_TOKENS, n - skipped_pages * PAGE_TOKENS);
            chunk_weights(scores[q], skip, n, &out[0], &out[1]);
        }
        for (int p = skipped_pages; p < n_pages; p++) {
            int left = n - p * PAGE_TOKENS, from = p == skipped_pages ? skip % PAGE_TOKENS : 0;
            int positions = (left < PAGE_TOKENS ? left : PAGE_TOKENS) - from;
            const float *weights = &scores[0][p * PAGE_TOKENS + from];
            const void *page = from_row(view, chunk_values[p], from);
            /* Beside the last queries' values come the next head's keys, which the caller works on next. */
            if (width == 1)
                add_values_ahead(view, page, (const char *)keys[p] + head_bytes, weights, positions,
                                 values[0]);
            else
                add_values(view, page, weights, DECODE_CHUNK_TOKENS, positions, values[0], width);
        }
        for (int q = 0; q < width; q++)
            memcpy(partial + (size_t)(done + q) * stride, values[q], (size_t)view->head_dim * sizeof(float));
        done += width;
    }
}

void CPU_SYMBOL(cpu_attention_combine)(const float *partial, size_t stride, int32_t n, int32_t head_dim,
                                       float *out) {
    _Alignas(64) float values[MAX_HEAD_DIM];
    memcpy(values, partial, (size_t)head_dim * sizeof *values);
    float maximum = partial[head_dim];
    float sum = partial[head_dim + 1];
    for (int32_t i = 1; i < n; i++) {
        const float *next = partial + (size_t)i * stride;
        float larger = next[head_dim] > maximum ? next[head_dim] : maximum;
        float old_factor = v16_first(v16_exp(v16_set1(maximum - larger)));
        float new_factor = v16_first(v16_exp(v16_set1(next[head_dim] - larger)));
        sum = fmaf(next[head_dim + 1], new_factor, sum * old_factor);
        maximum = larger;
        for (int d = 0; d < head_dim; d += V16_LANES) {
            int width = head_dim - d < V16_LANES ? head_dim - d : V16_LANES;
            v16 scaled = v16_mul(v16_load_first(values + d, width), v16_set1(old_factor));
            v16 value = v16_fma(v16_load_first(next + d, width), v16_set1(new_factor), scaled);
            v16_store_first(values + d, value, width);
        }
    }
    for (int d = 0; d < head_dim; d += V16_LANES) {
        int width = head_dim - d < V16_LANES ? head_dim - d : V16_LANES;
        v16_store_first(out + d, v16_div(v16_load_first(values + d, width), v16_set1(sum)), width);
    }
}

/* ---- prefill ---- */

struct prefill_rows {
    _Alignas(64) float values[PREFILL_BLOCK][MAX_HEAD_DIM];
    float maximum[PREFILL_BLOCK + V16_LANES]; /* read by whole vectors */
    float sum[PREFILL_BLOCK + V16_LANES];
};

/* The positions of a page that a row sees: [first, limit), 0 <= first, limit <= 32. */
struct visible {
    int first;
    int limit;
};

/* One page for rows [row, row + n) of the block, which see [i] of it. */
static void prefill_page(const struct kv_view *view, int32_t page_idx, const float *queries, int row, int n,
                         const struct visible *visible, struct prefill_rows *rows) {
    _Alignas(64) float scores[TILE_QUERIES][PAGE_TOKENS];
    float larger[V16_LANES] = {0}, factor[V16_LANES];
    const void *keys = page_of(view, view->keys, page_idx);
    const void *values = page_of(view, view->values, page_idx);
    const v16 minus_infinity = v16_set1(-INFINITY);
    score_page(view, &keys, queries + (size_t)row * (size_t)view->head_dim, n, scores[0], PAGE_TOKENS);

    bool whole = true;
    for (int i = 0; i < n; i++) {
        const int first = visible[i].first, limit = visible[i].limit;
        if (view->softcap > 0)
            cap_scores(view, scores[i], PAGE_TOKENS);
        v16 low = v16_load(scores[i]);
        v16 high = v16_load(scores[i] + V16_LANES);
        if (first > 0 || limit < PAGE_TOKENS) {
            whole = false;
            low = v16_keep_first(minus_infinity, first, v16_keep_first(low, limit, minus_infinity));
            high = v16_keep_first(minus_infinity, first - V16_LANES,
                                  v16_keep_first(high, limit - V16_LANES, minus_infinity));
            v16_store(scores[i], low);
            v16_store(scores[i] + V16_LANES, high);
        }
        float page_maximum = v16_largest(v16_max(low, high));
        larger[i] = page_maximum > rows->maximum[row + i] ? page_maximum : rows->maximum[row + i];
    }
    /* Lanes are rows. */
    v16 old = v16_load(rows->maximum + row);
    v16_store(factor, v16_exp(v16_sub(old, v16_load(larger))));

    for (int i = 0; i < n; i++) {
        if (visible[i].first >= visible[i].limit)
            continue;
        v16 center = v16_set1(larger[i]);
        v16 low = v16_exp(v16_sub(v16_load(scores[i]), center));
        v16 high = v16_exp(v16_sub(v16_load(scores[i] + V16_LANES), center));
        v16_store(scores[i], low);
        v16_store(scores[i] + V16_LANES, high);
        rows->sum[row + i] = fmaf(rows->sum[row + i], factor[i], v16_sum(v16_add(low, high)));
        /* Times exactly 1 while the maximum stands: skipping it changes no bit. */
        if (factor[i] != 1.0f) {
            for (int d = 0; d < view->head_dim; d += V16_LANES)
                v16_store(rows->values[row + i] + d,
                          v16_mul(v16_load(rows->values[row + i] + d), v16_set1(factor[i])));
        }
        rows->maximum[row + i] = larger[i];
    }
    if (whole) {
        add_values(view, values, scores[0], PAGE_TOKENS, PAGE_TOKENS, rows->values[row], n);
        return;
    }
    for (int i = 0; i < n; i++) {
        const int first = visible[i].first, n_visible = visible[i].limit - first;
        if (n_visible > 0)
            add_values(view, from_row(view, values, first), scores[i] + first, PAGE_TOKENS, n_visible,
                       rows->values[row + i], 1);
    }
}

void CPU_SYMBOL(cpu_attention_prefill_block)(const struct kv_view *view, const float *queries, int32_t n,
                                             int32_t position, int32_t window, float *out) {
    struct prefill_rows rows;
    for (int i = 0; i < PREFILL_BLOCK + V16_LANES; i++) {
        rows.maximum[i] = -INFINITY;
        rows.sum[i] = 0.0f;
    }
    memset(rows.values, 0, (size_t)n * sizeof rows.values[0]);

    int32_t last_page = (position + n - 1) / PAGE_TOKENS;
    int32_t first_page = position < window ? 0 : (position + 1 - window) / PAGE_TOKENS;
    for (int32_t page = first_page; page <= last_page; page++) {
        for (int row = 0; row < n;) {
            int width = n - row < TILE_QUERIES ? n - row : TILE_QUERIES;
            struct visible visible[TILE_QUERIES];
            for (int i = 0; i < width; i++) {
                int limit = position + row + i + 1 - page * PAGE_TOKENS, first = limit - window;
                visible[i].first = first < 0 ? 0 : first;
                visible[i].limit = limit < 0 ? 0 : limit > PAGE_TOKENS ? PAGE_TOKENS : limit;
            }
            /* What is visible moves up from row to row: the page is nobody's when the last row does not
             * reach it yet, or the first row's window has left it. */
            if (visible[width - 1].limit > 0 && visible[0].first < PAGE_TOKENS)
                prefill_page(view, page, queries, row, width, visible, &rows);
            row += width;
        }
    }
    for (int i = 0; i < n; i++) {
        v16 sum = v16_set1(rows.sum[i]);
        for (int d = 0; d < view->head_dim; d += V16_LANES) {
            int width = view->head_dim - d < V16_LANES ? view->head_dim - d : V16_LANES;
            v16_store_first(out + (size_t)i * (size_t)view->head_dim + d,
                            v16_div(v16_load(rows.values[i] + d), sum), width);
        }
    }
}
