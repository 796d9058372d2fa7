/* The accounting of communication: calls, bytes and seconds by kind, and MPI's return codes as statuses. */
#include <string.h>

#include "base/clock.h"
#include "base/span.h"
#include "par/room.h"

static struct par_counter counter_[KIND_COUNT] = {
#define KIND(kind) {.name = #kind},
#include "par/kinds.def" // IWYU pragma: keep
#undef KIND
};

int par_counter_count(void) { return KIND_COUNT; }

struct par_counter par_counter(int i) {
    return i >= 0 && i < KIND_COUNT ? counter_[i] : (struct par_counter){.name = "?"};
}

struct call call_begin(enum par_kind kind, const struct par_group *g, int peer, int64_t bytes) {
    counter_[kind].calls++;
    counter_[kind].bytes += bytes;
    watch_enter(kind, g, peer);
    return (struct call){kind, clock_seconds()};
}

enum status call_end(const struct call *c, enum status st) {
    double now = clock_seconds();
    counter_[c->kind].seconds += now - c->start;
    span_add("comm", counter_[c->kind].name, c->start, now);
    watch_leave();
    return st;
}

enum status comm_check(int rc, const char *call, const struct par_group *g) {
    watch_progress();
    if (rc == MPI_SUCCESS) return TM_OK;
    char text[MPI_MAX_ERROR_STRING + 1];
    int n = 0;
    if (MPI_Error_string(rc, text, &n) != MPI_SUCCESS) n = 0;
    text[n] = '\0';
    return TM_FAIL(TM_ERR_COMM, "%.*s over %s (rank %d of %d): %s", (int)strcspn(call, "("), call, g->name, g->rank,
                   g->size, n ? text : "unknown error of MPI");
}
