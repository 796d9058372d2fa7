/* Optimizers over a model's parameters: AdamW with decoupled decay, fp32 state on the rank that holds the box. */
#pragma once

#include "model/model.h"

struct optim_adamw {
    double beta1, beta2, eps, decay; /* decay applies to matrices only */
};

struct optim {
    struct model *m;
    struct optim_adamw o;
    int64_t step;       /* updates made */
    dptr first, second; /* moments, laid out like m->weights */
    size_t bytes;       /* of one moment */
};

enum status optim_create(struct model *m, const struct optim_adamw *o, struct optim *out);
void optim_destroy(struct optim *o);
/* One update of the master weights with learning rate lr; gradients are multiplied by grad_scale (clipping) first. Local. */
enum status optim_update(struct optim *o, double lr, double grad_scale);
/* Address of a moment of parameter p (which: 0 first, 1 second). */
dptr optim_moment(const struct optim *o, const struct model_param *p, int which);
