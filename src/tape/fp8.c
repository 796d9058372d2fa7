/* Forward products of linear layers by E4M3 codes: the input is quantized once for the weights that read it. */
#include "base/size.h"
#include "tape/impl.h"

/* Codes, scales, and the maxima where they are agreed upon; each on 64 bytes. */
struct places {
    size_t scales, maxima, bytes;
    int64_t ld; /* of codes: rows on 16 bytes, as fast copies want them */
};
static struct places places_of(const struct tape *t, int64_t cols, const struct tape_blocks *b) {
    struct places p = {.ld = size_ceil_div(cols, 16) * 16};
    const size_t n = (size_t)t->o.tokens, blocks = size_align(n * (size_t)b->grid.ld * 4, 64);
    p.scales = size_align(n * (size_t)p.ld, 64);
    p.maxima = p.scales + blocks;
    p.bytes = p.maxima + (b->agreed ? blocks : 0);
    return p;
}

/* A scale of the whole tensor is one block. */
static struct tape_blocks blocks_of(const struct tape *t, int64_t cols, const struct tape_quantizer *q) {
    const int64_t far = INT64_C(1) << 40;
    return q->kind == FQ_FP8 ? (struct tape_blocks){.grid = {.rows = far, .cols = far, .ld = 1}}
                             : tape_blocks_of(t, cols, q);
}

size_t tape_fp8_scratch(const struct tape *t, int64_t cols, const struct tape_fp8 *f) {
    const struct tape_blocks b = blocks_of(t, cols, &f->input);
    return places_of(t, cols, &b).bytes;
}

enum status tape_fp8_input(struct tape *t, dptr x, int64_t cols, const struct tape_fp8 *f, struct fp8_factor *out) {
    const struct tape_blocks b = blocks_of(t, cols, &f->input);
    const struct places p = places_of(t, cols, &b);
    const dptr at = tape_scratch_at(t);
    struct quant_fp8_args a = {.of = {.x = x,
                                      .amax = f->input.amax,
                                      .rows = t->o.tokens,
                                      .cols = cols,
                                      .ldx = cols,
                                      .kind = f->input.kind,
                                      .grid = b.grid},
                               .codes = at,
                               .scales = dptr_add(at, (int64_t)p.scales),
                               .ldc = p.ld};
    if (b.agreed) {
        a.of.maxima = dptr_add(at, (int64_t)p.maxima);
        TM_TRY(tape_agree_maxima(t, &b, x, cols, a.of.maxima));
    }
    *out = (struct fp8_factor){.codes = a.codes, .scales = a.scales, .ld = p.ld, .grid = b.grid};
    return dev_quant_fp8(t->o.dev, &a);
}

enum status tape_fp8_product(struct tape *t, const struct fp8_factor *x, const struct tape_weight *w, int segments,
                             const int64_t *k, dptr bias, dptr y) {
    const struct tape_fp8 *f = w->fp8;
    struct gemm_fp8_args g = {.m = t->o.tokens,
                              .n = w->rows,
                              .segments = segments,
                              .a = *x,
                              .b = {.codes = f->codes, .scales = f->scales, .ld = w->cols, .grid = f->grid},
                              .c = y,
                              .bias = bias,
                              .ldc = w->rows};
    for (int j = 0; j <= segments; j++) g.k[j] = k[j];
    return dev_gemm_fp8(t->o.dev, &g);
}
