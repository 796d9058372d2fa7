/* TEST ranks=1 backends=cuda tier=1 limit=300 */
/* bf16 products on the CUDA backend: close to the fp64 product of the rounded factors, and their bits do not depend on the shape around an
 * element, on which kernel serves, or on a chain being cut. With mma.sync, and with wgmma as a Hopper has it. */
#include "tap.h"

#include "cuda_gemm.h"
#include "ops_bound.h"

static const char *const layouts[] = {"NT", "NN", "TN"};
static const struct {
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
} ks[] = {
    {1, {0, 1}},
    {1, {0, 32}},
    {1, {0, 131}},
    {3, {0, 16, 16, 33}},
    {4, {0, 0, 0, 7, 7}},
    {8, {0, 0, 5, 5, 9, 20, 20, 20, 20}},
    {8, {0, 64, 128, 128, 161, 162, 192, 224, 256}},
    {8, {0, 0, 0, 0, 0, 0, 0, 0, 0}},
};
static const struct { int64_t m, n; } shapes[] = {{1, 1}, {5, 67}, {16, 129}, {17, 33}, {65, 127}, {129, 131}, {0, 3}};
enum { KS = sizeof ks / sizeof *ks, SHAPES = sizeof shapes / sizeof *shapes };

/* Every `each`th product. */
static void sweep(struct dev *d, int layout, int each) {
    const double bound = ops_row("gemm").bound_bf16;
    double worst = 0;
    int all = 0;
    for (int s = 0; s < SHAPES; s++)
        for (int i = 0; i < KS; i++) {
            struct prod p;
            if ((s * KS + i + s / 2) % each) continue;
            all++;
            need(prod_init(&p, (enum gemm_layout)layout, shapes[s].m, shapes[s].n, 1 + (s + i) % 3, ks[i].segments,
                           ks[i].k, i % 2 ? 3 : 0, ks[i].segments == 1 && s % 2 == 0, (s + i) % 2 == 0));
            p.a.bf16 = 1;
            const double e = prod_nmse(&p, d);
            if (!(e <= bound)) printf("# m %d n %d case %d: %g\n", (int)p.a.m, (int)p.a.n, i, e);
            worst = fmax(worst, e);
            prod_free(&p);
        }
    ok(worst <= bound, "%s: %d products, worst NMSE %.2g, at most %g", layouts[layout], all, worst, bound);
}

/* The first rows and columns of a product are a product of their own: few rows, and one that cuts its leaves among blocks. */
static void shapes_agree(struct dev *d, int layout) {
    struct prod p;
    int differ = 0;
    need(prod_init(&p, (enum gemm_layout)layout, 130, 259, 2, ks[6].segments, ks[6].k, 0, false, true));
    p.a.bf16 = 1;
    float *whole = prod_result(&p, d);
    const int64_t m[] = {130, 64, 16, 1}, n[] = {128, 259, 259, 65};
    for (int s = 0; s < 4; s++) {
        p.a.m = m[s], p.a.n = n[s];
        float *part = prod_result(&p, d);
        for (int64_t i = 0; i < m[s]; i++)
            differ += memcmp(part + i * p.a.ldc, whole + i * p.a.ldc, (size_t)n[s] * sizeof *part) != 0;
        mem_free(&part);
    }
    ok(differ == 0, "%s: a part of C has the bits of the whole (%d rows differ)", layouts[layout], differ);
    mem_free(&whole);
    prod_free(&p);
}

/* One chain over 96 + 35 k, and the same continued by accumulation. */
static void chain_is_cut(struct dev *d, int64_t m) {
    struct prod p;
    need(prod_init(&p, GEMM_NT, m, 40, 1, 1, ks[2].k, 0, false, false));
    p.a.bf16 = 1;
    float *whole = prod_result(&p, d);
    p.a.term[0].k[1] = 96;
    float *cut = prod_result(&p, d);
    memcpy(p.c0, cut, (size_t)p.c_elems * sizeof *cut);
    mem_free(&cut);
    p.a.accumulate = 1;
    p.a.term[0].k[1] = 35;
    for (int64_t i = 0; i < m; i++) memmove(p.fa[0] + i * 131, p.fa[0] + i * 131 + 96, 35 * sizeof(float));
    for (int64_t j = 0; j < 40; j++) memmove(p.fb[0] + j * 131, p.fb[0] + j * 131 + 96, 35 * sizeof(float));
    cut = prod_result(&p, d);
    ok(!memcmp(cut, whole, (size_t)p.c_elems * sizeof *cut), "m %d: a chain cut at k = 96 has the same bits", (int)m);
    mem_free(&cut);
    mem_free(&whole);
    prod_free(&p);
}

/* A ring of four stages of 64 k goes round more than once, and a block of 128 x 256 has neighbours on both sides. */
static void large(struct dev *d) {
    const int64_t k[] = {0, 70, 70, 500};
    struct prod p;
    need(prod_init(&p, GEMM_NN, 140, 270, 1, 3, k, 0, false, true));
    p.a.bf16 = 1;
    const double e = prod_nmse(&p, d), bound = ops_row("gemm").bound_bf16;
    ok(e <= bound, "140 x 270, 500 k: NMSE %.2g, at most %g", e, bound);
    prod_free(&p);
}

/* Only wgmma packs the factors of a product of few rows: it serves Hopper, and no device before it. */
static void serves(struct dev *d, bool wgmma) {
    struct prod p;
    size_t had;
    must(dev_reserve(d, 0, NULL));
    need(prod_init(&p, GEMM_NT, 16, 40, 1, 1, ks[1].k, 0, false, false));
    p.a.bf16 = 1;
    (void)prod_nmse(&p, d);
    must(dev_reserve(d, 0, &had));
    ok((had > 0) == wgmma, "products by %s: %zu bytes of work space for few rows", wgmma ? "wgmma" : "mma.sync", had);
    prod_free(&p);
}

static void all(const char *capability, bool wgmma) {
    struct dev *d;
    setenv("CUEMU_ARCH", capability, 1);
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &d));
    printf("# an sm_%s\n", capability);
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++) {
        sweep(d, layout, wgmma ? 5 : 1);
        if (!wgmma || layout == GEMM_TN) shapes_agree(d, layout); /* layouts differ in their packing alone */
    }
    chain_is_cut(d, 16);
    chain_is_cut(d, 17);
    if (wgmma) large(d);
    ops_work(d);
    serves(d, wgmma);
    dev_close(&d);
}

int main(void) {
    all("80", false);
    all("90", true);
    return tap_done();
}
