/* Causal grouped-query attention on the host: tiles of ATTN_ROWS queries by ATTN_KEYS keys at fixed places of the sequence, an online
 * softmax forward, probabilities recomputed from the log-sum backward. Tiles that nothing sees are passed over.
 *
 * Every sum is one chain whose order the tasks do not touch: o and dq over keys rising; dk and dv over the q heads of the group, then
 * query rows rising. So the work may be cut by q tiles, key tiles or KV heads, whichever keeps the threads busy, with the same bits.
 *
 * The products run on the tile kernels of the GEMM. Their factors are packed once and used often: keys and values for all q heads and q
 * tiles, a q tile for all its key tiles; scores are made where they are a left factor already. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/size.h"
#include "base/vmath.h"
#include "dev/host.h"
#include "dev/host_gemm.h"
#include "dev/host_gemm_kernel.h"
#include "dev/host_pack.h"

/* Left factors lie side by side in rows of GEMM_LDA floats: backward, scores, their gradient and the transposes of both. */
enum { LD = GEMM_LDA, LEFT = ATTN_ROWS * GEMM_LDA, MAX_D = GEMM_KC / 2 };
_Static_assert(MAX_D + ATTN_KEYS <= GEMM_LDA && 4 * ATTN_KEYS <= GEMM_LDA, "left factors fit side by side");
_Static_assert(ATTN_KEYS % GEMM_NR == 0, "a key tile is whole panels");

static enum status check(int64_t b, int64_t t, int64_t hq, int64_t hkv, int64_t d, int64_t window) {
    if (b < 0 || t < 0 || hq < 0 || d < 1 || window < 0 || hkv < 0 || (hq && (hkv < 1 || hq % hkv)))
        return TM_FAIL(TM_ERR_SHAPE,
                       "attention: batch %lld, length %lld, %lld heads over %lld KV heads of %lld, window %lld",
                       (long long)b, (long long)t, (long long)hq, (long long)hkv, (long long)d, (long long)window);
    if (d > MAX_D)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "attention: heads of %lld channels, at most %d on the host", (long long)d,
                       MAX_D);
    return TM_OK;
}
static int64_t tiles(int64_t n, int64_t tile) { return size_ceil_div(n, tile); }
/* k in whole blocks of a bf16 kernel. */
static int64_t padded_k(const struct gemm_kernel *kn, int64_t k) { return tiles(k, kn->block) * kn->block; }

/* --- products of packed tiles ------------------------------------------------------------------------------------------------- */
/* C[rows, cols] = (add ? C : 0) continued over k. a: packed rows. b: panels [depth][nr], of which k rows are used (a bf16 kernel uses whole
 * blocks: zeros follow). cols is rounded up to whole panels, and rows to whole tiles where the kernel does no other: C has room for them. */
static void product(const struct gemm_kernel *kn, int64_t rows, int64_t cols, int64_t k, const void *a, const void *b,
                    int64_t depth, float *c, int64_t ldc, int add) {
    _Alignas(64) float hot[SLOT_KEPT * GEMM_MR * GEMM_NR]; /* only a widened kernel uses it */
    const struct gemm_step step = {.k1 = (int)padded_k(kn, k), .load = add, .to = SLOT_C, .last = 1};
    const int64_t n = tiles(rows, kn->mr), element = kn->element, lda = gemm_lda(kn, step.k1);
    for (int64_t i = 0; i < n; i++) {
        const int64_t r0 = kn->whole ? i * kn->mr : rows * i / n, r1 = kn->whole ? r0 + kn->mr : rows * (i + 1) / n;
        const char *panel = b;
        for (int64_t j = 0; j < cols; j += kn->nr, panel += depth * kn->nr * element) {
            const struct gemm_tile t = {.kn = kn,
                                        .a = (const char *)a + r0 * lda * element,
                                        .lda = lda,
                                        .b = panel,
                                        .c = c + r0 * ldc + j,
                                        .ldc = ldc,
                                        .slot = {hot},
                                        .step = &step,
                                        .steps = 1};
            kn->tile(&t, (int)(r1 - r0));
        }
    }
}
/* Columns of d channels in whole panels. */
static int64_t padded(const struct gemm_kernel *kn, int64_t d) { return tiles(d, kn->nr) * kn->nr; }

