/* A bounded record of what a process did when, for the timeline of a run. One thread records, reads, starts and stops. */
#pragma once

#include <stdint.h>

#include "base/status.h"

struct span {
    double begin, end; /* clock_seconds() */
    const char *kind;  /* "op", "comm", "phase", "stage"; "beside" the others: static text */
    const char *name;  /* lives until span_stop */
};

/* Keep at most `most` spans from here on (at least 4). When they are full, the shortest go, and all that come later and are as short.
 * Errors: MEMORY. */
enum status span_start(int64_t most);
void span_stop(void);
/* Costs a branch while nothing is recorded. */
void span_add(const char *kind, const char *name, double begin, double end);
/* What is kept, in the order in which the spans ended; spans shorter than span_least() seconds were left out, 0 = none was. */
int64_t span_count(void);
const struct span *span_list(void);
double span_least(void);
