/* Fibers, blocks and clusters; see emulator.h. */
#include "emulator.h"
#include "machine.h"
#include "thread_sanitizer.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <link.h>
#include <mutex>
#include <sys/mman.h>
#include <thread>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

namespace {

machine &m = *new machine; /* lives until the end, as its threads do */
thread_local executor *here;

fiber *me() {
    return static_cast<fiber *>(self);
}

/* ---- fibers ---- */

void to_scheduler([[maybe_unused]] bool for_good) {
    fiber *f = me();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &f->sanitizer, here->host_stack,
                                   here->host_stack_bytes);
#elif defined(EMULATOR_FINDS_RACES)
    __tsan_switch_to_fiber(here->sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
    f->context.go(here->scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->sanitizer, &here->host_stack, &here->host_stack_bytes);
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &here->host_stack, &here->host_stack_bytes);
#endif
    order_acquire(&m.begun);
    (*m.body)();
    fiber *f = me();
    if (!f->stores.empty() && f->stores.back().read)
        fail("thread %u of block %u ends while the copy engine may still read what it stores", f->index.x,
             f->block->number);
    if (!f->stores.empty()) {
        order_release(&m.cluster.writes);
        unseen u;
        for (store &s : f->stores)
            m.cluster.writes.push_back(std::move(s.write));
        f->stores.clear();
    }
    order_release(&m.ended);
    f->state = fiber::DONE;
    to_scheduler(true);
}

void run_fiber(fiber *f) {
    self = f;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&here->sanitizer, f->stack, STACK_BYTES);
#elif defined(EMULATOR_FINDS_RACES)
    __tsan_switch_to_fiber(f->sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
    here->scheduler.go(f->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(here->sanitizer, nullptr, nullptr);
#endif
    self = nullptr;
}

void wait_while_equal(const uint32_t *word, uint32_t value, const char *why) {
    fiber *f = me();
    while (*const_cast<const volatile uint32_t *>(word) == value) {
        f->state = fiber::WAITING;
        f->word = word;
        f->value = value;
        f->why = why;
        to_scheduler(false);
    }
}

/* ---- blocks ---- */

void barrier_complete(barrier *b) {
    b->arrived = 0;
    b->result = b->any;
    b->any = false;
    b->generation++;
}

/* The thread_local objects of the program in this thread: those of the kernels, and two of the emulator's. */
void find_static_shared() {
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *) {
            for (int i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_TLS) {
                    here->statics = static_cast<unsigned char *>(info->dlpi_tls_data);
                    here->statics_bytes = info->dlpi_phdr[i].p_memsz;
                }
            return 1; /* the program is the first of the list */
        },
        nullptr);
}

/* Fills them with junk, but for those two. */
void forget_static_shared() {
    unsigned char *kept[2] = {reinterpret_cast<unsigned char *>(&here),
                              reinterpret_cast<unsigned char *>(&self)};
    static_assert(sizeof here == sizeof(void *) && sizeof self == sizeof(void *), "pointers");
    if (kept[0] > kept[1])
        std::swap(kept[0], kept[1]);
    unsigned char *from = here->statics, *end = from + here->statics_bytes;
    for (unsigned char *keep : kept) {
        memset(from, UNWRITTEN, (size_t)(keep - from));
        from = keep + sizeof(void *);
    }
    memset(from, UNWRITTEN, (size_t)(end - from));
}

void begin_block(unsigned number, unsigned rank) {
    struct block *block = &here->block;
    index3 grid = m.shape.grid;
    block->index = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    block->number = number;
    block->rank = rank;
    block->n_alive = m.shape.threads;
    memset(block->barriers, 0, sizeof block->barriers);
    order_acquire(&m.ended);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(here->dynamic, m.shape.shared_bytes);
    __asan_poison_memory_region(here->dynamic + m.shape.shared_bytes, SHARED_BYTES - m.shape.shared_bytes);
#endif
    memset(here->dynamic, UNWRITTEN, m.shape.shared_bytes);
    forget_static_shared();
    order_release(&m.begun);
    for (unsigned i = 0; i < m.shape.threads; i++) {
        fiber *f = &here->fibers[i];
        f->index = {i, 0, 0};
        f->block = block;
        f->warp = &block->warps[i / LANES];
        f->lane = i % LANES;
        f->loads = false;
        if (f->lane == 0)
            memset(f->warp->meetings, 0, sizeof f->warp->meetings);
        f->state = fiber::READY;
        for (int kind = 0; kind < BACKGROUND_KINDS; kind++) {
            f->closed[kind].clear();
            f->open[kind].clear();
        }
        f->stores.clear();
        if (!f->stack) {
            void *memory = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (memory == MAP_FAILED)
                fail("no memory for the stacks of a block");
            mprotect(memory, PAGE_BYTES, PROT_NONE); /* an overflow ends the program */
            f->stack = static_cast<unsigned char *>(memory);
#if defined(EMULATOR_FINDS_RACES)
            f->sanitizer = __tsan_create_fiber(0);
#endif
        }
        f->context.begin(f->stack, STACK_BYTES, fiber_main);
    }
}

