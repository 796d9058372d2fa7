/* Gradient trees: virtual data-parallel groups, DP, row-segment leaves, tied embeddings, and the global norm. */
#include "optim/grads.h"

#include <math.h>

#include "base/mem.h"
#include "base/size.h"

static int64_t floats(const struct optim_grads *g) { return (int64_t)(g->m->grad_bytes / 4); }

enum { SEGMENTS = PAR_TP_SEGMENTS, TIED_TAG = 900 };

static enum status allocate(struct optim_grads *g) {
    struct model *m = g->m;
    const struct model_param *e = model_find(m, MODEL_EMBED, -1);
    size_t n = (size_t)m->n_params * SEGMENTS;
    if (m->config.tied && m->o.grid->pp > 1 && (m->first || m->last))
        TM_TRY(dev_alloc(m->o.dev, "tied gradient", (size_t)tensor_box_elems(&e->desc.box) * 4, &g->tied));
    TM_TRY(mem_alloc(&g->host_slots, n, sizeof *g->host_slots));
    return dev_alloc(m->o.dev, "norm slots", n * sizeof(double), &g->slots);
}

enum status optim_grads_create(struct model *m, int dp_segments, struct optim_grads *out) {
    int dp = m->o.grid->dp;
    *out = (struct optim_grads){.m = m, .groups = 1};
    if (dp_segments == 1) return allocate(out);
    if (dp_segments < dp || dp_segments > 8 || (dp_segments & (dp_segments - 1)) || dp_segments % dp)
        return TM_FAIL(
            TM_ERR_DECK,
            "numerics.dp_segments = %d: expected 1, or a power of two up to 8 that the %d data-parallel ranks divide",
            dp_segments, dp);
    out->groups = dp_segments / dp;
    for (int n = out->groups; n > 1; n /= 2) {
        TM_TRY(dev_alloc(m->o.dev, "gradients", m->grad_bytes, &out->level[out->n_levels]));
        out->n_levels++;
    }
    return allocate(out);
}

void optim_grads_destroy(struct optim_grads *g) {
    for (int i = 0; i < g->n_levels; i++) dev_free(g->m->o.dev, &g->level[i]);
    g->n_levels = 0;
    if (!g->m) return;
    dev_free(g->m->o.dev, &g->tied);
    dev_free(g->m->o.dev, &g->slots);
    mem_free(&g->host_slots);
}

size_t optim_grads_bytes(const struct optim_grads *g) { return g->m->grad_bytes * (size_t)(1 + g->n_levels); }

enum status optim_grads_begin(struct optim_grads *g) {
    for (int i = 0; i < 4; i++) g->used[i] = false;
    g->closed = (int64_t)g->m->grad_bytes;
    return model_begin_grads(g->m);
}

enum status optim_grads_push(struct optim_grads *g) {
    struct dev *d = g->m->o.dev;
    int i = 0;
    TM_TRY(model_settle_grads(g->m, 0));
    for (; i < g->n_levels && g->used[i]; i++) { /* two trees of one height make one of the next */
        TM_TRY(dev_add(d, &(struct add_args){.x = g->level[i], .y = g->m->grads, .n = floats(g)}));
        g->used[i] = false;
    }
    TM_TRY(dev_copy(d, &(struct copy_args){.x = g->m->grads, .y = g->level[i], .bytes = g->m->grad_bytes}));
    g->used[i] = true;
    return model_begin_grads(g->m);
}

enum status optim_grads_close(struct optim_grads *og, int64_t from) {
    struct model *m = og->m;
    const struct par_grid *g = m->o.grid;
    const int64_t n = (og->closed - from) / 4;
    const uint64_t everyone = g->dp < 64 ? (UINT64_C(1) << g->dp) - 1 : UINT64_MAX;
    const dptr x = dptr_add(m->grads, from);
    if (n <= 0) return TM_OK;
    TM_TRY(model_settle_grads(m, from));
    for (int i = 0; i < og->n_levels; i++) /* the last group meets a full tree of each height */
        TM_TRY(dev_add(m->o.dev, &(struct add_args){.x = dptr_add(og->level[i], from), .y = x, .n = n}));
    og->closed = from;
    return g->dp > 1 ? par_tree_start(g->dp_group, m->o.dev, x, n, everyone) : TM_OK;
}

