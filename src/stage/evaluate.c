/* Stage evaluate: NLL, perplexity and, against a teacher, KL and top-1 agreement; probes of logits and hidden states. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "stage/inputs.h"
#include "stage/plan.h"
#include "stage/probe.h"
#include "stage/progress.h"
#include "stage/quantized.h"
#include "train/step.h"

struct eval {
    struct stage_run *r;
    const struct deck_stage *s;
    struct data_set *set;
    int64_t rows, t, micro;
    struct stage_model student, teacher;
    struct stage_quant quant, teacher_quant;
    struct stage_progress progress;
    int64_t round; /* of micro-batches: so many are done */
    double nll;
};

static bool compares(const struct deck_stage *s) {
    return strcmp(s->compare, "auto") ? !strcmp(s->compare, "true") : *s->teacher.path != 0;
}

static enum status open_all(struct eval *e) {
    const struct deck_stage *s = e->s;
    TM_TRY(stage_open_set_all(e->r, s, s->dataset, &e->set, &e->rows));
    e->t = data_set_seq_length(e->set);
    e->micro = size_min(s->batch.micro, e->rows);
    TM_TRY(stage_open_model_all(e->r, s, false, e->t, &e->student));
    TM_TRY(stage_open_quant_all(e->r, s, e->student.m, true, &e->quant));
    TM_TRY(stage_pack_model_all(e->r, s, e->student.m));
    if (!compares(s)) return TM_OK;
    TM_TRY(stage_open_teacher_all(e->r, s, e->t, &e->teacher));
    TM_TRY(stage_open_teacher_quant_all(e->r, s, e->teacher.m, &e->teacher_quant));
    return stage_pack_model_all(e->r, s, e->teacher.m);
}

/* Of a pass of the student that scores. `shape` is borrowed by the pass. */
static struct train_pass_options scoring(const struct eval *e, const char *name, struct model_shape *shape) {
    *shape = (struct model_shape){.b = e->micro, .t = e->t};
    return (struct train_pass_options){.name = name,
                                       .model = e->student.m,
                                       .shape = shape,
                                       .hook = stage_quant_hook(&e->quant),
                                       .head = TRAIN_HEAD_LOSS,
                                       .slots = 1,
                                       .invariant = e->r->invariant,
                                       .temperature = 1};
}

static enum status make_passes(struct eval *e, struct train_pass **pass, struct train_pass **teacher) {
    struct model_shape shape;
    struct train_pass_options o = scoring(e, "evaluate", &shape);
    if (e->teacher.m) {
        struct train_pass_options t = {.name = "teacher",
                                       .model = e->teacher.m,
                                       .shape = &shape,
                                       .hook = stage_quant_hook(&e->teacher_quant),
                                       .slots = 1,
                                       .invariant = e->r->invariant,
                                       .temperature = 1,
                                       .tag = 2};
        TM_TRY(train_pass_create(&t, NULL, teacher));
        o.teacher = *teacher;
    }
    TM_TRY(train_pass_create(&o, NULL, pass));
    return train_pass_bind((struct train_pass *[]){*pass, *teacher}, *teacher ? 2 : 1);
}

static enum status report(struct eval *e, const struct train_tally *t) {
    if (t->tokens == 0) return TM_FAIL(TM_ERR_DATA, "data set %s has no token to score", e->s->dataset->name);
    double nll = t->nll / t->tokens;
    if (!isfinite(nll)) return TM_FAIL(TM_ERR_NUMERIC, "the mean NLL over %.0f tokens is %g", t->tokens, nll);
    e->nll = nll;
    TM_TRY(stage_result(e->r, e->s, "nll", nll, "nats/token"));
    TM_TRY(stage_result(e->r, e->s, "perplexity", exp(nll), ""));
    TM_TRY(stage_result(e->r, e->s, "tokens", t->tokens, "tokens"));
    TM_TRY(stage_progress_result(e->r, e->s, &e->progress));
    if (e->teacher.m) {
        TM_TRY(stage_result(e->r, e->s, "kl", t->kl / t->tokens, "nats/token"));
        TM_TRY(stage_result(e->r, e->s, "agreement", t->agree / t->tokens, ""));
    }
    return stage_quant_results(e->r, e->s, &e->quant);
}