/* Barriers of the whole block and of the cluster do not wait for threads that have ended. */
void thread_ended() {
    struct block *block = &here->block;
    block->n_alive--;
    m.cluster.n_alive--;
    barrier *all = &block->barriers[0], *meeting = &m.cluster.meeting;
    if (all->arrived > 0 && all->arrived >= block->n_alive)
        barrier_complete(all);
    if (meeting->arrived > 0 && meeting->arrived >= m.cluster.n_alive)
        barrier_complete(meeting);
    if (block->n_alive > 0)
        return;
    m.cluster.n_unfinished--;
    for (const copy &c : m.cluster.copies)
        if (c.rank == block->rank)
            fail("block %u has ended while copies into its shared memory are on their way", block->number);
}

void run_copy(size_t at) {
    std::deque<copy> &copies = m.cluster.copies;
    std::function<void()> work;
    {
        unseen u;
        work = std::move(copies[at].work);
        copies.erase(copies.begin() + (ptrdiff_t)at);
    }
    order_acquire(&copies);
    work();
    unseen u;
    work = nullptr;
}

/* Until no thread of the block can go on. */
void run_block() {
    unsigned n = m.shape.threads;
    for (bool ran = true; ran && here->block.n_alive > 0;) {
        ran = false;
        unsigned first = m.is_random ? (unsigned)m.random() % n : 0;
        for (unsigned i = 0; i < n; i++) {
            fiber *f = &here->fibers[(first + i) % n];
            if (f->state == fiber::DONE || (f->state == fiber::WAITING && *f->word == f->value))
                continue;
            ran = m.cluster.has_progressed = true;
            if (!m.cluster.copies.empty() && m.chance(16))
                run_copy(m.random() % m.cluster.copies.size());
            if (m.chance(4))
                continue; /* others first */
            f->state = fiber::READY;
            run_fiber(f);
            if (f->state == fiber::DONE)
                thread_ended();
        }
    }
}

void fail_deadlock() {
    for (unsigned rank = 0; rank < m.cluster.n_blocks; rank++) {
        executor *e = m.executors[rank].get();
        const char *last = nullptr;
        for (unsigned i = 0; i < m.shape.threads; i++) {
            const char *why = e->fibers[i].state == fiber::DONE ? "(ended)" : e->fibers[i].why;
            if (!last || strcmp(why, last) != 0)
                fprintf(stderr, "emulator: block %u, from thread %u on: waits at %s\n", e->block.number, i,
                        why);
            last = why;
        }
    }
    fail("deadlock: no thread can go on");
}

void run_writes() {
    order_acquire(&m.cluster.writes);
    for (const std::function<void()> &write : m.cluster.writes)
        write();
    order_release(&m.ended);
    unseen u;
    m.cluster.writes.clear();
}

/* The last block of a cluster has had its turn. */
void end_round() {
    if (m.cluster.n_unfinished == 0) {
        run_writes();
        m.cluster.is_over = true;
    } else if (!m.cluster.has_progressed && m.cluster.copies.empty()) {
        fail_deadlock();
    } else if (!m.cluster.has_progressed) {
        do { /* only the end of a phase lets anyone go on */
            m.cluster.has_completed = false;
            run_copy(0);
        } while (!m.cluster.has_completed && !m.cluster.copies.empty());
    }
    m.cluster.has_progressed = false;
}

