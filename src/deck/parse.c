/* The parser of all key tables: types are checked here, since libconfig 1.5 coerces silently (int to float fails the look-up,
 * float to int gives 0, and both without a word). */
#include "deck/parse.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PREFIX = 256 };

enum status deck_print_setting(const config_setting_t *s, struct str *out) {
    switch (config_setting_type(s)) {
    case CONFIG_TYPE_INT: return deck_print_int(config_setting_get_int(s), out);
    case CONFIG_TYPE_INT64: return deck_print_int(config_setting_get_int64(s), out);
    case CONFIG_TYPE_FLOAT: return deck_print_float(config_setting_get_float(s), out);
    case CONFIG_TYPE_BOOL: return str_printf(out, config_setting_get_bool(s) ? "true" : "false");
    case CONFIG_TYPE_STRING: return deck_print_text(config_setting_get_string(s), out);
    case CONFIG_TYPE_GROUP: return str_printf(out, "{ ... }");
    case CONFIG_TYPE_LIST: return str_printf(out, config_setting_length(s) ? "( ... )" : "( )");
    default: return str_printf(out, config_setting_length(s) ? "[ ... ]" : "[ ]");
    }
}

static bool is_int(const config_setting_t *s) {
    return config_setting_type(s) == CONFIG_TYPE_INT || config_setting_type(s) == CONFIG_TYPE_INT64;
}

/* Report that `s` is not what the key takes. */
static enum status refuse(const struct reader *r, const struct key *k, const config_setting_t *s, const char *prefix) {
    struct str value = {0}, expected = {0};
    if (is_int(s) && deck_report_has_source_error(r->report, s)) return TM_OK; /* it wrapped, which was said */
    enum status st = deck_print_setting(s, &value);
    if (st == TM_OK) st = deck_key_print_expected(k, &expected);
    if (st == TM_OK)
        st = deck_report_error(r->report, s, "%s%s = %s: expected %s", prefix, k->name, value.p, expected.p);
    str_free(&value);
    str_free(&expected);
    return st;
}

/* --- paths --- */
enum status deck_path(const struct reader *r, const char *base, const char *path, const char **out) {
    struct str s = {0};
    enum status st = TM_OK;
    if (path[0] != '/') {
        st = str_printf(&s, "%s", base);
        for (;;) { /* base has no links in it, so going up is cutting its last part */
            if (path[0] == '.' && path[1] == '/')
                path++;
            else if (!strcmp(path, ".") || !strcmp(path, "..") || !strncmp(path, "../", 3)) {
                char *slash = path[1] == '.' && st == TM_OK ? strrchr(s.p, '/') : NULL;
                if (slash) {
                    *slash = 0;
                    s.len = (size_t)(slash - s.p);
                }
                path += path[1] == '.' ? 2 : 1;
            } else
                break;
            while (*path == '/') path++;
        }
        if (st == TM_OK && *path) st = str_printf(&s, "/%s", path);
        if (st == TM_OK && !s.len) st = str_printf(&s, "/");
    } else {
        st = str_printf(&s, "%s", path);
    }
    while (st == TM_OK && s.len > 1 && s.p[s.len - 1] == '/') s.p[--s.len] = 0;
    if (st == TM_OK) st = deck_pool_text(r->pool, s.p, s.len, out);
    str_free(&s);
    return st;
}

/* A path or text as the key wants it kept. */
static enum status keep_text(const struct reader *r, const struct key *k, const char *text, const char **out) {
    bool is_input = k->type == KEY_INPUT || k->type == KEY_INPUTS;
    bool is_path = is_input || k->type == KEY_OUTPUT || k->type == KEY_FOLDER;
    if (!is_path || !*text || deck_words_have(k->words, text)) return deck_pool_text(r->pool, text, strlen(text), out);
    if (!strncmp(text, "@run/", 5)) return deck_path(r, r->run_dir, text + 5, out);
    return deck_path(r, is_input ? r->base : k->type == KEY_FOLDER ? r->here : r->run_dir, text, out);
}

