/* Products of E4M3 codes for the tests of dev/: random codes and scales, the definition in plain loops, and the fp64 product. */
#pragma once

#include "numfmt/e4m3.h"
#include "ops_case.h"

enum fp8_scales { FP8_TENSOR, FP8_ROWS, FP8_TILES, FP8_SCALES };
static const char *const fp8_scales_name[] = {"of tensors", "of rows", "of tiles and groups of 128"};

struct fp8_case {
    struct gemm_fp8_args a; /* addresses: set by fp8_run */
    uint8_t *codes_a, *codes_b;
    float *scales_a, *scales_b, *bias;
    int64_t n_a, n_b; /* scales */
};

static inline int64_t fp8_scale_count(const struct block_grid *g, int64_t rows) {
    return ((g->row0 + rows - 1) / g->rows + 1) * g->ld;
}
/* Codes of normal numbers times 8, a few of them denormal, zero or the largest. */
static inline uint8_t *fp8_codes(struct ops_run *r, int64_t n) {
    uint8_t *c = ops_host(r, (size_t)n, 1);
    const float *x = ops_normal(r, n, 8);
    for (int64_t i = 0; i < n; i++) c[i] = e4m3_encode(i % 13 == 5 ? x[i] * 1e-3f : i % 101 == 7 ? x[i] * 1e3f : x[i]);
    return c;
}
static inline float *fp8_scale_values(struct ops_run *r, int64_t n) {
    float *x = ops_normal(r, n, 1);
    for (int64_t i = 0; i < n; i++) x[i] = expf(x[i]) * 0.01f;
    return x;
}
/* k: boundaries of the segments; col0: where k = 0 lies in its block of 128; row0: where row 0 of B does. */
static inline struct fp8_case fp8_make(struct ops_run *r, enum fp8_scales s, int64_t m, int64_t n, int segments,
                                       const int64_t *k, int64_t row0, int64_t col0, bool bias) {
    const int64_t all = k[segments], far = INT64_C(1) << 40;
    struct fp8_case c = {.a = {.m = m, .n = n, .segments = segments, .ldc = n + 3}};
    memcpy(c.a.k, k, (size_t)(segments + 1) * sizeof *k);
    c.a.a.ld = all + 5;
    c.a.b.ld = all + (segments % 2 ? 16 - all % 16 : 1); /* aligned for every other case */
    c.a.a.grid = c.a.b.grid = (struct block_grid){s == FP8_ROWS ? 1 : far, far, 0, 0, 1};
    if (s == FP8_TILES) {
        const int64_t ld = (col0 + all) / 128 + 1;
        c.a.a.grid = (struct block_grid){1, 128, 0, col0, ld};
        c.a.b.grid = (struct block_grid){128, 128, row0, col0, ld};
    }
    c.n_a = fp8_scale_count(&c.a.a.grid, m ? m : 1);
    c.n_b = fp8_scale_count(&c.a.b.grid, n ? n : 1);
    c.codes_a = fp8_codes(r, m * c.a.a.ld);
    c.codes_b = fp8_codes(r, n * c.a.b.ld);
    c.scales_a = fp8_scale_values(r, c.n_a);
    c.scales_b = fp8_scale_values(r, c.n_b);
    c.bias = bias ? ops_normal(r, n, 1) : NULL;
    return c;
}

/* The product on the device; C [m, ldc]. */
static inline float *fp8_run(struct ops_run *r, const struct fp8_case *c) {
    struct gemm_fp8_args a = c->a;
    a.a.codes = ops_put(r, c->codes_a, (size_t)(a.m * a.a.ld));
    a.b.codes = ops_put(r, c->codes_b, (size_t)(a.n * a.b.ld));
    a.a.scales = ops_put_f32(r, c->scales_a, c->n_a);
    a.b.scales = ops_put_f32(r, c->scales_b, c->n_b);
    if (c->bias) a.bias = ops_put_f32(r, c->bias, a.n);
    a.c = ops_blank(r, a.m * a.ldc);
    ops_must(dev_gemm_fp8(r->d, &a));
    float *out = ops_host(r, (size_t)(a.m * a.ldc), sizeof *out);
    ops_must(dev_download(r->d, out, a.c, (size_t)(a.m * a.ldc) * 4));
    return out;
}

