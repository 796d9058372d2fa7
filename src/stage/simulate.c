/* The simulation: each rank runs until it waits for a message that was not sent yet; then the next one does. What a rank does depends on the
 * others through the arrival of messages alone, so the order in which ranks are visited changes nothing. */
#include "stage/simulate.h"

#include <math.h>

#include "base/mem.h"

/* Messages from one stage to another, in order: they arrive one after the other. */
struct lane {
    struct packet {
        double arrival, transfer;
        int tag;
    } * v;
    size_t n, cap, taken;
    double busy; /* until then */
};

struct player {
    double now, beside, owed; /* sums that were begun: they go on until `beside`, or take `owed` at the join */
    size_t at;
};

struct sim {
    const struct sim_program *program;
    int pp;
    struct player *player;
    struct lane *lane; /* [from * pp + to] */
    struct sim_share *share;
};

static enum status post(struct sim *s, int p, const struct trace_event *e) {
    double latency, transfer;
    if (e->peer < 0 || e->peer >= s->pp || e->peer == p)
        return TM_FAIL(TM_ERR_INTERNAL, "pipeline stage %d sends to stage %d of %d", p, e->peer, s->pp);
    struct lane *l = &s->lane[p * s->pp + e->peer];
    cost_message(s->program[p].cost, e, &latency, &transfer);
    TM_TRY(mem_grow(&l->v, &l->cap, l->n + 1, sizeof *l->v));
    l->busy = fmax(l->busy, s->player[p].now) + transfer;
    l->v[l->n++] = (struct packet){l->busy + latency, latency + transfer, e->tag};
    return TM_OK;
}

/* *there: the message had been sent. */
static enum status take(struct sim *s, int p, const struct trace_event *e, bool *there) {
    if (e->peer < 0 || e->peer >= s->pp || e->peer == p)
        return TM_FAIL(TM_ERR_INTERNAL, "pipeline stage %d receives from stage %d of %d", p, e->peer, s->pp);
    struct lane *l = &s->lane[e->peer * s->pp + p];
    *there = l->taken < l->n;
    if (!*there) return TM_OK;
    const struct packet *m = &l->v[l->taken++];
    if (m->tag != e->tag)
        return TM_FAIL(TM_ERR_INTERNAL, "pipeline stage %d expects tag %d of stage %d and meets %d", p, e->tag, e->peer,
                       m->tag);
    double wait = fmax(0, m->arrival - s->player[p].now), moving = fmin(wait, m->transfer);
    s->share[p].message += moving;
    s->share[p].idle += wait - moving;
    s->player[p].now += wait;
    return TM_OK;
}

static void begin_sum(const struct cost *c, struct player *me, struct sim_share *h, double seconds) {
    if (cost_beside(c)) {
        me->beside = fmax(me->beside, me->now) + seconds;
        h->hidden += seconds;
    } else {
        me->owed += seconds;
    }
}

static void spend(struct sim *s, int p, const struct trace_event *e) {
    struct player *me = &s->player[p];
    double seconds = cost_seconds(s->program[p].cost, e);
    struct sim_share *h = &s->share[p];
    if (e->kind == TRACE_GROUP && e->what == PAR_TRAFFIC_BESIDE) {
        begin_sum(s->program[p].cost, me, h, seconds);
        return;
    }
    if (e->kind == TRACE_GROUP && e->what == PAR_TRAFFIC_JOIN) {
        const double wait = fmax(0, me->beside - me->now);
        h->hidden -= wait;
        seconds += me->owed + wait;
        me->owed = 0;
    }
    *(e->kind == TRACE_WORK ? &h->work
      : e->group == 't'     ? &h->tensor
      : e->group == 'd'     ? &h->replica
                            : &h->message) += seconds;
    me->now += seconds;
}

/* Run stage p as far as it goes. */
static enum status advance(struct sim *s, int p) {
    const struct sim_program *prog = &s->program[p];
    struct player *me = &s->player[p];
    for (; me->at < prog->to; me->at++) {
        const struct trace_event *e = &prog->trace->event[me->at];
        bool there = true;
        if (e->kind == TRACE_SEND)
            TM_TRY(post(s, p, e));
        else if (e->kind == TRACE_RECV)
            TM_TRY(take(s, p, e, &there));
        else
            spend(s, p, e);
        if (!there) break;
    }
    return TM_OK;
}

static enum status run(struct sim *s) {
    for (int stuck = 0; stuck >= 0;) {
        bool moved = false;
        stuck = -1;
        for (int p = 0; p < s->pp; p++) {
            size_t before = s->player[p].at;
            TM_TRY(advance(s, p));
            moved |= s->player[p].at != before;
            if (s->player[p].at < s->program[p].to) stuck = p;
        }
        if (stuck >= 0 && !moved)
            return TM_FAIL(TM_ERR_INTERNAL, "pipeline stage %d waits for a message of stage %d that is never sent",
                           stuck, s->program[stuck].trace->event[s->player[stuck].at].peer);
    }
    for (int i = 0; i < s->pp * s->pp; i++)
        if (s->lane[i].taken != s->lane[i].n)
            return TM_FAIL(TM_ERR_INTERNAL, "%zu messages of pipeline stage %d to stage %d are never received",
                           s->lane[i].n - s->lane[i].taken, i / s->pp, i % s->pp);
    return TM_OK;
}

enum status sim_round(const struct sim_program *program, int pp, struct sim_share *share, double *seconds) {
    struct sim s = {.program = program, .pp = pp, .share = share};
    *seconds = 0;
    TM_TRY(mem_alloc(&s.player, (size_t)pp, sizeof *s.player));
    enum status st = mem_alloc(&s.lane, (size_t)pp * (size_t)pp, sizeof *s.lane);
    for (int p = 0; p < pp; p++) {
        share[p] = (struct sim_share){0};
        s.player[p].at = program[p].from;
    }
    if (st == TM_OK) st = run(&s);
    for (int p = 0; p < pp; p++) *seconds = fmax(*seconds, s.player[p].now);
    for (int p = 0; p < pp; p++) share[p].idle += *seconds - s.player[p].now;
    for (int i = 0; s.lane && i < pp * pp; i++) mem_free(&s.lane[i].v);
    mem_free(&s.lane);
    mem_free(&s.player);
    return st;
}
