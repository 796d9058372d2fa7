/* Rooflines for operations, rings for collectives, latency and rate for messages.
 *
 * An operation that the machine file lists takes what was measured; another takes the longer of its FLOPs (matrix products, attention) at the
 * rank's rate and its bytes at the memory's. A sum over P ranks moves 2 n (P - 1) / P bytes of a rank, as a ring and as this program's slices do
 * (two ranks swap n), of which the part that goes to ranks of other nodes takes the network's rate; all ranks are taken to send at once. */
#include "stage/cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* "|name|" in the list. */
static bool among(const char *list, const char *name) {
    char word[64];
    int n = snprintf(word, sizeof word, "|%s|", name);
    return n < (int)sizeof word && strstr(list, word) != NULL;
}
static bool is_product(const char *name) { return among("|gemm|attn_fwd|attn_bwd|", name); }

/* How much of an operation's bytes the machine's program moves: activations shrink with their elements, the state of the optimizer stays in fp32. */
static double bytes_share(const struct cost *c, const char *name) {
    bool state = among("|adamw|sum_squares|", name);
    double share = state ? 1 : (double)c->m->program.element_bytes / 4;
    if (state && c->m->program.sharded_optimizer) share /= c->place.dp;
    if (c->m->program.sequence_parallel &&
        among("|rmsnorm_fwd|rmsnorm_bwd|layernorm_fwd|layernorm_bwd|add|embed_fwd|embed_bwd|", name))
        share /= c->place.tp;
    return share;
}

static const struct deck_machine_op *row_named(const struct deck_machine *m, const char *name, const char *suffix) {
    size_t n = strlen(name);
    for (int i = 0; i < m->ops.n; i++)
        if (!strncmp(m->ops.v[i].op, name, n) && !strcmp(m->ops.v[i].op + n, suffix)) return &m->ops.v[i];
    return NULL;
}

static double inverse(double rate) { return rate > 0 ? 1e-9 / rate : 0; }

static struct cost_op make_op(struct cost *c, const char *name, bool bf16) {
    const struct deck_machine *m = c->m;
    const struct deck_machine_op *row = bf16 && is_product(name) ? row_named(m, name, "_bf16") : NULL;
    if (!row) row = row_named(m, name, "");
    if (row) return (struct cost_op){row->call_us * 1e-6, inverse(row->gflops), inverse(row->gbs)};
    double rate = bf16 && m->rank.bf16_gflops > 0 ? m->rank.bf16_gflops : m->rank.fp32_gflops;
    if (!(rate > 0) || !(m->rank.memory_gbs > 0)) c->lacks_rates = true;
    return (struct cost_op){m->rank.call_us * 1e-6, is_product(name) ? inverse(rate) : 0,
                            inverse(m->rank.memory_gbs) * bytes_share(c, name)};
}

static enum status check_rows(const struct deck_machine *m) {
    for (int i = 0; i < m->ops.n; i++) {
        bool known = false;
        for (int k = 0; k < dev_op_count() && !known; k++) {
            size_t n = strlen(dev_op_name(k));
            const char *rest = m->ops.v[i].op + n;
            known = !strncmp(m->ops.v[i].op, dev_op_name(k), n) && (!*rest || !strcmp(rest, "_bf16"));
        }
        if (!known)
            return TM_FAIL(TM_ERR_DECK, "%s: ops[%d].op = \"%s\": expected an operation (--list ops)", m->file, i,
                           m->ops.v[i].op);
    }
    return TM_OK;
}

enum status cost_create(const struct deck_machine *m, const struct par_grid *place, bool bf16, struct cost *out) {
    *out = (struct cost){.m = m, .place = *place};
    TM_TRY(check_rows(m));
    TM_TRY(mem_alloc(&out->op, (size_t)dev_op_count(), sizeof *out->op));
    for (int i = 0; i < dev_op_count(); i++) out->op[i] = make_op(out, dev_op_name(i), bf16);
    return TM_OK;
}