/* The factors of a product become bf16, where that is wanted: `round` is then not NULL. */
static const struct leaf *rounding(const struct dev *d, int bf16) { return bf16 ? d->leaf : NULL; }
static void round_rows(const struct leaf *round, float *x, int64_t ld, int64_t rows, int64_t cols) {
    for (int64_t r = 0; round && r < rows; r++) round->round_bf16(x + r * ld, cols);
}

/* A right factor x' of a tile x [n <= ATTN_KEYS, d]: panels [d][nr], ATTN_KEYS * d floats in all; zeros after the last row. */
static void pack_transposed(const struct gemm_kernel *kn, const struct leaf *round, const float *x, int64_t ld,
                            int64_t n, int64_t d, float *out) {
    for (int64_t r = 0; r < ATTN_KEYS; r += kn->nr, out += d * kn->nr) {
        int64_t rows = size_min(kn->nr, n - r);
        if (rows < kn->nr) memset(out, 0, (size_t)(d * kn->nr) * sizeof *out);
        if (rows > 0) kn->transpose(x + r * ld, ld, rows, d, out, kn->nr);
        round_rows(round, out, 0, 1, d * kn->nr);
    }
}
/* A right factor x of a tile x [n <= ATTN_KEYS, d]: panels [ATTN_KEYS][nr], ATTN_KEYS * padded(d) floats in all. */
static void pack_plain(const struct gemm_kernel *kn, const struct leaf *round, const float *x, int64_t ld, int64_t n,
                       int64_t d, float *out) {
    for (int64_t c = 0; c < d; c += kn->nr, out += ATTN_KEYS * kn->nr) {
        int64_t cols = size_min(kn->nr, d - c);
        if (cols < kn->nr) memset(out, 0, (size_t)(ATTN_KEYS * kn->nr) * sizeof *out);
        kn->copy(x + c, ld, n, cols, out, kn->nr);
        round_rows(round, out, kn->nr, n, cols);
    }
}
static void copy_rows(const float *x, int64_t ldx, int64_t rows, int64_t cols, float *y, int64_t ldy) {
    for (int64_t r = 0; r < rows; r++) memcpy(y + r * ldy, x + r * ldx, (size_t)cols * sizeof *y);
}

/* The tile of query rows [q0, ..) of T, the first of which is position t0 of its sequence, and keys [k0, ..): its extent and what each row
 * sees. False: nothing is seen. */
static bool tile_init(struct leaf_attn *x, const int32_t *first, int64_t t0, int64_t t, int64_t window, float scale,
                      int64_t q0, int64_t k0, int64_t *keys) {
    bool any = false;
    x->rows = size_min(ATTN_ROWS, t - q0);
    x->ld = LD;
    x->scale = scale;
    *keys = size_min(ATTN_KEYS, t0 + q0 + x->rows - k0); /* no later key is seen by the last row */
    if (*keys <= 0) return false;
    for (int64_t r = 0; r < x->rows; r++) {
        int64_t row = t0 + q0 + r, lo = size_max(first ? first[q0 + r] : 0, window ? row - window + 1 : 0);
        x->lo[r] = (int32_t)size_min(size_max(lo - k0, 0), ATTN_KEYS);
        x->hi[r] = (int32_t)size_max(size_min(row + 1 - k0, *keys), 0);
        any |= x->lo[r] < x->hi[r];
    }
    return any;
}

/* --- forward -------------------------------------------------------------------------------------------------------------------- */
/* A factor of one term for a kernel's packers: x is [rows][ld], k of the product along its rows or (NN, right) down its columns. */
static void pack(const struct gemm_kernel *kn, enum gemm_layout layout, bool right, const float *x, int64_t ld,
                 int64_t rows, int64_t k, int64_t depth, void *out) {
    struct gemm_args a;
    struct gemm_superblock s;
    a.layout = layout;
    a.packed_a.a = a.packed_b.a = 0;
    a.term[0].a.a = a.term[0].b.a = (uint64_t)(uintptr_t)x;
    a.term[0].lda = a.term[0].ldb = ld;
    s.len = (int)depth;
    s.pieces = 1;
    s.piece[0].term = s.piece[0].at = 0;
    s.piece[0].k = 0;
    s.piece[0].len = (int)k;
    if (right)
        kn->pack_b(kn, &a, &s, 0, rows, out);
    else
        kn->pack_a(kn, &a, &s, 0, rows, out);
}

