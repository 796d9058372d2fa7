/* Progress lines. */
#include "stage/progress.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"

/* " rate=5321 tokens/s left=00:41", once a step was measured. */
static void rate_text(const struct stage_progress *p, int64_t done, int64_t total, double spent, char *out,
                      size_t cap) {
    *out = 0;
    if (done == p->first || spent <= 0) return;
    long left = (long)(spent / (double)(done - p->first) * (double)(total - done) + 0.5);
    snprintf(out, cap, " rate=%.0f tokens/s left=%02ld:%02ld", (double)p->tokens / spent, left / 60, left % 60);
}

/* "qad [##########--------------] 24/60 rate=5321 tokens/s left=00:41 loss=0.0034": one line, redrawn in place. */
static bool draw(int64_t done, int64_t total, const char *rate, const char *text) {
    enum { BAR = 24 };
    static const char full[] = "########################", empty[] = "------------------------";
    char line[400];
    int n = total > 0 ? (int)(BAR * ((double)done / (double)total)) : 0;
    snprintf(line, sizeof line, "%s [%.*s%.*s] %lld/%lld%s %.200s", log_stage(), n, full, BAR - n, empty,
             (long long)done, (long long)total, rate, text);
    return log_live(line);
}

void stage_progress(struct stage_progress *p, int64_t done, int64_t total, int64_t tokens, const char *fmt, ...) {
    const double every_s = 5, redraw_s = 0.2;
    char text[256], rate[96];
    double now = p->now = clock_seconds();
    if (p->begin == 0) { /* the first step also warms up: the rate counts from its end */
        p->begin = now;
        p->first = done;
    } else {
        p->tokens += tokens;
    }
    bool last = done == total;
    if (!log_due(&p->drawn, redraw_s) && !last) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    rate_text(p, done, total, now - p->begin, rate, sizeof rate);
    if (!last && draw(done, total, rate, text)) return;
    if (!log_due(&p->last, every_s) && !last) return;
    log_info("step=%lld/%lld %s%s", (long long)done, (long long)total, text, rate);
}

enum status stage_progress_result(struct stage_run *r, const struct deck_stage *s, const struct stage_progress *p) {
    if (!(p->now > p->begin) || p->tokens == 0) return TM_OK;
    return stage_result(r, s, "tokens_per_s", (double)p->tokens / (p->now - p->begin), "tokens/s");
}
