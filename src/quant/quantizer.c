/* The quantizers of a model on a grid. */
#include "quant/quantizer.h"

#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/mem.h"

static int head_site(const struct model *m) { return (int)m->config.layers * MODEL_SITES_PER_LAYER; }

static int input_site(const struct model *m, const struct model_param *p) {
    int base = p->layer * MODEL_SITES_PER_LAYER;
    switch (p->role) {
    case MODEL_Q:
    case MODEL_K:
    case MODEL_V: return base + MODEL_SITE_QKV_INPUT;
    case MODEL_O: return base + MODEL_SITE_O_INPUT;
    case MODEL_GATE:
    case MODEL_UP: return base + MODEL_SITE_GATE_UP_INPUT;
    case MODEL_DOWN: return base + MODEL_SITE_DOWN_INPUT;
    default: return head_site(m);
    }
}

/* Linears that inference engines fuse have one group: q/k/v and gate/up of a layer. */
static int fused_group(const struct model_param *p) {
    bool qkv = p->role == MODEL_Q || p->role == MODEL_K || p->role == MODEL_V,
         gate_up = p->role == MODEL_GATE || p->role == MODEL_UP;
    return qkv ? 2 * p->layer : gate_up ? 2 * p->layer + 1 : -1;
}

static enum status list_modules(struct quant_model *q) {
    struct model *m = q->m;
    int n = 0;
    for (int i = 0; i < m->n_params; i++) n += m->param[i].linear;
    q->n_kv = (int)m->config.layers;
    q->n_sites = head_site(m) + 1;
    TM_TRY(mem_alloc(&q->linears, (size_t)n, sizeof *q->linears));
    TM_TRY(mem_alloc(&q->param, (size_t)n, sizeof *q->param));
    TM_TRY(mem_alloc(&q->names, (size_t)n, sizeof *q->names));
    TM_TRY(mem_alloc(&q->site, (size_t)n, sizeof *q->site));
    TM_TRY(mem_alloc(&q->row0, (size_t)n, sizeof *q->row0));
    TM_TRY(mem_alloc(&q->kv, (size_t)q->n_kv, sizeof *q->kv));
    TM_TRY(mem_alloc(&q->kv_names, (size_t)q->n_kv, sizeof *q->kv_names));
    for (int i = 0; i < m->n_params; i++) {
        struct model_param *p = &m->param[i];
        if (!p->linear) continue;
        int j = q->n_linears++;
        q->param[j] = p;
        q->site[j] = input_site(m, p);
        model_module_name(p, q->names[j]);
        q->linears[j] = (struct quant_linear){.name = q->names[j],
                                              .out = p->desc.shape[0],
                                              .in = p->desc.shape[1],
                                              .group = fused_group(p)};
    }
    for (int l = 0; l < q->n_kv; l++) {
        snprintf(q->kv_names[l], TENSOR_NAME_MAX, "model.layers.%d.self_attn", l);
        q->kv[l].name = q->kv_names[l];
    }
    return TM_OK;
}

/* After the formats are known: check them, lay out the maxima, allocate. */
static enum status finish_create(struct quant_model *q) {
    size_t bytes = 0;
    TM_TRY(quant_check(q->linears, (size_t)q->n_linears, q->kv, (size_t)q->n_kv));
    q->n_amax = q->n_sites + q->n_linears;
    for (int j = 0; j < q->n_linears; j++) {
        struct quant_linear *l = &q->linears[j];
        q->any = q->any || l->weight != QUANT_NONE || l->input != QUANT_NONE;
        q->row0[j] = -1;
        if (l->weight == QUANT_NONE) continue;
        bytes += (size_t)tensor_box_elems(&q->param[j]->desc.box) * 4 + ARENA_ALIGN;
        if (quant_format(l->weight)->axis != QUANT_ROW) continue;
        q->row0[j] = q->n_amax;
        q->n_amax += l->out;
    }
    for (int l = 0; l < q->n_kv; l++) q->any = q->any || q->kv[l].k != QUANT_NONE;
    TM_TRY(mem_alloc(&q->amax, (size_t)q->n_amax, sizeof *q->amax));
    TM_TRY(dev_alloc(q->m->o.dev, "quantizers", (size_t)q->n_amax * 4, &q->device_amax));
    q->copy_bytes = bytes;
    return TM_OK;
}

