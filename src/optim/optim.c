/* AdamW over a model's parameters. */
#include "optim/optim.h"

#include <math.h>

enum status optim_create(struct model *m, const struct optim_adamw *o, struct optim *out) {
    *out = (struct optim){.m = m, .o = *o, .bytes = m->weight_bytes};
    TM_TRY(dev_alloc(m->o.dev, "optimizer", out->bytes, &out->first));
    return dev_alloc(m->o.dev, "optimizer", out->bytes, &out->second);
}

void optim_destroy(struct optim *o) {
    if (!o->m) return;
    dev_free(o->m->o.dev, &o->first);
    dev_free(o->m->o.dev, &o->second);
}

dptr optim_moment(const struct optim *o, const struct model_param *p, int which) {
    return dptr_add(which ? o->second : o->first, (int64_t)(p->master.a - o->m->weights.a));
}

enum status optim_update(struct optim *o, double lr, double grad_scale) {
    struct model *m = o->m;
    o->step++;
    struct adamw_args a = {.lr = (float)lr,
                           .beta1 = (float)o->o.beta1,
                           .beta2 = (float)o->o.beta2,
                           .eps = (float)o->o.eps,
                           .correction1 = (float)(1 - pow(o->o.beta1, (double)o->step)),
                           .correction2 = (float)(1 - pow(o->o.beta2, (double)o->step)),
                           .grad_scale = (float)grad_scale};
    for (int i = 0; i < m->n_params; i++) {
        const struct model_param *p = &m->param[i];
        /* the last stage's copy of a tied embedding has its gradient in the head's buffer */
        dptr grad = p->role == MODEL_EMBED && !m->first ? m->tied.grad : p->w.grad;
        a.n = tensor_box_elems(&p->desc.box);
        if (a.n == 0 || !grad.a) continue;
        a.w = p->master;
        a.m = optim_moment(o, p, 0);
        a.v = optim_moment(o, p, 1);
        a.g = grad;
        a.decay = p->desc.rank == 2 ? (float)o->o.decay : 0;
        TM_TRY(dev_adamw(m->o.dev, &a));
    }
    return TM_OK;
}
