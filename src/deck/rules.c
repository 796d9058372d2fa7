/* Rules between keys, and what follows from them. A rule is said at the line of the key that breaks it. */
#include "deck/rules.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "deck/source.h"
#include "deck/table.h"

struct check {
    struct deck *deck;
    struct deck_stage *stage;           /* the one at hand; its groups are checked */
    const config_setting_t *root, *own; /* the deck's and the stage's settings */
    struct report *report;
    void **pool;
};

/* libconfig looks up "losses.[0].weight". */
static config_setting_t *look_up(const config_setting_t *from, const char *key) {
    char path[256];
    size_t n = 0;
    for (; *key && n + 2 < sizeof path; key++) {
        if (*key == '[') path[n++] = '.';
        path[n++] = *key;
    }
    path[n] = 0;
    return config_setting_lookup((config_setting_t *)(uintptr_t)from, path);
}

/* The setting a value of the stage comes from: its own, the top level's, or NULL (a default). */
static const config_setting_t *find(const struct check *c, const char *key, bool *is_own) {
    const config_setting_t *s = look_up(c->own, key);
    *is_own = s != NULL;
    return s ? s : look_up(c->root, key);
}

/* Is there a setting for it, but none that holds text (which was reported)? */
static bool is_no_text(const struct check *c, const char *key) {
    bool is_own;
    const config_setting_t *s = find(c, key, &is_own);
    return s && config_setting_type(s) != CONFIG_TYPE_STRING;
}

