/* Key tables: the rows of *.keys.def as data, look-up, defaults, memory of a deck. */
#include "deck/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define KIND(name, model, doc) "|" #name
const char deck_kind_words[] =
#include "deck/kinds.def"
    ;
#undef KIND

static const struct {
    const char *name, *doc;
    enum deck_kind_model model;
} kinds[] = {
#define KIND(name_, model_, doc_) {.name = #name_, .doc = doc_, .model = DECK_MODEL_##model_},
#include "deck/kinds.def"
#undef KIND
};
const char *deck_kind_name(enum deck_kind kind) { return kinds[kind].name; }
const char *deck_kind_doc(enum deck_kind kind) { return kinds[kind].doc; }
enum deck_kind_model deck_kind_model(enum deck_kind kind) { return kinds[kind].model; }

/* Each table becomes an array of rows and a struct table. */
/* clang-format off */
#define deck_top deck
#define REQUIRED NULL
#define ANY .lo = -INFINITY, .hi = INFINITY
#define AT_LEAST(a) .lo = (a), .hi = INFINITY
#define ABOVE(a) .lo = (a), .hi = INFINITY, .lo_open = true
#define RANGE(a, b) .lo = (a), .hi = (b)
#define BELOW(a, b) .lo = (a), .hi = (b), .hi_open = true
#define ONE_OF(list) .words = (list)
#define OR(list) .words = (list)
#define BEGIN(table, doc)                  \
    static const char doc_##table[] = doc; \
    static const struct key keys_##table[] = {
