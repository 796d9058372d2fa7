/* Weights as E4M3 codes, for products of codes: which linears, their codes and scales on the device. */
#include "base/arena.h"
#include "base/mem.h"
#include "base/size.h"
#include "quant/quantizer_impl.h"

/* Weight and input are E4M3 with plain fp32 scales. The head's logits are made in chunks from fp32 values: it stays fake-quantized. */
static bool has_codes(const struct quant_model *q, int j) {
    const struct quant_format_info *w = quant_format(q->linears[j].weight), *x = quant_format(q->linears[j].input);
    return q->param[j]->role != MODEL_HEAD && (w->weight_kind == FQ_FP8 || w->weight_kind == FQ_FP8_BLOCK) &&
           (x->input_kind == FQ_FP8 || x->input_kind == FQ_FP8_BLOCK);
}

bool quantizer_by_codes(const struct quant_model *q, int site) {
    bool any = false;
    for (int j = 0; j < q->n_linears; j++) {
        if (q->site[j] != site) continue;
        if (!has_codes(q, j)) return false;
        any = true;
    }
    return any;
}

/* Sites that only tiles read, and whose rows are whole groups, get fp8_group. */
static void give_groups(struct quant_model *q) {
    for (int site = 0; site < q->n_sites; site++) {
        bool all = true;
        for (int j = 0; j < q->n_linears; j++) {
            const struct quant_linear *l = &q->linears[j];
            if (q->site[j] == site)
                all = all && l->weight == QUANT_fp8_tile && l->input == QUANT_NONE &&
                      l->in % quant_format(QUANT_fp8_group)->block == 0 && q->param[j]->role != MODEL_HEAD;
        }
        for (int j = 0; all && j < q->n_linears; j++)
            if (q->site[j] == site) q->linears[j].input = QUANT_fp8_group;
    }
}

static size_t code_bytes(const struct quant_model *q, int j) {
    return (size_t)size_max(tensor_box_elems(&q->param[j]->desc.box), 1);
}
static size_t scale_bytes(const struct quant_model *q, int j) {
    const struct quant_linear *l = &q->linears[j];
    return (size_t)size_max(quant_maxima(l->weight, l->out, l->in), 1) * 4;
}

static enum status allocate(struct quant_model *q) {
    int n = 0;
    for (int j = 0; j < q->n_linears; j++) {
        if (!quantizer_by_codes(q, q->site[j])) continue;
        n++;
        q->code_bytes += size_align(code_bytes(q, j), ARENA_ALIGN) + size_align(scale_bytes(q, j), ARENA_ALIGN);
    }
    if (!n)
        return TM_FAIL(
            TM_ERR_UNSUPPORTED,
            "numerics.compute = \"fp8\": no linear has E4M3 codes of weights and inputs: expected the formats fp8, "
            "fp8_row, or fp8_tile with inputs in groups of 128");
    TM_TRY(mem_alloc(&q->fp8, (size_t)q->n_linears, sizeof *q->fp8));
    return dev_alloc(q->m->o.dev, "quantized weights", q->code_bytes, &q->codes);
}

static enum status encode(struct quant_model *q, int j, struct arena *a) {
    const struct quant_format_info *x = quant_format(q->linears[j].input);
    struct model_param *p = q->param[j];
    struct tape_fp8 *f = &q->fp8[j];
    struct quant_fp8_args codes = {.ldc = p->w.cols};
    TM_TRY(arena_take(a, code_bytes(q, j), &codes.codes.a));
    TM_TRY(arena_take(a, scale_bytes(q, j), &codes.scales.a));
    *f = (struct tape_fp8){.codes = codes.codes,
                           .scales = codes.scales,
                           .grid = quantizer_weight_grid(q, j),
                           .input = {.kind = (int)x->input_kind,
                                     .amax = quantizer_amax_at(q, q->site[j]),
                                     .block = x->block,
                                     .axis = quantizer_site_axis(q, q->site[j])}};
    p->w.fp8 = f;
    TM_TRY(quantizer_fake_args(q, j, (dptr){0}, &codes.of));
    return dev_quant_fp8(q->m->o.dev, &codes);
}

enum status quant_model_apply_fp8(struct quant_model *q) {
    struct arena a;
    q->mode = QUANT_CODES;
    give_groups(q);
    if (!q->fp8) TM_TRY(allocate(q));
    arena_init(&a, "quantized weights", q->codes.a, q->code_bytes);
    for (int j = 0; j < q->n_linears; j++)
        if (quantizer_by_codes(q, q->site[j])) TM_TRY(encode(q, j, &a));
    return quantizer_fake_weights(q);
}
