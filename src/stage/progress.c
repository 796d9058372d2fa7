/* Progress lines. */
#include "stage/progress.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"

void stage_progress(struct stage_progress *p, int64_t done, int64_t total, int64_t tokens, const char *fmt, ...) {
    enum { EVERY_S = 5 };
    char text[512];
    double now = clock_seconds();
    if (p->begin == 0) { /* the first step also warms up: the rate counts from its end */
        p->begin = now;
        p->first = done;
    } else {
        p->tokens += tokens;
    }
    if (!log_due(&p->last, EVERY_S) && done != total) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    double spent = now - p->begin;
    if (done == p->first || spent <= 0) {
        log_info("step=%lld/%lld %s", (long long)done, (long long)total, text);
        return;
    }
    long left = (long)(spent / (double)(done - p->first) * (double)(total - done) + 0.5);
    log_info("step=%lld/%lld %s rate=%.0f tokens/s left=%02ld:%02ld", (long long)done, (long long)total, text,
             (double)p->tokens / spent, left / 60, left % 60);
}
