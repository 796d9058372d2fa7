/* Products of E4M3 codes on the host: the definition (ops.h), run by run on the fp32 kernel, in blocks of C. */
#include <omp.h>
#include <string.h>

#include "base/clones.h"
#include "base/size.h"
#include "dev/host.h"
#include "dev/host_gemm.h"
#include "numfmt/e4m3.h"

enum {
    ROWS = 128,
    COLS = 256,
    RUN = OPS_FP8_RUN,
    SUMS = 4 /* the leaf at hand, and those that wait: levels of a tree over 8 */
};

/* The work of a thread: decoded factors of a run, its product, the stack of sums. */
struct work {
    float a[ROWS * RUN], b[COLS * RUN], run[ROWS * COLS], sum[SUMS][ROWS * COLS], scale[COLS];
};

/* A block of C. */
struct block {
    const struct gemm_fp8_args *args;
    int64_t m0, m, n0, n;
};

/* As e4m3_decode, in straight-line code: the exponent is off by 120 until the multiplication, which makes denormals right too. */
CLONES static void decode(const uint8_t *code, int64_t n, float *out) {
    SIMD for (int64_t i = 0; i < n; i++) {
        const uint32_t c = code[i], magnitude = c & 0x7fu;
        const uint32_t bits = bits_of(bits_float(magnitude << 20) * 0x1p120f);
        out[i] = bits_float((magnitude == 0x7fu ? 0x7fc00000u : bits) | (c & 0x80u) << 24);
    }
}

static void decode_rows(const struct fp8_factor *f, int64_t r0, int64_t rows, int64_t k, int64_t len, float *out) {
    const uint8_t *code = (const uint8_t *)(uintptr_t)f->codes.a;
    for (int64_t r = 0; r < rows; r++) decode(code + (r0 + r) * f->ld + k, len, out + r * len);
}

static float scale_at(const struct fp8_factor *f, int64_t r, int64_t k) {
    const struct block_grid *g = &f->grid;
    return host_f32(f->scales)[(g->row0 + r) / g->rows * g->ld + (g->col0 + k) / g->cols];
}

CLONES static void add_scaled(float *leaf, const float *run, float scale_a, const float *scale_b, int64_t n) {
    SIMD for (int64_t i = 0; i < n; i++) leaf[i] = leaf[i] + run[i] * (scale_a * scale_b[i]);
}
CLONES static void add(float *wait, const float *x, int64_t n) {
    SIMD for (int64_t i = 0; i < n; i++) wait[i] = wait[i] + x[i];
}

static void run_into(struct host_gemm *g, struct work *w, const struct block *b, int64_t k, int64_t len, float *leaf) {
    const struct gemm_fp8_args *a = b->args;
    decode_rows(&a->a, b->m0, b->m, k, len, w->a);
    decode_rows(&a->b, b->n0, b->n, k, len, w->b);
    struct gemm_args product = {.layout = GEMM_NT,
                                .m = b->m,
                                .n = b->n,
                                .terms = 1,
                                .segments = 1,
                                .c = {(uint64_t)(uintptr_t)w->run},
                                .ldc = b->n};
    product.term[0] = (struct gemm_term){
        .a = {(uint64_t)(uintptr_t)w->a}, .b = {(uint64_t)(uintptr_t)w->b}, .lda = len, .ldb = len, .k = {0, len}};
    host_gemm_alone(g, omp_get_thread_num(), &product);
    for (int64_t j = 0; j < b->n; j++) w->scale[j] = scale_at(&a->b, b->n0 + j, k);
    for (int64_t i = 0; i < b->m; i++)
        add_scaled(leaf + i * b->n, w->run + i * b->n, scale_at(&a->a, b->m0 + i, k), w->scale, b->n);
}

static void store(const struct block *b, const float *x) {
    const struct gemm_fp8_args *a = b->args;
    const float *bias = host_f32(a->bias);
    for (int64_t i = 0; i < b->m; i++) {
        float *c = host_f32(a->c) + (b->m0 + i) * a->ldc + b->n0;
        for (int64_t j = 0; j < b->n; j++) c[j] = bias ? x[i * b->n + j] + bias[b->n0 + j] : x[i * b->n + j];
    }
}

