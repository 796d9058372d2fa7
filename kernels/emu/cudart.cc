/* The CUDA runtime calls that the plugin makes, over host memory: what is queued is done at once (streams.h).
 *
 * CUEMU_DEVICES: how many devices there are (1). CUEMU_MEMORY: bytes of each (4 GiB); what is beyond it cannot be had. CUEMU_ARCH: their compute
 * capability (80); there is code for 80 and above. CUEMU_PROCESSORS: multiprocessors (2). CUEMU_DRIVER: the CUDA version of the driver (that of
 * the headers); 0: none.
 * Copies from and to pinned memory are not done before the host waits: what it writes or reads there earlier shows. */
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "faults.h"
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
static int processors(void) { return (int)number("CUEMU_PROCESSORS", 2); }
static int arch(void) { return (int)number("CUEMU_ARCH", 80); }
static size_t device_memory(void) { return number("CUEMU_MEMORY", (size_t)4 << 30); }

size_t cuemu::shared_limit(const void *kernel) {
    auto at = attribute.find(kernel);
    return at == attribute.end() ? 48 << 10 : at->second;
}

/* Copies between a stream and the host that nobody has waited for: what the host sees of one to it are NaNs. */
struct HostCopy {
    const void *stream;
    void *host;
    bool to_host;
    std::vector<char> bytes;
};
static std::vector<HostCopy> copies;

void cuemu::copies_done(cudaStream_t stream) {
    size_t kept = 0;
    for (HostCopy &c : copies) {
        if (c.stream != stream) {
            std::swap(copies[kept++], c);
        } else if (c.to_host) {
            memcpy(c.host, c.bytes.data(), c.bytes.size());
        } else if (memcmp(c.host, c.bytes.data(), c.bytes.size()) != 0) {
            die("pinned memory was written to while %zu bytes of it were on their way to the device", c.bytes.size());
        }
    }
    copies.resize(kept);
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
    int driver;
    (void)cudaDriverGetVersion(&driver);
    if (driver < CUDART_VERSION) return cudaErrorInsufficientDriver;
    const cudaError_t e = cuemu::fault("cudaGetDeviceCount");
    if (e != cudaSuccess) return e;
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
    p->major = arch() / 10;
    p->minor = arch() % 10;
    p->multiProcessorCount = processors();
    p->warpSize = 32;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->totalGlobalMem = device_memory();
    p->pciBusID = device;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int) {
    switch (what) {
    case cudaDevAttrMultiProcessorCount: *value = processors(); break;
    case cudaDevAttrComputeCapabilityMajor: *value = arch() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = arch() % 10; break;
    case cudaDevAttrComputeMode: *value = (int)number("CUEMU_COMPUTE_MODE", 0); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
    default: return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = (int)number("CUEMU_DRIVER", CUDART_VERSION);
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *) {
    memset(a, 0, sizeof *a);
    return arch() < 80 ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) { return cuemu::fault("cudaDeviceSynchronize"); }
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute what, int value) {
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > 227 << 10) return cudaErrorInvalidValue;
    attribute[kernel] = (size_t)value;
    return cudaSuccess;
}

/* --- memory ------------------------------------------------------------------------------------------------------------- */
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all) {
    const cudaError_t e = cuemu::fault("cudaMemGetInfo"); /* the first call that needs a context */
    if (e != cudaSuccess) return e;
    *all = device_memory();
    *free_bytes = *all - in_use;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t n) {
    cudaError_t e = cuemu::fault("cudaMalloc");
    *p = nullptr;
    if (e != cudaSuccess) return e;
    if (cuemu::stream_refuses()) return cudaErrorStreamCaptureUnsupported;
    cuemu::trace("malloc", "device", n);
    if (n > device_memory() - in_use) return cudaErrorMemoryAllocation;
    e = take(p, n);
    if (e != cudaSuccess) return e;
    allocated[*p] = n;
    in_use += n;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    cuemu::trace("free", "device");
    auto at = allocated.find(p);
    if (at == allocated.end()) return cudaErrorInvalidValue;
    in_use -= at->second;
    allocated.erase(at);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) {
    cuemu::trace("malloc", "pinned", n);
    return take(p, n);
}
cudaError_t cudaFreeHost(void *p) {
    cuemu::trace("free", "pinned");
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
    const cudaError_t e = cuemu::fault("cudaMemcpyAsync");
    if (e != cudaSuccess) return e;
    if (kind != cudaMemcpyDeviceToDevice && cuemu::stream_refuses()) return cudaErrorStreamCaptureUnsupported;
    if (cuemu::stream_records(stream, [=] { memmove(d, s, n); })) return cudaSuccess;
    cuemu::stream_ready(stream);
    memmove(d, s, n);
    if (kind == cudaMemcpyDeviceToDevice) return cudaSuccess;
    const bool to_host = kind == cudaMemcpyDeviceToHost;
    void *host = to_host ? d : (void *)(uintptr_t)s;
    copies.push_back({stream, host, to_host, std::vector<char>((const char *)s, (const char *)s + n)});
    if (to_host) memset(d, 0xff, n);
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *d, size_t d_pitch, const void *s, size_t s_pitch, size_t width, size_t height,
                              cudaMemcpyKind, cudaStream_t stream) {
    const auto work = [=] {
        for (size_t i = 0; i < height; i++) memmove((char *)d + i * d_pitch, (const char *)s + i * s_pitch, width);
    };
    if (cuemu::stream_records(stream, work)) return cudaSuccess;
    cuemu::stream_ready(stream);
    work();
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t stream) {
    const auto work = [=] { memset(d, v, n); };
    if (cuemu::stream_records(stream, work)) return cudaSuccess;
    cuemu::stream_ready(stream);
    work();
    return cudaSuccess;
}

/* --- errors --------------------------------------------------------------------------------------------------------------- */
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaPeekAtLastError(void) { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorDevicesUnavailable: return "CUDA-capable device(s) is/are busy or unavailable";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorInvalidDevice: return "invalid device";
    case cudaErrorInvalidValue: return "invalid argument";
    default: return "emulated error";
    }
}
}
