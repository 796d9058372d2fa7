/* AdamW over a model's parameters. */
#include "optim/optim.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"

/* All parameters of the model, also those of other ranks: a name is wrong on every rank or on none. */
static enum status set_groups(struct optim *o, const struct optim_group *group, int n_groups) {
    int first = n_groups; /* the first group that nothing matched yet */
    for (int g = n_groups - 1; g >= 0; g--) {
        bool used = false;
        for (int i = 0; i < o->m->n_params; i++) {
            int k = 0;
            while (k < n_groups && !str_glob(group[k].params, o->m->param[i].desc.name)) k++;
            used |= k == g;
            if (k == g) o->rate[i] = group[g];
        }
        if (!used) first = g;
    }
    if (first < n_groups)
        return TM_FAIL(TM_ERR_DECK,
                       "optim.groups[%d]: params = \"%s\" is the first match of no parameter; names are like \"%s\"",
                       first, group[first].params, o->m->param[0].desc.name);
    return TM_OK;
}

enum status optim_create(struct model *m, const struct optim_adamw *o, const struct optim_group *group, int n_groups,
                         struct optim *out) {
    *out = (struct optim){.m = m, .o = *o, .bytes = m->weight_bytes};
    TM_TRY(mem_alloc(&out->rate, (size_t)m->n_params, sizeof *out->rate));
    for (int i = 0; i < m->n_params; i++) out->rate[i] = (struct optim_group){"*", 1, 1, false};
    TM_TRY(set_groups(out, group, n_groups));
    for (int i = 0; i < m->n_params; i++) m->param[i].frozen = out->rate[i].freeze;
    TM_TRY(dev_alloc(m->o.dev, "optimizer", out->bytes, &out->first));
    return dev_alloc(m->o.dev, "optimizer", out->bytes, &out->second);
}

void optim_destroy(struct optim *o) {
    if (!o->m) return;
    mem_free(&o->rate);
    dev_free(o->m->o.dev, &o->first);
    dev_free(o->m->o.dev, &o->second);
}

dptr optim_moment(const struct optim *o, const struct model_param *p, int which) {
    return dptr_add(which ? o->second : o->first, (int64_t)(p->master.a - o->m->weights.a));
}

enum status optim_update(struct optim *o, double lr, double grad_scale) {
    struct model *m = o->m;
    o->step++;
    struct adamw_args a = {.beta1 = (float)o->o.beta1,
                           .beta2 = (float)o->o.beta2,
                           .eps = (float)o->o.eps,
                           .correction1 = (float)(1 - pow(o->o.beta1, (double)o->step)),
                           .correction2 = (float)(1 - pow(o->o.beta2, (double)o->step)),
                           .grad_scale = (float)grad_scale,
                           .rounding_seed =
                               o->o.bf16 ? (uint32_t)rng_u64(o->o.seed, rng_stream("optim"), (uint64_t)o->step) | 1
                                         : 0};
    for (int i = 0; i < m->n_params; i++) {
        const struct model_param *p = &m->param[i];
        /* the last stage's copy of a tied embedding has its gradient in the head's buffer */
        dptr grad = p->role == MODEL_EMBED && !m->first ? m->tied.grad : p->w.grad;
        a.n = tensor_box_elems(&p->desc.box);
        if (a.n == 0 || !grad.a || p->frozen) continue;
        a.w = p->master;
        a.m = optim_moment(o, p, 0);
        a.v = optim_moment(o, p, 1);
        a.g = grad;
        a.lr = (float)(lr * o->rate[i].lr_scale);
        a.decay = p->desc.rank == 2 ? (float)(o->o.decay * o->rate[i].decay_scale) : 0;
        TM_TRY(dev_adamw(m->o.dev, &a));
    }
    return TM_OK;
}
