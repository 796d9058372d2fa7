/* Attention in fp64, from its definition: a T x T array and no tiles; and a device run of the operation beside it. */
#pragma once

#include "ops_case.h"

struct attn_shape {
    int64_t b, t, hq, hkv, d, window;
    int mask; /* first[]: 0 none, 1 left padding (some rows see nothing), 2 document boundaries */
    int bf16;
};
struct attn_problem {
    struct attn_shape s;
    double *q, *k, *v, *g; /* contiguous: [N, hq, d], [N, hkv, d], [N, hkv, d], direction [N, hq, d] */
    double *o, *lse, *dq, *dk, *dv, *p, scale;
    int32_t *first;
};

/* Row t of a sequence sees keys [attn_lo, t]. */
static inline int64_t attn_lo(const struct attn_problem *x, int64_t seq, int64_t t) {
    int64_t lo = x->first[seq * x->s.t + t];
    return x->s.window && t - x->s.window + 1 > lo ? t - x->s.window + 1 : lo;
}
/* o, lse of the row, and its probabilities in p[0 .. t]. */
static inline void attn_ref_row(struct attn_problem *x, int64_t seq, int64_t t, int64_t h) {
    const struct attn_shape *s = &x->s;
    int64_t kv = h / (s->hq / s->hkv), row = seq * s->t + t, lo = attn_lo(x, seq, t);
    double top = -INFINITY, sum = 0, *o = x->o + (row * s->hq + h) * s->d;
    for (int64_t j = lo; j <= t; j++) {
        x->p[j] = 0;
        for (int64_t c = 0; c < s->d; c++)
            x->p[j] +=
                x->q[(row * s->hq + h) * s->d + c] * x->k[((seq * s->t + j) * s->hkv + kv) * s->d + c] * x->scale;
        top = fmax(top, x->p[j]);
    }
    for (int64_t j = lo; j <= t; j++) sum += x->p[j] = exp(x->p[j] - top);
    for (int64_t c = 0; c < s->d; c++) o[c] = 0;
    for (int64_t j = lo; j <= t; j++) {
        x->p[j] /= sum;
        for (int64_t c = 0; c < s->d; c++) o[c] += x->p[j] * x->v[((seq * s->t + j) * s->hkv + kv) * s->d + c];
    }
    x->lse[row * s->hq + h] = lo <= t ? top + log(sum) : -INFINITY;
}
/* Forward, then gradients of sum(o * g). */
static inline void attn_ref(struct attn_problem *x) {
    const struct attn_shape *s = &x->s;
    for (int64_t r = 0; r < s->b * s->t; r++)
        for (int64_t h = 0; h < s->hq; h++) {
            int64_t seq = r / s->t, t = r % s->t, kv = h / (s->hq / s->hkv);
            const double *g = x->g + (r * s->hq + h) * s->d, *o = x->o + (r * s->hq + h) * s->d;
            double delta = 0;
            attn_ref_row(x, seq, t, h);
            for (int64_t c = 0; c < s->d; c++) delta += g[c] * o[c];
            for (int64_t j = attn_lo(x, seq, t); j <= t; j++) {
                int64_t key = ((seq * s->t + j) * s->hkv + kv) * s->d, at = (r * s->hq + h) * s->d;
                double dp = 0;
                for (int64_t c = 0; c < s->d; c++) dp += g[c] * x->v[key + c];
                double ds = x->p[j] * (dp - delta) * x->scale;
                for (int64_t c = 0; c < s->d; c++) {
                    x->dv[key + c] += x->p[j] * g[c];
                    x->dk[key + c] += ds * x->q[at + c];
                    x->dq[at + c] += ds * x->k[key + c];
                }
            }
        }
}

/* [rows, n] inside rows of `ld` floats. */
static inline float *attn_spread(struct ops_run *r, const float *x, int64_t rows, int64_t n, int64_t ld) {
    float *y = ops_normal(r, rows * ld, 1);
    for (int64_t i = 0; i < rows; i++) memcpy(y + i * ld, x + i * n, (size_t)n * sizeof *y);
    return y;
}
static inline void attn_take(struct ops_run *r, dptr p, const double *ref, int64_t rows, int64_t n, int64_t ld) {
    for (int64_t i = 0; i < rows; i++) ops_take(r, dptr_f32(p, i * ld), NULL, n);
    r->worst = fmax(r->worst, ops_nmse(r->out + r->n - rows * n, ref, rows * n));
}

