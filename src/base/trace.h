/* A bounded record of what a process did when, for the timeline of a run. One thread records, reads, starts and stops. */
#pragma once

#include <stdint.h>

#include "base/status.h"

struct trace_span {
    double begin, end; /* clock_seconds() */
    const char *kind;  /* "op", "comm", "phase", "stage": static text */
    const char *name;  /* lives until trace_stop */
};

/* Keep at most `most` spans from here on (at least 4). When they are full, the shortest go, and all that come later and are as short.
 * Errors: MEMORY. */
enum status trace_start(int64_t most);
void trace_stop(void);
/* Costs a branch while nothing is recorded. */
void trace_add(const char *kind, const char *name, double begin, double end);
/* What is kept, in the order in which the spans ended; spans shorter than trace_least() seconds were left out, 0 = none was. */
int64_t trace_count(void);
const struct trace_span *trace_spans(void);
double trace_least(void);