#define END(t)                                         \
    };                                                 \
    static const struct table table_##t = {            \
        .name = #t,                                    \
        .doc = doc_##t,                                \
        .keys = keys_##t,                              \
        .n = (int)(sizeof keys_##t / sizeof *keys_##t), \
        .size = sizeof(struct deck_##t),               \
    };
#define EXTRA(table, declaration)
/* The range comes last: it is several initialisers. */
#define ROW(table, type_, field, name_, default_, unit_, resume_, was_, use_, doc_, ...) \
    {.name = (name_),                                                                    \
     .type = KEY_##type_,                                                                \
     .offset = offsetof(struct deck_##table, field),                                     \
     .fallback = (default_),                                                             \
     .unit = (unit_),                                                                    \
     .resume = DECK_##resume_,                                                           \
     .was = (was_),                                                                      \
     .use = (use_),                                                                      \
     .doc = (doc_),                                                                      \
     __VA_ARGS__},
#define KEY_AS(table, type, field, name, default_, range, unit, resume, was, use, doc) \
    ROW(table, type, field, name, default_, unit, resume, was, use, doc, range)
#define KEY(table, type, field, default_, range, unit, resume, was, doc) \
    ROW(table, type, field, #field, default_, unit, resume, was, "", doc, range)
#define USED(table, type, field, default_, range, unit, resume, was, use, doc) \
    ROW(table, type, field, #field, default_, unit, resume, was, use, doc, range)
#define MEMBERS(owner, type_, field, t, use_, doc_)        \
    {.name = #field,                                       \
     .type = KEY_##type_,                                  \
     .offset = offsetof(struct deck_##owner, field),       \
     .unit = "",                                           \
     .use = (use_),                                        \
     .doc = (doc_),                                        \
     .table = &table_##t},
#define GROUP(owner, field, table, use, doc) MEMBERS(owner, GROUP, field, table, use, doc)
#define LIST(owner, field, table, use, doc) MEMBERS(owner, LIST, field, table, use, doc)
#define NAMED(owner, field, table, use, doc) MEMBERS(owner, NAMED, field, table, use, doc)
#include "deck/tables.def"
#undef deck_top
/* clang-format on */

const struct table *deck_table_top(void) { return &table_top; }
const struct table *deck_table_stage(void) { return &table_stage; }
const struct table *deck_table_machine(void) { return &table_machine; }

/* --- memory: a chain of blocks, the next pointer at the front of each --- */
enum { POOL_HEAD = 64 }; /* keeps what follows aligned as mem_alloc aligns */

enum status deck_pool_alloc(void **pool, size_t n, size_t size, void *out) {
    size_t bytes;
    char *block;
    if (__builtin_mul_overflow(n, size, &bytes) || __builtin_add_overflow(bytes, POOL_HEAD, &bytes))
        return TM_FAIL(TM_ERR_MEMORY, "a deck list of %zu members", n);
    TM_TRY(mem_alloc(&block, bytes, 1));
    memcpy(block, pool, sizeof *pool);
    *pool = block;
    block += POOL_HEAD;
    memcpy(out, &block, sizeof block);
    return TM_OK;
}

enum status deck_pool_text(void **pool, const char *text, size_t n, const char **out) {
    char *copy;
    TM_TRY(deck_pool_alloc(pool, n + 1, 1, &copy));
    if (n) memcpy(copy, text, n);
    *out = copy;
    return TM_OK;
}

void deck_pool_free(void **pool) {
    while (*pool) {
        void *block = *pool;
        memcpy(pool, block, sizeof *pool);
        mem_free(&block);
    }
}

/* --- rows --- */
const struct key *deck_key_find(const struct table *t, const char *name, bool *renamed) {
    *renamed = false;
    for (int i = 0; i < t->n; i++)
        if (!strcmp(t->keys[i].name, name)) return &t->keys[i];
    *renamed = true;
    for (int i = 0; i < t->n; i++)
        if (t->keys[i].was && !strcmp(t->keys[i].was, name)) return &t->keys[i];
    return NULL;
}

bool deck_key_used(const struct key *k, enum deck_kind kind, bool *required) {
    const char *word = kinds[kind].name, *at = k->use;
    size_t n = strlen(word);
    if (required) *required = false;
    if (!*k->use) return true;
    while (*at) {
        size_t length = strcspn(at, " !");
        bool is_required = at[length] == '!';
        if (length == n && !memcmp(at, word, n)) {
            if (required) *required = is_required;
            return true;
        }
        at += length + is_required;
        at += strspn(at, " ");
    }
    return false;
}

bool deck_key_in_range(const struct key *k, double v) {
    return isfinite(v) && v >= k->lo && v <= k->hi && !(k->lo_open && v == k->lo) && !(k->hi_open && v == k->hi);
}

void *deck_field(const struct key *k, const void *base) { return (char *)(uintptr_t)base + k->offset; }

struct list deck_list_get(const void *field) {
    struct list l;
    memcpy(&l, field, sizeof l);
    return l;
}

void deck_list_set(void *field, const void *v, int n) {
    struct list l = {.v = (void *)(uintptr_t)v, .n = n};
    memcpy(field, &l, sizeof l);
}

void *deck_list_at(const struct key *k, struct list l, int i) { return (char *)l.v + (size_t)i * k->table->size; }

_Static_assert(sizeof(struct list) == sizeof(struct deck_ints) && sizeof(struct list) == sizeof(struct deck_texts) &&
                   offsetof(struct list, n) == offsetof(struct deck_floats, n),
               "every list field has the form of struct list");

enum status deck_table_defaults(const struct table *t, void *base, void **pool) {
    for (int i = 0; i < t->n; i++) {
        const struct key *k = &t->keys[i];
        const char *text = k->fallback ? k->fallback : "";
        void *field = deck_field(k, base);
        switch (k->type) {
        case KEY_INT: *(int64_t *)field = strtoll(text, NULL, 10); break;
        case KEY_FLOAT: *(double *)field = strtod(text, NULL); break;
        case KEY_BOOL: *(bool *)field = !strcmp(text, "true"); break;
        case KEY_TEXT:
        case KEY_WORD:
        case KEY_INPUT:
        case KEY_FOLDER: *(const char **)field = text; break;
        case KEY_OUTPUT: *(const char **)field = text; break;
        case KEY_INTS:
        case KEY_FLOATS:
        case KEY_TEXTS:
        case KEY_INPUTS:
        case KEY_VALUES:
        case KEY_LIST:
        case KEY_NAMED: deck_list_set(field, NULL, 0); break;
        case KEY_GROUP: TM_TRY(deck_table_defaults(k->table, field, pool)); break;
        }
    }
    return TM_OK;
}
