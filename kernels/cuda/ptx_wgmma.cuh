/* ptx_wgmma: the instructions of Hopper's warpgroup matrix multiply, one wrapper each, citing its section of
 * the PTX ISA manual as ptx.cuh does. Operands are described by wgmma.cuh, and so is who holds what of c. */
#ifndef PRESSRUN_KERNELS_CUDA_PTX_WGMMA_CUH
#define PRESSRUN_KERNELS_CUDA_PTX_WGMMA_CUH

#include <cstdint>

/* Orders the warpgroup's register writes before the products that follow (PTX ISA, wgmma.fence). */
static __device__ __forceinline__ void wgmma_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Closes the group of products begun (PTX ISA, wgmma.commit_group). */
static __device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N groups are not complete (PTX ISA, wgmma.wait_group). */
template <int N> static __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

#define WGMMA_4(c, i) "+f"((c)[i]), "+f"((c)[i + 1]), "+f"((c)[i + 2]), "+f"((c)[i + 3])

/* c += a . b, or c = a . b when !ACCUMULATE (c need not be set then); a, b from wgmma_operand(). */
template <int N, bool ACCUMULATE = true>
static __device__ __forceinline__ void wgmma(float (&c)[N / 2], uint64_t a, uint64_t b) {
    static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128 || N == 256,
                  "a width that has its instruction here");
    if constexpr (N == 8)
        asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3}, "
                     "%4, %5, %6, 1, 1, 0, 0;"
                     : WGMMA_4(c, 0)
                     : "l"(a), "l"(b), "n"(ACCUMULATE ? 1 : 0));
    if constexpr (N == 16)
        asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7}, "
                     "%8, %9, %10, 1, 1, 0, 0;"
                     : WGMMA_4(c, 0), WGMMA_4(c, 4)
                     : "l"(a), "l"(b), "n"(ACCUMULATE ? 1 : 0));
    if constexpr (N == 32)
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                     "%16, %17, %18, 1, 1, 0, 0;"
                     : WGMMA_4(c, 0), WGMMA_4(c, 4), WGMMA_4(c, 8), WGMMA_4(c, 12)
                     : "l"(a), "l"(b), "n"(ACCUMULATE ? 1 : 0));
    if constexpr (N == 64)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                     "%32, %33, %34, 1, 1, 0, 0;"
                     : WGMMA_4(c, 0), WGMMA_4(c, 4), WGMMA_4(c, 8), WGMMA_4(c, 12), WGMMA_4(c, 16),
                       WGMMA_4(c, 20), WGMMA_4(c, 24), WGMMA_4(c, 28)
                     : "l"(a), "l"(b), "n"(ACCUMULATE ? 1 : 0));
    if constexpr (N == 128)
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                     "%64, %65, %66, 1, 1, 0, 0;"
                     : WGMMA_4(c, 0), WGMMA_4(c, 4), WGMMA_4(c, 8), WGMMA_4(c, 12), WGMMA_4(c, 16),
                       WGMMA_4(c, 20), WGMMA_4(c, 24), WGMMA_4(c, 28), WGMMA_4(c, 32), WGMMA_4(c, 36),
                       WGMMA_4(c, 40), WGMMA_4(c, 44), WGMMA_4(c, 48), WGMMA_4(c, 52), WGMMA_4(c, 56),
                       WGMMA_4(c, 60)
                     : "l"(a), "l"(b), "n"(ACCUMULATE ? 1 : 0));
    if constexpr (N == 256)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
            " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
            " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
            " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
            " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
            "%127}, "
            "%128, %129, %130, 1, 1, 0, 0;"
            : WGMMA_4(c, 0), WGMMA_4(c, 4), WGMMA_4(c, 8), WGMMA_4(c, 12), WGMMA_4(c, 16), WGMMA_4(c, 20),
              WGMMA_4(c, 24), WGMMA_4(c, 28), WGMMA_4(c, 32), WGMMA_4(c, 36), WGMMA_4(c, 40), WGMMA_4(c, 44),
              WGMMA_4(c, 48), WGMMA_4(c, 52), WGMMA_4(c, 56), WGMMA_4(c, 60), WGMMA_4(c, 64), WGMMA_4(c, 68),
              WGMMA_4(c, 72), WGMMA_4(c, 76), WGMMA_4(c, 80), WGMMA_4(c, 84), WGMMA_4(c, 88), WGMMA_4(c, 92),
              WGMMA_4(c, 96), WGMMA_4(c, 100), WGMMA_4(c, 104), WGMMA_4(c, 108), WGMMA_4(c, 112),
              WGMMA_4(c, 116), WGMMA_4(c, 120), WGMMA_4(c, 124)
            : "l"(a), "l"(b), "n"(ACCUMULATE ? 1 : 0));
}

/* c += a . b with a from registers: thread t of the warpgroup holds of row 16 (t / 32) + t % 32 / 4 the
 * columns 2 (t % 4) (+ 1) in a[0] and 8 further in a[2], and the same of the row 8 below in a[1] and a[3], so
 * packed accumulators of 16 columns are such an operand. b from wgmma_operand_transposed(). */
template <int N>
static __device__ __forceinline__ void wgmma_registers(float (&c)[N / 2], const uint32_t (&a)[4],
                                                       uint64_t b) {
    static_assert(N == 64 || N == 128 || N == 256, "a width that has its instruction here");
    if constexpr (N == 64)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                     "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                     : WGMMA_4(c, 0), WGMMA_4(c, 4), WGMMA_4(c, 8), WGMMA_4(c, 12), WGMMA_4(c, 16),
                       WGMMA_4(c, 20), WGMMA_4(c, 24), WGMMA_4(c, 28)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    if constexpr (N == 128)
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                     "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                     : WGMMA_4(c, 0), WGMMA_4(c, 4), WGMMA_4(c, 8), WGMMA_4(c, 12), WGMMA_4(c, 16),
                       WGMMA_4(c, 20), WGMMA_4(c, 24), WGMMA_4(c, 28), WGMMA_4(c, 32), WGMMA_4(c, 36),
                       WGMMA_4(c, 40), WGMMA_4(c, 44), WGMMA_4(c, 48), WGMMA_4(c, 52), WGMMA_4(c, 56),
                       WGMMA_4(c, 60)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    if constexpr (N == 256)
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
            " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
            " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
            " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
            " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
            "%127}, "
            "{%128, %129, %130, %131}, %132, 1, 1, 1, 1;"
            : WGMMA_4(c, 0), WGMMA_4(c, 4), WGMMA_4(c, 8), WGMMA_4(c, 12), WGMMA_4(c, 16), WGMMA_4(c, 20),
              WGMMA_4(c, 24), WGMMA_4(c, 28), WGMMA_4(c, 32), WGMMA_4(c, 36), WGMMA_4(c, 40), WGMMA_4(c, 44),
              WGMMA_4(c, 48), WGMMA_4(c, 52), WGMMA_4(c, 56), WGMMA_4(c, 60), WGMMA_4(c, 64), WGMMA_4(c, 68),
              WGMMA_4(c, 72), WGMMA_4(c, 76), WGMMA_4(c, 80), WGMMA_4(c, 84), WGMMA_4(c, 88), WGMMA_4(c, 92),
              WGMMA_4(c, 96), WGMMA_4(c, 100), WGMMA_4(c, 104), WGMMA_4(c, 108), WGMMA_4(c, 112),
              WGMMA_4(c, 116), WGMMA_4(c, 120), WGMMA_4(c, 124)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#endif
