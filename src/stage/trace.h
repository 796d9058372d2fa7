/* A trace: what one rank does in a stage, operation by operation and message by message in their order, recorded while the stage is planned.
 * Times are made from it (cost.h), and the ranks of a pipeline are played against each other with it (simulate.h). All functions are Local. */
#pragma once

#include "par/par.h"

enum trace_kind { TRACE_WORK, TRACE_GROUP, TRACE_SEND, TRACE_RECV };
struct trace_event {
    enum trace_kind kind;
    int what;   /* TRACE_WORK: the operation; TRACE_GROUP: enum par_traffic_kind */
    char group; /* 't', 'd' or 'p': over which the message goes */
    int peer, tag;
    double flops, bytes;
};

/* Events [from, to) happen `rounds` times. */
struct trace_span {
    size_t from, to;
    double rounds;
    bool loop; /* of a stage's loop; else what comes before, between and after */
};

struct trace {
    struct trace_event *event;
    struct trace_span *span;
    size_t n, cap, spans, span_cap;
    enum status status; /* of the first event that could not be kept */
    struct par_listener listener;
};

/* Record what `d` and the groups of the imagined grid `g` are asked for from here on: the groups are made here. The trace stays where it is.
 * Errors: MEMORY. */
enum status trace_begin(struct trace *t, struct dev *d, struct par_grid *g);
/* What came since the last span (it may be nothing) happens so many times. The ranks of a stage all have the same spans. */
void trace_span_end(struct trace *t, double rounds, bool loop);
/* Append one event: for traces that are not recorded. Errors are kept in t->status. */
void trace_add(struct trace *t, struct trace_event e);
void trace_free(struct trace *t);
