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
/* The same as a table, with the most there was since dev_memory_reset: row 0 is the sum of all classes ("all", whose high is that of
 * the sum), then the classes in the order of their first use. A plan and a run of one stage give equal tables. */
struct dev_memory {
    char what[32];
    size_t now, high;
};
int dev_memory_count(const struct dev *d);
struct dev_memory dev_memory(const struct dev *d, int row); /* zero beyond the last row */
void dev_memory_reset(struct dev *d);                       /* high = now, classes without memory are forgotten */
/* Copies between device and host memory; they wait for what was queued before. */
enum status dev_upload(struct dev *d, dptr dst, const void *src, size_t bytes);
enum status dev_download(struct dev *d, void *dst, dptr src, size_t bytes);
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
const char *dev_op_name(int op);
struct dev_counter dev_counter(const struct dev *d, int op);
void dev_counters_reset(struct dev *d);
/* Every operation from now on is told with its FLOPs and bytes: a plan's record of what a rank does. tell NULL: to nobody. */
typedef void (*dev_listener)(void *context, int op, double flops, double bytes);
void dev_listen(struct dev *d, dev_listener tell, void *context);

/* The operations: enum status dev_<op>(struct dev *d, const struct <op>_args *a). They may return before the work is done
 * (errors of a device then come at dev_sync). */
#define OP(name, flops, bytes, doc) enum status dev_##name(struct dev *d, const struct name##_args *a);
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
