/* Settings from text: libconfig's parser, and --set. */
#include "deck/source.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deck/table.h"

/* libconfig's words for a syntax error, and what is usually behind them. */
static const char *syntax_hint(const char *error) {
    if (strstr(error, "mismatched"))
        return "; an array [ ] holds one type (0.0 and 0.5, not 0 and 0.5), a list ( ) any";
    if (strstr(error, "syntax"))
        return " here or just before; settings end in ';', no comma after the last member of a list, names have no "
               "dots";
    return "";
}

enum status deck_source_parse(const char *text, config_t *tree, struct report *report, bool *good) {
    size_t before = report->n;
    bool refused;
    *good = false;
    TM_TRY(deck_source_scan(text, NULL, report, &refused));
    if (refused) return TM_OK;
    if (report->dir && *report->dir) config_set_include_dir(tree, report->dir);
    if (config_read_string(tree, text)) {
        *good = true;
        return TM_OK;
    }
    const char *error = config_error_text(tree);
    if (report->n != before && strstr(error, "include")) return TM_OK; /* said by the scan */
    return deck_report_error_line(report, config_error_file(tree), config_error_line(tree), "%s%s", error,
                                  syntax_hint(error));
}

/* --- names in a --set: components between dots, each with an optional [index] --- */
enum { MAX_PARTS = 8, MAX_NAME = 128 };
struct path {
    char name[MAX_PARTS][MAX_NAME];
    int index[MAX_PARTS]; /* -1 = none */
    int n;
};

/* False when it is no path: an empty part, other characters, too long. */
static bool path_read(const char *text, size_t length, struct path *p) {
    const char *at = text, *end = text + length;
    for (p->n = 0; p->n < MAX_PARTS; p->n++) {
        size_t n = 0;
        while (at + n < end && (isalnum((unsigned char)at[n]) || strchr("_-*", at[n]))) n++;
        if (!n || n >= MAX_NAME) return false;
        memcpy(p->name[p->n], at, n);
        p->name[p->n][n] = 0;
        p->index[p->n] = -1;
        at += n;
        if (at < end && *at == '[') {
            char *stop;
            long i = strtol(at + 1, &stop, 10);
            if (!isdigit((unsigned char)at[1]) || *stop != ']' || i > 1 << 20) return false;
            p->index[p->n] = (int)i;
            at = stop + 1;
        }
        if (at == end) {
            p->n++;
            return true;
        }
        if (*at++ != '.') return false;
    }
    return false;
}

/* The key below this table that the path names from part i on, or NULL. */
static const struct key *path_key(const struct table *t, const struct path *p, int i) {
    const struct key *k = NULL;
    for (; i < p->n; i++) {
        bool renamed;
        k = deck_key_find(t, p->name[i], &renamed);
        if (!k) return NULL;
        if (!k->table) return i + 1 == p->n && p->index[i] < 0 ? k : NULL;
        if (k->type == KEY_NAMED && ++i == p->n) return k;
        if ((k->type == KEY_LIST) != (p->index[i] >= 0) && i + 1 < p->n) return NULL;
        t = k->table;
    }
    return k;
}

config_setting_t *deck_source_stage(const config_t *tree, const char *name) {
    config_setting_t *stages = config_lookup(tree, "stages");
    if (!stages || config_setting_type(stages) != CONFIG_TYPE_LIST) return NULL;
    for (int i = 0; i < config_setting_length(stages); i++) {
        config_setting_t *s = config_setting_get_elem(stages, (unsigned)i);
        const char *its_name;
        if (config_setting_type(s) != CONFIG_TYPE_GROUP) continue;
        if (!config_setting_lookup_string(s, "name", &its_name) && !config_setting_lookup_string(s, "do", &its_name))
            continue;
        if (!strcmp(its_name, name)) return s;
    }
    return NULL;
}

/* Where a path starts: the root, or a stage (then *first is the part after its name). NULL with a reason when nowhere. */
static config_setting_t *path_start(const config_t *tree, const struct path *p, int *first, const char **reason) {
    bool renamed, is_word = !strcmp(p->name[0], "stages") && p->index[0] < 0 && p->n > 2;
    config_setting_t *stage = deck_source_stage(tree, p->name[is_word]);
    const struct key *top = deck_key_find(deck_table_top(), p->name[0], &renamed);
    bool in_stage = stage && p->n > 1 && path_key(deck_table_stage(), p, 1);
    bool in_top = top && path_key(deck_table_top(), p, 0);
    *first = 2;
    *reason = "no stage has this name";
    if (is_word) return stage;
    *reason = "this is both a group and a stage: write stages.NAME.key for the stage";
    if (in_stage && in_top) return NULL;
    *first = 1;
    if (in_stage || (stage && p->n > 1 && !top)) return stage;
    *first = 0;
    *reason = "neither a group nor the name of a stage";
    return top ? config_root_setting(tree) : NULL;
}

bool deck_source_find(const config_t *tree, const char *text, struct source_key *out) {
    struct path p;
    int first;
    const char *reason;
    *out = (struct source_key){0};
    if (!path_read(text, strlen(text), &p)) return false;
    config_setting_t *start = path_start(tree, &p, &first, &reason);
    if (!start) return false;
    bool is_top = config_setting_is_root(start), renamed;
    out->key = path_key(is_top ? deck_table_top() : deck_table_stage(), &p, first);
    out->stage = is_top ? NULL : start;
    out->group = is_top ? deck_key_find(deck_table_top(), p.name[0], &renamed) : NULL;
    if (p.n > 1) memcpy(out->member, p.name[1], sizeof out->member);
    return out->key != NULL;
}

