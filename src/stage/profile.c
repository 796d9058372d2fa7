/* --profile: counting by phase on each rank, and the table over ranks. */
#include "stage/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/span.h"
#include "stage/timeline.h"

struct count {
    double calls, seconds, flops, bytes;
};

/* A phase of a stage, with what its operations and collectives took in it. */
struct phase {
    char *stage, *operation; /* the timeline shows them: they stay where they are */
    struct count total, *at; /* [counters] */
};

struct profile {
    struct stage_run *r;
    struct phase *phase;
    size_t n, cap;
    struct count *last; /* [counters] when the phase began */
    const struct deck_stage *stage;
    size_t now; /* the phase; n: none */
    double began, stage_began;
    bool paused;
    enum status st; /* the first failure inside a note */
};

static int counters(void) { return dev_op_count() + par_counter_count(); }

static const char *counter_name(int i) {
    int ops = dev_op_count();
    return i < ops ? dev_op_name(i) : par_counter(i - ops).name;
}

static struct count read_counter(const struct profile *p, int i) {
    int ops = dev_op_count();
    if (i < ops) {
        struct dev_counter c = dev_counter(p->r->dev, i);
        return (struct count){(double)c.calls, c.seconds, c.flops, c.bytes};
    }
    struct par_counter c = par_counter(i - ops);
    return (struct count){(double)c.calls, c.seconds, 0, (double)c.bytes};
}

/* --- phases --------------------------------------------------------------------------------------------------------------------- */
static void close_phase(struct profile *p) {
    double now = clock_seconds();
    if (p->now < p->n) {
        struct phase *x = &p->phase[p->now];
        x->total.calls++;
        x->total.seconds += now - p->began;
        for (int i = 0; i < counters(); i++) {
            struct count c = read_counter(p, i), *from = &p->last[i], *to = &x->at[i];
            *to = (struct count){to->calls + c.calls - from->calls, to->seconds + c.seconds - from->seconds,
                                 to->flops + c.flops - from->flops, to->bytes + c.bytes - from->bytes};
            x->total.flops += c.flops - from->flops;
        }
        span_add("phase", x->operation, p->began, now);
    }
    for (int i = 0; i < counters(); i++) p->last[i] = read_counter(p, i);
    p->began = now;
    p->now = p->n;
}

static enum status copy_text(const char *text, char **out) {
    TM_TRY(mem_alloc(out, strlen(text) + 1, 1));
    memcpy(*out, text, strlen(text) + 1);
    return TM_OK;
}

static enum status find_phase(struct profile *p, const char *stage, const char *operation, size_t *out) {
    for (*out = 0; *out < p->n; (*out)++)
        if (!strcmp(p->phase[*out].stage, stage) && !strcmp(p->phase[*out].operation, operation)) return TM_OK;
    TM_TRY(mem_grow(&p->phase, &p->cap, p->n + 1, sizeof *p->phase));
    struct phase *x = &p->phase[p->n];
    *x = (struct phase){0};
    p->n++; /* what is there by now is freed with the others */
    TM_TRY(copy_text(stage, &x->stage));
    TM_TRY(copy_text(operation, &x->operation));
    return mem_alloc(&x->at, (size_t)counters(), sizeof *x->at);
}

static void close_stage(struct profile *p, double now) {
    if (p->stage) span_add("stage", p->stage->name, p->stage_began, now);
    p->stage = p->r->now;
    p->stage_began = now;
}

static void changed(void *context, const char *operation) {
    struct profile *p = context;
    size_t next = 0;
    if (p->paused || p->st != TM_OK || !p->r->now) return;
    close_phase(p);
    if (p->stage != p->r->now) close_stage(p, p->began);
    p->st = find_phase(p, p->r->now->name, operation, &next);
    p->now = p->st == TM_OK ? next : p->n;
}

enum status stage_profile_begin_all(struct stage_run *r) {
    struct profile *p;
    if (!r->o.profile) return TM_OK;
    enum status st = mem_alloc(&p, 1, sizeof *p);
    if (st == TM_OK) r->profile = p;
    if (st == TM_OK) st = mem_alloc(&p->last, (size_t)counters(), sizeof *p->last);
    TM_TRY(par_agree_all(st));
    p->r = r;
    TM_TRY(par_barrier(r->grid.world)); /* hosts' clocks begin anywhere: all leave it at about one time */
    TM_TRY(par_agree_all(stage_timeline_begin()));
    close_phase(p);
    par_on_note(changed, p);
    return TM_OK;
}

