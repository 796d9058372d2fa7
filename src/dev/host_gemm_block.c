/* The block driver of the host GEMM: packs A and B of a superblock and walks the tiles of C. */
#include <string.h>

#include "base/size.h"
#include "dev/host_gemm_kernel.h"
#include "dev/host_pack.h"

/* A tile that the kernel would write beyond C goes through a full one of our own. */
static void tile_edge(const struct gemm_kernel *kn, struct gemm_tile t, int64_t rows, int64_t cols) {
    _Alignas(64) float c[GEMM_MR * GEMM_NR], bias[GEMM_NR] = {0};
    float *to = t.c;
    const int64_t ldc = t.ldc;
    memset(c, 0, (size_t)(kn->mr * kn->nr) * sizeof *c);
    if (t.step[0].load)
        for (int64_t i = 0; i < rows; i++) memcpy(c + i * kn->nr, to + i * ldc, (size_t)cols * sizeof *c);
    if (t.bias) t.bias = memcpy(bias, t.bias, (size_t)cols * sizeof *c);
    t.c = c;
    t.ldc = kn->nr;
    kn->tile(&t, (int)rows);
    if (t.step[t.steps - 1].to != SLOT_C) return; /* all sums wait */
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * ldc, c + i * kn->nr, (size_t)cols * sizeof *c);
}

/* Row at which tile i of `tiles` of the rows [m0, m1) begins. Even heights, unless the kernel does full ones only: none is so low that
 * its few chains wait for each other. */
static int64_t tile_row(const struct gemm_kernel *kn, int64_t m0, int64_t m1, int64_t i, int64_t tiles) {
    return kn->whole ? size_min(m0 + i * kn->mr, m1) : m0 + (m1 - m0) * i / tiles;
}

/* Row m of A where it lies, if tiles can read it there: the k of the superblock in one run, and rows that do not all share L1 sets. */
static const float *direct_row(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s,
                               int64_t m) {
    if (!kn->direct || a->layout == GEMM_TN || s->pieces == 0) return NULL;
    const struct gemm_term *t = &a->term[s->piece[0].term];
    if (t->lda % GEMM_ALIKE == 0) return NULL;
    for (int i = 1; i < s->pieces; i++)
        if (s->piece[i].term != s->piece[0].term || s->piece[i].k != s->piece[0].k + s->piece[i].at) return NULL;
    return gemm_host(t->a) + m * t->lda + s->piece[0].k;
}

/* Fetch part i of `parts` of rows of A that come next. */
static void fetch_rows(const char *a, int64_t lda, int64_t rows, int64_t len, int64_t i, int64_t parts) {
    enum { LINE = 64 };
    for (int64_t r = rows * i / parts; r < rows * (i + 1) / parts; r++)
        for (int64_t at = 0; at < len * 4; at += LINE) __builtin_prefetch(a + r * lda * 4 + at);
}

/* All tiles of rows [m0, m1) and the columns of one packed B block. A is read where it lies, the rows of the next tile being fetched
 * meanwhile, or packed a group of tiles at a time; `resident`: all of it fits and is packed but once, at the first columns. */
