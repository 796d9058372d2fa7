/* What the kernels share: the opened device, launching, errors, and the arithmetic that has to give the host's bits.
 *
 * Rules of this room. (1) One source, two builds: nvcc, and g++ over emu/cuda_emu.h (blocks run as fibers on the CPU). So: launch with
 * LAUNCH, dynamic shared memory through DYN_SHARED, PTX only inside wrappers that have an emulated twin. (2) fp32 results are the host
 * backend's bits: the sums of dev/ops.h in their order, fmaf where the host has fma and nowhere else (-fmad=false), base/vmath.h for exp
 * and log, no float atomics. (3) gpu_<op> checks nothing that dev.h's callers must have right; it launches and returns. */
#pragma once

#include <vector>

#include "dev/cuda_plugin.h"
#ifndef __CUDACC__
#include "emu/cuda_emu.h"
#else
#include "emu/cuda_real.h"
#endif

/* A copy to the host that is queued: when it is done, its bytes go from staging memory to where they were wanted. */
struct gpu_fetch {
    char *to;
    size_t at, bytes;
};
struct cuda_gpu {
    int device, invariant;
    cudaStream_t stream;
    void *work; /* work space of the kernels: gpu_work */
    size_t work_bytes;
    int work_moved; /* how often it was */
    void *staging;  /* pinned, GPU_STAGING bytes, of which the first `staged` are in use until the next wait */
    size_t staged;
    std::vector<gpu_fetch> fetches;
    bool attn_wgmma;         /* attn_wgmma.cu serves bf16 */
    bool attn_bwd_wgmma;     /* attn_bwd_wgmma.cu does */
    void *encode;            /* the driver's cuTensorMapEncodeTiled, or null: hopper.cu */
    struct gemm_state *gemm; /* of gemm.cu */
};

enum { GPU_THREADS = 256, WARP = 32 };
static const size_t GPU_STAGING = 8 << 20;

/* Keeps one line for `error` and returns `status` (a number of base/status.def). */
int gpu_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
int gpu_check(cudaError_t e, const char *what); /* 0, or gpu_fail with the runtime's words */
#define GPU_TRY(expr)                                \
    do {                                             \
        int gpu_try_status_ = (expr);                \
        if (gpu_try_status_) return gpu_try_status_; \
    } while (0)
/* After LAUNCH: errors of the launch itself; those of the kernel come at the next sync. */
static inline int gpu_launched(const char *op) { return gpu_check(cudaGetLastError(), op); }

/* At least `bytes` of device memory, 256-byte aligned, undefined contents, valid until the next gpu_work. No more than the row's column says: a
 * stage has that reserved before its first step. Without a plan it grows as it is wanted. */
int gpu_work(struct cuda_gpu *g, size_t bytes, void **out);

/* graph.cu: as in dev/cuda_plugin.h. */
int graph_begin(struct cuda_gpu *g);
int graph_end(struct cuda_gpu *g, struct cuda_graph **out);
int graph_run(struct cuda_gpu *g, struct cuda_graph *x, int *ran);
void graph_close(struct cuda_graph *x);

int hopper_open(struct cuda_gpu *g);     /* before gpu_gemm_open */
int gpu_gemm_open(struct cuda_gpu *g);   /* after the stream; uses the staging memory */
int gpu_attn_open(struct cuda_gpu *g);   /* the same */
void gpu_gemm_close(struct cuda_gpu *g); /* releases g->gemm, after the last product */

#define OP(name, ...) int gpu_##name(struct cuda_gpu *g, const struct name##_args *a);
#include "dev/ops.def"
#undef OP

template <class T> static inline T *gpu_ptr(dptr p) { return reinterpret_cast<T *>(p.a); }
static inline float *gpu_f32(dptr p) { return gpu_ptr<float>(p); }
static inline int32_t *gpu_i32(dptr p) { return gpu_ptr<int32_t>(p); }

/* Blocks of `each` elements that cover n, at most `most`: kernels loop with a stride of the grid. */
static inline unsigned gpu_blocks(int64_t n, int64_t each, int64_t most = 65535) {
    int64_t b = (n + each - 1) / each;
    return (unsigned)(b < 1 ? 1 : b > most ? most : b);
}

/* Element i of a grid-stride loop over n. */
#define GPU_EACH(i, n)                                                                                              \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, gpu_stride_ = (int64_t)gridDim.x * blockDim.x; \
         i < (n); i += gpu_stride_)
