/* The ranks of a pipeline played against each other: a discrete-event simulation of one round (an optimizer step, a micro-batch) from their
 * traces, in which every rank does what it was recorded to do in that order, and waits for what it is to receive.
 *
 * A sum that was begun takes its turn behind those begun before it while the rank goes on, which waits for it at the join; where sums do not run
 * beside operations, all are made at the join. What a sum takes from the operations beside it (multiprocessors, memory) is not counted.
 *
 * The ranks of a tensor group, and those of the replicas, do the same at the same moment: one stands for all of them, so a pipeline of pp
 * programs is the whole machine, whatever its size. All functions are Local. */
#pragma once

#include "stage/cost.h"

/* Events [from, to) of a trace are one rank's program. */
struct sim_program {
    const struct trace *trace;
    size_t from, to;
    struct cost *cost;
};

/* Where the seconds of a rank went; they add up to the round's, but for those that are hidden. */
struct sim_share {
    double work;    /* operations */
    double tensor;  /* sums over the tensor group: all of them are exposed */
    double replica; /* sums over the replicas, as far as nothing hides them */
    double hidden;  /* sums over the replicas beside operations */
    double message; /* waiting while a message that was sent in time is under way */
    double idle;    /* waiting for others: the bubble of the pipeline */
};

/* share [pp]. *seconds: from the first rank's start to the last one's end. Errors: INTERNAL when a message is waited for that is never sent, is
 * never received, or meets another tag than expected (stage and peer are named); MEMORY. */
enum status sim_round(const struct sim_program *program, int pp, struct sim_share *share, double *seconds);
