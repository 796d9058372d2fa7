/* Optimizers over a model's parameters: AdamW with decoupled decay, fp32 state on the rank that holds the box. */
#pragma once

#include "model/model.h"

struct optim_adamw {
    double beta1, beta2, eps, decay; /* decay applies to matrices only */
    bool bf16;                       /* weights become bf16 values at every update, by stochastic rounding */
    uint64_t seed;                   /* of that */
};

/* Settings for the parameters whose hub name matches a glob; the first match wins, no match is {1, 1, false}. */
struct optim_group {
    const char *params;
    double lr_scale, decay_scale; /* times the learning rate of the step, times optim_adamw.decay */
    bool freeze;                  /* never updated, and no part of the gradient's norm */
};

struct optim {
    struct model *m;
    struct optim_adamw o;
    int64_t step;             /* updates made */
    dptr first, second;       /* moments, laid out like m->weights */
    size_t bytes;             /* of one moment */
    struct optim_group *rate; /* [n_params] the settings of each parameter */
};

/* Copies *o and the groups' settings, sets model_param.frozen; m outlives the optimizer. Errors: DECK (a group that no parameter of the model
 * matches first), MEMORY. Local. */
enum status optim_create(struct model *m, const struct optim_adamw *o, const struct optim_group *group, int n_groups,
                         struct optim *out);
void optim_destroy(struct optim *o);
/* One update of the master weights with learning rate lr; gradients are multiplied by grad_scale (clipping) first. Local. */
enum status optim_update(struct optim *o, double lr, double grad_scale);
/* Address of a moment of parameter p (which: 0 first, 1 second). */
dptr optim_moment(const struct optim *o, const struct model_param *p, int which);
