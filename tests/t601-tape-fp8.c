/* TEST ranks=1,2 backends=host,guard tier=1 */
/* Linear layers by codes against the same layers fake-quantized in fp32: the same input, weights, formats and tensor group; only the sums differ.
 * Bound: a fake-quantized factor is a code times a scale rounded once (2^-24), sums of K products in fp32: NMSE <= 2e-11, as t205's. */
#include "base/rng.h"
#include "tap_mpi.h"
#include "tape/tape.h"

enum { N = 9, C = 256, F = 384, ROWS = 128 };

static struct dev *dev;
static struct par_grid grid;
static const struct tensor_axis ffn = {F / 32, 32, 8}; /* its cut for two ranks lies inside a block of 128 */

/* A linear, column-parallel (rows cut) or row-parallel (columns cut). */
struct layer {
    struct tape_weight w;
    struct tape_fp8 fp8;
    dptr master, bias, maxima, amax;
    struct tape_weight b;
};

static dptr put(const float *x, int64_t n) {
    dptr p;
    must(dev_alloc(dev, "test", (size_t)n * 4, &p));
    must(dev_upload(dev, p, x, (size_t)n * 4));
    return p;
}

/* Weights of the box [lo, hi) along the cut axis, from the same global numbers on every rank; both ways of having them. */
static void make_layer(struct layer *l, bool row, int kind, int64_t block) {
    static float x[F * C], maxima[F];
    int64_t lo, hi, rows = row ? C : F, cols = row ? F : C;
    tensor_axis_range(&ffn, grid.tp_rank, grid.tp, &lo, &hi);
    const int64_t r0 = row ? 0 : lo, c0 = row ? lo : 0, n_rows = row ? rows : hi - lo, n_cols = row ? hi - lo : cols,
                  br = kind == FQ_FP8 ? rows
                       : block        ? 128
                                      : 1,
                  bc = block ? 128 : cols, ld = (cols + bc - 1) / bc;
    const float top = 2.7f, bias[F] = {0.25f, -1};
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t j = 0; j < n_cols; j++)
            x[i * n_cols + j] = 0.5f * rng_normal(5, (uint64_t)row, (uint64_t)((r0 + i) * cols + c0 + j));
    for (int64_t i = 0; i < F; i++) maxima[i] = 2.0f + (float)(i % 7) / 8;
    *l = (struct layer){.w = {.rows = n_rows, .cols = n_cols}, .b = {.rows = 1, .cols = n_rows}};
    l->master = put(x, n_rows * n_cols);
    l->maxima = put(maxima, F);
    l->amax = put(&top, 1);
    l->b.value = put(bias, n_rows);
    must(dev_alloc(dev, "test", (size_t)(n_rows * n_cols) * 4, &l->w.value));
    must(dev_alloc(dev, "test", (size_t)(n_rows * n_cols), &l->fp8.codes));
    must(dev_alloc(dev, "test", F * 4, &l->fp8.scales));
    l->fp8.grid = (struct block_grid){br, bc, r0, c0, ld};
    l->fp8.input = (struct tape_quantizer){.kind = kind, .amax = l->amax, .block = block, .axis = row ? &ffn : NULL};
    struct quant_fp8_args a = {.of = {.x = l->master,
                                      .y = l->w.value,
                                      .amax = l->amax,
                                      .rows = n_rows,
                                      .cols = n_cols,
                                      .ldx = n_cols,
                                      .ldy = n_cols,
                                      .kind = kind,
                                      .round_bf16 = 1,
                                      .maxima = l->maxima,
                                      .grid = l->fp8.grid},
                               .codes = l->fp8.codes,
                               .scales = l->fp8.scales,
                               .ldc = n_cols};
    must(dev_fake_quant(dev, &a.of));
    must(dev_quant_fp8(dev, &a));
}

static void free_layer(struct layer *l) {
    dptr all[] = {l->master, l->maxima, l->amax, l->b.value, l->w.value, l->fp8.codes, l->fp8.scales};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) dev_free(dev, &all[i]);
}

