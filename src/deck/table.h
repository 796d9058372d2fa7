/* Key tables as data, and values of keys in memory: what the parser, echo, help and comparison of decks walk. Inner to deck/. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "deck/deck.h"

enum key_type {
    KEY_INT,
    KEY_FLOAT,
    KEY_BOOL,
    KEY_TEXT,
    KEY_WORD,
    KEY_INPUT,
    KEY_OUTPUT,
    KEY_FOLDER,
    KEY_INTS,
    KEY_FLOATS,
    KEY_TEXTS,
    KEY_INPUTS,
    KEY_VALUES,
    KEY_GROUP, /* the three that have members come last */
    KEY_LIST,
    KEY_NAMED
};

/* One row of a table. */
struct key {
    const char *name;
    enum key_type type;
    size_t offset;             /* of the field in the table's struct */
    const char *fallback;      /* the default as text; NULL = required, or a type with members */
    const char *words;         /* WORD: "a|b|c"; INPUT: words that are no path; else NULL */
    double lo, hi;             /* bounds of numbers, and of the elements of INTS and FLOATS */
    bool lo_open, hi_open;     /* the bound itself is out */
    const char *unit;          /* "" = none */
    enum deck_resume resume;   /* meaningless for types with members */
    const char *was;           /* earlier name or NULL */
    const char *use;           /* kinds of stages that read it, "" = all; '!' = required there */
    const char *doc;           /* one line */
    const struct table *table; /* of the members; NULL for plain keys */
};

struct table {
    const char *name, *doc;
    const struct key *keys;
    int n;
    size_t size; /* of the struct */
};

/* The common form of every list field. */
struct list {
    void *v;
    int n;
};

extern const char deck_kind_words[]; /* "|convert|train|..." */
const struct table *deck_table_top(void);
const struct table *deck_table_stage(void);
const struct table *deck_table_machine(void);

/* Memory that lives as long as its deck: blocks in a chain from *pool. */
enum status deck_pool_alloc(void **pool, size_t n, size_t size, void *out);
enum status deck_pool_text(void **pool, const char *text, size_t n, const char **out);
void deck_pool_free(void **pool);

/* The key called `name`, or formerly so called (*renamed is then true); NULL if there is none. */
const struct key *deck_key_find(const struct table *t, const char *name, bool *renamed);
/* Does a stage of this kind read the key? *required may be NULL. */
bool deck_key_used(const struct key *k, enum deck_kind kind, bool *required);
/* Is v within the key's bounds, and finite? */
bool deck_key_in_range(const struct key *k, double v);
/* Append what the key takes: float in [0, 1), one of "a", "b". */
enum status deck_key_print_expected(const struct key *k, struct str *out);
/* Set every field of a struct to its default. */
enum status deck_table_defaults(const struct table *t, void *base, void **pool);

/* The field of a struct; the list in a list field, whatever its type; member i of a LIST or NAMED. */
void *deck_field(const struct key *k, const void *base);
struct list deck_list_get(const void *field);
void deck_list_set(void *field, const void *v, int n);
void *deck_list_at(const struct key *k, struct list l, int i);

/* Is `word` one of "a|b|c"? Append them as: "a", "b", "c" */
bool deck_words_have(const char *words, const char *word);
enum status deck_words_print(const char *words, struct str *out);

/* Append a plain value in deck syntax: "text", 3e-05, 5000000000L, [ 1, 2 ]. */
enum status deck_print_value(const struct key *k, const void *field, struct str *out);
enum status deck_print_int(int64_t v, struct str *out);
enum status deck_print_float(double v, struct str *out);
enum status deck_print_text(const char *text, struct str *out);
