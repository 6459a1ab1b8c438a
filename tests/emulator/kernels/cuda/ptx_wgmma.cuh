/* ptx_wgmma: twin of kernels/cuda/ptx_wgmma.cuh for the emulator. Descriptors are taken apart again, so that
 * wgmma.cuh is tested, too. A thread computes its own elements of c, when it waits for them or at once. */
#ifndef PRESSRUN_KERNELS_CUDA_PTX_WGMMA_CUH
#define PRESSRUN_KERNELS_CUDA_PTX_WGMMA_CUH

#include <cstdint>
#include <cstring>

#include "emulator.h"
#include "products.h"

/* Lanes come together at each of these instructions (.sync), which orders nothing that they wrote. */
static inline void emulator_converge(const char *instruction) {
    emulator::warp_meet(0xFFFFFFFFu, instruction, nullptr, [](void *const *) {});
}

static inline void wgmma_begin() {
    emulator_converge("wgmma.fence");
}

static inline void wgmma_commit() {
    emulator_converge("wgmma.commit_group");
    emulator::background_commit(emulator::BACKGROUND_PRODUCT);
}

/* When one lane goes on, the products of all lanes are complete. */
template <int N> static inline void wgmma_wait() {
    emulator::background_wait(emulator::BACKGROUND_PRODUCT, N);
    emulator::warp_meet(0xFFFFFFFFu, "wgmma.wait_group", nullptr, nullptr);
}

/* An operand in shared memory, swizzled over 128 bytes. */
struct emulator_operand {
    uint32_t start, stride, next_columns; /* bytes */

    explicit emulator_operand(uint64_t descriptor) {
        start = (uint32_t)(descriptor & 0x3FFF) << 4;
        next_columns = (uint32_t)(descriptor >> 16 & 0x3FFF) << 4;
        stride = (uint32_t)(descriptor >> 32 & 0x3FFF) << 4;
        if (descriptor >> 62 != 1)
            emulator::fail("a matrix descriptor without the swizzle of 128 bytes: %016llx",
                           (unsigned long long)descriptor);
    }
    /* Elements k = 0..15 of row i of a matrix whose rows lie along k. base: where address 0 would be. */
    void row(float (&to)[16], const unsigned char *base, uint32_t i) const {
        for (uint32_t chunk = 0; chunk < 2; chunk++) {
            uint32_t at = start + i / 8 * stride + i % 8 * 128 + chunk * 16;
            uint32_t words[4];
            memcpy(words, base + (at ^ (at >> 7 & 7) << 4), sizeof words);
            for (int w = 0; w < 4; w++)
                emulator_widen(to + chunk * 8 + w * 2, words[w]);
        }
    }
    /* Elements k = 0..15 of column i of a matrix whose rows of 64 columns lie along k. */
    void column(float (&to)[16], const unsigned char *base, uint32_t i) const {
        for (uint32_t k = 0; k < 16; k++) {
            uint32_t at = start + i / 64 * next_columns + k / 8 * stride + k % 8 * 128 + i % 64 * 2;
            uint16_t half;
            memcpy(&half, base + (at ^ (at >> 7 & 7) << 4), sizeof half);
            uint32_t wide = (uint32_t)half << 16;
            memcpy(to + k, &wide, sizeof wide);
        }
    }
};

/* Shared memory's address 0, seen from this block's dynamic memory. */
static inline const unsigned char *emulator_operand_base(uint64_t descriptor) {
    uint32_t start = (uint32_t)(descriptor & 0x3FFF) << 4;
    return emulator::operand_pointer(start) - start;
}

/* The operand a in registers: what a thread gives, and the two rows that it needs. */
struct emulator_registers {
    uint32_t r[4];
    float rows[2][16];
};

EMULATOR_UNSEEN static inline void emulator_share_rows(void *const *lanes) {
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned t = 0; t < 4; t++) {
            emulator_registers *to = static_cast<emulator_registers *>(lanes[lane]);
            const emulator_registers *from = static_cast<emulator_registers *>(lanes[lane / 4 * 4 + t]);
            for (unsigned i = 0; i < 4; i++)
                emulator_widen(&to->rows[i % 2][2 * t + i / 2 * 8], from->r[i]);
        }
}

/* This thread's elements of c: of each eight columns two neighbours in two rows. column(to, i): of b. */
template <int N, typename Column>
static inline void emulator_products(float *c, bool accumulate, const float (&a)[2][16],
                                     const Column &column) {
    unsigned first = threadIdx.x % 4 * 2;
    for (unsigned j = 0; j < N / 8; j++)
        for (unsigned i = 0; i < 2; i++) {
            float b[16];
            column(b, 8 * j + first + i);
            for (unsigned half = 0; half < 2; half++) {
                float *sum = &c[4 * j + 2 * half + i];
                *sum = emulator_product(accumulate ? *sum : 0.0f, a[half], b);
            }
        }
}

template <int N, bool ACCUMULATE = true>
static inline void wgmma(float (&c)[N / 2], uint64_t a_descriptor, uint64_t b_descriptor) {
    emulator_converge("wgmma");
    const unsigned char *base = emulator_operand_base(a_descriptor);
    emulator_operand_base(b_descriptor); /* is there, too */
    float *sums = c;
    emulator::background_add(emulator::BACKGROUND_PRODUCT, [=] {
        emulator_operand a_operand(a_descriptor), b_operand(b_descriptor);
        unsigned thread = threadIdx.x % 128, row = thread / 32 * 16 + thread % 32 / 4;
        float a[2][16];
        a_operand.row(a[0], base, row);
        a_operand.row(a[1], base, row + 8);
        emulator_products<N>(sums, ACCUMULATE, a,
                             [&](float(&to)[16], unsigned i) { b_operand.row(to, base, i); });
    });
}

template <int N>
static inline void wgmma_registers(float (&c)[N / 2], const uint32_t (&a)[4], uint64_t b_descriptor) {
    const unsigned char *base = emulator_operand_base(b_descriptor);
    float *sums = c;
    /* A thread has four columns of k of its two rows; the others of its quad have the rest. */
    emulator_registers all = {{a[0], a[1], a[2], a[3]}, {}};
    emulator::warp_meet(0xFFFFFFFFu, "wgmma", &all, emulator_share_rows);
    emulator::background_add(emulator::BACKGROUND_PRODUCT, [=] {
        emulator_operand b_operand(b_descriptor);
        emulator_products<N>(sums, true, all.rows,
                             [&](float(&to)[16], unsigned i) { b_operand.column(to, base, i); });
    });
}

#endif
