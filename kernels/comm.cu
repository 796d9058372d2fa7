/* Communicators between devices over NCCL: opening within a deadline, collectives that are exact in any order, messages and sums beside the queue.
 *
 * Communicators do not block: NCCL's own thread may still be at a call when it returns, and then nothing else may be queued, so every call
 * settles first. Bytes over the links for n bytes and P ranks: gather n (P - 1) received by each, bcast n, sums and maxima 2 n (P - 1) / P.
 * The maxima pass twice over the memory (16 bytes an element, argmax 32): at P = 8 on NVLink a third of what the links take (7 and 14 bytes). */
#include "comm.h"

#if TEMPER_NCCL
#include <atomic>
#include <cstring>
#include <ctime>
#include <sched.h>
#include <vector>

#include "base/status.h"

/* Thread blocks of a transfer beside the queue: enough for 100 GB/s, and a tenth of the device while it waits for its peer. */
enum { SIDE_BLOCKS = 8 };
/* The priority of sums beside the queue, clamped to the highest: few blocks, which other ranks wait for. They go in where a block of an operation
 * ends; blocks of all communicators together (at most 32 each, and SIDE_BLOCKS) find room on a device of 108 multiprocessors and more. */
enum { FIRST = -100 };
static_assert(sizeof(ncclUniqueId) == CUDA_COMM_ID, "the size of NCCL's id");

struct cuda_comm {
    struct cuda_gpu *gpu;
    ncclComm_t nccl;
    double deadline;
    bool grouped; /* between group_begin and group_end */
    void *scratch;
    size_t scratch_bytes;
    cudaStream_t side, queue; /* of comm_start and comm_beside; the device's own while the other is in its place */
    cudaEvent_t here, done;   /* where comm_beside began, where what it queued ends */
    bool timed;
    std::vector<cudaEvent_t> times; /* timed: two for each stretch */
    size_t stretches;
    std::vector<cudaEvent_t> spare; /* tickets that came back */
    /* Read by the watchdog's thread: */
    cudaEvent_t last;          /* behind the last transfer */
    std::atomic<double> since; /* when that was queued; 0 = none was */
    std::atomic<bool> aborted;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int failed(struct cuda_comm *c, ncclResult_t r, const char *what) {
    const char *more = ncclGetLastError(c ? c->nccl : nullptr);
    return gpu_fail(TM_ERR_COMM, "NCCL: %s: %s%s%s", what, ncclGetErrorString(r), more && *more ? ": " : "",
                    more ? more : "");
}

/* Waits until NCCL has done with a call. */
static int settle(struct cuda_comm *c, ncclResult_t r, const char *what) {
    double begin = now();
    while (r == ncclInProgress) {
        if (c->aborted) return gpu_fail(TM_ERR_COMM, "NCCL: %s: ended from outside", what);
        if (c->deadline > 0 && now() - begin > c->deadline)
            return gpu_fail(TM_ERR_TIMEOUT, "NCCL: %s is not done after %g s: a rank of it is gone or late", what,
                            c->deadline);
        sched_yield();
        ncclResult_t asked = ncclCommGetAsyncError(c->nccl, &r);
        if (asked != ncclSuccess) r = asked;
    }
    return r == ncclSuccess ? 0 : failed(c, r, what);
}

/* For comm_poll: `stream` now ends with a transfer. */
static int mark(struct cuda_comm *c, cudaStream_t stream) {
    GPU_TRY(gpu_check(cudaEventRecord(c->last, stream), "marking a transfer"));
    c->since = now();
    return 0;
}

/* After an NCCL call on the device's stream. */
static int queued(struct cuda_comm *c, ncclResult_t r, const char *what) {
    if (c->grouped) return r == ncclSuccess || r == ncclInProgress ? 0 : failed(c, r, what);
    GPU_TRY(settle(c, r, what));
    return mark(c, c->gpu->stream);
}

/* --- opening and ending ----------------------------------------------------------------------------------------------------- */
int comm_id(void *id) {
    ncclUniqueId made;
    ncclResult_t r = ncclGetUniqueId(&made);
    if (r != ncclSuccess) return failed(nullptr, r, "making an id");
    memcpy(id, &made, sizeof made);
    return 0;
}

static int make_event(cudaEvent_t *out) {
    return gpu_check(cudaEventCreateWithFlags(out, cudaEventDisableTiming), "making an event");
}

static int join(struct cuda_comm *c, const struct cuda_comm_options *o) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    memcpy(&id, o->id, sizeof id);
    config.blocking = 0;
    if (o->side) config.maxCTAs = SIDE_BLOCKS;
    GPU_TRY(gpu_check(cudaSetDevice(c->gpu->device), "choosing a device"));
    GPU_TRY(settle(c, ncclCommInitRankConfig(&c->nccl, o->ranks, id, o->rank, &config), "joining a communicator"));
    GPU_TRY(make_event(&c->last));
    if (o->side) return gpu_check(cudaStreamCreateWithFlags(&c->side, cudaStreamNonBlocking), "making a stream");
    GPU_TRY(make_event(&c->here));
    GPU_TRY(make_event(&c->done));
    GPU_TRY(gpu_check(cudaStreamCreateWithPriority(&c->side, cudaStreamNonBlocking, FIRST), "making a stream"));
    GPU_TRY(gpu_check(cudaMalloc(&c->scratch, o->scratch), "allocating a communicator's memory"));
    c->scratch_bytes = o->scratch;
    return 0;
}

