/* Devices: opening, memory blocks, counters, and the dispatch of operations to the backend's table. */
#include "dev/dev.h"

#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/span.h"
#include "dev/device.h"
#include "dev/host_gemm.h"
#include "dev/leaf.h"

enum { THREADS_MAX = 1024 };

/* The leaf kernels for `kernel` (NULL: the best this CPU runs). */
static enum status choose_leaf(const char *kernel, const struct leaf **out) {
    const struct leaf *const all[] = {&leaf_avx512, &leaf_avx2, &leaf_portable}; /* best first */
#ifdef __x86_64__
    const bool can[] = {__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"),
                        __builtin_cpu_supports("avx2"), true};
#else
    const bool can[] = {false, false, true};
#endif
    for (int i = 0; i < 3; i++) {
        bool named = kernel && !strcmp(kernel, all[i]->name);
        if (named && !can[i])
            return TM_FAIL(TM_ERR_UNSUPPORTED, "device kernel \"%s\": this CPU does not have it", kernel);
        if (!named && (kernel || !can[i])) continue;
        *out = all[i];
        return TM_OK;
    }
    return TM_FAIL(TM_ERR_DECK, "device kernel \"%s\": expected portable, avx2 or avx512", kernel);
}

static enum status open_maths(struct dev *d, const struct dev_options *o) {
    TM_TRY(choose_leaf(o->kernel, &d->leaf));
    TM_TRY(host_gemm_open(o->kernel, o->invariant, d->threads, &d->gemm));
    snprintf(d->describe, sizeof d->describe, "%s: %s, %d thread%s, gemm %s", d->table->name, d->leaf->name, d->threads,
             d->threads == 1 ? "" : "s", host_gemm_describe(d->gemm));
    return TM_OK;
}

static const struct dev_table *const tables[] = {
    [DEV_HOST] = &dev_host, [DEV_GUARD] = &dev_guard, [DEV_PLAN] = &dev_plan, [DEV_CUDA] = &dev_cuda};

enum dev_backend dev_backend_named(const char *name) {
    for (int i = DEV_HOST; name && i <= DEV_CUDA; i++)
        if (!strcmp(name, tables[i]->name)) return (enum dev_backend)i;
    return DEV_HOST;
}

enum status dev_open(const struct dev_options *o, struct dev **out) {
    *out = NULL;
    if ((unsigned)o->backend > DEV_CUDA) return TM_FAIL(TM_ERR_DECK, "device backend %d: unknown", (int)o->backend);
    if (o->threads < 0 || o->threads > THREADS_MAX)
        return TM_FAIL(TM_ERR_DECK, "device threads = %d: expected 0 (all) to %d", o->threads, THREADS_MAX);
    struct dev *d;
    TM_TRY(mem_alloc(&d, 1, sizeof *d));
    d->table = tables[o->backend];
    d->backend = o->backend;
    d->profile = o->profile;
    d->graphs = o->graphs && !o->profile && o->backend == DEV_CUDA;
    d->device = o->backend == DEV_CUDA ? o->device : 0;
    d->threads = o->threads ? o->threads : omp_get_max_threads();
    d->next = UINT64_C(1) << 40;
    dev_counters_reset(d);
    snprintf(d->describe, sizeof d->describe, "plan: no memory, no maths");
    enum status st = TM_OK;
    if (d->backend == DEV_CUDA) st = cuda_open(d, o->device, o->invariant);
    if (st == TM_OK && d->backend == DEV_CUDA) st = dev_account_libraries(d, o->invariant);
    if (d->backend == DEV_HOST || d->backend == DEV_GUARD) st = open_maths(d, o);
    if (st != TM_OK) dev_close(&d);
    *out = d;
    return st;
}

void dev_close(struct dev **d) {
    struct dev *x = *d;
    if (!x) return;
    for (size_t i = 0; i < x->blocks; i++) x->table->release(x, &x->block[i]);
    mem_free(&x->block);
    mem_free(&x->memory);
    mem_free(&x->scratch);
    cuda_close(x);
    if (x->gemm) host_gemm_close(&x->gemm);
    mem_free(d);
}

