/* TEST ranks=1,4 backends=host tier=1 */
/* TEST ranks=3 backends=guard,cuda tier=1 */
/* ckpt/: saving in the background gives the files of a save in line, byte for byte, whatever happens to the state meanwhile; waves of
 * writers; verification; the interval between saves. Values are functions of (tensor, global index). t537 runs this program with a mode:
 *   save DIR         step 1 into DIR        fails DIR WORD   step 2 in the background must fail with a message that has WORD */
#include <math.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/size.h"
#include "ckpt/ckpt.h"
#include "ckpt/dirs.h"
#include "tap_mpi.h"

enum { N = 6, ROWS = 37, COLS = 115000 }; /* the largest share takes two blocks */
static struct par_grid grid;
static struct dev *dev;
static struct ckpt_tensor list[N];
static char run[64] = "/tmp/temper-background-XXXXXX";

static float value(int tensor, int64_t i) { return (float)(rng_u64(3, (uint64_t)tensor, (uint64_t)i) >> 40); }

/* Tensors 0-2: rows over the ranks; 3: everyone has it all; 4: in host memory; 5: a scalar in host memory. */
static void make_list(void) {
    int r = par_rank(), n = par_size();
    for (int t = 0; t < N; t++) {
        struct tensor_desc *d = &list[t].desc;
        int64_t cols = t == 0 ? COLS : t == 1 ? 1 : 5;
        *d = (struct tensor_desc){.dtype = DTYPE_f32, .rank = t == 5 ? 0 : 2, .shape = {ROWS, cols}};
        snprintf(d->name, sizeof d->name, "group%d/tensor%d", t % 2, t);
        d->box = tensor_box_whole(d->rank, d->shape);
        if (t < 3) d->box.lo[0] = ROWS * r / n, d->box.hi[0] = ROWS * (r + 1) / n;
        size_t bytes = (size_t)tensor_box_elems(&d->box) * 4;
        if (t < 4)
            must(dev_alloc(dev, "test", bytes, &list[t].data));
        else
            must(mem_alloc(&list[t].host, bytes, 1));
    }
}

/* The values of a state, x[N] of the caller, and their way into the list: the last tensor, which a copy reaches last, first. */
static void prepare(float plus, float **x) {
    for (int t = 0; t < N; t++) {
        const struct tensor_desc *d = &list[t].desc;
        int64_t n = tensor_box_elems(&d->box), first = t < 3 ? d->box.lo[0] * d->shape[1] : 0;
        must(mem_alloc(&x[t], (size_t)n, 4));
        for (int64_t i = 0; i < n; i++) x[t][i] = value(t, first + i) + plus;
    }
}
static void set(float **x) {
    for (int t = N - 1; t >= 0; t--) {
        size_t n = (size_t)tensor_box_elems(&list[t].desc.box);
        if (list[t].host)
            memcpy(list[t].host, x[t], n * 4);
        else if (dev_upload(dev, list[t].data, x[t], n * 4) != TM_OK)
            ok(false, "upload");
        mem_free(&x[t]);
    }
}
static void fill(float plus) {
    float *x[N];
    prepare(plus, x);
    set(x);
}

static struct ckpt_save_args arguments(const char *dir, int64_t step) {
    return (struct ckpt_save_args){
        .run_dir = run, .dir = dir, .step = step, .dev = dev, .tensors = list, .n = N, .grid = &grid, .keep = 2};
}

/* All but the manifest, which tells the time. */
static void same_files(const char *a, const char *b) {
    char name[64], path[2][4200], *text[2];
    size_t n[2] = {0};
    for (int f = -1; f < par_size(); f++) {
        snprintf(name, sizeof name, f < 0 ? "index.h5" : "rank_%05d.h5", f);
        const char *const dir[2] = {a, b};
        for (int k = 0; k < 2; k++) {
            snprintf(path[k], sizeof path[k], "%s/%s", dir[k], name);
            must(file_read(path[k], 1 << 28, &text[k], &n[k]));
        }
        ok(n[0] == n[1] && !memcmp(text[0], text[1], n[0]), "%s: the same %zu bytes", name, n[0]);
        mem_free(&text[0]);
        mem_free(&text[1]);
    }
}

static void compare_and_change(void) {
    char line[128], back[128];
    struct ckpt_saved x, y = {0};
    struct ckpt_background *b;
    struct ckpt *c;
    uint64_t before, after;
    snprintf(line, sizeof line, "%s/line", run);
    snprintf(back, sizeof back, "%s/back", run);
    fill(0);
    must(ckpt_hash_all(dev, grid.world, list, N, &before));
    struct ckpt_save_args a = arguments(line, 5);
    must(ckpt_save_all(&a, &x));
    usleep(1100000); /* another second: no time of day may be in the files */
    float *next[N];  /* step's values: there at once, so that a copy that nobody waits for would have some of them */
    prepare(1, next);
    a = arguments(back, 5);
    json_t *meta = json_pack("{s:i}", "cursor", 17);
    a.meta = meta;
    a.verify = true;
    double begin = clock_seconds();
    must(ckpt_background_begin_all(&a, &b));
    json_object_set_new(meta, "cursor", json_integer(-1));
    json_decref(meta);
    ckpt_background_hold(b);
    set(next);
    must(ckpt_background_end_all(&b, &y));
    ok(b == NULL, "it has ended");
    must(ckpt_background_end_all(&b, &y));
    is_int(y.step, 5, "step");
    is_int(y.bytes, x.bytes, "bytes");
    begin = clock_seconds() - begin;
    ok(y.stalled > 0 && y.stalled <= begin, "stalled %.4f of %.4f s", y.stalled, begin);
    same_files(x.path, y.path);
    must(ckpt_open(y.path, &c));
    must(ckpt_verify(c));
    must(ckpt_hash(c, &after));
    ok(before == after, "the hash of the state before it changed: %016llx", (unsigned long long)after);
    is_int(json_integer_value(json_object_get(ckpt_meta(c), "cursor")), 17, "metadata as they were");
    ckpt_close(&c);
    must(par_barrier(grid.world));
}

