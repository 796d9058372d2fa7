/* One run of a deck: what all stages share, and the frame that runs them in order. */
#pragma once

#include "base/json.h"
#include "ckpt/ckpt.h"
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
    bool probe;      /* no deck: measure this computer (stage/measure.h) */
    const char *out; /* the file that --probe writes; NULL: standard output */
};

/* Checkpoints of the stage that runs. */
struct stage_saves {
    struct ckpt_background *writer; /* one that is being written; NULL: none */
    double last;                    /* when the last one began, or the stage */
    double cost;                    /* for how long training stood still for the last one; 0: there was none yet */
    double interval;                /* by checkpoint.mtbf_h; 0: not known yet */
    double seconds;                 /* from the beginning of a save to its end, the longest of this run */
};

/* The first stages of a run that another run has made (stage/shared.h). */
struct stage_below {
    char dir[4096];
    int stages;
};

/* Seconds of what stages do beside their loops, so far; the plan's time has the same parts. */
enum stage_spent { STAGE_SPENT_LOAD, STAGE_SPENT_SAVE, STAGE_SPENT_EXPORT, STAGE_SPENT_COUNT };

struct stage_run {
    struct stage_options o;
    int level;                /* of what a sweep's points share; -1: a point, or no sweep */
    struct stage_below below; /* stages 0: all are its own */
    struct deck *deck;
    const struct deck_stage *now; /* the stage that runs */
    struct str deck_text;         /* the effective deck, the same bytes on every rank */
    struct par_grid grid;
    struct dev *dev;
    bool invariant;
    int64_t room;            /* bytes that this rank may take of its GPU; 0: not known */
    struct stage_plan *plan; /* not NULL: stages are planned, not run (stage/plan.h) */
    struct trace *trace;     /* with plan, not NULL: what the rank does is recorded (stage/trace.h) */
    int64_t base;            /* bytes of the process beside its stages: stage_memory_begin */
    int64_t planned_most;    /* bytes of the process by the plans of its stages so far; -1 unknown */
    int lock;                /* of the run directory, on rank 0 */
    double start;            /* clock_seconds() at the start of the process */
    double job_end;          /* clock_seconds() at which the batch system ends the job; 0: not known */
    double polled,
        round; /* when the stage was last asked whether to stop; the longest time from one such question to the next */
    struct stage_saves saves;
    double spent[STAGE_SPENT_COUNT];
    bool quiet;              /* results are kept and not printed */
    bool begun;              /* rank 0: the ledger has the line of this start */
    struct profile *profile; /* NULL without --profile (stage/profile.h) */
    json_t *results;         /* rank 0: what results.json will hold, an object per stage */
    json_t *usage;           /* rank 0: what usage.json will hold: {"memory": {stage: rows}, "profile": rows} */
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

/* Run all stages of the deck, or of a point of its sweep. Collective over the world; the agreed status. */
enum status stage_run_deck_all(const struct stage_options *o);
/* One level of a point: below, in: what the level below has made; out: what this one has. `start`: of the process, in clock_seconds(). */
enum status stage_run_level_all(const struct stage_options *o, int level, double start, struct stage_below *below);

/* Results: kept for results.json (rank 0), and printed on stdout by rank 0 as "<stage>.<name> = <value> <unit>". Local. */
enum status stage_result(struct stage_run *r, const struct deck_stage *s, const char *name, double value,
                         const char *unit);
enum status stage_result_text(struct stage_run *r, const struct deck_stage *s, const char *name, const char *value);

/* The object of results.json that belongs to the stage; borrowed. Rank 0 only. */
json_t *stage_results_of(struct stage_run *r, const struct deck_stage *s);

/* "<run.dir>/ckpt/<nn>-<stage name>" */
enum status stage_ckpt_dir(const struct deck_stage *s, char *out, size_t cap);

/* --- checkpoints of a stage, and stopping --------------------------------------------------------------------------------- */
/* The one question of every loop, in one reduction. TM_STOPPED on every rank when any rank was asked to stop (base/stop.h). *save: in, whether
 * this rank finds a save due; out, on every rank, whether any does or was asked for one (SIGUSR1). Also brings a checkpoint that is written in
 * the background on its way, and raises its error. Collective over the world. */
enum status stage_poll_all(struct stage_run *r, bool *save);
/* Local. Begin to heed signals, the run's STOP file and the end of the time that the deck or the batch system gives; tell that the time a
 * save takes has changed; clear the STOP file away: it speaks to one start only. */
void stage_stop_begin(struct stage_run *r);
void stage_stop_renew(const struct stage_run *r);
void stage_stop_end(const struct stage_run *r);
