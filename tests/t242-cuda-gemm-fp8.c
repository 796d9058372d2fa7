/* TEST ranks=1 backends=cuda tier=1 limit=300 */
/* E4M3 codes and their products on the CUDA backend. Codes and scales have the host's bits. Products lie near the fp64 product: within 1e-9 where
 * codes are widened to bf16 (before sm_89), within 1e-6 on fp8 tensor cores, here as coarse as Hopper's; and their bits do not depend on the
 * shape around an element. */
#include "fp8_case.h"

static void products(struct dev *d, double bound) {
    for (int s = 0; s < FP8_SCALES; s++) {
        double worst = 0;
        bool canaries = true;
        for (int i = 0; i < FP8_SHAPES; i++)
            for (int j = i % 2; j < FP8_KS; j += 2) {
                struct ops_run r = {.d = d, .seed = (uint64_t)(1 + i * FP8_KS + j)};
                struct fp8_case c = fp8_make(&r, (enum fp8_scales)s, fp8_shapes[i].m, fp8_shapes[i].n,
                                             fp8_ks[j].segments, fp8_ks[j].k, i * 50, j * 40, (i + j) % 3);
                const double e = fp8_nmse(&c, fp8_run(&r, &c));
                if (!(e <= bound)) printf("# m %d n %d case %d: %g\n", (int)c.a.m, (int)c.a.n, j, e);
                worst = fmax(worst, e);
                canaries = canaries && ops_canaries(&r);
                ops_end(&r);
            }
        ok(worst <= bound && canaries, "scales %s: worst NMSE %.2g, at most %.2g", fp8_scales_name[s], worst, bound);
    }
}

/* The first rows and columns of a product are a product of their own: few rows, and one that cuts its leaves among blocks. */
static void shapes_agree(struct dev *d) {
    struct ops_run r = {.d = d, .seed = 9};
    struct fp8_case c = fp8_make(&r, FP8_TILES, 130, 259, 8, fp8_ks[6].k, 30, 64, true);
    const float *whole = fp8_run(&r, &c);
    const int64_t m[] = {130, 64, 16, 1}, n[] = {128, 259, 259, 65};
    int64_t differ = 0;
    for (int s = 0; s < 4; s++) {
        c.a.m = m[s], c.a.n = n[s];
        const float *part = fp8_run(&r, &c);
        for (int64_t i = 0; i < m[s]; i++)
            differ += memcmp(part + i * c.a.ldc, whole + i * c.a.ldc, (size_t)n[s] * sizeof *part) != 0;
    }
    ok(differ == 0, "a part of C has the bits of the whole (%lld rows differ)", (long long)differ);
    ops_end(&r);
}

/* --- codes: on both devices ------------------------------------------------------------------------------------------------- */
static const struct fp8_source sources[] = {
    {"one scale", FQ_FP8, 0, false, 7, 131, {0}},
    {"weights, one scale", FQ_FP8, 1, false, 70, 64, {0}},
    {"groups of 128", FQ_FP8_BLOCK, 0, false, 5, 384, {1, 128, 0, 0, 3}},
    {"whole rows", FQ_FP8_BLOCK, 0, false, 9, 1031, {1, 1031, 0, 0, 1}},
    {"groups that begin elsewhere", FQ_FP8_BLOCK, 0, true, 5, 300, {1, 128, 0, 70, 3}},
    {"weights, tiles that begin elsewhere", FQ_FP8_BLOCK, 1, true, 150, 200, {128, 128, 50, 60, 3}},
};
enum { SOURCES = sizeof sources / sizeof *sources };

static void quantize(struct dev *d, int i, uint8_t *codes, float *scales) {
    struct ops_run r = {.d = d, .seed = (uint64_t)i + 1};
    const int64_t rows = sources[i].rows, cols = sources[i].cols;
    struct quant_fp8_args a = fp8_quantize(&r, &sources[i], cols, cols);
    ops_must(dev_quant_fp8(d, &a));
    ops_must(dev_download(d, codes, a.codes, (size_t)(rows * cols)));
    ops_must(dev_download(d, scales, a.scales, (size_t)fp8_source_scales(&sources[i]) * 4));
    if (!ops_canaries(&r)) ok(false, "%s: canaries", sources[i].what);
    ops_end(&r);
}

static void codes(struct dev *cuda) {
    enum { CODES = 1 << 16, SCALES = 64 };
    static uint8_t got[CODES], want[CODES];
    static float got_scales[SCALES], want_scales[SCALES];
    struct dev *host;
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1, .invariant = true}, &host));
    for (int i = 0; i < SOURCES; i++) {
        quantize(cuda, i, got, got_scales);
        quantize(host, i, want, want_scales);
        const int64_t n = fp8_source_scales(&sources[i]);
        ok(!memcmp(got, want, (size_t)(sources[i].rows * sources[i].cols)) &&
               !memcmp(got_scales, want_scales, (size_t)n * 4),
           "%s: codes and scales have the host's bits", sources[i].what);
    }
    dev_close(&host);
}

/* Where the order of sums is free, cuBLASLt serves what has one scale a factor and lies on 16 bytes: here its sums are plain fp32, which fp8 tensor
 * cores as coarse as Hopper's are not. */
static void free_order(struct dev *d) {
    const int64_t k[] = {0, 64, 64, 192};
    double e[2];
    for (int tiles = 0; tiles < 2; tiles++) {
        struct ops_run r = {.d = d, .seed = 4};
        struct fp8_case c = fp8_make(&r, tiles ? FP8_TILES : FP8_TENSOR, 21, 48, 3, k, 0, 0, true);
        c.a.ldc = 48;
        c.a.a.ld = c.a.b.ld = 192; /* other codes of the same arrays */
        e[tiles] = fp8_nmse(&c, fp8_run(&r, &c));
        ops_end(&r);
    }
    ok(e[0] <= 1e-11, "cuBLASLt: NMSE %.2g, at most 1e-11", e[0]);
    ok(e[1] > 1e-9 && e[1] <= 1e-6, "scales of tiles are not for it: NMSE %.2g", e[1]);
}

int main(void) {
    struct dev *d;
    setenv("CUEMU_ARCH", "80", 1);
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &d));
    codes(d);
    products(d, 1e-9);
    shapes_agree(d);
    dev_close(&d);
    setenv("CUEMU_ARCH", "89", 1);
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &d));
    products(d, 1e-6);
    shapes_agree(d);
    dev_close(&d);
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = false}, &d));
    free_order(d);
    dev_close(&d);
    return tap_done();
}
