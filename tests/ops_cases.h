/* The cases: every host operation but the product and the quantizers (t210, t300), with references written from the formulas of
 * ops.h in fp64; gradients are checked against differences of the forward reference, not against a second derivation. */
#pragma once

#include "ops_case.h"

/* rows x columns: one, primes, lanes and blocks +- 1 */
static const int64_t ops_shape[][2] = {{1, 1},   {1, 16},   {3, 17},   {9, 15},  {7, 257},
                                       {33, 64}, {2, 1023}, {130, 33}, {17, 576}};
enum { OPS_SHAPES = sizeof ops_shape / sizeof *ops_shape };

static inline void case_embed(struct ops_run *r, int64_t n, int64_t c) {
    const int64_t rows = 11, row0 = 5;
    int32_t *ids = ops_below(r, n, 0, 20);
    float *table = ops_normal(r, rows * c, 1), *dy = ops_normal(r, n * c, 1), *dt = ops_normal(r, rows * c, 1);
    table[0] = -0.0f;
    double *y = ops_wide(r, NULL, n * c), *g = ops_wide(r, dt, rows * c);
    for (int64_t t = 0; t < n; t++)
        for (int64_t j = 0, k = ids[t] - row0; j < c && k >= 0 && k < rows; j++) {
            y[t * c + j] = (double)table[k * c + j];
            g[k * c + j] += (double)dy[t * c + j];
        }
    dptr d_ids = ops_put(r, ids, (size_t)n * 4), d_y = ops_blank(r, n * c), d_g = ops_put_f32(r, dt, rows * c);
    ops_must(
        dev_embed_fwd(r->d, &(struct embed_fwd_args){d_ids, ops_put_f32(r, table, rows * c), d_y, n, c, row0, rows}));
    ops_must(dev_embed_bwd(r->d, &(struct embed_bwd_args){d_ids, ops_put_f32(r, dy, n * c), d_g, n, c, row0, rows}));
    ops_take(r, d_y, y, n * c);
    ops_take(r, d_g, g, rows * c);
}

