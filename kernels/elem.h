/* What the element-wise kernels share: four neighbours at a time where the arrays lie so, and rows over the grid.
 *
 * Bytes in flight make the speed of these: at 3.35 TB/s (H100) about 20 KB a multiprocessor, so 16 bytes of each array a thread. */
#pragma once

#include <initializer_list>

#include "gpu.h"

/* W neighbours, aligned: one load or store of 4 W bytes. */
template <int W> struct alignas(4 * W) pack { float v[W]; };
template <int W> static __device__ __forceinline__ pack<W> pack_load(const float *x) {
    return *reinterpret_cast<const pack<W> *>(x);
}
template <int W> static __device__ __forceinline__ void pack_store(float *x, pack<W> p) {
    *reinterpret_cast<pack<W> *>(x) = p;
}
/* May all these be read as packs of 4? Of an array: its address; of a row distance or a length: 4 times it. */
static inline bool packs_fit(std::initializer_list<uint64_t> bytes) {
    uint64_t all = 0;
    for (uint64_t b : bytes) all |= b;
    return all % 16 == 0;
}

/* --- element-wise ----------------------------------------------------------------------------------------------------------
 * An operation is a struct with the number of its ARRAYS, bit sets of those it READs and WRITEs, and one(): one element of each. */
enum { ELEM_ARRAYS = 5 };
struct elem_arrays {
    float *p[ELEM_ARRAYS];
};

template <int W, class F> static __device__ __forceinline__ void elem_at(const F &f, const elem_arrays &a, int64_t i) {
    pack<W> x[F::ARRAYS];
#pragma unroll
    for (int k = 0; k < F::ARRAYS; k++)
        if (F::READ >> k & 1) x[k] = pack_load<W>(a.p[k] + i);
#pragma unroll
    for (int e = 0; e < W; e++) {
        float one[F::ARRAYS];
#pragma unroll
        for (int k = 0; k < F::ARRAYS; k++) one[k] = F::READ >> k & 1 ? x[k].v[e] : 0;
        f.one(one);
#pragma unroll
        for (int k = 0; k < F::ARRAYS; k++) x[k].v[e] = one[k];
    }
#pragma unroll
    for (int k = 0; k < F::ARRAYS; k++)
        if (F::WRITE >> k & 1) pack_store<W>(a.p[k] + i, x[k]);
}
template <class F> static __global__ void elem_k(F f, elem_arrays a, int64_t packs, int64_t n) {
    GPU_EACH(i, packs) elem_at<4>(f, a, 4 * i);
    GPU_EACH(i, n - 4 * packs) elem_at<1>(f, a, 4 * packs + i);
}
/* f over n elements of the arrays of `at`, in the order of F. An array may be given twice: an element is read before it is written. */
template <class F>
static int elem_run(struct cuda_gpu *g, const char *op, F f, int64_t n, std::initializer_list<dptr> at) {
    elem_arrays a = {};
    uint64_t all = 0;
    int k = 0;
    for (dptr p : at) all |= p.a, a.p[k++] = gpu_f32(p);
    LAUNCH(elem_k<F>, gpu_blocks(n, 4 * GPU_THREADS), GPU_THREADS, 0, g->stream, f, a, all % 16 ? 0 : n / 4, n);
    return gpu_launched(op);
}

/* --- rows ------------------------------------------------------------------------------------------------------------------
 * A block of GPU_THREADS has threads x along a row of `cols` things and y over rows. */
struct row_grid {
    dim3 grid, block;
};
static inline row_grid row_grid_of(int64_t rows, int64_t cols) {
    unsigned x = WARP;
    while (x < GPU_THREADS && x < cols) x *= 2;
    return {dim3(gpu_blocks(rows, GPU_THREADS / x)), dim3(x, GPU_THREADS / x)};
}
#define GPU_EACH_ROW(r, rows) \
    for (int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; r < (rows); r += (int64_t)gridDim.x * blockDim.y)
#define GPU_EACH_COLUMN(j, cols) for (int j = (int)threadIdx.x; j < (cols); j += (int)blockDim.x)