/* Planned, one wave of micro-batches stands for all. */
static double rounds(const struct eval *e) { return (double)size_ceil_div(e->rows, e->micro) / e->r->grid.dp; }
static int64_t wave(const struct eval *e) { return train_wave(&e->r->grid, size_ceil_div(e->rows, e->micro)); }
static int64_t samples(const struct eval *e) {
    return e->r->plan ? size_min(e->micro * e->r->grid.dp * wave(e), e->rows) : e->rows;
}
static void plan_rounds(const struct eval *e) {
    stage_plan_rounds(e->r, "wave of micro-batches on every replica", rounds(e) / (double)wave(e), wave(e));
}

/* So many rounds of micro-batches were run. */
static void progress(struct eval *e, int64_t done) {
    const int64_t each = e->micro * e->r->grid.dp;
    if (done > 0 && !e->r->plan)
        stage_progress(&e->progress, done, (int64_t)ceil(rounds(e)), (done - e->round) * each * e->t, "samples=%lld",
                       (long long)size_min(e->rows, done * each));
    e->round = done;
}

static void begin_rounds(struct eval *e) {
    e->progress = (struct stage_progress){0};
    e->round = 0;
    stage_plan_begin(e->r);
}

/* Before each round. An evaluation keeps nothing on a stop: it is done again. */
static enum status poll_all(void *eval, int64_t rounds_done) {
    struct eval *e = eval;
    bool save = false;
    progress(e, rounds_done);
    return stage_poll_all(e->r, &save);
}

static enum status (*poll_of(const struct eval *e))(void *, int64_t) { return e->r->plan ? NULL : poll_all; }

static enum status score_all(struct eval *e) {
    struct train_pass *pass = NULL, *teacher = NULL;
    struct train_tally tally;
    enum status st = par_agree_all(make_passes(e, &pass, &teacher));
    begin_rounds(e);
    if (st == TM_OK)
        st = train_eval_all(&(struct train_eval){.pass = pass,
                                                 .set = e->set,
                                                 .micro = e->micro,
                                                 .samples = samples(e),
                                                 .poll_all = poll_of(e),
                                                 .poll_context = e},
                            &tally);
    if (st == TM_OK) progress(e, (int64_t)ceil(rounds(e)));
    plan_rounds(e);
    if (st == TM_OK && !e->r->plan) st = report(e, &tally);
    train_pass_destroy(&pass);
    train_pass_destroy(&teacher);
    return par_agree_all(st);
}

/* --- compute_error: products of codes against the same numbers in fp32 ----------------------------------------------------------- */
static enum status report_compute(struct eval *e, const struct train_tally *t) {
    const double nll = t->nll / t->tokens;
    if (!isfinite(nll)) return TM_FAIL(TM_ERR_NUMERIC, "the mean NLL of the fake-quantized model is %g", nll);
    TM_TRY(stage_result(e->r, e->s, "nll_fp32", nll, "nats/token"));
    return stage_result(e->r, e->s, "compute_error", fabs(e->nll - nll), "nats/token");
}

static enum status prepare_compute(struct eval *e, struct train_pass **pass) {
    struct model_shape shape;
    struct train_pass_options o = scoring(e, "fake-quantized", &shape);
    TM_TRY(quant_model_apply(e->quant.q));
    TM_TRY(train_pass_create(&o, NULL, pass));
    return train_pass_bind(pass, 1);
}

/* After all that works by codes: the model is fake-quantized from here on. */
static enum status compute_error_all(struct eval *e) {
    struct train_pass *pass = NULL;
    struct train_tally tally;
    if (!e->s->compute_error) return TM_OK;
    enum status st = par_agree_all(prepare_compute(e, &pass));
    begin_rounds(e);
    if (st == TM_OK)
        st =
            train_eval_all(&(struct train_eval){pass, e->set, e->micro, samples(e), NULL, NULL, poll_of(e), e}, &tally);
    plan_rounds(e);
    if (st == TM_OK && !e->r->plan) st = report_compute(e, &tally);
    train_pass_destroy(&pass);
    return par_agree_all(st);
}

