/* TEST ranks=1 backends=host tier=1 limit=120
 * bf16 products: every kernel (AMX where the CPU has it, and the fp32 kernels widened), with one and two threads, equals the definition bit
 * for bit (gemm_ref.h); cuts of C and of segments do not show; the error against fp64 sums of the rounded factors is within its bound. */
#include "tap.h"

#include "gemm_ref.h"

static const char *const layouts[] = {"NT", "NN", "TN"};
static const char *const kernels[] = {NULL, "avx512", "avx2",
                                      "portable"}; /* NULL: AMX, or else the best of the others */
enum { KERNELS = 4 };
static struct host_gemm *gemm[KERNELS][2]; /* kernel, threads - 1 */

static const struct {
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
} ks[] = {
    {1, {0, 0}},
    {1, {0, 1}},
    {1, {0, 31}},
    {1, {0, 32}},
    {1, {0, 97}},
    {1, {0, 700}},
    {3, {0, 33, 33, 66}},
    {4, {0, 0, 0, 7, 7}},
    {8, {0, 24, 48, 72, 96, 120, 144, 168, 192}},
    {8, {0, 0, 5, 5, 9, 70, 70, 70, 70}},
    {8, {0, 1, 2, 3, 4, 5, 6, 7, 8}},
};
static const struct {
    int64_t m, n;
} shapes[] = {{1, 1}, {3, 37}, {16, 16}, {17, 15}, {31, 33}, {32, 32}, {33, 31}, {65, 50}, {0, 3}, {3, 0}};

enum { KS = sizeof ks / sizeof *ks, SHAPES = sizeof shapes / sizeof *shapes };

static float *array(int64_t n) {
    float *x;
    need(mem_alloc(&x, (size_t)n + 1, sizeof *x));
    return x;
}

/* One case on all kernels from `first` on, on 1 .. `threads` threads, against `want`. */
static void try_case(const struct prod *p, int first, int threads, const float *want, int64_t *all, int64_t *bad) {
    float *got = array(p->c_elems);
    for (int i = first; i < KERNELS; i++)
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
                       kernels[i] ? kernels[i] : "best", layouts[p->a.layout], (int)p->a.m, (int)p->a.n, p->a.terms,
                       p->a.segments, (int)p->a.term[0].k[p->a.segments], p->a.accumulate, t + 1,
                       st ? status_message() : "bits");
        }
    mem_free(&got);
}

static void sweep(enum gemm_layout layout, int terms, int64_t pad) {
    int64_t all = 0, bad = 0;
    for (int s = 0; s < SHAPES; s++)
        for (int i = 0; i < KS; i++) {
            struct prod p;
            need(prod_init(&p, layout, shapes[s].m, shapes[s].n, terms, ks[i].segments, ks[i].k, pad,
                           ks[i].segments == 1 && (s + i) % 3 == 0, (s + i) % 2 == 0));
            p.a.bf16 = 1;
            float *want = array(p.c_elems);
            prod_reference(&p, NULL, want);
            try_case(&p, 0, 1, want, &all, &bad);
            mem_free(&want);
            prod_free(&p);
        }
    ok(bad == 0, "%s, %d terms, rows padded by %d: %d products, %d differ from the definition", layouts[layout], terms,
       (int)pad, (int)all, (int)bad);
}

/* Longer than a superblock of any kernel, more rows and columns than a block: the kernels against each other. */
static void sweep_large(void) {
    static const struct {
        int64_t m, n;
        int terms, segments;
        int64_t k[OPS_MAX_SEGMENTS + 1];
    } large[] = {{150, 40, 2, 8, {0, 600, 600, 601, 700, 700, 1300, 1310, 1311}},
                 {40, 130, 1, 8, {0, 300, 600, 900, 1200, 1500, 1800, 2100, 2400}},
                 {700, 40, 1, 8, {0, 230, 460, 690, 920, 1150, 1380, 1610, 1840}},
                 {33, 900, 1, 1, {0, 600}},
                 {500, 33, 1, 1, {0, 64}},
                 {40, 40, 1, 1, {0, 3500}},
                 {35, 40, 3, 2, {0, 1, 3000}}};
    int64_t all = 0, bad = 0;
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++)
        for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
            struct prod p;
            need(prod_init(&p, (enum gemm_layout)layout, large[i].m, large[i].n, large[i].terms, large[i].segments,
                           large[i].k, 1, large[i].segments == 1 && layout == GEMM_TN, i % 2 == 0));
            p.a.bf16 = 1;
            float *want = array(p.c_elems);
            int reference = gemm[2][0] ? 2 : 3;
            need(prod_run(&p, gemm[reference][0], want));
            for (int j = 0; j < reference; j++)
                for (int t = 0; t < 2; t++) {
                    if (!gemm[j][t]) continue;
                    float *got = array(p.c_elems);
                    need(prod_run(&p, gemm[j][t], got));
                    all++, bad += memcmp(got, want, (size_t)p.c_elems * sizeof *got) != 0;
                    mem_free(&got);
                }
            mem_free(&want);
            prod_free(&p);
        }
    ok(bad == 0, "more rows, columns or k than a block, 1 and 2 threads: %d products, %d differ", (int)all, (int)bad);
}

