/* The fibers of fibers.h: launching, barriers, warp operations, and what the sanitizers must be told of stack switches. */
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#include "context.h"
#include "faults.h"
#include "streams.h"
#include "tsan.h"

namespace cuemu {
enum { CALLER = -1, THREADS_MAX = 1024, GUARD = 4096, SHARED_MAX = 227 << 10 };
static const size_t STACK = 256 << 10;

Block *running;

void die(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    fputs("cuemu: ", stderr);
    vfprintf(stderr, format, ap);
    va_end(ap);
    if (running) {
        uint3 b = running->idx, t = cur()->tid;
        fprintf(stderr, " (block %u,%u,%u thread %u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
    }
    fputc('\n', stderr);
    abort();
}

/* Stacks and TSan's fibers are kept from launch to launch: TSan has a limit of some thousands in a process. */
static struct {
    char *stack[THREADS_MAX];
    void *tsan[THREADS_MAX];
} kept;

static char *stack_of(int thread) {
    char **s = &kept.stack[thread];
    if (!*s) {
        *s = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (*s == MAP_FAILED) die("no memory for a stack");
        mprotect(*s, GUARD, PROT_NONE);
    }
    return *s;
}

/* --- turns ------------------------------------------------------------------------------------------------------------ */
static bool runnable(const Block *b, const Fiber *f) {
    switch (f->state) {
    case READY: return true;
    case AT_BARRIER: return f->gen != b->gen;
    case AT_WARP_OP: return f->gen != f->slot->gen;
    case AT_CONDITION: return f->ready(f);
    }
    return false;
}

/* The fiber that runs after i, or -1. */
static int next_after(const Block *b, int i) {
    if (b->greedy) { /* a missing barrier lets the running warp overtake the others */
        int first = i & ~31, n = b->threads - first < 32 ? b->threads - first : 32;
        for (int k = 1; k <= n; k++) {
            int lane = b->greedy > 0 ? (i - first + k) % n : (i - first + n - k % n) % n;
            if (runnable(b, &b->fiber[first + lane])) return first + lane;
        }
    }
    for (int k = 1; k <= b->threads; k++) {
        int at = b->position[i] + k;
        int j = b->order[at < b->threads ? at : at - b->threads];
        if (runnable(b, &b->fiber[j])) return j;
    }
    return -1;
}

[[noreturn]] static void deadlock(const Block *b) {
    int at_barrier = 0, at_warp = 0, at_condition = 0;
    for (int k = 0; k < b->threads; k++) {
        at_barrier += b->fiber[k].state == AT_BARRIER;
        at_warp += b->fiber[k].state == AT_WARP_OP;
        at_condition += b->fiber[k].state == AT_CONDITION;
    }
    die("deadlock: %d thread(s) wait at __syncthreads, %d at a warp operation, %d at an mbarrier, %d have exited",
        at_barrier, at_warp, at_condition, b->threads - b->live);
}

/* From fiber `from` to fiber `to`; either may be CALLER. Comes back when somebody switches to `from`. */
static void switch_to(Block *b, int from, int to) {
    Fiber *f = from == CALLER ? nullptr : &b->fiber[from], *t = to == CALLER ? nullptr : &b->fiber[to];
#if defined(__SANITIZE_ADDRESS__)
    void *fake = nullptr;
    bool last = f && f->state == DONE;
    __sanitizer_start_switch_fiber(last ? nullptr : &fake, t ? t->stack : b->caller_stack,
                                   t ? STACK : b->caller_stack_bytes);
#endif
    if (t) b->cur = to;
    TSAN(__tsan_switch_to_fiber(t ? t->tsan : b->caller_tsan, 1));
    context_switch(f ? &f->context : &b->caller, t ? &t->context : &b->caller);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

static void wait_turn() {
    Block *b = running;
    int i = b->cur, j = next_after(b, i);
    if (j < 0) deadlock(b);
    if (j != i) switch_to(b, i, j);
    b->fiber[i].state = READY;
}

void wait_until(bool (*ready)(const Fiber *)) {
    Fiber *f = cur();
    f->ready = ready;
    f->state = AT_CONDITION;
    wait_turn();
}

/* --- barriers and warp operations ------------------------------------------------------------------------------------- */
static void release_barrier(Block *b) {
    if (!b->arrived || b->arrived != b->live) return;
    b->arrived = 0;
    b->gen++;
}

void syncthreads() {
    Block *b = running;
    Fiber *f = cur();
    f->state = AT_BARRIER;
    f->gen = b->gen;
    b->arrived++;
    TSAN(__tsan_release(&b->sync[f->gen & 1]));
    release_barrier(b);
    wait_turn();
    TSAN(__tsan_acquire(&b->sync[(f->gen) & 1]));
}

static void release_slot(const Warp *w, WarpSlot *s) {
    if (!s->arrived || s->arrived != (s->mask & ~w->exited)) return;
    s->arrived = 0;
    s->gen++;
}

/* The slot of this mask, or a fresh one. */
static WarpSlot *find_slot(Warp *w, uint32_t mask) {
    for (WarpSlot &s : w->slot)
        if (s.mask == mask) return &s;
    for (WarpSlot &s : w->slot)
        if (!s.mask) return &s;
    for (WarpSlot &s : w->slot)
        if (!s.arrived) return &s;
    die("too many masks at once in a warp");
}

unsigned warp_sync(uint32_t mask, const void *in, int n, WarpSlot **out) {
    Fiber *f = cur();
    Warp *w = &running->warp[f->warp];
    if (!(mask >> f->lane & 1)) die("lane %d calls a warp operation whose mask %08x leaves it out", f->lane, mask);
    WarpSlot *s = find_slot(w, mask);
    unsigned gen = s->gen;
    s->mask = mask;
    if (n) memcpy(s->buf[gen & 1][f->lane], in, n);
    s->arrived |= 1u << f->lane;
    f->state = AT_WARP_OP;
    f->gen = gen;
    f->slot = s;
    TSAN(__tsan_release(&s->sync[gen & 1]));
    release_slot(w, s);
    wait_turn();
    TSAN(__tsan_acquire(&s->sync[gen & 1]));
    *out = s;
    return gen;
}

/* --- a fiber's life ----------------------------------------------------------------------------------------------------- */
static void fiber_main() {
    Block *b = running;
#if defined(__SANITIZE_ADDRESS__)
    if (b->caller_stack) /* the first fiber of a launch comes from the caller, and learns its stack */
        __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
    else
        __sanitizer_finish_switch_fiber(nullptr, &b->caller_stack, &b->caller_stack_bytes);
#endif
    TSAN(__tsan_acquire(b));
    (*b->body)();
    TSAN(__tsan_release(b));
    Fiber *f = cur();
    if (!f->cp->empty()) die("thread exits with cp.async copies not waited for");
    if (!f->products->empty()) die("thread exits with wgmma products not waited for");
    f->state = DONE;
    b->live--;
    release_barrier(b);
    Warp *w = &b->warp[f->warp];
    w->exited |= 1u << f->lane;
    for (WarpSlot &s : w->slot)
        if (s.mask) release_slot(w, &s);
    int next = b->live ? next_after(b, b->cur) : CALLER;
    if (b->live && next < 0) deadlock(b);
    switch_to(b, b->cur, next);
    abort(); /* nobody switches to a fiber that is done */
}

/* CUEMU_ORDER: 0 rising, 1 falling, both with greedy warps; 2 and above: that many-th shuffle. */
static void choose_order(int mode, unsigned *rng, std::vector<int> &order, std::vector<int> &position) {
    int n = (int)order.size();
    for (int k = 0; k < n; k++) order[k] = mode == 1 ? n - 1 - k : k;
    for (int k = n - 1; mode > 1 && k > 0; k--) {
        *rng = *rng * 1664525u + 1013904223u;
        std::swap(order[k], order[(*rng >> 8) % (k + 1)]);
    }
    for (int k = 0; k < n; k++) position[order[k]] = k;
}

static void start_block(Block *b, std::vector<std::vector<Copy>> &copies, std::vector<std::vector<Product>> &products) {
    int warps = (b->threads + 31) / 32;
    b->live = b->threads;
    b->arrived = 0;
    b->gen = 0;
    b->mbarriers.clear();
    for (int w = 0; w < warps; w++) {
        b->warp[w].exited = 0;
        for (WarpSlot &s : b->warp[w].slot) s.mask = s.arrived = 0;
    }
    if (b->threads % 32) b->warp[warps - 1].exited = ~0u << b->threads % 32;
    for (int t = 0; t < b->threads; t++) {
        Fiber *f = &b->fiber[t];
        f->tid = make_uint3(t % b->dim.x, t / b->dim.x % b->dim.y, t / b->dim.x / b->dim.y);
        f->lane = t & 31;
        f->warp = t >> 5;
        f->state = READY;
        f->stack = stack_of(t);
        f->cp = &copies[t];
        f->cp->clear();
        f->cpgroup = 0;
        f->products = &products[t];
        f->products->clear();
        f->product_group = 0;
        f->product_fence = false;
        TSAN(if (!kept.tsan[t]) kept.tsan[t] = __tsan_create_fiber(0));
        f->tsan = kept.tsan[t];
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(f->stack + GUARD, STACK - GUARD); /* its last user left without unwinding */
#endif
        context_make(&f->context, f->stack, STACK, fiber_main);
    }
}

static void check_shape(const void *kernel, dim3 grid, dim3 dim, size_t shared_bytes) {
    uint64_t threads = (uint64_t)dim.x * dim.y * dim.z, blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (threads < 1 || threads > THREADS_MAX || dim.z > 64 || blocks < 1 || grid.x > 0x7fffffffu || grid.y > 65535 ||
        grid.z > 65535)
        die("invalid configuration: blocks of %ux%ux%u threads, grid %ux%ux%u", dim.x, dim.y, dim.z, grid.x, grid.y,
            grid.z);
    if (shared_bytes > SHARED_MAX) die("dynamic shared memory %zu > 227 KiB", shared_bytes);
    if (shared_bytes > shared_limit(kernel))
        die("dynamic shared memory %zu > %zu: cudaFuncSetAttribute was not called for it", shared_bytes,
            shared_limit(kernel));
}

void launch(const char *name, const void *kernel, dim3 grid, dim3 dim, size_t shared_bytes, cudaStream_t stream,
            const std::function<void()> &body) {
    if (stream_records(stream, [=] { launch(name, kernel, grid, dim, shared_bytes, nullptr, body); })) return;
    trace("launch", name);
    stream_ready(stream);
    if (kernel_fails(name)) return;
    check_shape(kernel, grid, dim, shared_bytes);
    int threads = (int)(dim.x * dim.y * dim.z);
    std::vector<Fiber> fibers(threads);
    std::vector<Warp> warps((threads + 31) / 32);
    std::vector<std::vector<Copy>> copies(threads);
    std::vector<std::vector<Product>> products(threads);
    std::vector<int> order(threads), position(threads);
    const char *wanted = getenv("CUEMU_ORDER");
    int mode = wanted ? atoi(wanted) : 0;
    unsigned rng = 12345u + (unsigned)mode;
    Block b{};
    b.grid = grid;
    b.dim = dim;
    b.body = &body;
    b.threads = threads;
    b.fiber = fibers.data();
    b.warp = warps.data();
    b.order = order.data();
    b.position = position.data();
    b.greedy = mode == 0 ? 1 : mode == 1 ? -1 : 0;
    /* To the byte, so that AddressSanitizer sees an access behind it. */
    if (posix_memalign((void **)&b.dyn, 1024, shared_bytes ? shared_bytes : 1)) die("no memory for shared memory");
    TSAN(b.caller_tsan = __tsan_get_current_fiber());
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        b.idx = make_uint3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y));
        memset(b.dyn, 0xff, shared_bytes); /* NaNs */
        choose_order(mode, &rng, order, position);
        start_block(&b, copies, products);
        running = &b;
        TSAN(__tsan_release(&b));
        switch_to(&b, CALLER, order[0]);
        TSAN(__tsan_acquire(&b));
        if (!b.bulk.empty()) die("block exits with %zu bulk copies under way", b.bulk.size());
        running = nullptr;
    }
    free(b.dyn);
}
} // namespace cuemu
