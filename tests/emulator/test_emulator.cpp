/* The emulator sees what it says it sees: kernels that are wrong, each in a process of its own, and what it
 * says of them. */
#include "cuda_runtime.h"

#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ptx_wgmma.cuh"
#include "tests/functional/arguments.h"

enum { THREADS = 64, BYTES = 2048 };

static void expect(int32_t got, int32_t expected) {
    if (got != expected)
        __trap();
}

/* Neighbours exchange values: right with a barrier between writing and reading. */
static void exchange(bool has_barrier) {
    __shared__ int32_t values[THREADS];
    values[threadIdx.x] = (int32_t)threadIdx.x + 1;
    if (has_barrier)
        __syncthreads();
    int32_t neighbour = (threadIdx.x + 1) % THREADS;
    expect(values[neighbour], neighbour + 1);
}

static void kernel_exchange() {
    exchange(true);
}

static void kernel_exchange_unordered() {
    exchange(false);
}

static volatile int32_t word; /* so that its stores stay */

static void kernel_two_writers() {
    word = 1;
}

/* Reads what it copies in the background, having waited for it or not. */
static void copy(bool waits) {
    PTX_DYNAMIC_SHARED(shared, 128);
    static const int32_t source[4] __align__(16) = {1, 2, 3, 4};
    ptx_copy_async_16(ptx_shared_address(shared) + threadIdx.x * 16, source, true);
    ptx_copy_async_commit();
    if (waits)
        ptx_copy_async_wait<0>();
    expect(reinterpret_cast<int32_t *>(shared)[threadIdx.x * 4], 1);
}

static void kernel_copy() {
    copy(true);
}

static void kernel_copy_too_early() {
    copy(false);
}

/* Two copies on their way, of which the first is waited for; into its own place, or over the first. */
static void refill(uint32_t second) {
    PTX_DYNAMIC_SHARED(shared, 128);
    static const int32_t source[8] __align__(16) = {1, 2, 3, 4, 5, 6, 7, 8};
    uint32_t first = threadIdx.x * 16;
    ptx_copy_async_16(ptx_shared_address(shared) + first, source, true);
    ptx_copy_async_commit();
    ptx_copy_async_16(ptx_shared_address(shared) + first + second, source + 4, true);
    ptx_copy_async_commit();
    ptx_copy_async_wait<1>();
    expect(*reinterpret_cast<int32_t *>(shared + first), 1);
    ptx_copy_async_wait<0>();
}

static void kernel_two_copies() {
    refill(BYTES / 2);
}

static void kernel_refill_too_early() {
    refill(0);
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
    expect(reinterpret_cast<int32_t *>(shared)[7], 12);
}

static void kernel_bulk() {
    bulk(0);
}

static void kernel_bulk_expects_too_much() {
    bulk(16);
}

/* Leaves while copies are on their way: to shared memory, from it. */
static void kernel_leaves_copy() {
    PTX_DYNAMIC_SHARED(shared, 128);
    static const int32_t source[4] __align__(16) = {5, 6, 7, 8};
    __shared__ uint64_t barrier;
    if (threadIdx.x != 0)
        return;
    ptx_barrier_init(ptx_shared_address(&barrier), 1);
    ptx_barrier_expect(ptx_shared_address(&barrier), sizeof source);
    ptx_copy_bulk(ptx_shared_address(shared), source, sizeof source, ptx_shared_address(&barrier));
}

/* Of a matrix [8, 32] that is one box. */
static CUtensorMap box_map(unsigned char *matrix) {
    const cuuint64_t sizes[2] = {32, 8}, stride = 64;
    const cuuint32_t box[2] = {32, 8}, steps[2] = {1, 1};
    CUtensorMap map;
    expect(cuTensorMapEncodeTiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, matrix, sizes, &stride, box,
                                  steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_64B,
                                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
           CUDA_SUCCESS);
    return map;
}

