/* The block driver of the host GEMM: cuts k into superblocks, packs A and B, walks the tiles of C and plans the tree of leaves. */
#include <string.h>

#include "base/size.h"
#include "dev/host_gemm_kernel.h"

enum { MAX_PIECES = OPS_MAX_TERMS * OPS_MAX_SEGMENTS };

/* The leaves of a product that are not empty, and where the tree adds them. */
struct plan {
    int leaves;
    int segment[OPS_MAX_SEGMENTS]; /* of each leaf */
    int merges[OPS_MAX_SEGMENTS];  /* waiting sums to add after this leaf, topmost first */
    int64_t k[OPS_MAX_SEGMENTS], all;
};

/* A stretch of packed k: the pieces of the factors that fill it, and the steps of a tile. */
struct superblock {
    int len, pieces, steps;
    struct {
        int term, at, len; /* at: packed k */
        int64_t k;         /* in the factors */
    } piece[MAX_PIECES];
    struct gemm_step step[OPS_MAX_SEGMENTS];
};

/* Where the walk over k stands. */
struct cursor {
    int leaf;
    int term;        /* inside the leaf */
    int64_t k, done; /* of this term; of this leaf */
    int depth;       /* sums that wait */
};

static int64_t piece_len(const struct gemm_args *a, int term, int segment) {
    return a->term[term].k[segment + 1] - a->term[term].k[segment];
}

/* The tree by position as a stack machine: after a leaf, add the `merges` topmost waiting sums, then wait. A binary counter walks
 * all positions; nothing is added for an empty one, so its merges fall away and the others keep their order. */
static void plan_tree(const struct gemm_args *a, struct plan *p) {
    bool has[OPS_MAX_SEGMENTS] = {false}; /* level l of the counter holds a sum */
    memset(p, 0, sizeof *p);
    for (int j = 0; j < a->segments; j++) {
        int64_t k = 0;
        for (int t = 0; t < a->terms; t++) k += piece_len(a, t, j);
        if (k > 0) {
            p->segment[p->leaves] = j;
            p->k[p->leaves++] = k;
        }
        p->all += k;
        bool carry = k > 0;
        int l = 0;
        for (; j >> l & 1; l++) {
            if (has[l] && carry) p->merges[p->leaves - 1]++;
            carry |= has[l];
            has[l] = false;
        }
        has[l] = carry;
    }
    bool carry = false;
    for (int l = 0; l < OPS_MAX_SEGMENTS; l++) {
        if (has[l] && carry) p->merges[p->leaves - 1]++;
        carry |= has[l];
    }
}

/* Take `len` more k of the leaf at the cursor into the superblock. */
static void superblock_take(const struct gemm_args *a, int segment, struct cursor *c, int64_t len,
                            struct superblock *s) {
    c->done += len;
    while (len > 0) {
        const int64_t left = piece_len(a, c->term, segment) - c->k;
        const int take = (int)size_min(left, len);
        if (take > 0) {
            s->piece[s->pieces].term = c->term;
            s->piece[s->pieces].at = s->len;
            s->piece[s->pieces].len = take;
            s->piece[s->pieces++].k = a->term[c->term].k[segment] + c->k;
        }
        s->len += take;
        len -= take;
        c->k += take;
        if (take == left) c->term++, c->k = 0;
    }
}

/* The slots of the sums of a superblock that began with `depth` waiting: what is added in this superblock waits hot. */
static void superblock_slots(struct superblock *s, int depth) {
    int owner[GEMM_DEPTH + 1]; /* step that left the sum at this depth; -1 = a superblock before */
    for (int d = 0; d < depth; d++) owner[d] = -1;
    for (int i = 0; i < s->steps; i++) {
        struct gemm_step *step = &s->step[i];
        for (int j = 0; j < step->adds; j++) {
            const int from = owner[--depth];
            step->add[j] = from < 0 ? SLOT_KEPT + depth : SLOT_HOT + depth;
            if (from >= 0) s->step[from].to = SLOT_HOT + depth;
        }
        if (step->to == SLOT_C) continue;
        step->to = SLOT_KEPT + depth; /* until a later step adds it */
        owner[depth++] = i;
    }
}

