/* The bodies of the leaf kernels. Included by leaf_<set>.c, which says for which instruction set (LEAF_TARGET) and under which name.
 *
 * Written for the auto-vectoriser: element-wise loops under `omp simd` (exact aliasing of in-place operands is fine), reductions as
 * an inner loop over 16 independent lanes. */
#ifdef __clang__ /* a sanitizer's checks may keep a loop scalar: slower, the same bits, no error */
#pragma clang diagnostic ignored "-Wpass-failed"
#endif
#include <math.h>
#include <stddef.h>

#include "base/vmath.h"
#include "dev/act.h"
#include "dev/leaf.h"
#include "numfmt/bf16.h"

#define LEAF_FN LEAF_TARGET static
#define LANE_FN LEAF_TARGET static inline __attribute__((always_inline))
#define LANES   OPS_LANES
#define SIMD    _Pragma("omp simd")

enum {
    BLOCK = 256
}; /* values that a two-pass loop keeps in L1; a multiple of LANES, so that lanes do not see blocks */

/* The tree of the lanes: distance 8, 4, 2, 1. Each level has names of its own: a loop over levels stays scalar. */
_Static_assert(LANES == 16, "the tree of 16 lanes");
#define LANE_TREE(type, name, of)                              \
    LANE_FN type name(const type a[LANES]) {                   \
        type b[8], c[4], d[2];                                 \
        for (int l = 0; l < 8; l++) b[l] = of(a[l], a[l + 8]); \
        for (int l = 0; l < 4; l++) c[l] = of(b[l], b[l + 4]); \
        for (int l = 0; l < 2; l++) d[l] = of(c[l], c[l + 2]); \
        return of(d[0], d[1]);                                 \
    }
#define LANE_SUM(x, y) ((x) + (y))
#define LANE_MAX(x, y) ((y) > (x) ? (y) : (x))
LANE_TREE(float, fold, LANE_SUM)
LANE_TREE(double, fold_wide, LANE_SUM)
LANE_TREE(float, fold_max, LANE_MAX)
LANE_FN void lanes_add(float acc[LANES], const float *x, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += x[i + l];
    for (int l = 0; i + l < n; l++) acc[l] += x[i + l];
}
LANE_FN void lanes_dot(float acc[LANES], const float *x, const float *y, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += x[i + l] * y[i + l];
    for (int l = 0; i + l < n; l++) acc[l] += x[i + l] * y[i + l];
}

LEAF_FN void add(float *y, const float *x, int64_t n) { SIMD for (int64_t i = 0; i < n; i++) y[i] += x[i]; }
LEAF_FN void scale(float *y, int64_t n, float s) { SIMD for (int64_t i = 0; i < n; i++) y[i] *= s; }
LEAF_FN void round_bf16(float *x, int64_t n) { SIMD for (int64_t i = 0; i < n; i++) x[i] = bf16_round(x[i]); }
LEAF_FN float dot(const float *x, const float *y, int64_t n) {
    float acc[LANES] = {0};
    lanes_dot(acc, x, y, n);
    return fold(acc);
}

LEAF_FN float rms_fwd(const float *x, const float *delta, const float *gain, float *h, float *y, int64_t n, float eps) {
    if (delta) {
        SIMD for (int64_t i = 0; i < n; i++) h[i] = x[i] + delta[i];
    } else if (h && h != x) {
        SIMD for (int64_t i = 0; i < n; i++) h[i] = x[i];
    }
    const float *row = delta ? h : x;
    float rstd = 1.0f / sqrtf(dot(row, row, n) / (float)n + eps);
    SIMD for (int64_t i = 0; i < n; i++) y[i] = row[i] * rstd * gain[i];
    return rstd;
}

