/* The optimizer loop: set-up from the deck, steps, checkpoints, metrics, resume. */
#include "stage/learn.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"
#include "ckpt/ckpt.h"
#include "stage/inputs.h"
#include "stage/plan.h"
#include "stage/probe.h"
#include "stage/quantized.h"
#include "stage/saved.h"
#include "train/step.h"

struct learn {
    struct stage_run *r;
    const struct deck_stage *s;
    struct data_set *set;
    struct stage_model student, teacher;
    struct stage_quant quant, teacher_quant;
    struct train_pass *pass, *teacher_pass, *eval_pass;
    struct data_set *eval_set; /* of eval_every; NULL: none */
    int64_t eval_rows;
    struct train_stepper step;
    double temperature; /* of the kl loss */
    double loss;        /* of the last step; NaN: no step was made */
    int64_t done;       /* steps made */
    int64_t saved;      /* steps of the last checkpoint */
    bool wish;          /* for a save, heard during an evaluation */
    bool owed;          /* the evaluation after the last step was broken off */
};

/* --- set-up ------------------------------------------------------------------------------------------------------------------ */
static enum status set_losses(struct learn *l, bool with_teacher) {
    const struct deck_stage *s = l->s;
    double temperature = 1;
    if (s->losses.n == 0) *(with_teacher ? &l->step.kl_weight : &l->step.ce_weight) = 1;
    for (int i = 0; i < s->losses.n; i++) {
        const struct deck_loss *x = &s->losses.v[i];
        bool kl = !strcmp(x->kind, "kl");
        if (kl && !with_teacher) return TM_FAIL(TM_ERR_DECK, "stage %s: a kl loss needs do = \"distill\"", s->name);
        if (kl && l->step.kl_weight > 0) return TM_FAIL(TM_ERR_DECK, "stage %s: two kl losses", s->name);
        *(kl ? &l->step.kl_weight : &l->step.ce_weight) += x->weight;
        if (kl) temperature = x->temperature;
    }
    if (!(l->step.kl_weight > 0) && !(l->step.ce_weight > 0))
        return TM_FAIL(TM_ERR_DECK, "stage %s: every loss has weight 0", s->name);
    l->temperature = temperature;
    return TM_OK;
}

static enum status make_passes(struct learn *l) {
    const struct deck_stage *s = l->s;
    int64_t t = data_set_seq_length(l->set), n = l->step.data.global / l->step.data.micro / l->r->grid.dp;
    struct model_shape shape = {.b = s->batch.micro, .t = t, .recompute = !strcmp(s->numerics.recompute, "layer")};
    struct train_pass_options o = {.name = s->name,
                                   .model = l->student.m,
                                   .shape = &shape,
                                   .hook = stage_quant_hook(&l->quant),
                                   .head = TRAIN_HEAD_LOSS,
                                   .slots = train_slots(&l->r->grid, (int)size_max(1, n)),
                                   .training = true,
                                   .invariant = l->r->invariant,
                                   .with_ce = l->step.ce_weight > 0,
                                   .with_kl = l->step.kl_weight > 0,
                                   .temperature = l->temperature};
    if (l->teacher.m) {
        struct model_shape plain = {.b = s->batch.micro, .t = t};
        struct train_pass_options k = {.name = "teacher",
                                       .model = l->teacher.m,
                                       .hook = stage_quant_hook(&l->teacher_quant),
                                       .shape = &plain,
                                       .slots = 1,
                                       .invariant = l->r->invariant,
                                       .temperature = 1,
                                       .tag = 2};
        TM_TRY(train_pass_create(&k, NULL, &l->teacher_pass));
        o.teacher = l->teacher_pass;
    }
    TM_TRY(train_pass_create(&o, NULL, &l->pass));
    struct train_pass *all[3] = {l->pass};
    int count = 1;
    if (l->teacher_pass) all[count++] = l->teacher_pass;
    if (l->eval_set) {
        struct model_shape plain = {.b = s->batch.micro, .t = data_set_seq_length(l->eval_set)};
        o.name = "evaluation";
        o.shape = &plain;
        o.training = false;
        o.slots = 1;
        o.teacher = plain.t == t ? l->teacher_pass : NULL; /* the teacher's pass has the training rows' length */
        TM_TRY(train_pass_create(&o, NULL, &l->eval_pass));
        all[count++] = l->eval_pass;
    }
    return train_pass_bind(all, count);
}

static enum status weights_changed(void *context) {
    struct learn *l = context;
    return l->quant.q ? quant_model_apply(l->quant.q) : TM_OK;
}