static void kernel_leaves_store() {
    PTX_DYNAMIC_SHARED(shared, 128);
    static unsigned char matrix[64 * 8] __align__(128);
    uint32_t aligned = (ptx_shared_address(shared) + 511) / 512 * 512;
    if (threadIdx.x != 0)
        return;
    const CUtensorMap map = box_map(matrix);
    ptx_store_box(&map, 0, 0, aligned);
}

/* A box that is stored, read back when it has been written, or has been read alone. */
static void store(bool is_written) {
    PTX_DYNAMIC_SHARED(shared, 128);
    static unsigned char matrix[64 * 8] __align__(128);
    uint32_t aligned = (ptx_shared_address(shared) + 511) / 512 * 512;
    if (threadIdx.x != 0)
        return;
    const CUtensorMap map = box_map(matrix);
    ptx_store_shared(aligned, 3.5f);
    ptx_store_box(&map, 0, 0, aligned);
    if (is_written)
        ptx_store_wait_all();
    else
        ptx_store_wait_read<0>();
    ptx_store_shared(aligned, 0); /* its place is free */
    float stored;
    memcpy(&stored, matrix, sizeof stored);
    expect((int32_t)(2 * stored), 7);
}

static void kernel_store() {
    store(true);
}

static void kernel_store_read_alone() {
    store(false);
}

/* Adds to what it finds in shared memory, where the first block of the launch finds what it expects. */
static void kernel_uninitialised() {
    __shared__ int32_t count;
    if (threadIdx.x != 0)
        return;
    count = blockIdx.x == 0 ? 1 : count + 1;
    expect(count, (int32_t)blockIdx.x + 1);
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
        expect(__shfl_xor_sync(0xFFFFFFFFu, 1, 1), 1);
}

static void kernel_unaligned_row() {
    uint32_t r[4];
    PTX_DYNAMIC_SHARED(shared, 128);
    ptx_load_matrix_x4(r, ptx_shared_address(shared) + 8);
}

/* Releases what it has just read; with the registers in hand, or not. */
static void release(bool behind) {
    __shared__ uint64_t barrier;
    PTX_DYNAMIC_SHARED(shared, 128);
    const uint32_t at = ptx_shared_address(&barrier);
    uint32_t r[4];
    if (threadIdx.x == 0)
        ptx_barrier_init(at, THREADS);
    for (int i = (int)threadIdx.x * 4; i < BYTES; i += 4 * THREADS)
        ptx_store_shared(ptx_shared_address(shared) + (uint32_t)i, 1);
    __syncthreads();
    ptx_load_matrix_x4(r, ptx_shared_address(shared));
    if (behind)
        ptx_barrier_arrive_behind(at, r[0]);
    else
        ptx_barrier_arrive(at);
    ptx_barrier_wait(at, 0, "the release");
}

static void kernel_release() {
    release(true);
}

static void kernel_release_too_early() {
    release(false);
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
        ptx_cluster_store(ptx_cluster_address(ptx_shared_address(&from_other), rank ^ 1), (float)rank);
    if (!stays)
        return;
    ptx_cluster_barrier();
    expect((int32_t)from_other, (int32_t)(rank ^ 1));
}

static void kernel_visit() {
    visit(true);
}

static void kernel_visit_too_late() {
    visit(false);
}

/* The first block of a cluster copies into the second, which ends at once, or when it has it. */
static void send(bool waits) {
    PTX_DYNAMIC_SHARED(shared, 128);
    __shared__ uint64_t barrier;
    static const int32_t source[4] __align__(16) = {5, 6, 7, 8};
    const uint32_t to = ptx_shared_address(shared), at = ptx_shared_address(&barrier);
    if (blockIdx.x == 1 && threadIdx.x == 0) {
        ptx_barrier_init(at, 1);
        ptx_barrier_expect(at, sizeof source);
    }
    ptx_cluster_barrier();
    if (blockIdx.x == 0 && threadIdx.x == 0)
        ptx_copy_bulk(ptx_cluster_address(to, 1), source, sizeof source, ptx_cluster_address(at, 1));
    ptx_cluster_barrier();
    if (blockIdx.x == 1 && !waits)
        return;
    if (blockIdx.x == 1)
        ptx_barrier_wait(at, 0, "the copy");
    ptx_cluster_barrier();
}