static enum status resolve(struct quant_model *q, const struct quant_policy *p) {
    for (int j = 0; j < q->n_linears; j++) {
        TM_TRY(quant_resolve(p, q->names[j], QUANT_WEIGHT, &q->linears[j].weight));
        TM_TRY(quant_resolve(p, q->names[j], QUANT_INPUT, &q->linears[j].input));
    }
    for (int l = 0; l < q->n_kv; l++) {
        TM_TRY(quant_resolve(p, q->kv_names[l], QUANT_K, &q->kv[l].k));
        TM_TRY(quant_resolve(p, q->kv_names[l], QUANT_V, &q->kv[l].v));
    }
    return TM_OK;
}

static enum status stored(const json_t *formats, const char *module, enum quant_site site, enum quant_format *out) {
    char key[TENSOR_NAME_MAX + 16];
    const char *name;
    snprintf(key, sizeof key, "%s.%s", module, quant_site_name(site));
    TM_TRY(json_get_str(formats, key, "checkpoint: quantizers", "none", &name));
    return quant_format_find(name, out)
               ? TM_OK
               : TM_FAIL(TM_ERR_FORMAT, "checkpoint: %s has the unknown format \"%s\"", key, name);
}

static enum status resolve_stored(struct quant_model *q, const json_t *formats) {
    for (int j = 0; j < q->n_linears; j++) {
        TM_TRY(stored(formats, q->names[j], QUANT_WEIGHT, &q->linears[j].weight));
        TM_TRY(stored(formats, q->names[j], QUANT_INPUT, &q->linears[j].input));
    }
    for (int l = 0; l < q->n_kv; l++) {
        TM_TRY(stored(formats, q->kv_names[l], QUANT_K, &q->kv[l].k));
        TM_TRY(stored(formats, q->kv_names[l], QUANT_V, &q->kv[l].v));
    }
    return TM_OK;
}

static enum status create(struct model *m, const struct quant_policy *p, const json_t *formats,
                          struct quant_model **out) {
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    (*out)->m = m;
    enum status st = list_modules(*out);
    if (st == TM_OK) st = p ? resolve(*out, p) : resolve_stored(*out, formats);
    if (st == TM_OK) st = finish_create(*out);
    if (st != TM_OK) quant_model_destroy(out);
    return st;
}

enum status quant_model_create(struct model *m, const struct quant_policy *p, struct quant_model **out) {
    return create(m, p, NULL, out);
}
enum status quant_model_restore(struct model *m, const json_t *formats, struct quant_model **out) {
    return create(m, NULL, formats, out);
}

void quant_model_destroy(struct quant_model **model) {
    struct quant_model *q = *model;
    if (!q) return;
    dev_free(q->m->o.dev, &q->device_amax);
    dev_free(q->m->o.dev, &q->copies);
    mem_free(&q->linears);
    mem_free(&q->param);
    mem_free(&q->names);
    mem_free(&q->site);
    mem_free(&q->row0);
    mem_free(&q->kv);
    mem_free(&q->kv_names);
    mem_free(&q->amax);
    mem_free(model);
}

static void put_format(json_t *o, const char *module, enum quant_site site, enum quant_format f) {
    char key[TENSOR_NAME_MAX + 16];
    if (f == QUANT_NONE) return;
    snprintf(key, sizeof key, "%s.%s", module, quant_site_name(site));
    json_object_set_new(o, key, json_string(quant_format(f)->name));
}

enum status quant_model_formats(const struct quant_model *q, json_t **out) {
    *out = json_object();
    if (!*out) return TM_FAIL(TM_ERR_MEMORY, "out of memory");
    for (int j = 0; j < q->n_linears; j++) {
        put_format(*out, q->names[j], QUANT_WEIGHT, q->linears[j].weight);
        put_format(*out, q->names[j], QUANT_INPUT, q->linears[j].input);
    }
    for (int l = 0; l < q->n_kv; l++) {
        put_format(*out, q->kv_names[l], QUANT_K, q->kv[l].k);
        put_format(*out, q->kv_names[l], QUANT_V, q->kv[l].v);
    }
    return TM_OK;
}

