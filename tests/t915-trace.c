/* TEST ranks=1 tier=1 */
/* base/: the record of spans stays within its bound, and what it keeps is every span that is long enough. */
#include "base/trace.h"
#include "tap.h"

/* Span i of a fixed sequence of lengths from 1 us to 1 s, spread evenly over the decades. */
static double length(int64_t i) { return 1e-6 * pow(10, (double)(i * 7919 % 6000) / 1000); }

static void off(void) {
    trace_add("op", "x", 0, 1);
    is_int(trace_count(), 0, "nothing is recorded before the start");
}

static void bound(void) {
    enum { MOST = 1000, SPANS = 100000 };
    int64_t kept = 0, long_enough = 0;
    bool ordered = true, long_ones = true;
    must(trace_start(MOST));
    for (int64_t i = 0; i < SPANS; i++) {
        trace_add("op", "x", (double)i, (double)i + length(i));
        if (trace_count() > MOST) kept = -1;
    }
    ok(kept == 0, "never more than %d", MOST);
    const struct trace_span *v = trace_spans();
    for (int64_t i = 0; i < trace_count(); i++) {
        ordered = ordered && (i == 0 || v[i].end > v[i - 1].end);
        long_ones = long_ones && v[i].end - v[i].begin >= trace_least();
    }
    for (int64_t i = 0; i < SPANS; i++) { /* as the record computes it: from the ends */
        double begin = (double)i, end = begin + length(i);
        long_enough += end - begin >= trace_least();
    }
    ok(ordered, "in the order in which they ended");
    ok(long_ones, "none is shorter than trace_least() = %g s", trace_least());
    is_int(trace_count(), long_enough, "and every one that is as long is there");
    ok(trace_count() > MOST / 4, "a good part of the room is used (%lld)", (long long)trace_count());
    trace_stop();
    is_int(trace_count(), 0, "nothing is left after the stop");
}

static void few(void) {
    must(trace_start(1000));
    for (int i = 0; i < 1000; i++) trace_add("op", "x", i, i + 1e-9);
    is_int(trace_count(), 1000, "all of what fits, however short");
    ok(trace_least() == 0, "nothing was left out");
    trace_stop();
    must(trace_start(4));
    for (int i = 0; i < 100; i++) trace_add("op", "x", i, i + 0.5); /* all alike: the bar must rise above them */
    ok(trace_count() <= 4, "equal spans stay within the bound (%lld)", (long long)trace_count());
    trace_stop();
}

int main(void) {
    off();
    bound();
    few();
    return tap_done();
}