/* --- plain values --- */
static bool read_int(const struct key *k, const config_setting_t *s, int64_t *out) {
    if (!is_int(s)) return false;
    int64_t v = config_setting_type(s) == CONFIG_TYPE_INT ? config_setting_get_int(s) : config_setting_get_int64(s);
    if (!deck_key_in_range(k, (double)v)) return false;
    *out = v;
    return true;
}

static bool read_float(const struct key *k, const config_setting_t *s, double *out) {
    struct key any = {.lo = -INFINITY, .hi = INFINITY};
    int64_t i;
    double v;
    if (config_setting_type(s) == CONFIG_TYPE_FLOAT)
        v = config_setting_get_float(s);
    else if (read_int(&any, s, &i))
        v = (double)i;
    else
        return false;
    if (!deck_key_in_range(k, v)) return false;
    *out = v;
    return true;
}

/* A string of the deck: text, path or word (true and false may be words, so that a key may be "auto" or a bool). */
static const char *read_string(const struct key *k, const config_setting_t *s) {
    bool is_word = k->type == KEY_WORD;
    if (is_word && config_setting_type(s) == CONFIG_TYPE_BOOL) {
        const char *word = config_setting_get_bool(s) ? "true" : "false";
        return deck_words_have(k->words, word) ? word : NULL;
    }
    if (config_setting_type(s) != CONFIG_TYPE_STRING) return NULL;
    const char *text = config_setting_get_string(s);
    if (is_word && !deck_words_have(k->words, text)) return NULL;
    if (!*text && !k->fallback) return NULL; /* required */
    return text;
}

static bool is_aggregate(const config_setting_t *s) {
    return config_setting_type(s) == CONFIG_TYPE_ARRAY || config_setting_type(s) == CONFIG_TYPE_LIST;
}

/* One element of an array key, into place i; *good tells whether it fits. */
static enum status read_element(const struct reader *r, const struct key *k, const config_setting_t *e, void *v, int i,
                                bool *good) {
    *good = true;
    if (k->type == KEY_INTS) {
        *good = read_int(k, e, &((int64_t *)v)[i]);
    } else if (k->type == KEY_FLOATS) {
        *good = read_float(k, e, &((double *)v)[i]);
    } else if (k->type == KEY_VALUES) {
        struct str s = {0};
        *good = !is_aggregate(e) && config_setting_type(e) != CONFIG_TYPE_GROUP;
        enum status st = deck_print_setting(e, &s);
        if (st == TM_OK) st = deck_pool_text(r->pool, s.p, s.len, &((const char **)v)[i]);
        str_free(&s);
        return st;
    } else {
        *good = config_setting_type(e) == CONFIG_TYPE_STRING;
        return *good ? keep_text(r, k, config_setting_get_string(e), &((const char **)v)[i]) : TM_OK;
    }
    return TM_OK;
}

static enum status parse_array(const struct reader *r, const struct key *k, const config_setting_t *s, void *field,
                               const char *prefix) {
    bool is_text = k->type == KEY_TEXTS || k->type == KEY_INPUTS;
    bool is_single = is_text && config_setting_type(s) == CONFIG_TYPE_STRING;
    int n = is_single ? 1 : config_setting_length(s);
    void *v = NULL;
    if ((!is_single && !is_aggregate(s)) || (!n && !k->fallback)) return refuse(r, k, s, prefix);
    if (n) TM_TRY(deck_pool_alloc(r->pool, (size_t)n, sizeof(int64_t), &v));
    for (int i = 0; i < n; i++) {
        const config_setting_t *e = is_single ? s : config_setting_get_elem(s, (unsigned)i);
        bool good;
        TM_TRY(read_element(r, k, e, v, i, &good));
        if (good) continue;
        char name[PREFIX];
        struct key element = *k;
        snprintf(name, sizeof name, "%s[%d]", k->name, i);
        element.name = name;
        return refuse(r, &element, e, prefix);
    }
    deck_list_set(field, v, n);
    return TM_OK;
}
_Static_assert(sizeof(int64_t) == sizeof(double) && sizeof(int64_t) >= sizeof(char *), "array elements are 8 bytes");

