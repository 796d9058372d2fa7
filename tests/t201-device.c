/* TEST ranks=1 tier=1 */
/* Devices: what opening refuses, memory and its bounds, the guard's protection (in a child that must die), counters, the plan. */
#include "dev/dev.h"
#include "tap.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static struct dev *device(enum dev_backend b) {
    struct dev *d;
    must(dev_open(&(struct dev_options){.backend = b, .threads = 1, .invariant = true}, &d));
    return d;
}

static void opening(void) {
    struct dev *d;
    is_status(dev_open(&(struct dev_options){.threads = -1}, &d), TM_ERR_DECK);
    ok(strstr(status_message(), "threads = -1") != NULL, "the message names the value");
    is_status(dev_open(&(struct dev_options){.backend = (enum dev_backend)9}, &d), TM_ERR_DECK);
    is_status(dev_open(&(struct dev_options){.kernel = "sse9"}, &d), TM_ERR_DECK);
    ok(strstr(status_message(), "portable, avx2 or avx512") != NULL, "the message names what there is");
    ok(d == NULL, "no device after a refusal");
    must(dev_open(&(struct dev_options){.backend = DEV_GUARD, .threads = 2, .kernel = "portable", .invariant = true},
                  &d));
    ok(!strncmp(dev_describe(d), "guard: portable, 2 threads, gemm ", 33), "described: %s", dev_describe(d));
    ok(dev_backend(d) == DEV_GUARD, "backend");
    dev_close(&d);
    dev_close(&d);
    ok(d == NULL, "closing twice is fine");
}

static void memory(enum dev_backend backend) {
    struct dev *d = device(backend);
    dptr p, q, empty;
    float x[100], y[100];
    for (int i = 0; i < 100; i++) x[i] = (float)i;
    must(dev_alloc(d, "weights", sizeof x, &p));
    must(dev_alloc(d, "gradients", 5000, &q));
    must(dev_alloc(d, "weights", 0, &empty));
    ok(p.a && q.a && empty.a && p.a % 64 == 0 && q.a % 64 == 0,
       "addresses are aligned and not 0, of an empty block too");
    is_int(dev_bytes(d, "weights"), 400, "bytes of a class");
    is_int(dev_bytes(d, NULL), 5400, "bytes of all");
    must(dev_download(d, y, p, sizeof y));
    ok(y[0] == 0 && y[99] == 0, "new memory is zero");
    must(dev_upload(d, dptr_f32(p, 90), x, 40));
    must(dev_download(d, y, p, sizeof y));
    ok(y[89] == 0 && y[90] == 0 && y[99] == 9, "an interior address");
    is_status(dev_upload(d, dptr_f32(p, 90), x, 44), TM_ERR_INTERNAL);
    ok(strstr(status_message(), "weights") != NULL, "an overrun names the class: %s", status_message());
    is_status(dev_download(d, y, dptr_add(p, -64), 4), TM_ERR_INTERNAL);
    is_status(dev_download(d, y, (dptr){0}, 4), TM_ERR_INTERNAL);
    void *a, *b;
    must(dev_map(d, p, 400, &a));
    must(dev_map(d, dptr_f32(p, 95), 20, &b));
    ((float *)a)[95] = 42;
    must(dev_unmap(d, p, 400, a));
    ok(*(float *)b == 42, "maps nest");
    must(dev_scale(d, &(struct scale_args){p, 100, 2})); /* an operation between begin and end leaves the map open */
    ok(*(float *)b == 84, "an operation sees and keeps the map");
    must(dev_unmap(d, dptr_f32(p, 95), 20, b));
    is_status(dev_unmap(d, p, 4, a), TM_ERR_INTERNAL);
    dev_free(d, &q);
    ok(!q.a, "freed");
    is_int(dev_bytes(d, NULL), 400, "and uncounted");
    is_status(dev_alloc(d, "much", SIZE_MAX - 100, &q), TM_ERR_MEMORY);
    ok(strstr(status_message(), "much") != NULL, "the message names the class: %s", status_message());
    dev_close(&d);
}

