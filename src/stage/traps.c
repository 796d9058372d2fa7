/* The traps, one small function each: TRAP functions append a line or nothing. */
#include "stage/traps.h"

#include "base/size.h"
#include "stage/inputs.h"

struct site {
    const struct par_grid *g;
    const struct deck_stage *s;
    const struct model_config *c;
    const struct deck_machine *m; /* may be NULL */
    const struct plan_time *t;    /* may be NULL */
    bool learns;
    int64_t length; /* tokens of a row; 0 unknown */
    int64_t
        batches; /* micro-batches of a replica between two moments in which a pipeline is empty: a step, or a wave of forward passes */
};

#define WARN(...) str_printf(out, "  warning: " __VA_ARGS__)

/* Of `units` that are cut as the model cuts them: the most and the least that a tensor rank gets. */
static void shares(int64_t units, int tp, int64_t *most, int64_t *least) {
    const struct tensor_axis axis = {units, 1, PAR_TP_SEGMENTS};
    *most = 0;
    *least = INT64_MAX;
    for (int i = 0; i < tp; i++) {
        int64_t lo, hi;
        tensor_axis_range(&axis, i, tp, &lo, &hi);
        *most = size_max(*most, hi - lo);
        *least = size_min(*least, hi - lo);
    }
}

static enum status heads(const struct site *x, struct str *out) {
    int64_t most, least;
    shares(x->c->kv_heads, x->g->tp, &most, &least);
    if (least == 0)
        return WARN("%lld key/value heads over tp %d: a head is not cut, so some ranks of each tensor group have no "
                    "attention\n",
                    (long long)x->c->kv_heads, x->g->tp);
    if (most == least) return TM_OK;
    return WARN("%lld key/value heads over tp %d: ranks have %lld or %lld of them, and all wait for the fuller\n",
                (long long)x->c->kv_heads, x->g->tp, (long long)least, (long long)most);
}

static enum status vocabulary(const struct site *x, struct str *out) {
    int64_t most, least;
    shares(x->c->vocab, x->g->tp, &most, &least);
    if (most == least && (x->g->tp == 1 || most % 8 == 0)) return TM_OK;
    return WARN("a vocabulary of %lld over tp %d: ranks have %lld or %lld rows, which no kernel's tiles divide\n",
                (long long)x->c->vocab, x->g->tp, (long long)least, (long long)most);
}

static enum status node_border(const struct site *x, struct str *out) {
    if (!x->m || x->g->tp <= x->m->ranks_a_node || x->g->tp == 1) return TM_OK;
    return WARN("tp %d is more than the %lld ranks of a node: every layer's sums go through the network\n", x->g->tp,
                (long long)x->m->ranks_a_node);
}

static enum status layers(const struct site *x, struct str *out) {
    int64_t n = x->c->layers, pp = x->g->pp;
    if (n % pp == 0) return TM_OK;
    return WARN("%lld layers over pp %lld: stages have %lld or %lld of them, and all wait for the fuller\n",
                (long long)n, (long long)pp, (long long)(n / pp), (long long)(n / pp + 1));
}

static enum status bubble(const struct site *x, struct str *out) {
    double pp = x->g->pp, m = (double)x->batches, share = (pp - 1) / (m + pp - 1);
    if (x->g->pp == 1) return TM_OK;
    if (share < 0.1) return TM_OK;
    return WARN("the pipeline idles %.0f %%: %lld micro-batches over pp %d; %s\n", 100 * share, (long long)x->batches,
                x->g->pp,
                x->learns ? "raise batch.global or lower pp or batch.micro"
                          : "data-parallel ranks in its place would not wait");
}

/* Below 2 * FLOP/s / bytes/s tokens a product in fp32 takes longer to read its weights than to multiply (half as many in bf16). */
static enum status small_batches(const struct site *x, struct str *out) {
    if (!x->m || !x->length || !(x->m->rank.memory_gbs > 0)) return TM_OK;
    bool bf16 = x->s->numerics.compute[0] == 'b' && x->m->rank.bf16_gflops > 0;
    double rate = bf16 ? x->m->rank.bf16_gflops : x->m->rank.fp32_gflops,
           tokens = (double)(x->s->batch.micro * x->length);
    double need = 2 * rate / x->m->rank.memory_gbs;
    if (tokens >= need) return TM_OK;
    return WARN("a micro-batch of %.0f tokens: below %.0f, products wait for their weights; raise batch.micro\n",
                tokens, need);
}

static enum status no_saves(const struct site *x, struct str *out) {
    if (!x->t || !x->learns || x->s->checkpoint.every > 0 || x->s->checkpoint.every_s > 0) return TM_OK;
    if (x->t->part[PLAN_loop] < 3600) return TM_OK;
    return WARN("%.1f h without a checkpoint: set checkpoint.every or checkpoint.every_s\n",
                x->t->part[PLAN_loop] / 3600);
}

static enum status bytes_of_the_grid(const struct site *x, struct str *out) {
    if (x->g->invariant) return TM_OK;
    return WARN("tp %d is no power of two up to %d: results depend on the grid\n", x->g->tp, PAR_TP_SEGMENTS);
}

enum status traps_print(const struct stage_run *r, const struct deck_stage *s, const struct deck_machine *m,
                        const struct plan_time *t, int64_t fill, struct str *out) {
    static enum status (*const traps[])(const struct site *x,
                                        struct str *out) = {heads,  vocabulary,    layers,   node_border,
                                                            bubble, small_batches, no_saves, bytes_of_the_grid};
    struct model_config c;
    struct site x = {.g = &r->grid, .s = s, .c = &c, .m = m, .t = t, .batches = size_max(1, fill)};
    if (!s->dataset && s->kind != DECK_KIND_generate) return TM_OK; /* nothing is computed */
    x.learns = s->kind == DECK_KIND_train || s->kind == DECK_KIND_distill;
    if (s->dataset) x.length = s->dataset->seq_length;
    TM_TRY(stage_model_config(s, &c));
    enum status st = TM_OK;
    for (size_t i = 0; i < sizeof traps / sizeof *traps && st == TM_OK; i++) st = traps[i](&x, out);
    model_config_free(&c);
    return st;
}