/* One row of the norm times a fixed direction: the function whose slopes are the gradient. */
struct norm_row {
    double *h, *gain, *dy, eps;
    int64_t c;
};
static inline double norm_row(void *ctx) {
    struct norm_row *x = ctx;
    double ss = 0, out = 0;
    for (int64_t j = 0; j < x->c; j++) ss += x->h[j] * x->h[j];
    double rstd = 1 / sqrt(ss / (double)x->c + x->eps);
    for (int64_t j = 0; j < x->c; j++) out += x->dy[j] * x->h[j] * rstd * x->gain[j];
    return out;
}
static inline void case_rmsnorm(struct ops_run *r, int64_t rows, int64_t c) {
    float *x = ops_normal(r, rows * c, 1), *delta = ops_normal(r, rows * c, 0.5f), *gain = ops_normal(r, c, 1);
    const float eps = 1e-5f;
    double *h = ops_wide(r, x, rows * c), *y = ops_wide(r, NULL, rows * c), *rstd = ops_wide(r, NULL, rows);
    for (int64_t i = 0; i < rows; i++) {
        double ss = 0;
        for (int64_t j = 0; j < c; j++) h[i * c + j] += (double)delta[i * c + j], ss += h[i * c + j] * h[i * c + j];
        rstd[i] = 1 / sqrt(ss / (double)c + (double)eps);
        for (int64_t j = 0; j < c; j++) y[i * c + j] = h[i * c + j] * rstd[i] * (double)gain[j];
    }
    dptr d_h = ops_blank(r, rows * c), d_y = ops_blank(r, rows * c), d_r = ops_blank(r, rows);
    struct rmsnorm_fwd_args a = {.x = ops_put_f32(r, x, rows * c),
                                 .delta = ops_put_f32(r, delta, rows * c),
                                 .h_out = d_h,
                                 .gain = ops_put_f32(r, gain, c),
                                 .y = d_y,
                                 .rstd = d_r,
                                 .rows = rows,
                                 .c = c,
                                 .eps = eps};
    ops_must(dev_rmsnorm_fwd(r->d, &a));
    ops_take(r, d_h, h, rows * c);
    ops_take(r, d_y, y, rows * c);
    ops_take(r, d_r, rstd, rows);
    /* without a residual, and with the copy in h_out */
    a.x = d_h, a.delta.a = 0, a.h_out = ops_blank(r, rows * c), a.y = ops_blank(r, rows * c);
    ops_must(dev_rmsnorm_fwd(r->d, &a));
    ops_take(r, a.h_out, h, rows * c);
    ops_take(r, a.y, y, rows * c);
    a.h_out.a = 0, a.y = ops_blank(r, rows * c);
    ops_must(dev_rmsnorm_fwd(r->d, &a));
    ops_take(r, a.y, y, rows * c);
}
static inline void norm_bwd(struct ops_run *r, int64_t tokens, int64_t heads, int64_t group, int64_t c, bool dres) {
    int64_t rows = tokens * heads, groups = (heads + group - 1) / group;
    float *h = ops_normal(r, rows * c, 1), *dy = ops_normal(r, rows * c, 1), *gain = ops_normal(r, c, 1);
    float *res = ops_normal(r, rows * c, 1), *rstd = ops_normal(r, rows, 1), *leaf = ops_normal(r, groups * 8 * c, 1);
    double *dx = ops_wide(r, NULL, rows * c), *dg = ops_wide(r, leaf, groups * 8 * c), eps = 1e-5;
    double *wh = ops_wide(r, h, rows * c), *wdy = ops_wide(r, dy, rows * c), *wgain = ops_wide(r, gain, c);
    for (int64_t i = 0; i < rows; i++) {
        struct norm_row x = {wh + i * c, wgain, wdy + i * c, eps, c};
        double ss = 0;
        for (int64_t j = 0; j < c; j++) ss += x.h[j] * x.h[j];
        rstd[i] = (float)(1 / sqrt(ss / (double)c + eps));
        for (int64_t j = 0; j < c; j++)
            dx[i * c + j] = ops_slope(r, norm_row, &x, &x.h[j]) + (dres ? (double)res[i * c + j] : 0);
        int64_t t = i / heads, g = i % heads / group, s = 0;
        while ((tokens * (s + 1) + 7) / 8 <= t) s++;
        for (int64_t j = 0; j < c; j++) dg[(g * 8 + s) * c + j] += x.dy[j] * x.h[j] / sqrt(ss / (double)c + eps);
    }
    dptr d_dy = ops_put_f32(r, dy, rows * c), d_dg = ops_put_f32(r, leaf, groups * 8 * c);
    struct rmsnorm_bwd_args a = {.dy = d_dy,
                                 .h = ops_put_f32(r, h, rows * c),
                                 .gain = ops_put_f32(r, gain, c),
                                 .rstd = ops_put_f32(r, rstd, rows),
                                 .dx = d_dy,
                                 .dgain = d_dg,
                                 .tokens = tokens,
                                 .heads = heads,
                                 .group_heads = group,
                                 .c = c};
    if (dres) a.dres = ops_put_f32(r, res, rows * c);
    ops_must(dev_rmsnorm_bwd(r->d, &a)); /* dx over dy */
    ops_take(r, d_dy, dx, rows * c);
    ops_take(r, d_dg, dg, groups * 8 * c);
}
static inline void case_rmsnorm_bwd(struct ops_run *r, int64_t rows, int64_t c) {
    norm_bwd(r, rows, 1, 1, c, rows % 2 == 1);
    if (c > 1 && c <= 64)
        norm_bwd(r, rows, 6, 2, c, false); /* c = 1: the gradient is what eps leaves, all cancellation */
}

