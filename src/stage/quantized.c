/* Quantizers between stages: from the deck, to checkpoints and back. */
#include "stage/quantized.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

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

/* What the checkpoint of stage `from` will hold: the quantizers of the calibration that it goes back to. */
static enum status plan_quant(struct stage_run *r, int from, struct model *m, struct stage_quant *out) {
    const struct deck_stage *stages = r->deck->stages.v;
    while (from >= 0 && stages[from].kind != DECK_KIND_calibrate) from = stages[from].from_index;
    if (from < 0) return TM_OK;
    TM_TRY(stage_make_quant(&stages[from], m, out));
    return quant_model_apply(out->q);
}

enum status stage_open_quant_all(struct stage_run *r, const struct deck_stage *s, struct model *m,
                                 struct stage_quant *out) {
    char dir[4096], path[4096];
    int64_t step;
    struct ckpt *c;
    *out = (struct stage_quant){0};
    if (r->plan) return plan_quant(r, s->from_index, m, out);
    if (s->from_index < 0) return TM_OK;
    TM_TRY(stage_ckpt_dir(&r->deck->stages.v[s->from_index], dir, sizeof dir));
    TM_TRY(ckpt_find_latest_all(dir, r->grid.world, path, sizeof path, &step));
    if (step < 0) return TM_FAIL(TM_ERR_DATA, "%s holds no checkpoint", dir);
    TM_TRY(ckpt_open_all(path, r->grid.world, &c));
    const json_t *formats = json_object_get(ckpt_meta(c), "quantizers");
    enum status st = TM_OK;
    if (json_object_size(formats) > 0) {
        st = quant_model_restore(m, formats, &out->q);
        if (st == TM_OK) st = stage_load_maxima(out->q, c);
        st = par_agree_all(st); /* applying is a matter of the tensor group */
        if (st == TM_OK) st = quant_model_apply(out->q);
        if (st == TM_OK) out->hook = quant_model_hook(out->q);
    }
    ckpt_close(&c);
    return par_agree_all(st);
}

void stage_close_quant(struct stage_quant *q) { quant_model_destroy(&q->q); }

enum status stage_quant_results(struct stage_run *r, const struct deck_stage *s, const struct stage_quant *q) {
    double bits = 16, share = 0;
    if (q->q) quant_model_bits(q->q, &bits, &share);
    return stage_result(r, s, "bits_per_weight", bits, "bits");
}
