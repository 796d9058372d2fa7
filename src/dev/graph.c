/* Stretches of operations that repeat: run, then recorded, then queued as one. */
#include "base/mem.h"
#include "dev/cuda_plugin.h"
#include "dev/device.h"

struct dev_graph {
    struct cuda_graph *recorded;
    bool seen, records;
    struct dev_counter counter[OP_COUNT]; /* while it is recorded: of the device before; then what it does */
};

static enum status failed(int status) {
    return status ? TM_FAIL((enum status)status, "cuda: %s", cuda_plugin()->error()) : TM_OK;
}

static void count(struct dev *d, const struct dev_graph *g) {
    for (int i = 0; i < OP_COUNT; i++) {
        d->counter[i].calls += g->counter[i].calls;
        d->counter[i].flops += g->counter[i].flops;
        d->counter[i].bytes += g->counter[i].bytes;
    }
    d->graph_runs++;
}

static enum status run(struct dev *d, struct dev_graph *g, bool *done) {
    int ran;
    TM_TRY(failed(cuda_plugin()->graph_run(d->gpu, g->recorded, &ran)));
    *done = ran;
    if (ran) return TM_OK;
    cuda_plugin()->graph_close(g->recorded); /* work space was moved: the kernels hold its old address */
    g->recorded = NULL;
    return TM_OK;
}

enum status dev_graph_begin(struct dev *d, struct dev_graph **graph, bool *done) {
    *done = false;
    if (!d->graphs) return TM_OK;
    if (!*graph) TM_TRY(mem_alloc(graph, 1, sizeof **graph));
    struct dev_graph *g = *graph;
    if (g->recorded) TM_TRY(run(d, g, done));
    if (*done) count(d, g);
    g->records = g->seen && !*done;
    g->seen = true;
    if (!g->records) return TM_OK;
    for (int i = 0; i < OP_COUNT; i++) g->counter[i] = d->counter[i];
    return failed(cuda_plugin()->graph_begin(d->gpu));
}

enum status dev_graph_end(struct dev *d, struct dev_graph *g, enum status outcome) {
    int ran;
    if (!g || !g->records) return outcome;
    g->records = false;
    const int st = cuda_plugin()->graph_end(d->gpu, outcome == TM_OK ? &g->recorded : NULL);
    if (outcome != TM_OK) return outcome;
    TM_TRY(failed(st));
    for (int i = 0; i < OP_COUNT; i++) {
        g->counter[i].calls = d->counter[i].calls - g->counter[i].calls;
        g->counter[i].flops = d->counter[i].flops - g->counter[i].flops;
        g->counter[i].bytes = d->counter[i].bytes - g->counter[i].bytes;
    }
    d->graph_runs++;
    return failed(cuda_plugin()->graph_run(d->gpu, g->recorded, &ran)); /* it was only recorded */
}

void dev_graph_free(struct dev_graph **graph) {
    if (*graph && (*graph)->recorded) cuda_plugin()->graph_close((*graph)->recorded);
    mem_free(graph);
}

int64_t dev_graph_runs(const struct dev *d) { return d->graph_runs; }
bool dev_records(const struct dev *d) { return d->graphs; }
