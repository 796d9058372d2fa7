/* TEST ranks=1 backends=host,guard tier=1 */
/* E4M3 codes and their products: codes and scales are fake quantization's numbers (which t250 holds against ModelOpt's exports), products have
 * the bits of their definition in plain loops, on any number of threads, and lie near the fp64 product; a product cut over ranks is the whole. */
#include "fp8_case.h"

/* NMSE of a chain of 128 in fp32: a rounding at each step, 2^-24 of a sum that is at most the result's size for signs at random: 128 * 2^-48 / 3 and
 * the scales' few; 100 times that. */
static const double BOUND = 2e-11;

static void products(const char *kernel, int threads) {
    struct dev *d = ops_open(kernel, threads);
    for (int s = 0; s < FP8_SCALES; s++) {
        double worst = 0;
        int64_t differ = 0;
        for (int i = 0; i < FP8_SHAPES; i++)
            for (int j = 0; j < FP8_KS; j++) {
                struct ops_run r = {.d = d, .seed = (uint64_t)(1 + i * FP8_KS + j)};
                struct fp8_case c = fp8_make(&r, (enum fp8_scales)s, fp8_shapes[i].m, fp8_shapes[i].n,
                                             fp8_ks[j].segments, fp8_ks[j].k, i * 50, j * 40, (i + j) % 2);
                const float *x = fp8_run(&r, &c);
                worst = fmax(worst, fp8_nmse(&c, x));
                for (int64_t e = 0; e < c.a.m * c.a.n; e++) {
                    const float want = fp8_defined(&c, e / c.a.n, e % c.a.n);
                    differ += memcmp(&want, &x[e / c.a.n * c.a.ldc + e % c.a.n], sizeof want) != 0;
                }
                differ += !ops_canaries(&r);
                ops_end(&r);
            }
        ok(differ == 0, "%s, %d threads, scales %s: the bits of the definition (%lld differ)", kernel ? kernel : "best",
           threads, fp8_scales_name[s], (long long)differ);
        ok(worst <= BOUND, "  worst NMSE against fp64 %.2g, at most %.2g", worst, BOUND);
    }
    dev_close(&d);
}

/* Two ranks with four segments each: their sums added are the whole product's bits. */
static void cut(struct dev *d) {
    const int64_t k[] = {0, 96, 192, 192, 320, 416, 512, 640, 700},
                  half[2][5] = {{0, 96, 192, 192, 320}, {0, 96, 192, 320, 380}};
    struct ops_run r = {.d = d, .seed = 3};
    struct fp8_case c = fp8_make(&r, FP8_TILES, 9, 140, 8, k, 0, 0, false), part = c;
    const float *whole = fp8_run(&r, &c), *sum[2];
    int64_t differ = 0;
    for (int i = 0; i < 2; i++) {
        memcpy(part.a.k, half[i], sizeof half[i]);
        part.a.segments = 4;
        part.codes_a = c.codes_a + i * 320;
        part.codes_b = c.codes_b + i * 320;
        part.a.m = 8, part.a.n = 139; /* the last row would be read beyond its end */
        part.a.a.grid.col0 = part.a.b.grid.col0 = i * 320;
        sum[i] = fp8_run(&r, &part);
    }
    for (int64_t i = 0; i < 8; i++)
        for (int64_t j = 0; j < 139; j++)
            differ += sum[0][i * c.a.ldc + j] + sum[1][i * c.a.ldc + j] != whole[i * c.a.ldc + j];
    ok(differ == 0, "a product cut over two ranks has the bits of the whole (%lld differ)", (long long)differ);
    ops_end(&r);
}

