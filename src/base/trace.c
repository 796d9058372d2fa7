/* A bounded record of spans of time. */
#include "base/trace.h"

#include <stddef.h>

#include "base/mem.h"

static struct {
    struct trace_span *v; /* [most]; NULL: nothing is recorded */
    int64_t n, most;
    double least;
} trace_;

enum status trace_start(int64_t most) {
    trace_stop();
    trace_.most = most < 4 ? 4 : most;
    return mem_alloc(&trace_.v, (size_t)trace_.most, sizeof *trace_.v);
}

void trace_stop(void) {
    mem_free(&trace_.v);
    trace_.n = 0;
    trace_.least = 0;
}

/* Raise what a span must last until a quarter is free again. */
static void thin(void) {
    while (trace_.n > trace_.most * 3 / 4) {
        int64_t kept = 0;
        trace_.least = trace_.least > 0 ? 1.1 * trace_.least : 1e-6;
        for (int64_t i = 0; i < trace_.n; i++)
            if (trace_.v[i].end - trace_.v[i].begin >= trace_.least) trace_.v[kept++] = trace_.v[i];
        trace_.n = kept;
    }
}

void trace_add(const char *kind, const char *name, double begin, double end) {
    if (!trace_.v) return;
    if (trace_.n == trace_.most) thin();
    if (end - begin < trace_.least) return;
    trace_.v[trace_.n++] = (struct trace_span){begin, end, kind, name};
}

int64_t trace_count(void) { return trace_.n; }
const struct trace_span *trace_spans(void) { return trace_.v; }
double trace_least(void) { return trace_.least; }
