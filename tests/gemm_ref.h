/* The matrix product by its definition, one element at a time: what every kernel of the host GEMM must equal bit for bit.
 *
 * struct prod owns the factors of one case. Padding of rows holds NaN: whoever reads it spoils the result. */
#pragma once

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "dev/host_gemm.h"
#include "numfmt/bf16.h"

struct prod {
    struct gemm_args a;
    float *fa[OPS_MAX_TERMS], *fb[OPS_MAX_TERMS], *bias, *c0; /* c0: C before */
    int64_t c_elems;
};

/* Values of mixed size and sign, so that the order of sums shows; now and then a zero of either sign or a denormal. */
static inline float prod_value(uint64_t seed, uint64_t stream, uint64_t i) {
    const uint64_t u = rng_u64(seed, stream, i);
    const float x = ldexpf((float)((int64_t)(u >> 40) - (1 << 23)), -23);
    switch (u & 63) {
    case 0: return 0.0f;
    case 1: return -0.0f;
    case 2: return x * 1e-38f;
    default: return ldexpf(x, (int)(u >> 8 & 7) - 4);
    }
}

static inline enum status prod_matrix(int64_t rows, int64_t cols, int64_t ld, uint64_t stream, float **out) {
    TM_TRY(mem_alloc(out, (size_t)(rows > 0 ? (rows - 1) * ld + cols : 0), sizeof **out));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld && r * ld + c < (rows - 1) * ld + cols; c++)
            (*out)[r * ld + c] = c < cols ? prod_value(7, stream, (uint64_t)(r * cols + c)) : NAN;
    return TM_OK;
}

/* k: boundaries [segments + 1] of term 0; term t has the segments rotated by t. pad: extra elements a row. */
static inline enum status prod_init(struct prod *p, enum gemm_layout layout, int64_t m, int64_t n, int terms,
                                    int segments, const int64_t *k, int64_t pad, bool accumulate, bool bias) {
    *p = (struct prod){.a = {.layout = layout, .m = m, .n = n, .terms = terms, .segments = segments, .ldc = n + pad}};
    p->a.accumulate = accumulate;
    for (int t = 0; t < terms; t++) {
        struct gemm_term *f = &p->a.term[t];
        for (int j = 0; j < segments; j++) {
            const int from = (j + t) % segments;
            f->k[j + 1] = f->k[j] + k[from + 1] - k[from];
        }
        const int64_t all = f->k[segments];
        const int64_t ra = layout == GEMM_TN ? all : m, ca = layout == GEMM_TN ? m : all;
        const int64_t rb = layout == GEMM_NT ? n : all, cb = layout == GEMM_NT ? all : n;
        f->lda = ca + pad;
        f->ldb = cb + 2 * pad;
        TM_TRY(prod_matrix(ra, ca, f->lda, (uint64_t)(2 * t), &p->fa[t]));
        TM_TRY(prod_matrix(rb, cb, f->ldb, (uint64_t)(2 * t + 1), &p->fb[t]));
        f->a.a = (uintptr_t)p->fa[t];
        f->b.a = (uintptr_t)p->fb[t];
    }
    p->c_elems = m > 0 ? (m - 1) * p->a.ldc + n : 0;
    TM_TRY(prod_matrix(m, n, p->a.ldc, 100, &p->c0));
    if (bias) {
        TM_TRY(prod_matrix(1, n, n, 101, &p->bias));
        p->a.bias.a = (uintptr_t)p->bias;
    }
    return TM_OK;
}

static inline void prod_free(struct prod *p) {
    for (int t = 0; t < OPS_MAX_TERMS; t++) mem_free(&p->fa[t]), mem_free(&p->fb[t]);
    mem_free(&p->bias);
    mem_free(&p->c0);
}

static inline float prod_a(const struct prod *p, int t, int64_t i, int64_t k) {
    const int64_t ld = p->a.term[t].lda;
    return p->fa[t][p->a.layout == GEMM_TN ? k * ld + i : i * ld + k];
}
static inline float prod_b(const struct prod *p, int t, int64_t j, int64_t k) {
    const int64_t ld = p->a.term[t].ldb;
    return p->fb[t][p->a.layout == GEMM_NT ? j * ld + k : k * ld + j];
}