/* Before an update: a checkpoint on its way must have its copy. The first step's gradient as a probe, under the parameters' names. */
static enum status write_gradients_all(void *context, int64_t step) {
    struct learn *l = context;
    stage_save_hold(l->r);
    const struct model *m = l->student.m;
    struct probe p = {0};
    enum status st = TM_OK;
    if (step != 0 || !*l->s->gradients_out) return TM_OK;
    for (int i = 0; i < m->n_params && st == TM_OK; i++) {
        dptr grad = m->param[i].role == MODEL_EMBED && !m->first ? m->tied.grad : m->param[i].w.grad;
        st = probe_add(&p, l->r->dev, &m->param[i].desc, grad);
    }
    st = par_agree_all(st);
    if (st == TM_OK) st = probe_write_all(&p, l->s->gradients_out);
    probe_free(&p);
    return st;
}

static enum status make_optim(struct learn *l) {
    const struct deck_stage *s = l->s;
    struct optim_adamw adamw = {.beta1 = s->optim.beta1,
                                .beta2 = s->optim.beta2,
                                .eps = s->optim.eps,
                                .decay = s->optim.weight_decay,
                                .bf16 = !strcmp(s->optim.master, "bf16"),
                                .seed = (uint64_t)s->run.seed};
    struct optim_group *group = NULL;
    int n = s->optim.groups.n;
    if (n > 0) TM_TRY(mem_alloc(&group, (size_t)n, sizeof *group));
    for (int i = 0; i < n; i++) {
        const struct deck_param_group *g = &s->optim.groups.v[i];
        group[i] = (struct optim_group){g->params, g->lr_scale, g->decay_scale, g->freeze};
    }
    enum status st = optim_create(l->student.m, &adamw, group, n, &l->step.optim);
    mem_free(&group);
    return st;
}

static enum status make_stepper(struct learn *l) {
    const struct deck_stage *s = l->s;
    struct train_stepper *t = &l->step;
    t->student = l->pass;
    t->clip_norm = s->optim.clip_norm;
    t->max_skipped = s->optim.max_skipped;
    t->schedule = (struct optim_schedule){.lr = s->optim.lr,
                                          .min_ratio = s->schedule.min_lr_ratio,
                                          .warmup = s->schedule.warmup,
                                          .steps = s->schedule.steps ? s->schedule.steps : s->steps};
    t->schedule.kind = !strcmp(s->schedule.name, "cosine")   ? OPTIM_COSINE
                       : !strcmp(s->schedule.name, "linear") ? OPTIM_LINEAR
                                                             : OPTIM_CONSTANT;
    t->weights_changed = weights_changed;
    t->gradients_all = write_gradients_all;
    t->context = l;
    TM_TRY(make_optim(l));
    TM_TRY(optim_grads_create(l->student.m, (int)s->numerics.dp_segments, &t->grads));
    return train_stepper_init(t);
}

static enum status open_all(struct learn *l, bool with_teacher) {
    const struct deck_stage *s = l->s;
    TM_TRY(stage_open_set_all(l->r, s, s->dataset, &l->set, NULL));
    int64_t t = data_set_seq_length(l->set), micro = s->batch.micro;
    l->step.data = (struct train_batching){l->set, micro, s->batch.global ? s->batch.global : micro * l->r->grid.dp};
    if (s->eval_set && s->eval_every > 0) TM_TRY(stage_open_set_all(l->r, s, s->eval_set, &l->eval_set, &l->eval_rows));
    if (l->eval_set) t = size_max(t, data_set_seq_length(l->eval_set));
    TM_TRY(stage_open_model_all(l->r, s, true, t, &l->student));
    TM_TRY(stage_open_quant_all(l->r, s, l->student.m, true, &l->quant));
    if (with_teacher) {
        TM_TRY(stage_open_teacher_all(l->r, s, t, &l->teacher));
        TM_TRY(stage_open_teacher_quant_all(l->r, s, l->teacher.m, &l->teacher_quant));
        TM_TRY(stage_pack_model_all(l->r, s, l->teacher.m));
    }
    enum status st = set_losses(l, with_teacher);
    if (st == TM_OK) st = make_passes(l);
    if (st == TM_OK) st = make_stepper(l);
    return par_agree_all(st);
}

/* --- checkpoints ------------------------------------------------------------------------------------------------------------- */
/* Weights, both moments, quantizers: one list for saving and loading. */
static enum status state(struct learn *l, struct ckpt_tensor **list, size_t *n) {
    static const char *const prefix[] = {"", "optim.first/", "optim.second/"};
    const struct model *m = l->student.m;
    size_t cap = 0;
    *list = NULL;
    *n = 0;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < m->n_params; i++) {
            struct ckpt_tensor t = {.desc = m->param[i].desc,
                                    .data = k ? optim_moment(&l->step.optim, &m->param[i], k - 1) : m->param[i].master};
            TM_TRY(str_prefix(t.desc.name, sizeof t.desc.name, prefix[k]));
            TM_TRY(mem_grow(list, &cap, *n + 1, sizeof **list));
            (*list)[(*n)++] = t;
        }
    return stage_quant_tensors(l->quant.q, list, &cap, n);
}