/* Random input of a shape; x->... are filled when `ref`. Outputs: o, lse, dq, dk, dv. */
static inline void attn_run(struct ops_run *r, struct attn_problem *x, bool ref) {
    const struct attn_shape s = x->s;
    int64_t n = s.b * s.t, nq = s.hq * s.d, nkv = s.hkv * s.d, ldq = nq + 3, ldk = nkv + 5, ldv = nkv + 1, ldo = nq + 2;
    float *q = ops_normal(r, n * nq, 1.5f), *k = ops_normal(r, n * nkv, 1.5f), *v = ops_normal(r, n * nkv, 1);
    float *g = ops_normal(r, n * nq, 1);
    x->scale = (double)(float)(1 / sqrt((double)s.d));
    x->first = ops_host(r, (size_t)n, sizeof *x->first);
    for (int64_t i = 0; i < n; i++) {
        int32_t t = (int32_t)(i % s.t), pad = (int32_t)(s.t * (i / s.t + 1) / (2 * s.b + 1)),
                doc = t < 5         ? 0
                      : t < s.t / 2 ? 5
                                    : (int32_t)(s.t / 2);
        x->first[i] = s.mask == 1 ? pad : s.mask == 2 ? doc : 0;
    }
    x->q = ops_wide(r, q, n * nq), x->k = ops_wide(r, k, n * nkv), x->v = ops_wide(r, v, n * nkv),
    x->g = ops_wide(r, g, n * nq);
    x->o = ops_wide(r, NULL, n * nq), x->lse = ops_wide(r, NULL, n * s.hq), x->dq = ops_wide(r, NULL, n * nq);
    x->dk = ops_wide(r, NULL, n * nkv), x->dv = ops_wide(r, NULL, n * nkv), x->p = ops_wide(r, NULL, s.t);
    if (ref) attn_ref(x);
    dptr d_q = ops_put_f32(r, attn_spread(r, q, n, nq, ldq), n * ldq),
         d_k = ops_put_f32(r, attn_spread(r, k, n, nkv, ldk), n * ldk);
    dptr d_v = ops_put_f32(r, attn_spread(r, v, n, nkv, ldv), n * ldv), d_first = ops_put(r, x->first, (size_t)n * 4);
    if (!s.mask && s.t % 2) d_first.a = 0; /* no mask may also be said so */
    dptr d_o = ops_blank(r, n * ldo), d_lse = ops_blank(r, n * s.hq), d_dq = ops_blank(r, n * ldq),
         d_dk = ops_blank(r, n * ldk);
    dptr d_dv = ops_blank(r, n * ldv), d_g = ops_put_f32(r, attn_spread(r, g, n, nq, ldo), n * ldo);
    struct attn_fwd_args f = {.q = d_q,
                              .k = d_k,
                              .v = d_v,
                              .o = d_o,
                              .lse = d_lse,
                              .first = d_first,
                              .b = s.b,
                              .t = s.t,
                              .hq = s.hq,
                              .hkv = s.hkv,
                              .d = s.d,
                              .ldq = ldq,
                              .ldk = ldk,
                              .ldv = ldv,
                              .ldo = ldo,
                              .window = s.window,
                              .scale = (float)x->scale,
                              .bf16 = s.bf16};
    ops_must(dev_attn_fwd(r->d, &f));
    struct attn_bwd_args b = {.q = d_q,
                              .k = d_k,
                              .v = d_v,
                              .o = d_o,
                              .lse = d_lse,
                              .first = d_first,
                              .dout = d_g,
                              .dq = d_dq,
                              .dk = d_dk,
                              .dv = d_dv,
                              .delta = ops_blank(r, n * s.hq),
                              .b = s.b,
                              .t = s.t,
                              .hq = s.hq,
                              .hkv = s.hkv,
                              .d = s.d,
                              .ldq = ldq,
                              .ldk = ldk,
                              .ldv = ldv,
                              .ldo = ldo,
                              .window = s.window,
                              .scale = (float)x->scale,
                              .bf16 = s.bf16};
    ops_must(dev_attn_bwd(r->d, &b));
    attn_take(r, d_o, x->o, n, nq, ldo);
    attn_take(r, d_lse, x->lse, n, s.hq, s.hq);
    attn_take(r, d_dq, x->dq, n, nq, ldq);
    attn_take(r, d_dk, x->dk, n, nkv, ldk);
    attn_take(r, d_dv, x->dv, n, nkv, ldv);
}

static const struct attn_shape attn_shapes[] = {
    {1, 1, 1, 1, 1, 0, 0, 0},     {2, 7, 3, 1, 5, 0, 0, 0},     {1, 63, 2, 2, 16, 0, 0, 0},
    {1, 64, 4, 2, 32, 0, 0, 0},   {2, 65, 2, 1, 20, 0, 0, 0},   {1, 127, 2, 1, 64, 0, 0, 0},
    {1, 129, 6, 3, 16, 0, 0, 0},  {1, 200, 2, 1, 33, 0, 0, 0},  {2, 70, 2, 1, 8, 2, 0, 0},
    {1, 150, 2, 2, 16, 17, 0, 0}, {2, 130, 4, 2, 16, 64, 0, 0}, {3, 50, 2, 1, 16, 0, 1, 0},
    {2, 140, 4, 2, 24, 0, 1, 0},  {2, 133, 3, 3, 16, 0, 2, 0},  {2, 131, 2, 1, 16, 40, 2, 0},
};
enum { ATTN_SHAPES = sizeof attn_shapes / sizeof *attn_shapes };

/* bf16: a factor is off by up to 2^-9 of itself, 2^-18 / 3 = 1.3e-6 in the mean square, so a score of deviation 2.25 (q and k have 1.5) by
 * sqrt(2 * 1.3e-6) * 2.25, its probability by 1.3e-5 in the mean square; a gradient, whose dp is as far off, by twice that and more: the 6e-5 of ops.def. */
static const struct attn_shape attn_shapes_bf16[] = {{1, 130, 4, 2, 64, 0, 0, 1},
                                                     {2, 70, 2, 1, 80, 0, 2, 1},
                                                     {1, 150, 2, 2, 128, 40, 0, 1},
                                                     {2, 40, 2, 1, 33, 0, 1, 1}};
enum { ATTN_SHAPES_BF16 = sizeof attn_shapes_bf16 / sizeof *attn_shapes_bf16 };
