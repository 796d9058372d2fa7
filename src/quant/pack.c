/* The list of exported tensors, and their bytes. */
#include "quant/pack.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "numfmt/scale.h"

/* --- the list ----------------------------------------------------------------------------------------------------------- */

static enum status add(struct quant_pack *p, struct quant_tensor **out, const char *module, const char *suffix) {
    TM_TRY(mem_grow(&p->tensors, &p->cap, p->n + 1, sizeof *p->tensors));
    struct quant_tensor *t = *out = &p->tensors[p->n];
    *t = (struct quant_tensor){.param = -1, .linear = -1, .rows = 1, .span = 1};
    if (snprintf(t->name, sizeof t->name, "%s%s", module, suffix) >= (int)sizeof t->name)
        return TM_FAIL(TM_ERR_INTERNAL, "%s%s: a tensor name of more than %zu characters", module, suffix,
                       sizeof t->name - 1);
    p->n++;
    return TM_OK;
}

static enum status add_scalar(struct quant_pack *p, const char *module, const char *suffix, float value) {
    struct quant_tensor *t;
    if (!isfinite(value) || value <= 0)
        return TM_FAIL(TM_ERR_NUMERIC, "%s%s = %g; expected a finite scale > 0", module, suffix, (double)value);
    TM_TRY(add(p, &t, module, suffix));
    t->dtype = DTYPE_f32;
    t->kind = PACK_SCALAR;
    t->row_bytes = 4;
    t->value = value;
    return TM_OK;
}

/* A tensor made from the rows of parameter `param`, `span` at a time, with `cols` elements a row (0: one element, no second axis). */
static enum status add_rows(struct quant_pack *p, int linear, int param, const char *suffix, enum quant_pack_kind kind,
                            enum dtype dtype, int64_t cols, int span) {
    const struct quant_linear *l = &p->linears[linear];
    struct quant_tensor *t;
    TM_TRY(add(p, &t, l->name, suffix));
    t->dtype = dtype;
    t->kind = kind;
    t->rank = cols ? 2 : 1;
    t->span = span;
    t->shape[0] = t->rows = l->out / span;
    t->shape[1] = cols;
    t->row_elems = l->in * span;
    t->row_bytes = (cols ? cols : 1) * (int64_t)dtype_bytes(dtype);
    t->param = param;
    t->linear = linear;
    return TM_OK;
}

/* [tile rows, 1, tile columns, 1]; a single tile is a scalar. */
static enum status add_tile_scales(struct quant_pack *p, int linear) {
    const struct quant_linear *l = &p->linears[linear];
    struct quant_tensor *t;
    int64_t n = quant_maxima(l->weight, l->out, l->in), rows = size_ceil_div(l->out, quant_format(l->weight)->block);
    if (n == 1) return add_scalar(p, l->name, ".weight_scale", quant_scale(l->weight, l->weight_amax));
    if (!l->maxima) return TM_FAIL(TM_ERR_INTERNAL, "%s: %lld tiles without maxima", l->name, (long long)n);
    TM_TRY(add(p, &t, l->name, ".weight_scale"));
    t->dtype = DTYPE_f32;
    t->kind = PACK_TILE_SCALE;
    t->rank = 4;
    t->shape[0] = t->rows = rows;
    t->shape[2] = n / rows;
    t->shape[1] = t->shape[3] = 1;
    t->row_bytes = n / rows * 4;
    t->linear = linear;
    return TM_OK;
}

