/* Fake quantization on the host. Element-wise: no order, the same bits for any thread count and vector width. The arithmetic is
 * numfmt/scale.h. */
#include "base/size.h"
#include "dev/host.h"
#include "numfmt/scale.h"

/* Leaf loops are compiled once per instruction set and chosen at load time. ThreadSanitizer is not up yet when that happens. */
#if defined(__SANITIZE_THREAD__)
#define CLONES
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CLONES
#endif
#endif
#if !defined(CLONES) && defined(__x86_64__) && defined(__linux__)
#define CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#elif !defined(CLONES)
#define CLONES
#endif

/* gcc needs to be told that in-place rows are fine; clang finds out alone, and its sanitizer builds refuse the promise. */
#ifdef __clang__
#define SIMD
#else
#define SIMD _Pragma("omp simd")
#endif

enum { PARALLEL_FROM = 1 << 15 }; /* elements: below, starting threads costs more than it saves */

#define INLINE __attribute__((always_inline)) static inline

/* A row on its way: n elements; the scale of the tensor; the blocks. x and y may be the same. */
struct span {
    const float *x;
    float *y;
    int64_t n;
    float scale;
    int weight;           /* rounded to bf16 first */
    int64_t block, first; /* elements of a block, and of the first one here */
    const float *maxima;  /* of the blocks; NULL: taken here */
};

/* --- one scale for the whole tensor --------------------------------------------------------------------------------------- */
CLONES static void fp8_plain(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_fp8(x[i], scale, 0);
}
CLONES static void fp8_weight(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_fp8(bf16_round(x[i]), scale, 1);
}
CLONES static void int8_plain(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_int8(x[i], scale);
}
CLONES static void int8_weight(const float *x, float *y, int64_t n, float scale) {
    SIMD for (int64_t i = 0; i < n; i++) y[i] = fake_int8(bf16_round(x[i]), scale);
}
static void row_fp8(const struct span *s) { (s->weight ? fp8_weight : fp8_plain)(s->x, s->y, s->n, s->scale); }
static void row_int8(const struct span *s) { (s->weight ? int8_weight : int8_plain)(s->x, s->y, s->n, s->scale); }

/* --- a scale for each block ----------------------------------------------------------------------------------------------- */
/* The largest magnitude of a block as an integer: non-negative floats order as their bits do; NaN is passed over. */
INLINE int32_t magnitude(float x) {
    int32_t u = (int32_t)(bits_of(x) & 0x7fffffffu);
    return u > 0x7f800000 ? 0 : u;
}

/* What the elements of a block are divided by, from its maximum (and the tensor's scale); and one element. */
typedef float (*step_rule)(float top, float scale);
typedef float (*value_rule)(float x, float step);

INLINE void one_block(const float *x, float *y, int64_t n, const float *top, float scale, int weight, step_rule step,
                      value_rule value) {
    int32_t m = 0;
    if (!top)
        for (int64_t i = 0; i < n; i++) {
            int32_t u = magnitude(x[i]);
            m = u > m ? u : m;
        }
    float t = top ? *top : bits_float((uint32_t)m), by = step(weight ? bf16_round(t) : t, scale);
    if (weight) {
        SIMD for (int64_t i = 0; i < n; i++) y[i] = value(bf16_round(x[i]), by);
    } else {
        SIMD for (int64_t i = 0; i < n; i++) y[i] = value(x[i], by);
    }
}
/* Short blocks have loops of a known length: without that they are twice as slow. */
INLINE void blocks(const struct span *s, int weight, step_rule step, value_rule value) {
    const float *top = s->maxima;
    for (int64_t i = 0, len = size_min(s->first, s->n); i < s->n; i += len, len = size_min(s->block, s->n - i)) {
        if (len == 16)
            one_block(s->x + i, s->y + i, 16, top, s->scale, weight, step, value);
        else if (len == 32)
            one_block(s->x + i, s->y + i, 32, top, s->scale, weight, step, value);
        else
            one_block(s->x + i, s->y + i, len, top, s->scale, weight, step, value);
        top = top ? top + 1 : NULL;
    }
}

