/* limits: what this processor can do at best, for the floors of benchmarks. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/context.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Sums what it reads, so that the reads stay. */
static uint64_t read_all(const uint64_t *data, int64_t n, int n_threads) {
    uint64_t sum = 0;
#pragma omp parallel for num_threads(n_threads) schedule(static) reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += data[i];
    return sum;
}

enum status cpu_measure_limits(struct backend_context *context, enum dtype dtype,
                               struct device_limits *limits) {
    (void)dtype; /* bfloat16 is widened to float32 and multiplied there */
    const size_t bytes = (size_t)512 << 20;
    int64_t n = (int64_t)(bytes / sizeof(uint64_t));
    uint64_t *data = malloc(bytes);
    RETURN_IF(!data, STATUS_NO_FIT, "measuring the read bandwidth needs %zu bytes of memory", bytes);
    memset(data, 1, bytes);
    double best_read = 1e9, best_round = 1e9;
    volatile uint64_t sink = 0;
    volatile float float_sink = 0;
    const int64_t rounds = 2000000;
    for (int repeat = 0; repeat < 5; repeat++) {
        double began = now();
        sink = sink + read_all(data, n, context->n_threads);
        double took = now() - began;
        best_read = took < best_read ? took : best_read;

        began = now();
        float sum = 0;
#pragma omp parallel for num_threads(context->n_threads) reduction(+ : sum)
        for (int thread = 0; thread < context->n_threads; thread++)
            sum += context->isa->fma_rounds(rounds, 0.5f);
        took = now() - began;
        float_sink = float_sink + sum;
        best_round = took < best_round ? took : best_round;
    }
    free(data);
    limits->read_bytes_per_s = (double)bytes / best_read;
    limits->flops = 2.0 * 8 * PANEL_OUTPUTS * (double)rounds * context->n_threads / best_round;
    return STATUS_OK;
}