void begin_cluster(unsigned n_blocks) {
    m.cluster.n_blocks = m.cluster.n_unfinished = n_blocks;
    m.cluster.n_alive = n_blocks * m.shape.threads;
    m.cluster.is_over = m.cluster.has_progressed = false;
    m.cluster.meeting = {};
    m.cluster.copies.clear();
}

/* This executor's blocks of a launch. Every statement between two calls of `pass` is one turn. */
void run_launch(std::unique_lock<std::mutex> &lock, unsigned rank) {
    unsigned n_blocks = m.shape.grid.x * m.shape.grid.y * m.shape.grid.z, n = m.shape.cluster;
    auto wait_for_turn = [&] { here->changed.wait(lock, [&] { return m.turn == (int)rank; }); };
    auto pass = [&](int to) {
        m.turn = to;
        if (to < 0)
            m.changed.notify_all();
        else if (to != (int)rank)
            m.executors[(size_t)to]->changed.notify_one();
    };
    int next = (int)((rank + 1) % n);
    for (unsigned first = 0; first < n_blocks; first += n) {
        wait_for_turn();
        if (rank == 0)
            begin_cluster(n);
        begin_block(first + rank, rank);
        pass(next);
        while (true) {
            wait_for_turn();
            if (m.cluster.is_over)
                break;
            run_block();
            if (rank == n - 1)
                end_round();
            pass(next);
        }
        bool is_last = first + n >= n_blocks && rank == n - 1;
        pass(is_last ? -1 : next);
    }
}

void executor_main(unsigned rank) {
    std::unique_lock<std::mutex> lock(m.mutex);
    here = m.executors[rank].get();
    here->anchor = &static_anchor;
    find_static_shared();
#if defined(EMULATOR_FINDS_RACES)
    here->sanitizer = __tsan_get_current_fiber();
#endif
    void *memory = nullptr;
    if (posix_memalign(&memory, PAGE_BYTES, DYNAMIC_START + SHARED_BYTES) != 0)
        fail("no memory for the shared memory of a block");
    here->dynamic = static_cast<unsigned char *>(memory) + DYNAMIC_START;
    while (true) {
        here->changed.wait(lock, [] { return here->has_work; });
        here->has_work = false;
        run_launch(lock, rank);
    }
}

} // namespace

thread_local thread *self;

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "emulator: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

void launch(const launch_shape &shape, const std::function<void()> &body) {
    if (shape.threads == 0 || shape.threads > MAX_THREADS || shape.cluster == 0 ||
        shape.cluster > MAX_CLUSTER || shape.shared_bytes > SHARED_BYTES || shape.grid.x % shape.cluster != 0)
        fail("a launch of %u x %u x %u blocks of %u threads and %zu bytes, in clusters of %u", shape.grid.x,
             shape.grid.y, shape.grid.z, shape.threads, shape.shared_bytes, shape.cluster);
    if ((size_t)shape.grid.x * shape.grid.y * shape.grid.z == 0)
        fail("a launch of no blocks");
    std::lock_guard<std::mutex> one(m.launching);
    std::unique_lock<std::mutex> lock(m.mutex);
    m.shape = shape;
    m.body = &body;
    if (m.executors.empty())
        m.read_order();
    while (m.executors.size() < shape.cluster) {
        m.executors.emplace_back(new executor());
        std::thread(executor_main, (unsigned)m.executors.size() - 1).detach();
    }
    m.turn = 0;
    order_release(&m.begun);
    for (unsigned rank = 0; rank < shape.cluster; rank++) {
        m.executors[rank]->has_work = true;
        m.executors[rank]->changed.notify_one();
    }
    m.changed.wait(lock, [] { return m.turn == -1; });
    order_acquire(&m.ended);
}

index3 thread_index() {
    return self->index;
}

index3 block_index() {
    return self->block->index;
}

index3 block_size() {
    return {m.shape.threads, 1, 1};
}

index3 grid_size() {
    return m.shape.grid;
}

void touch([[maybe_unused]] const void *p, [[maybe_unused]] size_t bytes, [[maybe_unused]] bool writes) {
#if defined(EMULATOR_FINDS_RACES)
    if (writes)
        __tsan_write_range(const_cast<void *>(p), bytes);
    else
        __tsan_read_range(const_cast<void *>(p), bytes);
#endif
}

