/* Causal grouped-query attention on the host: tiles of ATTN_ROWS queries by ATTN_KEYS keys at fixed places of the sequence, an online
 * softmax forward, probabilities recomputed from the log-sum backward. Tiles that nothing sees are passed over.
 *
 * Every sum is one chain whose order the tasks do not touch: o and dq over keys rising; dk and dv over the q heads of the group, then
 * query rows rising. So the work may be cut by q tiles, key tiles or KV heads, whichever keeps the threads busy, with the same bits. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/size.h"
#include "base/vmath.h"
#include "dev/host.h"
#include "dev/host_gemm.h"

enum { TILE = ATTN_ROWS * ATTN_KEYS };

static enum status check(int64_t b, int64_t t, int64_t hq, int64_t hkv, int64_t d, int64_t window) {
    if (b < 0 || t < 0 || hq < 0 || d < 1 || window < 0 || hkv < 0 || (hq && (hkv < 1 || hq % hkv)))
        return TM_FAIL(TM_ERR_SHAPE,
                       "attention: batch %lld, length %lld, %lld heads over %lld KV heads of %lld, window %lld",
                       (long long)b, (long long)t, (long long)hq, (long long)hkv, (long long)d, (long long)window);
    return TM_OK;
}
static int64_t tiles(int64_t n, int64_t tile) { return size_ceil_div(n, tile); }

/* The tile of query rows [q0, ..) of T, the first of which is position t0 of its sequence, and keys [k0, ..): its extent and what each row
 * sees. False: nothing is seen. */
