/* attention (decode): out[r, h, :] = softmax(scale q[r, h, :] . K[0..position, h / group, :]) . V for rows
 * that hold one generated position each.
 *
 * One block per (row, kv head and up to HEADS of its query heads, chunk of DECODE_CHUNK_TOKENS positions).
 * The block of the row's last chunk first appends the row's K and V. A sequence of one chunk is finished by
 * its block; of more, the chunks' sums go to scratch and a second kernel combines them in index order. The
 * grid covers the longest possible sequence, so a recorded step serves all lengths; blocks beyond a row's
 * length return at once.
 *
 * Numerics: float32, softmax in powers of two. A score is a butterfly over the lanes that share a key. Within
 * a chunk a thread owns fixed positions (of the chunk), adds them in ascending order, and threads combine as
 * a fixed tree. So bits depend on the row's own position alone. Positions beyond the row's are never loaded.
 */
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace {

enum {
    DECODE_WARPS = 8,
    DECODE_THREADS = DECODE_WARPS * WARP_LANES,
    CHUNK = DECODE_CHUNK_TOKENS,
    CHUNK_PAGES = CHUNK / PAGE_TOKENS,
    LANE_ELEMENTS = 8 /* elements of a key or value that one lane holds */
};
static_assert(CHUNK % (WARP_LANES * 8) == 0, "a warp takes whole rounds of the softmax");

/* Lanes that share one key: a power of two, some idle for head_dim 96. */
template <int HEAD_DIM> struct key_lanes {
    static constexpr int NEEDED = HEAD_DIM / LANE_ELEMENTS;
    static constexpr int LANES = NEEDED <= 2 ? 2 : NEEDED <= 4 ? 4 : NEEDED <= 8 ? 8 : NEEDED <= 16 ? 16 : 32;
    static constexpr int KEYS_PER_WARP = WARP_LANES / LANES;
    static constexpr int KEYS_PER_ROUND = KEYS_PER_WARP * DECODE_WARPS;
    static constexpr int ROUNDS = CHUNK / KEYS_PER_ROUND;
    static constexpr int LOADS = ROUNDS < 4 ? ROUNDS : 4; /* rounds whose loads are in flight together */
};

template <typename T, typename KV, int HEAD_DIM, int HEADS>
__global__ void __launch_bounds__(DECODE_THREADS) kernel_attention_decode(const attention_params p) {
    using lanes = key_lanes<HEAD_DIM>;
    __shared__ float score[HEADS][CHUNK];
    __shared__ float sums[DECODE_WARPS][HEADS][HEAD_DIM];
    __shared__ float maximum[HEADS], total[HEADS];
    __shared__ int32_t pages[CHUNK_PAGES];
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();

    int row = blockIdx.x, chunk = blockIdx.z;
    int blocks_per_kv_head = (p.group + HEADS - 1) / HEADS;
    int kv_head = blockIdx.y / blocks_per_kv_head;
    int first_head = blockIdx.y % blocks_per_kv_head * HEADS; /* within the group */
    int n_heads = min(HEADS, p.group - first_head);
    int slot = p.slot[row], position = p.position[row];
    int first_key = chunk * CHUNK;
    if (slot >= p.n_slots || first_key > position)
        return;
    int n_keys = min((int)CHUNK, position + 1 - first_key);
    int n_chunks = position / CHUNK + 1;

    int thread = threadIdx.x, lane = thread % WARP_LANES, warp = thread / WARP_LANES;
    if (thread * PAGE_TOKENS < n_keys)
        pages[thread] = p.page_table[(int64_t)slot * p.max_pages + chunk * CHUNK_PAGES + thread];
    __syncthreads(); /* page ids, for the append and the loads */
    if (chunk == n_chunks - 1) {
        /* Blocks of the same kv head all write these same bytes, so that each reads back its own. */
        int last = n_keys - 1;
        attention_append<T, KV>(p, row, kv_head, pages[last / PAGE_TOKENS], last % PAGE_TOKENS, thread,
                                DECODE_THREADS);
        __syncthreads(); /* K and V of this position are readable by the whole block */
    }

    int element = lane % lanes::LANES * LANE_ELEMENTS;
    bool holds = element < HEAD_DIM;
    int first_in_round = warp * lanes::KEYS_PER_WARP + lane / lanes::LANES;
    const KV *k_cache = static_cast<const KV *>(p.k) + element,
             *v_cache = static_cast<const KV *>(p.v) + element;

    float q[HEADS][LANE_ELEMENTS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (holds && h < n_heads) {
            int head = kv_head * p.group + first_head + h;
            rope_load_8(q[h], static_cast<const T *>(p.qkv) + row * p.qkv_stride + head * HEAD_DIM, element,
                        HEAD_DIM, attention_rope_row(p, position));
        } else {
#pragma unroll
            for (int i = 0; i < LANE_ELEMENTS; i++)
                q[h][i] = 0;
        }
    }

    for (int round = 0; round < lanes::ROUNDS; round += lanes::LOADS) {
        if (round * lanes::KEYS_PER_ROUND >= n_keys)
            break;
        raw_8<KV> raw[lanes::LOADS] = {};
#pragma unroll
        for (int i = 0; i < lanes::LOADS; i++) {
            int key = (round + i) * lanes::KEYS_PER_ROUND + first_in_round;
            if (key < n_keys && holds)
                raw[i] = load_raw_8(k_cache + kv_offset(p.layout, p.layer, pages[key / PAGE_TOKENS], kv_head,
                                                        key % PAGE_TOKENS));
        }
#pragma unroll
        for (int i = 0; i < lanes::LOADS; i++) {
            int key = (round + i) * lanes::KEYS_PER_ROUND + first_in_round;
            float k[LANE_ELEMENTS];
            widen_8(k, raw[i]);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float dot = 0;
#pragma unroll
                for (int e = 0; e < LANE_ELEMENTS; e++)
                    dot = fmaf(q[h][e], k[e], dot);
                dot = lanes_sum<lanes::LANES>(dot);
                if (lane % lanes::LANES == 0)
                    score[h][key] = key < n_keys ? dot * p.scale : -INFINITY;
            }
        }
    }
    __syncthreads(); /* all scores of the chunk that will be read */

    for (int h = warp; h < n_heads; h += DECODE_WARPS) {
        float s[CHUNK / WARP_LANES], largest = -INFINITY, sum = 0;
#pragma unroll
        for (int i = 0; i < CHUNK / WARP_LANES; i++) {
            int key = i * WARP_LANES + lane;
            s[i] = key < n_keys ? score[h][key] : -INFINITY;
            largest = fmaxf(largest, s[i]);
        }
        largest = lanes_max<WARP_LANES>(largest);
#pragma unroll
        for (int i = 0; i < CHUNK / WARP_LANES; i++) {
            float weight = ptx_exp2(s[i] - largest);
            int key = i * WARP_LANES + lane;
            if (key < n_keys)
                score[h][key] = weight;
            sum += weight;
        }
        sum = lanes_sum<WARP_LANES>(sum);
        if (lane == 0)
            maximum[h] = largest, total[h] = sum;
    }
    __syncthreads(); /* weights, maxima and totals */

    float out[HEADS][LANE_ELEMENTS] = {};
    for (int round = 0; round < lanes::ROUNDS; round += lanes::LOADS) {
        if (round * lanes::KEYS_PER_ROUND >= n_keys)
            break;
        raw_8<KV> raw[lanes::LOADS] = {};
#pragma unroll
        for (int i = 0; i < lanes::LOADS; i++) {
            int key = (round + i) * lanes::KEYS_PER_ROUND + first_in_round;
            if (key < n_keys && holds)
                raw[i] = load_raw_8(v_cache + kv_offset(p.layout, p.layer, pages[key / PAGE_TOKENS], kv_head,
                                                        key % PAGE_TOKENS));
        }
#pragma unroll
        for (int i = 0; i < lanes::LOADS; i++) {
            int key = (round + i) * lanes::KEYS_PER_ROUND + first_in_round;
            float v[LANE_ELEMENTS];
            widen_8(v, raw[i]);
            if (key >= n_keys)
                continue;
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float weight = h < n_heads ? score[h][key] : 0;
#pragma unroll
                for (int e = 0; e < LANE_ELEMENTS; e++)
                    out[h][e] = fmaf(weight, v[e], out[h][e]);
            }
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++)
#pragma unroll
        for (int e = 0; e < LANE_ELEMENTS; e++) {
#pragma unroll
            for (int offset = lanes::LANES; offset < WARP_LANES; offset *= 2)
                out[h][e] += __shfl_xor_sync(ALL_LANES, out[h][e], offset);
            if (lane < lanes::LANES && holds)
                sums[warp][h][element + e] = out[h][e];
        }
    __syncthreads(); /* the warps' sums */

    for (int index = thread; index < n_heads * HEAD_DIM; index += DECODE_THREADS) {
        int h = index / HEAD_DIM, column = index % HEAD_DIM;
        float sum = sums[0][h][column];
#pragma unroll
        for (int w = 1; w < DECODE_WARPS; w++)
            sum += sums[w][h][column];
        int head = kv_head * p.group + first_head + h;
        if (n_chunks == 1) {
            static_cast<T *>(p.out)[row * p.out_stride + head * HEAD_DIM + column] =
                from_float<T>(sum / total[h]);
            continue;
        }
        float *partial =
            p.partials + (((int64_t)row * p.n_heads + head) * p.max_chunks + chunk) * (HEAD_DIM + 2);
        partial[column] = sum;
        if (column == 0)
            partial[HEAD_DIM] = maximum[h], partial[HEAD_DIM + 1] = total[h];
    }
}

