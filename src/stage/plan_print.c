/* --plan: what each stage of a deck will take on a grid that need not exist, as text. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "stage/suggest.h"
#include "stage/traps.h"

/* A stage on the whole grid: for each pipeline stage the tensor rank that needs most, and sums over all ranks. */
struct whole {
    struct stage_plan *at;              /* [pp] */
    int *tp_rank;                       /* [pp]: whose plan at[pp] is */
    int largest;                        /* pipeline stage */
    int64_t files, file;                /* of a checkpoint, and bytes of the largest, at most */
    double flops, flops_round, slowest; /* all ranks; of the busiest rank */
};

static size_t bytes_of(const struct stage_plan *p) { return p->memory[0].high; }

static enum status plan_stage(struct stage_run *r, const struct deck_stage *s, struct whole *w) {
    const struct par_grid *g = &r->grid;
    for (int pp = 0; pp < g->pp; pp++)
        for (int tp = 0, alike = 1; tp < g->tp; tp += alike) {
            struct stage_plan p;
            struct par_grid place;
            TM_TRY(par_grid_imagine(g->tp * g->dp * g->pp, tp + g->tp * g->dp * pp, g->tp, 1, g->pp, &place));
            TM_TRY(stage_plan(r, s, &place, &p));
            if (!p.uneven) alike = g->tp; /* one stands for the tensor group; data-parallel ranks are always alike */
            w->files += p.saved_files * alike;
            if (p.saved_file > w->file) w->file = p.saved_file;
            w->flops += p.flops * g->dp * alike;
            w->flops_round += p.flops_round * g->dp * alike;
            if (p.flops_busiest > w->slowest) w->slowest = p.flops_busiest;
            if (tp > 0 && bytes_of(&p) <= bytes_of(&w->at[pp])) continue;
            w->at[pp] = p;
            w->tp_rank[pp] = tp;
            if (bytes_of(&p) > bytes_of(&w->at[w->largest])) w->largest = pp;
        }
    return TM_OK;
}

/* "8.50 GiB" in a form that keeps three digits. */
static const char *amount(double bytes, char out[32]) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    int i = 0;
    while (bytes >= 1024 && i < 5) bytes /= 1024, i++;
    snprintf(out, 32, i ? "%.2f %s" : "%.0f %s", bytes, unit[i]);
    return out;
}

static enum status print_largest(const struct whole *w, const struct deck_stage *s, struct str *out) {
    const struct stage_plan *p = &w->at[w->largest];
    char text[32];
    TM_TRY(str_printf(out, "  memory of the largest rank (tp %d, pp %d):\n", w->tp_rank[w->largest], w->largest));
    for (int i = 1; i <= p->n; i++) { /* the sum comes last */
        const struct dev_memory *m = &p->memory[i % p->n];
        if (m->high == 0) continue;
        TM_TRY(str_printf(out, "    %-20s %12s  %15zu\n", m->what, amount((double)m->high, text), m->high));
    }
    TM_TRY(str_printf(out, "    %-20s %12s  batches, tapes and lists, beside the device's memory\n", "host buffers",
                      amount((double)p->host, text)));
    TM_TRY(str_printf(out, "    %-20s %12s  apart, an estimate: code, MPI, libraries; a run measures it\n",
                      "MPI and libraries", "0.05-0.2 GiB"));
    if (p->gpu)
        TM_TRY(str_printf(out, "    on a GPU: work space of the kernels is taken at once; of NCCL an allowance (688 "
                               "MiB a group: measured, "
                               "NVIDIA/nccl issue 964); beside all this the driver's context\n"));
    if (s->device.memory_gib > 0 && (double)bytes_of(p) > s->device.memory_gib * (1 << 30))
        TM_TRY(
            str_printf(out, "    this is above device.memory_gib = %g: the run would refuse\n", s->device.memory_gib));
    return TM_OK;
}

static const struct dev_memory *row_of(const struct stage_plan *p, const char *what) {
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->memory[i].what, what)) return &p->memory[i];
    return NULL;
}

