/* The fibers of cuda_emu.h: launching, barriers, warp operations. */
#include "cuda_emu.h"
#include "streams.h"
#include <cstdarg>
#include <sys/mman.h>
#include <thread>
#include <atomic>
#include <chrono>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
// race check: kernels built with -fsanitize=thread, this file with -DCUEMU_TSAN; a CUDA thread is a TSan fiber, and only
// barriers, warp operations, atomics, and the start and end of a block order them
#if defined(CUEMU_TSAN)
extern "C" { void *__tsan_get_current_fiber(void); void *__tsan_create_fiber(unsigned); void __tsan_switch_to_fiber(void *, unsigned); void __tsan_acquire(void *); void __tsan_release(void *); }
#define TSAN(x) x
#else
#define TSAN(x)
#endif
namespace cuemu {
__thread Block *tl_block;
void die(const char *fmt, ...) {
  va_list ap; va_start(ap, fmt); fputs("cuemu: ", stderr); vfprintf(stderr, fmt, ap); va_end(ap);
  if (tl_block && tl_block->f) { auto *b = tl_block; auto *f = cur(); fprintf(stderr, " (block %u,%u,%u thread %u,%u,%u)", b->idx.x, b->idx.y, b->idx.z, f->tid.x, f->tid.y, f->tid.z); }
  fputc('\n', stderr); abort();
}
#if defined(CUEMU_UCONTEXT) || !defined(__x86_64__)
#include <ucontext.h>
static void sw(void **save, void *load) { ucontext_t *me = (ucontext_t *)*save; swapcontext(me, (ucontext_t *)load); }
#define UCTX 1
#else
#define UCTX 0
extern "C" void cuemu_switch(void **save, void *load);
asm(R"(
.text
.globl cuemu_switch
.type cuemu_switch,@function
cuemu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size cuemu_switch,.-cuemu_switch
)");
static inline void sw(void **save, void *load) { cuemu_switch(save, load); }
#endif
static const size_t STACK = 256 << 10;
struct Pool { std::vector<char *> st; std::vector<void *> ctx; ~Pool() { for (auto p : st) munmap(p, STACK); } };
static thread_local Pool pool;
static char *stack_of(int i) {
  while ((int)pool.st.size() <= i) {
    char *p = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("no stack");
    mprotect(p, 4096, PROT_NONE); pool.st.push_back(p);
  }
  return pool.st[i];
}
static inline bool runnable(Block *b, Fiber *f) {
  switch (f->state) { case READY: return true; case BAR: return f->gen != b->gen; case WARP: return f->gen != f->ws->gen; }
  return false;
}
static void switch_to(Block *b, int from, int to) {   // -1: the scheduler
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr; Fiber *t = to >= 0 ? &b->f[to] : nullptr;
  static thread_local const void *sb; static thread_local size_t ss;
  if (from < 0) { pthread_attr_t a; pthread_getattr_np(pthread_self(), &a); void *p; pthread_attr_getstack(&a, &p, &ss); sb = p; pthread_attr_destroy(&a); }
  __sanitizer_start_switch_fiber(from >= 0 && b->f[from].state == DONE ? nullptr : &fake, t ? t->stack : sb, t ? STACK : ss);
#endif
  if (to >= 0) b->cur = to;
  TSAN(__tsan_switch_to_fiber(to >= 0 ? b->f[to].tsan : b->tsan, 1);)
  sw(from >= 0 ? &b->f[from].sp : &b->sched, to >= 0 ? b->f[to].sp : b->sched);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}
static int next_of(Block *b, int i) {
  int p = b->pos[i];
  if (b->greedy) {   // the running warp goes on for as long as it can: a missing barrier lets it overtake the others
    int w0 = i & ~31, n = b->n - w0 < 32 ? b->n - w0 : 32;
    for (int k = 1; k <= n; k++) { int l = b->greedy > 0 ? (i - w0 + k) % n : (i - w0 + n - k % n) % n; if (runnable(b, &b->f[w0 + l])) return w0 + l; }
  }
  for (int k = 1; k <= b->n; k++) { int q = p + k; if (q >= b->n) q -= b->n; int j = b->order[q]; if (runnable(b, &b->f[j])) return j; }
  return -1;
}
void yield() {
  Block *b = tl_block; int i = b->cur, j = next_of(b, i);
  if (j == i) { b->f[i].state = READY; return; }
  if (j < 0) {
    int nb = 0, nw = 0; for (int k = 0; k < b->n; k++) { nb += b->f[k].state == BAR; nw += b->f[k].state == WARP; }
    die("deadlock: %d thread(s) wait at __syncthreads, %d at a warp operation, %d have exited", nb, nw, b->n - b->live);
  }
  switch_to(b, i, j); b->f[i].state = READY;
}
static void release_bar(Block *b) { if (b->arrived && b->arrived == b->live) { b->arrived = 0; b->gen++; } }
void syncthreads() {
  Block *b = tl_block; Fiber *f = cur(); f->state = BAR; f->gen = b->gen; b->arrived++; TSAN(char *y = &b->sync[b->gen & 1]; __tsan_release(y);) release_bar(b); yield(); TSAN(__tsan_acquire(y);)
}
static void release_warp(Warp *w, WarpSlot *s) { if (s->arrived && s->arrived == (s->mask & ~w->exited)) { s->arrived = 0; s->gen++; } }
unsigned warp_sync(uint32_t mask, const void *in, int n, WarpSlot **out) {
  Block *b = tl_block; Fiber *f = cur(); Warp *w = &b->w[f->warp]; WarpSlot *s = nullptr;
  if (!(mask >> f->lane & 1)) die("lane %d calls a warp operation whose mask %08x leaves it out", f->lane, mask);
  for (auto &x : w->slot) if (x.mask == mask) { s = &x; break; }
  if (!s) for (auto &x : w->slot) if (!x.mask) { s = &x; break; }
  if (!s) for (auto &x : w->slot) if (!x.arrived) { s = &x; break; }
  if (!s) die("too many masks at once in a warp");
  s->mask = mask; unsigned g = s->gen; if (n) memcpy(s->buf[g & 1][f->lane], in, n);
  s->arrived |= 1u << f->lane; f->state = WARP; f->gen = g; f->ws = s; *out = s; TSAN(__tsan_release(&s->sync[g & 1]);) release_warp(w, s); yield(); TSAN(__tsan_acquire(&s->sync[g & 1]);) return g;
}
static void fiber_main() {
  Block *b = tl_block;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  TSAN(__tsan_acquire(b);)
  (*b->body)();
  TSAN(__tsan_release(b);)
  Fiber *f = cur(); f->state = DONE; b->live--; release_bar(b);
  Warp *w = &b->w[f->warp]; w->exited |= 1u << f->lane; for (auto &s : w->slot) if (s.mask) release_warp(w, &s);
  if (!f->cp->empty()) die("thread exits with cp.async copies not waited for");
  int j = b->live ? next_of(b, b->cur) : -1;
  if (b->live && j < 0) { int nb = 0, nw = 0; for (int k = 0; k < b->n; k++) { nb += b->f[k].state == BAR; nw += b->f[k].state == WARP; }
    die("deadlock: %d thread(s) wait at __syncthreads, %d at a warp operation, %d have exited", nb, nw, b->n - b->live); }
  switch_to(b, b->cur, j); abort();
}
static int env(const char *k, int d) { const char *s = getenv(k); return s ? atoi(s) : d; }
static void run_blocks(dim3 grid, dim3 dim, size_t smem, const std::function<void()> &body, std::atomic<long> &nexti, long total, int ord) {
  Block b{}; b.grid = grid; b.dim = dim; b.body = &body; b.n = dim.x * dim.y * dim.z; b.ndyn = smem;
  std::vector<Fiber> f(b.n); int nw = (b.n + 31) / 32; std::vector<Warp> w(nw); std::vector<int> order(b.n), pos(b.n); std::vector<std::vector<Copy>> cps(b.n);
  b.f = f.data(); b.w = w.data(); b.order = order.data(); b.pos = pos.data();
  b.dyn = (unsigned char *)aligned_alloc(1024, (smem + 1023) / 1024 * 1024 + 1024);
#if UCTX
  std::vector<ucontext_t> uc(b.n + 1); 
#endif
  b.greedy = ord == 0 ? 1 : ord == 1 ? -1 : 0; TSAN(b.tsan = __tsan_get_current_fiber();)
  tl_block = &b; unsigned rng = 12345u + ord;
  for (long i; (i = nexti++) < total;) {
    b.idx = make_uint3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y); b.live = b.n; b.arrived = 0; b.gen = 0;
    memset(b.dyn, 0xff, smem);
    for (int k = 0; k < b.n; k++) order[k] = ord == 1 ? b.n - 1 - k : k;
    if (ord > 1) for (int k = b.n - 1; k > 0; k--) { rng = rng * 1664525u + 1013904223u; std::swap(order[k], order[(rng >> 8) % (k + 1)]); }
    for (int k = 0; k < b.n; k++) pos[order[k]] = k;
    for (auto &x : w) { x.exited = 0; for (auto &s : x.slot) s.mask = s.arrived = 0; }
    for (int t = 0; t < b.n; t++) {
      Fiber *q = &f[t]; q->tid = make_uint3(t % dim.x, t / dim.x % dim.y, t / dim.x / dim.y); q->lane = t & 31; q->warp = t >> 5; q->state = READY; q->stack = stack_of(t);
      q->cp = &cps[t]; q->cpgroup = 0; cps[t].clear();
#if defined(__SANITIZE_ADDRESS__)
      __asan_unpoison_memory_region(q->stack + 4096, STACK - 4096);   // the last user of this stack left without unwinding
#endif
      TSAN(if (!q->tsan) q->tsan = __tsan_create_fiber(0);)
#if UCTX
      getcontext(&uc[t]); uc[t].uc_stack.ss_sp = q->stack; uc[t].uc_stack.ss_size = STACK; uc[t].uc_link = nullptr; makecontext(&uc[t], fiber_main, 0); q->sp = &uc[t]; b.sched = &uc[b.n];
#else
      void **sp = (void **)(q->stack + STACK - 64); *--sp = nullptr; *--sp = (void *)fiber_main; sp -= 6; memset(sp, 0, 48); q->sp = sp;
#endif
    }
    for (int k = 0; nw * 32 != b.n && k < 1; k++) w[nw - 1].exited = b.n % 32 ? ~0u << (b.n % 32) : 0;
    TSAN(__tsan_release(&b);)
    switch_to(&b, -1, order[0]);
    TSAN(__tsan_acquire(&b);)
  }
  tl_block = nullptr; free(b.dyn);
}
void launch(dim3 grid, dim3 dim, size_t smem, cudaStream_t stream, const std::function<void()> &body) {
  stream_ready(stream);
  long n = (long)dim.x * dim.y * dim.z, total = (long)grid.x * grid.y * grid.z;
  if (n < 1 || n > 1024 || total < 1 || grid.y > 65535 || grid.z > 65535) die("invalid configuration: %ld threads, grid %ux%ux%u", n, grid.x, grid.y, grid.z);
  if (smem > 227 << 10) die("dynamic shared memory %zu > 227 KiB", smem);
  static int nt = env("CUEMU_THREADS", 1); int ord = env("CUEMU_ORDER", 0);
  std::atomic<long> nexti{0}; std::vector<std::thread> th;
  for (int i = 1; i < nt && i < total; i++) th.emplace_back([&] { run_blocks(grid, dim, smem, body, nexti, total, ord); });
  run_blocks(grid, dim, smem, body, nexti, total, ord);
  for (auto &t : th) t.join();
}
}  // namespace cuemu