static enum status add_linear(struct quant_pack *p, int linear, int param) {
    struct quant_linear *l = &p->linears[linear];
    const struct quant_format_info *f = quant_format(l->weight);
    if (p->round_bf16) l->weight_amax = bf16_round(l->weight_amax);
    float scale = quant_scale(l->weight, l->weight_amax);
    TM_TRY(add_rows(p, linear, param, ".weight", PACK_WEIGHT, f->dtype, l->in / (f->per_byte == QUANT_COLUMNS ? 2 : 1),
                    f->per_byte == QUANT_ROWS ? 2 : 1));
    if (f->axis == QUANT_TENSOR) TM_TRY(add_scalar(p, l->name, ".weight_scale", scale));
    if (f->axis == QUANT_ROW) TM_TRY(add_rows(p, linear, param, ".weight_scale", PACK_ROW_SCALE, f->scale_dtype, 0, 1));
    if (f->axis == QUANT_TILE) TM_TRY(add_tile_scales(p, linear));
    if (f->axis == QUANT_BLOCK)
        TM_TRY(add_rows(p, linear, param, ".weight_scale", PACK_BLOCK_SCALE, f->scale_dtype, l->in / f->block, 1));
    if (f->levels > 1) TM_TRY(add_scalar(p, l->name, ".weight_scale_2", scale));
    if (quant_measures_input(l->input))
        TM_TRY(add_scalar(p, l->name, ".input_scale", quant_scale(l->input, l->input_amax)));
    return TM_OK;
}

static enum status add_plain(struct quant_pack *p, const struct quant_param *q, int param, enum dtype source) {
    struct quant_tensor *t;
    TM_TRY(add(p, &t, q->name, ""));
    t->dtype = source;
    t->rank = q->rank;
    t->param = param;
    t->row_elems = 1;
    for (int i = 0; i < q->rank; i++) t->shape[i] = q->shape[i];
    if (q->rank) t->rows = q->shape[0];
    for (int i = 1; i < q->rank; i++) t->row_elems *= q->shape[i];
    t->row_bytes = t->row_elems * (int64_t)dtype_bytes(source);
    return TM_OK;
}

/* Linears by name, for bsearch. */
struct by_name {
    const char *name;
    int linear;
};
static int compare(const void *a, const void *b) {
    return strcmp(((const struct by_name *)a)->name, ((const struct by_name *)b)->name);
}

/* The linear whose weight `q` is, if it is quantized; else -1. */
static enum status find_linear(const struct quant_pack *p, const struct by_name *index, size_t n,
                               const struct quant_param *q, int *linear) {
    char module[TENSOR_NAME_MAX];
    size_t len = strlen(q->name), cut = strlen(".weight");
    *linear = -1;
    if (len <= cut || len - cut >= sizeof module || strcmp(q->name + len - cut, ".weight")) return TM_OK;
    memcpy(module, q->name, len - cut);
    module[len - cut] = 0;
    const struct by_name key = {module, 0}, *hit = n ? bsearch(&key, index, n, sizeof *index, compare) : NULL;
    if (!hit) return TM_OK;
    const struct quant_linear *l = &p->linears[hit->linear];
    if (q->rank != 2 || q->shape[0] != l->out || q->shape[1] != l->in)
        return TM_FAIL(TM_ERR_SHAPE, "%s: rank %d, [%lld, %lld]; expected the linear's [%lld, %lld]", q->name, q->rank,
                       (long long)q->shape[0], (long long)q->shape[1], (long long)l->out, (long long)l->in);
    *linear = hit->linear;
    return TM_OK;
}

static enum status add_params(struct quant_pack *p, const struct quant_param *params, size_t nparams,
                              struct by_name *index, size_t n, enum dtype source) {
    for (size_t i = 0; i < n; i++) index[i] = (struct by_name){p->linears[i].name, (int)i};
    if (n) qsort(index, n, sizeof *index, compare);
    size_t quantized = 0, placed = 0;
    for (size_t i = 0; i < n; i++) quantized += p->linears[i].weight != QUANT_NONE;
    for (size_t i = 0; i < nparams; i++) {
        int linear;
        TM_TRY(find_linear(p, index, n, &params[i], &linear));
        if (linear >= 0 && p->linears[linear].weight != QUANT_NONE) {
            TM_TRY(add_linear(p, linear, (int)i));
            placed++;
        } else
            TM_TRY(add_plain(p, &params[i], (int)i, source));
    }
    if (placed == quantized) return TM_OK;
    return TM_FAIL(TM_ERR_SHAPE, "%zu quantized linears, but %zu of their weights among the parameters", quantized,
                   placed);
}

