/* One optimizer step over a global batch, and evaluation over a data set: the loops that train, distill and evaluate share. */
#pragma once

#include "optim/grads.h"
#include "optim/optim.h"
#include "optim/schedule.h"
#include "train/pass.h"

struct train_batching {
    struct data_set *set;
    int64_t micro, global; /* sequences; global is a multiple of micro * dp */
};

struct train_stepper {
    struct train_pass *student; /* recorded with training and TRAIN_HEAD_LOSS */
    struct train_batching data;
    double ce_weight, kl_weight; /* of the loss; the KL is multiplied by temperature^2 (Hinton et al. 2015) */
    struct optim optim;
    struct optim_grads grads;
    struct optim_schedule schedule;
    double clip_norm;    /* 0: none */
    int64_t max_skipped; /* updates skipped in a row for NaN or Inf before the run gives up */
    int64_t skipped, skipped_in_a_row;
    /* After the master weights changed (a quantizer renews its copies). May be NULL. Local. */
    enum status (*weights_changed)(void *context);
    /* Before clipping, with finished gradients, once per step. May be NULL. Collective over the world. */
    enum status (*gradients_all)(void *context, int64_t step);
    void *context;
    /* own */
    struct data_batch *batch; /* [local micro-batches] */
    int n_local;
    float *results; /* [local micro-batches][TRAIN_RESULTS * tokens]: fetched at the end of the step */
    double *slots;  /* tallies of all micro-batches of the global batch */
    double ce, kl;  /* gradient weight per scored token of this step */
};

struct train_result {
    double loss, nll, kl, grad_norm, lr; /* means per scored token; loss = weighted sum */
    int64_t tokens;
    bool skipped; /* the gradient was not finite: no update */
};

/* Check the batch sizes (DECK) and allocate; student, data, weights, optim, grads, schedule are set by the caller. Local. */
enum status train_stepper_init(struct train_stepper *s);
void train_stepper_free(struct train_stepper *s);
/* Step number `step` (from 0): samples [step * global, (step + 1) * global) of the set. Errors of one rank's data are agreed before any
 * transfer. ERR_NUMERIC after max_skipped skipped updates in a row. Collective over the world. */
enum status train_step_all(struct train_stepper *s, int64_t step, struct train_result *out);

/* Evaluate `samples` rows of the set from sample 0, micro-batch by micro-batch: the sums do not depend on the grid. `each` (may be NULL) is called
 * after each micro-batch of this rank with its global number; `poll_all` (may be NULL; collective, the same answer on every rank) before each
 * train_wave of rounds of a micro-batch on every replica, with those that are done: what it raises, TM_STOPPED say, ends the evaluation.
 * Collective over the world. */
struct train_eval {
    struct train_pass *pass; /* forward only, slots >= 1 */
    struct data_set *set;
    int64_t micro, samples;
    enum status (*each)(void *context, int64_t micro_batch, int slot, const struct data_batch *b);
    void *context;
    enum status (*poll_all)(void *poll_context, int64_t rounds);
    void *poll_context;
};
enum status train_eval_all(const struct train_eval *e, struct train_tally *out);
