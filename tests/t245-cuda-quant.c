/* TEST ranks=1 backends=cuda tier=1 limit=120 */
/* Fake quantization on the CUDA backend has the host's bits (which t250 holds against ModelOpt's exports): every kind, blocks of any length,
 * with and without maxima, boxes that begin inside a block, rows and addresses of any distance, in place. */
#include "numfmt/bits.h"
#include "ops_bound.h"
#include "ops_case.h"

static struct dev *host, *cuda;
static double bound; /* of ops.def: 0 */

static const struct {
    const char *name;
    bool blocks;
} kinds[FQ_KINDS] = {[FQ_FP8] = {"fp8", false},          [FQ_FP8_BLOCK] = {"fp8 blocks", true},
                     [FQ_INT8] = {"int8", false},        [FQ_INT8_BLOCK] = {"int8 blocks", true},
                     [FQ_INT4_BLOCK] = {"int4", true},   [FQ_NVFP4] = {"nvfp4", true},
                     [FQ_NVFP4_A8] = {"nvfp4 a8", true}, [FQ_MXFP4] = {"mxfp4", true},
                     [FQ_MXFP8] = {"mxfp8", true}};

/* A box of blocks; `gap` floats follow each row, `skew` floats precede the first. */
struct problem {
    int64_t rows, cols, block_rows, block_cols, row0, col0;
    int gap, skew;
    bool given; /* the maxima */
};

/* Magnitudes of 2^-40 to 2^40, blocks of zeros, numbers half-way between codes, and what is no number. */
static float number(uint64_t seed, int64_t i) {
    static const float odd[] = {NAN,     INFINITY, -INFINITY, -0.0f, 1e-45f, -1e-39f,
                                3.4e38f, 0.25f,    -2.5f,     5.0f,  448.0f, 0.017578125f};
    uint64_t r = rng_u64(seed, 1, (uint64_t)i), run = rng_u64(seed, 2, (uint64_t)i / 64);
    if (run % 8 == 0) return 0.0f;
    if (r % 64 == 0) return odd[r / 64 % (sizeof odd / sizeof *odd)];
    int scale = run % 4 == 1 ? (int)(run / 8 % 80) - 40 : 0;
    float x = ldexpf(rng_normal(seed, 3, (uint64_t)i), scale);
    return r % 4 == 1 ? rintf(4.0f * x) / 8.0f : x;
}

/* What one device makes of it: the whole buffer, gaps included. */
static void run(struct dev *d, const struct problem *p, int kind, int weight, bool in_place, const float *x,
                const float *maxima, int64_t n_maxima, float *out) {
    const float amax = 3.7f; /* not a bf16 */
    int64_t ld = p->cols + p->gap, n = p->rows * ld + p->skew;
    dptr from, to, top, tops = {0};
    ops_must(dev_alloc(d, "x", (size_t)n * 4, &from));
    ops_must(dev_alloc(d, "y", (size_t)n * 4, &to));
    ops_must(dev_alloc(d, "amax", 4, &top));
    ops_must(dev_upload(d, from, x, (size_t)n * 4));
    for (int64_t i = 0; i < n; i++) out[i] = -1.0f;
    ops_must(dev_upload(d, to, out, (size_t)n * 4));
    ops_must(dev_upload(d, top, &amax, 4));
    if (p->given) {
        ops_must(dev_alloc(d, "maxima", (size_t)n_maxima * 4, &tops));
        ops_must(dev_upload(d, tops, maxima, (size_t)n_maxima * 4));
    }
    int64_t ld_blocks = (p->col0 + p->cols + p->block_cols - 1) / p->block_cols;
    struct fake_quant_args a = {.x = dptr_f32(from, p->skew),
                                .y = dptr_f32(in_place ? from : to, p->skew),
                                .amax = top,
                                .rows = p->rows,
                                .cols = p->cols,
                                .ldx = ld,
                                .ldy = ld,
                                .kind = kind,
                                .round_bf16 = weight,
                                .maxima = tops,
                                .grid = {p->block_rows, p->block_cols, p->row0, p->col0, ld_blocks}};
    ops_must(dev_fake_quant(d, &a));
    ops_must(dev_download(d, out, in_place ? from : to, (size_t)n * 4));
    dev_free(d, &from);
    dev_free(d, &to);
    dev_free(d, &top);
    dev_free(d, &tops);
}

