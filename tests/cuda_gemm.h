/* A product of gemm_ref.h on a device. */
#pragma once

#include "dev/dev.h"
#include "gemm_ref.h"

static inline enum status prod_send(struct dev *d, const float *x, int64_t n, dptr *out) {
    TM_TRY(dev_alloc(d, "test", (size_t)(n + 1) * 4, out));
    return dev_upload(d, *out, x, (size_t)n * 4);
}

/* The result of a product on d, into c [c_elems] on the host; what lies between its rows is c0's. */
static inline enum status prod_run_device(const struct prod *p, struct dev *d, float *c) {
    struct gemm_args a = p->a;
    dptr block[2 * OPS_MAX_TERMS + 2];
    int blocks = 0;
    for (int t = 0; t < a.terms; t++) {
        struct gemm_term *f = &a.term[t];
        const int64_t k = f->k[a.segments], ra = a.layout == GEMM_TN ? k : a.m, ca = a.layout == GEMM_TN ? a.m : k,
                      rb = a.layout == GEMM_NT ? a.n : k, cb = a.layout == GEMM_NT ? k : a.n;
        TM_TRY(prod_send(d, p->fa[t], ra > 0 ? (ra - 1) * f->lda + ca : 0, &f->a));
        block[blocks++] = f->a;
        TM_TRY(prod_send(d, p->fb[t], rb > 0 ? (rb - 1) * f->ldb + cb : 0, &f->b));
        block[blocks++] = f->b;
    }
    if (p->bias) {
        TM_TRY(prod_send(d, p->bias, a.n, &a.bias));
        block[blocks++] = a.bias;
    }
    TM_TRY(prod_send(d, p->c0, p->c_elems, &a.c));
    block[blocks++] = a.c;
    TM_TRY(dev_gemm(d, &a));
    TM_TRY(dev_download(d, c, a.c, (size_t)p->c_elems * 4));
    while (blocks > 0) dev_free(d, &block[--blocks]);
    return TM_OK;
}

/* Element (i, j) in fp64, of factors as the product takes them. */
static inline double prod_exact(const struct prod *p, int64_t i, int64_t j) {
    double x = p->a.accumulate ? (double)p->c0[i * p->a.ldc + j] : 0;
    for (int t = 0; t < p->a.terms; t++)
        for (int64_t k = 0; k < p->a.term[t].k[p->a.segments]; k++) {
            const float a = prod_a(p, t, i, k), b = prod_b(p, t, j, k);
            x += p->a.bf16 ? (double)bf16_round(prod_flush(a)) * (double)bf16_round(prod_flush(b))
                           : (double)a * (double)b;
        }
    return p->bias ? x + (double)p->bias[j] : x;
}

/* The same in memory of its own. */
static inline float *prod_result(const struct prod *p, struct dev *d) {
    float *c;
    need(mem_alloc(&c, (size_t)p->c_elems + 1, sizeof *c));
    need(prod_run_device(p, d, c));
    return c;
}

/* Against fp64; infinity where something between the rows of C has changed. */
static inline double prod_nmse(const struct prod *p, struct dev *d) {
    float *c = prod_result(p, d);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < p->a.m; i++)
        for (int64_t j = 0; j < p->a.n; j++) {
            const double x = prod_exact(p, i, j), e = (double)c[i * p->a.ldc + j] - x;
            error += e * e;
            norm += x * x;
        }
    for (int64_t i = 0; i < p->c_elems; i++)
        if (i % p->a.ldc >= p->a.n && !isnan(c[i])) error = INFINITY;
    mem_free(&c);
    return norm > 0 ? error / norm : error;
}
