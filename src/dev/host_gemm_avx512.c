/* GEMM kernels for AVX-512: tiles of 14 x 32 (28 of the 32 registers hold C). */
#include "dev/host_gemm_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GEMM_TARGET       __attribute__((target("avx512f")))
#define GEMM_NAME         "avx512"
#define V                 __m512
#define VW                16
#define MR                14
#define NV                2
#define NB                384
#define V_ZERO()          _mm512_setzero_ps()
#define V_LOAD(p)         _mm512_loadu_ps(p)
#define V_STORE(p, v)     _mm512_storeu_ps(p, v)
#define V_SET1(x)         _mm512_set1_ps(x)
#define V_FMA(a, b, c)    _mm512_fmadd_ps(a, b, c)
#define V_ADD(a, b)       _mm512_add_ps(a, b)
#define V_LO(a, b)        _mm512_unpacklo_ps(a, b)
#define V_HI(a, b)        _mm512_unpackhi_ps(a, b)
#define V_SHUF(a, b, imm) _mm512_shuffle_ps(a, b, imm)
#define V_ROWS(p, ld)     rows_at(p, ld)

/* Four columns of four rows: one row per 128-bit lane. */
static inline __attribute__((always_inline, target("avx512f"))) __m512 rows_at(const float *p, int64_t ld) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + ld), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 2 * ld), 2);
    return _mm512_insertf32x4(v, _mm_loadu_ps(p + 3 * ld), 3);
}

#include "dev/host_gemm_template.h"

const struct gemm_kernel *gemm_kernel_avx512(void) { return __builtin_cpu_supports("avx512f") ? &kernel_ : NULL; }
#else
const struct gemm_kernel *gemm_kernel_avx512(void) { return NULL; }
#endif
