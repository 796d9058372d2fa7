/* Stage export: a Hugging Face directory with packed weights and scales that inference engines load. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/stop.h"
#include "base/str.h"
#include "base/version.h"
#include "hub/export.h"
#include "hub/pretty.h"
#include "quant/config.h"
#include "stage/inputs.h"
#include "stage/plan.h"
#include "stage/quantized.h"

struct export {
    struct stage_run *r;
    const struct deck_stage *s;
    struct stage_model model;
    struct stage_quant quant;
    enum dtype source; /* of tensors that are not quantized */
    struct quant_pack *pack;
    struct hub_plan *plan;
    struct par_boxes *boxes;
    float *rows; /* of the source tensor, on the rank that writes */
    size_t rows_cap;
};

/* The type of the model's own files decides, unless the deck does. */
static enum status source_dtype(struct export *e) {
    const char *wish = e->s->model.dtype;
    struct hub_model *h;
    e->source = !strcmp(wish, "fp32") ? DTYPE_f32 : DTYPE_bf16;
    if (strcmp(wish, "auto") || !*e->s->model.path) return TM_OK;
    TM_TRY(hub_open(e->s->model.path, &h));
    const struct hub_entry *x = hub_find(h, "model.embed_tokens.weight");
    if (x && x->dtype == DTYPE_f32) e->source = DTYPE_f32;
    hub_close(&h);
    return TM_OK;
}

/* The linears as the exporter sees them; without quantizers all formats are none. */
static enum status make_pack(struct export *e) {
    const struct model *m = e->model.m;
    const struct quant_model *q = e->quant.q;
    bool packed = q && !strcmp(e->s->flavour, "modelopt");
    struct quant_param *p;
    TM_TRY(mem_alloc(&p, (size_t)m->n_params, sizeof *p));
    for (int i = 0; i < m->n_params; i++) {
        p[i] = (struct quant_param){.name = m->param[i].desc.name, .rank = m->param[i].desc.rank};
        memcpy(p[i].shape, m->param[i].desc.shape, sizeof m->param[i].desc.shape);
    }
    enum status st =
        quant_pack_create(p, (size_t)m->n_params, packed ? q->linears : NULL, packed ? (size_t)q->n_linears : 0,
                          packed ? q->kv : NULL, packed ? (size_t)q->n_kv : 0, e->source, &e->pack);
    mem_free(&p);
    return st;
}

static enum status make_plan(struct export *e) {
    struct hub_tensor *t;
    const struct quant_pack *k = e->pack;
    TM_TRY(mem_alloc(&t, k->n, sizeof *t));
    for (size_t i = 0; i < k->n; i++) {
        t[i] =
            (struct hub_tensor){.name = k->tensors[i].name, .dtype = k->tensors[i].dtype, .rank = k->tensors[i].rank};
        memcpy(t[i].shape, k->tensors[i].shape, sizeof k->tensors[i].shape);
    }
    enum status st = hub_plan_create(t, (int)k->n, e->s->shard_size, NULL, &e->plan);
    mem_free(&t);
    return st;
}

/* Rows of one exported tensor: the source rows come to the writer, who packs them. */
static enum status produce_all(void *context, int tensor, int64_t row0, int64_t rows, int root, void *out) {
    struct export *e = context;
    const struct quant_tensor *t = &e->pack->tensors[tensor];
    enum status st = stop_check("pack"); /* agreed on below, or with the file; blocks that are left end there */
    if (t->param < 0) return out && st == TM_OK ? quant_pack_rows(e->pack, (size_t)tensor, row0, rows, NULL, out) : st;
    const struct tensor_desc *d = &e->model.m->param[t->param].desc;
    struct tensor_box want = tensor_box_whole(d->rank, d->shape);
    want.lo[0] = row0 * t->span;
    want.hi[0] = (row0 + rows) * t->span;
    if (out && st == TM_OK) st = mem_grow(&e->rows, &e->rows_cap, (size_t)(rows * t->row_elems), sizeof *e->rows);
    TM_TRY(par_agree_all(st));
    TM_TRY(par_boxes_fetch_all(e->boxes, t->param, &want, root, out ? e->rows : NULL));
    return out ? quant_pack_rows(e->pack, (size_t)tensor, row0, rows, e->rows, out) : TM_OK;
}

static enum status write_weights_all(struct export *e, const char *dir) {
    const struct model *m = e->model.m;
    struct tensor_desc *d = NULL;
    dptr *data = NULL;
    enum status st = mem_alloc(&d, (size_t)m->n_params, sizeof *d);
    if (st == TM_OK) st = mem_alloc(&data, (size_t)m->n_params, sizeof *data);
    for (int i = 0; st == TM_OK && i < m->n_params; i++) {
        d[i] = m->param[i].desc;
        data[i] = m->param[i].master;
    }
    st = par_agree_all(st);
    if (st == TM_OK) st = par_boxes_create_all(e->r->dev, d, data, m->n_params, &e->boxes);
    if (st == TM_OK) st = hub_write_all(dir, e->plan, 0, produce_all, e);
    par_boxes_destroy(&e->boxes);
    mem_free(&d);
    mem_free(&data);
    mem_free(&e->rows);
    return st;
}

