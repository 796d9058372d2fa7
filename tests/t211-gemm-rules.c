/* TEST ranks=1 backends=host tier=1 limit=120
 * What the host GEMM promises beyond single products: cuts of M, N, K and of segments do not show in the bits, a wrong order does;
 * the values themselves against closed forms; refusals. */
#include "tap.h"

#include "gemm_ref.h"

static const char *const layouts[] = {"NT", "NN", "TN"};
static const int64_t eight[] = {0, 90, 180, 180, 270, 360, 461, 540, 701};
static struct host_gemm *g;

static float *copy_of_c(const struct prod *p) {
    float *c;
    need(mem_alloc(&c, (size_t)p->c_elems, sizeof *c));
    return c;
}

/* The product of rows [m0, m1), columns [n0, n1) and segments [s0, s1) alone, into the same place of c. */
static enum status part(const struct prod *p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, int s0, int s1,
                        float *c) {
    struct gemm_args a = p->a;
    a.m = m1 - m0;
    a.n = n1 - n0;
    a.segments = s1 - s0;
    for (int t = 0; t < a.terms; t++) {
        struct gemm_term *f = &a.term[t];
        const int64_t k = p->a.term[t].k[s0];
        for (int j = 0; j <= a.segments; j++) f->k[j] = p->a.term[t].k[s0 + j] - k;
        f->a = dptr_f32(f->a, a.layout == GEMM_TN ? k * f->lda + m0 : m0 * f->lda + k);
        f->b = dptr_f32(f->b, a.layout == GEMM_NT ? n0 * f->ldb + k : k * f->ldb + n0);
    }
    if (a.bias.a) a.bias = dptr_f32(a.bias, n0);
    a.c.a = (uintptr_t)(c + m0 * a.ldc + n0);
    return host_gemm_run(g, &a);
}

static void test_cuts(enum gemm_layout layout) {
    static const int64_t cuts[] = {0, 1, 15, 28, 61}, cols[] = {0, 32, 33, 120, 150};
    struct prod p;
    need(prod_init(&p, layout, 61, 150, 2, 8, eight, 1, false, true));
    float *whole = copy_of_c(&p), *cut = copy_of_c(&p);
    need(prod_run(&p, g, whole));
    memcpy(cut, p.c0, (size_t)p.c_elems * sizeof *cut);
    enum status st = TM_OK;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) st = st ? st : part(&p, cuts[i], cuts[i + 1], cols[j], cols[j + 1], 0, 8, cut);
    ok(st == TM_OK && !memcmp(whole, cut, (size_t)p.c_elems * sizeof *cut),
       "%s: 16 pieces of C have the bits of the whole", layouts[layout]);

    /* Ranks that own 8/R consecutive segments each, then the tree over ranks: R = 2, 4, 8. */
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        float *sum[8];
        p.a.bias.a = 0;
        for (int r = 0; r < ranks; r++) {
            sum[r] = copy_of_c(&p);
            st = st ? st : part(&p, 0, 61, 0, 150, r * 8 / ranks, (r + 1) * 8 / ranks, sum[r]);
        }
        const float *bias = p.bias;
        int64_t bad = 0;
        for (int64_t i = 0; i < 61; i++)
            for (int64_t j = 0; j < 150; j++) {
                const int64_t e = i * p.a.ldc + j;
                for (int d = 1; d < ranks; d *= 2)
                    for (int r = 0; r < ranks; r += 2 * d) sum[r][e] += sum[r + d][e];
                const float x = sum[0][e] + bias[j];
                bad += memcmp(&x, &whole[e], sizeof x) != 0;
            }
        ok(st == TM_OK && bad == 0, "%s: the segments on %d ranks, then the tree: the bits of the whole (%d differ)",
           layouts[layout], ranks, (int)bad);
        for (int r = 0; r < ranks; r++) mem_free(&sum[r]);
    }
    mem_free(&whole);
    mem_free(&cut);
    prod_free(&p);
}

