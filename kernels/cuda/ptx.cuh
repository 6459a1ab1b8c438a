/* ptx: the PTX instructions that CUDA C++ has no name for, one wrapper each, citing its
 * section of the PTX ISA manual by title (numbers move between versions).
 */
#ifndef PRESSRUN_KERNELS_CUDA_PTX_CUH
#define PRESSRUN_KERNELS_CUDA_PTX_CUH

#include <cstdint>

/* Address of a shared-memory object as the 32-bit operand of the instructions below. */
static __device__ __forceinline__ uint32_t ptx_shared_address(const void *pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

/* Waits until all kernels launched before this one are complete and their writes are visible. Every kernel of
 * the backend executes it in every thread before it touches anything that a kernel writes, so completion is
 * transitive: when a kernel is complete, all before it are. PTX ISA, "Parallel Synchronization and
 * Communication Instructions: griddepcontrol". Nothing to wait for on code that is launched without the
 * attribute. */
static __device__ __forceinline__ void ptx_wait_for_previous_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel of the stream start its prologue (PTX ISA, griddepcontrol). */
static __device__ __forceinline__ void ptx_allow_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
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

/* 2^x, relative error 2^-22, 2^-infinity = 0 (PTX ISA, "Floating Point Instructions: ex2"). */
static __device__ __forceinline__ float ptx_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
