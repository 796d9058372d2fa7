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

enum FiberState { READY, AT_BARRIER, AT_WARP_OP, AT_CONDITION, DONE };

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

/* A wgmma that has not been waited for: its sums x, which hold NaNs until `run` makes them. */
struct Product {
    float *x;
    int group;
    std::function<void()> run;
};
/* A box of a tensor map on its way to shared memory, which holds NaNs until an mbarrier is told of the bytes. */
struct BulkCopy {
    uint32_t to;
    const void *map;
    int at[3];
    uint64_t *mbarrier;
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
    std::vector<Product> *products;
    int product_group;            /* of the next product */
    bool product_fence;           /* registers are ordered before it */
    bool (*ready)(const Fiber *); /* AT_CONDITION */
    uint64_t *mbarrier;           /* that it waits for, */
    int parity;                   /* and the phase */
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
    std::vector<uint64_t *> mbarriers; /* that this block has initialised */
    std::vector<BulkCopy> bulk;
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
/* Other fibers run until `ready` of this one. */
void wait_until(bool (*ready)(const Fiber *));
/* Prints one line with the block and thread, and aborts. */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* hopper.cc: the mbarriers, bulk copies and shared addresses of hopper.h. Dynamic shared memory begins at an address that is no multiple of
 * 1024, as it may behind other shared memory. */
enum { SHARED_BASE = 1024 + 128 };
void mbarrier_init(uint64_t *b, int count);
void mbarrier_arrive(uint64_t *b, int bytes); /* bytes: that it expects besides */
void mbarrier_wait(uint64_t *b, int parity);
int bulk_bytes(const void *map); /* of a box */
void bulk_load(uint32_t to, const void *map, int x, int y, int z, uint64_t *b);
uint32_t shared_address(const void *p);
inline char *shared_pointer(uint32_t a) { return (char *)running->dyn + ((int64_t)a - SHARED_BASE); }
/* Where the 128-byte swizzle puts the byte of address a: bits 4-6 are flipped by bits 7-9. */
inline uint32_t swizzled(uint32_t a) { return a ^ (a >> 7 & 7) << 4; }

/* cudart.cc: how much dynamic shared memory a kernel may have (cudaFuncSetAttribute). */
size_t shared_limit(const void *kernel);
} // namespace cuemu
