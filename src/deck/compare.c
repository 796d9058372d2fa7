/* Which keys differ between the deck a run began with and the one it goes on with, and whether that may be. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "deck/table.h"

/* The comparison at hand. */
struct comparison {
    struct deck_differences *out;
    size_t cap;
    const char *stage;
};

static enum status add(struct comparison *c, const char *key, const char *was, const char *now,
                       enum deck_resume resume) {
    struct deck_differences *out = c->out;
    TM_TRY(mem_grow(&out->v, &c->cap, (size_t)out->n + 1, sizeof *out->v));
    struct deck_difference *d = &out->v[out->n++];
    d->resume = resume;
    TM_TRY(deck_pool_text(&out->owned, c->stage, strlen(c->stage), &d->stage));
    TM_TRY(deck_pool_text(&out->owned, key, strlen(key), &d->key));
    TM_TRY(deck_pool_text(&out->owned, was, strlen(was), &d->was));
    return deck_pool_text(&out->owned, now, strlen(now), &d->now);
}

/* The kinds of a stage that was and is; NULL = there is none. */
static enum status add_kinds(struct comparison *c, const char *key, const struct deck_stage *a,
                             const struct deck_stage *b, enum deck_resume resume) {
    char was[64] = "", now[64] = "";
    if (a) snprintf(was, sizeof was, "\"%s\"", a->verb);
    if (b) snprintf(now, sizeof now, "\"%s\"", b->verb);
    return add(c, key, was, now, resume);
}

static enum status compare_table(struct comparison *c, const struct table *t, const void *a, const void *b,
                                 const char *prefix);

static enum status compare_plain(struct comparison *c, const struct key *k, const void *a, const void *b,
                                 const char *name) {
    struct str was = {0}, now = {0};
    enum status st = deck_print_value(k, a, &was);
    if (st == TM_OK) st = deck_print_value(k, b, &now);
    if (st == TM_OK && strcmp(was.p, now.p) != 0) st = add(c, name, was.p, now.p, k->resume);
    str_free(&was);
    str_free(&now);
    return st;
}

static enum status compare_list(struct comparison *c, const struct key *k, struct list a, struct list b,
                                const char *name) {
    char text[300], was[32], now[32];
    if (a.n != b.n) {
        snprintf(was, sizeof was, "%d members", a.n);
        snprintf(now, sizeof now, "%d members", b.n);
        return add(c, name, was, now, DECK_SAME);
    }
    for (int i = 0; i < a.n; i++) {
        snprintf(text, sizeof text, "%s[%d].", name, i);
        TM_TRY(compare_table(c, k->table, deck_list_at(k, a, i), deck_list_at(k, b, i), text));
    }
    return TM_OK;
}

static enum status compare_key(struct comparison *c, const struct key *k, const void *a, const void *b,
                               const char *prefix) {
    char name[256];
    bool is_group = k->type == KEY_GROUP;
    snprintf(name, sizeof name, "%s%s%s", prefix, k->name, is_group ? "." : "");
    if (is_group) return compare_table(c, k->table, a, b, name);
    if (k->type == KEY_LIST) return compare_list(c, k, deck_list_get(a), deck_list_get(b), name);
    if (k->type == KEY_NAMED) return TM_OK; /* data sets: those the stage uses, see compare_set */
    return compare_plain(c, k, a, b, name);
}

static enum status compare_table(struct comparison *c, const struct table *t, const void *a, const void *b,
                                 const char *prefix) {
    for (int i = 0; i < t->n; i++)
        TM_TRY(compare_key(c, &t->keys[i], deck_field(&t->keys[i], a), deck_field(&t->keys[i], b), prefix));
    return TM_OK;
}

/* A data set that both use (otherwise `data` or `eval_data` differs and says so). */
static enum status compare_set(struct comparison *c, const struct deck_dataset *a, const struct deck_dataset *b) {
    char prefix[160];
    bool renamed;
    if (!a || !b || strcmp(a->name, b->name) != 0) return TM_OK;
    snprintf(prefix, sizeof prefix, "datasets.%.128s.", b->name);
    return compare_table(c, deck_key_find(deck_table_stage(), "datasets", &renamed)->table, a, b, prefix);
}

static enum status compare_stage(struct comparison *c, const struct deck_stage *a, const struct deck_stage *b) {
    const struct table *t = deck_table_stage();
    if (a->kind != b->kind) return add_kinds(c, "do", a, b, DECK_SAME);
    for (int i = 0; i < t->n; i++)
        if (deck_key_used(&t->keys[i], b->kind, NULL))
            TM_TRY(compare_key(c, &t->keys[i], deck_field(&t->keys[i], a), deck_field(&t->keys[i], b), ""));
    TM_TRY(compare_set(c, a->dataset, b->dataset));
    return b->eval_set == b->dataset ? TM_OK : compare_set(c, a->eval_set, b->eval_set);
}

static const struct deck_stage *find_stage(const struct deck *deck, const char *name) {
    for (int i = 0; i < deck->stages.n; i++)
        if (!strcmp(deck->stages.v[i].name, name)) return &deck->stages.v[i];
    return NULL;
}

static enum status compare_decks(const struct deck *a, const struct deck *b, struct deck_differences *out) {
    struct comparison c = {.out = out};
    for (int i = 0; i < b->stages.n; i++) {
        const struct deck_stage *now = &b->stages.v[i], *was = find_stage(a, now->name);
        c.stage = now->name;
        if (was)
            TM_TRY(compare_stage(&c, was, now));
        else
            TM_TRY(add_kinds(&c, "", NULL, now, DECK_FREE)); /* those after it say `from` */
    }
    for (int i = 0; i < a->stages.n; i++) {
        c.stage = a->stages.v[i].name;
        if (!find_stage(b, c.stage)) TM_TRY(add_kinds(&c, "", &a->stages.v[i], NULL, DECK_WARN));
    }
    return TM_OK;
}

enum status deck_compare(const char *old_text, const char *new_text, struct deck_differences *out) {
    struct deck *a, *b = NULL;
    *out = (struct deck_differences){0};
    TM_TRY(deck_parse(old_text, "the run's deck", "", NULL, 0, NULL, &a));
    enum status st = deck_parse(new_text, "this deck", "", NULL, 0, NULL, &b);
    if (st == TM_OK) st = compare_decks(a, b, out);
    deck_free(&a);
    deck_free(&b);
    if (st != TM_OK) deck_differences_free(out);
    return st;
}

void deck_differences_free(struct deck_differences *d) {
    mem_free(&d->v);
    deck_pool_free(&d->owned);
    d->n = 0;
}