void stage_profile_pause(struct stage_run *r, bool on) {
    if (!r->profile) return;
    if (on) changed(r->profile, "plan");
    r->profile->paused = on;
}

void stage_profile_free(struct stage_run *r) {
    struct profile *p = r->profile;
    if (!p) return;
    par_on_note(NULL, NULL);
    span_stop();
    for (size_t i = 0; i < p->n; i++) {
        mem_free(&p->phase[i].stage);
        mem_free(&p->phase[i].operation);
        mem_free(&p->phase[i].at);
    }
    mem_free(&p->phase);
    mem_free(&p->last);
    mem_free(&r->profile);
}

/* --- over ranks ----------------------------------------------------------------------------------------------------------------- */
enum status stage_collect_all(struct stage_run *r, const void *mine, int64_t bytes,
                              enum status (*each)(void *context, int rank, const void *data, int64_t bytes),
                              void *context) {
    struct par_group *world = r->grid.world;
    enum status st = par_rank() == 0 ? each(context, 0, mine, bytes) : TM_OK;
    for (int i = 1; i < par_size(); i++) {
        char *data = NULL;
        int64_t n = bytes;
        if (par_rank() == i) {
            TM_TRY(par_send(world, &n, sizeof n, 0, 0));
            TM_TRY(par_send(world, mine, n, 0, 1));
        } else if (par_rank() == 0) {
            TM_TRY(par_recv(world, &n, sizeof n, i, 0));
            TM_TRY(mem_alloc(&data, (size_t)n + 1, 1));
            TM_TRY(par_recv(world, data, n, i, 1));
            if (st == TM_OK) st = each(context, i, data, n);
            mem_free(&data);
        }
    }
    return par_agree_all(st);
}

/* One row of the table as a rank tells it; operation-less rows are phases. */
struct told {
    char stage[72], phase[40], op[40];
    struct count c;
};
struct row {
    struct told t; /* sums over ranks */
    double least, most;
    int ranks; /* that have it; the others took no time */
};
struct table {
    struct row *v;
    size_t n, cap, at; /* at: where the last one was found */
};

static enum status make_told(const struct profile *p, struct told **out, size_t *n) {
    size_t cap = 0;
    *out = NULL;
    *n = 0;
    for (size_t i = 0; i < p->n; i++)
        for (int k = -1; k < counters(); k++) {
            const struct phase *x = &p->phase[i];
            const struct count *c = k < 0 ? &x->total : &x->at[k];
            if (k >= 0 && c->calls == 0 && c->seconds == 0) continue;
            TM_TRY(mem_grow(out, &cap, *n + 1, sizeof **out));
            struct told *t = &(*out)[(*n)++];
            memset(t, 0, sizeof *t);
            snprintf(t->stage, sizeof t->stage, "%s", x->stage);
            snprintf(t->phase, sizeof t->phase, "%s", x->operation);
            snprintf(t->op, sizeof t->op, "%s", k < 0 ? "" : counter_name(k));
            t->c = *c;
        }
    return TM_OK;
}

static bool same(const struct told *a, const struct told *b) {
    return !strcmp(a->stage, b->stage) && !strcmp(a->phase, b->phase) && !strcmp(a->op, b->op);
}

static enum status find_row(struct table *t, const struct told *x, struct row **out) {
    for (size_t i = 0; i < t->n; i++) { /* ranks tell much the same in the same order */
        size_t k = (t->at + 1 + i) % t->n;
        if (!same(&t->v[k].t, x)) continue;
        t->at = k;
        *out = &t->v[k];
        return TM_OK;
    }
    TM_TRY(mem_grow(&t->v, &t->cap, t->n + 1, sizeof *t->v));
    t->at = t->n;
    *out = &t->v[t->n++];
    **out = (struct row){.t = *x, .least = x->c.seconds, .most = x->c.seconds};
    (*out)->t.c = (struct count){0};
    return TM_OK;
}

static enum status merge(void *context, int rank, const void *data, int64_t bytes) {
    struct table *t = context;
    const struct told *x = data;
    (void)rank;
    for (int64_t i = 0; i < bytes / (int64_t)sizeof *x; i++) {
        struct row *r;
        TM_TRY(find_row(t, &x[i], &r));
        struct count *c = &r->t.c;
        *c = (struct count){c->calls + x[i].c.calls, c->seconds + x[i].c.seconds, c->flops + x[i].c.flops,
                            c->bytes + x[i].c.bytes};
        r->least = x[i].c.seconds < r->least ? x[i].c.seconds : r->least;
        r->most = x[i].c.seconds > r->most ? x[i].c.seconds : r->most;
        r->ranks++;
    }
    return TM_OK;
}