static inline float prod_flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

/* bf16: blocks of 32 k, each the fma chain of its even k plus that of its odd k; a block that is not full ends in zeros; denormals are
 * zero. */
static inline bool prod_leaf_bf16(const struct prod *p, int s, int64_t i, int64_t j, float *acc) {
    enum { BLOCK = 32 };
    float half[2] = {0, 0};
    int64_t n = 0;
    *acc = prod_flush(*acc);
    for (int t = 0; t < p->a.terms; t++)
        for (int64_t k = p->a.term[t].k[s]; k < p->a.term[t].k[s + 1]; k++) {
            const float a = bf16_round(prod_flush(prod_a(p, t, i, k))), b = bf16_round(prod_flush(prod_b(p, t, j, k)));
            half[n & 1] = prod_flush(fmaf(a, b, half[n & 1]));
            if (++n % BLOCK) continue;
            *acc = prod_flush(*acc + prod_flush(half[0] + half[1]));
            half[0] = half[1] = 0;
        }
    for (int64_t k = n; k % BLOCK; k++) half[k & 1] = prod_flush(fmaf(0, 0, half[k & 1]));
    if (n % BLOCK) *acc = prod_flush(*acc + prod_flush(half[0] + half[1]));
    return n > 0;
}

/* Leaf s of element (i, j); false when it is empty. */
static inline bool prod_leaf(const struct prod *p, int s, int64_t i, int64_t j, float *acc) {
    bool any = false;
    if (p->a.bf16) return prod_leaf_bf16(p, s, i, j, acc);
    for (int t = 0; t < p->a.terms; t++)
        for (int64_t k = p->a.term[t].k[s]; k < p->a.term[t].k[s + 1]; k++, any = true)
            *acc = fmaf(prod_a(p, t, i, k), prod_b(p, t, j, k), *acc);
    return any;
}

/* The subtree over positions [s, s + size), size a power of two; positions past the last segment are empty. order[] names the segment
 * at each position. */
static inline bool prod_tree(const struct prod *p, const int *order, int s, int size, int64_t i, int64_t j,
                             float *sum) {
    if (size == 1) {
        if (s >= p->a.segments) return false;
        *sum = p->a.accumulate ? p->c0[i * p->a.ldc + j] : 0.0f;
        return prod_leaf(p, order[s], i, j, sum);
    }
    float left, right;
    const bool l = prod_tree(p, order, s, size / 2, i, j, &left),
               r = prod_tree(p, order, s + size / 2, size / 2, i, j, &right);
    *sum = l && r ? left + right : l ? left : right;
    return l || r;
}

static inline void prod_reference(const struct prod *p, const int *order, float *c) {
    static const int straight[] = {0, 1, 2, 3, 4, 5, 6, 7};
    if (p->c_elems) memcpy(c, p->c0, (size_t)p->c_elems * sizeof *c);
    for (int64_t i = 0; i < p->a.m; i++)
        for (int64_t j = 0; j < p->a.n; j++) {
            float *e = &c[i * p->a.ldc + j], sum;
            if (!prod_tree(p, order ? order : straight, 0, 8, i, j, &sum)) sum = p->a.accumulate ? *e : 0.0f;
            *e = p->bias ? sum + p->bias[j] : sum;
        }
}

/* As must() of tap.h, silent when it passes: for what runs thousands of times. */
#define need(expr)                        \
    do {                                  \
        const enum status need_ = (expr); \
        if (need_ != TM_OK) must(need_);  \
    } while (0)

/* Run on a copy of C. */
static inline enum status prod_run(const struct prod *p, struct host_gemm *g, float *c) {
    struct gemm_args a = p->a;
    if (p->c_elems) memcpy(c, p->c0, (size_t)p->c_elems * sizeof *c);
    a.c.a = (uintptr_t)c;
    return host_gemm_run(g, &a);
}
