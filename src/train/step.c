/* One optimizer step over a global batch. */
#include "train/step.h"

#include <math.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/size.h"

enum { TALLY = sizeof(struct train_tally) / sizeof(double) };
_Static_assert(sizeof(struct train_tally) == TALLY * sizeof(double), "a tally is an array of doubles");

static int64_t global_micro_batches(const struct train_stepper *s) { return s->data.global / s->data.micro; }

/* Numbers that a micro-batch's tally is made of. */
static int64_t results_of(const struct train_stepper *s) { return TRAIN_RESULTS * tape_tokens(s->student->t); }

enum status train_stepper_init(struct train_stepper *s) {
    const struct par_grid *g = s->student->grid;
    int64_t micro = s->data.micro, global = s->data.global;
    if (micro < 1 || global % (micro * g->dp))
        return TM_FAIL(
            TM_ERR_DECK,
            "batch.global = %lld: expected a multiple of batch.micro = %lld times the %d data-parallel ranks",
            (long long)global, (long long)micro, g->dp);
    int64_t n = global_micro_batches(s) / g->dp;
    if (n % s->grads.groups)
        return TM_FAIL(TM_ERR_DECK,
                       "numerics.dp_segments: the %lld micro-batches of a rank do not fall into its %d segments",
                       (long long)n, s->grads.groups);
    s->n_local = (int)n;
    TM_TRY(mem_alloc(&s->slots, (size_t)global_micro_batches(s) * TALLY, sizeof *s->slots));
    TM_TRY(mem_alloc(&s->results, s->student->o.model->last ? (size_t)(n * results_of(s)) : 0, sizeof *s->results));
    return data_batches_create(n, micro, data_set_seq_length(s->data.set), &s->batch);
}

void train_stepper_free(struct train_stepper *s) {
    data_batches_free(s->n_local, &s->batch);
    mem_free(&s->slots);
    mem_free(&s->results);
    optim_destroy(&s->optim);
    optim_grads_destroy(&s->grads);
}

static int64_t global_index(const struct train_stepper *s, int i) {
    return (int64_t)s->student->grid->dp_rank * s->n_local + i;
}

static enum status fill_batches(struct train_stepper *s, int64_t step, int64_t *valid) {
    *valid = 0;
    if (fault_here("train", "data")) return TM_FAIL(TM_ERR_DATA, "injected fault: train:data");
    for (int i = 0; i < s->n_local; i++) {
        int64_t first = step * s->data.global + global_index(s, i) * s->data.micro;
        TM_TRY(data_batch_fill(s->data.set, first, s->data.micro, &s->batch[i]));
        *valid += s->batch[i].valid;
    }
    return TM_OK;
}

static enum status forward(void *context, int i, int slot) {
    struct train_stepper *s = context;
    if (fault_here("train", "forward")) return TM_FAIL(TM_ERR_DEVICE, "injected fault: train:forward");
    par_phase("forward");
    TM_TRY(train_pass_forward(s->student, slot, &s->batch[i], s->ce, s->kl));
    return train_pass_fetch(s->student, slot, s->results + i * results_of(s));
}

/* After the step's wait. One rank of the last stage speaks for a micro-batch. */
static void tally_step(struct train_stepper *s) {
    for (int i = 0; s->student->grid->tp_rank == 0 && i < s->n_local; i++) {
        struct train_tally tally;
        train_pass_tally(s->student, s->results + i * results_of(s), &s->batch[i], &tally);
        for (int j = 0; j < TALLY; j++) s->slots[global_index(s, i) * TALLY + j] = ((const double *)&tally)[j];
    }
}

/* In the last backward pass of a step: layers from `first` of this stage on have their gradients. */
static enum status passed(void *context, int first) {
    struct train_stepper *s = context;
    const struct model *m = s->student->o.model;
    return optim_grads_close(&s->grads, model_grads_from(m, m->layer0 + first));
}

static enum status backward(void *context, int i, int slot) {
    struct train_stepper *s = context;
    const int group = s->n_local / s->grads.groups;
    const bool last = i + 1 == s->n_local, told = last && par_runs_beside(s->student->grid->dp_group);
    par_phase("backward");
    TM_TRY(train_pass_backward(s->student, slot, told ? &(struct tape_told){passed, s} : NULL));
    return (i + 1) % group == 0 && !last ? optim_grads_push(&s->grads) : TM_OK;
}

static void sum_tallies(const double *slots, int64_t n, struct train_tally *out) {
    *out = (struct train_tally){0};
    for (int64_t i = 0; i < n; i++) {
        const struct train_tally *t = (const struct train_tally *)(const void *)(slots + i * TALLY);
        out->nll += t->nll;
        out->kl += t->kl;
        out->tokens += t->tokens;
        out->agree += t->agree;
    }
}

static enum status update(struct train_stepper *s, int64_t step, struct train_result *r) {
    r->lr = optim_lr(&s->schedule, step);
    r->skipped = !isfinite(r->grad_norm) || !isfinite(r->loss);
    if (r->skipped) {
        s->skipped++;
        if (++s->skipped_in_a_row > s->max_skipped)
            return TM_FAIL(TM_ERR_NUMERIC,
                           "step %lld: the gradient is not finite (norm %g, loss %g) for %lld steps in a row; "
                           "optim.max_skipped = %lld",
                           (long long)step, r->grad_norm, r->loss, (long long)s->skipped_in_a_row,
                           (long long)s->max_skipped);
        return TM_OK;
    }
    s->skipped_in_a_row = 0;
    double scale = s->clip_norm > 0 && r->grad_norm > s->clip_norm ? s->clip_norm / r->grad_norm : 1;
    TM_TRY(optim_update(&s->optim, r->lr, scale));
    return s->weights_changed ? s->weights_changed(s->context) : TM_OK;
}

