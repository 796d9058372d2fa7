/* The plugin's table: devices, memory, copies, and the operations of the other files. */
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "base/status.h"
#include "comm.h"
#include "gpu.h"

static thread_local char last_error[CUDA_TEXT];

int gpu_fail(int status, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(last_error, sizeof last_error, format, ap);
    va_end(ap);
    return status;
}
int gpu_check(cudaError_t e, const char *what) {
    if (e == cudaSuccess) return 0;
    int status = e == cudaErrorMemoryAllocation ? TM_ERR_MEMORY : TM_ERR_DEVICE;
    return gpu_fail(status, "%s: %s (cuda error %d)", what, cudaGetErrorString(e), (int)e);
}
static const char *error(void) { return last_error; }

static int devices(int *n) { return gpu_check(cudaGetDeviceCount(n), "counting devices"); }

static int info(int device, struct cuda_info *out) {
    cudaDeviceProp p;
    size_t free_bytes = 0, all = 0;
    memset(out, 0, sizeof *out);
    GPU_TRY(gpu_check(cudaGetDeviceProperties(&p, device), "asking for a device's properties"));
    GPU_TRY(gpu_check(cudaSetDevice(device), "choosing a device"));
    GPU_TRY(gpu_check(cudaMemGetInfo(&free_bytes, &all), "asking for a device's memory"));
    snprintf(out->name, sizeof out->name, "%.95s", p.name);
    snprintf(out->pci, sizeof out->pci, "%04x:%02x:%02x.0", p.pciDomainID, p.pciBusID, p.pciDeviceID);
    out->major = p.major;
    out->minor = p.minor;
    out->multiprocessors = p.multiProcessorCount;
    out->memory = all;
    out->free_memory = free_bytes;
    return 0;
}

static void close_gpu(struct cuda_gpu *g) {
    if (!g) return;
    gpu_gemm_close(g);
    if (g->staging) (void)cudaFreeHost(g->staging);
    if (g->work) (void)cudaFree(g->work);
    if (g->stream) (void)cudaStreamDestroy(g->stream);
    delete g;
}

static int open_gpu(int device, int invariant, struct cuda_gpu **out) {
    struct cuda_gpu *g = new cuda_gpu();
    *out = nullptr;
    g->device = device;
    g->invariant = invariant;
    int st = gpu_check(cudaSetDevice(device), "choosing a device");
    if (!st) st = gpu_check(cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "making a stream");
    if (!st) st = gpu_check(cudaHostAlloc(&g->staging, GPU_STAGING, cudaHostAllocDefault), "allocating staging memory");
    if (st) {
        close_gpu(g);
        return st;
    }
    *out = g;
    return 0;
}

int gpu_work(struct cuda_gpu *g, size_t bytes, void **out) {
    if (bytes > g->work_bytes) {
        GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "waiting to grow work space"));
        if (g->work) GPU_TRY(gpu_check(cudaFree(g->work), "releasing work space"));
        g->work = nullptr;
        g->work_bytes = 0;
        GPU_TRY(gpu_check(cudaMalloc(&g->work, bytes), "allocating work space"));
        g->work_bytes = bytes;
    }
    *out = g->work;
    return 0;
}

/* --- memory and copies ---------------------------------------------------------------------------------------------------- */
static int alloc(struct cuda_gpu *g, size_t bytes, uint64_t *at) {
    void *p = nullptr;
    GPU_TRY(gpu_check(cudaMalloc(&p, bytes), "allocating device memory"));
    *at = (uint64_t)(uintptr_t)p;
    return gpu_check(cudaMemsetAsync(p, 0, bytes, g->stream), "clearing device memory");
}
static int release(struct cuda_gpu *g, uint64_t at) {
    GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "waiting to release device memory"));
    return gpu_check(cudaFree((void *)(uintptr_t)at), "releasing device memory");
}
static int host_alloc(struct cuda_gpu *, size_t bytes, void **out) {
    return gpu_check(cudaHostAlloc(out, bytes, cudaHostAllocDefault), "allocating pinned memory");
}
static int host_release(struct cuda_gpu *, void *p) { return gpu_check(cudaFreeHost(p), "releasing pinned memory"); }

static int sync(struct cuda_gpu *g) { return gpu_check(cudaStreamSynchronize(g->stream), "waiting for the device"); }

/* Through pinned memory: a copy from pageable memory would be staged by the driver with a wait for each piece. */
static int upload(struct cuda_gpu *g, uint64_t to, const void *from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += GPU_STAGING) {
        size_t n = bytes - at < GPU_STAGING ? bytes - at : GPU_STAGING;
        memcpy(g->staging, (const char *)from + at, n);
        GPU_TRY(gpu_check(cudaMemcpyAsync((char *)(uintptr_t)to + at, g->staging, n, cudaMemcpyHostToDevice, g->stream),
                          "copying to the device"));
        GPU_TRY(sync(g));
    }
    return 0;
}
static int download(struct cuda_gpu *g, void *to, uint64_t from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += GPU_STAGING) {
        size_t n = bytes - at < GPU_STAGING ? bytes - at : GPU_STAGING;
        GPU_TRY(gpu_check(cudaMemcpyAsync(g->staging, (const char *)(uintptr_t)from + at, n, cudaMemcpyDeviceToHost,
                                          g->stream),
                          "copying from the device"));
        GPU_TRY(sync(g));
        memcpy((char *)to + at, g->staging, n);
    }
    return 0;
}

static const struct cuda_plugin table = {
    .abi = TEMPER_CUDA_ABI,
    .describe = TEMPER_CUDA_BUILD COMM_BUILD,
    .error = error,
    .devices = devices,
    .info = info,
    .open = open_gpu,
    .close = close_gpu,
    .alloc = alloc,
    .release = release,
    .host_alloc = host_alloc,
    .host_release = host_release,
    .upload = upload,
    .download = download,
    .sync = sync,
#if TEMPER_NCCL
    .comm_id = comm_id,
    .comm_open = comm_open,
    .comm_close = comm_close,
    .comm_abort = comm_abort,
    .comm_poll = comm_poll,
    .comm_scratch = comm_scratch,
    .comm_group_begin = comm_group_begin,
    .comm_group_end = comm_group_end,
    .comm_send = comm_send,
    .comm_recv = comm_recv,
    .comm_gather = comm_gather,
    .comm_bcast = comm_bcast,
    .comm_sum_one_nonzero = comm_sum_one_nonzero,
    .comm_max = comm_max,
    .comm_argmax = comm_argmax,
    .comm_start = comm_start,
    .comm_wait = comm_wait,
#endif
#define OP(name, flops, bytes, doc) .name = gpu_##name,
#include "dev/ops.def"
#undef OP
};

extern "C" __attribute__((visibility("default"))) const struct cuda_plugin *temper_cuda_plugin(void) { return &table; }
