/* Loading a deck: read, apply --set, parse the tables, resolve the stages, check the rules. */
#include <libconfig.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "deck/axes.h"
#include "deck/parse.h"
#include "deck/rules.h"
#include "deck/source.h"

/* A stage starts from the top level's groups. Lists are shared: they are never changed in place. */
static void inherit_groups(const struct deck *deck, struct deck_stage *stage) {
    const struct table *t = deck_table_stage();
    for (int i = 0; i < t->n; i++) {
        const struct key *to = &t->keys[i];
        bool renamed;
        const struct key *from = to->table ? deck_key_find(deck_table_top(), to->name, &renamed) : NULL;
        size_t size = to->type == KEY_GROUP && to->table ? to->table->size : sizeof(struct list);
        if (from) memcpy(deck_field(to, stage), deck_field(from, deck), size);
    }
}

/* Report keys that this kind of stage does not read, and required ones that are not there. */
static enum status check_use(const struct reader *r, const struct deck_stage *stage, const config_setting_t *s,
                             const char *prefix) {
    const struct table *t = deck_table_stage();
    const char *kind = deck_kind_name(stage->kind);
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        const config_setting_t *at = config_setting_get_member(s, k->name);
        bool required, used = deck_key_used(k, stage->kind, &required);
        if (at && !used && !k->table)
            TM_TRY(deck_report_error(r->report, at, "%s%s: a stage that does \"%s\" has no such key (it is for: %s)",
                                     prefix, k->name, kind, k->use));
        if (at && !used && k->table)
            TM_TRY(deck_report_warning(r->report, at, "%s%s: a stage that does \"%s\" does not use it", prefix, k->name,
                                       kind));
        if (at || !required) continue;
        struct str expected = {0};
        enum status st = deck_key_print_expected(k, &expected);
        if (st == TM_OK)
            st = deck_report_error(r->report, s, "%s%s is missing: a stage that does \"%s\" needs %s", prefix, k->name,
                                   kind, expected.p);
        str_free(&expected);
        TM_TRY(st);
    }
    return TM_OK;
}

/* Outputs that are not set have relative defaults. */
static enum status resolve_outputs(const struct reader *r, struct deck_stage *stage) {
    const struct table *t = deck_table_stage();
    for (int i = 0; i < t->n; i++) {
        const char **field = deck_field(&t->keys[i], stage);
        if (t->keys[i].type == KEY_OUTPUT && **field && **field != '/') TM_TRY(deck_path(r, r->run_dir, *field, field));
    }
    return TM_OK;
}

static enum status load_stage(const struct reader *r, const struct deck *deck, const config_setting_t *s, int i,
                              struct deck_stage *stage) {
    char prefix[160];
    const char *name = NULL;
    TM_TRY(deck_table_defaults(deck_table_stage(), stage, r->pool));
    inherit_groups(deck, stage);
    if (config_setting_type(s) != CONFIG_TYPE_GROUP)
        return deck_report_error(r->report, s, "stages[%d]: expected a group { ... }", i);
    if (!config_setting_lookup_string(s, "name", &name)) config_setting_lookup_string(s, "do", &name);
    if (name && *name)
        snprintf(prefix, sizeof prefix, "%.100s.", name);
    else
        snprintf(prefix, sizeof prefix, "stages[%d].", i);
    TM_TRY(deck_parse_table(r, deck_table_stage(), s, stage, prefix, true));
    TM_TRY(resolve_outputs(r, stage));
    stage->index = i;
    stage->line = (int)config_setting_source_line(s);
    stage->kind = DECK_KINDS;
    for (int k = 0; k < DECK_KINDS; k++)
        if (!strcmp(stage->verb, deck_kind_name((enum deck_kind)k))) stage->kind = (enum deck_kind)k;
    if (!*stage->name) stage->name = stage->verb;
    return stage->kind == DECK_KINDS ? TM_OK : check_use(r, stage, s, prefix);
}

