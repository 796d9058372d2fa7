/* The deck: a libconfig file read into typed, checked, fully resolved values. Everything here is Local; no MPI. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

/* The kinds of stages: DECK_CONVERT ... from kinds.def, and their words. */
enum deck_kind {
#define KIND(name, model, doc) DECK_KIND_##name,
#include "deck/kinds.def" // IWYU pragma: keep
#undef KIND
    DECK_KINDS
};
const char *deck_kind_name(enum deck_kind kind); /* "distill" */
const char *deck_kind_doc(enum deck_kind kind);
/* What a stage does to the model: nothing (it has none), passes it on unchanged, or leaves another one behind. */
enum deck_kind_model { DECK_MODEL_NONE, DECK_MODEL_PASSES, DECK_MODEL_CHANGES };
enum deck_kind_model deck_kind_model(enum deck_kind kind);

/* Arrays of values. Every list of a deck has this form: v[0] ... v[n-1], v NULL when n is 0. */
struct deck_ints {
    int64_t *v;
    int n;
};
struct deck_floats {
    double *v;
    int n;
};
struct deck_texts {
    const char **v;
    int n;
};

/* One struct per key table: `struct deck_optim { double lr; ... }`; the fields, their meaning and ranges are the rows of
 * *.keys.def (also `temper --help-deck`). A WORD, TEXT or path is a string, never NULL, "" when it is not given. Paths are
 * absolute. The deck owns all strings and lists; they live until deck_free. `struct deck` is the top level; a stage holds its
 * own copy of every group, so stage code reads stage->optim.lr. */
#define deck_top                 deck /* the table `top` makes struct deck */
#define DECK_FIELD_INT(field)    int64_t field;
#define DECK_FIELD_FLOAT(field)  double field;
#define DECK_FIELD_BOOL(field)   bool field;
#define DECK_FIELD_TEXT(field)   const char *field;
#define DECK_FIELD_WORD(field)   const char *field;
#define DECK_FIELD_INPUT(field)  const char *field;
#define DECK_FIELD_OUTPUT(field) const char *field;
#define DECK_FIELD_FOLDER(field) const char *field;
#define DECK_FIELD_INTS(field)   struct deck_ints field;
#define DECK_FIELD_FLOATS(field) struct deck_floats field;
#define DECK_FIELD_TEXTS(field)  struct deck_texts field;
#define DECK_FIELD_INPUTS(field) struct deck_texts field;
#define DECK_FIELD_VALUES(field) struct deck_texts field;
#define DECK_LIST_OF(field, table) \
    struct {                       \
        struct deck_##table *v;    \
        int n;                     \
    } field;
#define BEGIN(table, doc) struct deck_##table {
#define END(table) \
    }              \
    ;
#define EXTRA(table, declaration)       declaration;
#define KEY_AS(table, type, field, ...) DECK_FIELD_##type(field)
#define KEY(table, type, field, ...)    DECK_FIELD_##type(field)
#define USED(table, type, field, ...)   DECK_FIELD_##type(field)
#define GROUP(owner, field, table, ...) struct deck_##table field;
#define LIST(owner, field, table, ...)  DECK_LIST_OF(field, table)
#define NAMED(owner, field, table, ...) DECK_LIST_OF(field, table)
#include "deck/tables.def" // IWYU pragma: keep
#undef BEGIN
#undef END
#undef EXTRA
#undef KEY_AS
#undef KEY
#undef USED
#undef GROUP
#undef LIST
#undef NAMED
#undef deck_top

/* Read, check and resolve a deck. `path` is a file; @include and input paths in it are relative to its folder (also inside
 * an included file), run.dir to the working directory.
 * sets[i] = "group.key=value", "stage.key=value" or "stages.stage.key=value" (list members by index: losses[0].weight)
 * override the file; the value is deck syntax, or else taken as a string.
 * Local.
 * *report gets every error and warning, one a line, sorted by line ("inputs/x.cfg:14: optim.lr = \"fast\": expected float > 0");
 * NULL = not wanted. On TM_OK it holds warnings only. The status message is the first error and how many more there are.
 * The caller frees *out with deck_free; it is NULL on errors. Errors: DECK; MEMORY; IO (no working directory). */
