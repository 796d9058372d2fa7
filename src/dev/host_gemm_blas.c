/* OpenBLAS for products whose order of sums is free: the only file that includes cblas.h.
 *
 * It serves the not-invariant mode alone, and not where our AVX-512 kernel does: that was 1.03 to 1.15 times as fast on one thread of a Xeon with
 * AVX-512 that others used too (bench-gemm, 10 shapes and layouts of a 135M model, OpenBLAS 0.3.21). */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "dev/host_gemm_kernel.h"

#ifdef TEMPER_OPENBLAS
#include <cblas.h>
#include <limits.h>
#include <omp.h>

bool gemm_blas_open(int threads, char *text, size_t size) {
#ifdef __clang__
    /* Two OpenMP runtimes in one process: OpenBLAS then asks libgomp for its place in a team of libomp, and two threads of one
     * product wait for each other for ever. */
    if (openblas_get_parallel() == OPENBLAS_OPENMP) return false;
#endif
    snprintf(text, size, "%s, core %s, %d threads", openblas_get_config(), openblas_get_corename(), threads);
    return true;
}

bool gemm_blas_run(const struct gemm_args *a, int threads) {
    int64_t most = a->m > a->n ? a->m : a->n, k = 0;
    for (int t = 0; t < a->terms; t++) {
        const struct gemm_term *f = &a->term[t];
        const int64_t sizes[] = {f->k[a->segments], f->lda, f->ldb, a->ldc};
        for (int i = 0; i < 4; i++) most = sizes[i] > most ? sizes[i] : most;
        k += f->k[a->segments];
    }
    if (most > INT_MAX || k == 0 || a->m == 0 || a->n == 0) return false;
    float *c = (float *)(uintptr_t)a->c.a;
    const float *bias = (const float *)(uintptr_t)a->bias.a;
    float beta = a->accumulate ? 1.0f : 0.0f;
    if (bias) { /* start from the bias: no second pass over C */
        for (int64_t m = 0; m < a->m; m++)
            for (int64_t n = 0; n < a->n; n++)
                c[m * a->ldc + n] = a->accumulate ? c[m * a->ldc + n] + bias[n] : bias[n];
        beta = 1.0f;
    }
    const int others = omp_get_max_threads(); /* an OpenMP build sets what is not its own */
    openblas_set_num_threads(threads);
    for (int t = 0; t < a->terms; t++) {
        const struct gemm_term *f = &a->term[t];
        const int len = (int)f->k[a->segments];
        if (len == 0) continue;
        cblas_sgemm(CblasRowMajor, a->layout == GEMM_TN ? CblasTrans : CblasNoTrans,
                    a->layout == GEMM_NT ? CblasTrans : CblasNoTrans, (int)a->m, (int)a->n, len, 1.0f,
                    (const float *)(uintptr_t)f->a.a, (int)f->lda, (const float *)(uintptr_t)f->b.a, (int)f->ldb, beta,
                    c, (int)a->ldc);
        beta = 1.0f;
    }
    omp_set_num_threads(others);
    return true;
}
#else
bool gemm_blas_open(int threads, char *text, size_t size) {
    (void)threads, (void)text, (void)size;
    return false;
}
bool gemm_blas_run(const struct gemm_args *a, int threads) {
    (void)a, (void)threads;
    return false;
}
#endif