int comm_open(struct cuda_gpu *g, const struct cuda_comm_options *o, struct cuda_comm **out) {
    struct cuda_comm *c = new cuda_comm();
    c->gpu = g;
    c->deadline = o->deadline_s;
    c->timed = o->timed;
    int st = join(c, o);
    if (st) {
        (void)comm_abort(c);
        comm_close(c);
        c = nullptr;
    }
    *out = c;
    return st;
}

void comm_close(struct cuda_comm *c) {
    if (c->nccl && !c->aborted) {
        if (settle(c, ncclCommFinalize(c->nccl), "ending a communicator") == 0) {
            (void)ncclCommDestroy(c->nccl);
        } else {
            (void)comm_abort(c);
        }
    }
    for (cudaEvent_t e : c->spare) (void)cudaEventDestroy(e);
    for (cudaEvent_t e : c->times) (void)cudaEventDestroy(e);
    for (cudaEvent_t e : {c->last, c->here, c->done})
        if (e) (void)cudaEventDestroy(e);
    if (c->side) (void)cudaStreamDestroy(c->side);
    if (c->scratch) (void)cudaFree(c->scratch);
    delete c;
}

int comm_abort(struct cuda_comm *c) {
    if (c->aborted.exchange(true) || !c->nccl) return 0;
    GPU_TRY(gpu_check(cudaSetDevice(c->gpu->device), "choosing a device"));
    ncclResult_t r = ncclCommAbort(c->nccl);
    return r == ncclSuccess || r == ncclInProgress ? 0 : failed(nullptr, r, "aborting");
}

int comm_poll(struct cuda_comm *c, double *seconds) {
    ncclResult_t r = ncclSuccess;
    *seconds = 0;
    if (c->aborted) return 0;
    GPU_TRY(gpu_check(cudaSetDevice(c->gpu->device), "choosing a device")); /* else a new thread opens device 0 */
    ncclResult_t asked = ncclCommGetAsyncError(c->nccl, &r);
    if (asked != ncclSuccess) r = asked;
    if (r != ncclSuccess && r != ncclInProgress) return failed(c, r, "a transfer");
    double since = c->since;
    if (since == 0) return 0;
    cudaError_t e = cudaEventQuery(c->last);
    if (e == cudaErrorNotReady) {
        *seconds = now() - since;
        return 0;
    }
    return gpu_check(e, "a transfer");
}

int comm_scratch(struct cuda_comm *c, uint64_t *at, size_t *bytes) {
    *at = (uint64_t)(uintptr_t)c->scratch;
    *bytes = c->scratch_bytes;
    return 0;
}

/* --- collectives and messages, queued ----------------------------------------------------------------------------------------- */
static void *memory(uint64_t x) { return reinterpret_cast<void *>(x); }