/* --- probes ------------------------------------------------------------------------------------------------------------------- */
struct probing {
    struct eval *e;
    struct train_pass *pass;
    tape_val *layer_out; /* [layers + 1] */
    struct probe logits, hidden;
    int64_t row_lo, row_hi; /* rows of this DP rank */
};

static enum status add_hidden(struct probing *p, const char *name, bool here) {
    const struct eval *e = p->e;
    int64_t c = e->student.m->config.hidden;
    struct tensor_desc d = {.dtype = DTYPE_f32,
                            .rank = 3,
                            .shape = {e->rows, e->t, c},
                            .box = {3, {p->row_lo, 0, 0}, {p->row_hi, e->t, c}}};
    if (!here) d.box.hi[0] = d.box.lo[0] = 0;
    TM_TRY(str_copy(d.name, sizeof d.name, name));
    return probe_add(&p->hidden, e->r->dev, &d, (dptr){0});
}

static enum status add_tensors(struct probing *p) {
    const struct eval *e = p->e;
    const struct model *m = e->student.m;
    const struct par_grid *g = &e->r->grid;
    int64_t n = size_ceil_div(e->rows, e->micro), v = m->config.vocab, lo, hi;
    char name[32];
    p->row_lo = size_min(e->rows, n * g->dp_rank / g->dp * e->micro);
    p->row_hi = size_min(e->rows, n * (g->dp_rank + 1) / g->dp * e->micro);
    tensor_axis_range(&m->axis_vocab, g->tp_rank, g->tp, &lo, &hi);
    struct tensor_desc d = {.name = "logits",
                            .dtype = DTYPE_f32,
                            .rank = 3,
                            .shape = {e->rows, e->t, v},
                            .box = {3, {p->row_lo, 0, lo}, {p->row_hi, e->t, hi}}};
    if (!m->last) d.box.hi[0] = d.box.lo[0] = 0;
    if (*e->s->logits_out) TM_TRY(probe_add(&p->logits, e->r->dev, &d, (dptr){0}));
    if (!*e->s->hidden_out) return TM_OK;
    for (int i = 0; i <= m->config.layers; i++) {
        snprintf(name, sizeof name, i ? "hidden.%d" : "hidden.in", i - 1);
        TM_TRY(add_hidden(p, name, p->layer_out[i] != TAPE_NONE));
    }
    return add_hidden(p, "hidden.final", m->last);
}

static enum status keep(const struct probing *p, int slot, tape_val v, const struct probe *to, size_t i, int64_t row,
                        int64_t rows, int64_t cols) {
    int64_t per_row = p->e->t * cols;
    if (!to->data[i].a || v == TAPE_NONE) return TM_OK;
    struct copy_args a = {.x = tape_address(p->pass->t, slot, v),
                          .y = dptr_f32(to->data[i], (row - p->row_lo) * per_row),
                          .bytes = (size_t)(rows * per_row) * 4};
    return dev_copy(p->e->r->dev, &a);
}

static enum status keep_micro_batch(void *context, int64_t micro_batch, int slot, const struct data_batch *b) {
    struct probing *p = context;
    const struct model *m = p->e->student.m;
    int64_t row = micro_batch * b->b, rows = size_min(b->b, p->e->rows - row), c = m->config.hidden;
    if (p->logits.n) TM_TRY(keep(p, slot, p->pass->logits, &p->logits, 0, row, rows, model_head(m)->rows));
    if (!p->hidden.n) return TM_OK;
    for (int i = 0; i <= m->config.layers; i++)
        TM_TRY(keep(p, slot, p->layer_out[i], &p->hidden, (size_t)i, row, rows, c));
    return keep(p, slot, p->pass->io.final, &p->hidden, (size_t)m->config.layers + 1, row, rows, c);
}