static enum status add_kv(struct quant_pack *p, const struct quant_kv *kv) {
    if (!quant_measures_input(kv->k)) return TM_OK; /* none, or scale 1, which goes without saying */
    TM_TRY(add_scalar(p, kv->name, ".k_proj.k_scale", scale_fp8(kv->k_amax))); /* amax / 448 for NVFP4 too */
    return add_scalar(p, kv->name, ".v_proj.v_scale", scale_fp8(kv->v_amax));
}

enum status quant_pack_create(const struct quant_param *params, size_t nparams, const struct quant_linear *linears,
                              size_t nlinears, const struct quant_kv *kv, size_t nkv, enum dtype source,
                              struct quant_pack **out) {
    struct by_name *index = NULL;
    struct quant_pack *p = NULL;
    *out = NULL;
    if (source != DTYPE_bf16 && source != DTYPE_f32)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "export of tensors as %s; expected bf16 or f32", dtype_name(source));
    TM_TRY(quant_check(linears, nlinears, kv, nkv));
    enum status st;
    TM_GOTO(st, done, mem_alloc(&p, 1, sizeof *p));
    TM_GOTO(st, done, mem_alloc(&p->linears, nlinears, sizeof *linears));
    TM_GOTO(st, done, mem_alloc(&index, nlinears, sizeof *index));
    if (nlinears) memcpy(p->linears, linears, nlinears * sizeof *linears);
    p->round_bf16 = source == DTYPE_bf16;
    TM_GOTO(st, done, quant_share(p->linears, nlinears));
    TM_GOTO(st, done, add_params(p, params, nparams, index, nlinears, source));
    for (size_t i = 0; i < nkv; i++) TM_GOTO(st, done, add_kv(p, &kv[i]));
    *out = p;
    p = NULL;
done:
    mem_free(&index);
    quant_pack_destroy(&p);
    return st;
}

void quant_pack_destroy(struct quant_pack **p) {
    if (!*p) return;
    mem_free(&(*p)->tensors);
    mem_free(&(*p)->linears);
    mem_free(p);
}

/* --- bytes -------------------------------------------------------------------------------------------------------------- */

/* One row of weights on its way out: as it is quantized. */
struct row {
    const float *x;
    int64_t n;
    bool bf16;
};
static float at(const struct row *r, int64_t i) { return r->bf16 ? bf16_round(r->x[i]) : r->x[i]; }
/* Largest magnitude of n elements from `first` on; the elements are finite. */
static float largest(const struct row *r, int64_t first, int64_t n) {
    float m = 0;
    for (int64_t i = first; i < first + n; i++) {
        float a = bits_abs(at(r, i));
        m = a > m ? a : m;
    }
    return m;
}

/* Whether all elements are finite in the exported type: bf16 overflows half a unit above its largest number. */
static bool row_finite(const struct row *r) {
    uint32_t limit = r->bf16 ? 0x7f7f8000u : 0x7f800000u, bad = 0;
    for (int64_t i = 0; i < r->n; i++) bad |= (bits_of(r->x[i]) & 0x7fffffffu) >= limit;
    return !bad;
}