/* One block per (row, head), one thread per column. Chunks in index order. */
template <typename T>
__global__ void __launch_bounds__(MAX_HEAD_DIM) kernel_attention_combine(const attention_params p) {
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();
    int row = blockIdx.x, head = blockIdx.y, column = threadIdx.x, head_dim = blockDim.x;
    int n_chunks = p.position[row] / CHUNK + 1;
    if (p.slot[row] >= p.n_slots || n_chunks == 1)
        return;
    const float *partial = p.partials + ((int64_t)row * p.n_heads + head) * p.max_chunks * (head_dim + 2);
    float largest = partial[head_dim];
    for (int chunk = 1; chunk < n_chunks; chunk++)
        largest = fmaxf(largest, partial[chunk * (head_dim + 2) + head_dim]);
    float sum = 0, total = 0;
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        const float *part = partial + chunk * (head_dim + 2);
        float weight = ptx_exp2(part[head_dim] - largest);
        sum = fmaf(weight, part[column], sum);
        total = fmaf(weight, part[head_dim + 1], total);
    }
    static_cast<T *>(p.out)[row * p.out_stride + head * head_dim + column] = from_float<T>(sum / total);
}

/* ---- launch shape ---- */

using attention_kernel = void (*)(const attention_params);

template <typename T, typename KV, int HEADS> attention_kernel decode_kernel_for(int head_dim) {
    switch (head_dim) {
    case 16:
        return kernel_attention_decode<T, KV, 16, HEADS>;
    case 32:
        return kernel_attention_decode<T, KV, 32, HEADS>;
    case 64:
        return kernel_attention_decode<T, KV, 64, HEADS>;
    case 96:
        return kernel_attention_decode<T, KV, 96, HEADS>;
    case 128:
        return kernel_attention_decode<T, KV, 128, HEADS>;
    case 256:
        return kernel_attention_decode<T, KV, 256, HEADS>;
    default:
        return nullptr;
    }
}