/* Report a broken rule about `key`, at its line, or the stage's where nothing sets it. */
static enum status broken(const struct check *c, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static enum status broken(const struct check *c, const char *key, const char *fmt, ...) {
    char text[512];
    bool is_own;
    const config_setting_t *at = find(c, key, &is_own);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    bool is_stages = is_own || !at;
    return deck_report_error(c->report, at ? at : c->own, "%s%s%s: %s", is_stages ? c->stage->name : "",
                             is_stages ? "." : "", key, text);
}

/* The same for a text value. */
static enum status broken_text(const struct check *c, const char *key, const char *value, const char *expected) {
    bool is_own;
    const config_setting_t *at = find(c, key, &is_own);
    return deck_report_error(c->report, at ? at : c->own, "%s.%s = \"%s\": expected %s", c->stage->name, key, value,
                             expected);
}

static bool is_power_of_two(int64_t n) { return n > 0 && !(n & (n - 1)); }

/* --- groups --- */
static enum status check_run(const struct check *c) {
    bool is_own;
    if (find(c, "run.dir", &is_own) && is_own)
        TM_TRY(broken(c, "run.dir", "one run has one directory: set it at the top level"));
    if (find(c, "limits.wall_s", &is_own) && is_own)
        TM_TRY(broken(c, "limits.wall_s", "it is for the whole run: set it at the top level"));
    return TM_OK;
}

static enum status check_grid(const struct check *c) {
    const struct deck_grid *g = &c->stage->grid;
    const struct deck_numerics *n = &c->stage->numerics;
    if (g->vpp > 1 && g->pp == 1) TM_TRY(broken(c, "grid.vpp", "%lld chunks a rank need pp > 1", (long long)g->vpp));
    if (g->pp_layout.n && g->pp_layout.n != g->pp * g->vpp)
        TM_TRY(broken(c, "grid.pp_layout", "%d entries, expected pp * vpp = %lld", g->pp_layout.n,
                      (long long)(g->pp * g->vpp)));
    if (!is_power_of_two(n->tp_segments))
        TM_TRY(broken(c, "numerics.tp_segments", "%lld is no power of two", (long long)n->tp_segments));
    if (!is_power_of_two(n->dp_segments))
        TM_TRY(broken(c, "numerics.dp_segments", "%lld is no power of two", (long long)n->dp_segments));
    if (strcmp(n->grid_invariant, "true")) return TM_OK;
    if (!is_power_of_two(g->tp))
        TM_TRY(
            broken(c, "numerics.grid_invariant", "true needs a tp that is a power of two, not %lld", (long long)g->tp));
    if (g->tp > n->tp_segments)
        TM_TRY(broken(c, "numerics.grid_invariant", "true needs tp <= numerics.tp_segments (%lld), not %lld",
                      (long long)n->tp_segments, (long long)g->tp));
    return TM_OK;
}

static enum status check_model(const struct check *c) {
    const struct deck_model *m = &c->stage->model;
    if (c->stage->kind == DECK_KIND_convert) return TM_OK;
    if (!*m->path && !*m->random_init && !is_no_text(c, "model.path") && !is_no_text(c, "model.random_init"))
        TM_TRY(broken(c, "model", "a stage that does \"%s\" needs model.path or model.random_init", c->stage->verb));
    if (*m->path && *m->random_init) TM_TRY(broken(c, "model.random_init", "model.path is set too: which one?"));
    return TM_OK;
}

static enum status check_split(const struct check *c, const char *key, struct deck_floats split) {
    if (!split.n || (split.n == 2 && split.v[0] < split.v[1])) return TM_OK;
    return broken(c, key, "expected [from, to] with from < to");
}

static enum status check_dataset(const struct check *c, const struct deck_dataset *d) {
    char key[200];
    int with_weight = 0;
    bool is_mock = false;
    snprintf(key, sizeof key, "datasets.%.100s.split", d->name);
    TM_TRY(check_split(c, key, d->split));
    if (d->split.n && *d->parts) TM_TRY(broken(c, key, "parts is set too: which one?"));
    snprintf(key, sizeof key, "datasets.%.100s.pack", d->name);
    if (!strcmp(d->pack, "pad") && !strcmp(d->shuffle, "megatron"))
        TM_TRY(broken(c, key, "shuffle = \"megatron\" needs \"concat\""));
    for (int i = 0; i < d->sources.n; i++) {
        const struct deck_source *s = &d->sources.v[i];
        with_weight += s->weight > 0;
        is_mock |= !strcmp(s->path, "mock") || !strcmp(s->format, "mock");
        snprintf(key, sizeof key, "datasets.%.100s.sources[%d].split", d->name, i);
        TM_TRY(check_split(c, key, s->split));
    }
    snprintf(key, sizeof key, "datasets.%.100s.sources", d->name);
    bool is_own, is_there = find(c, key, &is_own) != NULL;
    if (!d->sources.n && !is_there) {
        key[strlen(key) - strlen(".sources")] = 0;
        return broken(c, key, "sources is missing: expected a list ( { path = \"...\"; }, ... )");
    }
    if (!d->sources.n) return broken(c, key, "expected at least one source");
    if (with_weight > 0 && with_weight != d->sources.n)
        return broken(c, key, "weight is 0 in some: expected all or none");
    snprintf(key, sizeof key, "datasets.%.100s", d->name);
    if (is_mock && d->seq_length == 0) TM_TRY(broken(c, key, "a mock source needs seq_length"));
    return TM_OK;
}

static enum status check_training(const struct check *c) {
    const struct deck_stage *s = c->stage;
    char key[200];
    bool is_distill = s->kind == DECK_KIND_distill, has_kl = false;
    double weight = 0;
    if (s->batch.global && s->batch.global % s->batch.micro)
        TM_TRY(broken(c, "batch.global", "%lld is no multiple of batch.micro (%lld)", (long long)s->batch.global,
                      (long long)s->batch.micro));
    if (s->schedule.steps && s->schedule.warmup > s->schedule.steps)
        TM_TRY(broken(c, "schedule.warmup", "%lld steps are more than schedule.steps (%lld)",
                      (long long)s->schedule.warmup, (long long)s->schedule.steps));
    for (int i = 0; i < s->losses.n; i++) {
        has_kl |= !strcmp(s->losses.v[i].kind, "kl");
        weight += s->losses.v[i].weight;
    }
    if (has_kl && !is_distill)
        TM_TRY(broken(c, "losses", "\"kl\" needs a teacher: do = \"distill\", or give the stage losses of its own"));
    if (!has_kl && is_distill) TM_TRY(broken(c, "losses", "distill needs a loss of kind \"kl\""));
    if (weight <= 0) TM_TRY(broken(c, "losses", "the weights add up to 0"));
    if (s->dataset && !strcmp(s->dataset->shuffle, "megatron") && !s->dataset->samples) {
        snprintf(key, sizeof key, "datasets.%.100s", s->dataset->name);
        TM_TRY(broken(c, key,
                      "shuffle = \"megatron\" in \"%s\" needs samples: steps x batch.global of the whole training",
                      s->verb));
    }
    if (s->eval_every && !*s->eval_data) TM_TRY(broken(c, "eval_every", "it needs eval_data, the name of a data set"));
    return TM_OK;
}

/* --- keys of the stage itself --- */
static enum status check_names(const struct check *c) {
    const char *name = c->stage->name;
    size_t n = strlen(name);
    bool good = n > 0 && n <= 64;
    for (size_t i = 0; i < n; i++) good = good && (isalnum((unsigned char)name[i]) || strchr("-_", name[i]));
    if (!n && c->stage->kind == DECK_KINDS) return TM_OK; /* no `do` either, which was reported */
    if (!good)
        return deck_report_error(c->report, c->own, "stage name \"%s\": expected 1 to 64 letters, digits, - and _",
                                 name);
    if (!strcmp(name, "model")) TM_TRY(broken(c, "name", "\"model\" means model.path in `from`"));
    for (int i = 0; i < c->stage->index; i++)
        if (!strcmp(c->deck->stages.v[i].name, name))
            return deck_report_error(
                c->report, c->own,
                "two stages are called \"%s\" (the other is at line %d): give each a name of its own", name,
                c->deck->stages.v[i].line);
    return TM_OK;
}

/* `from` becomes the stage that made the model: evaluate, generate and export pass on what they took, so putting one in
 * between changes nothing for those after it. */
static enum status find_from(const struct check *c) {
    struct deck_stage *s = c->stage, *v = c->deck->stages.v;
    int i = s->index - 1;
    s->from_index = -1;
    if (s->kind == DECK_KIND_convert || !strcmp(s->from, "model")) return TM_OK;
    if (*s->from) {
        while (i >= 0 && strcmp(v[i].name, s->from)) i--;
        if (i < 0) return broken_text(c, "from", s->from, "an earlier stage or \"model\"");
        if (v[i].kind == DECK_KIND_convert) return broken_text(c, "from", s->from, "a stage that has a model");
    } else {
        while (i >= 0 && (v[i].kind == DECK_KINDS || v[i].kind == DECK_KIND_convert)) i--;
    }
    if (i >= 0 && v[i].kind != DECK_KINDS && deck_kind_model(v[i].kind) == DECK_MODEL_PASSES) i = v[i].from_index;
    s->from_index = i;
    s->from = i < 0 ? "model" : v[i].name;
    return TM_OK;
}

static enum status find_dataset(const struct check *c, const char *key, const char *name,
                                const struct deck_dataset **out) {
    struct str names = {0};
    *out = NULL;
    if (!*name) return TM_OK;
    enum status st = str_printf(&names, c->stage->datasets.n ? "one of the data sets:" : "a data set (there is none)");
    for (int i = 0; i < c->stage->datasets.n; i++) {
        if (!strcmp(c->stage->datasets.v[i].name, name)) *out = &c->stage->datasets.v[i];
        if (st == TM_OK) st = str_printf(&names, " %s", c->stage->datasets.v[i].name);
    }
    if (st == TM_OK && !*out) st = broken_text(c, key, name, names.p);
    str_free(&names);
    return st;
}

static enum status default_losses(const struct check *c) {
    struct deck_stage *s = c->stage;
    bool renamed;
    const struct key *k = deck_key_find(deck_table_stage(), "losses", &renamed);
    if (s->losses.n) return TM_OK;
    TM_TRY(deck_pool_alloc(c->pool, 1, sizeof *s->losses.v, &s->losses.v));
    TM_TRY(deck_table_defaults(k->table, s->losses.v, c->pool));
    s->losses.v[0].kind = s->kind == DECK_KIND_distill ? "kl" : "ce";
    s->losses.n = 1;
    return TM_OK;
}

static enum status check_kind(const struct check *c) {
    struct deck_stage *s = c->stage;
    switch (s->kind) {
    case DECK_KIND_train: return check_training(c);
    case DECK_KIND_distill:
        if (!*s->teacher.path && *s->model.random_init)
            TM_TRY(broken(c, "teacher", "distill from random weights needs teacher.path"));
        return check_training(c);
    case DECK_KIND_calibrate: {
        bool has_format = strcmp(s->quant.preset, "none") || strcmp(s->quant.kv_cache, "none");
        for (int i = 0; i < s->quant.rules.n; i++) has_format |= *s->quant.rules.v[i].format != 0;
        if (!has_format)
            TM_TRY(
                broken(c, "quant", "nothing to calibrate: set quant.preset, quant.kv_cache or a rule with a format"));
        return TM_OK;
    }
    case DECK_KIND_evaluate:
        if (s->compute_error && strcmp(s->numerics.compute, "fp8"))
            TM_TRY(broken(c, "compute_error", "it needs numerics.compute = \"fp8\""));
        if (!strcmp(s->compare, "auto")) s->compare = *s->teacher.path ? "true" : "false";
        if (strcmp(s->compare, "true") == 0 && !*s->teacher.path)
            TM_TRY(broken(c, "compare", "true needs teacher.path"));
        if (s->layer_error && strcmp(s->compare, "true"))
            TM_TRY(broken(c, "layer_error", "it needs a teacher to compare with: teacher.path"));
        return TM_OK;
    case DECK_KIND_generate:
        if (!s->prompt.n && !*s->prompts) TM_TRY(broken(c, "prompt", "generate needs prompt or prompts"));
        return TM_OK;
    default: return TM_OK;
    }
}

static enum status check_stage(const struct check *c) {
    struct deck_stage *s = c->stage;
    bool trains = s->kind == DECK_KIND_train || s->kind == DECK_KIND_distill;
    TM_TRY(check_names(c));
    TM_TRY(find_from(c));
    TM_TRY(check_run(c));
    TM_TRY(check_grid(c));
    for (int i = 0; i < s->datasets.n; i++) TM_TRY(check_dataset(c, &s->datasets.v[i]));
    if (s->kind == DECK_KINDS) return TM_OK; /* an unknown `do` was reported */
    TM_TRY(check_model(c));
    TM_TRY(find_dataset(c, "data", s->data, &s->dataset));
    TM_TRY(find_dataset(c, "eval_data", s->eval_data, &s->eval_set));
    if (trains) TM_TRY(default_losses(c));
    if ((trains || s->kind == DECK_KIND_calibrate) && !strcmp(s->numerics.compute, "fp8"))
        TM_TRY(broken(c, "numerics.compute",
                      "\"fp8\" is for evaluate and generate, not for \"%s\": set it inside those", s->verb));
    TM_TRY(check_kind(c));
    if (s->kind == DECK_KIND_distill && !*s->teacher.path) s->teacher.path = s->model.path;
    return TM_OK;
}

enum status deck_rules_check(struct deck *deck, const config_t *tree, void **pool, struct report *report) {
    struct check c = {.deck = deck, .root = config_root_setting(tree), .report = report, .pool = pool};
    for (int i = 0; i < deck->stages.n; i++) {
        c.stage = &deck->stages.v[i];
        c.own = config_setting_get_elem(config_lookup(tree, "stages"), (unsigned)i);
        if (config_setting_type(c.own) == CONFIG_TYPE_GROUP) TM_TRY(check_stage(&c));
    }
    return TM_OK;
}
