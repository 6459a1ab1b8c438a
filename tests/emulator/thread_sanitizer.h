/* thread_sanitizer: what the emulator tells it, where EMULATOR_FINDS_RACES is defined; nothing elsewhere. */
#ifndef PRESSRUN_TESTS_EMULATOR_THREAD_SANITIZER_H
#define PRESSRUN_TESTS_EMULATOR_THREAD_SANITIZER_H

#if defined(EMULATOR_FINDS_RACES)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void *p, unsigned long bytes);
extern "C" void __tsan_write_range(void *p, unsigned long bytes);
extern "C" void AnnotateIgnoreReadsBegin(const char *file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char *file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char *file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char *file, int line);
#endif

namespace emulator {

/* For the thread sanitizer, which tells where threads of a kernel race: what came before order_release(token)
 * is ordered before what comes behind a later order_acquire(token). Fibers that follow each other are not
 * ordered by that. */
static inline void order_release([[maybe_unused]] void *token) {
#if defined(EMULATOR_FINDS_RACES)
    __tsan_release(token);
#endif
}

static inline void order_acquire([[maybe_unused]] void *token) {
#if defined(EMULATOR_FINDS_RACES)
    __tsan_acquire(token);
#endif
}

/* While one lives, the thread sanitizer looks away: the emulator's own books, kept by whoever runs. */
struct unseen {
#if defined(EMULATOR_FINDS_RACES)
    unseen() {
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~unseen() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
#else
    unseen() {}
#endif
};

} // namespace emulator

#endif
