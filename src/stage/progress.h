/* Progress of a loop on stderr: what is done, the rate, the time left. */
#pragma once

#include <stdint.h>

struct stage_progress { /* zero-initialise */
    double begin, last, drawn;
    int64_t first, tokens;
};

/* Log a line at most every few seconds, and for the last: "step=12/60 <text> rate=5321 tokens/s left=00:41". On a terminal, a bar that is
 * redrawn in place stands for all but the last of these lines. tokens: of this step. Local. */
void stage_progress(struct stage_progress *p, int64_t done, int64_t total, int64_t tokens, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