LEAF_FN void rms_bwd(const float *dy, const float *h, const float *gain, float rstd, const float *dres, float *dx,
                     int64_t n) {
    float acc[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += (dy[i + l] * gain[i + l]) * (h[i + l] * rstd);
    for (int l = 0; i + l < n; l++) acc[l] += (dy[i + l] * gain[i + l]) * (h[i + l] * rstd);
    float mean = fold(acc) / (float)n;
    if (dres) {
        SIMD for (int64_t j = 0; j < n; j++) dx[j] = rstd * (dy[j] * gain[j] - h[j] * rstd * mean) + dres[j];
    } else {
        SIMD for (int64_t j = 0; j < n; j++) dx[j] = rstd * (dy[j] * gain[j] - h[j] * rstd * mean);
    }
}
LEAF_FN void rms_dgain(float *dgain, const float *dy, const float *h, float rstd, int64_t n) {
    SIMD for (int64_t i = 0; i < n; i++) dgain[i] += dy[i] * (h[i] * rstd);
}

LEAF_FN void layernorm_fwd(const struct leaf_layernorm *w, const float *x, const float *delta, float *h, float *y,
                           int64_t n, float *mean, float *rstd) {
    if (delta) {
        SIMD for (int64_t i = 0; i < n; i++) h[i] = x[i] + delta[i];
    } else if (h && h != x) {
        SIMD for (int64_t i = 0; i < n; i++) h[i] = x[i];
    }
    const float *row = delta ? h : x, *gain = w->gain, *bias = w->bias, offset = w->offset;
    float sum[LANES] = {0}, squares[LANES] = {0};
    lanes_add(sum, row, n);
    const float m = fold(sum) / (float)n;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) squares[l] += (row[i + l] - m) * (row[i + l] - m);
    for (int l = 0; i + l < n; l++) squares[l] += (row[i + l] - m) * (row[i + l] - m);
    const float r = 1.0f / sqrtf(fold(squares) / (float)n + w->eps);
    SIMD for (int64_t j = 0; j < n; j++) y[j] = (row[j] - m) * r * (gain[j] + offset) + bias[j];
    *mean = m;
    *rstd = r;
}
LEAF_FN void layernorm_bwd(const struct leaf_layernorm *w, const float *dy, const float *h, float mean, float rstd,
                           const float *dres, float *dx, int64_t n) {
    const float *gain = w->gain, offset = w->offset;
    float up[LANES] = {0}, along[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float u = dy[i + l] * (gain[i + l] + offset);
            up[l] += u;
            along[l] += u * ((h[i + l] - mean) * rstd);
        }
    for (int l = 0; i + l < n; l++) {
        float u = dy[i + l] * (gain[i + l] + offset);
        up[l] += u;
        along[l] += u * ((h[i + l] - mean) * rstd);
    }
    const float a = fold(up) / (float)n, b = fold(along) / (float)n;
    SIMD for (int64_t j = 0; j < n; j++) {
        float d = rstd * (dy[j] * (gain[j] + offset) - a - (h[j] - mean) * rstd * b);
        dx[j] = dres ? d + dres[j] : d;
    }
}
LEAF_FN void layernorm_dgain(float *dgain, const float *dy, const float *h, float mean, float rstd, int64_t n) {
    SIMD for (int64_t i = 0; i < n; i++) dgain[i] += dy[i] * ((h[i] - mean) * rstd);
}

LEAF_FN void rope(float *x, const float *cs, int64_t half, float sign) {
    float *y = x + half;
    const float *sn = cs + half;
    SIMD for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = y[i], s = sn[i] * sign;
        x[i] = a * cs[i] - b * s;
        y[i] = b * cs[i] + a * s;
    }
}

LEAF_FN void swiglu_fwd(const float *g, const float *u, float *y, int64_t n) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = g[i] / (1.0f + vmath_exp(-g[i])) * u[i];
}
LEAF_FN void swiglu_bwd(const float *g, const float *u, const float *dy, float *dg, float *du, int64_t n) {
    SIMD for (int64_t i = 0; i < n; i++) {
        float x = g[i], e = dy[i], s = 1.0f / (1.0f + vmath_exp(-x)), w = u[i];
        dg[i] = e * w * (s * (1.0f + x * (1.0f - s)));
        du[i] = e * (x * s);
    }
}

