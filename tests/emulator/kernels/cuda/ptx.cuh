/* ptx: twin of kernels/cuda/ptx.cuh for the emulator. Same names, same promises, and no more than those. */
#ifndef PRESSRUN_KERNELS_CUDA_PTX_CUH
#define PRESSRUN_KERNELS_CUDA_PTX_CUH

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda.h"
#include "emulator.h"
#include "products.h"

static inline uint32_t ptx_shared_address(const void *pointer) {
    return emulator::shared_address(pointer);
}

/* Aligned to 128 bytes at most. */
#define PTX_DYNAMIC_SHARED(name, alignment)                                                                  \
    static_assert((alignment) <= 128, "what the device promises");                                           \
    unsigned char *const name = emulator::dynamic_shared()

/* Launches are over before the next begins. */
static inline void ptx_wait_for_previous_kernels() {}
static inline void ptx_allow_next_kernel() {}

static inline void ptx_load_once_16(uint32_t (&r)[4], const void *global, bool valid) {
    memset(r, 0, sizeof r);
    if (valid)
        memcpy(r, global, sizeof r);
}

static inline uint32_t ptx_count_round(uint32_t *counter, uint32_t n) {
    uint32_t before = __atomic_load_n(counter, __ATOMIC_ACQUIRE);
    __atomic_store_n(counter, before >= n - 1 ? 0 : before + 1, __ATOMIC_RELEASE);
    return before;
}

static inline void ptx_copy_async_16(uint32_t shared, const void *global, bool valid) {
    unsigned char *to = static_cast<unsigned char *>(emulator::shared_pointer(shared));
    if (reinterpret_cast<uintptr_t>(to) % 16 || (valid && reinterpret_cast<uintptr_t>(global) % 16))
        emulator::fail("cp.async of 16 bytes between %p and %p, which are not aligned", to, global);
    emulator::background_add(emulator::BACKGROUND_COPY, [to, global, valid] {
        if (valid)
            memcpy(to, global, 16);
        else
            memset(to, 0, 16);
    });
}

static inline void ptx_copy_async_commit() {
    emulator::background_commit(emulator::BACKGROUND_COPY);
}

template <int N> static inline void ptx_copy_async_wait() {
    emulator::background_wait(emulator::BACKGROUND_COPY, N);
}

/* ---- matrices of 8 x 8: lane l gives the address of row l % 8 of matrix l / 8 ---- */

struct emulator_matrices {
    const unsigned char *row; /* or, for stores, where it goes */
    uint32_t r[4];
};

/* The row of a matrix that this lane names. */
static inline const unsigned char *emulator_matrix_row(uint32_t shared, bool writes) {
    if (shared % 16)
        emulator::fail("a row of a matrix at shared address %08x is not aligned", shared);
    void *row = emulator::shared_pointer(shared);
    emulator::touch(row, 16, writes);
    return static_cast<const unsigned char *>(row);
}

EMULATOR_UNSEEN static inline uint32_t emulator_half(const unsigned char *row, unsigned column) {
    uint16_t x;
    memcpy(&x, row + 2 * column, sizeof x);
    return x;
}

template <int MATRICES, bool TRANSPOSED>
EMULATOR_UNSEEN static inline void emulator_load_matrices(void *const *lanes) {
    auto at = [&](unsigned lane) EMULATOR_UNSEEN { return static_cast<emulator_matrices *>(lanes[lane]); };
    for (unsigned i = 0; i < MATRICES; i++)
        for (unsigned lane = 0; lane < 32; lane++) {
            unsigned row = lane / 4, column = lane % 4 * 2;
            uint32_t low, high;
            if (TRANSPOSED) {
                low = emulator_half(at(8 * i + column)->row, row);
                high = emulator_half(at(8 * i + column + 1)->row, row);
            } else {
                low = emulator_half(at(8 * i + row)->row, column);
                high = emulator_half(at(8 * i + row)->row, column + 1);
            }
            at(lane)->r[i] = high << 16 | low;
        }
}

/* The registers of this lane, which may take their time (ptx_barrier_arrive). */
static inline void emulator_receive(uint32_t *r, const emulator_matrices &from, int n) {
    memcpy(r, from.r, n * sizeof *r);
    emulator::self->loads = true;
}

