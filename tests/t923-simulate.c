/* TEST ranks=1 tier=1 */
/* stage/simulate, stage/cost: the schedule of src/train played as a simulation, against closed forms and against recurrences; collectives against
 * their formulas; programs that cannot end. */
#include "stage/simulate.h"
#include "tap.h"
#include "train/pass.h"

enum { STAGES = 16 };

/* Operations cost their FLOPs in seconds; messages by the machine file. */
static struct cost cost_of(const struct deck_machine *m, int world, int rank, int tp, int pp) {
    struct cost c;
    struct par_grid place;
    must(par_grid_imagine(world, rank, tp, 1, pp, &place));
    must(cost_create(m, &place, false, &c));
    for (int i = 0; i < dev_op_count(); i++) c.op[i] = (struct cost_op){.flop = 1};
    return c;
}

static struct deck_machine *machine(const char *text) {
    struct deck_machine *m;
    must(deck_machine_parse(text, "test", NULL, &m));
    return m;
}

/* --- the schedule of src/train ------------------------------------------------------------------------------------------------------ */
struct stage {
    struct trace *t;
    const struct par_grid *g;
    double f, b, bytes;
};

static void add(struct trace *t, enum trace_kind kind, double flops, double bytes, int peer, int tag) {
    trace_add(
        t, (struct trace_event){.kind = kind, .group = 'p', .peer = peer, .tag = tag, .flops = flops, .bytes = bytes});
}

/* As train_pass_forward and train_pass_backward do: receive, run, send. */
static enum status forward(void *context, int micro_batch, int slot) {
    struct stage *s = context;
    int p = s->g->pp_rank;
    (void)micro_batch, (void)slot;
    if (p > 0) add(s->t, TRACE_RECV, 0, s->bytes, p - 1, 0);
    add(s->t, TRACE_WORK, s->f, 0, -1, -1);
    if (p + 1 < s->g->pp) add(s->t, TRACE_SEND, 0, s->bytes, p + 1, 0);
    return s->t->status;
}
static enum status backward(void *context, int micro_batch, int slot) {
    struct stage *s = context;
    int p = s->g->pp_rank;
    (void)micro_batch, (void)slot;
    if (p + 1 < s->g->pp) add(s->t, TRACE_RECV, 0, s->bytes, p + 1, 1);
    add(s->t, TRACE_WORK, s->b, 0, -1, -1);
    if (p > 0) add(s->t, TRACE_SEND, 0, s->bytes, p - 1, 1);
    return s->t->status;
}

struct play {
    struct trace trace[STAGES];
    struct cost cost[STAGES];
    struct sim_program program[STAGES];
    struct sim_share share[STAGES];
    double seconds;
};

static void play(struct play *x, const struct deck_machine *m, int pp, int n, const double *f, const double *b,
                 double bytes) {
    for (int p = 0; p < pp; p++) {
        x->trace[p] = (struct trace){0};
        x->cost[p] = cost_of(m, pp, p, 1, pp);
        struct stage s = {&x->trace[p], &x->cost[p].place, f[p], b[p], bytes};
        int slots = train_slots(s.g, n);
        must(train_1f1b(s.g, n, slots, &(struct train_work){&s, forward, backward}));
        x->program[p] = (struct sim_program){&x->trace[p], 0, x->trace[p].n, &x->cost[p]};
    }
    must(sim_round(x->program, pp, x->share, &x->seconds));
    for (int p = 0; p < pp; p++) {
        trace_free(&x->trace[p]);
        cost_free(&x->cost[p]);
    }
}

/* Without communication a step of equal stages takes (m + p - 1) (f + b), and every stage idles (p - 1) / m of its work: exactly, since all times
 * are small integers. */
