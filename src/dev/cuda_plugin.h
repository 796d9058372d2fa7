/* What temper and its CUDA plugin (libtemper_cuda.so, built from kernels/) say to each other: one table of functions, in C.
 *
 * The main program links no CUDA library. dev/cuda.c finds the plugin, compares `abi` with its own and uses the table; the same sources
 * compiled over kernels/emu give a plugin that runs on the CPU. Functions return 0 or a number of base/status.def (an enum status); then
 * `error` has one line. They are called by one thread of a rank at a time, but for `comm_abort` and `comm_poll`, which the watchdog calls. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "dev/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_gpu;   /* one opened device with its stream, work space and staging buffers */
struct cuda_comm;  /* one communicator of the device's own (NCCL) */
struct cuda_graph; /* a stretch of queued operations */

enum { CUDA_COMM_ID = 128, CUDA_TEXT = 256 };

/* One device as the driver lists it. */
struct cuda_info {
    char name[96];
    char pci[32];     /* "0000:17:00.0" */
    int major, minor; /* compute capability */
    int multiprocessors;
    uint64_t memory, free_memory; /* bytes */
};

struct cuda_comm_options {
    const void *id; /* CUDA_COMM_ID bytes */
    int ranks, rank;
    size_t scratch;    /* bytes of device memory that comes with it */
    int side;          /* for comm_start alone: leave most of the device to the operations */
    int timed;         /* comm_times serves */
    double deadline_s; /* of making and of ending it; 0 = none */
};

struct cuda_plugin {
    const char *abi;      /* TEMPER_CUDA_ABI of the build */
    const char *describe; /* "CUDA 13.0, sm_80 sm_90a; cuBLASLt 13.1; NCCL 2.28.9" or "emulated on the CPU" */
    const char *(*error)(void);
    int (*devices)(int *n); /* fails, with the driver's reason, where there is none */
    int (*info)(int device, struct cuda_info *out);
    /* invariant: products keep the leaf definition of ops.h, bit for bit; else the fastest there is. */
    int (*open)(int device, int invariant, struct cuda_gpu **out);
    void (*close)(struct cuda_gpu *g);

    /* Device memory, zero-filled, 256-byte aligned; pinned host memory. */
    int (*alloc)(struct cuda_gpu *g, size_t bytes, uint64_t *at);
    int (*release)(struct cuda_gpu *g, uint64_t at);
    int (*host_alloc)(struct cuda_gpu *g, size_t bytes, void **out);
    int (*host_release)(struct cuda_gpu *g, void *p);
    /* Copies, queued. `from` of an upload may change when it returns; a download waits; what is fetched is there after the next wait. */
    int (*upload)(struct cuda_gpu *g, uint64_t to, const void *from, size_t bytes);
    int (*download)(struct cuda_gpu *g, void *to, uint64_t from, size_t bytes);
    int (*fetch)(struct cuda_gpu *g, void *to, uint64_t from, size_t bytes);
    int (*sync)(struct cuda_gpu *g); /* waits, and tells errors of what was queued */
    /* Exactly `bytes` of work space for the kernels, instead of what there was; operations that want more take it by themselves. had
     * (or NULL): what there was. Waits. */
    int (*reserve)(struct cuda_gpu *g, size_t bytes, size_t *had);

    /* From graph_begin on operations are recorded and not queued; nothing else may be called until graph_end, which takes them (out NULL:
     * drops them). graph_run queues them as one, with the arguments that they had: *ran is 0 where it cannot any more, because work space was
     * moved since; then record them again. */
    int (*graph_begin)(struct cuda_gpu *g);
    int (*graph_end)(struct cuda_gpu *g, struct cuda_graph **out);
    int (*graph_run)(struct cuda_gpu *g, struct cuda_graph *x, int *ran);
    void (*graph_close)(struct cuda_graph *x);

    /* Communicators of the devices' own, between ranks with a device each. All entries are null in a plugin without NCCL.
     * comm_open is collective over the ranks of `id`, which one of them made; the calls that queue are made by all in the same order. */
    int (*comm_id)(void *id);
    int (*comm_open)(struct cuda_gpu *g, const struct cuda_comm_options *o, struct cuda_comm **out);
    void (*comm_close)(struct cuda_comm *c); /* waits for what was queued, or gives up at the deadline */
    /* From any thread: end it, so that a transfer that waits for a lost peer ends too; and tell errors that came after the call, and
     * for how many seconds the last transfer has been queued and is not done (0: it is). */
    int (*comm_abort)(struct cuda_comm *c);
    int (*comm_poll)(struct cuda_comm *c, double *seconds);
    int (*comm_scratch)(struct cuda_comm *c, uint64_t *at, size_t *bytes);
    /* Queued on the device's stream. Sends and receives between group_begin and group_end go together. */
    int (*comm_group_begin)(struct cuda_comm *c);
    int (*comm_group_end)(struct cuda_comm *c);
    int (*comm_send)(struct cuda_comm *c, uint64_t x, size_t bytes, int to);
    int (*comm_recv)(struct cuda_comm *c, uint64_t x, size_t bytes, int from);
    int (*comm_gather)(struct cuda_comm *c, uint64_t mine, uint64_t out,
                       size_t bytes); /* of each; mine may lie in out */
    int (*comm_bcast)(struct cuda_comm *c, uint64_t x, size_t bytes, int root);
    int (*comm_sum_one_nonzero)(struct cuda_comm *c, uint64_t x, int64_t n); /* float: one term that is not zero */
    int (*comm_max)(struct cuda_comm *c, uint64_t x, int64_t n);             /* float, NaN wins */
    int (*comm_argmax)(struct cuda_comm *c, uint64_t value, uint64_t index, int64_t n); /* as par_argmax */
    /* A transfer beside the device's stream: it begins after what is queued there now; comm_wait lets what is queued there later
     * wait for it, and takes *ticket back. */
    int (*comm_start)(struct cuda_comm *c, int send, uint64_t x, size_t bytes, int peer, void **ticket);
    int (*comm_wait)(struct cuda_comm *c, void *ticket);
    /* Operations and calls of this communicator between comm_beside(c, 1) and comm_beside(c, 0) run beside the device's stream: after what is
     * queued there now, and after those of the time before. They want no work space, and no copy from or to the host is among them. comm_join
     * lets what is queued on the device's stream from now on wait for all of them. comm_times (timed, after comm_join) waits for the
     * device: *n stretches, when each began and ended, in seconds from the beginning of the first. */
    int (*comm_beside)(struct cuda_comm *c, int on);
    int (*comm_join)(struct cuda_comm *c);
    int (*comm_times)(struct cuda_comm *c, double (*times)[2], int most, int *n);

/* The operations of ops.def: queued. */
#define OP(name, ...) int (*name)(struct cuda_gpu * g, const struct name##_args *a);
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
};

/* The one exported function. */
#define CUDA_PLUGIN_ENTRY "temper_cuda_plugin"
typedef const struct cuda_plugin *cuda_plugin_entry(void);

#ifdef __cplusplus
}
#endif
