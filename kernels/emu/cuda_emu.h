/* CUDA C++ on the CPU: kernels are compiled by g++ over this header and executed block by block, each thread of a block a fiber.
 *
 * What it finds that a run on a GPU may not: a missing __syncthreads (warps run on as far as they can; CUEMU_ORDER 1 and 2 and above
 * give other orders), barriers that not all reach, warp operations whose mask is wrong, uninitialised memory (filled with NaNs), launches
 * beyond the hardware's limits; with -fsanitize=thread races in shared memory, with -fsanitize=address every access out of bounds. A
 * kernel keeps three rules: LAUNCH, DYN_SHARED, and PTX only inside the wrappers of ptx.h. */
#pragma once
#define CUEMU 1
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include "fibers.h"

#undef __shared__
#undef __constant__
#undef __launch_bounds__
#define __shared__   static
#define __constant__ static
#define __launch_bounds__(...)
#define LAUNCH(k, grid, block, smem, stream, ...)                                              \
    ::cuemu::launch(__PRETTY_FUNCTION__, (const void *)(k), (grid), (block), (smem), (stream), \
                    ::cuemu::bound((k), __VA_ARGS__))
#define DYN_SHARED(T, name) T *name = reinterpret_cast<T *>(::cuemu::cur_block()->dyn)

namespace cuemu {
/* A kernel with its arguments, which are copied at the launch, as on a device: it may run much later (a graph). */
template <class... P, class... A> auto bound(void (*kernel)(P...), const A &...a) {
    return [kernel, copies = std::tuple<std::decay_t<P>...>(static_cast<P>(a)...)] { std::apply(kernel, copies); };
}
} // namespace cuemu

/* cuda_runtime.h, which only nvcc can read, has this as a template too. */
template <class T> cudaError_t cudaFuncSetAttribute(T *kernel, cudaFuncAttribute what, int value) {
    return cudaFuncSetAttribute((const void *)kernel, what, value);
}

/* --- where a thread is ---------------------------------------------------------------------------------------------- */
#define threadIdx (::cuemu::cur()->tid)
#define blockIdx  (::cuemu::cur_block()->idx)
#define blockDim  (::cuemu::cur_block()->dim)
#define gridDim   (::cuemu::cur_block()->grid)
#define warpSize  32

