/* Hopper's instructions as functions, each with an emulated twin: mbarriers, bulk copies of tensor maps (TMA), products of a warpgroup (wgmma).
 *
 * Sources: PTX ISA 8.8, 9.7.13.15 (mbarrier), 9.7.9.25 (cp.async.bulk.tensor), 9.7.15 (wgmma: fragments, descriptors, matrix layouts),
 * 9.7.19.5 (setmaxnreg); CUTLASS, cute/atom/mma_traits_sm90_gmma.hpp (canonical layouts of swizzled matrices of either major-ness).
 *
 * Matrices in shared memory are blocks of rows of 64 numbers of bf16, 128 bytes, swizzled by 128 bytes: the 16-byte chunks of a row lie in
 * the order that its number's low three bits flip, so a block begins at a multiple of 1024. */
#pragma once
#include "ptx.h"

#include <cuda.h>

#if CUEMU || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1 /* device code for sm_90a */
#else
#define HOPPER 0
#endif

enum { HOPPER_ROW = 64 /* numbers of a row */, HOPPER_GROUP = 128 /* threads of a warpgroup */ };

/* hopper.cu: the map of x [matrices, rows, cols], cols a multiple of 64, in boxes of box_rows rows of 64; what lies beyond the rows of a matrix
 * reads as zeros. Only where g->encode is. */
int hopper_map(const struct cuda_gpu *g, const uint16_t *x, int64_t cols, int64_t rows, int64_t matrices, int box_rows,
               CUtensorMap *map);

/* Products of a warpgroup, m64nNk16. wgmma_along_k: x [64, N] = (ADD ? x : 0) + A [64, 16] B [N, 16]', descriptors of rows along k.
 * wgmma_rows: x [64, N] += A [64, 16] B [16, N], a in registers as mma_m16n8k16_bf16 has them for the 16 rows of each warp, b of rows of N.
 * Element i of a thread: row warp % 4 * 16 + lane / 4 + i / 2 % 2 * 8, column i / 4 * 8 + lane % 4 * 2 + i % 2. Undefined until the wait. */
#if HOPPER && !CUEMU
static __device__ __forceinline__ uint32_t shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
static __device__ __forceinline__ void mbarrier_init(uint64_t *b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count) : "memory");
}
/* Before the __syncthreads behind the last init: copies see the barriers too. */
static __device__ __forceinline__ void mbarrier_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
static __device__ __forceinline__ void mbarrier_arrive(uint64_t *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(b)) : "memory");
}
/* Arrives, and expects so many bytes in this phase. */
static __device__ __forceinline__ void mbarrier_expect(uint64_t *b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(b)), "r"(bytes) : "memory");
}
/* Until the phase of this parity is complete. */
static __device__ __forceinline__ void mbarrier_wait(uint64_t *b, int parity) {
    asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra "
                 "again;\ndone:\n}" ::"r"(shared_at(b)),
                 "r"(parity)
                 : "memory");
}
/* The box at column x, row y of matrix z, to s; its bytes count at b. One thread. */
static __device__ __forceinline__ void tma_load(void *s, const CUtensorMap *map, int x, int y, int z, uint64_t *b) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_at(s)),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_at(b))
                 : "memory");
}
/* Registers of each thread of this warpgroup from here on; all its warps. */
template <int N> static __device__ __forceinline__ void registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> static __device__ __forceinline__ void registers_fewer() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
/* Before the first product behind a wait, or behind writes to registers that it takes. */
static __device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Until all but the last N committed groups are done. */
template <int N> static __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* The compiler moves no use of x across this: neither up over a wait nor down over a fence. */
template <int N> static __device__ __forceinline__ void wgmma_hold(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(x[i])::"memory");
}
template <int N> static __device__ __forceinline__ void wgmma_hold(uint32_t (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(x[i])::"memory");
}

#define WGMMA_D32                                                             \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_D64                                                                             \
    WGMMA_D32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
              "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_X8(x, i)                                                                                      \
    "+f"((x)[i]), "+f"((x)[i + 1]), "+f"((x)[i + 2]), "+f"((x)[i + 3]), "+f"((x)[i + 4]), "+f"((x)[i + 5]), \
        "+f"((x)[i + 6]), "+f"((x)[i + 7])
#define WGMMA_X32(x, i) WGMMA_X8(x, i), WGMMA_X8(x, i + 8), WGMMA_X8(x, i + 16), WGMMA_X8(x, i + 24)