static inline void ptx_load_matrix_x4(uint32_t (&r)[4], uint32_t shared) {
    emulator_matrices mine = {emulator_matrix_row(shared, false), {}};
    emulator::warp_meet(0xFFFFFFFFu, "ldmatrix.x4", &mine, emulator_load_matrices<4, false>);
    emulator_receive(r, mine, 4);
}

static inline void ptx_load_matrix_x2(uint32_t &r0, uint32_t &r1, uint32_t shared) {
    emulator_matrices mine = {emulator::self->lane < 16 ? emulator_matrix_row(shared, false) : nullptr, {}};
    emulator::warp_meet(0xFFFFFFFFu, "ldmatrix.x2", &mine, emulator_load_matrices<2, false>);
    uint32_t r[2];
    emulator_receive(r, mine, 2);
    r0 = r[0];
    r1 = r[1];
}

static inline void ptx_load_matrix_x4_transposed(uint32_t (&r)[4], uint32_t shared) {
    emulator_matrices mine = {emulator_matrix_row(shared, false), {}};
    emulator::warp_meet(0xFFFFFFFFu, "ldmatrix.x4.trans", &mine, emulator_load_matrices<4, true>);
    emulator_receive(r, mine, 4);
}

EMULATOR_UNSEEN static inline void emulator_store_matrices_transposed(void *const *lanes) {
    auto at = [&](unsigned lane) EMULATOR_UNSEEN { return static_cast<emulator_matrices *>(lanes[lane]); };
    for (unsigned i = 0; i < 4; i++)
        for (unsigned lane = 0; lane < 32; lane++)
            for (unsigned half = 0; half < 2; half++) {
                uint16_t x = (uint16_t)(at(lane)->r[i] >> 16 * half);
                unsigned char *row = const_cast<unsigned char *>(at(8 * i + lane % 4 * 2 + half)->row);
                memcpy(row + 2 * (lane / 4), &x, sizeof x);
            }
}

static inline void ptx_store_matrix_x4_transposed(uint32_t shared, uint32_t r0, uint32_t r1, uint32_t r2,
                                                  uint32_t r3) {
    emulator_matrices mine = {emulator_matrix_row(shared, true), {r0, r1, r2, r3}};
    emulator::warp_meet(0xFFFFFFFFu, "stmatrix.x4.trans", &mine, emulator_store_matrices_transposed);
}

struct emulator_mma {
    float *c;
    uint32_t a[4], b[2];
};

EMULATOR_UNSEEN static inline void emulator_mma_all(void *const *lanes) {
    float a[16][16], b[8][16]; /* rows by k, columns by k */
    auto at = [&](unsigned lane) EMULATOR_UNSEEN { return static_cast<emulator_mma *>(lanes[lane]); };
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 4; i++)
            emulator_widen(&a[g + i % 2 * 8][2 * t + i / 2 * 8], at(lane)->a[i]);
        for (unsigned i = 0; i < 2; i++)
            emulator_widen(&b[g][2 * t + i * 8], at(lane)->b[i]);
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned i = 0; i < 4; i++)
            at(lane)->c[i] = emulator_product(at(lane)->c[i], a[g + i / 2 * 8], b[2 * t + i % 2]);
    }
}

static inline void ptx_mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulator_mma mine = {c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    emulator::warp_meet(0xFFFFFFFFu, "mma", &mine, emulator_mma_all);
}

/* ---- barriers in shared memory ---- */

static inline void ptx_barrier_init(uint32_t barrier, uint32_t arrivals) {
    emulator::counter_init(emulator::shared_pointer(barrier), arrivals);
}

static inline void ptx_barrier_init_done() {}

static inline void ptx_barrier_expect(uint32_t barrier, uint32_t bytes) {
    emulator::counter_arrive(emulator::shared_pointer(barrier), bytes);
}

/* Overtakes loads, so it has none in front of it. */
static inline void ptx_barrier_arrive(uint32_t barrier) {
    if (emulator::self->loads)
        emulator::fail("an arrival that may overtake matrix loads: ptx_barrier_arrive_behind()");
    emulator::counter_arrive(emulator::shared_pointer(barrier), 0);
}

static inline void ptx_barrier_arrive_behind(uint32_t barrier, uint32_t loaded) {
    emulator::self->loads = false;
    ptx_barrier_arrive(barrier + (loaded & (gridDim.z - 1)));
}

static inline void ptx_barrier_wait(uint32_t barrier, uint32_t parity, const char *name) {
    emulator::counter_wait(emulator::shared_pointer(barrier), parity, name);
}

