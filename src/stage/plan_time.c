/* Times of a stage: traces of its pipeline, simulated, and the files beside them. */
#include "stage/plan_time.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"

const char *plan_part_words(enum plan_part part) {
    static const char *const words[] = {
#define PART(name, text) text,
        PLAN_PARTS(PART)
#undef PART
    };
    return words[part];
}

void plan_crew_free(struct plan_crew *c) {
    for (int p = 0; c->trace && p < c->pp; p++) trace_free(&c->trace[p]);
    mem_free(&c->trace);
    mem_free(&c->place);
    mem_free(&c->plan);
    *c = (struct plan_crew){0};
}

/* Record the rank (tp, pp) of replica 0. */
static enum status record(const struct stage_run *r, const struct deck_stage *s, int tp, int pp, struct plan_crew *c) {
    const struct par_grid *g = &r->grid;
    struct stage_run with = *r;
    TM_TRY(par_grid_imagine(g->tp * g->dp * g->pp, tp + g->tp * g->dp * pp, g->tp, 1, g->pp, &c->place[pp]));
    with.trace = &c->trace[pp];
    return stage_plan(&with, s, &c->place[pp], &c->plan[pp]);
}

/* Tensor ranks with boxes of other sizes: the one with most to do is the one that the others wait for. */
static enum status record_busiest(const struct stage_run *r, const struct deck_stage *s, int pp, struct plan_crew *c) {
    TM_TRY(record(r, s, 0, pp, c));
    if (!c->plan[pp].uneven) return TM_OK;
    int most = 0, last = 0;
    double flops = c->plan[pp].flops;
    for (int tp = 1; tp < r->grid.tp; tp++) {
        TM_TRY(record(r, s, last = tp, pp, c));
        if (c->plan[pp].flops > flops) most = tp;
        flops = fmax(flops, c->plan[pp].flops);
    }
    return most == last ? TM_OK : record(r, s, most, pp, c);
}

static enum status record_all_stages(const struct stage_run *r, const struct deck_stage *s, struct plan_crew *c) {
    size_t n = (size_t)c->pp;
    TM_TRY(mem_alloc(&c->trace, n, sizeof *c->trace));
    TM_TRY(mem_alloc(&c->place, n, sizeof *c->place));
    TM_TRY(mem_alloc(&c->plan, n, sizeof *c->plan));
    for (int p = 0; p < c->pp; p++) {
        TM_TRY(record_busiest(r, s, p, c));
        if (c->trace[p].spans != c->trace[0].spans)
            return TM_FAIL(TM_ERR_INTERNAL, "stage %s: pipeline stage %d has %zu loops and stage 0 has %zu", s->name, p,
                           c->trace[p].spans, c->trace[0].spans);
    }
    return TM_OK;
}

enum status plan_crew_record(const struct stage_run *r, const struct deck_stage *s, struct plan_crew *out) {
    *out = (struct plan_crew){.pp = r->grid.pp, .stage = s};
    enum status st = record_all_stages(r, s, out);
    if (st != TM_OK) plan_crew_free(out);
    return st;
}

/* --- playing -------------------------------------------------------------------------------------------------------------------- */
/* A crew on a machine. */
struct play {
    const struct plan_crew *c;
    struct cost *cost;           /* [pp] */
    struct sim_program *program; /* [pp] */
};

/* The operation that takes the pipeline longest in events [from, to) of each trace. */
static enum status find_top(const struct play *x, struct plan_time *t) {
    const struct plan_crew *c = x->c;
    double *seconds, flops = 0;
    int best = 0, n = dev_op_count();
    TM_TRY(mem_alloc(&seconds, (size_t)n, sizeof *seconds));
    for (int p = 0; p < c->pp; p++)
        for (size_t i = x->program[p].from; i < x->program[p].to; i++) {
            const struct trace_event *e = &c->trace[p].event[i];
            if (e->kind != TRACE_WORK) continue;
            seconds[e->what] += cost_seconds(&x->cost[p], e) / c->pp;
            flops += e->flops;
        }
    for (int i = 1; i < n; i++)
        if (seconds[i] > seconds[best]) best = i;
    t->top = dev_op_name(best);
    t->top_seconds = seconds[best];
    t->flops = flops * c->place[0].tp * c->place[0].dp;
    mem_free(&seconds);
    return TM_OK;
}

static void mean_share(const struct sim_share *share, int pp, struct sim_share *mean) {
    *mean = (struct sim_share){0};
    for (int p = 0; p < pp; p++) {
        mean->work += share[p].work / pp;
        mean->tensor += share[p].tensor / pp;
        mean->replica += share[p].replica / pp;
        mean->hidden += share[p].hidden / pp;
        mean->message += share[p].message / pp;
        mean->idle += share[p].idle / pp;
    }
}

