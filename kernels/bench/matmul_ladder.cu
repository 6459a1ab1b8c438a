/* The matmul ladder: out[r, o] = sum over k of weight[o, k] in[r, k], bfloat16 with float32 sums; added to a
 * float32 residual in the layers that do so in a model.
 *
 *   naive    one thread per output, operands from global memory
 *   tiled    32 x 32 outputs a block, operands through shared memory, fma
 *   mma      matmul_mma.cu: tensor cores behind a ring of asynchronous copies, for every GPU
 *   shipped  the backend's matmul: on Hopper matmul_wgmma.cu
 *   best     with --sweep: the fastest of all tile shapes, found by trying
 *   free     with --sweep: the same, and K in one chain or two, whichever is faster for these rows: bits that
 *            depend on how many there are. `shipped` beside it is what bits that do not cost
 *   cublas   cublasGemmEx to bfloat16, loaded at run time; the other rows are stated as shares of it
 *
 * naive and tiled are timed where they take milliseconds at most. Weights are rotated over more than the L2
 * cache holds, except in the layers of the shipped model, which stay there in use. */
#include <algorithm>
#include <cmath>
#include <cublas_v2.h>
#include <dlfcn.h>
#include <map>
#include <memory>

#include "kernels/bench/bench.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/memory_rows.h"

namespace {

enum { NAIVE_THREADS = 256, TILE = 32, TILE_ROWS = 8, CHECKED = 512, CHECKED_ROWS = 256 };

static constexpr double NAIVE_FLOPS = 2e9; /* more is not timed */

struct layer {
    const char *name;
    int n_out;
    int n_in;
    bool residual; /* added to the residual */
    bool rotated;
};

const layer LAYERS[] = {
    {"char qkv", 1152, 384, false, false},     {"char fc", 1536, 384, false, false},
    {"char proj", 384, 1536, true, false},     {"gpt2 qkv", 2304, 768, false, true},
    {"gpt2 fc", 3072, 768, false, true},       {"gpt2 proj", 768, 3072, true, true},
    {"1b qkv", 3072, 2048, false, true},       {"1b o", 2048, 2048, true, true},
    {"1b gate+up", 16384, 2048, false, true},  {"1b down", 2048, 8192, true, true},
    {"1b lm head", 128256, 2048, false, true}, {"8b gate+up", 28672, 4096, false, true},
    {"8b down", 4096, 14336, true, true},
};
const int ROWS[] = {1, 16, 64, 128, 256, 512, 1024, 4096};

__global__ void __launch_bounds__(NAIVE_THREADS)
    kernel_matmul_naive(bfloat16 *out, const bfloat16 *weight, const bfloat16 *in, int n_out, int n_in) {
    int output = blockIdx.x * NAIVE_THREADS + threadIdx.x, row = blockIdx.y;
    if (output >= n_out)
        return;
    float sum = 0;
    for (int k = 0; k < n_in; k++)
        sum = fmaf(to_float(weight[(int64_t)output * n_in + k]), to_float(in[(int64_t)row * n_in + k]), sum);
    out[(int64_t)row * n_out + output] = from_float<bfloat16>(sum);
}

__global__ void __launch_bounds__(TILE *TILE_ROWS)
    kernel_matmul_tiled(bfloat16 *out, const bfloat16 *weight, const bfloat16 *in, int n_rows, int n_out,
                        int n_in) {
    constexpr int EACH = TILE / TILE_ROWS;
    __shared__ float weights[TILE][TILE + 1], rows[TILE][TILE + 1]; /* [output or row][k] */
    int column = threadIdx.x % TILE, line = threadIdx.x / TILE;
    int first_output = blockIdx.x * TILE, first_row = blockIdx.y * TILE;
    float sum[EACH] = {};
    for (int k = 0; k < n_in; k += TILE) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int at = line + i * TILE_ROWS;
            bool inside = k + column < n_in;
            weights[at][column] = inside && first_output + at < n_out
                                      ? to_float(weight[(int64_t)(first_output + at) * n_in + k + column])
                                      : 0;
            rows[at][column] = inside && first_row + at < n_rows
                                   ? to_float(in[(int64_t)(first_row + at) * n_in + k + column])
                                   : 0;
        }
        __syncthreads(); /* the tiles are complete */
#pragma unroll
        for (int j = 0; j < TILE; j++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
                sum[i] = fmaf(weights[column][j], rows[line + i * TILE_ROWS][j], sum[i]);
        __syncthreads(); /* all threads are done with them */
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int row = first_row + line + i * TILE_ROWS;
        if (row < n_rows && first_output + column < n_out)
            out[(int64_t)row * n_out + first_output + column] = from_float<bfloat16>(sum[i]);
    }
}

