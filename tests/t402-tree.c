/* TEST ranks=1,2,3,4,8 backends=host tier=1 */
/* TEST ranks=2,3,4 backends=cuda,cuda1 tier=1 */
/* par/: the tree sum is bit-equal to a serial tree over the ranks' vectors, for any length and any set of present ranks; a ring is not. */
#include <mpi.h>

#include "base/mem.h"
#include "tap_mpi.h"

enum { MAX_N = 1200000 }; /* more than a chunk of 1 Mi floats */

static struct par_grid grid;
static struct dev *dev;
static float *mine, *got, *want;
static dptr x;

/* Floats of either sign and 2^16 range, some of them zeros: a mix of rank and index (splitmix64). */
static float value(int rank, int64_t i) {
    uint64_t z = (uint64_t)i * 64 + (uint64_t)rank + 1;
    z *= 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    if (z % 16 == 0) return z & 16 ? -0.0f : 0.0f;
    uint32_t bits = (uint32_t)(z >> 63) << 31 | (uint32_t)(119 + (z >> 32 & 15)) << 23 | (uint32_t)(z >> 8 & 0x7fffff);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The definition, top down: a range of ranks is cut at the largest power of two below its size. False: nobody is present. */
static bool serial(int lo, int hi, int64_t i, uint64_t present, float *out) {
    if (hi - lo == 1) {
        *out = value(lo, i);
        return present >> lo & 1;
    }
    int half = 1;
    while (2 * half < hi - lo) half *= 2;
    float a = 0, b = 0;
    bool has_a = serial(lo, lo + half, i, present, &a), has_b = serial(lo + half, hi, i, present, &b);
    *out = has_a && has_b ? a + b : has_a ? a : b;
    return has_a || has_b;
}

static int64_t different(const float *a, const float *b, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += memcmp(&a[i], &b[i], sizeof *a) != 0;
    return count;
}

static void one(int64_t n, uint64_t present) {
    int r = par_rank();
    for (int64_t i = 0; i < n; i++) {
        mine[i] = present >> r & 1 ? value(r, i) : NAN; /* an absent rank's memory is not read */
        if (!serial(0, par_size(), i, present, &want[i])) want[i] = 0.0f;
    }
    enum status st = dev_upload(dev, x, mine, (size_t)n * 4);
    if (st == TM_OK) st = par_tree_sum(grid.tp_group, dev, x, n, present);
    if (st == TM_OK) st = dev_download(dev, got, x, (size_t)n * 4);
    int64_t bad = st == TM_OK ? different(got, want, n) : n + 1;
    ok(bad == 0, "n = %lld, present %llx: %lld bits differ from the serial tree", (long long)n,
       (unsigned long long)present, (long long)bad);
}

static void sums(void) {
    static const int64_t lengths[] = {0, 1, 2, 7, 1000, 16384, 16385, 100000};
    uint64_t all = (1ull << par_size()) - 1;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) one(lengths[i], all);
    one(MAX_N, all);
    one(7, UINT64_MAX);
    for (uint64_t present = 0; present<all; present += par_size()> 4 ? 5 : 1) {
        one(13, present);
        one(17000, present);
    }
}

/* At 4 ranks the library's ring adds ((a+b)+c)+d in a rotated order: other bits. main() forces the ring. */
static void ring(void) {
    enum { N = 100000 };
    for (int64_t i = 0; i < N; i++) {
        mine[i] = value(par_rank(), i);
        serial(0, par_size(), i, 15, &want[i]);
    }
    MPI_Allreduce(mine, got, N, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    int64_t bad = different(got, want, N);
    ok(bad > N / 10, "negative control: the ring's sums differ in %lld of %d", (long long)bad, N);
}

int main(int argc, char **argv) {
    setenv("OMPI_MCA_coll_tuned_use_dynamic_rules", "1", 1);
    setenv("OMPI_MCA_coll_tuned_allreduce_algorithm", "4", 1); /* 4 = ring */
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(par_size(), 1, 1, &grid));
    tap_devices_all(&grid, &dev);
    must(dev_alloc(dev, "test", MAX_N * 4, &x));
    must(mem_alloc(&mine, MAX_N, 4));
    must(mem_alloc(&got, MAX_N, 4));
    must(mem_alloc(&want, MAX_N, 4));
    sums();
    if (par_size() == 4) ring();
    must(par_tree_sum(NULL, dev, x, 5, 0));
    dev_free(dev, &x);
    par_grid_destroy(&grid);
    dev_close(&dev);
    mem_free(&mine);
    mem_free(&got);
    mem_free(&want);
    return tap_mpi_done();
}
