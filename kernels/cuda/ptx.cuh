/* ptx: the PTX instructions that CUDA C++ has no name for, one wrapper each, citing its
 * section of the PTX ISA manual by title (numbers move between versions).
 */
#ifndef PRESSRUN_KERNELS_CUDA_PTX_CUH
#define PRESSRUN_KERNELS_CUDA_PTX_CUH

#include <cstdint>
#ifdef BOUND_SPINS
#include <cstdio>
#endif

/* Address of a shared-memory object as the 32-bit operand of the instructions below. */
static __device__ __forceinline__ uint32_t ptx_shared_address(const void *pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* Declares the block's dynamic shared memory, which lies behind its static objects, as an array of bytes. */
#define PTX_DYNAMIC_SHARED(name, alignment)                                                                  \
    extern __shared__ __align__(alignment)                                                                   \
    unsigned char name[]

/* Waits until all kernels launched before this one are complete and their writes are visible. Every kernel of
 * the backend executes it in each thread that touches anything that a kernel writes, before it does, and in
 * some thread of every block, so completion is transitive: when a kernel is complete, all before it are. PTX
 * ISA, "Parallel Synchronization and Communication Instructions: griddepcontrol". Nothing to wait for on code
 * that is launched without the attribute. */
static __device__ __forceinline__ void ptx_wait_for_previous_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel of the stream start its prologue once all blocks of this one have started (PTX ISA,
 * griddepcontrol). Behind ptx_wait_for_previous_kernels(), except in matmul on Hopper: weights that a kernel
 * requests beside more than one in front of it only delay what those still have to read. */
static __device__ __forceinline__ void ptx_allow_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* Requests 16 bytes of global memory that are read once (not kept in L1), or gives zeros when !valid (the
 * source is then not read). Never moved across other volatile instructions, so requests stay where they are
 * written: in front of a wait. PTX ISA, "Data Movement and Conversion Instructions: ld". */
static __device__ __forceinline__ void ptx_load_once_16(uint32_t (&r)[4], const void *global, bool valid) {
    asm volatile("{\n\t"
                 ".reg .pred valid;\n\t"
                 "setp.ne.b32 valid, %5, 0;\n\t"
                 "mov.b32 %0, 0;\n\t"
                 "mov.b32 %1, 0;\n\t"
                 "mov.b32 %2, 0;\n\t"
                 "mov.b32 %3, 0;\n\t"
                 "@valid ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];\n\t"
                 "}"
                 : "=&r"(r[0]), "=&r"(r[1]), "=&r"(r[2]), "=&r"(r[3])
                 : "l"(global), "r"((int)valid));
}

/* Counts up to n - 1 and then to 0 again; returns the count before. What the block wrote before a barrier in
 * front of this is visible to whoever counts later, behind a barrier behind this. PTX ISA, "Parallel
 * Synchronization and Communication Instructions: atom" (inc), and "Memory Consistency Model: Release and
 * Acquire Patterns". */
static __device__ __forceinline__ uint32_t ptx_count_round(uint32_t *counter, uint32_t n) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(n - 1)
                 : "memory");
    return before;
}

/* Copies 16 bytes from global to shared memory in the background, or writes 16 zero bytes when !valid (the
 * source is then not read, but must be an address). Bypasses L1. PTX ISA, "Data Movement and Conversion
 * Instructions: cp.async". */
static __device__ __forceinline__ void ptx_copy_async_16(uint32_t shared, const void *global, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
                 : "memory");
}

/* Closes the group of copies that this thread started (PTX ISA, cp.async.commit_group). */
static __device__ __forceinline__ void ptx_copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of this thread's groups are open (PTX ISA, cp.async.wait_group). */
template <int N> static __device__ __forceinline__ void ptx_copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8; register i
 * receives of matrix i row l / 4, columns 2 (l % 4) and the next. PTX ISA, "Warp-level matrix load
 * instruction: ldmatrix". */
