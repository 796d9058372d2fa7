/* A bounded record of spans of time. */
#include "base/span.h"

#include <stddef.h>

#include "base/mem.h"

static struct {
    struct span *v; /* [most]; NULL: nothing is recorded */
    int64_t n, most;
    double least;
} spans_;

enum status span_start(int64_t most) {
    span_stop();
    spans_.most = most < 4 ? 4 : most;
    return mem_alloc(&spans_.v, (size_t)spans_.most, sizeof *spans_.v);
}

void span_stop(void) {
    mem_free(&spans_.v);
    spans_.n = 0;
    spans_.least = 0;
}

/* Raise what a span must last until a quarter is free again. */
static void thin(void) {
    while (spans_.n > spans_.most * 3 / 4) {
        int64_t kept = 0;
        spans_.least = spans_.least > 0 ? 1.1 * spans_.least : 1e-6;
        for (int64_t i = 0; i < spans_.n; i++)
            if (spans_.v[i].end - spans_.v[i].begin >= spans_.least) spans_.v[kept++] = spans_.v[i];
        spans_.n = kept;
    }
}

void span_add(const char *kind, const char *name, double begin, double end) {
    if (!spans_.v) return;
    if (spans_.n == spans_.most) thin();
    if (end - begin < spans_.least) return;
    spans_.v[spans_.n++] = (struct span){begin, end, kind, name};
}

int64_t span_count(void) { return spans_.n; }
const struct span *span_list(void) { return spans_.v; }
double span_least(void) { return spans_.least; }
