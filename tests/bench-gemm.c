/* GFLOP/s of the host GEMM, in fp32 beside OpenBLAS and in bf16, the factors in memory as fp32:
 *   make build/gcc/tests/bench-gemm && build/gcc/tests/bench-gemm [kernel|best] [seconds] [threads, 0: 1 and 2]
 * Takes turns and keeps the best of each, so that a busy machine disturbs all alike. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "dev/host_gemm.h"

static const char *const layouts[] = {"NT", "NN", "TN"};
static const struct {
    int64_t m, n, k;
} shapes[] = {{2048, 576, 576},  {2048, 192, 576},  {2048, 1536, 576},  {2048, 576, 1536},
              {512, 4096, 4096}, {320, 49152, 576}, {2048, 49152, 576}, {1024, 256, 256},
              {1024, 768, 256},  {64, 64, 64},      {1, 4096, 4096},    {8, 4096, 4096}};

static double best_of(struct host_gemm *g, const struct gemm_args *a, double best) {
    const double t0 = clock_seconds();
    if (host_gemm_run(g, a) != TM_OK) fprintf(stderr, "%s\n", status_message());
    const double t = clock_seconds() - t0;
    return t < best ? t : best;
}

static void bench(const char *kernel, double seconds, int threads, enum gemm_layout layout, int64_t m, int64_t n,
                  int64_t k, struct gemm_args *a) {
    struct host_gemm *own, *blas;
    if (host_gemm_open(kernel, true, threads, &own) != TM_OK ||
        host_gemm_open("portable", false, threads, &blas) != TM_OK) {
        fprintf(stderr, "%s\n", status_message());
        exit(1);
    }
    struct gemm_args one = *a, eight = *a;
    one.segments = 1;
    one.term[0].k[1] = k;
    eight.segments = 8;
    for (int j = 1; j <= 8; j++) eight.term[0].k[j] = (k * j + 7) / 8;
    struct gemm_args one16 = one, eight16 = eight;
    one16.bf16 = eight16.bf16 = 1;
    double t1 = 1e30, t8 = 1e30, tb = 1e30, h1 = 1e30, h8 = 1e30;
    const double end = clock_seconds() + seconds;
    do {
        t1 = best_of(own, &one, t1);
        t8 = best_of(own, &eight, t8);
        tb = best_of(blas, &one, tb);
        h1 = best_of(own, &one16, h1);
        h8 = best_of(own, &eight16, h8);
    } while (clock_seconds() < end);
    const double gf = 2e-9 * (double)m * (double)n * (double)k;
    printf("%s %5d x %5d x %5d  threads %d  fp32 %7.1f, 8 segments %7.1f, OpenBLAS %7.1f GFLOP/s (own / OpenBLAS %.2f, "
           "8 / 1 "
           "%.2f)  bf16 %7.1f, 8 segments %7.1f (8 / 1 %.2f, bf16 / fp32 %.2f)\n",
           layouts[layout], (int)m, (int)n, (int)k, threads, gf / t1, gf / t8, gf / tb, tb / t1, t1 / t8, gf / h1,
           gf / h8, h1 / h8, t1 / h1);
    fflush(stdout);
    host_gemm_close(&own);
    host_gemm_close(&blas);
}

int main(int argc, char **argv) {
    const char *kernel = argc > 1 && strcmp(argv[1], "best") ? argv[1] : NULL;
    const double seconds = argc > 2 ? atof(argv[2]) : 0.3;
    const int only = argc > 3 ? atoi(argv[3]) : 0; /* threads; 0: 1 and 2 */
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int64_t m = shapes[s].m, n = shapes[s].n, k = shapes[s].k;
        float *a, *b, *c;
        if (mem_alloc(&a, (size_t)(m * k), 4) || mem_alloc(&b, (size_t)(n * k), 4) || mem_alloc(&c, (size_t)(m * n), 4))
            return 1;
        for (int64_t i = 0; i < m * k; i++) a[i] = rng_uniform(1, 1, (uint64_t)i) - 0.5f;
        for (int64_t i = 0; i < n * k; i++) b[i] = rng_uniform(1, 2, (uint64_t)i) - 0.5f;
        for (int layout = GEMM_NT; layout <= GEMM_TN; layout++)
            for (int threads = 1; threads <= 2; threads++) {
                struct gemm_args g = {.layout = (enum gemm_layout)layout, .m = m, .n = n, .terms = 1, .ldc = n};
                g.term[0].a.a = (uintptr_t)a;
                g.term[0].b.a = (uintptr_t)b;
                g.term[0].lda = layout == GEMM_TN ? m : k;
                g.term[0].ldb = layout == GEMM_NT ? k : n;
                g.c.a = (uintptr_t)c;
                if (!only || only == threads) bench(kernel, seconds, threads, g.layout, m, n, k, &g);
            }
        mem_free(&a);
        mem_free(&b);
        mem_free(&c);
    }
    return 0;
}