LEAF_FN void act_fwd(enum act_kind kind, const float *x, float *y, int64_t n) {
#define ACT(KIND, f, hf) \
    if (kind == ACT_##KIND) { SIMD for (int64_t i = 0; i < n; i++) y[i] = act_##f(x[i]); }
#include "dev/act.def" // IWYU pragma: keep
#undef ACT
}
LEAF_FN void act_bwd(enum act_kind kind, const float *x, const float *dy, float *dx, int64_t n) {
#define ACT(KIND, f, hf) \
    if (kind == ACT_##KIND) { SIMD for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * act_##f##_slope(x[i]); }
#include "dev/act.def" // IWYU pragma: keep
#undef ACT
}

LEAF_FN float max(const float *x, int64_t n) {
    float acc[LANES];
    for (int l = 0; l < LANES; l++) acc[l] = -INFINITY;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] = x[i + l] > acc[l] ? x[i + l] : acc[l];
    for (int l = 0; i + l < n; l++) acc[l] = x[i + l] > acc[l] ? x[i + l] : acc[l];
    return fold_max(acc);
}
LEAF_FN int64_t find(const float *x, int64_t n, float value) {
    int64_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        uint32_t hit = 0;
        for (int j = 0; j < BLOCK; j++) hit |= x[i + j] == value;
        if (hit) break;
    }
    while (i < n && x[i] != value) i++;
    return i;
}

LEAF_FN float sum_exp(const float *z, int64_t n, float inv_temp, float top) {
    float acc[LANES] = {0}, e[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        SIMD for (int64_t j = 0; j < m; j++) e[j] = vmath_exp(z[i + j] * inv_temp - top);
        lanes_add(acc, e, m);
    }
    return fold(acc);
}
LEAF_FN void ce_grad(float *z, int64_t n, float top, float inv, float weight) {
    SIMD for (int64_t i = 0; i < n; i++) z[i] = vmath_exp(z[i] - top) * inv * weight;
}
LEAF_FN float kl_grad(float *zs, const float *zt, int64_t n, const struct leaf_kl *k) {
    const struct leaf_kl c = *k;
    float acc[LANES] = {0}, e[BLOCK], p[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t m = n - i < BLOCK ? n - i : BLOCK;
        float *s = zs + i;
        const float *t = zt + i;
        SIMD for (int64_t j = 0; j < m; j++) {
            p[j] = vmath_exp(t[j] * c.inv_temp - c.tmax) * c.tinv;
            e[j] = p[j] == 0 ? 0 : p[j] * ((t[j] - s[j]) * c.inv_temp - c.shift); /* a teacher's -inf is no NaN here */
        }
        lanes_add(acc, e, m);
        if (!c.grad) continue;
        SIMD for (int64_t j = 0; j < m; j++) {
            float q = vmath_exp(s[j] * c.inv_temp - c.smax) * c.sinv;
            s[j] = (q - p[j]) * c.weight;
        }
    }
    return fold(acc);
}

LEAF_FN void adamw(float *w, float *m, float *v, const float *g, int64_t n, const struct adamw_args *a) {
    const float b1 = a->beta1, b2 = a->beta2, c1 = 1 - b1, c2 = 1 - b2, k1 = a->correction1, k2 = a->correction2;
    const float eps = a->eps, lr = a->lr, decay = a->decay, gs = a->grad_scale;
    SIMD for (int64_t i = 0; i < n; i++) {
        float x = g[i] * gs;
        m[i] = b1 * m[i] + c1 * x;
        v[i] = b2 * v[i] + c2 * (x * x);
        w[i] -= lr * ((m[i] / k1) / (sqrtf(v[i] / k2) + eps) + decay * w[i]);
    }
    if (!a->rounding_seed) return;
    SIMD for (int64_t i = 0; i < n; i++) {
        w[i] = bf16_round_stochastic(w[i], bf16_hash(bf16_hash(bf16_hash(a->rounding_seed, w[i]), m[i]), v[i]));
    }
}

