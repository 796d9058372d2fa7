/* What may be exported, and the maxima that fused linears share. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "quant/pack.h"

/* The input formats that go with a weight format, for the message: "fp8 or none". */
static const char *inputs_of(enum quant_format weight, char *text, size_t size) {
    size_t n = 0;
    const struct quant_algo *a;
    for (int i = 0; (a = quant_algo_at(i)); i++)
        if (a->weight == weight && n < size)
            n += (size_t)snprintf(text + n, size - n, "%s%s", n ? " or " : "", quant_format(a->input)->name);
    return n ? text : "none";
}

static enum status check_linear(const struct quant_linear *l) {
    const struct quant_format_info *w = quant_format(l->weight), *x = quant_format(l->input);
    char text[128];
    if (l->weight == QUANT_NONE && l->input == QUANT_NONE) return TM_OK;
    if (!quant_algo(l->weight, l->input) && l->input == QUANT_NONE)
        return TM_FAIL(TM_ERR_UNSUPPORTED,
                       "%s: weights in %s without quantized inputs have no export form; expected inputs in %s", l->name,
                       w->name, inputs_of(l->weight, text, sizeof text));
    if (!quant_algo(l->weight, l->input))
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: inputs in %s with weights in %s have no export form; expected %s",
                       l->name, x->name, w->name, inputs_of(l->weight, text, sizeof text));
    if (w->axis == QUANT_BLOCK && l->in % w->block)
        return TM_FAIL(TM_ERR_SHAPE, "%s: rows of %lld weights, but %s needs a multiple of its block of %d", l->name,
                       (long long)l->in, w->name, w->block);
    if (x->block && l->in % x->block)
        return TM_FAIL(TM_ERR_SHAPE, "%s: inputs of %lld elements, but %s needs a multiple of its block of %d", l->name,
                       (long long)l->in, x->name, x->block);
    if (w->per_byte == QUANT_ROWS && l->out % 2)
        return TM_FAIL(TM_ERR_SHAPE, "%s: %lld rows, but a byte of %s holds codes of two rows", l->name,
                       (long long)l->out, w->name);
    return TM_OK;
}

enum status quant_check(const struct quant_linear *l, size_t n, const struct quant_kv *kv, size_t nkv) {
    for (size_t i = 0; i < n; i++) TM_TRY(check_linear(&l[i]));
    for (size_t i = 0; i < nkv; i++)
        if (kv[i].k != kv[i].v || kv[i].k != kv[0].k)
            return TM_FAIL(
                TM_ERR_UNSUPPORTED,
                "%s: KV cache in %s (k) and %s (v), but %s has k in %s; one format must serve the whole cache",
                kv[i].name, quant_format(kv[i].k)->name, quant_format(kv[i].v)->name, kv[0].name,
                quant_format(kv[0].k)->name);
    return TM_OK;
}

static enum status check_amax(const char *module, const char *site, float amax) {
    if (isfinite(amax) && amax >= 0) return TM_OK;
    return TM_FAIL(TM_ERR_NUMERIC, "%s.%s: amax = %g; expected a finite number >= 0", module, site, (double)amax);
}

/* The largest amax of a group, by format: a row of cells of QUANT_FORMATS for each group. */
struct top {
    float weight, input;
    bool tiles; /* some member has several tiles: their maxima are not shared */
};

static void share_one(float *amax, enum quant_origin *from, float top) {
    *from = top > *amax ? QUANT_SHARED : *amax > 0 ? QUANT_MEASURED : QUANT_DEFAULT;
    if (top > *amax) *amax = top;
}

enum status quant_share(struct quant_linear *l, size_t n) {
    int groups = 0;
    for (size_t i = 0; i < n; i++) {
        if (l[i].group >= groups) groups = l[i].group + 1;
        if (l[i].weight != QUANT_NONE && quant_format(l[i].weight)->axis != QUANT_ROW)
            TM_TRY(check_amax(l[i].name, "weight", l[i].weight_amax));
        if (quant_measures_input(l[i].input)) TM_TRY(check_amax(l[i].name, "input", l[i].input_amax));
    }
    struct top(*tops)[QUANT_FORMATS];
    TM_TRY(mem_alloc(&tops, (size_t)groups, sizeof *tops));
    for (size_t i = 0; i < n; i++) {
        if (l[i].group < 0 || l[i].weight == QUANT_NONE) continue;
        struct top *t = &tops[l[i].group][l[i].weight];
        t->tiles = t->tiles ||
                   (quant_format(l[i].weight)->axis == QUANT_TILE && quant_maxima(l[i].weight, l[i].out, l[i].in) > 1);
        if (l[i].weight_amax > t->weight) t->weight = l[i].weight_amax;
        if (l[i].input != QUANT_NONE && l[i].input_amax > t->input) t->input = l[i].input_amax;
    }
    for (size_t i = 0; i < n; i++) {
        const struct quant_format_info *f = quant_format(l[i].weight);
        struct top none = {0}, t = l[i].group < 0 ? none : tops[l[i].group][l[i].weight];
        share_one(&l[i].weight_amax, &l[i].weight_from, f->shared_weight && !t.tiles ? t.weight : 0);
        share_one(&l[i].input_amax, &l[i].input_from, f->shared_input ? t.input : 0);
    }
    mem_free(&tops);
    return TM_OK;
}
