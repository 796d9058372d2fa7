/* The host GEMM's front: chooses the kernel, checks the arguments, splits C among threads. */
#include "dev/host_gemm.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "dev/host_gemm_kernel.h"

struct host_gemm {
    const struct gemm_kernel *kernel;
    bool blas;
    int threads;
    struct gemm_work *work; /* [threads] */
    float *buffer;
    char text[256];
};

enum {
    WORK_A = GEMM_MA * GEMM_LDA,
    WORK_B = GEMM_KC * GEMM_NB,
    WORK_KEPT = GEMM_DEPTH * GEMM_MG * GEMM_NB,
    WORK = WORK_A + WORK_B + WORK_KEPT,
    /* scratch of host_gemm_tile, on the stack */
    TILE_ROWS = 2 * GEMM_MR,
    TILE_KC = 256,
    TILE_NB = 64,
};

static enum status kernel_find(const char *name, const struct gemm_kernel **out) {
    static const struct {
        const char *name;
        const struct gemm_kernel *(*get)(void);
    } all[] = {{"avx512", gemm_kernel_avx512}, {"avx2", gemm_kernel_avx2}, {"portable", gemm_kernel_portable}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (name && strcmp(name, all[i].name) != 0) continue;
        *out = all[i].get();
        if (*out) return TM_OK;
        if (name) return TM_FAIL(TM_ERR_UNSUPPORTED, "GEMM kernel \"%s\": this CPU cannot run it", name);
    }
    return TM_FAIL(TM_ERR_UNSUPPORTED, "GEMM kernel \"%s\": expected avx512, avx2 or portable", name);
}

enum status host_gemm_open(const char *kernel, bool invariant, int threads, struct host_gemm **out) {
    struct host_gemm *g;
    const struct gemm_kernel *kn;
    enum status st;
    *out = NULL;
    if (threads < 1) return TM_FAIL(TM_ERR_UNSUPPORTED, "GEMM with %d threads: expected 1 or more", threads);
    TM_TRY(kernel_find(kernel, &kn));
    TM_TRY(mem_alloc(&g, 1, sizeof *g));
    g->kernel = kn;
    g->threads = threads;
    TM_GOTO(st, fail, mem_alloc(&g->work, (size_t)threads, sizeof *g->work));
    TM_GOTO(st, fail, mem_alloc(&g->buffer, (size_t)threads, WORK * sizeof(float)));
    for (int i = 0; i < threads; i++) {
        float *p = g->buffer + (size_t)i * WORK;
        g->work[i] = (struct gemm_work){p, p + WORK_A, p + WORK_A + WORK_B, GEMM_MA, GEMM_KC, kn->nb};
    }
    char blas[160];
    g->blas = !invariant && !kernel && gemm_blas_open(threads, blas, sizeof blas);
    if (g->blas)
        snprintf(g->text, sizeof g->text, "not invariant: %s", blas);
    else
        snprintf(g->text, sizeof g->text, "invariant: own %s kernel, tiles %d x %d, %d threads", kn->name, kn->mr,
                 kn->nr, threads);
    *out = g;
    return TM_OK;
fail:
    host_gemm_close(&g);
    return st;
}

void host_gemm_close(struct host_gemm **g) {
    if (!*g) return;
    mem_free(&(*g)->buffer);
    mem_free(&(*g)->work);
    mem_free(g);
}

const char *host_gemm_describe(const struct host_gemm *g) { return g->text; }
const struct gemm_kernel *host_gemm_kernel(const struct host_gemm *g) { return g->kernel; }

static enum status check_term(const struct gemm_args *a, int i) {
    const struct gemm_term *t = &a->term[i];
    if (t->k[0] != 0)
        return TM_FAIL(TM_ERR_SHAPE, "gemm: term %d starts at k = %lld, expected 0", i, (long long)t->k[0]);
    for (int j = 0; j < a->segments; j++)
        if (t->k[j + 1] < t->k[j])
            return TM_FAIL(TM_ERR_SHAPE, "gemm: segment %d of term %d ends at %lld before it starts at %lld", j, i,
                           (long long)t->k[j + 1], (long long)t->k[j]);
    const int64_t k = t->k[a->segments];
    if (k == 0 || a->m == 0 || a->n == 0) return TM_OK; /* the factors are not read */
    const int64_t lda = a->layout == GEMM_TN ? a->m : k, ldb = a->layout == GEMM_NT ? k : a->n;
    if (t->lda < lda || t->ldb < ldb)
        return TM_FAIL(TM_ERR_SHAPE, "gemm: row distances %lld and %lld of term %d, expected at least %lld and %lld",
                       (long long)t->lda, (long long)t->ldb, i, (long long)lda, (long long)ldb);
    if (!t->a.a || !t->b.a) return TM_FAIL(TM_ERR_SHAPE, "gemm: term %d has a null address", i);
    return TM_OK;
}

