/* Weights from disk into a model on a grid. */
#include "model/load.h"

#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "base/stop.h"
#include "hub/fp8.h"

/* A parameter in pieces of whole rows: what is read is still in the cache when it is looked at and uploaded. */
enum { PIECE = 1 << 20 }; /* elements */

static int64_t rows_of(const struct tensor_box *b) { return b->rank ? b->hi[0] - b->lo[0] : 1; }
static int64_t piece_rows(const struct tensor_box *b) {
    return size_max(1, PIECE / (tensor_box_elems(b) / rows_of(b)));
}

static enum status load_rows(struct model *m, const struct hub_model *h, const struct hub_entry *e,
                             const struct model_param *p, const struct hub_fp8 *fp8, float *host) {
    const struct tensor_box *all = &p->desc.box;
    int64_t step = piece_rows(all), row = tensor_box_elems(all) / rows_of(all);
    for (int64_t r = 0; r < rows_of(all); r += step) {
        struct tensor_box part = *all;
        int64_t rows = size_min(step, rows_of(all) - r);
        TM_TRY(stop_check("load"));
        if (part.rank) part.lo[0] += r, part.hi[0] = part.lo[0] + rows;
        TM_TRY(hub_read_box(h, e, &part, host));
        if (fp8) hub_fp8_apply(fp8, part.lo[0], rows, part.lo[1], row, host);
        TM_TRY(hub_need_finite(h, e, host, rows * row));
        TM_TRY(dev_upload(m->o.dev, dptr_f32(p->master, r * row), host, (size_t)(rows * row) * 4));
    }
    return TM_OK;
}

static enum status load_param(struct model *m, const struct hub_model *h, const struct model_param *p, float *host) {
    const struct hub_entry *e;
    struct hub_fp8 fp8;
    TM_TRY(hub_need(h, p->desc.name, p->desc.rank, p->desc.shape, &e));
    if (e->dtype != DTYPE_e4m3) return load_rows(m, h, e, p, NULL, host);
    TM_TRY(hub_fp8_read(h, e, &fp8));
    enum status st = load_rows(m, h, e, p, &fp8, host);
    hub_fp8_free(&fp8);
    return st;
}

enum status model_load_hub(struct model *m, const struct hub_model *h) {
    int64_t most = 0;
    float *host;
    for (int i = 0; i < m->n_params; i++) {
        const struct tensor_box *b = &m->param[i].desc.box;
        int64_t n = tensor_box_elems(b);
        if (n > 0) most = size_max(most, size_min(n, piece_rows(b) * (n / rows_of(b))));
    }
    TM_TRY(mem_alloc(&host, (size_t)most, sizeof *host));
    enum status st = TM_OK;
    for (int i = 0; i < m->n_params && st == TM_OK; i++)
        if (tensor_box_elems(&m->param[i].desc.box) > 0) st = load_param(m, h, &m->param[i], host);
    mem_free(&host);
    return st;
}
