/* Stage calibrate: run data through the model, measure the quantizers' maxima, agree on them over every group. */
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "quant/summary.h"
#include "stage/inputs.h"
#include "stage/layers.h"
#include "stage/plan.h"
#include "stage/probe.h"
#include "stage/quantized.h"
#include "stage/saved.h"
#include "train/pass.h"

struct calibrate {
    struct stage_run *r;
    const struct deck_stage *s;
    struct data_set *set;
    struct stage_model model;
    struct stage_quant quant;
    struct train_pass *pass;
    struct data_batch *batch; /* [wave] */
    int64_t wave;
    int64_t rows, micro, n, done; /* samples, per micro-batch; micro-batches in all, run */
};

static enum status make_pass(struct calibrate *c) {
    struct model_shape shape = {.b = c->micro, .t = data_set_seq_length(c->set)};
    struct train_pass_options o = {.name = c->s->name,
                                   .model = c->model.m,
                                   .shape = &shape,
                                   .hook = &c->quant.hook,
                                   .slots = 1,
                                   .invariant = c->r->invariant,
                                   .temperature = 1};
    c->wave = train_wave(&c->r->grid, c->n);
    TM_TRY(data_batches_create(c->wave, c->micro, shape.t, &c->batch));
    TM_TRY(train_pass_create(&o, NULL, &c->pass));
    return train_pass_bind(&c->pass, 1);
}

static enum status open_all(struct calibrate *c) {
    const struct deck_stage *s = c->s;
    TM_TRY(stage_open_set_all(c->r, s, s->dataset, &c->set, &c->rows));
    TM_TRY(stage_open_model_all(c->r, s, false, data_set_seq_length(c->set), &c->model));
    enum status st = stage_make_quant(s, c->model.m, &c->quant);
    if (st == TM_OK && !c->quant.q->any)
        st = TM_FAIL(TM_ERR_DECK, "stage %s: quant.preset = \"%s\" and its rules quantize nothing", s->name,
                     s->quant.preset);
    c->micro = size_min(s->batch.micro, c->rows);
    c->n = size_ceil_div(c->rows, c->micro);
    if (st == TM_OK && !quant_model_measures(c->quant.q)) {
        log_info("no activation has a maximum to be measured: no data is run");
        c->n = c->rows = 0;
    }
    if (st == TM_OK) st = quant_observe_begin(c->quant.q);
    if (st == TM_OK) st = make_pass(c);
    return par_agree_all(st);
}

/* Maxima are order-free, so micro-batches are dealt in rounds: what is done is one number on any grid. */
static enum status save_all(struct calibrate *c, bool finished) {
    struct ckpt_tensor *list = NULL;
    size_t n = 0, cap = 0;
    json_t *meta = NULL;
    TM_TRY(quant_observe_finish_all(c->quant.q));
    enum status st = stage_quant_tensors(c->quant.q, &list, &cap, &n);
    if (st == TM_OK) st = stage_meta(c->quant.q, c->done, finished, &meta);
    st = par_agree_all(st);
    if (st == TM_OK) st = stage_save_all(c->r, c->s, c->done, list, n, meta, false); /* maxima are few */
    json_decref(meta);
    mem_free(&list);
    return st;
}

static enum status resume_all(struct calibrate *c) {
    struct ckpt *k;
    TM_TRY(stage_resume_all(c->r, c->s, &k));
    if (!k) return TM_OK;
    enum status st = json_need_i64(ckpt_meta(k), "done", ckpt_path(k), &c->done);
    if (st == TM_OK) st = stage_load_maxima(c->quant.q, k);
    if (st == TM_OK) log_info("resumed batch=%lld from=%s", (long long)c->done, ckpt_path(k));
    ckpt_close(&k);
    return par_agree_all(st);
}

/* The micro-batches [lo, hi) of this replica among those that are next: consecutive ones go to consecutive replicas. */
static enum status fill(struct calibrate *c, int64_t lo, int64_t hi) {
    for (int64_t i = lo, k = 0; i < hi; i += c->r->grid.dp, k++)
        TM_TRY(data_batch_fill(c->set, i * c->micro, size_min(c->micro, c->rows - i * c->micro), &c->batch[k]));
    return TM_OK;
}

/* A wave of at most `rounds` micro-batches on every replica; what went wrong on one rank is known before any transfer. */
static enum status wave_all(struct calibrate *c, int64_t rounds) {
    const struct par_grid *g = &c->r->grid;
    const int64_t lo = c->done + g->dp_rank, hi = size_min(c->n, c->done + rounds * g->dp);
    par_note(c->s->name, lo, "data");
    TM_TRY(par_agree_all(fill(c, lo, hi)));
    c->done = hi;
    for (int64_t i = lo, k = 0; i < hi; i += g->dp, k++) {
        par_note(c->s->name, i, "calibrate");
        TM_TRY(train_pass_forward(c->pass, 0, &c->batch[k], 0, 0));
    }
    return TM_OK;
}

