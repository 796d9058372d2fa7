/* Sweeps: the points of the product of a deck's axes, each run as a deck of its own, and the stages that points have in common. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "deck/axes.h"
#include "deck/table.h"

/* --- points ------------------------------------------------------------------------------------------------------------------- */
static int64_t product(const struct deck *deck) {
    int64_t n = 1; /* at most 10^6: a rule of the deck */
    for (int i = 0; i < deck->sweep.n; i++)
        if (deck_axes_leader(deck, i) == i) n *= deck->sweep.v[i].values.n;
    return n;
}

int deck_sweep_value(const struct deck *deck, int64_t number, int axis) {
    int leader = deck_axes_leader(deck, axis);
    for (int i = deck->sweep.n - 1; i > leader; i--)
        if (deck_axes_leader(deck, i) == i) number /= deck->sweep.v[i].values.n;
    return (int)(number % deck->sweep.v[leader].values.n);
}

static bool is_out(const struct deck *deck, int64_t number) {
    for (int i = 0; i < deck->sweep_without.n; i++) {
        const struct deck_texts *w = &deck->sweep_without.v[i].where;
        bool all = w->n > 0;
        for (int j = 0; j < w->n && all; j++) {
            const char *value;
            int axis = deck_axes_find(deck, w->v[j], &value);
            all = axis >= 0 && deck_axes_meets(&deck->sweep.v[axis], deck_sweep_value(deck, number, axis), value);
        }
        if (all) return true;
    }
    return false;
}

int64_t deck_sweep_next(const struct deck *deck, int64_t number) {
    int64_t n = product(deck);
    for (number++; number < n; number++)
        if (!is_out(deck, number)) return number;
    return -1;
}

int64_t deck_sweep_count(const struct deck *deck) {
    int64_t n = 0;
    for (int64_t k = deck_sweep_next(deck, -1); k >= 0; k = deck_sweep_next(deck, k)) n++;
    return n;
}

enum status deck_sweep_dir(int64_t number, char *out, size_t cap) {
    int n = snprintf(out, cap, "point-%04lld", (long long)number);
    return n > 0 && (size_t)n < cap ? TM_OK
                                    : TM_FAIL(TM_ERR_INTERNAL, "no room for the name of point %lld", (long long)number);
}

/* --- what points share -------------------------------------------------------------------------------------------------------- */
/* The stages that level `level` has: up to the first one that another axis changes. 0 = there is no such level. */
static int level_stages(const struct deck *deck, int level) {
    int stages = 0;
    for (; level >= 0; level--) {
        int next = deck->stages.n;
        for (int i = 0; i < deck->sweep.n; i++) {
            int first = deck->sweep.v[i].first_stage;
            if (first > stages && first < next) next = first;
        }
        if (next == deck->stages.n) return 0;
        stages = next;
    }
    return stages;
}

/* The first value of the axis' leader that gives all zipped axes of the level what `value` gives them. */
static int first_alike(const struct deck *deck, int leader, int stages, int value) {
    for (int k = 0; k < value; k++) {
        bool alike = true;
        for (int i = leader; i < deck->sweep.n; i++) {
            const struct deck_axis *a = &deck->sweep.v[i];
            if (deck_axes_leader(deck, i) == leader && a->first_stage < stages)
                alike &= !strcmp(a->values.v[k], a->values.v[value]);
        }
        if (alike) return k;
    }
    return value;
}

/* A number for the values of the axes that change the first `stages` stages. */
static int64_t level_number(const struct deck *deck, int64_t number, int stages) {
    int64_t n = 0;
    for (int leader = 0; leader < deck->sweep.n; leader++) {
        bool counts = false;
        for (int i = leader; i < deck->sweep.n; i++)
            counts |= deck_axes_leader(deck, i) == leader && deck->sweep.v[i].first_stage < stages;
        if (counts && deck_axes_leader(deck, leader) == leader)
            n = n * deck->sweep.v[leader].values.n +
                first_alike(deck, leader, stages, deck_sweep_value(deck, number, leader));
    }
    return n;
}