/* --- activations ------------------------------------------------------------------------------------------------------------- */
static dptr amax_at(const struct quant_model *q, int64_t i) { return dptr_f32(q->device_amax, i); }

/* The format of a site: all linears that read the value must agree. */
static enum status site_format(const struct quant_model *q, const struct model_site *s, enum quant_format *out) {
    *out = QUANT_NONE;
    if (s->site[0] == 'k' || s->site[0] == 'v') {
        const struct quant_kv *kv = &q->kv[s->index / MODEL_SITES_PER_LAYER];
        *out = s->site[0] == 'k' ? kv->k : kv->v;
        return TM_OK;
    }
    bool seen = false;
    for (int j = 0; j < q->n_linears; j++) {
        if (q->site[j] != s->index) continue;
        if (seen && q->linears[j].input != *out)
            return TM_FAIL(TM_ERR_UNSUPPORTED,
                           "quant.rules: the input of %s is %s and that of %s is %s, but they are one tensor",
                           s->module[0], quant_format(*out)->name, q->names[j],
                           quant_format(q->linears[j].input)->name);
        *out = q->linears[j].input;
        seen = true;
    }
    return TM_OK;
}

static enum status activation(void *context, struct tape *t, const struct model_site *s, tape_val in, tape_val *out) {
    struct quant_model *q = context;
    enum quant_format f;
    *out = in;
    TM_TRY(site_format(q, s, &f));
    if (f == QUANT_NONE) return TM_OK;
    if (q->mode == QUANT_OBSERVE) return tape_observe(t, in, amax_at(q, s->index));
    return tape_fake_quant(t, in, (int)quant_format(f)->input_kind, amax_at(q, s->index), out);
}

struct model_hook quant_model_hook(struct quant_model *q) {
    return (struct model_hook){q, activation};
}

/* --- maxima ------------------------------------------------------------------------------------------------------------------ */
enum status quant_observe_begin(struct quant_model *q) {
    struct dev *d = q->m->o.dev;
    q->mode = QUANT_OBSERVE;
    TM_TRY(dev_fill(d, &(struct fill_args){.y = q->device_amax, .n = q->n_amax, .value = 0}));
    for (int j = 0; j < q->n_linears; j++) {
        const struct model_param *p = q->param[j];
        if (q->linears[j].weight == QUANT_NONE || tensor_box_elems(&p->desc.box) == 0) continue;
        TM_TRY(dev_amax(d, &(struct amax_args){.x = p->master,
                                               .out = amax_at(q, q->n_sites + j),
                                               .rows = p->w.rows,
                                               .cols = p->w.cols,
                                               .ld = p->w.cols}));
        if (q->row0[j] < 0) continue;
        TM_TRY(dev_amax_rows(d, &(struct amax_rows_args){.x = p->master,
                                                         .out = amax_at(q, q->row0[j] + p->desc.box.lo[0]),
                                                         .rows = p->w.rows,
                                                         .cols = p->w.cols,
                                                         .ld = p->w.cols}));
    }
    return TM_OK;
}

/* The arrays of maxima into the structs that pack and share work on, and back. */
static void to_structs(struct quant_model *q) {
    for (int j = 0; j < q->n_linears; j++) {
        q->linears[j].weight_amax = q->amax[q->n_sites + j];
        q->linears[j].input_amax = q->amax[q->site[j]];
        q->linears[j].row_amax = q->row0[j] < 0 ? NULL : q->amax + q->row0[j];
    }
    for (int l = 0; l < q->n_kv; l++) {
        q->kv[l].k_amax = q->amax[l * MODEL_SITES_PER_LAYER + MODEL_SITE_K];
        q->kv[l].v_amax = q->amax[l * MODEL_SITES_PER_LAYER + MODEL_SITE_V];
    }
}

enum status quant_model_upload(struct quant_model *q) {
    to_structs(q);
    TM_TRY(quant_share(q->linears, (size_t)q->n_linears));
    for (int j = 0; j < q->n_linears; j++) q->amax[q->n_sites + j] = q->linears[j].weight_amax;
    return dev_upload(q->m->o.dev, q->device_amax, q->amax, (size_t)q->n_amax * 4);
}