static enum status save_all(struct learn *l, bool finished, bool later) {
    struct ckpt_tensor *list;
    size_t n;
    json_t *meta = NULL;
    enum status st = state(l, &list, &n);
    if (st == TM_OK) st = stage_meta(l->quant.q, l->done, finished, &meta);
    if (st == TM_OK) json_object_set_new(meta, "skipped", json_integer(l->step.skipped));
    if (st == TM_OK) json_object_set_new(meta, "skipped_in_a_row", json_integer(l->step.skipped_in_a_row));
    if (st == TM_OK) json_object_set_new(meta, "updates", json_integer(l->step.optim.step));
    if (st == TM_OK && isfinite(l->loss)) json_object_set_new(meta, "loss", json_real(l->loss));
    if (st == TM_OK && l->owed) json_object_set_new(meta, "evaluation_owed", json_true());
    st = par_agree_all(st);
    if (st == TM_OK) st = stage_save_all(l->r, l->s, l->done, list, n, meta, later);
    l->saved = l->done;
    json_decref(meta);
    mem_free(&list);
    return st;
}

static enum status resume_all(struct learn *l) {
    struct ckpt *c;
    struct ckpt_tensor *list = NULL;
    size_t n = 0;
    int64_t skipped = 0, in_a_row = 0, updates = 0;
    TM_TRY(stage_resume_all(l->r, l->s, &c));
    if (!c) return TM_OK;
    const json_t *meta = ckpt_meta(c);
    enum status st = state(l, &list, &n);
    if (st == TM_OK) st = json_need_i64(meta, "done", ckpt_path(c), &l->done);
    if (st == TM_OK) st = json_need_i64(meta, "updates", ckpt_path(c), &updates);
    if (st == TM_OK) st = json_get_i64(meta, "skipped", ckpt_path(c), 0, &skipped);
    if (st == TM_OK) st = json_get_i64(meta, "skipped_in_a_row", ckpt_path(c), 0, &in_a_row);
    if (st == TM_OK) st = json_get_f64(meta, "loss", ckpt_path(c), NAN, &l->loss);
    l->owed = l->eval_pass && json_is_true(json_object_get(meta, "evaluation_owed"));
    l->saved = l->done;
    st = par_agree_all(st);
    if (st == TM_OK) st = ckpt_load_all(c, l->r->dev, list, (int)n);
    l->step.optim.step = updates;
    l->step.skipped = skipped;
    l->step.skipped_in_a_row = in_a_row;
    if (st == TM_OK && l->quant.q) st = quant_model_upload(l->quant.q);
    st = par_agree_all(st); /* applying is a matter of the tensor group */
    if (st == TM_OK && l->quant.q) st = quant_model_apply(l->quant.q);
    if (st == TM_OK) log_info("resumed step=%lld from=%s", (long long)l->done, ckpt_path(c));
    ckpt_close(&c);
    mem_free(&list);
    return par_agree_all(st);
}

/* --- the loop ---------------------------------------------------------------------------------------------------------------- */
static enum status log_step_all(struct learn *l, const struct train_result *x, double seconds) {
    if (l->done % l->s->log_every && l->done != l->s->steps) return TM_OK;
    struct stage_metric m[] = {{"loss", x->loss},           {"nll", x->nll},     {"kl", x->kl},
                               {"grad_norm", x->grad_norm}, {"lr", x->lr},       {"tokens", (double)x->tokens},
                               {"skipped", x->skipped},     {"seconds", seconds}};
    return par_agree_all(stage_metrics(l->r, l->s, l->done, m, (int)(sizeof m / sizeof *m)));
}

static enum status poll_all(struct learn *l) {
    bool save = l->wish || stage_save_due(l->r, l->s);
    enum status st = stage_poll_all(l->r, &save);
    l->wish = save;
    return st;
}

/* Asked to stop: save unless it is saved. */
static enum status stop_all(struct learn *l) {
    if (l->done > l->saved) TM_TRY(save_all(l, false, false));
    return TM_FAIL(TM_STOPPED, "stage %s stopped after step %lld of %lld; the same command goes on from there",
                   l->s->name, (long long)l->done, (long long)l->s->steps);
}

static enum status poll_eval_all(void *context, int64_t rounds) {
    (void)rounds;
    return poll_all(context);
}

