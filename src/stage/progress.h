/* Progress of a loop on stderr: what is done, the rate, the time left. */
#pragma once

#include <stdint.h>

#include "stage/run.h"

struct stage_progress { /* zero-initialise */
    double begin, now, last, drawn;
    int64_t first, tokens;
};

/* Log a line at most every few seconds, and for the last: "step=12/60 <text> rate=5321 tokens/s left=00:41". On a terminal, a bar that is
 * redrawn in place stands for all but the last of these lines. tokens: of this step. Local. */
void stage_progress(struct stage_progress *p, int64_t done, int64_t total, int64_t tokens, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The result tokens_per_s: from the end of the first step, which also warms up, to the last call; none when there was but one step. Local. */
enum status stage_progress_result(struct stage_run *r, const struct deck_stage *s, const struct stage_progress *p);