/* One span of every trace, simulated. */
static enum status play_span(struct play *x, size_t k, bool first, struct sim_share *share, struct plan_time *t) {
    const struct plan_crew *c = x->c;
    const struct trace_span *span = &c->trace[0].span[k];
    double seconds;
    for (int p = 0; p < c->pp; p++)
        x->program[p] =
            (struct sim_program){&c->trace[p], c->trace[p].span[k].from, c->trace[p].span[k].to, &x->cost[p]};
    TM_TRY(sim_round(x->program, c->pp, share, &seconds));
    t->part[span->loop ? PLAN_loop : PLAN_outside] += seconds * span->rounds;
    if (!first) return TM_OK;
    t->round = seconds;
    t->rounds = span->rounds;
    memcpy(t->share, share, (size_t)c->pp * sizeof *share);
    mean_share(share, c->pp, &t->mean);
    return find_top(x, t);
}

static enum status play_spans(struct play *x, struct plan_time *t) {
    struct sim_share *share;
    size_t n = (size_t)x->c->pp;
    TM_TRY(mem_alloc(&t->share, n, sizeof *t->share));
    TM_TRY(mem_alloc(&share, n, sizeof *share));
    enum status st = TM_OK;
    for (size_t k = 0; k < x->c->trace[0].spans && st == TM_OK; k++)
        st = play_span(x, k, x->c->trace[0].span[k].loop && t->round == 0, share, t);
    mem_free(&share);
    return st;
}

/* --- beside the loop ------------------------------------------------------------------------------------------------------------ */
static double over(double amount, double rate) { return rate > 0 ? amount * 1e-9 / rate : 0; }

/* Files of all nodes, each at `rate`, together at most at the file system's. */
static double over_nodes(const struct cost *c, double amount, double rate) {
    double most = c->m->files.total_gbs, all = rate * cost_nodes(c);
    return over(amount, most > 0 ? fmin(all, most) : all);
}

static double loading(const struct cost *c, const struct stage_plan *p) {
    const struct deck_machine_files *f = &c->m->files;
    double rates[STAGE_SOURCES] = {
        [STAGE_FROM_HUB] = f->load_gels, [STAGE_FROM_CKPT] = f->restore_gels, [STAGE_DRAWN] = f->draw_gels};
    const double bytes[STAGE_SOURCES] = {[STAGE_FROM_HUB] = 2, [STAGE_FROM_CKPT] = 4};
    double sum = p->loads * f->load_s;
    for (int i = 0; i < STAGE_SOURCES; i++) {
        double disk = f->read_gbs / (double)c->m->ranks_a_node; /* of one rank; a rank reads what it holds */
        sum += fmax(over(p->loaded[i], rates[i]), over(p->loaded[i] * bytes[i], disk));
    }
    return sum;
}

/* Checkpoints of a stage: those within, and the last. */
static double saves(const struct deck_stage *s) {
    bool learns = s->kind == DECK_KIND_train || s->kind == DECK_KIND_distill;
    return 1 + (learns && s->checkpoint.every > 0 ? (double)((s->steps - 1) / s->checkpoint.every) : 0);
}

static void add_files(const struct play *x, struct plan_time *t) {
    const struct deck_machine_files *f = &x->cost[0].m->files;
    const struct stage_plan *first = &x->c->plan[0];
    double save = f->save_gbs > 0 ? f->save_gbs : f->write_gbs;
    for (int p = 0; p < x->c->pp; p++) {
        const struct stage_plan *plan = &x->c->plan[p];
        double held = (double)(plan->n ? plan->memory[0].high : 0);
        t->part[PLAN_loading] = fmax(t->part[PLAN_loading], loading(&x->cost[p], plan));
        t->part[PLAN_memory] = fmax(t->part[PLAN_memory], over(held, x->cost[p].m->rank.fill_gbs));
        t->lacks_links |= x->cost[p].lacks_links;
        t->lacks_rates |= x->cost[p].lacks_rates;
    }
    t->saves = first->saved_bytes ? saves(x->c->stage) : 0;
    t->part[PLAN_saving] = t->saves * (f->save_s + over_nodes(&x->cost[0], (double)first->saved_bytes, save));
    t->part[PLAN_fixed] = x->cost[0].m->stage_s;
    if (first->export_bytes) t->part[PLAN_exporting] = f->export_s;
    t->part[PLAN_exporting] += over_nodes(&x->cost[0], first->elements, f->export_gels) +
                               over_nodes(&x->cost[0], (double)first->export_bytes, f->write_gbs);
    for (int i = 0; i < PLAN_PART_COUNT; i++) t->seconds += t->part[i];
}

