/* The host GEMM's front: chooses the kernel, checks the arguments, splits C among threads. */
#include "dev/host_gemm.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "dev/host_gemm_kernel.h"

struct host_gemm {
    const struct gemm_kernel *kernel, *bf16;
    struct gemm_kernel widened; /* bf16 where there is no better */
    bool blas;
    int threads;
    struct gemm_work *work; /* [threads] */
    char *buffer;
    char text[256];
};

enum {
    WORK_B = GEMM_KC * GEMM_NB * 4, /* bytes */
    WORK_KEPT = GEMM_DEPTH * GEMM_MG * GEMM_NB * 4,
    WORK_A_BF16 = 1152 << 10, /* what may stay packed: with B in L2 */
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
    const struct gemm_kernel *kn, *amx;
    enum status st;
    *out = NULL;
    if (threads < 1) return TM_FAIL(TM_ERR_UNSUPPORTED, "GEMM with %d threads: expected 1 or more", threads);
    TM_TRY(kernel_find(kernel, &kn));
    TM_TRY(mem_alloc(&g, 1, sizeof *g));
    amx = kernel ? NULL : gemm_kernel_amx();
    g->kernel = kn;
    g->widened = gemm_widen(kn);
    g->bf16 = amx ? amx : &g->widened;
    g->threads = threads;
    const size_t a = size_align((size_t)GEMM_MA * GEMM_LDA * 4, 64),
                 a_bf16 = amx ? WORK_A_BF16 + (size_t)(amx->mr * amx->kc_tree) * 2 : 0,
                 work_a = a > a_bf16 ? a : a_bf16, work = work_a + WORK_B + WORK_KEPT;
    TM_GOTO(st, fail, mem_alloc(&g->work, (size_t)threads, sizeof *g->work));
    TM_GOTO(st, fail, mem_alloc(&g->buffer, (size_t)threads, work));
    for (int i = 0; i < threads; i++) {
        char *p = g->buffer + (size_t)i * work;
        g->work[i] = (struct gemm_work){.a = p, .b = p + work_a, .kept = (float *)(void *)(p + work_a + WORK_B)};
    }
    char blas[160];
    const char *bf16 = amx ? "amx" : "widened to fp32";
    g->blas = !invariant && kn != gemm_kernel_avx512() && gemm_blas_open(threads, blas, sizeof blas);
    if (g->blas)
        snprintf(g->text, sizeof g->text, "not invariant: %s; bf16: %s", blas, bf16);
    else
        snprintf(g->text, sizeof g->text, "invariant: own %s kernel, tiles %d x %d, %d threads; bf16: %s", kn->name,
                 kn->mr, kn->nr, threads, bf16);
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
const struct gemm_kernel *host_gemm_kernel_bf16(const struct host_gemm *g) { return g->bf16; }

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
    if ((!a->packed_a.a && t->lda < lda) || (!a->packed_b.a && t->ldb < ldb))
        return TM_FAIL(TM_ERR_SHAPE, "gemm: row distances %lld and %lld of term %d, expected at least %lld and %lld",
                       (long long)t->lda, (long long)t->ldb, i, (long long)lda, (long long)ldb);
    if (!(t->a.a | a->packed_a.a) || !(t->b.a | a->packed_b.a))
        return TM_FAIL(TM_ERR_SHAPE, "gemm: term %d has a null address", i);
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
    if ((a->packed_a.a || a->packed_b.a) &&
        (!a->bf16 || a->layout != GEMM_NT || a->terms != 1 || a->packed_row < 0 || a->packed_row % OPS_PACKED_ROWS))
        return TM_FAIL(TM_ERR_SHAPE, "gemm: packed factors from row %lld in layout %d with %d terms, bf16 = %d",
                       (long long)a->packed_row, (int)a->layout, a->terms, a->bf16);
    for (int i = 0; i < a->terms; i++) TM_TRY(check_term(a, i));
    if (a->m > 0 && a->n > 0 && (!a->c.a || a->ldc < a->n))
        return TM_FAIL(TM_ERR_SHAPE, "gemm: result at %#llx with row distance %lld, expected at least %lld",
                       (unsigned long long)a->c.a, (long long)a->ldc, (long long)a->n);
    return TM_OK;
}

/* Cut C into tm x tn blocks for tm * tn <= threads: the cheapest in tile work of the largest block plus its share of packing. */
static void split(const struct gemm_kernel *kn, int most, const struct gemm_args *a, int *tm, int *tn) {
    int64_t best = INT64_MAX, k = 0;
    for (int t = 0; t < a->terms; t++) k += a->term[t].k[a->segments];
    const double work = (double)(a->m + kn->pack) * (double)a->n * (double)k / kn->wake;
    const int threads = work < most ? (work < 1 ? 1 : (int)work) : most;
    const int64_t panels = size_ceil_div(a->n, kn->nr);
    for (int i = 1; i <= threads; i++) {
        const int j = threads / i;
        const int64_t rows = size_ceil_div(a->m, i), cols = size_ceil_div(panels, j) * kn->nr;
        const int64_t cost = rows * cols + kn->pack * cols + kn->pack / 2 * rows;
        if (cost < best) best = cost, *tm = i, *tn = j;
    }
}

/* Row at which thread i of `of` begins: whole tiles, where the kernel does no other. */
static int64_t row_of(const struct gemm_kernel *kn, int64_t m, int i, int of) {
    return kn->whole ? size_min(m, size_ceil_div(m, kn->mr) * i / of * kn->mr) : m * i / of;
}

/* The scratch of a thread as kernel kn uses it. */
static struct gemm_work work_of(const struct gemm_kernel *kn, struct gemm_work w) {
    w.elements_a = kn->element == 4 ? GEMM_MA * GEMM_LDA : WORK_A_BF16 / kn->element;
    w.kc = kn->kc_tree;
    w.nb = kn->nb;
    w.elements_b = WORK_B / kn->element;
    return w;
}

enum status host_gemm_run(struct host_gemm *g, const struct gemm_args *a) {
    TM_TRY(check(a));
    if (a->m == 0 || a->n == 0) return TM_OK;
    if (g->blas && !a->bf16 && gemm_blas_run(a, g->threads)) return TM_OK;
    const struct gemm_kernel *kn = a->bf16 ? g->bf16 : g->kernel;
    int tm = 1, tn = 1;
    split(kn, g->threads, a, &tm, &tn);
    const int64_t nr = kn->nr, panels = size_ceil_div(a->n, nr);
#pragma omp parallel for num_threads(tm *tn) if (tm * tn > 1) schedule(static, 1)
    for (int i = 0; i < tm * tn; i++) {
        const int im = i / tn, in = i % tn;
        const struct gemm_work w = work_of(kn, g->work[i]);
        gemm_block(kn, a, row_of(kn, a->m, im, tm), row_of(kn, a->m, im + 1, tm), panels * in / tn * nr,
                   size_min(panels * (in + 1) / tn * nr, a->n), &w);
    }
    return TM_OK;
}

void host_gemm_alone(struct host_gemm *g, int thread, const struct gemm_args *a) {
    const struct gemm_work w = work_of(g->kernel, g->work[thread]);
    gemm_block(g->kernel, a, 0, a->m, 0, a->n, &w);
}
