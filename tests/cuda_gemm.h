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