/* --- the files beside the weights ---------------------------------------------------------------------------------------------- */
static enum status quantization(const struct export *e, json_t **hf_quant) {
    const struct quant_model *q = e->quant.q;
    struct quant_linear *l;
    *hf_quant = NULL;
    if (!q || strcmp(e->s->flavour, "modelopt")) return TM_OK;
    /* embeddings are listed as modules that are left alone, first, as they stand in the model; so is a head that is tied to them */
    size_t n = (size_t)q->n_linears + 1;
    TM_TRY(mem_alloc(&l, n + 1, sizeof *l));
    const struct tensor_desc *embed = &e->model.m->param[0].desc;
    l[0] =
        (struct quant_linear){.name = "model.embed_tokens", .out = embed->shape[0], .in = embed->shape[1], .group = -1};
    memcpy(l + 1, q->linears, (n - 1) * sizeof *l);
    if (e->model.m->config.tied) {
        l[n] = l[0];
        l[n++].name = "lm_head";
    }
    enum status st = quant_config(l, n, q->kv, (size_t)q->n_kv, "temper", version_string(), hf_quant);
    mem_free(&l);
    return st;
}

static enum status write_config(const struct export *e, const char *dir, const json_t *hf_quant) {
    char path[4096];
    const char *source = e->model.m->config.source;
    json_t *config, *quant = NULL;
    TM_TRY(json_read_buffer(source, strlen(source), "config.json", &config));
    const char *key = json_object_get(config, "torch_dtype") ? "torch_dtype" : "dtype";
    json_object_set_new(config, key, json_string(e->source == DTYPE_f32 ? "float32" : "bfloat16"));
    json_object_del(config, "quantization_config");
    enum status st = hf_quant ? quant_config_hf(hf_quant, &quant) : TM_OK;
    if (st == TM_OK && quant) json_object_set_new(config, "quantization_config", quant);
    if (st == TM_OK) st = str_path(path, sizeof path, dir, "config.json");
    if (st == TM_OK) st = hub_write_json(path, config, hf_quant ? 4 : 2);
    json_decref(config);
    return st;
}

/* Where it comes from, and where every scale comes from. Nothing in it depends on the grid. */
static enum status write_provenance(const struct export *e, const char *dir) {
    static const char *const origin[] = {"measured", "shared", "default"};
    char path[4096];
    const struct quant_model *q = e->quant.q;
    json_t *o = json_object(), *scales = json_object();
    for (int j = 0; q && j < q->n_linears; j++) {
        const struct quant_linear *l = &q->linears[j];
        if (l->weight == QUANT_NONE) continue;
        json_object_set_new(scales, l->name,
                            json_pack("{s:s, s:s}", "weight", origin[l->weight_from], "input",
                                      l->input == QUANT_NONE            ? "weight-only"
                                      : !quant_measures_input(l->input) ? "dynamic"
                                                                        : origin[l->input_from]));
    }
    json_object_set_new(o, "producer", json_pack("{s:s, s:s}", "name", "temper", "version", version_string()));
    json_object_set_new(o, "stage", json_string(e->s->name));
    json_object_set_new(o, "scales", scales);
    enum status st = str_path(path, sizeof path, dir, "temper.json");
    if (st == TM_OK) st = hub_write_json(path, o, 2);
    json_decref(o);
    return st;
}

static enum status write_companions(const struct export *e, const char *dir) {
    char path[4096];
    json_t *hf_quant = NULL;
    int copied = 0;
    if (par_rank() != 0) return TM_OK;
    enum status st = quantization(e, &hf_quant);
    if (st == TM_OK && hf_quant) st = str_path(path, sizeof path, dir, "hf_quant_config.json");
    if (st == TM_OK && hf_quant) st = hub_write_json(path, hf_quant, 4);
    if (st == TM_OK) st = write_config(e, dir, hf_quant);
    if (st == TM_OK) st = write_provenance(e, dir);
    if (st == TM_OK && *e->s->model.path) st = hub_copy_files(e->s->model.path, dir, &copied);
    json_decref(hf_quant);
    return st;
}

/* Never write over the model that is being read. */
static enum status refuse_source(const struct export *e) {
    char *source = realpath(e->s->model.path, NULL), *target = realpath(e->s->dir, NULL);
    bool same = source && target && !strcmp(source, target);
    free(source);
    free(target);
    return same ? TM_FAIL(TM_ERR_DECK, "stage %s: dir = \"%s\" is the model's own directory", e->s->name, e->s->dir)
                : TM_OK;
}

static enum status write_all(struct export *e) {
    const char *dir = e->s->dir;
    int64_t bytes = 0;
    double begin = clock_seconds();
    par_note(e->s->name, 0, "export");
    enum status st = source_dtype(e);
    if (st == TM_OK) st = make_pack(e);
    if (st == TM_OK) st = make_plan(e);
    if (st == TM_OK) st = refuse_source(e);
    TM_TRY(par_agree_all(st));
    if (e->r->plan) return stage_plan_exported(e->r, e->model.m, e->plan);
    TM_TRY(write_weights_all(e, dir));
    TM_TRY(par_agree_all(write_companions(e, dir)));
    e->r->spent[STAGE_SPENT_EXPORT] += clock_seconds() - begin;
    for (size_t i = 0; i < e->pack->n; i++) bytes += e->pack->tensors[i].rows * e->pack->tensors[i].row_bytes;
    log_info("exported bytes=%lld seconds=%.3f path=%s", (long long)bytes, clock_seconds() - begin, dir);
    TM_TRY(stage_result(e->r, e->s, "bytes", (double)bytes, "bytes"));
    return stage_result_text(e->r, e->s, "directory", dir);
}

enum status stage_export_all(struct stage_run *r, const struct deck_stage *s) {
    struct export e = {.r = r, .s = s};
    bool save = false;
    enum status st = stage_poll_all(r, &save);
    if (st == TM_OK) st = stage_open_model_all(r, s, false, 1, &e.model);
    if (st == TM_OK) st = stage_open_quant_all(r, s, e.model.m, false, &e.quant);
    if (st == TM_OK) st = write_all(&e);
    quant_pack_destroy(&e.pack);
    hub_plan_destroy(&e.plan);
    stage_close_quant(&e.quant);
    stage_close_model(&e.model);
    return st;
}