/* *n_different += words that differ. */
__global__ void __launch_bounds__(NAIVE_THREADS)
    kernel_compare(const uint32_t *a, const uint32_t *b, int64_t n_words, unsigned long long *n_different) {
    int64_t i = (int64_t)blockIdx.x * NAIVE_THREADS + threadIdx.x;
    if (i < n_words && a[i] != b[i])
        atomicAdd(n_different, 1ull);
}

/* cublasGemmEx, which the header overloads. */
using gemm_function = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                                         const void *, const void *, cudaDataType, int, const void *,
                                         cudaDataType, int, const void *, void *, cudaDataType, int,
                                         cublasComputeType_t, cublasGemmAlgo_t);

/* cuBLAS, loaded at run time so that the program starts without it. */
struct cublas {
    cublasHandle_t handle = nullptr;
    gemm_function gemm = nullptr;
};

template <typename Function> bool symbol(void *library, const char *name, Function *out) {
    *out = reinterpret_cast<Function>(dlsym(library, name));
    return *out != nullptr;
}

/* gemm stays NULL, with a line on stderr, where cuBLAS is not installed. */
cublas cublas_open(cudaStream_t stream) {
    cublas blas;
    std::string versioned = "libcublas.so." + std::to_string(CUDART_VERSION / 1000);
    void *library = nullptr;
    for (const char *name : {versioned.c_str(), "libcublas.so", "/usr/local/cuda/lib64/libcublas.so"})
        if (!library)
            library = dlopen(name, RTLD_NOW);
    decltype(&cublasCreate) create = nullptr;
    decltype(&cublasSetStream) set_stream = nullptr;
    gemm_function gemm = nullptr;
    if (library && symbol(library, "cublasCreate_v2", &create) &&
        symbol(library, "cublasSetStream_v2", &set_stream) && symbol(library, "cublasGemmEx", &gemm) &&
        create(&blas.handle) == CUBLAS_STATUS_SUCCESS &&
        set_stream(blas.handle, stream) == CUBLAS_STATUS_SUCCESS)
        blas.gemm = gemm;
    else
        fprintf(stderr, "kernel_bench: cuBLAS is not there; matmul rows stand alone\n");
    return blas;
}

/* Largest difference of some outputs from their float64 sums, over the largest of these. out: float32 when
 * the layer is added to a residual of zeros, else bfloat16. */
double matmul_error(struct bench *bench, const layer &layer, const std::vector<unsigned char> &out,
                    const std::vector<uint16_t> &weight, const std::vector<uint16_t> &in, int n_rows,
                    bool out_float32) {
    double largest = 0, difference = 0;
    for (int i = 0; i < CHECKED; i++) {
        int row = std::min(n_rows - 1, (int)((bench_random(bench) + 1) / 2 * (float)n_rows));
        int output = std::min(layer.n_out - 1, (int)((bench_random(bench) + 1) / 2 * (float)layer.n_out));
        double sum = 0;
        for (int k = 0; k < layer.n_in; k++)
            sum += (double)bench_widen(weight[(size_t)output * layer.n_in + k]) *
                   bench_widen(in[(size_t)row * layer.n_in + k]);
        size_t index = (size_t)row * layer.n_out + output;
        double got = out_float32 ? reinterpret_cast<const float *>(out.data())[index]
                                 : bench_widen(reinterpret_cast<const uint16_t *>(out.data())[index]);
        double delta = std::fabs(sum - got);
        largest = std::max(largest, std::fabs(sum));
        difference = delta <= difference ? difference : delta; /* NaN stays */
    }
    return difference / largest;
}

/* Where the second chain of K begins when a weight has two that should have one; none the other way round. */
int32_t other_split_of(const matmul_params &p) {
    return p.split < p.k_blocks ? p.k_blocks : (p.k_blocks / 2 + 1) / 2 * 2;
}

/* Shares of cuBLAS, for the geometric means: [rows][variant]. */
using shares = std::map<int, std::map<std::string, std::vector<double>>>;
/* Times of `shipped` over those of the best with tile and split free, [rows]. */
using costs = std::map<int, std::vector<double>>;

