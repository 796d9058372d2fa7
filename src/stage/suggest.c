/* Search over tp, pp, micro-batch and recomputation. */
#include "stage/suggest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "stage/inputs.h"
#include "stage/plan_time.h"

enum { SHOWN = 5, MICROS = 5, FULL = 4 };

/* Why a candidate is none: REASON(name, in words). */
#define REASONS(REASON)                                           \
    REASON(border, "have a tensor group over more than one node") \
    REASON(heads, "have more tensor ranks than key/value heads")  \
    REASON(layers, "have more pipeline stages than layers")       \
    REASON(batch, "do not divide batch.global")                   \
    REASON(memory, "need more memory")                            \
    REASON(refused, "are refused by the stage")
enum reason {
#define REASON(name, words) WHY_##name,
    REASONS(REASON)
#undef REASON
        REASON_COUNT
};

struct candidate {
    struct par_grid grid;
    int64_t micro;
    bool recompute;
    double gib;             /* of a rank */
    double seconds, loop;   /* of a round (a step, or a micro-batch on every replica), and of all of them */
    struct sim_share share; /* of the seconds, mean over the pipeline stages; work is the rest */
};

struct search {
    const struct stage_run *r;
    const struct deck_stage *s;
    const struct deck_machine *m;
    struct model_config c;
    double limit; /* GiB of a rank */
    bool learns;
    int64_t why[REASON_COUNT];
    struct candidate nearest; /* of those that need too much memory, the one that needs least; tp 0: none */
    char refusal[256];        /* the first message */
    struct candidate *found;
    size_t n, cap;
};

/* --- one candidate ------------------------------------------------------------------------------------------------------------ */
static void change(const struct search *x, const struct candidate *k, int64_t batches, struct deck_stage *s) {
    *s = *x->s;
    s->batch.micro = k->micro;
    s->numerics.recompute = k->recompute ? "layer" : "none";
    if (x->learns) s->batch.global = k->micro * k->grid.dp * batches;
}

/* Memory of the largest rank: the first pipeline stage holds most activations, the last one the head. */
static enum status memory_of(const struct search *x, const struct stage_run *r, const struct deck_stage *s,
                             struct candidate *k) {
    const struct par_grid *g = &k->grid;
    struct stage_plan p;
    struct par_grid place;
    const int stages[] = {0, g->pp - 1}, n = g->pp == 1 ? 1 : 2;
    for (int i = 0; i < n && k->gib <= x->limit; i++) {
        const int pp = stages[i];
        TM_TRY(par_grid_imagine(g->tp * g->dp * g->pp, g->tp * g->dp * pp, g->tp, 1, g->pp, &place));
        TM_TRY(stage_plan(r, s, &place, &p));
        k->gib = fmax(k->gib, ((double)p.memory[0].high + (double)p.host) / (1 << 30));
    }
    return TM_OK;
}

static enum status time_of(const struct search *x, const struct stage_run *r, const struct candidate *k,
                           int64_t batches, struct plan_time *t) {
    struct deck_stage s;
    change(x, k, batches, &s);
    return plan_time_stage(r, &s, x->m, t);
}

/* A step is linear in its micro-batches once the pipeline is full: continued from pp and a few more of them. */
static enum status judge(struct search *x, struct candidate *k, int64_t batches) {
    struct stage_run r = *x->r;
    struct deck_stage s;
    struct plan_time t = {0}, u = {0};
    const int64_t pp = k->grid.pp, few = size_min(batches, pp + FULL), fewer = size_min(few, pp);
    r.grid = k->grid;
    r.invariant = k->grid.invariant && x->r->invariant;
    change(x, k, fewer, &s); /* as many are in flight at once as there are stages */
    TM_TRY(memory_of(x, &r, &s, k));
    if (k->gib > x->limit) {
        x->why[WHY_memory]++;
        if (!x->nearest.grid.tp || k->gib < x->nearest.gib) x->nearest = *k;
        return TM_OK;
    }
    enum status st = time_of(x, &r, k, few, &t);
    if (st == TM_OK && fewer < few) st = time_of(x, &r, k, fewer, &u);
    if (st == TM_OK) {
        double more = fewer < few ? (double)(batches - few) / (double)(few - fewer) : 0;
        k->share.tensor = t.mean.tensor + more * (t.mean.tensor - u.mean.tensor);
        k->share.replica = t.mean.replica + more * (t.mean.replica - u.mean.replica);
        k->share.message = t.mean.message + more * (t.mean.message - u.mean.message);
        k->share.idle = t.mean.idle + more * (t.mean.idle - u.mean.idle);
        k->seconds = t.round + more * (t.round - u.round);
        k->loop = k->seconds * t.rounds;
        st = mem_grow(&x->found, &x->cap, x->n + 1, sizeof *x->found);
    }
    if (st == TM_OK) x->found[x->n++] = *k;
    plan_time_free(&t);
    plan_time_free(&u);
    return st;
}

