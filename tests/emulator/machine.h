/* machine: what emulator.cpp, which alone includes it, keeps of threads, blocks, clusters and the launch. */
#ifndef PRESSRUN_TESTS_EMULATOR_MACHINE_H
#define PRESSRUN_TESTS_EMULATOR_MACHINE_H

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "emulator.h"
#include "stack_context.h"

namespace emulator {

enum : uint32_t {
    LANES = 32,
    MAX_CLUSTER = 16,
    MAX_THREADS = 1024,
    NAMED_BARRIERS = 16,
    MAX_MASKS = 4,      /* different ones in which lanes of a warp meet */
    MAX_UNWRITTEN = 64, /* stores of a thread that are read: a buffer each */
    UNWRITTEN = 0xFF    /* bytes of shared memory in the beginning */
};

/* Shared addresses: static objects lie around an anchor in the middle of a window, dynamic memory behind some
 * bytes that the device keeps for itself, aligned no better than it promises. The upper 8 bits are 0, or 1 +
 * the rank of a block. */
enum : uint32_t {
    STATIC_WINDOW = 0x400000,
    DYNAMIC_WINDOW = 0x800000,
    DYNAMIC_START = 0x480,
    RANK_SHIFT = 24,
    OFFSET_MASK = (1u << RANK_SHIFT) - 1
};
constexpr size_t STACK_BYTES = 256 * 1024, PAGE_BYTES = 4096;

alignas(1024) thread_local char static_anchor;

/* ---- state ---- */

typedef std::vector<std::function<void()>> group;

struct store {
    std::function<std::function<void()>()> read; /* empty once it was called */
    std::function<void()> write;
};

struct fiber : thread {
    enum { READY, WAITING, DONE } state;
    const uint32_t *word; /* WAITING: until this is not `value` */
    uint32_t value;
    const char *why;
    std::deque<group> closed[BACKGROUND_KINDS];
    group open[BACKGROUND_KINDS];
    std::deque<store> stores; /* not written; in front those that are read */
    stack_context context;
    unsigned char *stack;
    void *sanitizer; /* the address sanitizer's stack, or the thread sanitizer's fiber */
};

/* Of every other generation each, so that nobody is ordered behind those who came early to the next. */
struct order_tokens {
    char of[2];
};

struct meeting {
    uint32_t mask, arrived, generation;
    const char *operation;
    void *lanes[LANES];
    order_tokens tokens;
};

struct barrier {
    uint32_t arrived, generation;
    bool any, result;
    order_tokens tokens;
};

/* Two words in shared memory. */
struct counter {
    uint32_t
        state;     /* bit 0: parity of the phase; 1 to 15: arrivals that it waits for; 16 to 31: of a phase */
    int32_t bytes; /* expected less complete */
};

struct warp {
    meeting meetings[MAX_MASKS]; /* one for each mask that came, then such without a mask */
};

struct block {
    index3 index;
    unsigned number, rank, n_alive;
    warp warps[MAX_THREADS / LANES];
    barrier barriers[NAMED_BARRIERS];
};

/* An operating-system thread, which runs one block at a time. */
struct executor {
    bool has_work;                   /* a launch waits for it */
    std::condition_variable changed; /* that, or it has the turn */
    std::unique_ptr<fiber[]> fibers{new fiber[MAX_THREADS]()};
    unsigned char *dynamic; /* [SHARED_BYTES] */
    char *anchor;           /* of its static shared objects */
    unsigned char *statics; /* all of those, [statics_bytes] */
    size_t statics_bytes;
    struct block block;
    stack_context scheduler;
    void *sanitizer; /* as a fiber's */
    const void *host_stack;
    size_t host_stack_bytes;
};

/* Of the copy engine, into the shared memory of a block. */
struct copy {
    unsigned rank;
    std::function<void()> work;
};

struct cluster {
    unsigned n_blocks, n_unfinished, n_alive;
    bool is_over, has_progressed, has_completed; /* has_completed: a phase of a counter */
    barrier meeting;
    std::deque<copy> copies;                  /* in the order of their requests */
    std::deque<std::function<void()>> writes; /* of threads that have ended */
};

/* Touched by whoever has the turn. */
struct machine {
    std::mutex launching; /* one launch after the other */
    std::mutex mutex;
    std::condition_variable changed; /* the launch is over */
    int turn = -1;                   /* rank of the executor that runs; -1: none, the launch is over */
    std::vector<std::unique_ptr<executor>> executors;
    launch_shape shape;
    const std::function<void()> *body;
    struct cluster cluster;

    char begun,
        ended; /* threads are ordered behind what begins them, and before the next cluster and launch */
    bool is_late, is_random;
    std::mt19937 random;

    void read_order() {
        const char *order = getenv("EMULATOR_ORDER");
        is_late = !order || strcmp(order, "late") == 0;
        is_random = !is_late && strcmp(order, "early") != 0;
        random.seed(is_random ? (unsigned)atoi(order) : 0);
    }
    bool chance(unsigned one_in) { return is_random && random() % one_in == 0; }
};

} // namespace emulator

#endif