static __device__ __forceinline__ void ptx_load_matrix_x4(uint32_t (&r)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/* Two matrices, addresses from lanes 0..15. PTX ISA, "Warp-level matrix load instruction: ldmatrix". */
static __device__ __forceinline__ void ptx_load_matrix_x2(uint32_t &r0, uint32_t &r1, uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r0), "=r"(r1)
                 : "r"(shared)
                 : "memory");
}

/* As ptx_load_matrix_x4, each matrix transposed: register i receives rows 2 (l % 4) and the next of column l
 * / 4. PTX ISA, "Warp-level matrix load instruction: ldmatrix". */
static __device__ __forceinline__ void ptx_load_matrix_x4_transposed(uint32_t (&r)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}

/* c += a . b for a [16, 16] bf16, b [16, 8] bf16, c [16, 8] float32. With g = lane / 4 and t = lane % 4:
 *     a[0] (g, 2t) (g, 2t+1)    a[1] (g+8, 2t) ..    a[2] (g, 2t+8) ..    a[3] (g+8, 2t+8) ..
 *     b0   (2t, g) (2t+1, g)    b1   (2t+8, g) (2t+9, g)
 *     c[0] (g, 2t)   c[1] (g, 2t+1)   c[2] (g+8, 2t)   c[3] (g+8, 2t+1)
 * PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type". */
static __device__ __forceinline__ void ptx_mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                    uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- barriers in shared memory that count arrivals and bytes (mbarrier); sm_90 ---- */

/* PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier.init". One thread; then
 * ptx_barrier_init_done() and a barrier of the block before anyone uses it. */
static __device__ __forceinline__ void ptx_barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Makes initialised barriers visible to copies and to the cluster (PTX ISA, fence.mbarrier_init). */
static __device__ __forceinline__ void ptx_barrier_init_done() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives, and makes the phase wait for `bytes` more of asynchronous copies (PTX ISA,
 * mbarrier.arrive.expect_tx). */
static __device__ __forceinline__ void ptx_barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void ptx_barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* The same, when `loaded` is there: a value made of a register of every load from shared memory whose source
 * may be overwritten by the copy engine from now on. An arrival alone does not wait for them: ptxas
 * issues it while they are on their way, and only a fence of both proxies would order them before the copy
 * (kernels/README.md, "a release that overtakes loads"). So its address depends on `loaded`, by a term that
 * is 0 and that the compiler cannot know to be: for grids of one or two dimensions. */
static __device__ __forceinline__ void ptx_barrier_arrive_behind(uint32_t barrier, uint32_t loaded) {
    ptx_barrier_arrive(barrier + (loaded & (gridDim.z - 1)));
}

/* Waits until the phase of the given parity is complete (PTX ISA, mbarrier.try_wait). A wait that never ends
 * is a defect of the pipeline: in a build with BOUND_SPINS it traps and names the barrier. */
static __device__ __forceinline__ void ptx_barrier_wait(uint32_t barrier, uint32_t parity, const char *name) {
#ifdef BOUND_SPINS
    long long start = clock64();
#endif
    uint32_t complete = 0;
    while (true) {
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}\n"
                     : "=r"(complete)
                     : "r"(barrier), "r"(parity)
                     : "memory");
        if (complete)
            return;
#ifdef BOUND_SPINS
        if (clock64() - start > 4000000000ll) { /* two seconds */
            printf("block %d, thread %d: barrier \"%s\", parity %u, is never complete\n", (int)blockIdx.x,
                   (int)threadIdx.x, name, parity);
            __trap();
        }
#endif
    }
    (void)name;
}

/* Whether the phase of the given parity is complete, without waiting for it (PTX ISA, mbarrier.test_wait). */
static __device__ __forceinline__ bool ptx_barrier_is_complete(uint32_t barrier, uint32_t parity) {
    uint32_t complete;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(complete)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return complete != 0;
}

/* True in one lane of a warp whose lanes are all here; the compiler knows that it is one (PTX ISA,
 * elect.sync).
 */
static __device__ __forceinline__ bool ptx_elect() {
    uint32_t is_leader;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "elect.sync _|p, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(is_leader));
    return is_leader != 0;
}