/* A candidate that the stage itself refuses is counted; only memory of this process ends the search. */
static enum status consider(struct search *x, struct candidate *k) {
    const struct par_grid *g = &k->grid;
    int64_t global = x->s->batch.global ? x->s->batch.global : x->s->batch.micro * x->r->grid.dp, batches = 1;
    enum reason why = REASON_COUNT;
    if (g->tp > x->m->ranks_a_node) why = WHY_border;
    if (g->tp > x->c.kv_heads) why = WHY_heads;
    if (g->pp > x->c.layers) why = WHY_layers;
    if (x->learns && global % (k->micro * g->dp)) why = WHY_batch;
    if (why != REASON_COUNT) {
        x->why[why]++;
        return TM_OK;
    }
    if (x->learns) batches = global / (k->micro * g->dp);
    enum status st = judge(x, k, batches);
    if (st == TM_OK || st == TM_ERR_MEMORY) return st;
    if (!x->why[WHY_refused]++) snprintf(x->refusal, sizeof x->refusal, "%s", status_message());
    return TM_OK;
}

/* Micro-batches by doubling; what is too much for one size is too much for the next. */
static enum status walk_batches(struct search *x, const struct candidate *grid) {
    bool full[2] = {false, false};
    for (int i = 0; i < MICROS; i++)
        for (int again = 0; again <= x->learns; again++) {
            struct candidate k = *grid;
            k.micro = INT64_C(1) << i;
            k.recompute = again;
            if (full[again])
                x->why[WHY_memory]++;
            else
                TM_TRY(consider(x, &k));
            full[again] |= k.gib > x->limit;
        }
    return TM_OK;
}

static enum status walk(struct search *x) {
    const int world = x->r->grid.tp * x->r->grid.dp * x->r->grid.pp;
    for (int tp = 1; tp <= PAR_TP_SEGMENTS && tp <= world; tp *= 2)
        for (int pp = 1; pp <= world / tp; pp++) {
            struct candidate k = {0};
            if (world % (tp * pp)) continue;
            TM_TRY(par_grid_imagine(world, 0, tp, 1, pp, &k.grid));
            if (pp > x->c.layers) { /* once, not once a micro-batch */
                x->why[WHY_layers]++;
                continue;
            }
            TM_TRY(walk_batches(x, &k));
        }
    return TM_OK;
}

/* --- text ------------------------------------------------------------------------------------------------------------------------ */
static int by_time(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->loop != y->loop) return x->loop < y->loop ? -1 : 1;
    return x->gib < y->gib ? -1 : x->gib > y->gib; /* as fast: the smaller one */
}

static const char *what_costs(const struct candidate *k) {
    const struct sim_share *h = &k->share;
    double most = fmax(fmax(h->tensor, h->replica), fmax(h->message, h->idle));
    if (most < 0.1 * k->seconds) return "operations";
    return most == h->tensor    ? "operations, then sums over tp"
           : most == h->replica ? "operations, then sums over dp"
           : most == h->idle    ? "operations, then waiting in the pipeline"
                                : "operations, then messages";
}

