/* The sum over ranks as a fixed binary tree: the same bits on every rank, and on every grid whose cuts are subtrees.
 *
 * Node i at distance d (1, 2, 4, ...) is node i plus node i + d; a node without a present rank is nothing, and x + nothing = x. Operands
 * may be swapped, so any exchange that keeps the shape will do. Two are used:
 *   doubling   partners r and r ^ d swap whole vectors: few messages; for short vectors, and for two ranks of any length;
 *   slices     rank q gets slice q of all vectors, adds them as the tree, all gather the sums: 2 n (P - 1) / P floats per rank instead of
 *              n log2 P, and good for sizes that are no power of two.
 * Devices with a communicator of their own do the same on the device: two ranks swap, more gather short vectors whole (one transfer instead of
 * log2 P, n (P - 1) floats) and cut long ones into slices; dev_tree_fold and dev_add are the sums. There a sum may also run beside the queue. */
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/size.h"
#include "base/span.h"
#include "par/room.h"

enum {
    SMALL_F32 = 16 * 1024, /* up to 64 KiB latency counts */
    BLOCK_F32 = 64 * 1024, /* what two ranks exchange at a time: it stays in the cache until it is added */
};

static bool is_present(uint64_t present, int rank) { return rank >= 64 || (present >> rank & 1); }

static bool any_present(uint64_t present, int lo, int hi) {
    for (int r = lo; r < hi; r++)
        if (is_present(present, r)) return true;
    return false;
}