enum status deck_load(const char *path, const char *const *sets, int n_sets, struct str *report, struct deck **out);
/* The same from text in memory; `name` goes into messages, paths are relative to base_dir. */
enum status deck_parse(const char *text, const char *name, const char *base_dir, const char *const *sets, int n_sets,
                       struct str *report, struct deck **out);
void deck_free(struct deck **deck);

/* Append the effective deck: all keys with their values, in table order; in a stage, only what it has of its own. A deck read
 * from this text gives the same text again, from any folder. Rank 0 sends it to the other ranks and writes it to the run. */
enum status deck_echo(const struct deck *deck, struct str *out);

/* Append help: all keys (key NULL), or those of a group ("optim"), a key ("optim.lr"), or a key's bare name ("lr"); "machine": the keys of machine files.
 * Errors: DECK (no such key; the message has the nearest). */
enum status deck_help(const char *key, struct str *out);

/* The key tables row by row, for manuals: each group, then its plain keys, then the groups inside it; groups that a stage shares with the top
 * level come once, there. The strings live during the call. Returns the first status of `row` that is not TM_OK. */
struct deck_doc {
    const char *group;    /* "", "optim.groups[i]", "datasets.NAME" */
    const char *name;     /* of the key; "" in the row of the group itself, which has only `doc` */
    const char *takes;    /* "float > 0" */
    const char *fallback; /* the default in deck syntax; "" = required */
    const char *unit;     /* "" = none */
    const char *resume;   /* "same", "warn" or "free" */
    const char *use;      /* kinds of stages that read it, "" = all; '!' = required there */
    const char *doc;      /* one line */
};
typedef enum status (*deck_doc_fn)(void *context, const struct deck_doc *row);
enum status deck_document(deck_doc_fn row, void *context);

/* A sweep: the product of the deck's axes (zipped ones advance together), the last axis fastest, less what sweep_without names. Points are
 * counted 0, 1, ... without gaps; a point's number is its place in the whole product, so that leaving others out does not change it.
 * All are Local. */
/* How many points; 1 without a sweep. */
int64_t deck_sweep_count(const struct deck *deck);
/* The first number of a point after `number` (-1: the first point's), or -1 when there is none. */
int64_t deck_sweep_next(const struct deck *deck, int64_t number);
/* Which of its values (deck->sweep.v[axis].values) an axis has in the point of that number. */
int deck_sweep_value(const struct deck *deck, int64_t number, int axis);
/* Its directory below run.dir: "point-0007". Errors: INTERNAL (no room). */
enum status deck_sweep_dir(int64_t number, char *out, size_t cap);

/* What points share. Stages before the first one that an axis changes leave the same bytes in all points, and those before the next such
 * stage in all points with the same values of that axis, and so on: levels 0, 1, ..., each with more stages than the one before.
 * The number of stages of a level and its directory below run.dir, "shared-<last stage>-0002"; 0 = there is no such level. `dir` has room for 160. */
int deck_sweep_shared(const struct deck *deck, int64_t number, int level, char *dir, size_t cap);

/* deck_load of one point (counted without gaps): its values and run.dir + "/point-%04d" are set after `sets`, and the sweep is taken out.
 * Errors: as deck_load; DECK (no such point). */
enum status deck_load_point(const char *path, const char *const *sets, int n_sets, int64_t point, struct str *report,
                            struct deck **out);
/* The same of what the point shares at a level: only that level's stages, with its directory. *out is NULL when there is no such level.
 * The point itself is its own last level: level -1. */
enum status deck_load_shared(const char *path, const char *const *sets, int n_sets, int64_t point, int level,
                             struct str *report, struct deck **out);

/* What another value of a key means to a run that goes on. */
enum deck_resume { DECK_SAME /* refuse, by name */, DECK_WARN, DECK_FREE };
struct deck_difference {
    const char *stage;     /* name of the stage */
    const char *key;       /* "optim.lr"; "" = the stage itself is new or gone */
    const char *was, *now; /* deck syntax; "" = absent */
    enum deck_resume resume;
};
struct deck_differences {
    struct deck_difference *v;
    int n;
    void *owned;
};
/* Compare two effective decks (deck_echo) stage by stage, stages matched by name: the keys that a stage of its kind reads and
 * whose values differ, in deck order. The caller frees with deck_differences_free. Errors: DECK (old or new is no deck). */
enum status deck_compare(const char *old_text, const char *new_text, struct deck_differences *out);
void deck_differences_free(struct deck_differences *d);
