/* A device: memory that host code may not touch, a queue of operations, and the table of operations of its backend.
 *
 * The operations are the rows of ops.def. Backends: `host` (the reference: it defines the numbers), `guard` (the host's maths over
 * memory that is unreadable outside an operation: it stands in for a GPU in tests), `plan` (no memory, no maths: counts FLOPs, bytes
 * and calls) and `cuda` (a plugin). All functions here are Local. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dev/ops.h"

struct dev;

enum dev_backend { DEV_HOST, DEV_GUARD, DEV_PLAN, DEV_CUDA };

struct dev_options {
    enum dev_backend backend;
    int threads;        /* OpenMP threads of this rank; 0 = all the process may use */
    int device;         /* cuda: which of dev_cuda_devices */
    bool invariant;     /* the GEMM keeps the leaf definition (one FMA chain); false: the fastest kernel there is */
    bool graphs;        /* cuda: what lies between dev_graph_begin and _end is recorded and run again as one */
    bool profile;       /* an operation is done when it returns: its counter has the device's seconds */
    const char *kernel; /* NULL = best for this CPU; "portable", "avx2", "avx512": for tests */
};

enum status dev_open(const struct dev_options *o, struct dev **out);
void dev_close(struct dev **d);
/* How many devices the CUDA plugin can serve here, at least 1; fails with the reason where there is none. */
enum status dev_cuda_devices(int *n);
enum dev_backend dev_backend(const struct dev *d);
enum dev_backend
dev_backend_named(const char *name);           /* "host", "guard", "plan", "cuda"; NULL or another word: DEV_HOST */
int dev_device(const struct dev *d);           /* cuda: its number; else 0 */
int dev_threads(const struct dev *d);          /* OpenMP threads that its operations use */
const char *dev_describe(const struct dev *d); /* one line for the log: backend, kernel, threads, which GEMM serves */

/* Memory. Zero-filled. `what` names the class in messages and in the plan (weights, gradients, optimizer, activations, ...). */
enum status dev_alloc(struct dev *d, const char *what, size_t bytes, dptr *out);
void dev_free(struct dev *d, dptr *p);                   /* p from dev_alloc; sets *p to 0 */
size_t dev_bytes(const struct dev *d, const char *what); /* allocated now, of one class or (NULL) of all */
/* Memory that something beside dev_alloc takes: counted under `what`. */
enum status dev_account(struct dev *d, const char *what, size_t bytes);
/* What libraries take on a GPU: on a cuda device it is counted from its opening, on another (a plan's) with this. */
enum status dev_account_libraries(struct dev *d, bool invariant);
/* Work space of the kernels, a class of its own: what the operations have wanted at once so far, at most; and exactly `bytes` of it from here on,
 * so that no operation that wants no more allocates (cuda; nothing elsewhere). *had (may be NULL): what there was, with what operations took
 * by themselves. Waits for what was queued. Errors: MEMORY, DEVICE. */
#define DEV_WORK "work space"
size_t dev_work(const struct dev *d);
enum status dev_reserve(struct dev *d, size_t bytes, size_t *had);
size_t dev_capacity(const struct dev *d); /* cuda: bytes that were free when it was opened; else 0: unknown */
/* The same as a table, with the most there was since dev_memory_reset: row 0 is the sum of all classes ("all", whose high is that of
 * the sum), then the classes in the order of their first use. A plan and a run of one stage give equal tables. */
struct dev_memory {
    char what[32];
    size_t now, high;
};
int dev_memory_count(const struct dev *d);
struct dev_memory dev_memory(const struct dev *d, int row); /* zero beyond the last row */
void dev_memory_reset(struct dev *d);                       /* high = now, classes without memory are forgotten */
/* Copies between device and host memory, in the order of what is queued. An upload may return before it is done: src may change then. A download
 * waits for it and for all before it. What is fetched is in dst after the next dev_sync or dev_download. */
enum status dev_upload(struct dev *d, dptr dst, const void *src, size_t bytes);
enum status dev_download(struct dev *d, void *dst, dptr src, size_t bytes);
enum status dev_fetch(struct dev *d, void *dst, dptr src, size_t bytes);
enum status dev_sync(struct dev *d);
/* Host access to device memory for the message-passing room (host and guard: the memory itself, made accessible; other backends
 * stage). Every begin needs its end. */
enum status dev_map(struct dev *d, dptr p, size_t bytes, void **host);
enum status dev_unmap(struct dev *d, dptr p, size_t bytes, void *host);

/* What has run so far, by operation: for --profile, the plan and the tests. */
struct dev_counter {
    const char *name;
    int64_t calls;
    double flops, bytes, seconds; /* model FLOPs and bytes moved by the row's formulas; wall time (0 under plan) */
};
int dev_op_count(void);
const char *dev_op_name(int op); /* "?": there is none */
struct dev_counter dev_counter(const struct dev *d, int op);
void dev_counters_reset(struct dev *d);
/* Every operation from now on is told with its FLOPs and bytes: a plan's record of what a rank does. tell NULL: to nobody. */
typedef void (*dev_listener)(void *context, int op, double flops, double bytes);
void dev_listen(struct dev *d, dev_listener tell, void *context);

/* A row of ops.def. The formulas are its C text, of the fields of the args struct `a`. */
struct dev_cost {
    double flops, bytes;
    int64_t work; /* bytes of device memory that the kernels take while it runs, at most */
};
enum { DEV_SHAPE = 96 };
struct dev_op {
    const char *name, *flops, *bytes, *doc;
    double bound, bound_bf16; /* NMSE of cuda against the host; 0: the same bits; bf16 -1: there is no such form */
    char shape[DEV_SHAPE];    /* of one call, "m=2048 n=14336 k=4096" */
    struct dev_cost cost;     /* of that call */
};
struct dev_op dev_op(int op);

/* A stretch of operations that is done many times with the same arguments. begin: *done says that it was queued as one, as it was recorded; else
 * do it, and say end with its outcome. The first time it runs as it is, so that work space grows; the second time it is recorded, which
 * allows operations only: no copies from or to the host, no allocation. *g is NULL before the first time, and stays it where the device makes no graphs
 * (dev_options.graphs, profile). Counters count what a graph does. */
struct dev_graph;
enum status dev_graph_begin(struct dev *d, struct dev_graph **g, bool *done);
enum status dev_graph_end(struct dev *d, struct dev_graph *g, enum status outcome);
void dev_graph_free(struct dev_graph **g);   /* before its device is closed */
int64_t dev_graph_runs(const struct dev *d); /* how many stretches were queued as one */
bool dev_records(const struct dev *d);       /* whether it makes graphs */

/* The operations: enum status dev_<op>(struct dev *d, const struct <op>_args *a). They may return before the work is done
 * (errors of a device then come at dev_sync). */
#define OP(name, ...) enum status dev_##name(struct dev *d, const struct name##_args *a);
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
