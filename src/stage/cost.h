/* Seconds of what a rank does, from a machine file. All functions are Local. */
#pragma once

#include "deck/machine.h"
#include "stage/trace.h"

/* Seconds of a call are call + the larger of flops * flop and bytes * byte. */
struct cost_op {
    double call, flop, byte;
};

struct cost {
    const struct deck_machine *m; /* borrowed */
    struct par_grid place;        /* of the rank; its groups are not used */
    struct cost_op *op;           /* [dev_op_count()] */
    bool lacks_links;             /* messages are needed whose rates are not known: they cost nothing */
    bool lacks_rates;             /* so do operations */
};

/* The costs of the rank at `place`, with numerics.compute = "bf16" or not. The caller frees. Errors: DECK (ops[i].op is no operation); MEMORY. */
enum status cost_create(const struct deck_machine *m, const struct par_grid *place, bool bf16, struct cost *out);
void cost_free(struct cost *c);

/* Seconds of an operation or of a sum, gather or broadcast over a group; 0 for messages. Sums that are begun and do not run beside are one, up to
 * the join. */
double cost_seconds(struct cost *c, const struct trace_event *e);
/* Whether sums that are begun (PAR_TRAFFIC_BESIDE) run beside what comes until the next join: then that is 0 seconds by itself. */
bool cost_beside(const struct cost *c);
/* A message to or from `peer` of the pipeline: seconds until its first byte is there, and that its bytes take. */
void cost_message(struct cost *c, const struct trace_event *e, double *latency, double *transfer);
/* Nodes that the ranks of the grid fill. */
double cost_nodes(const struct cost *c);
