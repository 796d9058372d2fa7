/* Fake quantization on the host. Element-wise: no order, the same bits for any thread count and vector width. The arithmetic is
 * numfmt/scale.h. */
#include <omp.h>

#include "base/clones.h"
#include "base/size.h"
#include "dev/host.h"
#include "dev/host_pack.h"
#include "numfmt/scale.h"

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

/* What elements are divided by, from their block's maximum and the tensor's scale; and one element. */
typedef float (*step_rule)(float top, float scale);
typedef float (*value_rule)(float x, float step, int weight);

INLINE void elements(const float *x, float *y, int64_t n, float by, int weight, value_rule value) {
    if (weight) {
        SIMD for (int64_t i = 0; i < n; i++) y[i] = value(bf16_round(x[i]), by, 1);
    } else {
        SIMD for (int64_t i = 0; i < n; i++) y[i] = value(x[i], by, 0);
    }
}
INLINE void one_block(const float *x, float *y, int64_t n, const float *top, float scale, int weight, step_rule step,
                      value_rule value) {
    int32_t m = 0;
    if (!top)
        for (int64_t i = 0; i < n; i++) {
            int32_t u = bits_magnitude(x[i]);
            m = u > m ? u : m;
        }
    float t = top ? *top : bits_float((uint32_t)m);
    elements(x, y, n, step(weight ? bf16_round(t) : t, scale), weight, value);
}
/* Short blocks have loops of a known length: without that they are twice as slow. */
INLINE void each_block(const struct span *s, int weight, step_rule step, value_rule value) {
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
INLINE void row(const struct span *s, int weight, int blocks, step_rule step, value_rule value) {
    if (blocks)
        each_block(s, weight, step, value);
    else
        elements(s->x, s->y, s->n, step(0.0f, s->scale), weight, value);
}

/* The rows of quant.def as functions. */
#define FQ(KIND, name, blocks, of_amax, of_top, of_x)                                                            \
    static float tensor_##name(float amax) {                                                                     \
        (void)amax;                                                                                              \
        return of_amax;                                                                                          \
    }                                                                                                            \
    INLINE float step_##name(float top, float scale) {                                                           \
        (void)top, (void)scale;                                                                                  \
        return of_top;                                                                                           \
    }                                                                                                            \
    INLINE float value_##name(float x, float step, int weight) {                                                 \
        (void)weight;                                                                                            \
        return of_x;                                                                                             \
    }                                                                                                            \
    CLONES static void row_##name(const struct span *s) {                                                        \
        s->weight ? row(s, 1, blocks, step_##name, value_##name) : row(s, 0, blocks, step_##name, value_##name); \
    }
#include "dev/quant.def"
#undef FQ

static const struct kind {
    void (*row)(const struct span *);
    float (*scale)(float amax);
    int blocks;
} kinds[FQ_KINDS] = {
#define FQ(KIND, name, blocks, of_amax, of_top, of_x) [FQ_##KIND] = {row_##name, tensor_##name, blocks},
#include "dev/quant.def"
#undef FQ
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
    char *base;
    size_t first, stride;
    TM_TRY(host_scratch(d, 0, y ? 0 : (size_t)a->cols * sizeof *y, &base, &first, &stride));
    float top = amax ? *amax : 0.0f, scale = k->scale(weight ? bf16_round(top) : top);
#pragma omp parallel for schedule(static) num_threads(d->threads) if (a->rows * a->cols >= PARALLEL_FROM)
    for (int64_t r = 0; r < a->rows; r++) {
        float *out = y ? y + r * a->ldy : (float *)(void *)(base + first + (size_t)omp_get_thread_num() * stride);
        struct span s = {.x = x + r * a->ldx, .y = out, .n = a->cols, .scale = scale, .weight = weight};
        if (k->blocks) {
            s.block = s.first = g->cols;
            if (maxima) {
                s.first -= g->col0 % g->cols;
                s.maxima = maxima + (g->row0 + r) / g->rows * g->ld + g->col0 / g->cols;
            }
        }
        k->row(&s);
        if (a->packed.at.a) host_pack_span(d, &a->packed, r, 0, out, a->cols);
    }
    return TM_OK;
}
