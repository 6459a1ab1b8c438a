/* emulator: runs the kernels of kernels/cuda on the CPU, for tests where there is no GPU. See README.md.
 *
 * A thread of a block is a fiber; the fibers of a block share an operating-system thread of their own, so
 * that __shared__ objects can be thread_local. Blocks of a cluster take turns, clusters follow each other:
 * one fiber runs at any time, until it has to wait. Who is next, and when background copies arrive, is a
 * matter of EMULATOR_ORDER. */
#ifndef PRESSRUN_TESTS_EMULATOR_H
#define PRESSRUN_TESTS_EMULATOR_H

#include <cstddef>
#include <cstdint>
#include <functional>

namespace emulator {

struct block;
struct warp;

struct index3 {
    unsigned x, y, z;
};

/* A thread of a block. */
struct thread {
    index3 index;
    struct block *block;
    struct warp *warp;
    unsigned lane;
    bool loads; /* of matrices, since it last arrived behind them, may be on their way */
};

extern thread_local thread *self; /* the one that runs */

index3 thread_index();
index3 block_index();
index3 block_size();
index3 grid_size();

/* Ends the program: the kernel, or the test, is wrong. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- what the thread sanitizer sees ---- */

/* On what computes for several threads with the memory of all of them: it is not looked at there. */
#define EMULATOR_UNSEEN __attribute__((no_sanitize("thread")))

/* This thread reads, or writes, shared memory in a way that is unseen. */
void touch(const void *p, size_t bytes, bool writes);

/* ---- meeting ---- */

/* All lanes of `mask` meet; the last to come calls compute with what each lane gave ([32]; lanes beside the
 * mask are undefined), then all go on. Without compute what each wrote before is seen by all behind. Lanes of
 * one mask must meet in the same operation. */
void warp_meet(uint32_t mask, const char *operation, void *mine, void (*compute)(void *const *lanes));

/* Among `threads` threads of the block, by number (0: all that have not ended). Returns whether `mine` was
 * true in any of them. */
bool block_barrier(unsigned number, unsigned threads, bool mine);

/* Of all threads of the cluster that have not ended. orders: what each wrote before is seen by all behind. */
void cluster_barrier(bool orders);

/* ---- shared memory, and its addresses of 32 bits ---- */

enum : uint32_t { SHARED_BYTES = 232448 }; /* dynamic shared memory that a block may have */

unsigned char *dynamic_shared();
uint32_t shared_address(const void *pointer);
/* Of this block, or of another when the address is from cluster_address(). */
void *shared_pointer(uint32_t address);
/* What the 18 address bits of a matrix descriptor stand for. */
unsigned char *operand_pointer(uint32_t address);
uint32_t cluster_address(uint32_t address, uint32_t rank);

/* ---- barriers in shared memory that count arrivals and bytes: eight bytes each ---- */

void counter_init(void *counter, uint32_t arrivals);
/* An arrival, before which `bytes` more are expected. */
void counter_arrive(void *counter, uint32_t bytes);
void counter_complete(void *counter, uint32_t bytes);
void counter_wait(void *counter, uint32_t parity, const char *name);
/* Without waiting. */
bool counter_is_complete(void *counter, uint32_t parity);

/* ---- what runs in the background ---- */

/* Work that is complete when its thread has waited for it; each kind in groups, in order. */
enum background { BACKGROUND_COPY, BACKGROUND_PRODUCT, BACKGROUND_KINDS };

void background_add(background kind, std::function<void()> work);
void background_commit(background kind);
/* Returns when at most `open` of this thread's groups are not complete. */
void background_wait(background kind, size_t open);

/* A store of the copy engine: read() looks at its source, and returns what writes it. A thread's stores are
 * in order. It may end when all are read; what is not written then is written at the end of its cluster. */
void store_add(std::function<std::function<void()>()> read);
/* Returns when at most `open` of this thread's stores are not read, and have perhaps not written. */
void store_wait_read(size_t open);
/* Returns when all of them have written. */
void store_wait_all();

/* Work of the copy engine that writes at a shared address, and completes bytes of a counter there. */
void engine_add(uint32_t address, std::function<void()> work);

/* ---- launches ---- */

struct launch_shape {
    index3 grid;
    unsigned threads, cluster;
    size_t shared_bytes;
};

/* Runs body() in every thread of every block, and returns when all have ended. */
void launch(const launch_shape &shape, const std::function<void()> &body);

} // namespace emulator

#endif
