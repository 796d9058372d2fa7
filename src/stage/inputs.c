/* Opening what a stage works on. */
#include "stage/inputs.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/str.h"
#include "data/megatron.h"
#include "hub/safetensors.h"
#include "model/load.h"
#include "stage/plan.h"

/* --- data ------------------------------------------------------------------------------------------------------------------- */
enum status stage_open_tokenizer(const struct deck_stage *s, struct tok **out) {
    const char *path = *s->model.tokenizer ? s->model.tokenizer : s->model.path;
    if (!*path) return TM_FAIL(TM_ERR_DECK, "stage %s needs a tokenizer: model.tokenizer is not given", s->name);
    return tok_open(path, out);
}

/* A token file: a safetensors with integer input_ids [B, T], and attention_mask and labels where wanted. */
static enum status read_optional(const struct hub_model *h, const char *name, const struct hub_entry *ids,
                                 int64_t **out) {
    const struct hub_entry *e;
    *out = NULL;
    if (!hub_find(h, name)) return TM_OK;
    TM_TRY(hub_need(h, name, 2, ids->shape, &e));
    TM_TRY(mem_alloc(out, (size_t)e->elems, sizeof **out));
    return hub_read_i64(h, e, NULL, *out);
}

enum status stage_open_token_file(const char *path, struct data_source **out) {
    struct hub_model *h;
    const struct hub_entry *e;
    int64_t *ids = NULL, *mask = NULL, *labels = NULL;
    TM_TRY(hub_open(path, &h));
    enum status st = hub_need(h, "input_ids", -1, NULL, &e);
    if (st == TM_OK && e->rank != 2) st = TM_FAIL(TM_ERR_SHAPE, "%s: input_ids has %d axes, expected 2", path, e->rank);
    if (st == TM_OK) st = read_optional(h, "input_ids", e, &ids);
    if (st == TM_OK) st = read_optional(h, "attention_mask", e, &mask);
    if (st == TM_OK) st = read_optional(h, "labels", e, &labels);
    if (st == TM_OK) st = data_source_rows(path, ids, mask, labels, e->shape[0], e->shape[1], out);
    mem_free(&ids);
    mem_free(&mask);
    mem_free(&labels);
    hub_close(&h);
    return st;
}

static enum status open_any(const struct deck_stage *s, const struct deck_dataset *d, const struct deck_source *x,
                            int64_t vocab, struct data_source **out) {
    enum data_kind kind;
    struct tok *t = NULL;
    TM_TRY(data_kind_of(x->path, x->format, &kind));
    switch (kind) {
    case DATA_MOCK:
        return data_source_mock((uint64_t)(d->seed ? d->seed : s->run.seed), 1024, size_max(2, d->seq_length), vocab,
                                -1, out);
    case DATA_INDEX: return data_source_index(x->path, out);
    case DATA_ROWS: return stage_open_token_file(x->path, out);
    case DATA_TEXT: break;
    }
    struct data_text_opts o = {.split = data_text_split(x->path, x->format), .text_key = x->text_key};
    TM_TRY(stage_open_tokenizer(s, &t));
    enum status st = data_source_text(x->path, &o, t, d->eos ? tok_eos(t) : -1, out);
    tok_close(&t);
    return st;
}

/* The share of the documents that the deck wants: the source's own split, else the data set's, else its part. */
static enum status open_source(const struct deck_stage *s, const struct deck_dataset *d, const struct deck_source *x,
                               int64_t vocab, struct data_source **out) {
    struct deck_floats split = x->split.n ? x->split : d->split;
    double bound[4] = {0, 1, 1, 1};
    int part = 0;
    TM_TRY(open_any(s, d, x, vocab, out));
    enum status st = TM_OK;
    if (split.n) {
        bound[0] = split.v[0];
        bound[1] = split.v[1];
    } else if (*d->parts) {
        part = !strcmp(d->part, "train") ? 0 : !strcmp(d->part, "valid") ? 1 : 2;
        st = data_megatron_parts(d->parts, bound);
    }
    if (st == TM_OK && (split.n || *d->parts)) st = data_source_keep(*out, bound[part], bound[part + 1]);
    if (st != TM_OK) data_source_free(out);
    return st;
}

static struct data_opts set_options(const struct deck_stage *s, const struct deck_dataset *d, bool shuffle) {
    bool megatron = !strcmp(d->shuffle, "megatron");
    struct data_opts o = {.seq_length = d->seq_length,
                          .seed = (uint64_t)(d->seed ? d->seed : s->run.seed),
                          .order = megatron  ? DATA_MEGATRON
                                   : shuffle ? DATA_SHUFFLED
                                             : DATA_IN_PLACE,
                          .samples = d->samples,
                          .drop_partial = s->kind == DECK_KIND_calibrate || megatron,
                          .no_overlap = !d->overlap,
                          .one_document = !strcmp(d->pack, "pad"),
                          .reset_documents = d->reset_documents,
                          .mask_documents = d->mask_documents};
    if (strcmp(d->partial, "auto")) o.drop_partial = !strcmp(d->partial, "drop");
    return o;
}

