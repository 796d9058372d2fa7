/* TEST ranks=1,2,4 backends=host tier=1 */
/* ckpt/: save by one cut, load by another, to the bit; hashes; replicas; pruning. Every value is a function of (tensor name, global index), so
 * what must come back is known without reading it. Other tests run this program with a mode:
 *   save DIR STEP     save the set           load DIR HASH   find the newest, load and compare all, hash must be HASH ("-": any); prints both
 *   fail DIR STEP ST  saving must end with status ST on every rank and leave no .tmp
 *   loop DIR STEP     save for ever, keeping two */
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "ckpt/ckpt.h"
#include "tap_mpi.h"

/* As must(), but silent when it holds: for the many calls that only prepare. */
#define quiet(expr)                 \
    do {                            \
        if ((expr) != TM_OK) {      \
            ok(false, "%s", #expr); \
            exit(tap_done());       \
        }                           \
    } while (0)

enum cut { ROWS, COLS, GRID, PAIRS, OVERLAP, ALL, LAST };
struct def {
    const char *name;
    enum dtype dtype;
    bool as_bf16, host;
    enum cut save, load;
    int rank;
    int64_t shape[4];
};
static const struct def defs[] = {
    {"model.embed_tokens.weight", DTYPE_f32, false, false, ROWS, COLS, 2, {37, 24}},
    {"model.layers.0.self_attn.q_proj.weight", DTYPE_f32, false, false, COLS, ROWS, 2, {24, 30}},
    {"model.layers.0.input_layernorm.weight", DTYPE_f32, false, false, ALL, ROWS, 1, {24}},
    {"adam/m/model.layers.0.self_attn.q_proj.weight", DTYPE_f32, false, false, GRID, ALL, 2, {24, 30}},
    {"kv", DTYPE_f32, false, false, PAIRS, ROWS, 3, {8, 5, 3}}, /* as KV heads that two ranks share */
    {"conv", DTYPE_f32, false, true, COLS, GRID, 4, {3, 4, 5, 6}},
    {"narrow", DTYPE_f32, true, false, ROWS, COLS, 2, {64, 9}},
    {"half", DTYPE_bf16, false, false, ALL, OVERLAP, 1, {33}},
    {"overlap", DTYPE_f32, false, false, OVERLAP, PAIRS, 2, {20, 6}},
    {"overlap.narrow", DTYPE_f32, true, false, OVERLAP, ROWS, 1, {50}},
    {"amax", DTYPE_f32, false, false, ALL, ALL, 0, {0}},
    {"tokens_seen", DTYPE_i64, false, true, ALL, ALL, 0, {0}},
    {"counts", DTYPE_f64, false, true, LAST, ALL, 1, {7}},
    {"codes", DTYPE_e4m3, false, true, ROWS, OVERLAP, 1, {5}},
    {"few", DTYPE_u8, false, true, ROWS, COLS, 2, {1, 2}}, /* most ranks hold nothing */
    {"nothing", DTYPE_f32, false, true, ROWS, ROWS, 2, {0, 4}},
    {"big", DTYPE_f32, false, false, ALL, COLS, 2, {4200, 1000}}, /* 16.8 MB: two blocks */
};
enum { N = sizeof defs / sizeof *defs };
static int n_set = N; /* N - 1: without the big one */

static struct par_grid grid;
static struct dev *dev;
static int rank_, size_;

/* The bits of element i of a tensor. */
static uint64_t bits_of(const struct def *d, uint64_t stream, int64_t i) {
    uint64_t u = rng_u64(7, stream, (uint64_t)i);
    if (d->as_bf16) return (u & 0xbfff) << 16; /* a finite bf16, exactly */
    size_t width = 8 * dtype_bytes(d->dtype);
    return width == 64 ? u : u & ((1ull << width) - 1);
}

static struct tensor_box box_of(const struct def *d, enum cut cut, int r, int n) {
    struct tensor_box b = tensor_box_whole(d->rank, d->shape);
    int axis = cut == COLS && d->rank > 1 ? 1 : 0;
    if (d->rank == 0 || cut == ALL) return b;
    int64_t len = d->shape[axis];
    b.lo[axis] = size_ceil_div(len * r, n);
    b.hi[axis] = size_ceil_div(len * (r + 1), n);
    if (cut == GRID && d->rank > 1) { /* two columns of ranks, where there are two */
        int cols = n % 2 ? 1 : 2, rows = n / cols;
        b = tensor_box_whole(d->rank, d->shape);
        b.lo[0] = size_ceil_div(d->shape[0] * (r / cols), rows);
        b.hi[0] = size_ceil_div(d->shape[0] * (r / cols + 1), rows);
        b.lo[1] = size_ceil_div(d->shape[1] * (r % cols), cols);
        b.hi[1] = size_ceil_div(d->shape[1] * (r % cols + 1), cols);
    }
    if (cut == PAIRS && n >= 2) {
        bool second = r >= (n + 1) / 2;
        b.lo[0] = second ? len / 2 : 0;
        b.hi[0] = second ? len : len / 2;
    }
    if (cut == OVERLAP) {
        b.lo[0] = size_max(0, b.lo[0] - 3);
        b.hi[0] = size_min(len, b.hi[0] + 2);
    }
    if (cut == LAST) {
        b.lo[0] = 0;
        b.hi[0] = r == n - 1 ? len : 0;
    }
    return b;
}

/* A host array of the box: the right bits, or 0xee everywhere. */
static void *make_box(const struct def *d, const struct tensor_box *box, bool fill) {
    size_t width = dtype_bytes(d->dtype);
    int64_t n = tensor_box_elems(box), at[4], stream = (int64_t)rng_stream(d->name);
    char *p;
    quiet(mem_alloc(&p, (size_t)n, width));
    if (n) memset(p, 0xee, (size_t)n * width);
    memcpy(at, box->lo, sizeof at);
    for (int64_t i = 0; fill && i < n; i++) {
        int64_t index = 0;
        for (int k = 0; k < d->rank; k++) index = index * d->shape[k] + at[k];
        uint64_t u = bits_of(d, (uint64_t)stream, index);
        memcpy(p + (size_t)i * width, &u, width);
        for (int k = d->rank - 1; k >= 0 && ++at[k] == box->hi[k]; k--) at[k] = box->lo[k];
    }
    return p;
}

static struct ckpt_tensor set_[N];

static void make_set(bool loading, bool fill) {
    for (int i = 0; i < n_set; i++) {
        const struct def *d = &defs[i];
        struct ckpt_tensor *t = &set_[i];
        *t = (struct ckpt_tensor){.as_bf16 = d->as_bf16, .desc = {.dtype = d->dtype, .rank = d->rank}};
        snprintf(t->desc.name, sizeof t->desc.name, "%s", d->name);
        memcpy(t->desc.shape, d->shape, sizeof d->shape);
        t->desc.box = box_of(d, loading ? d->load : d->save, rank_, size_);
        void *host = make_box(d, &t->desc.box, fill);
        if (d->host || !host) {
            t->host = host;
            continue;
        }
        size_t bytes = (size_t)tensor_box_elems(&t->desc.box) * dtype_bytes(d->dtype);
        quiet(dev_alloc(dev, "test", bytes, &t->data));
        quiet(dev_upload(dev, t->data, host, bytes));
        mem_free(&host);
    }
}

static void free_set(void) {
    for (int i = 0; i < n_set; i++) {
        mem_free(&set_[i].host);
        if (set_[i].data.a) dev_free(dev, &set_[i].data);
    }
}

/* How many tensors of the set differ from what they must be. */
static int wrong_tensors(void) {
    int wrong = 0;
    for (int i = 0; i < n_set; i++) {
        size_t bytes = (size_t)tensor_box_elems(&set_[i].desc.box) * dtype_bytes(defs[i].dtype);
        void *want = make_box(&defs[i], &set_[i].desc.box, true), *got = NULL;
        if (!bytes) continue;
        quiet(mem_alloc(&got, bytes, 1));
        if (set_[i].host)
            memcpy(got, set_[i].host, bytes);
        else
            quiet(dev_download(dev, got, set_[i].data, bytes));
        wrong += memcmp(got, want, bytes) != 0;
        mem_free(&want);
        mem_free(&got);
    }
    return wrong;
}

/* The content hash from the definition: no file, no boxes. */
static uint64_t hash_by_hand(void) {
    uint64_t sum = 0;
    for (int i = 0; i < n_set; i++) {
        struct tensor_desc d = {.dtype = defs[i].as_bf16 ? DTYPE_bf16 : defs[i].dtype, .rank = defs[i].rank};
        snprintf(d.name, sizeof d.name, "%s", defs[i].name);
        memcpy(d.shape, defs[i].shape, sizeof d.shape);
        sum += ckpt_hash_head(&d);
        int64_t n = tensor_elems(&d);
        size_t width = dtype_bytes(d.dtype);
        uint64_t stream = rng_stream(d.name);
        for (int64_t e = 0; e < n; e++) {
            uint64_t u = bits_of(&defs[i], stream, e) >> (defs[i].as_bf16 ? 16 : 0);
            struct tensor_desc flat = {.dtype = d.dtype, .rank = 1, .shape = {n}};
            struct tensor_box one = {.rank = 1, .lo = {e}, .hi = {e + 1}};
            if (n > 100000) { /* in stretches: one call an element is slow */
                char buf[8 * 1000];
                int64_t m = size_min(1000, n - e);
                for (int64_t k = 0; k < m; k++) {
                    u = bits_of(&defs[i], stream, e + k);
                    memcpy(buf + (size_t)k * width, &u, width);
                }
                one.hi[0] = e + m;
                snprintf(flat.name, sizeof flat.name, "%s", d.name);
                sum += ckpt_hash_box(&flat, &one, buf);
                e += m - 1;
                continue;
            }
            snprintf(flat.name, sizeof flat.name, "%s", d.name);
            sum += ckpt_hash_box(&flat, &one, &u);
        }
    }
    return sum;
}

static enum status save(const char *run, const char *dir, int64_t step, int keep, struct ckpt_saved *info) {
    json_t *meta =
        json_pack("{s:I, s:{s:f}}", "cursor", (json_int_t)(1000 + step), "schedule", "lr", 0.1 + (double)step);
    struct ckpt_save_args a = {.run_dir = run,
                               .dir = dir,
                               .step = step,
                               .dev = dev,
                               .tensors = set_,
                               .n = n_set,
                               .meta = meta,
                               .deck_text = "run = { dir = \"x\"; };\n",
                               .code = "test-1",
                               .grid = &grid,
                               .keep = keep};
    enum status st = ckpt_save_all(&a, info);
    json_decref(meta);
    return st;
}

static void share_dir(char *dir, size_t cap) {
    snprintf(dir, cap, "/tmp/temper-ckpt-XXXXXX");
    if (rank_ == 0) ok(mkdtemp(dir) != NULL, "temporary directory");
    quiet(par_bcast(grid.world, dir, (int64_t)cap, 0));
}

static void round_trip(void) {
    char run[64], dir[128], path[4096];
    struct ckpt_saved info;
    share_dir(run, sizeof run);
    snprintf(dir, sizeof dir, "%s/ckpt/00-train", run);
    make_set(false, true);
    must(save(run, dir, 5, 2, &info));
    int64_t bytes = 0;
    for (int i = 0; i < n_set; i++)
        bytes += tensor_elems(&set_[i].desc) * (defs[i].as_bf16 ? 2 : (int64_t)dtype_bytes(defs[i].dtype));
    is_int(info.bytes, bytes, "bytes: each element once");
    uint64_t in_memory, on_disk, by_hand = hash_by_hand();
    must(ckpt_hash_all(dev, grid.world, set_, n_set, &in_memory));
    ok(in_memory == by_hand, "hash of the tensors in memory: %016" PRIx64, in_memory);

    /* the same lists with one replica changed */
    if (size_ > 1) {
        float x = 0;
        void *norm = make_box(&defs[2], &set_[2].desc.box, true);
        if (rank_ == size_ - 1) quiet(dev_upload(dev, set_[2].data, &x, 4));
        is_status(ckpt_hash_all(dev, grid.world, set_, n_set, &in_memory), TM_ERR_NUMERIC);
        ok(strstr(status_message(), "input_layernorm") != NULL, "replicas that differ are named");
        quiet(dev_upload(dev, set_[2].data, norm, 24 * 4));
        mem_free(&norm);
    }
    /* a list that differs on one rank; a tensor that nobody holds whole */
    if (size_ > 1) {
        if (rank_ == 1) set_[0].desc.name[0] = 'x';
        is_status(save(run, dir, 6, 2, NULL), TM_ERR_INTERNAL);
        set_[0].desc.name[0] = 'm';
    }
    int64_t hi = set_[0].desc.box.hi[0];
    set_[0].desc.box.hi[0] = size_min(hi, 36);
    is_status(save(run, dir, 6, 2, NULL), TM_ERR_SHAPE);
    set_[0].desc.box.hi[0] = 38;
    is_status(save(run, dir, 6, 2, NULL), TM_ERR_SHAPE);
    set_[0].desc.box.hi[0] = hi;
    free_set();

    /* load by another cut, everywhere */
    struct ckpt *c;
    int64_t step;
    must(ckpt_find_latest_all(dir, grid.world, path, sizeof path, &step));
    is_int(step, 5, "the newest is step 5");
    must(ckpt_open_all(path, grid.world, &c));
    is_int(json_integer_value(json_object_get(ckpt_meta(c), "cursor")), 1005, "metadata: integer");
    ok(json_real_value(json_object_get(json_object_get(ckpt_meta(c), "schedule"), "lr")) == 5.1,
       "metadata: double, exactly");
    ok(!strcmp(ckpt_deck_text(c), "run = { dir = \"x\"; };\n"), "deck text");
    is_str(ckpt_code(c), "test-1", "code version");
    is_int(json_integer_value(json_object_get(ckpt_grid(c), "world")), size_, "the grid that wrote it");
    is_int(ckpt_count(c), N, "tensors");
    make_set(true, false);
    ok(wrong_tensors() > 0, "before loading they are wrong");
    must(ckpt_load_all(c, dev, set_, n_set));
    is_int(wrong_tensors(), 0, "loaded by another cut, bit for bit");
    must(ckpt_verify(c));
    must(ckpt_hash(c, &on_disk));
    ok(on_disk == by_hand, "hash of the files");

    /* as any other grid would: boxes of 1, 2, 3 and 7 ranks */
    int bad = 0;
    for (int i = 0; i < n_set - 1; i++)
        for (int n = 1; n <= 7; n += n == 3 ? 4 : 1)
            for (int r = 0; r < n; r++) {
                struct tensor_box box = box_of(&defs[i], r % 2 ? COLS : ROWS, r, n);
                size_t size = (size_t)tensor_box_elems(&box) * dtype_bytes(defs[i].dtype);
                void *want = make_box(&defs[i], &box, true), *got = make_box(&defs[i], &box, false);
                if (ckpt_read_box(c, defs[i].name, &box, defs[i].dtype, got) != TM_OK) bad++;
                if (size) bad += memcmp(got, want, size) != 0;
                mem_free(&want);
                mem_free(&got);
            }
    is_int(bad, 0, "boxes of 1, 2, 3, 7 ranks, bit for bit");

    /* what cannot be read */
    float x[64 * 9];
    struct tensor_box box = {2, {0, 0}, {64, 10}};
    is_status(ckpt_read_box(c, "narrow", &box, DTYPE_f32, x), TM_ERR_SHAPE);
    is_status(ckpt_read_box(c, "narro", &box, DTYPE_f32, x), TM_ERR_FORMAT);
    box.hi[1] = 9;
    is_status(ckpt_read_box(c, "narrow", &box, DTYPE_f64, x), TM_ERR_UNSUPPORTED);
    is_status(ckpt_read_box(c, "narrow", &box, DTYPE_bf16, x), TM_OK);
    set_[1].desc.shape[0] = 25;
    is_status(ckpt_load_all(c, dev, set_, n_set), TM_ERR_SHAPE);
    ok(strstr(status_message(), "q_proj") && strstr(status_message(), "25 expected"), "shapes are named: %s",
       status_message());
    free_set();

    struct str s = {0};
    must(ckpt_inspect(dir, &s));
    ok(strstr(s.p, "[24, 30]                  adam/m/model.layers.0.self_attn.q_proj.weight") &&
           strstr(s.p, "step       5") && strstr(s.p, "bf16 "),
       "inspect shows shapes, step, dtypes");
    str_free(&s);
    ckpt_close(&c);

    /* two more: keep = 2 prunes the first; replacing a step; keep never takes the one just saved */
    n_set = N - 1; /* without the big one */
    make_set(false, true);
    must(save(run, dir, 7, 2, NULL));
    must(save(run, dir, 9, 2, NULL));
    must(save(run, dir, 9, 2, NULL));
    snprintf(path, sizeof path, "%s/step_00000005", dir);
    quiet(par_barrier(grid.world));
    ok(!file_exists(path), "keep = 2: step 5 is gone");
    path[strlen(path) - 1] = '7';
    ok(file_exists(path), "step 7 stays");
    quiet(par_barrier(grid.world));
    must(save(run, dir, 6, 2, &info));
    quiet(par_barrier(grid.world));
    ok(file_exists(info.path) && !strstr(info.path, ".tmp"), "an earlier step than those kept: the new one stays");
    json_t *lines;
    must(ckpt_ledger_read(run, &lines));
    is_int(json_array_size(lines), 5, "five lines in the ledger");
    is_int(json_integer_value(json_object_get(json_array_get(lines, 3), "step")), 9, "the fourth is of step 9");
    json_decref(lines);
    free_set();
    quiet(par_barrier(grid.world));
    if (rank_ == 0) must(file_remove_tree(run));
}

/* --- modes ----------------------------------------------------------------------------------------------------------------------------- */

static void mode_load(const char *dir, const char *hash) {
    char path[4096], hex[17];
    int64_t step;
    struct ckpt *c;
    uint64_t h;
    must(ckpt_find_latest_all(dir, grid.world, path, sizeof path, &step));
    if (!ok(step >= 0, "there is a checkpoint")) exit(tap_done());
    must(ckpt_open_all(path, grid.world, &c));
    make_set(true, false);
    must(ckpt_load_all(c, dev, set_, n_set));
    is_int(wrong_tensors(), 0, "every tensor is right");
    must(ckpt_verify(c));
    must(ckpt_hash(c, &h));
    snprintf(hex, sizeof hex, "%016" PRIx64, h);
    if (strcmp(hash, "-") != 0) is_str(hex, hash, "hash");
    if (rank_ == 0) printf("step=%" PRId64 " hash=%s path=%s\n", step, hex, path);
    free_set();
    ckpt_close(&c);
}

/* Save step after step until killed; the pid goes to DIR.pid.<rank>. */
static void mode_loop(const char *dir, int64_t step) {
    char path[4096], text[32];
    snprintf(path, sizeof path, "%s.pid.%d", dir, rank_);
    snprintf(text, sizeof text, "%ld\n", (long)getpid());
    must(file_write(path, text, strlen(text)));
    make_set(false, true);
    for (;; step++) must(save(NULL, dir, step, 2, NULL));
}

static void run_mode(int argc, char **argv) {
    n_set = N - 1;
    if (!strcmp(argv[1], "load")) {
        mode_load(argv[2], argv[3]);
        return;
    }
    if (!strcmp(argv[1], "loop")) mode_loop(argv[2], atoll(argv[3]));
    make_set(false, true);
    enum status st = save(argv[2], argv[2], atoll(argv[3]), 0, NULL);
    if (!strcmp(argv[1], "save")) ok(st == TM_OK, "saved");
    if (!strcmp(argv[1], "fail") && argc > 4) {
        char tmp[4096];
        is_str(status_name(st), argv[4], "status on this rank");
        snprintf(tmp, sizeof tmp, "%s/step_%08lld.tmp", argv[2], atoll(argv[3]));
        must(par_barrier(grid.world));
        ok(!file_exists(tmp), "no .tmp stays");
        if (rank_ == 0) printf("message: %s\n", status_message());
    }
    free_set();
}

int main(int argc, char **argv) {
    const char *backend = getenv("TEMPER_TEST_BACKEND");
    struct dev_options o = {.backend = dev_backend_named(backend), .threads = 1, .invariant = true};
    if (tap_mpi_start(&argc, &argv)) return 1;
    rank_ = par_rank();
    size_ = par_size();
    quiet(dev_open(&o, &dev));
    quiet(par_grid_create_all(size_, 1, 1, &grid));
    if (argc > 3)
        run_mode(argc, argv);
    else
        round_trip();
    par_grid_destroy(&grid);
    dev_close(&dev);
    return tap_mpi_done();
}