static void closed_form(void) {
    struct deck_machine *m = machine("version = 1;");
    static struct play x;
    static const int stages[] = {1, 2, 3, 4, 8, 16}, batches[] = {1, 2, 3, 4, 7, 16, 33, 128};
    static const double times[][2] = {{1, 2}, {3, 3}, {5, 1}};
    bool exact = true, idle = true;
    const int count = tap_count_; /* what must hold for each case is not worth a line */
    tap_quiet_ = 1;
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        for (size_t j = 0; j < sizeof batches / sizeof *batches; j++)
            for (int k = 0; k < 3; k++) {
                double f[STAGES], b[STAGES], each = times[k][0] + times[k][1];
                int p = stages[i], n = batches[j];
                for (int q = 0; q < p; q++) f[q] = times[k][0], b[q] = times[k][1];
                play(&x, m, p, n, f, b, 1e6);
                exact &= x.seconds == (n + p - 1) * each;
                for (int q = 0; q < p; q++) idle &= x.share[q].idle == (p - 1) * each && x.share[q].work == n * each;
            }
    tap_quiet_ = 0;
    tap_count_ = count;
    ok(exact, "a step of equal stages takes exactly (m + p - 1) (f + b)");
    ok(idle, "every stage works m (f + b) and idles (p - 1) (f + b): the bubble is (p - 1) / m");
    deck_machine_free(&m);
}

/* --- a second way: when each forward and backward of the published schedule ends, by its dependencies ---------------------------------- */
static double recurrence(int p, int n, const double *f, const double *b, double move) {
    static double fend[STAGES][64], bend[STAGES][64];
    /* the k-th thing that stage s does: warm-up forwards, then forward and backward in turn, then backwards */
    for (int s = 0; s < p; s++)
        for (int i = 0; i < n; i++) fend[s][i] = bend[s][i] = -1;
    for (int round = 0; round < 2 * n * p + 2 * p; round++) /* until nothing changes: a fixed point */
        for (int s = 0; s < p; s++) {
            int ahead = (p - s < n ? p - s : n) - 1, fi = 0, bi = 0;
            double now = 0;
            for (int k = 0; k < 2 * n; k++) {
                bool is_forward = fi < n && fi <= bi + ahead;
                double ready = 0, *end = is_forward ? &fend[s][fi] : &bend[s][bi];
                if (is_forward && s > 0) ready = fend[s - 1][fi] < 0 ? -1 : fend[s - 1][fi] + move;
                if (!is_forward && s + 1 < p) ready = bend[s + 1][bi] < 0 ? -1 : bend[s + 1][bi] + move;
                if (ready < 0) break;
                now = (ready > now ? ready : now) + (is_forward ? f[s] : b[s]);
                *end = now;
                *(is_forward ? &fi : &bi) += 1;
            }
        }
    double last = 0;
    for (int s = 0; s < p; s++) last = bend[s][n - 1] > last ? bend[s][n - 1] : last;
    return last;
}

static void uneven_stages(void) {
    struct deck_machine *m =
        machine("version = 1; ranks_a_node = 1; network = { latency_us = 250000.0; gbs = 1e-9; };");
    static struct play x;
    double worst = 0, most_off = 0;
    uint64_t seed = 7;
    const int count = tap_count_; /* what must hold for each case is not worth a line */
    tap_quiet_ = 1;
    for (int trial = 0; trial < 40; trial++) {
        int p = 2 + trial % 7, n = 1 + trial * 5 % 23;
        double f[STAGES], b[STAGES], bytes = trial % 3;
        for (int s = 0; s < p; s++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
            f[s] = 1 + (double)(seed >> 60);
            b[s] = 2 * f[s] + (double)(seed >> 56 & 3);
        }
        play(&x, m, p, n, f, b, bytes);
        double want = recurrence(p, n, f, b, 0.25 + bytes);
        worst = fmax(worst, fabs(x.seconds / want - 1));
        for (int s = 0; s < p; s++) {
            const struct sim_share *h = &x.share[s];
            double all = h->work + h->message + h->idle;
            most_off = fmax(most_off, fabs(all / x.seconds - 1));
        }
    }
    tap_quiet_ = 0;
    tap_count_ = count;
    ok(worst < 1e-12, "unequal stages and messages: as the recurrences of the schedule (worst %.2g)", worst);
    ok(most_off < 1e-12, "the shares of a rank add up to the step (worst %.2g)", most_off);
    double f[2] = {3, 3}, b[2] = {5, 5};
    play(&x, m, 2, 1, f, b, 2);
    is_near(x.seconds, 3 + 2.25 + 3 + 5 + 2.25 + 5, 1e-15, "one micro-batch through two stages and back");
    is_near(x.share[0].idle + x.share[0].message, 2.25 + 8 + 2.25, 1e-15,
            "the first stage waits for all of the second's work");
    is_near(x.share[0].message, 2.25, 1e-15, "of which a message's time is communication");
    deck_machine_free(&m);
}