template <int N, bool ADD> static __device__ __forceinline__ void wgmma_along_k(float *x, uint64_t a, uint64_t b) {
    static_assert(N == 64 || N == 128, "columns of a product");
    if constexpr (N == 64)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_D32 "}, %32, %33, %34, 1, 1, 0, 0;"
                     : WGMMA_X32(x, 0)
                     : "l"(a), "l"(b), "n"(ADD));
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_D64 "}, %64, %65, %66, 1, 1, 0, 0;"
                     : WGMMA_X32(x, 0), WGMMA_X32(x, 32)
                     : "l"(a), "l"(b), "n"(ADD));
}
template <int N>
static __device__ __forceinline__ void wgmma_rows(float (&x)[N / 2], const uint32_t (&a)[4], uint64_t b) {
    static_assert(N == 64 || N == 128, "columns of a product");
    if constexpr (N == 64)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_D32
                     "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                     : WGMMA_X32(x, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_D64
                     "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                     : WGMMA_X32(x, 0), WGMMA_X32(x, 32)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#elif CUEMU
#include <array>

static inline uint32_t shared_at(const void *p) { return ::cuemu::shared_address(p); }
static inline void mbarrier_init(uint64_t *b, int count) { ::cuemu::mbarrier_init(b, count); }
static inline void mbarrier_ready() {}
static inline void mbarrier_arrive(uint64_t *b) { ::cuemu::mbarrier_arrive(b, 0); }
static inline void mbarrier_expect(uint64_t *b, int bytes) { ::cuemu::mbarrier_arrive(b, bytes); }
static inline void mbarrier_wait(uint64_t *b, int parity) { ::cuemu::mbarrier_wait(b, parity); }
// as early as the hardware may: whoever still reads what lies there reads NaNs
static inline void tma_load(void *s, const CUtensorMap *map, int x, int y, int z, uint64_t *b) {
    memset(s, 0xff, (size_t)::cuemu::bulk_bytes(map));
    ::cuemu::bulk_load(shared_at(s), map, x, y, z, b);
}
template <int N> void registers_more() { static_assert(N >= 24 && N <= 256 && N % 8 == 0, "a count of registers"); }
template <int N> void registers_fewer() { static_assert(N >= 24 && N <= 256 && N % 8 == 0, "a count of registers"); }
static inline void wgmma_fence() {
    __syncwarp();
    ::cuemu::cur()->product_fence = true;
}
static inline void wgmma_commit() {
    __syncwarp();
    ::cuemu::cur()->product_group++;
}
template <int N> void wgmma_wait() {
    auto *f = ::cuemu::cur();
    size_t i = 0;
    __syncwarp();
    for (; i < f->products->size() && (*f->products)[i].group < f->product_group - N; i++) (*f->products)[i].run();
    f->products->erase(f->products->begin(), f->products->begin() + (ptrdiff_t)i);
    f->product_fence = false;
    __syncwarp(); // a warp's part of a product is done for all its lanes
}
template <class T, int N> void wgmma_hold(T (&)[N]) {}

#define CUEMU_INLINE __attribute__((always_inline)) inline // no local array is seen by a race checker
struct cuemu_matrix {
    uint32_t start, leading, stride;
    cuemu_matrix(uint64_t d)
        : start((uint32_t)(d & 0x3fff) << 4), leading((uint32_t)(d >> 16 & 0x3fff) << 4),
          stride((uint32_t)(d >> 32 & 0x3fff) << 4) {
        if (d >> 62 != 1) ::cuemu::die("wgmma: descriptor %llx does not swizzle by 128 bytes", (unsigned long long)d);
        if (d >> 49 & 7 || start & 0x380)
            ::cuemu::die("wgmma: the matrix of descriptor %llx does not begin at a multiple of 1024",
                         (unsigned long long)d);
    }
    // row r, k-major: 16 k
    CUEMU_INLINE void row(int r, float (&y)[16]) const {
        const uint32_t at = start + r / 8 * stride + r % 8 * 128;
        for (int c = 0; c < 4; c++) {
            const uint64_t four = load<uint64_t>(at + 8 * c);
            for (int i = 0; i < 4; i++) y[4 * c + i] = cuemu_bf((uint32_t)(four >> 32 * (i / 2)), i % 2);
        }
    }
    // columns n and n + 1, n even, of the other major-ness: rows of 64 columns, one for each k
    CUEMU_INLINE void columns(int n, float (&y)[2][16]) const {
        for (int k = 0; k < 16; k++) {
            const uint32_t pair = load<uint32_t>(start + n / 64 * leading + n % 64 * 2 + k / 8 * stride + k % 8 * 128);
            y[0][k] = cuemu_bf(pair, 0), y[1][k] = cuemu_bf(pair, 1);
        }
    }
    template <class T> CUEMU_INLINE static T load(uint32_t at) {
        typedef T __attribute__((may_alias)) any;
        return *reinterpret_cast<const any *>(::cuemu::shared_pointer(::cuemu::swizzled(at)));
    }
};
// a: rows lane / 4 and lane / 4 + 8 of the warp's 16. Element i of x: row i / 2 % 2, column i / 4 * 8 + lane % 4 * 2 + i % 2
template <int N, bool TURNED> CUEMU_INLINE void cuemu_multiply(float *x, const float (&a)[2][16], uint64_t descriptor) {
    const cuemu_matrix b(descriptor);
    const int t = ::cuemu::cur()->lane & 3;
    for (int j = 0; j < N / 8; j++) {
        float y[2][16];
        if (TURNED)
            b.columns(8 * j + 2 * t, y);
        else
            b.row(8 * j + 2 * t, y[0]), b.row(8 * j + 2 * t + 1, y[1]);
        for (int e = 0; e < 4; e++) {
            float sum = x[4 * j + e];
            for (int k = 0; k < 16; k++) sum += a[e / 2][k] * y[e % 2][k];
            x[4 * j + e] = sum;
        }
    }
}
// as late as the hardware may: factors in shared memory are read at the wait, and the sums are NaNs until then
template <int N, class Run> void cuemu_later(float *x, bool add, Run run) {
    auto *f = ::cuemu::cur();
    if (!f->product_fence) ::cuemu::die("wgmma without a wgmma.fence since the last wait");
    bool under_way = false;
    for (auto &p : *f->products) under_way |= p.x == x;
    std::array<float, N / 2> sums{};
    if (add && !under_way) memcpy(sums.data(), x, sizeof sums);
    const bool begin = !add || !under_way;
    f->products->push_back({x, f->product_group, [=] {
                                if (begin) memcpy(x, sums.data(), sizeof sums);
                                run();
                            }});
    memset(x, 0xff, sizeof sums);
}
template <int N, bool ADD> void wgmma_along_k(float *x, uint64_t a, uint64_t b) {
    cuemu_later<N>(x, ADD, [=] {
        const auto *f = ::cuemu::cur();
        const cuemu_matrix left(a);
        float rows[2][16];
        for (int h = 0; h < 2; h++) left.row(f->warp % 4 * 16 + f->lane / 4 + 8 * h, rows[h]);
        cuemu_multiply<N, false>(x, rows, b);
    });
}
template <int N> void wgmma_rows(float (&sums)[N / 2], const uint32_t (&a)[4], uint64_t b) {
    ::cuemu::WarpSlot *s;
    const unsigned gen = ::cuemu::warp_sync(0xffffffffu, a, sizeof a, &s);
    std::array<uint32_t, 16> quad; // the registers of the four lanes that share rows
    for (int t = 0; t < 4; t++) memcpy(&quad[4 * t], s->buf[gen & 1][(::cuemu::cur()->lane & ~3) + t], 16);
    float *x = sums;
    cuemu_later<N>(x, true, [=] {
        float rows[2][16];
        for (int h = 0; h < 2; h++)
            for (int k = 0; k < 16; k++) rows[h][k] = cuemu_bf(quad[k % 8 / 2 * 4 + h + k / 8 * 2], k % 2);
        cuemu_multiply<N, true>(x, rows, b);
    });
}
#endif

#if HOPPER
/* The descriptor of rows in shared memory at address s: groups of 8 rows lie 1024 bytes apart. As rows along k (wgmma_along_k) 16 k are 32 bytes,
 * 2 units of an address; as rows of a k each (b of wgmma_rows) 16 k are 2048 bytes, and blocks of 64 columns lie `block` bytes apart. */
static __device__ __forceinline__ uint64_t wgmma_matrix(uint32_t s, int block) {
    return (uint64_t)(s >> 4 & 0x3fff) | (uint64_t)(block >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
#endif
