/* Recording what a planned rank does. */
#include "stage/trace.h"

#include "base/mem.h"

void trace_add(struct trace *t, struct trace_event e) {
    if (t->status == TM_OK) t->status = mem_grow(&t->event, &t->cap, t->n + 1, sizeof e);
    if (t->status == TM_OK) t->event[t->n++] = e;
}

static void hear_work(void *trace, int op, double flops, double bytes) {
    trace_add(trace, (struct trace_event){.kind = TRACE_WORK, .what = op, .flops = flops, .bytes = bytes});
}

static void hear_traffic(void *trace, const struct par_traffic *x) {
    enum trace_kind kind = x->kind == PAR_TRAFFIC_SEND   ? TRACE_SEND
                           : x->kind == PAR_TRAFFIC_RECV ? TRACE_RECV
                                                         : TRACE_GROUP;
    trace_add(trace, (struct trace_event){.kind = kind,
                                          .what = (int)x->kind,
                                          .group = *x->group,
                                          .peer = x->peer,
                                          .tag = x->tag,
                                          .bytes = (double)x->bytes});
}

enum status trace_begin(struct trace *t, struct dev *d, struct par_grid *g) {
    t->n = t->spans = 0;
    t->status = TM_OK;
    t->listener = (struct par_listener){hear_traffic, t};
    dev_listen(d, hear_work, t);
    return par_grid_listen(g, &t->listener);
}

void trace_span_end(struct trace *t, double rounds, bool loop) {
    size_t from = t->spans ? t->span[t->spans - 1].to : 0;
    if (t->status == TM_OK) t->status = mem_grow(&t->span, &t->span_cap, t->spans + 1, sizeof *t->span);
    if (t->status == TM_OK) t->span[t->spans++] = (struct trace_span){from, t->n, rounds, loop};
}

void trace_free(struct trace *t) {
    mem_free(&t->event);
    mem_free(&t->span);
    *t = (struct trace){0};
}