/* From the batches to the gradients' norm. A rank that fails in it leaves those that wait for it. */
static enum status differentiate(struct train_stepper *s, int64_t step, double *grad_norm) {
    TM_TRY(optim_grads_begin(&s->grads));
    TM_TRY(train_1f1b(s->student->grid, s->n_local, s->student->o.slots, &(struct train_work){s, forward, backward}));
    TM_TRY(train_pass_drain(s->student));
    par_note(log_stage(), step, "gradients");
    TM_TRY(optim_grads_finish(&s->grads));
    return optim_grads_norm(&s->grads, grad_norm); /* the one wait for the device: all results are here */
}

enum status train_step_all(struct train_stepper *s, int64_t step, struct train_result *out) {
    const struct par_grid *g = s->student->grid;
    int64_t valid, n = global_micro_batches(s);
    struct train_tally sum;
    *out = (struct train_result){0};
    par_note(log_stage(), step, "data");
    TM_TRY(par_agree_all(fill_batches(s, step, &valid)));
    if (g->dp > 1) TM_TRY(par_reduce_i64(g->dp_group, &valid, 1, PAR_SUM));
    if (valid == 0) return TM_FAIL(TM_ERR_DATA, "step %lld: no token of the batch is scored", (long long)step);
    s->ce = s->ce_weight / (double)valid;
    s->kl = s->kl_weight * s->student->o.temperature /
            (double)valid; /* T^2 of the loss times 1/T of the logits' gradient */
    for (int64_t i = 0; i < n * TALLY; i++) s->slots[i] = 0;
    TM_TRY(par_agree_all(differentiate(s, step, &out->grad_norm)));
    tally_step(s);
    TM_TRY(par_sum_slots_f64(g->world, s->slots, n * TALLY));
    sum_tallies(s->slots, n, &sum);
    out->tokens = valid;
    out->nll = sum.nll / (double)valid;
    out->kl = sum.kl / (double)valid;
    double t = s->student->o.temperature;
    out->loss = s->ce_weight * out->nll + s->kl_weight * t * t * out->kl;
    if (s->gradients_all) TM_TRY(s->gradients_all(s->context, step));
    par_phase("update");
    return update(s, step, out);
}

/* --- evaluation ------------------------------------------------------------------------------------------------------------ */
static enum status eval_one(const struct train_eval *e, const struct data_batch *b, double *slot_out, int64_t i,
                            int slot) {
    struct train_tally tally;
    TM_TRY(train_pass_forward(e->pass, slot, b, 0, 0));
    TM_TRY(train_pass_fetch(e->pass, slot, e->pass->host));
    TM_TRY(dev_sync(e->pass->dev));
    train_pass_tally(e->pass, e->pass->host, b, &tally);
    for (int j = 0; j < TALLY && e->pass->grid->tp_rank == 0; j++) slot_out[j] = ((const double *)&tally)[j];
    return e->each ? e->each(e->context, i, slot, b) : TM_OK;
}

static enum status eval_fill(const struct train_eval *e, int64_t from, int64_t to, struct data_batch *b) {
    for (int64_t i = from; i < to; i++) {
        const int64_t first = i * e->micro;
        TM_TRY(data_batch_fill(e->set, first, size_min(e->samples - first, e->micro), &b[i - from]));
    }
    return TM_OK;
}

/* Micro-batches are dealt to the DP ranks in consecutive runs; runs are equal in number on all ranks of a pipeline. b: a wave of them. */
static enum status eval_run_all(const struct train_eval *e, struct data_batch *b, double *slots, int64_t n) {
    const struct par_grid *g = e->pass->grid;
    const int64_t wave = train_wave(g, n);
    int64_t from = n * g->dp_rank / g->dp, to = n * (g->dp_rank + 1) / g->dp, rounds = (n + g->dp - 1) / g->dp;
    enum status mine = TM_OK;                    /* of the wave before: told with the next one */
    for (int64_t k = 0; k < rounds; k += wave) { /* agreement needs the same number of waves everywhere */
        const int64_t lo = size_min(from + k, to), hi = size_min(lo + wave, to);
        enum status stop = e->poll_all ? e->poll_all(e->poll_context, k) : TM_OK;
        if (stop != TM_OK) {
            TM_TRY(train_pass_drain(e->pass)); /* what is on its way between pipeline stages arrives */
            return stop;
        }
        par_note(log_stage(), lo, "data");
        TM_TRY(par_agree_all(mine == TM_OK ? eval_fill(e, lo, hi, b) : mine));
        for (int64_t i = lo; i < hi && mine == TM_OK; i++) {
            par_note(log_stage(), i, "forward");
            mine = eval_one(e, &b[i - lo], slots + i * TALLY, i, (int)((i - from) % e->pass->o.slots));
        }
    }
    return mine == TM_OK ? train_pass_drain(e->pass) : mine;
}

enum status train_eval_all(const struct train_eval *e, struct train_tally *out) {
    const int64_t n = (e->samples + e->micro - 1) / e->micro, wave = train_wave(e->pass->grid, n);
    struct data_batch *b = NULL;
    double *slots;
    TM_TRY(mem_alloc(&slots, (size_t)n * TALLY, sizeof *slots));
    enum status st = par_agree_all(data_batches_create(wave, e->micro, data_set_seq_length(e->set), &b));
    if (st == TM_OK) st = par_agree_all(eval_run_all(e, b, slots, n));
    if (st == TM_OK) st = par_sum_slots_f64(e->pass->grid->world, slots, n * TALLY);
    if (st == TM_OK) sum_tallies(slots, n, out);
    data_batches_free(wave, &b);
    mem_free(&slots);
    return st;
}
