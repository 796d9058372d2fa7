/* The time that a stage will take on a machine, from a machine file. */
#pragma once

#include "stage/plan.h"
#include "stage/simulate.h"

/* Where the seconds of a stage go: PART(name, in words). The parts add up to the stage's seconds. */
#define PLAN_PARTS(PART)                                  \
    PART(loading, "loading weights")                      \
    PART(memory, "new memory")                            \
    PART(outside, "operations before and after the loop") \
    PART(loop, "the loop")                                \
    PART(saving, "checkpoints")                           \
    PART(exporting, "the export")                         \
    PART(fixed, "opening and closing")
enum plan_part {
#define PART(name, words) PLAN_##name,
    PLAN_PARTS(PART)
#undef PART
        PLAN_PART_COUNT
};

struct plan_time {
    double seconds, part[PLAN_PART_COUNT];
    double rounds, round;    /* of the first loop, and seconds of one round */
    double saves;            /* checkpoints */
    struct sim_share *share; /* [pp]: of one round of the first loop */
    struct sim_share mean;   /* over the pipeline stages */
    const char *top;         /* the operation that takes longest in that round, a literal; NULL: there is no loop */
    double top_seconds;      /* of it, mean over the pipeline stages */
    double flops;            /* of the round, all ranks */
    bool lacks_links, lacks_rates; /* the machine file does not say what was needed: the time is too short */
};

/* One rank of each pipeline stage, recorded: what a machine is then applied to. */
struct plan_crew {
    int pp;
    const struct deck_stage *stage; /* borrowed */
    struct trace *trace;            /* [pp], as the next two */
    struct par_grid *place;
    struct stage_plan *plan;
};

/* Plan the stage on r->grid (sizes; as --plan does) and record it; play one round of each of its loops on a machine. Local. The caller frees. Errors:
 * those of stage_plan; of cost_create and sim_round. */
enum status plan_crew_record(const struct stage_run *r, const struct deck_stage *s, struct plan_crew *out);
enum status plan_crew_time(const struct plan_crew *c, const struct deck_machine *m, struct plan_time *out);
void plan_crew_free(struct plan_crew *c);
/* Both. */
enum status plan_time_stage(const struct stage_run *r, const struct deck_stage *s, const struct deck_machine *m,
                            struct plan_time *out);
void plan_time_free(struct plan_time *t);
const char *plan_part_words(enum plan_part part);
/* Append the lines of --plan: seconds, parts, what dominates; with `table` the shares of each pipeline stage. */
enum status plan_time_print(const struct plan_time *t, const struct stage_plan *p, const struct par_grid *g,
                            const struct deck_machine *m, bool table, struct str *out);
