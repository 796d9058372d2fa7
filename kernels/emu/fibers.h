/* The threads of a block as fibers, run one at a time by one OS thread: what they share, and how they wait for each other.
 *
 * The plugin is loaded at run time and its functions are called by one thread at a time, so that the running block is a plain
 * static, and so is every __shared__ variable: static thread-local storage would not hold 48 KiB of a library loaded late. */
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include <cuda_runtime_api.h>
#include <vector_functions.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuemu {
#if defined(__x86_64__)
struct Context {
    void *sp;
};
#else
typedef ucontext_t Context;
#endif

enum FiberState { READY, AT_BARRIER, AT_WARP_OP, DONE };

/* A warp operation under way: the lanes of `mask` put their operands into buf[gen & 1] and go on when all have; gen counts up. */
struct WarpSlot {
    uint32_t mask = 0, arrived = 0;
    unsigned gen = 0;
    uint64_t buf[2][32][4];
    char sync[2]; /* what the race checker orders lanes by */
};
struct Warp {
    uint32_t exited = 0;
    WarpSlot slot[8]; /* one for each mask in use */
};

/* A cp.async copy that has not arrived. */
struct Copy {
    void *d;
    const void *s;
    int n, group;
};

struct Fiber {
    Context context;
    uint3 tid;
    int state, lane, warp;
    unsigned gen;   /* of the barrier or slot it waits for */
    WarpSlot *slot; /* AT_WARP_OP */
    char *stack;
    void *tsan;
    std::vector<Copy> *cp;
    int cpgroup; /* the next copy's group */
};

struct Block {
    dim3 grid, dim;
    uint3 idx;
    unsigned char *dyn; /* dynamic shared memory */
    int threads, live, arrived;
    unsigned gen; /* of the barrier */
    char sync[2];
    int cur; /* the running fiber */
    Fiber *fiber;
    Warp *warp;
    const int *order, *position; /* the order in which fibers get their turns, and its inverse */
    int greedy; /* 1, -1: the running warp goes on for as long as it can, its lanes rising or falling; 0: no */
    const std::function<void()> *body;
    Context caller;
    const void *caller_stack; /* for AddressSanitizer */
    size_t caller_stack_bytes;
    void *caller_tsan;
};

extern Block *running; /* null outside a kernel */
inline Block *cur_block() { return running; }
inline Fiber *cur() { return &running->fiber[running->cur]; }

/* Runs `body` for every thread of every block, blocks one after another. `kernel`: whose attributes hold; `name`: as the source has it. */
void launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            const std::function<void()> &body);
void syncthreads();
/* Deposits n bytes (at most 32) of this lane, waits for all lanes of the mask, and tells the slot; returns the generation whose
 * buffer slot->buf[generation & 1] holds every lane's bytes until this lane's next warp operation. */
unsigned warp_sync(uint32_t mask, const void *in, int n, WarpSlot **slot);
/* Prints one line with the block and thread, and aborts. */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* cudart.cc: how much dynamic shared memory a kernel may have (cudaFuncSetAttribute). */
size_t shared_limit(const void *kernel);
} // namespace cuemu
