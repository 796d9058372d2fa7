/* PTX instructions as functions, each with an emulated twin. */
#pragma once
#include "gpu.h"
#include "numfmt/e4m3.h"

#if !CUEMU
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* E4M3 codes: a register holds four neighbours along k. Only from sm_89 on; elsewhere the sums stay as they are. */
__device__ __forceinline__ void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 890
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    uint32_t p = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p)
                 : "memory");
}
/* Each 8 x 8 transposed: a lane gets two rows of one column. */
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    uint32_t p = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(p)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *row) {
    uint32_t p = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(p)
                 : "memory");
}
/* 2^x, to about 2 ulp; 0 where the result would be denormal. */
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ void cp_async16(void *s, const void *g) {
    uint32_t p = (uint32_t)__cvta_generic_to_shared(s);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(p), "l"(g) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#else
static inline float cuemu_bf(uint32_t w, int hi) { return __uint_as_float(hi ? w & 0xffff0000u : w << 16); }
static inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t in[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    ::cuemu::WarpSlot *s;
    unsigned gen = ::cuemu::warp_sync(0xffffffffu, in, sizeof in, &s);
    int l = ::cuemu::cur()->lane, g = l >> 2, t = l & 3;
    auto word = [&](int lane, int i) {
        uint32_t x;
        memcpy(&x, (char *)s->buf[gen & 1][lane] + 4 * i, 4);
        return x;
    };
    for (int i = 0; i < 4; i++) {
        int row8 = i >> 1, col = 2 * t + (i & 1); // output row g (+8), column col
        float acc = d[i];
        for (int k = 0; k < 16; k++) {
            int q = (k & 7) >> 1, hi = k & 1, up = k >> 3;
            acc += cuemu_bf(word(4 * g + q, row8 + 2 * up), hi) * cuemu_bf(word(4 * col + q, 4 + up), hi);
        }
        d[i] = acc;
    }
}
/* Its sums are as coarse as the tensor cores of Hopper make them: the sum so far and the 32 products are cut to 13 bits below the largest one's
 * leading bit, then added (DeepSeek-V3, arXiv 2412.19437, section 3.3.2: about 14 bits). */
static inline void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t in[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    ::cuemu::WarpSlot *s;
    unsigned gen = ::cuemu::warp_sync(0xffffffffu, in, sizeof in, &s);
    int l = ::cuemu::cur()->lane, g = l >> 2, t = l & 3;
    auto code = [&](int lane, int i) { return ((const uint8_t *)s->buf[gen & 1][lane])[i]; };
    for (int i = 0; i < 4; i++) {
        int row8 = i >> 1, col = 2 * t + (i & 1), top = -126;
        float term[33];
        for (int k = 0; k < 32; k++)
            term[k] = e4m3_decode(code(4 * g + (k & 15) / 4, 4 * (row8 + 2 * (k >> 4)) + k % 4)) *
                      e4m3_decode(code(4 * col + (k & 15) / 4, 4 * (4 + (k >> 4)) + k % 4));
        term[32] = d[i];
        for (float x : term)
            if (x != 0 && std::isfinite(x) && std::ilogb(x) > top) top = std::ilogb(x);
        float sum = 0;
        for (float x : term) sum += std::isfinite(x) ? std::ldexp(std::trunc(std::ldexp(x, 13 - top)), top - 13) : x;
        d[i] = sum;
    }
}
template <int N, bool TRANS = false> void cuemu_ldmatrix(uint32_t *r, const void *row) {
    if ((uintptr_t)row & 15) ::cuemu::die("ldmatrix: row address %p is not 16-byte aligned", row);
    ::cuemu::WarpSlot *s;
    unsigned gen = ::cuemu::warp_sync(0xffffffffu, &row, sizeof row, &s);
    int l = ::cuemu::cur()->lane;
    for (int i = 0; i < N; i++) {
        const char *p;
        for (int h = 0; h < 2; h++) {
            memcpy(&p, s->buf[gen & 1][8 * i + (TRANS ? 2 * (l & 3) + h : l >> 2)], sizeof p);
            memcpy((char *)&r[i] + 2 * h, p + 2 * (TRANS ? l >> 2 : 2 * (l & 3) + h), 2);
        }
    }
    __syncwarp(); // the rows are read before any lane goes on to overwrite them
}
static inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) { cuemu_ldmatrix<4>(r, row); }
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) { cuemu_ldmatrix<4, true>(r, row); }
static inline float exp2_fast(float x) { return x < -126 ? 0.0f : exp2f(x); }
static inline void ldmatrix_x2(uint32_t (&r)[2], const void *row) { cuemu_ldmatrix<2>(r, row); }
// as late as the hardware may: the bytes arrive at the wait, and shared memory holds NaNs until then
static inline void cp_async16(void *s, const void *g) {
    auto *f = ::cuemu::cur();
    memset(s, 0xff, 16);
    f->cp->push_back({s, g, 16, f->cpgroup});
}
static inline void cp_async_commit() { ::cuemu::cur()->cpgroup++; }
template <int N> void cp_async_wait() {
    auto *f = ::cuemu::cur();
    size_t i = 0;
    for (; i < f->cp->size() && (*f->cp)[i].group < f->cpgroup - N; i++)
        memcpy((*f->cp)[i].d, (*f->cp)[i].s, (*f->cp)[i].n);
    f->cp->erase(f->cp->begin(), f->cp->begin() + i);
}
#endif