/* |C - sum of a b in fp64| <= the roundings on the longest way of a term: 16 fma, the halves, the blocks of a leaf, 3 levels, the bias;
 * each at most 2^-24 of the sum of |a b|. And the values are not those of fp32 factors. */
static void test_error(enum gemm_layout layout, int segments) {
    enum { M = 70, N = 45, K = 1000 };
    int64_t k[OPS_MAX_SEGMENTS + 1] = {0};
    struct prod p;
    for (int j = 1; j <= segments; j++) k[j] = (K * j + segments - 1) / segments;
    need(prod_init(&p, layout, M, N, 1, segments, k, 0, false, false));
    float *plain = array(p.c_elems), *c = array(p.c_elems);
    need(prod_run(&p, gemm[0][0], plain));
    p.a.bf16 = 1;
    need(prod_run(&p, gemm[0][0], c));
    const double roundings = 16 + 1 + (K / segments + 31) / 32 + 3 + 1;
    double worst = 0, apart = 0;
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            double sum = 0, size = 0;
            for (int64_t l = 0; l < K; l++) {
                const double x = (double)bf16_round(prod_a(&p, 0, i, l)) * (double)bf16_round(prod_b(&p, 0, j, l));
                sum += x, size += fabs(x);
            }
            worst = fmax(worst, fabs((double)c[i * p.a.ldc + j] - sum) / (size * roundings * 0x1p-24));
            apart = fmax(apart, fabs((double)(c[i * p.a.ldc + j] - plain[i * p.a.ldc + j])) / size);
        }
    ok(worst <= 1, "%s, %d segments: at most %.3f of the error bound against fp64", layouts[layout], segments, worst);
    ok(apart > 1e-5 && apart < 0x1p-7, "  and %.2g of sum |a b| from the fp32 product (below 2^-7, not 0)", apart);
    mem_free(&plain);
    mem_free(&c);
    prod_free(&p);
}

/* The rows [m0, m1), columns [n0, n1) and segments [s0, s1) alone. */
static enum status part(const struct prod *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, int s0, int s1,
                        float *c) {
    struct gemm_args a = p->a;
    struct gemm_term *f = &a.term[0];
    const int64_t k = f->k[s0];
    a.m = m1 - m0;
    a.n = n1 - n0;
    a.segments = s1 - s0;
    for (int j = 0; j <= a.segments; j++) f->k[j] = p->a.term[0].k[s0 + j] - k;
    f->a = dptr_f32(f->a, a.layout == GEMM_TN ? k * f->lda + m0 : m0 * f->lda + k);
    f->b = dptr_f32(f->b, a.layout == GEMM_NT ? n0 * f->ldb + k : k * f->ldb + n0);
    a.c.a = (uintptr_t)(c + m0 * a.ldc + n0);
    return host_gemm_run(gemm[0][0], &a);
}

/* Pieces of C as data and tensor ranks have them, and segments on ranks with the tree over ranks: the bits of the whole. */
static void test_cuts(enum gemm_layout layout) {
    static const int64_t rows[] = {0, 1, 40, 61}, cols[] = {0, 33, 64, 150};
    static const int64_t eight[] = {0, 72, 144, 216, 288, 360, 432, 504, 576};
    struct prod p;
    need(prod_init(&p, layout, 61, 150, 1, 8, eight, 1, false, false));
    p.a.bf16 = 1;
    float *whole = array(p.c_elems), *cut = array(p.c_elems);
    need(prod_run(&p, gemm[0][0], whole));
    memcpy(cut, p.c0, (size_t)p.c_elems * sizeof *cut);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) need(part(&p, rows[i], rows[i + 1], cols[j], cols[j + 1], 0, 8, cut));
    ok(!memcmp(whole, cut, (size_t)p.c_elems * sizeof *cut), "%s: 9 pieces of C have the bits of the whole",
       layouts[layout]);
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        float *sum[8];
        int64_t bad = 0;
        for (int r = 0; r < ranks; r++) {
            sum[r] = array(p.c_elems);
            need(part(&p, 0, 61, 0, 150, r * 8 / ranks, (r + 1) * 8 / ranks, sum[r]));
        }
        for (int64_t i = 0; i < 61; i++)
            for (int64_t j = 0; j < 150; j++) {
                const int64_t e = i * p.a.ldc + j;
                for (int d = 1; d < ranks; d *= 2)
                    for (int r = 0; r < ranks; r += 2 * d) sum[r][e] += sum[r + d][e];
                bad += memcmp(&sum[0][e], &whole[e], sizeof whole[e]) != 0;
            }
        ok(bad == 0, "%s: the segments on %d ranks, then the tree: the bits of the whole", layouts[layout], ranks);
        for (int r = 0; r < ranks; r++) mem_free(&sum[r]);
    }
    mem_free(&whole);
    mem_free(&cut);
    prod_free(&p);
}