static enum status check(const struct gemm_args *a) {
    if (a->layout != GEMM_NT && a->layout != GEMM_NN && a->layout != GEMM_TN)
        return TM_FAIL(TM_ERR_SHAPE, "gemm: layout %d is none of NT, NN, TN", (int)a->layout);
    if (a->m < 0 || a->n < 0 || a->terms < 1 || a->terms > OPS_MAX_TERMS || a->segments < 1 ||
        a->segments > OPS_MAX_SEGMENTS)
        return TM_FAIL(TM_ERR_SHAPE, "gemm: %lld x %lld, %d terms (1..%d), %d segments (1..%d)", (long long)a->m,
                       (long long)a->n, a->terms, OPS_MAX_TERMS, a->segments, OPS_MAX_SEGMENTS);
    if (a->accumulate && a->segments > 1)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "gemm: accumulating %d segments has no fixed order, expected 1",
                       a->segments);
    for (int i = 0; i < a->terms; i++) TM_TRY(check_term(a, i));
    if (a->m > 0 && a->n > 0 && (!a->c.a || a->ldc < a->n))
        return TM_FAIL(TM_ERR_SHAPE, "gemm: result at %#llx with row distance %lld, expected at least %lld",
                       (unsigned long long)a->c.a, (long long)a->ldc, (long long)a->n);
    return TM_OK;
}

/* Cut C into tm x tn blocks for tm * tn <= threads: the cheapest in tile work of the largest block plus its share of packing. */
static void split(const struct host_gemm *g, const struct gemm_args *a, int *tm, int *tn) {
    const double wake = 1 << 20; /* multiply-adds worth waking a thread for: about 10 us */
    int64_t best = INT64_MAX, k = 0;
    for (int t = 0; t < a->terms; t++) k += a->term[t].k[a->segments];
    const double work = (double)a->m * (double)a->n * (double)k / wake;
    const int threads = work < g->threads ? (work < 1 ? 1 : (int)work) : g->threads;
    const int64_t panels = size_ceil_div(a->n, g->kernel->nr);
    for (int i = 1; i <= threads; i++) {
        const int j = threads / i;
        const int64_t rows = size_ceil_div(a->m, i), cols = size_ceil_div(panels, j) * g->kernel->nr;
        const int64_t cost = rows * cols + 8 * cols + 4 * rows;
        if (cost < best) best = cost, *tm = i, *tn = j;
    }
}

enum status host_gemm_run(struct host_gemm *g, const struct gemm_args *a) {
    TM_TRY(check(a));
    if (a->m == 0 || a->n == 0) return TM_OK;
    if (g->blas && gemm_blas_run(a, g->threads)) return TM_OK;
    int tm = 1, tn = 1;
    split(g, a, &tm, &tn);
    const int64_t nr = g->kernel->nr, panels = size_ceil_div(a->n, nr);
#pragma omp parallel for num_threads(tm *tn) if (tm * tn > 1) schedule(static, 1)
    for (int i = 0; i < tm * tn; i++) {
        const int im = i / tn, in = i % tn;
        gemm_block(g->kernel, a, a->m * im / tm, a->m * (im + 1) / tm, panels * in / tn * nr,
                   size_min(panels * (in + 1) / tn * nr, a->n), &g->work[i]);
    }
    return TM_OK;
}

void host_gemm_tile(const struct host_gemm *g, enum gemm_layout layout, int64_t m, int64_t n, int64_t k, const float *a,
                    int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, int accumulate) {
    _Alignas(64) float pa[TILE_ROWS * GEMM_LDA], pb[TILE_KC * TILE_NB];
    const struct gemm_work w = {pa, pb, NULL, TILE_ROWS, TILE_KC, TILE_NB};
    const struct gemm_args args = {
        .layout = layout,
        .m = m,
        .n = n,
        .terms = 1,
        .segments = 1,
        .term = {{.a = {(uintptr_t)a}, .b = {(uintptr_t)b}, .lda = lda, .ldb = ldb, .k = {0, k}}},
        .c = {(uintptr_t)c},
        .ldc = ldc,
        .accumulate = accumulate,
    };
    gemm_block(g->kernel, &args, 0, m, 0, n, &w);
}