/* The layer's output [N, rows] for the same input, by codes or fake-quantized. */
static void run(struct layer *l, bool row, bool codes, float *out) {
    static float x[N * F];
    struct tape *t;
    tape_val in, q, y;
    dptr kept, scratch;
    const struct tape_weight *w = &l->w, *b = &l->b;
    int64_t lo = 0, hi = C, cols = row ? F : C;
    if (row) tensor_axis_range(&ffn, grid.tp_rank, grid.tp, &lo, &hi);
    l->w.fp8 = codes ? &l->fp8 : NULL;
    must(tape_create(
        &(struct tape_options){.name = "test", .dev = dev, .grid = &grid, .tokens = N, .slots = 1, .invariant = true},
        &t));
    must(tape_input(t, "x", N, l->w.cols, false, &in));
    q = in;
    if (!codes) must(tape_fake_quant(t, in, &l->fp8.input, &q));
    if (row)
        must(tape_linear_row(t, q, w, NULL, &ffn, &y));
    else
        must(tape_linear(t, q, 1, &w, &b, &ffn, &y));
    must(tape_pin(t, y, false));
    must(tape_finish(t));
    must(dev_alloc(dev, "test", tape_kept_bytes(t), &kept));
    must(dev_alloc(dev, "test", tape_scratch_bytes(t), &scratch));
    tape_bind(t, kept, scratch);
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = lo; j < hi; j++) x[i * (hi - lo) + j - lo] = rng_normal(6, 0, (uint64_t)(i * cols + j));
    must(dev_upload(dev, tape_address(t, 0, in), x, (size_t)(N * l->w.cols) * 4));
    must(tape_run(t, 0, TAPE_FORWARD));
    must(dev_download(dev, out, tape_address(t, 0, y), (size_t)(N * l->w.rows) * 4));
    dev_free(dev, &kept);
    dev_free(dev, &scratch);
    tape_destroy(&t);
}

static void compare(const char *what, bool row, int kind, int64_t block) {
    static float a[N * F], b[N * F];
    struct layer l;
    double error = 0, norm = 0;
    make_layer(&l, row, kind, block);
    run(&l, row, true, a);
    run(&l, row, false, b);
    for (int64_t i = 0; i < N * l.w.rows; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    ok(error <= 2e-11 * norm && error > 0, "%s: NMSE %.2g, at most 2e-11, and other sums", what, error / norm);
    free_layer(&l);
}

static void refusals(void) {
    struct tape *t;
    struct layer l;
    tape_val x, y[2];
    make_layer(&l, false, FQ_FP8, 0);
    struct tape_weight plain = l.w, codes = l.w;
    codes.fp8 = &l.fp8;
    const struct tensor_axis axes[] = {ffn, ffn};
    for (int training = 0; training < 2; training++) {
        must(tape_create(&(struct tape_options){.name = "test",
                                                .dev = dev,
                                                .grid = &grid,
                                                .tokens = N,
                                                .slots = 1,
                                                .training = training,
                                                .invariant = true},
                         &t));
        must(tape_input(t, "x", N, C, false, &x));
        const struct tape_weight *const mixed[] = {&plain, &codes}, *const alike[] = {&codes, &codes};
        is_status(tape_linear(t, x, 2, training ? alike : mixed, NULL, axes, y), TM_ERR_INTERNAL);
        tape_destroy(&t);
    }
    free_layer(&l);
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(par_grid_create_all(par_size(), 1, 1, &grid));
    tap_devices_all(&grid, &dev);
    compare("columns, one scale", false, FQ_FP8, 0);
    compare("rows, one scale", true, FQ_FP8, 0);
    compare("columns, rows and tokens", false, FQ_FP8_BLOCK, 0);
    compare("rows, rows and tokens", true, FQ_FP8_BLOCK, 0);
    compare("columns, tiles and groups", false, FQ_FP8_BLOCK, 128);
    compare("rows, tiles and groups", true, FQ_FP8_BLOCK, 128);
    refusals();
    dev_close(&dev);
    par_grid_destroy(&grid);
    return tap_mpi_done();
}