void bench_layer(struct bench *bench, const cublas &blas, const layer &layer, shares *shares, costs *costs) {
    struct backend *backend = &bench->backend;
    const int n_out = layer.n_out, n_in = layer.n_in, max_rows = ROWS[sizeof ROWS / sizeof ROWS[0] - 1];
    size_t weight_bytes = (size_t)n_out * n_in * 2, out_bytes = (size_t)max_rows * n_out * 2;
    int n_weights = layer.rotated ? (int)std::min((size_t)128, BENCH_L2_BYTES / weight_bytes + 1) : 1;
    std::vector<uint16_t> weight = bench_random_bfloat16(bench, (size_t)n_out * n_in, 1.0f);
    std::vector<uint16_t> in = bench_random_bfloat16(bench, (size_t)max_rows * n_in, 1.0f);
    std::vector<struct tensor *> weights(n_weights);
    std::vector<std::unique_ptr<bench_memory>> rows_of; /* the same row-major, for the others */
    struct tensor *in_tensor, *out_tensor;
    struct memory_rows memory = {weight.data(), (size_t)n_in * 2};
    for (struct tensor *&copy : weights) {
        bench_must(backend->weight_new(backend->context, DTYPE_BFLOAT16, n_out, n_in,
                                       memory_rows_source(&memory), &copy));
        rows_of.push_back(std::make_unique<bench_memory>(weight_bytes, weight.data()));
    }
    bench_must(backend->weights_wait(backend->context));
    bench_must(backend->tensor_new(backend->context, DTYPE_BFLOAT16, max_rows, n_in, &in_tensor));
    bench_must(backend->tensor_new(backend->context, layer.residual ? DTYPE_FLOAT32 : DTYPE_BFLOAT16,
                                   max_rows, n_out, &out_tensor));
    bench_must(backend->tensor_write(backend->context, in_tensor, max_rows, in.data()));
    cudaStream_t stream = bench->context->stream;
    bench_memory plain_out(out_bytes); /* of those that do not add */
    bench_memory first_out(layer.residual ? 2 * out_bytes : out_bytes), counter(sizeof(unsigned long long));
    bfloat16 *y = plain_out.as<bfloat16>();
    const bfloat16 *x = static_cast<const bfloat16 *>(in_tensor->data);

    for (int n_rows : ROWS) {
        if (n_rows < bench->least_rows || n_rows > bench->most_rows)
            continue;
        auto row_major = [&](int i) { return rows_of[i % n_weights]->as<const bfloat16>(); };
        std::function<void(int)> naive = [&](int i) {
            kernel_matmul_naive<<<dim3(ceil_div(n_out, NAIVE_THREADS), n_rows), NAIVE_THREADS, 0, stream>>>(
                y, row_major(i), x, n_out, n_in);
            bench_must(cudaGetLastError(), "naive");
        };
        std::function<void(int)> tiled = [&](int i) {
            kernel_matmul_tiled<<<dim3(ceil_div(n_out, TILE), ceil_div(n_rows, TILE)), TILE * TILE_ROWS, 0,
                                  stream>>>(y, row_major(i), x, n_rows, n_out, n_in);
            bench_must(cudaGetLastError(), "tiled");
        };
        auto arguments = [&](int i) {
            struct matmul_args args = {};
            args.weight = weights[i % n_weights];
            args.in = in_tensor;
            args.out = out_tensor;
            args.n_rows = n_rows;
            args.accumulate = layer.residual;
            bench->context->chained = i > 0; /* as in a step, where a kernel comes before */
            return args;
        };
        std::function<void(int)> shipped = [&](int i) {
            struct matmul_args args = arguments(i);
            bench->context->mode = STEP_LAUNCH;
            bench_must(backend->matmul(backend->context, &args));
            bench->context->mode = STEP_NONE;
        };
        std::function<void(int)> mma = [&](int i) {
            struct matmul_args args = arguments(i);
            matmul_params p;
            bench_must(matmul_params_for(&args, &p));
            bench_must(matmul_mma(bench->context, p));
        };
        int variant = 0;
        bool other_split = false; /* two chains of K where the weight's shape asks for one, or one for two */
        std::string best_name, free_name;
        char name[64];
        std::function<void(int)> swept = [&](int i) {
            struct matmul_args args = arguments(i);
            matmul_params p;
            bench_must(matmul_params_for(&args, &p));
            if (other_split)
                p.split = other_split_of(p);
            bench_must(matmul_wgmma_launch(bench->context, p, in_tensor, variant, name, sizeof name));
        };
        std::function<void(int)> baseline = [&](int i) {
            const float one = 1, zero = 0;
            if (blas.gemm(blas.handle, CUBLAS_OP_T, CUBLAS_OP_N, n_out, n_rows, n_in, &one, row_major(i),
                          CUDA_R_16BF, n_in, x, CUDA_R_16BF, n_in, &zero, y, CUDA_R_16BF, n_out,
                          CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
                bench_must(status_fail(STATUS_INTERNAL, "cublasGemmEx failed"));
        };
        double flops = 2.0 * n_rows * n_out * n_in, baseline_us = 0;
        const bool sweeps = bench->sweep && bench->context->has_wgmma, plain = flops <= NAIVE_FLOPS;
        const size_t added_bytes = (size_t)n_rows * n_out * (layer.residual ? 4 : 2);
        /* An output left unwritten is seen: NaN. What adds starts from zeros. */
        auto clear = [&](void *result, bool adds, size_t bytes) {
            bench_must(cudaMemsetAsync(result, adds ? 0 : 0xFF, bytes, stream), "clear");
        };
        /* All tensor-core kernels give the bits of the first. */
        clear(out_tensor->data, layer.residual, added_bytes);
        mma(0);
        bench_must(
            cudaMemcpyAsync(first_out.data, out_tensor->data, added_bytes, cudaMemcpyDeviceToDevice, stream),
            "keep");
        auto same_bits = [&]() {
            unsigned long long n_different = 0;
            clear(counter.data, true, sizeof n_different);
            int64_t words = (int64_t)(added_bytes / 4);
            kernel_compare<<<(unsigned)((words + NAIVE_THREADS - 1) / NAIVE_THREADS), NAIVE_THREADS, 0,
                             stream>>>(first_out.as<uint32_t>(), static_cast<uint32_t *>(out_tensor->data),
                                       words, counter.as<unsigned long long>());
            bench_must(cudaMemcpyAsync(&n_different, counter.data, sizeof n_different, cudaMemcpyDeviceToHost,
                                       stream),
                       "compare");
            bench_must(cudaStreamSynchronize(stream), "compare");
            return n_different == 0;
        };
        /* The fastest tile shape becomes `variant`; returns its name. */
        auto sweep = [&](const char *prefix) {
            double best_us = 0;
            int best = 0;
            std::string best_of;
            for (variant = 0; variant < matmul_wgmma_variants(); variant++) {
                struct matmul_args args = arguments(0);
                matmul_params p;
                bench_must(matmul_params_for(&args, &p));
                if (other_split)
                    p.split = other_split_of(p);
                if (!matmul_wgmma_can(p, variant))
                    continue;
                clear(out_tensor->data, layer.residual, added_bytes);
                swept(0);
                const bool same = other_split || same_bits();
                /* Much slower than the best so far: one call is enough, and there is no row. */
                const double hopeless_us = best_us > 0 ? 2 * best_us + 50 : 0;
                const double us = bench_time(bench, swept, hopeless_us);
                if (bench->json && (best_us == 0 || us <= hopeless_us))
                    fprintf(bench->json,
                            "{\"sweep\":\"%s M=%d\",\"tile\":\"%s\",\"other_split\":%d,\"us\":%.2f,"
                            "\"same\":%d}\n",
                            layer.name, n_rows, name, other_split, us, same);
                if (!same) {
                    printf("matmul %s M=%d tile %s: other bits  WRONG\n", layer.name, n_rows, name);
                    bench->failed = true;
                }
                if (best_us == 0 || us < best_us) {
                    best_us = us;
                    best = variant;
                    best_of = std::string(prefix) + name;
                }
            }
            variant = best;
            return best_of;
        };
        int best_variant = 0, free_variant = 0;
        if (sweeps) {
            best_name = sweep("best ");
            best_variant = variant;
            if (layer.residual) { /* only what is added to the residual can have two chains */
                other_split = true;
                free_name = sweep("free ");
                free_variant = variant;
            }
        }
        std::function<void(int)> best = [&](int i) {
            variant = best_variant, other_split = false;
            swept(i);
        };
        std::function<void(int)> free_split = [&](int i) {
            variant = free_variant, other_split = true;
            swept(i);
        };
        double shipped_us = 0, free_us = 0;
        const struct {
            const char *name;
            const std::function<void(int)> *body;
            bool wanted, adds;
        } rungs[] = {{"cublas", &baseline, blas.gemm != nullptr, false},
                     {"naive", &naive, plain, false},
                     {"tiled", &tiled, plain, false},
                     {"mma", &mma, true, layer.residual},
                     {best_name.c_str(), &best, sweeps, layer.residual},
                     {free_name.c_str(), &free_split, sweeps && layer.residual, layer.residual},
                     {"shipped", &shipped, true, layer.residual}};
        for (const auto &rung : rungs) {
            if (!rung.wanted)
                continue;
            const bool splits = rung.body == &free_split;
            const bool ours = rung.body == &shipped || rung.body == &mma || rung.body == &best || splits;
            void *result = ours ? out_tensor->data : plain_out.data;
            size_t bytes = (size_t)n_rows * n_out * (rung.adds ? 4 : 2);
            clear(result, rung.adds, bytes);
            (*rung.body)(0);
            int n_checked = std::min(n_rows, (int)CHECKED_ROWS);
            std::vector<unsigned char> out(bytes / n_rows * n_checked);
            bench_must(cudaStreamSynchronize(stream), "check");
            bench_must(cudaMemcpy(out.data(), result, out.size(), cudaMemcpyDeviceToHost), "check");
            bench_row row = {};
            row.error = matmul_error(bench, layer, out, weight, in, n_checked, rung.adds);
            if (ours && !splits && !same_bits())
                row.error = NAN;
            row.us = bench_time(bench, *rung.body);
            if (rung.body == &baseline)
                baseline_us = row.us;
            row.operation = "matmul";
            row.variant = rung.name;
            row.shape = std::string(layer.name) + " " + std::to_string(n_out) + "x" + std::to_string(n_in) +
                        " M=" + std::to_string(n_rows);
            row.bytes = (double)weight_bytes + 2.0 * n_rows * (n_in + n_out);
            row.flops = flops;
            row.baseline_us = baseline_us;
            row.baseline = "cublas";
            row.tolerance = 0x1p-8; /* the rounding of a bfloat16 result */
            bench_report(bench, row);
            if (baseline_us > 0 && rung.body != &baseline)
                (*shares)[n_rows][rung.body == &best ? "best"
                                  : splits           ? "free"
                                                     : rung.name]
                    .push_back(baseline_us / row.us);
            if (rung.body == &best || splits)
                free_us = free_us == 0 ? row.us : std::min(free_us, row.us);
            if (rung.body == &shipped)
                shipped_us = row.us;
        }
        if (sweeps)
            (*costs)[n_rows].push_back(shipped_us / free_us);
    }
    backend->tensor_free(backend->context, in_tensor);
    backend->tensor_free(backend->context, out_tensor);
    for (struct tensor *copy : weights)
        backend->tensor_free(backend->context, copy);
}

} // namespace

void bench_matmul(struct bench *bench) {
    cublas blas = cublas_open(bench->context->stream);
    shares shares;
    costs costs;
    for (const layer &layer : LAYERS)
        if (!bench->layers || std::string(layer.name).find(bench->layers) != std::string::npos)
            bench_layer(bench, blas, layer, &shares, &costs);
    for (const auto &rows : shares)
        for (const auto &variant : rows.second) {
            double sum = 0, least = 1e9;
            for (double share : variant.second) {
                sum += std::log(share);
                least = std::min(least, share);
            }
            printf("matmul M=%-5d %-8s geometric mean %.3f of cublas, least %.3f, %zu layers\n", rows.first,
                   variant.first.c_str(), std::exp(sum / (double)variant.second.size()), least,
                   variant.second.size());
        }
    double sum = 0;
    size_t n = 0;
    for (const auto &rows : costs) {
        double of_rows = 0, most = 0;
        for (double cost : rows.second) {
            of_rows += std::log(cost);
            most = std::max(most, cost);
        }
        sum += of_rows, n += rows.second.size();
        printf("matmul M=%-5d invariance costs %.1f %%, at most %.1f %%, %zu layers\n", rows.first,
               100 * (std::exp(of_rows / (double)rows.second.size()) - 1), 100 * (most - 1),
               rows.second.size());
    }
    if (n > 0)
        printf("matmul invariance costs %.1f %% on average\n", 100 * (std::exp(sum / (double)n) - 1));
}