/* A column per class that any pipeline stage has, a row per pipeline stage. */
static enum status print_pipeline(const struct whole *w, int pp, struct str *out) {
    const char *class[STAGE_CLASSES];
    int n = 0;
    char text[32];
    for (int p = 0; p < pp; p++)
        for (int i = 1; i < w->at[p].n; i++) {
            int k = w->at[p].memory[i].high ? 0 : n;
            while (k < n && strcmp(class[k], w -> at[p].memory[i].what)) k++;
            if (w->at[p].memory[i].high && k == n && n < STAGE_CLASSES) class[n++] = w->at[p].memory[i].what;
        }
    TM_TRY(str_printf(out, "  by pipeline stage:\n    %4s %14s", "pp", "all"));
    for (int k = 0; k < n; k++)
        TM_TRY(str_printf(out, "  %*s", (int)(strlen(class[k]) > 11 ? strlen(class[k]) : 11), class[k]));
    for (int p = 0; p < pp; p++) {
        TM_TRY(str_printf(out, "\n    %4d %14s", p, amount((double)bytes_of(&w->at[p]), text)));
        for (int k = 0; k < n; k++) {
            const struct dev_memory *m = row_of(&w->at[p], class[k]);
            TM_TRY(str_printf(out, "  %*s", (int)(strlen(class[k]) > 11 ? strlen(class[k]) : 11),
                              m ? amount((double)m->high, text) : "-"));
        }
    }
    return str_printf(out, "\n");
}

static enum status print_disk(const struct whole *w, const struct deck_stage *s, struct str *out) {
    const struct stage_plan *p = &w->at[w->largest];
    char text[32], kept[32];
    if (p->saved_bytes)
        TM_TRY(
            str_printf(out,
                       "  disk: %s a checkpoint (%lld bytes); %lld that are kept and one that is being written: %s\n",
                       amount((double)p->saved_bytes, text), (long long)p->saved_bytes, (long long)s->checkpoint.keep,
                       amount((double)p->saved_bytes * (double)(s->checkpoint.keep + 1), kept)));
    if (p->saved_bytes)
        TM_TRY(
            str_printf(out,
                       "  disk: at most %lld files a checkpoint (one a writer, index and manifest), the largest %s%s\n",
                       (long long)w->files + 2, amount((double)w->file, text),
                       s->checkpoint.background ? "; a copy of it in host memory while it is written" : ""));
    if (p->export_bytes)
        TM_TRY(str_printf(out, "  disk: %s exported, %lld file%s (%lld bytes)\n", amount((double)p->export_bytes, text),
                          (long long)p->export_files, p->export_files == 1 ? "" : "s", (long long)p->export_bytes));
    return TM_OK;
}

/* Filling and emptying a pipeline of pp stages costs pp - 1 of its `fill` micro-batches. */
static enum status print_work(const struct whole *w, int pp, double gflops, struct str *out) {
    const struct stage_plan *p = &w->at[w->largest];
    if (!p->round) return TM_OK;
    TM_TRY(str_printf(out, "  work: %.6g FLOPs a %s, %.6g in all (%.6g of them)\n", w->flops_round, p->round, w->flops,
                      p->rounds));
    if (!(gflops > 0)) return TM_OK;
    double bubble = 1 + (double)(pp - 1) / (double)p->fill, seconds = w->slowest / (gflops * 1e9) * bubble;
    return str_printf(
        out,
        "  time: about %.3g s (%.2f h) at %g GFLOP/s a rank: the busiest rank's work and a pipeline that idles "
        "%.0f%%, without communication and files\n",
        seconds, seconds / 3600, gflops, 100 * (1 - 1 / bubble));
}

/* Everything that one stage's plan says. `machine` NULL: no times; *seconds += the stage's. */
struct asking {
    struct stage_run *r;
    const struct stage_plan_ask *ask;
    const struct deck_machine *machine;
    double seconds;
};

