/* --help-deck: the key tables as text, and as rows for the manuals. */
#include <stdio.h>
#include <string.h>

#include "deck/table.h"

static const char *const resume_words[] = {"same", "warn", "free"};

/* The default as a deck would have it; nothing for a required key. */
static enum status print_default(const struct key *k, struct str *out) {
    bool bare = k->type == KEY_INT || k->type == KEY_FLOAT || k->type == KEY_BOOL;
    bool is_array = k->type >= KEY_INTS && k->type <= KEY_VALUES;
    if (k->table || !k->fallback) return TM_OK;
    return str_printf(out, bare ? "%s" : is_array ? "[ ]%s" : "\"%s\"", is_array ? "" : k->fallback);
}

/* "  lr = 1e-4" padded, then type, unit, resume class and the line about it. */
static enum status help_key(const struct key *k, const char *prefix, struct str *out) {
    size_t start = out->len;
    TM_TRY(str_printf(out, "  %s%s%s", prefix, *prefix ? "." : "", k->name));
    if (!k->table && k->fallback) TM_TRY(str_printf(out, " = "));
    TM_TRY(print_default(k, out));
    size_t width = out->len - start;
    TM_TRY(str_printf(out, "%*s", width < 34 ? (int)(34 - width) : 1, ""));
    TM_TRY(deck_key_print_expected(k, out));
    if (*k->unit) TM_TRY(str_printf(out, " [%s]", k->unit));
    if (!k->table && !k->fallback) TM_TRY(str_printf(out, ", required"));
    TM_TRY(str_printf(out, "\n        %s", k->doc));
    if (*k->use) TM_TRY(str_printf(out, "; for: %s", k->use));
    if (!k->table) TM_TRY(str_printf(out, "; resume: %s", resume_words[k->resume]));
    if (k->was) TM_TRY(str_printf(out, "; earlier: %s", k->was));
    return str_printf(out, "\n");
}

/* The path of a table's key or member: "datasets.NAME.sources[i]". */
static enum status table_path(const char *prefix, const struct key *k, struct str *out) {
    const char *index = k->type == KEY_LIST ? "[i]" : k->type == KEY_NAMED ? ".NAME" : "";
    return str_printf(out, "%s%s%s%s", prefix, *prefix ? "." : "", k->name, index);
}

/* A table and, after it, those of its members. Groups that a stage shares with the top level are shown once, there. */
static enum status help_table(const struct table *t, const char *prefix, struct str *out) {
    TM_TRY(str_printf(out, "\n%s: %s\n", *prefix ? prefix : "deck", t->doc));
    bool is_stage = t == deck_table_stage(), renamed;
    for (int i = 0; i < t->n; i++)
        if (!is_stage || !t->keys[i].table) TM_TRY(help_key(&t->keys[i], "", out));
    if (is_stage) {
        TM_TRY(str_printf(out, "  kinds of stages:\n"));
        for (int k = 0; k < DECK_KINDS; k++)
            TM_TRY(
                str_printf(out, "    %-10s %s\n", deck_kind_name((enum deck_kind)k), deck_kind_doc((enum deck_kind)k)));
    }
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        if (!k->table || (is_stage && deck_key_find(deck_table_top(), k->name, &renamed))) continue;
        struct str name = {0};
        enum status st = table_path(prefix, k, &name);
        if (st == TM_OK) st = help_table(k->table, name.p, out);
        str_free(&name);
        TM_TRY(st);
    }
    return TM_OK;
}

/* --- the same as rows --------------------------------------------------------------------------------------------------------- */
struct documenting {
    deck_doc_fn row;
    void *context;
};

static enum status document_key(const struct documenting *d, const struct key *k, const char *group) {
    struct str takes = {0}, fallback = {0};
    enum status st = deck_key_print_expected(k, &takes);
    if (st == TM_OK) st = print_default(k, &fallback);
    if (st == TM_OK)
        st = d->row(d->context, &(struct deck_doc){.group = group,
                                                   .name = k->name,
                                                   .takes = takes.p ? takes.p : "",
                                                   .fallback = fallback.p ? fallback.p : "",
                                                   .unit = k->unit,
                                                   .resume = k->table ? "" : resume_words[k->resume],
                                                   .use = k->use,
                                                   .doc = k->doc});
    str_free(&takes);
    str_free(&fallback);
    return st;
}

/* A table, then those of its members: the order and the omissions of help_table. */
static enum status document_table(const struct documenting *d, const struct table *t, const char *group) {
    bool is_stage = t == deck_table_stage(), renamed;
    TM_TRY(d->row(d->context, &(struct deck_doc){.group = group, .name = "", .doc = t->doc}));
    for (int i = 0; i < t->n; i++)
        if (!t->keys[i].table) TM_TRY(document_key(d, &t->keys[i], group));
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        if (!k->table || (is_stage && deck_key_find(deck_table_top(), k->name, &renamed))) continue;
        struct str name = {0};
        enum status st = table_path(group, k, &name);
        if (st == TM_OK) st = document_table(d, k->table, name.p);
        str_free(&name);
        TM_TRY(st);
    }
    return TM_OK;
}

enum status deck_document(deck_doc_fn row, void *context) {
    return document_table(&(struct documenting){row, context}, deck_table_top(), "");
}

/* --- questions ------------------------------------------------------------------------------------------------------------------ */
/* The path of a table without its indexes: "datasets.NAME.sources[i]" -> "datasets.sources". */
static bool same_path(const char *want, const char *path) {
    for (; *path; path++) {
        if (!strncmp(path, "[i]", 3)) path += 3;
        if (!strncmp(path, ".NAME", 5)) path += 5;
        if (!*path) break;
        if (*want++ != *path) return false;
    }
    return !*want;
}

/* What a question has found, and the nearest name to it. */
struct question {
    const char *key;
    struct str *out;
    int found, best;
    char nearest[128];
};

static enum status ask_table(struct question *q, const struct table *t, const char *prefix) {
    bool is_stage = t == deck_table_stage(), renamed;
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        if (is_stage && k->table && deck_key_find(deck_table_top(), k->name, &renamed)) continue;
        struct str path = {0}, full = {0};
        enum status st = table_path(prefix, k, &path);
        if (st == TM_OK) st = str_printf(&full, "%s%s%s", prefix, *prefix ? "." : "", k->name);
        if (st == TM_OK && (same_path(q->key, path.p) || same_path(q->key, full.p) || !strcmp(q->key, k->name))) {
            q->found++;
            st = k->table ? help_table(k->table, path.p, q->out) : help_key(k, prefix, q->out);
        } else if (st == TM_OK) {
            int d = str_distance(q->key, k->name), e = str_distance(q->key, full.p);
            if (e < d) d = e;
            if (d < q->best) {
                q->best = d;
                snprintf(q->nearest, sizeof q->nearest, "%s", full.p);
            }
            if (k->table) st = ask_table(q, k->table, path.p);
        }
        str_free(&path);
        str_free(&full);
        TM_TRY(st);
    }
    return TM_OK;
}

enum status deck_help(const char *key, struct str *out) {
    if (!key) return help_table(deck_table_top(), "", out);
    if (!strcmp(key, "machine")) return help_table(deck_table_machine(), "machine", out);
    struct question q = {.key = key, .out = out, .best = 1 << 20};
    TM_TRY(ask_table(&q, deck_table_top(), ""));
    if (q.found) return TM_OK;
    return TM_FAIL(TM_ERR_DECK, "--help-deck %s: no such key; did you mean %s?", key, q.nearest);
}