int comm_group_begin(struct cuda_comm *c) {
    ncclResult_t r = ncclGroupStart();
    if (r != ncclSuccess) return failed(c, r, "beginning a group");
    c->grouped = true;
    return 0;
}
int comm_group_end(struct cuda_comm *c) {
    c->grouped = false;
    return queued(c, ncclGroupEnd(), "messages");
}
int comm_send(struct cuda_comm *c, uint64_t x, size_t bytes, int to) {
    return queued(c, ncclSend(memory(x), bytes, ncclInt8, to, c->nccl, c->gpu->stream), "send");
}
int comm_recv(struct cuda_comm *c, uint64_t x, size_t bytes, int from) {
    return queued(c, ncclRecv(memory(x), bytes, ncclInt8, from, c->nccl, c->gpu->stream), "receive");
}
int comm_gather(struct cuda_comm *c, uint64_t mine, uint64_t out, size_t bytes) {
    return queued(c, ncclAllGather(memory(mine), memory(out), bytes, ncclInt8, c->nccl, c->gpu->stream), "all-gather");
}
int comm_bcast(struct cuda_comm *c, uint64_t x, size_t bytes, int root) {
    return queued(c, ncclBroadcast(memory(x), memory(x), bytes, ncclInt8, root, c->nccl, c->gpu->stream), "broadcast");
}

static int all_reduce(struct cuda_comm *c, void *x, int64_t n, ncclDataType_t type, ncclRedOp_t op) {
    return queued(c, ncclAllReduce(x, x, (size_t)n, type, op, c->nccl, c->gpu->stream), "all-reduce");
}
int comm_sum_one_nonzero(struct cuda_comm *c, uint64_t x, int64_t n) {
    return all_reduce(c, memory(x), n, ncclFloat32, ncclSum);
}

/* The order of floats as one of integers, NaN on top (it comes back as NaN). Its own inverse. */
static __device__ int32_t ordered(int32_t bits) { return bits >= 0 ? bits : bits ^ INT32_MAX; }
static __device__ int32_t key_of(int32_t bits) { return (bits & INT32_MAX) > 0x7f800000 ? INT32_MAX : ordered(bits); }

static __global__ void max_keys_k(int32_t *x, int64_t n) { GPU_EACH(i, n) x[i] = key_of(x[i]); }
static __global__ void max_values_k(int32_t *x, int64_t n) { GPU_EACH(i, n) x[i] = ordered(x[i]); }
int comm_max(struct cuda_comm *c, uint64_t x, int64_t n) {
    cudaStream_t s = c->gpu->stream;
    int32_t *bits = (int32_t *)memory(x);
    LAUNCH(max_keys_k, gpu_blocks(n, GPU_THREADS), GPU_THREADS, 0, s, bits, n);
    GPU_TRY(gpu_launched("max"));
    GPU_TRY(all_reduce(c, bits, n, ncclInt32, ncclMax));
    LAUNCH(max_values_k, gpu_blocks(n, GPU_THREADS), GPU_THREADS, 0, s, bits, n);
    return gpu_launched("max");
}

/* One 64-bit maximum per row: the value's order above, the complement of the index below. */
static __global__ void argmax_keys_k(const int32_t *value, const int32_t *index, int64_t *key, int64_t n) {
    GPU_EACH(i, n) {
        int32_t bits = value[i] == INT32_MIN ? 0 : value[i]; /* -0 becomes +0 */
        key[i] = (int64_t)key_of(bits) * ((int64_t)1 << 32) + (UINT32_MAX - (uint32_t)index[i]);
    }
}
static __global__ void argmax_values_k(int32_t *value, int32_t *index, const int64_t *key, int64_t n) {
    GPU_EACH(i, n) {
        uint64_t bits = (uint64_t)key[i];
        value[i] = ordered((int32_t)(bits >> 32));
        index[i] = (int32_t)(UINT32_MAX - (uint32_t)bits);
    }
}
int comm_argmax(struct cuda_comm *c, uint64_t value, uint64_t index, int64_t n) {
    cudaStream_t s = c->gpu->stream;
    int32_t *v = (int32_t *)memory(value), *i = (int32_t *)memory(index);
    void *key;
    GPU_TRY(gpu_work(c->gpu, (size_t)n * 8, &key));
    LAUNCH(argmax_keys_k, gpu_blocks(n, GPU_THREADS), GPU_THREADS, 0, s, v, i, (int64_t *)key, n);
    GPU_TRY(gpu_launched("argmax"));
    GPU_TRY(all_reduce(c, key, n, ncclInt64, ncclMax));
    LAUNCH(argmax_values_k, gpu_blocks(n, GPU_THREADS), GPU_THREADS, 0, s, v, i, (const int64_t *)key, n);
    return gpu_launched("argmax");
}