enum status deck_parse_plain(const struct reader *r, const struct key *k, const config_setting_t *s, void *field,
                             const char *prefix) {
    const char *text;
    bool good = false;
    switch (k->type) {
    case KEY_INT: good = read_int(k, s, field); break;
    case KEY_FLOAT: good = read_float(k, s, field); break;
    case KEY_BOOL:
        good = config_setting_type(s) == CONFIG_TYPE_BOOL;
        if (good) *(bool *)field = config_setting_get_bool(s);
        break;
    case KEY_TEXT:
    case KEY_WORD:
    case KEY_INPUT:
    case KEY_OUTPUT:
    case KEY_FOLDER:
        text = read_string(k, s);
        good = text != NULL;
        if (good) TM_TRY(keep_text(r, k, text, field));
        break;
    default: return parse_array(r, k, s, field, prefix);
    }
    return good ? TM_OK : refuse(r, k, s, prefix);
}

/* --- members --- */
static enum status parse_list(const struct reader *r, const struct key *k, const config_setting_t *s, void *field,
                              const char *prefix) {
    void *v = NULL;
    int n = config_setting_length(s);
    if (config_setting_type(s) != CONFIG_TYPE_LIST) return refuse(r, k, s, prefix);
    if (n) TM_TRY(deck_pool_alloc(r->pool, (size_t)n, k->table->size, &v));
    struct list l = {v, n};
    for (int i = 0; i < n; i++) {
        const config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
        char name[PREFIX];
        TM_TRY(deck_table_defaults(k->table, deck_list_at(k, l, i), r->pool));
        snprintf(name, sizeof name, "%s%s[%d].", prefix, k->name, i);
        if (config_setting_type(e) == CONFIG_TYPE_GROUP)
            TM_TRY(deck_parse_table(r, k->table, e, deck_list_at(k, l, i), name, true));
        else
            TM_TRY(deck_report_error(r->report, e, "%.*s: expected a group { ... }", (int)strlen(name) - 1, name));
    }
    deck_list_set(field, v, n);
    return TM_OK;
}

/* Groups by name: those that exist are changed in a copy (the list may be shared with the top level), others come after. */
static enum status parse_named(const struct reader *r, const struct key *k, const config_setting_t *s, void *field,
                               const char *prefix) {
    struct list old = deck_list_get(field), l = {NULL, old.n};
    int n = config_setting_length(s);
    if (config_setting_type(s) != CONFIG_TYPE_GROUP) return refuse(r, k, s, prefix);
    if (!n) return TM_OK;
    TM_TRY(deck_pool_alloc(r->pool, (size_t)old.n + (size_t)n, k->table->size, &l.v));
    if (old.n) memcpy(l.v, old.v, (size_t)old.n * k->table->size);
    for (int i = 0; i < n; i++) {
        const config_setting_t *e = config_setting_get_elem(s, (unsigned)i);
        const char *own_name;
        char name[PREFIX];
        int at = 0;
        snprintf(name, sizeof name, "%s%s.%s.", prefix, k->name, config_setting_name(e));
        if (config_setting_type(e) != CONFIG_TYPE_GROUP) {
            TM_TRY(deck_report_error(r->report, e, "%.*s: expected a group { ... }", (int)strlen(name) - 1, name));
            continue;
        }
        while (at < l.n && strcmp(*(const char **)deck_list_at(k, l, at), config_setting_name(e))) at++;
        void *member = deck_list_at(k, l, at);
        bool fresh = at == l.n;
        if (fresh) {
            l.n++;
            TM_TRY(deck_table_defaults(k->table, member, r->pool));
            TM_TRY(deck_pool_text(r->pool, config_setting_name(e), strlen(config_setting_name(e)), &own_name));
            memcpy(member, &own_name, sizeof own_name); /* `name` is the first field */
        }
        TM_TRY(deck_parse_table(r, k->table, e, member, name, fresh));
    }
    deck_list_set(field, l.v, l.n);
    return TM_OK;
}