/* The gradients of a tied embedding live on the first stage (look-up) and on the last (head): both get look-up + head. */
static enum status add_tied(struct optim_grads *og) {
    struct model *m = og->m;
    const struct par_grid *g = m->o.grid;
    const struct model_param *e = model_find(m, MODEL_EMBED, -1);
    struct dev *d = m->o.dev;
    int64_t n = tensor_box_elems(&e->desc.box), bytes = n * 4;
    int send, recv, peer = m->first ? g->pp - 1 : 0;
    if (!m->config.tied || (!m->first && !m->last)) return TM_OK;
    if (m->first && m->last) return dev_add(d, &(struct add_args){.x = m->tied.grad, .y = e->w.grad, .n = n});
    dptr mine = m->first ? e->w.grad : m->tied.grad;
    TM_TRY(par_recv_start(g->pp_group, d, og->tied, bytes, peer, TIED_TAG, &recv));
    TM_TRY(par_send_start(g->pp_group, d, mine, bytes, peer, TIED_TAG, &send));
    TM_TRY(par_wait(g->pp_group, send));
    TM_TRY(par_wait(g->pp_group, recv));
    return dev_add(d, &(struct add_args){.x = og->tied,
                                         .y = mine,
                                         .n = n}); /* two operands: their order does not matter */
}

static enum status fold(struct dev *d, dptr x, int64_t parts, int64_t n) {
    return parts > 1 ? dev_tree_fold(d, &(struct tree_fold_args){.x = x, .parts = parts, .n = n}) : TM_OK;
}

enum status optim_grads_finish(struct optim_grads *og) {
    struct model *m = og->m;
    const struct par_grid *g = m->o.grid;
    struct dev *d = m->o.dev;
    TM_TRY(optim_grads_close(og, 0));
    if (g->dp > 1) TM_TRY(par_tree_join(g->dp_group));
    for (int i = 0; i < m->n_params; i++) {
        struct model_param *p = &m->param[i];
        int64_t n = tensor_box_elems(&p->desc.box);
        if (!p->w.grad.a || n == 0 || p->grad_parts == 1) continue;
        if (p->grad_parts >
            OPS_ROW_SEGMENTS) { /* one leaf per KV group of the model, each filled by the rank that has the group */
            if (g->tp > 1) TM_TRY(par_sum_one_nonzero(g->tp_group, d, p->w.grad, p->grad_parts * n));
            TM_TRY(fold(d, p->w.grad, p->grad_parts / OPS_ROW_SEGMENTS, OPS_ROW_SEGMENTS * n));
        }
        TM_TRY(fold(d, p->w.grad, OPS_ROW_SEGMENTS, n));
    }
    return add_tied(og);
}

/* One slot per (parameter, segment): which rank fills it is decided by the box, so that every slot has exactly one owner in the model group. */
static bool counts(const struct model *m, const struct model_param *p) {
    if (!p->w.grad.a || p->frozen || tensor_box_elems(&p->desc.box) == 0) return false;
    return p->cut >= 0 || m->o.grid->tp_rank == 0;
}

static enum status norm_parts(struct model *m, dptr slots) {
    for (int i = 0; i < m->n_params; i++) {
        const struct model_param *p = &m->param[i];
        if (!counts(m, p)) continue;
        const struct tensor_box *b = &p->desc.box;
        bool vector = p->desc.rank == 1;
        int64_t rows = vector ? 1 : b->hi[0] - b->lo[0], cols = vector ? b->hi[0] - b->lo[0] : b->hi[1] - b->lo[1];
        for (int s = 0; s < (p->cut >= 0 ? SEGMENTS : 1); s++) {
            int64_t lo = 0, hi = 0;
            struct sum_squares_args a = {
                .x = p->w.grad, .out = dptr_add(slots, (i * SEGMENTS + s) * 8), .rows = rows, .cols = cols, .ld = cols};
            if (p->cut >= 0) {
                lo = size_max(tensor_axis_lo(&p->axis, s), b->lo[p->cut]) - b->lo[p->cut];
                hi = size_min(tensor_axis_lo(&p->axis, s + 1), b->hi[p->cut]) - b->lo[p->cut];
                if (hi <= lo) continue;
                bool by_rows = p->cut == 0 && !vector;
                a.x = dptr_f32(a.x, by_rows ? lo * cols : lo);
                *(by_rows ? &a.rows : &a.cols) = hi - lo;
            }
            TM_TRY(dev_sum_squares(m->o.dev, &a));
        }
    }
    return TM_OK;
}

enum status optim_grads_norm(struct optim_grads *og, double *norm) {
    struct model *m = og->m;
    const struct par_grid *g = m->o.grid;
    int64_t n = (int64_t)m->n_params * SEGMENTS;
    double sum = 0;
    TM_TRY(dev_fill(m->o.dev, &(struct fill_args){.y = og->slots, .n = 2 * n, .value = 0}));
    TM_TRY(norm_parts(m, og->slots));
    TM_TRY(dev_download(m->o.dev, og->host_slots, og->slots, (size_t)n * sizeof(double)));
    if (g->tp * g->pp > 1) TM_TRY(par_sum_slots_f64(g->model_group, og->host_slots, n));
    for (int64_t i = 0; i < m->n_params; i++) {
        double *x = og->host_slots + i * SEGMENTS;
        for (int d = 1; d < SEGMENTS; d *= 2)
            for (int j = 0; j + d < SEGMENTS; j += 2 * d) x[j] += x[j + d];
        sum += x[0];
    }
    *norm = sqrt(sum);
    return TM_OK;
}