void cost_free(struct cost *c) { mem_free(&c->op); }

/* --- links -------------------------------------------------------------------------------------------------------------------- */
struct line { /* a group's ranks in the world: first, first + step, ... */
    int64_t size, step, first;
};

static int64_t world_rank(const struct par_grid *g) {
    return g->tp_rank + (int64_t)g->tp * (g->cp_rank + (int64_t)g->cp * (g->dp_rank + (int64_t)g->dp * g->pp_rank));
}

static struct line line_of(const struct par_grid *g, char group) {
    int64_t rank = world_rank(g), replica = (int64_t)g->tp * g->cp, stage = replica * g->dp;
    if (group == 't') return (struct line){g->tp, 1, rank - g->tp_rank};
    if (group == 'd') return (struct line){g->dp, replica, rank - replica * g->dp_rank};
    return (struct line){g->pp, stage, rank - stage * g->pp_rank};
}

/* Bytes a second of a link; 0 bytes a second are none: the message is free, and that is noted. */
static double per_byte(struct cost *c, const struct deck_machine_link *l) {
    if (!(l->gbs > 0)) c->lacks_links = true;
    return inverse(l->gbs) * (double)c->m->program.element_bytes / 4;
}

bool cost_beside(const struct cost *c) { return c->m->program.overlap < 0 && c->m->rank.threads == 0; }

static double group_seconds(struct cost *c, const struct trace_event *e) {
    const struct line l = line_of(&c->place, e->group);
    const int64_t node = world_rank(&c->place) / c->m->ranks_a_node;
    double size = (double)l.size, here = 0, moved = e->bytes, steps = ceil(log2(size));
    const bool begun = e->what == PAR_TRAFFIC_BESIDE, join = e->what == PAR_TRAFFIC_JOIN;
    const bool sum = e->what == PAR_TRAFFIC_SUM || begun || join;
    if (l.size < 2 || (join && cost_beside(c))) return 0;
    for (int64_t i = 0; i < l.size; i++) here += (l.first + i * l.step) / c->m->ranks_a_node == node;
    if (sum && l.size > 2) {
        moved *= 2 * (size - 1) / size;
        steps *= 2;
    }
    if (e->what == PAR_TRAFFIC_GATHER) moved *= (size - 1) / size;
    double near = here > 1 ? moved * (here - 1) / (size - 1) * per_byte(c, &c->m->node) : 0;
    double far = here < size ? moved * (size - here) / (size - 1) * per_byte(c, &c->m->network) : 0;
    double latency = (here < size ? c->m->network.latency_us : c->m->node.latency_us) * 1e-6;
    if (begun && !cost_beside(c)) latency = 0; /* then they are one sum, of which the join has the latency */
    double shown = e->group == 'd' && sum ? 1 - fmax(0, c->m->program.overlap) : 1;
    return shown * (steps * latency + fmax(near, far));
}

double cost_seconds(struct cost *c, const struct trace_event *e) {
    if (e->kind == TRACE_GROUP) return group_seconds(c, e);
    if (e->kind != TRACE_WORK) return 0;
    const struct cost_op *o = &c->op[e->what];
    return o->call + fmax(e->flops * o->flop, e->bytes * o->byte);
}

void cost_message(struct cost *c, const struct trace_event *e, double *latency, double *transfer) {
    const struct line l = line_of(&c->place, e->group);
    const int64_t a = world_rank(&c->place) / c->m->ranks_a_node, b = (l.first + e->peer * l.step) / c->m->ranks_a_node;
    const struct deck_machine_link *link = a == b ? &c->m->node : &c->m->network;
    *latency = link->latency_us * 1e-6;
    *transfer = e->bytes * per_byte(c, link);
}

double cost_nodes(const struct cost *c) {
    const struct par_grid *g = &c->place;
    return ceil((double)g->tp * g->cp * g->dp * g->pp / (double)c->m->ranks_a_node);
}