/* The next superblock of at most kc: as many whole leaves as fit, or an even share of one that is longer. False when k is used up. */
static bool superblock_next(const struct gemm_args *a, const struct plan *p, struct cursor *c, int kc,
                            struct superblock *s) {
    const int depth = c->depth;
    s->len = s->pieces = s->steps = 0;
    while (c->leaf < p->leaves) {
        const int64_t whole = p->k[c->leaf], parts = size_ceil_div(whole, kc);
        const int64_t share = (size_ceil_div(whole, parts) + 3) & ~(int64_t)3,
                      len = size_min(size_min(share, kc), whole - c->done);
        if (s->len + len > kc) break;
        struct gemm_step *step = &s->step[s->steps++];
        *step = (struct gemm_step){.k0 = s->len, .load = c->done > 0 || a->accumulate, .to = SLOT_C};
        superblock_take(a, p->segment[c->leaf], c, len, s);
        step->k1 = s->len;
        if (c->done < whole) break; /* the chain is kept in C */
        step->adds = p->merges[c->leaf];
        step->last = ++c->leaf == p->leaves;
        c->term = 0;
        c->k = c->done = 0;
        c->depth -= step->adds;
        if (!step->last) step->to = SLOT_HOT, c->depth++;
    }
    superblock_slots(s, depth);
    return s->steps > 0;
}

static const float *host(dptr p) { return (const float *)(uintptr_t)p.a; }

/* Panels of nr columns, [k][nr] each, zeros after the last column. */
static void pack_b(const struct gemm_kernel *kn, const struct gemm_args *a, const struct superblock *s, int64_t n0,
                   int64_t n1, float *dst) {
    enum { ROWS = 8 }; /* rows of k that are copied for all panels in turn: a long read from each */
    const int64_t nr = kn->nr, panel = s->len * nr, tail = (n1 - n0) % nr;
    if (tail) memset(dst + (n1 - n0) / nr * panel, 0, (size_t)panel * sizeof *dst);
    for (int i = 0; i < s->pieces; i++) {
        const struct gemm_term *t = &a->term[s->piece[i].term];
        const float *from = host(t->b);
        const int64_t at = s->piece[i].k, len = s->piece[i].len, rows = a->layout == GEMM_NT ? len : ROWS;
        for (int64_t k = 0; k < len; k += rows) {
            const int64_t take = size_min(rows, len - k);
            float *to = dst + (s->piece[i].at + k) * nr;
            for (int64_t n = n0; n < n1; n += nr, to += panel) {
                const int64_t cols = size_min(nr, n1 - n);
                if (a->layout == GEMM_NT)
                    kn->transpose(from + n * t->ldb + at, t->ldb, cols, take, to, nr);
                else
                    kn->copy(from + (at + k) * t->ldb + n, t->ldb, take, cols, to, nr);
            }
        }
    }
}

/* `rows` rows of A, [row][GEMM_LDA]. */
static void pack_a(const struct gemm_kernel *kn, const struct gemm_args *a, const struct superblock *s, int64_t m,
                   int64_t rows, float *dst) {
    for (int i = 0; i < s->pieces; i++) {
        const struct gemm_term *t = &a->term[s->piece[i].term];
        const int64_t k = s->piece[i].k, len = s->piece[i].len;
        float *to = dst + s->piece[i].at;
        if (a->layout == GEMM_TN)
            kn->transpose(host(t->a) + k * t->lda + m, t->lda, len, rows, to, GEMM_LDA);
        else
            kn->copy(host(t->a) + m * t->lda + k, t->lda, rows, len, to, GEMM_LDA);
    }
}