/* A chain cut at a block and continued with `accumulate` is the whole chain; cut inside a block it is not. */
static void test_chain(void) {
    static const int64_t one[] = {0, 500}, at_block[] = {0, 320, 500}, inside[] = {0, 333, 500};
    struct prod p;
    need(prod_init(&p, GEMM_NN, 40, 70, 1, 1, one, 0, false, false));
    p.a.bf16 = 1;
    float *whole = array(p.c_elems), *parts = array(p.c_elems);
    need(prod_run(&p, gemm[0][0], whole));
    p.a.segments = 2;
    for (int i = 0; i < 2; i++) {
        memcpy(p.a.term[0].k, i ? inside : at_block, sizeof at_block);
        p.a.accumulate = 0;
        need(part(&p, 0, 40, 0, 70, 0, 1, parts));
        p.a.accumulate = 1;
        need(part(&p, 0, 40, 0, 70, 1, 2, parts));
        const bool same = !memcmp(whole, parts, (size_t)p.c_elems * sizeof *whole);
        ok(same == !i, "a chain cut at k = %d and continued is %sthe whole chain", i ? 333 : 320, i ? "not " : "");
    }
    mem_free(&whole);
    mem_free(&parts);
    prod_free(&p);
}

/* Rounding is to nearest even, denormals are zero, infinities and NaN pass. */
static void test_values(void) {
    static const int64_t k[] = {0, 1};
    static const struct {
        float a, b, want;
    } rows[] = {{1.00390625f, 1, 1},             /* 1 + 2^-8: a tie, to even */
                {1.01171875f, 1, 1.015625f},     /* 1 + 3 2^-8: a tie, to even */
                {1.00390637f, 1, 1.0078125f},    /* just above a tie */
                {3.4e38f, 1, INFINITY},          /* above the largest bf16 by half a unit and more */
                {1.1e-38f, 0x1p+60f, 0},         /* a denormal factor */
                {0x1.fffffcp-127f, 0x1p+60f, 0}, /* the largest: zero before it could be rounded up */
                {0x1p-100f, 0x1p-40f, 0},        /* a denormal result */
                {INFINITY, 2, INFINITY}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int j = 0; j < KERNELS; j++) {
            struct prod p;
            float c = 5;
            if (!gemm[j][0]) continue;
            need(prod_init(&p, GEMM_NT, 1, 1, 1, 1, k, 0, false, false));
            p.a.bf16 = 1;
            p.fa[0][0] = rows[i].a;
            p.fb[0][0] = rows[i].b;
            need(prod_run(&p, gemm[j][0], &c));
            ok(c == rows[i].want, "%s: %a * %a = %a", kernels[j] ? kernels[j] : "best", (double)rows[i].a,
               (double)rows[i].b, (double)rows[i].want);
            p.fa[0][0] = NAN;
            need(prod_run(&p, gemm[j][0], &c));
            if (i == 0) ok(isnan(c), "  NaN stays");
            prod_free(&p);
        }
}

int main(void) {
    for (int i = 0; i < KERNELS; i++)
        for (int t = 0; t < 2; t++)
            if (host_gemm_open(kernels[i], true, t + 1, &gemm[i][t]) != TM_OK) printf("# %s\n", status_message());
    printf("# %s\n", host_gemm_describe(gemm[0][0]));
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++) {
        for (int terms = 1; terms <= 3; terms++) sweep((enum gemm_layout)layout, terms, terms == 2 ? 3 : 0);
        test_error((enum gemm_layout)layout, 1);
        test_error((enum gemm_layout)layout, 8);
        test_cuts((enum gemm_layout)layout);
    }
    sweep_large();
    test_chain();
    test_values();
    for (int i = 0; i < KERNELS; i++)
        for (int t = 0; t < 2; t++) host_gemm_close(&gemm[i][t]);
    is_int(mem_bytes(), 0, "no memory is left");
    return tap_done();
}