/* Where the packed keys and values of one key tile lie, in elements: first k', then v. */
static int64_t key_tile(const struct gemm_kernel *kn, int64_t d) { return ATTN_KEYS * padded_k(kn, d); }
static int64_t kv_tile(const struct gemm_kernel *kn, int64_t d) { return key_tile(kn, d) + ATTN_KEYS * padded(kn, d); }

static void pack_kv(const struct gemm_kernel *kn, const struct attn_fwd_args *a, int64_t seq, int64_t kv, int64_t k0,
                    char *out) {
    const int64_t at = seq * (a->tk ? a->tk : a->t) + k0, n = size_min(ATTN_KEYS, a->t0 + a->t - k0);
    pack(kn, GEMM_NT, true, host_f32(a->k) + at * a->ldk + kv * a->d, a->ldk, n, a->d, padded_k(kn, a->d), out);
    pack(kn, GEMM_NN, true, host_f32(a->v) + at * a->ldv + kv * a->d, a->ldv, a->d, n, ATTN_KEYS,
         out + key_tile(kn, a->d) * kn->element);
}

/* The work space of a thread: packed queries and probabilities, scores, weighted values [ATTN_ROWS, padded d]. Scores are packed rows of an fp32
 * kernel already. */
struct forward_space {
    void *q, *p;
    float *s, *acc;
};
static int64_t left_bytes(const struct gemm_kernel *kn, int64_t d) { /* of packed rows of d channels or of a key tile */
    return ATTN_ROWS * gemm_lda(kn, size_max(padded_k(kn, d), padded_k(kn, ATTN_KEYS))) * kn->element;
}
static size_t forward_bytes(const struct gemm_kernel *kn, int64_t d) {
    return 2 * (size_t)left_bytes(kn, d) + (size_t)(LEFT + ATTN_ROWS * padded(kn, d)) * sizeof(float);
}
static struct forward_space forward_space(const struct gemm_kernel *kn, int64_t d, char *ws) {
    const int64_t left = left_bytes(kn, d);
    struct forward_space w = {.q = ws, .p = ws + left, .s = (float *)(void *)(ws + 2 * left)};
    w.acc = w.s + LEFT;
    if (kn->block == 1) w.p = w.s;
    return w;
}

/* One q tile of one head. kv: the packed key tiles. */
static void forward_tile(const struct dev *d, const struct gemm_kernel *kn, const struct attn_fwd_args *a, int64_t seq,
                         int64_t head, int64_t q0, const char *kv, const struct forward_space *w) {
    const int64_t at = seq * a->t, cols = padded(kn, a->d), rows = size_min(ATTN_ROWS, a->t - q0);
    float *o = host_f32(a->o), *lse = host_f32(a->lse) + (at + q0) * a->hq + head;
    float top[ATTN_ROWS], sum[ATTN_ROWS] = {0}, *acc = w->acc;
    const int32_t *first = a->first.a ? host_i32(a->first) + at : NULL;
    for (int r = 0; r < ATTN_ROWS; r++) top[r] = -INFINITY;
    memset(acc, 0, (size_t)(rows * cols) * sizeof *acc);
    pack(kn, GEMM_NT, false, host_f32(a->q) + (at + q0) * a->ldq + head * a->d, a->ldq, rows, a->d, padded_k(kn, a->d),
         w->q);
    for (int64_t k0 = 0; k0 < a->t0 + q0 + rows; k0 += ATTN_KEYS) {
        struct leaf_attn x;
        int64_t keys;
        const char *k = kv + k0 / ATTN_KEYS * kv_tile(kn, a->d) * kn->element,
                   *v = k + key_tile(kn, a->d) * kn->element;
        if (!tile_init(&x, first, a->t0, a->t, a->window, a->scale, q0, k0, &keys)) continue;
        product(kn, rows, keys, a->d, w->q, k, padded_k(kn, a->d), w->s, LD, 0);
        d->leaf->attn_softmax(&x, w->s, top, sum, acc, cols);
        if (w->p != w->s) pack(kn, GEMM_NT, false, w->s, LD, rows, keys, padded_k(kn, keys), w->p);
        product(kn, rows, cols, keys, w->p, v, ATTN_KEYS, acc, cols, 1);
    }
    for (int64_t r = 0; r < rows; r++) {
        float inv = sum[r] == 0 ? 0 : 1.0f / sum[r];
        float *row = o ? o + (at + q0 + r) * a->ldo + head * a->d : acc + r * cols;
        for (int64_t c = 0; c < a->d; c++) row[c] = acc[r * cols + c] * inv;
        if (a->packed.at.a) host_pack_span(d, &a->packed, at + q0 + r, head * a->d, row, a->d);
        lse[r * a->hq] = sum[r] == 0 ? -INFINITY : (float)((double)top[r] + vmath_log_wide(sum[r]));
    }
}