/* A tile narrower than nr goes through a full one of our own. */
static void tile_edge(const struct gemm_kernel *kn, struct gemm_tile t, int64_t rows, int64_t cols) {
    _Alignas(64) float c[GEMM_MR * GEMM_NR] = {0}, bias[GEMM_NR] = {0};
    float *to = t.c;
    const int64_t ldc = t.ldc;
    if (t.step[0].load)
        for (int64_t i = 0; i < rows; i++) memcpy(c + i * kn->nr, to + i * ldc, (size_t)cols * sizeof *c);
    if (t.bias) t.bias = memcpy(bias, t.bias, (size_t)cols * sizeof *c);
    t.c = c;
    t.ldc = kn->nr;
    kn->tile[rows](&t);
    if (t.step[t.steps - 1].to != SLOT_C) return; /* all sums wait */
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * ldc, c + i * kn->nr, (size_t)cols * sizeof *c);
}

/* All tiles of rows [m0, m1) and the columns of one packed B block. */
static void block_tiles(const struct gemm_kernel *kn, const struct gemm_args *a, const struct superblock *s, int64_t m0,
                        int64_t m1, int64_t n0, int64_t n1, const struct gemm_work *w) {
    _Alignas(64) float hot[GEMM_DEPTH * GEMM_MR * GEMM_NR];
    const int64_t tiles = size_ceil_div(m1 - m0, kn->mr), group = w->rows_a / kn->mr, nr = kn->nr;
    const int64_t rows = m1 - m0; /* tiles of even heights: none is so low that its few chains wait for each other */
    struct gemm_tile t = {.ldc = a->ldc, .slot = {hot, w->kept}, .step = s->step, .steps = s->steps};
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t m = m0 + rows * i / tiles, me = m0 + rows * (i + 1) / tiles;
        if (i % group == 0) {
            t.a = w->a;
            pack_a(kn, a, s, m, m0 + rows * size_min(i + group, tiles) / tiles - m, w->a);
        }
        t.b = w->b;
        for (int64_t n = n0; n < n1; n += nr, t.b += s->len * nr) {
            t.c = (float *)(uintptr_t)a->c.a + m * a->ldc + n;
            t.bias = a->bias.a ? host(a->bias) + n : NULL;
            if (n1 - n < nr)
                tile_edge(kn, t, me - m, n1 - n);
            else
                kn->tile[me - m](&t);
            if (w->kept) t.slot[1] += GEMM_DEPTH * kn->mr * nr;
        }
        t.a += (me - m) * GEMM_LDA;
    }
}

/* No k at all: C (or zeros), plus the bias. */
static void block_empty(const struct gemm_args *a, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
    const float *bias = host(a->bias);
    for (int64_t m = m0; m < m1; m++) {
        float *c = (float *)(uintptr_t)a->c.a + m * a->ldc;
        for (int64_t n = n0; n < n1; n++) {
            const float x = a->accumulate ? c[n] : 0.0f;
            c[n] = bias ? x + bias[n] : x;
        }
    }
}

void gemm_block(const struct gemm_kernel *kn, const struct gemm_args *a, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                const struct gemm_work *w) {
    struct plan p;
    plan_tree(a, &p);
    if (p.leaves == 0) {
        block_empty(a, m0, m1, n0, n1);
        return;
    }
    /* Sums that wait from one superblock to the next: for so many rows at a time. */
    const bool keep = p.leaves > 1 && p.all > w->kc;
    const int64_t mg = keep ? GEMM_MG / kn->mr * kn->mr : m1 - m0;
    struct gemm_work mine = *w;
    if (!keep) mine.kept = NULL;
    /* Few rows: transpose less of B at a time, so that it is still in L1 when it is used. */
    if (a->layout == GEMM_NT && m1 - m0 <= 2 * kn->mr) mine.nb = (int)size_min(mine.nb, 2 * kn->nr);
    for (int64_t n = n0; n < n1; n += mine.nb) {
        const int64_t ne = size_min(n + mine.nb, n1);
        for (int64_t m = m0; m < m1; m += mg) {
            struct cursor c = {0};
            struct superblock s;
            while (superblock_next(a, &p, &c, w->kc, &s)) {
                pack_b(kn, a, &s, n, ne, mine.b);
                block_tiles(kn, a, &s, m, size_min(m + mg, m1), n, ne, &mine);
            }
        }
    }
}