static void kernel_send() {
    send(true);
}

static void kernel_send_not_awaited() {
    send(false);
}

static const struct {
    const char *name;
    void (*kernel)();
    const char *says; /* NULL: the kernel is right */
    const char *order;
    unsigned cluster; /* blocks, all of one cluster; 0: three blocks, a cluster each */
    bool is_race;     /* seen by the thread sanitizer alone */
} cases[] = {
    {"exchange", kernel_exchange, nullptr, "3", 1, false},
    {"exchange without a barrier", kernel_exchange_unordered, "trapped", "late", 1, false},
    {"two writers", kernel_two_writers, "data race", "late", 1, true},
    {"cp.async", kernel_copy, nullptr, "late", 1, false},
    {"cp.async, read too early", kernel_copy_too_early, "trapped", "late", 1, false},
    {"cp.async, two", kernel_two_copies, nullptr, "early", 1, false},
    {"cp.async, refilled too early", kernel_refill_too_early, "trapped", "early", 1, false},
    {"bulk copy", kernel_bulk, nullptr, "late", 1, false},
    {"bulk copy, too many bytes expected", kernel_bulk_expects_too_much, "waits at the copy", "late", 1,
     false},
    {"bulk copy, not waited for", kernel_leaves_copy, "on their way", "late", 1, false},
    {"box, not waited for", kernel_leaves_store, "may still read", "late", 1, false},
    {"box", kernel_store, nullptr, "late", 1, false},
    {"box, read and not yet written", kernel_store_read_alone, "trapped", "late", 1, false},
    {"shared memory of the block before", kernel_uninitialised, "trapped", "late", 0, false},
    {"named barrier of too many", kernel_barrier_of_too_many, "deadlock", "late", 1, false},
    {"an arrival too many", kernel_arrival_too_many, "an arrival too many", "late", 1, false},
    {"shared memory's end", kernel_out_of_bounds, "dynamic bytes", "late", 1, false},
    {"lanes apart", kernel_lanes_apart, "different operations", "late", 1, false},
    {"unaligned row of a matrix", kernel_unaligned_row, "not aligned", "late", 1, false},
    {"a release", kernel_release, nullptr, "late", 1, false},
    {"a release that overtakes loads", kernel_release_too_early, "overtake", "late", 1, false},
    {"operand without swizzle", kernel_operand_without_swizzle, "swizzle", "late", 1, false},
    {"blocks of a cluster", kernel_visit, nullptr, "2", 2, false},
    {"a copy into another block", kernel_send, nullptr, "late", 2, false},
    {"a copy into another block, which has ended", kernel_send_not_awaited, "on their way", "late", 2, false},
    {"blocks of a cluster, one has ended", kernel_visit_too_late, "which has ended", "late", 2, false},
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
        emulator::launch({{cluster ? cluster : 3, 1, 1}, THREADS, cluster ? cluster : 1, BYTES}, kernel);
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

int main(int argc, char **argv) {
    const struct arguments arguments = arguments_read(argc, argv);
    int n_run = 0, n_failed = 0;
    for (const auto &c : cases) {
        if ((c.is_race && !FINDS_RACES) || !arguments_match(&arguments, c.name))
            continue;
        n_run++;
        if (arguments.is_list) {
            printf("%s\n", c.name);
            continue;
        }
        setenv("EMULATOR_ORDER", c.order, 1);
        int status;
        std::string said = run(c.kernel, c.cluster, &status);
        bool ok = c.says ? status != 0 && said.find(c.says) != std::string::npos : status == 0;
        printf("%s: %s\n", c.name, ok ? "ok" : "FAILED");
        if (!ok)
            printf("  status %d, and it said:\n%s\n", status, said.c_str());
        n_failed += !ok;
    }
    return n_run == 0 ? arguments_matched_nothing(&arguments, "emulator") : n_failed;
}
