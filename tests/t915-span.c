/* TEST ranks=1 tier=1 */
/* base/: the record of spans stays within its bound, and what it keeps is every span that is long enough. */
#include "base/span.h"
#include "tap.h"

/* Span i of a fixed sequence of lengths from 1 us to 1 s, spread evenly over the decades. */
static double length(int64_t i) { return 1e-6 * pow(10, (double)(i * 7919 % 6000) / 1000); }

static void off(void) {
    span_add("op", "x", 0, 1);
    is_int(span_count(), 0, "nothing is recorded before the start");
}

static void bound(void) {
    enum { MOST = 1000, SPANS = 100000 };
    int64_t kept = 0, long_enough = 0;
    bool ordered = true, long_ones = true;
    must(span_start(MOST));
    for (int64_t i = 0; i < SPANS; i++) {
        span_add("op", "x", (double)i, (double)i + length(i));
        if (span_count() > MOST) kept = -1;
    }
    ok(kept == 0, "never more than %d", MOST);
    const struct span *v = span_list();
    for (int64_t i = 0; i < span_count(); i++) {
        ordered = ordered && (i == 0 || v[i].end > v[i - 1].end);
        long_ones = long_ones && v[i].end - v[i].begin >= span_least();
    }
    for (int64_t i = 0; i < SPANS; i++) { /* as the record computes it: from the ends */
        double begin = (double)i, end = begin + length(i);
        long_enough += end - begin >= span_least();
    }
    ok(ordered, "in the order in which they ended");
    ok(long_ones, "none is shorter than span_least() = %g s", span_least());
    is_int(span_count(), long_enough, "and every one that is as long is there");
    ok(span_count() > MOST / 4, "a good part of the room is used (%lld)", (long long)span_count());
    span_stop();
    is_int(span_count(), 0, "nothing is left after the stop");
}

static void few(void) {
    must(span_start(1000));
    for (int i = 0; i < 1000; i++) span_add("op", "x", i, i + 1e-9);
    is_int(span_count(), 1000, "all of what fits, however short");
    ok(span_least() == 0, "nothing was left out");
    span_stop();
    must(span_start(4));
    for (int i = 0; i < 100; i++) span_add("op", "x", i, i + 0.5); /* all alike: the bar must rise above them */
    ok(span_count() <= 4, "equal spans stay within the bound (%lld)", (long long)span_count());
    span_stop();
}

int main(void) {
    off();
    bound();
    few();
    return tap_done();
}