#define BLOCKS(name, of_top, of_x)                                                                     \
    INLINE float step_##name(float top, float scale) {                                                 \
        (void)top, (void)scale;                                                                        \
        return of_top;                                                                                 \
    }                                                                                                  \
    INLINE float value_##name(float x, float step) { return of_x; }                                    \
    CLONES static void row_##name(const struct span *s) {                                              \
        s->weight ? blocks(s, 1, step_##name, value_##name) : blocks(s, 0, step_##name, value_##name); \
    }
BLOCKS(fp8_block, scale_fp8(top), fake_fp8(x, step, 0))
BLOCKS(int8_block, scale_int8(top), fake_int8(x, step))
BLOCKS(int4_block, scale_int4(top), fake_int4(x, step))
BLOCKS(nvfp4, scale_nvfp4_step(scale_nvfp4_block(top, scale), scale), fake_nvfp4(x, step))
BLOCKS(mxfp4, e8m0_decode(scale_mxfp4(top)), fake_mxfp4(x, step))
BLOCKS(mxfp8, e8m0_decode(scale_mxfp8(top)), fake_mxfp8(x, step))

/* How a row of each kind is done, and the scale of the tensor's maximum (NULL: it has none). */
static const struct kind {
    void (*row)(const struct span *);
    float (*scale)(float);
    int blocks;
} kinds[FQ_KINDS] = {
    [FQ_FP8] = {row_fp8, scale_fp8, 0},
    [FQ_FP8_BLOCK] = {row_fp8_block, NULL, 1},
    [FQ_INT8] = {row_int8, scale_int8, 0},
    [FQ_INT8_BLOCK] = {row_int8_block, NULL, 1},
    [FQ_INT4_BLOCK] = {row_int4_block, NULL, 1},
    [FQ_NVFP4] = {row_nvfp4, scale_nvfp4_tensor, 1},
    [FQ_NVFP4_A8] = {row_nvfp4, scale_nvfp4_a8_tensor, 1},
    [FQ_MXFP4] = {row_mxfp4, NULL, 1},
    [FQ_MXFP8] = {row_mxfp8, NULL, 1},
};

static enum status find_kind(const struct fake_quant_args *a, const struct kind **k) {
    const struct block_grid *g = &a->grid;
    if (a->kind <= FQ_NONE || a->kind >= FQ_KINDS)
        return TM_FAIL(TM_ERR_INTERNAL, "fake_quant: kind %d does not exist", a->kind);
    *k = &kinds[a->kind];
    if (!(*k)->blocks) return TM_OK;
    if (g->rows < 1 || g->cols < 1 || g->row0 < 0 || g->col0 < 0)
        return TM_FAIL(TM_ERR_SHAPE, "fake_quant: blocks of %lld x %lld elements", (long long)g->rows,
                       (long long)g->cols);
    if (!a->maxima.a && (g->rows > 1 || a->cols % g->cols))
        return TM_FAIL(TM_ERR_SHAPE, "fake_quant: rows of %lld elements, expected a multiple of the block of %lld",
                       (long long)a->cols, (long long)g->cols);
    return TM_OK;
}

enum status host_fake_quant(struct dev *d, const struct fake_quant_args *a) {
    const struct kind *k;
    TM_TRY(find_kind(a, &k));
    const struct block_grid *g = &a->grid;
    const float *x = host_f32(a->x), *amax = host_f32(a->amax), *maxima = host_f32(a->maxima);
    float *y = host_f32(a->y);
    int weight = a->round_bf16 != 0;
    float scale = k->scale ? k->scale(weight ? bf16_round(*amax) : *amax) : 1.0f;
#pragma omp parallel for schedule(static) num_threads(d->threads) if (a->rows * a->cols >= PARALLEL_FROM)
    for (int64_t r = 0; r < a->rows; r++) {
        struct span s = {.x = x + r * a->ldx, .y = y + r * a->ldy, .n = a->cols, .scale = scale, .weight = weight};
        if (k->blocks) {
            s.block = s.first = g->cols;
            if (maxima) {
                s.first -= g->col0 % g->cols;
                s.maxima = maxima + (g->row0 + r) / g->rows * g->ld + g->col0 / g->cols;
            }
        }
        k->row(&s);
    }
    return TM_OK;
}