enum status plan_crew_time(const struct plan_crew *c, const struct deck_machine *m, struct plan_time *out) {
    struct play x = {.c = c};
    bool bf16 = !strcmp(c->stage->numerics.compute, "bf16");
    *out = (struct plan_time){0};
    TM_TRY(mem_alloc(&x.cost, (size_t)c->pp, sizeof *x.cost));
    enum status st = mem_alloc(&x.program, (size_t)c->pp, sizeof *x.program);
    for (int p = 0; p < c->pp && st == TM_OK; p++) st = cost_create(m, &c->place[p], bf16, &x.cost[p]);
    if (st == TM_OK) st = play_spans(&x, out);
    if (st == TM_OK) add_files(&x, out);
    for (int p = 0; p < c->pp; p++) cost_free(&x.cost[p]);
    mem_free(&x.cost);
    mem_free(&x.program);
    if (st != TM_OK) plan_time_free(out);
    return st;
}

enum status plan_time_stage(const struct stage_run *r, const struct deck_stage *s, const struct deck_machine *m,
                            struct plan_time *out) {
    struct plan_crew c;
    TM_TRY(plan_crew_record(r, s, &c));
    enum status st = plan_crew_time(&c, m, out);
    plan_crew_free(&c);
    return st;
}

void plan_time_free(struct plan_time *t) {
    mem_free(&t->share);
    *t = (struct plan_time){0};
}

/* --- text ------------------------------------------------------------------------------------------------------------------------ */
static enum status print_parts(const struct plan_time *t, const struct stage_plan *p, struct str *out) {
    const char *and = "    ";
    for (int i = 0; i < PLAN_PART_COUNT; i++) {
        if (!(t->part[i] > 0)) continue;
        TM_TRY(str_printf(out, "%s%s %.3g s", and, plan_part_words((enum plan_part)i), t->part[i]));
        if (i == PLAN_loop) TM_TRY(str_printf(out, " (%.6g of %.4g s, a %s)", t->rounds, t->round, p->round));
        if (i == PLAN_saving && t->saves > 1) TM_TRY(str_printf(out, " (%.0f of them)", t->saves));
        and = ", ";
    }
    return str_printf(out, "\n");
}

/* What takes most of the time: a part of the stage, or of its loop. */
static enum status print_dominant(const struct plan_time *t, struct str *out) {
    double loop = t->round > 0 ? t->part[PLAN_loop] / t->round : 0; /* seconds of the stage per second of a round */
    const struct {
        const char *what;
        double seconds;
    } rows[] = {{t->top ? t->top : "", t->top_seconds * loop},
                {"sums over the tensor group", t->mean.tensor * loop},
                {"sums over the replicas", t->mean.replica * loop},
                {"messages between pipeline stages", t->mean.message * loop},
                {"waiting in the pipeline", t->mean.idle * loop},
                {"loading weights", t->part[PLAN_loading]},
                {"new memory", t->part[PLAN_memory]},
                {"writing checkpoints", t->part[PLAN_saving]},
                {"writing the export", t->part[PLAN_exporting]}};
    size_t best = 0;
    for (size_t i = 1; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].seconds > rows[best].seconds) best = i;
    if (!(rows[best].seconds > 0)) return TM_OK;
    return str_printf(out, "    most of it: %s, %.0f %%\n", rows[best].what, 100 * rows[best].seconds / t->seconds);
}

static enum status print_share(const struct sim_share *h, double round, struct str *out) {
    TM_TRY(str_printf(out, "operations %.1f %%, sums over tp %.1f %%, over dp %.1f %%, messages %.1f %%, idle %.1f %%",
                      100 * h->work / round, 100 * h->tensor / round, 100 * h->replica / round,
                      100 * h->message / round, 100 * h->idle / round));
    if (h->hidden > 0) TM_TRY(str_printf(out, "; sums over dp beside operations %.1f %%", 100 * h->hidden / round));
    return str_printf(out, "\n");
}

enum status plan_time_print(const struct plan_time *t, const struct stage_plan *p, const struct par_grid *g,
                            const struct deck_machine *m, bool table, struct str *out) {
    TM_TRY(str_printf(out, "  time on %s: about %.4g s (%.2f h)\n", *m->name ? m->name : m->file, t->seconds,
                      t->seconds / 3600));
    TM_TRY(print_parts(t, p, out));
    TM_TRY(print_dominant(t, out));
    if (t->lacks_rates) TM_TRY(str_printf(out, "    the machine file lacks rates of operations: too short\n"));
    if (t->lacks_links) TM_TRY(str_printf(out, "    the machine file lacks rates of messages: they are left out\n"));
    if (!(t->round > 0)) return TM_OK;
    TM_TRY(str_printf(out, "    of a %s: ", p->round));
    TM_TRY(print_share(&t->mean, t->round, out));
    if (!table) return TM_OK;
    double ranks = (double)g->tp * g->dp * g->pp;
    TM_TRY(str_printf(out, "    simulated on %.0f ranks: %.6g s a %s, %.4g GFLOP/s a rank\n", ranks, t->round, p->round,
                      t->flops / t->round / ranks * 1e-9));
    for (int i = 0; i < g->pp; i++) {
        TM_TRY(str_printf(out, "      pp %3d  ", i));
        TM_TRY(print_share(&t->share[i], t->round, out));
    }
    return TM_OK;
}