/* One row of the layer norm times a fixed direction. */
static inline double layernorm_row(void *ctx) {
    struct norm_row *x = ctx;
    double mean = 0, ss = 0, out = 0;
    for (int64_t j = 0; j < x->c; j++) mean += x->h[j] / (double)x->c;
    for (int64_t j = 0; j < x->c; j++) ss += (x->h[j] - mean) * (x->h[j] - mean);
    double rstd = 1 / sqrt(ss / (double)x->c + x->eps);
    for (int64_t j = 0; j < x->c; j++) out += x->dy[j] * (x->h[j] - mean) * rstd * x->gain[j];
    return out;
}
/* Mean and 1 / deviation of n numbers. */
static inline void moments(const double *h, int64_t n, double eps, double *mean, double *rstd) {
    double sum = 0, ss = 0;
    for (int64_t j = 0; j < n; j++) sum += h[j];
    *mean = sum / (double)n;
    for (int64_t j = 0; j < n; j++) ss += (h[j] - *mean) * (h[j] - *mean);
    *rstd = 1 / sqrt(ss / (double)n + eps);
}
static inline void case_layernorm(struct ops_run *r, int64_t rows, int64_t c) {
    float *x = ops_normal(r, rows * c, 1), *delta = ops_normal(r, rows * c, 0.5f), *gain = ops_normal(r, c, 1);
    float *bias = ops_normal(r, c, 1);
    double *h = ops_wide(r, x, rows * c), *y = ops_wide(r, NULL, rows * c), *mean = ops_wide(r, NULL, rows),
           *rstd = ops_wide(r, NULL, rows);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < c; j++) h[i * c + j] += (double)delta[i * c + j];
        moments(h + i * c, c, 1e-5, &mean[i], &rstd[i]);
        for (int64_t j = 0; j < c; j++)
            y[i * c + j] = (h[i * c + j] - mean[i]) * rstd[i] * ((double)gain[j] + 1) + (double)bias[j];
    }
    struct layernorm_fwd_args a = {.x = ops_put_f32(r, x, rows * c),
                                   .delta = ops_put_f32(r, delta, rows * c),
                                   .h_out = ops_blank(r, rows * c),
                                   .gain = ops_put_f32(r, gain, c),
                                   .bias = ops_put_f32(r, bias, c),
                                   .y = ops_blank(r, rows * c),
                                   .mean = ops_blank(r, rows),
                                   .rstd = ops_blank(r, rows),
                                   .rows = rows,
                                   .c = c,
                                   .eps = 1e-5f,
                                   .offset = 1};
    ops_must(dev_layernorm_fwd(r->d, &a));
    ops_take(r, a.h_out, h, rows * c);
    ops_take(r, a.y, y, rows * c);
    ops_take(r, a.mean, c > 1 ? mean : NULL, rows);
    ops_take(r, a.rstd, rstd, rows);
    /* without a residual, and over its input */
    a.x = a.h_out, a.y = a.h_out, a.delta.a = a.h_out.a = 0;
    ops_must(dev_layernorm_fwd(r->d, &a));
    ops_take(r, a.y, y, rows * c);
}
static inline void case_layernorm_bwd(struct ops_run *r, int64_t rows, int64_t c) {
    const bool dres = rows % 2;
    float *h = ops_normal(r, rows * c, 1), *dy = ops_normal(r, rows * c, 1), *gain = ops_normal(r, c, 1);
    float *res = ops_normal(r, rows * c, 1), *mean = ops_normal(r, rows, 1), *rstd = ops_normal(r, rows, 1);
    float *leaf = ops_normal(r, 8 * c, 1);
    double *dx = ops_wide(r, NULL, rows * c), *dg = ops_wide(r, leaf, 8 * c), eps = 1e-5, m, d;
    double *wh = ops_wide(r, h, rows * c), *wdy = ops_wide(r, dy, rows * c), *wgain = ops_wide(r, gain, c);
    for (int64_t j = 0; j < c; j++) wgain[j] += 1;
    for (int64_t i = 0, s = 0; i < rows; i++) {
        struct norm_row x = {wh + i * c, wgain, wdy + i * c, eps, c};
        moments(x.h, c, eps, &m, &d);
        mean[i] = (float)m, rstd[i] = (float)d;
        while ((rows * (s + 1) + 7) / 8 <= i) s++;
        for (int64_t j = 0; j < c; j++) {
            dx[i * c + j] = ops_slope(r, layernorm_row, &x, &x.h[j]) + (dres ? (double)res[i * c + j] : 0);
            dg[s * c + j] += x.dy[j] * (x.h[j] - m) * d;
        }
    }
    struct layernorm_bwd_args a = {.dy = ops_put_f32(r, dy, rows * c),
                                   .h = ops_put_f32(r, h, rows * c),
                                   .gain = ops_put_f32(r, gain, c),
                                   .mean = ops_put_f32(r, mean, rows),
                                   .rstd = ops_put_f32(r, rstd, rows),
                                   .dgain = ops_put_f32(r, leaf, 8 * c),
                                   .rows = rows,
                                   .c = c,
                                   .offset = 1};
    if (dres) a.dres = ops_put_f32(r, res, rows * c);
    a.dx = a.dy;
    ops_must(dev_layernorm_bwd(r->d, &a)); /* dx over dy */
    ops_take(r, a.dx, dx, rows * c);
    ops_take(r, a.dgain, dg, 8 * c);
}