static void run_block(struct host_gemm *g, struct work *w, const struct block *b, const int *merges) {
    const struct gemm_fp8_args *a = b->args;
    const int64_t size = b->m * b->n;
    int depth = 0, leaf = 0;
    memset(w->sum[0], 0, (size_t)size * sizeof(float));
    for (int j = 0; j < a->segments; j++) {
        float *x = w->sum[depth];
        if (a->k[j + 1] == a->k[j]) continue;
        memset(x, 0, (size_t)size * sizeof *x);
        for (int64_t k = a->k[j], end; k < a->k[j + 1]; k = end) {
            end = ops_fp8_run(&a->a.grid, &a->b.grid, k, a->k[j + 1]);
            run_into(g, w, b, k, end - k, x);
        }
        for (int d = 0; d < merges[leaf]; d++, depth--) add(w->sum[depth - 1], w->sum[depth], size);
        depth++;
        leaf++;
    }
    store(b, w->sum[0]);
}

static enum status check_factor(const char *name, const struct fp8_factor *f, int64_t k) {
    const struct block_grid *g = &f->grid;
    if (g->rows < 1 || g->cols < 1 || g->row0 < 0 || g->col0 < 0)
        return TM_FAIL(TM_ERR_SHAPE, "gemm_fp8: scales of %s for blocks of %lld x %lld", name, (long long)g->rows,
                       (long long)g->cols);
    if (f->ld < k || (k > 0 && (!f->codes.a || !f->scales.a)))
        return TM_FAIL(TM_ERR_SHAPE,
                       "gemm_fp8: rows of %s lie %lld bytes apart, expected %lld or more, with codes and scales", name,
                       (long long)f->ld, (long long)k);
    return TM_OK;
}
static enum status check(const struct gemm_fp8_args *a) {
    if (a->m < 0 || a->n < 0 || a->segments < 1 || a->segments > OPS_MAX_SEGMENTS || a->k[0] != 0 || a->ldc < a->n)
        return TM_FAIL(TM_ERR_SHAPE, "gemm_fp8: %lld x %lld in rows of %lld, %d segments from k = %lld",
                       (long long)a->m, (long long)a->n, (long long)a->ldc, a->segments, (long long)a->k[0]);
    for (int j = 0; j < a->segments; j++)
        if (a->k[j + 1] < a->k[j])
            return TM_FAIL(TM_ERR_SHAPE, "gemm_fp8: segment %d ends at %lld before it starts at %lld", j,
                           (long long)a->k[j + 1], (long long)a->k[j]);
    TM_TRY(check_factor("A", &a->a, a->k[a->segments]));
    return check_factor("B", &a->b, a->k[a->segments]);
}

enum status host_gemm_fp8(struct dev *d, const struct gemm_fp8_args *a) {
    struct gemm_args tree = {.terms = 1, .segments = a->segments};
    int merges[OPS_MAX_SEGMENTS];
    char *base;
    size_t first, stride;
    TM_TRY(check(a));
    if (a->m == 0 || a->n == 0) return TM_OK;
    memcpy(tree.term[0].k, a->k, sizeof a->k);
    ops_gemm_tree(&tree, merges);
    TM_TRY(host_scratch(d, 0, sizeof(struct work), &base, &first, &stride));
    const int64_t down = size_ceil_div(a->m, ROWS), across = size_ceil_div(a->n, COLS);
#pragma omp parallel for schedule(static) num_threads(d->threads) if (a->m * a->n * a->k[a->segments] >= 1 << 20)
    for (int64_t i = 0; i < down * across; i++) {
        const int64_t m0 = i / across * ROWS, n0 = i % across * COLS;
        const struct block b = {a, m0, size_min(ROWS, a->m - m0), n0, size_min(COLS, a->n - n0)};
        run_block(d->gemm, (struct work *)(void *)(base + first + (size_t)omp_get_thread_num() * stride), &b, merges);
    }
    return TM_OK;
}
