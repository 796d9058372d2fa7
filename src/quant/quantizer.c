/* The quantizers of a model on a grid. */
#include "quant/quantizer_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/size.h"
#include "numfmt/e4m3.h"

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
    TM_TRY(mem_alloc(&q->first, (size_t)n, sizeof *q->first));
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

/* Whether the tensor group cuts blocks of this weight: then their maxima are taken over the group. */
static bool cuts_blocks(const struct quant_model *q, int j) {
    const struct model_param *p = q->param[j];
    const struct quant_format_info *f = quant_format(q->linears[j].weight);
    return f->axis == QUANT_BLOCK && p->cut == 1 && tensor_axis_divides(&p->axis, q->m->o.grid->tp, f->block);
}

/* A cache's blocks lie in heads: whoever serves the model quantizes head by head. */
static enum status check_cache(const struct quant_model *q, const struct quant_kv *kv) {
    int block = quant_format(kv->k)->block;
    if (!block || q->m->config.head_dim % block == 0) return TM_OK;
    return TM_FAIL(TM_ERR_SHAPE,
                   "%s: heads of %lld elements in a cache of %s, which needs a multiple of its block of %d", kv->name,
                   (long long)q->m->config.head_dim, quant_format(kv->k)->name, block);
}

/* The arrays of maxima into the structs that pack and share work on. What rows or tiles have, their tensor has (checkpoints hold the former). */
static void to_structs(struct quant_model *q) {
    for (int j = 0; j < q->n_linears; j++) {
        struct quant_linear *l = &q->linears[j];
        float *top = &q->amax[q->n_sites + j];
        l->maxima = q->first[j] < 0 ? NULL : q->amax + q->first[j];
        for (int64_t i = 0; l->maxima && i < quant_maxima(l->weight, l->out, l->in); i++)
            if (l->maxima[i] > *top) *top = l->maxima[i];
        l->weight_amax = *top;
        l->input_amax = q->amax[q->site[j]];
    }
    for (int l = 0; l < q->n_kv; l++) {
        if (quant_format(q->kv[l].k)->inputs == QUANT_CONSTANT)
            q->amax[l * MODEL_SITES_PER_LAYER + MODEL_SITE_K] = q->amax[l * MODEL_SITES_PER_LAYER + MODEL_SITE_V] =
                E4M3_MAX;
        q->kv[l].k_amax = q->amax[l * MODEL_SITES_PER_LAYER + MODEL_SITE_K];
        q->kv[l].v_amax = q->amax[l * MODEL_SITES_PER_LAYER + MODEL_SITE_V];
    }
}