LEAF_FN double sum_squares(const float *x, int64_t n) {
    double acc[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += (double)x[i + l] * (double)x[i + l];
    for (int l = 0; i + l < n; l++) acc[l] += (double)x[i + l] * (double)x[i + l];
    return fold_wide(acc);
}
LEAF_FN uint32_t amax(const float *x, int64_t n) {
    uint32_t top = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) {
        uint32_t b = vmath_bits(x[i]) & 0x7fffffffu;
        top = b > top ? b : top;
    }
    return top;
}

/* Scale a row of scores and mask what it does not see. */
LANE_FN void visible(float *s, float factor, int32_t lo, int32_t hi) {
    if (lo == 0 && hi == ATTN_KEYS) {
        SIMD for (int32_t j = 0; j < ATTN_KEYS; j++) s[j] *= factor;
        return;
    }
    SIMD for (int32_t j = 0; j < ATTN_KEYS; j++) {
        int in = (j >= lo) & (j < hi);
        s[j] = in ? s[j] * factor : -INFINITY;
    }
}
/* One key tile of the online softmax (Milakov & Gimelshein 2018): scores become exp(score - running maximum); the running maximum, sum and
 * weighted values acc [rows, d] are rescaled. A row that saw nothing keeps -inf, 0, 0. top and sum have ATTN_ROWS places. */
LEAF_FN void attn_softmax(const struct leaf_attn *t, float *s, float *top, float *sum, float *acc, int64_t d) {
    float base[ATTN_ROWS] = {0}, alpha[ATTN_ROWS], part[ATTN_ROWS] = {0};
    for (int64_t r = 0; r < t->rows; r++) {
        float *row = s + r * t->ld;
        visible(row, t->scale, t->lo[r], t->hi[r]);
        base[r] = max(row, ATTN_KEYS);
    }
    SIMD for (int r = 0; r < ATTN_ROWS; r++) {
        float old = top[r], m = old > base[r] ? old : base[r];
        top[r] = m;
        base[r] = m == -INFINITY ? 0.0f : m;
        alpha[r] = vmath_exp(old - base[r]);
    }
    for (int64_t r = 0; r < t->rows; r++) {
        float *row = s + r * t->ld, lanes[LANES] = {0};
        SIMD for (int j = 0; j < ATTN_KEYS; j++) row[j] = vmath_exp(row[j] - base[r]);
        lanes_add(lanes, row, ATTN_KEYS);
        part[r] = fold(lanes);
        if (alpha[r] != 1.0f) scale(acc + r * d, d, alpha[r]);
    }
    SIMD for (int r = 0; r < ATTN_ROWS; r++) sum[r] = sum[r] * alpha[r] + part[r];
}
/* Scores -> probabilities p = exp(score - lse), and dp -> the gradient of the unscaled scores, p (dp - delta) scale. lse and delta of
 * row r lie at r * stride. */
LEAF_FN void attn_grad(const struct leaf_attn *t, float *s, float *dp, const float *lse, const float *delta,
                       int64_t stride) {
    for (int64_t r = 0; r < t->rows; r++) {
        float *p = s + r * t->ld, *g = dp + r * t->ld, factor = t->scale;
        float l = lse[r * stride], e = delta[r * stride];
        int32_t lo = t->lo[r], hi = t->hi[r];
        SIMD for (int32_t j = 0; j < ATTN_KEYS; j++) {
            float x = vmath_exp(p[j] * factor - l), y = x * (g[j] - e) * factor;
            int in = (j >= lo) & (j < hi);
            p[j] = in ? x : 0.0f;
            g[j] = in ? y : 0.0f;
        }
    }
}

const struct leaf LEAF_SET = {
    .name = LEAF_NAME,
#define LEAF(result, name, params) .name = name,
#include "dev/leaf.def" // IWYU pragma: keep
#undef LEAF
};
