/* Quantizers between stages: from the deck, to checkpoints and back. */
#include "stage/quantized.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "quant/load.h"

const struct model_hook *stage_quant_hook(const struct stage_quant *q) { return q->q ? &q->hook : NULL; }

enum status stage_make_quant(const struct deck_stage *s, struct model *m, struct stage_quant *out) {
    struct quant_policy p;
    struct quant_rule *rules;
    int n = s->quant.rules.n, from_preset = 0;
    *out = (struct stage_quant){0};
    TM_TRY(mem_alloc(&rules, (size_t)n + 1, sizeof *rules));
    if (s->quant.weight_only) rules[from_preset++] = (struct quant_rule){.module = "*", .site = "input", .enable = 0};
    for (int i = 0; i < n; i++) {
        const struct deck_rule *r = &s->quant.rules.v[i];
        rules[from_preset + i] = (struct quant_rule){.module = r->module,
                                                     .site = strcmp(r->site, "*") ? r->site : NULL,
                                                     .format = *r->format ? r->format : NULL,
                                                     .enable = r->enable};
    }
    enum status st = quant_policy_build(&p, s->quant.preset, s->quant.kv_cache, rules, (size_t)(from_preset + n));
    if (st == TM_OK) st = quant_model_create(m, &p, &out->q);
    quant_policy_free(&p);
    mem_free(&rules);
    if (st == TM_OK) out->hook = quant_model_hook(out->q);
    return st;
}

static void stat_tensor(const struct quant_model *q, int i, struct ckpt_tensor *t, bool *more) {
    char name[TENSOR_NAME_MAX];
    float *values;
    int64_t n;
    *more = quant_model_stat(q, i, name, &values, &n);
    if (!*more) return;
    *t = (struct ckpt_tensor){.desc = {.dtype = DTYPE_f32, .rank = 1, .shape = {n}, .box = {1, {0}, {n}}},
                              .host = values};
    snprintf(t->desc.name, sizeof t->desc.name, "quant/%.*s", TENSOR_NAME_MAX - 8, name);
}

enum status stage_quant_tensors(const struct quant_model *q, struct ckpt_tensor **list, size_t *cap, size_t *n) {
    struct ckpt_tensor t;
    bool more = true;
    for (int i = 0; q; i++) {
        stat_tensor(q, i, &t, &more);
        if (!more) break;
        TM_TRY(mem_grow(list, cap, *n + 1, sizeof **list));
        (*list)[(*n)++] = t;
    }
    return TM_OK;
}

enum status stage_load_maxima(struct quant_model *q, struct ckpt *c) {
    struct ckpt_tensor t;
    bool more = true;
    for (int i = 0;; i++) {
        stat_tensor(q, i, &t, &more);
        if (!more) break;
        TM_TRY(ckpt_read_box(c, t.desc.name, &t.desc.box, DTYPE_f32, t.host));
    }
    return quant_model_upload(q);
}

enum status stage_apply_quant(const struct deck_stage *s, struct stage_quant *q) {
    bool by_codes = !strcmp(s->numerics.compute, "fp8");
    if (q->q) return by_codes ? quant_model_apply_fp8(q->q) : quant_model_apply(q->q);
    if (!by_codes) return TM_OK;
    return TM_FAIL(TM_ERR_DECK,
                   "stage %s: numerics.compute = \"fp8\" needs a quantized model: an FP8 export, or one from a stage "
                   "that calibrates",
                   s->name);
}

/* What the checkpoint of stage `from` will hold: the quantizers of the calibration that it goes back to. */
static enum status plan_quant(struct stage_run *r, int from, struct model *m, struct stage_quant *out) {
    const struct deck_stage *stages = r->deck->stages.v;
    while (from >= 0 && stages[from].kind != DECK_KIND_calibrate) from = stages[from].from_index;
    return from < 0 ? TM_OK : stage_make_quant(&stages[from], m, out);
}