enum dev_backend dev_backend(const struct dev *d) { return d->backend; }
int dev_device(const struct dev *d) { return d->device; }
int dev_threads(const struct dev *d) { return d->threads; }
const char *dev_describe(const struct dev *d) { return d->describe; }

enum status dev_alloc(struct dev *d, const char *what, size_t bytes, dptr *out) {
    struct dev_block b = {.bytes = bytes ? bytes : 1}; /* an empty tensor has an address too: 0 means "not given" */
    out->a = 0;
    snprintf(b.what, sizeof b.what, "%s", what);
    int row;
    TM_TRY(mem_grow(&d->block, &d->block_cap, d->blocks + 1, sizeof *d->block));
    TM_TRY(dev_memory_row(d, b.what, &row));
    enum status st =
        fault_here("dev", "alloc") ? TM_FAIL(TM_ERR_MEMORY, "out of memory (on purpose)") : d->table->alloc(d, &b);
    if (st != TM_OK) return status_context(st, "%zu bytes of %s on the %s device: ", bytes, what, d->table->name);
    b.bytes = bytes;
    d->block[d->blocks++] = b;
    dev_memory_add(d, row, bytes);
    out->a = b.at;
    return TM_OK;
}

enum status dev_account(struct dev *d, const char *what, size_t bytes) {
    int row;
    TM_TRY(dev_memory_row(d, what, &row));
    dev_memory_add(d, row, bytes);
    return TM_OK;
}

enum status dev_account_libraries(struct dev *d, bool invariant) {
    return invariant ? TM_OK : dev_account(d, "cuBLASLt", OPS_GEMM_LT_WORK);
}

size_t dev_work(const struct dev *d) { return (size_t)d->work; }

enum status dev_reserve(struct dev *d, size_t bytes, size_t *had) {
    int row;
    if (had) *had = 0;
    if (!d->table->reserve) return TM_OK;
    TM_TRY(dev_memory_row(d, DEV_WORK, &row));
    dev_memory_take(d, row, dev_memory(d, row).now);
    TM_TRY(d->table->reserve(d, bytes, had));
    dev_memory_add(d, row, bytes);
    return TM_OK;
}

size_t dev_capacity(const struct dev *d) { return d->capacity; }

void dev_free(struct dev *d, dptr *p) {
    for (size_t i = 0; p->a && i < d->blocks; i++) {
        struct dev_block *b = &d->block[i];
        int row;
        if (b->at != p->a) continue;
        if (dev_memory_row(d, b->what, &row) == TM_OK) dev_memory_take(d, row, b->bytes); /* the row is there */
        d->table->release(d, b);
        *b = d->block[--d->blocks];
        break;
    }
    p->a = 0;
}

/* An error of a kernel stays. Said at once: other ranks may wait for this one until their deadline. */
static enum status lost(struct dev *d, enum status st) {
    if (st == TM_ERR_DEVICE && d->backend == DEV_CUDA && !d->lost)
        log_error("the device is lost: %s", status_message());
    d->lost |= st == TM_ERR_DEVICE;
    return st;
}

/* After a wait; a device tells only here that something queued before has failed: which operations that can have been. */
static enum status waited(struct dev *d, enum status st) {
    const int64_t n = d->queued;
    d->queued = 0;
    if (st != TM_ERR_DEVICE || n == 0) return st;
    status_context(st, "one of %lld operations from %s to %s (--profile tells which): ", (long long)n,
                   dev_op_name(d->first_queued), dev_op_name(d->last_queued));
    return lost(d, st);
}
static enum status queued(struct dev *d, enum status st) { return st == TM_OK ? st : waited(d, st); }

/* The block that holds all of [p, p + bytes). */
static enum status find_block(struct dev *d, const char *verb, dptr p, size_t bytes, struct dev_block **out) {
    for (size_t i = 0; i < d->blocks; i++) {
        struct dev_block *b = &d->block[i];
        uint64_t off = p.a - b->at;
        if (p.a < b->at || off > b->bytes) continue;
        if (bytes <= b->bytes - off) {
            *out = b;
            return TM_OK;
        }
        if (off < b->bytes)
            return TM_FAIL(TM_ERR_INTERNAL, "%s: %zu bytes at offset %llu of %s, which has %zu", verb, bytes,
                           (unsigned long long)off, b->what, b->bytes);
    }
    return TM_FAIL(TM_ERR_INTERNAL, "%s: %#llx is in no allocation of the %s device", verb, (unsigned long long)p.a,
                   d->table->name);
}