/* A training in Megatron's order ends with its last sample: said before it begins. */
static enum status check_samples(const struct deck_stage *s, const struct deck_dataset *d, const struct data_set *set,
                                 int64_t dp) {
    int64_t global = s->batch.global ? s->batch.global : s->batch.micro * dp, need = INT64_MAX;
    if (strcmp(d->shuffle, "megatron")) return TM_OK;
    if (!size_mul_i64(s->steps, global, &need) || need > data_set_samples(set))
        return TM_FAIL(TM_ERR_DECK,
                       "%lld steps of %lld rows need more than its %lld rows: expected datasets.%s.samples = %lld",
                       (long long)s->steps, (long long)global, (long long)data_set_samples(set), d->name,
                       (long long)need);
    return TM_OK;
}

/* own: the data that the stage works on, not what it is judged by. */
static enum status open_data(const struct stage_run *r, const struct deck_stage *s, const struct deck_dataset *d,
                             bool own, int64_t vocab, struct data_set **out, int64_t *rows) {
    struct data_member *member;
    char cache[4096];
    enum status st = TM_OK;
    bool rows_only = true, learns = own && (s->kind == DECK_KIND_train || s->kind == DECK_KIND_distill);
    *out = NULL;
    TM_TRY(str_path(cache, sizeof cache, s->run.dir, "cache"));
    TM_TRY(mem_alloc(&member, (size_t)d->sources.n, sizeof *member));
    int n = 0;
    for (; n < d->sources.n && st == TM_OK; n++) {
        st = open_source(s, d, &d->sources.v[n], vocab, &member[n].source);
        member[n].weight = d->sources.n > 1 ? d->sources.v[n].weight : 0;
        if (st == TM_OK) rows_only = rows_only && data_source_kind(member[n].source) == DATA_ROWS;
    }
    struct data_opts o =
        set_options(s, d, strcmp(d->shuffle, "auto") ? !strcmp(d->shuffle, "true") : learns && !rows_only);
    o.vocab = vocab;
    o.pad = -1;
    o.cache = r->plan ? NULL : cache; /* a plan writes nothing */
    if (st == TM_OK)
        st = data_set_create(&o, member, (size_t)n, out); /* owns the sources now */
    else
        for (int i = 0; i < n; i++) data_source_free(&member[i].source);
    mem_free(&member);
    if (st == TM_OK && learns) st = check_samples(s, d, *out, r->grid.dp);
    if (st == TM_OK && rows) *rows = d->samples > 0 ? d->samples : data_set_samples(*out);
    return st == TM_OK ? st : status_context(st, "data set %s: ", d->name);
}

/* --- models ------------------------------------------------------------------------------------------------------------------ */
enum status stage_model_tensors(const struct model *m, struct ckpt_tensor **out, int *n) {
    TM_TRY(mem_alloc(out, (size_t)m->n_params, sizeof **out));
    for (int i = 0; i < m->n_params; i++)
        (*out)[i] = (struct ckpt_tensor){.desc = m->param[i].desc, .data = m->param[i].master};
    *n = m->n_params;
    return TM_OK;
}

static enum status create(struct stage_run *r, const char *dir, const char *compute, bool training,
                          int64_t max_positions, struct model **out) {
    struct model_config c;
    TM_TRY(model_config_read(dir, &c));
    struct model_options o = {.dev = r->dev,
                              .grid = &r->grid,
                              .training = training,
                              .bf16 = !strcmp(compute, "bf16"),
                              .max_positions = max_positions};
    TM_TRY(model_create(&c, &o, out));
    stage_plan_model(r, *out);
    return TM_OK;
}

static enum status load_hub(struct model *m, const char *dir) {
    struct hub_model *h;
    double begin = clock_seconds();
    TM_TRY(hub_open(dir, &h));
    enum status st = model_load_hub(m, h);
    hub_close(&h);
    if (st == TM_OK) log_info("loaded seconds=%.3f path=%s", clock_seconds() - begin, dir);
    return st;
}

/* config.json of model.path or random_init decides the architecture for every stage. */
static enum status model_dir(const struct deck_stage *s, char *out, size_t cap) {
    const char *path = *s->model.path ? s->model.path : s->model.random_init;
    if (!*path) return TM_FAIL(TM_ERR_DECK, "stage %s needs a model: give model.path or model.random_init", s->name);
    TM_TRY(str_copy(out, cap, path));
    size_t n = strlen(out);
    if (!*s->model.path && n > 12 && !strcmp(out + n - 12, "/config.json")) out[n - 12] = 0;
    return TM_OK;
}

enum status stage_model_config(const struct deck_stage *s, struct model_config *out) {
    char dir[4096];
    *out = (struct model_config){0};
    TM_TRY(model_dir(s, dir, sizeof dir));
    return model_config_read(dir, out);
}

