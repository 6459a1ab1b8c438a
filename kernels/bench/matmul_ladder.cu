/* The matmul ladder: out[r, o] = sum over k of weight[o, k] in[r, k], bfloat16 with float32 sums.
 *
 *   naive    one thread per output, operands from global memory
 *   tiled    32 x 32 outputs a block, operands through shared memory, fma
 *   shipped  the backend's matmul: tensor cores behind a ring of asynchronous copies
 *   cublas   cublasGemmEx, loaded at run time; the other rows are stated as shares of it */
#include <algorithm>
#include <cmath>
#include <cublas_v2.h>
#include <dlfcn.h>

#include "kernels/bench/bench.cuh"

namespace {

enum { NAIVE_THREADS = 256, TILE = 32, TILE_ROWS = 8, CHECKED = 512 };

struct layer {
    const char *name;
    int n_out;
    int n_in;
};

const layer LAYERS[] = {
    {"char qkv", 1152, 384},     {"char fc", 1536, 384},   {"char proj", 384, 1536}, {"gpt2 qkv", 2304, 768},
    {"gpt2 fc", 3072, 768},      {"gpt2 proj", 768, 3072}, {"1b qkv", 3072, 2048},   {"1b o", 2048, 2048},
    {"1b gate+up", 16384, 2048}, {"1b down", 2048, 8192},
};
const int ROWS[] = {1, 16, 64, 256, 1024};

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

/* Largest difference of some outputs from their float64 sums, over the largest of these. */
double matmul_error(struct bench *bench, const std::vector<uint16_t> &out,
                    const std::vector<uint16_t> &weight, const std::vector<uint16_t> &in, int n_rows,
                    int n_out, int n_in) {
    double largest = 0, difference = 0;
    for (int i = 0; i < CHECKED; i++) {
        int row = std::min(n_rows - 1, (int)((bench_random(bench) + 1) / 2 * (float)n_rows));
        int output = std::min(n_out - 1, (int)((bench_random(bench) + 1) / 2 * (float)n_out));
        double sum = 0;
        for (int k = 0; k < n_in; k++)
            sum += (double)bench_widen(weight[(size_t)output * n_in + k]) *
                   bench_widen(in[(size_t)row * n_in + k]);
        double delta = std::fabs(sum - bench_widen(out[(size_t)row * n_out + output]));
        largest = std::max(largest, std::fabs(sum));
        difference = delta <= difference ? difference : delta; /* NaN stays */
    }
    return difference / largest;
}

void bench_layer(struct bench *bench, const cublas &blas, const layer &layer) {
    struct backend *backend = &bench->backend;
    const int n_out = layer.n_out, n_in = layer.n_in, max_rows = ROWS[sizeof ROWS / sizeof ROWS[0] - 1];
    size_t weight_bytes = (size_t)n_out * n_in * 2;
    int n_weights = (int)std::min((size_t)128, BENCH_L2_BYTES / weight_bytes + 1);
    std::vector<uint16_t> weight = bench_random_bfloat16(bench, (size_t)n_out * n_in, 1.0f);
    std::vector<uint16_t> in = bench_random_bfloat16(bench, (size_t)max_rows * n_in, 1.0f);
    std::vector<uint16_t> out((size_t)max_rows * n_out);
    std::vector<struct tensor *> weights(n_weights);
    struct tensor *in_tensor, *out_tensor;
    for (struct tensor *&copy : weights)
        bench_must(backend->weight_new(backend->context, DTYPE_BFLOAT16, n_out, n_in, weight.data(), &copy));
    bench_must(backend->tensor_new(backend->context, DTYPE_BFLOAT16, max_rows, n_in, &in_tensor));
    bench_must(backend->tensor_new(backend->context, DTYPE_BFLOAT16, max_rows, n_out, &out_tensor));
    bench_must(backend->tensor_write(backend->context, in_tensor, max_rows, in.data()));
    cudaStream_t stream = bench->context->stream;

    for (int n_rows : ROWS) {
        auto pointers = [&](int i, bfloat16 **y, const bfloat16 **w, const bfloat16 **x) {
            *y = static_cast<bfloat16 *>(out_tensor->data);
            *w = static_cast<const bfloat16 *>(weights[i % n_weights]->data);
            *x = static_cast<const bfloat16 *>(in_tensor->data);
        };
        std::function<void(int)> naive = [&](int i) {
            bfloat16 *y;
            const bfloat16 *w, *x;
            pointers(i, &y, &w, &x);
            kernel_matmul_naive<<<dim3(ceil_div(n_out, NAIVE_THREADS), n_rows), NAIVE_THREADS, 0, stream>>>(
                y, w, x, n_out, n_in);
            bench_must(cudaGetLastError(), "naive");
        };
        std::function<void(int)> tiled = [&](int i) {
            bfloat16 *y;
            const bfloat16 *w, *x;
            pointers(i, &y, &w, &x);
            kernel_matmul_tiled<<<dim3(ceil_div(n_out, TILE), ceil_div(n_rows, TILE)), TILE * TILE_ROWS, 0,
                                  stream>>>(y, w, x, n_rows, n_out, n_in);
            bench_must(cudaGetLastError(), "tiled");
        };
        std::function<void(int)> shipped = [&](int i) {
            struct matmul_args args = {};
            args.weight = weights[i % n_weights];
            args.in = in_tensor;
            args.out = out_tensor;
            args.n_rows = n_rows;
            bool chained = i > 0; /* as in a step, where a kernel comes before */
            bench->context->mode = STEP_LAUNCH;
            bench->context->chained = chained;
            bench_must(backend->matmul(backend->context, &args));
            bench->context->mode = STEP_NONE;
        };
        std::function<void(int)> baseline = [&](int i) {
            bfloat16 *y;
            const bfloat16 *w, *x;
            pointers(i, &y, &w, &x);
            const float one = 1, zero = 0;
            if (blas.gemm(blas.handle, CUBLAS_OP_T, CUBLAS_OP_N, n_out, n_rows, n_in, &one, w, CUDA_R_16BF,
                          n_in, x, CUDA_R_16BF, n_in, &zero, y, CUDA_R_16BF, n_out, CUBLAS_COMPUTE_32F,
                          CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
                bench_must(status_fail(STATUS_INTERNAL, "cublasGemmEx failed"));
        };
        double baseline_us = 0;
        const struct {
            const char *name;
            const std::function<void(int)> *body;
        } rungs[] = {{"cublas", &baseline}, {"naive", &naive}, {"tiled", &tiled}, {"shipped", &shipped}};
        for (const auto &rung : rungs) {
            if (rung.body == &baseline && !blas.gemm)
                continue;
            std::vector<uint16_t> junk(out.size(), 0x7FC0); /* NaN: an output left unwritten is seen */
            bench_must(backend->tensor_write(backend->context, out_tensor, max_rows, junk.data()));
            bench_row row = {};
            row.us = bench_time(bench, *rung.body);
            bench_must(backend->tensor_read(backend->context, out_tensor, max_rows, out.data()));
            if (rung.body == &baseline)
                baseline_us = row.us;
            row.operation = "matmul";
            row.variant = rung.name;
            row.shape = std::string(layer.name) + " " + std::to_string(n_out) + "x" + std::to_string(n_in) +
                        " M=" + std::to_string(n_rows);
            row.bytes = (double)weight_bytes + 2.0 * n_rows * (n_in + n_out);
            row.flops = 2.0 * n_rows * n_out * n_in;
            row.baseline_us = baseline_us;
            row.baseline = "cublas";
            row.error = matmul_error(bench, out, weight, in, n_rows, n_out, n_in);
            row.tolerance = 0x1p-8; /* the rounding of a bfloat16 result */
            bench_report(bench, row);
        }
    }
    backend->tensor_free(backend->context, in_tensor);
    backend->tensor_free(backend->context, out_tensor);
    for (struct tensor *copy : weights)
        backend->tensor_free(backend->context, copy);
}

} // namespace

void bench_matmul(struct bench *bench) {
    cublas blas = cublas_open(bench->context->stream);
    for (const layer &layer : LAYERS)
        bench_layer(bench, blas, layer);
}
