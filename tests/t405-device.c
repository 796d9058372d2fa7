/* TEST ranks=1,3,4 backends=host,guard tier=1 */
/* TEST ranks=2,4 backends=cuda,cuda1 tier=1 */
/* par/: maxima, argmax with ties, sums with one term, broadcast and gather over device memory. */
#include "base/mem.h"
#include "tap_mpi.h"

static struct par_grid grid;
static struct dev *dev;
static dptr a, b;

static void argmax(void) {
    enum { ROWS = 8 };
    int r = par_rank(), p = par_size();
    float v[ROWS] = {
        (float)r,                   /* the last rank's */
        5.0f,                       /* a tie: rank 0's index */
        r == p - 1 ? -1.0f : -2.0f, /* negative values */
        r ? 0.0f : -0.0f,           /* zeros of both signs tie */
        r == 1 ? -NAN : 1e30f,      /* NaN wins */
        -INFINITY,                  /* rank 0 has no columns */
        r ? -1e-40f : -INFINITY,    /* subnormal */
        7.0f,                       /* a tie; the last rank has the lowest index */
    };
    int32_t i[ROWS] = {r, 10 + r, r, r, r, r ? r : -1, r, 100 - r};
    int last = p - 1;
    must(dev_upload(dev, a, v, sizeof v));
    must(dev_upload(dev, b, i, sizeof i));
    must(par_argmax(grid.tp_group, dev, a, b, ROWS));
    must(dev_download(dev, v, a, sizeof v));
    must(dev_download(dev, i, b, sizeof i));
    ok(v[0] == (float)last && i[0] == last, "argmax: largest value");
    ok(v[1] == 5 && i[1] == 10, "tie: lowest index");
    ok(v[2] == -1 && i[2] == last, "negative values");
    ok(v[3] == 0 && i[3] == 0, "zeros tie");
    ok(p == 1 ? v[4] == 1e30f : isnan(v[4]) && i[4] == 1, "NaN wins");
    ok(isinf(v[5]) && v[5] < 0 && i[5] == (p > 1 ? 1 : -1), "a rank without columns loses");
    ok(p == 1 || (v[6] == -1e-40f && i[6] == 1), "subnormal over -inf");
    ok(v[7] == 7 && i[7] == 100 - last, "tie: lowest index, not lowest rank");
}

static void exact(void) {
    enum { N = 1100000 }; /* more than a chunk */
    float *x;
    int r = par_rank(), p = par_size();
    bool right = true;
    must(mem_alloc(&x, N, 4));
    for (int i = 0; i < N; i++) x[i] = i % p == r ? 0.1f * (float)(i + 1) : 0.0f;
    must(dev_upload(dev, a, x, N * 4));
    must(par_sum_one_nonzero(grid.tp_group, dev, a, N));
    must(dev_download(dev, x, a, N * 4));
    for (int i = 0; i < N; i++) right &= x[i] == 0.1f * (float)(i + 1);
    ok(right, "one term not zero: exact");
    for (int i = 0; i < N; i++) x[i] = (i % p == r ? 1.0f : -1.0f) * (float)(i % 1000) - 3.5f;
    x[5] = r == 0 ? NAN : INFINITY;
    must(dev_upload(dev, a, x, N * 4));
    must(par_max_f32(grid.tp_group, dev, a, N));
    must(dev_download(dev, x, a, N * 4));
    ok(isnan(x[5]), "max: NaN wins over Inf");
    x[5] = 5 - 3.5f;
    for (int i = 0; i < N; i++) right &= x[i] == (float)(i % 1000) - 3.5f;
    ok(right, "max in chunks");
    for (int i = 0; i < N; i++) x[i] = (float)(i ^ r);
    must(dev_upload(dev, a, x, N * 4));
    must(par_bcast_dev(grid.tp_group, dev, a, N * 4, p - 1));
    must(dev_download(dev, x, a, N * 4));
    for (int i = 0; i < N; i++) right &= x[i] == (float)(i ^ (p - 1));
    ok(right, "broadcast from the last rank");
    mem_free(&x);
}

/* Rank 1 contributes nothing. */
static void gather(bool in_place) {
    static const int64_t counts[4] = {5, 0, 1000, 3};
    int r = par_rank(), p = par_size(), at = 0;
    float mine[1000], all[1008];
    int64_t before = 0;
    for (int q = 0; q < r; q++) before += counts[q];
    for (int i = 0; i < counts[r]; i++) mine[i] = (float)(100 * r + i);
    dptr from = in_place ? dptr_f32(b, before) : a;
    if (r == 1) from.a = 0;
    if (counts[r]) must(dev_upload(dev, from, mine, (size_t)counts[r] * 4));
    must(par_allgatherv_f32(grid.tp_group, dev, from, b, counts));
    must(dev_download(dev, all, b, sizeof all));
    bool right = true;
    for (int q = 0; q < p; q++)
        for (int i = 0; i < counts[q]; i++) right &= all[at++] == (float)(100 * q + i);
    ok(right, "gather of uneven parts%s", in_place ? " in place" : "");
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(par_size(), 1, 1, &grid));
    tap_devices_all(&grid, &dev);
    must(dev_alloc(dev, "test", 4400000, &a));
    must(dev_alloc(dev, "test", 4400000, &b));
    argmax();
    exact();
    gather(false);
    gather(true);
    must(par_max_f32(NULL, dev, a, 3));
    dev_free(dev, &a);
    dev_free(dev, &b);
    par_grid_destroy(&grid);
    dev_close(&dev);
    return tap_mpi_done();
}