/* --- the table -------------------------------------------------------------------------------------------------------------------- */
static json_t *row_json(const struct row *x, int ranks) {
    const struct count *c = &x->t.c;
    double mean = c->seconds / ranks, least = x->ranks < ranks ? 0 : x->least;
    json_t *j = json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f}", "stage", x->t.stage, "phase", x->t.phase, "op",
                          x->t.op, "calls", c->calls / ranks, "min_s", least, "mean_s", mean, "max_s", x->most);
    if (mean > 0) json_object_set_new(j, "imbalance", json_real(x->most / mean));
    if (c->seconds > 0 && c->flops > 0) json_object_set_new(j, "gflops", json_real(c->flops / c->seconds * 1e-9));
    if (c->seconds > 0 && c->bytes > 0) json_object_set_new(j, "gbytes_s", json_real(c->bytes / c->seconds * 1e-9));
    return j;
}

static void print_row(const struct row *x, int ranks) {
    const struct count *c = &x->t.c;
    double mean = c->seconds / ranks;
    fprintf(stderr, "profile %-26s calls=%-8.0f seconds min=%.3f mean=%.3f max=%.3f imbalance=%.2f",
            *x->t.op ? x->t.op : "(all)", c->calls / ranks, x->ranks < ranks ? 0 : x->least, mean, x->most,
            mean > 0 ? x->most / mean : 1);
    if (c->seconds > 0 && c->flops > 0) fprintf(stderr, " gflops=%.1f", c->flops / c->seconds * 1e-9);
    if (c->seconds > 0 && c->bytes > 0) fprintf(stderr, " gbytes/s=%.1f", c->bytes / c->seconds * 1e-9);
    fprintf(stderr, "\n");
}

static int by_seconds(const void *a, const void *b) {
    const struct row *x = *(const struct row *const *)a, *y = *(const struct row *const *)b;
    return x->t.c.seconds < y->t.c.seconds ? 1 : x->t.c.seconds > y->t.c.seconds ? -1 : strcmp(x->t.op, y->t.op);
}

/* Phases in the order in which they came, each with its operations, the longest first. */
static enum status print_table(const struct stage_run *r, const struct table *t) {
    const struct row **ops;
    int ranks = par_size();
    json_t *list = json_array();
    TM_TRY(mem_alloc(&ops, t->n + 1, sizeof *ops));
    for (size_t i = 0; i < t->n; i++) {
        size_t n = 0;
        const struct told *phase = &t->v[i].t;
        if (*phase->op) continue;
        for (size_t k = 0; k < t->n; k++)
            if (*t->v[k].t.op && !strcmp(t->v[k].t.stage, phase->stage) && !strcmp(t->v[k].t.phase, phase->phase))
                ops[n++] = &t->v[k];
        qsort(ops, n, sizeof(const struct row *), by_seconds);
        fprintf(stderr, "profile stage=%s phase=\"%s\"\n", phase->stage, phase->phase);
        print_row(&t->v[i], ranks);
        json_array_append_new(list, row_json(&t->v[i], ranks));
        for (size_t k = 0; k < n; k++) {
            print_row(ops[k], ranks);
            json_array_append_new(list, row_json(ops[k], ranks));
        }
    }
    json_object_set_new(r->usage, "profile", list);
    mem_free(&ops);
    return TM_OK;
}

enum status stage_profile_end_all(struct stage_run *r) {
    struct profile *p = r->profile;
    struct told *mine = NULL;
    struct table t = {0};
    size_t n = 0;
    if (!p) return TM_OK;
    changed(p, "report");
    close_phase(p);
    r->now = NULL;
    close_stage(p, p->began);
    par_on_note(NULL, NULL);
    enum status st = par_agree_all(p->st != TM_OK ? p->st : make_told(p, &mine, &n));
    if (st == TM_OK) st = stage_collect_all(r, mine, (int64_t)(n * sizeof *mine), merge, &t);
    if (st == TM_OK) st = par_agree_all(par_rank() == 0 ? print_table(r, &t) : TM_OK);
    if (st == TM_OK) st = stage_timeline_write_all(r);
    mem_free(&t.v);
    mem_free(&mine);
    return st;
}