template <int HEADS> attention_kernel decode_kernel_for(enum dtype dtype, enum dtype kv, int head_dim) {
    if (dtype == DTYPE_FLOAT32)
        return kv == DTYPE_FLOAT32 ? decode_kernel_for<float, float, HEADS>(head_dim)
                                   : decode_kernel_for<float, bfloat16, HEADS>(head_dim);
    return kv == DTYPE_FLOAT32 ? decode_kernel_for<bfloat16, float, HEADS>(head_dim)
                               : decode_kernel_for<bfloat16, bfloat16, HEADS>(head_dim);
}

} // namespace

enum status cuda_attention_supports(const struct state_limits *limits) {
    int d = limits->head_dim;
    RETURN_IF(
        d != 16 && d != 32 && d != 64 && d != 96 && d != 128 && d != 256, STATUS_DATA,
        "attention: head_dim %d; the CUDA backend has 16, 32, 64, 96, 128 and 256 (device: cpu runs any)", d);
    RETURN_IF(limits->n_kv_heads <= 0 || limits->n_heads <= 0 || limits->n_heads % limits->n_kv_heads != 0,
              STATUS_DATA, "attention: %d heads cannot share %d key/value heads evenly", limits->n_heads,
              limits->n_kv_heads);
    return STATUS_OK;
}

