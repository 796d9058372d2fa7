/* TEST ranks=1 tier=1 */
/* ckpt/: a few tensors of known values for others' readers: with an argument (t534) they are saved in that folder as step 7. */
#include "base/file.h"
#include "ckpt/ckpt.h"
#include "tap_mpi.h"

static struct ckpt_tensor list[7];
static float weight[16], thirds[] = {1.00390637f, 1.0f / 3.0f};
static uint16_t half[] = {0x3fc0, 0xc000, 0x3e20, 0x7f7f, 0x8000}, f16[] = {0x3c00, 0xb800, 0x7bff};
static uint8_t e5m2[] = {0x3c, 0xfb}, e4m3[] = {0x38, 0x7e};
static int64_t step = 42;

static void add(int i, const char *name, enum dtype dtype, int rank, int64_t n, void *host) {
    struct tensor_desc *d = &list[i].desc;
    snprintf(d->name, sizeof d->name, "%s", name);
    d->dtype = dtype;
    d->rank = rank;
    d->shape[0] = n;
    d->box = tensor_box_whole(rank, d->shape);
    list[i].host = host;
}

int main(int argc, char **argv) {
    struct par_grid grid;
    char dir[64] = "/tmp/temper-demo-XXXXXX";
    if (tap_mpi_start(&argc, &argv)) return 1;
    int r = par_rank(), n = par_size();
    must(par_grid_create_all(n, 1, 1, &grid));
    add(0, "layer/weight", DTYPE_f32, 2, 2, weight);
    struct tensor_desc *d = &list[0].desc;
    d->shape[1] = 8;
    d->box = (struct tensor_box){2, {0, (8 * r + n - 1) / n}, {2, (8 * (r + 1) + n - 1) / n}};
    int64_t cols = d->box.hi[1] - d->box.lo[1];
    for (int64_t i = 0; i < 2 * cols; i++) weight[i] = (float)(8 * (i / cols) + d->box.lo[1] + i % cols);
    list[0].units = "m/s";
    add(1, "half", DTYPE_bf16, 1, 5, half);
    add(2, "narrow", DTYPE_f32, 1, 2, thirds);
    list[2].as_bf16 = true;
    add(3, "f16", DTYPE_f16, 1, 3, f16);
    add(4, "e5m2", DTYPE_e5m2, 1, 2, e5m2);
    add(5, "e4m3", DTYPE_e4m3, 1, 2, e4m3);
    add(6, "step", DTYPE_i64, 0, 0, &step);
    if (argc < 2) ok(mkdtemp(dir) != NULL, "temporary directory");
    struct ckpt_saved info;
    struct ckpt_save_args a = {.dir = argc > 1 ? argv[1] : dir, .step = 7, .tensors = list, .n = 7, .grid = &grid};
    must(ckpt_save_all(&a, &info));
    is_int(info.bytes, 64 + 10 + 4 + 6 + 2 + 2 + 8, "bytes as stored");
    struct ckpt *c;
    float got[2] = {0};
    struct tensor_box whole = {1, {0}, {2}};
    must(ckpt_open(info.path, &c));
    must(ckpt_read_box(c, "narrow", &whole, DTYPE_f32, got));
    ok(got[0] == 1.0078125f && got[1] == 0.333984375f, "narrowed to the nearest bf16, widened exactly");
    ckpt_close(&c);
    if (argc < 2) must(file_remove_tree(dir));
    par_grid_destroy(&grid);
    return tap_mpi_done();
}