/* --- copying settings --- */
static bool copy_value(config_setting_t *to, const config_setting_t *from, const char *set) {
    bool good = true;
    config_setting_set_hook(to, (void *)(uintptr_t)set);
    switch (config_setting_type(from)) {
    case CONFIG_TYPE_INT: return config_setting_set_int(to, config_setting_get_int(from));
    case CONFIG_TYPE_INT64: return config_setting_set_int64(to, config_setting_get_int64(from));
    case CONFIG_TYPE_FLOAT: return config_setting_set_float(to, config_setting_get_float(from));
    case CONFIG_TYPE_BOOL: return config_setting_set_bool(to, config_setting_get_bool(from));
    case CONFIG_TYPE_STRING: return config_setting_set_string(to, config_setting_get_string(from));
    default: break;
    }
    for (int i = 0; good && i < config_setting_length(from); i++) {
        const config_setting_t *e = config_setting_get_elem(from, (unsigned)i);
        config_setting_t *copy = config_setting_add(to, config_setting_name(e), config_setting_type(e));
        good = copy && copy_value(copy, e, set);
    }
    return good;
}

/* Replace or add member `name` of a group by a copy of `value`; NULL when libconfig refuses (a bad name). */
static config_setting_t *put(config_setting_t *group, const char *name, const config_setting_t *value,
                             const char *set) {
    if (config_setting_get_member(group, name)) config_setting_remove(group, name);
    config_setting_t *s = config_setting_add(group, name, config_setting_type(value));
    return s && copy_value(s, value, set) ? s : NULL;
}

/* Go down to the group that holds the last part; what is missing is made. NULL with a reason when that cannot be. */
static config_setting_t *descend(const config_t *tree, config_setting_t *at, const struct path *p, int first,
                                 const char *set, const char **reason) {
    for (int i = first; i + 1 < p->n; i++) {
        config_setting_t *member = config_setting_get_member(at, p->name[i]);
        /* an indexed list that a stage only inherits: give the stage its own copy */
        if (!member && p->index[i] >= 0 && i == first && !config_setting_is_root(at)) {
            const config_setting_t *inherited = config_lookup(tree, p->name[i]);
            if (inherited) member = put(at, p->name[i], inherited, set);
        }
        if (!member && p->index[i] < 0) {
            member = config_setting_add(at, p->name[i], CONFIG_TYPE_GROUP);
            if (member) config_setting_set_hook(member, (void *)(uintptr_t)set);
        }
        *reason = "no such list in the deck";
        if (!member) return NULL;
        if (p->index[i] >= 0) {
            *reason = "the list is shorter than this index";
            bool is_list = config_setting_type(member) == CONFIG_TYPE_LIST;
            member = is_list ? config_setting_get_elem(member, (unsigned)p->index[i]) : NULL;
            if (!member) return NULL;
        }
        *reason = "a part before the last is no group";
        if (config_setting_type(member) != CONFIG_TYPE_GROUP) return NULL;
        at = member;
    }
    *reason = "an index at the end: name a member of the list's group, or set the whole list";
    return p->index[p->n - 1] < 0 ? at : NULL;
}

/* libconfig includes files at the beginning of a line: a value has no business with that. */
static bool includes(const char *text) { return *text == '@' || (strchr(text, '\n') && strstr(text, "@include")); }

/* The value of a --set as the only setting of `tree`: deck syntax, or else a string. What opens a list, array or group is
 * meant as deck syntax: then *good is false when it is none. */
static enum status parse_value(const char *text, config_t *tree, bool *good) {
    struct str s = {0};
    enum status st = str_printf(&s, "v = %s;", text);
    *good = st == TM_OK && !includes(text) && config_read_string(tree, s.p) &&
            config_setting_length(config_root_setting(tree)) == 1;
    str_free(&s);
    if (st != TM_OK || *good || (*text && strchr("([{", *text))) return st;
    config_destroy(tree);
    config_init(tree);
    config_setting_t *v = config_setting_add(config_root_setting(tree), "v", CONFIG_TYPE_STRING);
    *good = v && config_setting_set_string(v, text);
    return TM_OK;
}

/* Put the value (the part behind '=') into a group. `said` is "--set key=value". */
static enum status set_value(config_setting_t *group, const char *name, const char *text, const char *said,
                             struct report *report) {
    bool good, refused;
    size_t before = report->n;
    config_t value;
    config_init(&value);
    enum status st = parse_value(text, &value, &good);
    const config_setting_t *v = good ? config_lookup(&value, "v") : NULL;
    if (st == TM_OK && !v) {
        const char *error = config_error_text(&value) ? config_error_text(&value) : "more than one value";
        st = deck_report_error_set(report, said, "%s%s", error, syntax_hint(error));
    }
    if (v && config_setting_type(v) != CONFIG_TYPE_STRING) st = deck_source_scan(text, said, report, &refused);
    if (v && st == TM_OK && report->n == before && !put(group, name, v, said))
        st = deck_report_error_set(report, said, "not a name that a deck may have");
    config_destroy(&value);
    return st;
}

enum status deck_source_set(config_t *tree, const char *set, void **pool, struct report *report) {
    struct str label = {0};
    const char *said, *equals = strchr(set, '='), *reason = "expected key=value";
    struct path p;
    int first;
    enum status st = str_printf(&label, "--set %s", set);
    if (st == TM_OK) st = deck_pool_text(pool, label.p, label.len, &said);
    str_free(&label);
    TM_TRY(st);
    if (!equals || !path_read(set, (size_t)(equals - set), &p))
        return deck_report_error_set(report, said, "%s", reason);
    config_setting_t *start = path_start(tree, &p, &first, &reason);
    config_setting_t *group = start ? descend(tree, start, &p, first, said, &reason) : NULL;
    if (!group) return deck_report_error_set(report, said, "%s", reason);
    return set_value(group, p.name[p.n - 1], equals + 1, said, report);
}
