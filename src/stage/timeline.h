/* The timeline of a run: trace.json in Chrome's trace format (chrome://tracing, Perfetto), a process for every rank. */
#pragma once

#include "stage/run.h"

/* Begin to record, with room for a rank's share of what a browser can show; now is zero on this rank's line. Local. Errors: MEMORY. */
enum status stage_timeline_begin(void);
/* Write run.dir/trace.json. Collective over the world. Errors: IO, MEMORY, COMM. */
enum status stage_timeline_write_all(struct stage_run *r);