int deck_sweep_shared(const struct deck *deck, int64_t number, int level, char *dir, size_t cap) {
    int stages = level_stages(deck, level);
    if (stages)
        snprintf(dir, cap, "shared-%s-%04lld", deck->stages.v[stages - 1].name,
                 (long long)level_number(deck, number, stages));
    return stages;
}

/* --- decks of points ---------------------------------------------------------------------------------------------------------- */
/* The --set strings of a point, or of what it shares (stages > 0): one an axis, the run directory, and the sweep itself, emptied. */
static enum status point_sets(const struct deck *deck, int64_t number, int stages, const char *name, struct str *sets) {
    int n = 0;
    for (int i = 0; i < deck->sweep.n; i++) {
        const struct deck_axis *a = &deck->sweep.v[i];
        if (!stages || a->first_stage < stages)
            TM_TRY(str_printf(&sets[n++], "%s=%s", a->key, a->values.v[deck_sweep_value(deck, number, i)]));
    }
    struct str dir = {0};
    enum status st = str_printf(&dir, "%s/%s", deck->run.dir, name);
    if (st == TM_OK) st = str_printf(&sets[n], "run.dir=");
    if (st == TM_OK) st = deck_print_text(dir.p, &sets[n++]);
    str_free(&dir);
    if (st == TM_OK) st = str_printf(&sets[n++], "sweep=( )");
    return st == TM_OK ? str_printf(&sets[n], "sweep_without=( )") : st;
}

static enum status load(const struct deck *base, const char *path, const char *const *sets, int n_sets, int64_t number,
                        int stages, const char *name, struct str *report, struct deck **out) {
    int n_own = base->sweep.n + 3, n = n_sets;
    struct str *own = NULL;
    const char **all = NULL;
    enum status st = mem_alloc(&own, (size_t)n_own, sizeof *own);
    if (st == TM_OK) st = mem_alloc(&all, (size_t)(n_sets + n_own), sizeof *all);
    if (st == TM_OK) st = point_sets(base, number, stages, name, own);
    for (int i = 0; i < n_sets && st == TM_OK; i++) all[i] = sets[i];
    for (int i = 0; i < n_own && st == TM_OK; i++)
        if (own[i].p) all[n++] = own[i].p;
    if (st == TM_OK) st = deck_load(path, all, n, report, out);
    if (st == TM_OK && stages) (*out)->stages.n = stages; /* no stage reads what a later one says */
    for (int i = 0; i < n_own && own; i++) str_free(&own[i]);
    mem_free(&own);
    mem_free(&all);
    return st;
}

static enum status load_level(const struct deck *base, const char *path, const char *const *sets, int n_sets,
                              int64_t point, int level, struct str *report, struct deck **out) {
    char name[160];
    int64_t number = -1, n = deck_sweep_count(base);
    if (point < 0 || point >= n)
        return TM_FAIL(TM_ERR_DECK, "--sweep-point %lld: expected 0 to %lld, the points of %s", (long long)point,
                       (long long)n - 1, path);
    for (int64_t i = 0; i <= point; i++) number = deck_sweep_next(base, number);
    int stages = level < 0 ? 0 : deck_sweep_shared(base, number, level, name, sizeof name);
    if (level >= 0 && !stages) return TM_OK;
    if (level < 0) TM_TRY(deck_sweep_dir(number, name, sizeof name));
    return load(base, path, sets, n_sets, number, stages, name, report, out);
}

enum status deck_load_shared(const char *path, const char *const *sets, int n_sets, int64_t point, int level,
                             struct str *report, struct deck **out) {
    struct deck *base;
    *out = NULL;
    TM_TRY(deck_load(path, sets, n_sets, report, &base));
    if (report) str_clear(report); /* its warnings come again */
    enum status st = load_level(base, path, sets, n_sets, point, level, report, out);
    deck_free(&base);
    return st;
}

enum status deck_load_point(const char *path, const char *const *sets, int n_sets, int64_t point, struct str *report,
                            struct deck **out) {
    return deck_load_shared(path, sets, n_sets, point, -1, report, out);
}