static enum status print_found(const struct search *x, struct str *out) {
    const char *again = x->learns ? "recompute" : "", *unit = x->learns ? "step" : "round";
    TM_TRY(str_printf(out, "    %4s %4s %5s %6s %9s %10s %10s  %10s  idle  spends its time on\n", "tp", "pp", "dp",
                      "micro", again, "GiB a rank", unit, "the stage"));
    for (size_t i = 0; i < x->n && i < SHOWN; i++) {
        const struct candidate *k = &x->found[i];
        TM_TRY(str_printf(out, "    %4d %4d %5d %6lld %9s %10.2f %8.4g s  %8.4g s %4.0f %%  %s\n", k->grid.tp,
                          k->grid.pp, k->grid.dp, (long long)k->micro,
                          !x->learns     ? ""
                          : k->recompute ? "layer"
                                         : "none",
                          k->gib, k->seconds, k->loop, 100 * k->share.idle / k->seconds, what_costs(k)));
    }
    return TM_OK;
}

static enum status print_others(const struct search *x, struct str *out) {
    static const char *const words[] = {
#define REASON(name, text) text,
        REASONS(REASON)
#undef REASON
    };
    int64_t none = 0;
    for (int i = 0; i < REASON_COUNT; i++) none += x->why[i];
    if (x->n > SHOWN) TM_TRY(str_printf(out, "    %zu more fit and are slower\n", x->n - SHOWN));
    if (none) TM_TRY(str_printf(out, "    %lld others are none:\n", (long long)none));
    for (int i = 0; i < REASON_COUNT; i++) {
        if (!x->why[i]) continue;
        TM_TRY(str_printf(out, "      %4lld %s", (long long)x->why[i], words[i]));
        if (i == WHY_memory)
            TM_TRY(str_printf(out, " than %.4g GiB: the least is %.4g, of tp %d, pp %d, micro %lld%s", x->limit,
                              x->nearest.gib, x->nearest.grid.tp, x->nearest.grid.pp, (long long)x->nearest.micro,
                              x->nearest.recompute ? ", recompute" : ""));
        if (i == WHY_refused) TM_TRY(str_printf(out, ": %s", x->refusal));
        TM_TRY(str_printf(out, "\n"));
    }
    return TM_OK;
}

/* The stage that computes most: learning before the rest. */
static const struct deck_stage *choose(const struct deck *d) {
    const struct deck_stage *best = NULL;
    for (int i = 0; i < d->stages.n; i++) {
        const struct deck_stage *s = &d->stages.v[i];
        bool learns = s->kind == DECK_KIND_train || s->kind == DECK_KIND_distill;
        bool reads = s->kind == DECK_KIND_calibrate || s->kind == DECK_KIND_evaluate;
        if ((learns && (!best || !best->steps || s->steps > best->steps)) || (reads && !best)) best = s;
    }
    return best;
}

enum status suggest_print(const struct stage_run *r, const struct deck_machine *m, struct str *out) {
    struct search x = {.r = r, .s = choose(r->deck), .m = m};
    if (!x.s) return TM_FAIL(TM_ERR_DECK, "--suggest: no stage trains, distils, calibrates or evaluates");
    x.limit = x.s->device.memory_gib > 0 ? x.s->device.memory_gib : m->rank.memory_gib;
    if (!(x.limit > 0))
        return TM_FAIL(TM_ERR_DECK, "--suggest: %s has no rank.memory_gib, and the deck no device.memory_gib", m->file);
    x.learns = x.s->kind == DECK_KIND_train || x.s->kind == DECK_KIND_distill;
    TM_TRY(stage_model_config(x.s, &x.c));
    enum status st = walk(&x);
    if (x.n) qsort(x.found, x.n, sizeof *x.found, by_time);
    if (st == TM_OK)
        st = str_printf(out, "suggestions for stage %s on %d ranks with %.4g GiB each: %zu ways fit\n", x.s->name,
                        r->grid.tp * r->grid.dp * r->grid.pp, x.limit, x.n);
    if (st == TM_OK && x.n) st = print_found(&x, out);
    if (st == TM_OK) st = print_others(&x, out);
    model_config_free(&x.c);
    mem_free(&x.found);
    return st;
}