static void add(float *restrict x, const float *restrict y, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

/* n <= BLOCK_F32; the size of g is a power of two. `swapped` (a test's negative control): the farthest partner first, which is another
 * tree when all are present. */
static enum status sum_doubling(struct par_group *g, float *x, int64_t n, uint64_t present, bool swapped) {
    float *in = g->scratch;
    for (int k = 1; k < g->size; k *= 2) {
        int d = swapped ? g->size / (2 * k) : k;
        int partner = g->rank ^ d, lo = g->rank & ~(d - 1), other = partner & ~(d - 1);
        bool mine = any_present(present, lo, lo + d), theirs = any_present(present, other, other + d);
        if (!mine && !theirs) continue;
        TRY_MPI(g, MPI_Sendrecv(x, mine ? (int)n : 0, MPI_FLOAT, partner, TAG_TREE, in, theirs ? (int)n : 0, MPI_FLOAT,
                                partner, TAG_TREE, g->comm, MPI_STATUS_IGNORE));
        if (mine && theirs) {
            add(x, in, n);
        } else if (theirs) {
            memcpy(x, in, (size_t)n * sizeof *x);
        }
    }
    return TM_OK;
}

/* Fold rows[0..count) of n floats as the tree; NULL = nothing. Returns the row with the sum, or NULL. Overwrites rows. */
static float *fold(float **rows, int count, int64_t n) {
    for (int d = 1; d < count; d *= 2)
        for (int i = 0; i + d < count; i += 2 * d) {
            if (!rows[i]) {
                rows[i] = rows[i + d];
            } else if (rows[i + d]) {
                add(rows[i], rows[i + d], n);
            }
        }
    return rows[0];
}

static int slice_lo(int64_t n, int q, int size) { return (int)(n * q / size); }

/* n + size <= CHUNK_F32: so that size slices, each rounded up, fit the scratch. */
static enum status sum_slices(struct par_group *g, float *x, int64_t n, uint64_t present) {
    int p = g->size, *to = g->counts, *to_at = to + p, *from = to_at + p, *from_at = from + p;
    int width = slice_lo(n, g->rank + 1, p) - slice_lo(n, g->rank, p);
    float *in = g->scratch, *sum;
    for (int r = 0; r < p; r++) {
        to_at[r] = slice_lo(n, r, p);
        to[r] = is_present(present, g->rank) ? slice_lo(n, r + 1, p) - to_at[r] : 0;
        from_at[r] = r * width;
        from[r] = is_present(present, r) ? width : 0;
        g->rows[r] = is_present(present, r) ? in + from_at[r] : NULL;
    }
    TRY_MPI(g, MPI_Alltoallv(x, to, to_at, MPI_FLOAT, in, from, from_at, MPI_FLOAT, g->comm));
    sum = fold(g->rows, p, width);
    for (int r = 0; r < p; r++) to[r] = slice_lo(n, r + 1, p) - to_at[r];
    TRY_MPI(g, MPI_Allgatherv(sum, width, MPI_FLOAT, x, to, to_at, MPI_FLOAT, g->comm));
    return TM_OK;
}

static enum status tree_sum(struct par_group *g, float *x, int64_t n, uint64_t present) {
    bool power_of_two = (g->size & (g->size - 1)) == 0;
    bool doubling = g->size == 2 || (power_of_two && n <= SMALL_F32);
    bool swapped = fault_here("par", "tree-order");
    int64_t step = doubling ? BLOCK_F32 : CHUNK_F32 - g->size;
    if (!any_present(present, 0, g->size)) {
        memset(x, 0, (size_t)n * sizeof *x);
        return TM_OK;
    }
    for (int64_t at = 0; at < n; at += step) {
        int64_t len = size_min(step, n - at);
        TM_TRY(doubling ? sum_doubling(g, x + at, len, present, swapped) : sum_slices(g, x + at, len, present));
    }
    return TM_OK;
}

/* ---- on the device ---- */

/* Fold the rows of n floats at g->comms.scratch, one for each rank, as the tree; *sum <- the row that has it (some rank is present). */
static enum status fold_device(struct par_group *g, struct dev *d, int64_t n, uint64_t present, dptr *sum) {
    dptr rows = g->comms.scratch;
    int p = g->size, *row = g->counts; /* where node i is; -1 = nothing */
    bool everyone = true;
    for (int r = 0; r < p; r++) {
        row[r] = is_present(present, r) ? r : -1;
        everyone &= row[r] >= 0;
    }
    *sum = rows;
    if (everyone) return dev_tree_fold(d, &(struct tree_fold_args){.x = rows, .parts = p, .n = n});
    for (int k = 1; k < p; k *= 2)
        for (int i = 0; i + k < p; i += 2 * k) {
            if (row[i] < 0) {
                row[i] = row[i + k];
            } else if (row[i + k] >= 0) {
                TM_TRY(dev_add(d, &(struct add_args){.x = dptr_f32(rows, row[i + k] * n),
                                                     .y = dptr_f32(rows, row[i] * n),
                                                     .n = n}));
            }
        }
    *sum = dptr_f32(rows, row[0] * n);
    return TM_OK;
}

static enum status swap_device(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present) {
    struct dev_comm *c = g->comms.all;
    int other = 1 - g->rank;
    bool mine = is_present(present, g->rank), theirs = is_present(present, other);
    dptr in = mine ? g->comms.scratch : x;
    TM_TRY(dev_comm_group_begin(c));
    if (mine) TM_TRY(dev_comm_send(c, x, (size_t)n * 4, other));
    if (theirs) TM_TRY(dev_comm_recv(c, in, (size_t)n * 4, other));
    TM_TRY(dev_comm_group_end(c));
    return mine && theirs ? dev_add(d, &(struct add_args){.x = in, .y = x, .n = n}) : TM_OK;
}

static enum status gather_device(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present) {
    dptr sum;
    TM_TRY(dev_comm_gather(g->comms.all, x, g->comms.scratch, (size_t)n * 4));
    TM_TRY(fold_device(g, d, n, present, &sum));
    return dev_copy(d, &(struct copy_args){.x = sum, .y = x, .bytes = (size_t)n * 4});
}

/* Each rank's slice q to row r of rank q. */
static enum status deal_slices(struct par_group *g, struct dev *d, dptr x, int64_t n, int64_t width, uint64_t present) {
    struct dev_comm *c = g->comms.all;
    dptr rows = g->comms.scratch, own = dptr_f32(x, slice_lo(n, g->rank, g->size));
    bool mine = is_present(present, g->rank);
    if (mine && width)
        TM_TRY(
            dev_copy(d,
                     &(struct copy_args){.x = own, .y = dptr_f32(rows, g->rank * width), .bytes = (size_t)width * 4}));
    TM_TRY(dev_comm_group_begin(c));
    for (int r = 0; r < g->size; r++) {
        int lo = slice_lo(n, r, g->size), hi = slice_lo(n, r + 1, g->size);
        if (r == g->rank) continue;
        if (mine && hi > lo) TM_TRY(dev_comm_send(c, dptr_f32(x, lo), (size_t)(hi - lo) * 4, r));
        if (is_present(present, r) && width) TM_TRY(dev_comm_recv(c, dptr_f32(rows, r * width), (size_t)width * 4, r));
    }
    return dev_comm_group_end(c);
}

static enum status slices_device(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present) {
    int64_t width = slice_lo(n, g->rank + 1, g->size) - slice_lo(n, g->rank, g->size);
    dptr sum = {0};
    TM_TRY(deal_slices(g, d, x, n, width, present));
    if (width) TM_TRY(fold_device(g, d, width, present, &sum));
    for (int r = 0; r < g->size; r++) g->lengths[r] = slice_lo(n, r + 1, g->size) - slice_lo(n, r, g->size);
    return comms_gather(g, d, sum, x, g->lengths);
}

static enum status tree_sum_device(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present) {
    int64_t chunk = g->comms.chunk, slices = chunk / g->size * g->size; /* every slice of these fits its row */
    if (!any_present(present, 0, g->size)) return dev_fill(d, &(struct fill_args){.y = x, .n = n, .value = 0});
    bool gather = g->size > 2 && n <= SMALL_F32 && n * g->size <= chunk;
    int64_t step = gather ? n : g->size == 2 ? chunk : slices;
    for (int64_t at = 0; at < n; at += step) {
        int64_t len = size_min(step, n - at);
        dptr part = dptr_f32(x, at);
        TM_TRY(g->size == 2 ? swap_device(g, d, part, len, present)
               : gather     ? gather_device(g, d, part, len, present)
                            : slices_device(g, d, part, len, present));
    }
    return TM_OK;
}

/* Nobody to add to. */
static bool nothing_to_add(const struct par_group *g, const struct dev *d, int64_t n, uint64_t present) {
    return !g || n == 0 || dev_backend(d) == DEV_PLAN || (g->size == 1 && is_present(present, 0));
}

enum status par_tree_sum(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present) {
    void *host;
    if (n > 0 && group_told(g, PAR_TRAFFIC_SUM, n * 4, -1, -1)) return TM_OK;
    if (nothing_to_add(g, d, n, present)) return TM_OK;
    struct call c = call_begin(KIND_tree_sum, g, -1, n * 4);
    if (g->comms.all) return call_end(&c, tree_sum_device(g, d, x, n, present));
    enum status st = dev_map(d, x, (size_t)n * 4, &host);
    if (st != TM_OK) return call_end(&c, st);
    st = tree_sum(g, host, n, present);
    enum status end = dev_unmap(d, x, (size_t)n * 4, host);
    return call_end(&c, st == TM_OK ? end : st);
}

/* ---- beside the queue ---- */

bool par_runs_beside(const struct par_group *g) { return g && (g->comms.all || g->listener); }

static enum status start_beside(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present) {
    if (g->comms.began == 0) g->comms.began = clock_seconds();
    TM_TRY(dev_comm_beside_begin(g->comms.all));
    enum status st = tree_sum_device(g, d, x, n, present), end = dev_comm_beside_end(g->comms.all);
    return st == TM_OK ? end : st;
}

enum status par_tree_start(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present) {
    if (n > 0 && group_told(g, PAR_TRAFFIC_BESIDE, n * 4, -1, -1)) return TM_OK;
    if (nothing_to_add(g, d, n, present)) return TM_OK;
    if (!g->comms.all) return par_tree_sum(g, d, x, n, present);
    struct call c = call_begin(KIND_tree_sum, g, -1, n * 4);
    return call_end(&c, start_beside(g, d, x, n, present));
}

/* In a profile the queue is empty when a sum is begun: the first begins at once. */
static enum status show_times(struct par_group *g) {
    enum { MOST = 512 };
    double times[MOST][2];
    int n;
    TM_TRY(dev_comm_times(g->comms.all, times, MOST, &n));
    for (int i = 0; i < n; i++)
        span_add("beside", "tree_sum", g->comms.began + times[i][0], g->comms.began + times[i][1]);
    return TM_OK;
}

enum status par_tree_join(struct par_group *g) {
    if (group_told(g, PAR_TRAFFIC_JOIN, 0, -1, -1) || !g || !g->comms.all || g->comms.began == 0) return TM_OK;
    struct call c = call_begin(KIND_join, g, -1, 0);
    enum status st = dev_comm_join(g->comms.all);
    if (st == TM_OK) st = show_times(g);
    g->comms.began = 0;
    return call_end(&c, st);
}
