/* What is inside a device, for the backends: its memory blocks, counters and table of functions. Others see dev.h only. */
#pragma once

#include "dev/dev.h"

enum {
#define OP(name, ...) OP_##name,
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
    OP_COUNT
};

/* One allocation. Addresses inside it ([at, at + bytes)) are what callers pass. */
struct dev_block {
    char what[32];
    uint64_t at;
    size_t bytes;
    void *base; /* the backend's: what it must give back */
    size_t base_bytes;
    int mapped; /* dev_map minus dev_unmap */
};

/* What a backend provides. Ranges were checked to lie in the block. */
struct dev_table {
    const char *name;
    enum status (*alloc)(struct dev *d, struct dev_block *b); /* sets at, base, base_bytes; `bytes` is at least 1 */
    void (*release)(struct dev *d, struct dev_block *b);
    enum status (*upload)(struct dev *d, struct dev_block *b, dptr dst, const void *src, size_t bytes);
    enum status (*download)(struct dev *d, struct dev_block *b, void *dst, dptr src, size_t bytes);
    enum status (*fetch)(struct dev *d, struct dev_block *b, void *dst, dptr src, size_t bytes); /* NULL: download */
    enum status (*map)(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void **host);
    enum status (*unmap)(struct dev *d, struct dev_block *b, dptr p, size_t bytes,
                         void *host);                                 /* b->mapped says how many are left */
    enum status (*sync)(struct dev *d);                               /* NULL: an operation is done when it returns */
    enum status (*reserve)(struct dev *d, size_t bytes, size_t *had); /* NULL: no work space */
#define OP(name, ...) enum status (*name)(struct dev * d, const struct name##_args *a);
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
};

/* cuda: pinned host memory for one map. */
struct dev_staging {
    void *p;
    size_t bytes;
    bool used;
};

extern const struct dev_table dev_host, dev_guard, dev_plan, dev_cuda;

struct dev {
    const struct dev_table *table;
    enum dev_backend backend;
    int threads, device;
    bool profile, graphs; /* see dev_options */
    int64_t graph_runs;
    struct host_gemm *gemm;  /* host and guard */
    const struct leaf *leaf; /* host and guard */
    struct dev_block *block;
    size_t blocks, block_cap;
    struct dev_memory *memory; /* row 0: all */
    int memories;
    size_t memory_cap;
    void *scratch; /* host and guard: work space of the threads, see host_scratch */
    size_t scratch_bytes;
    struct cuda_gpu *gpu; /* cuda, as the next three */
    struct dev_staging *staging;
    size_t stagings, staging_cap;
    char address[32]; /* on the PCI bus */
    uint64_t next;    /* plan: the next address */
    size_t capacity;  /* cuda: free when it was opened */
    int64_t work;     /* the most that an operation has wanted */
    int64_t queued;   /* operations since the last wait */
    int first_queued, last_queued;
    bool beside; /* what is queued now runs beside the rest: nobody waits for it */
    bool lost;   /* an error of the device was told */
    struct dev_counter counter[OP_COUNT];
    dev_listener tell; /* NULL: nobody */
    void *tell_context;
    char describe[256];
};

/* cuda.c: the plugin, once it is loaded. */
const struct cuda_plugin *cuda_plugin(void);
/* cuda.c: open device number `device` for d, and close it. */
enum status cuda_open(struct dev *d, int device, bool invariant);
void cuda_close(struct dev *d);

/* ops.c: the shape of a call in words. */
void dev_op_shape(int op, const void *args, char *out, size_t size);

/* memory.c: the row of a class, made when it is new; count an allocation and a release of it. */
enum status dev_memory_row(struct dev *d, const char *what, int *out);
void dev_memory_add(struct dev *d, int row, size_t bytes);
void dev_memory_take(struct dev *d, int row, size_t bytes);