enum status host_attn_fwd(struct dev *d, const struct attn_fwd_args *a) {
    const struct gemm_kernel *kn = a->bf16 ? host_gemm_kernel_bf16(d->gemm) : host_gemm_kernel(d->gemm);
    char *base;
    size_t first, stride;
    TM_TRY(check(a->b, a->t, a->hq, a->hkv, a->d, a->window));
    if (a->t0 < 0 || ((a->t0 || a->tk) && a->tk < a->t0 + a->t))
        return TM_FAIL(TM_ERR_SHAPE, "attention: positions %lld .. %lld in a cache of %lld", (long long)a->t0,
                       (long long)(a->t0 + a->t), (long long)a->tk);
    const int64_t nq = tiles(a->t, ATTN_ROWS), nk = tiles(a->t0 + a->t, ATTN_KEYS),
                  each = kv_tile(kn, a->d) * kn->element;
    const int64_t skip = a->window ? size_max(a->t0 - a->window + 1, 0) / ATTN_KEYS : 0; /* before every window */
    const int64_t n_kv = a->b * a->hkv * nk, n = a->b * a->hq * nq;
    TM_TRY(host_scratch(d, (size_t)(n_kv * each), forward_bytes(kn, a->d), &base, &first, &stride));
#pragma omp parallel num_threads(d->threads) if (n > 1)
    {
        const struct forward_space w = forward_space(kn, a->d, base + first + (size_t)omp_get_thread_num() * stride);
        if (kn->enter) kn->enter();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n_kv; i++)
            if (i % nk >= skip) pack_kv(kn, a, i / nk / a->hkv, i / nk % a->hkv, i % nk * ATTN_KEYS, base + i * each);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n; i++) { /* the long tiles first: the last ones then even out the threads */
            int64_t tile = nq - 1 - i / (a->b * a->hq), seq = i % (a->b * a->hq) / a->hq, head = i % a->hq;
            int64_t kv = seq * a->hkv + head / (a->hq / a->hkv);
            forward_tile(d, kn, a, seq, head, tile * ATTN_ROWS, base + kv * nk * each, &w);
        }
        if (kn->leave) kn->leave();
    }
    return TM_OK;
}

/* --- backward ------------------------------------------------------------------------------------------------------------------- */
/* What one task of the backward does: heads [h0, h1) of a KV head, q tiles [q0, q1), key tiles [k0, k1), and which gradients it owns. */
struct span {
    int64_t seq, kv, h0, h1, q0, q1, k0, k1;
    bool dq, dkv;
};

/* The work space of a task. Of each key tile: k', v', k packed, sums of dk and dv; of the q tile: right factors q and dout, sums of dq;
 * left factors in rows of LD: q and dout; p, dp and the transposes of both. */
struct space {
    float *kt, *vt, *k, *dk, *dv, *q, *g, *dq, *left_q, *left_g, *p, *dp, *pt, *dpt;
};
static size_t space_bytes(const struct gemm_kernel *kn, int64_t d, int64_t key_tiles) {
    const int64_t flat = ATTN_KEYS * d, wide = ATTN_KEYS * padded(kn, d);
    return (size_t)(2 * LEFT + 3 * wide + key_tiles * (3 * wide + 2 * flat)) * sizeof(float);
}
static struct space space_make(const struct gemm_kernel *kn, int64_t d, int64_t key_tiles, float *ws) {
    const int64_t flat = ATTN_KEYS * d, wide = ATTN_KEYS * padded(kn, d), keys = key_tiles * wide;
    struct space w = {.left_q = ws, .left_g = ws + d, .p = ws + LEFT};
    w.dp = w.p + ATTN_KEYS, w.pt = w.dp + ATTN_KEYS, w.dpt = w.pt + ATTN_ROWS;
    w.q = w.p + LEFT, w.g = w.q + wide, w.dq = w.g + wide;
    w.k = w.dq + wide, w.dk = w.k + keys, w.dv = w.dk + keys;
    w.kt = w.dv + keys, w.vt = w.kt + key_tiles * flat;
    return w;
}