enum status quant_observe_finish_all(struct quant_model *q) {
    double *all;
    TM_TRY(mem_alloc(&all, (size_t)q->n_amax, sizeof *all));
    enum status st = dev_download(q->m->o.dev, q->amax, q->device_amax, (size_t)q->n_amax * 4);
    for (int64_t i = 0; i < q->n_amax; i++) all[i] = (double)q->amax[i];
    if (st == TM_OK)
        st = par_reduce_f64_max(q->m->o.grid->world, all, q->n_amax); /* data, tensor and pipeline groups at once */
    for (int64_t i = 0; st == TM_OK && i < q->n_amax; i++) q->amax[i] = (float)all[i];
    mem_free(&all);
    if (st == TM_OK) st = quant_model_upload(q);
    return par_agree_all(st);
}

enum status quant_model_apply(struct quant_model *q) {
    struct arena a;
    uint64_t at;
    q->mode = QUANT_FAKE;
    if (!q->copies.a) TM_TRY(dev_alloc(q->m->o.dev, "quantized weights", q->copy_bytes, &q->copies));
    arena_init(&a, "quantized weights", q->copies.a, q->copy_bytes);
    for (int j = 0; j < q->n_linears; j++) {
        struct model_param *p = q->param[j];
        int64_t n = tensor_box_elems(&p->desc.box);
        if (q->linears[j].weight == QUANT_NONE || n == 0) continue;
        TM_TRY(arena_take(&a, (size_t)n * 4, &at));
        p->w.value = (dptr){at};
        int64_t amax = q->row0[j] < 0 ? q->n_sites + j : q->row0[j] + p->desc.box.lo[0];
        TM_TRY(dev_fake_quant(q->m->o.dev,
                              &(struct fake_quant_args){.x = p->master,
                                                        .y = p->w.value,
                                                        .amax = amax_at(q, amax),
                                                        .rows = p->w.rows,
                                                        .cols = p->w.cols,
                                                        .ldx = p->w.cols,
                                                        .ldy = p->w.cols,
                                                        .kind = (int)quant_format(q->linears[j].weight)->weight_kind,
                                                        .round_bf16 = 1}));
    }
    return TM_OK;
}

/* --- for others -------------------------------------------------------------------------------------------------------------- */
bool quant_model_stat(const struct quant_model *q, int i, char name[TENSOR_NAME_MAX], float **values, int64_t *n) {
    int k = 0;
    *n = 1;
    for (int j = 0; j < q->n_linears; j++) {
        if (q->linears[j].weight != QUANT_NONE && k++ == i) {
            snprintf(name, TENSOR_NAME_MAX, "%.*s.weight.amax", TENSOR_NAME_MAX - 16, q->names[j]);
            *values = q->amax + (q->row0[j] < 0 ? q->n_sites + j : q->row0[j]);
            if (q->row0[j] >= 0) *n = q->linears[j].out;
            return true;
        }
        if (q->linears[j].input != QUANT_NONE && k++ == i) {
            snprintf(name, TENSOR_NAME_MAX, "%.*s.input.amax", TENSOR_NAME_MAX - 16, q->names[j]);
            *values = q->amax + q->site[j];
            return true;
        }
    }
    for (int l = 0; l < 2 * q->n_kv; l++) {
        bool v = l & 1;
        if ((v ? q->kv[l / 2].v : q->kv[l / 2].k) == QUANT_NONE || k++ != i) continue;
        snprintf(name, TENSOR_NAME_MAX, "%.*s.%c.amax", TENSOR_NAME_MAX - 16, q->kv_names[l / 2], v ? 'v' : 'k');
        *values = q->amax + (l / 2) * MODEL_SITES_PER_LAYER + (v ? MODEL_SITE_V : MODEL_SITE_K);
        return true;
    }
    return false;
}

void quant_model_bits(const struct quant_model *q, double *bits, double *share) {
    double total = 0, sum = 0, quantized = 0;
    for (int j = 0; j < q->n_linears; j++) {
        const struct quant_linear *l = &q->linears[j];
        double n = (double)l->out * (double)l->in;
        total += n;
        sum += n * quant_bits_per_weight(l->weight, l->out, l->in);
        quantized += l->weight == QUANT_NONE ? 0 : n;
    }
    *bits = total > 0 ? sum / total : 0;
    *share = total > 0 ? quantized / total : 0;
}
