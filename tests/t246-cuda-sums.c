/* TEST ranks=2,4 backends=cuda tier=1 limit=300 */
/* TEST ranks=2 backends=host tier=1 */
/* optim/grads: the sum over replicas, closed layer by layer while lower layers are still to come, against all of it at the end, and against the tree of
 * the definition worked out element by element; over numbers of replicas and of groups. What no product wrote is zero. */
#include "base/mem.h"
#include "base/rng.h"
#include "optim/grads.h"
#include "tap_mpi.h"

static struct par_grid grid;
static struct dev *dev;
static struct model *m;
static float *leaf, *sum[2];             /* [grad_bytes / 4] */
static const struct model_param *silent; /* nothing is written to it */

static int64_t floats(void) { return (int64_t)(m->grad_bytes / 4); }
static int64_t at(dptr grad) { return (int64_t)(grad.a - m->grads.a) / 4; }

/* The gradient of virtual group `group` of the global batch. */
static float value(int group, int64_t i) { return rng_uniform(3, (uint64_t)group, (uint64_t)i) - 0.5f; }

static void make_leaf(int group) {
    const int64_t lo = at(silent->w.grad), n = silent->w.rows * silent->w.cols;
    for (int64_t i = 0; i < floats(); i++) leaf[i] = i >= lo && i < lo + n ? NAN : value(group, i);
}

/* Gradients [from, to), in floats, come into being. */
static void write(int64_t from, int64_t to) {
    must(dev_upload(dev, dptr_f32(m->grads, from), leaf + from, (size_t)(to - from) * 4));
    for (int i = 0; i < m->n_params; i++) {
        struct tape_weight *w = &m->param[i].w;
        if (w->written && &m->param[i] != silent && at(w->grad) >= from && at(w->grad) < to) *w->written = true;
    }
    if (m->tied.written && at(m->tied.grad) >= from && at(m->tied.grad) < to) *m->tied.written = true;
}

/* Matrices of layers below `layer` are not closed: they are not taken for unwritten ones. */
static bool below_untouched(int layer) {
    bool right = true;
    for (int i = 0; i < m->n_params; i++) {
        const struct model_param *p = &m->param[i];
        if (p->w.written && p->layer >= 0 && p->layer < layer) right &= !*p->w.written;
    }
    return right;
}

static void last_group(struct optim_grads *g, bool early) {
    const int layers = (int)m->config.layers;
    int64_t to = floats();
    must(dev_fill(dev, &(struct fill_args){.y = m->grads, .n = to, .value = NAN})); /* what is read too early shows */
    for (int l = layers; early && l >= 0; l--) {
        const int64_t from = model_grads_from(m, l) / 4;
        write(from, to);
        must(optim_grads_close(g, from * 4));
        ok(below_untouched(l), "  layer %d is closed, those below are not", l);
        to = from;
    }
    write(0, to);
    must(optim_grads_finish(g));
}

static void step(int segments, bool early, float *out) {
    struct optim_grads g;
    must(optim_grads_create(m, segments, &g));
    must(optim_grads_begin(&g));
    for (int k = 0; k < g.groups; k++) {
        make_leaf(grid.dp_rank * g.groups + k);
        if (k + 1 == g.groups) {
            last_group(&g, early);
        } else {
            write(0, floats());
            must(optim_grads_push(&g));
        }
    }
    must(dev_download(dev, out, m->grads, m->grad_bytes));
    optim_grads_destroy(&g);
}

/* The tree over all groups, pairs at distance 1, 2, 4, ... */
static float tree(int groups, int64_t i) {
    float x[64];
    for (int k = 0; k < groups; k++) x[k] = value(k, i);
    for (int d = 1; d < groups; d *= 2)
        for (int k = 0; k + d < groups; k += 2 * d) x[k] += x[k + d];
    return x[0];
}

static void check(int segments) {
    const int groups = segments > grid.dp ? segments : grid.dp;
    int64_t wrong = 0, elements = 0;
    step(segments, false, sum[0]);
    step(segments, true, sum[1]);
    ok(!memcmp(sum[0], sum[1], m->grad_bytes), "dp %d, %d groups: layer by layer or at the end, the same bits", grid.dp,
       groups);
    for (int i = 0; i < m->n_params; i++) {
        const struct model_param *p = &m->param[i];
        if (!p->w.written) continue; /* not a matrix, or leaves that are folded */
        for (int64_t k = 0; k < p->w.rows * p->w.cols; k++) {
            const float x = sum[1][at(p->w.grad) + k], want = p == silent ? 0 : tree(groups, at(p->w.grad) + k);
            wrong += memcmp(&x, &want, sizeof x) != 0;
            elements++;
        }
    }
    ok(wrong == 0 && elements > 10000, "  the tree of the definition (%lld of %lld differ)", (long long)wrong,
       (long long)elements);
}

int main(int argc, char **argv) {
    static const char *const models[] = {"tests/data/tiny-llama", "tests/data/uneven-llama"};
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(1, 1, 1, &grid));
    tap_devices_all(&grid, &dev);
    for (int k = 0; k < 2; k++) {
        struct model_config c;
        must(model_config_read(models[k], &c));
        must(model_create(&c, &(struct model_options){.dev = dev, .grid = &grid, .training = true, .max_positions = 16},
                          &m));
        silent = model_find(m, MODEL_DOWN, 1);
        must(mem_alloc(&leaf, m->grad_bytes, 1));
        for (int i = 0; i < 2; i++) must(mem_alloc(&sum[i], m->grad_bytes, 1));
        ok(model_grads_from(m, 0) == (int64_t)m->added_bytes, "%s: matrices follow what is added to", models[k]);
        check(8);
        check(k ? 1 : grid.dp);
        mem_free(&leaf);
        for (int i = 0; i < 2; i++) mem_free(&sum[i]);
        model_destroy(&m);
    }
    par_grid_destroy(&grid);
    dev_close(&dev);
    return tap_mpi_done();
}