static void pack_keys(const struct dev *d, const struct gemm_kernel *kn, const struct attn_bwd_args *a,
                      const struct span *w, const struct space *x) {
    const struct leaf *round = rounding(d, a->bf16);
    const int64_t c = a->d, flat = ATTN_KEYS * c, wide = ATTN_KEYS * padded(kn, c), n = w->k1 - w->k0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t k0 = (w->k0 + i) * ATTN_KEYS, at = w->seq * a->t + k0, keys = size_min(ATTN_KEYS, a->t - k0);
        const float *k = host_f32(a->k) + at * a->ldk + w->kv * c, *v = host_f32(a->v) + at * a->ldv + w->kv * c;
        pack_transposed(kn, round, k, a->ldk, keys, c, x->kt + i * flat);
        pack_transposed(kn, round, v, a->ldv, keys, c, x->vt + i * flat);
        pack_plain(kn, round, k, a->ldk, keys, c, x->k + i * wide);
    }
    memset(x->dk, 0, (size_t)(n * wide) * sizeof *x->dk);
    memset(x->dv, 0, (size_t)(n * wide) * sizeof *x->dv);
}
static void store_keys(const struct gemm_kernel *kn, const struct attn_bwd_args *a, const struct span *w,
                       const struct space *x) {
    const int64_t c = a->d, k0 = w->k0 * ATTN_KEYS, at = w->seq * a->t + k0;
    const int64_t rows = size_min(w->k1 * ATTN_KEYS, a->t) - k0, wide = padded(kn, c);
    copy_rows(x->dk, wide, rows, c, host_f32(a->dk) + at * a->ldk + w->kv * c, a->ldk);
    copy_rows(x->dv, wide, rows, c, host_f32(a->dv) + at * a->ldv + w->kv * c, a->ldv);
}

/* One q tile of one head against the key tiles of the span. */
static void backward_tile(const struct dev *d, const struct gemm_kernel *kn, const struct attn_bwd_args *a,
                          const struct span *w, const struct space *x, int64_t head, int64_t q0) {
    const struct leaf *round = rounding(d, a->bf16);
    const int64_t at = w->seq * a->t, c = a->d, cols = padded(kn, c), flat = ATTN_KEYS * c, wide = ATTN_KEYS * cols;
    const int64_t rows = size_min(ATTN_ROWS, a->t - q0), end = size_min(w->k1 * ATTN_KEYS, q0 + rows);
    const float *q = host_f32(a->q) + (at + q0) * a->ldq + head * c;
    const float *g = host_f32(a->dout) + (at + q0) * a->ldo + head * c;
    const float *lse = host_f32(a->lse) + (at + q0) * a->hq + head;
    const float *delta = host_f32(a->delta) + (at + q0) * a->hq + head;
    const int32_t *first = a->first.a ? host_i32(a->first) + at : NULL;
    copy_rows(q, a->ldq, rows, c, x->left_q, LD);
    copy_rows(g, a->ldo, rows, c, x->left_g, LD);
    round_rows(round, x->left_q, LD, rows, 2 * c); /* left_g lies beside it */
    if (w->dkv) {
        pack_plain(kn, round, q, a->ldq, rows, c, x->q);
        pack_plain(kn, round, g, a->ldo, rows, c, x->g);
    }
    memset(x->dq, 0, (size_t)(rows * cols) * sizeof *x->dq);
    for (int64_t k0 = w->k0 * ATTN_KEYS; k0 < end; k0 += ATTN_KEYS) {
        struct leaf_attn see;
        int64_t n, i = k0 / ATTN_KEYS - w->k0;
        if (!tile_init(&see, first, 0, a->t, a->window, a->scale, q0, k0, &n)) continue;
        product(kn, rows, n, c, x->left_q, x->kt + i * flat, c, x->p, LD, 0);
        product(kn, rows, n, c, x->left_g, x->vt + i * flat, c, x->dp, LD, 0);
        d->leaf->attn_grad(&see, x->p, x->dp, lse, delta, a->hq);
        round_rows(round, x->p, LD, rows, 2 * ATTN_KEYS); /* dp lies beside it */
        if (w->dkv) {
            kn->transpose(x->p, LD, rows, n, x->pt, LD);
            kn->transpose(x->dp, LD, rows, n, x->dpt, LD);
            product(kn, n, cols, rows, x->pt, x->g, ATTN_ROWS, x->dv + i * wide, cols, 1);
            product(kn, n, cols, rows, x->dpt, x->q, ATTN_ROWS, x->dk + i * wide, cols, 1);
        }
        if (w->dq) product(kn, rows, cols, n, x->dp, x->k + i * wide, ATTN_KEYS, x->dq, cols, 1);
    }
    if (w->dq) copy_rows(x->dq, cols, rows, c, host_f32(a->dq) + (at + q0) * a->ldq + head * c, a->ldq);
}

