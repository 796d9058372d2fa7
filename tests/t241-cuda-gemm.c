/* TEST ranks=1 backends=cuda tier=1 limit=300 */
/* fp32 products on the CUDA backend equal the definition bit for bit: all layouts, shapes at and around tiles, distances of rows that
 * vector loads cannot use, chained terms, segments with empty ones, accumulation, bias. The reference is prod_reference (gemm_ref.h). */
#include "tap.h"

#include "cuda_gemm.h"
#include "ops_bound.h"

static const char *const layouts[] = {"NT", "NN", "TN"};
static const struct {
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
} ks[] = {
    {1, {0, 0}},
    {1, {0, 1}},
    {1, {0, 16}},
    {1, {0, 131}},
    {2, {0, 5, 12}},
    {3, {0, 16, 16, 33}},
    {4, {0, 0, 0, 7, 7}},
    {7, {0, 8, 16, 24, 32, 40, 48, 56}},
    {8, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
    {8, {0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {8, {0, 0, 5, 5, 9, 20, 20, 20, 20}},
    {8, {0, 0, 70, 70, 71, 72, 100, 100, 113}},
    {8, {0, 16, 32, 48, 64, 80, 96, 112, 128}},
};
/* rows: few (up to 16), tiles of 64 and of 128; the emulated device has two multiprocessors, so some products split their leaves */
static const struct {
    int64_t m, n;
} shapes[] = {{1, 1}, {1, 70}, {3, 33}, {16, 31}, {17, 5}, {33, 65}, {0, 3}, {3, 0}};
static const struct { int64_t m, n; } large[] = {{64, 64}, {65, 130}, {129, 257}, {13, 300}};
enum { KS = sizeof ks / sizeof *ks, SHAPES = sizeof shapes / sizeof *shapes, LARGE = sizeof large / sizeof *large };

static double bound; /* of ops.def: 0 */

static bool same(struct dev *d, const struct prod *p) {
    float *want, *got;
    need(mem_alloc(&want, (size_t)p->c_elems + 1, sizeof *want));
    need(mem_alloc(&got, (size_t)p->c_elems + 1, sizeof *got));
    prod_reference(p, NULL, want);
    need(prod_run_device(p, d, got));
    const bool equal = ops_agree(got, want, (size_t)p->c_elems, bound);
    if (!equal)
        printf("# differs: %s m %d n %d terms %d segments %d k %d accumulate %d\n", layouts[p->a.layout], (int)p->a.m,
               (int)p->a.n, p->a.terms, p->a.segments, (int)p->a.term[0].k[p->a.segments], p->a.accumulate);
    mem_free(&want);
    mem_free(&got);
    return equal;
}

static void sweep(struct dev *d, int layout, int terms, int64_t pad) {
    int bad = 0, all = 0;
    for (int s = 0; s < SHAPES; s++)
        for (int i = 0; i < KS; i++, all++) {
            struct prod p;
            need(prod_init(&p, (enum gemm_layout)layout, shapes[s].m, shapes[s].n, terms, ks[i].segments, ks[i].k, pad,
                           ks[i].segments == 1 && (s + i) % 3 == 0, (s + i) % 2 == 0));
            bad += !same(d, &p);
            prod_free(&p);
        }
    ok(!bad, "%s, %d terms, rows padded by %d: %d products, %d differ from the definition", layouts[layout], terms,
       (int)pad, all, bad);
}

/* One chain that goes on from C, and a tree. */
static void sweep_large(struct dev *d, int layout) {
    int bad = 0;
    for (int s = 0; s < 2 * LARGE; s++) {
        struct prod p;
        const int tree = s % 2, i = tree ? KS - 2 : 3, shape = s / 2;
        need(prod_init(&p, (enum gemm_layout)layout, large[shape].m, large[shape].n, 1 + tree, ks[i].segments, ks[i].k,
                       shape % 3, !tree, shape % 2 == 0));
        bad += !same(d, &p);
        prod_free(&p);
    }
    ok(!bad, "%s, several tiles: %d of %d products differ", layouts[layout], bad, 2 * LARGE);
}

int main(void) {
    struct dev *d;
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &d));
    bound = ops_row("gemm").bound;
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++) {
        for (int terms = 1; terms <= 3; terms++) sweep(d, layout, terms, terms == 2 ? 3 : 0);
        sweep_large(d, layout);
    }
    ops_work(d);
    dev_close(&d);
    return tap_done();
}
