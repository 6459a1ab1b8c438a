/* bench: what the ladders of the sandbox share: data, timing, checking, rows.
 *
 * A ladder is one operation written several times, from the plainest form to what ships. What ships is called
 * through the backend's own table, never copied here. */
#ifndef PRESSRUN_KERNELS_BENCH_BENCH_CUH
#define PRESSRUN_KERNELS_BENCH_BENCH_CUH

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/context.cuh"
#include "kernels/cuda/vector.cuh"

enum {
    BENCH_L2_BYTES = 120 << 20 /* operands are rotated over at least this much, to be read from memory */
};

struct bench {
    struct backend backend;
    struct backend_context *context; /* of backend, for its stream */
    FILE *json;                      /* NULL: no file */
    double copy_bytes_per_us;        /* device-to-device copy, read plus written */
    bool sweep;                      /* also try every tile shape of matmul */
    const char *layers;              /* matmul, norm: only layers whose name holds this; NULL: all */
    int32_t least_rows, most_rows;   /* matmul, norm, head: only row counts between these */
    double sustained_s;              /* of running before each time is taken */
    uint64_t random;                 /* state of the generator; fixed seed */
    bool failed;                     /* a result was wrong */
};

/* One measured result. Rates that do not apply are 0 and not printed. */
struct bench_row {
    const char *operation;
    const char *variant;
    std::string shape;
    double us;
    double bytes; /* that must move through device memory at least */
    double flops;
    double baseline_us; /* cuBLAS, or the bytes at the copy's rate */
    const char *baseline;
    double error; /* largest difference over the largest magnitude of the reference */
    double tolerance;
};

/* Ends the program with the message when a call failed. */
void bench_must(enum status status);
void bench_must(cudaError_t error, const char *what);

/* Prints a row, writes it as JSON, notes a wrong result. */
void bench_report(struct bench *bench, const struct bench_row &row);

/* Uniform in [-1, 1). */
float bench_random(struct bench *bench);

/* n random bfloat16 as host bits. */
std::vector<uint16_t> bench_random_bfloat16(struct bench *bench, size_t n, float scale);
float bench_widen(uint16_t bits);

/* Device memory, freed at the end of its scope. */
struct bench_memory {
    void *data = nullptr;
    explicit bench_memory(size_t bytes);
    bench_memory(size_t bytes, const void *host);
    ~bench_memory();
    bench_memory(const bench_memory &) = delete;
    bench_memory &operator=(const bench_memory &) = delete;
    template <typename T> T *as() const { return static_cast<T *>(data); }
};

/* Median microseconds of one body(i), which queues work on the backend's stream: recorded as a graph of
 * several, with i counting up so that operands can be rotated; warmed up, timed with events over the graph.
 * hopeless_us: where the second call takes longer than that, its time is the answer (0: never). */
double bench_time(struct bench *bench, const std::function<void(int)> &body, double hopeless_us = 0);

void bench_matmul(struct bench *bench);
void bench_norm(struct bench *bench);
void bench_softmax(struct bench *bench);
void bench_attention(struct bench *bench);
void bench_sample(struct bench *bench);
void bench_head(struct bench *bench);

#endif
