/* The CUDA runtime calls that the plugin makes, over host memory: one device (or CUEMU_DEVICES of them), everything done at once. */
#include <cstdlib>
#include <cstring>

#include "cuda_emu.h"
#include "streams.h"

static int current;

/* Fresh memory holds NaNs: who reads before writing shows. */
static cudaError_t take(void **p, size_t n) {
    if (posix_memalign(p, 256, n ? n : 1)) {
        *p = nullptr;
        return cudaErrorMemoryAllocation;
    }
    memset(*p, 0xff, n);
    return cudaSuccess;
}

extern "C" {
cudaError_t cudaGetDeviceCount(int *n) {
    const char *s = getenv("CUEMU_DEVICES");
    *n = s ? atoi(s) : 1;
    return *n > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
    current = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "emulated");
    p->major = 8;
    p->multiProcessorCount = 2;
    p->pciBusID = device;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all) {
    *free_bytes = *all = (size_t)4 << 30;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n) { return take(p, n); }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) { return take(p, n); }
cudaError_t cudaFree(void *p) {
    free(p);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind, cudaStream_t stream) {
    cuemu::stream_ready(stream);
    memcpy(d, s, n);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t stream) {
    cuemu::stream_ready(stream);
    memset(d, v, n);
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "out of memory" : e == cudaErrorNoDevice ? "no device" : "emulated error"; }
}