static inline float fp8_scale_at(const struct fp8_factor *f, const float *scales, int64_t r, int64_t k) {
    const struct block_grid *g = &f->grid;
    return scales[(g->row0 + r) / g->rows * g->ld + (g->col0 + k) / g->cols];
}
/* Element (i, j) in fp64. */
static inline double fp8_exact(const struct fp8_case *c, int64_t i, int64_t j) {
    const struct gemm_fp8_args *a = &c->a;
    double x = 0;
    for (int64_t k = 0; k < a->k[a->segments]; k++)
        x += (double)e4m3_decode(c->codes_a[i * a->a.ld + k]) * (double)e4m3_decode(c->codes_b[j * a->b.ld + k]) *
             (double)fp8_scale_at(&a->a, c->scales_a, i, k) * (double)fp8_scale_at(&a->b, c->scales_b, j, k);
    return c->bias ? x + (double)c->bias[j] : x;
}
/* The same as ops.h defines it, one element at a time; the tree by recursion over [s, e) of 8 positions. */
static inline float fp8_leaf(const struct fp8_case *c, int64_t i, int64_t j, int64_t k, int64_t end) {
    const struct gemm_fp8_args *a = &c->a;
    float leaf = 0;
    while (k < end) {
        const float sa = fp8_scale_at(&a->a, c->scales_a, i, k), sb = fp8_scale_at(&a->b, c->scales_b, j, k);
        const int64_t block_a = (a->a.grid.col0 + k) / a->a.grid.cols, block_b = (a->b.grid.col0 + k) / a->b.grid.cols,
                      begin = k;
        float run = 0;
        for (; k < end && k < begin + 128 && (a->a.grid.col0 + k) / a->a.grid.cols == block_a &&
               (a->b.grid.col0 + k) / a->b.grid.cols == block_b;
             k++)
            run = fmaf(e4m3_decode(c->codes_a[i * a->a.ld + k]), e4m3_decode(c->codes_b[j * a->b.ld + k]), run);
        leaf = leaf + run * (sa * sb);
    }
    return leaf;
}
static inline bool fp8_tree(const struct fp8_case *c, int64_t i, int64_t j, int s, int e, float *out) {
    const struct gemm_fp8_args *a = &c->a;
    float x = 0, y = 0;
    if (s >= a->segments) return false;
    if (e - s == 1) {
        *out = fp8_leaf(c, i, j, a->k[s], a->k[e]);
        return a->k[e] > a->k[s];
    }
    const bool left = fp8_tree(c, i, j, s, (s + e) / 2, &x), right = fp8_tree(c, i, j, (s + e) / 2, e, &y);
    *out = left && right ? x + y : left ? x : y;
    return left || right;
}
static inline float fp8_defined(const struct fp8_case *c, int64_t i, int64_t j) {
    float x = 0;
    if (!fp8_tree(c, i, j, 0, 8, &x)) x = 0;
    return c->bias ? x + c->bias[j] : x;
}
/* NMSE against fp64; infinity where something between the rows of C was written. */
static inline double fp8_nmse(const struct fp8_case *c, const float *x) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < c->a.m; i++)
        for (int64_t j = 0; j < c->a.ldc; j++) {
            if (j >= c->a.n) {
                if (!isnan(x[i * c->a.ldc + j])) return INFINITY;
                continue;
            }
            const double y = fp8_exact(c, i, j), e = (double)x[i * c->a.ldc + j] - y;
            error += e * e;
            norm += y * y;
        }
    return norm > 0 ? error / norm : error;
}

/* A tensor to quantize: the kind of fake_quant, whether it is a weight (rounded to bf16), whether maxima are given, and how scales lie (grid of
 * zeros: one). */
struct fp8_source {
    const char *what;
    int kind, weight;
    bool given;
    int64_t rows, cols;
    struct block_grid grid;
};
static inline int64_t fp8_source_scales(const struct fp8_source *s) {
    return s->grid.rows ? fp8_scale_count(&s->grid, s->rows) : 1;
}
/* Its arguments, with zeros, a value beyond the largest code and a NaN; codes and scales are blank. */
static inline struct quant_fp8_args fp8_quantize(struct ops_run *r, const struct fp8_source *s, int64_t ldx,
                                                 int64_t ldc) {
    const int64_t n = fp8_source_scales(s);
    float *x = ops_normal(r, s->rows * ldx, 3), amax = 11.3f, *maxima = ops_normal(r, n, 1);
    for (int64_t j = 0; j < n; j++) maxima[j] = 4 + fabsf(maxima[j]);
    x[5] = 0, x[6] = -0.0f, x[9] = 1e4f, x[11] = NAN;
    struct quant_fp8_args a = {.of = {.x = ops_put_f32(r, x, s->rows * ldx),
                                      .amax = ops_put_f32(r, &amax, 1),
                                      .rows = s->rows,
                                      .cols = s->cols,
                                      .ldx = ldx,
                                      .kind = s->kind,
                                      .round_bf16 = s->weight,
                                      .grid = s->grid},
                               .codes = ops_put(r, ops_host(r, (size_t)(s->rows * ldc), 1), (size_t)(s->rows * ldc)),
                               .scales = ops_blank(r, n),
                               .ldc = ldc};
    if (s->given) a.of.maxima = ops_put_f32(r, maxima, n);
    return a;
}

static const struct {
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
} fp8_ks[] = {{1, {0, 1}},
              {1, {0, 96}},
              {1, {0, 300}},
              {3, {0, 16, 16, 33}},
              {4, {0, 0, 0, 7, 7}},
              {8, {0, 0, 5, 5, 9, 20, 20, 20, 20}},
              {8, {0, 64, 128, 128, 161, 162, 192, 384, 512}},
              {8, {0, 0, 0, 0, 0, 0, 0, 0, 0}}};
static const struct {
    int64_t m, n;
} fp8_shapes[] = {{1, 1}, {5, 67}, {16, 129}, {17, 33}, {65, 127}, {129, 131}, {0, 3}};
enum { FP8_KS = sizeof fp8_ks / sizeof *fp8_ks, FP8_SHAPES = sizeof fp8_shapes / sizeof *fp8_shapes };