static enum status prepare_probes(struct probing *p) {
    struct eval *e = p->e;
    struct model_shape shape = {.b = e->micro, .t = e->t, .keep_layers = true};
    struct train_pass_options o = {.name = "probe",
                                   .model = e->student.m,
                                   .shape = &shape,
                                   .hook = stage_quant_hook(&e->quant),
                                   .head = TRAIN_HEAD_LOGITS,
                                   .slots = 1,
                                   .invariant = e->r->invariant,
                                   .temperature = 1};
    TM_TRY(mem_alloc(&p->layer_out, (size_t)e->student.m->config.layers + 1, sizeof *p->layer_out));
    TM_TRY(train_pass_create(&o, p->layer_out, &p->pass));
    TM_TRY(train_pass_bind(&p->pass, 1));
    return add_tensors(p);
}

static enum status probe_all(struct eval *e) {
    struct probing p = {.e = e};
    struct train_tally none;
    if (!*e->s->logits_out && !*e->s->hidden_out) return TM_OK;
    enum status st = par_agree_all(prepare_probes(&p));
    begin_rounds(e);
    if (st == TM_OK)
        st = train_eval_all(&(struct train_eval){p.pass, e->set, e->micro, samples(e),
                                                 e->r->plan ? NULL : keep_micro_batch, &p, poll_of(e), e},
                            &none);
    plan_rounds(e);
    if (st == TM_OK && p.logits.n) st = probe_write_all(&p.logits, e->s->logits_out);
    if (st == TM_OK && p.hidden.n) st = probe_write_all(&p.hidden, e->s->hidden_out);
    probe_free(&p.logits);
    probe_free(&p.hidden);
    train_pass_destroy(&p.pass);
    mem_free(&p.layer_out);
    return st;
}

/* --- layer_error: how far each layer's output is from the teacher's ---------------------------------------------------------- */
struct layers {
    struct eval *e;
    struct train_pass *mine, *teacher;
    tape_val *my_out, *teacher_out; /* [layers + 1] */
    dptr difference, sums;          /* [N, C]; two doubles */
    double *slots;                  /* [micro-batches, layers + 1, 2]: squares of the difference and of the teacher's */
    int64_t n_micro;
};

static enum status compare_layer(const struct layers *x, int slot, int layer, double *slot_out) {
    struct dev *d = x->e->r->dev;
    int64_t rows = x->e->micro * x->e->t, c = x->e->student.m->config.hidden, n = rows * c;
    dptr mine = tape_address(x->mine->t, slot, x->my_out[layer]),
         other = tape_address(x->teacher->t, slot, x->teacher_out[layer]);
    TM_TRY(dev_copy(d, &(struct copy_args){.x = other, .y = x->difference, .bytes = (size_t)n * 4}));
    TM_TRY(dev_scale(d, &(struct scale_args){.y = x->difference, .n = n, .s = -1}));
    TM_TRY(dev_add(d, &(struct add_args){.x = mine, .y = x->difference, .n = n}));
    TM_TRY(dev_sum_squares(
        d, &(struct sum_squares_args){.x = x->difference, .out = x->sums, .rows = rows, .cols = c, .ld = c}));
    TM_TRY(dev_sum_squares(
        d, &(struct sum_squares_args){.x = other, .out = dptr_add(x->sums, 8), .rows = rows, .cols = c, .ld = c}));
    return dev_download(d, slot_out, x->sums, 2 * sizeof(double));
}

static enum status compare_layers(void *context, int64_t micro_batch, int slot, const struct data_batch *b) {
    struct layers *x = context;
    int64_t n = x->e->student.m->config.layers + 1;
    TM_TRY(train_pass_forward(x->teacher, slot, b, 0, 0));
    for (int i = 1; i < n; i++)
        if (x->my_out[i] != TAPE_NONE && x->e->r->grid.tp_rank == 0)
            TM_TRY(compare_layer(x, slot, i, x->slots + (micro_batch * n + i) * 2));
    return TM_OK;
}

