/* Weights from disk into a model on a grid. */
#include "model/load.h"

#include <string.h>

#include "base/mem.h"

static enum status load_param(struct model *m, const struct hub_model *h, const struct model_param *p, float *host) {
    const struct hub_entry *e;
    size_t n = (size_t)tensor_box_elems(&p->desc.box);
    TM_TRY(hub_need(h, p->desc.name, p->desc.rank, p->desc.shape, &e));
    TM_TRY(hub_read_box(h, e, &p->desc.box, host));
    TM_TRY(hub_need_finite(h, e, host, (int64_t)n));
    return dev_upload(m->o.dev, p->master, host, n * 4);
}

enum status model_load_hub(struct model *m, const struct hub_model *h) {
    size_t most = 0;
    float *host;
    for (int i = 0; i < m->n_params; i++) {
        size_t n = (size_t)tensor_box_elems(&m->param[i].desc.box);
        if (n > most) most = n;
    }
    TM_TRY(mem_alloc(&host, most, sizeof *host));
    enum status st = TM_OK;
    for (int i = 0; i < m->n_params && st == TM_OK; i++)
        if (tensor_box_elems(&m->param[i].desc.box) > 0) st = load_param(m, h, &m->param[i], host);
    mem_free(&host);
    return st;
}