/* One chain may be cut anywhere when the second part accumulates. */
static void test_chain(void) {
    static const int64_t one[] = {0, 1500}, cut[] = {0, 333, 1500};
    struct prod p, q;
    need(prod_init(&p, GEMM_NT, 40, 70, 1, 1, one, 0, false, false));
    need(prod_init(&q, GEMM_NT, 40, 70, 1, 2, cut, 0, false, false));
    float *whole = copy_of_c(&p), *parts = copy_of_c(&p), *tree = copy_of_c(&p);
    need(prod_run(&p, g, whole));
    need(part(&q, 0, 40, 0, 70, 0, 1, parts));
    q.a.accumulate = 1;
    need(part(&q, 0, 40, 0, 70, 1, 2, parts));
    ok(!memcmp(whole, parts, (size_t)p.c_elems * sizeof *whole),
       "a chain cut at k = 333 and continued is the whole chain");
    q.a.accumulate = 0;
    need(prod_run(&q, g, tree));
    ok(memcmp(whole, tree, (size_t)p.c_elems * sizeof *whole) != 0,
       "control: two leaves added have other bits than one chain");
    mem_free(&whole);
    mem_free(&parts);
    mem_free(&tree);
    prod_free(&p);
    prod_free(&q);
}

static void test_controls(void) {
    static const int swapped[] = {0, 2, 1, 3, 4, 5, 6, 7}, harmless[] = {6, 7, 5, 4, 1, 0, 2, 3};
    static const int64_t even[] = {0, 50, 100, 150, 200, 250, 300, 350, 400};
    struct prod p;
    need(prod_init(&p, GEMM_NN, 30, 40, 1, 8, even, 0, false, false));
    float *got = copy_of_c(&p), *want = copy_of_c(&p);
    need(prod_run(&p, g, got));
    prod_reference(&p, NULL, want);
    ok(!memcmp(got, want, (size_t)p.c_elems * sizeof *got), "8 leaves in order equal the definition");
    prod_reference(&p, harmless, want);
    ok(!memcmp(got, want, (size_t)p.c_elems * sizeof *got), "operands of the tree may be swapped");
    prod_reference(&p, swapped, want);
    ok(memcmp(got, want, (size_t)p.c_elems * sizeof *got) != 0, "control: leaves 1 and 2 swapped have other bits");
    mem_free(&got);
    mem_free(&want);
    prod_free(&p);
}

static void test_zeros(void) {
    static const int64_t k[] = {0, 0, 0, 0, 1, 1, 1, 1, 1};
    struct prod p;
    float c = 5;
    need(prod_init(&p, GEMM_NT, 1, 1, 1, 8, k, 0, false, false));
    p.fa[0][0] = -1e-30f;
    p.fb[0][0] = 1e-30f;
    need(prod_run(&p, g, &c));
    ok(c == 0 && signbit(c), "fma(-1e-30, 1e-30, +0) is -0, and empty segments do not make it +0");
    p.fa[0][0] = -0.0f;
    need(prod_run(&p, g, &c));
    ok(c == 0 && !signbit(c), "a chain starts from +0: fma(-0, x, +0) is +0");
    p.fa[0][0] = 3e-39f;
    p.fb[0][0] = 0.5f;
    need(prod_run(&p, g, &c));
    ok(c == 1.5e-39f, "denormals are kept");
    prod_free(&p);
}

