/* Sweeps: the points of the product of a deck's axes, each run as a deck of its own. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "deck/table.h"

int64_t deck_sweep_count(const struct deck *deck) {
    int64_t n = 1; /* at most 10^6: a rule of the deck */
    for (int i = 0; i < deck->sweep.n; i++) n *= deck->sweep.v[i].values.n;
    return n;
}

/* The --set strings of a point: one an axis, then the run directory, then the sweep itself, emptied. */
static enum status point_sets(const struct deck *deck, int64_t point, struct str *sets) {
    int64_t rest = point;
    for (int i = deck->sweep.n - 1; i >= 0; i--) {
        const struct deck_axis *a = &deck->sweep.v[i];
        TM_TRY(str_printf(&sets[i], "%s=%s", a->key, a->values.v[rest % a->values.n]));
        rest /= a->values.n;
    }
    struct str dir = {0};
    enum status st = str_printf(&dir, "%s/point-%04lld", deck->run.dir, (long long)point);
    struct str *set = &sets[deck->sweep.n];
    if (st == TM_OK) st = str_printf(set, "run.dir=");
    if (st == TM_OK) st = deck_print_text(dir.p, set);
    str_free(&dir);
    return st == TM_OK ? str_printf(set + 1, "sweep=( )") : st;
}

static enum status load_point(const struct deck *base, const char *path, const char *const *sets, int n_sets,
                              int64_t point, struct str *report, struct deck **out) {
    int n_own = base->sweep.n + 2;
    struct str *own = NULL;
    const char **all = NULL;
    enum status st = mem_alloc(&own, (size_t)n_own, sizeof *own);
    if (st == TM_OK) st = mem_alloc(&all, (size_t)(n_sets + n_own), sizeof *all);
    if (st == TM_OK) st = point_sets(base, point, own);
    for (int i = 0; i < n_sets && st == TM_OK; i++) all[i] = sets[i];
    for (int i = 0; i < n_own && st == TM_OK; i++) all[n_sets + i] = own[i].p;
    if (st == TM_OK) st = deck_load(path, all, n_sets + n_own, report, out);
    for (int i = 0; i < n_own && own; i++) str_free(&own[i]);
    mem_free(&own);
    mem_free(&all);
    return st;
}

enum status deck_load_point(const char *path, const char *const *sets, int n_sets, int64_t point, struct str *report,
                            struct deck **out) {
    struct deck *base;
    *out = NULL;
    TM_TRY(deck_load(path, sets, n_sets, report, &base));
    int64_t n = deck_sweep_count(base);
    enum status st;
    if (report) str_clear(report); /* its warnings come again */
    if (point < 0 || point >= n)
        st = TM_FAIL(TM_ERR_DECK, "--sweep-point %lld: expected 0 to %lld, the points of %s", (long long)point,
                     (long long)n - 1, path);
    else
        st = load_point(base, path, sets, n_sets, point, report, out);
    deck_free(&base);
    return st;
}
