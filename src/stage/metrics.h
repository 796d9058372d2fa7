/* metrics.jsonl: one JSON object a line, per logged step of a stage. */
#pragma once

#include "stage/run.h"

struct stage_metric {
    const char *name;
    double value;
};
/* Before the first step of a stage in this start: lines of the stage with step > `done` (of a start that was killed later than its last
 * checkpoint) are dropped, so that no step is there twice. Rank 0 works, others return. Local. Errors: IO. */
enum status stage_metrics_begin(struct stage_run *r, const struct deck_stage *s, int64_t done);
/* Append {"stage", "step", name: value...}; a value that is not finite becomes null. Rank 0 writes. Local. Errors: IO. */
enum status stage_metrics(struct stage_run *r, const struct deck_stage *s, int64_t step, const struct stage_metric *m,
                          int n);
