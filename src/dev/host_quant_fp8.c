/* E4M3 codes and their scales on the host: fake quantization's numbers (numfmt/scale.h) before they are decoded. */
#include "base/clones.h"
#include "base/size.h"
#include "dev/host.h"
#include "numfmt/scale.h"

enum { PARALLEL_FROM = 1 << 15 }; /* elements: below, starting threads costs more than it saves */

#define INLINE __attribute__((always_inline)) static inline

/* weight: x is rounded to bf16 first; quotient: what is encoded too. */
INLINE void encode(const float *x, int64_t n, float scale, int weight, int quotient, uint8_t *out) {
    SIMD for (int64_t i = 0; i < n; i++) out[i] =
        e4m3_encode(scale_divide_fp8(weight ? bf16_round(x[i]) : x[i], scale, quotient));
}
CLONES static void encode_run(const float *x, int64_t n, float scale, bool weight, bool quotient, uint8_t *out) {
    if (quotient)
        encode(x, n, scale, 1, 1, out);
    else if (weight)
        encode(x, n, scale, 1, 0, out);
    else
        encode(x, n, scale, 0, 0, out);
}
CLONES static float largest(const float *x, int64_t n) {
    int32_t top = 0;
    for (int64_t i = 0; i < n; i++) {
        const int32_t u = bits_magnitude(x[i]);
        top = u > top ? u : top;
    }
    return bits_float((uint32_t)top);
}

/* One row: a scale for each block that it touches. Rows of one block write the same number. */
static void quantize_row(const struct quant_fp8_args *a, int64_t r) {
    const struct fake_quant_args *f = &a->of;
    const struct block_grid *g = &f->grid;
    const bool weight = f->round_bf16;
    const float *x = host_f32(f->x) + r * f->ldx, *maxima = host_f32(f->maxima);
    uint8_t *out = (uint8_t *)(uintptr_t)a->codes.a + r * a->ldc;
    float *scales = host_f32(a->scales);
    for (int64_t c = 0, next; c < f->cols; c = next) {
        const int64_t at = (g->row0 + r) / g->rows * g->ld + (g->col0 + c) / g->cols;
        next = size_min(c + g->cols - (g->col0 + c) % g->cols, f->cols);
        const float top = maxima ? maxima[at] : largest(x + c, next - c);
        scales[at] = scale_fp8(weight ? bf16_round(top) : top);
        encode_run(x + c, next - c, scales[at], weight, false, out + c);
    }
}

static enum status check(const struct quant_fp8_args *a) {
    const struct fake_quant_args *f = &a->of;
    const struct block_grid *g = &f->grid;
    if (f->kind != FQ_FP8 && f->kind != FQ_FP8_BLOCK)
        return TM_FAIL(TM_ERR_INTERNAL, "quant_fp8: kind %d has no E4M3 codes", f->kind);
    if (a->ldc < f->cols || f->ldx < f->cols)
        return TM_FAIL(TM_ERR_SHAPE, "quant_fp8: rows of %lld that lie %lld apart, their codes %lld",
                       (long long)f->cols, (long long)f->ldx, (long long)a->ldc);
    if (f->kind == FQ_FP8) return TM_OK;
    if (g->rows < 1 || g->cols < 1 || g->row0 < 0 || g->col0 < 0)
        return TM_FAIL(TM_ERR_SHAPE, "quant_fp8: blocks of %lld x %lld elements", (long long)g->rows,
                       (long long)g->cols);
    if (!f->maxima.a && (g->rows > 1 || g->col0 || f->cols % g->cols))
        return TM_FAIL(TM_ERR_SHAPE, "quant_fp8: rows of %lld elements, expected a multiple of the block of %lld",
                       (long long)f->cols, (long long)g->cols);
    return TM_OK;
}

enum status host_quant_fp8(struct dev *d, const struct quant_fp8_args *a) {
    const struct fake_quant_args *f = &a->of;
    const bool weight = f->round_bf16;
    TM_TRY(check(a));
    if (f->kind == FQ_FP8) {
        const float top = *host_f32(f->amax), scale = scale_fp8(weight ? bf16_round(top) : top);
        *host_f32(a->scales) = scale;
#pragma omp parallel for schedule(static) num_threads(d->threads) if (f->rows * f->cols >= PARALLEL_FROM)
        for (int64_t r = 0; r < f->rows; r++)
            encode_run(host_f32(f->x) + r * f->ldx, f->cols, scale, weight, weight,
                       (uint8_t *)(uintptr_t)a->codes.a + r * a->ldc);
        return TM_OK;
    }
    const int64_t above = f->grid.row0 % f->grid.rows; /* rows of one block on one thread: they write its scales */
#pragma omp parallel for schedule(static) num_threads(d->threads) if (f->rows * f->cols >= PARALLEL_FROM)
    for (int64_t b = 0; b < size_ceil_div(above + f->rows, f->grid.rows); b++) {
        const int64_t from = size_max(0, b * f->grid.rows - above),
                      to = size_min((b + 1) * f->grid.rows - above, f->rows);
        for (int64_t r = from; r < to; r++) quantize_row(a, r);
    }
    return TM_OK;
}
