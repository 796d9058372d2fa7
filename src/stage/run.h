/* One run of a deck: what all stages share, and the frame that runs them in order. */
#pragma once

#include "base/json.h"
#include "data/set.h"
#include "deck/deck.h"
#include "dev/dev.h"
#include "model/model.h"
#include "par/par.h"
#include "tok/tok.h"

struct stage_options { /* from the command line */
    const char *deck_path;
    const char *const *sets;
    int n_sets;
    int64_t sweep_point;      /* -1 none */
    const char *resume;       /* "auto": go on where an earlier start stopped; "never": begin anew */
    const char *const *allow; /* deck keys whose change a resumed run accepts */
    int n_allow;
    bool profile;
};

struct stage_run {
    struct stage_options o;
    struct deck *deck;
    const struct deck_stage *now; /* the stage that runs */
    struct str deck_text;         /* the effective deck, the same bytes on every rank */
    struct par_grid grid;
    struct dev *dev;
    bool invariant;
    struct stage_plan *plan; /* not NULL: stages are planned, not run (stage/plan.h) */
    int64_t base;            /* bytes of the process beside its stages: stage_memory_begin */
    int64_t planned_most;    /* bytes of the process by the plans of its stages so far; -1 unknown */
    int lock;                /* of the run directory, on rank 0 */
    double start;            /* clock_seconds() at the start of the process */
    json_t *results;         /* rank 0: what results.json will hold, an object per stage */
    json_t *finished;        /* stages that earlier starts finished: {name: results}; the same on every rank */
};

/* A stage's function, one per row of deck/kinds.def. Collective over the world. */
#define KIND(name, leaves_model, doc) enum status stage_##name##_all(struct stage_run *r, const struct deck_stage *s);
#include "deck/kinds.def" // IWYU pragma: keep
#undef KIND

typedef enum status (*stage_fn)(struct stage_run *r, const struct deck_stage *s);
stage_fn stage_function(enum deck_kind kind);

/* UNSUPPORTED, with the key's name, for what the deck asks and this version does not do. Local. */
enum status stage_check_deck(const struct deck *d);
/* After r->grid is set: does it agree with grid.dp and numerics.grid_invariant? Sets r->invariant. Local. Errors: DECK. */
enum status stage_check_grid(struct stage_run *r);

/* Run all stages of the deck. Collective over the world; the agreed status. */
enum status stage_run_deck_all(const struct stage_options *o);

/* Results: kept for results.json (rank 0), and printed on stdout by rank 0 as "<stage>.<name> = <value> <unit>". Local. */
enum status stage_result(struct stage_run *r, const struct deck_stage *s, const char *name, double value,
                         const char *unit);
enum status stage_result_text(struct stage_run *r, const struct deck_stage *s, const char *name, const char *value);

/* The object of results.json that belongs to the stage; borrowed. Rank 0 only. */
json_t *stage_results_of(struct stage_run *r, const struct deck_stage *s);

/* "<run.dir>/ckpt/<nn>-<stage name>" */
enum status stage_ckpt_dir(const struct deck_stage *s, char *out, size_t cap);

/* --- checkpoints of a stage, and stopping --------------------------------------------------------------------------------- */
/* True on every rank when any rank was asked to stop (SIGTERM, SIGUSR2, run/STOP, the wall limit); *save when a checkpoint is wanted
 * without stopping (SIGUSR1). One agreement. Collective over the world. */
enum status stage_poll_all(struct stage_run *r, bool *save);
void stage_catch_signals(void);
/* The run has ended: srun ends the other ranks as soon as one exits with 75, and that must not change their exit codes. */
void stage_ignore_signals(void);