enum status dev_upload(struct dev *d, dptr dst, const void *src, size_t bytes) {
    struct dev_block *b;
    if (!bytes) return TM_OK;
    TM_TRY(find_block(d, "upload", dst, bytes, &b));
    return queued(d, d->table->upload(d, b, dst, src, bytes));
}
enum status dev_download(struct dev *d, void *dst, dptr src, size_t bytes) {
    struct dev_block *b;
    if (!bytes) return TM_OK;
    TM_TRY(find_block(d, "download", src, bytes, &b));
    return waited(d, d->table->download(d, b, dst, src, bytes));
}
enum status dev_fetch(struct dev *d, void *dst, dptr src, size_t bytes) {
    struct dev_block *b;
    if (!bytes) return TM_OK;
    TM_TRY(find_block(d, "fetch", src, bytes, &b));
    return queued(d, (d->table->fetch ? d->table->fetch : d->table->download)(d, b, dst, src, bytes));
}
enum status dev_map(struct dev *d, dptr p, size_t bytes, void **host) {
    struct dev_block *b;
    *host = NULL;
    TM_TRY(find_block(d, "map", p, bytes, &b));
    TM_TRY(waited(d, d->table->map(d, b, p, bytes, host)));
    b->mapped++;
    return TM_OK;
}
enum status dev_unmap(struct dev *d, dptr p, size_t bytes, void *host) {
    struct dev_block *b;
    TM_TRY(find_block(d, "unmap", p, bytes, &b));
    if (!b->mapped) return TM_FAIL(TM_ERR_INTERNAL, "unmap: %s is not mapped", b->what);
    b->mapped--;
    return d->table->unmap(d, b, p, bytes, host);
}
enum status dev_sync(struct dev *d) { return waited(d, d->table->sync ? d->table->sync(d) : TM_OK); }

static enum status count(struct dev *d, int op, const void *args, const struct dev_cost *cost, double began,
                         enum status st) {
    struct dev_counter *c = &d->counter[op];
    char shape[DEV_SHAPE];
    if (st == TM_OK && d->profile && !d->beside && d->table->sync)
        st = d->table->sync(d); /* what is queued has taken no time yet */
    if (st != TM_OK) {
        dev_op_shape(op, args, shape, sizeof shape);
        return lost(d, status_context(st, "operation %s (%s): ", dev_op_name(op), shape));
    }
    if (cost->work > d->work) d->work = cost->work;
    c->calls++;
    c->flops += cost->flops;
    c->bytes += cost->bytes;
    if (d->tell) d->tell(d->tell_context, op, cost->flops, cost->bytes);
    if (!d->queued++) d->first_queued = op;
    d->last_queued = op;
    if (d->backend == DEV_PLAN) return TM_OK;
    const double now = clock_seconds();
    c->seconds += now - began;
    span_add("op", c->name, began, now);
    return TM_OK;
}

#define OP(name, dims, flops, bytes, work, ...)                                   \
    enum status dev_##name(struct dev *d, const struct name##_args *a) {          \
        const double began = clock_seconds();                                     \
        struct dev_cost cost = {0};                                               \
        enum status st = d->table->name(d, a);                                    \
        if (st == TM_OK) cost = (struct dev_cost){flops, bytes, (int64_t)(work)}; \
        return count(d, OP_##name, a, &cost, began, st);                          \
    }
#include "dev/ops.def" // IWYU pragma: keep
#undef OP

struct dev_counter dev_counter(const struct dev *d, int op) {
    return op >= 0 && op < OP_COUNT ? d->counter[op] : (struct dev_counter){.name = "?"};
}
void dev_listen(struct dev *d, dev_listener tell, void *context) {
    d->tell = tell;
    d->tell_context = context;
}
void dev_counters_reset(struct dev *d) {
    for (int i = 0; i < OP_COUNT; i++) d->counter[i] = (struct dev_counter){.name = dev_op_name(i)};
}