static bool tile_init(struct leaf_attn *x, const int32_t *first, int64_t t0, int64_t t, int64_t window, float scale,
                      int64_t q0, int64_t k0, int64_t *keys) {
    bool any = false;
    x->rows = size_min(ATTN_ROWS, t - q0);
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

/* One q tile of one head. ws: scores [TILE], then weighted values [ATTN_ROWS, d]. */
static void forward_tile(const struct dev *d, const struct attn_fwd_args *a, int64_t seq, int64_t head, int64_t q0,
                         float *ws) {
    const int64_t kv = head / (a->hq / a->hkv), at = seq * a->t, key_at = seq * (a->tk ? a->tk : a->t);
    const float *q = host_f32(a->q) + (at + q0) * a->ldq + head * a->d;
    const float *k = host_f32(a->k) + key_at * a->ldk + kv * a->d, *v = host_f32(a->v) + key_at * a->ldv + kv * a->d;
    float *o = host_f32(a->o) + (at + q0) * a->ldo + head * a->d, *lse = host_f32(a->lse) + (at + q0) * a->hq + head;
    float top[ATTN_ROWS], sum[ATTN_ROWS] = {0}, *s = ws, *acc = ws + TILE;
    const int32_t *first = a->first.a ? host_i32(a->first) + at : NULL;
    int64_t rows = size_min(ATTN_ROWS, a->t - q0);
    for (int r = 0; r < ATTN_ROWS; r++) top[r] = -INFINITY;
    memset(acc, 0, (size_t)(rows * a->d) * sizeof *acc);
    for (int64_t k0 = 0; k0 < a->t0 + q0 + rows; k0 += ATTN_KEYS) {
        struct leaf_attn x;
        int64_t keys;
        if (!tile_init(&x, first, a->t0, a->t, a->window, a->scale, q0, k0, &keys)) continue;
        host_gemm_tile(d->gemm, GEMM_NT, rows, keys, a->d, q, a->ldq, k + k0 * a->ldk, a->ldk, s, ATTN_KEYS, 0);
        d->leaf->attn_softmax(&x, s, top, sum, acc, a->d);
        host_gemm_tile(d->gemm, GEMM_NN, rows, a->d, keys, s, ATTN_KEYS, v + k0 * a->ldv, a->ldv, acc, a->d, 1);
    }
    for (int64_t r = 0; r < rows; r++) {
        float inv = sum[r] == 0 ? 0 : 1.0f / sum[r];
        for (int64_t c = 0; c < a->d; c++) o[r * a->ldo + c] = acc[r * a->d + c] * inv;
        lse[r * a->hq] = sum[r] == 0 ? -INFINITY : (float)((double)top[r] + vmath_log_wide(sum[r]));
    }
}

enum status host_attn_fwd(struct dev *d, const struct attn_fwd_args *a) {
    char *base;
    size_t stride;
    TM_TRY(check(a->b, a->t, a->hq, a->hkv, a->d, a->window));
    if (a->t0 < 0 || ((a->t0 || a->tk) && a->tk < a->t0 + a->t))
        return TM_FAIL(TM_ERR_SHAPE, "attention: positions %lld .. %lld in a cache of %lld", (long long)a->t0,
                       (long long)(a->t0 + a->t), (long long)a->tk);
    TM_TRY(host_scratch(d, (size_t)(TILE + ATTN_ROWS * a->d) * sizeof(float), &base, &stride));
    int64_t nq = tiles(a->t, ATTN_ROWS), n = a->b * a->hq * nq;
#pragma omp parallel for schedule(dynamic) num_threads(d->threads) if (n > 1)
    for (int64_t i = 0; i < n; i++) { /* the long tiles first: the last ones then even out the threads */
        float *ws = (float *)(void *)(base + (size_t)omp_get_thread_num() * stride);
        int64_t tile = nq - 1 - i / (a->b * a->hq), rest = i % (a->b * a->hq);
        forward_tile(d, a, rest / a->hq, rest % a->hq, tile * ATTN_ROWS, ws);
    }
    return TM_OK;
}

/* What one task of the backward does: heads [h0, h1) of a KV head, q tiles [q0, q1), key tiles [k0, k1), and which gradients it owns. */
struct span {
    int64_t seq, kv, h0, h1, q0, q1, k0, k1;
    bool dq, dkv;
};

static void zero_rows(float *x, int64_t rows, int64_t n, int64_t ld) {
    for (int64_t r = 0; r < rows; r++) memset(x + r * ld, 0, (size_t)n * sizeof *x);
}

static void backward_span(const struct dev *d, const struct attn_bwd_args *a, const struct span *w, float *ws) {
    const int64_t at = w->seq * a->t, c = a->d;
    const float *k = host_f32(a->k) + at * a->ldk + w->kv * c, *v = host_f32(a->v) + at * a->ldv + w->kv * c;
    float *dk = host_f32(a->dk) + at * a->ldk + w->kv * c, *dv = host_f32(a->dv) + at * a->ldv + w->kv * c;
    const int32_t *first = a->first.a ? host_i32(a->first) + at : NULL;
    float *s = ws, *dp = ws + TILE;
    if (w->dkv) {
        int64_t k0 = w->k0 * ATTN_KEYS, rows = size_min(w->k1 * ATTN_KEYS, a->t) - k0;
        zero_rows(dk + k0 * a->ldk, rows, c, a->ldk);
        zero_rows(dv + k0 * a->ldv, rows, c, a->ldv);
    }
    for (int64_t h = w->h0; h < w->h1; h++)
        for (int64_t q0 = w->q0 * ATTN_ROWS; q0 < size_min(w->q1 * ATTN_ROWS, a->t); q0 += ATTN_ROWS) {
            const float *q = host_f32(a->q) + (at + q0) * a->ldq + h * c;
            const float *g = host_f32(a->dout) + (at + q0) * a->ldo + h * c;
            const float *lse = host_f32(a->lse) + (at + q0) * a->hq + h;
            const float *delta = host_f32(a->delta) + (at + q0) * a->hq + h;
            float *dq = host_f32(a->dq) + (at + q0) * a->ldq + h * c;
            int64_t rows = size_min(ATTN_ROWS, a->t - q0), last = size_min(w->k1 * ATTN_KEYS, q0 + rows);
            if (w->dq) zero_rows(dq, rows, c, a->ldq);
            for (int64_t k0 = w->k0 * ATTN_KEYS; k0 < last; k0 += ATTN_KEYS) {
                struct leaf_attn x;
                int64_t n;
                if (!tile_init(&x, first, 0, a->t, a->window, a->scale, q0, k0, &n)) continue;
                const float *kt = k + k0 * a->ldk, *vt = v + k0 * a->ldv;
                host_gemm_tile(d->gemm, GEMM_NT, rows, n, c, q, a->ldq, kt, a->ldk, s, ATTN_KEYS, 0);
                host_gemm_tile(d->gemm, GEMM_NT, rows, n, c, g, a->ldo, vt, a->ldv, dp, ATTN_KEYS, 0);
                d->leaf->attn_grad(&x, s, dp, lse, delta, a->hq);
                if (w->dkv) {
                    host_gemm_tile(d->gemm, GEMM_TN, n, c, rows, s, ATTN_KEYS, g, a->ldo, dv + k0 * a->ldv, a->ldv, 1);
                    host_gemm_tile(d->gemm, GEMM_TN, n, c, rows, dp, ATTN_KEYS, q, a->ldq, dk + k0 * a->ldk, a->ldk, 1);
                }
                if (w->dq) host_gemm_tile(d->gemm, GEMM_NN, rows, c, n, dp, ATTN_KEYS, kt, a->ldk, dq, a->ldq, 1);
            }
        }
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
    size_t stride;
    TM_TRY(check(a->b, a->t, a->hq, a->hkv, a->d, a->window));
    TM_TRY(host_scratch(d, 2 * TILE * sizeof(float), &base, &stride));
    if (!a->hkv) return TM_OK;
    row_deltas(d, a);
    const int64_t group = a->hq / a->hkv, nq = tiles(a->t, ATTN_ROWS), nk = tiles(a->t, ATTN_KEYS),
                  pairs = a->b * a->hkv;
    /* Enough KV heads: a task does all three gradients and recomputes each tile once. Else cut finer and recompute twice. */
    const bool fine = pairs < d->threads;
    const int64_t key_tasks = fine ? pairs * nk : pairs, n = key_tasks + (fine ? pairs * group * nq : 0);
#pragma omp parallel for schedule(dynamic) num_threads(d->threads) if (n > 1)
    for (int64_t i = 0; i < n; i++) {
        float *ws = (float *)(void *)(base + (size_t)omp_get_thread_num() * stride);
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
            w.dq = true, w.dkv = false;
        }
        backward_span(d, a, &w, ws);
    }
    return TM_OK;
}