static inline void case_rope(struct ops_run *r, int64_t n, int64_t c) {
    int64_t half = c < 4 ? c : c / 4, rot = 2 * half, d = rot + 3, heads = 2, ld = heads * d + 5, max = 50;
    float *x = ops_normal(r, n * ld, 1), *table = ops_normal(r, max * rot, 1);
    int32_t *pos = ops_below(r, n, 0, (int)max);
    double *y = ops_wide(r, x, n * ld), *back = ops_wide(r, x, n * ld);
    for (int64_t p = 0; p < max; p++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)p * pow(100, -(double)i / (double)half);
            table[p * rot + i] = (float)cos(angle), table[p * rot + half + i] = (float)sin(angle);
        }
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < heads * half; i++) {
            double *v = y + t * ld + i / half * d + i % half, a = v[0], b = v[half];
            const float *cs = table + pos[t] * rot + i % half;
            v[0] = a * (double)cs[0] - b * (double)cs[half];
            v[half] = b * (double)cs[0] + a * (double)cs[half];
        }
    dptr d_x = ops_put_f32(r, x, n * ld);
    struct rope_args a = {d_x, ops_put(r, pos, (size_t)n * 4), ops_put_f32(r, table, max * rot), n, heads, d, rot, ld,
                          1};
    ops_must(dev_rope(r->d, &a));
    ops_take(r, d_x, y, n * ld);
    a.sign = -1; /* the inverse rotation gives the input back */
    ops_must(dev_rope(r->d, &a));
    ops_take(r, d_x, back, n * ld);
}

static inline double silu(double g) { return g / (1 + exp(-g)); }
struct swiglu_point {
    double g, u;
};
static inline double swiglu_point(void *ctx) {
    struct swiglu_point *x = ctx;
    return silu(x->g) * x->u;
}
static inline void case_swiglu(struct ops_run *r, int64_t rows, int64_t c) {
    int64_t n = rows * c;
    float *g = ops_normal(r, n, 4), *u = ops_normal(r, n, 1), *dy = ops_normal(r, n, 1);
    double *y = ops_wide(r, NULL, n), *dg = ops_wide(r, NULL, n), *du = ops_wide(r, NULL, n);
    for (int64_t i = 0; i < n; i++) {
        struct swiglu_point x = {(double)g[i], (double)u[i]};
        y[i] = swiglu_point(&x);
        dg[i] = (double)dy[i] * ops_slope(r, swiglu_point, &x, &x.g);
        du[i] = (double)dy[i] * ops_slope(r, swiglu_point, &x, &x.u);
    }
    dptr d_g = ops_put_f32(r, g, n), d_u = ops_put_f32(r, u, n), d_y = ops_blank(r, n);
    ops_must(dev_swiglu_fwd(r->d, &(struct swiglu_fwd_args){.g = d_g, .u = d_u, .y = d_y, .n = n}));
    ops_must(dev_swiglu_bwd(r->d, &(struct swiglu_bwd_args){d_g, d_u, ops_put_f32(r, dy, n), d_g, d_u, n}));
    ops_take(r, d_y, y, n);
    ops_take(r, d_g, dg, n);
    ops_take(r, d_u, du, n);
}

static inline double relu2_point(void *ctx) { return fmax(0, *(double *)ctx) * fmax(0, *(double *)ctx); }
static inline double gelu_point(void *ctx) { return *(double *)ctx * (1 + erf(*(double *)ctx / sqrt(2))) / 2; }
static inline double gelu_tanh_point(void *ctx) {
    const double x = *(double *)ctx;
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}
static inline void case_act(struct ops_run *r, int64_t rows, int64_t c) {
    static double (*const points[ACT_KINDS])(void *) = {relu2_point, gelu_point, gelu_tanh_point};
    int64_t n = rows * c;
    float *x = ops_normal(r, n, 2), *dy = ops_normal(r, n, 1);
    double *y = ops_wide(r, NULL, n), *dx = ops_wide(r, NULL, n);
    for (int64_t i = 0; i < n; i++)
        if (fabsf(x[i]) < 0.01f) x[i] = 0.01f; /* where relu2 bends, a difference is no slope */
    dptr d_x = ops_put_f32(r, x, n), d_dy = ops_put_f32(r, dy, n);
    for (int kind = 0; kind < ACT_KINDS; kind++) {
        for (int64_t i = 0; i < n; i++) {
            double at = (double)x[i];
            y[i] = points[kind](&at);
            dx[i] = (double)dy[i] * ops_slope(r, points[kind], &at, &at);
        }
        dptr d_y = ops_blank(r, n), d_dx = ops_blank(r, n);
        ops_must(dev_act_fwd(r->d, &(struct act_fwd_args){.x = d_x, .y = d_y, .n = n, .kind = kind}));
        ops_must(dev_act_bwd(r->d, &(struct act_bwd_args){d_x, d_dy, d_dx, n, kind}));
        ops_take(r, d_y, y, n);
        ops_take(r, d_dx, dx, n);
    }
}