static enum status load_stages(const struct reader *r, struct deck *deck, const config_t *tree) {
    const config_setting_t *list = config_lookup(tree, "stages");
    if (!list || config_setting_type(list) != CONFIG_TYPE_LIST || !config_setting_length(list))
        return deck_report_error(r->report, list,
                                 "stages: expected a list of at least one stage ( { do = \"...\"; } )");
    int n = config_setting_length(list);
    TM_TRY(deck_pool_alloc(r->pool, (size_t)n, sizeof *deck->stages.v, &deck->stages.v));
    for (int i = 0; i < n; i++) {
        deck->stages.v[i].kind = DECK_KINDS;
        deck->stages.n = i + 1;
        TM_TRY(load_stage(r, deck, config_setting_get_elem(list, (unsigned)i), i, &deck->stages.v[i]));
    }
    return TM_OK;
}

static enum status resolve(struct reader *r, struct deck *deck, const config_t *tree) {
    const char *dir;
    if (config_lookup_string(tree, "run.dir", &dir) && *dir) TM_TRY(deck_path(r, r->here, dir, &r->run_dir));
    TM_TRY(deck_table_defaults(deck_table_top(), deck, r->pool));
    TM_TRY(deck_parse_table(r, deck_table_top(), config_root_setting(tree), deck, "", true));
    TM_TRY(load_stages(r, deck, tree));
    TM_TRY(deck_rules_check(deck, tree, r->pool, r->report));
    return deck_axes_resolve(r, tree, deck);
}

/* Everything after the file was read; the report collects, its finish decides. */
static enum status load_text(const char *text, const char *const *sets, int n_sets, struct report *report,
                             struct deck *deck) {
    char base[PATH_MAX], here[PATH_MAX];
    config_t tree;
    bool good;
    const char *dir = *report->dir ? report->dir : ".";
    if (!getcwd(here, sizeof here)) return TM_FAIL(TM_ERR_IO, "the working directory has no path");
    if (!realpath(dir, base)) snprintf(base, sizeof base, "%s", here);
    config_init(&tree);
    enum status st = deck_source_parse(text, &tree, report, &good);
    for (int i = 0; i < n_sets && good && st == TM_OK; i++) st = deck_source_set(&tree, sets[i], &deck->pool, report);
    report->n_source = report->n;
    struct reader r = {.report = report, .pool = &deck->pool, .base = base, .here = here, .run_dir = here};
    if (st == TM_OK && good) st = resolve(&r, deck, &tree);
    config_destroy(&tree);
    return st;
}

enum status deck_parse(const char *text, const char *name, const char *base_dir, const char *const *sets, int n_sets,
                       struct str *report, struct deck **out) {
    struct report lines = {.name = name, .dir = base_dir};
    struct deck *deck;
    *out = NULL;
    TM_TRY(mem_alloc(&deck, 1, sizeof *deck));
    enum status st = deck_pool_text(&deck->pool, name, strlen(name), &deck->file);
    if (st == TM_OK) st = load_text(text, sets, n_sets, &lines, deck);
    if (st == TM_OK) st = deck_report_finish(&lines, report);
    deck_report_free(&lines);
    if (st != TM_OK) deck_free(&deck);
    *out = deck;
    return st;
}

enum status deck_load(const char *path, const char *const *sets, int n_sets, struct str *report, struct deck **out) {
    char dir[PATH_MAX], *text;
    const char *slash = strrchr(path, '/');
    size_t n;
    *out = NULL;
    enum status st = deck_source_text(path, &text, &n);
    if (st == TM_ERR_MEMORY) return st;
    if (st != TM_OK) { /* whatever the reason, it is the deck that is wrong */
        if (report) TM_TRY(str_printf(report, "%s\n", status_message()));
        return TM_ERR_DECK;
    }
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) + (slash == path) : 0, path);
    st = deck_parse(text, path, dir, sets, n_sets, report, out);
    mem_free(&text);
    return st;
}

void deck_free(struct deck **deck) {
    if (!*deck) return;
    void *pool = (*deck)->pool;
    mem_free(deck);
    deck_pool_free(&pool);
}