static enum status parse_key(const struct reader *r, const struct key *k, const config_setting_t *s, void *field,
                             const char *prefix) {
    char name[PREFIX];
    if (k->table == deck_table_stage()) return TM_OK;
    switch (k->type) {
    case KEY_GROUP:
        if (config_setting_type(s) != CONFIG_TYPE_GROUP) return refuse(r, k, s, prefix);
        snprintf(name, sizeof name, "%s%s.", prefix, k->name);
        return deck_parse_table(r, k->table, s, field, name, false);
    case KEY_LIST: return parse_list(r, k, s, field, prefix);
    case KEY_NAMED: return parse_named(r, k, s, field, prefix);
    default: return deck_parse_plain(r, k, s, field, prefix);
    }
}

/* --- tables --- */
/* The nearest name of the table, or the same name in another group, or the whole list. */
static enum status unknown_key(const struct reader *r, const struct table *t, const config_setting_t *s,
                               const char *prefix) {
    const char *name = config_setting_name(s), *nearest = "";
    int best = 1 + (int)strlen(name) / 2;
    bool renamed;
    for (int i = 0; i < t->n; i++) {
        int d = str_distance(name, t->keys[i].name);
        if (d < best) {
            best = d;
            nearest = t->keys[i].name;
        }
    }
    if (*nearest)
        return deck_report_error(r->report, s, "%s%s: unknown key; did you mean \"%s\"?", prefix, name, nearest);
    const struct table *stage = deck_table_stage();
    for (int i = 0; i < stage->n; i++)
        if (stage->keys[i].type == KEY_GROUP && deck_key_find(stage->keys[i].table, name, &renamed))
            return deck_report_error(r->report, s, "%s%s: unknown key; did you mean %s.%s?", prefix, name,
                                     stage->keys[i].name, name);
    if (t == stage) return deck_report_error(r->report, s, "%s%s: unknown key; see --help-deck stages", prefix, name);
    struct str known = {0};
    enum status st = TM_OK;
    for (int i = 0; i < t->n && st == TM_OK; i++) st = str_printf(&known, "%s%s", i ? ", " : "", t->keys[i].name);
    if (st == TM_OK) st = deck_report_error(r->report, s, "%s%s: unknown key; known: %s", prefix, name, known.p);
    str_free(&known);
    return st;
}

/* Report required keys that `from` (NULL = an absent group, whose line is that of nothing) does not set. */
static enum status report_missing(const struct reader *r, const struct table *t, const config_setting_t *from,
                                  const char *prefix) {
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        const config_setting_t *s = from ? config_setting_get_member(from, k->name) : NULL;
        if (!s && from && k->was) s = config_setting_get_member(from, k->was);
        if (k->type == KEY_GROUP && t == deck_table_top()) {
            char name[PREFIX];
            snprintf(name, sizeof name, "%s.", k->name);
            if (!s || config_setting_type(s) == CONFIG_TYPE_GROUP) TM_TRY(report_missing(r, k->table, s, name));
        }
        if (s || k->table || k->fallback) continue;
        struct str expected = {0};
        enum status st = deck_key_print_expected(k, &expected);
        const config_setting_t *at = from && config_setting_is_root(from) ? NULL : from;
        if (st == TM_OK)
            st = deck_report_error(r->report, at, "%s%s is missing: expected %s", prefix, k->name, expected.p);
        str_free(&expected);
        TM_TRY(st);
    }
    return TM_OK;
}

enum status deck_parse_table(const struct reader *r, const struct table *t, const config_setting_t *from, void *base,
                             const char *prefix, bool fresh) {
    for (int i = 0; from && i < config_setting_length(from); i++) {
        const config_setting_t *s = config_setting_get_elem(from, (unsigned)i);
        bool renamed;
        const struct key *k = deck_key_find(t, config_setting_name(s), &renamed);
        if (!k) {
            TM_TRY(unknown_key(r, t, s, prefix));
            continue;
        }
        if (renamed && config_setting_get_member(from, k->name)) {
            TM_TRY(deck_report_error(r->report, s, "%s%s is the earlier name of \"%s\", which is set too", prefix,
                                     k->was, k->name));
            continue;
        }
        if (renamed) TM_TRY(deck_report_warning(r->report, s, "%s%s is now called \"%s\"", prefix, k->was, k->name));
        TM_TRY(parse_key(r, k, s, deck_field(k, base), prefix));
    }
    return fresh ? report_missing(r, t, from, prefix) : TM_OK;
}
