/* Quantizers from the scales of an FP8 checkpoint. */
#include "quant/load.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "hub/fp8.h"
#include "numfmt/scale.h"
#include "quant/quantizer_impl.h"

/* The maximum whose scale this is: nearest to scale * 448, a bf16 where one will do (weights' maxima are). */
static float maximum_of(float scale) {
    const float near = scale * E4M3_MAX, half = bf16_round(near);
    if (scale_fp8(half) == scale) return half;
    for (int i = -1; i <= 1; i++) {
        const float x = bits_float(bits_of(near) + (uint32_t)i);
        if (scale_fp8(x) == scale) return x;
    }
    return near;
}

static void put(json_t *formats, const char *module, const char *site, enum quant_format f) {
    char key[TENSOR_NAME_MAX + 16];
    snprintf(key, sizeof key, "%s.%s", module, site);
    json_object_set_new(formats, key, json_string(quant_format(f)->name));
}

/* input_scale: there is one. A weight that is a single tile has one scale too, and inputs without. */
static enum quant_format weight_format(const struct hub_fp8 *f, int64_t rows, int64_t cols, bool input_scale) {
    if (f->n > 1) return f->rows == 1 ? QUANT_fp8_row : QUANT_fp8_tile;
    return !input_scale && rows <= HUB_FP8_TILE && cols <= HUB_FP8_TILE ? QUANT_fp8_tile : QUANT_fp8;
}

static enum status linear_formats(const struct hub_model *h, const struct model_param *p, const char *module,
                                  json_t *formats) {
    const struct hub_entry *e;
    struct hub_fp8 f;
    bool found;
    float scale;
    TM_TRY(hub_need(h, p->desc.name, 2, p->desc.shape, &e));
    if (e->dtype != DTYPE_e4m3) return TM_OK;
    TM_TRY(hub_fp8_scalar(h, module, "input_scale", &found, &scale));
    TM_TRY(hub_fp8_read(h, e, &f));
    const enum quant_format w = weight_format(&f, p->desc.shape[0], p->desc.shape[1], found);
    hub_fp8_free(&f);
    if (w == QUANT_fp8 && !found)
        return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s.weight\" has one scale, but there is no \"%s.input_scale\"",
                       hub_path(h, e), module, module);
    put(formats, module, "weight", w);
    if (w != QUANT_fp8_tile) put(formats, module, "input", w);
    return TM_OK;
}

static enum status cache_formats(const struct model *m, const struct hub_model *h, json_t *formats) {
    json_t *config = json_loads(m->config.source, 0, NULL);
    const bool scheme =
        json_is_object(json_object_get(json_object_get(config, "quantization_config"), "kv_cache_scheme"));
    json_decref(config);
    for (int64_t l = 0; l < m->config.layers; l++) {
        char module[TENSOR_NAME_MAX];
        bool k, v;
        float scale;
        snprintf(module, sizeof module, "model.layers.%lld.self_attn", (long long)l);
        TM_TRY(hub_fp8_scalar(h, module, "k_proj.k_scale", &k, &scale));
        TM_TRY(hub_fp8_scalar(h, module, "v_proj.v_scale", &v, &scale));
        if (!(k && v) && !scheme) continue;
        put(formats, module, "k", k && v ? QUANT_fp8 : QUANT_fp8_cast);
        put(formats, module, "v", k && v ? QUANT_fp8 : QUANT_fp8_cast);
    }
    return TM_OK;
}

static enum status all_formats(struct model *m, const struct hub_model *h, json_t *formats) {
    for (int i = 0; i < m->n_params; i++) {
        char module[TENSOR_NAME_MAX];
        if (!m->param[i].linear) continue;
        model_module_name(&m->param[i], module);
        TM_TRY(linear_formats(h, &m->param[i], module, formats));
    }
    return json_object_size(formats) ? cache_formats(m, h, formats) : TM_OK;
}

static enum status keep(float scale, const char *module, float *amax) {
    *amax = maximum_of(scale);
    return isfinite(*amax) && *amax > 0 ? TM_OK
                                        : TM_FAIL(TM_ERR_NUMERIC, "%s: a scale of %g is of a maximum of %g", module,
                                                  (double)scale, (double)*amax);
}

static enum status linear_maxima(struct quant_model *q, const struct hub_model *h, int j) {
    struct hub_fp8 f;
    const struct hub_entry *e = hub_find(h, q->param[j]->desc.name);
    float scale, *amax = q->amax + (q->first[j] < 0 ? q->n_sites + j : q->first[j]);
    bool found;
    TM_TRY(hub_fp8_read(h, e, &f));
    enum status st = TM_OK;
    for (int64_t i = 0; i < f.n && st == TM_OK; i++) st = keep(f.scale[i], q->names[j], &amax[i]);
    hub_fp8_free(&f);
    TM_TRY(st);
    if (!quant_measures_input(q->linears[j].input)) return TM_OK;
    TM_TRY(hub_fp8_scalar(h, q->names[j], "input_scale", &found, &scale));
    /* the linears of a site read one tensor, which is quantized once: by the largest of their scales, as engines that fuse them do */
    float top = 0, *site = &q->amax[q->site[j]];
    TM_TRY(keep(scale, q->names[j], &top));
    if (top > *site) *site = top;
    return TM_OK;
}

static enum status maxima(struct quant_model *q, const struct hub_model *h) {
    bool found;
    float scale;
    for (int j = 0; j < q->n_linears; j++)
        if (q->linears[j].weight != QUANT_NONE) TM_TRY(linear_maxima(q, h, j));
    for (int l = 0; l < q->n_kv; l++) {
        float *amax = &q->amax[l * MODEL_SITES_PER_LAYER];
        if (!quant_measures_input(q->kv[l].k)) continue;
        TM_TRY(hub_fp8_scalar(h, q->kv_names[l], "k_proj.k_scale", &found, &scale));
        TM_TRY(keep(scale, q->kv_names[l], &amax[MODEL_SITE_K]));
        TM_TRY(hub_fp8_scalar(h, q->kv_names[l], "v_proj.v_scale", &found, &scale));
        TM_TRY(keep(scale, q->kv_names[l], &amax[MODEL_SITE_V]));
    }
    return quant_model_upload(q);
}

enum status quant_model_load(struct model *m, const struct hub_model *h, struct quant_model **out) {
    json_t *formats = json_object();
    *out = NULL;
    enum status st = formats ? all_formats(m, h, formats) : TM_FAIL(TM_ERR_MEMORY, "out of memory");
    if (st == TM_OK && json_object_size(formats)) st = quant_model_restore(m, formats, out);
    if (st == TM_OK && *out) {
        (*out)->loaded = true;
        st = maxima(*out, h);
    }
    if (st != TM_OK) quant_model_destroy(out);
    json_decref(formats);
    return st;
}