static void put_plain(const struct row *r, char *out) {
    if (!r->bf16) {
        memcpy(out, r->x, (size_t)r->n * sizeof *r->x);
        return;
    }
    for (int64_t i = 0; i < r->n; i++) {
        uint16_t code = bf16_encode(r->x[i]);
        memcpy(out + 2 * i, &code, 2);
    }
}
/* Codes: n elements from `first` on, that all have one scale, into their place in a row of codes. */
static void put_fp8(const struct row *r, int64_t first, int64_t n, float scale, uint8_t *out) {
    for (int64_t i = first; i < first + n; i++) out[i] = e4m3_encode(scale_divide_fp8(at(r, i), scale, r->bf16));
}
static void put_e4m3(const struct row *r, int64_t first, int64_t n, float scale, uint8_t *out) {
    for (int64_t i = first; i < first + n; i++) out[i] = e4m3_encode(at(r, i) / scale);
}
static void put_int8(const struct row *r, int64_t first, int64_t n, float scale, uint8_t *out) {
    for (int64_t i = first; i < first + n; i++) out[i] = (uint8_t)int8_encode(at(r, i) / scale);
}
/* The row is two rows of n elements: the second one's codes go into the high nibbles. */
static void put_int4(const struct row *r, int64_t first, int64_t n, float scale, uint8_t *out) {
    bool high = first >= r->n / 2;
    for (int64_t i = first; i < first + n; i++) {
        uint8_t code = (uint8_t)int4_encode(at(r, i) / scale) & 15, *byte = out + i - (high ? r->n / 2 : 0);
        *byte = (uint8_t)(high ? *byte | code << 4 : code);
    }
}
static void put_nvfp4(const struct row *r, int64_t first, int64_t n, float step, uint8_t *out) {
    for (int64_t i = first; i < first + n; i += 2)
        out[i / 2] = (uint8_t)(e2m1_encode(at(r, i) / step) | e2m1_encode(at(r, i + 1) / step) << 4);
}
static void put_mxfp4(const struct row *r, int64_t first, int64_t n, float step, uint8_t *out) {
    for (int64_t i = first; i < first + n; i += 2)
        out[i / 2] = (uint8_t)(e2m1_encode_down(at(r, i) / step) | e2m1_encode_down(at(r, i + 1) / step) << 4);
}

/* Scales of blocks: from a block's maximum (and the second level) what is stored at `out`; what elements are divided by. */
static float block_int4(float top, float second, char *out) {
    float scale = scale_int4(top);
    (void)second;
    memcpy(out, &scale, sizeof scale);
    return scale;
}
static float block_nvfp4(float top, float second, char *out) {
    float scale = scale_nvfp4_block(top, second);
    *out = (char)e4m3_encode(scale);
    return scale_nvfp4_step(scale, second);
}
static float block_mxfp4(float top, float second, char *out) {
    uint8_t code = scale_mxfp4(top);
    (void)second;
    *out = (char)code;
    return e8m0_decode(code);
}
static float block_mxfp8(float top, float second, char *out) {
    uint8_t code = scale_mxfp8(top);
    (void)second;
    *out = (char)code;
    return e8m0_decode(code);
}

/* How elements of one scale become codes, and the scales of blocks where the format has them. */
static const struct codec {
    void (*codes)(const struct row *r, int64_t first, int64_t n, float scale, uint8_t *out);
    float (*block)(float top, float second, char *out);
} codecs[FQ_KINDS] = {
    [FQ_FP8] = {put_fp8, NULL},
    [FQ_FP8_BLOCK] = {put_e4m3, NULL},
    [FQ_INT8_BLOCK] = {put_int8, NULL},
    [FQ_INT4_BLOCK] = {put_int4, block_int4},
    [FQ_NVFP4] = {put_nvfp4, block_nvfp4},
    [FQ_NVFP4_A8] = {put_nvfp4, block_nvfp4},
    [FQ_MXFP4] = {put_mxfp4, block_mxfp4},
    [FQ_MXFP8] = {put_e4m3, block_mxfp8},
};

/* The fp32 scale of a tile (row: column 0), or of the tensor. */
static float scale_at(const struct row *r, const struct quant_linear *l, int64_t row, int64_t tile) {
    const struct quant_format_info *f = quant_format(l->weight);
    float amax = l->weight_amax;
    if (f->axis == QUANT_ROW) amax = l->maxima ? l->maxima[row] : largest(r, 0, r->n);
    if (f->axis == QUANT_TILE && l->maxima && quant_maxima(l->weight, l->out, l->in) > 1)
        amax = l->maxima[row / f->block * size_ceil_div(l->in, f->block) + tile];
    return quant_scale(l->weight, r->bf16 ? bf16_round(amax) : amax);
}
static bool good_scale(float s) { return isfinite(s) && s > 0; }