static void block_tiles(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s,
                        int64_t m0, int64_t m1, int64_t n0, int64_t n1, const struct gemm_work *w, bool resident,
                        bool first) {
    _Alignas(64) float hot[SLOT_KEPT * GEMM_MR * GEMM_NR];
    const int64_t tiles = size_ceil_div(m1 - m0, kn->mr), nr = kn->nr, panels = size_ceil_div(n1 - n0, nr),
                  group = resident ? tiles : size_min(w->elements_a / gemm_lda(kn, s->len), GEMM_MA) / kn->mr;
    const float *direct = direct_row(kn, a, s, m0);
    const char *packed_a = kn->packed ? host_packed_panel(a, false, m0, s->k0) : NULL,
               *packed_b = kn->packed ? host_packed_panel(a, true, n0, s->k0) : NULL;
    const int64_t whole_k = packed_a || packed_b ? host_packed_k(a->segments, a->term[0].k) : 0,
                  lda = direct     ? a->term[s->piece[0].term].lda
                        : packed_a ? whole_k
                                   : gemm_lda(kn, s->len),
                  next_b = (packed_b ? whole_k : s->len) * nr * kn->element;
    struct gemm_tile t = {.kn = kn,
                          .a = direct ? (const void *)direct : packed_a,
                          .lda = lda,
                          .ldc = a->ldc,
                          .slot = {hot, w->kept},
                          .step = s->step,
                          .steps = s->steps};
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t m = tile_row(kn, m0, m1, i, tiles), me = tile_row(kn, m0, m1, i + 1, tiles);
        if (!direct && !packed_a && i % group == 0) {
            const int64_t end = tile_row(kn, m0, m1, size_min(i + group, tiles), tiles);
            t.a = w->a;
            if (!resident || first) kn->pack_a(kn, a, s, m, end - m, w->a);
        }
        const char *next_a = (const char *)t.a + (me - m) * lda * kn->element;
        t.b = packed_b ? packed_b : w->b;
        for (int64_t n = n0; n < n1; n += nr) {
            if (direct && i + 1 < tiles)
                fetch_rows(next_a, lda, tile_row(kn, m0, m1, i + 2, tiles) - me, s->len, (n - n0) / nr, panels);
            t.c = (float *)(uintptr_t)a->c.a + m * a->ldc + n;
            t.bias = a->bias.a ? gemm_host(a->bias) + n : NULL;
            if (n1 - n < nr || (kn->whole && me - m < kn->mr))
                tile_edge(kn, t, me - m, size_min(n1 - n, nr));
            else
                kn->tile(&t, (int)(me - m));
            t.b = (const char *)t.b + next_b;
            if (w->kept) t.slot[1] += GEMM_DEPTH * kn->mr * nr;
        }
        t.a = next_a;
    }
}

/* No k at all: C (or zeros), plus the bias. */
static void block_empty(const struct gemm_args *a, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    const float *bias = gemm_host(a->bias);
    for (int64_t m = m0; m < m1; m++) {
        float *c = (float *)(uintptr_t)a->c.a + m * a->ldc;
        for (int64_t n = n0; n < n1; n++) {
            const float x = a->accumulate ? c[n] : 0.0f;
            c[n] = bias ? x + bias[n] : x;
        }
    }
}

static void block_superblocks(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_plan *p,
                              int64_t m0, int64_t m1, int64_t n0, int64_t n1, const struct gemm_work *w) {
    const int kc = (int)size_min(p->all, size_min(w->kc, p->leaves > 1 ? kn->kc_tree : kn->kc));
    int64_t nb = size_min(w->nb, w->elements_b / kc / kn->nr * kn->nr), mg = m1 - m0;
    struct gemm_work mine = *w;
    if (p->leaves > 1 && p->all > kc) /* sums wait from one superblock to the next: for so many rows at a time */
        mg = (int64_t)GEMM_MG * GEMM_NB / nb / kn->mr * kn->mr;
    else
        mine.kept = NULL;
    const bool resident = p->all <= kc && size_ceil_div(mg, kn->mr) * kn->mr * gemm_lda(kn, p->all) <= w->elements_a;
    /* Few rows: transpose less of B at a time, so that it is still in L1 when it is used. */
    if (a->layout == GEMM_NT && m1 - m0 <= 2 * kn->mr) nb = size_min(nb, 2 * kn->nr);
    for (int64_t n = n0; n < n1; n += nb) {
        const int64_t ne = size_min(n + nb, n1);
        for (int64_t m = m0; m < m1; m += mg) {
            struct gemm_cursor c = {0};
            struct gemm_superblock s;
            while (gemm_superblock_next(kn, a, p, kc, &c, &s)) {
                if (!kn->packed || !a->packed_b.a) kn->pack_b(kn, a, &s, n, ne, mine.b);
                block_tiles(kn, a, &s, m, size_min(m + mg, m1), n, ne, &mine, resident, n == n0);
            }
        }
    }
}

void gemm_block(const struct gemm_kernel *kn, const struct gemm_args *a, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                const struct gemm_work *w) {
    struct gemm_plan p;
    gemm_plan_tree(kn, a, &p);
    if (kn->enter) kn->enter();
    if (p.leaves == 0)
        block_empty(a, m0, m1, n0, n1);
    else
        block_superblocks(kn, a, &p, m0, m1, n0, n1, w);
    if (kn->leave) kn->leave();
}
