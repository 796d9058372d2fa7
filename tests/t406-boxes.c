/* TEST ranks=1,3,4 backends=host,guard tier=1 */
/* par/: boxes of global tensors brought to a rank: uneven, empty, replicated, overlapping and missing cuts; long ones; the walk and the plan. */
#include "base/mem.h"
#include "par/boxes.h"
#include "tap_mpi.h"

/* Element [i, j] of tensor t, whoever holds it. */
static int32_t value(int t, int64_t i, int64_t j) { return (int32_t)(t * 100000000 + i * 10007 + j); }

enum { N = 7 };
static struct tensor_desc desc[N];
static dptr data[N];
static struct dev *dev;

static void hold(int t, const char *name, int64_t rows, int64_t cols, int64_t lo0, int64_t hi0, int64_t lo1,
                 int64_t hi1) {
    struct tensor_desc *d = &desc[t];
    *d = (struct tensor_desc){.dtype = DTYPE_i32, .rank = 2, .shape = {rows, cols}};
    snprintf(d->name, sizeof d->name, "%s", name);
    d->box = (struct tensor_box){2, {lo0, lo1}, {hi0, hi1}};
    int64_t n = tensor_box_elems(&d->box);
    int32_t *x;
    if (n == 0) return;
    must(mem_alloc(&x, (size_t)n, 4));
    for (int64_t i = lo0, k = 0; i < hi0; i++)
        for (int64_t j = lo1; j < hi1; j++) x[k++] = value(t, i, j);
    must(dev_alloc(dev, "test", (size_t)n * 4, &data[t]));
    must(dev_upload(dev, data[t], x, (size_t)n * 4));
    mem_free(&x);
}

static void fetch(struct par_boxes *b, int t, int root, int64_t lo0, int64_t hi0, int64_t lo1, int64_t hi1) {
    struct tensor_box want = {2, {lo0, lo1}, {hi0, hi1}};
    int64_t n = tensor_box_elems(&want), wrong = 0;
    int32_t *out = NULL;
    if (par_rank() == root) must(mem_alloc(&out, (size_t)n, 4));
    enum status st = par_boxes_fetch_all(b, t, &want, root, out);
    if (par_rank() == root && st == TM_OK)
        for (int64_t i = lo0, k = 0; i < hi0; i++)
            for (int64_t j = lo1; j < hi1; j++) wrong += out[k++] != value(t, i, j);
    ok(st == TM_OK && wrong == 0, "%s[%lld:%lld, %lld:%lld] on rank %d", desc[t].name, (long long)lo0, (long long)hi0,
       (long long)lo1, (long long)hi1, root);
    mem_free(&out);
}

static int64_t messages(void) {
    for (int i = 0; i < par_counter_count(); i++)
        if (!strcmp(par_counter(i).name, "boxes")) return par_counter(i).calls;
    return -1;
}

static void all_boxes(void) {
    int r = par_rank(), p = par_size();
    /* cuts at ceil(5 r / p): uneven */
    int64_t lo = (5 * r + p - 1) / p, hi = (5 * (r + 1) + p - 1) / p;
    hold(0, "rows", 5, 9, lo, hi, 0, 9);
    hold(1, "columns", 9, 5, 0, 9, lo, hi);
    hold(2, "replicated", 6, 4, 0, 6, 0, 4);
    hold(3, "last-only", 4, 4, 0, r == p - 1 ? 4 : 0, 0, 4);
    hold(4, "overlapping", 10, 6, r == 0 ? 0 : 2, r == 0 ? 7 : 10, 0, 6); /* rank 0: rows 0-6, the others: 2-9 */
    hold(5, "long", 1100, 3001, 1100 * r / p, 1100 * (r + 1) / p, 0, 3001);
    hold(6, "a hole", 4, 4, 0, 3, 0, 4);
    struct par_boxes *b;
    must(par_boxes_create_all(dev, desc, data, N, &b));
    for (int root = 0; root < p; root++) {
        fetch(b, 0, root, 0, 5, 0, 9);
        fetch(b, 0, root, 1, 4, 3, 8);
        fetch(b, 1, root, 0, 9, 0, 5);
        fetch(b, 1, root, 8, 9, 1, 4);
        fetch(b, 2, root, 0, 6, 1, 3);
        fetch(b, 3, root, 0, 4, 0, 4);
        if (p > 1) fetch(b, 4, root, 0, 10, 0, 6);
        fetch(b, 0, root, 2, 2, 0, 9); /* nothing wanted */
    }
    fetch(b, 5, 0, 0, 1100, 0, 3001); /* 13 MB: several parts from each holder */
    fetch(b, 5, p - 1, 3, 1099, 2, 3000);
    int32_t out[16];
    struct tensor_box hole = {2, {1, 0}, {4, 4}}, outside = {2, {0, 0}, {5, 4}}, flat = {1, {0}, {4}};
    is_status(par_boxes_fetch_all(b, 6, &hole, 0, out), TM_ERR_SHAPE);
    is_str(status_message(), "a hole: no rank holds [3:4, 0:4] of the wanted [1:4, 0:4]", "on every rank");
    is_status(par_boxes_fetch_all(b, 6, &outside, 0, out), TM_ERR_SHAPE);
    is_status(par_boxes_fetch_all(b, 6, &flat, 0, out), TM_ERR_SHAPE);
    is_status(par_boxes_fetch_all(b, N, &hole, 0, out), TM_ERR_INTERNAL);
    ok(messages() > 0, "fetches are counted");
    par_boxes_destroy(&b);
    ok(!b, "destroyed");
    for (int t = 0; t < N; t++) dev_free(dev, &data[t]);
}

