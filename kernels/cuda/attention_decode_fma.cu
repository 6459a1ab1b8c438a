/* attention (decode) in float32, for dtypes without tensor-core products. Scores by fma, lanes over columns,
 * through shared memory; attention.cu tells how rows are divided among blocks.
 *
 * Numerics: float32 sums, softmax in powers of two. A score is a butterfly over the lanes that share a key; a
 * thread owns fixed positions of the chunk, threads are added in one fixed tree. Positions that the row does
 * not see are not loaded, and enter no sum. */
#include "kernels/cuda/attention_decode.cuh"

namespace {

enum { LANE_ELEMENTS = 8 /* elements of a key or value that one lane holds */ };
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

template <typename T, typename KV, int HEAD_DIM, int HEADS, bool GENERAL>
__global__ void __launch_bounds__(DECODE_THREADS) kernel_attention_decode(const attention_params p) {
    using lanes = key_lanes<HEAD_DIM>;
    static_assert(HEADS <= DECODE_WARPS, "a warp finishes one head");
    __shared__ float score[HEADS][CHUNK];
    __shared__ float sums[DECODE_WARPS][HEADS][HEAD_DIM];
    __shared__ float maximum[HEADS], total[HEADS];
    __shared__ int32_t pages[CHUNK_PAGES];
    ptx_wait_for_previous_kernels();
    ptx_allow_next_kernel();

    decode_work work;
    if (!decode_work_init<GENERAL>(work, p, HEADS))
        return;
    int n_heads = work.n_heads, kv_head = work.kv_head;
    int thread = threadIdx.x, lane = thread % WARP_LANES, warp = thread / WARP_LANES;
    int element = lane % lanes::LANES * LANE_ELEMENTS;
    bool holds = element < HEAD_DIM;
    int first_in_round = warp * lanes::KEYS_PER_WARP + lane / lanes::LANES;
    const KV *k_cache = static_cast<const KV *>(p.k) + element,
             *v_cache = static_cast<const KV *>(p.v) + element;

    float q[HEADS][LANE_ELEMENTS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (GENERAL && p.q_norm && h < n_heads) {
            const T *from =
                static_cast<const T *>(p.qkv) + work.row * p.qkv_stride + (work.head + h) * HEAD_DIM;
#pragma unroll
            for (int i = 0; i < LANE_ELEMENTS; i++)
                q[h][i] = 0;
            if (holds)
                load_8(q[h], from + element);
            rope_norm_head<T, lanes::LANES>(q[h], lane % lanes::LANES, HEAD_DIM, p.q_norm, p.norm_epsilon,
                                            attention_rope_row(p, work.position));
        } else if (holds && h < n_heads) {
            rope_load_8(q[h],
                        static_cast<const T *>(p.qkv) + work.row * p.qkv_stride + (work.head + h) * HEAD_DIM,
                        element, HEAD_DIM, attention_rope_row(p, work.position));
        } else {
#pragma unroll
            for (int i = 0; i < LANE_ELEMENTS; i++)
                q[h][i] = 0;
        }
    }

    row_sums<T, HEAD_DIM> row(work);
    for (int chunk = work.first_chunk + (int)blockIdx.z; chunk < work.end_chunk(); chunk += gridDim.z) {
        int n_keys = min((int)CHUNK, work.position + 1 - chunk * CHUNK);
        /* Of the chunk, that the row sees. */
        int first_key = GENERAL ? max(0, work.position - work.span - chunk * CHUNK) : 0;
        int first_round = first_key / (lanes::KEYS_PER_ROUND * lanes::LOADS) * lanes::LOADS;
        __syncthreads(); /* all are done with the chunk before */
        if (thread * PAGE_TOKENS < n_keys)
            pages[thread] = work.page(p, chunk, thread);
        __syncthreads(); /* page ids, for the append and the loads */
        if (chunk == work.end_chunk() - 1) {
            /* Blocks of the same kv head all write these same bytes, so that each reads back its own. */
            int last = n_keys - 1;
            if (!GENERAL || !p.k_norm)
                attention_append<T, KV>(p, work.row, kv_head, pages[last / PAGE_TOKENS], last % PAGE_TOKENS,
                                        thread, DECODE_THREADS);
            else if (warp == 0)
                attention_append_normed<T, KV>(p, work.row, kv_head, pages[last / PAGE_TOKENS],
                                               last % PAGE_TOKENS, lane);
            __syncthreads(); /* K and V of this position are readable by the whole block */
        }

        for (int round = first_round; round < lanes::ROUNDS; round += lanes::LOADS) {
            if (round * lanes::KEYS_PER_ROUND >= n_keys)
                break;
            raw_8<KV> raw[lanes::LOADS] = {};
#pragma unroll
            for (int i = 0; i < lanes::LOADS; i++) {
                int key = (round + i) * lanes::KEYS_PER_ROUND + first_in_round;
                if (key >= first_key && key < n_keys && holds)
                    raw[i] = load_raw_8(k_cache + kv_offset(p.layout, p.layer, pages[key / PAGE_TOKENS],
                                                            kv_head, key % PAGE_TOKENS));
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
                        score[h][key] = dot * p.scale;
                }
            }
        }
        __syncthreads(); /* all scores of the chunk that will be read */

        for (int h = warp; h < n_heads; h += DECODE_WARPS) {
            float s[CHUNK / WARP_LANES], largest = -INFINITY, sum = 0;
#pragma unroll
            for (int i = 0; i < CHUNK / WARP_LANES; i++) {
                int key = i * WARP_LANES + lane;
                s[i] = key >= first_key && key < n_keys ? score[h][key] : -INFINITY;
                if (GENERAL && p.softcap != 0 && key >= first_key && key < n_keys)
                    s[i] = attention_softcap(p, s[i]);
                largest = fmaxf(largest, s[i]);
            }
            largest = lanes_max<WARP_LANES>(largest);
#pragma unroll
            for (int i = 0; i < CHUNK / WARP_LANES; i++) {
                float weight = ptx_exp2(s[i] - largest);
                int key = i * WARP_LANES + lane;
                if (key >= first_key && key < n_keys)
                    score[h][key] = weight;
                sum += weight;
            }
            sum = lanes_sum<WARP_LANES>(sum);
            if (lane == 0)
                maximum[h] = largest, total[h] = sum;
        }
        __syncthreads(); /* weights, maxima and totals */

        float out[HEADS][LANE_ELEMENTS] = {};
        for (int round = first_round; round < lanes::ROUNDS; round += lanes::LOADS) {
            if (round * lanes::KEYS_PER_ROUND >= n_keys)
                break;
            raw_8<KV> raw[lanes::LOADS] = {};
#pragma unroll
            for (int i = 0; i < lanes::LOADS; i++) {
                int key = (round + i) * lanes::KEYS_PER_ROUND + first_in_round;
                if (key >= first_key && key < n_keys && holds)
                    raw[i] = load_raw_8(v_cache + kv_offset(p.layout, p.layer, pages[key / PAGE_TOKENS],
                                                            kv_head, key % PAGE_TOKENS));
            }
#pragma unroll
            for (int i = 0; i < lanes::LOADS; i++) {
                int key = (round + i) * lanes::KEYS_PER_ROUND + first_in_round;
                float v[LANE_ELEMENTS];
                widen_8(v, raw[i]);
                if (key < first_key || key >= n_keys)
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

        head_sums<HEAD_DIM> part;
        if (warp < n_heads) {
            part.largest = maximum[warp], part.total = total[warp];
#pragma unroll
            for (int i = 0; i < head_sums<HEAD_DIM>::COLUMNS; i++) {
                int column = lane + i * WARP_LANES;
                part.sum[i] = 0;
                for (int w = 0; w < DECODE_WARPS && column < HEAD_DIM; w++)
                    part.sum[i] += sums[w][warp][column];
            }
        }
        row.add(p, work, chunk, part);
    }
    row.finish(p, work);
}

template <typename T, typename KV, int HEAD_DIM, int HEADS>
decode_launch launch_for(const attention_params &p) {
    return {attention_is_general(p) ? kernel_attention_decode<T, KV, HEAD_DIM, HEADS, true>
                                    : kernel_attention_decode<T, KV, HEAD_DIM, HEADS, false>,
            HEADS, false, 0};
}

template <typename T, typename KV, int HEAD_DIM> decode_launch launch_for(const attention_params &p) {
    return p.group == 1 ? launch_for<T, KV, HEAD_DIM, 1>(p) : launch_for<T, KV, HEAD_DIM, 4>(p);
}

template <typename T, typename KV> decode_launch launch_for(const attention_params &p) {
    switch (p.layout.head_dim) {
    case 16:
        return launch_for<T, KV, 16>(p);
    case 32:
        return launch_for<T, KV, 32>(p);
    case 64:
        return launch_for<T, KV, 64>(p);
    case 96:
        return launch_for<T, KV, 96>(p);
    case 128:
        return launch_for<T, KV, 128>(p);
    default: /* cuda_attention_supports lets no other through */
        return launch_for<T, KV, 256>(p);
    }
}

} // namespace

struct decode_launch attention_decode_fma(const attention_params &p, enum dtype dtype, enum dtype kv_dtype) {
    if (dtype == DTYPE_BFLOAT16)
        return launch_for<bfloat16, float>(p);
    return kv_dtype == DTYPE_BFLOAT16 ? launch_for<float, bfloat16>(p) : launch_for<float, float>(p);
}