static inline bool ptx_barrier_is_complete(uint32_t barrier, uint32_t parity) {
    return emulator::counter_is_complete(emulator::shared_pointer(barrier), parity);
}

static inline bool ptx_elect() {
    emulator::warp_meet(0xFFFFFFFFu, "elect", nullptr, [](void *const *) {});
    return threadIdx.x % 32 == 31; /* any lane may be the one */
}

static inline void ptx_keep(uint32_t &) {}

/* ---- the copy engine ---- */

static inline void ptx_copy_bulk(uint32_t shared, const void *global, uint32_t bytes, uint32_t barrier) {
    void *to = emulator::shared_pointer(shared), *counter = emulator::shared_pointer(barrier);
    emulator::shared_pointer(shared + bytes - 1); /* is there, too */
    if (bytes % 16 || shared % 16 || reinterpret_cast<uintptr_t>(global) % 16)
        emulator::fail("a bulk copy of %u bytes from %p to %08x, which are not multiples of 16", bytes,
                       global, shared);
    emulator::engine_add(shared, [=] {
        memcpy(to, global, bytes);
        emulator::counter_complete(counter, bytes);
    });
}

/* Calls element(in shared memory, in memory or NULL outside of it) for each of the box at column x, row y. */
template <typename Element>
static inline void emulator_box(const CUtensorMap &map, int32_t x, int32_t y, unsigned char *to,
                                uint32_t swizzle_base, const Element &element) {
    for (uint32_t row = 0; row < map.box_rows; row++)
        for (uint32_t column = 0; column < map.box_columns; column++) {
            uint32_t at = (row * map.box_columns + column) * map.element_bytes;
            uint32_t address = swizzle_base + at;
            uint32_t swizzled = address ^ (address >> 7 & (map.swizzle_rows - 1)) << 4;
            int64_t c = (int64_t)x + column, r = (int64_t)y + row;
            bool inside = c >= 0 && c < (int64_t)map.columns && r >= 0 && r < (int64_t)map.rows;
            element(to + (swizzled - swizzle_base),
                    inside ? map.data + (uint64_t)r * map.row_bytes + (uint64_t)c * map.element_bytes
                           : nullptr);
        }
}

static inline unsigned char *emulator_box_start(const CUtensorMap &map, uint32_t shared) {
    uint32_t bytes = map.box_rows * map.box_columns * map.element_bytes;
    if (shared % (128 * map.swizzle_rows))
        emulator::fail("a box at shared address %08x is not aligned", shared);
    emulator::shared_pointer(shared + bytes - 1); /* is there, too */
    return static_cast<unsigned char *>(emulator::shared_pointer(shared));
}

static inline void ptx_copy_box(uint32_t shared, const void *map_address, int32_t x, int32_t y,
                                uint32_t barrier) {
    CUtensorMap map = *static_cast<const CUtensorMap *>(map_address);
    unsigned char *to = emulator_box_start(map, shared);
    void *counter = emulator::shared_pointer(barrier);
    emulator::engine_add(shared, [=] {
        emulator_box(map, x, y, to, shared, [&](unsigned char *in_shared, const unsigned char *in_memory) {
            if (in_memory)
                memcpy(in_shared, in_memory, map.element_bytes);
            else
                memset(in_shared, 0, map.element_bytes);
        });
        emulator::counter_complete(counter, map.box_rows * map.box_columns * map.element_bytes);
    });
}

/* Stores a box; write(in memory, value from shared memory) for each element that is inside. */
template <typename Write>
static inline void emulator_store_box(const void *map_address, int32_t x, int32_t y, uint32_t shared,
                                      const Write &write) {
    CUtensorMap map = *static_cast<const CUtensorMap *>(map_address);
    unsigned char *from = emulator_box_start(map, shared);
    emulator::store_add([=] {
        std::vector<unsigned char> values;
        emulator_box(map, x, y, from, shared, [&](unsigned char *in_shared, unsigned char *in_memory) {
            if (in_memory)
                values.insert(values.end(), in_shared, in_shared + map.element_bytes);
            else /* is not stored, so what it is does not matter */
                values.insert(values.end(), map.element_bytes, 0);
        });
        return [=] {
            const unsigned char *value = values.data();
            emulator_box(map, x, y, from, shared, [&](unsigned char *, unsigned char *in_memory) {
                if (in_memory)
                    write(in_memory, value);
                value += map.element_bytes;
            });
        };
    });
}

