/* GEMM kernels for AVX2 with FMA: tiles of 6 x 16 (12 of the 16 registers hold C). */
#include "dev/host_gemm_kernel.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define GEMM_TARGET       __attribute__((target("avx2,fma")))
#define GEMM_NAME         "avx2"
#define V                 __m256
#define VW                8
#define MR                6
#define NV                2
#define NB                192
#define V_ZERO()          _mm256_setzero_ps()
#define V_LOAD(p)         _mm256_loadu_ps(p)
#define V_STORE(p, v)     _mm256_storeu_ps(p, v)
#define V_SET1(x)         _mm256_set1_ps(x)
#define V_FMA(a, b, c)    _mm256_fmadd_ps(a, b, c)
#define V_ADD(a, b)       _mm256_add_ps(a, b)
#define V_LO(a, b)        _mm256_unpacklo_ps(a, b)
#define V_HI(a, b)        _mm256_unpackhi_ps(a, b)
#define V_SHUF(a, b, imm) _mm256_shuffle_ps(a, b, imm)
#define V_ROWS(p, ld)     _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps((p) + (ld)), 1)

#include "dev/host_gemm_template.h"

const struct gemm_kernel *gemm_kernel_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernel_ : NULL;
}
#else
const struct gemm_kernel *gemm_kernel_avx2(void) { return NULL; }
#endif