/* eval_every: quality of the student as it is now, into metrics.jsonl. Broken off, it is owed: the next start begins with it. */
static enum status evaluate_all(struct learn *l) {
    struct train_tally t;
    l->owed = true;
    enum status st = train_eval_all(&(struct train_eval){.pass = l->eval_pass,
                                                         .set = l->eval_set,
                                                         .micro = l->s->batch.micro,
                                                         .samples = l->eval_rows,
                                                         .poll_all = poll_eval_all,
                                                         .poll_context = l},
                                    &t);
    if (st != TM_OK) return st == TM_STOPPED ? stop_all(l) : st;
    l->owed = false;
    if (t.tokens == 0) return TM_FAIL(TM_ERR_DATA, "data set %s has no token to score", l->s->eval_set->name);
    log_info("step=%lld eval_nll=%.6g eval_kl=%.4g", (long long)l->done, t.nll / t.tokens, t.kl / t.tokens);
    struct stage_metric m[] = {{"eval_nll", t.nll / t.tokens}, {"eval_kl", t.kl / t.tokens}};
    return par_agree_all(stage_metrics(l->r, l->s, l->done, m, l->eval_pass->o.teacher ? 2 : 1));
}

static enum status steps_all(struct learn *l) {
    const struct deck_stage *s = l->s;
    struct stage_progress progress = {0};
    struct train_result x = {0};
    if (l->owed) TM_TRY(evaluate_all(l));
    while (l->done < s->steps) {
        enum status stop = poll_all(l);
        if (stop == TM_STOPPED) return stop_all(l);
        TM_TRY(stop);
        bool due = l->wish || (s->checkpoint.every > 0 && l->done % s->checkpoint.every == 0);
        if (due && l->done > l->saved) TM_TRY(save_all(l, false, true));
        l->wish = false;
        double begin = clock_seconds();
        TM_TRY(train_step_all(&l->step, l->done, &x));
        l->done++;
        l->loss = x.loss;
        TM_TRY(log_step_all(l, &x, clock_seconds() - begin));
        stage_progress(&progress, l->done, s->steps, x.tokens, "loss=%.5g kl=%.4g norm=%.3g lr=%.3g", x.loss, x.kl,
                       x.grad_norm, x.lr);
        if (l->eval_pass && (l->done % s->eval_every == 0 || l->done == s->steps)) TM_TRY(evaluate_all(l));
    }
    TM_TRY(save_all(l, true, false));
    TM_TRY(stage_progress_result(l->r, s, &progress));
    TM_TRY(stage_result(l->r, s, "steps", (double)l->done, "steps"));
    TM_TRY(stage_result(l->r, s, "skipped", (double)l->step.skipped, "steps"));
    return isfinite(l->loss) ? stage_result(l->r, s, "loss", l->loss, "nats/token") : TM_OK;
}

/* Planned, one step stands for all, and so does one wave of an evaluation. */
static enum status plan_all(struct learn *l) {
    const struct deck_stage *s = l->s;
    struct train_result x;
    stage_plan_begin(l->r);
    TM_TRY(train_step_all(&l->step, 0, &x));
    stage_plan_rounds(l->r, "step", (double)s->steps, l->step.n_local);
    if (l->eval_pass) {
        struct train_tally none;
        const int64_t dp = l->r->grid.dp, each = size_ceil_div(l->eval_rows, s->batch.micro),
                      wave = train_wave(&l->r->grid, each);
        TM_TRY(train_eval_all(&(struct train_eval){.pass = l->eval_pass,
                                                   .set = l->eval_set,
                                                   .micro = s->batch.micro,
                                                   .samples = size_min(s->batch.micro * dp * wave, l->eval_rows)},
                              &none));
        stage_plan_rounds(l->r, "", (double)(size_ceil_div(s->steps, s->eval_every) * each) / (double)(dp * wave),
                          wave);
    }
    return save_all(l, true, true);
}

enum status stage_learn_all(struct stage_run *r, const struct deck_stage *s, bool with_teacher) {
    struct learn l = {.r = r, .s = s, .loss = NAN};
    enum status st = open_all(&l, with_teacher);
    if (st == TM_OK) st = resume_all(&l);
    if (st == TM_OK) st = par_agree_all(stage_metrics_begin(r, s, l.done));
    if (st == TM_OK) st = r->plan ? plan_all(&l) : steps_all(&l);
    stage_save_hold(r);
    train_stepper_free(&l.step);
    train_pass_destroy(&l.pass);
    train_pass_destroy(&l.eval_pass);
    train_pass_destroy(&l.teacher_pass);
    stage_close_quant(&l.quant);
    stage_close_model(&l.student);
    stage_close_quant(&l.teacher_quant);
    stage_close_model(&l.teacher);
    data_set_free(&l.set);
    data_set_free(&l.eval_set);
    return st;
}

enum status stage_train_all(struct stage_run *r, const struct deck_stage *s) { return stage_learn_all(r, s, false); }
enum status stage_distill_all(struct stage_run *r, const struct deck_stage *s) { return stage_learn_all(r, s, true); }