static inline void ptx_store_box(const void *map_address, int32_t x, int32_t y, uint32_t shared) {
    uint32_t bytes = static_cast<const CUtensorMap *>(map_address)->element_bytes;
    emulator_store_box(map_address, x, y, shared, [=](unsigned char *in_memory, const unsigned char *value) {
        memcpy(in_memory, value, bytes);
    });
}

/* Sums that the memory computes know no subnormals. */
static inline float emulator_flushed(float x) {
    return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x; /* NaN stays */
}

static inline float ptx_sum_in_memory(float x, float y) {
    return emulator_flushed(emulator_flushed(x) + emulator_flushed(y));
}

static inline void ptx_add_box(const void *map_address, int32_t x, int32_t y, uint32_t shared) {
    emulator_store_box(map_address, x, y, shared, [](unsigned char *in_memory, const unsigned char *value) {
        float sum, more;
        memcpy(&sum, in_memory, sizeof sum);
        memcpy(&more, value, sizeof more);
        sum = ptx_sum_in_memory(sum, more);
        memcpy(in_memory, &sum, sizeof sum);
    });
}

/* There is no cache; but a box that is not one of those that tile the tensor was not meant. */
static inline void ptx_prefetch_box(const void *map_address, int32_t x, int32_t y) {
    const CUtensorMap &map = *static_cast<const CUtensorMap *>(map_address);
    if (x < 0 || y < 0 || x % (int32_t)map.box_columns || y % (int32_t)map.box_rows)
        emulator::fail("a box is fetched from column %d, row %d: no place for one", x, y);
}

static inline void ptx_add(float *p, float x) {
    *p = ptx_sum_in_memory(*p, x);
}

static inline unsigned long long ptx_load_relaxed(const unsigned long long *p) {
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void ptx_store_shared(uint32_t shared, float x) {
    memcpy(emulator::shared_pointer(shared), &x, sizeof x);
}

static inline float ptx_load_shared(uint32_t shared) {
    float x;
    memcpy(&x, emulator::shared_pointer(shared), sizeof x);
    return x;
}

static inline void ptx_load_shared_16(float (&x)[4], uint32_t shared) {
    if (shared % 16)
        emulator::fail("16 bytes at shared address %08x are not aligned", shared);
    memcpy(x, emulator::shared_pointer(shared), sizeof x);
}

template <int N> static inline void ptx_store_wait_read() {
    emulator::store_wait_read(N);
}

static inline void ptx_store_wait_all() {
    emulator::store_wait_all();
}

static inline void ptx_fence_for_copies() {}

/* ---- clusters ---- */

static inline void ptx_cluster_barrier() {
    emulator::cluster_barrier(true);
}

static inline void ptx_cluster_meet() {
    emulator::cluster_barrier(false);
}

static inline uint32_t ptx_cluster_address(uint32_t shared, uint32_t rank) {
    return emulator::cluster_address(shared, rank);
}

template <typename T> static inline void ptx_cluster_store(uint32_t address, T x) {
    memcpy(emulator::shared_pointer(address), &x, sizeof x);
}

static inline void ptx_cluster_store_counted(uint32_t address, uint4 x, uint32_t barrier) {
    if (address % 16 || address >> 24 != barrier >> 24)
        emulator::fail("st.async to %08x, counted at %08x: not aligned, or of two blocks", address, barrier);
    void *to = emulator::shared_pointer(address), *counter = emulator::shared_pointer(barrier);
    emulator::engine_add(address, [=] {
        memcpy(to, &x, sizeof x);
        emulator::counter_complete(counter, sizeof x);
    });
}

static inline uint64_t ptx_cluster_load_64(uint32_t address) {
    uint64_t x;
    memcpy(&x, emulator::shared_pointer(address), sizeof x);
    return x;
}

/* ---- the rest ---- */

template <int N> static inline void ptx_registers_raise() {}
template <int N> static inline void ptx_registers_lower() {}

static inline void ptx_named_barrier(uint32_t number, uint32_t threads) {
    emulator::block_barrier(number, threads, false);
}

static inline bool ptx_named_barrier_or(uint32_t number, uint32_t threads, bool mine) {
    return emulator::block_barrier(number, threads, mine);
}

static inline float ptx_exp2(float x) {
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y; /* NaN stays */
}

#endif
