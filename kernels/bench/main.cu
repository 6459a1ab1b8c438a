/* kernel_bench: the sandbox's command line. See README.md. */
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/bench/bench.cuh"

#ifndef PRESSRUN_COMMIT
#define PRESSRUN_COMMIT "unknown"
#endif

namespace {

const char HELP[] =
    "usage: kernel_bench [--op matmul|norm|softmax|attention|sample|head] [--json FILE] [--device N]\n"
    "\n"
    "Times each operation as a ladder, from the plainest kernel to the one that ships, "
    "checks every result, and\n"
    "prints it beside cuBLAS or the device's copy bandwidth.\n"
    "\n"
    "  --op NAME    one operation; default: all\n"
    "  --sweep 1    matmul: also the best of all tile shapes, and what invariance costs\n"
    "  --layers TEXT  matmul, norm: only layers whose name holds TEXT\n"
    "  --least-rows N, --most-rows N  matmul, norm, head: only so many rows\n"
    "  --sustained S  run each for S seconds before it is timed: what a job of minutes sees, "
    "when the\n"
    "               device has come to the limit of its power; default: 0\n"
    "  --json FILE  also write one JSON object per line and result\n"
    "  --device N   CUDA device; default: 0\n";

/* The rate of the device's own copy, counting bytes read and bytes written. */
double copy_rate(struct bench *bench) {
    const size_t bytes = (size_t)512 << 20;
    bench_memory from(bytes), to(bytes);
    double us = bench_time(bench, [&](int) {
        bench_must(
            cudaMemcpyAsync(to.data, from.data, bytes, cudaMemcpyDeviceToDevice, bench->context->stream),
            "copy");
    });
    return 2.0 * (double)bytes / us;
}

int usage(const char *problem, const char *argument) {
    fprintf(stderr, "kernel_bench: %s \"%s\"; see kernel_bench --help\n", problem, argument);
    return STATUS_USAGE;
}

} // namespace

void bench_must(enum status status) {
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "kernel_bench: %s\n", status_message());
    exit(status);
}

void bench_must(cudaError_t error, const char *what) {
    bench_must(cuda_check(error, what));
}

void bench_report(struct bench *bench, const struct bench_row &row) {
    bool good = row.error <= row.tolerance; /* false for NaN */
    double gigabytes = row.bytes / row.us * 1e-3, teraflops = row.flops / row.us * 1e-6;
    double ratio = row.baseline_us > 0 ? row.baseline_us / row.us : 0;
    printf("%-10s %-9s %-34s %10.2f us", row.operation, row.variant, row.shape.c_str(), row.us);
    if (row.bytes > 0)
        printf(" %8.1f GB/s", gigabytes);
    if (row.flops > 0)
        printf(" %7.2f TFLOP/s", teraflops);
    if (ratio > 0)
        printf(" %5.2f of %s", ratio, row.baseline);
    printf("%s\n", good ? "" : "  WRONG");
    if (!good)
        bench->failed = true;
    if (!bench->json)
        return;
    fprintf(bench->json,
            "{\"device\":\"%s\",\"commit\":\"%s\",\"operation\":\"%s\",\"variant\":\"%s\",\"shape\":\"%s\","
            "\"us\":%.3f,"
            "\"gb_per_s\":%.1f,\"tflop_per_s\":%.3f,\"baseline\":\"%s\",\"baseline_us\":%.3f,\"ratio\":%.3f,"
            "\"error\":%.3g,\"correct\":%s,\"sustained_s\":%g}\n",
            bench->backend.device, PRESSRUN_COMMIT, row.operation, row.variant, row.shape.c_str(), row.us,
            gigabytes, teraflops, row.baseline ? row.baseline : "", row.baseline_us, ratio,
            good ? row.error : -1, good ? "true" : "false", bench->sustained_s);
}

float bench_random(struct bench *bench) {
    bench->random = bench->random * 6364136223846793005ull + 1442695040888963407ull;
    return (float)(bench->random >> 40) * 0x1p-23f - 1.0f;
}

