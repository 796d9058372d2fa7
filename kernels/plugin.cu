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

/* Nobody launches it: asking for its attributes tells whether there is code for the device. */
static __global__ void any_k() {}

static int devices(int *n) {
    int driver = 0, runtime = 0;
    cudaError_t e = cudaGetDeviceCount(n);
    if (e != cudaErrorInsufficientDriver) return gpu_check(e, "counting devices");
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return gpu_fail(TM_ERR_DEVICE, "no NVIDIA driver here");
    return gpu_fail(TM_ERR_DEVICE,
                    "the driver is too old: it serves CUDA %d.%d, the plugin needs %d.%d (a newer driver, or a plugin "
                    "built with an older toolkit)",
                    driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

/* The first calls that need the device for themselves. */
static int reach(int device, const cudaDeviceProp *p, size_t *free_bytes, size_t *all) {
    cudaFuncAttributes code;
    int mode = cudaComputeModeDefault;
    GPU_TRY(gpu_check(cudaSetDevice(device), "choosing a device"));
    cudaError_t e = cudaMemGetInfo(free_bytes, all);
    if (e == cudaSuccess) e = cudaFuncGetAttributes(&code, (const void *)any_k);
    (void)cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, device);
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction)
        return gpu_fail(TM_ERR_UNSUPPORTED, "device %d (%s) is an sm_%d%d: this plugin has no code for it (%s)", device,
                        p->name, p->major, p->minor, TEMPER_CUDA_BUILD);
    if (e == cudaErrorDevicesUnavailable)
        return gpu_fail(TM_ERR_DEVICE, "device %d (%s, PCI %04x:%02x:%02x.0) is busy: %s", device, p->name,
                        p->pciDomainID, p->pciBusID, p->pciDeviceID,
                        mode == cudaComputeModeDefault
                            ? "another process holds it"
                            : "its compute mode lets one process in (nvidia-smi -c DEFAULT changes that)");
    return gpu_check(e, "opening a device");
}

static int info(int device, struct cuda_info *out) {
    cudaDeviceProp p;
    size_t free_bytes = 0, all = 0;
    memset(out, 0, sizeof *out);
    GPU_TRY(gpu_check(cudaGetDeviceProperties(&p, device), "asking for a device's properties"));
    GPU_TRY(reach(device, &p, &free_bytes, &all));
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

static int reserve(struct cuda_gpu *g, size_t bytes, size_t *had) {
    if (had) *had = g->work_bytes;
    if (bytes == g->work_bytes) return 0;
    GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "waiting to change work space"));
    if (g->work) GPU_TRY(gpu_check(cudaFree(g->work), "releasing work space"));
    g->work = nullptr;
    g->work_bytes = 0;
    g->work_moved++;
    if (bytes) GPU_TRY(gpu_check(cudaMalloc(&g->work, bytes), "allocating work space"));
    g->work_bytes = bytes;
    return 0;
}

static int open_gpu(int device, int invariant, struct cuda_gpu **out) {
    struct cuda_gpu *g = new cuda_gpu();
    *out = nullptr;
    g->device = device;
    g->invariant = invariant;
    int st = gpu_check(cudaSetDevice(device), "choosing a device");
    if (!st) st = gpu_check(cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking), "making a stream");
    if (!st) st = gpu_check(cudaHostAlloc(&g->staging, GPU_STAGING, cudaHostAllocDefault), "allocating staging memory");
    if (!st) st = hopper_open(g);
    if (!st) st = gpu_gemm_open(g);
    if (!st) st = gpu_attn_open(g);
    if (!st) st = reserve(g, 0, nullptr); /* what the trials took */
    if (st) {
        close_gpu(g);
        return st;
    }
    *out = g;
    return 0;
}

int gpu_work(struct cuda_gpu *g, size_t bytes, void **out) {
    if (bytes > g->work_bytes) GPU_TRY(reserve(g, bytes, nullptr));
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

/* Pinned memory is handed out from its start; after a wait it is free again. A copy from pageable memory would be staged by the driver, with a
 * wait for each piece. */
static int sync(struct cuda_gpu *g) {
    GPU_TRY(gpu_check(cudaStreamSynchronize(g->stream), "waiting for the device"));
    for (const gpu_fetch &f : g->fetches) memcpy(f.to, (const char *)g->staging + f.at, f.bytes);
    g->fetches.clear();
    g->staged = 0;
    return 0;
}
/* Room for the next piece of `left` bytes: all that is left, or what fits. */
static int stage(struct cuda_gpu *g, size_t left, size_t *at, size_t *n) {
    const size_t ALIGN = 256;
    if (g->staged + (left < GPU_STAGING ? left : GPU_STAGING) > GPU_STAGING) GPU_TRY(sync(g));
    *at = g->staged;
    *n = left < GPU_STAGING - *at ? left : GPU_STAGING - *at;
    g->staged = *at + (*n + ALIGN - 1) / ALIGN * ALIGN;
    return 0;
}

static int upload(struct cuda_gpu *g, uint64_t to, const void *from, size_t bytes) {
    for (size_t done = 0, at, n; done < bytes; done += n) {
        GPU_TRY(stage(g, bytes - done, &at, &n));
        memcpy((char *)g->staging + at, (const char *)from + done, n);
        GPU_TRY(gpu_check(cudaMemcpyAsync((char *)(uintptr_t)to + done, (char *)g->staging + at, n,
                                          cudaMemcpyHostToDevice, g->stream),
                          "copying to the device"));
    }
    return 0;
}
static int fetch(struct cuda_gpu *g, void *to, uint64_t from, size_t bytes) {
    for (size_t done = 0, at, n; done < bytes; done += n) {
        GPU_TRY(stage(g, bytes - done, &at, &n));
        GPU_TRY(gpu_check(cudaMemcpyAsync((char *)g->staging + at, (const char *)(uintptr_t)from + done, n,
                                          cudaMemcpyDeviceToHost, g->stream),
                          "copying from the device"));
        g->fetches.push_back({(char *)to + done, at, n});
    }
    return 0;
}
static int download(struct cuda_gpu *g, void *to, uint64_t from, size_t bytes) {
    GPU_TRY(fetch(g, to, from, bytes));
    return sync(g);
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
    .fetch = fetch,
    .sync = sync,
    .reserve = reserve,
    .graph_begin = graph_begin,
    .graph_end = graph_end,
    .graph_run = graph_run,
    .graph_close = graph_close,
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
    .comm_beside = comm_beside,
    .comm_join = comm_join,
    .comm_times = comm_times,
#endif
#define OP(name, ...) .name = gpu_##name,
#include "dev/ops.def"
#undef OP
};

extern "C" __attribute__((visibility("default"))) const struct cuda_plugin *temper_cuda_plugin(void) { return &table; }
