/* limits: what this processor can do at best, for the floors of benchmarks. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/context.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* What the threads measure with; one task each. */
struct measurement {
    const struct cpu_isa *isa;
    int n_threads;
    const uint64_t *data; /* [n_words] */
    int64_t n_words;
    enum dtype dtype;
    int64_t rounds;
    _Atomic int64_t multiply_adds;
    _Atomic uint64_t sink; /* takes what is computed, so that the compiler does not leave it out */
};

static void read_task(void *argument, int64_t task, int thread) {
    (void)thread;
    struct measurement *m = argument;
    int64_t end = pool_share(m->n_words, m->n_threads, task + 1);
    uint64_t sum = 0;
    for (int64_t i = pool_share(m->n_words, m->n_threads, task); i < end; i++)
        sum += m->data[i];
    m->sink += sum;
}

static void fma_task(void *argument, int64_t task, int thread) {
    (void)task;
    (void)thread;
    struct measurement *m = argument;
    float sum;
    m->multiply_adds += m->isa->fma_rounds(m->dtype, m->rounds, 0.5f, &sum);
    m->sink += sum > 0;
}

static double seconds_of(struct backend_context *context, pool_task *task, struct measurement *m) {
    double began = now();
    pool_run(context->pool, m->n_threads, task, m);
    return now() - began;
}

enum status cpu_measure_limits(struct backend_context *context, enum dtype dtype,
                               struct device_limits *limits) {
    const size_t bytes = (size_t)512 << 20;
    uint64_t *data = malloc(bytes);
    RETURN_IF(!data, STATUS_NO_FIT, "measuring the read bandwidth needs %zu bytes of memory", bytes);
    memset(data, 1, bytes);
    struct measurement m = {
        .isa = context->isa,
        .n_threads = context->n_threads,
        .data = data,
        .n_words = (int64_t)(bytes / sizeof *data),
        .dtype = dtype,
        .rounds = 2000000,
    };
    double best_read = INFINITY, best_fma = INFINITY;
    for (int repeat = 0; repeat < 5; repeat++) {
        best_read = fmin(best_read, seconds_of(context, read_task, &m));
        m.multiply_adds = 0;
        best_fma = fmin(best_fma, seconds_of(context, fma_task, &m));
    }
    free(data);
    limits->read_bytes_per_s = (double)bytes / best_read;
    limits->flops = 2.0 * (double)m.multiply_adds / best_fma;
    return STATUS_OK;
}