struct attention_params attention_params_for(struct backend_context *context,
                                             const struct attention_args *args) {
    attention_params p = {};
    p.qkv = args->qkv->data;
    p.out = args->out->data;
    p.k = context->state.k;
    p.v = context->state.v;
    p.qkv_stride = tensor_stride(args->qkv);
    p.out_stride = tensor_stride(args->out);
    p.layout = context->layout;
    p.layer = args->layer;
    p.n_heads = context->limits.n_heads;
    p.group = context->limits.n_heads / context->limits.n_kv_heads;
    p.n_slots = context->limits.n_slots;
    p.max_pages = context->limits.max_pages_per_slot;
    p.max_chunks = context->max_chunks;
    p.scale = args->scale * 1.4426950408889634f;
    p.partials = context->state.partials;
    p.rope = args->rope ? static_cast<const float *>(args->rope->data) : nullptr;
    p.page_table = context->state.page_table;
    p.position = context->step.position;
    p.slot = context->step.slot;
    p.tiles = context->step.tiles;
    return p;
}

enum status attention_check(struct backend_context *context, const struct attention_args *args,
                            const char *operation) {
    const struct state_limits *limits = &context->limits;
    int64_t width = (int64_t)limits->n_heads * limits->head_dim;
    int64_t qkv_width = width + 2 * (int64_t)limits->n_kv_heads * limits->head_dim;
    RETURN_IF(args->qkv->cols != qkv_width || args->out->cols != width ||
                  args->qkv->dtype != args->out->dtype || args->qkv->rows < context->step.n_rows ||
                  args->out->rows < context->step.n_rows,
              STATUS_INTERNAL,
              "%s: qkv must be [>= %d, %lld] and out [>= %d, %lld] of one dtype, are [%lld, %lld] and "
              "[%lld, %lld]",
              operation, context->step.n_rows, (long long)qkv_width, context->step.n_rows, (long long)width,
              (long long)args->qkv->rows, (long long)args->qkv->cols, (long long)args->out->rows,
              (long long)args->out->cols);
    RETURN_IF(args->rope && (args->rope->dtype != DTYPE_FLOAT32 || args->rope->cols != limits->head_dim),
              STATUS_INTERNAL, "%s: the rope table must be [positions, %d] float32, has %lld columns",
              operation, limits->head_dim, (long long)args->rope->cols);
    RETURN_IF(args->layer < 0 || args->layer >= limits->n_layers, STATUS_INTERNAL, "%s: layer %d of %d",
              operation, args->layer, limits->n_layers);
    return STATUS_OK;
}

enum status cuda_attention_decode(struct backend_context *context, const struct attention_args *args) {
    TRY(cuda_operation_begin(context, "attention_decode"));
    TRY(attention_check(context, args, "attention_decode"));
    int32_t n = context->step.n_decode;
    if (n == 0)
        return STATUS_OK;
    attention_params p = attention_params_for(context, args);
    enum dtype dtype = args->qkv->dtype, kv = context->limits.kv_dtype;
    int head_dim = context->limits.head_dim;
    int heads = p.group == 1 ? 1 : 4;
    attention_kernel kernel =
        heads == 1 ? decode_kernel_for<1>(dtype, kv, head_dim) : decode_kernel_for<4>(dtype, kv, head_dim);
    dim3 grid(n, context->limits.n_kv_heads * ceil_div(p.group, heads), p.max_chunks);
    TRY(cuda_launch(context, "attention_decode", kernel, grid, DECODE_THREADS, 0, p));
    if (p.max_chunks == 1)
        return STATUS_OK;
    auto combine =
        dtype == DTYPE_FLOAT32 ? kernel_attention_combine<float> : kernel_attention_combine<bfloat16>;
    return cuda_launch(context, "attention_decode", combine, dim3(n, p.n_heads), (unsigned)head_dim, 0, p);
}