static enum status restore_all(struct stage_run *r, const struct deck_stage *s, struct model *m,
                               struct stage_quant *out) {
    char dir[4096], path[4096];
    int64_t step;
    struct ckpt *c;
    TM_TRY(stage_ckpt_dir(&r->deck->stages.v[s->from_index], dir, sizeof dir));
    TM_TRY(ckpt_find_latest_all(dir, r->grid.world, path, sizeof path, &step));
    if (step < 0) return TM_FAIL(TM_ERR_DATA, "%s holds no checkpoint", dir);
    TM_TRY(ckpt_open_all(path, r->grid.world, &c));
    const json_t *formats = json_object_get(ckpt_meta(c), "quantizers");
    enum status st = TM_OK;
    if (json_object_size(formats) > 0) {
        st = quant_model_restore(m, formats, &out->q);
        if (st == TM_OK) st = stage_load_maxima(out->q, c);
        if (st == TM_OK) out->hook = quant_model_hook(out->q);
    }
    ckpt_close(&c);
    return st;
}

/* Those of an FP8 checkpoint. A plan may be made where there is nothing but config.json. */
static enum status load(const struct stage_run *r, struct model *m, const char *dir, struct stage_quant *out) {
    struct hub_model *h;
    json_t *config = json_loads(m->config.source, 0, NULL);
    const bool quantized = json_is_object(json_object_get(config, "quantization_config"));
    json_decref(config);
    if (!quantized) return TM_OK;
    enum status st = hub_open(dir, &h);
    if (st == TM_ERR_IO && r->plan) return TM_OK;
    TM_TRY(st);
    st = quant_model_load(m, h, &out->q);
    hub_close(&h);
    if (st == TM_OK && out->q) out->hook = quant_model_hook(out->q);
    return st;
}

enum status stage_open_quant_all(struct stage_run *r, const struct deck_stage *s, struct model *m, bool apply,
                                 struct stage_quant *out) {
    enum status st = TM_OK;
    bool uses = s->kind == DECK_KIND_evaluate || s->kind == DECK_KIND_generate;
    *out = (struct stage_quant){0};
    if (s->from_index < 0)
        st = uses && *s->model.path ? load(r, m, s->model.path, out) : TM_OK;
    else if (r->plan)
        st = plan_quant(r, s->from_index, m, out);
    else
        st = restore_all(r, s, m, out);
    TM_TRY(par_agree_all(st)); /* applying is a matter of the tensor group */
    return apply ? par_agree_all(stage_apply_quant(s, out)) : TM_OK;
}

/* Codes of a teacher that has none: nothing needs to be measured on data. */
static enum status teacher_codes_all(const struct stage_run *r, struct model *m, struct stage_quant *out) {
    struct quant_policy p;
    enum status st = quant_policy_build(&p, "fp8_per_channel_per_token", "none", NULL, 0);
    if (st == TM_OK) st = quant_model_create(m, &p, &out->q);
    quant_policy_free(&p);
    if (st == TM_OK) st = quant_observe_begin(out->q);
    TM_TRY(par_agree_all(st));
    out->hook = quant_model_hook(out->q);
    return r->plan ? TM_OK : quant_observe_finish_all(out->q);
}

enum status stage_open_teacher_quant_all(const struct stage_run *r, const struct deck_stage *s, struct model *m,
                                         struct stage_quant *out) {
    bool by_codes = !strcmp(s->teacher.compute, "fp8");
    *out = (struct stage_quant){0};
    TM_TRY(par_agree_all(load(r, m, *s->teacher.path ? s->teacher.path : s->model.path, out)));
    if (!out->q && by_codes) TM_TRY(teacher_codes_all(r, m, out));
    if (!out->q) return TM_OK;
    return par_agree_all(by_codes ? quant_model_apply_fp8(out->q) : quant_model_apply(out->q));
}

void stage_close_quant(struct stage_quant *q) { quant_model_destroy(&q->q); }

enum status stage_quant_results(struct stage_run *r, const struct deck_stage *s, const struct stage_quant *q) {
    double bits = 16, share = 0;
    if (q->q) quant_model_bits(q->q, &bits, &share);
    return stage_result(r, s, "bits_per_weight", bits, "bits");
}
