/* The axes of a sweep: ranges become values, and what is wrong with an axis is said at its line. */
#include "deck/axes.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deck/source.h"

struct axes {
    const struct reader *r;
    const config_t *tree;
    struct deck *deck;
};

/* The one at hand. */
struct axis {
    const struct axes *all;
    struct deck_axis *a;
    const config_setting_t *at; /* its group, or the key of it that a message is about */
    struct source_key of;
    int i;
};

/* --- what others ask ---------------------------------------------------------------------------------------------------------- */
int deck_axes_leader(const struct deck *deck, int i) {
    const char *zip = deck->sweep.v[i].zip;
    for (int j = 0; *zip && j < i; j++)
        if (!strcmp(deck->sweep.v[j].zip, zip)) return j;
    return i;
}

/* "stages.qad.steps" and "qad.steps" are one key. */
static const char *bare(const char *key) { return strncmp(key, "stages.", 7) ? key : key + 7; }

int deck_axes_find(const struct deck *deck, const char *condition, const char **value) {
    const char *equals = strchr(condition, '=');
    if (!equals) return -1;
    *value = equals + 1;
    for (int i = 0; i < deck->sweep.n; i++) {
        const char *key = deck->sweep.v[i].key ? bare(deck->sweep.v[i].key) : "", *said = bare(condition);
        if (strlen(key) == (size_t)(equals - said) && !strncmp(key, said, strlen(key))) return i;
    }
    return -1;
}

/* Without the quotes that a text has in a deck. */
static void unquote(const char *text, char *out, size_t cap) {
    size_t n = strlen(text);
    bool quoted = n > 1 && text[0] == '"' && text[n - 1] == '"';
    snprintf(out, cap, "%.*s", (int)(quoted ? n - 2 : n), text + quoted);
}

bool deck_axes_meets(const struct deck_axis *a, int i, const char *value) {
    char mine[512], wanted[512], *end_mine, *end_wanted;
    unquote(a->values.v[i], mine, sizeof mine);
    unquote(value, wanted, sizeof wanted);
    double x = strtod(mine, &end_mine), y = strtod(wanted, &end_wanted);
    if (*mine && *wanted && !*end_mine && !*end_wanted) return x == y;
    return str_glob(wanted, mine);
}

