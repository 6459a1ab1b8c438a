/* The emulator sees what it says it sees: kernels that are wrong, each in a process of its own, and what it
 * says of them. */
#include "cuda_runtime.h"

#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ptx_wgmma.cuh"

enum { THREADS = 64, BYTES = 2048 };

static volatile int32_t out[THREADS]; /* keeps what is written to it from being left out */

/* Neighbours exchange values: right with a barrier between writing and reading. */
static void exchange(bool has_barrier) {
    __shared__ int32_t values[THREADS];
    values[threadIdx.x] = (int32_t)threadIdx.x;
    if (has_barrier)
        __syncthreads();
    out[threadIdx.x] = values[(threadIdx.x + 1) % THREADS];
}

static void kernel_exchange() {
    exchange(true);
}

static void kernel_exchange_unordered() {
    exchange(false);
}

/* Reads what it copies in the background, having waited for it or not. */
static void copy(bool waits) {
    PTX_DYNAMIC_SHARED(shared, 128);
    static const int32_t source[4] __align__(16) = {1, 2, 3, 4};
    ptx_copy_async_16(ptx_shared_address(shared) + threadIdx.x * 16, source, true);
    ptx_copy_async_commit();
    if (waits)
        ptx_copy_async_wait<0>();
    if (reinterpret_cast<int32_t *>(shared)[threadIdx.x * 4] != 1)
        __trap();
}

static void kernel_copy() {
    copy(true);
}

static void kernel_copy_too_early() {
    copy(false);
}

/* A bulk copy and a barrier that counts its bytes, or some more. */
static void bulk(uint32_t more) {
    PTX_DYNAMIC_SHARED(shared, 128);
    __shared__ uint64_t barrier;
    static const int32_t source[8] __align__(16) = {5, 6, 7, 8, 9, 10, 11, 12};
    if (threadIdx.x == 0)
        ptx_barrier_init(ptx_shared_address(&barrier), 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx_barrier_expect(ptx_shared_address(&barrier), sizeof source + more);
        ptx_copy_bulk(ptx_shared_address(shared), source, sizeof source, ptx_shared_address(&barrier));
    }
    ptx_barrier_wait(ptx_shared_address(&barrier), 0, "the copy");
    if (reinterpret_cast<int32_t *>(shared)[7] != 12)
        __trap();
}

static void kernel_bulk() {
    bulk(0);
}

static void kernel_bulk_expects_too_much() {
    bulk(16);
}

static void kernel_barrier_of_too_many() {
    ptx_named_barrier(1, THREADS + 32);
}

static void kernel_arrival_too_many() {
    __shared__ uint64_t barrier;
    if (threadIdx.x != 0)
        return;
    ptx_barrier_init(ptx_shared_address(&barrier), 1);
    ptx_barrier_expect(ptx_shared_address(&barrier), 16);
    ptx_barrier_arrive(ptx_shared_address(&barrier));
}

static void kernel_out_of_bounds() {
    PTX_DYNAMIC_SHARED(shared, 128);
    ptx_store_shared(ptx_shared_address(shared) + BYTES, 1);
}

static void kernel_lanes_apart() {
    if (threadIdx.x % 2)
        __syncwarp();
    else
        out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, 1, 1);
}

static void kernel_unaligned_row() {
    uint32_t r[4];
    PTX_DYNAMIC_SHARED(shared, 128);
    ptx_load_matrix_x4(r, ptx_shared_address(shared) + 8);
}

static void kernel_operand_without_swizzle() {
    float c[4] = {};
    wgmma<8>(c, 0x480 >> 4, 0x480 >> 4);
    wgmma_commit();
    wgmma_wait<0>();
}

/* Two blocks of a cluster that write to each other; the second ends at once, or behind a barrier. */
static void visit(bool stays) {
    __shared__ float from_other;
    uint32_t rank = blockIdx.x;
    ptx_cluster_barrier(); /* both have begun */
    if (rank == 1 && !stays)
        return;
    if (!stays)
        ptx_cluster_barrier(); /* of those that are left: the other has ended */
    if (threadIdx.x == 0)
        ptx_cluster_store(ptx_cluster_address(ptx_shared_address(&from_other), rank ^ 1), 1.0f);
    if (stays)
        ptx_cluster_barrier();
}

static void kernel_visit() {
    visit(true);
}

static void kernel_visit_too_late() {
    visit(false);
}

static const struct {
    const char *name;
    void (*kernel)();
    unsigned cluster;
    bool for_races;   /* of interest to the thread sanitizer alone */
    const char *says; /* NULL: the kernel is right */
} cases[] = {
    {"exchange", kernel_exchange, 1, false, nullptr},
    {"exchange without a barrier", kernel_exchange_unordered, 1, true, "data race"},
    {"cp.async", kernel_copy, 1, false, nullptr},
    {"cp.async, too early", kernel_copy_too_early, 1, false, "trapped"},
    {"bulk copy", kernel_bulk, 1, false, nullptr},
    {"bulk copy, too many bytes expected", kernel_bulk_expects_too_much, 1, false, "waits at the copy"},
    {"named barrier of too many", kernel_barrier_of_too_many, 1, false, "deadlock"},
    {"an arrival too many", kernel_arrival_too_many, 1, false, "an arrival too many"},
    {"shared memory's end", kernel_out_of_bounds, 1, false, "dynamic bytes"},
    {"lanes apart", kernel_lanes_apart, 1, false, "different operations"},
    {"unaligned row of a matrix", kernel_unaligned_row, 1, false, "not aligned"},
    {"operand without swizzle", kernel_operand_without_swizzle, 1, false, "swizzle"},
    {"blocks of a cluster", kernel_visit, 2, false, nullptr},
    {"blocks of a cluster, one has ended", kernel_visit_too_late, 2, false, "which has ended"},
};

#if defined(__SANITIZE_THREAD__)
static const bool FINDS_RACES = true;
#else
static const bool FINDS_RACES = false;
#endif

/* Runs the kernel in a child; what it says on standard error, and its exit status. */
static std::string run(void (*kernel)(), unsigned cluster, int *status) {
    int ends[2];
    if (pipe(ends) != 0)
        abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        emulator::launch({{cluster, 1, 1}, THREADS, cluster, BYTES}, kernel);
        exit(0);
    }
    close(ends[1]);
    std::string said;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
        said.append(buffer, (size_t)n);
    close(ends[0]);
    waitpid(child, status, 0);
    return said;
}

int main() {
    setenv("EMULATOR_ORDER", "late", 1);
    int n_failed = 0;
    for (const auto &c : cases) {
        if (c.for_races && !FINDS_RACES)
            continue;
        int status;
        std::string said = run(c.kernel, c.cluster, &status);
        bool ok = c.says ? status != 0 && said.find(c.says) != std::string::npos : status == 0;
        printf("%s: %s\n", c.name, ok ? "ok" : "FAILED");
        if (!ok)
            printf("  status %d, and it said:\n%s\n", status, said.c_str());
        n_failed += !ok;
    }
    return n_failed > 0;
}
