/* TEST ranks=1,3 tier=1 */
/* par/: start and end, local ranks, collectives over host memory, counters. With the argument "start" it only starts (t408 uses it). */
#include "base/mem.h"
#include "tap_mpi.h"

static struct par_grid grid;

static void reductions(void) {
    int r = par_rank(), p = par_size();
    int64_t x[4] = {r + 1, r, -r, 1 << r};
    must(par_reduce_i64(grid.world, &x[0], 1, PAR_SUM));
    must(par_reduce_i64(grid.world, &x[1], 1, PAR_MAX));
    must(par_reduce_i64(grid.world, &x[2], 1, PAR_MIN));
    must(par_reduce_i64(grid.world, &x[3], 1, PAR_BOR));
    is_int(x[0], p * (p + 1) / 2, "sum of 1..p");
    is_int(x[1], p - 1, "max");
    is_int(x[2], 1 - p, "min");
    is_int(x[3], (1 << p) - 1, "or of one bit each");
    double m[5] = {(double)r, r == p - 1 ? -NAN : 1e300, -1.5 - r, r ? -INFINITY : -1e-310, r ? -0.0 : 0.0};
    must(par_reduce_f64_max(grid.world, m, 5));
    ok(m[0] == p - 1 && isnan(m[1]) && m[2] == -1.5, "f64 max: value, NaN wins, negative");
    ok(m[3] == -1e-310 && m[4] == 0 && !signbit(m[4]), "f64 max: subnormal over -inf, +0 over -0");
    double slot[8] = {0};
    slot[r] = 0.1 * (r + 1);
    must(par_sum_slots_f64(grid.world, slot, p));
    bool right = true;
    for (int i = 0; i < p; i++) right &= slot[i] == 0.1 * (i + 1);
    ok(right, "every slot arrives exactly");
}

/* Longer than one chunk (4 MiB), no multiple of it. */
static void long_transfers(void) {
    enum { N = 5000011 };
    int r = par_rank(), p = par_size();
    uint8_t *mine, *all;
    int64_t *sum;
    must(mem_alloc(&mine, N, 1));
    must(mem_alloc(&all, N, (size_t)p));
    must(mem_alloc(&sum, 700001, 8));
    for (int i = 0; i < N; i++) mine[i] = (uint8_t)(i * 7 + i / 251 + r);
    must(par_allgather_bytes(grid.world, mine, N, all));
    bool right = true;
    for (int q = 0; q < p; q++)
        for (int i = 0; i < N; i++) right &= all[(size_t)q * N + (size_t)i] == (uint8_t)(i * 7 + i / 251 + q);
    ok(right, "allgather of %d bytes", N);
    memset(all, 0, (size_t)N * (size_t)p);
    must(par_gather_bytes(grid.world, mine, N, r == p - 1 ? all : NULL, p - 1));
    for (int q = 0; r == p - 1 && q < p; q++)
        for (int i = 0; i < N; i++) right &= all[(size_t)q * N + (size_t)i] == (uint8_t)(i * 7 + i / 251 + q);
    ok(right, "gather to the last rank");
    must(par_bcast(grid.world, mine, N, p - 1));
    for (int i = 0; i < N; i++) right &= mine[i] == (uint8_t)(i * 7 + i / 251 + p - 1);
    ok(right, "broadcast from the last rank");
    for (int i = 0; i < 700001; i++) sum[i] = i + r;
    must(par_reduce_i64(grid.world, sum, 700001, PAR_SUM));
    for (int i = 0; i < 700001; i++) right &= sum[i] == (int64_t)p * i + p * (p - 1) / 2;
    ok(right, "integer sums in chunks");
    mem_free(&mine);
    mem_free(&all);
    mem_free(&sum);
}

static void counters(void) {
    struct par_counter b = {0};
    for (int i = 0; i < par_counter_count(); i++)
        if (!strcmp(par_counter(i).name, "bcast")) b = par_counter(i);
    is_int(b.calls, par_size() > 1 ? 1 : 0, "one broadcast counted");
    is_int(b.bytes, par_size() > 1 ? 5000011 : 0, "with its bytes");
    ok((b.seconds > 0) == (par_size() > 1), "and its time");
    is_int(par_counter(-1).calls + par_counter(1000).calls, 0, "no such counter");
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    if (argc > 1) return par_finish(), 0;
    must(par_grid_create_all(1, 1, 1, &grid));
    is_int(par_local_size(), par_size(), "all ranks are on this host");
    is_int(par_local_rank(), par_rank(), "and in order");
    is_int(par_group_size(grid.world), par_size(), "the world's group");
    reductions();
    long_transfers();
    must(par_barrier(grid.world));
    char byte = 0;
    if (par_size() > 1) is_status(par_bcast(grid.world, &byte, 1, par_size()), TM_ERR_INTERNAL);
    counters();
    is_int(par_group_size(NULL), 1, "an imagined group has one rank");
    is_status(par_barrier(NULL), TM_OK);
    par_grid_destroy(&grid);
    return tap_mpi_done();
}