/* Of all kinds, weights and activations, in place and not; returns how many numbers differ. NaN is NaN: a GPU gives it one pattern. */
static int64_t differ(const struct problem *p, uint64_t seed, char *where, size_t size) {
    int64_t ld = p->cols + p->gap, n = p->rows * ld + p->skew, wrong = 0,
            across = (p->col0 + p->cols + p->block_cols - 1) / p->block_cols,
            n_maxima = across * ((p->row0 + p->rows + p->block_rows - 1) / p->block_rows);
    float *x, *maxima, *a, *b;
    ops_must(mem_alloc(&x, (size_t)n, sizeof *x));
    ops_must(mem_alloc(&a, (size_t)n, sizeof *a));
    ops_must(mem_alloc(&b, (size_t)n, sizeof *b));
    ops_must(mem_alloc(&maxima, (size_t)n_maxima, sizeof *maxima));
    for (int64_t i = 0; i < n; i++) x[i] = number(seed, i);
    for (int64_t i = 0; i < n_maxima; i++)
        maxima[i] = i % 7 == 6 ? 0.0f : fabsf(rng_normal(seed, 4, (uint64_t)i)) * 3.0f;
    for (int kind = FQ_NONE + 1; kind < FQ_KINDS; kind++)
        for (int how = 0; how < 4; how++) {
            if (!kinds[kind].blocks && p->given) continue;
            int64_t bad = 0;
            run(host, p, kind, how & 1, how & 2, x, maxima, n_maxima, a);
            run(cuda, p, kind, how & 1, how & 2, x, maxima, n_maxima, b);
            for (int64_t i = 0; i < n; i++) bad += !ops_agree(&b[i], &a[i], 1, bound);
            if (bad) snprintf(where, size, "%s, round_bf16 %d", kinds[kind].name, how & 1);
            wrong += bad;
        }
    mem_free(&x);
    mem_free(&maxima);
    mem_free(&a);
    mem_free(&b);
    return wrong;
}

/* A column with more rows than there are threads: each does several. */
enum { ROWS = (256 << 12) + 3 };
static void tall(int kind, const float *x) {
    const struct problem p = {ROWS, 1, 1, 1, 0, 0, 0, 0, false};
    float *a, *b;
    ops_must(mem_alloc(&a, ROWS, sizeof *a));
    ops_must(mem_alloc(&b, ROWS, sizeof *b));
    run(host, &p, kind, 0, false, x, NULL, 0, a);
    run(cuda, &p, kind, 0, false, x, NULL, 0, b);
    ok(ops_agree(b, a, ROWS, bound), "%s, %d rows of one column: the host's bits", kinds[kind].name, ROWS);
    mem_free(&a);
    mem_free(&b);
}

int main(void) {
    float *x;
    static const struct problem problems[] = {
        /* maxima taken on the way: blocks of 1 to 32 lanes, of a thread block, longer than it keeps; not a multiple of 4; unaligned */
        {3, 128, 1, 16, 0, 0, 0, 0, false},
        {9, 96, 1, 32, 7, 35, 4, 0, false}, /* where the box lies does not matter then */
        {5, 256, 1, 128, 0, 0, 0, 4, false},
        {2, 64, 1, 16, 0, 0, 1, 0, false},
        {2, 64, 1, 32, 0, 0, 0, 3, false},
        {1, 1, 1, 1, 0, 0, 0, 0, false},
        {7, 33, 1, 11, 0, 0, 0, 0, false},
        {70, 48, 1, 48, 0, 0, 0, 0, false},
        {3, 1000, 1, 1000, 0, 0, 0, 0, false},
        {2, 4096, 1, 4096, 0, 0, 0, 0, false},
        {2, 8196, 1, 8196, 0, 0, 0, 0, false},
        {2, 2053, 1, 2053, 0, 0, 0, 0, false},
        /* known maxima: rows, blocks, tiles; boxes that begin and end inside a block; a block wider than the box */
        {3, 128, 1, 16, 0, 0, 0, 0, true},
        {5, 100, 1, 32, 2, 12, 0, 0, true},
        {5, 52, 1, 32, 2, 13, 0, 0, true},
        {6, 37, 1, 16, 0, 5, 2, 1, true},
        {40, 72, 16, 32, 9, 20, 0, 0, true},
        {3, 64, 128, 128, 127, 100, 0, 0, true},
        {300, 16, 1, 160, 0, 80, 0, 0, true},
        {17, 19, 3, 7, 4, 6, 0, 0, true},
    };
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1}, &host));
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA}, &cuda));
    bound = ops_row("fake_quant").bound;
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        const struct problem *p = &problems[i];
        char where[64] = "";
        int64_t wrong = differ(p, 100 + i, where, sizeof where);
        ok(!wrong, "%lld x %lld, blocks of %lld x %lld, maxima %s: the host's bits (%lld differ%s%s)",
           (long long)p->rows, (long long)p->cols, (long long)p->block_rows, (long long)p->block_cols,
           p->given ? "given" : "taken", (long long)wrong, *where ? ": " : "", where);
    }
    ops_must(mem_alloc(&x, ROWS, sizeof *x));
    for (int i = 0; i < ROWS; i++) x[i] = (float)(i % 4099) - 2000.5f;
    tall(FQ_FP8, x);
    tall(FQ_INT8_BLOCK, x);
    mem_free(&x);
    struct fake_quant_args empty = {.kind = FQ_MXFP4, .grid = {1, 32, 0, 0, 0}};
    must(dev_fake_quant(cuda, &empty));
    is_status(dev_fake_quant(cuda, &(struct fake_quant_args){.kind = FQ_KINDS, .rows = 1, .cols = 1}), TM_ERR_INTERNAL);
    dev_close(&cuda);
    dev_close(&host);
    return tap_done();
}