/* --- messages beside the queue -------------------------------------------------------------------------------------------------- */
static int take_event(struct cuda_comm *c, cudaEvent_t *out) {
    if (c->spare.empty()) return make_event(out);
    *out = c->spare.back();
    c->spare.pop_back();
    return 0;
}

int comm_start(struct cuda_comm *c, int send, uint64_t x, size_t bytes, int peer, void **ticket) {
    cudaEvent_t e;
    *ticket = nullptr;
    if (bytes == 0) return 0;
    GPU_TRY(take_event(c, &e));
    *ticket = e;
    GPU_TRY(gpu_check(cudaEventRecord(e, c->gpu->stream), "marking the queue"));
    GPU_TRY(gpu_check(cudaStreamWaitEvent(c->side, e, 0), "waiting beside the queue"));
    ncclResult_t r = send ? ncclSend(memory(x), bytes, ncclInt8, peer, c->nccl, c->side)
                          : ncclRecv(memory(x), bytes, ncclInt8, peer, c->nccl, c->side);
    GPU_TRY(settle(c, r, send ? "send" : "receive"));
    GPU_TRY(gpu_check(cudaEventRecord(e, c->side), "marking a message"));
    return mark(c, c->side);
}

int comm_wait(struct cuda_comm *c, void *ticket) {
    if (!ticket) return 0;
    cudaEvent_t e = (cudaEvent_t)ticket;
    c->spare.push_back(e);
    return gpu_check(cudaStreamWaitEvent(c->gpu->stream, e, 0), "waiting for a message");
}

/* --- sums beside the queue ------------------------------------------------------------------------------------------------------- */
/* The beginning or the end of a stretch, where times are wanted. */
static int mark_time(struct cuda_comm *c, size_t i) {
    if (!c->timed) return 0;
    if (i == c->times.size()) {
        cudaEvent_t e;
        GPU_TRY(gpu_check(cudaEventCreate(&e), "making an event"));
        c->times.push_back(e);
    }
    return gpu_check(cudaEventRecord(c->times[i], c->side), "marking a time");
}

static int leave_queue(struct cuda_comm *c) {
    GPU_TRY(gpu_check(cudaEventRecord(c->here, c->gpu->stream), "marking the queue"));
    GPU_TRY(gpu_check(cudaStreamWaitEvent(c->side, c->here, 0), "waiting beside the queue"));
    GPU_TRY(mark_time(c, 2 * c->stretches));
    c->queue = c->gpu->stream;
    c->gpu->stream = c->side;
    return 0;
}

int comm_beside(struct cuda_comm *c, int on) {
    if (on) return leave_queue(c);
    c->gpu->stream = c->queue;
    GPU_TRY(mark_time(c, 2 * c->stretches + 1));
    c->stretches += c->timed;
    return gpu_check(cudaEventRecord(c->done, c->side), "marking a sum");
}

int comm_join(struct cuda_comm *c) {
    return gpu_check(cudaStreamWaitEvent(c->gpu->stream, c->done, 0), "waiting for a sum");
}

int comm_times(struct cuda_comm *c, double (*times)[2], int most, int *n) {
    *n = (size_t)most < c->stretches ? most : (int)c->stretches;
    c->stretches = 0;
    GPU_TRY(gpu_check(cudaEventSynchronize(c->done), "waiting for sums"));
    for (int i = 0; i < 2 * *n; i++) {
        float ms;
        GPU_TRY(gpu_check(cudaEventElapsedTime(&ms, c->times[0], c->times[(size_t)i]), "asking for a time"));
        times[i / 2][i % 2] = 1e-3 * (double)ms;
    }
    return 0;
}
#endif