/* A value that the compiler must keep in a register: it knows nothing of how to compute it again. */
static __device__ __forceinline__ void ptx_keep(uint32_t &x) {
    asm volatile("" : "+r"(x));
}

/* ---- bulk copies by the copy engine; sm_90 ---- */

/* Copies `bytes` (a multiple of 16; both addresses too) from global to shared memory and counts them at the
 * barrier. PTX ISA, "Data Movement and Conversion Instructions: cp.async.bulk". */
static __device__ __forceinline__ void ptx_copy_bulk(uint32_t shared, const void *global, uint32_t bytes,
                                                     uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            shared),
        "l"(global), "r"(bytes), "r"(barrier)
        : "memory");
}

/* Copies the box at column x, row y of a two-dimensional tensor map (PTX ISA, cp.async.bulk.tensor). Elements
 * outside of the tensor arrive as zeros and count as bytes. map: a __grid_constant__ parameter. */
static __device__ __forceinline__ void ptx_copy_box(uint32_t shared, const void *map, int32_t x, int32_t y,
                                                    uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "
                 "{%2, %3}], [%4];" ::"r"(shared),
                 "l"(map), "r"(x), "r"(y), "r"(barrier)
                 : "memory");
}

/* Copies a box from shared memory to column x, row y of a tensor map, what lies outside of it left out;
 * closes the group of this copy. Shared memory written by ordinary stores needs ptx_fence_for_copies() in
 * each writing thread, then a barrier, before. */
static __device__ __forceinline__ void ptx_store_box(const void *map, int32_t x, int32_t y, uint32_t shared) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(x), "r"(y), "r"(shared)
                 : "memory");
}

/* As ptx_store_box, but adds the box's float32 elements to those in memory (PTX ISA,
 * cp.reduce.async.bulk.tensor).
 */
static __device__ __forceinline__ void ptx_add_box(const void *map, int32_t x, int32_t y, uint32_t shared) {
    asm volatile(
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], [%3];\n"
        "cp.async.bulk.commit_group;" ::"l"(map),
        "r"(x), "r"(y), "r"(shared)
        : "memory");
}

/* Fetches the box at column x, row y of a tensor map into the L2 cache, what lies outside of it left out (PTX
 * ISA, cp.async.bulk.prefetch.tensor). Nobody waits for it. */
static __device__ __forceinline__ void ptx_prefetch_box(const void *map, int32_t x, int32_t y) {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(x), "r"(y)
                 : "memory");
}

/* *p += x in memory, without waiting for it (PTX ISA, red). */
static __device__ __forceinline__ void ptx_add(float *p, float x) {
    asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(p), "f"(x) : "memory");
}

/* Reads what other blocks change by atomic operations while this one runs: some value that it has had (PTX
 * ISA, ld.relaxed). */
static __device__ __forceinline__ unsigned long long ptx_load_relaxed(const unsigned long long *p) {
    unsigned long long x;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(x) : "l"(p) : "memory");
    return x;
}

/* x + y as ptx_add() and ptx_add_box() compute it in memory: subnormal operands and sums are zero. */
static __device__ __forceinline__ float ptx_sum_in_memory(float x, float y) {
    float sum;
    asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(sum) : "f"(x), "f"(y));
    return sum;
}

static __device__ __forceinline__ void ptx_store_shared(uint32_t shared, float x) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(shared), "f"(x) : "memory");
}

static __device__ __forceinline__ float ptx_load_shared(uint32_t shared) {
    float x;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(shared) : "memory");
    return x;
}

static __device__ __forceinline__ void ptx_load_shared_16(float (&x)[4], uint32_t shared) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "r"(shared)
                 : "memory");
}

/* Waits until at most N of this thread's groups of stores still read shared memory (PTX ISA,
 * cp.async.bulk.wait_group.read). */
template <int N> static __device__ __forceinline__ void ptx_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

/* Waits until all of this thread's groups of stores are complete. */
static __device__ __forceinline__ void ptx_store_wait_all() {
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Orders this thread's writes to shared memory before what the copy engine reads there (PTX ISA,
 * fence.proxy.async). */