/* --- codes ---------------------------------------------------------------------------------------------------------------------- */
static const struct fp8_source sources[] = {
    {"activations, one scale", FQ_FP8, 0, false, 7, 131, {0}},
    {"weights, one scale", FQ_FP8, 1, false, 70, 600, {0}},
    {"activations, groups of 128", FQ_FP8_BLOCK, 0, false, 5, 384, {1, 128, 0, 0, 3}},
    {"activations, whole rows", FQ_FP8_BLOCK, 0, false, 66, 600, {1, 600, 0, 0, 1}},
    {"activations, groups that begin elsewhere", FQ_FP8_BLOCK, 0, true, 5, 300, {1, 128, 0, 70, 3}},
    {"weights, rows", FQ_FP8_BLOCK, 1, true, 66, 600, {1, 600, 3, 0, 1}},
    {"weights, tiles that begin elsewhere", FQ_FP8_BLOCK, 1, true, 300, 200, {128, 128, 50, 60, 3}},
};

static void codes(struct dev *d) {
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct ops_run r = {.d = d, .seed = i + 1};
        const int64_t rows = sources[i].rows, cols = sources[i].cols, ldc = cols + 1;
        const struct block_grid g = sources[i].grid;
        const int64_t n_scales = fp8_source_scales(&sources[i]);
        struct quant_fp8_args a = fp8_quantize(&r, &sources[i], cols + 2, ldc);
        a.of.y = ops_blank(&r, rows * cols);
        a.of.ldy = cols;
        uint8_t *blank = ops_host(&r, (size_t)(rows * ldc), 1);
        float *y = ops_host(&r, (size_t)(rows * cols), 4), *scales = ops_host(&r, (size_t)n_scales, 4);
        ops_must(dev_fake_quant(d, &a.of));
        ops_must(dev_quant_fp8(d, &a));
        ops_must(dev_download(d, y, a.of.y, (size_t)(rows * cols) * 4));
        ops_must(dev_download(d, blank, a.codes, (size_t)(rows * ldc)));
        ops_must(dev_download(d, scales, a.scales, (size_t)n_scales * 4));
        int64_t differ = 0;
        for (int64_t e = 0; e < rows * cols; e++) {
            const int64_t row = e / cols, col = e % cols,
                          at = g.rows ? (g.row0 + row) / g.rows * g.ld + (g.col0 + col) / g.cols : 0;
            const float z = e4m3_decode(blank[row * ldc + col]) * scales[at];
            differ += memcmp(&z, &y[e], sizeof z) && !(isnan(z) && isnan(y[e]));
        }
        for (int64_t row = 0; row < rows; row++) differ += blank[row * ldc + cols] != 0;
        ok(differ == 0 && ops_canaries(&r), "%s: codes times scales are what fake_quant gives (%lld differ)",
           sources[i].what, (long long)differ);
        ops_end(&r);
    }
}

static void refusals(struct dev *d) {
    struct gemm_fp8_args a = {.m = 2, .n = 3, .segments = 1, .k = {0, 8}, .ldc = 3};
    a.a.grid = a.b.grid = (struct block_grid){1, 8, 0, 0, 1};
    a.a.ld = a.b.ld = 8;
    is_status(dev_gemm_fp8(d, &a), TM_ERR_SHAPE); /* no codes */
    a.k[1] = 9;
    is_status(dev_gemm_fp8(d, &a), TM_ERR_SHAPE); /* rows overlap */
    a.k[1] = -1;
    is_status(dev_gemm_fp8(d, &a), TM_ERR_SHAPE);
    struct quant_fp8_args q = {
        .of = {.rows = 1, .cols = 130, .ldx = 130, .kind = FQ_FP8_BLOCK, .grid = {1, 128, 0, 0, 2}}, .ldc = 130};
    is_status(dev_quant_fp8(d, &q), TM_ERR_SHAPE); /* 130 is no multiple of 128 */
    q.of.kind = FQ_INT8;
    is_status(dev_quant_fp8(d, &q), TM_ERR_INTERNAL);
}

int main(void) {
    struct dev *d = ops_open(NULL, 2);
    codes(d);
    cut(d);
    refusals(d);
    dev_close(&d);
    products(NULL, 2);
    products("portable", 1);
    return tap_done();
}