/* --- ranges ------------------------------------------------------------------------------------------------------------------- */
/* Report at the axis' own key, or at the axis. */
static enum status broken(const struct axis *x, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static enum status broken(const struct axis *x, const char *key, const char *fmt, ...) {
    char text[512];
    const config_setting_t *at = *key ? config_setting_get_member(x->at, key) : NULL;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return deck_report_error(x->all->r->report, at ? at : x->at, "sweep[%d]%s%s%s", x->i, *key ? "." : "", key, text);
}

/* How many numbers; 0 when the range is none, which is then reported. */
static enum status range_count(const struct axis *x, int64_t *n) {
    const struct deck_axis *a = x->a;
    bool is_log = !strcmp(a->scale, "log");
    *n = 0;
    if (a->step != 0 && a->count) return broken(x, "step", ": count is given too: which one?");
    if (is_log && a->step != 0) return broken(x, "scale", " = \"log\": it goes with count, not step");
    if (is_log && (a->from <= 0 || a->to <= 0))
        return broken(x, "scale", " = \"log\": from = %g and to = %g must be above 0", a->from, a->to);
    if (a->count == 1 && a->from != a->to) return broken(x, "count", " = 1: from and to are two numbers");
    if (a->count > 1 && a->from == a->to)
        return broken(x, "count", " = %lld: from and to are one number", (long long)a->count);
    *n = a->count;
    if (a->step == 0) return TM_OK;
    double steps = (a->to - a->from) / a->step;
    if (steps < 0) return broken(x, "step", " = %g: it does not lead from %g to %g", a->step, a->from, a->to);
    if (!(steps < DECK_MAX_POINTS)) return broken(x, "step", " = %g: more than %d numbers", a->step, DECK_MAX_POINTS);
    *n = 1 + (int64_t)floor(steps + 1e-9);
    return TM_OK;
}

/* Number i of n, to twelve digits: 0.1 + 2 * 0.1 is 0.3, and no machine's pow shows. */
static double range_number(const struct deck_axis *a, int64_t i, int64_t n) {
    char text[40];
    double t = n > 1 ? (double)i / (double)(n - 1) : 0;
    double x = a->step != 0              ? a->from + (double)i * a->step
               : strcmp(a->scale, "log") ? a->from + t * (a->to - a->from)
                                         : exp(log(a->from) + t * (log(a->to) - log(a->from)));
    snprintf(text, sizeof text, "%.12g", x);
    return strtod(text, NULL);
}

static enum status print_number(const struct axis *x, double v, bool *good, const char **out) {
    const struct key *k = x->of.key;
    struct str s = {0}, expected = {0};
    if (k->type == KEY_INT) v = rint(v);
    *good = deck_key_in_range(k, v);
    enum status st = k->type == KEY_INT && *good ? deck_print_int((int64_t)v, &s) : deck_print_float(v, &s);
    if (st == TM_OK && !*good) st = deck_key_print_expected(k, &expected);
    if (st == TM_OK && !*good) st = broken(x, "", ": its range has %s: %s takes %s", s.p, x->a->key, expected.p);
    if (st == TM_OK && *good) st = deck_pool_text(x->all->r->pool, s.p, s.len, out);
    str_free(&s);
    str_free(&expected);
    return st;
}

static enum status make_range(const struct axis *x) {
    struct deck_axis *a = x->a;
    const char **v;
    int64_t n;
    if (x->of.key->type != KEY_INT && x->of.key->type != KEY_FLOAT)
        return broken(x, "from", ": %s takes no numbers: give values", a->key);
    TM_TRY(range_count(x, &n));
    if (!n) return TM_OK;
    TM_TRY(deck_pool_alloc(x->all->r->pool, (size_t)n, sizeof *v, &v));
    for (int64_t i = 0; i < n; i++) {
        bool good;
        TM_TRY(print_number(x, range_number(a, i, n), &good, &v[i]));
        if (!good) return TM_OK;
    }
    a->values.v = v;
    a->values.n = (int)n;
    a->from = a->to = a->step = 0; /* from here on, and in the echo, it is a list */
    a->count = 0;
    a->scale = "linear";
    return TM_OK;
}

/* --- lists -------------------------------------------------------------------------------------------------------------------- */
/* Each value is what the key takes. */
static enum status check_values(const struct axis *x) {
    const config_setting_t *list = config_setting_get_member(x->at, "values");
    char prefix[32], name[32];
    union {
        int64_t i;
        double f;
        bool b;
        const char *text;
        struct list list;
    } scratch;
    snprintf(prefix, sizeof prefix, "sweep[%d].", x->i);
    for (int i = 0; i < x->a->values.n; i++) {
        struct key element = *x->of.key;
        snprintf(name, sizeof name, "values[%d]", i);
        element.name = name;
        TM_TRY(deck_parse_plain(x->all->r, &element, config_setting_get_elem(list, (unsigned)i), &scratch, prefix));
    }
    return TM_OK;
}

static enum status check_repeats(const struct axis *x) {
    const struct deck_texts v = x->a->values;
    if (*x->a->zip) return TM_OK; /* another axis may tell the points apart */
    for (int i = 1; i < v.n && v.n <= 4096; i++)
        for (int j = 0; j < i; j++)
            if (!strcmp(v.v[i], v.v[j])) return broken(x, "", ": %s comes twice (values %d and %d)", v.v[i], j, i);
    return TM_OK;
}

/* --- one axis ----------------------------------------------------------------------------------------------------------------- */
/* Does the top level's group decide anything in the stage? */
static bool reads(const struct source_key *of, const struct deck_stage *s) {
    bool renamed;
    const struct key *k = deck_key_find(deck_table_stage(), of->group->name, &renamed);
    const struct deck_dataset *sets[] = {s->dataset, s->eval_set};
    if (!k || s->kind == DECK_KINDS) return true;
    /* the others take their quantizers from the calibration that their model comes from */
    if (!strcmp(k->name, "quant")) return s->kind == DECK_KIND_calibrate;
    if (!deck_key_used(k, s->kind, NULL)) return false;
    for (int i = 0; k->type == KEY_NAMED && i < 2; i++)
        if (sets[i] && !strcmp(sets[i]->name, of->member)) return true;
    return k->type != KEY_NAMED;
}

static enum status find_first_stage(const struct axis *x) {
    const struct deck *d = x->all->deck;
    int i = 0;
    if (x->of.stage)
        i = config_setting_index(x->of.stage);
    else
        while (i < d->stages.n && !reads(&x->of, &d->stages.v[i])) i++;
    x->a->first_stage = i;
    return i < d->stages.n ? TM_OK : broken(x, "key", " = \"%s\": no stage of this deck reads it", x->a->key);
}

static enum status check_key(const struct axis *x) {
    const char *key = x->a->key;
    const struct deck *d = x->all->deck;
    if (x->of.key->table) return broken(x, "key", " = \"%s\": expected a key that has a value of its own", key);
    if (!strcmp(key, "run.dir"))
        return broken(x, "key", " = \"%s\": every point has a directory of its own in it", key);
    for (int j = 0; j < x->i; j++)
        if (d->sweep.v[j].key && !strcmp(bare(d->sweep.v[j].key), bare(key)))
            return broken(x, "key", " = \"%s\": axis %d is the same", key, j);
    return TM_OK;
}

static enum status resolve_axis(struct axis *x) {
    struct deck_axis *a = x->a;
    if (!a->key || !*a->key || config_setting_type(x->at) != CONFIG_TYPE_GROUP) return TM_OK; /* reported */
    if (!deck_source_find(x->all->tree, a->key, &x->of))
        return broken(x, "key", " = \"%s\": expected stage.key or group.key of this deck", a->key);
    bool is_range = a->step != 0 || a->count != 0;
    TM_TRY(check_key(x));
    TM_TRY(find_first_stage(x));
    if (x->of.key->table) return TM_OK;
    if (a->values.n && (is_range || a->from != 0 || a->to != 0))
        return broken(x, "values", ": a range is given too: which one?");
    if (!a->values.n && !is_range) return broken(x, "", ": expected values, or from, to and step or count");
    TM_TRY(is_range ? make_range(x) : check_values(x));
    return check_repeats(x);
}

/* --- all of them -------------------------------------------------------------------------------------------------------------- */
static enum status check_zips(struct axis *x) {
    const struct deck *d = x->all->deck;
    int leader = deck_axes_leader(d, x->i), others = 0;
    if (!*x->a->zip) return TM_OK;
    for (int j = 0; j < d->sweep.n; j++) others += j != x->i && !strcmp(d->sweep.v[j].zip, x->a->zip);
    if (!others) return broken(x, "zip", " = \"%s\": no other axis has this word", x->a->zip);
    int n = d->sweep.v[leader].values.n;
    if (x->a->values.n && n && x->a->values.n != n)
        return broken(x, "zip", " = \"%s\": %d values, but axis %d has %d", x->a->zip, x->a->values.n, leader, n);
    return TM_OK;
}

static enum status check_condition(const struct axes *c, const config_setting_t *at, int i, int j) {
    const char *text = c->deck->sweep_without.v[i].where.v[j], *value;
    int axis = deck_axes_find(c->deck, text, &value);
    if (axis < 0)
        return deck_report_error(c->r->report, at,
                                 "sweep_without[%d].where[%d] = \"%s\": expected key=value with the key of an axis", i,
                                 j, text);
    const struct deck_axis *a = &c->deck->sweep.v[axis];
    for (int k = 0; k < a->values.n; k++)
        if (deck_axes_meets(a, k, value)) return TM_OK;
    return deck_report_error(c->r->report, at, "sweep_without[%d].where[%d] = \"%s\": no value of this axis", i, j,
                             text);
}

/* Only points of good axes can be counted. */
static enum status check_product(const struct axes *c) {
    const struct deck *d = c->deck;
    int64_t points = 1;
    bool good = true;
    for (int i = 0; i < d->sweep.n; i++) {
        int leader = deck_axes_leader(d, i), n = d->sweep.v[i].values.n;
        good &= n > 0 && n == d->sweep.v[leader].values.n;
        if (points <= DECK_MAX_POINTS && leader == i && n > 0) points *= n;
    }
    if (points > DECK_MAX_POINTS)
        return deck_report_error(c->r->report, config_lookup(c->tree, "sweep"), "sweep: more than %d points",
                                 DECK_MAX_POINTS);
    const config_setting_t *without = config_lookup(c->tree, "sweep_without");
    if (d->sweep_without.n && good && !deck_sweep_count(d))
        return deck_report_error(c->r->report, without, "sweep_without: no point is left");
    return TM_OK;
}

static enum status check_exclusion(const struct axes *c, int i) {
    const config_setting_t *at = config_setting_get_elem(config_lookup(c->tree, "sweep_without"), (unsigned)i);
    const struct deck_texts *where = &c->deck->sweep_without.v[i].where;
    if (!where->n)
        return deck_report_error(c->r->report, at, "sweep_without[%d]: expected where = [ \"axis key=value\", ... ]",
                                 i);
    for (int j = 0; j < where->n; j++) TM_TRY(check_condition(c, at, i, j));
    return TM_OK;
}

enum status deck_axes_resolve(const struct reader *r, const config_t *tree, struct deck *deck) {
    struct axes all = {r, tree, deck};
    const config_setting_t *list = config_lookup(tree, "sweep");
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < deck->sweep.n; i++) {
            struct axis x = {&all, &deck->sweep.v[i], config_setting_get_elem(list, (unsigned)i), {0}, i};
            TM_TRY(pass ? check_zips(&x) : resolve_axis(&x));
        }
    for (int i = 0; i < deck->sweep_without.n; i++) TM_TRY(check_exclusion(&all, i));
    return check_product(&all);
}
