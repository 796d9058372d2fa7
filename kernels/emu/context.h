/* The switch from one stack to another, for fibers.cc: 15 instructions on x86-64, ucontext (ten times slower) elsewhere. */
#pragma once
#include <cstring>

#include "fibers.h"

namespace cuemu {
#if defined(__x86_64__)
extern "C" void cuemu_switch(void **save, void *load);
asm(R"(
.text
.globl cuemu_switch
.hidden cuemu_switch
.type cuemu_switch,@function
cuemu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuemu_switch,.-cuemu_switch
)");
static inline void context_switch(Context *from, Context *to) { cuemu_switch(&from->sp, to->sp); }

/* What cuemu_switch finds on a new stack: six registers, the entry, and a null return address under it. */
static inline void context_make(Context *c, char *stack, size_t bytes, void (*entry)()) {
    void **sp = (void **)(stack + bytes - 64);
    *--sp = nullptr;
    *--sp = (void *)entry;
    sp -= 6;
    memset(sp, 0, 6 * sizeof *sp);
    c->sp = sp;
}
#else
static inline void context_switch(Context *from, Context *to) { swapcontext(from, to); }
static inline void context_make(Context *c, char *stack, size_t bytes, void (*entry)()) {
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = bytes;
    c->uc_link = nullptr;
    makecontext(c, entry, 0);
}
#endif
} // namespace cuemu