static inline void case_elementwise(struct ops_run *r, int64_t rows, int64_t c) {
    int64_t n = rows * c;
    float *x = ops_normal(r, n, 1), *y = ops_normal(r, n, 1);
    double *sum = ops_wide(r, x, n), *twice = ops_wide(r, x, n), *value = ops_wide(r, NULL, n),
           *same = ops_wide(r, x, n);
    for (int64_t i = 0; i < n; i++) sum[i] += (double)y[i], twice[i] *= 0.75, value[i] = -2.5;
    dptr d_x = ops_put_f32(r, x, n), d_y = ops_put_f32(r, y, n), d_c = ops_blank(r, n);
    float *spread = ops_normal(r, rows * (c + 3), 1); /* rows apart, what lies between them kept */
    double *apart = ops_wide(r, spread, rows * (c + 3));
    for (int64_t i = 0; i < n; i++) apart[i / c * (c + 3) + i % c] = (double)x[i];
    dptr d_r = ops_put_f32(r, spread, rows * (c + 3));
    ops_must(
        dev_copy_rows(r->d,
                      &(struct copy_rows_args){.x = d_x, .y = d_r, .rows = rows, .cols = c, .ldx = c, .ldy = c + 3}));
    ops_take(r, d_r, apart, rows * (c + 3));
    ops_must(dev_add(r->d, &(struct add_args){d_x, d_y, n}));
    ops_must(dev_copy(r->d, &(struct copy_args){d_x, d_c, (size_t)n * 4}));
    ops_take(r, d_y, sum, n);
    ops_take(r, d_c, same, n);
    ops_must(dev_scale(r->d, &(struct scale_args){d_x, n, 0.75f}));
    ops_must(dev_fill(r->d, &(struct fill_args){d_y, n, -2.5f}));
    ops_take(r, d_x, twice, n);
    ops_take(r, d_y, value, n);
}
static inline void case_sums(struct ops_run *r, int64_t n, int64_t c) {
    int64_t ld = c + 3;
    float *x = ops_normal(r, n * ld, 1), *leaf = ops_normal(r, 8 * c, 1), *parts = ops_normal(r, n * c, 1);
    double *out = ops_wide(r, leaf, 8 * c), *fold = ops_wide(r, NULL, c), *biased = ops_wide(r, parts, n * c);
    long double square = 0;
    double got = 0;
    for (int64_t i = 0, s = 0; i < n; i++) {
        while ((n * (s + 1) + 7) / 8 <= i) s++;
        for (int64_t j = 0; j < c; j++) {
            out[s * c + j] += (double)x[i * ld + j];
            fold[j] += (double)parts[i * c + j];
            biased[i * c + j] += (double)leaf[j];
            square += (long double)x[i * ld + j] * (long double)x[i * ld + j];
        }
    }
    dptr d_x = ops_put_f32(r, x, n * ld), d_out = ops_put_f32(r, leaf, 8 * c), d_p = ops_put_f32(r, parts, n * c);
    dptr d_s = ops_put(r, &got, 8), d_b = ops_put_f32(r, parts, n * c);
    ops_must(dev_bias_add(r->d, &(struct bias_add_args){d_b, ops_put_f32(r, leaf, c), n, c}));
    ops_must(dev_colsum(r->d, &(struct colsum_args){d_x, d_out, n, c, ld}));
    ops_must(dev_tree_fold(r->d, &(struct tree_fold_args){d_p, n, c}));
    ops_must(dev_sum_squares(r->d, &(struct sum_squares_args){d_x, d_s, n, c, ld}));
    ops_take(r, d_out, out, 8 * c);
    ops_take(r, d_p, fold, c);
    ops_take(r, d_b, biased, n * c);
    ops_must(dev_download(r->d, &got, d_s, 8));
    if (fabs(got - (double)square) > 1e-14 * got) ok(false, "sum_squares %.17g, want %.17g", got, (double)square);
    ops_take(r, d_s, NULL, 2); /* the bits of a double, for comparing devices */
}
static inline void case_amax(struct ops_run *r, int64_t n, int64_t c) {
    int64_t ld = c + 1;
    float *x = ops_normal(r, n * ld, 1), *rows = ops_normal(r, n, 1), top = 0.5f;
    double *want = ops_wide(r, rows, n), all = 0.5;
    for (int64_t i = 0; i < n; i++) {
        want[i] = fabs(want[i]);
        for (int64_t j = 0; j < c; j++)
            want[i] = fmax(want[i], fabs((double)x[i * ld + j])), all = fmax(all, fabs((double)x[i * ld + j]));
    }
    dptr d_x = ops_put_f32(r, x, n * ld), d_rows = ops_put_f32(r, rows, n), d_top = ops_put_f32(r, &top, 1);
    ops_must(dev_amax(r->d, &(struct amax_args){d_x, d_top, n, c, ld}));
    ops_must(dev_amax_blocks(r->d, &(struct amax_blocks_args){d_x, d_rows, n, c, ld, {1, c, 0, 0, 1}}));
    ops_take(r, d_top, &all, 1);
    ops_take(r, d_rows, want, n);
    /* tiles of 3 x 4 in a larger tensor, of which x begins at (2, 5) */
    enum { TR = 3, TC = 4, R0 = 2, C0 = 5 };
    int64_t down = (R0 + n - 1) / TR + 1, across = (C0 + c - 1) / TC + 1;
    double *tiles = ops_wide(r, ops_normal(r, down * across, 0), down * across);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) {
            double *t = &tiles[(R0 + i) / TR * across + (C0 + j) / TC];
            *t = fmax(*t, fabs((double)x[i * ld + j]));
        }
    dptr d_tiles = ops_put_f32(r, ops_normal(r, down * across, 0), down * across);
    ops_must(dev_amax_blocks(r->d, &(struct amax_blocks_args){d_x, d_tiles, n, c, ld, {TR, TC, R0, C0, across}}));
    ops_take(r, d_tiles, tiles, down * across);
}
static inline void case_adamw(struct ops_run *r, int64_t rows, int64_t c) {
    int64_t n = rows * c;
    float *w = ops_normal(r, n, 1), *m = ops_normal(r, n, 0.1f), *v = ops_normal(r, n, 0.1f), *g = ops_normal(r, n, 1);
    for (int64_t i = 0; i < n; i++) v[i] = v[i] * v[i];
    struct adamw_args a = {.n = n,
                           .lr = 1e-2f,
                           .beta1 = 0.9f,
                           .beta2 = 0.99f,
                           .eps = 1e-8f,
                           .decay = 0.1f,
                           .correction1 = 0.271f,
                           .correction2 = 0.0297f,
                           .grad_scale = 0.5f};
    double *ww = ops_wide(r, w, n), *wm = ops_wide(r, m, n), *wv = ops_wide(r, v, n);
    for (int64_t i = 0; i < n; i++) {
        double x = (double)g[i] * 0.5, b1 = (double)a.beta1, b2 = (double)a.beta2;
        wm[i] = b1 * wm[i] + (1 - b1) * x;
        wv[i] = b2 * wv[i] + (1 - b2) * x * x;
        double step = wm[i] / (double)a.correction1 / (sqrt(wv[i] / (double)a.correction2) + (double)a.eps);
        ww[i] -= (double)a.lr * (step + (double)a.decay * ww[i]);
    }
    a.w = ops_put_f32(r, w, n), a.m = ops_put_f32(r, m, n), a.v = ops_put_f32(r, v, n), a.g = ops_put_f32(r, g, n);
    ops_must(dev_adamw(r->d, &a));
    ops_take(r, a.w, ww, n);
    ops_take(r, a.m, wm, n);
    ops_take(r, a.v, wv, n);
}

