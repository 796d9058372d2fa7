/* The CUDA runtime calls that the plugin makes, over host memory: what is queued is done at once (streams.h).
 *
 * CUEMU_DEVICES: how many devices there are (1). CUEMU_MEMORY: bytes of each (4 GiB); what is beyond it cannot be had.
 * CUEMU_CAPABILITY: compute capability times ten (80). */
#include <cstdlib>
#include <cstring>
#include <map>

#include "fibers.h"
#include "streams.h"

static std::map<const void *, size_t> allocated; /* device memory */
static std::map<const void *, size_t> attribute; /* of kernels: dynamic shared memory */
static size_t in_use;
static int current;

static size_t number(const char *name, size_t otherwise) {
    const char *s = getenv(name);
    return s ? (size_t)strtoull(s, nullptr, 10) : otherwise;
}
static int capability(void) { return (int)number("CUEMU_CAPABILITY", 80); }
static size_t device_memory(void) { return number("CUEMU_MEMORY", (size_t)4 << 30); }

size_t cuemu::shared_limit(const void *kernel) {
    auto at = attribute.find(kernel);
    return at == attribute.end() ? 48 << 10 : at->second;
}

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
/* --- devices ------------------------------------------------------------------------------------------------------------ */
cudaError_t cudaGetDeviceCount(int *n) {
    *n = (int)number("CUEMU_DEVICES", 1);
    return *n > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
    int n;
    (void)cudaGetDeviceCount(&n);
    if (device < 0 || device >= n) return cudaErrorInvalidDevice;
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
    p->major = capability() / 10;
    p->minor = capability() % 10;
    p->multiProcessorCount = 2;
    p->warpSize = 32;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->totalGlobalMem = device_memory();
    p->pciBusID = device;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int) {
    switch (what) {
    case cudaDevAttrMultiProcessorCount: *value = 2; break;
    case cudaDevAttrComputeCapabilityMajor: *value = capability() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = capability() % 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
    default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute what, int value) {
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > 227 << 10) return cudaErrorInvalidValue;
    attribute[kernel] = (size_t)value;
    return cudaSuccess;
}

/* --- memory ------------------------------------------------------------------------------------------------------------- */
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all) {
    *all = device_memory();
    *free_bytes = *all - in_use;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n) {
    *p = nullptr;
    if (n > device_memory() - in_use) return cudaErrorMemoryAllocation;
    cudaError_t e = take(p, n);
    if (e != cudaSuccess) return e;
    allocated[*p] = n;
    in_use += n;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    auto at = allocated.find(p);
    if (at == allocated.end()) return cudaErrorInvalidValue;
    in_use -= at->second;
    allocated.erase(at);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) { return take(p, n); }
cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind, cudaStream_t stream) {
    cuemu::stream_ready(stream);
    memmove(d, s, n);
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *d, size_t d_pitch, const void *s, size_t s_pitch, size_t width, size_t height,
                              cudaMemcpyKind, cudaStream_t stream) {
    cuemu::stream_ready(stream);
    for (size_t i = 0; i < height; i++) memmove((char *)d + i * d_pitch, (const char *)s + i * s_pitch, width);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t stream) {
    cuemu::stream_ready(stream);
    memset(d, v, n);
    return cudaSuccess;
}

/* --- errors --------------------------------------------------------------------------------------------------------------- */
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaPeekAtLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no device";
    case cudaErrorInvalidDevice: return "invalid device";
    case cudaErrorInvalidValue: return "invalid argument";
    default: return "emulated error";
    }
}
}