static int shards_in(const char *dir, const char *step) {
    char path[4096];
    int n = 0;
    for (int r = 0; r < par_size(); r++) {
        snprintf(path, sizeof path, "%s/%s/rank_%05d.h5", dir, step, r);
        n += file_exists(path);
    }
    return n;
}

/* At most args.writers files come at a time. */
static void waves(void) {
    char dir[128];
    struct ckpt_background *b;
    struct ckpt_saved x = {0};
    snprintf(dir, sizeof dir, "%s/waves", run);
    struct ckpt_save_args a = arguments(dir, 1);
    a.writers = 2;
    fill(2);
    must(ckpt_background_begin_all(&a, &b));
    for (int done = size_min(2, par_size()); !x.path[0]; done = size_min(done + 2, par_size())) {
        while (ckpt_background_state(b) == CKPT_BUSY) usleep(1000);
        must(par_barrier(grid.world));
        is_int(shards_in(dir, "step_00000001.tmp"), done, "files after a wave of two");
        must(par_barrier(grid.world));
        must(ckpt_background_advance_all(&b, &x));
    }
    is_int(shards_in(dir, "step_00000001"), par_size(), "all of them");
    must(ckpt_background_end_all(&b, &x));
    ok(!b && x.path[0], "all is done");
    a.step = 2;
    must(ckpt_save_all(&a, &x));
    is_int(shards_in(dir, "step_00000002"), par_size(), "in line too");
    must(par_barrier(grid.world));
}

/* An error of the thread, or of what follows, comes out of end on all ranks; what was there stays, the .tmp goes. */
static void fails(const char *dir, const char *word) {
    char path[4096], tmp[4200];
    int64_t step;
    struct ckpt_background *b;
    struct ckpt_save_args a = arguments(dir, 2);
    snprintf(tmp, sizeof tmp, "%s/step_00000002.tmp", dir);
    a.verify = true;
    must(ckpt_background_begin_all(&a, &b));
    is_status(ckpt_background_end_all(&b, NULL), TM_ERR_IO);
    ok(b == NULL && strstr(status_message(), word), "the message: %s", status_message());
    must(par_barrier(grid.world));
    ok(!file_exists(tmp), "no .tmp");
    must(ckpt_find_latest(dir, path, sizeof path, &step));
    is_int(step, 1, "the one before is the newest");
}

/* Against the minimum of the whole model: M e^(R/M) (e^((t + c) / M) - 1) / t a second of work (Daly 2006, eq. 13). */
static double lost(double t, double cost, double mtbf) { return expm1((t + cost) / mtbf) / t; }
static void interval(void) {
    static const double cost[] = {0.5, 6, 60, 600, 1800}, mtbf[] = {3600, 86400, 604800};
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 3; k++) {
            double lo = 1e-3, hi = 10 * mtbf[k], got = ckpt_interval(cost[i], mtbf[k]);
            for (int j = 0; j < 200; j++) {
                double a = lo + (hi - lo) / 3, b = hi - (hi - lo) / 3;
                if (lost(a, cost[i], mtbf[k]) < lost(b, cost[i], mtbf[k]))
                    hi = b;
                else
                    lo = a;
            }
            double more = lost(got, cost[i], mtbf[k]) / lost(lo, cost[i], mtbf[k]) - 1;
            ok(more < 1e-4, "a save of %g s, %g s between failures: every %.1f s (best %.1f), %.1e more time", cost[i],
               mtbf[k], got, lo, more);
        }
    ok(ckpt_interval(7200, 3600) == 3600, "at most the time between failures");
    ok(fabs(ckpt_interval(1e-6, 1e6) / sqrt(2 * 1e-6 * 1e6) - 1) < 1e-5, "Young's formula for cheap saves");
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(par_size(), 1, 1, &grid));
    must(tap_device(&dev));
    if (par_rank() == 0) ok(mkdtemp(run) != NULL, "temporary directory");
    must(par_bcast(grid.world, run, sizeof run, 0));
    make_list();
    fill(0);
    if (argc > 3) {
        fails(argv[2], argv[3]);
    } else if (argc > 2) {
        struct ckpt_save_args a = arguments(argv[2], 1);
        must(ckpt_save_all(&a, NULL));
    } else {
        compare_and_change();
        waves();
        interval();
    }
    for (int t = 0; t < N; t++) {
        mem_free(&list[t].host);
        if (list[t].data.a) dev_free(dev, &list[t].data);
    }
    must(par_barrier(grid.world));
    if (par_rank() == 0) must(file_remove_tree(run));
    dev_close(&dev);
    par_grid_destroy(&grid);
    return tap_mpi_done();
}