/* One row of softmax losses in fp64. */
struct loss_row {
    double *z, *t, inv_temp;
    int64_t v, label;
};
static inline double log_sum(const double *z, int64_t v, double inv_temp, double *top) {
    double m = -INFINITY, s = 0;
    for (int64_t j = 0; j < v; j++) m = fmax(m, z[j] * inv_temp);
    for (int64_t j = 0; j < v; j++) s += exp(z[j] * inv_temp - m);
    *top = m;
    return m + log(s);
}
static inline double cross_entropy(void *ctx) {
    struct loss_row *x = ctx;
    double m;
    return log_sum(x->z, x->v, 1, &m) - x->z[x->label];
}
static inline double divergence(void *ctx) {
    struct loss_row *x = ctx;
    double m, ls = log_sum(x->z, x->v, x->inv_temp, &m), lt = log_sum(x->t, x->v, x->inv_temp, &m), kl = 0;
    for (int64_t j = 0; j < x->v; j++) {
        double log_p = x->t[j] * x->inv_temp - lt;
        kl += exp(log_p) * (log_p - (x->z[j] * x->inv_temp - ls));
    }
    return kl;
}
static inline void ops_segments(int64_t seg[OPS_MAX_SEGMENTS + 1], int64_t v, int n) {
    for (int s = 0; s <= n; s++) seg[s] = (v * s + n - 1) / n;
}
static inline void case_cross_entropy(struct ops_run *r, int64_t n, int64_t v) {
    int64_t ld = v + 2, col0 = 100;
    float *z = ops_normal(r, n * ld, 3), *weight = ops_normal(r, n, 1);
    int32_t *labels = ops_below(r, n, 100, 100 + (int)v);
    if (n > 2) labels[1] = 99, labels[2] = -100, weight[2] = 0;
    double *top = ops_wide(r, NULL, n), *sum = ops_wide(r, NULL, n), *tgt = ops_wide(r, NULL, n),
           *g = ops_wide(r, z, n * ld);
    int32_t *best = ops_host(r, (size_t)n, 4);
    double *wide = ops_wide(r, z, n * ld);
    for (int64_t i = 0; i < n; i++) {
        struct loss_row x = {wide + i * ld, NULL, 1, v, labels[i] - col0};
        sum[i] = exp(log_sum(x.z, v, 1, &top[i]) - top[i]);
        bool here = x.label >= 0 && x.label < v;
        tgt[i] = here ? x.z[x.label] : 0;
        for (int64_t j = v - 1; j >= 0; j--) best[i] = x.z[j] == top[i] ? (int32_t)(col0 + j) : best[i];
        if (!here) x.label = 0;
        for (int64_t j = 0; j < v; j++) /* a label elsewhere: the softmax alone, d(ce) + [j == label] */
            g[i * ld + j] = (ops_slope(r, cross_entropy, &x, &x.z[j]) + (!here && j == 0)) * (double)weight[i];
    }
    dptr d_z = ops_put_f32(r, z, n * ld), d_top = ops_blank(r, n), d_best = ops_blank(r, n), d_sum = ops_blank(r, n);
    dptr d_tgt = ops_blank(r, n), d_lab = ops_put(r, labels, (size_t)n * 4);
    ops_must(dev_row_max(r->d, &(struct row_max_args){d_z, d_top, d_best, n, v, ld, col0, 1}));
    struct sum_exp_args s = {d_z, d_top, d_lab, d_sum, d_tgt, n, v, ld, col0, 8, {0}, 1, 0, {0}};
    ops_segments(s.seg, v, 8);
    ops_must(dev_sum_exp(r->d, &s));
    const dptr once[3] = {ops_blank(r, n), ops_blank(r, n), ops_blank(r, n)}, apart[3] = {d_top, d_best, d_sum};
    s.rowmax = once[0], s.best = once[1], s.sumexp = once[2], s.with_max = 1;
    ops_must(dev_sum_exp(r->d, &s));
    for (int i = 0; i < 3; i++) {
        ops_take(r, once[i], NULL, n), ops_take(r, apart[i], NULL, n);
        if (memcmp(r->out + r->n - 2 * n, r->out + r->n - n, (size_t)n * 4))
            ok(false, "maxima and sums in one pass have other bits: array %d", i);
    }
    ops_must(
        dev_ce_grad(r->d, &(struct ce_grad_args){d_z, d_top, d_sum, d_lab, ops_put_f32(r, weight, n), n, v, ld, col0}));
    ops_take(r, d_top, top, n);
    ops_take(r, d_sum, sum, n);
    ops_take(r, d_tgt, tgt, n);
    ops_take(r, d_z, g, n * ld);
    const float *at = ops_take(r, d_best, NULL, n); /* int32 */
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&at[i], &best[i], 4)) ok(false, "argmax of row %lld", (long long)i);
}
static inline void case_kl(struct ops_run *r, int64_t n, int64_t v) {
    int64_t lds = v + 1, ldt = v + 4;
    float *zs = ops_normal(r, n * lds, 2), *zt = ops_normal(r, n * ldt, 2), *weight = ops_normal(r, n, 1);
    const float inv_temp = 0.5f;
    double *kl = ops_wide(r, NULL, n), *g = ops_wide(r, zs, n * lds), *ws = ops_wide(r, zs, n * lds),
           *wt = ops_wide(r, zt, n * ldt);
    for (int64_t i = 0; i < n; i++) {
        struct loss_row x = {ws + i * lds, wt + i * ldt, (double)inv_temp, v, 0};
        kl[i] = divergence(&x);
        for (int64_t j = 0; j < v; j++)
            g[i * lds + j] = ops_slope(r, divergence, &x, &x.z[j]) / x.inv_temp * (double)weight[i];
    }
    dptr d_s = ops_put_f32(r, zs, n * lds), d_t = ops_put_f32(r, zt, n * ldt), d_kl = ops_blank(r, n);
    struct kl_grad_args a = {.zs = d_s,
                             .zt = d_t,
                             .smax = ops_blank(r, n),
                             .ssum = ops_blank(r, n),
                             .tmax = ops_blank(r, n),
                             .tsum = ops_blank(r, n),
                             .kl = d_kl,
                             .n = n,
                             .v = v,
                             .lds = lds,
                             .ldt = ldt,
                             .segments = 8,
                             .inv_temp = inv_temp};
    ops_segments(a.seg, v, 8);
    struct sum_exp_args s = {d_s, a.smax, {0}, a.ssum, {0}, n, v, lds, 0, 8, {0}, inv_temp, 0, {0}};
    ops_segments(s.seg, v, 8);
    ops_must(dev_row_max(r->d, &(struct row_max_args){d_s, a.smax, {0}, n, v, lds, 0, inv_temp}));
    ops_must(dev_row_max(r->d, &(struct row_max_args){d_t, a.tmax, {0}, n, v, ldt, 0, inv_temp}));
    ops_must(dev_sum_exp(r->d, &s));
    s.z = d_t, s.ld = ldt, s.rowmax = a.tmax, s.sumexp = a.tsum;
    ops_must(dev_sum_exp(r->d, &s));
    ops_must(dev_kl_grad(r->d, &a)); /* weight 0: the student stays */
    ops_take(r, d_kl, kl, n);
    ops_take(r, d_s, ws, n * lds);
    a.weight = ops_put_f32(r, weight, n);
    ops_must(dev_kl_grad(r->d, &a));
    ops_take(r, d_kl, kl, n);
    ops_take(r, d_s, g, n * lds);
}

struct ops_case {
    const char *name;
    void (*run)(struct ops_run *r, int64_t rows, int64_t cols);
    double bound; /* NMSE against fp64 */
};
static const struct ops_case ops_cases[] = {
    {"embedding", case_embed, 1e-14},
    {"rmsnorm forward", case_rmsnorm, 1e-13},
    {"rmsnorm gradients", case_rmsnorm_bwd, 1e-12},
    {"layer norm forward", case_layernorm, 1e-12},
    {"layer norm gradients", case_layernorm_bwd, 1e-12},
    {"rope and back", case_rope, 1e-13},
    {"swiglu and gradients", case_swiglu, 1e-13},
    {"relu2, gelu and gradients", case_act, 1e-13},
    {"add copy scale fill", case_elementwise, 1e-14},
    {"bias, column sums, tree, squares", case_sums, 1e-13},
    {"amax", case_amax, 0},
    {"adamw", case_adamw, 1e-13},
    {"cross-entropy", case_cross_entropy, 1e-12},
    {"KL divergence", case_kl, 1e-12},
};
enum { OPS_CASES = sizeof ops_cases / sizeof *ops_cases };
