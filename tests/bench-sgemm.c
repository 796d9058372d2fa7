/* What fp32 matrix products can reach here: bench-sgemm THREADS [SECONDS] prints the GFLOP/s of the fastest of our kernel and OpenBLAS on the
 * best of a few shapes. It is the ceiling that a program's FLOP/s are compared with in one run (scripts/bench.py): a rate held over its
 * time, as the program's is. The best single product is 4 to 6 % above it on a virtual machine whose clock goes up and down. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "dev/host_gemm.h"

static const int64_t shapes[][3] = {{2048, 1536, 576}, {2048, 576, 1536}, {1024, 2048, 2048}}; /* m, n, k */
enum { MOST = 2048 * 2048 };

static double rate(struct host_gemm *g, const int64_t *s, const float *a, const float *b, float *c, double seconds) {
    struct gemm_args x = {.layout = GEMM_NT, .m = s[0], .n = s[1], .terms = 1, .segments = 1, .ldc = s[1]};
    x.term[0].a.a = (uintptr_t)a;
    x.term[0].b.a = (uintptr_t)b;
    x.term[0].lda = x.term[0].ldb = x.term[0].k[1] = s[2];
    x.c.a = (uintptr_t)c;
    int n = -1; /* the first warms up */
    double begin = 0, now;
    do {
        if (host_gemm_run(g, &x) != TM_OK) return 0;
        now = clock_seconds();
        if (n++ < 0) begin = now;
    } while (n < 1 || now < begin + seconds);
    return 2e-9 * (double)s[0] * (double)s[1] * (double)s[2] * n / (now - begin);
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    const double seconds = argc > 2 ? atof(argv[2]) : 1.5;
    const size_t n = sizeof shapes / sizeof *shapes;
    struct host_gemm *own, *blas; /* OpenBLAS serves where our kernel is not that of AVX-512 (dev/host_gemm.h) */
    float *a, *b, *c;
    if (mem_alloc(&a, MOST, 4) || mem_alloc(&b, MOST, 4) || mem_alloc(&c, MOST, 4) ||
        host_gemm_open(NULL, true, threads, &own) || host_gemm_open("portable", false, threads, &blas)) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    for (int i = 0; i < MOST; i++) {
        a[i] = rng_uniform(1, 1, (uint64_t)i) - 0.5f;
        b[i] = rng_uniform(1, 2, (uint64_t)i) - 0.5f;
    }
    double best = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        const double r = rate(i % 2 ? blas : own, shapes[i / 2], a, b, c, seconds / (double)(2 * n));
        best = r > best ? r : best;
    }
    printf("%.1f\n", best);
    host_gemm_close(&own);
    host_gemm_close(&blas);
    mem_free(&a);
    mem_free(&b);
    mem_free(&c);
    return best > 0 ? 0 : 1;
}