static enum status prepare_layers(struct layers *x) {
    struct eval *e = x->e;
    struct model_shape shape = {.b = e->micro, .t = e->t, .keep_layers = true};
    size_t n = (size_t)e->student.m->config.layers + 1;
    struct train_pass_options o = {.name = "layers",
                                   .model = e->student.m,
                                   .shape = &shape,
                                   .hook = stage_quant_hook(&e->quant),
                                   .slots = 1,
                                   .invariant = e->r->invariant,
                                   .temperature = 1};
    x->n_micro = size_ceil_div(size_max(e->rows, samples(e)), e->micro);
    if (e->teacher.m->config.layers != e->student.m->config.layers ||
        e->teacher.m->config.hidden != e->student.m->config.hidden)
        return TM_FAIL(TM_ERR_DECK, "stage %s: layer_error needs a teacher with the same layers and hidden size",
                       e->s->name);
    TM_TRY(mem_alloc(&x->my_out, n, sizeof *x->my_out));
    TM_TRY(mem_alloc(&x->teacher_out, n, sizeof *x->teacher_out));
    TM_TRY(mem_alloc(&x->slots, (size_t)x->n_micro * n * 2, sizeof *x->slots));
    TM_TRY(train_pass_create(&o, x->my_out, &x->mine));
    o.name = "layers of the teacher";
    o.model = e->teacher.m;
    o.hook = stage_quant_hook(&e->teacher_quant);
    o.tag = 2;
    TM_TRY(train_pass_create(&o, x->teacher_out, &x->teacher));
    TM_TRY(train_pass_bind((struct train_pass *[]){x->mine, x->teacher}, 2));
    TM_TRY(dev_alloc(e->r->dev, "probe", (size_t)(e->micro * e->t * e->student.m->config.hidden) * 4, &x->difference));
    return dev_alloc(e->r->dev, "probe", 2 * sizeof(double), &x->sums);
}

static enum status report_layers(const struct layers *x) {
    int64_t n = x->e->student.m->config.layers + 1;
    json_t *list = json_array();
    if (par_rank() != 0) {
        json_decref(list);
        return TM_OK;
    }
    for (int64_t i = 1; i < n; i++) {
        double error = 0, reference = 0;
        for (int64_t b = 0; b < x->n_micro; b++) {
            error += x->slots[(b * n + i) * 2];
            reference += x->slots[(b * n + i) * 2 + 1];
        }
        json_t *row = json_object();
        json_object_set_new(row, "layer", json_integer(i - 1));
        json_object_set_new(row, "output_nmse", json_real(reference > 0 ? error / reference : 0));
        json_array_append_new(list, row);
    }
    json_object_set_new(stage_results_of(x->e->r, x->e->s), "layers", list);
    return TM_OK;
}

static enum status layer_error_all(struct eval *e) {
    struct layers x = {.e = e};
    struct train_tally none;
    if (!e->s->layer_error || !e->teacher.m) return TM_OK;
    enum status st = par_agree_all(prepare_layers(&x));
    begin_rounds(e);
    if (st == TM_OK)
        st = train_eval_all(&(struct train_eval){x.mine, e->set, e->micro, samples(e), compare_layers, &x, poll_of(e),
                                                 e},
                            &none);
    plan_rounds(e);
    if (st == TM_OK) st = train_pass_drain(x.teacher);
    if (st == TM_OK)
        st = par_sum_slots_f64(e->r->grid.world, x.slots, x.n_micro * (e->student.m->config.layers + 1) * 2);
    if (st == TM_OK && !e->r->plan) st = report_layers(&x);
    train_pass_destroy(&x.mine);
    train_pass_destroy(&x.teacher);
    dev_free(e->r->dev, &x.difference);
    dev_free(e->r->dev, &x.sums);
    mem_free(&x.my_out);
    mem_free(&x.teacher_out);
    mem_free(&x.slots);
    return par_agree_all(st);
}

enum status stage_evaluate_all(struct stage_run *r, const struct deck_stage *s) {
    struct eval e = {.r = r, .s = s};
    enum status st = open_all(&e);
    if (st == TM_OK) st = score_all(&e);
    if (st == TM_OK) st = probe_all(&e);
    if (st == TM_OK) st = layer_error_all(&e);
    if (st == TM_OK) st = compute_error_all(&e);
    stage_close_quant(&e.quant);
    stage_close_quant(&e.teacher_quant);
    stage_close_model(&e.student);
    stage_close_model(&e.teacher);
    data_set_free(&e.set);
    return st;
}