/* Rounds until a save is due, at most a wave of them. */
static int64_t rounds_ahead(const struct calibrate *c, int64_t last_save) {
    const int64_t every = c->s->checkpoint.every, left = last_save + every - c->done;
    return every > 0 ? size_min(c->wave, size_max(1, size_ceil_div(left, c->r->grid.dp))) : c->wave;
}

static enum status loop_all(struct calibrate *c) {
    struct stage_progress progress = {0};
    int64_t last_save = c->done;
    while (c->done < c->n) {
        bool save = stage_save_due(c->r, c->s);
        enum status stop = stage_poll_all(c->r, &save);
        bool due = c->s->checkpoint.every > 0 && c->done - last_save >= c->s->checkpoint.every;
        if (c->done > last_save && (stop == TM_STOPPED || save || due)) {
            TM_TRY(train_pass_drain(c->pass));
            TM_TRY(save_all(c, false));
            last_save = c->done;
        }
        if (stop == TM_STOPPED)
            return TM_FAIL(TM_STOPPED,
                           "stage %s stopped after %lld of %lld batches; the same command goes on from there",
                           c->s->name, (long long)c->done, (long long)c->n);
        TM_TRY(stop);
        const int64_t before = c->done;
        TM_TRY(wave_all(c, rounds_ahead(c, last_save)));
        stage_progress(&progress, c->done, c->n, (c->done - before) * c->micro * data_set_seq_length(c->set),
                       "samples=%lld", (long long)size_min(c->rows, c->done * c->micro));
    }
    TM_TRY(train_pass_drain(c->pass));
    TM_TRY(stage_progress_result(c->r, c->s, &progress));
    return save_all(c, true);
}

/* --- results --------------------------------------------------------------------------------------------------------------- */
static enum status write_stats_all(struct calibrate *c) {
    struct probe p = {0};
    struct tensor_desc d = {.dtype = DTYPE_f32, .rank = 1};
    float *values;
    int64_t n;
    enum status st = TM_OK;
    if (!*c->s->stats_out) return TM_OK;
    for (int i = 0; st == TM_OK && quant_model_stat(c->quant.q, i, d.name, &values, &n); i++) {
        d.shape[0] = n;
        d.box = (struct tensor_box){1, {0}, {n}};
        st = probe_add(&p, c->r->dev, &d, (dptr){0});
        if (st == TM_OK) st = dev_upload(c->r->dev, p.data[p.n - 1], values, (size_t)n * 4);
    }
    st = par_agree_all(st);
    if (st == TM_OK) st = probe_write_all(&p, c->s->stats_out);
    probe_free(&p);
    return st;
}

/* Which documents the statistics come from. */
static enum status write_record(struct calibrate *c) {
    char name[256], path[4096];
    struct str text = {0};
    if (par_rank() != 0) return TM_OK;
    TM_TRY(str_copy(name, sizeof name - 32, c->s->name));
    TM_TRY(str_prefix(name, sizeof name, "calibration-"));
    strcat(name, ".json"); /* room was left */
    TM_TRY(str_path(path, sizeof path, c->s->run.dir, name));
    enum status st = data_describe(c->set, 0, c->rows, &text);
    if (st == TM_OK) st = file_write(path, text.p, text.len);
    str_free(&text);
    return st;
}

static enum status results(struct calibrate *c) {
    const struct quant_model *q = c->quant.q;
    struct str table = {0};
    TM_TRY(stage_result(c->r, c->s, "samples", (double)c->rows, "sequences"));
    TM_TRY(stage_quant_results(c->r, c->s, &c->quant));
    enum status st = quant_summary(q->linears, (size_t)q->n_linears, q->kv, (size_t)q->n_kv, &table);
    if (st == TM_OK) st = stage_layers_from_quant(c->r, c->s, q);
    if (st == TM_OK) st = stage_write_text(c->r, c->s, "quantizers", table.p);
    str_free(&table);
    return st == TM_OK ? write_record(c) : st;
}

/* Planned, one wave stands for all. */
static enum status plan_all(struct calibrate *c) {
    const double rounds = (double)c->n / c->r->grid.dp;
    stage_plan_begin(c->r);
    TM_TRY(wave_all(c, c->wave));
    stage_plan_rounds(c->r, "wave of micro-batches on every replica", rounds / (double)c->wave, c->wave);
    return save_all(c, true);
}

enum status stage_calibrate_all(struct stage_run *r, const struct deck_stage *s) {
    struct calibrate c = {.r = r, .s = s};
    enum status st = open_all(&c);
    if (st == TM_OK) st = resume_all(&c);
    if (st == TM_OK) st = r->plan ? plan_all(&c) : loop_all(&c);
    if (st == TM_OK) st = write_stats_all(&c);
    if (st == TM_OK && !r->plan) st = par_agree_all(results(&c));
    data_batches_free(c.wave, &c.batch);
    train_pass_destroy(&c.pass);
    stage_close_quant(&c.quant);
    stage_close_model(&c.model);
    data_set_free(&c.set);
    return st;
}