static void backward_span(const struct dev *d, const struct attn_bwd_args *a, const struct span *w, float *ws) {
    const struct gemm_kernel *kn = host_gemm_kernel(d->gemm);
    const struct space x = space_make(kn, a->d, w->k1 - w->k0, ws);
    pack_keys(d, kn, a, w, &x);
    for (int64_t h = w->h0; h < w->h1; h++)
        for (int64_t q0 = w->q0 * ATTN_ROWS; q0 < size_min(w->q1 * ATTN_ROWS, a->t); q0 += ATTN_ROWS)
            backward_tile(d, kn, a, w, &x, h, q0);
    if (w->dkv) store_keys(kn, a, w, &x);
}

/* delta = sum over channels of dout * o, which is the sum over keys of p * dp. */
static void row_deltas(const struct dev *d, const struct attn_bwd_args *a) {
    const float *o = host_f32(a->o), *g = host_f32(a->dout);
    float *delta = host_f32(a->delta);
#pragma omp parallel for num_threads(d->threads) if (a->b * a->t * a->hq * a->d > HOST_SERIAL)
    for (int64_t r = 0; r < a->b * a->t; r++)
        for (int64_t h = 0; h < a->hq; h++)
            delta[r * a->hq + h] = d->leaf->dot(g + r * a->ldo + h * a->d, o + r * a->ldo + h * a->d, a->d);
}

enum status host_attn_bwd(struct dev *d, const struct attn_bwd_args *a) {
    char *base;
    size_t first, stride;
    TM_TRY(check(a->b, a->t, a->hq, a->hkv, a->d, a->window));
    if (!a->hkv) return TM_OK;
    row_deltas(d, a);
    const int64_t group = a->hq / a->hkv, nq = tiles(a->t, ATTN_ROWS), nk = tiles(a->t, ATTN_KEYS),
                  pairs = a->b * a->hkv;
    /* Enough KV heads: a task does all three gradients and recomputes each tile once. Else cut finer and recompute twice. */
    const bool fine = pairs < d->threads;
    TM_TRY(host_scratch(d, 0, space_bytes(host_gemm_kernel(d->gemm), a->d, nk), &base, &first, &stride));
    const int64_t key_tasks = fine ? pairs * nk : pairs, n = key_tasks + (fine ? pairs * group * nq : 0);
#pragma omp parallel for schedule(dynamic) num_threads(d->threads) if (n > 1)
    for (int64_t i = 0; i < n; i++) {
        float *ws = (float *)(void *)(base + first + (size_t)omp_get_thread_num() * stride);
        int64_t j = i < key_tasks ? i % pairs : (i - key_tasks) % pairs,
                cut = i < key_tasks ? i / pairs : (i - key_tasks) / pairs;
        int64_t kv = j % a->hkv;
        struct span w = {.seq = j / a->hkv,
                         .kv = kv,
                         .h0 = kv * group,
                         .h1 = (kv + 1) * group,
                         .q1 = nq,
                         .k1 = nk,
                         .dq = !fine,
                         .dkv = true};
        if (fine && i < key_tasks) { /* one key tile; rows before it see none of it */
            w.k0 = cut, w.k1 = cut + 1, w.q0 = cut * ATTN_KEYS / ATTN_ROWS;
        } else if (fine) { /* one q tile of one head, the long ones first */
            w.h0 += cut % group, w.h1 = w.h0 + 1, w.q0 = nq - 1 - cut / group, w.q1 = w.q0 + 1;
            w.k1 = size_min(nk, tiles(w.q1 * ATTN_ROWS, ATTN_KEYS));
            w.dq = true, w.dkv = false;
        }
        backward_span(d, a, &w, ws);
    }
    return TM_OK;
}
