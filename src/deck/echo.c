/* The effective deck as text: what every rank parses, what the run keeps, what a later run is compared with. */
#include <string.h>

#include "deck/machine.h"
#include "deck/table.h"

static enum status echo_table(const struct table *t, const void *base, const void *like, int indent, struct str *out);

static enum status line_start(int indent, struct str *out) { return str_printf(out, "%*s", indent, ""); }

/* A list of groups, one a line or (stages) one a block. */
static enum status echo_list(const struct key *k, struct list l, int indent, struct str *out) {
    TM_TRY(line_start(indent, out));
    TM_TRY(str_printf(out, l.n ? "%s = (\n" : "%s = ( );\n", k->name));
    for (int i = 0; i < l.n; i++) {
        TM_TRY(line_start(indent + 2, out));
        TM_TRY(str_printf(out, "{\n"));
        TM_TRY(echo_table(k->table, deck_list_at(k, l, i), NULL, indent + 4, out));
        TM_TRY(line_start(indent + 2, out));
        TM_TRY(str_printf(out, i + 1 < l.n ? "},\n" : "}\n"));
    }
    if (!l.n) return TM_OK;
    TM_TRY(line_start(indent, out));
    return str_printf(out, ");\n");
}

/* name = { members that differ from those of `like` }; nothing at all when none does (unless like is NULL). */
static enum status echo_group(const char *name, const struct table *t, const void *base, const void *like, int indent,
                              struct str *out) {
    struct str members = {0};
    enum status st = echo_table(t, base, like, indent + 2, &members);
    if (st == TM_OK && (members.len || !like)) {
        st = line_start(indent, out);
        if (st == TM_OK) st = str_printf(out, "%s = {\n%s%*s};\n", name, members.len ? members.p : "", indent, "");
    }
    str_free(&members);
    return st;
}

static enum status echo_named(const struct key *k, struct list l, const void *like, int indent, struct str *out) {
    struct list others = like ? deck_list_get(like) : (struct list){0};
    struct str members = {0};
    enum status st = TM_OK;
    for (int i = 0; i < l.n && st == TM_OK; i++) {
        const char *name = *(const char **)deck_list_at(k, l, i);
        const void *other = NULL;
        for (int j = 0; j < others.n; j++)
            if (!strcmp(*(const char **)deck_list_at(k, others, j), name)) other = deck_list_at(k, others, j);
        st = echo_group(name, k->table, deck_list_at(k, l, i), other, indent + 2, &members);
    }
    if (st == TM_OK && (members.len || !like))
        st = str_printf(out, "%*s%s = {\n%s%*s};\n", indent, "", k->name, members.len ? members.p : "", indent, "");
    str_free(&members);
    return st;
}

/* One key in full. */
static enum status echo_key(const struct key *k, const void *field, int indent, struct str *out) {
    if (k->type == KEY_LIST) return echo_list(k, deck_list_get(field), indent, out);
    TM_TRY(line_start(indent, out));
    TM_TRY(str_printf(out, "%s = ", k->name));
    TM_TRY(deck_print_value(k, field, out));
    return str_printf(out, ";\n");
}

/* One key, unless its text is that of `like`. */
static enum status echo_changed(const struct key *k, const void *field, const void *like, int indent, struct str *out) {
    struct str mine = {0}, other = {0};
    enum status st = echo_key(k, field, indent, &mine);
    if (st == TM_OK && like) st = echo_key(k, like, indent, &other);
    if (st == TM_OK && (!like || strcmp(mine.p, other.p) != 0)) st = str_append(out, mine.p, mine.len);
    str_free(&mine);
    str_free(&other);
    return st;
}

/* Stages: their own keys in full, of the groups only what differs from the top level's. */
static enum status echo_stages(const struct deck *deck, const struct key *k, struct str *out) {
    const struct table *t = deck_table_stage();
    TM_TRY(str_printf(out, "%s = (\n", k->name));
    for (int i = 0; i < deck->stages.n; i++) {
        const struct deck_stage *s = &deck->stages.v[i];
        TM_TRY(str_printf(out, "  {\n"));
        for (int j = 0; j < t->n; j++) {
            const struct key *key = &t->keys[j];
            bool renamed;
            const struct key *top = key->table ? deck_key_find(deck_table_top(), key->name, &renamed) : NULL;
            const void *field = deck_field(key, s), *like = top ? deck_field(top, deck) : NULL;
            if (!deck_key_used(key, s->kind, NULL)) continue;
            if (key->type == KEY_GROUP)
                TM_TRY(echo_group(key->name, key->table, field, like, 4, out));
            else if (key->type == KEY_NAMED)
                TM_TRY(echo_named(key, deck_list_get(field), like, 4, out));
            else
                TM_TRY(echo_changed(key, field, like, 4, out));
        }
        TM_TRY(str_printf(out, i + 1 < deck->stages.n ? "  },\n" : "  }\n"));
    }
    return str_printf(out, ");\n");
}

static enum status echo_table(const struct table *t, const void *base, const void *like, int indent, struct str *out) {
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        const void *field = deck_field(k, base), *other = like ? deck_field(k, like) : NULL;
        if (k->table == deck_table_stage())
            TM_TRY(echo_stages(base, k, out));
        else if (k->type == KEY_GROUP)
            TM_TRY(echo_group(k->name, k->table, field, other, indent, out));
        else if (k->type == KEY_NAMED)
            TM_TRY(echo_named(k, deck_list_get(field), other, indent, out));
        else
            TM_TRY(echo_changed(k, field, other, indent, out));
    }
    return TM_OK;
}

enum status deck_machine_echo(const struct deck_machine *m, struct str *out) {
    return echo_table(deck_table_machine(), m, NULL, 0, out);
}

enum status deck_echo(const struct deck *deck, struct str *out) {
    return echo_table(deck_table_top(), deck, NULL, 0, out);
}
