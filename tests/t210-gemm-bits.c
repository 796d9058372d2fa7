/* TEST ranks=1 backends=host tier=1 limit=120
 * Every kernel of the host GEMM, with one and two threads, equals the definition bit for bit: shapes at and around tiles, all
 * layouts, distances of rows, terms, segments with empty ones, accumulation, bias. The reference is prod_reference (gemm_ref.h). */
#include "tap.h"

#include "gemm_ref.h"

static const char *const kernels[] = {"portable", "avx2", "avx512"};
static const char *const layouts[] = {"NT", "NN", "TN"};
static struct host_gemm *gemm[3][2]; /* kernel, threads - 1 */

static const struct {
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
} ks[] = {
    {1, {0, 0}},
    {1, {0, 1}},
    {1, {0, 2}},
    {1, {0, 17}},
    {1, {0, 64}},
    {1, {0, 513}},
    {1, {0, 1031}},
    {2, {0, 5, 12}},
    {3, {0, 16, 16, 33}},
    {4, {0, 0, 0, 7, 7}},
    {5, {0, 3, 6, 9, 12, 15}},
    {6, {0, 0, 11, 22, 22, 22, 30}},
    {7, {0, 40, 80, 120, 160, 200, 240, 280}},
    {8, {0, 72, 144, 216, 288, 360, 432, 504, 576}},
    {8, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
    {8, {0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {8, {0, 0, 5, 5, 9, 20, 20, 20, 20}},
    {8, {0, 0, 0, 0, 0, 0, 0, 0, 13}},
    {8, {0, 600, 600, 601, 700, 700, 1300, 1310, 1311}},
    {8, {0, 128, 256, 384, 512, 640, 768, 896, 1024}},
};
static const struct {
    int64_t m, n;
} shapes[] = {{1, 1},   {1, 37},  {2, 16},  {3, 5},   {4, 4},   {6, 16}, {7, 17},
              {13, 31}, {14, 32}, {15, 33}, {29, 65}, {5, 130}, {0, 3},  {3, 0}};
/* More rows than are packed at a time, more columns than a block of B: threads share these. */
static const struct { int64_t m, n; } large[] = {{300, 19}, {17, 530}};

enum { KS = sizeof ks / sizeof *ks, SHAPES = sizeof shapes / sizeof *shapes };

/* One case on all kernels, on 1 .. `threads` threads; counts of products and of those that differ. */
static void try_case(const struct prod *p, int threads, int64_t *all, int64_t *bad) {
    float *want, *got;
    need(mem_alloc(&want, (size_t)p->c_elems + 1, sizeof *want));
    need(mem_alloc(&got, (size_t)p->c_elems + 1, sizeof *got));
    prod_reference(p, NULL, want);
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < threads; t++) {
            if (!gemm[i][t]) continue;
            got[p->c_elems] = 42;
            const enum status st = prod_run(p, gemm[i][t], got);
            const bool same =
                st == TM_OK && !memcmp(got, want, (size_t)p->c_elems * sizeof *got) && got[p->c_elems] == 42;
            all[0]++;
            bad[0] += !same;
            if (!same && *bad < 10)
                printf("# differs: %s %s m %d n %d terms %d segments %d k %d accumulate %d threads %d: %s\n",
                       kernels[i], layouts[p->a.layout], (int)p->a.m, (int)p->a.n, p->a.terms, p->a.segments,
                       (int)p->a.term[0].k[p->a.segments], p->a.accumulate, t + 1, st ? status_message() : "bits");
        }
    mem_free(&want);
    mem_free(&got);
}

static void sweep(enum gemm_layout layout, int terms, int64_t pad) {
    int64_t all = 0, bad = 0;
    for (int s = 0; s < SHAPES; s++)
        for (int i = 0; i < KS; i++) {
            struct prod p;
            /* bias with every second, accumulation with every third case where it is defined */
            need(prod_init(&p, layout, shapes[s].m, shapes[s].n, terms, ks[i].segments, ks[i].k, pad,
                           ks[i].segments == 1 && (s + i) % 3 == 0, (s + i) % 2 == 0));
            try_case(&p, 1, &all, &bad);
            prod_free(&p);
        }
    ok(bad == 0, "%s, %d terms, rows padded by %d: %d products, %d differ from the definition", layouts[layout], terms,
       (int)pad, (int)all, (int)bad);
}

static void sweep_large(void) {
    int64_t all = 0, bad = 0;
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++)
        for (int s = 0; s < 2; s++)
            for (int i = 12; i < KS; i++) {
                struct prod p;
                need(prod_init(&p, (enum gemm_layout)layout, large[s].m, large[s].n, 1 + i % 2, ks[i].segments, ks[i].k,
                               1, false, i % 2 == 0));
                try_case(&p, 2, &all, &bad);
                prod_free(&p);
            }
    ok(bad == 0, "more rows or columns than a block, 1 and 2 threads: %d products, %d differ", (int)all, (int)bad);
}

int main(void) {
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < 2; t++)
            if (host_gemm_open(kernels[i], true, t + 1, &gemm[i][t]) != TM_OK) printf("# %s\n", status_message());
    ok(gemm[0][0] && gemm[0][1], "the portable kernel is always there");
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++)
        for (int terms = 1; terms <= 3; terms++) sweep((enum gemm_layout)layout, terms, terms == 2 ? 3 : 0);
    sweep_large();
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < 2; t++) host_gemm_close(&gemm[i][t]);
    is_int(mem_bytes(), 0, "no memory is left");
    return tap_done();
}