static void bad_lists(void) {
    struct par_boxes *b;
    struct tensor_desc t = {.name = "x", .dtype = DTYPE_i32, .rank = 1, .shape = {8}, .box = {1, {0}, {9}}};
    dptr d = {64};
    is_status(par_boxes_create_all(dev, &t, &d, 1, &b), TM_ERR_SHAPE);
    t.box.hi[0] = 8;
    d.a = par_rank() == par_size() - 1 ? 0 : 64; /* one rank's mistake is everyone's status */
    is_status(par_boxes_create_all(dev, &t, &d, 1, &b), TM_ERR_INTERNAL);
    d.a = 64;
    t.dtype = par_rank() ? DTYPE_i32 : DTYPE_f32;
    is_status(par_boxes_create_all(dev, &t, &d, 1, &b), par_size() > 1 ? TM_ERR_INTERNAL : TM_OK);
    if (par_size() == 1) par_boxes_destroy(&b);
    must(par_boxes_create_all(dev, NULL, NULL, 0, &b));
    par_boxes_destroy(&b);
}

/* A scalar, held by the last rank alone. */
static void scalar(void) {
    struct tensor_desc t = {.name = "scale", .dtype = DTYPE_f32, .rank = 0};
    struct par_boxes *b;
    dptr d = {0};
    float x = 2.5f, out = 0;
    if (par_rank() == par_size() - 1) {
        must(dev_alloc(dev, "test", 4, &d));
        must(dev_upload(dev, d, &x, 4));
    }
    must(par_boxes_create_all(dev, &t, &d, 1, &b));
    must(par_boxes_fetch_all(b, 0, &(struct tensor_box){.rank = 0}, 0, &out));
    ok(par_rank() != 0 || out == 2.5f, "a scalar");
    par_boxes_destroy(&b);
    dev_free(dev, &d);
}

/* The parts of a box: each within the limit, in row-major order, covering it once. */
static void walk(void) {
    struct tensor_box box = {3, {1, 2, 0}, {4, 6, 5}}, part = {.rank = -1}, scalar_box = {.rank = 0};
    for (int64_t limit = 1; limit <= 61; limit += 3) {
        uint8_t seen[4][6][5] = {0};
        int64_t last = -1;
        bool right = true;
        part.rank = -1;
        while (boxes_next_part(&box, limit, &part)) {
            right &= tensor_box_elems(&part) >= 1 && tensor_box_elems(&part) <= limit;
            right &= (part.lo[0] * 6 + part.lo[1]) * 5 + part.lo[2] > last;
            last = (part.lo[0] * 6 + part.lo[1]) * 5 + part.lo[2];
            for (int64_t i = part.lo[0]; i < part.hi[0]; i++)
                for (int64_t j = part.lo[1]; j < part.hi[1]; j++)
                    for (int64_t k = part.lo[2]; k < part.hi[2]; k++) seen[i][j][k]++;
        }
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 6; j++)
                for (int k = 0; k < 5; k++) right &= seen[i][j][k] == (i >= 1 && j >= 2);
        ok(right, "parts of at most %lld elements", (long long)limit);
    }
    part.rank = -1;
    ok(boxes_next_part(&scalar_box, 1, &part) && !boxes_next_part(&scalar_box, 1, &part), "a scalar is one part");
    int64_t offset;
    struct tensor_box inner = {3, {2, 3, 1}, {3, 5, 3}}, rows = boxes_rows(&box, &inner, &offset);
    ok(rows.lo[0] == 2 && rows.hi[0] == 3 && rows.lo[1] == 3 && rows.hi[1] == 5 && rows.lo[2] == 0 && rows.hi[2] == 5,
       "the rows that hold a part");
    is_int(offset, 1 * 20 + 1 * 5, "and where they start");
}

/* Four ranks, two replicas of a two-way cut: the turn alternates the replica, and root serves itself. */
static void plan(void) {
    struct tensor_desc t = {.name = "w", .rank = 1, .shape = {10}};
    struct boxes_held held[4] = {{{1, {0}, {5}}, true},
                                 {{1, {5}, {10}}, true},
                                 {{1, {0}, {5}}, true},
                                 {{1, {5}, {10}}, true}};
    struct boxes_table table = {held, 1, 4};
    struct tensor_box want = {1, {2}, {9}};
    static struct boxes_plan p;
    must(boxes_plan(&t, 0, &want, &table, 0, &p));
    ok(p.pieces == 2 && p.piece[0].holder == 0 && p.piece[1].holder == 1, "turn 0");
    must(boxes_plan(&t, 1, &want, &table, 0, &p));
    ok(p.pieces == 2 && p.piece[0].holder == 0 && p.piece[1].holder == 3, "turn 1: the other replica, but root itself");
    ok(p.piece[1].box.lo[0] == 5 && p.piece[1].box.hi[0] == 9, "its part");
    held[1].has = held[3].has = false;
    is_status(boxes_plan(&t, 1, &want, &table, 0, &p), TM_ERR_SHAPE);
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(tap_device(&dev));
    walk();
    plan();
    all_boxes();
    bad_lists();
    scalar();
    dev_close(&dev);
    return tap_mpi_done();
}