/* --- barriers and warp operations ----------------------------------------------------------------------------------- */
static inline void __syncthreads() { ::cuemu::syncthreads(); }
static inline void __syncwarp(unsigned m = 0xffffffffu) {
    ::cuemu::WarpSlot *s;
    ::cuemu::warp_sync(m, nullptr, 0, &s);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
template <class T> T cuemu_shfl(uint32_t mask, T v, int src) {
    static_assert(sizeof(T) <= 8, "shfl of more than 8 bytes");
    ::cuemu::WarpSlot *s;
    unsigned gen = ::cuemu::warp_sync(mask, &v, sizeof v, &s);
    if (!(mask >> (src & 31) & 1)) ::cuemu::die("shfl reads lane %d, which is not in mask %08x", src, mask);
    T r;
    memcpy(&r, s->buf[gen & 1][src & 31], sizeof r);
    return r;
}
template <class T> T __shfl_sync(unsigned m, T v, int src, int w = 32) {
    int l = ::cuemu::cur()->lane;
    return cuemu_shfl(m, v, (l & ~(w - 1)) | (src & (w - 1)));
}
template <class T> T __shfl_xor_sync(unsigned m, T v, int x, int w = 32) {
    int l = ::cuemu::cur()->lane, s = l ^ x;
    return cuemu_shfl(m, v, (s & ~(w - 1)) > (l & ~(w - 1)) ? l : s);
}
template <class T> T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) {
    int l = ::cuemu::cur()->lane, s = l + (int)d;
    return cuemu_shfl(m, v, (l & (w - 1)) + (int)d >= w ? l : s);
}
template <class T> T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) {
    int l = ::cuemu::cur()->lane, s = l - (int)d;
    return cuemu_shfl(m, v, (l & (w - 1)) < (int)d ? l : s);
}
template <class T, class F> T cuemu_reduce(unsigned m, T v, F f) {
    ::cuemu::WarpSlot *s;
    unsigned g = ::cuemu::warp_sync(m, &v, sizeof v, &s);
    bool first = true;
    T r{};
    for (int i = 0; i < 32; i++)
        if (m >> i & 1) {
            T x;
            memcpy(&x, s->buf[g & 1][i], sizeof x);
            r = first ? x : f(r, x);
            first = false;
        }
    return r;
}
template <class T> T __reduce_add_sync(unsigned m, T v) {
    return cuemu_reduce(m, v, [](T a, T b) { return a + b; });
}
template <class T> T __reduce_max_sync(unsigned m, T v) {
    return cuemu_reduce(m, v, [](T a, T b) { return a > b ? a : b; });
}
template <class T> T __reduce_min_sync(unsigned m, T v) {
    return cuemu_reduce(m, v, [](T a, T b) { return a < b ? a : b; });
}
static inline unsigned __ballot_sync(unsigned m, int p) {
    return cuemu_reduce<unsigned>(m, p ? 1u << ::cuemu::cur()->lane : 0u, [](unsigned a, unsigned b) { return a | b; });
}
static inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
static inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, !p) == 0; }
/* --- atomics, memory, numbers --------------------------------------------------------------------------------------- */
template <class T, class F> T cuemu_rmw(T *p, F f) {
    T o, n;
    __atomic_load(p, &o, __ATOMIC_RELAXED);
    do n = f(o);
    while (!__atomic_compare_exchange(p, &o, &n, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    return o;
}
template <class T> T atomicAdd(T *p, T v) {
    return cuemu_rmw(p, [=](T o) { return (T)(o + v); });
}
template <class T> T atomicMax(T *p, T v) {
    return cuemu_rmw(p, [=](T o) { return o > v ? o : v; });
}
template <class T> T atomicMin(T *p, T v) {
    return cuemu_rmw(p, [=](T o) { return o < v ? o : v; });
}
template <class T> T atomicExch(T *p, T v) {
    return cuemu_rmw(p, [=](T) { return v; });
}
template <class T> T atomicCAS(T *p, T c, T v) {
    return cuemu_rmw(p, [=](T o) { return o == c ? v : o; });
}
static inline int __syncthreads_count(int p) {
    __shared__ int n;
    __syncthreads();
    __atomic_store_n(&n, 0, __ATOMIC_RELAXED);
    __syncthreads();
    if (p) atomicAdd(&n, 1);
    __syncthreads();
    return __atomic_load_n(&n, __ATOMIC_RELAXED);
}
static inline int __syncthreads_or(int p) { return __syncthreads_count(p) != 0; }
static inline int __syncthreads_and(int p) { return __syncthreads_count(!p) == 0; }

template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldcs(const T *p) { return *p; }
template <class T> void __stcs(T *p, T v) { *p = v; }
template <class T> void __stcg(T *p, T v) { *p = v; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
/* glibc declares __expf and friends itself: macros, after <cmath>. */
#define __expf(x)    expf(x)
#define __logf(x)    logf(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x)    sinf(x)
#define __cosf(x)    cosf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
template <class To, class From> To cuemu_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits between sizes");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline unsigned __float_as_uint(float f) { return cuemu_bits<unsigned>(f); }
static inline int __float_as_int(float f) { return cuemu_bits<int>(f); }
static inline float __uint_as_float(unsigned u) { return cuemu_bits<float>(u); }
static inline float __int_as_float(int i) { return cuemu_bits<float>(i); }
static inline long long __double_as_longlong(double d) { return cuemu_bits<long long>(d); }
static inline double __longlong_as_double(long long i) { return cuemu_bits<double>(i); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
#define CUEMU_MIN_MAX(T)                                    \
    static inline T min(T a, T b) { return a < b ? a : b; } \
    static inline T max(T a, T b) { return a > b ? a : b; }
CUEMU_MIN_MAX(int)
CUEMU_MIN_MAX(unsigned)
CUEMU_MIN_MAX(long)
CUEMU_MIN_MAX(unsigned long)
CUEMU_MIN_MAX(long long)
CUEMU_MIN_MAX(unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return c;
}