static enum status print_time(struct asking *a, const struct deck_stage *s, const struct stage_plan *p,
                              struct str *out) {
    struct plan_time t;
    const char *hint =
        "  time: --machine FILE (temper --probe writes one for this computer) or --rate GFLOPS predicts it\n";
    if (!a->machine) {
        if (p->round && !(a->ask->gflops > 0)) TM_TRY(str_printf(out, "%s", hint));
        return traps_print(a->r, s, NULL, NULL, p->fill, out);
    }
    TM_TRY(plan_time_stage(a->r, s, a->machine, &t));
    enum status st = plan_time_print(&t, p, &a->r->grid, a->machine, a->ask->simulate, out);
    if (st == TM_OK) st = traps_print(a->r, s, a->machine, &t, p->fill, out);
    a->seconds += t.seconds;
    plan_time_free(&t);
    return st;
}

static enum status print_stage(struct asking *a, const struct deck_stage *s, struct str *out) {
    const struct par_grid *g = &a->r->grid;
    struct whole w = {0};
    TM_TRY(str_printf(out, "stage %s (%s): tp %d x pp %d x dp %d\n", s->name, s->verb, g->tp, g->pp, g->dp));
    TM_TRY(mem_alloc(&w.at, (size_t)g->pp, sizeof *w.at));
    enum status st = mem_alloc(&w.tp_rank, (size_t)g->pp, sizeof *w.tp_rank);
    if (st == TM_OK) st = plan_stage(a->r, s, &w);
    const struct stage_plan *p = &w.at[w.largest];
    if (st == TM_OK && !p->known) st = str_printf(out, "  not planned: its memory grows with its input\n");
    if (st == TM_OK && p->n) st = print_largest(&w, s, out);
    if (st == TM_OK && p->n && g->pp > 1) st = print_pipeline(&w, g->pp, out);
    if (st == TM_OK) st = print_disk(&w, s, out);
    if (st == TM_OK) st = print_work(&w, g->pp, a->ask->gflops, out);
    if (st == TM_OK && p->known) st = print_time(a, s, p, out);
    mem_free(&w.at);
    mem_free(&w.tp_rank);
    return st;
}

static enum status print_deck(struct asking *a, struct str *out) {
    struct deck *d = a->r->deck;
    enum status first = TM_OK;
    for (int i = 0; i < d->stages.n;
         i++) { /* one that lacks its input (an earlier stage may make it) does not hide the others */
        enum status st = print_stage(a, &d->stages.v[i], out);
        if (st != TM_OK) TM_TRY(str_printf(out, "  not planned: %s\n", status_message()));
        if (first == TM_OK) first = st;
    }
    if (a->machine && d->stages.n > 1 && first == TM_OK)
        TM_TRY(str_printf(out, "all stages: about %.4g s (%.2f h)\n", a->seconds, a->seconds / 3600));
    return first;
}

static enum status load_machine(const char *path, struct deck_machine **out) {
    struct str report = {0};
    enum status st = deck_machine_load(path, &report, out);
    if (report.len) fprintf(stderr, "%s", report.p);
    str_free(&report);
    return st;
}

enum status stage_plan_print(const struct stage_options *o, struct deck *d, const struct stage_plan_ask *ask,
                             struct str *out) {
    struct stage_run r = {.o = *o, .deck = d, .lock = -1};
    struct deck_machine *machine = NULL;
    const struct deck_grid *g = &d->grid;
    int64_t ranks = ask->ranks;
    if (ranks == 0) ranks = g->tp * g->cp * g->pp * (g->dp > 0 ? g->dp : 1);
    if (ranks < 1 || ranks > INT32_MAX)
        return TM_FAIL(TM_ERR_DECK, "a plan for %lld ranks: expected 1 to %d", (long long)ranks, INT32_MAX);
    TM_TRY(stage_check_deck(d));
    TM_TRY(par_grid_imagine((int)ranks, 0, (int)g->tp, (int)g->cp, (int)g->pp, &r.grid));
    TM_TRY(stage_check_grid(&r));
    if (ask->machine) TM_TRY(load_machine(ask->machine, &machine));
    struct asking a = {.r = &r, .ask = ask, .machine = machine};
    enum status st = str_printf(out, "plan of %s for %lld rank%s; nothing is started or written\n", o->deck_path,
                                (long long)ranks, ranks == 1 ? "" : "s");
    if (st == TM_OK) st = print_deck(&a, out);
    if (st == TM_OK && ask->suggest) st = suggest_print(&r, machine, out);
    deck_machine_free(&machine);
    return st;
}