/* --- collectives ------------------------------------------------------------------------------------------------------------------------ */
static double group_cost(const struct deck_machine *m, int world, int tp, int pp, char group,
                         enum par_traffic_kind kind, double bytes) {
    struct cost c = cost_of(m, world, 0, tp, pp);
    double s =
        cost_seconds(&c, &(struct trace_event){.kind = TRACE_GROUP, .what = (int)kind, .group = group, .bytes = bytes});
    cost_free(&c);
    return s;
}

static void collectives(void) {
    struct deck_machine *m = machine("version = 1; ranks_a_node = 8; node = { latency_us = 2.0; gbs = 100.0; };\n"
                                     "network = { latency_us = 10.0; gbs = 10.0; };");
    const double n = 8e6;
    is_near(group_cost(m, 2, 2, 1, 't', PAR_TRAFFIC_SUM, n), 2e-6 + n / 100e9, 1e-12, "two ranks swap");
    is_near(group_cost(m, 8, 8, 1, 't', PAR_TRAFFIC_SUM, n), 6 * 2e-6 + 2 * 7 / 8.0 * n / 100e9, 1e-12,
            "a sum over the eight ranks of a node");
    is_near(group_cost(m, 8, 8, 1, 't', PAR_TRAFFIC_GATHER, n), 3 * 2e-6 + 7 / 8.0 * n / 100e9, 1e-12, "a gather");
    is_near(group_cost(m, 64, 8, 1, 'd', PAR_TRAFFIC_SUM, n), 6 * 10e-6 + 2 * 7 / 8.0 * n / 10e9, 1e-12,
            "replicas on eight nodes: all through the network");
    is_near(group_cost(m, 4096, 1, 1, 'd', PAR_TRAFFIC_SUM, n), 24 * 10e-6 + 2 * 4088 / 4096.0 * n / 10e9, 1e-12,
            "4096 replicas: what goes to other nodes, 4088 of 4095 parts, takes longer than what stays");
    is_near(group_cost(m, 16, 16, 1, 't', PAR_TRAFFIC_SUM, n), 8 * 10e-6 + 2 * 8 / 16.0 * n / 10e9, 1e-12,
            "a tensor group over two nodes");
    is_near(group_cost(m, 1, 1, 1, 'd', PAR_TRAFFIC_SUM, n), 0, 1e-12, "one rank has nobody to sum with");
    deck_machine_free(&m);
    m = machine("version = 1; network = { gbs = 10.0; }; program = { element_bytes = 2; overlap = 0.75; };");
    is_near(group_cost(m, 2, 1, 1, 'd', PAR_TRAFFIC_SUM, n), 0.25 * n / 2 / 10e9, 1e-12,
            "half as wide elements, three quarters hidden");
    deck_machine_free(&m);
}

/* --- sums beside the backward pass ---------------------------------------------------------------------------------------------------------- */
/* One rank of two replicas: the head's backward takes h, each of n layers b, and behind each a sum of s seconds is begun. */
static double step_of(const struct deck_machine *m, int n, double h, double b, double s, struct sim_share *share) {
    struct trace t = {0};
    struct cost c = cost_of(m, 2, 0, 1, 1);
    struct trace_event sum = {.kind = TRACE_GROUP, .what = PAR_TRAFFIC_BESIDE, .group = 'd', .bytes = s};
    double seconds;
    add(&t, TRACE_WORK, h, 0, -1, -1);
    trace_add(&t, sum);
    for (int l = 0; l < n; l++) {
        add(&t, TRACE_WORK, b, 0, -1, -1);
        trace_add(&t, sum);
    }
    trace_add(&t, (struct trace_event){.kind = TRACE_GROUP, .what = PAR_TRAFFIC_JOIN, .group = 'd'});
    must(sim_round(&(struct sim_program){&t, 0, t.n, &c}, 1, share, &seconds));
    trace_free(&t);
    cost_free(&c);
    return seconds;
}

/* A sum waits for its layer and for the sums before it: with equal ones the step takes h + max(n b + s, (n + 1) s), and n b at most are hidden. All
 * times are small integers: exactly. */
