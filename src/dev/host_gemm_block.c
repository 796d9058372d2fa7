/* The block driver of the host GEMM: cuts k into superblocks, packs A and B, walks the tiles of C and plans the tree of leaves. */
#include <string.h>

#include "base/size.h"
#include "dev/host_gemm_kernel.h"

enum { MAX_PIECES = OPS_MAX_TERMS * OPS_MAX_SEGMENTS };

/* The leaves of a product that are not empty, and where the tree adds them. */
struct plan {
    int leaves;
    int segment[OPS_MAX_SEGMENTS]; /* of each leaf */
    int merges[OPS_MAX_SEGMENTS];  /* waiting sums to add after this leaf */
    int depth[OPS_MAX_SEGMENTS];   /* sums waiting before it ends */
    int64_t k;                     /* all leaves together */
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

/* Where the walk over k stands: inside term `term` of leaf `leaf`, `k` elements into that piece. */
struct cursor {
    int leaf, term;
    int64_t k;
    bool inside; /* the chain of this leaf has begun in a superblock before */
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
        if (k > 0) p->segment[p->leaves++] = j;
        p->k += k;
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
    for (int i = 1; i < p->leaves; i++) p->depth[i] = p->depth[i - 1] - p->merges[i - 1] + 1;
}

/* Fill the next superblock of at most `room` k. False when k is used up. */
static bool superblock_next(const struct gemm_args *a, const struct plan *p, struct cursor *c, int room,
                            struct superblock *s) {
    s->len = s->pieces = s->steps = 0;
    while (c->leaf < p->leaves && s->len < room) {
        struct gemm_step *step = &s->step[s->steps++];
        const int segment = p->segment[c->leaf];
        *step = (struct gemm_step){.k0 = s->len, .load = c->inside || a->accumulate, .depth = p->depth[c->leaf]};
        for (; c->term < a->terms && s->len < room;) {
            const int64_t left = piece_len(a, c->term, segment) - c->k;
            const int take = (int)size_min(left, room - s->len);
            if (take > 0) {
                s->piece[s->pieces].term = c->term;
                s->piece[s->pieces].at = s->len;
                s->piece[s->pieces].len = take;
                s->piece[s->pieces++].k = a->term[c->term].k[segment] + c->k;
            }
            s->len += take;
            c->k += take;
            if (take == left) c->term++, c->k = 0;
        }
        /* empty terms after a full superblock belong to it: a leaf never ends in a superblock of no k */
        while (c->term < a->terms && piece_len(a, c->term, segment) == c->k) c->term++, c->k = 0;
        step->k1 = s->len;
        step->ends = c->term == a->terms;
        c->inside = !step->ends;
        if (step->ends) {
            step->merges = p->merges[c->leaf];
            step->last = ++c->leaf == p->leaves;
            c->term = 0;
        }
    }
    return s->steps > 0;
}

static const float *host(dptr p) { return (const float *)(uintptr_t)p.a; }

/* Panels of nr columns, [k][nr] each, zeros after the last column. */
static void pack_b(const struct gemm_kernel *kn, const struct gemm_args *a, const struct superblock *s, int64_t n0,
                   int64_t n1, float *dst) {
    for (int64_t n = n0; n < n1; n += kn->nr, dst += (int64_t)s->len * kn->nr) {
        const int64_t cols = size_min(kn->nr, n1 - n);
        if (cols < kn->nr) memset(dst, 0, (size_t)s->len * (size_t)kn->nr * sizeof *dst);
        for (int i = 0; i < s->pieces; i++) {
            const struct gemm_term *t = &a->term[s->piece[i].term];
            const int64_t k = s->piece[i].k, len = s->piece[i].len;
            float *to = dst + (int64_t)s->piece[i].at * kn->nr;
            if (a->layout == GEMM_NT)
                kn->transpose(host(t->b) + n * t->ldb + k, t->ldb, cols, len, to, kn->nr);
            else
                kn->copy(host(t->b) + k * t->ldb + n, t->ldb, len, cols, to, kn->nr);
        }
    }
}

/* One panel of `rows` rows, [row][GEMM_LDA]. */
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
static void tile_edge(const struct gemm_kernel *kn, struct gemm_tile t, int rows, int64_t cols) {
    _Alignas(64) float c[GEMM_MR * GEMM_NR] = {0}, bias[GEMM_NR] = {0};
    float *to = t.c;
    const int64_t ldc = t.ldc;
    if (t.step[0].load)
        for (int i = 0; i < rows; i++) memcpy(c + i * kn->nr, to + i * ldc, (size_t)cols * sizeof *c);
    if (t.bias) t.bias = memcpy(bias, t.bias, (size_t)cols * sizeof *c);
    t.c = c;
    t.ldc = kn->nr;
    kn->tile[rows](&t);
    const struct gemm_step *end = &t.step[t.steps - 1];
    if (end->ends && !end->last) return; /* the sum waits on the stack */
    for (int i = 0; i < rows; i++) memcpy(to + i * ldc, c + i * kn->nr, (size_t)cols * sizeof *c);
}

/* All tiles of one packed block. */
static void block_tiles(const struct gemm_kernel *kn, const struct gemm_args *a, const struct superblock *s, int64_t m0,
                        int64_t m1, int64_t n0, int64_t n1, bool keep, const struct gemm_work *w) {
    _Alignas(64) float one[GEMM_STACK * GEMM_MR * GEMM_NR];
    const int64_t tiles = size_ceil_div(m1 - m0, kn->mr), size = GEMM_STACK * kn->mr * kn->nr;
    float *stack = w->stack;
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t m = m0 + (m1 - m0) * i / tiles, rows = m0 + (m1 - m0) * (i + 1) / tiles - m; /* even heights */
        pack_a(kn, a, s, m, rows, w->a);
        const float *b = w->b;
        for (int64_t n = n0; n < n1; n += kn->nr, b += (int64_t)s->len * kn->nr) {
            struct gemm_tile t = {.a = w->a,
                                  .b = b,
                                  .bias = a->bias.a ? host(a->bias) + n : NULL,
                                  .c = (float *)(uintptr_t)a->c.a + m * a->ldc + n,
                                  .ldc = a->ldc,
                                  .stack = keep ? stack : one,
                                  .step = s->step,
                                  .steps = s->steps};
            if (n1 - n < kn->nr)
                tile_edge(kn, t, (int)rows, n1 - n);
            else
                kn->tile[rows](&t);
            if (keep) stack += size;
        }
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
    const int64_t blocks = size_ceil_div(p.k, w->kc);
    const int room = (int)size_min((size_ceil_div(p.k, blocks) + 3) & ~(int64_t)3, w->kc); /* even lengths */
    const bool keep = p.leaves > 1 && blocks > 1; /* sums wait from one superblock to the next */
    const int64_t mg = keep ? GEMM_MG / kn->mr * kn->mr : m1 - m0;
    for (int64_t n = n0; n < n1; n += w->nb) {
        const int64_t ne = size_min(n + w->nb, n1);
        for (int64_t m = m0; m < m1; m += mg) {
            struct cursor c = {0};
            struct superblock s;
            while (superblock_next(a, &p, &c, room, &s)) {
                pack_b(kn, a, &s, n, ne, w->b);
                block_tiles(kn, a, &s, m, size_min(m + mg, m1), n, ne, keep, w);
            }
        }
    }
}