/* After the formats are known: check them, lay out the maxima, allocate. */
static enum status finish_create(struct quant_model *q) {
    int64_t cut = 0;
    TM_TRY(quant_check(q->linears, (size_t)q->n_linears, q->kv, (size_t)q->n_kv));
    q->n_amax = q->n_sites + q->n_linears;
    for (int j = 0; j < q->n_linears; j++) {
        struct quant_linear *l = &q->linears[j];
        int64_t n = quant_maxima(l->weight, l->out, l->in);
        q->any = q->any || l->weight != QUANT_NONE || l->input != QUANT_NONE;
        q->first[j] = -1;
        if (l->weight == QUANT_NONE) continue;
        if (cuts_blocks(q, j)) cut = size_max(cut, q->param[j]->w.rows * (l->in / quant_format(l->weight)->block));
        if (!n) continue;
        q->first[j] = q->n_amax;
        q->n_amax += n;
    }
    for (int l = 0; l < q->n_kv; l++) {
        q->any = q->any || q->kv[l].k != QUANT_NONE;
        TM_TRY(check_cache(q, &q->kv[l]));
    }
    TM_TRY(mem_alloc(&q->amax, (size_t)q->n_amax, sizeof *q->amax));
    to_structs(q);
    TM_TRY(dev_alloc(q->m->o.dev, "quantizers", (size_t)q->n_amax * 4, &q->device_amax));
    if (cut) TM_TRY(dev_alloc(q->m->o.dev, "quantizers", (size_t)cut * 4, &q->maxima));
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
    dev_free(q->m->o.dev, &q->maxima);
    dev_free(q->m->o.dev, &q->codes);
    for (int j = 0; j < q->n_linears; j++) q->param[j]->w.fp8 = NULL;
    mem_free(&q->fp8);
    mem_free(&q->linears);
    mem_free(&q->param);
    mem_free(&q->names);
    mem_free(&q->site);
    mem_free(&q->first);
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
dptr quantizer_amax_at(const struct quant_model *q, int64_t i) { return dptr_f32(q->device_amax, i); }

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

const struct tensor_axis *quantizer_site_axis(const struct quant_model *q, int site) {
    int kind = site % MODEL_SITES_PER_LAYER;
    if (site == head_site(q->m)) return NULL;
    return kind == MODEL_SITE_O_INPUT      ? &q->m->axis_attention_q
           : kind == MODEL_SITE_DOWN_INPUT ? &q->m->axis_ffn
                                           : NULL;
}

static enum status activation(void *context, struct tape *t, const struct model_site *s, tape_val in, tape_val *out) {
    struct quant_model *q = context;
    enum quant_format f;
    *out = in;
    TM_TRY(site_format(q, s, &f));
    if (f == QUANT_NONE) return TM_OK;
    if (q->mode == QUANT_OBSERVE)
        return quant_measures_input(f) ? tape_observe(t, in, quantizer_amax_at(q, s->index)) : TM_OK;
    if (q->mode == QUANT_CODES && quantizer_by_codes(q, s->index)) return TM_OK; /* the linear does it */
    const struct quant_format_info *i = quant_format(f);
    return tape_fake_quant(t, in,
                           &(struct tape_quantizer){.kind = (int)i->input_kind,
                                                    .amax = quantizer_amax_at(q, s->index),
                                                    .block = i->block,
                                                    .axis = quantizer_site_axis(q, s->index)},
                           out);
}

struct model_hook quant_model_hook(struct quant_model *q) {
    return (struct model_hook){q, activation};
}

/* --- maxima ------------------------------------------------------------------------------------------------------------------ */
struct block_grid quantizer_weight_grid(const struct quant_model *q, int j) {
    const struct quant_linear *l = &q->linears[j];
    const struct tensor_box *b = &q->param[j]->desc.box;
    struct block_grid g = {.row0 = b->lo[0], .col0 = b->lo[1]};
    quant_block_shape(l->weight, l->out, l->in, &g.rows, &g.cols);
    g.ld = size_ceil_div(l->in, g.cols);
    return g;
}

enum status quant_observe_begin(struct quant_model *q) {
    struct dev *d = q->m->o.dev;
    q->mode = QUANT_OBSERVE;
    TM_TRY(dev_fill(d, &(struct fill_args){.y = q->device_amax, .n = q->n_amax, .value = 0}));
    for (int j = 0; j < q->n_linears; j++) {
        const struct model_param *p = q->param[j];
        if (q->linears[j].weight == QUANT_NONE || tensor_box_elems(&p->desc.box) == 0) continue;
        TM_TRY(dev_amax(d, &(struct amax_args){.x = p->master,
                                               .out = quantizer_amax_at(q, q->n_sites + j),
                                               .rows = p->w.rows,
                                               .cols = p->w.cols,
                                               .ld = p->w.cols}));
        if (q->first[j] < 0) continue;
        TM_TRY(dev_amax_blocks(d, &(struct amax_blocks_args){.x = p->master,
                                                             .out = quantizer_amax_at(q, q->first[j]),
                                                             .rows = p->w.rows,
                                                             .cols = p->w.cols,
                                                             .ld = p->w.cols,
                                                             .grid = quantizer_weight_grid(q, j)}));
    }
    return TM_OK;
}

enum status quant_model_upload(struct quant_model *q) {
    to_structs(q);
    TM_TRY(quant_share(q->linears, (size_t)q->n_linears));
    for (int j = 0; j < q->n_linears; j++) {
        const struct quant_linear *l = &q->linears[j];
        q->amax[q->n_sites + j] = l->weight_amax;
        if (quant_format(l->weight)->axis == QUANT_TILE && quant_maxima(l->weight, l->out, l->in) == 1)
            q->amax[q->first[j]] = l->weight_amax; /* what a single tile shares */
    }
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

/* The maxima of the blocks of a weight that the tensor group cuts, each over all ranks that hold a part. */
static enum status agree_maxima(struct quant_model *q, const struct model_param *p, const struct block_grid *g) {
    struct dev *d = q->m->o.dev;
    int64_t n = p->w.rows * g->ld;
    TM_TRY(dev_fill(d, &(struct fill_args){.y = q->maxima, .n = n, .value = 0}));
    TM_TRY(dev_amax_blocks(
        d, &(struct amax_blocks_args){
               .x = p->master, .out = q->maxima, .rows = p->w.rows, .cols = p->w.cols, .ld = p->w.cols, .grid = *g}));
    return par_max_f32(q->m->o.grid->tp_group, d, q->maxima, n);
}

enum status quantizer_fake_args(struct quant_model *q, int j, dptr y, struct fake_quant_args *a) {
    const struct model_param *p = q->param[j];
    const struct quant_format_info *f = quant_format(q->linears[j].weight);
    *a = (struct fake_quant_args){.x = p->master,
                                  .y = y,
                                  .amax = quantizer_amax_at(q, q->n_sites + j),
                                  .rows = p->w.rows,
                                  .cols = p->w.cols,
                                  .ldx = p->w.cols,
                                  .ldy = p->w.cols,
                                  .kind = (int)f->weight_kind,
                                  .round_bf16 = !q->loaded,
                                  .grid = quantizer_weight_grid(q, j)};
    if (q->first[j] >= 0)
        a->maxima = quantizer_amax_at(q, q->first[j]);
    else if (cuts_blocks(q, j)) {
        a->maxima = q->maxima;
        TM_TRY(agree_maxima(q, p, &a->grid));
    }
    return TM_OK;
}

/* Those that have codes need no copy, as long as they have them. */
static enum status allocate_copies(struct quant_model *q) {
    size_t bytes = 0;
    for (int j = 0; j < q->n_linears; j++)
        if (q->linears[j].weight != QUANT_NONE && !q->param[j]->w.fp8)
            bytes += size_align((size_t)tensor_box_elems(&q->param[j]->desc.box) * 4, ARENA_ALIGN);
    if (q->copies.a && bytes <= q->copy_bytes) return TM_OK;
    dev_free(q->m->o.dev, &q->copies);
    q->copy_bytes = bytes;
    return dev_alloc(q->m->o.dev, "quantized weights", bytes, &q->copies);
}

enum status quantizer_fake_weights(struct quant_model *q) {
    struct arena a;
    struct fake_quant_args fake;
    uint64_t at;
    TM_TRY(allocate_copies(q));
    arena_init(&a, "quantized weights", q->copies.a, q->copy_bytes);
    for (int j = 0; j < q->n_linears; j++) {
        struct model_param *p = q->param[j];
        int64_t n = tensor_box_elems(&p->desc.box);
        if (q->linears[j].weight == QUANT_NONE || p->w.fp8) continue;
        if (n == 0 && !(p->w.rows && cuts_blocks(q, j)))
            continue; /* an empty part of a cut weight agrees with the others */
        TM_TRY(arena_take(&a, (size_t)n * 4, &at));
        if (n) p->w.value = (dptr){at};
        TM_TRY(quantizer_fake_args(q, j, (dptr){at}, &fake));
        TM_TRY(dev_fake_quant(q->m->o.dev, &fake));
    }
    return TM_OK;
}

enum status quant_model_apply(struct quant_model *q) {
    q->mode = QUANT_FAKE;
    for (int j = 0; j < q->n_linears; j++) q->param[j]->w.fp8 = NULL;
    return quantizer_fake_weights(q);
}

/* --- for others -------------------------------------------------------------------------------------------------------------- */
bool quant_model_stat(const struct quant_model *q, int i, char name[TENSOR_NAME_MAX], float **values, int64_t *n) {
    int k = 0;
    *n = 1;
    for (int j = 0; j < q->n_linears; j++) {
        if (q->linears[j].weight != QUANT_NONE && k++ == i) {
            snprintf(name, TENSOR_NAME_MAX, "%.*s.weight.amax", TENSOR_NAME_MAX - 16, q->names[j]);
            *values = q->amax + (q->first[j] < 0 ? q->n_sites + j : q->first[j]);
            if (q->first[j] >= 0) *n = quant_maxima(q->linears[j].weight, q->linears[j].out, q->linears[j].in);
            return true;
        }
        if (quant_measures_input(q->linears[j].input) && k++ == i) {
            snprintf(name, TENSOR_NAME_MAX, "%.*s.input.amax", TENSOR_NAME_MAX - 16, q->names[j]);
            *values = q->amax + q->site[j];
            return true;
        }
    }
    for (int l = 0; l < 2 * q->n_kv; l++) {
        bool v = l & 1;
        if (!quant_measures_input(v ? q->kv[l / 2].v : q->kv[l / 2].k) || k++ != i) continue;
        snprintf(name, TENSOR_NAME_MAX, "%.*s.%c.amax", TENSOR_NAME_MAX - 16, q->kv_names[l / 2], v ? 'v' : 'k');
        *values = q->amax + (l / 2) * MODEL_SITES_PER_LAYER + (v ? MODEL_SITE_V : MODEL_SITE_K);
        return true;
    }
    return false;
}

bool quant_model_measures(const struct quant_model *q) {
    bool any = false;
    for (int j = 0; j < q->n_linears; j++) any = any || quant_measures_input(q->linears[j].input);
    for (int l = 0; l < q->n_kv; l++) any = any || quant_measures_input(q->kv[l].k);
    return any;
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