static enum status load_ckpt_all(struct stage_run *r, struct ckpt *c, struct model *m) {
    struct ckpt_tensor *tensors;
    int n;
    TM_TRY(par_agree_all(stage_model_tensors(m, &tensors, &n)));
    double begin = clock_seconds();
    enum status st = ckpt_load_all(c, r->dev, tensors, n);
    if (st == TM_OK) log_info("loaded seconds=%.3f path=%s", clock_seconds() - begin, ckpt_path(c));
    mem_free(&tensors);
    return st;
}

enum status stage_open_set_all(struct stage_run *r, const struct deck_stage *s, const struct deck_dataset *d,
                               struct data_set **out, int64_t *rows) {
    struct model_config c;
    struct deck_dataset set = *d;
    struct deck_source mock = {.path = "mock", .format = "auto", .weight = 1};
    if (r->plan && stage_plan_knows_rows(d, rows != NULL)) { /* the data need not be here */
        set.sources.v = &mock;
        set.sources.n = 1;
        set.split.n = 0;
        set.parts = "";
        set.shuffle = "false";
    }
    enum status st = stage_model_config(s, &c);
    if (st == TM_OK) st = open_data(r, s, &set, d == s->dataset, c.vocab, out, rows);
    model_config_free(&c);
    return par_agree_all(st);
}

/* Weights as stage `from` left them. One that changed none (calibrate) saved none: then as it found them. */
static enum status load_from_all(struct stage_run *r, const struct deck_stage *s, int from, struct stage_model *out) {
    char dir[4096];
    int64_t step;
    struct ckpt *c;
    if (from < 0) {
        TM_TRY(par_agree_all(model_dir(s, out->weights, sizeof out->weights)));
        if (*s->model.path) return par_agree_all(load_hub(out->m, out->weights));
        return par_agree_all(model_init(out->m, (uint64_t)s->run.seed, (float)s->model.init_std));
    }
    const struct deck_stage *f = &r->deck->stages.v[from];
    TM_TRY(stage_ckpt_dir(f, dir, sizeof dir));
    TM_TRY(ckpt_find_latest_all(dir, r->grid.world, out->weights, sizeof out->weights, &step));
    if (step < 0)
        return TM_FAIL(TM_ERR_DATA, "stage %s takes the model of stage %s, but %s holds no checkpoint", s->name,
                       f->name, dir);
    TM_TRY(ckpt_open_all(out->weights, r->grid.world, &c));
    bool weights = ckpt_find(c, out->m->param[0].desc.name) != NULL;
    enum status st = weights ? load_ckpt_all(r, c, out->m) : load_from_all(r, f, f->from_index, out);
    ckpt_close(&c);
    return st;
}

/* Where load_from_all would find the weights, as far as the deck tells. */
static enum stage_source source_of(const struct stage_run *r, const struct deck_stage *s) {
    for (int from = s->from_index; from >= 0; from = r->deck->stages.v[from].from_index)
        if (r->deck->stages.v[from].kind != DECK_KIND_calibrate) return STAGE_FROM_CKPT;
    return *s->model.path ? STAGE_FROM_HUB : STAGE_DRAWN;
}

enum status stage_open_model_all(struct stage_run *r, const struct deck_stage *s, bool training, int64_t max_positions,
                                 struct stage_model *out) {
    char dir[4096];
    *out = (struct stage_model){0};
    par_note(s->name, 0, "load");
    enum status st = model_dir(s, dir, sizeof dir);
    if (st == TM_OK) st = create(r, dir, s->numerics.compute, training, max_positions, &out->m);
    TM_TRY(par_agree_all(st));
    if (r->plan) stage_plan_loaded(r, out->m, source_of(r, s));
    if (r->plan) return TM_OK;
    double begin = clock_seconds();
    enum status loaded = load_from_all(r, s, s->from_index, out);
    r->spent[STAGE_SPENT_LOAD] += clock_seconds() - begin;
    return loaded;
}

enum status stage_open_teacher_all(struct stage_run *r, const struct deck_stage *s, int64_t max_positions,
                                   struct stage_model *out) {
    const char *dir = *s->teacher.path ? s->teacher.path : s->model.path;
    *out = (struct stage_model){0};
    if (!*dir) return TM_FAIL(TM_ERR_DECK, "stage %s needs teacher.path", s->name);
    par_note(s->name, 0, "load");
    TM_TRY(str_copy(out->weights, sizeof out->weights, dir));
    const char *compute = strcmp(s->teacher.compute, "same")
                              ? s->teacher.compute
                              : s->numerics.compute; /* fp8: products of what has codes only */
    TM_TRY(par_agree_all(create(r, dir, compute, false, max_positions, &out->m)));
    if (r->plan) stage_plan_loaded(r, out->m, STAGE_FROM_HUB);
    if (r->plan) return TM_OK;
    double begin = clock_seconds();
    enum status st = par_agree_all(load_hub(out->m, dir));
    r->spent[STAGE_SPENT_LOAD] += clock_seconds() - begin;
    return st;
}

enum status stage_pack_model_all(const struct stage_run *r, const struct deck_stage *s, struct model *m) {
    return s->numerics.pack_weights ? par_agree_all(model_pack(m, r->invariant)) : TM_OK;
}

void stage_close_model(struct stage_model *m) { model_destroy(&m->m); }
