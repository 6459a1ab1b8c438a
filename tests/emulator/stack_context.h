/* stack_context: goes from one stack to another. */
#ifndef PRESSRUN_TESTS_EMULATOR_STACK_CONTEXT_H
#define PRESSRUN_TESTS_EMULATOR_STACK_CONTEXT_H

#include <cstddef>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

#if defined(__x86_64__)
/* Saves what a call preserves on the stack, and the stack in *from; goes on with `to`. */
extern "C" void emulator_switch(void **from, void *to);
asm(R"(
    .text
    .globl emulator_switch
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

struct stack_context {
    void *stack;

    void begin(unsigned char *memory, size_t bytes, void (*entry)()) {
        void **top = reinterpret_cast<void **>(memory + bytes);
        *--top = nullptr; /* where entry would return to; and it is aligned as behind a call */
        *--top = reinterpret_cast<void *>(entry);
        for (int i = 0; i < 6; i++)
            *--top = nullptr;
        stack = top;
    }
    void go(stack_context &to) { emulator_switch(&stack, to.stack); }
};
#else
struct stack_context {
    ucontext_t context;

    void begin(unsigned char *memory, size_t bytes, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = memory;
        context.uc_stack.ss_size = bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void go(stack_context &to) { swapcontext(&context, &to.context); }
};
#endif

} // namespace emulator

#endif