/* a_ik = r_i^k, b_jk = s_j^k: c_ij = (1 - (r_i s_j)^K) / (1 - r_i s_j), in fp64. Also through terms, bias and accumulation. */
static void test_closed_form(struct host_gemm *h, const char *what, int terms, int accumulate) {
    enum { M = 33, N = 47, K = 300 };
    static float a[M * K], b[N * K], c[M * N], want[M * N], bias[N];
    const int segments = accumulate ? 1 : 4;
    for (int i = 0; i < M; i++)
        for (int k = 0; k < K; k++) a[i * K + k] = (float)pow(0.5 + 0.45 * i / M, k);
    for (int j = 0; j < N; j++) {
        bias[j] = (float)j - 20;
        for (int k = 0; k < K; k++) b[j * K + k] = (float)pow(-0.99 + 1.9 * j / N, k);
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            const double x = (0.5 + 0.45 * i / M) * (-0.99 + 1.9 * j / N), sum = (1 - pow(x, K)) / (1 - x);
            c[i * N + j] = 3;
            want[i * N + j] = (float)(terms * sum + (accumulate ? 3 : 0) + bias[j]);
        }
    struct gemm_args p = {
        .layout = GEMM_NT, .m = M, .n = N, .terms = terms, .segments = segments, .ldc = N, .accumulate = accumulate};
    for (int t = 0; t < terms; t++) {
        p.term[t] = (struct gemm_term){.a = {(uintptr_t)a}, .b = {(uintptr_t)b}, .lda = K, .ldb = K};
        for (int s = 0; s <= segments; s++) p.term[t].k[s] = K * s / segments;
    }
    p.c.a = (uintptr_t)c;
    p.bias.a = (uintptr_t)bias;
    const enum status st = host_gemm_run(h, &p);
    const double nmse = tap_nmse(c, want, M * N);
    ok(st == TM_OK && nmse < 1e-13, "%s, %d terms, accumulate %d: NMSE %.2g against the geometric sum (< 1e-13)", what,
       terms, accumulate, nmse);
}

static void test_refusals(void) {
    static float x[64];
    const dptr d = {(uintptr_t)x};
    const struct gemm_args good = {.layout = GEMM_NT,
                                   .m = 2,
                                   .n = 3,
                                   .terms = 1,
                                   .segments = 1,
                                   .term = {{.a = d, .b = d, .lda = 4, .ldb = 4, .k = {0, 4}}},
                                   .c = {(uintptr_t)(x + 32)},
                                   .ldc = 3};
    struct gemm_args a = good;
    is_status(host_gemm_run(g, &a), TM_OK);
    a.segments = 2, a.term[0].k[2] = 4, a.accumulate = 1;
    is_status(host_gemm_run(g, &a), TM_ERR_UNSUPPORTED);
    a = good, a.term[0].k[1] = -1;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    a = good, a.term[0].k[0] = 1;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    a = good, a.term[0].ldb = 3;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    ok(strstr(status_message(), "4 and 3 of term 0") != NULL, "the message names the distances: %s", status_message());
    a = good, a.ldc = 2;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    a = good, a.term[0].b.a = 0;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    a = good, a.terms = 4;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    a = good, a.segments = 9;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    a = good, a.m = -1;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    a = good, a.layout = (enum gemm_layout)3;
    is_status(host_gemm_run(g, &a), TM_ERR_SHAPE);
    struct host_gemm *h;
    is_status(host_gemm_open("avx1024", true, 1, &h), TM_ERR_UNSUPPORTED);
    ok(h == NULL && strstr(status_message(), "avx1024") != NULL, "the message names the kernel: %s", status_message());
    is_status(host_gemm_open(NULL, true, 0, &h), TM_ERR_UNSUPPORTED);
}

int main(void) {
    struct host_gemm *fast;
    must(host_gemm_open(NULL, true, 2, &g));
    must(host_gemm_open("portable", false, 2, &fast));
    printf("# %s\n# %s\n", host_gemm_describe(g), host_gemm_describe(fast));
    for (int layout = GEMM_NT; layout <= GEMM_TN; layout++) test_cuts((enum gemm_layout)layout);
    test_chain();
    test_controls();
    test_zeros();
    const size_t bytes = mem_bytes();
    for (int terms = 1; terms <= 3; terms += 2)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            test_closed_form(g, "invariant", terms, accumulate);
            test_closed_form(fast, "not invariant", terms, accumulate);
        }
    is_int(mem_bytes(), bytes, "products allocate nothing");
    test_refusals();
    host_gemm_close(&g);
    host_gemm_close(&fast);
    host_gemm_close(&fast);
    is_int(mem_bytes(), 0, "no memory is left");
    return tap_done();
}
