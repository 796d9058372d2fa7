/* Planning: a stage is run as it is, on a device without memory and maths (DEV_PLAN), as one rank of a grid that need not exist. What is
 * counted there is what the run will take: there is no second set of formulas.
 *
 * A stage function asks r->plan where a plan differs from a run: nothing is read, loaded, written or printed, and one round of its loop
 * stands for all of them. */
#pragma once

#include "ckpt/ckpt.h"
#include "hub/write.h"
#include "stage/run.h"

enum { STAGE_CLASSES = 24 };
/* Where a model's weights come from. */
enum stage_source { STAGE_FROM_HUB, STAGE_FROM_CKPT, STAGE_DRAWN, STAGE_SOURCES };

/* What one rank needs for one stage. */
struct stage_plan {
    bool known;                              /* false: a kind that is not planned */
    struct dev_memory memory[STAGE_CLASSES]; /* dev_memory of the rank; row 0: all */
    int n;
    bool gpu;             /* with what a GPU's kernels and libraries take */
    size_t work;          /* of it, the kernels' work space */
    bool uneven;          /* the ranks of a tensor group hold boxes of different sizes */
    size_t host;          /* the most that mem_alloc gave: batches, tapes, lists */
    const char *round;    /* what the loop repeats: "step", "micro-batch on every replica"; NULL without a loop */
    double rounds;        /* so often (a mean over the data-parallel ranks) */
    double flops_round;   /* FLOPs of this rank in one */
    double flops;         /* and in all rounds */
    double flops_busiest; /* of the data-parallel rank with most rounds */
    double loaded[STAGE_SOURCES]; /* elements of weights that this rank loads, student and teacher */
    int loads;                    /* models that it loads */
    double elements;              /* of the exported model, all ranks together */
    int64_t fill;                 /* micro-batches between two moments in which the pipeline is empty */
    int64_t saved_bytes;          /* of a checkpoint, all ranks together */
    int64_t saved_files;          /* of it, at most so many by the ranks that hold the same boxes */
    int64_t saved_file;           /* bytes of the largest of these, at most */
    int64_t export_bytes;
    int64_t export_files;
};

/* Plan a stage as the rank at `place` (its groups are not used) of a deck's run; nothing of `of` but the deck, the options, `invariant` and
 * `trace` is read. With a trace, host memory holds the trace too: plan once more without one for `host`. Local, in a process without MPI.
 * Errors: those of the stage's set-up. */
enum status stage_plan(const struct stage_run *of, const struct deck_stage *s, const struct par_grid *place,
                       struct stage_plan *out);
/* The same on every rank of a run, as itself, before the stage. Collective over the world. Errors: also MEMORY, when a rank needs more than
 * device.memory_gib or than its GPU has free. */
enum status stage_plan_all(const struct stage_run *of, const struct deck_stage *s, struct stage_plan *out);
/* Before the first stage: MEMORY for any stage that needs more than there is, as far as stages can be planned by now. Collective over the world. */
enum status stage_plan_check_all(struct stage_run *r);
/* What the process holds beside what is planned, before the first stage: code, MPI, libraries, work space of the kernels. Sets r->base, and has the
 * allocator keep little of what is freed. Local. */
void stage_memory_begin(struct stage_run *r);
/* After the stage: log, by class, planned bytes against those that were taken, for the largest rank, and what the processes hold besides.
 * Collective over the world. */
enum status stage_memory_all(struct stage_run *r, const struct stage_plan *planned);

/* --- for stage functions; all Local, and nothing outside of a plan --------------------------------------------------------- */
/* Count from here; and to here was one of `rounds` equal rounds of a loop. The first loop of a stage is the one that is printed. */
void stage_plan_begin(struct stage_run *r);
void stage_plan_rounds(struct stage_run *r, const char *round, double rounds, int64_t fill);
void stage_plan_model(struct stage_run *r, const struct model *m); /* a model was made */
void stage_plan_loaded(struct stage_run *r, const struct model *m, enum stage_source from);
enum status stage_plan_saved(struct stage_run *r, const struct ckpt_tensor *list, size_t n, bool background);
enum status stage_plan_exported(struct stage_run *r, const struct model *m, const struct hub_plan *plan);
/* The deck alone says how long the rows are and (count) how many: the data need not be opened. */
bool stage_plan_knows_rows(const struct deck_dataset *d, bool count);

/* What --plan asks. */
struct stage_plan_ask {
    int64_t ranks;       /* 0: as few as the deck's grid has */
    double gflops;       /* rate of one rank for the expected time; 0: none */
    const char *machine; /* a machine file for times; NULL: none */
    bool simulate;       /* with machine: what each pipeline stage does in a round */
    bool suggest;        /* with machine: other grids, best first */
};
/* --plan: the plan of a deck as text (also of the stages that could be planned when others could not). Local. Errors: DECK (also of the
 * machine file), UNSUPPORTED, those of the stages. */
enum status stage_plan_print(const struct stage_options *o, struct deck *d, const struct stage_plan_ask *ask,
                             struct str *out);