/* Signal that ends a child which reads (or writes) `at` on the host; 0 when it lives. */
static int touch(uint64_t at, bool write) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would turn the signal into an exit */
        volatile char *p = (volatile char *)(uintptr_t)at;
        if (write) {
            *p = 1;
        } else {
            (void)*p;
        }
        _exit(0);
    }
    int st = 0;
    waitpid(pid, &st, 0);
    return WIFSIGNALED(st) ? WTERMSIG(st) : 0;
}
static void guard(void) {
    struct dev *d = device(DEV_GUARD);
    dptr p;
    float one[3000] = {0};
    must(dev_alloc(d, "weights", sizeof one, &p));
    is_int(touch(p.a, false), SIGSEGV, "reading guarded memory kills");
    is_int(touch(p.a + 4000, true), SIGSEGV, "writing too");
    must(dev_upload(d, p, one, sizeof one));
    must(dev_fill(d, &(struct fill_args){p, 3000, 1}));
    is_int(touch(p.a, false), SIGSEGV, "after a copy and an operation as well");
    void *host;
    must(dev_map(d, dptr_f32(p, 7), 8, &host));
    is_int(touch(p.a + 28, true), 0, "mapped memory is open");
    is_int(touch(p.a + 12032, true), SIGSEGV, "the page behind the block is not");
    must(dev_unmap(d, dptr_f32(p, 7), 8, host));
    is_int(touch(p.a + 28, true), SIGSEGV, "unmapped: closed again");
    dev_close(&d);
}

static int op(const char *name) {
    for (int i = 0; i < dev_op_count(); i++)
        if (!strcmp(dev_op_name(i), name)) return i;
    return -1;
}
static void counters(enum dev_backend backend) {
    struct dev *d = device(backend);
    dptr a, b, c;
    must(dev_alloc(d, "x", 4 * 6 * 8, &a));
    must(dev_alloc(d, "x", 4 * 5 * 8, &b));
    must(dev_alloc(d, "x", 4 * 6 * 5, &c));
    struct gemm_args g = {.layout = GEMM_NT,
                          .m = 6,
                          .n = 5,
                          .terms = 1,
                          .segments = 2,
                          .c = c,
                          .ldc = 5,
                          .term = {{.a = a, .b = b, .lda = 8, .ldb = 8, .k = {0, 4, 8}}}};
    must(dev_gemm(d, &g));
    must(dev_gemm(d, &g));
    must(dev_add(d, &(struct add_args){a, b, 40}));
    struct dev_counter n = dev_counter(d, op("gemm"));
    is_str(n.name, "gemm", "counter's name");
    is_int(n.calls, 2, "calls");
    is_near(n.flops, 2 * 2.0 * 6 * 5 * 8, 0, "FLOPs: 2 m n k");
    is_near(dev_counter(d, op("add")).bytes, 480, 0, "bytes: 12 an element");
    ok(backend == DEV_PLAN ? n.seconds == 0 : n.seconds > 0, "seconds %g", n.seconds);
    dev_counters_reset(d);
    is_int(dev_counter(d, op("gemm")).calls, 0, "reset");
    is_str(dev_op_name(-1), "?", "no such operation");
    dev_close(&d);
}

static void plan(void) {
    struct dev *d = device(DEV_PLAN);
    dptr p, q;
    char text[4] = "abc";
    void *host;
    must(dev_alloc(d, "weights", (size_t)1 << 45, &p)); /* 32 TiB: no memory is taken */
    must(dev_alloc(d, "weights", 100, &q));
    ok(p.a && q.a >= p.a + ((uint64_t)1 << 45), "addresses do not overlap");
    must(dev_upload(d, q, text, 4));
    must(dev_download(d, text, q, 4));
    ok(!text[0], "downloads are zero");
    is_status(dev_map(d, q, 4, &host), TM_ERR_INTERNAL);
    is_int((int64_t)dev_bytes(d, "weights"), ((int64_t)1 << 45) + 100, "and everything is counted");
    dev_close(&d);
}

static void no_memory(void) { /* before any other allocation: the fault counts calls */
    setenv("TEMPER_FAULT", "dev:alloc:*:1", 1);
    struct dev *d = device(DEV_HOST);
    dptr p;
    is_status(dev_alloc(d, "weights", 64, &p), TM_ERR_MEMORY);
    ok(strstr(status_message(), "64 bytes of weights on the host device") != NULL, "%s", status_message());
    must(dev_alloc(d, "weights", 64, &p));
    dev_close(&d);
}

int main(void) {
    no_memory();
    opening();
    memory(DEV_HOST);
    memory(DEV_GUARD);
    guard();
    counters(DEV_HOST);
    counters(DEV_GUARD);
    counters(DEV_PLAN);
    plan();
    return tap_done();
}
