/* Fake quantization on the host. Element-wise: no order, the same bits for any thread count and vector width. The arithmetic is
 * numfmt/scale.h. */
#include "base/clones.h"
#include "dev/host.h"
#include "numfmt/scale.h"

enum { PARALLEL_FROM = 1 << 15 }; /* elements: below, starting threads costs more than it saves */

/* One row of each kind; scale: of the tensor, or of the row. x and y may be the same. */
CLONES static void row_fp8(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_fp8(x[i], scale, 0);
}
CLONES static void row_fp8_weight(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_fp8(bf16_round(x[i]), scale, 1);
}
CLONES static void row_int8(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_int8(x[i], scale);
}
CLONES static void row_int8_weight(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_int8(bf16_round(x[i]), scale);
}
/* The largest magnitude of a block as an integer: non-negative floats order as their bits do; NaN is passed over. */
__attribute__((always_inline)) static inline int32_t magnitude(float x) {
    int32_t u = (int32_t)(bits_of(x) & 0x7fffffffu);
    return u > 0x7f800000 ? 0 : u;
}
__attribute__((always_inline)) static inline void nvfp4_row(const float *x, float *y, int64_t n, float scale,
                                                            int weight) {
    for (int64_t b = 0; b < n; b += NVFP4_BLOCK) {
        float v[NVFP4_BLOCK];
        int32_t top = 0;
        SIMD for (int i = 0; i < NVFP4_BLOCK; i++) v[i] = weight ? bf16_round(x[b + i]) : x[b + i];
        for (int i = 0; i < NVFP4_BLOCK; i++) top = magnitude(v[i]) > top ? magnitude(v[i]) : top;
        float step = scale_nvfp4_step(scale_nvfp4_block(bits_float((uint32_t)top), scale), scale);
        SIMD for (int i = 0; i < NVFP4_BLOCK; i++) y[b + i] = fake_nvfp4(v[i], step);
    }
}
CLONES static void row_nvfp4(const float *x, float *y, int64_t n, float scale) { nvfp4_row(x, y, n, scale, 0); }
CLONES static void row_nvfp4_weight(const float *x, float *y, int64_t n, float scale) { nvfp4_row(x, y, n, scale, 1); }

/* By enum fq_kind: how a row is done ([1]: rounded to bf16 first), the scale of an amax, the width of a block, amax per row. */
static const struct kind {
    void (*row[2])(const float *, float *, int64_t, float);
    float (*scale)(float);
    int block, per_row;
} kinds[] = {
    [FQ_FP8] = {{row_fp8, row_fp8_weight}, scale_fp8, 1, 0},
    [FQ_INT8] = {{row_int8, row_int8_weight}, scale_int8, 1, 0},
    [FQ_INT8_ROW] = {{row_int8, row_int8_weight}, scale_int8, 1, 1},
    [FQ_NVFP4] = {{row_nvfp4, row_nvfp4_weight}, scale_nvfp4_tensor, NVFP4_BLOCK, 0},
};

static enum status find_kind(int kind, int64_t cols, const struct kind **k) {
    if (kind <= FQ_NONE || kind > FQ_NVFP4) return TM_FAIL(TM_ERR_INTERNAL, "fake_quant: kind %d does not exist", kind);
    *k = &kinds[kind];
    if (cols % (*k)->block)
        return TM_FAIL(TM_ERR_SHAPE, "fake_quant: rows of %lld elements, expected a multiple of the block of %d",
                       (long long)cols, (*k)->block);
    return TM_OK;
}

enum status host_fake_quant(struct dev *d, const struct fake_quant_args *a) {
    const struct kind *k;
    TM_TRY(find_kind(a->kind, a->cols, &k));
    const float *x = host_f32(a->x), *amax = host_f32(a->amax);
    float *y = host_f32(a->y);
    int weight = a->round_bf16 != 0;
#pragma omp parallel for schedule(static) num_threads(d->threads) if (a->rows * a->cols >= PARALLEL_FROM)
    for (int64_t r = 0; r < a->rows; r++) {
        float m = amax[k->per_row ? r : 0];
        k->row[weight](x + r * a->ldx, y + r * a->ldy, a->cols, k->scale(weight ? bf16_round(m) : m));
    }
    return TM_OK;
}