static void beside(void) {
    enum { GPU, HOST, OTHER, MACHINES };
    struct deck_machine *m[MACHINES] = {[GPU] = machine("version = 1; network = { gbs = 1e-9; };"),
                                        [HOST] =
                                            machine("version = 1; rank = { threads = 1; }; network = { gbs = 1e-9; };"),
                                        [OTHER] = machine(
                                            "version = 1; network = { gbs = 1e-9; }; program = { overlap = 0.75; };")};
    static const double times[][3] = {{1, 4, 2}, {1, 2, 4}, {3, 3, 3}, {5, 1, 100}, {2, 7, 0}};
    struct sim_share x;
    for (size_t k = 0; k < sizeof times / sizeof *times; k++)
        for (int n = 1; n <= 33; n += 16) {
            double h = times[k][0], b = times[k][1], s = times[k][2], all = (n + 1) * s, work = h + n * b;
            double want = h + fmax(n * b + s, all), got = step_of(m[GPU], n, h, b, s, &x);
            bool adds = x.work == work && x.replica == want - work && x.hidden == all - x.replica && x.hidden <= n * b;
            ok(got == want && adds, "%d layers of %g s, sums of %g s: %g s, %g of the sums hidden", n, b, s, got,
               x.hidden);
            got = step_of(m[HOST], n, h, b, s, &x);
            ok(got == work + all && x.hidden == 0, "  on a host all of it shows: %g s", got);
            got = step_of(m[OTHER], n, h, b, s, &x);
            ok(got == work + all / 4 && x.hidden == 0, "  with a share that was measured: %g s", got);
        }
    for (int i = 0; i < MACHINES; i++) deck_machine_free(&m[i]);
}

/* --- programs that cannot end --------------------------------------------------------------------------------------------------------------- */
static enum status two(void (*fill)(struct trace *a, struct trace *b)) {
    struct deck_machine *m = machine("version = 1;");
    struct trace t[2] = {{0}, {0}};
    struct cost c[2] = {cost_of(m, 2, 0, 1, 2), cost_of(m, 2, 1, 1, 2)};
    struct sim_share share[2];
    double seconds;
    fill(&t[0], &t[1]);
    struct sim_program p[2] = {{&t[0], 0, t[0].n, &c[0]}, {&t[1], 0, t[1].n, &c[1]}};
    enum status st = sim_round(p, 2, share, &seconds);
    for (int i = 0; i < 2; i++) {
        trace_free(&t[i]);
        cost_free(&c[i]);
    }
    deck_machine_free(&m);
    return st;
}
static void both_receive(struct trace *a, struct trace *b) {
    add(a, TRACE_RECV, 0, 1, 1, 0);
    add(a, TRACE_SEND, 0, 1, 1, 0);
    add(b, TRACE_RECV, 0, 1, 0, 0);
    add(b, TRACE_SEND, 0, 1, 0, 0);
}
static void other_tag(struct trace *a, struct trace *b) {
    add(a, TRACE_SEND, 0, 1, 1, 2);
    add(b, TRACE_RECV, 0, 1, 0, 0);
}
static void left_over(struct trace *a, struct trace *b) {
    add(a, TRACE_SEND, 0, 1, 1, 2);
    add(b, TRACE_WORK, 1, 0, -1, -1);
}
static void nobody(struct trace *a, struct trace *b) {
    add(a, TRACE_SEND, 0, 1, 2, 0);
    add(b, TRACE_WORK, 1, 0, -1, -1);
}

static void broken(void) {
    is_status(two(both_receive), TM_ERR_INTERNAL);
    ok(strstr(status_message(), "waits for a message of stage") != NULL, "it says who waits: %s", status_message());
    is_status(two(other_tag), TM_ERR_INTERNAL);
    is_str(status_message(), "pipeline stage 1 expects tag 0 of stage 0 and meets 2", "another order of messages");
    is_status(two(left_over), TM_ERR_INTERNAL);
    is_str(status_message(), "1 messages of pipeline stage 0 to stage 1 are never received", "a message too many");
    is_status(two(nobody), TM_ERR_INTERNAL);
}

int main(void) {
    closed_form();
    uneven_stages();
    collectives();
    beside();
    broken();
    return tap_done();
}