/* The codes of a row, piece by piece of one scale, and the scales of its blocks; either may be unwanted (NULL). */
static bool put_weights(const struct row *r, const struct quant_linear *l, int64_t row, uint8_t *codes, char *scales) {
    const struct quant_format_info *f = quant_format(l->weight);
    const struct codec *c = &codecs[f->weight_kind];
    int64_t step = f->block ? f->block : r->n, bytes = (int64_t)dtype_bytes(f->scale_dtype), n;
    char unwanted[4];
    float scale = 0;
    for (int64_t i = 0; i < r->n; i += n) {
        n = size_min(step, r->n - i);
        if (i == 0 || f->axis == QUANT_TILE) scale = scale_at(r, l, row, i / step);
        if (!good_scale(scale)) return false;
        float by = c->block ? c->block(largest(r, i, n), scale, scales ? scales + i / step * bytes : unwanted) : scale;
        if (codes) c->codes(r, i, n, by, codes);
    }
    return true;
}

/* One row of a tensor; false when something is not finite. */
static bool put_row(const struct quant_pack *p, const struct quant_tensor *t, int64_t row, const float *x, char *out) {
    struct row r = {x, t->row_elems, p->round_bf16};
    if (!row_finite(&r)) return false;
    if (t->kind == PACK_PLAIN) {
        put_plain(&r, out);
        return true;
    }
    const struct quant_linear *l = &p->linears[t->linear];
    if (t->kind != PACK_ROW_SCALE)
        return put_weights(&r, l, row * t->span, t->kind == PACK_WEIGHT ? (uint8_t *)out : NULL,
                           t->kind == PACK_BLOCK_SCALE ? out : NULL);
    float scale = scale_at(&r, l, row, 0);
    memcpy(out, &scale, sizeof scale);
    return good_scale(scale);
}

/* What is known from the maxima alone. */
static enum status put_known(const struct quant_pack *p, const struct quant_tensor *t, int64_t row0, int64_t nrows,
                             char *out) {
    if (t->kind == PACK_SCALAR) {
        if (nrows) memcpy(out, &t->value, sizeof t->value);
        return TM_OK;
    }
    const struct quant_linear *l = &p->linears[t->linear];
    struct row none = {.bf16 = p->round_bf16};
    for (int64_t i = row0 * t->shape[2]; i < (row0 + nrows) * t->shape[2]; i++, out += sizeof(float)) {
        float scale = scale_at(&none, l, i / t->shape[2] * quant_format(l->weight)->block, i % t->shape[2]);
        if (!good_scale(scale))
            return TM_FAIL(TM_ERR_NUMERIC, "%s: tile %lld has the maximum %g; expected a finite number", t->name,
                           (long long)i, (double)l->maxima[i]);
        memcpy(out, &scale, sizeof scale);
    }
    return TM_OK;
}

enum status quant_pack_rows(const struct quant_pack *p, size_t i, int64_t row0, int64_t nrows, const float *rows,
                            void *out) {
    const struct quant_tensor *t = &p->tensors[i];
    if (row0 < 0 || nrows < 0 || row0 > t->rows || nrows > t->rows - row0)
        return TM_FAIL(TM_ERR_SHAPE, "%s: rows %lld to %lld of %lld", t->name, (long long)row0,
                       (long long)(row0 + nrows), (long long)t->rows);
    if (t->param < 0) return put_known(p, t, row0, nrows, out);
    int64_t bad = t->rows;
    char *bytes = out;
#pragma omp parallel for schedule(static) reduction(min : bad) if (nrows * t->row_elems >= 1 << 15)
    for (int64_t r = 0; r < nrows; r++)
        if (!put_row(p, t, row0 + r, rows + r * t->row_elems, bytes + r * t->row_bytes) && row0 + r < bad)
            bad = row0 + r;
    if (bad == t->rows) return TM_OK;
    return TM_FAIL(TM_ERR_NUMERIC, "%s: row %lld holds a NaN or infinite number, or its maximum is one", t->name,
                   (long long)bad);
}