static __device__ __forceinline__ void ptx_fence_for_copies() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Stores four 8x8 matrices of 16-bit elements transposed: lane l gives the address of row l % 8 of matrix
 * l / 8; register i holds of the transposed matrix i row l / 4, columns 2 (l % 4) and the next. PTX ISA,
 * "Warp-level matrix store instruction: stmatrix". */
static __device__ __forceinline__ void ptx_store_matrix_x4_transposed(uint32_t shared, uint32_t r0,
                                                                      uint32_t r1, uint32_t r2, uint32_t r3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared),
                 "r"(r0), "r"(r1), "r"(r2), "r"(r3)
                 : "memory");
}

/* ---- clusters of thread blocks; sm_90 ---- */

/* All threads of the cluster: what each wrote before is visible to all after (PTX ISA, barrier.cluster). */
static __device__ __forceinline__ void ptx_cluster_barrier() {
    __syncwarp(); /* as in ptx_named_barrier() */
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* The same without a promise about what was written, and ten times as fast. */
static __device__ __forceinline__ void ptx_cluster_meet() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}

/* The address of the same object in the shared memory of another block of the cluster (PTX ISA, mapa). */
static __device__ __forceinline__ uint32_t ptx_cluster_address(uint32_t shared, uint32_t rank) {
    uint32_t address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
    return address;
}

/* Writes to an address from ptx_cluster_address() (PTX ISA, "Data Movement and Conversion Instructions: st").
 */
static __device__ __forceinline__ void ptx_cluster_store(uint32_t address, float x) {
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}

static __device__ __forceinline__ void ptx_cluster_store(uint32_t address, int32_t x) {
    asm volatile("st.shared::cluster.s32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

static __device__ __forceinline__ void ptx_cluster_store(uint32_t address, uint64_t x) {
    asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(address), "l"(x) : "memory");
}

/* Reads from such an address. */
static __device__ __forceinline__ uint64_t ptx_cluster_load_64(uint32_t address) {
    uint64_t x;
    asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(x) : "r"(address) : "memory");
    return x;
}

/* Writes 16 bytes to an address from ptx_cluster_address(), and counts them at a barrier of the same block,
 * its address too: who has waited for the barrier sees them, without a fence on either side. PTX ISA, "Data
 * Movement and Conversion Instructions: st.async". */
static __device__ __forceinline__ void ptx_cluster_store_counted(uint32_t address, uint4 x,
                                                                 uint32_t barrier) {
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
            address),
        "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(barrier)
        : "memory");
}

/* Sets the registers of each thread of the warpgroup, a multiple of 8; raising waits until the block's other
 * warpgroups have given up enough (PTX ISA, "Miscellaneous Instructions: setmaxnreg"). All of the warpgroup.
 */
template <int N> static __device__ __forceinline__ void ptx_registers_raise() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void ptx_registers_lower() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* A barrier among `threads` threads of the block, by number (PTX ISA, "bar, barrier"). Number 0 is
 * __syncthreads(). */
static __device__ __forceinline__ void ptx_named_barrier(uint32_t number, uint32_t threads) {
    __syncwarp(); /* lanes may still be apart behind a wait; a barrier is for whole warps */
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

/* The same, and whether `mine` is true in any of the threads (PTX ISA, "bar, barrier": red). */
static __device__ __forceinline__ bool ptx_named_barrier_or(uint32_t number, uint32_t threads, bool mine) {
    uint32_t any;
    __syncwarp(); /* as in ptx_named_barrier() */
    asm volatile("{\n"
                 ".reg .pred mine, any;\n"
                 "setp.ne.u32 mine, %3, 0;\n"
                 "bar.red.or.pred any, %1, %2, mine;\n"
                 "selp.u32 %0, 1, 0, any;\n"
                 "}\n"
                 : "=r"(any)
                 : "r"(number), "r"(threads), "r"((uint32_t)mine)
                 : "memory");
    return any != 0;
}

/* 2^x, relative error 2^-22, 2^-infinity = 0 (PTX ISA, "Floating Point Instructions: ex2"). */
static __device__ __forceinline__ float ptx_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