/* ---- meeting ---- */

void warp_meet(uint32_t mask, const char *operation, void *mine, void (*compute)(void *const *lanes)) {
    meeting *at = self->warp->meetings;
    while (at->mask && at->mask != mask)
        if (++at == self->warp->meetings + MAX_MASKS)
            fail("%s: lanes of a warp meet in more than %u masks", operation, (unsigned)MAX_MASKS);
    at->mask = mask;
    if (!(mask >> self->lane & 1))
        fail("%s: lane %u is not in its own mask %08x", operation, self->lane, mask);
    if (at->arrived && at->operation != operation && strcmp(at->operation, operation) != 0)
        fail("lanes of a warp meet in different operations: %s, and %s in thread %u of block %u",
             at->operation, operation, self->index.x, self->block->number);
    at->operation = operation;
    at->lanes[self->lane] = mine;
    at->arrived |= 1u << self->lane;
    char *token = &at->tokens.of[at->generation % 2];
    if (!compute)
        order_release(token);
    if (at->arrived != mask) {
        wait_while_equal(&at->generation, at->generation, operation);
    } else {
        if (compute)
            compute(at->lanes);
        at->arrived = 0;
        at->generation++;
    }
    if (!compute)
        order_acquire(token);
}

bool block_barrier(unsigned number, unsigned threads, bool mine) {
    if (number >= NAMED_BARRIERS)
        fail("a block has no barrier %u", number);
    barrier *b = &self->block->barriers[number];
    b->any |= mine;
    char *token = &b->tokens.of[b->generation % 2];
    order_release(token);
    if (++b->arrived >= (threads ? threads : self->block->n_alive))
        barrier_complete(b);
    else
        wait_while_equal(&b->generation, b->generation, number ? "a named barrier" : "__syncthreads");
    order_acquire(token);
    return b->result;
}

void cluster_barrier(bool orders) {
    barrier *b = &m.cluster.meeting;
    char *token = &b->tokens.of[b->generation % 2];
    if (orders)
        order_release(token);
    if (++b->arrived >= m.cluster.n_alive)
        barrier_complete(b);
    else
        wait_while_equal(&b->generation, b->generation, "a barrier of the cluster");
    if (orders)
        order_acquire(token);
}

/* ---- shared memory ---- */

unsigned char *dynamic_shared() {
    return here->dynamic;
}

uint32_t shared_address(const void *pointer) {
    const unsigned char *p = static_cast<const unsigned char *>(pointer);
    if (p >= here->dynamic && p <= here->dynamic + m.shape.shared_bytes)
        return DYNAMIC_WINDOW + DYNAMIC_START + (uint32_t)(p - here->dynamic);
    ptrdiff_t offset = static_cast<const char *>(pointer) - here->anchor;
    if (offset <= -(ptrdiff_t)STATIC_WINDOW || offset >= (ptrdiff_t)STATIC_WINDOW)
        fail("%p is not in the shared memory of block %u", pointer, self->block->number);
    return (uint32_t)(STATIC_WINDOW + offset);
}

void *shared_pointer(uint32_t address) {
    uint32_t rank = address >> RANK_SHIFT, offset = address & OFFSET_MASK;
    if (rank > m.cluster.n_blocks)
        fail("shared address %08x: the cluster has %u blocks", address, m.cluster.n_blocks);
    executor *e = rank ? m.executors[rank - 1].get() : here;
    if (rank && e->block.n_alive == 0)
        fail("block %u touches the shared memory of block %u, which has ended", here->block.number,
             e->block.number);
    if (offset < DYNAMIC_WINDOW)
        return e->anchor + ((ptrdiff_t)offset - (ptrdiff_t)STATIC_WINDOW);
    uint32_t at = offset - DYNAMIC_WINDOW;
    if (at < DYNAMIC_START || at >= DYNAMIC_START + m.shape.shared_bytes)
        fail("shared address %08x: block %u has %zu dynamic bytes (thread %u)", address, e->block.number,
             m.shape.shared_bytes, self->index.x);
    return e->dynamic + (at - DYNAMIC_START);
}

unsigned char *operand_pointer(uint32_t address) {
    return static_cast<unsigned char *>(shared_pointer(DYNAMIC_WINDOW | (address & 0x3FFFF)));
}