std::vector<uint16_t> bench_random_bfloat16(struct bench *bench, size_t n, float scale) {
    std::vector<uint16_t> values(n);
    for (uint16_t &value : values) {
        float x = bench_random(bench) * scale;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        value = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
    return values;
}

float bench_widen(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

bench_memory::bench_memory(size_t bytes) {
    bench_must(cudaMalloc(&data, bytes), "cudaMalloc");
    bench_must(cudaMemset(data, 0, bytes), "cudaMemset");
}

bench_memory::bench_memory(size_t bytes, const void *host) {
    bench_must(cudaMalloc(&data, bytes), "cudaMalloc");
    bench_must(cudaMemcpy(data, host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

bench_memory::~bench_memory() {
    cudaFree(data);
}

double bench_time(struct bench *bench, const std::function<void(int)> &body, double hopeless_us) {
    enum { WARM_UP = 2, REPEATS = 15 };
    const double graph_us = 2000; /* long enough that the launch of the graph does not show */
    cudaStream_t stream = bench->context->stream;
    cudaEvent_t start, end;
    bench_must(cudaEventCreate(&start), "cudaEventCreate");
    bench_must(cudaEventCreate(&end), "cudaEventCreate");
    auto elapsed_us = [&]() {
        float ms = 0;
        bench_must(cudaEventSynchronize(end), "cudaEventSynchronize");
        bench_must(cudaEventElapsedTime(&ms, start, end), "cudaEventElapsedTime");
        return (double)ms * 1e3;
    };
    /* The first run loads code; the second says how many fit a graph. */
    double once = 0;
    for (int i = 0; i < WARM_UP; i++) {
        bench_must(cudaEventRecord(start, stream), "cudaEventRecord");
        bench->context->chained = false;
        body(i);
        bench_must(cudaEventRecord(end, stream), "cudaEventRecord");
        once = elapsed_us();
    }
    if (hopeless_us > 0 && once > hopeless_us) {
        cudaEventDestroy(start);
        cudaEventDestroy(end);
        return once;
    }
    int n = (int)std::min(200.0, std::max(1.0, graph_us / once));

    cudaGraph_t graph;
    cudaGraphExec_t exec;
    bench_must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    bench->context->chained = false;
    for (int i = 0; i < n; i++)
        body(i);
    bench_must(cudaStreamEndCapture(stream, &graph), "capture");
    bench_must(cudaGraphInstantiate(&exec, graph, 0), "capture");
    const int n_before = (int)(bench->sustained_s * 1e6 / (once * n));
    for (int i = 0; i < n_before; i++)
        bench_must(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
    bench_must(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    std::vector<double> times;
    for (int i = 0; i < WARM_UP + REPEATS; i++) {
        bench_must(cudaEventRecord(start, stream), "cudaEventRecord");
        bench_must(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
        bench_must(cudaEventRecord(end, stream), "cudaEventRecord");
        double us = elapsed_us();
        if (i >= WARM_UP)
            times.push_back(us / n);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(start);
    cudaEventDestroy(end);
    std::nth_element(times.begin(), times.begin() + REPEATS / 2, times.end());
    return times[REPEATS / 2];
}

int main(int argc, char **argv) {
    const char *operation = nullptr, *json = nullptr;
    struct backend_options options = {};
    struct bench bench = {};
    bench.most_rows = INT32_MAX;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(HELP, stdout);
            return 0;
        }
        if (i + 1 == argc)
            return usage("unknown option, or no value for", argv[i]);
        const char *name = argv[i], *value = argv[++i];
        if (strcmp(name, "--op") == 0)
            operation = value;
        else if (strcmp(name, "--sweep") == 0)
            bench.sweep = strcmp(value, "0") != 0;
        else if (strcmp(name, "--sustained") == 0)
            bench.sustained_s = atof(value);
        else if (strcmp(name, "--least-rows") == 0)
            bench.least_rows = atoi(value);
        else if (strcmp(name, "--most-rows") == 0)
            bench.most_rows = atoi(value);
        else if (strcmp(name, "--layers") == 0)
            bench.layers = value;
        else if (strcmp(name, "--json") == 0)
            json = value;
        else if (strcmp(name, "--device") == 0)
            options.cuda_device = atoi(value);
        else
            return usage("unknown option", name);
    }
    const struct {
        const char *name;
        void (*run)(struct bench *);
    } ladders[] = {{"matmul", bench_matmul},       {"norm", bench_norm},     {"softmax", bench_softmax},
                   {"attention", bench_attention}, {"sample", bench_sample}, {"head", bench_head}};
    bool known = !operation;
    for (const auto &ladder : ladders)
        known = known || strcmp(operation, ladder.name) == 0;
    if (!known)
        return usage("unknown operation", operation);

    bench.random = 42;
    bench_must(backend_open_cuda(&options, &bench.backend));
    bench.context = bench.backend.context;
    if (json) {
        bench.json = fopen(json, "w");
        if (!bench.json) {
            fprintf(stderr, "kernel_bench: cannot create %s\n", json);
            return STATUS_CANNOT_CREATE;
        }
    }
    bench.copy_bytes_per_us = copy_rate(&bench);
    printf("%s, commit %s, copy %.0f GB/s\n", bench.backend.device, PRESSRUN_COMMIT,
           bench.copy_bytes_per_us * 1e-3);
    for (const auto &ladder : ladders)
        if (!operation || strcmp(operation, ladder.name) == 0)
            ladder.run(&bench);
    bench.backend.close(bench.backend.context);
    if (bench.json && fclose(bench.json) != 0) {
        fprintf(stderr, "kernel_bench: writing %s failed\n", json);
        return STATUS_IO;
    }
    return bench.failed ? STATUS_INTERNAL : 0;
}