uint32_t cluster_address(uint32_t address, uint32_t rank) {
    return (address & OFFSET_MASK) | (rank + 1) << RANK_SHIFT;
}

/* ---- counters ---- */

/* Of the phase that has not ended. */
static void *counter_token(counter *c) {
    return reinterpret_cast<char *>(c) + 4 * (c->state & 1);
}

static void counter_check(counter *c) {
    if ((c->state >> 1 & 0x7FFF) != 0 || c->bytes != 0)
        return;
    uint32_t arrivals = c->state >> 16;
    m.cluster.has_completed = true;
    c->state = arrivals << 16 | arrivals << 1 | ((c->state & 1) ^ 1);
}

void counter_init(void *to, uint32_t arrivals) {
    counter *c = static_cast<counter *>(to);
    c->state = arrivals << 16 | arrivals << 1;
    c->bytes = 0;
}

void counter_arrive(void *at, uint32_t bytes) {
    counter *c = static_cast<counter *>(at);
    if ((c->state >> 1 & 0x7FFF) == 0)
        fail("an arrival too many at a barrier in shared memory: thread %u of block %u", self->index.x,
             self->block->number);
    order_release(counter_token(c));
    c->state -= 2;
    c->bytes += (int32_t)bytes;
    counter_check(c);
}

void counter_complete(void *at, uint32_t bytes) {
    counter *c = static_cast<counter *>(at);
    order_release(counter_token(c));
    c->bytes -= (int32_t)bytes;
    counter_check(c);
}

void counter_wait(void *at, uint32_t parity, const char *name) {
    counter *c = static_cast<counter *>(at);
    uint32_t state;
    while (((state = c->state) & 1) == parity)
        wait_while_equal(&c->state, state, name);
    order_acquire(reinterpret_cast<char *>(c) + 4 * parity);
}

bool counter_is_complete(void *at, uint32_t parity) {
    counter *c = static_cast<counter *>(at);
    if ((c->state & 1) == parity)
        return false;
    order_acquire(reinterpret_cast<char *>(c) + 4 * parity);
    return true;
}

/* ---- background ---- */

/* Completes what the thread has requested so far; its groups stay. */
static void run_background(fiber *f, background kind) {
    for (group &g : f->closed[kind]) {
        for (const std::function<void()> &work : g)
            work();
        g.clear();
    }
    for (const std::function<void()> &work : f->open[kind])
        work();
    f->open[kind].clear();
}

void background_add(background kind, std::function<void()> work) {
    fiber *f = me();
    if (m.is_late || m.chance(2)) {
        f->open[kind].push_back(std::move(work));
        return;
    }
    run_background(f, kind);
    work();
}

void background_commit(background kind) {
    fiber *f = me();
    f->closed[kind].emplace_back(std::move(f->open[kind]));
    f->open[kind].clear();
}

void background_wait(background kind, size_t open) {
    fiber *f = me();
    while (f->closed[kind].size() > open) {
        for (const std::function<void()> &work : f->closed[kind].front())
            work();
        f->closed[kind].pop_front();
    }
}

void store_add(std::function<std::function<void()>()> read) {
    fiber *f = me();
    if (m.is_late || m.chance(2)) {
        f->stores.push_back({std::move(read), nullptr});
        return;
    }
    store_wait_all();
    read()();
}

void store_wait_read(size_t open) {
    std::deque<store> &stores = me()->stores;
    for (size_t i = 0; i + open < stores.size(); i++)
        if (stores[i].read) {
            stores[i].write = stores[i].read();
            stores[i].read = nullptr;
        }
    for (; stores.size() > open + MAX_UNWRITTEN; stores.pop_front())
        stores.front().write();
}

void store_wait_all() {
    store_wait_read(0);
    std::deque<store> &stores = me()->stores;
    for (; !stores.empty(); stores.pop_front())
        stores.front().write();
}

void engine_add(uint32_t address, std::function<void()> work) {
    if (m.is_late || m.chance(2)) {
        uint32_t rank = address >> RANK_SHIFT;
        order_release(&m.cluster.copies);
        unseen u;
        m.cluster.copies.push_back({rank ? rank - 1 : here->block.rank, std::move(work)});
    } else {
        work();
    }
}

} // namespace emulator
